"""Trajectories: against Cartesian scans, maps of their own, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.scan import NonCartesianScan
from medrecon.operators import NUFFT, Finufft

from ..make.compare import relative_error
from ..make.toys import SHAPE, cartesian, columns, frames, grid, noncartesian, solve


def test_samples_on_a_grid_are_a_cartesian_scan():
    """The same columns as a trajectory: the same image, to the error of the interpolation."""
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    for solver in ("zero-filled", "cg-sense"):
        one = solve(scan, solver, physics={"maps": maps}).image
        other = solve(noncartesian(scan), solver, physics={"maps": maps}).image
        assert relative_error(other, one) < 0.05, solver  # weights of the trajectory are 1 but for its edge


def test_maps_from_the_gridded_centre():
    """Radial samples of two slices, of which one has a trajectory of its own: the images are right without given maps."""
    scan, truth, _ = cartesian(slices=2)
    angles = np.arange(48) * np.pi / 48
    radius = np.linspace(-17.5, 17.5, 71)
    trajectory = np.stack(
        [np.stack([np.sin(a + shift)[:, None] * radius * 36 / 36, np.cos(a + shift)[:, None] * radius * 31 / 36], -1)
         for a, shift in ((angles, 0.0), (angles, 0.01))]
    ).astype(np.float32)  # fmt: skip
    coils = from_kspace(scan.kspace)
    samples = [
        NUFFT(torch.from_numpy(t), SHAPE, backend=Finufft())(torch.from_numpy(c)[None])[0].reshape(4, 48, 71).numpy()
        for t, c in zip(trajectory, coils, strict=True)
    ]
    radial = NonCartesianScan(
        path=Path("toy.npz"), format="toy", samples=np.stack(samples), trajectory=trajectory, matrix=SHAPE
    )
    found = solve(radial, physics={"noise_std": 0.001})
    assert relative_error(found.image, np.abs(truth)) < 0.12  # corners of k-space were not sampled
    one = solve(radial.select_slices(slice(1, 2)), physics={"noise_std": 0.001})
    assert relative_error(one.image[0], found.image[1]) < 1e-5  # a slice does not depend on others


def test_a_trajectory_that_misses_the_centre():
    scan, _, maps = cartesian(noise=0.01)
    full = noncartesian(scan)
    away = np.abs(grid()[:, 0, 1]) > 3
    scan = replace(full, samples=full.samples[:, :, away], trajectory=full.trajectory[:, away])
    found = solve(scan, physics={"maps": maps})
    assert any("centre of k-space" in text for text in found.record["warnings"])
    for solver in ("cg-sense", "zero-filled"):
        with pytest.raises(InputError, match="give coil maps") as refusal:
            solve(scan, solver)
        assert "zero-filled" not in str(refusal.value)  # which needs maps as well


def test_several_volumes_are_refused():
    samples, trajectory = np.ones((2, 1, 4, 4), np.complex64), np.zeros((2, 4, 4, 3), np.float32)
    scan = NonCartesianScan(path=Path("a.npz"), format="toy", samples=samples, trajectory=trajectory, matrix=(4, 4, 4))
    with pytest.raises(InputError, match="2 volumes"):
        solve(scan)


def test_images_off_the_grid_that_do_not_explain_the_data_are_reported():
    scan, _, maps = cartesian(noise=0.01)
    wrong = np.roll(maps, 1, axis=0)
    for one in (noncartesian(scan), frames(scan)):
        assert not solve(one, physics={"maps": maps}).record["warnings"]
        assert any("does not explain" in text for text in solve(one, physics={"maps": wrong}).record["warnings"])
