"""Forward models whose measurements are images: blur, downsampling, crops, differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.operators.base import LinearOperator
from medrecon.operators.fourier import resampling_matrix
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Separable

__all__ = [
    "DOWNSAMPLING",
    "Blur",
    "FiniteDifferences",
    "crop",
    "downsample_gaussian",
    "downsample_kspace",
    "downsample_mean",
    "gaussian_blur",
    "gaussian_kernel",
    "motion_kernel",
]


class Blur(LinearOperator):
    """Periodic convolution of every channel with a kernel, by FFT: ``(B, C, *spatial)`` to the same shape.

    Differentiable in the kernel, so blind methods can take gradients with respect to it; or they build an operator per estimate.

    Args:
        kernel: real kernel, ``(*k)`` or one per item ``(B, 1, *k)``, with its origin at index ``k // 2``.
        shape: shape of the image, at least as large as the kernel.

    Raises:
        ValueError: if the kernel is larger than the image, has another number of dimensions, or is not finite.
    """

    spectrum: Tensor

    def __init__(self, kernel: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        n = len(shape)
        if kernel.ndim == n:
            kernel = kernel[None, None]
        if not kernel.detach().isfinite().all():
            raise ValueError("the kernel contains NaN or Inf")
        sizes = kernel.shape[2:]
        if kernel.ndim != n + 2 or any(k > s for k, s in zip(sizes, shape, strict=True)):
            raise ValueError(f"a kernel {tuple(kernel.shape)} does not fit an image of shape {tuple(shape)}")
        self.shape = tuple(shape)
        self.dims = tuple(range(-n, 0))
        padding = [p for k, s in zip(reversed(sizes), reversed(self.shape), strict=True) for p in (0, s - k)]
        padded = torch.nn.functional.pad(kernel, padding).roll([-(k // 2) for k in sizes], self.dims)
        spectrum = torch.fft.rfftn(padded, dim=self.dims)
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
        """``A^H A x``, with one pair of FFTs."""
        return self._filter(x, self.spectrum.abs() ** 2)

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """Closed form, ``1 / (|K|^2 + rho)`` in the Fourier domain (the Wiener filter for ``b = A^H y``)."""
        total = self.spectrum.abs() ** 2 + batch_broadcast(rho, b)
        return self._filter(b, torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """The Wiener filter ``K^* / (|K|^2 + rho)``; for rho = 0 the inverse filter wherever the kernel's spectrum is not 0."""
        nonzero = self.spectrum != 0
        spectrum = torch.where(nonzero, self.spectrum, 1.0)
        return self._filter(y, torch.where(nonzero, 1 / (spectrum + batch_broadcast(rho, y) / spectrum.conj()), 0.0))


def gaussian_kernel(std: float, dims: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Gaussian with standard deviation ``std`` in pixels and sum 1, cut at four standard deviations; ``dims`` odd axes."""
    if not std > 0:
        raise ValueError(f"the standard deviation of a Gaussian must be positive; got {std}")
    reach = max(1, math.ceil(4 * std))
    line = (-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / std) ** 2).exp()
    line = line / line.sum()
    kernel = torch.ones((), dtype=torch.float64)
    for _ in range(dims):
        kernel = kernel[..., None] * line
    return kernel.to(dtype)


def motion_kernel(length: float, angle: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A straight line of ``length`` pixels at ``angle`` (rad, from the x axis towards the negative y index), with sum 1.

    Points along the line are distributed bilinearly over four pixels each, so the kernel varies smoothly with length and angle.
    """
    if not length > 0:
        raise ValueError(f"the length of a motion must be positive; got {length}")
    reach = math.ceil(length / 2) + 1
    n = max(2, 16 * math.ceil(length))
    along = ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5) * length
    y, x = reach - along * math.sin(angle), reach + along * math.cos(angle)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    y0, x0 = y.floor(), x.floor()
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - (y - y0 - dy).abs()) * (1 - (x - x0 - dx).abs()) / n
            kernel.index_put_(((y0 + dy).long(), (x0 + dx).long()), weight, accumulate=True)
    return kernel.to(dtype)


def _convolution(line: Tensor, n: int) -> Tensor:
    """The ``(n, n)`` matrix of a convolution with ``line``, whose origin is in its middle; zeros outside."""
    index = torch.arange(n)[:, None] - torch.arange(n)[None, :] + len(line) // 2
    inside = (index >= 0) & (index < len(line))
    return torch.where(inside, line[index.clamp(0, len(line) - 1)], 0.0)


def gaussian_blur(shape: Sequence[int], std: float, dtype: torch.dtype = torch.float32) -> Separable:
    """Gaussian blur with zeros outside the image; singular values in closed form.

    Args:
        shape: shape of the image.
        std: standard deviation, pixels.
        dtype: type of the image.
    """
    line = gaussian_kernel(std, 1, torch.float64)
    return Separable([_convolution(line, n).to(dtype) for n in shape])


def downsample_mean(
    shape: Sequence[int], factor: int | Sequence[int], dtype: torch.dtype = torch.float32, orthonormal: bool = False
) -> Separable:
    """The mean of every block of pixels, as a detector with larger pixels measures; singular values in closed form.

    Args:
        shape: shape of the fine image; each axis a multiple of its factor.
        factor: one factor, or one per axis; 1 leaves an axis unchanged.
        dtype: type of the image.
        orthonormal: whether to multiply by the root of the factor along every axis, which makes rows orthonormal.

    Raises:
        ValueError: if an axis is not a multiple of its factor.
    """

    def matrix(n: int, f: int) -> Tensor:
        return torch.eye(n // f, dtype=torch.float64).repeat_interleave(f, dim=1) / f

    return _downsample(shape, factor, dtype, orthonormal, matrix)


def downsample_gaussian(
    shape: Sequence[int], factor: int | Sequence[int], dtype: torch.dtype = torch.float32, orthonormal: bool = False
) -> Separable:
    """Gaussian blur with a standard deviation of ``factor / 2`` pixels, then every ``factor``-th pixel: a slice profile.

    Args:
        shape: see :func:`downsample_mean`.
        factor: see :func:`downsample_mean`.
        dtype: see :func:`downsample_mean`.
        orthonormal: whether to multiply by the root of the factor along every axis, as :func:`downsample_mean` does; the rows are
            not orthonormal.

    Raises:
        ValueError: if an axis is not a multiple of its factor.
    """

    def matrix(n: int, f: int) -> Tensor:
        return _convolution(gaussian_kernel(f / 2, 1, torch.float64), n)[f // 2 :: f]

    return _downsample(shape, factor, dtype, orthonormal, matrix)


def downsample_kspace(
    shape: Sequence[int], factor: int | Sequence[int], dtype: torch.dtype = torch.float32, orthonormal: bool = False
) -> Separable:
    """Only the central frequencies, as MRI of a lower resolution acquires them; real images stay real, centres coincide.

    Args:
        shape: see :func:`downsample_mean`.
        factor: see :func:`downsample_mean`.
        dtype: see :func:`downsample_mean`.
        orthonormal: whether to multiply by the root of the factor along every axis, which makes rows orthonormal.

    Raises:
        ValueError: if an axis is not a multiple of its factor.
    """

    def matrix(n: int, f: int) -> Tensor:
        m, zoom = n // f, torch.tensor([1 / f], dtype=torch.float64)
        return resampling_matrix(n, m, zoom, n // 2 - m // 2 / zoom)[0]

    return _downsample(shape, factor, dtype, orthonormal, matrix)


DOWNSAMPLING = {"kspace": downsample_kspace, "mean": downsample_mean, "gaussian": downsample_gaussian}
"""Models of low resolution, by the name that settings give them."""


def _downsample(
    shape: Sequence[int],
    factor: int | Sequence[int],
    dtype: torch.dtype,
    orthonormal: bool,
    matrix: Callable[[int, int], Tensor],
) -> Separable:
    """The operator whose matrix along an axis of ``n`` pixels with factor ``f`` is ``matrix(n, f)``, ``(n // f, n)``."""
    factors = [factor] * len(shape) if isinstance(factor, int) else list(factor)
    if len(factors) != len(shape) or any(f < 1 or n % f for n, f in zip(shape, factors, strict=False)):
        raise ValueError(f"the image size {tuple(shape)} must be a multiple of the factors {factors}, one per axis")
    matrices = []
    for n, f in zip(shape, factors, strict=True):
        one = torch.eye(n, dtype=torch.float64) if f == 1 else matrix(n, f)
        matrices.append((one * f**0.5 if orthonormal else one).to(dtype))
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

    Args:
        axes: spatial axes, counted from 0; negative axes count from the last.
        periodic: whether the last difference is taken to the first index. Otherwise it is 0 (Neumann), which does not couple
            opposite ends of a volume.
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
            raise ValueError(
                f"differences along the axes {self.dims} need an image with these axes; got shape {tuple(x.shape)}"
            )
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
