"""Large arrays that are mapped from their file rather than read, so that a scan may be larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medrecon.data.scan import Backing
from medrecon.formats.limits import FREE

__all__ = ["LARGE", "backing_of", "is_mappable", "mapped"]

LARGE = FREE
"""Bytes from which arrays are mapped; smaller ones are read, so that what happens to the file later does not matter."""


def is_mappable(dtype: np.dtype, shape: Sequence[int]) -> bool:
    """Whether an array is large, and stored as this machine computes."""
    return dtype.isnative and not dtype.hasobject and math.prod(shape) * dtype.itemsize >= LARGE


def mapped(path: str | Path, offset: int, dtype: np.dtype, shape: Sequence[int], order: str = "C") -> np.ndarray:
    """Numbers that lie in a file from ``offset`` on; what is written to the array stays in memory.

    Raises:
        ValueError: if the file is too short.
    """
    needed = offset + math.prod(shape) * dtype.itemsize
    if Path(path).stat().st_size < needed:
        raise ValueError(f"its header says {needed} bytes, but fewer are stored")
    return np.memmap(path, dtype, "c", offset, tuple(shape), order)  # type: ignore[call-overload]


def backing_of(array: object) -> Backing | None:
    """The file of a mapped array (or of a part of one), as it is now; ``None`` for an array in memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    return Backing.now(Path(array.filename))
