"""NumPy files (``npz`` and ``npy``): Cartesian and non-Cartesian k-space, and sinograms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan, NonCartesianScan, Sinogram
from medrecon.formats.arrays import numpy_array, numpy_arrays
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.companions import Companions
from medrecon.formats.contents import missing_array_error, summarise_arrays
from medrecon.formats.frames import check_axis, frames_of_array
from medrecon.formats.limits import open_bounded
from medrecon.formats.noncartesian import noncartesian_scan, trajectory_array
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.sinograms import KEYS, WORDS, checked_sinogram
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "kind_of", "read", "read_array", "read_frames", "sniff", "summarise"]

SUFFIXES = (".npz", ".npy")
KINDS = (CartesianScan, NonCartesianScan, Sinogram)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is an npy array, or an npz archive that contains ``kspace`` or ``sino``."""
    start = first_bytes(path, 6)
    if start == b"\x93NUMPY":
        return True
    return start[:2] == b"PK" and bool({"kspace", "sino"} & set(numpy_arrays(path, ())[1]))


def read(
    path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan | Sinogram:
    """Read k-space ``(slices, coils, y, x)``, ``(coils, y, x)`` or ``(y, x)`` of an npy file, or the arrays of an npz file.

    ``kspace``: k-space, with optional ``mask``, ``noise`` (``(coils, n)``) and ``shots`` (labels, see
    :class:`medrecon.data.scan.CartesianScan`). With ``trajectory`` (or one in
    :class:`Companions`): samples ``(coils, shots, readout)`` or ``(slices, coils, shots, readout)``, ``trajectory``
    ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), and optional ``matrix``. ``sino``: see
    :func:`medrecon.formats.sinograms.checked_sinogram`.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    companions = companions or Companions()
    if not _is_zip(path):
        kspace = numpy_array(path)
        if companions.trajectory is not None:
            return noncartesian_scan(
                path, "NumPy", arrays=(kspace, trajectory_array(companions.trajectory)), matrix=companions.matrix
            )
        return cartesian_scan(path, "NumPy", kspace)
    arrays, _ = numpy_arrays(path, ("kspace", "mask", "noise", "shots", "trajectory", "matrix", *KEYS))
    if "kspace" not in arrays:
        if "sino" in arrays:
            words, _ = numpy_arrays(path, WORDS, "biufcU")
            return checked_sinogram(path, "NumPy", fields=arrays | words, companions=companions)
        raise missing_array_error(path, "kspace", summarise(path))
    stored = Stored(noise=arrays.get("noise"), shots=arrays.get("shots"))
    trajectory = arrays.get("trajectory") if companions.trajectory is None else trajectory_array(companions.trajectory)
    if trajectory is None:
        return cartesian_scan(path, "NumPy", kspace=arrays["kspace"], mask=arrays.get("mask"), stored=stored)
    matrix = arrays.get("matrix") if companions.matrix is None else companions.matrix
    return noncartesian_scan(path, "NumPy", arrays=(arrays["kspace"], trajectory), matrix=matrix, stored=stored)


def read_frames(path: Path, select: Mapping[str, object] | None, axis: str) -> DynamicScan:
    """Read k-space of several frames, ``(frames, slices, coils, y, x)``.

    A ``mask`` applies to all frames, ``(x,)`` or ``(y, x)``, or to each frame, ``(frames, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    check_axis(path, axis, {})
    if not _is_zip(path):
        return frames_of_array(path, "NumPy", kspace=numpy_array(path), mask=None, axis=axis)
    arrays, names = numpy_arrays(path, ("kspace", "mask", "noise"))
    if "kspace" not in arrays and "sino" in names:
        raise InputError(f"{path}: holds a sinogram, which has no frames; leave the axis of the frames (--dynamic) out")
    if "kspace" not in arrays:
        raise missing_array_error(path, "kspace", summarise(path))
    if "trajectory" in names:
        raise InputError(f"{path}: holds a trajectory, but frames must be Cartesian; store a single frame")
    return frames_of_array(
        path, "NumPy", kspace=arrays["kspace"], mask=arrays.get("mask"), axis=axis, noise=arrays.get("noise")
    )


def kind_of(path: Path) -> type:
    """Kind of scan in a file, by its keys: :class:`NonCartesianScan`, :class:`CartesianScan` or :class:`Sinogram`."""
    names = numpy_arrays(path, ())[1] if _is_zip(path) else ["kspace"]
    if "kspace" not in names:
        return Sinogram
    return NonCartesianScan if "trajectory" in names else CartesianScan


def _is_zip(path: Path) -> bool:
    with open_bounded(path) as file:
        return file.read(2) == b"PK"


def summarise(path: Path) -> dict:
    """Summary of the arrays in an npz file for error messages, with the sizes of the first eight."""
    names = numpy_arrays(path, ())[1]
    arrays: dict[str, np.ndarray] = {}
    for name in names[:8]:
        with suppress(InputError):
            arrays |= numpy_arrays(path, (name,))[0]
    return summarise_arrays(arrays, names)


def read_array(path: Path, key: str) -> np.ndarray:
    """Read the array of an npy file, or ``key`` of an npz file; the format is recognised by the content.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    if not _is_zip(path):
        return numpy_array(path)
    arrays, _ = numpy_arrays(path, (key,))
    if key not in arrays:
        raise missing_array_error(path, key, summarise(path))
    return arrays[key]
