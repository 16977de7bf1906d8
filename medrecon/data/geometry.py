"""Affines from the indices (x, y, slice) to mm."""

from __future__ import annotations

import numpy as np

__all__ = ["affine_of_slices", "lps_to_ras", "ras_to_lps"]

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS (NIfTI, this package) to LPS (DICOM, MRD) and from LPS to RAS."""


def ras_to_lps(affine: np.ndarray) -> np.ndarray:
    """Convert an affine ``(4, 4)`` from RAS to LPS."""
    return _FLIP @ np.asarray(affine, float)


def lps_to_ras(affine: np.ndarray) -> np.ndarray:
    """Convert an affine ``(4, 4)`` from LPS to RAS."""
    return _FLIP @ np.asarray(affine, float)


def affine_of_slices(affine: np.ndarray | None, slices: slice, n: int) -> np.ndarray | None:
    """The affine of some of ``n`` slices; ``None`` stays ``None``."""
    chosen = range(n)[slices]
    if affine is None or not len(chosen):
        return affine
    out = np.array(affine, dtype=float)
    out[:3, 3] += chosen.start * out[:3, 2]
    out[:3, 2] *= chosen.step
    return out
