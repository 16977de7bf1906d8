"""Weights of measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import LinearOperator

__all__ = ["Weights"]


class Weights(LinearOperator):
    """``y = w x``, entry by entry: noise levels that differ, or samples that are missing.

    ``Composed(Weights(1 / noise_std), A)`` with ``y / noise_std`` has white noise of standard deviation 1.

    Args:
        weights: real, broadcast against ``x``.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        """``w x``."""
        return self.weights * x

    def adjoint(self, y: Tensor) -> Tensor:
        """``w y``."""
        return self.weights * y

    def normal(self, x: Tensor) -> Tensor:
        """``w^2 x``."""
        return self.weights**2 * x

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """``b / (w^2 + rho)``, exact; 0 where both vanish."""
        rho = rho.view(-1, *[1] * (b.ndim - 1)) if isinstance(rho, Tensor) and rho.ndim else rho
        total = self.weights**2 + rho
        return torch.where(total > 0, b / torch.where(total > 0, total, 1.0), 0.0)
