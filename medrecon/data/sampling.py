"""Checks of k-space samples, sampling masks and noise scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.masks import bounding_box
from medrecon.data.noise import noise_scan_std, scan_fault
from medrecon.data.passes import largest_part, nonzero_positions

__all__ = [
    "SCALE_LIMITS",
    "check_mask",
    "check_noise_scan",
    "check_samples",
    "check_stored_mask",
    "mask_from_zeros",
    "mask_of_slices",
    "masks_of_slices",
    "noise_scan_warnings",
    "one_sided_warnings",
    "rounding_warnings",
    "sampling_difference",
    "sampling_mask",
    "undersampled",
]


def mask_from_zeros(kspace: np.ndarray) -> np.ndarray:
    """Sampling mask of k-space ``(..., y, x)``, inferred from zeros: ``(x,)`` if all rows are equal, otherwise ``(y, x)``."""
    return _reduced(nonzero_positions(kspace))


def _reduced(mask: np.ndarray) -> np.ndarray:
    """A mask ``(y, x)`` as ``(x,)`` if all its rows are equal."""
    return mask[0] if mask.ndim == 2 and (mask == mask[0]).all() else mask


def check_mask(mask: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """Convert a mask to bool ``(x,)`` or ``(y, x)``; ``(y, 1)`` means whole rows, other axes of length 1 are dropped.

    Masks of several slices or coils, ``(..., y, x)``, must be equal.

    Raises:
        InputError: if values are not true and false (or 1 and 0), the shape does not match ``(y, x)``, or nothing is sampled.
    """
    flat = np.asarray(mask)
    if flat.dtype.kind not in "biufc":
        raise InputError(
            f"{name}: the mask is {flat.dtype}, not numbers; give 1 where k-space was measured and 0 elsewhere"
        )
    if not np.isin(flat, (0, 1)).all():
        odd = flat[~np.isin(flat, (0, 1))].flat[0]
        raise InputError(f"{name}: the mask contains {odd:.4g}; give 1 where k-space was measured and 0 elsewhere")
    while flat.ndim > 3 and flat.shape[-1] == 1:  # fastMRI's (1, 1, x, 1)
        flat = flat[..., 0]
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim > 2 and flat.shape[-2:] in (shape, (1, shape[1])):
        if (flat != flat[(0,) * (flat.ndim - 2)]).any():
            raise InputError(
                f"{name}: the mask {np.shape(mask)} differs between slices or coils; reconstruct slices with the same mask "
                f"together, and give their mask as ({shape[1]},) or {shape}"
            )
        flat = flat[(0,) * (flat.ndim - 2)]
    if flat.shape == (shape[0], 1):  # whole rows
        flat = np.broadcast_to(flat, shape)
    flat = flat[0] if flat.shape == (1, shape[1]) else flat
    if flat.shape not in (shape[1:], shape):
        raise InputError(
            f"{name}: the mask has shape {np.shape(mask)}, but k-space is {shape[0]} x {shape[1]}; "
            f"give ({shape[1]},) for columns or {shape} for points"
        )
    flat = flat != 0
    if not flat.any():
        raise InputError(f"{name}: the mask is 0 everywhere; give one that is 1 where k-space was measured")
    return _reduced(flat)


def _whole_numbers(kspace: np.ndarray) -> bool:
    """Whether all samples are whole numbers, because k-space was rounded."""
    return all(
        np.abs(part).max() < 2**22 and (part == np.rint(part)).all() for part in (np.real(kspace), np.imag(kspace))
    )


def _rounded_to_zero(claimed: np.ndarray, nonzero: np.ndarray, kspace: np.ndarray) -> bool:
    """Whether zeros of whole-number k-space inside a mask ``(y, x)`` are weak samples that were rounded to 0.

    True if at least as many others were rounded to 1, or if nearly all samples as far out as most of the zeros were: signal is
    weaker there.
    """
    if not _whole_numbers(kspace):
        return False
    magnitude = np.abs(kspace).reshape(-1, *claimed.shape).max(axis=0)
    zero, one = claimed & ~nonzero, claimed & nonzero & (magnitude < 1.5)
    if one.sum() >= zero.sum():
        return True
    radius = np.hypot(*np.meshgrid(*[(np.arange(n) - n // 2) / n for n in claimed.shape], indexing="ij"))
    far = claimed & nonzero & (radius >= np.median(radius[zero]))
    return bool(far.any() and (one & far).sum() >= 0.9 * far.sum())


def _missing(claimed: np.ndarray, nonzero: np.ndarray, kspace: np.ndarray) -> int:
    """The number of samples of a mask ``(y, x)`` that are zero in k-space; 0 if they are only a few scattered zeros.

    Zeros count as scattered if they fill no line of the mask and are at most 1 % of the samples, or if they are weak samples of
    whole-number data, see :func:`_rounded_to_zero`.
    """
    missing = claimed & ~nonzero
    n = int(missing.sum())
    if not n:
        return 0
    for axis in (0, 1):
        line = claimed.sum(axis=axis)
        if ((missing.sum(axis=axis) == line) & (line >= 8)).any():
            return n
    if n <= 0.01 * claimed.sum():
        return 0
    return 0 if _rounded_to_zero(claimed, nonzero, kspace) else n


def _float_advice(kspace: np.ndarray) -> str:
    """Further advice for whole-number data, in which zeros may be weak samples."""
    return ", or, if weak samples were rounded to 0, export floating-point data" if _whole_numbers(kspace) else ""


def sampling_difference(kspace: np.ndarray, mask: np.ndarray) -> str | None:
    """Describe a slice or coil of ``(slices, coils, y, x)`` that lacks samples which others have, and what to do; or ``None``.

    Its zeros would count as data. Empty slices and dead coils are ignored, because they have no image.
    """
    claimed = np.broadcast_to(mask, kspace.shape[-2:])
    for number, one in enumerate(kspace):
        nonzero = one != 0
        if not nonzero.any() or (nonzero | ~claimed).all():
            continue
        union = nonzero.any(axis=0)
        n = _missing(claimed, union, one)
        if n:
            return (
                f"slice {number} lacks {n} of the {claimed.sum()} samples that other slices have; reconstruct slices with the "
                f"same sampling separately (medrecon recon --slices A:B){_float_advice(one)}"
            )
        for coil, nonzero_in_coil in enumerate(nonzero):
            n = _missing(claimed & union, nonzero_in_coil, one[coil]) if nonzero_in_coil.any() else 0
            if n:
                return (
                    f"coil {coil} of slice {number} lacks {n} of the {claimed.sum()} samples that other coils have; export the "
                    f"data without that coil{_float_advice(one)}"
                )
    return None


def undersampled(kspace: np.ndarray, mask: np.ndarray) -> bool:
    """Whether ``(slices, coils, y, x)`` has gaps in any slice; zero padding and a few scattered zeros do not count."""
    nonzero = mask & nonzero_positions(kspace)
    return bool(_missing(bounding_box(nonzero), nonzero, kspace)) or sampling_difference(kspace, nonzero) is not None


def one_sided_warnings(kspace: np.ndarray, mask: np.ndarray, name: str) -> tuple[str, ...]:
    """A warning if reference k-space extends farther on one side of its centre than on the other.

    Fully sampled and zero-padded k-space extends equally far on both sides, except for one sample. A difference of 5 % is
    allowed, because the centres of real scans are off by a few lines.
    """
    nonzero = np.broadcast_to(mask, kspace.shape[-2:]) & nonzero_positions(kspace)
    texts = []
    for axis, what in ((1, "rows"), (0, "columns")):
        at = np.flatnonzero(nonzero.any(axis=axis))
        if not len(at):
            continue
        middle = nonzero.shape[1 - axis] // 2
        before, after = sorted((max(middle - int(at[0]), 0), max(int(at[-1]) - middle, 0)))
        if before + 1 < 0.95 * after:
            sides = f"{before} {what} on one side of the centre, {after} on the other"
            texts.append(
                f"{name}: is partial Fourier or a partial echo ({sides}), so its image is blurred and not a full "
                "reference; give k-space that was sampled on both sides"
            )
    return tuple(texts)


def mask_of_slices(kspace: np.ndarray, mask: np.ndarray, name: str = "k-space") -> np.ndarray:
    """The mask of selected slices, which may have the same sampling but a different one than the rest of the file.

    Raises:
        InputError: if their sampling differs.
    """
    if sampling_difference(kspace, mask) is None:
        return mask
    mask = _reduced(mask & nonzero_positions(kspace))
    differs = sampling_difference(kspace, mask)
    if differs:
        raise InputError(f"{name}: {differs}")
    return mask


def masks_of_slices(kspace: np.ndarray, mask: np.ndarray, name: str = "k-space") -> np.ndarray:
    """The mask of selected slices, see :func:`mask_of_slices`; if their sampling differs, a mask per slice, ``(slices, y, x)``.

    A slice has a mask of its own only where its zeros can mean nothing else: its coils agree, whole columns of a column mask are
    missing, and the data are not whole numbers, whose weak samples may have been rounded to 0.

    Args:
        kspace: k-space ``(slices, coils, y, x)``.
        mask: positions that were measured in some slice, ``(x,)`` or ``(y, x)``.
        name: name of the k-space, for errors.

    Raises:
        InputError: if the sampling differs and cannot be seen from the zeros.
    """
    try:
        return mask_of_slices(kspace, mask, name)
    except InputError:
        masks = np.stack([_mask_of_slice(one, mask) for one in kspace])
        for one, its in zip(kspace, masks, strict=True):
            if one.any() and (_whole_numbers(one) or sampling_difference(one[None], its) is not None):
                raise
        return masks


def _mask_of_slice(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of ``mask`` that one slice ``(coils, y, x)`` has samples in, ``(y, x)``; all of it for an empty slice."""
    claimed, nonzero = np.broadcast_to(mask, kspace.shape[-2:]), nonzero_positions(kspace[None])
    if not nonzero.any():
        return claimed
    if mask.ndim == 1:  # a column counts if any of its samples was measured, and is checked as a whole
        return claimed & (nonzero & claimed).any(axis=0)
    return claimed & nonzero


def noise_scan_warnings(path: Path, scan: np.ndarray, outermost: float) -> tuple[str, ...]:
    """A warning if the noise scan is much stronger than the outermost k-space, which is an upper bound of the noise."""
    std = noise_scan_std(scan)
    if std <= 3 * outermost:
        return ()
    return (
        f"{path}: the noise scan has a standard deviation of {std:.3g}, the outermost k-space of {outermost:.3g}; if they differ "
        f"in scale, give the noise level of k-space, {outermost:.3g} (medrecon recon --noise-std)",
    )


def sampling_mask(
    kspace: np.ndarray,
    mask: np.ndarray | None = None,
    name: str = "k-space",
    mask_name: str | None = None,
    same_sampling: bool = True,
) -> np.ndarray:
    """The positions of measured samples, ``(x,)`` or ``(y, x)``: a mask checked against k-space, or all nonzero samples.

    A mask may exclude measured samples. It may include zero padding, which is removed. If it included more, zeros would count as
    data.

    Args:
        kspace: k-space ``(slices, coils, y, x)``.
        mask: sampling mask, or ``None``: infer it from zeros.
        name: name of the k-space, for errors.
        mask_name: name of the mask, for errors; ``None``: the name of the k-space.
        same_sampling: whether all slices and coils must have the same samples.

    Raises:
        InputError: for a mask that :func:`check_mask` refuses or that includes samples which are zero, and for slices or coils
            with different sampling.
    """
    if mask is None:
        checked = mask_from_zeros(kspace)
    else:
        mask_name = mask_name or name
        nonzero = nonzero_positions(kspace)
        checked = check_mask(mask, kspace.shape[2:], mask_name)
        if not (nonzero & checked).any():
            raise InputError(f"{mask_name}: the mask selects only zeros of {name}; give the mask it was sampled with")
        n = _missing(bounding_box(nonzero) & checked, nonzero, kspace)
        if n:
            raise InputError(
                f"{mask_name}: the mask has {n} samples that are zero in {name}; give the mask it was sampled with"
                f"{_float_advice(kspace)}"
            )
        checked = _reduced(nonzero & checked)
    differs = sampling_difference(kspace, checked) if same_sampling else None
    if differs:
        raise InputError(f"{name}: {differs}")
    return checked


def check_noise_scan(
    scan: object, coils: int, alive: np.ndarray, path: Path
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """A noise scan ``(coils, n)`` from a file, or ``None`` and a warning that explains why it cannot be used."""
    if scan is None:
        return None, ()
    array = np.asarray(scan)
    array = array[None] if coils == 1 and array.ndim == 1 else array
    fault = scan_fault(array, coils, alive)
    if fault is None:
        return array, ()
    return None, (
        f"{path}: the noise scan {fault}; it is not used, and the noise is estimated from the outermost k-space",
    )


SCALE_LIMITS = 1e-30, 1e35
"""Limits of the largest sample, so that samples a million times smaller, and images, fit single precision."""


def check_samples(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples of k-space as complex64 in C order, after checks.

    Raises:
        InputError: if samples are not finite, are all zero, or do not fit single precision.
    """
    largest = largest_part(samples)
    if not np.isfinite(largest):
        raise InputError(f"{name}: k-space holds NaN or Inf; export the data again")
    if largest == 0:
        raise InputError(f"{name}: k-space is all zeros; export the data again")
    if not SCALE_LIMITS[0] <= largest <= SCALE_LIMITS[1]:
        raise InputError(
            f"{name}: the largest sample of k-space is {largest:.1e}, too small or too large for images in single precision "
            f"(allowed: {SCALE_LIMITS[0]:g} to {SCALE_LIMITS[1]:g}); scale the data to a maximum of about 1"
        )
    return np.ascontiguousarray(samples, dtype=np.complex64)


def rounding_warnings(path: Path, kspace: np.ndarray) -> tuple[str, ...]:
    """A warning if many samples are round-off of zeros, which a Fourier transform and its inverse leave."""
    magnitude = np.zeros(kspace.shape[-2:])
    for one in kspace:
        magnitude = np.maximum(magnitude, np.abs(one).max(axis=0))
    weak = (magnitude > 0) & (magnitude < 3e-8 * magnitude.max())
    n = int(weak.sum())
    if n <= 0.01 * (magnitude > 0).sum():
        return ()
    return (
        f"{path}: {n} of {int((magnitude > 0).sum())} samples are below 3e-8 of the largest, which is round-off; set samples "
        "that were not measured to exactly 0, or give the mask",
    )


def check_stored_mask(path: Path, kspace: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask of a file without zero samples, and a warning if zeros other than padding were marked as measured."""
    nonzero = nonzero_positions(kspace)
    checked = check_mask(mask, kspace.shape[2:], str(path))
    if not (nonzero & checked).any():
        raise InputError(f"{path}: its mask selects only zeros; correct the mask, or leave it out of the file")
    n = _missing(bounding_box(nonzero) & checked, nonzero, kspace)
    warning = f"{path}: {n} samples in the mask are zero; they count as not measured"
    return _reduced(nonzero & checked), (warning,) if n else ()
