"""FreeSurfer images: ``.mgh``, and compressed ``.mgz``."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medrecon.data.errors import InputError, SelectionError, redacted
from medrecon.data.scan import Geometry, ImageScan
from medrecon.formats.companions import Companions
from medrecon.formats.limits import check_claim, open_bounded
from medrecon.formats.nifti import silent
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import volume_number

__all__ = ["KINDS", "SUFFIXES", "read", "sniff"]

SUFFIXES = (".mgz", ".mgh", ".mgh.gz")
KINDS = (ImageScan,)
_HEADER = 284
"""Bytes of the header before the voxels."""
_TYPES = (0, 1, 3, 4, 10)
"""Codes of the voxel types that nibabel reads."""


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file, or its uncompressed content, begins like version 1 of the format: a number, four sizes, a voxel type."""
    start = first_bytes(path, 4096)
    if start[:2] == b"\x1f\x8b":
        start = zlib.decompressobj(31).decompress(start, 24)
    version, *sides, kind = np.frombuffer(start[:24], ">i4")
    # Little of the header is fixed, so the suffix must match too.
    return path.name.lower().endswith(SUFFIXES) and version == 1 and min(sides) > 0 and kind in _TYPES


def read(
    path: Path, select: Mapping[str, str | int | float] | None = None, companions: Companions | None = None
) -> ImageScan:
    """Read one volume. Axes ``(x, y, z)`` of the file become ``(slices, y, x)``; the image is neither flipped nor resampled.

    Args:
        path: path of the file.
        select: ``{"volume": K}``, counted from 0, for a file with several volumes.
        companions: must be empty; none applies to this format.

    Raises:
        InputError: if the file cannot be read.
    """
    select = select or {}
    if companions is not None and companions.given:
        raise InputError(
            f"{path}: a second file with the phase or imaginary part is supported for NIfTI only; leave it out"
        )
    unsupported = [keyword for keyword in select if keyword != "volume"]
    if unsupported:
        raise InputError(
            f"{path}: this format supports selection by volume only, not by {unsupported[0]}; leave it out"
        )
    try:
        with silent():
            header, has_directions, voxels = _parts(path)
        volumes = int(header.get_data_shape()[3]) if len(header.get_data_shape()) > 3 else 1
        if volumes > 1 and "volume" not in select:
            raise SelectionError(
                f"{path}: a file of {volumes} volumes; select one, e.g. volume=0 (numbered from 0 to {volumes - 1})"
            )
        number = volume_number(select.get("volume", 0), volumes, path)
        data = voxels[..., number] if voxels.ndim > 3 else voxels
        affine = np.array(header.get_affine(), float) if has_directions else None
        sides = [float(side) for side in header.get_zooms()[:3]]
    except InputError:
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds on damaged files
        raise InputError(f"{path}: not a readable FreeSurfer image ({redacted(error)}); copy it again") from error
    array = np.ascontiguousarray(data.transpose(2, 1, 0), np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: contains NaN or Inf; mask them out first")
    if affine is not None:
        if not np.isfinite(affine).all() or np.abs(affine).max() > 1e7 or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise InputError(f"{path}: the affine from its directions and position is not invertible; convert it again")
        sides = [float(side) for side in np.linalg.norm(affine[:3, :3], axis=0)]
    known = all(np.isfinite(sides)) and min(sides) > 0 and max(sides) < 1e7
    return ImageScan(
        path=path,
        format="FreeSurfer",
        array=array,
        geometry=Geometry((sides[2], sides[1], sides[0]) if known else None, affine),
        attributes={"volume": number, "volumes": volumes} if volumes > 1 else {},
    )


def _parts(path: Path) -> tuple[Any, bool, np.ndarray]:
    """Header, whether it has directions (nibabel would guess them), and voxels ``(x, y, z)`` or ``(x, y, z, volumes)``.

    Raises:
        InputError: if the header claims more than the file can hold.
        ValueError: for damaged files.
    """
    from nibabel.freesurfer import MGHImage

    compressed, stored = first_bytes(path, 2) == b"\x1f\x8b", path.stat().st_size
    with open_bounded(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
        content: BinaryIO = unpacked if compressed else file  # type: ignore[assignment]
        block = content.read(_HEADER)
        if len(block) < _HEADER or int.from_bytes(block[20:24], "big") not in _TYPES:
            raise ValueError("its header is cut off, or has an unknown voxel type")
        header: Any = MGHImage.header_class(block, check=False)  # type: ignore[call-arg]
        shape, kind = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
        size = math.prod(shape) * kind.itemsize
        if compressed:
            check_claim(size + _HEADER, stored, path)
        elif size + _HEADER > stored:
            raise InputError(
                f"{path}: its header says {' x '.join(map(str, shape))} voxels, but the file has {stored} bytes; copy it again"
            )
        voxels = content.read(size)
        while compressed and content.read(1 << 20):  # gzip checks the checksum at the end
            pass
    array = np.frombuffer(voxels, kind, math.prod(shape)).reshape(shape, order="F")
    return header, int.from_bytes(block[28:30], "big", signed=True) > 0, array
