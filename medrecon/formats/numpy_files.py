"""NumPy files, ``npz`` and ``npy``: k-space on a grid or along a trajectory, and sinograms."""

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
from medrecon.formats.contents import about_arrays, lacking
from medrecon.formats.frames import check_axis, frames_of_array
from medrecon.formats.limits import open_bounded
from medrecon.formats.noncartesian import noncartesian_scan, trajectory_array
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.sinograms import KEYS, WORDS, checked_sinogram
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "about", "kind_of", "read", "read_array", "read_frames", "sniff"]

SUFFIXES = (".npz", ".npy")
KINDS = (CartesianScan, NonCartesianScan, Sinogram)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is one array of NumPy, or a zip file of arrays with ``kspace`` or ``sino`` among them."""
    start = first_bytes(path, 6)
    if start == b"\x93NUMPY":
        return True
    return start[:2] == b"PK" and bool({"kspace", "sino"} & set(numpy_arrays(path, ())[1]))


def read(
    path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan | Sinogram:
    """K-space ``(slices, coils, y, x)``, ``(coils, y, x)`` or ``(y, x)``, or what the keys of an npz file say.

    ``kspace``: k-space, with optional ``mask`` and ``noise`` (``(coils, n)``). With ``trajectory`` (or one in
    :class:`Companions`): samples ``(coils, shots, readout)`` or with slices in front, ``trajectory``
    ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), and optional ``matrix``. ``sino``: see
    :func:`medrecon.formats.sinograms.checked_sinogram`.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    given = companions or Companions()
    if not _is_zip(path):
        kspace = numpy_array(path)
        if given.trajectory is not None:
            return noncartesian_scan(
                path, "NumPy", arrays=(kspace, trajectory_array(given.trajectory)), matrix=given.matrix
            )
        return cartesian_scan(path, "NumPy", kspace)
    held, _ = numpy_arrays(path, ("kspace", "mask", "noise", "trajectory", "matrix", *KEYS))
    if "kspace" not in held:
        if "sino" in held:
            words, _ = numpy_arrays(path, WORDS, "biufcU")
            return checked_sinogram(path, "NumPy", fields=held | words, companions=given)
        raise lacking(path, "kspace", about(path))
    stored = Stored(noise=held.get("noise"))
    points = held.get("trajectory") if given.trajectory is None else trajectory_array(given.trajectory)
    if points is None:
        return cartesian_scan(path, "NumPy", kspace=held["kspace"], mask=held.get("mask"), stored=stored)
    matrix = held.get("matrix") if given.matrix is None else given.matrix
    return noncartesian_scan(path, "NumPy", arrays=(held["kspace"], points), matrix=matrix, stored=stored)


def read_frames(path: Path, select: Mapping[str, object] | None, axis: str) -> DynamicScan:
    """The frames of k-space ``(frames, slices, coils, y, x)``.

    A ``mask`` is that of all frames, ``(x,)`` or ``(y, x)``, or one for each, ``(frames, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    check_axis(path, axis, {})
    if not _is_zip(path):
        return frames_of_array(path, "NumPy", kspace=numpy_array(path), mask=None, axis=axis)
    held, names = numpy_arrays(path, ("kspace", "mask", "noise"))
    if "kspace" not in held and "sino" in names:
        raise InputError(f"{path}: holds a sinogram, which has no frames; leave the axis of the frames (--dynamic) out")
    if "kspace" not in held:
        raise lacking(path, "kspace", about(path))
    if "trajectory" in names:
        raise InputError(f"{path}: holds a trajectory, but frames are read on a Cartesian grid only; store one frame")
    return frames_of_array(
        path, "NumPy", kspace=held["kspace"], mask=held.get("mask"), axis=axis, noise=held.get("noise")
    )


def kind_of(path: Path) -> type:
    """What a file holds, by its keys: :class:`NonCartesianScan`, :class:`CartesianScan` or :class:`Sinogram`."""
    names = numpy_arrays(path, ())[1] if _is_zip(path) else ["kspace"]
    if "kspace" not in names:
        return Sinogram
    return NonCartesianScan if "trajectory" in names else CartesianScan


def _is_zip(path: Path) -> bool:
    with open_bounded(path) as file:
        return file.read(2) == b"PK"


def about(path: Path) -> dict:
    """What an npz file holds, for the sentences of errors; of the first arrays their sizes as well."""
    names = numpy_arrays(path, ())[1]
    held: dict[str, np.ndarray] = {}
    for name in names[:8]:
        with suppress(InputError):
            held |= numpy_arrays(path, (name,))[0]
    return about_arrays(held, names)


def read_array(path: Path, key: str) -> np.ndarray:
    """The array of an npy file, or ``key`` of an npz file, by what the file is.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    if not _is_zip(path):
        return numpy_array(path)
    held, _ = numpy_arrays(path, (key,))
    if key not in held:
        raise lacking(path, key, about(path))
    return held[key]
