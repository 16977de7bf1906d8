"""How noisy k-space is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from medrecon.data.passes import held_samples
from medrecon.data.scan import NonCartesianScan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "counted",
    "estimate_noise_std",
    "median_std",
    "noise_level",
    "noise_scan_std",
    "outer_noise_std",
    "outermost_std",
    "scan_fault",
]

LEAST = 16
"""Samples that each coil of a noise scan must have: with fewer, the level of one coil is off by more than 13 %."""
PEAK = 10.0
"""A slice holds signal where a coil's largest sample exceeds its median outermost one this often; noise alone reaches 5 times."""


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


def _single(level: float) -> float:
    """Rounded to single precision, in which batches carry numbers: every way to an image then has the same level."""
    return float(np.float32(level))


def _spread(scan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each coil of a noise scan ``(coils, ...)``, and which coils are constant (up to rounding)."""
    flat = scan.reshape(len(scan), -1).astype(np.complex128)
    mean = flat.mean(axis=1)
    variance = (np.abs(flat - mean[:, None]) ** 2).mean(axis=1)
    return variance, np.sqrt(variance) <= 1e-6 * np.abs(mean)


def scan_fault(scan: np.ndarray, coils: int, alive: np.ndarray | None = None) -> str | None:
    """What makes a noise scan unusable, as the end of a sentence that begins with "the noise scan"; ``None`` for a usable one.

    Args:
        scan: whatever was found where complex ``(coils, ...)`` belongs.
        coils: number of coils of the k-space.
        alive: coils of which the k-space holds samples, ``(coils,)``; these must have noise. Default: one of them must.
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
    """Standard deviation per real component of a noise scan ``(coils, ...)``, root mean square over the coils with noise."""
    variance, constant = _spread(scan)
    return _single(np.sqrt(variance[~constant].mean() / 2)) if not constant.all() else 0.0


def outermost_std(samples: Sequence[np.ndarray], peaks: Sequence[np.ndarray]) -> float:
    """Noise per real component from the outermost samples of every slice; 0 without any.

    Median absolute deviation (over 0.6745) of real and imaginary parts per coil, then the root mean square over the coils. Only
    slices with signal count, where there are any. Exact zeros were not measured and do not count, nor do coils without samples.

    Args:
        samples: of every slice, ``(coils, n)``.
        peaks: of every slice, each coil's largest magnitude of all samples, ``(coils,)``.
    """
    held = [[row[row != 0] for row in one] for one in samples]
    signal = [
        any(len(row) and top > PEAK * np.median(np.abs(row)) for row, top in zip(rows, peak, strict=True))
        for rows, peak in zip(held, peaks, strict=True)
    ]
    chosen = [rows for rows, kept in zip(held, signal, strict=True) if kept] or held
    coils = [np.concatenate(rows) for rows in zip(*chosen, strict=True)]
    stds = [median_std(np.abs(np.concatenate([np.real(row), np.imag(row)]))) for row in coils if len(row)]
    return _single(np.sqrt(np.mean(np.array(stds, float) ** 2))) if stds else 0.0


def estimate_noise_std(kspace: np.ndarray, mask: np.ndarray, share: float = 0.1) -> float:
    """A robust estimate of the noise from the outermost sampled k-space, per real component; see :func:`outermost_std`.

    Signal that reaches so far out makes the estimate too large, never too small. Zero-padded borders, empty slices and dead coils
    are passed over.

    Args:
        kspace: ``(slices, coils, y, x)``, zero where not sampled.
        mask: ``(y, x)`` or ``(x,)``, true where sampled.
        share: of the sampled positions.
    """
    shape = kspace.shape[-2:]
    filled = [one for one in kspace if one.any()]
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    measured = np.broadcast_to(mask, shape) & held_samples(kspace)
    if not measured.any():
        return 0.0
    radius = np.where(measured, np.hypot(y, x), -1.0)
    n = max(1, int(share * measured.sum()))
    far = radius >= np.sort(radius, axis=None)[-n]
    return outermost_std([one[:, far] for one in filled], [np.abs(one).max(axis=(1, 2)) for one in filled])


def noise_level(kspace: np.ndarray, mask: np.ndarray, scan: np.ndarray | None = None) -> tuple[float, str]:
    """The noise per real component and where it was read: a noise scan, else the outermost sampled k-space."""
    if scan is not None:
        return noise_scan_std(scan), "noise scan"
    return estimate_noise_std(kspace, mask), "outermost k-space"


def outer_noise_std(scan: NonCartesianScan) -> float:
    """Noise per real component, from the twentieth of the samples that lie farthest out.

    See :func:`outermost_std`: empty slices and dead coils are passed over.
    """
    filled = scan.samples.any(axis=(1, 2, 3))
    samples = scan.samples[filled]
    radius = np.linalg.norm(scan.trajectory[filled] / (np.array(scan.matrix) / 2), axis=-1)
    outer = radius >= np.quantile(radius, 0.95)
    peaks = [np.abs(one).max(axis=(1, 2)) for one in samples]
    return outermost_std([one[:, far] for one, far in zip(samples, outer, strict=True)], peaks)


def counted(lines: np.ndarray, photons: float, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals measured by a detector that counts ``photons`` per unattenuated ray, float32.

    ``-log(N / photons)`` with ``N = Poisson(photons exp(-line)) + electronic n``, at least one photon; as they are for
    ``photons = 0``.
    """
    if photons == 0:
        return lines.astype(np.float32)
    counts = rng.poisson(photons * np.exp(-lines.astype(np.float64))) + electronic * rng.standard_normal(lines.shape)
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)
