"""NIfTI images, real, complex, or in two files."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, SelectionError, redacted
from medrecon.data.files import sidecar_mismatch
from medrecon.data.scan import Geometry, ImageScan
from medrecon.formats.attributes import sidecar_attributes
from medrecon.formats.companions import Companions
from medrecon.formats.contents import absent
from medrecon.formats.limits import check_claim, check_packed, open_bounded
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import volume_number

__all__ = ["KINDS", "SUFFIXES", "is_nifti", "read", "silent", "sniff"]

SUFFIXES = (".nii", ".nii.gz")
KINDS = (ImageScan,)


def is_nifti(path: Path) -> bool:
    """Whether a file is named as NIfTI, in lower or upper case."""
    return path.name.lower().endswith(SUFFIXES)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file, or what is packed in a ``.gz`` file, begins with a header of NIfTI-1 or NIfTI-2."""
    start = first_bytes(path, 4096)
    if start[:2] == b"\x1f\x8b" and path.suffix.lower() == ".gz":
        start = zlib.decompressobj(31).decompress(start, 540)
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    return (348 in sizes and start[344:348] == b"n+1\0") or (540 in sizes and start[4:8] == b"n+2\0")


_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres of NIfTI's codes for metre, millimetre and micron."""


@dataclass(frozen=True)
class _File:
    """One volume of a file.

    Args:
        data: ``(slices, y, x)``.
        spacing: voxel size ``(z, y, x)`` in mm, or ``None``.
        affine: of (x, y, slice) in mm, or ``None``.
        volumes: how many the file holds.
        warnings: see :class:`medrecon.data.scan.ImageScan`.
    """

    data: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    volumes: int
    warnings: tuple[str, ...]


@contextmanager
def silent() -> Iterator[None]:
    """Keep what nibabel logs about odd headers out of the output; what matters is checked here."""
    from nibabel import imageglobals

    logger = imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _opened(path: Path) -> tuple[Any, Any]:
    """The image, and its header as it is stored: nibabel sets codes that it does not know to 0.

    Raises:
        InputError: if it is not NIfTI.
    """
    import nibabel as nib
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.openers import ImageOpener

    if not path.is_file():
        raise InputError(f"{path}: {absent(path)}")
    try:
        with silent():
            # Not nib.load, which changes the case of suffixes.
            with ImageOpener(str(path), "rb") as file:
                block = file.read(540)
            second = 540 in (int.from_bytes(block[:4], end) for end in ("little", "big"))
            kind = nib.Nifti2Image if second else nib.Nifti1Image
            stored = kind.header_class(block[: kind.header_class.template_dtype.itemsize], check=False)
            _check_size(path, stored)
            # Not from_file_map, which reads extensions, however many.
            header = kind.header_class(block[: kind.header_class.template_dtype.itemsize])
            image: Any = kind(ArrayProxy(str(path), header), None, header)
    except InputError:
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds on damaged files
        raise InputError(f"{path}: not a readable NIfTI file ({redacted(error)}); copy it again") from error
    return image, stored


def _check_size(path: Path, header: Any) -> None:  # noqa: ANN401 - of nibabel
    """Compare what a header announces with the file.

    Raises:
        InputError: for more than the file holds, or a packed one can.
        ValueError: for impossible sizes.
    """
    start, shape = int(header["vox_offset"]), header.get_data_shape()
    if start < int(header["sizeof_hdr"]):
        raise ValueError(f"its data would begin inside its header, at byte {start}")
    if any(n < 0 for n in shape):
        raise ValueError(f"its shape {shape} is impossible")
    size, stored = math.prod(shape) * header.get_data_dtype().itemsize + start, path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        check_claim(size, stored, path)
        check_packed(path)
    elif size > stored:
        raise InputError(
            f"{path}: its header says {' x '.join(map(str, shape))} voxels ({size} bytes), but the file has {stored} "
            "bytes; copy it again"
        )


def _volume(path: Path, select: Mapping[str, str | int | float]) -> _File:
    """One volume of a file."""
    image, stored = _opened(path)
    shape = image.shape
    volumes = math.prod(shape[3:])
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{path}: holds an array of {' x '.join(map(str, shape))}; give one volume of three axes")
    others = [keyword for keyword in select if keyword != "volume"]
    if others:
        raise InputError(
            f"{path}: {others[0]} cannot be selected in NIfTI, only a volume; leave it out, or select e.g. volume=0"
        )
    if volumes > 1 and "volume" not in select:
        raise SelectionError(
            f"{path}: a file of {volumes} volumes ({' x '.join(map(str, shape))}); select one, e.g. volume=0 (numbered from 0 to "
            f"{volumes - 1})"
        )
    number = volume_number(select.get("volume", 0), volumes, path)
    try:
        at = np.unravel_index(number, shape[3:], order="F") if len(shape) > 3 else ()
        data = np.asanyarray(image.dataobj[(..., *(int(i) for i in at))] if at else image.dataobj)
        affine, sides, warnings = _place(image.header, stored)
    except Exception as error:  # as above
        raise InputError(f"{path}: not a readable NIfTI file ({redacted(error)}); copy it again") from error
    if data.dtype.names or data.dtype.kind not in "biufc":
        raise InputError(f"{path}: holds {data.dtype} values; give real or complex numbers")
    data = data.reshape(*data.shape, *[1] * (3 - data.ndim)).transpose(2, 1, 0)
    data = np.ascontiguousarray(data, dtype=np.complex64 if data.dtype.kind == "c" else np.float32)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds NaN or Inf; mask them out first")
    if affine is None:
        spacing = (sides[2], sides[1], sides[0]) if min(sides) > 0 and max(sides) < 1e7 else None
        return _File(data=data, spacing=spacing, affine=None, volumes=volumes, warnings=warnings)
    sizes = np.abs(affine[:3])
    if not (np.isfinite(affine).all() and sizes.max() < 1e7) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{path}: its affine cannot be inverted; write sform and qform again")
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return _File(data=data, spacing=(z, y, x), affine=affine, volumes=volumes, warnings=warnings)


def _place(header: Any, stored: Any) -> tuple[np.ndarray | None, list[float], tuple[str, ...]]:  # noqa: ANN401
    """Affine in mm (``None`` if neither form has a code), voxel sides (x, y, z) in mm, and warnings.

    A code above 0 says that a form holds; which space it names, known or not, does not change the image.
    """
    code = int(stored["xyzt_units"]) & 7
    unit = _MM.get(code, 1.0)
    warnings = () if code in (0, *_MM) else (f"its unit of length has the unknown code {code}; mm are taken",)
    sides = [float(side) * unit for side in header.get_zooms()[:3]]
    sides += [1.0] * (3 - len(sides))
    if int(stored["sform_code"]) > 0:
        affine = np.array(header.get_sform(), float)
    elif int(stored["qform_code"]) > 0:
        affine = np.array(header.get_qform(), float)
    else:
        return None, sides, warnings
    affine[:3] *= unit
    return affine, sides, warnings


def _sidecar(path: Path) -> dict[str, str | float]:
    """The permitted attributes of a BIDS sidecar, of 1 MiB at most; none where it is not one."""
    if not path.is_file():
        return {}
    try:
        with open_bounded(path) as file:
            held = json.loads(file.read(2**20))
        return sidecar_attributes(held) if isinstance(held, dict) else {}
    except (ValueError, OSError, RecursionError):
        return {}  # somebody else's file


def _radians(phase: np.ndarray, path: Path) -> np.ndarray:
    """Phase in rad, of which scanners and converters know several units; the largest value decides which one it is."""
    low, high = float(phase.min()), float(phase.max())
    top = max(-low, high)
    if top <= 2 * np.pi + 0.01:
        return phase
    if low < 0 and 3000 < top <= 3150:  # milliradian (Philips, GE)
        return phase / np.float32(1000)
    if low < 0 and 3500 < top <= 4096:  # Siemens
        return phase * np.float32(np.pi / 4096)
    if low >= 0 and 3500 < top <= 4096:
        return (phase - 2048) * np.float32(np.pi / 2048)
    raise InputError(
        f"{path}: its values, from {low:g} to {high:g}, are neither rad nor a scanner's (-4096...4095, 0...4095, -3142...3142); "
        "convert them to rad"
    )


def read(
    path: Path, select: Mapping[str, str | int | float] | None = None, companions: Companions | None = None
) -> ImageScan:
    """Read one volume; with a second file, a complex one.

    The affine is the sform's, or the qform's where only that has a code; in mm, whatever the file's unit. ``(x, y, z)`` of the
    file becomes ``(slices, y, x)``; nothing is flipped or resampled.

    Args:
        path: of the magnitude, the real part, or a complex image.
        select: ``{"volume": K}``, counted from 0 in the order of storage, of a file (or two) with more than three axes.
        companions: ``phase``, a file in rad, milliradian, or scanners' integers (-4096...4095 for -pi...pi, 0...4095 for a
            turn); or ``imaginary``.

    Raises:
        InputError: for what cannot be read, or files that do not fit each other.
    """
    select = select or {}
    first = _volume(path, select)
    warnings = first.warnings
    stem = path.name[: -len(next((s for s in reversed(SUFFIXES) if path.name.lower().endswith(s)), path.suffix))]
    sidecar = path.with_name(f"{stem}.json")
    attributes = _sidecar(sidecar)
    problem = sidecar_mismatch(path, sidecar) if sidecar.is_file() else None
    warnings = warnings if problem is None else (*warnings, problem)
    array, more = _complex(path, first, select=select, companions=companions or Companions())
    if first.volumes > 1:
        attributes |= {"volume": volume_number(select["volume"], first.volumes, path), "volumes": first.volumes}
    return ImageScan(
        path=path,
        format="NIfTI",
        array=array,
        geometry=Geometry(first.spacing, first.affine),
        attributes=attributes,
        warnings=(*warnings, *more),
    )


def _complex(
    path: Path, first: _File, select: Mapping[str, str | int | float], companions: Companions
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array of a file with that of its second file, if one is given, and the second file's warnings.

    Raises:
        InputError: for files that do not fit each other.
    """
    phase, imaginary = companions.phase, companions.imaginary
    other = phase if phase is not None else imaginary
    if other is None:
        return first.data, ()
    if phase is not None and imaginary is not None:
        raise InputError(f"{path}: give the phase or the imaginary part, not both")
    array, second = first.data, _volume(Path(other), select)
    if np.iscomplexobj(array) or np.iscomplexobj(second.data):
        raise InputError(f"{path}: is complex already, or {other} is; give two real files")
    if second.data.shape != array.shape:
        raise InputError(
            f"{other}: has {second.data.shape} (slices, y, x), but {path} {array.shape}; give a matching pair"
        )
    here, there = first.affine, second.affine
    if here is not None and there is not None and not np.allclose(here, there, atol=1e-3):
        raise InputError(f"{other}: has a different affine than {path}; give a matching pair")
    if phase is not None:
        return (array * np.exp(1j * _radians(second.data, Path(other)))).astype(np.complex64), second.warnings
    return (array + 1j * second.data).astype(np.complex64), second.warnings
