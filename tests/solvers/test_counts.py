"""Counts and magnitudes: every solver that an error message recommends for a noise model works, starting from noise."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian, Poisson, Rician, Transmission
from medrecon.noise import Noise, karras
from medrecon.operators import FiniteDifferences, Operator, ParallelBeam
from medrecon.operators.bridge import AsComplex
from medrecon.priors import GaussianPrior
from medrecon.sample import sample
from medrecon.solvers import DAPS, DDNM, DDS, DPS, SOLVERS, DAPSLangevin, DiffPIR

from ..make.posteriors import Dense
from .expectations import EXPECTED, make

DOUBLE = torch.float64


SIDE, BATCH = 8, 2
LADDER = karras(20.0, 0.01, 15)


def problem(law, dtype=DOUBLE):
    """``(prior, likelihood, truth)``: smooth images with many pixels near 0, where the Gaussian prior has negative values."""
    y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).double()
    covariance = 0.09 * (-(torch.cdist(places, places) ** 2) / 4.5).exp() + 1e-4 * torch.eye(SIDE**2, dtype=DOUBLE)
    mean = torch.where((y - 3.5) ** 2 + (x - 3.5) ** 2 < 10, 0.7, 0.02)[None].double()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(BATCH, SIDE**2, generator=generator, dtype=DOUBLE) @ torch.linalg.cholesky(covariance).T
    truth = (mean.flatten() + draws).clamp(min=0).view(BATCH, 1, SIDE, SIDE)
    beam = ParallelBeam(torch.linspace(0, 3.0, 7, dtype=DOUBLE)[:-1], (SIDE, SIDE), spacing=0.5, dtype=DOUBLE)
    A = Dense(beam(torch.eye(SIDE**2, dtype=DOUBLE).view(-1, 1, SIDE, SIDE)).flatten(1).T.contiguous(), (1, SIDE, SIDE))
    u = A(truth)

    def count(rate):
        return torch.poisson(rate, generator=generator)

    data = {
        "emission, many": lambda: Poisson(A, count(1000 * u), counts_per_unit=1000.0),
        "emission, few": lambda: Poisson(A, count(5 * u), counts_per_unit=5.0),
        "emission, background": lambda: Poisson(A, count(5 * u + 1), counts_per_unit=5.0, background=1.0),
        "transmission, many": lambda: Transmission(A, count(1e5 * (-u).exp()), photons=1e5),
        "transmission, few": lambda: Transmission(A, count(50 * (-u).exp()), photons=50.0),
        "transmission, scatter": lambda: Transmission(A, count(1e4 * (-u).exp() + 100), photons=1e4, background=100.0),
    }[law]()
    prior = GaussianPrior(mean.to(dtype), covariance.to(dtype))
    return prior, replace(data, A=A.to(dtype), y=data.y.to(dtype)), truth.to(dtype)


LAWS = ("emission, many", "emission, few", "emission, background", "transmission, many", "transmission, few",
        "transmission, scatter")  # fmt: skip
COUNTERS = {name: make(name, **row.counts) for name, row in EXPECTED.items() if row.counts is not None}


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("law", LAWS)
def test_counts_are_explained_from_a_start_of_noise(law, name):
    """The residual is that of counting noise, and the image is nearer to the truth than the prior mean is."""
    prior, data, truth = problem(law)
    x = sample(COUNTERS[name], prior, data, LADDER, noise=Noise(range(BATCH)))
    assert x.isfinite().all()
    chi = float((data.residual(x).square() / data.y.clamp(min=1)).mean().sqrt())
    assert chi < 1.3  # 288 counts; the truth has 1, the prior's mean 1.3 to 67
    error = (x - truth).square().mean() / (prior.mean - truth).square().mean()
    # A draw errs by twice the posterior's variance, of which five counts a unit leave 0.4 to 0.9 of the prior's.
    assert error < (0.12 if law.endswith(("many", "scatter")) else 1.4)


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("law", ["emission, few", "transmission, scatter"])
def test_a_batch_of_counts_equals_its_items_alone(law, name):
    """Up to the accuracy of 20 Newton steps."""
    prior, data, _ = problem(law)
    together = sample(COUNTERS[name], prior, data, LADDER, noise=Noise(range(BATCH)))
    alone = sample(COUNTERS[name], prior, replace(data, y=data.y[1:2]), LADDER, noise=Noise([1]))
    assert (together[1:2] - alone).abs().max() < 1e-3


@pytest.mark.parametrize("law", ["emission, many", "transmission, many"])
def test_counts_in_single_precision(law):
    prior, data, truth = problem(law, torch.float32)
    x = sample(DiffPIR(), prior, data, LADDER, noise=Noise(range(BATCH)))
    assert x.dtype == torch.float32
    assert (x - truth).square().mean() < 0.12 * (prior.mean - truth).square().mean()


def _advice(solver, data):
    with pytest.raises(TypeError) as refused:
        solver.check(data)
    return str(refused.value)


class Square(Operator):
    """Nonlinear."""

    def forward(self, x):
        return x**2


def test_whom_the_messages_recommend_for_a_law_runs():
    """For each noise model that a solver refuses, the recommended solvers give finite images with default settings."""
    prior, counts, _ = problem("emission, few")
    _, through, _ = problem("transmission, few")
    pairs = GaussianPrior(torch.full((2, 3), 0.5, dtype=DOUBLE), 0.09 * torch.eye(6, dtype=DOUBLE))
    magnitudes = Rician(AsComplexOnly(), torch.rand(2, 1, 3, dtype=DOUBLE) + 0.1, 0.1)
    for own, data in ((prior, counts), (prior, through), (pairs, magnitudes)):
        for refusing in SOLVERS.values():
            solver = refusing()
            if not solver.requires.prior or isinstance(data, solver.requires.likelihood):
                continue
            said = _advice(solver, data)
            if "draws images of the prior alone" in said or "needs a Spectral" in said or isinstance(solver, DAPS):
                continue
            assert said.endswith("which DPS or DiffPIR can work with"), said
        for solver in (DPS(), DiffPIR()):
            assert sample(solver, own, data, LADDER, noise=Noise(range(len(data.y)))).isfinite().all()
        assert _advice(DAPS(), data).endswith("choose DAPSLangevin (daps-langevin)")
        x = sample(DAPSLangevin(), own, data, LADDER[-8:], noise=Noise(range(len(data.y))))
        assert x.isfinite().all()


def test_whom_the_messages_recommend_for_an_operator_runs():
    prior = GaussianPrior(torch.full((1, 3), 0.5, dtype=DOUBLE), 0.09 * torch.eye(3, dtype=DOUBLE))
    square = Gaussian(Square(), torch.full((2, 1, 3), 0.3, dtype=DOUBLE), 0.05, image_shape=(2, 1, 3))
    assert _advice(DDS(), square).endswith("which DPS can work with")
    assert sample(DPS(), prior, square, LADDER, noise=Noise([0, 1])).isfinite().all()
    assert "choose DAPSLangevin (daps-langevin) with a step lr" in _advice(DAPS(), square)
    assert "give a step lr" in _advice(DAPSLangevin(), square)
    assert sample(DAPSLangevin(lr=1e-4), prior, square, LADDER, noise=Noise([0, 1])).isfinite().all()
    steps = FiniteDifferences([0])
    plain = Gaussian(steps, steps(square.y), 0.05)
    assert _advice(SOLVERS["ddrm"](), plain).endswith("which DDS or DDNM can work with")
    for solver in (DDS(), DDNM()):
        assert sample(solver, prior, plain, LADDER, noise=Noise([0, 1])).isfinite().all()


class AsComplexOnly(AsComplex):
    """The identity, as a complex measurement."""
