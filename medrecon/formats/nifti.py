"""NIfTI images: real, complex, or complex in two files."""

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
from medrecon.formats.contents import missing_file_reason
from medrecon.formats.limits import check_claim, check_gzip, open_bounded
from medrecon.formats.probe import first_bytes, never_raises
from medrecon.formats.selecting import volume_number

__all__ = ["KINDS", "SUFFIXES", "is_nifti", "read", "silent", "sniff"]

SUFFIXES = (".nii", ".nii.gz")
KINDS = (ImageScan,)


def is_nifti(path: Path) -> bool:
    """Whether a file name ends in a NIfTI suffix, in any case."""
    return path.name.lower().endswith(SUFFIXES)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file, or the content of a ``.gz`` file, begins with a NIfTI-1 or NIfTI-2 header."""
    start = first_bytes(path, 4096)
    if start[:2] == b"\x1f\x8b" and path.suffix.lower() == ".gz":
        start = zlib.decompressobj(31).decompress(start, 540)
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    return (348 in sizes and start[344:348] == b"n+1\0") or (540 in sizes and start[4:8] == b"n+2\0")


_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Length in mm of the NIfTI units (codes of metre, millimetre and micron)."""


@dataclass(frozen=True)
class _File:
    """One volume of a file.

    Args:
        data: ``(slices, y, x)``.
        spacing: voxel size ``(z, y, x)`` in mm, or ``None``.
        affine: affine from the indices (x, y, slice) to mm, or ``None``.
        volumes: number of volumes in the file.
        warnings: see :class:`medrecon.data.scan.ImageScan`.
    """

    data: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    volumes: int
    warnings: tuple[str, ...]


@contextmanager
def silent() -> Iterator[None]:
    """Silence nibabel's log messages about unusual headers; relevant problems are checked here."""
    from nibabel import imageglobals

    logger = imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _open(path: Path) -> tuple[Any, Any]:
    """Open an image; also return its header as stored, since nibabel sets unknown codes to 0.

    Raises:
        InputError: if it is not a readable NIfTI file.
    """
    import nibabel as nib
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.openers import ImageOpener

    if not path.is_file():
        raise InputError(f"{path}: {missing_file_reason(path)}")
    try:
        with silent():
            # nib.load would change the case of suffixes.
            with ImageOpener(str(path), "rb") as file:
                block = file.read(540)
            is_nifti2 = 540 in (int.from_bytes(block[:4], end) for end in ("little", "big"))
            kind = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
            stored = kind.header_class(block[: kind.header_class.template_dtype.itemsize], check=False)
            _check_size(path, stored)
            # from_file_map would read all extensions, however many.
            header = kind.header_class(block[: kind.header_class.template_dtype.itemsize])
            image: Any = kind(ArrayProxy(str(path), header), None, header)
    except InputError:
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds on damaged files
        raise InputError(f"{path}: not a readable NIfTI file ({redacted(error)}); copy it again") from error
    return image, stored


def _check_size(path: Path, header: Any) -> None:  # noqa: ANN401 - of nibabel
    """Compare the size claimed by a header with the file.

    Raises:
        InputError: if the data are larger than the file, or than a compressed file can hold.
        ValueError: for impossible sizes.
    """
    start, shape = int(header["vox_offset"]), header.get_data_shape()
    if start < int(header["sizeof_hdr"]):
        raise ValueError(f"its data begin inside its header, at byte {start}")
    if any(n < 0 for n in shape):
        raise ValueError(f"its shape {shape} is impossible")
    size, stored = math.prod(shape) * header.get_data_dtype().itemsize + start, path.stat().st_size
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        check_claim(size, stored, path)
        check_gzip(path)
    elif size > stored:
        raise InputError(
            f"{path}: its header says {' x '.join(map(str, shape))} voxels ({size} bytes), but the file has {stored} "
            "bytes; copy it again"
        )


def _volume(path: Path, select: Mapping[str, str | int | float]) -> _File:
    """Read one volume of a file."""
    image, stored = _open(path)
    shape = image.shape
    volumes = math.prod(shape[3:])
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{path}: holds an array of {' x '.join(map(str, shape))}; give a volume with three axes")
    unsupported = [keyword for keyword in select if keyword != "volume"]
    if unsupported:
        raise InputError(
            f"{path}: NIfTI supports selection by volume only, not by {unsupported[0]}; leave it out, or select e.g. volume=0"
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
        affine, sides, warnings = _geometry(image.header, stored)
    except Exception as error:  # as in _open
        raise InputError(f"{path}: not a readable NIfTI file ({redacted(error)}); copy it again") from error
    if data.dtype.names or data.dtype.kind not in "biufc":
        raise InputError(f"{path}: holds {data.dtype} values; give real or complex numbers")
    data = data.reshape(*data.shape, *[1] * (3 - data.ndim)).transpose(2, 1, 0)
    data = np.ascontiguousarray(data, dtype=np.complex64 if data.dtype.kind == "c" else np.float32)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: contains NaN or Inf; mask them out first")
    if affine is None:
        spacing = (sides[2], sides[1], sides[0]) if min(sides) > 0 and max(sides) < 1e7 else None
        return _File(data=data, spacing=spacing, affine=None, volumes=volumes, warnings=warnings)
    sizes = np.abs(affine[:3])
    if not (np.isfinite(affine).all() and sizes.max() < 1e7) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{path}: its affine cannot be inverted; write sform and qform again")
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return _File(data=data, spacing=(z, y, x), affine=affine, volumes=volumes, warnings=warnings)


def _geometry(header: Any, stored: Any) -> tuple[np.ndarray | None, list[float], tuple[str, ...]]:  # noqa: ANN401
    """Affine in mm (``None`` if neither sform nor qform has a code), voxel size (x, y, z) in mm, and warnings.

    A form is valid if its code is above 0; the space named by the code, known or not, does not affect the image.
    """
    code = int(stored["xyzt_units"]) & 7
    unit = _MM.get(code, 1.0)
    warnings = () if code in (0, *_MM) else (f"its unit of length has the unknown code {code}; mm are assumed",)
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
    """Permitted attributes of a BIDS sidecar of at most 1 MiB; empty if the file is not one."""
    if not path.is_file():
        return {}
    try:
        with open_bounded(path) as file:
            content = json.loads(file.read(2**20))
        return sidecar_attributes(content) if isinstance(content, dict) else {}
    except (ValueError, OSError, RecursionError):
        return {}  # an unrelated file


def _radians(phase: np.ndarray, path: Path) -> np.ndarray:
    """Convert phase to rad; the unit is inferred from the largest value, since scanners and converters use several."""
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
        f"{path}: its values, from {low:g} to {high:g}, are neither in rad nor in a scanner's unit (-4096...4095, 0...4095, "
        "-3142...3142); convert them to rad"
    )


def read(
    path: Path, select: Mapping[str, str | int | float] | None = None, companions: Companions | None = None
) -> ImageScan:
    """Read one volume; with a second file, a complex one.

    The affine is the sform, or the qform if only that has a code, converted to mm. Axes ``(x, y, z)`` of the file become
    ``(slices, y, x)``; the image is neither flipped nor resampled.

    Args:
        path: path of the magnitude, the real part, or a complex image.
        select: ``{"volume": K}``, counted from 0 in storage order, for files with more than three axes.
        companions: second file: ``phase`` in rad, milliradian or scanner integers (-4096...4095 for -pi...pi, 0...4095 for a full
            turn), or ``imaginary``.

    Raises:
        InputError: if a file cannot be read, or the files do not match.
    """
    select = select or {}
    first = _volume(path, select)
    warnings = first.warnings
    stem = path.name[: -len(next((s for s in reversed(SUFFIXES) if path.name.lower().endswith(s)), path.suffix))]
    sidecar = path.with_name(f"{stem}.json")
    attributes = _sidecar(sidecar)
    problem = sidecar_mismatch(path, sidecar) if sidecar.is_file() else None
    warnings = warnings if problem is None else (*warnings, problem)
    array, second_warnings = _complex(path, first, select=select, companions=companions or Companions())
    if first.volumes > 1:
        attributes |= {"volume": volume_number(select["volume"], first.volumes, path), "volumes": first.volumes}
    return ImageScan(
        path=path,
        format="NIfTI",
        array=array,
        geometry=Geometry(first.spacing, first.affine),
        attributes=attributes,
        warnings=(*warnings, *second_warnings),
    )


def _complex(
    path: Path, first: _File, select: Mapping[str, str | int | float], companions: Companions
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Combine the array of a file with that of the second file, if given; also return the warnings of the second file.

    Raises:
        InputError: if the files do not match.
    """
    phase, imaginary = companions.phase, companions.imaginary
    second_path = phase if phase is not None else imaginary
    if second_path is None:
        return first.data, ()
    if phase is not None and imaginary is not None:
        raise InputError(f"{path}: give the phase or the imaginary part, not both")
    array, second = first.data, _volume(Path(second_path), select)
    if np.iscomplexobj(array) or np.iscomplexobj(second.data):
        raise InputError(f"{path}: this file or {second_path} is already complex; give two real files")
    if second.data.shape != array.shape:
        raise InputError(
            f"{second_path}: has shape {second.data.shape} (slices, y, x), but {path} {array.shape}; give a matching pair"
        )
    affine, second_affine = first.affine, second.affine
    if affine is not None and second_affine is not None and not np.allclose(affine, second_affine, atol=1e-3):
        raise InputError(f"{second_path}: has a different affine than {path}; give a matching pair")
    if phase is not None:
        return (array * np.exp(1j * _radians(second.data, Path(second_path)))).astype(np.complex64), second.warnings
    return (array + 1j * second.data).astype(np.complex64), second.warnings
