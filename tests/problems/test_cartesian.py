"""Cartesian k-space: the truth, the posterior in closed form, random numbers of slices."""

from dataclasses import replace

import numpy as np

from medrecon.data.coils import from_kspace

from ..make.compare import relative_error
from ..make.toys import cartesian, columns, solve


def test_full_kspace_gives_the_truth():
    scan, truth, maps = cartesian()
    found = solve(scan, physics={"maps": maps}, settings={"lam": 1e-6})
    assert relative_error(found.image, np.abs(truth)) < 1e-4  # the weight, and single precision
    assert found.record["maps_source"].startswith("given")


def test_samples_have_the_mean_and_spread_of_the_posterior():
    """White prior, every sample measured, one coil: the posterior is white, with mean ``y / (1 + s^2)`` in units of the scale."""
    noise = 0.1
    scan, _, _ = cartesian(coils=1, slices=1, noise=noise)
    zero_filled = from_kspace(scan.kspace[0, 0])
    scale = np.quantile(np.abs(zero_filled), 0.99)
    std = noise / scale
    found = solve(scan, "tmpd", physics={"noise_std": noise}, steps=200, sigma_max=8.0)
    drawn = found.image[0] * np.exp(1j * found.phase[0])
    apart = (drawn - zero_filled / (1 + std**2)) / scale
    spread = 1 / np.sqrt(1 + 1 / std**2)  # per real component
    # 2232 numbers: their standard deviation is known to 1.5 %, their mean to 2 % of it.
    assert abs(np.sqrt((np.abs(apart) ** 2).mean() / 2) / spread - 1) < 0.06
    assert abs(apart.mean()) < 0.1 * spread


def test_every_slice_has_random_numbers_of_its_own():
    """Two slices of the same data; and a slice alone gets those of its index."""
    scan, *_ = cartesian(coils=1, slices=1, mask=columns())
    twice = replace(scan, kspace=np.concatenate([scan.kspace, scan.kspace]))
    found = solve(twice, "dds", steps=4, sigma_max=1.0)
    assert relative_error(found.image[0], found.image[1]) > 0.01
    alone = solve(twice, "dds", physics={"slices": slice(1, 2)}, steps=4, sigma_max=1.0)
    assert np.array_equal(alone.image[0], found.image[1])
