"""The calibration block of samples off the grid: its width and its values."""

import numpy as np
import pytest

from medrecon.problems.calibration import calibration_block, centre_width

from ..make.compare import relative_error
from ..make.toys import SHAPE, cartesian, grid, noncartesian


@pytest.mark.parametrize("half", [3, 6, 11])
def test_the_width_is_that_of_the_square_without_gaps(half):
    """Beyond it every second column is sampled, or nothing."""
    points = grid().reshape(-1, 2)
    near = np.abs(points).max(axis=1) <= half
    assert centre_width(points[near | (points[:, 1] % 2 == 0)], SHAPE) == half
    assert centre_width(points[near], SHAPE) == half
    assert centre_width(points[np.abs(points).min(axis=1) > 1], SHAPE) == -1


def test_the_block_is_the_centre_of_cartesian_kspace():
    """From samples on the grid. The first row and column share their samples with the opposite edge of the block."""
    scan, *_ = cartesian(slices=1)
    samples = noncartesian(scan)
    half = centre_width(samples.trajectory[0], SHAPE)
    kspace, mask = calibration_block(samples.samples[0], samples.trajectory[0], SHAPE)
    inside = (slice(None), *(slice(n // 2 - half + 1, n // 2 + half) for n in SHAPE))
    assert relative_error(kspace[inside], scan.kspace[0][inside]) < 0.02  # interpolation and 30 iterations
    block = tuple(slice(n // 2 - half, n // 2 + half) for n in SHAPE)
    assert mask[block].all() and mask.sum() == (2 * half) ** 2
    assert not kspace[:, ~mask].any()
