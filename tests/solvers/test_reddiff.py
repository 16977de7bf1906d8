"""RED-diff: its gradient and its minimum."""

from dataclasses import replace

import pytest
import torch

from medrecon.noise import Noise
from medrecon.priors import GaussianPrior
from medrecon.sample import sample
from medrecon.solvers import REDDiff

from ..make.posteriors import SHAPE, dense, measured, repeated

DOUBLE = torch.float64


def test_reddiff_without_prior_is_least_squares_and_with_it_the_posterior_mode():
    prior, data, _, _ = repeated(1)
    flat = torch.full((400,), 0.05, dtype=DOUBLE)
    sigmas = torch.cat([flat, torch.zeros(1, dtype=DOUBLE)])
    alone = sample(REDDiff(prior_weight=0.0, lr=0.01), prior, data, sigmas, noise=Noise(0))
    assert data.residual(alone).abs().max() < 1e-3
    # w = 1 / sigma and prior_weight = noise_std^2: the mode, which for Gaussians is the mean, under the smoothed prior.
    smoothed = GaussianPrior(prior.mean, prior.covariance + 0.5**2 * torch.eye(6, dtype=DOUBLE))
    mean, _ = smoothed.posterior(dense(), data.y[0], 0.3)
    sigmas = torch.cat([torch.full((3000,), 0.5, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])
    estimate = sample(REDDiff(prior_weight=0.3**2, schedule="inverse", lr=0.002), prior, data, sigmas, noise=Noise(0))
    assert float((estimate.flatten() - mean).norm() / (prior.mean.flatten() - mean).norm()) < 0.1
    with pytest.raises(ValueError, match="schedule must be"):
        REDDiff(schedule="cosine")


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "square", "constant", "inverse"])
def test_reddiff_follows_the_gradient_of_the_smoothed_prior(schedule):
    """The gradient that the solver passes to Adam, for each draw and on average.

    ``eps(mu + sigma z) - z = sigma (C + sigma^2)^-1 (mu - m) - C (C + sigma^2)^-1 z``; its mean, over pairs ``z`` and ``-z``
    free of the error of sampling, is sigma times the gradient of ``-log`` of the prior smoothed by sigma.
    """
    prior, data, matrix = measured(batch=1)
    sigma, n = 0.7, 64
    data = replace(data, y=data.y.expand(n, -1))
    mu = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    z = torch.randn(n // 2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    z = torch.cat([z, -z])

    class Given(Noise):
        def __call__(self, shape, dtype, device=None):
            return z

    solver = REDDiff(prior_weight=0.3, schedule=schedule)
    common = {"prior": prior, "data": data, "noise": Given(range(n))}
    state = solver.init(torch.zeros(n, *SHAPE, dtype=DOUBLE), 1.0, **common)._replace(mu=mu.expand(n, -1, -1))
    found = solver.step(state, sigma, 0.5, **common).first.flatten(1) / 0.1  # Adam's first moment, from 0
    weight = 0.3 * {"linear": 0.7, "sqrt": 0.7**0.5, "square": 0.7**2, "constant": 1.0, "inverse": 1 / 0.7}[schedule]
    smoothed = torch.linalg.inv(prior.covariance + sigma**2 * torch.eye(6, dtype=DOUBLE))
    away = (mu - prior.mean).flatten()
    misfit_slope = matrix.T @ (matrix @ mu.flatten() - data.y[0])
    expected = misfit_slope + weight * (sigma * smoothed @ away - z.flatten(1) @ (prior.covariance @ smoothed).T)
    assert torch.allclose(found, expected, atol=1e-12)
    free = mu.flatten().clone().requires_grad_()
    covariance = prior.covariance + sigma**2 * torch.eye(6, dtype=DOUBLE)
    torch.distributions.MultivariateNormal(prior.mean.flatten(), covariance).log_prob(free).neg().backward()
    assert torch.allclose(found.mean(0), misfit_slope + weight * sigma * free.grad, atol=1e-3)
