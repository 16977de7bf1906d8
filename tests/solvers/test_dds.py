"""DDS: limits, the level of the prior, the inner solve, the null space of one coil."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.sample import sample
from medrecon.solvers import DDNM, DDS

from ..make.posteriors import Dense, measured, single_coil
from .expectations import LADDER


def test_dds_limits():
    """gamma -> infinity with converged CG is DDNM; gamma -> 0 ignores the data."""
    prior, data, _ = measured(batch=2)
    noise = lambda: Noise([1, 2])  # noqa: E731
    hard = sample(DDS(gamma=1e9, sigma_scale=1.0, n_cg=50), prior, data, LADDER, noise=noise())
    ddnm = sample(DDNM(n_cg=50, eta=DDS().eta, kernel=DDS().kernel), prior, data, LADDER, noise=noise())
    assert torch.allclose(hard, ddnm, atol=1e-6)
    free = sample(DDS(gamma=1e-12), prior, data, LADDER, noise=noise())
    blind = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), data.y * 0, 0.1)
    assert torch.allclose(free, sample(DDS(), prior, blind, LADDER, noise=noise()), atol=1e-9)


def test_dds_level_is_what_the_prior_is_told():
    with pytest.raises(ValueError, match="sigma_scale"):
        DDS(sigma_scale=-1.0)
    prior, data, _ = measured(batch=2)
    scaled = sample(DDS(sigma_scale=1.4), prior, data, LADDER, noise=Noise([1, 2]))
    wrapped = sample(DDS(sigma_scale=1.0), lambda x, s: prior(x, 1.4 * s), data, LADDER, noise=Noise([1, 2]))
    assert torch.allclose(scaled, wrapped, atol=1e-12)


def test_dds_more_iterations_approach_the_exact_prox():
    prior, data, _ = measured(batch=2)
    runs = [sample(DDS(gamma=5.0, n_cg=k), prior, data, LADDER, noise=Noise([1, 2])) for k in (0, 1, 2, 3, 50)]
    errors = [float((run - runs[-1]).norm()) for run in runs]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-6  # three measurements: three iterations are exact


def test_dds_keeps_what_a_single_coil_does_not_see():
    """With a closed-form solve and no noise, the null space comes from the prior and is not zero."""
    prior, data, _ = single_coil()
    x = sample(DDS(), prior, data, LADDER, noise=Noise([1, 2]))
    y = sample(DDNM(), prior, data, LADDER, noise=Noise([1, 2]))
    null = x - data.A.pinv(data.A(x))
    assert null.norm() > 0.3 * (y - data.A.pinv(data.A(y))).norm() > 0
