"""Which samples of k-space were measured, and whether they can be used: checks on arrays, masks and noise scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.masks import bounding_box
from medrecon.data.noise import noise_scan_std, scan_fault
from medrecon.data.passes import held_samples, largest_part

__all__ = [
    "SCALES",
    "check_mask",
    "common_mask",
    "loud_scan",
    "one_sided",
    "rounding",
    "sampled",
    "sampling_mask",
    "stored_mask",
    "undersampled",
    "unlike",
    "usable_samples",
    "usable_scan",
]


def sampled(kspace: np.ndarray) -> np.ndarray:
    """The mask that zeros show, of ``(..., y, x)``: ``(x,)`` where all rows are alike, else ``(y, x)``."""
    return _reduced(held_samples(kspace))


def _reduced(mask: np.ndarray) -> np.ndarray:
    """``(x,)`` where all rows of ``(y, x)`` are alike."""
    return mask[0] if mask.ndim == 2 and (mask == mask[0]).all() else mask


def check_mask(mask: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """Bring a mask to bool ``(x,)`` or ``(y, x)``; ``(y, 1)`` means whole rows, other axes of length 1 mean nothing.

    Masks of slices and coils in front, ``(..., y, x)``, must be alike.

    Raises:
        InputError: if it is not of true and false (or 1 and 0), does not fit ``shape`` ``(y, x)`` or samples nothing.
    """
    flat = np.asarray(mask)
    if flat.dtype.kind not in "biufc":
        raise InputError(f"{name}: the mask is {flat.dtype}, not numbers; give 1 where k-space was measured, else 0")
    if not np.isin(flat, (0, 1)).all():
        odd = flat[~np.isin(flat, (0, 1))].flat[0]
        raise InputError(f"{name}: the mask holds {odd:.4g}; give 1 where k-space was measured, else 0")
    while flat.ndim > 3 and flat.shape[-1] == 1:  # fastMRI's (1, 1, x, 1)
        flat = flat[..., 0]
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim > 2 and flat.shape[-2:] in (shape, (1, shape[1])):
        if (flat != flat[(0,) * (flat.ndim - 2)]).any():
            raise InputError(
                f"{name}: the mask {np.shape(mask)} differs between slices or coils; reconstruct those with one mask together, "
                f"and give that mask as ({shape[1]},) or {shape}"
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
    """Whether k-space was rounded to whole numbers."""
    return all(
        np.abs(part).max() < 2**22 and (part == np.rint(part)).all() for part in (np.real(kspace), np.imag(kspace))
    )


def _quiet(claimed: np.ndarray, held: np.ndarray, kspace: np.ndarray) -> bool:
    """Whether samples ``(y, x)`` that a mask has and whole-number k-space has not were rounded to 0.

    Either as many others were rounded to 1, or of those as far out as most of the zeros nearly all: noise is weaker there.
    """
    if not _whole_numbers(kspace):
        return False
    size = np.abs(kspace).reshape(-1, *claimed.shape).max(axis=0)
    zero, one = claimed & ~held, claimed & held & (size < 1.5)
    if one.sum() >= zero.sum():
        return True
    radius = np.hypot(*np.meshgrid(*[(np.arange(n) - n // 2) / n for n in claimed.shape], indexing="ij"))
    far = claimed & held & (radius >= np.median(radius[zero]))
    return bool(far.any() and (one & far).sum() >= 0.9 * far.sum())


def _absent(claimed: np.ndarray, held: np.ndarray, kspace: np.ndarray) -> int:
    """How many samples of a mask ``(y, x)`` k-space does not hold; 0 where these are but a few scattered zeros.

    Scattered are at most 1 % of the samples that fill no line of the mask, and weak samples of whole numbers, see :func:`_quiet`.
    """
    absent = claimed & ~held
    n = int(absent.sum())
    if not n:
        return 0
    for axis in (0, 1):
        line = claimed.sum(axis=axis)
        if ((absent.sum(axis=axis) == line) & (line >= 8)).any():
            return n
    if n <= 0.01 * claimed.sum():
        return 0
    return 0 if _quiet(claimed, held, kspace) else n


def _or_floats(kspace: np.ndarray) -> str:
    """More advice on zeros in whole-number data, which may be weak samples."""
    return ", or, if weak samples were rounded to 0, export floating-point data" if _whole_numbers(kspace) else ""


def unlike(kspace: np.ndarray, mask: np.ndarray) -> str | None:
    """Which slice or coil of ``(slices, coils, y, x)`` lacks samples of the mask that others hold, and what to do; or ``None``.

    Its zeros would count as data. Empty slices and dead coils have no image, so nothing is wrong with theirs.
    """
    claimed = np.broadcast_to(mask, kspace.shape[-2:])
    for number, one in enumerate(kspace):
        held = one != 0
        if not held.any() or (held | ~claimed).all():
            continue
        union = held.any(axis=0)
        n = _absent(claimed, union, one)
        if n:
            return (
                f"slice {number} lacks {n} of the {claimed.sum()} samples that other slices hold; reconstruct slices that were "
                f"sampled alike by themselves (medrecon recon --slices A:B){_or_floats(one)}"
            )
        for coil, own in enumerate(held):
            n = _absent(claimed & union, own, one[coil]) if own.any() else 0
            if n:
                return (
                    f"coil {coil} of slice {number} lacks {n} of the {claimed.sum()} samples that other coils hold; export the "
                    f"data without that coil{_or_floats(one)}"
                )
    return None


def undersampled(kspace: np.ndarray, mask: np.ndarray) -> bool:
    """Whether ``(slices, coils, y, x)`` has gaps, in all slices or in some; zero padding and a few scattered zeros are none."""
    held = mask & held_samples(kspace)
    return bool(_absent(bounding_box(held), held, kspace)) or unlike(kspace, held) is not None


def one_sided(kspace: np.ndarray, mask: np.ndarray, name: str) -> tuple[str, ...]:
    """A warning where k-space that shall be a reference was sampled farther on one side of its centre than on the other.

    Fully sampled and zero-padded k-space reaches equally far on both sides, but for one sample. 5 % are allowed, since centres of
    real scans are off by a few lines.
    """
    held = np.broadcast_to(mask, kspace.shape[-2:]) & held_samples(kspace)
    out = []
    for axis, what in ((1, "rows"), (0, "columns")):
        at = np.flatnonzero(held.any(axis=axis))
        if not len(at):
            continue
        middle = held.shape[1 - axis] // 2
        before, after = sorted((max(middle - int(at[0]), 0), max(int(at[-1]) - middle, 0)))
        if before + 1 < 0.95 * after:
            sides = f"{before} {what} on one side of the centre, {after} on the other"
            out.append(
                f"{name}: is partial Fourier or a partial echo ({sides}), so its image is blurred and not a full "
                "reference; take k-space that was sampled on both sides"
            )
    return tuple(out)


def common_mask(kspace: np.ndarray, mask: np.ndarray, name: str = "k-space") -> np.ndarray:
    """The mask of some of the slices: their own where they were sampled alike, but otherwise than the rest of the file.

    Raises:
        InputError: if they were not.
    """
    if unlike(kspace, mask) is None:
        return mask
    mask = _reduced(mask & held_samples(kspace))
    differs = unlike(kspace, mask)
    if differs:
        raise InputError(f"{name}: {differs}")
    return mask


def loud_scan(path: Path, scan: np.ndarray, outermost: float) -> tuple[str, ...]:
    """A warning where a noise scan is much louder than the outermost k-space, whose estimate is at least the noise."""
    std = noise_scan_std(scan)
    if std <= 3 * outermost:
        return ()
    return (
        f"{path}: the noise scan has a standard deviation of {std:.3g}, the outermost k-space of {outermost:.3g}; if they differ "
        f"in scale, give the noise level of k-space, {outermost:.3g} (medrecon recon --noise-std)",
    )


def sampling_mask(
    kspace: np.ndarray, mask: np.ndarray | None = None, name: str = "k-space", of: str | None = None, alike: bool = True
) -> np.ndarray:
    """Where k-space counts as measured, ``(x,)`` or ``(y, x)``: a mask that is checked against it, or what is not zero.

    A mask may leave out what was measured. It may cover zero padding, which does not count. Where it claims more, zeros would
    count as data.

    Args:
        kspace: ``(slices, coils, y, x)``.
        mask: of the sampling, or ``None``.
        name: of the k-space.
        of: name of the mask; default: that of the k-space.
        alike: whether all slices and coils must hold the same samples.

    Raises:
        InputError: for a mask that :func:`check_mask` refuses or that claims samples which are zero, and for slices or coils that
            were not sampled alike.
    """
    if mask is None:
        checked = sampled(kspace)
    else:
        of = of or name
        held = held_samples(kspace)
        checked = check_mask(mask, kspace.shape[2:], of)
        if not (held & checked).any():
            raise InputError(f"{of}: the mask selects only zeros of {name}; give the mask it was sampled with")
        n = _absent(bounding_box(held) & checked, held, kspace)
        if n:
            raise InputError(
                f"{of}: the mask has {n} samples that are zero in {name}; give the mask it was sampled with{_or_floats(kspace)}"
            )
        checked = _reduced(held & checked)
    differs = unlike(kspace, checked) if alike else None
    if differs:
        raise InputError(f"{name}: {differs}")
    return checked


def usable_scan(scan: object, coils: int, alive: np.ndarray, path: Path) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """A noise scan ``(coils, n)`` found in a file, or ``None`` and the warning that says why it cannot be used."""
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


SCALES = 1e-30, 1e35
"""The largest sample must lie between these, so that samples a million times smaller, and images, fit single precision."""


def usable_samples(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples of k-space as complex64 in C order: finite, not all zero, and of numbers that single precision holds.

    Raises:
        InputError: naming the data, for any others.
    """
    size = largest_part(samples)
    if not np.isfinite(size):
        raise InputError(f"{name}: k-space holds NaN or Inf; export the data again")
    if size == 0:
        raise InputError(f"{name}: k-space is all zeros; export the data again")
    if not SCALES[0] <= size <= SCALES[1]:
        raise InputError(
            f"{name}: the largest sample of k-space is {size:.1e}, which images in single precision cannot hold "
            f"(at least {SCALES[0]:g} and at most {SCALES[1]:g} can be); scale the data to a maximum of about 1"
        )
    return np.ascontiguousarray(samples, dtype=np.complex64)


def rounding(path: Path, kspace: np.ndarray) -> tuple[str, ...]:
    """A warning where samples are so weak that they are rounding of what was zero, as a Fourier transform and back leaves it."""
    size = np.zeros(kspace.shape[-2:])
    for one in kspace:
        size = np.maximum(size, np.abs(one).max(axis=0))
    weak = (size > 0) & (size < 3e-8 * size.max())
    n = int(weak.sum())
    if n <= 0.01 * (size > 0).sum():
        return ()
    return (
        f"{path}: {n} of {int((size > 0).sum())} samples are below 3e-8 of the largest, which is rounding; set what was not "
        "measured to exactly 0, or give the mask",
    )


def stored_mask(path: Path, kspace: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The samples of a file's own mask that its k-space holds, and a warning where it claims more than these and padding."""
    held = held_samples(kspace)
    checked = check_mask(mask, kspace.shape[2:], str(path))
    if not (held & checked).any():
        raise InputError(f"{path}: its mask selects only zeros; correct the mask, or leave it out of the file")
    n = _absent(bounding_box(held) & checked, held, kspace)
    warning = f"{path}: {n} samples that are marked as measured are zero; they count as not measured"
    return _reduced(held & checked), (warning,) if n else ()
