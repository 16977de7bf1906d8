"""Expectation maximisation: a Gaussian prior from incomplete, noisy measurements, in closed form.

``x_i ~ N(m, C),  y_i = A_i x_i + noise_std n``. The E-step takes the posterior of every image under the present prior, the M-step
the mean and covariance of all posteriors together. The likelihood of the measurements never falls.

Reference: Dempster, Laird and Rubin, J. R. Stat. Soc. B 39 (1977); with diffusion priors, Rozet et al., "Learning diffusion
priors from observations by expectation maximization", NeurIPS 2024. Their M-step trains a network on posterior samples;
:func:`em_from_samples` fits a Gaussian to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.priors.gaussian import GaussianPrior

__all__ = ["em_from_samples", "em_step", "log_likelihood"]


def em_step(prior: GaussianPrior, matrices: Sequence[Tensor], ys: Sequence[Tensor], noise_std: float) -> GaussianPrior:
    """One iteration with exact posteriors: ``m' = mean(mu_i)``, ``C' = mean(V_i + (mu_i - m') (mu_i - m')^T)``.

    Args:
        prior: the present prior.
        matrices: ``A_i``, ``(m_i, n)``, one per image.
        ys: measurements ``(m_i,)``.
        noise_std: standard deviation of the noise, above 0.
    """
    found = [prior.posterior(A, y, noise_std) for A, y in zip(matrices, ys, strict=True)]
    means = torch.stack([mean for mean, _ in found])
    away = means - means.mean(0)
    covariance = torch.stack([covariance for _, covariance in found]).mean(0) + away.T @ away / len(means)
    return GaussianPrior(means.mean(0).view_as(prior.mean), (covariance + covariance.T) / 2)


def em_from_samples(prior: GaussianPrior, draw: Callable[[GaussianPrior], Tensor]) -> GaussianPrior:
    """One iteration with samples: the mean and covariance of ``draw(prior)``.

    Args:
        prior: the present prior.
        draw: function that returns equally many posterior samples of all images, ``(n, C, *spatial)``.
    """
    samples = draw(prior).flatten(1)
    away = samples - samples.mean(0)
    return GaussianPrior(samples.mean(0).view_as(prior.mean), away.T @ away / len(samples))


def log_likelihood(prior: GaussianPrior, matrices: Sequence[Tensor], ys: Sequence[Tensor], noise_std: float) -> float:
    """``sum_i log p(y_i)`` with ``y_i ~ N(A_i m, A_i C A_i^T + noise_std^2 I)``."""
    total = 0.0
    for A, y in zip(matrices, ys, strict=True):
        covariance = A @ prior.covariance @ A.T + noise_std**2 * torch.eye(len(A), dtype=A.dtype)
        residual = y - A @ prior.mean.flatten()
        square = residual @ torch.linalg.solve(covariance, residual)
        total -= float(square + torch.linalg.slogdet(covariance)[1] + len(y) * math.log(2 * math.pi)) / 2
    return total
