"""TMPD: exact for Gaussians, if its solve converges."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.priors import GaussianPrior
from medrecon.sample import sample
from medrecon.solvers import TMPD

from ..make.posteriors import SharedNoise, distance, repeated

DOUBLE = torch.float64


@pytest.mark.parametrize("noise_std", [0.05, 0.3])
def test_tmpd_is_exact_for_gaussians(noise_std):
    """Mean within 2 %, covariance within 8 %: 3000 samples leave 1 % and 5 %."""
    prior, data, mean, covariance = repeated(3000, noise_std)
    x = sample(TMPD(), prior, data, karras(20.0, 0.005, 400), noise=SharedNoise(0))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08


def test_tmpd_needs_its_solve_to_converge():
    """More measurements than iterations, singular values and spreads that differ much: why few are not called calibrated."""
    generator = torch.Generator().manual_seed(0)
    modes, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=DOUBLE))
    spreads = torch.linspace(0.05, 0.6, 24, dtype=DOUBLE)
    prior = GaussianPrior(torch.zeros(1, 24, dtype=DOUBLE), modes @ torch.diag(spreads**2) @ modes.T)
    u, _, v = torch.linalg.svd(torch.randn(12, 24, generator=generator, dtype=DOUBLE), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1.0, 0.1, 12, dtype=DOUBLE)) @ v
    y = matrix @ (modes @ (spreads * torch.randn(24, generator=generator, dtype=DOUBLE)))
    mean, covariance = prior.posterior(matrix, y, 0.02)
    data = Gaussian(SpectralDense(matrix, (1, 24)), y.expand(4000, -1).contiguous(), 0.02)
    errors = []
    for n_cg in (2, 20):
        x = sample(TMPD(n_cg=n_cg), prior, data, karras(20.0, 0.005, 150), noise=SharedNoise(0))
        errors.append(distance(x, mean, covariance, prior.mean))
    assert errors[1][0] < 0.03 and errors[1][1] < 0.2
    assert errors[0][0] > 2 * errors[1][0]
