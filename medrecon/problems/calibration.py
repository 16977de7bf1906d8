"""Coil maps of k-space off the grid: a calibration block on the grid, from the samples near the centre."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree  # type: ignore[attr-defined]

from medrecon.data.coils import to_kspace
from medrecon.operators.nufft import NUFFT

__all__ = ["calibration_block", "centre_width"]

_LARGEST = 24
"""Half the side of the largest block: 48 x 48 samples determine maps as well as more do."""
_NEAR = 0.75
"""Cycles per field of view: a grid point with a sample this near is inside what was sampled at the Nyquist rate."""


def centre_width(trajectory: np.ndarray, matrix: tuple[int, ...]) -> int:
    """Half the side of the largest square round the centre that was sampled at the Nyquist rate, at most 24.

    Args:
        trajectory: ``(..., 2)``, cycles per field of view.
        matrix: of the image.
    """
    points = trajectory.reshape(-1, trajectory.shape[-1])
    most = min(_LARGEST, *(n // 2 for n in matrix))
    grid = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * points.shape[1], indexing="ij"), axis=-1)
    flat = grid.reshape(-1, points.shape[1])
    missing = np.abs(flat).max(axis=1)[cKDTree(points).query(flat)[0] > _NEAR]
    return int(missing.min(initial=most + 1)) - 1


def calibration_block(
    samples: np.ndarray, trajectory: np.ndarray, matrix: tuple[int, ...], n_iter: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """K-space on the grid ``(coils, *matrix)``, zero outside its central block, and the mask of the block.

    The images of the block's resolution that explain the samples inside it, by least squares.

    Args:
        samples: ``(coils, ...)`` complex64.
        trajectory: ``(..., 2)``, cycles per field of view.
        matrix: of the image.
        n_iter: conjugate-gradient iterations.
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
