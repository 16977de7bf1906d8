"""Fourier transforms at arbitrary points of k-space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.operators.base import Composed, LinearOperator, with_adjoint_as_backward
from medrecon.operators.bridge import AsComplex
from medrecon.operators.density import pipe_menon_dcf
from medrecon.operators.linalg import cg
from medrecon.operators.nufft_backends import Backend, SparseGridding, TableGridding, checked_trajectory

__all__ = ["NUFFT", "Coils", "nufft_sense"]


class NUFFT(LinearOperator):
    """The unitary centred Fourier transform at arbitrary points: complex ``(B, c, *spatial)`` to ``(B, c, samples)``.

    ``y(k) = sum_r x(r) exp(-2 pi i k . (r - n // 2) / n) / sqrt(N)``. On a Cartesian grid this is
    :func:`medrecon.operators.fourier.fft`.

    Args:
        trajectory: points in cycles per field of view, ``(..., 2 or 3)``, from -n/2 to n/2 along each axis, in the order of
            the image's axes; leading axes (interleaves, readout) are flattened.
        shape: shape of the image.
        backend: :class:`SparseGridding` (fastest in 2-D), :class:`TableGridding` (little memory, for 3-D) or :class:`Finufft`
            (any accuracy, on the CPU); ``None``: ``SparseGridding()`` in 2-D, ``TableGridding()`` in 3-D.
        toeplitz: whether ``normal`` is a convolution (two FFTs of twice the size, without interpolation, to the accuracy of the
            back end) instead of ``adjoint(forward)``.
        dtype: complex type of images and samples.
        weights: nonnegative weights ``(samples,)``: samples are multiplied by ``sqrt(weights)``, which weights least squares.
            With :func:`pipe_menon_dcf` the normal operator is nearly the identity where k-space was sampled.

    Raises:
        ValueError: for points outside the band (in other units?), NaN, dimensions or settings that do not match, or a matrix
            that exceeds the free memory.
        TypeError: for a back end given by name.
    """

    def __init__(
        self,
        trajectory: Tensor,
        shape: Sequence[int],
        backend: Backend | None = None,
        toeplitz: bool = True,
        dtype: torch.dtype = torch.complex64,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape)
        self.dims = tuple(range(-len(self.shape), 0))
        points = checked_trajectory(trajectory, self.shape)
        if dtype not in (torch.complex64, torch.complex128):
            raise ValueError(f"a NUFFT needs complex64 or complex128; got {dtype}")
        self.backend = backend or (SparseGridding() if len(self.shape) == 2 else TableGridding())
        if not hasattr(self.backend, "build_refined"):
            raise TypeError(f"backend must be SparseGridding(), TableGridding() or Finufft(); got {backend!r}")
        self.trajectory: Tensor
        self.spectrum: Tensor | None
        self.root: Tensor | None
        self.register_buffer("trajectory", points, persistent=False)
        self.register_buffer("root", _root(weights, len(points), dtype.to_real()), persistent=False)
        self.transform = self.backend.build(points, self.shape, dtype)
        self.dtype = dtype
        self.register_buffer("spectrum", self._toeplitz_spectrum(points) if toeplitz else None, persistent=False)
        self._density: Tensor | None = None

    def _toeplitz_spectrum(self, points: Tensor) -> Tensor:
        """Spectrum of the convolution ``A^H A``: its kernel is the adjoint transform of ones on twice the field of view."""
        double = tuple(2 * n for n in self.shape)
        transform = self.backend.build_refined(2 * points, double, self.dtype)
        ones = torch.ones(1, len(points), dtype=self.dtype)
        kernel = transform.adjoint(ones if self.root is None else ones * self.root**2)[0]
        kernel = kernel * math.sqrt(math.prod(double)) / math.prod(self.shape)
        return torch.fft.fftn(torch.fft.ifftshift(kernel), dim=self.dims).real.contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NUFFT:
        """Move to another device; the type stays as constructed."""
        device = fn(torch.empty(0)).device
        self.trajectory = self.trajectory.to(device)
        for name in ("spectrum", "root"):
            buffer = getattr(self, name)
            setattr(self, name, None if buffer is None else buffer.to(device))
        self.transform.to(device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Samples at the points of the trajectory."""
        self._check_type(x)
        if tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"the image must have shape (B, c, *{self.shape}); got {tuple(x.shape)}")
        flat = with_adjoint_as_backward(
            x.reshape(-1, *self.shape), self.transform.forward, self.transform.adjoint
        ).view(*x.shape[:2], -1)
        return flat if self.root is None else flat * self.root

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint, without density compensation."""
        self._check_type(y)
        y = y if self.root is None else y * self.root
        flat = with_adjoint_as_backward(y.reshape(-1, y.shape[-1]), self.transform.adjoint, self.transform.forward)
        return flat.view(*y.shape[:2], *self.shape)

    def _check_type(self, x: Tensor) -> None:
        if x.dtype != self.dtype:
            raise ValueError(f"this NUFFT takes {self.dtype} and got {x.dtype}; construct it with dtype={x.dtype}")

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, as a convolution if ``toeplitz``."""
        if self.spectrum is None:
            return super().normal(x)
        size = self.spectrum.shape
        convolved = torch.fft.ifftn(torch.fft.fftn(x, s=size, dim=self.dims) * self.spectrum, dim=self.dims)
        return convolved[(..., *(slice(0, n) for n in self.shape))]

    def gridding(self, y: Tensor, density: Tensor) -> Tensor:
        """Density-compensated adjoint ``A^H (w y)``: the image, if k-space is sampled densely enough.

        Args:
            y: samples ``(B, c, samples)``.
            density: weights ``(samples,)``, e.g. of :func:`pipe_menon_dcf`.
        """
        return self.adjoint(y * density.to(y.device, y.dtype.to_real()))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`LinearOperator.pinv`; for ``rho = 0`` conjugate gradients start at the density-compensated adjoint.

        This start lies in the range of the adjoint, so the limit is the same as from zero, and is reached sooner.
        """
        if not (isinstance(rho, int | float) and rho == 0):
            return super().pinv(y, n_iter, rho)
        return self._least_squares(self, y, n_iter)

    def _least_squares(self, A: LinearOperator, y: Tensor, n_iter: int) -> Tensor:
        """``A.pinv(y)`` for ``A`` = this transform, with coils or without."""
        if self._density is None:
            self._density = pipe_menon_dcf(self.trajectory, self.shape)
        density = self._density.to(y.device, y.dtype.to_real())
        if self.root is not None:
            density = density / (self.root**2).clamp(min=1e-12 * float(self.root.max()) ** 2)
        start = A.adjoint(y * density)
        return cg(A.normal, A.adjoint(y), start, n_iter, tol=1e-7 if self.dtype == torch.complex64 else 1e-14)

    def __matmul__(self, inner: LinearOperator) -> Composed:
        """``A(B(x))``; with coils, too, the pseudo-inverse starts at the density-compensated adjoint."""
        return _CoilNUFFT(self, inner) if isinstance(inner, Coils) else Composed(self, inner)


def _root(weights: Tensor | None, n: int, dtype: torch.dtype) -> Tensor | None:
    """Square roots of the weights of ``n`` samples, checked."""
    if weights is None:
        return None
    if tuple(weights.shape) != (n,) or not weights.isfinite().all() or bool((weights < 0).any()):
        raise ValueError(f"a NUFFT needs {n} finite, nonnegative weights; got shape {tuple(weights.shape)}")
    return weights.sqrt().to(dtype).cpu()


class _CoilNUFFT(Composed):
    """A NUFFT composed with coil sensitivities."""

    outer: NUFFT

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`NUFFT.pinv`."""
        if not (isinstance(rho, int | float) and rho == 0):
            return super().pinv(y, n_iter, rho)
        return self.outer._least_squares(self, y, n_iter)


class Coils(LinearOperator):
    """Coil sensitivities: complex ``(B, 1, *spatial)`` to ``(B, coils, *spatial)``.

    Args:
        maps: complex ``(B or 1, coils, *spatial)``.
    """

    maps: Tensor

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        if not maps.is_complex() or not maps.detach().isfinite().all():
            raise ValueError(f"coil maps must be complex and finite; got {maps.dtype}")
        self.register_buffer("maps", maps)

    def forward(self, x: Tensor) -> Tensor:
        """``S x``."""
        self._check_shape(x, 1)
        return self.maps * x

    def _check_shape(self, x: Tensor, channels: int) -> None:
        if tuple(x.shape[1:]) != (channels, *self.maps.shape[2:]):
            raise ValueError(f"coil maps {tuple(self.maps.shape[1:])} and an image {tuple(x.shape)} do not match")

    def adjoint(self, y: Tensor) -> Tensor:
        """``S^H y``."""
        self._check_shape(y, self.maps.shape[1])
        return (self.maps.conj() * y).sum(1, keepdim=True)


def nufft_sense(
    trajectory: Tensor,
    maps: Tensor | None = None,
    shape: Sequence[int] | None = None,
    *,
    backend: Backend | None = None,
    toeplitz: bool = True,
    dtype: torch.dtype | None = None,
    weights: Tensor | None = None,
) -> Composed:
    """Non-Cartesian MRI on real two-channel images ``(B, 2, *spatial)``, for any trajectory, with coil maps or without.

    Args:
        trajectory: see :class:`NUFFT`.
        maps: coil sensitivities, complex ``(B or 1, coils, *spatial)``; ``None``: a single coil.
        shape: shape of the image; needed only without maps.
        backend: see :class:`NUFFT`.
        toeplitz: see :class:`NUFFT`.
        dtype: complex type of the samples; ``None``: the type of the maps, or complex64.
        weights: see :class:`NUFFT`.
    """
    if maps is None and shape is None:
        raise ValueError("non-Cartesian MRI needs either coil maps or the shape of the image")
    size = tuple(maps.shape[2:]) if maps is not None else tuple(shape or ())
    if dtype is None:
        dtype = torch.complex64 if maps is None else maps.dtype
    transform = NUFFT(trajectory, size, backend, toeplitz, dtype, weights)
    return (transform if maps is None else transform @ Coils(maps)) @ AsComplex()
