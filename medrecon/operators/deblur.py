"""Blur without assumptions beyond the image, with a kernel per item: for kernels that are estimated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.operators.base import LinearOperator
from medrecon.operators.image import Blur
from medrecon.operators.motion import Warp
from medrecon.operators.spectral import Spectral

__all__ = ["InnerBlur", "SpectralBlur", "Turbulence", "centred_kernel", "unit_kernel"]


def unit_kernel(u: Tensor) -> Tensor:
    """Nonnegative kernels with sum 1, item by item: ``max(u, 0) / sum(max(u, 0))``, differentiable.

    The same for ``u`` and ``c u`` with ``c > 0``. A kernel without a positive value becomes the delta kernel.

    Args:
        u: kernels ``(B, 1, *k)`` of any positive scale.
    """
    positive = u.clamp(min=0)
    total = positive.flatten(1).sum(1).view(-1, *[1] * (u.ndim - 1))
    delta = torch.zeros_like(u)
    delta[(..., *[n // 2 for n in u.shape[2:]])] = 1.0
    return torch.where(total > 0, positive / torch.where(total > 0, total, 1.0), delta)


def centred_kernel(k: Tensor) -> Tensor:
    """Kernels shifted by whole pixels so that the centre of mass is within half a pixel of the centre, ``(B, 1, ky, kx)``.

    A kernel and an image are determined only up to opposite shifts; this fixes them. Shifts wrap around.
    """
    mass = k.detach().clamp(min=0)
    shifts = []
    for axis, n in ((2, k.shape[2]), (3, k.shape[3])):
        line = torch.arange(n, dtype=k.dtype, device=k.device) - n // 2
        profile = mass.sum((1, 5 - axis))
        shifts.append(((profile * line).sum(1) / profile.sum(1).clamp(min=1e-12)).round().long().tolist())
    moved = [one.roll((-dy, -dx), (-2, -1)) for one, dy, dx in zip(k, *shifts, strict=True)]
    return torch.stack(moved)


class InnerBlur(LinearOperator):
    """Convolution with a kernel, where it needs no pixel outside the image: ``(B, C, *n + k - 1)`` to ``(B, C, *n)``.

    The unknown image is larger than the measured one by half a kernel on every side, so nothing is assumed about what lies beyond
    its border. Differentiable in the kernel.

    Args:
        kernel: real kernels with odd sides ``(B or 1, 1, *k)``, with their origin in the middle.
        shape: shape of the measured image.
    """

    def __init__(self, kernel: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        if any(k % 2 == 0 for k in kernel.shape[2:]):
            raise ValueError(f"the sides of a kernel must be odd; got {tuple(kernel.shape[2:])}")
        self.measured = tuple(shape)
        self.reach = [k // 2 for k in kernel.shape[2:]]
        self.blur = Blur(kernel, [n + 2 * r for n, r in zip(shape, self.reach, strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        """``k * x`` inside."""
        return self.inner(self.blur(x))

    def inner(self, x: Tensor) -> Tensor:
        """The part of an image that is measured."""
        index = [slice(r, r + n) for r, n in zip(self.reach, self.measured, strict=True)]
        return x[(..., *index)]

    def outer(self, y: Tensor) -> Tensor:
        """A measured image, continued by zeros."""
        return F.pad(y, [r for r in reversed(self.reach) for _ in (0, 1)])

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the kernel, of the image continued by zeros."""
        return self.blur.adjoint(self.outer(y))


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal Hartley transform over the spatial axes: real, symmetric, its own inverse."""
    c = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho")
    return c.real - c.imag


class SpectralBlur(Spectral):
    """Periodic convolution with a kernel per item, with its singular values ``|K|``, ``(B, C, *spatial)`` to the same shape.

    ``V`` is the Hartley transform, which is real; ``U`` is ``V`` times the phase of the kernel's spectrum.

    Args:
        kernel: real kernels ``(B or 1, 1, *k)`` with their origin at index ``k // 2``.
        shape: shape of the image.
    """

    phase: Tensor

    def __init__(self, kernel: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.dims = tuple(range(-len(self.shape), 0))
        delta = torch.zeros(1, 1, *self.shape, dtype=kernel.dtype, device=kernel.device)
        delta[(..., *[0] * len(self.shape))] = 1.0
        response = Blur(kernel, shape)(delta.expand(len(kernel), *delta.shape[1:]))
        spectrum = torch.fft.fftn(response, dim=self.dims)
        singular = spectrum.abs()
        floor = 10 * torch.finfo(singular.dtype).eps * singular.amax(self.dims, keepdim=True)
        self.register_buffer("singular", torch.where(singular > floor, singular, 0.0))
        self.register_buffer("phase", torch.where(singular > floor, spectrum / singular.clamp(min=1e-30), 1.0))

    def _turned(self, x: Tensor, phase: Tensor) -> Tensor:
        return torch.fft.ifftn(torch.fft.fftn(x, dim=self.dims) * phase, dim=self.dims).real

    def vh(self, x: Tensor) -> Tensor:
        """Shaped like the image."""
        return _hartley(x)

    def v(self, c: Tensor) -> Tensor:
        """Shaped like the image."""
        return _hartley(c)

    def uh(self, y: Tensor) -> Tensor:
        """Shaped like the image."""
        return torch.where(self.singular > 0, _hartley(self._turned(y, self.phase.conj())), 0.0)

    def u(self, c: Tensor) -> Tensor:
        """Shaped like the image."""
        return self._turned(_hartley(torch.where(self.singular > 0, c, 0.0)), self.phase)


class Turbulence(LinearOperator):
    """``y = k * warp(x)``: an image displaced by a tilt field, then blurred, where the kernel needs no pixel outside.

    Args:
        kernel: kernels ``(B or 1, 1, *k)``, see :class:`InnerBlur`.
        field: displacements in pixels along (y, x) of the whole image, ``(B or 1, 2, *n + k - 1)``.
    """

    def __init__(self, kernel: Tensor, field: Tensor) -> None:
        super().__init__()
        shape = [n - k + 1 for n, k in zip(field.shape[2:], kernel.shape[2:], strict=True)]
        self.blurred = InnerBlur(kernel, shape)
        self.warp = Warp(field)

    def forward(self, x: Tensor) -> Tensor:
        """Warp, then blur."""
        return self.blurred(self.warp(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint of the blur, then of the warp."""
        return self.warp.adjoint(self.blurred.adjoint(y))
