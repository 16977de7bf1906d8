"""DAPS: exact for white images; its Langevin moves against the exact draw."""

import pytest
import torch

from medrecon.likelihood import Poisson, Rician
from medrecon.noise import Noise, karras
from medrecon.operators import Weights
from medrecon.sample import sample
from medrecon.solvers import DAPS, DAPSLangevin
from medrecon.solvers.base import sample_prox

from ..make.posteriors import SHAPE, SharedNoise, distance, gaussian_prior, measured, repeated, white
from .expectations import LADDER

DOUBLE = torch.float64


def test_daps_is_exact_for_white_images_and_too_wide_as_published():
    prior, data, mean, covariance = repeated(3000, prior=white(0.4))
    sigmas = karras(20.0, 0.02, 60)
    x = sample(DAPS(n_ode=1, image_std=0.4), prior, data, sigmas, noise=SharedNoise(0))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08
    published = sample(DAPS(), prior, data, sigmas, noise=SharedNoise(0)).flatten(1)
    assert 1.4 < float(published.var(0).sum() / covariance.trace()) < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_daps_by_langevin_moves_is_daps(momentum):
    """The inner sampler converges to the distribution of the exact draw."""
    _, data, *_ = repeated(4000)
    x0 = torch.full((4000, *SHAPE), 0.3, dtype=DOUBLE)
    solver = DAPSLangevin(n_inner=600, momentum=momentum)
    moved = solver.draw(x0, 0.2, data, SharedNoise(0)).flatten(1)
    exact = sample_prox(x0, data, 0.04, 30, SharedNoise(0)).flatten(1)
    assert (moved.mean(0) - exact.mean(0)).abs().max() < 0.02
    assert float((torch.cov(moved.T) - torch.cov(exact.T)).norm() / torch.cov(exact.T).norm()) < 0.15
    with pytest.raises(TypeError, match=r"choose DAPSLangevin \(daps-langevin\)$"):
        one = torch.ones(1, *SHAPE, dtype=DOUBLE)
        sample(DAPS(), gaussian_prior(), Rician(Weights(one), one, 0.1), LADDER, noise=Noise(0))


@pytest.mark.parametrize("noise_std", [1e-3, 0.0])
def test_daps_by_langevin_moves_survives_precise_data(noise_std):
    prior, data, _ = measured(batch=4, noise_std=noise_std)
    x = sample(DAPSLangevin(n_inner=50), prior, data, karras(8.0, 0.02, 20), noise=Noise(range(4)))
    assert data.residual(x).norm() < 0.3 * data.y.norm()


def test_daps_draws_what_counts_leave_open():
    """One ray a pixel and a white prior: mean and spread of ``p(y | z) N(z; x0, r^2)`` by quadrature."""
    n, r, x0 = 8000, 0.3, 1.0
    counts = torch.tensor([9.0, 0.0], dtype=DOUBLE).repeat_interleave(n // 2)[None, None]
    data = Poisson(Weights(torch.ones(n, dtype=DOUBLE)), counts, counts_per_unit=5.0)
    x = DAPSLangevin(n_inner=300).draw(torch.full((1, 1, n), x0, dtype=DOUBLE), r, data, Noise(0)).view(2, -1)
    grid = torch.linspace(1e-4, 4, 40_000, dtype=DOUBLE)
    for i, y in enumerate((9.0, 0.0)):
        p = (torch.xlogy(torch.tensor(y), 5 * grid) - 5 * grid - (grid - x0) ** 2 / (2 * r**2)).exp()
        mean = (p * grid).sum() / p.sum()
        spread = ((p * (grid - mean) ** 2).sum() / p.sum()).sqrt()
        # 4000 draws: standard errors 0.004 and 0.003; below 0, where the law ends, a few of them go.
        assert abs(float(x[i].mean() - mean)) < 0.04
        assert abs(float(x[i].std() - spread)) < 0.04
