"""Centred unitary Fourier transforms, for even and odd sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["centring", "fft", "ifft", "resampling_matrix"]


def fft(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Unitary DFT over ``dims`` with the origin at index ``n // 2`` in image and k-space: ifftshift, fft, fftshift."""
    dims = tuple(dims)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def ifft(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Inverse and adjoint of :func:`fft`."""
    dims = tuple(dims)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def centring(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Factors ``(image, kspace)`` of the given shape, with ``fft(x) = kspace * plain_fft(image * x)``.

    With c = n // 2, exp(-2 pi i (k - c)(m - c) / n) is the product of exp(2 pi i c m / n), the plain kernel and
    exp(2 pi i c (k - c) / n). Multiplying coil maps and mask by these factors once removes all shifts from a reconstruction.
    For even n the factors are signs.
    """
    image = torch.ones((), dtype=torch.complex128, device=device)
    kspace = image
    for axis, n in enumerate(shape):
        along = [n if a == axis else 1 for a in range(len(shape))]
        index = torch.arange(n, device=device)
        c = n // 2
        # An integer modulus keeps the angle exact for large n.
        ramp = 2 * torch.pi * ((c * index) % n).double() / n
        shifted = 2 * torch.pi * ((c * (index - c)) % n).double() / n
        image = image * torch.polar(torch.ones_like(ramp), ramp).view(along)
        kspace = kspace * torch.polar(torch.ones_like(shifted), shifted).view(along)
    return image.to(dtype), kspace.to(dtype)


def resampling_matrix(n: int, size: int, zoom: Tensor, first: Tensor) -> Tensor:
    """Matrices that resample ``n`` periodic points at ``first + i / zoom``, ``i < size``, by Fourier interpolation.

    A zoom below 1 keeps only the central frequencies that the coarser grid can represent (a crop in k-space, with Gibbs
    ringing); a zoom above 1 interpolates by zero filling. A batched product resamples and crops at once.

    Args:
        n: number of input samples.
        size: number of output samples.
        zoom: output pixels per input pixel, ``(B,)``.
        first: position of the first output sample, in input pixels, ``(B,)``.

    Returns:
        ``(B, size, n)``; rows sum to 1.
    """
    kept = torch.floor(n * zoom.clamp(max=1.0) + 1e-4)[:, None, None]
    steps = torch.arange(size, device=zoom.device, dtype=zoom.dtype)
    samples = torch.arange(n, device=zoom.device, dtype=zoom.dtype)
    t = (first[:, None] + steps / zoom[:, None])[:, :, None] - samples
    t = math.pi * (t - n * torch.round(t / n)) / n
    close = t.abs() < 1e-6
    t = torch.where(close, 1.0, t)
    # The Dirichlet kernel; an even number of frequencies splits the Nyquist term between both ends of the band.
    kernel = (kept * t).sin() / (n * torch.where(kept % 2 == 1, t.sin(), t.tan()))
    return torch.where(close, kept / n, kernel)
