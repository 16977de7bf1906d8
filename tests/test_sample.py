"""The one loop: what is checked before the first step, chunks, callbacks."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise
from medrecon.operators import Operator
from medrecon.sample import draw, draw_blind, sample, sample_blind
from medrecon.solvers import (
    DAPS,
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
from medrecon.solvers.tds import TDS

from .make.blind import unknown_gain
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


GAINS = torch.tensor([1.3, 0.8, 1.0], dtype=DOUBLE)


@pytest.mark.parametrize("solver", [DDS(eta=0.5), DPS(), DAPS()])
def test_unknown_parameters_are_estimated_between_the_levels(solver):
    prior, data, _ = unknown_gain(GAINS)
    made = sample_blind(solver, prior, data, LADDER, noise=Noise([0, 1, 2]))
    assert made.data.updates == len(LADDER) - 2  # before every step but the first
    # The gain fits the prior's last estimate by least squares; the image moves little in the last step.
    again = made.data.updated(made.x, 0.0).parameters["gain"]
    assert (again / made.data.parameters["gain"] - 1).abs().max() < 0.1
    if isinstance(solver, DDS):
        kept = sample(solver, prior, replace(data, y=data.y.clone()), LADDER, noise=Noise([0, 1, 2]))
        assert torch.equal(kept, made.x)  # both functions are one loop


def test_parameters_of_an_item_do_not_depend_on_the_others():
    prior, data, _ = unknown_gain(GAINS)
    made = sample_blind(DDS(), prior, data, LADDER, noise=Noise([5, 6, 7]))
    _, alone, _ = unknown_gain(GAINS)
    gain = alone.A.gain[1:2]
    one = replace(alone.with_parameters({"gain": gain}), y=alone.y[1:2])
    single = sample_blind(DDS(), prior, one, LADDER, noise=Noise([6]))
    assert (single.x - made.x[1:2]).abs().max() < 1e-12
    assert (single.data.parameters["gain"] - made.data.parameters["gain"][1]).abs() < 1e-12


def test_samples_have_parameters_of_their_own_and_their_mean_is_returned():
    prior, data, _ = unknown_gain(GAINS[:1])
    two = draw_blind(DDS(), prior, data, LADDER, seeds=[3, 4])
    each = [sample_blind(DDS(), prior, data, LADDER, noise=Noise([seed])) for seed in (3, 4)]
    assert torch.equal(two.x, torch.stack([one.x for one in each]))
    gains = [one.data.parameters["gain"] for one in each]
    assert not torch.equal(*gains)
    assert torch.allclose(two.data.parameters["gain"], (gains[0] + gains[1]) / 2, rtol=0, atol=1e-15)


def test_a_solver_that_estimates_parameters_itself_is_left_alone():
    class Own(DDS):
        estimates_parameters = True

        def final_data(self, state, data):
            return data.with_parameters({"gain": data.parameters["gain"] + 41})

    prior, data, _ = unknown_gain(GAINS)
    made = sample_blind(Own(), prior, data, LADDER, noise=Noise([0, 1, 2]))
    assert made.data.updates == 0
    assert torch.equal(made.data.parameters["gain"], torch.full((3,), 42.0, dtype=DOUBLE))


def test_particles_refuse_unknown_parameters():
    prior, data, _ = unknown_gain(GAINS[:1])
    with pytest.raises(TypeError, match="TDS weighs particles by one likelihood, and Gain has unknown parameters"):
        sample(TDS(), prior, data, LADDER, noise=Noise([0]))
