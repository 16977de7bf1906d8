"""Mean and variance of one step, coefficient by coefficient, of solvers that replace or noise the data."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.sample import sample
from medrecon.solvers import DDRM, ILVR, MCG, SOLVERS, DDNMPlus, RePaint

from ..make.posteriors import SHAPE, SharedNoise, dense, measured

DOUBLE = torch.float64
N = 5000
"""Items of one step: a standard deviation has a relative error of 1 %, a mean one of 1.4 % of the spread."""


def one_step(solver, sigma, after, noise_std=0.3, seed=0):
    """One step of ``N`` items with one ``y`` and a constant prior: spectral coefficients of ``x'``, estimate and data."""
    generator = torch.Generator().manual_seed(seed)
    A = SpectralDense(dense(), SHAPE)
    estimate = torch.randn(1, *SHAPE, generator=generator, dtype=DOUBLE)
    y = torch.randn(1, 3, generator=generator, dtype=DOUBLE)
    state = estimate + sigma * torch.randn(N, *SHAPE, generator=generator, dtype=DOUBLE)
    data = Gaussian(A, y.expand(N, -1), noise_std)
    x = solver.step(
        state, sigma, after, prior=lambda x, s: 0 * x + estimate.expand_as(x), data=data, noise=SharedNoise(0)
    )
    seen = (A.singular > 0).flatten()
    return A, data, A.vh(x)[:, seen], A.vh(estimate)[0, seen], (A.uh(y) / A.singular)[0, seen], A.singular[seen]


def test_repaint_noises_what_is_known():
    """Known coefficients are the data plus noise of the next level: 0.5, and 0 at the end."""
    _, _, found, _, c, _ = one_step(RePaint(), 1.0, 0.5)
    assert torch.allclose(found.mean(0), c, atol=0.03)
    assert torch.allclose(found.std(0), torch.full((3,), 0.5, dtype=DOUBLE), rtol=0.04)
    _, _, found, _, c, _ = one_step(RePaint(), 1.0, 0.0)
    assert torch.allclose(found, c.expand_as(found))


@pytest.mark.parametrize("solver", [ILVR(), MCG(zeta=0.0)], ids=["ilvr", "mcg"])
def test_what_is_exchanged_has_the_noise_of_the_next_level(solver):
    """``A x' = y + sigma' A z``: image noise is measured, so every coefficient has noise of the level."""
    _, _, found, _, c, _ = one_step(solver, 1.0, 0.5)
    assert torch.allclose(found.mean(0), c, atol=0.03)
    assert torch.allclose(found.std(0), torch.full((3,), 0.5, dtype=DOUBLE), rtol=0.04)


@pytest.mark.parametrize("solver", [DDRM(eta=0.6), DDNMPlus(eta=0.6)], ids=["ddrm", "ddnmplus"])
def test_data_noisier_than_the_level_pull_as_far_as_the_paper_says(solver):
    """``x0 + sigma' (0.8 (c - x0) / n + 0.6 z)`` below ``n = noise_std / s``; the whole of ``c`` above it."""
    after, noise_std = 0.2, 0.3
    _, _, found, estimate, c, s = one_step(solver, 1.0, after, noise_std)
    assert torch.allclose(found.mean(0), estimate + after * 0.8 * (c - estimate) * s / noise_std, atol=0.008)
    assert torch.allclose(found.std(0), torch.full((3,), 0.6 * after, dtype=DOUBLE), rtol=0.04)
    _, _, found, _, c, s = one_step(solver, 1.0, after, noise_std=0.05)
    assert torch.allclose(found.mean(0), c, atol=0.01)
    assert torch.allclose(found.std(0), (after**2 - (0.05 / s) ** 2).sqrt(), rtol=0.04)


@pytest.mark.parametrize("name", ["ddrm", "ddnmplus"])
@pytest.mark.parametrize("eta", [0.85, 0.95])
def test_more_steps_do_not_forget_the_data(name, eta):
    """The residual in noise levels stays below that of a posterior sample, 1; with eta = 1 it rose from 1.7 to 4."""
    prior, data, matrix = measured(batch=100, noise_std=0.1)
    data = replace(data, A=SpectralDense(matrix, SHAPE))
    for steps in (50, 1000):
        x = sample(SOLVERS[name](eta=eta), prior, data, karras(20.0, 0.01, steps), noise=SharedNoise(0))
        assert 0.1 < float(data.residual(x).square().mean().sqrt()) / 0.1 < 1.0
    with pytest.raises(ValueError, match=r"eta must be in \[0, 0.95\]; got 1"):
        SOLVERS[name](eta=1.0)
