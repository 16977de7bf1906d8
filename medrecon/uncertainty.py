"""Maps of posterior samples: their spread, their quantiles, and what the data did not measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAPS", "Uncertainty", "map_names", "pixel_statistics"]

MAPS: Mapping[str, str] = {
    "std": "standard deviation of the posterior",
    "spread": "standard deviation of the samples, not calibrated",
    "p05": "5 % quantile",
    "p95": "95 % quantile",
    "null": "part of the mean that was not measured",
    "null_spread": "standard deviation of the part that was not measured",
    "flags": "1 where the samples disagree on what was not measured",
}
"""Maps by the ending of their name in files; a run has either ``std`` or ``spread``."""


def map_names(calibrated: bool) -> tuple[str, ...]:
    """Names of the maps of a run with several samples, in the order of :data:`MAPS`.

    Args:
        calibrated: whether the spread of the samples is that of the posterior, so that it may be called an uncertainty.
    """
    return tuple(name for name in MAPS if name != ("spread" if calibrated else "std"))


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Maps of several samples, ``(slices, y, x)`` or ``(frames, slices, y, x)`` like the image, in its unit.

    Args:
        spread: standard deviation of the samples (of magnitudes or HU), float32.
        p05: 5 % quantile, float32.
        p95: 95 % quantile, float32.
        null: magnitude of the part of the mean that was not measured, ``(I - A^+ A) x``, float32.
        null_spread: standard deviation of that part (root of the sum over real and imaginary part), float32.
        flags: uint8, 1 where ``null_spread`` is large in noise units.
        calibrated: whether ``spread`` is the standard deviation of the posterior.
    """

    spread: np.ndarray
    p05: np.ndarray
    p95: np.ndarray
    null: np.ndarray
    null_spread: np.ndarray
    flags: np.ndarray
    calibrated: bool = False

    def maps(self) -> dict[str, np.ndarray]:
        """Maps by name, in the order of :func:`map_names`."""
        return {
            name: self.spread if name in ("std", "spread") else getattr(self, name)
            for name in map_names(self.calibrated)
        }


def pixel_statistics(images: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, 5 % and 95 % quantile of every pixel of samples ``(n, ...)``.

    The standard deviation has the divisor ``n - 1`` (with weights ``1 - sum w^2``). Quantiles interpolate order statistics at
    ``p (n + 1)``, so that a value of the samples' own law lies outside with probability 0.1; below 19 samples they are the
    smallest and the largest.

    Args:
        images: samples ``(n, ...)``.
        weights: weights of the samples, which sum to 1, ``(n, ...)`` or broadcastable; ``None``: equal.
    """
    raise NotImplementedError
