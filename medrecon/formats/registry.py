"""Registry of file formats, and the common entry point that reads a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan, ImageScan, NonCartesianScan, Scan, Sinogram
from medrecon.formats import (
    bart,
    calgary_campinas,
    data_exchange,
    dicom,
    fastmri,
    freesurfer,
    ismrmrd,
    matlab,
    nifti,
    numpy_files,
    twix,
)
from medrecon.formats.centre import centre_warnings
from medrecon.formats.companions import Companions
from medrecon.formats.contents import missing_array_error, missing_file_reason, summarise_hdf5
from medrecon.formats.hdf5 import open_hdf5
from medrecon.formats.limits import reading
from medrecon.formats.probe import first_bytes, is_hdf5

__all__ = ["ARRAY_KEYS", "FORMATS", "Format", "existing_path", "format_of", "load", "read", "unreadable_error"]


class Format(Protocol):
    """Interface of a format module."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """File name suffixes."""
        ...

    @property
    def KINDS(self) -> tuple[type, ...]:  # noqa: N802 - a constant of the module
        """Record classes that the files may contain."""
        ...

    @staticmethod
    def sniff(path: Path, /) -> bool:
        """Whether a file has this format; never raises."""
        ...

    @staticmethod
    def read(path: Path, select: Mapping[str, Any] | None = None, companions: Companions | None = None) -> Scan:
        """Read a file of this format."""
        ...


FORMATS: tuple[Format, ...] = (
    dicom, nifti, freesurfer, numpy_files, matlab, ismrmrd, calgary_campinas, data_exchange, fastmri, twix, bart
)  # fmt: skip
ARRAY_KEYS: dict[type, str] = {
    CartesianScan: "kspace",
    NonCartesianScan: "kspace",
    Sinogram: "sino",
    ImageScan: "image",
}
"""Name of the main array in files of each kind of scan."""
_COMPANION_KINDS = {
    "trajectory": (NonCartesianScan,),
    "matrix": (NonCartesianScan,),
    "phase": (ImageScan,),
    "imaginary": (ImageScan,),
    "detector_spacing": (Sinogram,),
    "centre": (Sinogram,),
    "axis_convention": (Sinogram,),
}
"""Kinds of scan that each companion applies to."""


def format_of(path: str | Path) -> Format | None:
    """First format whose ``sniff`` accepts the file, or ``None``."""
    return next((candidate for candidate in FORMATS if candidate.sniff(Path(path))), None)


def existing_path(path: str | Path) -> Path:
    """Path of an existing file or folder; for a BART pair given without suffix, the path of its samples (``.cfl``).

    Raises:
        InputError: if there is no such file, or it is empty.
    """
    path = Path(path)
    bart_samples = path.with_name(f"{path.name}.cfl") if path.name else path
    if not path.exists() and bart_samples.is_file():
        path = bart_samples
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: {missing_file_reason(path)}")
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty; copy or export it again")
    return path


def load(
    path: str | Path,
    select: Mapping[str, Any] | None = None,
    *,
    companions: Companions | None = None,
    frames: str | None = None,
) -> CartesianScan | DynamicScan | NonCartesianScan | Sinogram | ImageScan:
    """Read a file of any supported format, or a folder of DICOM files; the content decides the kind of scan.

    Args:
        path: path of the file or folder.
        select: choice among several scans in the file, by name: ``contrast``, ``phase``, ``repetition``, ``set`` or ``dataset``
            for ISMRMRD and twix files; ``volume`` or a DICOM keyword for images.
        companions: additional files and numbers that complete the file.
        frames: axis whose entries are all read as one :class:`DynamicScan`: ``contrast``, ``phase``, ``repetition`` or ``set``.
            An npz then contains ``kspace`` ``(frames, slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = existing_path(path)
    file_format = format_of(path)
    if file_format is None:
        raise unreadable_error(path)
    if frames is not None:
        return _read_frames(file_format, path, select=select, axis=frames)
    return read(file_format, path, select=select, companions=companions)


def _read_frames(file_format: Format, path: Path, select: Mapping[str, Any] | None, axis: str) -> DynamicScan:
    """Read all frames of a file.

    Raises:
        InputError: for a format without frames.
    """
    reader = getattr(file_format, "read_frames", None)
    if reader is None:
        raise InputError(f"{path}: this format has no frames; give an ISMRMRD, twix or NumPy file")
    with reading(path):
        return reader(path, select, axis)


def read(
    file_format: Format, path: Path, select: Mapping[str, Any] | None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan | Sinogram | ImageScan:
    """Read a file whose format is known, with the checks common to all formats.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    for name in companions.given if companions else ():
        if not set(_COMPANION_KINDS[name]) & set(file_format.KINDS):
            raise InputError(f"{path}: {name} does not apply to this kind of file; leave it out")
    with reading(path):
        scan: Any = file_format.read(path, select, companions)
        if isinstance(scan, CartesianScan):
            warnings = centre_warnings(scan.kspace, str(path), scan.format)
            scan = replace(scan, warnings=scan.warnings + warnings)
        return scan


def unreadable_error(path: Path, kind: type | None = None) -> InputError:
    """Error for a file that no format accepts: explained by its content, or otherwise with the list of formats.

    Args:
        path: path of the file or folder.
        kind: requested kind of scan; default: any.
    """
    formats = [candidate for candidate in FORMATS if kind is None or kind in candidate.KINDS]
    try:
        with reading(path):
            return _error_from_content(path, ARRAY_KEYS.get(kind, "kspace") if kind else "kspace", formats)
    except InputError as error:
        return error


def _error_from_content(path: Path, key: str, formats: list[Format]) -> InputError:
    """See :func:`unreadable_error`.

    Raises:
        InputError: for damaged files.
    """
    if path.is_dir():
        if dicom in formats:
            dicom.read(path)
        return InputError(f"{path}: is a folder; give one file")
    suffix = path.suffix.lower()
    if is_hdf5(path) or suffix in (*fastmri.SUFFIXES, *ismrmrd.SUFFIXES, *data_exchange.SUFFIXES):
        with open_hdf5(path) as file:
            return missing_array_error(path, key, arrays=summarise_hdf5(file), file=file)
    if first_bytes(path, 2) == b"PK" or suffix in numpy_files.SUFFIXES:
        if suffix == ".npy":
            numpy_files.read(path)
        return missing_array_error(path, key, numpy_files.summarise(path))
    for candidate in formats:
        if suffix in candidate.SUFFIXES and (suffix or candidate is dicom):
            candidate.read(path)  # raises a more specific error
    known = dict.fromkeys(name for candidate in formats for name in candidate.SUFFIXES if name)
    return InputError(f"{path}: unknown format {suffix or '(no suffix)'!r}; supported: {', '.join(known)}")
