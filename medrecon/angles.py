"""Units of angles."""

from __future__ import annotations

import numpy as np

__all__ = ["may_be_degrees"]


def may_be_degrees(angles: np.ndarray) -> bool:
    """Whether angles that should be rad look like degrees: they span over four turns, or exceed a turn in multiples of 1/8."""
    are_eighths = bool((8 * angles == np.round(8 * angles)).all())
    return bool(np.ptp(angles) > 8 * np.pi or (np.abs(angles).max() > 2 * np.pi and are_eighths))
