"""Tweedie's formulas against conjugate priors, whose marginal densities and posteriors are known in closed form."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, lgamma
from torch.special import digamma

from medrecon.priors import tweedie

DOUBLE = torch.float64
A, B = 2.3, 0.7


class Case(NamedTuple):
    """Data, ``log p(y)`` up to a constant, the formula, and the posterior functional that it must return."""

    y: Tensor
    log_marginal: object
    formula: object
    expected: object


def numbers(*values):
    return torch.tensor(values, dtype=DOUBLE)


COUNTS = torch.arange(0, 60, 7, dtype=DOUBLE)
POSITIVE = torch.linspace(0.05, 6.0, 9, dtype=DOUBLE)
SHAPE, RATE = 4.5, 3.0

CASES = {
    # x ~ N(0.3, 1.7), y | x ~ N(x, 0.6^2)
    "gaussian": Case(
        torch.linspace(-4, 4, 9, dtype=DOUBLE),
        lambda y: -((y - 0.3) ** 2) / (2 * (1.7 + 0.36)),
        lambda y, s: tweedie.gaussian(y, s, 0.6),
        lambda y: 0.3 + 1.7 / (1.7 + 0.36) * (y - 0.3),
    ),
    # x ~ Gamma(A, rate B), y | x ~ Poisson(x): the posterior is Gamma(y + A, 1 + B)
    "poisson": Case(
        COUNTS,
        lambda y: lgamma(y + A) - lgamma(y + 1) - y * math.log(1 + B),
        tweedie.poisson,
        lambda y: (digamma(y + A) - math.log(1 + B)).exp(),
    ),
    # The same with counts of 0.25 each: z = 4 y, rate x / 0.25.
    "scaled poisson": Case(
        COUNTS / 4,
        lambda y: lgamma(4 * y + A) - lgamma(4 * y + 1) - 4 * y * math.log(1 + B),
        lambda y, s: tweedie.poisson(y, s, 0.25),
        lambda y: 0.25 * (digamma(4 * y + A) - math.log(1 + B)).exp(),
    ),
    # x ~ inverse Gamma(A, B), y | x ~ Gamma(SHAPE, rate RATE / x): the posterior is inverse Gamma(A + SHAPE, B + RATE y)
    "gamma": Case(
        POSITIVE,
        lambda y: (SHAPE - 1) * y.log() - (A + SHAPE) * (B + RATE * y).log(),
        lambda y, s: tweedie.gamma(y, s, SHAPE, RATE),
        lambda y: (B + RATE * y) / (A + SHAPE),
    ),
    # x ~ Beta(A, B), y | x ~ Bernoulli(x): the posterior is Beta(A + y, B + 1 - y)
    "bernoulli": Case(
        numbers(0, 0.4, 1),
        lambda y: lgamma(A + y) + lgamma(B + 1 - y),
        lambda y, s: tweedie.bernoulli(s),
        lambda y: (digamma(A + y) - digamma(B + 1 - y)).sigmoid(),
    ),
    # x ~ Gamma(A, rate B), y | x exponential of rate x: the posterior is Gamma(A + 1, B + y)
    "exponential": Case(
        POSITIVE,
        lambda y: -(A + 1) * (B + y).log(),
        lambda y, s: tweedie.exponential(s),
        lambda y: (A + 1) / (B + y),
    ),
}  # fmt: skip


def score_of(log_density, y):
    y = y.detach().requires_grad_()
    return torch.autograd.grad(log_density(y).sum(), y)[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tweedie_equals_the_conjugate_posterior(case):
    score = score_of(case.log_marginal, case.y)
    expected = case.expected(case.y)
    found = case.formula(case.y, score)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    # The other sign of the score is another estimator.
    assert not torch.allclose(case.formula(case.y, -score), expected, rtol=1e-3)


def test_functionals_are_what_the_docstrings_say():
    """By quadrature over the posterior, not by its closed form: geometric, harmonic and logit mean."""
    x = torch.linspace(-14, 6, 40_001, dtype=DOUBLE).exp()  # even in log x, so dx = x du
    y = numbers(3.0)
    posterior = x**A * (-B * x).exp() * x**3 * (-x).exp()
    found = CASES["poisson"].formula(y, score_of(CASES["poisson"].log_marginal, y))
    assert torch.allclose(found, ((posterior * x.log()).sum() / posterior.sum()).exp(), rtol=1e-9)
    assert float(found) < float((posterior * x).sum() / posterior.sum())  # Jensen

    posterior = x ** (-A) * (-B / x).exp() * x ** (-SHAPE) * (-RATE * y / x).exp()
    found = CASES["gamma"].formula(y, score_of(CASES["gamma"].log_marginal, y))
    assert torch.allclose(found, posterior.sum() / (posterior / x).sum(), rtol=1e-9)

    u = torch.linspace(-60, 60, 40_001, dtype=DOUBLE)  # logit x, so dx = x (1 - x) du
    posterior = u.sigmoid() ** (A + 1) * (-u).sigmoid() ** B
    one = numbers(1.0)
    found = CASES["bernoulli"].formula(one, score_of(CASES["bernoulli"].log_marginal, one))
    assert torch.allclose(found, ((posterior * u).sum() / posterior.sum()).sigmoid(), rtol=1e-9)


def test_the_error_of_the_approximate_poisson_formula_is_as_stated():
    z = torch.cat([torch.arange(0, 40, dtype=DOUBLE), torch.linspace(0, 3, 50, dtype=DOUBLE)])
    score = torch.linspace(-0.4, 0.4, len(z), dtype=DOUBLE)
    exact, approximate = (f(z / 7, 7 * score, 1 / 7) for f in (tweedie.poisson, tweedie.poisson_approximate))
    gap = (exact / approximate).log()
    assert (gap > 0).all()
    assert (gap < 1 / (24 * (z + 0.5) ** 2)).all()
    missing = (1 - approximate / exact)[[0, 1, 10]]
    assert torch.allclose(missing, numbers(0.109, 0.0172, 0.00038), rtol=0.01)


def normal_gamma(m=0.4, kappa=0.8):
    """``1 / sigma^2 ~ Gamma(A, rate B)``, ``x ~ N(m, sigma^2 / kappa)``: log p(y_1, ..., y_n) and both posterior means."""

    def rate(y):
        n = y.shape[0]
        centre = ((y - y.mean(0)) ** 2).sum(0)
        return B + centre / 2 + kappa * n * (y.mean(0) - m) ** 2 / (2 * (kappa + n))

    def log_marginal(y):
        return -(A + y.shape[0] / 2) * rate(y).log()

    def expected(y):
        n = y.shape[0]
        precision = (A + n / 2) / rate(y)
        return (kappa * m + n * y.mean(0)) / (kappa + n) * precision, precision

    return log_marginal, expected


@pytest.mark.parametrize(("n", "dim"), [(2, 0), (3, 0), (5, 1)])
def test_gaussian_of_unknown_variance_equals_the_normal_gamma_posterior(n, dim):
    log_marginal, expected = normal_gamma()
    y = torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    score = score_of(log_marginal, y)
    found = tweedie.gaussian_unknown_variance(y.movedim(0, dim), score.movedim(0, dim), dim)
    scaled_mean, precision = expected(y)
    assert torch.allclose(found.scaled_mean, scaled_mean, rtol=1e-10)
    assert torch.allclose(found.precision, precision, rtol=1e-10)
    assert torch.allclose(found.mean, scaled_mean / precision, rtol=1e-10)
    assert not torch.allclose(tweedie.gaussian_unknown_variance(y, -score).precision, precision, rtol=1e-3)


def test_one_measurement_needs_the_precision():
    log_marginal, expected = normal_gamma()
    y = torch.linspace(-3, 3, 7, dtype=DOUBLE)[None]
    scaled_mean, precision = expected(y)
    found = tweedie.gaussian(y[0], score_of(log_marginal, y)[0], precision**-0.5)
    assert torch.allclose(found, scaled_mean / precision, rtol=1e-10)
    with pytest.raises(ValueError, match="give at least two along dim"):
        tweedie.gaussian_unknown_variance(y, y)


def test_parameters_are_numbers_or_one_per_item():
    y = torch.rand(3, 2, 5, 7, dtype=DOUBLE) + 0.1
    score = torch.randn(3, 2, 5, 7, dtype=DOUBLE) / 10
    level = numbers(0.5, 2.0, 9.0)
    for f in (tweedie.gaussian, tweedie.poisson, tweedie.poisson_approximate):
        each = torch.cat([f(y[i : i + 1], score[i : i + 1], float(level[i])) for i in range(3)])
        assert torch.allclose(f(y, score, level), each, rtol=1e-12)
    each = torch.cat([tweedie.gamma(y[i : i + 1], score[i : i + 1], float(level[i]), 2.0) for i in range(3)])
    assert torch.allclose(tweedie.gamma(y, score, level, 2.0), each, rtol=1e-12)
