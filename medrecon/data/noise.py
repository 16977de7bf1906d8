"""How noisy k-space is."""

from __future__ import annotations

import numpy as np

__all__ = ["estimate_noise_std", "noise_level", "noise_scan_std"]


def noise_scan_std(scan: np.ndarray) -> float:
    """Standard deviation per real component of a noise scan ``(coils, ...)``, root mean square over the coils."""
    scan = scan.astype(np.complex128)
    return float(np.sqrt(np.mean(np.abs(scan - scan.mean(axis=tuple(range(1, scan.ndim)), keepdims=True)) ** 2) / 2))


def estimate_noise_std(kspace: np.ndarray, mask: np.ndarray, share: float = 0.1) -> float:
    """A robust estimate of the noise from the outermost sampled k-space, per real component.

    Median absolute deviation (over 0.6745) of the real and imaginary parts of the ``share`` of samples that is
    farthest from the centre, per coil, then the root mean square over the coils. Signal that reaches so far out makes
    the estimate too large, never too small; zero-padded borders are passed over.

    Args:
        kspace: ``(slices, coils, y, x)``, zero where not sampled.
        mask: ``(y, x)`` or ``(x,)``, true where sampled.
        share: of the sampled positions.
    """
    shape = kspace.shape[-2:]
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    measured = np.broadcast_to(mask, shape) & kspace.any(axis=(0, 1))
    radius = np.where(measured, np.hypot(y, x), -1.0)
    n = max(1, int(share * (radius >= 0).sum()))
    far = radius >= np.sort(radius, axis=None)[-n]
    samples = np.moveaxis(kspace[..., far], 1, 0).reshape(kspace.shape[1], -1)
    parts = np.concatenate([np.real(samples), np.imag(samples)], axis=1)
    return float(np.sqrt(np.mean((np.median(np.abs(parts), axis=1).astype(np.float64) / 0.6745) ** 2)))


def noise_level(kspace: np.ndarray, mask: np.ndarray, scan: np.ndarray | None = None) -> tuple[float, str]:
    """The noise per real component and where it was read: a noise scan, else the outermost sampled k-space."""
    if scan is not None:
        return noise_scan_std(scan), "noise scan"
    return estimate_noise_std(kspace, mask), "outermost k-space"
