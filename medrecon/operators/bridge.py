"""Conversions between real channels and complex images."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import HALF, LinearOperator

__all__ = ["AsComplex", "OnChannels", "RealAsComplex"]


class AsComplex(LinearOperator):
    """Real ``(B, 2c, *spatial)``, with channels as (real, imaginary) pairs, to complex ``(B, c, *spatial)``.

    An isometry for Re<u, v>: the adjoint is the inverse.
    """

    isometry = True

    def forward(self, x: Tensor) -> Tensor:
        """Combine channels 0 and 1, 2 and 3, ... into complex channels.

        Raises:
            ValueError: for an odd number of channels.
        """
        if x.shape[1] % 2:
            raise ValueError(f"real and imaginary parts are pairs of channels; got an image of {x.shape[1]} channels")
        x = x.float() if x.dtype in HALF else x
        return torch.complex(x[:, 0::2], x[:, 1::2])

    def adjoint(self, y: Tensor) -> Tensor:
        """Interleave real and imaginary parts as channels."""
        return torch.stack([y.real, y.imag], dim=2).flatten(1, 2)

    def normal(self, x: Tensor) -> Tensor:
        """The identity."""
        return x


class RealAsComplex(LinearOperator):
    """Real ``(B, c, *spatial)`` to complex with imaginary part 0: the signal of a magnitude image.

    An isometry onto the real numbers: the adjoint is the real part.
    """

    isometry = True

    def forward(self, x: Tensor) -> Tensor:
        """``x + 0i``."""
        return torch.complex(x, torch.zeros_like(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """The real part."""
        return y.real

    def normal(self, x: Tensor) -> Tensor:
        """The identity."""
        return x


class OnChannels(LinearOperator):
    """A complex operator on real channels, from ``(B, 2c, *spatial)`` to ``(B, 2d, *spatial)``: ``AsComplex^H A AsComplex``.

    Args:
        A: linear operator from complex to complex.
    """

    def __init__(self, A: LinearOperator) -> None:
        super().__init__()
        self.A = A
        self.bridge = AsComplex()

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        return self.bridge.adjoint(self.A(self.bridge(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``."""
        return self.bridge.adjoint(self.A.adjoint(self.bridge(y)))

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.bridge.adjoint(self.A.normal(self.bridge(x)))
