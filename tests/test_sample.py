"""The one loop: what is checked before the first step, chunks, callbacks."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise
from medrecon.operators import Operator
from medrecon.sample import draw, sample
from medrecon.solvers import (
    DDIM,
    DDPM,
    DDRM,
    DDS,
    DPS,
    DPMSolver,
    Heun,
    Langevin,
    PiGDM,
    PredictorCorrector,
    REDDiff,
    ZeroFilled,
)

from .make.posteriors import SHAPE, gaussian_prior, measured
from .solvers.expectations import LADDER, SINGLE_LEVEL

DOUBLE = torch.float64


def test_requirements_are_checked_before_the_first_step():
    class Square(Operator):
        def forward(self, x):
            return x**2

    prior = gaussian_prior()
    data = Gaussian(Square(), torch.ones(1, *SHAPE, dtype=torch.float64), 0.1, image_shape=(1, *SHAPE))
    with pytest.raises(TypeError, match=r"DDS.*LinearOperator.*Square.*DPS"):
        sample(DDS(), prior, data, LADDER, noise=Noise(0))
    _, linear, _ = measured()
    with pytest.raises(TypeError, match="DDS needs a prior"):
        sample(DDS(), None, linear, LADDER, noise=Noise(0))
    with pytest.raises(ValueError, match="two levels"):
        sample(DDS(), prior, linear, torch.tensor([1.0]), noise=Noise(0))
    assert sample(ZeroFilled(), None, linear, SINGLE_LEVEL, noise=Noise(0)).shape == (1, *SHAPE)


def test_unconditional_samplers_refuse_data_and_others_their_absence():
    prior, data, _ = measured()
    for solver in (Heun(), DDPM(), DPMSolver(), PredictorCorrector(), Langevin()):
        with pytest.raises(TypeError, match="prior alone; choose a solver that takes data"):
            sample(solver, prior, data, LADDER, noise=Noise(0))
    nothing = NoData(torch.empty(0, dtype=DOUBLE), (1, *SHAPE))
    for solver in (DPS(), PiGDM(), DDIM(eta=1.0)):
        if isinstance(solver, DDIM):
            assert sample(solver, prior, nothing, LADDER, noise=Noise(0)).isfinite().all()
            continue
        with pytest.raises(TypeError, match="needs"):
            sample(solver, prior, nothing, LADDER, noise=Noise(0))
    with pytest.raises(ValueError, match="REDDiff computes its own initial estimate"):
        sample(REDDiff(), prior, data, LADDER, noise=Noise(0), start=torch.zeros(1, *SHAPE, dtype=DOUBLE))
    with pytest.raises(TypeError, match="DDRM needs a Spectral"):
        sample(DDRM(), prior, data, LADDER, noise=Noise(0))


def test_a_ladder_is_one_row():
    prior, data, _ = measured()
    for sigmas in (torch.ones(1), torch.ones(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="at least two levels in one row"):
            sample(DDS(), prior, data, sigmas, noise=Noise(0))


def test_draw_does_not_depend_on_the_chunk():
    prior, data, _ = measured()
    whole = draw(DDS(), prior, data, LADDER, seeds=[3, 4, 5], chunk=3)
    parts = draw(DDS(), prior, data, LADDER, seeds=[3, 4, 5], chunk=2)
    assert whole.shape == (3, 1, *SHAPE)
    assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(whole[0], whole[1])
    prior, data, _ = measured(batch=2)
    both = draw(DDS(), prior, data, LADDER, seeds=[[3, 9], [4, 8]])
    alone = draw(DDS(), prior, replace(data, y=data.y[:1]), LADDER, seeds=[3, 4])
    assert torch.allclose(both[:, :1], alone, rtol=1e-9, atol=1e-12)


def test_callback_sees_every_step():
    prior, data, _ = measured()
    seen = []
    sample(DDS(), prior, data, LADDER, noise=Noise(0), callback=lambda i, n, s, x: seen.append((i, n, s)))
    assert [row[0] for row in seen] == list(range(60))
    assert {row[1] for row in seen} == {60}
    assert [row[2] for row in seen] == LADDER[1:].tolist()
