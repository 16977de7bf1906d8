"""NIfTI images, real, complex, or in two files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from medrecon.data.errors import InputError, told
from medrecon.data.images import Image

__all__ = ["read_nifti"]

_MM = {"meter": 1000.0, "micron": 0.001}


def _volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float] | None, np.ndarray | None]:
    """``(slices, y, x)``, voxel size and affine of one file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
            raise ValueError(f"{type(image).__name__}")
        data = np.asanyarray(image.dataobj)
        header = image.header
        unit = _MM.get(header.get_xyzt_units()[0], 1.0)
        codes = int(header["sform_code"]), int(header["qform_code"])
        affine = np.array(image.affine, dtype=float)
        sides = [float(side) * unit for side in header.get_zooms()[:3]]
    except Exception as error:  # nibabel, zlib and numpy raise many kinds on damaged files
        raise InputError(f"{path}: not a readable NIfTI file ({told(error)}); copy it again") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in (2, 3) or 0 in data.shape:
        raise InputError(f"{path}: holds an array of {' x '.join(map(str, data.shape))}; give one volume of three axes")
    if data.dtype.names or data.dtype.kind not in "biufc":
        raise InputError(f"{path}: holds {data.dtype} values; give real or complex numbers")
    data = data.reshape(*data.shape, *[1] * (3 - data.ndim)).transpose(2, 1, 0)
    data = np.ascontiguousarray(data, dtype=np.complex64 if data.dtype.kind == "c" else np.float32)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds NaN or Inf; mask them out first")
    while len(sides) < 3:
        sides.append(1.0)
    spacing = (sides[2], sides[1], sides[0]) if min(sides) > 0 and np.isfinite(sides).all() else None
    if max(codes) == 0:  # neither form says what it means
        return data, spacing, None
    affine[:3] *= unit
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{path}: its affine cannot be inverted; write sform and qform again")
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return data, (z, y, x), affine


def _radians(phase: np.ndarray, path: Path) -> np.ndarray:
    """Phase in rad, of which scanners and converters know several units, told apart by where they end."""
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


def read_nifti(path: Path, phase: str | Path | None = None, imaginary: str | Path | None = None) -> Image:
    """Read one volume; with a second file, a complex one.

    The affine is the sform's, or the qform's where only that has a code; in mm, whatever the file's unit. ``(x, y, z)`` of the
    file becomes ``(slices, y, x)``; nothing is flipped or resampled.

    Args:
        path: of the magnitude, the real part, or a complex image.
        phase: a file with the phase, in rad, milliradian, or scanners' integers (-4096...4095 for -pi...pi, 0...4095 for a turn).
        imaginary: a file with the imaginary part.

    Raises:
        InputError: for what cannot be read, or files that do not fit each other.
    """
    array, spacing, affine = _volume(path)
    attributes: dict[str, str | float] = {}
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if sidecar.is_file():
        try:
            held = json.loads(sidecar.read_text())
            wanted = (
                "Modality",
                "MagneticFieldStrength",
                "EchoTime",
                "RepetitionTime",
                "FlipAngle",
                "SeriesDescription",
            )
            attributes = {key: held[key] for key in wanted if isinstance(held.get(key), str | int | float)}
        except (ValueError, AttributeError, OSError, zlib.error):
            attributes = {}  # somebody else's file
    other = phase if phase is not None else imaginary
    if other is not None:
        if phase is not None and imaginary is not None:
            raise InputError(f"{path}: give the phase or the imaginary part, not both")
        second, _, where = _volume(Path(other))
        if np.iscomplexobj(array) or np.iscomplexobj(second):
            raise InputError(f"{path}: is complex already, or {other} is; give two real files")
        if second.shape != array.shape:
            raise InputError(
                f"{other}: has {second.shape} (slices, y, x), but {path} {array.shape}; give a matching pair"
            )
        if affine is not None and where is not None and not np.allclose(affine, where, atol=1e-3):
            raise InputError(f"{other}: lies elsewhere than {path}; give a matching pair")
        if phase is not None:
            array = (array * np.exp(1j * _radians(second, Path(other)))).astype(np.complex64)
        else:
            array = (array + 1j * second).astype(np.complex64)
    return Image(array, path, "NIfTI", spacing, affine, attributes)
