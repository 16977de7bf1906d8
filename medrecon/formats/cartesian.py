"""Checks of Cartesian k-space common to all formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.noise import estimate_noise_std
from medrecon.data.passes import apply_mask
from medrecon.data.sampling import (
    check_noise_scan,
    check_samples,
    check_stored_mask,
    mask_from_zeros,
    masks_of_slices,
    noise_scan_warnings,
    rounding_warnings,
    sampling_difference,
)
from medrecon.data.scan import CartesianScan
from medrecon.formats.header import measured_columns
from medrecon.formats.mapped import backing_of
from medrecon.formats.stored import Stored

__all__ = ["cartesian_scan"]


def _what_to_do(difference: str, kspace: np.ndarray, mask: np.ndarray) -> str:
    """A difference of the sampling of slices, and what follows: every slice has its own mask where its zeros show it."""
    try:
        masks_of_slices(kspace, mask)
    except InputError:
        return difference
    return f"{difference.partition(';')[0]}; every slice is reconstructed with its own mask"


def _real_advice(array: np.ndarray) -> str:
    """Advice for real numbers in place of k-space."""
    if array.ndim > 2 and array.shape[-1] == 2 and array.dtype.kind == "f":
        return "if its last axis holds real and imaginary parts, store the complex numbers; an image is not raw data"
    return "an image or a sinogram is not raw data; give the complex samples"


def cartesian_scan(
    path: Path,
    kind: str,
    kspace: np.ndarray,
    mask: np.ndarray | None = None,
    stored: Stored = Stored(),  # noqa: B008
) -> CartesianScan:
    """Build a Cartesian scan after the checks common to all formats.

    Args:
        path: path of the file.
        kind: name of the file's format.
        kspace: complex ``(slices, coils, y, x)``, ``(coils, y, x)`` or ``(y, x)``.
        mask: sampling mask stored in the file, or ``None``.
        stored: other data of the file.

    Raises:
        InputError: if k-space is not complex, contains NaN or Inf or is all zero, or the mask does not fit.
    """
    backing, kspace = backing_of(kspace), _checked(path, kspace)
    kspace, new_warnings = _without_padding(path, kspace, stored.attributes)
    warnings = stored.warnings + new_warnings
    if kind == "fastMRI HDF5" and "padding_left" not in stored.attributes:
        kspace = _without_rounding(kspace, measured_columns(stored.header, kspace.shape[-1]))
    in_file = mask is not None
    if mask is None:
        mask = mask_from_zeros(kspace)
    else:
        mask, new_warnings = check_stored_mask(path, kspace, mask)
        warnings += new_warnings
        kspace = apply_mask(kspace, mask)
    warnings += rounding_warnings(path, kspace)
    difference = sampling_difference(kspace, mask)
    if difference:
        warnings += (f"{path}: {_what_to_do(difference, kspace, mask)}",)
    scan, new_warnings = check_noise_scan(
        stored.noise, kspace.shape[1], alive=np.any(kspace, axis=(0, 2, 3)), path=path
    )
    warnings += new_warnings
    if scan is not None:
        warnings += noise_scan_warnings(path, scan, estimate_noise_std(kspace, mask))
    return CartesianScan(
        path=path,
        format=kind,
        kspace=kspace,
        mask=mask,
        mask_in_file=in_file,
        noise_scan=scan,
        geometry=stored.geometry,
        header=stored.header,
        shots=stored.shots,
        attributes=stored.attributes,
        warnings=warnings,
        backing=backing,
    )


def _checked(path: Path, kspace: np.ndarray) -> np.ndarray:
    """Convert k-space to complex64 ``(slices, coils, y, x)``, after checking that it is finite and not all zero.

    Raises:
        InputError: if it is not.
    """
    if not np.iscomplexobj(kspace):
        raise InputError(f"{path}: k-space is {kspace.dtype} {kspace.shape}, not complex; {_real_advice(kspace)}")
    if kspace.ndim not in (2, 3, 4) or 0 in kspace.shape:
        raise InputError(
            f"{path}: k-space has shape {kspace.shape}; store (slices, coils, y, x), with one file per contrast or frame, or "
            "read the frames as one problem (medrecon recon --dynamic)"
        )
    while kspace.ndim < 4:
        kspace = kspace[None]
    return check_samples(kspace, str(path))


def _without_padding(
    path: Path, kspace: np.ndarray, attributes: Mapping[str, str | float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Zero the padding of fastMRI k-space: the columns before ``padding_left`` and from ``padding_right`` on.

    These may contain round-off. If they contain data, or do not fit the matrix, the attributes belong to other k-space.
    """
    if not {"padding_left", "padding_right"} <= set(attributes):
        return kspace, ()
    left, right = (attributes[f"padding_{side}"] for side in ("left", "right"))
    columns = np.arange(kspace.shape[-1])
    ignored = (f"{path}: padding_left {left} and padding_right {right} do not fit its k-space; they are ignored",)
    if isinstance(left, str) or isinstance(right, str) or not 0 <= left < right <= len(columns):
        return kspace, ignored
    inside = (columns >= left) & (columns < right)
    return (apply_mask(kspace, inside), ()) if _negligible(kspace, inside) else (kspace, ignored)


def _negligible(kspace: np.ndarray, inside: np.ndarray) -> bool:
    """Whether the columns outside contain only round-off compared with those inside."""
    padding = max(float(np.abs(coils[..., ~inside]).max(initial=0)) for coils in kspace)
    if not any(coils[..., inside].any() for coils in kspace):
        return False
    if padding == 0:
        return True
    magnitude = np.abs(kspace[..., inside])
    return padding <= 1e-3 * float(np.median(magnitude[magnitude > 0]))


def _without_rounding(kspace: np.ndarray, measured: tuple[int, int] | None) -> np.ndarray:
    """Zero k-space outside the measured columns ``(first, last + 1)`` if it contains only round-off there."""
    if measured is None:
        return kspace
    columns = np.arange(kspace.shape[-1])
    inside = (columns >= measured[0]) & (columns < measured[1])
    return apply_mask(kspace, inside) if _negligible(kspace, inside) else kspace
