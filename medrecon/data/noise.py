"""Noise levels of k-space and noise scans; noise of counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from medrecon.data.passes import nonzero_positions
from medrecon.data.scan import NonCartesianScan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "counted",
    "estimate_noise_std",
    "median_std",
    "noise_level",
    "noise_of_images",
    "noise_scan_std",
    "outer_noise_std",
    "outermost_std",
    "scan_fault",
]

LEAST = 16
"""Smallest number of samples per coil of a noise scan: with fewer, the level of one coil is off by more than 13 %."""
PEAK = 10.0
"""A slice has signal if the largest sample of a coil exceeds this multiple of its median outermost one; noise reaches 5."""


@overload
def median_std(magnitudes: np.ndarray, gain: float = 1.0) -> np.floating: ...


@overload
def median_std(magnitudes: Tensor, gain: float = 1.0) -> Tensor: ...


def median_std(magnitudes: np.ndarray | Tensor, gain: float = 1.0) -> np.floating | Tensor:
    """Robust standard deviation of zero-mean Gaussian noise: the median of absolute values over 0.6745.

    Args:
        magnitudes: absolute values, not empty. If their number is even, the median of an array is the mean of the two middle
            values, and the median of a tensor the lower one.
        gain: factor by which the values were amplified, e.g. the square root of 6 for second differences.
    """
    median = np.median(magnitudes) if isinstance(magnitudes, np.ndarray) else magnitudes.median()
    return median / (0.6745 * gain)


def noise_of_images(images: Tensor, above: float | None = None) -> Tensor:
    """Standard deviation of white noise in images ``(B, C, *spatial)``, ``(B,)``: from a Laplacian, which is 0 on slopes.

    Second differences along every axis of three pixels or more: the median of their absolute value over pixels that are not
    exactly 0, again and again of those below 2.5 standard deviations, so that edges drop out. Rician noise of magnitudes is
    smaller in air, so that magnitudes need ``above``.

    Args:
        images: images ``(B, C, *spatial)``.
        above: pixels below this fraction of the 99.5th percentile do not count, unless fewer than 100 would be left.

    Reference: Immerkaer, "Fast noise variance estimation", CVIU 64 (1996), with the median of Donoho (1995).
    """
    axes = [axis for axis in range(2, images.ndim) if images.shape[axis] >= 3]
    inside, seen = images, images
    for axis in axes:
        inside, seen = inside.narrow(axis, 1, inside.shape[axis] - 2), seen.diff(n=2, dim=axis)
    out = images.new_zeros(len(images))
    for i, (size, pixels) in enumerate(zip(seen.abs(), inside, strict=True)):
        object_ = pixels != 0
        if above is not None:
            bright = pixels > above * pixels.flatten().quantile(0.995)
            object_ = bright if int(bright.sum()) >= 100 else object_
        size = size[object_]
        std = median_std(size) if size.numel() else size.new_zeros(())
        for _ in range(8):
            kept = size[size < 2.5 * std]
            if not kept.numel():
                break
            std = kept.median() / 0.66475  # of a half-normal law cut there
        out[i] = std / 6 ** (len(axes) / 2)
    return out


def _single(level: float) -> float:
    """Round to single precision, as in batches, so that every interface uses the same level."""
    return float(np.float32(level))


def _spread(scan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each coil of a noise scan ``(coils, ...)``, and which coils are constant (up to round-off)."""
    flat = scan.reshape(len(scan), -1).astype(np.complex128)
    mean = flat.mean(axis=1)
    variance = (np.abs(flat - mean[:, None]) ** 2).mean(axis=1)
    return variance, np.sqrt(variance) <= 1e-6 * np.abs(mean)


def scan_fault(scan: np.ndarray, coils: int, alive: np.ndarray | None = None) -> str | None:
    """Why a noise scan is unusable, as a predicate for the subject "the noise scan"; ``None`` if it is usable.

    Args:
        scan: an array of any type and shape; expected is complex ``(coils, ...)``.
        coils: number of coils of k-space.
        alive: which coils have samples in k-space, ``(coils,)``; these must have noise. ``None``: any one coil must.
    """
    if scan.dtype.kind != "c":
        return f"is {scan.dtype}, not complex"
    if scan.ndim < 2 or len(scan) != coils:
        return f"has shape {scan.shape}, but k-space has {coils} coil{'s' if coils > 1 else ''}"
    if scan[0].size < LEAST:
        return f"has only {scan[0].size} samples in each coil"
    if not np.isfinite(scan).all():
        return "holds NaN or Inf"
    constant = _spread(scan)[1]
    if constant.all():
        return "is constant"
    if alive is not None and (constant & alive).any():
        return f"is constant in coil {', '.join(map(str, np.flatnonzero(constant & alive)))}"
    return None


def noise_scan_std(scan: np.ndarray) -> float:
    """Standard deviation per real component of a noise scan ``(coils, ...)``: root mean square over the coils with noise."""
    variance, constant = _spread(scan)
    return _single(np.sqrt(variance[~constant].mean() / 2)) if not constant.all() else 0.0


def outermost_std(samples: Sequence[np.ndarray], peaks: Sequence[np.ndarray]) -> float:
    """Noise per real component from the outermost samples of every slice; 0 without samples.

    The median absolute deviation (over 0.6745) of real and imaginary parts per coil, then the root mean square over coils. If any
    slices have signal, only these count. Exact zeros were not measured and are ignored, and so are coils without samples.

    Args:
        samples: outermost samples of every slice, ``(coils, n)``.
        peaks: largest magnitude of all samples of every coil, for every slice, ``(coils,)``.
    """
    measured = [[row[row != 0] for row in one] for one in samples]
    signal = [
        any(len(row) and top > PEAK * np.median(np.abs(row)) for row, top in zip(rows, peak, strict=True))
        for rows, peak in zip(measured, peaks, strict=True)
    ]
    chosen = [rows for rows, has_signal in zip(measured, signal, strict=True) if has_signal] or measured
    coils = [np.concatenate(rows) for rows in zip(*chosen, strict=True)]
    stds = [median_std(np.abs(np.concatenate([np.real(row), np.imag(row)]))) for row in coils if len(row)]
    return _single(np.sqrt(np.mean(np.array(stds, float) ** 2))) if stds else 0.0


def estimate_noise_std(kspace: np.ndarray, mask: np.ndarray, fraction: float = 0.1) -> float:
    """Robust estimate of the noise per real component from the outermost sampled k-space; see :func:`outermost_std`.

    Signal in the outermost k-space makes the estimate too large, never too small. Zero-padded borders, empty slices and dead
    coils are ignored.

    Args:
        kspace: k-space ``(slices, coils, y, x)``, zero where not sampled.
        mask: sampling mask ``(y, x)`` or ``(x,)``, true where sampled.
        fraction: fraction of the sampled positions to use, the outermost ones.
    """
    shape = kspace.shape[-2:]
    filled = [one for one in kspace if one.any()]
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    measured = np.broadcast_to(mask, shape) & nonzero_positions(kspace)
    if not measured.any():
        return 0.0
    radius = np.where(measured, np.hypot(y, x), -1.0)
    n = max(1, int(fraction * measured.sum()))
    outermost = radius >= np.sort(radius, axis=None)[-n]
    return outermost_std([one[:, outermost] for one in filled], [np.abs(one).max(axis=(1, 2)) for one in filled])


def noise_level(kspace: np.ndarray, mask: np.ndarray, scan: np.ndarray | None = None) -> tuple[float, str]:
    """Noise per real component and its source: a noise scan, otherwise the outermost sampled k-space."""
    if scan is not None:
        return noise_scan_std(scan), "noise scan"
    return estimate_noise_std(kspace, mask), "outermost k-space"


def outer_noise_std(scan: NonCartesianScan) -> float:
    """Noise per real component of non-Cartesian k-space, from the outermost 5 % of the samples; see :func:`outermost_std`.

    Empty slices and dead coils are ignored.
    """
    filled = scan.samples.any(axis=(1, 2, 3))
    samples = scan.samples[filled]
    radius = np.linalg.norm(scan.trajectory[filled] / (np.array(scan.matrix) / 2), axis=-1)
    outer = radius >= np.quantile(radius, 0.95)
    peaks = [np.abs(one).max(axis=(1, 2)) for one in samples]
    return outermost_std([one[:, far] for one, far in zip(samples, outer, strict=True)], peaks)


def counted(sinogram: np.ndarray, photons: float, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals with the noise of counting, for ``photons`` per unattenuated ray, float32.

    ``-log(N / photons)`` with ``N = Poisson(photons exp(-sinogram)) + electronic n``, at least one photon; without noise for
    ``photons = 0``.
    """
    if photons == 0:
        return sinogram.astype(np.float32)
    counts = rng.poisson(photons * np.exp(-sinogram.astype(np.float64)))
    counts = counts + electronic * rng.standard_normal(sinogram.shape)
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)
