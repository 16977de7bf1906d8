"""Calibration of non-Cartesian k-space: a Cartesian block from the samples near the centre."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree  # type: ignore[attr-defined]

from medrecon.data.coils import to_kspace
from medrecon.operators.nufft import NUFFT

__all__ = ["calibration_block", "centre_width"]

_MAX_HALF_WIDTH = 24
"""Half the width of the largest block: more than 48 x 48 samples do not improve the maps."""
_MAX_DISTANCE = 0.75
"""Largest distance from a grid point to a sample, cycles per field of view, at which it counts as sampled at the Nyquist rate."""


def centre_width(trajectory: np.ndarray, matrix: tuple[int, ...]) -> int:
    """Half the width of the largest central square that was sampled at the Nyquist rate, at most 24.

    Args:
        trajectory: points ``(..., 2)``, cycles per field of view.
        matrix: shape of the image.
    """
    points = trajectory.reshape(-1, trajectory.shape[-1])
    most = min(_MAX_HALF_WIDTH, *(n // 2 for n in matrix))
    grid = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * points.shape[1], indexing="ij"), axis=-1)
    flat = grid.reshape(-1, points.shape[1])
    missing = np.abs(flat).max(axis=1)[cKDTree(points).query(flat)[0] > _MAX_DISTANCE]
    return int(missing.min(initial=most + 1)) - 1


def calibration_block(
    samples: np.ndarray, trajectory: np.ndarray, matrix: tuple[int, ...], n_iter: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Cartesian k-space ``(coils, *matrix)``, zero outside its central block, and the mask of the block.

    The block is the transform of the coil images, at the resolution of the block, that fit its samples by least squares.

    Args:
        samples: samples ``(coils, ...)``, complex64.
        trajectory: points ``(..., 2)``, cycles per field of view.
        matrix: shape of the image.
        n_iter: number of conjugate-gradient iterations.
    """
    half = centre_width(trajectory, matrix)
    kspace, mask = np.zeros((len(samples), *matrix), np.complex64), np.zeros(matrix, bool)
    if half < 1:
        return kspace, mask
    points = trajectory.reshape(-1, trajectory.shape[-1])
    inside = (np.abs(points) <= half).all(axis=1)
    size = (2 * half,) * points.shape[1]
    transform = NUFFT(torch.from_numpy(points[inside]), size)
    y = torch.from_numpy(np.ascontiguousarray(samples.reshape(len(samples), -1)[:, inside]))
    images = transform.pinv(y[None], n_iter)[0].numpy()
    block = tuple(slice(n // 2 - half, n // 2 + half) for n in matrix)
    kspace[(slice(None), *block)] = to_kspace(images)
    mask[block] = True
    return kspace, mask
