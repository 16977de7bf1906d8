"""Volumes of any source as training slices: checked, cut along the right axis, at unit scale, without empty slices."""

from __future__ import annotations

import numpy as np

from medrecon.data.errors import InputError

__all__ = [
    "as_channels",
    "check_values",
    "filled",
    "is_hounsfield",
    "kind_of_sampling",
    "plane_of",
    "sliced",
    "unit_of",
]

PLANES = ("sagittal", "coronal", "axial")
"""Planes by the world axis (x, y, z) that they are perpendicular to."""
_MAX_ASPECT = 1.5
"""Largest ratio of the sides of a pixel of reformatted slices; slices of thick-slice volumes across their slices are blurred."""

_LARGEST = 100.0
"""Largest value of training images, in units; half precision ends at 65504."""


def is_hounsfield(volume: np.ndarray, modality: str = "") -> bool:
    """Whether values are HU: by the modality of DICOM, otherwise if a tenth of the pixels is below -500, as air is."""
    if modality:
        return modality == "CT"
    real = not np.iscomplexobj(volume)
    return bool(real and volume.min() > -3100 and np.quantile(volume, 0.1) < -500)


def check_values(volume: np.ndarray, name: str, images: str, modality: str = "") -> None:
    """Refuse a volume that cannot be an image of the prior's kind.

    Args:
        volume: ``(slices, y, x)``.
        name: name of the case, for messages.
        images: kind of images of the prior: ``complex``, ``magnitude`` or ``attenuation``.
        modality: modality of DICOM; empty: unknown.

    Raises:
        InputError: naming the case.
    """
    if volume.ndim != 3 or not volume.size:
        raise InputError(f"{name}: has the shape {volume.shape}, but volumes are (slices, y, x); exclude the case")
    if not np.isfinite(volume).all():
        raise InputError(f"{name}: contains NaN or Inf; exclude the case, or prepare a corrected file")
    hounsfield = is_hounsfield(volume, modality)
    if images == "attenuation" and not hounsfield:
        what = f"is {modality}" if modality else "has no air of about -1000"
        raise InputError(
            f"{name}: {what}, but prior.yaml describes a prior of CT in HU (images: attenuation); exclude the case, or train a "
            "copy of another bundle"
        )
    if images != "attenuation" and hounsfield:
        raise InputError(
            f"{name}: is CT in HU, but prior.yaml describes a prior of {images} images; exclude the case, or train a copy of "
            "chest_ct"
        )
    if images != "attenuation" and not np.iscomplexobj(volume) and volume.min() < -0.05 * volume.max():
        raise InputError(
            f"{name}: has negative values (down to {volume.min():.4g}), so it is not a magnitude; exclude the case, or prepare "
            "magnitudes"
        )


def plane_of(affine: np.ndarray, axis: int) -> str:
    """The plane of slices across an axis of ``(slices, y, x)``, by the affine of indices (x, y, slice)."""
    columns = np.abs(np.asarray(affine)[:3, :3])
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-9)
    return PLANES[int(columns[:, 2 - axis].argmax())]


def sliced(
    volume: np.ndarray, affine: np.ndarray | None, planes: tuple[str, ...] | None, name: str
) -> list[np.ndarray]:
    """Stacks of slices ``(n, y, x)``, one for every plane.

    Args:
        volume: ``(slices, y, x)``.
        affine: RAS affine of indices (x, y, slice); ``None``: unknown.
        planes: names of planes; ``None``: slices as they are stored, which is what ``medrecon recon`` reconstructs.
        name: name of the case, for messages.

    Raises:
        InputError: for planes of a volume without orientation, or whose pixels are too long for all of them.
    """
    if planes is None:
        return [volume]
    if affine is None:
        raise InputError(
            f"{name}: its orientation is unknown, so it has no {planes[0]} slices; leave planes out (null), or exclude the case"
        )
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)[::-1]  # (slices, y, x)
    stacks = []
    for axis in range(3):
        sides = np.delete(spacing, axis)
        usable = axis == 0 or sides.max() <= _MAX_ASPECT * sides.min()
        if plane_of(affine, axis) in planes and usable:
            stacks.append(np.moveaxis(volume, axis, 0))
    if not stacks:
        raise InputError(
            f"{name}: has no {' or '.join(planes)} slices of sufficient resolution; leave planes out (null), or exclude the case"
        )
    return stacks


def unit_of(magnitude: np.ndarray, fraction: float = 0.995) -> float:
    """The value of image unit 1.0: one quantile for all slices of a volume, the maximum if that is 0; 0 for an empty volume."""
    return float(np.quantile(magnitude, fraction)) or float(magnitude.max())


def filled(magnitude: np.ndarray) -> np.ndarray:
    """Which slices ``(n, y, x)`` at unit scale show something: 2 % of the pixels are above 0.1. ``(n,)`` bool."""
    return (magnitude > 0.1).mean(axis=(1, 2)) >= 0.02


def as_channels(images: np.ndarray, kind: str) -> np.ndarray:
    """Images ``(n, y, x)`` at unit scale as channels ``(n, C, y, x)``, float16.

    Half precision has an error of 0.05 %, far below the noise of any image, and half the size of single precision.

    Args:
        images: real or complex images.
        kind: kind of images of the prior. Complex images become magnitudes where the prior has one channel, and two channels
            where it has two; real images have one channel, to which the augmentation adds a phase where the prior has two.
    """
    if np.iscomplexobj(images) and kind == "complex":
        channels = np.stack([np.real(images), np.imag(images)], axis=1)
    else:
        channels = (np.abs(images) if np.iscomplexobj(images) else images)[:, None]
    return channels.clip(-_LARGEST, _LARGEST).astype(np.float16)


def kind_of_sampling(mask: np.ndarray, name: str = "k-space") -> str:
    """``full`` if a mask ``(1 or y, x)`` has no gaps inside its bounding box, as with zero padding; else ``undersampled``.

    Raises:
        InputError: for an empty mask.
    """
    measured = np.atleast_2d(np.asarray(mask)) != 0
    if not measured.any():
        raise InputError(f"{name}: its mask is 0 everywhere; exclude the case")
    rows, columns = (np.flatnonzero(measured.any(axis=axis)) for axis in (1, 0))
    inside = measured[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return "full" if inside.all() else "undersampled"
