"""The list of formats, and the one way from a file to a scan."""

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
from medrecon.formats.contents import about_hdf5, absent, lacking
from medrecon.formats.hdf5 import open_hdf5
from medrecon.formats.limits import reading
from medrecon.formats.probe import first_bytes, is_hdf5

__all__ = ["FORMATS", "KEYS", "Format", "existing", "format_of", "load", "read", "refused"]


class Format(Protocol):
    """A module of this package."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """Endings of its files."""
        ...

    @property
    def KINDS(self) -> tuple[type, ...]:  # noqa: N802 - a constant of the module
        """Kinds of scans in them."""
        ...

    @staticmethod
    def sniff(path: Path, /) -> bool:
        """Whether a file is of this format; never raises."""
        ...

    @staticmethod
    def read(path: Path, select: Mapping[str, Any] | None = None, companions: Companions | None = None) -> Scan:
        """The scan in a file of this format."""
        ...


FORMATS: tuple[Format, ...] = (
    dicom, nifti, freesurfer, numpy_files, matlab, ismrmrd, calgary_campinas, data_exchange, fastmri, twix, bart
)  # fmt: skip
KEYS: dict[type, str] = {CartesianScan: "kspace", NonCartesianScan: "kspace", Sinogram: "sino", ImageScan: "image"}
"""Names of the array that files of a kind hold."""
_FOR = {
    "trajectory": (NonCartesianScan,),
    "matrix": (NonCartesianScan,),
    "phase": (ImageScan,),
    "imaginary": (ImageScan,),
    "detector_spacing": (Sinogram,),
    "centre": (Sinogram,),
    "axis_convention": (Sinogram,),
}
"""Kinds of scans that a companion belongs to."""


def format_of(path: str | Path) -> Format | None:
    """The first format whose ``sniff`` says yes, or ``None``."""
    return next((one for one in FORMATS if one.sniff(Path(path))), None)


def existing(path: str | Path) -> Path:
    """The path of a file or folder; of a BART pair without suffix that of its samples.

    Raises:
        InputError: if there is no such file, or it is empty.
    """
    path = Path(path)
    pair = path.with_name(f"{path.name}.cfl") if path.name else path
    if not path.exists() and pair.is_file():
        path = pair
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: {absent(path)}")
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty; copy or export it again")
    return path


def load(
    path: str | Path,
    select: Mapping[str, Any] | None = None,
    *,
    companions: Companions | None = None,
    frames: str | None = None,
) -> CartesianScan | DynamicScan | NonCartesianScan | Sinogram | ImageScan:
    """Read a file (of DICOM: or a folder) of any known format; what it holds decides the kind of scan.

    Args:
        path: of the file or folder.
        select: which of several things it holds, by name: ``contrast``, ``phase``, ``repetition``, ``set`` or ``dataset`` of
            ISMRMRD and twix files; ``volume`` or a DICOM keyword of images.
        companions: second files and numbers that complete the file.
        frames: axis of which all are read, as one :class:`DynamicScan`: ``contrast``, ``phase``, ``repetition`` or ``set``. An
            npz then holds ``kspace`` ``(frames, slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = existing(path)
    found = format_of(path)
    if found is None:
        raise refused(path)
    if frames is not None:
        return _read_frames(found, path, select=select, axis=frames)
    return read(found, path, select=select, companions=companions)


def _read_frames(found: Format, path: Path, select: Mapping[str, Any] | None, axis: str) -> DynamicScan:
    """Read the frames of a file.

    Raises:
        InputError: for a format that holds none.
    """
    reader = getattr(found, "read_frames", None)
    if reader is None:
        raise InputError(f"{path}: this format holds no frames; they are read from ISMRMRD, twix and NumPy files")
    with reading(path):
        return reader(path, select, axis)


def read(
    found: Format, path: Path, select: Mapping[str, Any] | None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan | Sinogram | ImageScan:
    """Read a file of a known format, with the checks that all formats share.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    for name in companions.given if companions else ():
        if not set(_FOR[name]) & set(found.KINDS):
            raise InputError(f"{path}: {name} does not belong to this kind of file; leave it out")
    with reading(path):
        scan: Any = found.read(path, select, companions)
        if isinstance(scan, CartesianScan):
            more = centre_warnings(scan.kspace, str(path), scan.format)
            scan = replace(scan, warnings=scan.warnings + more)
        return scan


def refused(path: Path, kind: type | None = None) -> InputError:
    """Why a file that no format claims cannot be used: what its contents show, or else the list of formats.

    Args:
        path: of the file or folder.
        kind: of scan that was asked for; default: any.
    """
    formats = [one for one in FORMATS if kind is None or kind in one.KINDS]
    try:
        with reading(path):
            return _by_contents(path, KEYS.get(kind, "kspace") if kind else "kspace", formats)
    except InputError as error:
        return error


def _by_contents(path: Path, key: str, formats: list[Format]) -> InputError:
    """See :func:`refused`.

    Raises:
        InputError: for damaged files.
    """
    if path.is_dir():
        if dicom in formats:
            dicom.read(path)
        return InputError(f"{path}: a folder; give one file")
    suffix = path.suffix.lower()
    if is_hdf5(path) or suffix in (*fastmri.SUFFIXES, *ismrmrd.SUFFIXES, *data_exchange.SUFFIXES):
        with open_hdf5(path) as file:
            return lacking(path, key, arrays=about_hdf5(file), file=file)
    if first_bytes(path, 2) == b"PK" or suffix in numpy_files.SUFFIXES:
        if suffix == ".npy":
            numpy_files.read(path)
        return lacking(path, key, numpy_files.about(path))
    for one in formats:
        if suffix in one.SUFFIXES and (suffix or one is dicom):
            one.read(path)  # its own sentence
    known = dict.fromkeys(name for one in formats for name in one.SUFFIXES if name)
    return InputError(f"{path}: unknown format {suffix or '(no suffix)'!r}; known are {', '.join(known)}")
