"""What k-space of every Cartesian format must satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.noise import estimate_noise_std
from medrecon.data.passes import masked
from medrecon.data.sampling import (
    noise_scan_warnings,
    rounding_warnings,
    sampled,
    sampling_differs,
    stored_mask,
    usable_samples,
    usable_scan,
)
from medrecon.data.scan import CartesianScan
from medrecon.formats.header import measured_columns
from medrecon.formats.mapped import backing_of
from medrecon.formats.stored import Stored

__all__ = ["cartesian_scan"]


def _real_advice(array: np.ndarray) -> str:
    """What to do with real numbers in place of k-space."""
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
    """A scan whose k-space has been checked as that of every format is.

    Args:
        path: of the file.
        kind: name of its format.
        kspace: complex ``(slices, coils, y, x)``, ``(coils, y, x)`` or ``(y, x)``.
        mask: of the file, or ``None``.
        stored: the rest.

    Raises:
        InputError: for what is no k-space, NaN, Inf, zeros alone, and masks that do not fit.
    """
    backing, kspace = backing_of(kspace), _checked(path, kspace)
    kspace, more = _without_padding(path, kspace, stored.attributes)
    warnings = stored.warnings + more
    if kind == "fastMRI HDF5" and "padding_left" not in stored.attributes:
        kspace = _without_rounding(kspace, measured_columns(stored.header, kspace.shape[-1]))
    in_file = mask is not None
    if mask is None:
        mask = sampled(kspace)
    else:
        mask, more = stored_mask(path, kspace, mask)
        warnings += more
        kspace = masked(kspace, mask)
    warnings += rounding_warnings(path, kspace)
    differs = sampling_differs(kspace, mask)
    if differs:
        warnings += (f"{path}: {differs}",)
    scan, more = usable_scan(stored.noise, kspace.shape[1], alive=np.any(kspace, axis=(0, 2, 3)), path=path)
    warnings += more
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
        attributes=stored.attributes,
        warnings=warnings,
        backing=backing,
    )


def _checked(path: Path, kspace: np.ndarray) -> np.ndarray:
    """Complex64 ``(slices, coils, y, x)``, finite and not all zero.

    Raises:
        InputError: if it is not.
    """
    if not np.iscomplexobj(kspace):
        raise InputError(f"{path}: k-space is {kspace.dtype} {kspace.shape}, not complex; {_real_advice(kspace)}")
    if kspace.ndim not in (2, 3, 4) or 0 in kspace.shape:
        raise InputError(
            f"{path}: k-space has shape {kspace.shape}; store (slices, coils, y, x), of several contrasts or frames each alone, "
            "or read the frames as one problem (medrecon recon --dynamic)"
        )
    while kspace.ndim < 4:
        kspace = kspace[None]
    return usable_samples(kspace, str(path))


def _without_padding(
    path: Path, kspace: np.ndarray, attributes: Mapping[str, str | float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """K-space whose padding is zero: fastMRI's columns before ``padding_left`` and from ``padding_right`` on.

    What these hold may be rounding. Where they hold data, or do not fit the matrix, the attributes are of other k-space.
    """
    if not {"padding_left", "padding_right"} <= set(attributes):
        return kspace, ()
    left, right = (attributes[f"padding_{side}"] for side in ("left", "right"))
    columns = np.arange(kspace.shape[-1])
    ignored = (f"{path}: padding_left {left} and padding_right {right} do not fit its k-space; they are not used",)
    if isinstance(left, str) or isinstance(right, str) or not 0 <= left < right <= len(columns):
        return kspace, ignored
    inside = (columns >= left) & (columns < right)
    return (masked(kspace, inside), ()) if _negligible(kspace, inside) else (kspace, ignored)


def _negligible(kspace: np.ndarray, inside: np.ndarray) -> bool:
    """Whether what columns hold outside is rounding beside what they hold inside."""
    padding = max(float(np.abs(one[..., ~inside]).max(initial=0)) for one in kspace)
    if not any(one[..., inside].any() for one in kspace):
        return False
    if padding == 0:
        return True
    held = np.abs(kspace[..., inside])
    return padding <= 1e-3 * float(np.median(held[held > 0]))


def _without_rounding(kspace: np.ndarray, measured: tuple[int, int] | None) -> np.ndarray:
    """K-space with zeros outside the columns ``first, last + 1`` that were measured, where it holds rounding there."""
    if measured is None:
        return kspace
    columns = np.arange(kspace.shape[-1])
    inside = (columns >= measured[0]) & (columns < measured[1])
    return masked(kspace, inside) if _negligible(kspace, inside) else kspace
