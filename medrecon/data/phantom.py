"""Simulated coil maps and noisy k-space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medrecon.data.coils import to_kspace

__all__ = ["loop_coils", "simulate_kspace"]


def loop_coils(shape: Sequence[int], n_coils: int = 8, distance: float = 1.25) -> np.ndarray:
    """Sensitivities of small loops on a circle around the image, ``(coils, y, x)`` complex64, with sum |S|^2 = 1.

    The magnitude falls with the cube of the distance, softened by the size of the loop. The phase is the angle of the direction
    from the coil to the point.

    Args:
        shape: shape of the image, ``(y, x)``.
        n_coils: number of loops.
        distance: radius of the circle, in half fields of view.
    """
    y, x = np.meshgrid(*[2 * (np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    angles = 2 * np.pi * (np.arange(n_coils) + 0.5) / n_coils
    dy = y - distance * np.sin(angles)[:, None, None]
    dx = x - distance * np.cos(angles)[:, None, None]
    maps = (dy**2 + dx**2 + 0.25) ** -1.5 * np.exp(1j * np.arctan2(dy, dx))
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


def simulate_kspace(image: np.ndarray, maps: np.ndarray, noise_std: float, rng: np.random.Generator) -> np.ndarray:
    """Fully sampled centred k-space ``(coils, y, x)`` complex64 with noise of ``noise_std`` per real component."""
    kspace = to_kspace(maps * image)
    noise = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    return (kspace + noise_std * noise).astype(np.complex64)
