"""Random numbers with one stream per batch item, and ladders of noise levels as plain tensors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Noise", "from_betas", "karras", "time_travel", "travelled", "truncate_ladder"]


class Noise:
    """Standard normal numbers, one stream per batch item, drawn on the CPU.

    The same seed gives the same numbers whatever the batch, the device and the global generator.

    Args:
        seeds: one seed per batch item; with particles, one per group of particles.
        n_particles: particles of every group. The batch then has ``len(seeds) * n_particles`` items, the particles of a group
            side by side, each with a stream of its own.
    """

    def __init__(self, seeds: int | Sequence[int], n_particles: int = 1) -> None:
        self.seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        self.n_particles = n_particles
        each = self.seeds if n_particles == 1 else [_derived(s, str(k)) for s in self.seeds for k in range(n_particles)]
        self._streams = [torch.Generator().manual_seed(seed) for seed in each]

    @cached_property
    def groups(self) -> Noise:
        """Numbers that all particles of a group share, from one further stream per group."""
        return type(self)([_derived(seed, "group") for seed in self.seeds])

    def uniform(self, n: int) -> Tensor:
        """Uniform numbers in [0, 1), one from every stream, ``(n,)``, float64.

        Raises:
            ValueError: if there are not ``n`` streams.
        """
        if n != len(self._streams):
            raise ValueError(f"noise has {len(self._streams)} streams (seeds) for {n} numbers")
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._streams])

    def __call__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
        """N(0, 1) of ``shape`` ``(B, ...)``, real.

        Raises:
            ValueError: if there is not one stream per item.
        """
        if shape[0] != len(self._streams):
            raise ValueError(f"noise has {len(self._streams)} streams (seeds) for a batch of {shape[0]}")
        items = [torch.randn(shape[1:], generator=g, dtype=dtype) for g in self._streams]
        return torch.stack(items).to(device)

    def like(self, x: Tensor) -> Tensor:
        """N(0, 1) per real component, of the shape, type and device of ``x``; complex ``x`` gets variance 2."""
        if not x.is_complex():
            return self(x.shape, x.dtype, x.device)
        return torch.view_as_complex(self((*x.shape, 2), x.real.dtype, x.device))


def _derived(seed: int, name: str) -> int:
    """The seed of a further stream."""
    return zlib.crc32(f"{seed}:{name}".encode())


def karras(sigma_max: float, sigma_min: float, n_steps: int, power: float = 7.0) -> Tensor:
    """``n_steps`` levels from ``sigma_max`` to ``sigma_min``, evenly spaced in sigma^(1/power), then 0, float64.

    Reference: Karras et al., NeurIPS 2022, eq. 5.
    """
    if n_steps < 1 or not sigma_max >= sigma_min > 0:
        raise ValueError(f"need n_steps >= 1 and sigma_max >= sigma_min > 0; got {n_steps}, {sigma_max}, {sigma_min}")
    ends = sigma_max ** (1 / power), sigma_min ** (1 / power)
    levels = torch.linspace(*ends, n_steps, dtype=torch.float64) ** power
    return torch.cat([levels, levels.new_zeros(1)])


def from_betas(betas: Tensor) -> Tensor:
    """The ladder of a variance-preserving chain: sigma = sqrt((1 - abar) / abar), largest first, then 0, float64."""
    kept = torch.cumprod(1 - betas.double(), 0)
    return torch.cat([((1 - kept) / kept).sqrt().flip(0), kept.new_zeros(1)])


def truncate_ladder(sigmas: Tensor, sigma: float) -> Tensor:
    """The part of a ladder from ``sigma`` down: ``sigma`` itself, then every level below it."""
    return torch.cat([sigmas.new_tensor([sigma]), sigmas[sigmas < sigma]])


def time_travel(sigmas: Tensor, length: int, repeats: int) -> Tensor:
    """Repeat every ``length`` steps of the ladder ``repeats`` times, going back up in between (RePaint, CVPR 2022, section 4.2).

    The final level is reached once.
    """
    if length < 1 or repeats < 1:
        raise ValueError(f"length and repeats must be at least 1; got {length} and {repeats}")
    last = len(sigmas) - 1
    index = [0]
    while index[-1] < last:
        first = index[-1]
        end = min(first + length, last)
        again = repeats if end < last else 1
        for k in range(again):
            index += range(first + 1, end + 1)
            if k < again - 1:
                index.append(first)
    return sigmas[index]


def travelled(
    sigma_max: float, sigma_min: float, n_steps: int, length: int, repeats: int, power: float = 7.0
) -> Tensor:
    """The finest :func:`karras` ladder that takes at most ``n_steps`` steps down after :func:`time_travel`, repeated that way.

    ``n_steps`` levels for ``repeats = 1``; fewer repeats where the budget is too small for four stretches.
    """
    repeats = max(1, min(repeats, n_steps // (4 * length)))
    for n in range(n_steps, 1, -1):
        # All stretches but the last are repeated; the last step goes to 0.
        if n + (repeats - 1) * length * ((n - 1) // length) <= n_steps:
            return time_travel(karras(sigma_max, sigma_min, n, power), length, repeats)
    return karras(sigma_max, sigma_min, 1, power)
