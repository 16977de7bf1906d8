"""Memory mapping of large arrays, so that a scan may be larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medrecon.data.scan import Backing
from medrecon.formats.limits import FREE_BYTES

__all__ = ["LARGE", "backing_of", "is_mappable", "mapped"]

LARGE = FREE_BYTES
"""Size in bytes from which arrays are mapped; smaller arrays are read, so that later changes of the file do not matter."""


def is_mappable(dtype: np.dtype, shape: Sequence[int]) -> bool:
    """Whether an array is large and stored in the byte order of this machine."""
    return dtype.isnative and not dtype.hasobject and math.prod(shape) * dtype.itemsize >= LARGE


def mapped(path: str | Path, offset: int, dtype: np.dtype, shape: Sequence[int], order: str = "C") -> np.ndarray:
    """Map numbers of a file from ``offset`` on; changes of the array stay in memory.

    Raises:
        ValueError: if the file is too short.
    """
    needed = offset + math.prod(shape) * dtype.itemsize
    if Path(path).stat().st_size < needed:
        raise ValueError(f"its header claims {needed} bytes, but fewer are stored")
    return np.memmap(path, dtype, "c", offset, tuple(shape), order)  # type: ignore[call-overload]


def backing_of(array: object) -> Backing | None:
    """Current state of the file of a mapped array (or a view of one); ``None`` for an array in memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    return Backing.now(Path(array.filename))
