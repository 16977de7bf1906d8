"""Random numbers with one stream per batch item, and ladders of noise levels as plain tensors."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Noise", "VolumeSeeds", "from_betas", "karras", "time_travel", "travelled", "truncate_ladder"]


def slice_weights(z_correlation: float) -> list[float]:
    """Weights of the white noise of neighbouring slices, whose sum has variance 1 and correlation ``exp(-d^2 / (2 L^2))``.

    A Gaussian with a standard deviation of ``L / sqrt(2)`` slices, cut at four of them, with a sum of squares of 1; its
    autocorrelation is a Gaussian with a standard deviation of ``L``.

    Args:
        z_correlation: correlation length ``L``, slices.
    """
    std = z_correlation / math.sqrt(2)
    reach = math.ceil(4 * std)
    line = [math.exp(-0.5 * (d / std) ** 2) if d else 1.0 for d in range(-reach, reach + 1)]
    size = math.sqrt(sum(w * w for w in line))
    return [w / size for w in line]


class Noise:
    """Standard normal numbers, one stream per batch item, drawn on the CPU.

    The same seed gives the same numbers whatever the batch, the device and the global generator.

    With ``z_correlation``, images are volumes ``(C, z, y, x)``, and neighbouring slices have correlated numbers: slice ``i`` is
    ``sum_j w_(j - i) n_j``, where ``n_j`` are independent numbers of the slice with index ``j`` (also beyond the ends of the
    volume), and ``w`` a Gaussian, see :func:`slice_weights`. Every slice alone is N(0, I). Since ``n_j`` depends on the seed
    and ``j`` alone, a part of a volume has the numbers that it has in the whole volume.

    Args:
        seeds: one seed per batch item; with particles, one per group of particles.
        n_particles: particles of every group. The batch then has ``len(seeds) * n_particles`` items, the particles of a group
            side by side, each with a stream of its own.
        z_correlation: correlation length between slices, in slices (0: independent); ``None``: images have one stream for all
            axes.
        slices: indices of the slices in the whole volume, ascending or descending; ``None``: all, counted from 0.
    """

    def __init__(
        self,
        seeds: int | Sequence[int],
        n_particles: int = 1,
        z_correlation: float | None = None,
        slices: Sequence[int] | None = None,
    ) -> None:
        self.seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        self.n_particles = n_particles
        self.z_correlation = z_correlation
        self.slices = None if slices is None else list(slices)
        self._each = (
            self.seeds if n_particles == 1 else [_derived(s, str(k)) for s in self.seeds for k in range(n_particles)]
        )
        self._streams = [torch.Generator().manual_seed(seed) for seed in self._each]
        self._slice_streams: dict[tuple[int, int], torch.Generator] = {}

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
        """N(0, 1) of images of ``shape`` ``(B, ...)``, real; correlated along ``z`` if the images are volumes.

        Raises:
            ValueError: if there is not one stream per item.
        """
        slices = self._slices_of(shape)
        if slices is None:
            return self._white(shape, dtype, device)
        self._check_batch(shape)
        size = (shape[1], *shape[3:])
        return torch.stack([self._volume(item, slices, size, dtype) for item in range(shape[0])]).to(device)

    def like(self, x: Tensor) -> Tensor:
        """Numbers for an image: N(0, 1) per real component, of the shape, type and device of ``x``.

        Complex ``x`` gets variance 2.
        """
        return self.white(x) if x.is_complex() else self(x.shape, x.dtype, x.device)

    def white(self, x: Tensor) -> Tensor:
        """As :meth:`like`, but without correlation between slices: for measurements, and for probes of a matrix."""
        draw = self if self.z_correlation is None else self._white
        if not x.is_complex():
            return draw(x.shape, x.dtype, x.device)
        return torch.view_as_complex(draw((*x.shape, 2), x.real.dtype, x.device))

    def _check_batch(self, shape: Sequence[int]) -> None:
        if shape[0] != len(self._streams):
            raise ValueError(f"noise has {len(self._streams)} streams (seeds) for a batch of {shape[0]}")

    def _white(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
        self._check_batch(shape)
        items = [torch.randn(shape[1:], generator=g, dtype=dtype) for g in self._streams]
        return torch.stack(items).to(device)

    def _slices_of(self, shape: Sequence[int]) -> list[int] | None:
        """Indices of the slices of images of this shape; ``None`` for other images than volumes, and without coupling."""
        if self.z_correlation is None or len(shape) != 5:
            return None
        slices = list(range(shape[2])) if self.slices is None else self.slices
        return slices if len(slices) == shape[2] else None

    def _volume(self, item: int, slices: Sequence[int], size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Correlated numbers ``(C, z, y, x)`` of one item."""
        weights = slice_weights(self.z_correlation or 0.0)
        reach = len(weights) // 2
        out = torch.zeros(size[0], len(slices), *size[1:], dtype=dtype)
        for j in self._sources(slices, reach):
            white = torch.randn(list(size), generator=self._slice_stream(item, j), dtype=dtype)
            for k, i in enumerate(slices):
                if abs(j - i) <= reach:
                    # A product and a sum, not one fused operation: equal bits wherever the slice stands in the volume.
                    out[:, k] += white * weights[j - i + reach]
        return out

    @staticmethod
    def _sources(slices: Sequence[int], reach: int) -> Iterator[int]:
        """Indices of all slices whose numbers the given ones take, ascending."""
        yield from sorted({j for i in slices for j in range(i - reach, i + reach + 1)})

    def _slice_stream(self, item: int, j: int) -> torch.Generator:
        if (item, j) not in self._slice_streams:
            seed = _derived(self._each[item], f"slice {j}")
            self._slice_streams[item, j] = torch.Generator().manual_seed(seed)
        return self._slice_streams[item, j]


class VolumeSeeds(NamedTuple):
    """Seeds of samples of volumes whose slices have correlated noise.

    Args:
        rows: per sample one seed for every item of the batch.
        z_correlation: as for :class:`Noise`.
        slices: as for :class:`Noise`.
    """

    rows: Sequence[Sequence[int]]
    z_correlation: float
    slices: Sequence[int]

    def noise(self, row: Sequence[int]) -> Noise:
        """The numbers of some samples, by their seeds."""
        return Noise(row, z_correlation=self.z_correlation, slices=self.slices)


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
