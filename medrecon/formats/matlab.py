"""MATLAB files up to version 7.3."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan
from medrecon.formats.arrays import matlab_arrays
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.companions import Companions
from medrecon.formats.contents import missing_array_error, summarise_arrays
from medrecon.formats.probe import is_matlab, never_raises
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "read", "read_array", "sniff", "summarise"]

SUFFIXES = (".mat",)
KINDS = (CartesianScan,)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is a MATLAB file; its variables are checked when it is read."""
    return is_matlab(path)


def read(path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None) -> CartesianScan:
    """Read the variable ``kspace`` ``(y, x, coils, slices)``; optional ``mask`` and ``noise`` ``(coils, n)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    arrays, _ = matlab_arrays(path, ("kspace", "mask", "noise"))
    if "kspace" not in arrays:
        raise missing_array_error(path, "kspace", summarise(path))
    kspace = arrays["kspace"]
    if kspace.ndim > 4:
        raise InputError(
            f"{path}: 'kspace' has size {kspace.shape}; store (y, x, coils, slices), one contrast or frame"
        )
    kspace = kspace.reshape(*kspace.shape, *[1] * (4 - kspace.ndim)).transpose(3, 2, 0, 1)
    mask, noise = arrays.get("mask"), arrays.get("noise")
    if mask is not None and 1 in mask.shape:
        mask = mask.ravel()
    elif mask is not None and mask.ndim > 2:
        mask = mask.transpose(*range(mask.ndim)[:1:-1], 0, 1)
    if noise is not None and kspace.shape[1] == 1:
        noise = noise.reshape(1, -1)
    return cartesian_scan(path, "MATLAB", kspace=kspace, mask=mask, stored=Stored(noise=noise))


def summarise(path: Path) -> dict:
    """Summary of the arrays in a file for error messages, with the sizes of the first eight."""
    names = matlab_arrays(path, ())[1]
    arrays: dict[str, np.ndarray] = {}
    for name in names[:8]:
        with suppress(InputError):
            arrays |= matlab_arrays(path, (name,))[0]
    return summarise_arrays(arrays, names)


def read_array(path: Path, key: str) -> np.ndarray:
    """Read the variable ``key``; MATLAB's (y, x, coils, slices) become ``(coils, y, x)`` or ``(slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    arrays, _ = matlab_arrays(path, (key,))
    if key not in arrays:
        raise missing_array_error(path, key, summarise(path))
    array = arrays[key]
    return array if array.ndim < 3 else array.transpose(*range(array.ndim)[:1:-1], 0, 1)
