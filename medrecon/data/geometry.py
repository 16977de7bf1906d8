"""Where voxels are: affines from the indices (x, y, slice) to mm in RAS."""

from __future__ import annotations

import numpy as np

__all__ = ["affine_of_slices"]


def affine_of_slices(affine: np.ndarray | None, slices: slice, n: int) -> np.ndarray | None:
    """The affine of some of ``n`` slices; ``None`` stays ``None``."""
    chosen = range(n)[slices]
    if affine is None or not len(chosen):
        return affine
    out = np.array(affine, dtype=float)
    out[:3, 3] += chosen.start * out[:3, 2]
    out[:3, 2] *= chosen.step
    return out
