"""The law of the chain of reverse steps that a ladder defines, in closed form for Gaussian priors.

Particle solvers are exact for the law of their unconditional chain, conditioned on the data, at any number of levels. For a
Gaussian prior every kernel ``x' = K x + k + N(0, v I)`` is linear, so the law of the last image is Gaussian, by a recursion.
"""

from itertools import pairwise

import torch

from medrecon.solvers.base import image_spread

__all__ = ["ancestral", "bridged_posterior", "chain_law", "decoupled", "gaussian_posterior"]

DOUBLE = torch.float64


def ancestral(sigma, after):
    """Weight of x against x0 in the mean of a kernel, and its variance given x0 and x: the ancestral step."""
    kept = (after / sigma) ** 2
    return kept, after**2 * (1 - kept), 0.0


def decoupled(eta, image_std):
    """The kernel of DDSMC: the clean image is drawn with variance r^2 before its noise."""

    def kernel(sigma, after):
        kept = eta * (after / sigma) ** 2
        return kept, after**2 - (kept * sigma) ** 2, image_spread(sigma, image_std) ** 2

    return kernel


def chain_law(prior, sigmas, kernel=ancestral):
    """Mean and covariance of the last image of the chain from ``N(0, sigma_0^2 I)``."""
    n = prior.mean.numel()
    one = torch.eye(n, dtype=DOUBLE)
    mean, covariance = torch.zeros(n, dtype=DOUBLE), float(sigmas[0]) ** 2 * one
    for sigma, after in pairwise(sigmas.tolist()):
        kept, variance, spread = kernel(sigma, after)
        gain, offset = _denoiser(prior, sigma)
        step = (1 - kept) * gain + kept * one
        mean = step @ mean + (1 - kept) * offset
        covariance = step @ covariance @ step.T + (variance + (1 - kept) ** 2 * spread) * one
    return mean, covariance


def _denoiser(prior, sigma):
    """``x0 = gain x + offset``."""
    n = prior.mean.numel()
    gain = prior.covariance @ torch.linalg.inv(prior.covariance + sigma**2 * torch.eye(n, dtype=DOUBLE))
    return gain, prior.mean.flatten() - gain @ prior.mean.flatten()


def gaussian_posterior(mean, covariance, matrix, y, noise_std):
    """Mean, covariance and log-evidence of ``x ~ N(mean, covariance)`` given ``y = matrix x + noise_std n``."""
    law = matrix @ covariance @ matrix.T + noise_std**2 * torch.eye(len(y), dtype=DOUBLE)
    gain = torch.linalg.solve(law, matrix @ covariance).T
    evidence = torch.distributions.MultivariateNormal(matrix @ mean, law).log_prob(y)
    return mean + gain @ (y - matrix @ mean), covariance - gain @ matrix @ covariance, float(evidence)


def bridged_posterior(prior, sigmas, matrix, y, noise_std):
    """The same of the ancestral chain given ``V^H x = U^H y / s`` at the level ``noise_std / s`` of every singular value s.

    The chain of MCG-diff and FPS. The log-evidence is that of y.
    """
    left, singular, basis = torch.linalg.svd(matrix, full_matrices=False)
    values, levels = left.T @ y / singular, (noise_std / singular).tolist()
    n = prior.mean.numel()
    mean, covariance = torch.zeros(2 * n, dtype=DOUBLE), torch.zeros(2 * n, 2 * n, dtype=DOUBLE)
    covariance[:n, :n] = float(sigmas[0]) ** 2 * torch.eye(n, dtype=DOUBLE)
    evidence = -float(singular.log().sum())
    for sigma, after in pairwise(sigmas.tolist()):
        # The pair (x, x0) with x0 fixed during the step, which passes some levels of the data on its way.
        gain, offset = _denoiser(prior, sigma)
        lift = torch.zeros(2 * n, 2 * n, dtype=DOUBLE)
        lift[:n, :n], lift[n:, :n] = torch.eye(n, dtype=DOUBLE), gain
        mean, covariance = lift @ mean, lift @ covariance @ lift.T
        mean[n:] += offset
        passed = sorted((level for level in levels if after <= level < sigma), reverse=True)
        for now, then in pairwise([sigma, *passed, after]):
            kept = (then / now) ** 2
            step = torch.eye(2 * n, dtype=DOUBLE)
            step[:n, :n] *= kept
            step[:n, n:] = (1 - kept) * torch.eye(n, dtype=DOUBLE)
            mean, covariance = step @ mean, step @ covariance @ step.T
            covariance[:n, :n] += then**2 * (1 - kept) * torch.eye(n, dtype=DOUBLE)
            for i, level in enumerate(levels):
                if level == then and then in passed:
                    row = torch.cat([basis[i], torch.zeros(n, dtype=DOUBLE)])
                    variance, away = row @ covariance @ row, values[i] - row @ mean
                    evidence += float(torch.distributions.Normal(0.0, variance.sqrt()).log_prob(away))
                    pull = covariance @ row / variance
                    mean, covariance = mean + pull * away, covariance - torch.outer(pull, row @ covariance)
    return mean[:n], covariance[:n, :n], evidence
