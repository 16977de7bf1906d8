"""Projectors against line integrals known in closed form, and against scikit-image."""

import math

import numpy as np
import pytest
import torch

from medrecon.operators import ParallelBeam


def disc(shape, radius, centre, spacing, finer=8):
    """A disc of value 1, pixels by area; radius and centre (x right, y up) in units of length."""
    ny, nx = (n * finer for n in shape)
    x = (np.arange(nx) - (nx - 1) / 2) * spacing / finer - centre[0]
    y = ((ny - 1) / 2 - np.arange(ny)) * spacing / finer - centre[1]
    inside = (x[None] ** 2 + y[:, None] ** 2 <= radius**2).astype(np.float32)
    return torch.from_numpy(inside.reshape(shape[0], finer, shape[1], finer).mean((1, 3)))[None, None]


@pytest.mark.parametrize(("shape", "pitch", "offset"), [((128, 128), 0.7, 0.0), ((101, 128), 0.5, 3.1)])
def test_a_disc_has_the_chords_of_a_circle(shape, pitch, offset):
    spacing, radius, centre = 0.7, 25.0, (6.0, -4.5)
    angles = torch.linspace(0, math.pi, 37)[:-1]
    A = ParallelBeam(angles, shape, detectors=300, spacing=spacing, pitch=pitch, offset=offset)
    y = A(disc(shape, radius, centre, spacing))[0, 0]
    s = (torch.arange(300) - 149.5) * pitch - offset
    along = s - (centre[0] * angles.cos() + centre[1] * angles.sin())[:, None]
    exact = 2 * (radius**2 - along**2).clamp(min=0).sqrt()
    # 1 %: what pixels of 1/36 of the radius leave at the rim.
    assert float((y - exact).norm() / exact.norm()) < 0.01


def test_orientation_is_scikit_images():
    transform = pytest.importorskip("skimage.transform")
    image = disc((64, 64), 9.0, (5.0, 11.0), 1.0) + 0.5 * disc((64, 64), 4.0, (-9.0, 2.0), 1.0)
    degrees = np.arange(0, 180, 7.5)
    theirs = transform.radon(image[0, 0].numpy(), degrees)  # rotates about pixel n // 2, half a pixel off our centre
    A = ParallelBeam(torch.from_numpy(np.deg2rad(degrees)), (64, 64), detectors=64)
    angles = np.deg2rad(degrees)
    ours = A(image)[0, 0].numpy()
    for view, angle in enumerate(angles):
        shift = (math.cos(angle) - math.sin(angle) - 1) / 2
        moved = np.interp(np.arange(64) + shift, np.arange(64), ours[view])
        assert np.linalg.norm(moved - theirs[:, view]) < 0.05 * np.linalg.norm(theirs[:, view])
