"""DICOM images, from files or folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from medrecon.data.errors import InputError
from medrecon.data.scan import ImageScan
from medrecon.formats.companions import Companions
from medrecon.formats.dicom.series import UnknownFileError, find_series, identity, image_header, read_dicom
from medrecon.formats.probe import first_bytes, never_raises

__all__ = [
    "KINDS",
    "SUFFIXES",
    "UnknownFileError",
    "find_series",
    "identity",
    "image_header",
    "read",
    "read_dicom",
    "sniff",
]

SUFFIXES = (".dcm", ".dicom", ".ima", ".dic", "")
KINDS = (ImageScan,)
_MAX_SNIFFED = 1000
"""Largest number of files of a folder that are checked."""


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file has the DICOM prefix or begins with an element of group 2 or 8; for a folder, whether any file does."""
    if path.is_dir():
        return any(_is_dicom(file) for file in islice(_below(path), _MAX_SNIFFED))
    return _is_dicom(path)


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, without hidden ones."""
    for path in folder.rglob("[!.]*"):
        if path.is_file():
            yield path


def _is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM prefix, or begins with an element of group 2 or 8, as files without a preamble do."""
    start = first_bytes(path, 132)
    if start[128:] == b"DICM":
        return True
    if path.suffix.lower() not in SUFFIXES:
        return False
    group, element = (min(int.from_bytes(start[k : k + 2], order) for order in ("little", "big")) for k in (0, 2))
    return len(start) == 132 and group in (2, 8) and element < 0x1000


def read(
    path: Path, select: Mapping[str, str | int | float] | None = None, companions: Companions | None = None
) -> ImageScan:
    """Read one stack of slices; see :func:`medrecon.formats.dicom.series.read_dicom`.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    companions = companions or Companions()
    if companions.phase is not None or companions.imaginary is not None:
        raise InputError(
            f"{path}: a second file with the phase or imaginary part is supported for NIfTI only; leave it out"
        )
    return read_dicom([path], select)
