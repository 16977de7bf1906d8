"""Random blur kernels: motion along smooth paths, and defocus. They train the prior of unknown kernels and simulate blur."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blur_kernels", "defocus_kernels", "motion_kernels"]

POINTS = 192
"""Points of a path."""


def _grid(size: int) -> Tensor:
    """Pixel positions along an axis, relative to the centre."""
    if size < 3 or size % 2 == 0:
        raise ValueError(f"the size of a kernel must be odd and at least 3; got {size}")
    return torch.arange(size, dtype=torch.float64) - size // 2


def _splat(path: Tensor, size: int) -> Tensor:
    """Points ``(n, points, 2)``, in pixels from the centre, shared bilinearly by four pixels each; sum 1, ``(n, 1, size, size)``.

    The centre of mass is the mean of the points.
    """
    line = _grid(size)
    y, x = ((1 - (path[..., axis, None] - line).abs()).clamp(min=0) for axis in (0, 1))
    kernel = torch.einsum("npy,npx->nyx", y, x)[:, None]
    return kernel / kernel.sum((2, 3), keepdim=True)


def _smoothed(kernel: Tensor, std: Tensor) -> Tensor:
    """Kernels ``(n, 1, k, k)`` convolved with Gaussians of ``std`` ``(n,)`` pixels, cut at the border; sum 1."""
    line = torch.arange(-4, 5, dtype=kernel.dtype)
    gauss = (-0.5 * (line / std[:, None]) ** 2).exp()
    gauss = gauss / gauss.sum(1, keepdim=True)
    weight = (gauss[:, :, None] * gauss[:, None, :])[:, None]
    out = F.conv2d(kernel.transpose(0, 1), weight, padding=4, groups=len(kernel)).transpose(0, 1)
    return out / out.sum((2, 3), keepdim=True)


def motion_kernels(
    n: int, size: int = 33, *, generator: torch.Generator, extent: tuple[float, float] = (4.0, 24.0)
) -> Tensor:
    """Blur by a camera or patient that moves along a smooth random path during the exposure, ``(n, 1, size, size)``.

    The direction of the velocity is a smooth random function of time, its size varies slowly, and some paths are nearly straight.
    Every path is scaled to its length, centred at its centre of mass, and smoothed a little by the aperture.

    Args:
        n: number of kernels.
        size: side of the kernels, odd.
        generator: source of randomness.
        extent: range of the largest extent of a path along an axis, pixels; at most ``size - 7`` is used.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, dtype=torch.float64)

    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    orders = torch.arange(1, 6, dtype=torch.float64)
    bend = torch.randn(n, 5, 2, generator=generator, dtype=torch.float64) / orders[:, None]
    amplitude = uniform(0.0, 1.0) ** 2 * 3.0  # rad; many paths are nearly straight
    angle = uniform(-math.pi, math.pi, 1) + amplitude[:, None] * (
        bend[..., 0] @ (math.pi * orders[:, None] * t).sin() + bend[..., 1] @ (math.pi * orders[:, None] * t).cos()
    )
    speed = torch.randn(n, 5, generator=generator, dtype=torch.float64) / orders
    speed = (0.6 * speed @ (math.pi * orders[:, None] * t).cos()).exp()
    velocity = speed[..., None] * torch.stack([angle.sin(), angle.cos()], dim=-1)
    path = velocity.cumsum(1)
    path = path - path.mean(1, keepdim=True)
    low, high = extent[0], min(extent[1], size - 7.0)
    wanted = low * (high / low) ** uniform(0.0, 1.0)
    span = (path.amax(1) - path.amin(1)).amax(-1)
    reach = path.abs().amax((1, 2))
    scale = torch.minimum(wanted / span, (size / 2 - 2.5) / reach)
    return _smoothed(_splat(path * scale[:, None, None], size), uniform(0.3, 0.8)).float()


def defocus_kernels(
    n: int, size: int = 33, *, generator: torch.Generator, radius: tuple[float, float] = (1.0, 9.0)
) -> Tensor:
    """Discs with an edge as of a Gaussian blur, ``(n, 1, size, size)``: the point spread of an aperture out of focus.

    Args:
        n: number of kernels.
        size: side of the kernels, odd.
        generator: source of randomness.
        radius: range of radii, log-uniform, pixels; at most ``size / 2 - 4`` is used.
    """

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64))[:, None, None]

    low, high = radius[0], min(radius[1], size / 2 - 4)
    r = low * (high / low) ** uniform(0.0, 1.0)
    edge = uniform(0.3, 1.5)
    line = _grid(size)
    distance = (line[:, None] ** 2 + line**2).sqrt()
    kernel = torch.special.erfc((distance - r) / (math.sqrt(2) * edge))[:, None]
    return (kernel / kernel.sum((2, 3), keepdim=True)).float()


KINDS = {"motion": motion_kernels, "defocus": defocus_kernels}


def blur_kernels(seeds: Sequence[int], kind: str = "motion", size: int = 33, **ranges: tuple[float, float]) -> Tensor:
    """One kernel per seed, ``(B, 1, size, size)``, nonnegative, with sum 1 and its centre of mass at the centre.

    Args:
        seeds: random seeds; a kernel depends on its own seed only.
        kind: ``motion`` or ``defocus``.
        size: side of the kernels, odd.
        **ranges: ``extent`` of :func:`motion_kernels` or ``radius`` of :func:`defocus_kernels`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of blur {kind!r}; choose {' or '.join(KINDS)}")
    make = KINDS[kind]
    return torch.cat([make(1, size, generator=torch.Generator().manual_seed(seed), **ranges) for seed in seeds])
