"""Loaders for one kind of scan each; files with another kind raise an error."""

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
from medrecon.formats.contents import missing_array_error, summarise_hdf5
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.formats.limits import reading
from medrecon.formats.probe import first_bytes
from medrecon.formats.registry import FORMATS, existing_path, format_of, read, unreadable_error
from medrecon.formats.sinograms import NEEDS

__all__ = ["load_array", "load_image", "load_kspace", "load_like", "load_noncartesian", "load_sinogram"]

_K = TypeVar("_K", CartesianScan, NonCartesianScan, Sinogram, ImageScan)
_NAMES = {
    CartesianScan: "k-space",
    NonCartesianScan: "non-Cartesian k-space",
    Sinogram: "a CT sinogram",
    ImageScan: "an image",
}
_ADVICE = {
    CartesianScan: "give its raw data, or simulate some with medrecon.transforms.SimulateKSpace",
    NonCartesianScan: "give ISMRMRD, a BART pair and the pair of its trajectory, or an npz with kspace and trajectory",
    Sinogram: NEEDS,
    ImageScan: "give a NIfTI or FreeSurfer file, or a DICOM file or folder",
}
_SINOGRAM_ADVICE = (
    "reconstruct it with the chest_ct bundle's inference.yaml, or read it with medrecon.transforms.LoadSinogram"
)


def _wrong_kind_error(path: Path, found: type, kind: type, scan: object = None) -> InputError:
    """Error for a file that contains another kind of scan than requested."""
    raw = (CartesianScan, NonCartesianScan)
    if found is NonCartesianScan and kind is CartesianScan:
        trajectory = scan.attributes.get("trajectory") if isinstance(scan, NonCartesianScan) else None
        fact = "holds a trajectory, so its k-space is" if trajectory is None else f"the trajectory is {trajectory},"
        return NotCartesianError(
            f"{path}: {fact} not Cartesian; load it with LoadNonCartesiand and reconstruct it with "
            "medrecon.operators.nufft_sense"
        )
    if found is CartesianScan and kind is NonCartesianScan:
        return InputError(
            f"{path}: holds k-space without a trajectory; give its trajectory, or read it as Cartesian with LoadKSpaced"
        )
    advice = _SINOGRAM_ADVICE if found is Sinogram and kind in raw else _ADVICE[kind]
    requested = "raw data" if found is ImageScan and kind in raw else _NAMES[kind]
    return InputError(f"{path}: holds {_NAMES[found]}, not {requested}; {advice}")


def _load(
    path: str | Path, kind: type[_K], select: Mapping[str, Any] | None = None, companions: Companions | None = None
) -> _K:
    """Read a scan of one kind.

    Raises:
        InputError: if the file contains another kind.
    """
    path = existing_path(path)
    file_format = format_of(path)
    if file_format is None:
        raise unreadable_error(path, kind)
    kinds = (numpy_files.kind_of(path),) if file_format is numpy_files else file_format.KINDS
    if kind not in kinds and not (kinds == (CartesianScan,) and companions and companions.trajectory is not None):
        raise _wrong_kind_error(path, kinds[0], kind)
    scan = read(file_format, path, select=select, companions=companions)
    if not isinstance(scan, kind):
        raise _wrong_kind_error(path, type(scan), kind=kind, scan=scan)
    return _in_memory(scan)


def _in_memory(scan: _K) -> _K:
    """Copy memory-mapped arrays into memory, so that later changes of the file do not affect them.

    Raises:
        InputError: if the file has changed.
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
        raise InputError(f"{path}: is a folder; give one file of k-space")
    return _load(path, CartesianScan, select)


def load_noncartesian(
    path: str | Path,
    trajectory: str | Path | np.ndarray | None = None,
    matrix: Sequence[int] | None = None,
    select: Mapping[str, int | str] | None = None,
) -> NonCartesianScan:
    """Read non-Cartesian k-space: ISMRMRD, twix and a trajectory, a BART pair and the pair of its trajectory, or ``npz``.

    Args:
        path: path of the file.
        trajectory: trajectory file (``npy`` or BART) or array, if the file itself has none.
        matrix: image matrix; default: the one in the file, otherwise twice the extent of the trajectory, rounded to even.
        select: contrast, phase, repetition, set or dataset of ISMRMRD and twix files.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    if trajectory is None and Path(path).suffix.lower() in bart.SUFFIXES:
        raise InputError(f"{path}: BART stores the trajectory in a separate pair; give that too")
    return _load(path, NonCartesianScan, select=select, companions=Companions(trajectory=trajectory, matrix=matrix))


def load_sinogram(
    path: str | Path,
    detector_spacing: float | None = None,
    centre: float | None = None,
    axis_convention: str | None = None,
) -> Sinogram:
    """Read a sinogram from ``npz`` or Data Exchange HDF5; see :mod:`medrecon.formats.sinograms` for its geometry.

    Args:
        path: path of the file.
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
    """Read a volume: a NIfTI file, a DICOM file, or a folder of DICOM files (with any names).

    Args:
        path: path of the file or folder, or the paths of the DICOM files of one series.
        select: choice among several volumes, ``{"volume": 1}`` (counted from 0); DICOM series and stacks can also be selected by
            attribute, see :func:`medrecon.formats.dicom.read_dicom`.
        phase: second file with the phase of a NIfTI magnitude; see :func:`medrecon.formats.nifti.read`.
        imaginary: second file with the imaginary part of a NIfTI real part.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise InputError("no file to read; give a NIfTI file, or DICOM files")
    for file in paths:
        if not file.exists():
            raise InputError(f"{file}: no such file or folder")
    if len(paths) > 1:
        if phase is not None or imaginary is not None:
            raise InputError(
                f"{paths[0]}: a second file with the phase or imaginary part is supported for NIfTI only; leave it out"
            )
        return dicom.read_dicom(paths, select)
    companions = Companions(phase=phase, imaginary=imaginary)
    file_format = format_of(paths[0])
    if file_format is None:  # DICOM without its preamble, or an unsupported file: these readers explain it best
        file_format = nifti if nifti.is_nifti(paths[0]) else dicom
    if ImageScan not in file_format.KINDS:
        raise _wrong_kind_error(paths[0], file_format.KINDS[0], ImageScan)
    return read(file_format, paths[0], select=select, companions=companions)  # type: ignore[return-value]


def load_like(path: str | Path, select: Mapping[str, str | int | float] | None = None) -> ImageScan:
    """Read the reference DICOM series whose headers a new series copies.

    Args:
        path: see :func:`load_image`.
        select: see :func:`load_image`.

    Returns:
        The series, with warnings that do not name the folder.

    Raises:
        InputError: as :func:`load_image`, or if it is not a DICOM series.
    """
    try:
        series = load_image(path, select)
    except SelectionError as error:
        advice = re.sub(r"\bselect one\b", "select one by --like-select", str(error), count=1)
        raise SelectionError(advice) from error
    if not series.headers:
        raise InputError(f"{path}: not a DICOM series; give a folder of DICOM files")
    texts = (text.replace(f"{path}{os.sep}", "").replace(str(path), "it") for text in series.warnings)
    return replace(series, warnings=tuple(f"the series given by --like: {text}" for text in texts))


def load_array(path: str | Path, key: str) -> np.ndarray:
    """Read one array, e.g. coil maps or a mask: dataset ``key`` of HDF5, npz or MATLAB files, a whole npy, or a BART pair.

    MATLAB's (y, x, coils, slices) and BART's x, y, coils and slices become ``(coils, y, x)`` or ``(slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = existing_path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give one file")
    with reading(path):
        array = np.asarray(_array(path, key))
        if array.dtype.kind not in "biufc" or 0 in array.shape:
            raise InputError(f"{path}: '{key}' is {array.dtype} {array.shape}, not numbers; store an array of numbers")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise InputError(f"{path}: '{key}' contains NaN or Inf; export it again")
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
        formats = [candidate for candidate in FORMATS if CartesianScan in candidate.KINDS]
        known = dict.fromkeys(name for candidate in formats for name in candidate.SUFFIXES)
        raise InputError(f"{path}: unknown format {suffix or '(no suffix)'!r}; supported: {', '.join(known)}")
    with open_hdf5(path) as file:
        if key not in file:
            raise missing_array_error(path, key, arrays=summarise_hdf5(file), file=file)
        return read_dataset(file, key)
