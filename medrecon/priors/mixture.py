"""A mixture of Gaussians as a prior, exact at every noise level: the simplest images with more than one mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.priors.base import as_levels

__all__ = ["MixturePrior"]


class MixturePrior:
    """``x0 ~ sum_k weights_k N(means_k, std^2 I)``.

    Args:
        weights: ``(K,)``, which sum to 1.
        means: ``(K, C, *spatial)``.
        std: standard deviation of every component.
    """

    def __init__(self, weights: Tensor, means: Tensor, std: float) -> None:
        if weights.shape != means.shape[:1] or not (weights >= 0).all() or abs(float(weights.sum()) - 1) > 1e-5:
            raise ValueError(
                f"{len(means)} means need as many weights, at least 0 and of sum 1; got {tuple(weights.shape)}, sum "
                f"{float(weights.sum()):g}"
            )
        self.weights, self.means, self.std = weights, means, std

    def _log_joint(self, x: Tensor, var: float | Tensor) -> Tensor:
        """``log p(k, x)`` of ``x`` whose components have the variance ``var``, ``(B,)`` or a number; ``(B, K)``."""
        total = torch.as_tensor(var, dtype=x.dtype, device=x.device).reshape(-1, 1)
        away = (x[:, None] - self.means).flatten(2).square().sum(2)
        n = self.means[0].numel()
        return self.weights.log() - away / (2 * total) - n / 2 * (2 * math.pi * total).log()

    def shares(self, x: Tensor, var: float | Tensor) -> Tensor:
        """``p(k | x)``, ``(B, K)``, of ``x`` whose components have the variance ``var``, ``(B,)`` or a number."""
        return self._log_joint(x, var).softmax(1)

    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``log p(x)`` at noise level ``sigma``, ``(B,)``."""
        return self._log_joint(x, self.std**2 + as_levels(sigma, x) ** 2).logsumexp(1)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``sum_k p(k | x) (m_k + s^2 / (s^2 + sigma^2) (x - m_k))``."""
        levels = as_levels(sigma, x)
        kept = (self.std**2 / (self.std**2 + levels**2)).view(-1, *[1] * (x.ndim - 1))
        means = (self.shares(x, self.std**2 + levels**2) @ self.means.flatten(1)).view_as(x)
        return means + kept * (x - means)

    def log_evidence(self, matrix: Tensor, y: Tensor, noise_std: float) -> Tensor:
        """``log p(k, y)``, ``(K,)``, of ``y = matrix x0 + noise_std n`` ``matrix`` ``(m, n)``; their sum is ``p(y)``."""
        covariance = self.std**2 * matrix @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=matrix.dtype)
        laws = [torch.distributions.MultivariateNormal(matrix @ m.flatten(), covariance) for m in self.means]
        return self.weights.log() + torch.stack([law.log_prob(y) for law in laws])

    def posterior_weights(self, matrix: Tensor, y: Tensor, noise_std: float) -> Tensor:
        """``p(k | y)``, ``(K,)``, of ``y = matrix x0 + noise_std n``."""
        return self.log_evidence(matrix, y, noise_std).softmax(0)
