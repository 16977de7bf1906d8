"""Passes over k-space that look at one slice at a time.

Arrays of large files are mapped from the disk rather than read (:mod:`medrecon.formats.mapped`), so a whole scan need not fit
into memory, nor need temporary arrays of its size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["held_samples", "largest_part", "magnitude_unit", "masked"]


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of at most three axes."""
    if array.ndim <= 3:
        yield array
        return
    for one in array:
        yield from _pieces(one)


def largest_part(array: np.ndarray) -> float:
    """The largest magnitude of a real or imaginary part, 0 of an empty array; NaN where the array holds any."""
    largest = 0.0
    for one in _pieces(array):
        for part in (np.real(one), np.imag(one)):
            largest = float(np.maximum(largest, np.abs(part).max(initial=0)))
    return largest


def magnitude_unit(array: np.ndarray) -> float:
    """The power of two next below the largest real or imaginary part (1 if all are 0).

    Data divided by it have squares that single precision holds, and lose nothing.
    """
    largest = largest_part(array)
    return float(2.0 ** np.floor(np.log2(largest))) if 0 < largest < float("inf") else 1.0


def held_samples(kspace: np.ndarray) -> np.ndarray:
    """Positions ``(y, x)`` that any slice or coil of ``(..., y, x)`` holds."""
    held = np.zeros(kspace.shape[-2:], bool)
    for one in _pieces(kspace):
        held |= one.any(axis=tuple(range(one.ndim - 2)))
    return held


def masked(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """K-space ``(..., y, x)`` with zeros where ``mask`` is false: itself, not a copy, where that changes nothing."""
    return kspace * mask if (held_samples(kspace) & ~mask).any() else kspace
