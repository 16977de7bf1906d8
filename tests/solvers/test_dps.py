"""DPS: the equation of a step, nonlinear operators, counts."""

import torch

from medrecon.likelihood import Gaussian, Poisson
from medrecon.noise import Noise
from medrecon.operators import Operator, Weights
from medrecon.sample import sample
from medrecon.solvers import DPS
from medrecon.solvers.base import residual_norm_and_grad

from ..make.posteriors import SHAPE, gaussian_prior, measured, white
from .expectations import LADDER

DOUBLE = torch.float64


def test_dps_step_is_the_equation():
    prior, data, matrix = measured()
    x, sigma, after = torch.randn(1, *SHAPE, dtype=torch.float64), 0.8, 0.5
    found = DPS(zeta=0.7).step(x, sigma, after, prior=prior, data=data, noise=Noise(4))
    J = prior.modes @ torch.diag(prior.variances / (prior.variances + sigma**2)) @ prior.modes.T
    x0 = prior(x, sigma)
    r = data.y[0] - matrix @ x0.flatten()
    gradient = (-J @ matrix.T @ r / r.norm()).view_as(x)
    plain = DPS(zeta=0.0).step(x, sigma, after, prior=prior, data=data, noise=Noise(4))
    scale = (6 * (1 + sigma**2) * (1 + after**2)) ** 0.5  # six numbers in an image
    assert torch.allclose(found, plain - 0.7 * scale * gradient, atol=1e-12)
    # zeta = 0 is the ancestral step: mean and variance of x' given x0 and x.
    kappa2 = 1 - (after / sigma) ** 2
    mean = x0 + after * (1 - kappa2) ** 0.5 * (x - x0) / sigma
    assert torch.allclose(plain, mean + after * kappa2**0.5 * Noise(4).like(x), atol=1e-12)


def test_dps_takes_a_nonlinear_operator():
    class Square(Operator):
        def forward(self, x):
            return x.flatten(1)[:, :3] ** 2

    prior = gaussian_prior()
    data = Gaussian(Square(), torch.full((2, 3), 0.25, dtype=torch.float64), 0.05, image_shape=(2, *SHAPE))
    guided = sample(DPS(zeta=0.1), prior, data, LADDER, noise=Noise([0, 1]))
    free = sample(DPS(zeta=0.0), prior, data, LADDER, noise=Noise([0, 1]))
    assert data.residual(guided).norm() < 0.5 * data.residual(free).norm()


def test_residual_falls_with_the_step_of_dps():
    prior, data, _ = measured(batch=32)
    sizes = [
        float(data.residual(sample(DPS(zeta=z), prior, data, LADDER, noise=Noise(range(32)))).norm())
        for z in (0.0, 0.003, 0.01, 0.03)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_dps_takes_counts():
    prior = white(0.2, (1, 6), mean=1.0)
    A = Weights(torch.ones(6, dtype=DOUBLE))
    counts = torch.tensor([[[900.0, 1500, 600, 1100, 1000, 1300]]], dtype=DOUBLE).expand(8, -1, -1)
    data = Poisson(A, counts, counts_per_unit=1000.0)
    guided, free = (sample(DPS(zeta=z), prior, data, LADDER, noise=Noise(range(8))) for z in (0.05, 0.0))
    assert residual_norm_and_grad(guided, data)[0].mean() < 0.5 * residual_norm_and_grad(free, data)[0].mean()
