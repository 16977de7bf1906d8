"""Images of FreeSurfer, ``.mgh`` and, packed, ``.mgz``."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, SelectionError, redacted
from medrecon.data.scan import Geometry, ImageScan
from medrecon.formats.companions import Companions
from medrecon.formats.limits import check_claim
from medrecon.formats.nifti import silent
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import volume_number

__all__ = ["KINDS", "SUFFIXES", "read", "sniff"]

SUFFIXES = (".mgz", ".mgh")
KINDS = (ImageScan,)
_HEADER = 284
"""Bytes before the voxels."""
_TYPES = (0, 1, 3, 4, 10)
"""Codes of the types of voxels that nibabel reads."""


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file, or what is packed in it, begins as version 1 of the format: a number, four sides, a type of voxels."""
    start = first_bytes(path, 4096)
    if start[:2] == b"\x1f\x8b":
        start = zlib.decompressobj(31).decompress(start, 24)
    version, *sides, kind = np.frombuffer(start[:24], ">i4")
    return path.suffix.lower() in SUFFIXES and version == 1 and min(sides) > 0 and kind in _TYPES


def read(
    path: Path, select: Mapping[str, str | int | float] | None = None, companions: Companions | None = None
) -> ImageScan:
    """Read one volume. ``(x, y, z)`` of the file becomes ``(slices, y, x)``; nothing is flipped or resampled.

    Args:
        path: of the file.
        select: ``{"volume": K}``, counted from 0, of a file of several.
        companions: none belongs to this format.

    Raises:
        InputError: for what cannot be read.
    """
    select = select or {}
    if companions is not None and companions.given:
        raise InputError(f"{path}: a second file with phase or imaginary part goes with NIfTI only; leave it out")
    others = [keyword for keyword in select if keyword != "volume"]
    if others:
        raise InputError(f"{path}: {others[0]} cannot be selected in this format, only a volume; leave it out")
    try:
        with silent():
            image, placed = _opened(path)
        volumes = int(image.shape[3]) if len(image.shape) > 3 else 1
        if volumes > 1 and "volume" not in select:
            raise SelectionError(
                f"{path}: a file of {volumes} volumes; select one, e.g. volume=0 (numbered from 0 to {volumes - 1})"
            )
        number = volume_number(select.get("volume", 0), volumes, path)
        data = np.asarray(image.dataobj[..., number] if len(image.shape) > 3 else image.dataobj)
        affine = np.array(image.affine, float) if placed else None
        sides = [float(side) for side in image.header.get_zooms()[:3]]
    except InputError:
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds on damaged files
        raise InputError(f"{path}: not a readable FreeSurfer image ({redacted(error)}); copy it again") from error
    array = np.ascontiguousarray(data.transpose(2, 1, 0), np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds NaN or Inf; mask them out first")
    if affine is not None:
        if not np.isfinite(affine).all() or np.abs(affine).max() > 1e7 or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise InputError(
                f"{path}: its directions and position make no affine that can be inverted; convert it again"
            )
        sides = [float(side) for side in np.linalg.norm(affine[:3, :3], axis=0)]
    known = all(np.isfinite(sides)) and min(sides) > 0 and max(sides) < 1e7
    return ImageScan(
        path=path,
        format="FreeSurfer",
        array=array,
        geometry=Geometry((sides[2], sides[1], sides[0]) if known else None, affine),
        attributes={"volume": number, "volumes": volumes} if volumes > 1 else {},
    )


def _opened(path: Path) -> tuple[Any, bool]:
    """The image, whose voxels were not read yet, and whether its header holds directions (nibabel would guess them).

    Raises:
        InputError: if the header says more than the file can hold.
    """
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.freesurfer import MGHImage
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path), "rb") as file:
        block = file.read(_HEADER)
    header: Any = MGHImage.header_class(block, check=False)
    shape, kind = header.get_data_shape(), header.get_data_dtype()
    size, stored = math.prod(int(n) for n in shape) * kind.itemsize + _HEADER, path.stat().st_size
    if first_bytes(path, 2) == b"\x1f\x8b":
        check_claim(size, stored, path)
    elif size > stored:
        raise InputError(
            f"{path}: its header says {' x '.join(map(str, shape))} voxels, but the file has {stored} bytes; copy it again"
        )
    image = MGHImage(ArrayProxy(str(path), (shape, kind, _HEADER, 1.0, 0.0)), header.get_affine(), header)
    return image, int.from_bytes(block[28:30], "big", signed=True) > 0
