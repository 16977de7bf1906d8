"""DiffPIR: the equation of a step, counts."""

import torch

from medrecon.likelihood import Gaussian, Poisson
from medrecon.noise import Noise
from medrecon.operators import Weights
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.sample import draw
from medrecon.solvers import DiffPIR
from medrecon.solvers.multistep import Multistep

from ..make.posteriors import SHAPE, gaussian_prior, white
from .expectations import LADDER

DOUBLE = torch.float64


def test_diffpir_step_is_the_equation():
    prior = gaussian_prior()
    y = torch.randn(1, 6, generator=torch.Generator().manual_seed(8), dtype=DOUBLE)
    data = Gaussian(SpectralDense(torch.eye(6, dtype=DOUBLE), SHAPE), y, 0.1)
    x, sigma, after = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE), 0.4, 0.2
    found = DiffPIR(lam=1.0, fresh_noise_fraction=0.3).step(
        Multistep(x), sigma, after, prior=prior, data=data, noise=Noise(3)
    )
    xe = (y.view(1, *SHAPE) / 0.01 + prior(x, sigma) / sigma**2) / (1 / 0.01 + 1 / sigma**2)
    expected = xe + after * (0.7**0.5 * (x - xe) / sigma + 0.3**0.5 * Noise(3).like(x))
    assert torch.allclose(found.x, expected, atol=1e-12)


def test_draws_of_counts():
    prior = white(0.2, (1, 6), mean=1.0)
    data = Poisson(
        Weights(torch.ones(6, dtype=DOUBLE)), torch.full((1, 1, 6), 1000.0, dtype=DOUBLE), counts_per_unit=1000.0
    )
    assert draw(DiffPIR(), prior, data, LADDER[-20:], seeds=[1, 2, 3]).shape == (3, 1, 1, 6)
