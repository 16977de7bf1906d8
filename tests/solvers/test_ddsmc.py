"""DDSMC: exact at any number of levels for white images, and its limits."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.sample import sample_particles
from medrecon.solvers import DDSMC

from ..make.chains import chain_law, decoupled, gaussian_posterior
from ..make.posteriors import SHAPE, SharedNoise, dense, repeated, white

DOUBLE = torch.float64


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_weights_stay_equal_for_white_images(steps):
    """Twist and proposal are then p(y | x) and p(x' | x, y): the only weights are those of the start, N(0, sigma^2 I) in place
    of the noised prior, which at a level of 100 differ by 1e-3."""
    prior = white(0.5, mean=0.0)
    y = torch.tensor([[0.4, -0.3, 0.2]], dtype=DOUBLE).expand(32, -1)
    data = Gaussian(SpectralDense(dense(), SHAPE), y, 0.1)
    found = sample_particles(DDSMC(), prior, data, karras(100.0, 0.05, steps), noise=Noise([0], 32))
    assert float((found.ess - 32).abs().max()) < 0.05
    mean, covariance, evidence = gaussian_posterior(
        torch.zeros(6, dtype=DOUBLE), 0.25 * torch.eye(6, dtype=DOUBLE), dense(), y[0], 0.1
    )
    assert float((found.log_evidence - evidence).abs()) < 0.01
    many = Gaussian(data.A, y[:1].expand(20_000, -1), 0.1)
    x = sample_particles(DDSMC(), prior, many, karras(100.0, 0.05, steps), noise=SharedNoise(0, 20_000)).x.flatten(1)
    # 20 000 draws: standard errors 0.007 of a standard deviation, 0.01 of a variance.
    assert float((x.mean(0) - mean).norm() / covariance.trace().sqrt()) < 0.02
    assert float((torch.cov(x.T) - covariance).norm() / covariance.norm()) < 0.04


def test_fresh_noise_costs_particles():
    """With eta below 1, x' does not have all that x has of the data: the twist is no longer p(y | x', x)."""
    data = Gaussian(SpectralDense(dense(), SHAPE), torch.tensor([[0.4, -0.3, 0.2]], dtype=DOUBLE).expand(64, -1), 0.1)
    sizes = [
        float(
            sample_particles(
                DDSMC(eta=eta), white(0.5, mean=0.0), data, karras(100.0, 0.05, 20), noise=Noise([0], 64)
            ).ess.min()
        )
        for eta in (1.0, 0.5, 0.0)
    ]
    assert sizes[0] > 63.9 and sizes[2] < sizes[1] < sizes[0]


def test_the_chain_without_data_is_exact_for_white_images():
    prior = white(0.5)
    for eta in (0.0, 0.5, 1.0):
        mean, covariance = chain_law(prior, karras(500.0, 0.05, 4), decoupled(eta, 0.5))
        assert torch.allclose(mean, prior.mean.flatten(), atol=1e-3)
        assert torch.allclose(covariance, prior.covariance, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_any_kernel_is_corrected_by_the_weights(eta):
    """For a prior that is not white, towards the chain of that eta: evidence within three standard errors, R = 300, P = 32."""
    prior, data, _, _ = repeated(1, 0.1)
    sigmas = karras(20.0, 0.05, 15)
    law = chain_law(prior, sigmas, decoupled(eta, 0.5))
    _, _, evidence = gaussian_posterior(*law, dense(), data.y[0], 0.1)
    many = Gaussian(data.A, data.y.expand(32 * 300, -1), 0.1)
    found = sample_particles(DDSMC(eta=eta), prior, many, sigmas, noise=SharedNoise(1, 32))
    ratio = (found.log_evidence - evidence).exp()
    assert float(ratio.std()) < 3
    assert abs(float(ratio.mean()) - 1) < 3 * float(ratio.std()) / 300**0.5
