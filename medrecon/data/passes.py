"""Passes over k-space, one slice at a time.

Arrays of large files are mapped from disk (:mod:`medrecon.formats.mapped`), so neither a whole scan nor temporary arrays of its
size have to fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["apply_mask", "largest_part", "magnitude_unit", "nonzero_positions"]


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array with at most three axes."""
    if array.ndim <= 3:
        yield array
        return
    for one in array:
        yield from _pieces(one)


def largest_part(array: np.ndarray) -> float:
    """The largest magnitude of a real or imaginary part; 0 for an empty array, NaN if the array contains NaN."""
    largest = 0.0
    for one in _pieces(array):
        for part in (np.real(one), np.imag(one)):
            largest = float(np.maximum(largest, np.abs(part).max(initial=0)))
    return largest


def magnitude_unit(array: np.ndarray) -> float:
    """The largest power of two not above the largest real or imaginary part (1 if all are 0).

    Dividing by it is exact, and the squares of the result fit single precision.
    """
    largest = largest_part(array)
    return float(2.0 ** np.floor(np.log2(largest))) if 0 < largest < float("inf") else 1.0


def nonzero_positions(kspace: np.ndarray) -> np.ndarray:
    """Positions ``(y, x)`` at which any slice or coil of ``(..., y, x)`` is not 0."""
    nonzero = np.zeros(kspace.shape[-2:], bool)
    for one in _pieces(kspace):
        nonzero |= one.any(axis=tuple(range(one.ndim - 2)))
    return nonzero


def apply_mask(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """K-space ``(..., y, x)`` set to 0 where ``mask`` is false; not copied if nothing changes."""
    return kspace * mask if (nonzero_positions(kspace) & ~mask).any() else kspace
