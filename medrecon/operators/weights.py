"""Weights of measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import LinearOperator
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral

__all__ = ["Multiple", "Weights", "Whitening"]


class Weights(Spectral):
    """``y = w x``, elementwise: varying noise levels, or missing pixels (inpainting: ``w`` is the mask).

    ``Weights(1 / noise_std) @ A`` with ``y / noise_std`` has white noise of standard deviation 1.

    Args:
        weights: real or bool weights, broadcast against ``x``.
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        if weights.is_complex():
            raise ValueError("weights must be real")
        self.register_buffer("weights", weights if weights.is_floating_point() else weights.float())
        self.nonnegative = bool((weights >= 0).all())

    @property
    def singular(self) -> Tensor:  # type: ignore[override]
        """``|w|``."""
        return self.weights.abs()

    def forward(self, x: Tensor) -> Tensor:
        """``w x``."""
        return self.weights * x

    def adjoint(self, y: Tensor) -> Tensor:
        """``w y``."""
        return self.weights * y

    def vh(self, x: Tensor) -> Tensor:
        """The image itself."""
        return x

    def v(self, c: Tensor) -> Tensor:
        """The coefficients themselves."""
        return c

    def uh(self, y: Tensor) -> Tensor:
        """``sign(w) y``."""
        return self.weights.sign() * y

    def u(self, c: Tensor) -> Tensor:
        """``sign(w) c``."""
        return self.weights.sign() * c


class Multiple(LinearOperator):
    """``y = f A x`` with a positive factor; fast operations of ``A``, such as ``normal``, stay fast.

    Args:
        A: the operator.
        factor: one number, or one per item ``(B,)``.
    """

    def __init__(self, A: LinearOperator, factor: Tensor | float) -> None:
        super().__init__()
        self.A = A
        self.factor: Tensor
        self.register_buffer("factor", torch.as_tensor(factor))
        self.cheap_normal, self.nonnegative, self.closed_form = A.cheap_normal, A.nonnegative, A.closed_form

    def forward(self, x: Tensor) -> Tensor:
        """``f A x``."""
        y = self.A(x)
        return batch_broadcast(self.factor, y) * y

    def adjoint(self, y: Tensor) -> Tensor:
        """``f A^H y``."""
        x = self.A.adjoint(y)
        return batch_broadcast(self.factor, x) * x

    def normal(self, x: Tensor) -> Tensor:
        """``f^2 A^H A x``."""
        return batch_broadcast(self.factor, x) ** 2 * self.A.normal(x)

    def norm_squared(self, x: Tensor) -> Tensor:
        """``f^2 |A x|^2``."""
        return self.factor**2 * self.A.norm_squared(x)

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """``A.pinv`` of ``y / f`` with ``rho / f^2``."""
        return self.A.pinv(
            y / batch_broadcast(self.factor, y), n_iter, rho / self.factor**2 if not _is_zero(rho) else 0.0
        )


def _is_zero(rho: float | Tensor) -> bool:
    return isinstance(rho, int | float) and rho == 0


class Whitening(LinearOperator):
    """Noise whitening across coils: ``L^-1 y`` of ``(B, coils, ...)``, with ``covariance = L L^H``.

    ``Gaussian(Whitening(c) @ A, Whitening(c)(y), noise_std=1)`` is the likelihood of data whose noise has covariance ``c``.

    Args:
        covariance: covariance of one real component of the coil noise, Hermitian positive definite ``(coils, coils)``: half of
            ``E[n n^H]`` for complex noise ``n``.

    Reference: Pruessmann et al., MRM 46 (2001), appendix B.
    """

    mixing: Tensor

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mixing", torch.linalg.inv(torch.linalg.cholesky(covariance)))

    def forward(self, x: Tensor) -> Tensor:
        """``L^-1 y``."""
        return torch.einsum("ij,bj...->bi...", self.mixing, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``L^-H y``."""
        return torch.einsum("ji,bj...->bi...", self.mixing.conj(), y)
