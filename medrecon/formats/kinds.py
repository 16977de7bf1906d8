"""Functions that read one kind of scan and refuse the others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medrecon.data.errors import InputError, NotCartesianError, SelectionError
from medrecon.data.scan import CartesianScan, ImageScan, NonCartesianScan, Sinogram
from medrecon.formats import bart, dicom, matlab, nifti, numpy_files
from medrecon.formats.companions import Companions
from medrecon.formats.contents import about_hdf5, lacking
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.formats.limits import reading
from medrecon.formats.probe import first_bytes
from medrecon.formats.registry import FORMATS, existing, format_of, read, refused
from medrecon.formats.sinograms import NEEDS

__all__ = ["load_array", "load_image", "load_kspace", "load_like", "load_noncartesian", "load_sinogram"]

_K = TypeVar("_K", CartesianScan, NonCartesianScan, Sinogram, ImageScan)
_NAMES = {
    CartesianScan: "k-space",
    NonCartesianScan: "k-space along a trajectory",
    Sinogram: "a CT sinogram",
    ImageScan: "an image",
}
_ADVICE = {
    CartesianScan: "give the raw data that it was made of, or simulate some with medrecon.transforms.SimulateKSpace",
    NonCartesianScan: "give ISMRMRD, a BART pair with its trajectory's, or an npz with kspace and trajectory",
    Sinogram: NEEDS,
    ImageScan: "give a NIfTI or FreeSurfer file, or a DICOM file or folder",
}
_SINOGRAM_ADVICE = (
    "reconstruct it with the chest_ct bundle's inference.yaml, or read it with medrecon.transforms.LoadSinogram"
)


def _another_kind(path: Path, found: type, kind: type, scan: object = None) -> InputError:
    """The error of a file that holds another kind of scan than was asked for."""
    raw = (CartesianScan, NonCartesianScan)
    if found is NonCartesianScan and kind is CartesianScan:
        where = scan.attributes.get("trajectory") if isinstance(scan, NonCartesianScan) else None
        what = "holds a trajectory, so its k-space is" if where is None else f"the trajectory is {where},"
        return NotCartesianError(
            f"{path}: {what} not Cartesian; load it with LoadNonCartesiand and reconstruct it with "
            "medrecon.operators.nufft_sense"
        )
    if found is CartesianScan and kind is NonCartesianScan:
        return InputError(
            f"{path}: holds k-space without a trajectory; give its trajectory, or read it as Cartesian with LoadKSpaced"
        )
    advice = _SINOGRAM_ADVICE if found is Sinogram and kind in raw else _ADVICE[kind]
    wanted = "raw data" if found is ImageScan and kind in raw else _NAMES[kind]
    return InputError(f"{path}: holds {_NAMES[found]}, not {wanted}; {advice}")


def _load(
    path: str | Path, kind: type[_K], select: Mapping[str, Any] | None = None, companions: Companions | None = None
) -> _K:
    """The scan of a file, if it is of a kind.

    Raises:
        InputError: if it is not.
    """
    path = existing(path)
    found = format_of(path)
    if found is None:
        raise refused(path, kind)
    kinds = (numpy_files.kind_of(path),) if found is numpy_files else found.KINDS
    if kind not in kinds and not (kinds == (CartesianScan,) and companions and companions.trajectory is not None):
        raise _another_kind(path, kinds[0], kind)
    scan = read(found, path, select=select, companions=companions)
    if not isinstance(scan, kind):
        raise _another_kind(path, type(scan), kind=kind, scan=scan)
    return _in_memory(scan)


def _in_memory(scan: _K) -> _K:
    """The scan with arrays that no longer change with their file: who asks for one kind wants arrays, not a run that checks.

    Raises:
        InputError: if the file changed meanwhile.
    """
    if scan.backing is None:
        return scan
    key = "samples" if isinstance(scan, NonCartesianScan) else "kspace"
    out = replace(scan, backing=None, **{key: np.array(getattr(scan, key))})  # type: ignore[arg-type]
    scan.backing.check()
    return out


def load_kspace(path: str | Path, select: Mapping[str, int | str] | None = None) -> CartesianScan:
    """Read Cartesian k-space; see :func:`medrecon.formats.load`.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give one file of k-space")
    return _load(path, CartesianScan, select)


def load_noncartesian(
    path: str | Path,
    trajectory: str | Path | np.ndarray | None = None,
    matrix: Sequence[int] | None = None,
    select: Mapping[str, int | str] | None = None,
) -> NonCartesianScan:
    """Read k-space along a trajectory: ISMRMRD, twix with a trajectory, a BART pair with its trajectory's, or ``npz``.

    Args:
        path: of the file.
        trajectory: a file (``npy``, or BART's) or an array, where the file itself holds none.
        matrix: of the image; default: the file's, else twice the trajectory's reach, even.
        select: of ISMRMRD and twix files, which contrast, phase, repetition, set or dataset.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    if trajectory is None and Path(path).suffix.lower() in bart.SUFFIXES:
        raise InputError(f"{path}: BART keeps the trajectory in a pair of its own; give that too")
    return _load(path, NonCartesianScan, select=select, companions=Companions(trajectory=trajectory, matrix=matrix))


def load_sinogram(
    path: str | Path,
    detector_spacing: float | None = None,
    centre: float | None = None,
    axis_convention: str | None = None,
) -> Sinogram:
    """Read a sinogram from ``npz`` or Data Exchange HDF5; see :mod:`medrecon.formats.sinograms` for its geometry.

    Args:
        path: of the file.
        detector_spacing: distance between detector pixels in mm, instead of the file's.
        centre: detector pixel on which the rotation axis falls, instead of the file's.
        axis_convention: where the axis of an even detector is without ``centre``, instead of the file's: ``middle`` (astra) or
            ``pixel`` (pixel ``n // 2``, scikit-image).

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; {NEEDS}")
    if first_bytes(Path(path), 6) == b"\x93NUMPY":
        raise InputError(f"{path}: one array without the angles of its views; {NEEDS}")
    companions = Companions(detector_spacing=detector_spacing, centre=centre, axis_convention=axis_convention)
    return _load(path, Sinogram, select=None, companions=companions)


def load_image(
    path: str | Path | Sequence[str | Path],
    select: Mapping[str, str | int | float] | None = None,
    phase: str | Path | None = None,
    imaginary: str | Path | None = None,
) -> ImageScan:
    """Read a volume: a NIfTI file, a DICOM file, or the DICOM files of a folder (whatever they are called).

    Args:
        path: of the file or folder, or those of the DICOM files of one series.
        select: which of several volumes, ``{"volume": 1}`` (counted from 0); of DICOM series or stacks by attribute as well, see
            :func:`medrecon.formats.dicom.read_dicom`.
        phase: of a NIfTI magnitude, a second file with the phase; see :func:`medrecon.formats.nifti.read`.
        imaginary: of a NIfTI real part, a second file with the imaginary part.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise InputError("no file to read; give a NIfTI file, or DICOM files")
    for one in paths:
        if not one.exists():
            raise InputError(f"{one}: no such file or folder")
    if len(paths) > 1:
        if phase is not None or imaginary is not None:
            raise InputError(
                f"{paths[0]}: a second file with phase or imaginary part goes with NIfTI only; leave it out"
            )
        return dicom.read_dicom(paths, select)
    companions = Companions(phase=phase, imaginary=imaginary)
    found = format_of(paths[0])
    if found is None:  # DICOM without its mark, or nothing of ours: that reader says it best
        found = nifti if nifti.is_nifti(paths[0]) else dicom
    if ImageScan not in found.KINDS:
        raise _another_kind(paths[0], found.KINDS[0], ImageScan)
    return read(found, paths[0], select=select, companions=companions)  # type: ignore[return-value]


def load_like(path: str | Path, select: Mapping[str, str | int | float] | None = None) -> ImageScan:
    """Read the DICOM series that a new one shall resemble.

    Args:
        path: see :func:`load_image`.
        select: see :func:`load_image`.

    Returns:
        the series; its warnings do not name the folder.

    Raises:
        InputError: as :func:`load_image`, or if it is no DICOM series.
    """
    try:
        series = load_image(path, select)
    except SelectionError as error:
        advice = re.sub(r"\bselect one\b", "select one by --like-select", str(error), count=1)
        raise SelectionError(advice) from error
    if not series.headers:
        raise InputError(f"{path}: is not a DICOM series; give a folder of DICOM files")
    texts = (text.replace(f"{path}{os.sep}", "").replace(str(path), "it") for text in series.warnings)
    return replace(series, warnings=tuple(f"the series that was given as --like: {text}" for text in texts))


def load_array(path: str | Path, key: str) -> np.ndarray:
    """Read one array, e.g. coil maps or a mask: a dataset ``key`` of HDF5 or npz, a whole npy, or a BART pair.

    MATLAB's (y, x, coils, slices) and BART's x, y, coils and slices become ``(coils, y, x)`` or ``(slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = existing(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; give one file")
    with reading(path):
        array = np.asarray(_array(path, key))
        if array.dtype.kind not in "biufc" or 0 in array.shape:
            raise InputError(f"{path}: '{key}' is {array.dtype} {array.shape}, not numbers; store an array of numbers")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise InputError(f"{path}: '{key}' holds NaN or Inf; export it again")
    return array


def _array(path: Path, key: str) -> np.ndarray:
    """See :func:`load_array`."""
    suffix = path.suffix.lower()
    if suffix in bart.SUFFIXES:
        array = bart.read_slices(path, key)
        return array[0] if len(array) == 1 else array
    if suffix in numpy_files.SUFFIXES:
        return numpy_files.read_array(path, key)
    if suffix in matlab.SUFFIXES:
        return matlab.read_array(path, key)
    if suffix not in (".h5", ".hdf5", ".mrd"):
        known = dict.fromkeys(name for one in FORMATS if CartesianScan in one.KINDS for name in one.SUFFIXES)
        raise InputError(f"{path}: unknown format {suffix or '(no suffix)'!r}; known are {', '.join(known)}")
    with open_hdf5(path) as file:
        if key not in file:
            raise lacking(path, key, arrays=about_hdf5(file), file=file)
        return read_dataset(file, key)
