"""Multistep solvers: order, the first-order method, the formula of a step, history, batches, precision."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras, time_travel
from medrecon.sample import sample
from medrecon.solvers import DDNM, DDS, MGDM, DiffPIR
from medrecon.solvers.base import add_noise, renoise
from medrecon.solvers.multistep import Multistep

from ..make.posteriors import SHAPE, Dense, gaussian_prior, measured

DOUBLE = torch.float64
ALL = [DDS, DDNM, MGDM, DiffPIR]
DETERMINISTIC = {
    "dds": DDS(eta=0.0, sigma_scale=1.0, n_cg=0),
    "dds, ddim": DDS(eta=0.0, sigma_scale=1.0, n_cg=0, kernel="ddim"),
    "ddnm": DDNM(eta=0.0, n_cg=0),
    "mgdm": MGDM(eta=0.0, zeta=0.0, rho=0.0, n_cg=0),
}


def start(batch=4):
    return 10 * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def geometric(n, first=10.0, last=0.1):
    return torch.linspace(math.log(first), math.log(last), n + 1, dtype=DOUBLE).exp()


def orders(errors):
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize(("extrapolation", "order"), [(0.0, 1), (1.0, 2)])
def test_order_without_data(name, extrapolation, order):
    """Without a correction the deterministic form integrates the probability-flow ODE, whose solution scales every mode.

    Halving steps divides the error by 2^order; 0.35 is what terms of higher order leave at 40 steps.
    """
    prior, solver = gaussian_prior(), replace(DETERMINISTIC[name], extrapolation=extrapolation)
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=DOUBLE)), torch.zeros(4, 3, dtype=DOUBLE), 0.1)
    c = (start() - prior.mean).flatten(1) @ prior.modes
    c = c * ((prior.variances + 0.1**2) / (prior.variances + 10.0**2)).sqrt()
    exact = prior.mean + (c @ prior.modes.T).view_as(start())
    runs = [sample(solver, prior, data, geometric(n), noise=Noise(range(4)), start=start()) for n in (40, 80, 160)]
    for found in orders([float((x - exact).norm()) for x in runs]):
        assert abs(found - order) < 0.35


@pytest.mark.parametrize(("extrapolation", "order"), [(0.0, 1), (1.0, 2)])
def test_order_with_data(extrapolation, order):
    """DiffPIR without fresh noise integrates ``dx / d sigma = (x - xe) / sigma``; the reference takes 1280 steps."""
    prior, data, _ = measured(batch=4)

    def run(n, weight):
        solver = DiffPIR(fresh_noise_fraction=0.0, n_cg=6, extrapolation=weight)
        return sample(solver, prior, data, geometric(n), noise=Noise(range(4)), start=start())

    reference = run(1280, 1.0)
    for found in orders([float((run(n, extrapolation) - reference).norm()) for n in (20, 40, 80)]):
        assert abs(found - order) < 0.35


@pytest.mark.parametrize("solver", ALL)
def test_a_step_is_the_equation(solver):
    """Two steps with fresh noise, against the formula written out; the first is of first order."""
    prior, data, _ = measured(batch=2)
    levels = (0.9, 0.5, 0.3)
    plain, second = solver(), solver(extrapolation=0.8)
    more = {"prior": prior, "data": data}
    one = second.step(Multistep(start(2)), *levels[:2], noise=Noise([1, 2]), **more)
    assert torch.equal(one.x, plain.step(Multistep(start(2)), *levels[:2], noise=Noise([1, 2]), **more).x)
    two = second.step(one, *levels[1:], noise=Noise([3, 4]), **more)
    first_order = plain.step(one, *levels[1:], noise=Noise([3, 4]), **more)
    weight = 0.8 * math.log(0.5 / 0.3) / (2 * math.log(0.9 / 0.5))
    ahead = weight * (two.estimate - one.estimate)
    if solver is DiffPIR:
        kept = 1 - 0.3 * (1 - plain.fresh_noise_fraction) ** 0.5 / 0.5
    else:
        kept = 1 - 0.3 * (1 - plain.eta**2) ** 0.5 / 0.5
    assert torch.allclose(two.x, first_order.x + kept * ahead, atol=1e-12)
    assert torch.equal(two.estimate, first_order.estimate)


def test_dds_is_sde_dpm_solver_2m():
    """With DDIM's kernel and eta = 1, without data: ``x' = r^2 x + (1 - r^2) (x0 + D / 2) + sigma' sqrt(1 - r^2) z``."""
    prior = gaussian_prior()
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=DOUBLE)), torch.zeros(2, 3, dtype=DOUBLE), 0.1)
    solver = DDS(sigma_scale=1.0, kernel="ddim", eta=1.0, extrapolation=1.0)
    before, x = prior(start(2), 0.9), 0.1 * start(2)
    found = solver.step(Multistep(x, before, 0.9), 0.5, 0.3, prior=prior, data=data, noise=Noise([1, 2])).x
    x0, r = prior(x, 0.5), 0.3 / 0.5
    slope = (x0 - before) * math.log(1 / r) / math.log(0.9 / 0.5)
    noise = 0.3 * (1 - r**2) ** 0.5 * Noise([1, 2]).like(x)
    assert torch.allclose(found, r**2 * x + (1 - r**2) * (x0 + slope / 2) + noise, atol=1e-12)


@pytest.mark.parametrize("solver", ALL)
def test_without_extrapolation_the_bits_are_those_of_the_paper(solver):
    """The history has no effect on a single bit, in either precision; the default is the paper's method."""
    prior, data, _ = measured(batch=2, dtype=torch.float32)
    x = start(2).float()
    more = {"prior": prior, "data": data}
    remembered = Multistep(x, torch.full_like(x, torch.nan), 0.9)
    one, two = (solver().step(s, 0.5, 0.3, noise=Noise([1, 2]), **more).x for s in (Multistep(x), remembered))
    assert torch.equal(one, two) and one.dtype == torch.float32
    assert solver().extrapolation == 0


def test_dds_of_first_order_is_the_formula():
    prior, data, _ = measured(batch=2, dtype=torch.float32)
    x, solver = start(2).float(), DDS(eta=0.7)
    x0 = prior(x, 1.3 * 0.5)
    xe = data.fit(x0, 0.2 * 0.05**2 / 0.5**2, 10)
    expected = renoise(xe, (x - x0) / 0.5, 0.5, 0.3, 0.7, Noise([1, 2]), "ddnm")
    assert torch.equal(solver.step(Multistep(x), 0.5, 0.3, prior=prior, data=data, noise=Noise([1, 2])).x, expected)


@pytest.mark.parametrize("solver", ALL)
def test_rising_and_repeated_levels_drop_the_history(solver):
    """Time travel must not extrapolate across a rise, and a level that occurs twice has no slope."""
    prior, data, _ = measured()
    second = solver(extrapolation=1.0)
    more = {"prior": prior, "data": data}
    state = second.step(Multistep(start(1)), 0.9, 0.5, noise=Noise(0), **more)
    risen = second.increase_noise(state, 0.5, 0.7, noise=Noise(1))
    assert risen.estimate is None and torch.equal(risen.x, add_noise(state.x, 0.5, 0.7, Noise(1)))
    same = second.step(Multistep(state.x, state.estimate, 0.5), 0.5, 0.3, noise=Noise(2), **more)
    assert torch.equal(same.x, solver().step(Multistep(state.x), 0.5, 0.3, noise=Noise(2), **more).x)
    travelled = time_travel(karras(2.0, 0.05, 8), 2, 3)
    assert torch.isfinite(sample(second, prior, data, travelled, noise=Noise(0))).all()


@pytest.mark.parametrize("solver", ALL)
def test_a_batch_is_its_items(solver):
    prior, data, _ = measured(batch=3)
    ladder, second = karras(2.0, 0.01, 12), solver(extrapolation=1.0)
    levels = torch.tensor([0.02, 0.2, 0.05], dtype=DOUBLE)
    together = sample(second, prior, replace(data, noise_std=levels), ladder, noise=Noise([1, 2, 3]))
    for i in range(3):
        one = replace(data, y=data.y[i : i + 1], noise_std=levels[i : i + 1])
        alone = sample(second, prior, one, ladder, noise=Noise([1 + i]))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-9)  # round-off of solves in a batch


@pytest.mark.parametrize("solver", ALL)
def test_single_precision(solver):
    """Float32 follows float64: 24 steps of round-off, each a few 1e-7, amplified at most tenfold by a solve."""
    second, ladder = solver(extrapolation=1.0), karras(2.0, 0.01, 24)
    noise = Noise([1, 2])((2, *SHAPE), DOUBLE) * 2
    runs = []
    for dtype in (torch.float32, DOUBLE):
        prior, data, _ = measured(batch=2, dtype=dtype)
        plain = {"eta": 0.0} if solver is not DiffPIR else {"fresh_noise_fraction": 0.0}
        run = sample(replace(second, **plain), prior, data, ladder, noise=Noise([1, 2]), start=noise.to(dtype))
        assert run.dtype == dtype
        runs.append(run.double())
    assert torch.allclose(*runs, atol=1e-4)
