"""Densities by the probability-flow ODE."""

import pytest
import torch

from medrecon.priors import log_density

from ..make.posteriors import SHAPE, SharedNoise, gaussian_prior

DOUBLE = torch.float64


def test_log_density_of_a_gaussian():
    """Within 0.01 nats a dimension, by the exact trace; and by one probe for many images."""
    prior = gaussian_prior()
    x = prior.mean + 0.4 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    total = prior.covariance + 0.05**2 * torch.eye(6, dtype=DOUBLE)
    exact = torch.distributions.MultivariateNormal(prior.mean.flatten(), total).log_prob(x.flatten(1))
    found = log_density(prior, x, sigma_min=0.05, sigma_max=100.0, n_steps=200)
    assert (found - exact).abs().max() < 0.06
    many = x[:1].expand(4000, -1, -1)
    probed = log_density(
        prior, many, sigma_min=0.05, sigma_max=100.0, n_steps=200, probe=SharedNoise(0).like(many).sign()
    )
    assert abs(float(probed.mean() - exact[0])) < 0.1
    with pytest.raises(ValueError, match="sigma_min"):
        log_density(prior, x, sigma_min=1.0, sigma_max=0.5)
