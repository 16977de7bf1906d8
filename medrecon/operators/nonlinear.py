"""Nonlinear forward models: they define ``forward``; gradients come from autograd or are overridden."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrecon.operators.base import LinearOperator, Operator
from medrecon.operators.fourier import fft, ifft

__all__ = ["Magnitude", "Network", "OversampledFourier", "Saturation", "phase_retrieval"]


class OversampledFourier(LinearOperator):
    """Centred unitary DFT of a zero-padded image: ``(B, C, *spatial)`` to complex ``(B, C, *k)``.

    Args:
        shape: shape of the image.
        factor: number of k-space samples per pixel along every axis, at least 1.
        real: whether images are real, so that the adjoint returns the real part.
    """

    def __init__(self, shape: Sequence[int], factor: float = 2.0, real: bool = True) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"oversampling must be at least 1; got {factor}")
        self.shape = tuple(shape)
        self.padded = tuple(round(n * factor) for n in shape)
        self.real = real
        self.dims = tuple(range(-len(self.shape), 0))
        self.before = [m // 2 - n // 2 for n, m in zip(self.shape, self.padded, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """``F P x``."""
        if tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"the image must have shape (B, C, *{self.shape}); got {tuple(x.shape)}")
        padding = []
        for n, m, start in zip(reversed(self.shape), reversed(self.padded), reversed(self.before), strict=True):
            padding += [start, m - n - start]
        return fft(nn.functional.pad(x, padding), self.dims)

    def adjoint(self, y: Tensor) -> Tensor:
        """``P^H F^H y``; for real images, its real part."""
        x = ifft(y, self.dims)
        for dim, start, n in zip(self.dims, self.before, self.shape, strict=True):
            x = x.narrow(dim, start, n)
        return x.real if self.real else x

    def normal(self, x: Tensor) -> Tensor:
        """The identity: the transform is unitary."""
        return x


class Magnitude(Operator):
    """``y = |A x|``: measurements without phase (phase retrieval, magnitude k-space, magnitude images).

    Args:
        A: a linear operator with complex measurements.
    """

    def __init__(self, A: LinearOperator) -> None:
        super().__init__()
        self.A = A

    def forward(self, x: Tensor) -> Tensor:
        """``|A x|``."""
        return self.A(x).abs()

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``Re A^H (v A x / |A x|)``; the derivative is taken as 0 where ``A x`` is 0."""
        return self.A.adjoint(torch.sgn(self.A(x)) * v)


def phase_retrieval(shape: Sequence[int], oversampling: float = 2.0) -> Magnitude:
    """Magnitudes of the oversampled Fourier transform of real images: Fourier phase retrieval (Fienup, 1982).

    Images shifted within the frame, and the mirrored image, have the same measurements.
    """
    return Magnitude(OversampledFourier(shape, oversampling))


class Saturation(Operator):
    """``y = clamp(gain x, low, high)``: a detector that saturates, or an image with a too high dynamic range."""

    def __init__(self, low: float = -1.0, high: float = 1.0, gain: float = 2.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"low must be below high; got {low} and {high}")
        self.low, self.high, self.gain = low, high, gain

    def forward(self, x: Tensor) -> Tensor:
        """Clamp; the derivative beyond the limits is 0."""
        return (self.gain * x).clamp(self.low, self.high)


class Network(Operator):
    """A neural network as forward model, such as a learned blur or a decoder; its weights are frozen.

    Args:
        network: network whose only input is the image.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """``network(x)``."""
        return self.network(x)
