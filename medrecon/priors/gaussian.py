"""The Gaussian prior, which is known in closed form; solvers are tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.priors.base import as_levels

__all__ = ["GaussianPrior"]


class GaussianPrior:
    """``x0 ~ N(mean, covariance)``, exact at every noise level.

    Args:
        mean: ``(C, *spatial)``.
        covariance: ``(n, n)`` with n the number of elements of ``mean``, symmetric positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        n = mean.numel()
        if covariance.shape != (n, n):
            raise ValueError(f"a mean of {n} elements needs a {n} x {n} covariance; got {tuple(covariance.shape)}")
        self.mean = mean
        self.covariance = covariance
        self.variances, self.modes = torch.linalg.eigh(covariance)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``mean + C (C + sigma^2 I)^-1 (x - mean)``."""
        shrink = self.variances / (self.variances + as_levels(sigma, x)[:, None] ** 2)
        coefficients = (x - self.mean).flatten(1) @ self.modes
        return self.mean + ((shrink * coefficients) @ self.modes.T).view_as(x)

    def posterior(self, matrix: Tensor, y: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
        """Mean ``(n,)`` and covariance ``(n, n)`` of x0 given ``y = matrix x0 + noise_std n``, ``matrix`` ``(m, n)``."""
        flat = self.mean.flatten()
        gain = self.covariance @ matrix.T
        inner = matrix @ gain + noise_std**2 * torch.eye(len(matrix), dtype=matrix.dtype)
        gain = torch.linalg.solve(inner, gain.T).T
        return flat + gain @ (y - matrix @ flat), self.covariance - gain @ matrix @ self.covariance
