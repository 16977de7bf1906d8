"""Simulation-based calibration passes exact samplers and fails others: the test that benchmarks/sbc.py is made of has power."""

import numpy as np
import pytest
import torch

from medrecon.coverage import holm, truth_ranks, uniformity
from medrecon.likelihood import Gaussian
from medrecon.operators.spectral import Dense
from medrecon.sample import sample
from medrecon.solvers import DDNM, TMPD
from tests.make.posteriors import SHAPE, SharedNoise, dense, gaussian_prior

N, K, NOISE = 200, 19, 0.05


def simulated(seed):
    """Images of the prior ``(N, 6)`` and their data ``(N, 3)``."""
    prior, generator = gaussian_prior(), torch.Generator().manual_seed(seed)
    x = prior.mean.flatten() + normal(N, 6, generator) @ (prior.modes * prior.variances.sqrt()).T
    return prior, x, x @ dense().T + NOISE * normal(N, 3, generator), generator


def normal(n, m, generator):
    return torch.randn(n, m, generator=generator, dtype=torch.float64)


def exact(prior, y, generator, factor=1.0):
    """Samples ``(K, N, 6)`` of the posterior, their deviations multiplied by ``factor``."""
    _, covariance = prior.posterior(dense(), y[0], NOISE)
    mean = torch.stack([prior.posterior(dense(), one, NOISE)[0] for one in y])
    noise = normal(K * N, 6, generator) @ torch.linalg.cholesky(covariance).T
    return mean + factor * noise.view(K, N, 6)


def of_prior(prior, y, generator):
    noise = normal(K * N, 6, generator) @ (prior.modes * prior.variances.sqrt()).T
    return (prior.mean.flatten() + noise).view(K, N, 6)


def of_solver(solver, steps):
    def draw(prior, y, generator):
        data = Gaussian(Dense(dense(), SHAPE), y.repeat(K, 1), NOISE)
        return sample(solver, prior, data, solver.ladder(8.0, 0.005, steps), noise=SharedNoise(7)).reshape(K, N, 6)

    return draw


QUANTITIES = {
    "pixel": lambda x, y: x[..., 1],
    "mean": lambda x, y: x[..., :3].mean(-1),
    "log-likelihood": lambda x, y: -(y - x @ dense().T).square().sum(-1),
}


def smallest(draw, seed=0, quantities=QUANTITIES):
    """Smallest adjusted p-value."""
    prior, x, y, generator = simulated(seed)
    many = draw(prior, y, generator)
    p = []
    for one in quantities.values():
        found = uniformity(truth_ranks(one(x, y).numpy(), one(many, y).numpy()), K)
        p += found[1:]
    return holm(p).min()


def test_the_exact_posterior_passes():
    """Of ten seeds at level 0.05, more than three fail with probability 0.001 at most."""
    assert sum(smallest(exact, seed) < 0.05 for seed in range(10)) <= 3


def test_narrow_and_wide_samples_fail():
    """Also in every function alone."""
    for factor in (0.7, 1.4):
        for name, one in QUANTITIES.items():
            p = smallest(lambda *a, f=factor: exact(*a, f), quantities={name: one})
            assert p < 0.01, (factor, name, p)


def test_only_a_function_of_the_data_notices_that_they_are_ignored():
    """Truth and samples of the prior have one law, until the data are looked at."""
    blind = {name: QUANTITIES[name] for name in ("pixel", "mean")}
    assert min(smallest(of_prior, seed, blind) for seed in range(3)) > 0.01
    assert smallest(of_prior) < 1e-20


def test_a_solver_that_says_it_is_calibrated_passes_and_ddnm_fails():
    solver = TMPD(n_cg=20)
    assert solver.calibrated(solver.ladder(8.0, 0.005, 200))
    assert smallest(of_solver(solver, 200)) > 0.01
    assert smallest(of_solver(DDNM(eta=0.85), 100)) < 1e-10


# The parts


def test_ranks_count_smaller_samples_and_place_equal_ones_at_random():
    truth = np.array([0.5, 0.0, 9.0, 1.0])
    samples = np.array([[0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 1.0], [0.2, 3.0, 3.0, 0.0]])
    ranks = truth_ranks(truth, samples)
    assert list(ranks[:3]) == [2, 0, 3] and 1 <= ranks[3] <= 3
    same = truth_ranks(np.zeros(40_000), np.zeros((3, 40_000)))
    # Standard deviation of a frequency of 1/4: 0.0022.
    assert np.abs(np.bincount(same, minlength=4) / 40_000 - 0.25).max() < 0.011
    assert np.array_equal(same, truth_ranks(np.zeros(40_000), np.zeros((3, 40_000))))


def test_p_values_of_uniform_ranks_are_uniform():
    """Each is below 0.1 in a tenth of all cases: of 2000, standard deviation 0.0067."""
    rng = np.random.default_rng(0)
    found = [uniformity(rng.integers(0, 20, 200), 19) for _ in range(2000)]
    for name in ("chi_square", "mean", "spread"):
        assert abs(np.mean([getattr(one, name) < 0.1 for one in found]) - 0.1) < 0.03, name


def test_statistics_are_those_of_their_formulas():
    ranks = np.repeat(np.arange(4), [10, 20, 30, 40])
    found = uniformity(ranks, 3)
    assert list(found.counts) == [10, 20, 30, 40]
    # Chi-square 20 with 3 degrees of freedom; mean rank 2 instead of 1.5, of standard deviation sqrt(15 / 12 / 100).
    assert found.chi_square == pytest.approx(1.697e-4, rel=1e-3)
    assert found.mean == pytest.approx(7.744e-6, rel=1e-3)
    assert found.spread == pytest.approx(1.0)  # half of the ranks are outside, as many as of uniform ones
    assert list(uniformity(ranks, 3, 2).counts) == [30, 70]
    with pytest.raises(ValueError, match="3 bins do not divide"):
        uniformity(ranks, 3, 3)


def test_holm_by_hand():
    """Three values: 3 times the smallest, 2 times the next, never decreasing, at most 1."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.2]) == pytest.approx([0.9, 0.4])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_ranks_without_truths_are_counted_as_well():
    found = uniformity(np.zeros(100, int), 3)
    assert list(found.counts) == [100, 0, 0, 0]
    assert found.chi_square < 1e-60  # 300 with 3 degrees of freedom
