"""The Gaussian prior's posterior."""

import torch

from ..make.priors import gaussian


def test_posterior_is_bayes():
    """Against the information form, an independent route: covariance = (C^-1 + A^T A / s^2)^-1."""
    prior = gaussian((6,))
    matrix = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.randn(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean, covariance = prior.posterior(matrix, y, 0.3)
    precision = torch.linalg.inv(prior.covariance) + matrix.T @ matrix / 0.09
    assert torch.allclose(covariance, torch.linalg.inv(precision), rtol=1e-6)
    right = torch.linalg.solve(prior.covariance, prior.mean) + matrix.T @ y / 0.09
    assert torch.allclose(mean, torch.linalg.solve(precision, right), rtol=1e-6)
