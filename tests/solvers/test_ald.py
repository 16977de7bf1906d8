"""Annealed Langevin dynamics (ALD, and SMRD's moves): noise that is left, limits, scale of the operator."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.sample import sample
from medrecon.solvers import ALD, SMRD, ALDRelative, Langevin

from ..make.posteriors import SHAPE, Dense, gaussian_prior, measured
from .expectations import LADDER

DOUBLE = torch.float64


@pytest.mark.parametrize("step_size", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("solver", [ALD, SMRD])
def test_annealed_langevin_leaves_the_noise_that_the_prior_assumes(solver, step_size):
    """The prior is a single image, so the rest is noise: of the level before the step, and of the next level after it.

    The noise of small steps, ``sqrt(2 step_size) sigma``, would leave ``1 + step_size^2 / 2`` times the level, and more.
    """
    sigma, shape = 0.5, (1, 10_000)
    blind = Gaussian(Dense(torch.zeros(3, 10_000, dtype=DOUBLE), shape), torch.zeros(8, 3, dtype=DOUBLE), 0.1)
    common = {"prior": lambda x, s: torch.full_like(x, 0.3), "data": blind, "noise": Noise(range(8))}
    for n_inner, after in ((1, 0.45), (3, 0.45), (1, 0.5)):
        method = solver(step_size=step_size, n_inner=n_inner)
        state = method.init(0.3 + sigma * Noise(range(20, 28)).like(blind.adjoint_y), sigma, **common)
        x = method.output(method.step(state, sigma, after, **common))
        assert abs(float((x - 0.3).std()) / after - 1) < 0.01  # 80 000 numbers: standard error 0.25 %
        assert abs(float(x.mean()) - 0.3) < 0.01


def test_ald_without_data_is_langevin():
    """ALD and Langevin agree to first order in the step size."""
    prior = gaussian_prior()
    blind = Gaussian(Dense(torch.zeros(3, 6, dtype=DOUBLE)), torch.zeros(2, 3, dtype=DOUBLE), 0.1)
    for step_size in (1e-2, 1e-4):
        x, common = torch.ones(2, *SHAPE, dtype=DOUBLE), {"prior": prior, "data": blind}
        a, b = (
            f(step_size=step_size, n_inner=5).step(x, 0.7, 0.7, noise=Noise([1, 2]), **common) for f in (ALD, Langevin)
        )
        assert (a - b).abs().max() < step_size * (a - x).abs().max()
    a = sample(ALD(step_size=0.1, n_inner=5), prior, blind, LADDER, noise=Noise([1, 2]))
    _, data, _ = measured(batch=2)
    x, sigma = torch.ones(2, *SHAPE, dtype=DOUBLE), 0.7
    moved, free = (
        ALDRelative(weight=w, n_inner=1).step(x, sigma, 0.5, prior=prior, data=data, noise=Noise([1, 2]))
        for w in (2.0, 0.0)
    )
    slope, towards = (prior(x, sigma) - x) / sigma**2, data.A.adjoint(data.residual(x))
    size = lambda v: v.flatten(1).norm(dim=1)[:, None, None]  # noqa: E731
    assert torch.allclose(moved - free, 0.2 * sigma**2 * 2.0 * size(slope) / size(towards) * towards)
    # Nothing measured, and no noise: the prior alone, and no division by zero.
    nothing = sample(ALD(step_size=0.1, n_inner=5), prior, replace(blind, noise_std=0.0), LADDER, noise=Noise([1, 2]))
    assert torch.allclose(nothing, a, atol=1e-12)


def test_ald_does_not_depend_on_the_scale_of_the_operator():
    """A CT operator is hundreds of times larger than one of MRI; the images must be the same."""
    prior, data, matrix = measured(batch=2)
    large = Gaussian(Dense(300 * matrix), 300 * data.y, 300 * data.noise_std)
    a, b = (sample(ALD(), prior, d, LADDER, noise=Noise([1, 2])) for d in (data, large))
    assert torch.allclose(a, b, atol=1e-8)
