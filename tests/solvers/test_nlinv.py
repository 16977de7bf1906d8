"""NLINV: image and maps from the data alone."""

import numpy as np
import pytest
import torch

from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.joint_maps import unknown_maps
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators import sense
from medrecon.operators.bridge import AsComplex
from medrecon.operators.linalg import dot
from medrecon.sample import sample, sample_blind
from medrecon.solvers import NLINV, CGSense

from ..make.images import blobs

SHAPE = (48, 45)
LEVELS = torch.tensor([1.0, 0.0])


def scan(noise=0.005, acs=4):
    """A likelihood with unknown maps (every third column and a few in the middle), the image and the maps."""
    mask = torch.zeros(1, 1, 1, SHAPE[1])
    mask[..., ::3] = 1
    mask[..., SHAPE[1] // 2 - acs // 2 : SHAPE[1] // 2 - acs // 2 + acs] = 1
    image, maps = blobs(SHAPE), loop_coils(SHAPE, 8)
    y = torch.from_numpy(simulate_kspace(image, maps, noise, np.random.default_rng(0)))[None] * mask
    return unknown_maps(y, mask, noise), np.abs(image), torch.from_numpy(maps)[None]


def error(x, image):
    magnitude = AsComplex()(x)[0, 0].abs().numpy()
    return np.linalg.norm(magnitude - image) / np.linalg.norm(image)


def test_it_comes_close_to_sense_with_the_true_maps():
    data, image, maps = scan()
    x = sample(NLINV(), None, data, LEVELS, noise=Noise([0]))
    ideal = sample(CGSense(), None, Gaussian(sense(maps, data.model.mask), data.y, 0.005), LEVELS, noise=Noise([0]))
    assert error(x, image) < max(2 * error(ideal, image), 0.1)


def test_the_final_data_have_the_maps_of_the_image():
    data, *_ = scan()
    made = sample_blind(NLINV(), None, data, LEVELS, noise=Noise([0]))
    r = made.data.residual(made.x)
    assert not torch.allclose(made.data.coefficients, data.coefficients)
    assert dot(r, r).sqrt() < 0.1 * dot(data.y, data.y).sqrt()


def test_it_stops_at_the_noise():
    """With the discrepancy of 0 it makes all steps, and fits the noise more closely."""
    data, *_ = scan(noise=0.05)
    norms = []
    for discrepancy in (1.5, 0.9, 0.0):
        made = sample_blind(NLINV(discrepancy=discrepancy), None, data, LEVELS, noise=Noise([0]))
        r = made.data.residual(made.x)
        norms.append(float(dot(r, r).sqrt() / (0.05 * data.n_measured.float().sqrt())))
    assert norms[0] > norms[1] > norms[2]
    assert norms[0] < 1.5
    assert norms[1] < 0.9


def test_it_takes_unknown_maps_only():
    data, *_, maps = scan()
    with pytest.raises(TypeError, match="NLINV estimates coil maps"):
        sample(NLINV(), None, Gaussian(sense(maps, data.model.mask), data.y, 0.005), LEVELS, noise=Noise([0]))
