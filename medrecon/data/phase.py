"""Smooth random phase, to turn magnitude images into complex training images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

__all__ = ["smooth_phase"]


def smooth_phase(
    shape: Sequence[int], rng: np.random.RandomState, linear: float = 1.5, quadratic: float = 1.0, pixels: float = 128.0
) -> np.ndarray:
    """A random second-order polynomial phase in rad, ``shape``, float32.

    The constant term is uniform on the circle. Coordinates are in units of ``pixels`` from the centre, so the phase varies as
    fast in a crop as in the whole image.

    Args:
        shape: spatial shape.
        rng: random generator.
        linear: standard deviation of the first-order coefficients (rad per ``pixels``).
        quadratic: standard deviation of the second-order coefficients (rad per ``pixels`` squared).
        pixels: half the usual width of an image.
    """
    axes = np.meshgrid(*[(np.arange(n) - n // 2) / pixels for n in shape], indexing="ij", sparse=True)
    phase = np.full(shape, rng.uniform(-np.pi, np.pi))
    for axis in axes:
        phase += linear * rng.standard_normal() * axis
    for a, b in combinations_with_replacement(axes, 2):
        phase += quadratic * rng.standard_normal() * a * b
    return phase.astype(np.float32)
