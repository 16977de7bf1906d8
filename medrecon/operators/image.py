"""Forward models whose measurements are images: blur, coarser pixels, crops, differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medrecon.operators.base import LinearOperator
from medrecon.operators.fourier import resampling_matrix
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Separable

__all__ = ["Blur", "FiniteDifferences", "crop", "gaussian_blur", "gaussian_kernel", "motion_kernel", "super_resolution"]


class Blur(LinearOperator):
    """Periodic convolution of every channel with a kernel, by FFT: ``(B, C, *spatial)`` to the same shape.

    The kernel is an argument like any other, so blind methods take gradients in it, or make a new operator of every guess.

    Args:
        kernel: real, ``(*k)`` or one per item ``(B, 1, *k)``; its origin is at index ``k // 2``.
        shape: of the image, no smaller than the kernel.

    Raises:
        ValueError: if the kernel is larger than the image, or of another dimension.
    """

    spectrum: Tensor

    def __init__(self, kernel: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        n = len(shape)
        if kernel.ndim == n:
            kernel = kernel[None, None]
        if not kernel.detach().isfinite().all():
            raise ValueError("the kernel holds NaN or Inf")
        sides = kernel.shape[2:]
        if kernel.ndim != n + 2 or any(k > s for k, s in zip(sides, shape, strict=True)):
            raise ValueError(f"a kernel {tuple(kernel.shape)} does not fit an image of shape {tuple(shape)}")
        self.shape = tuple(shape)
        self.dims = tuple(range(-n, 0))
        padding = [p for k, s in zip(reversed(sides), reversed(self.shape), strict=True) for p in (0, s - k)]
        whole = torch.nn.functional.pad(kernel, padding).roll([-(k // 2) for k in sides], self.dims)
        spectrum = torch.fft.rfftn(whole, dim=self.dims)
        size = spectrum.detach().abs()
        floor = 10 * torch.finfo(size.dtype).eps * size.amax(self.dims, keepdim=True)
        # Zero out round-off so that the inverse does not amplify it.
        self.register_buffer("spectrum", torch.where(size > floor, spectrum, 0.0))

    def _filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"this blur takes images (B, C, *{self.shape}); got {tuple(x.shape)}")
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=self.dims) * spectrum, s=self.shape, dim=self.dims)

    def forward(self, x: Tensor) -> Tensor:
        """``k * x``."""
        return self._filter(x, self.spectrum)

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the kernel."""
        return self._filter(y, self.spectrum.conj())

    def normal(self, x: Tensor) -> Tensor:
        """One pair of FFTs."""
        return self._filter(x, self.spectrum.abs() ** 2)

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """Closed form, ``1 / (|K|^2 + rho)`` in the Fourier domain (Wiener's filter for ``b = A^H y``)."""
        total = self.spectrum.abs() ** 2 + batch_broadcast(rho, b)
        return self._filter(b, torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """Wiener's filter ``K^* / (|K|^2 + rho)``; the inverse filter where the kernel's spectrum is not 0 for rho = 0."""
        seen = self.spectrum != 0
        spectrum = torch.where(seen, self.spectrum, 1.0)
        return self._filter(y, torch.where(seen, 1 / (spectrum + batch_broadcast(rho, y) / spectrum.conj()), 0.0))


def gaussian_kernel(std: float, dims: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Gaussian of standard deviation ``std`` in pixels, cut at four of them, of sum 1; ``dims`` axes of odd length."""
    if not std > 0:
        raise ValueError(f"a Gaussian needs a positive standard deviation; got {std}")
    reach = max(1, math.ceil(4 * std))
    line = (-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / std) ** 2).exp()
    line = line / line.sum()
    kernel = torch.ones((), dtype=torch.float64)
    for _ in range(dims):
        kernel = kernel[..., None] * line
    return kernel.to(dtype)


def motion_kernel(length: float, angle: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A straight line of ``length`` pixels at ``angle`` (rad, from the x axis towards the negative y index), of sum 1.

    Points along the line are shared out to the four pixels round each, so that length and angle vary smoothly.
    """
    if not length > 0:
        raise ValueError(f"a motion needs a positive length; got {length}")
    reach = math.ceil(length / 2) + 1
    n = max(2, 16 * math.ceil(length))
    along = ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5) * length
    y, x = reach - along * math.sin(angle), reach + along * math.cos(angle)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    y0, x0 = y.floor(), x.floor()
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - (y - y0 - dy).abs()) * (1 - (x - x0 - dx).abs()) / n
            kernel.index_put_(((y0 + dy).long(), (x0 + dx).long()), share, accumulate=True)
    return kernel.to(dtype)


def _convolution(line: Tensor, n: int) -> Tensor:
    """The ``(n, n)`` matrix of a convolution with zeros outside, origin of ``line`` at its middle."""
    index = torch.arange(n)[:, None] - torch.arange(n)[None, :] + len(line) // 2
    inside = (index >= 0) & (index < len(line))
    return torch.where(inside, line[index.clamp(0, len(line) - 1)], 0.0)


def gaussian_blur(shape: Sequence[int], std: float, dtype: torch.dtype = torch.float32) -> Separable:
    """Gaussian blur with zeros outside the image, which knows its singular values.

    Args:
        shape: of the image.
        std: in pixels.
        dtype: of the image.
    """
    line = gaussian_kernel(std, 1, torch.float64)
    return Separable([_convolution(line, n).to(dtype) for n in shape])


def super_resolution(
    shape: Sequence[int],
    factor: int | Sequence[int],
    kind: Literal["mean", "gaussian", "kspace"] = "mean",
    dtype: torch.dtype = torch.float32,
    orthonormal: bool = False,
) -> Separable:
    """From an image to one of coarser pixels, ``n // factor`` a side; knows its singular values.

    ``"mean"``: the mean of every block, as a detector with larger pixels has it. ``"gaussian"``: Gaussian blur with a standard
    deviation of ``factor / 2`` pixels, then every ``factor``-th pixel. ``"kspace"``: only the central frequencies, as MRI of a
    lower resolution acquires them (real images stay real; centres coincide).

    Args:
        shape: of the fine image.
        factor: one, or one per axis; 1 leaves an axis as it is.
        kind: see above.
        dtype: of the image.
        orthonormal: times the root of the factor along every axis, which gives ``"mean"`` and ``"kspace"`` orthonormal rows.

    Raises:
        ValueError: for another kind, or if a side is no multiple of its factor.
    """
    factors = [factor] * len(shape) if isinstance(factor, int) else list(factor)
    if len(factors) != len(shape) or any(f < 1 or n % f for n, f in zip(shape, factors, strict=False)):
        raise ValueError(f"factors {factors} must divide the sides {tuple(shape)}, one each")
    matrices = []
    for n, f in zip(shape, factors, strict=True):
        m = n // f
        if f == 1:
            matrix = torch.eye(n, dtype=torch.float64)
        elif kind == "mean":
            matrix = torch.eye(m, dtype=torch.float64).repeat_interleave(f, dim=1) / f
        elif kind == "gaussian":
            matrix = _convolution(gaussian_kernel(f / 2, 1, torch.float64), n)[f // 2 :: f]
        elif kind == "kspace":
            zoom = torch.tensor([1 / f], dtype=torch.float64)
            matrix = resampling_matrix(n, m, zoom, n // 2 - m // 2 / zoom)[0]
        else:
            raise ValueError(f"unknown kind of super-resolution {kind!r}; choose mean, gaussian or kspace")
        matrices.append((matrix * f**0.5 if orthonormal else matrix).to(dtype))
    return Separable(matrices)


def crop(shape: Sequence[int], size: Sequence[int], dtype: torch.dtype = torch.float32) -> Separable:
    """The central ``size`` of an image, index ``n // 2`` to index ``size // 2``; its adjoint pads with zeros."""
    if len(size) != len(shape) or any(not 0 < m <= n for n, m in zip(shape, size, strict=False)):
        raise ValueError(f"cannot crop an image of shape {tuple(shape)} to {tuple(size)}")
    return Separable(
        [torch.eye(n, dtype=dtype)[n // 2 - m // 2 : n // 2 - m // 2 + m] for n, m in zip(shape, size, strict=True)]
    )


class FiniteDifferences(LinearOperator):
    """Forward differences ``x[i + 1] - x[i]`` along some axes, ``(B, C, *spatial)`` to ``(B, len(axes), C, *spatial)``.

    Periodic, or with a difference of 0 at the last index (Neumann), which does not tie opposite ends of a volume.

    Args:
        axes: spatial axes, 0 the first; negative ones count from the last.
        periodic: see above.
    """

    def __init__(self, axes: Sequence[int] = (-2, -1), periodic: bool = False) -> None:
        super().__init__()
        if not axes:
            raise ValueError("differences need at least one axis")
        self.dims = tuple(a if a < 0 else a + 2 for a in axes)
        self.periodic = periodic

    def forward(self, x: Tensor) -> Tensor:
        """Differences."""
        if min(self.dims) < 2 - x.ndim or max(self.dims) >= x.ndim:
            raise ValueError(f"an image {tuple(x.shape)} has no such axes to take differences along")
        out = []
        for dim in self.dims:
            d = x.roll(-1, dim) - x
            if not self.periodic:
                d.narrow(dim, -1, 1).zero_()
            out.append(d)
        return torch.stack(out, dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Minus the divergence."""
        parts = []
        for d, dim in zip(y.unbind(1), self.dims, strict=True):
            if not self.periodic:
                d = d.clone()
                d.narrow(dim, -1, 1).zero_()
            parts.append(d.roll(1, dim) - d)
        return torch.stack(parts).sum(0)
