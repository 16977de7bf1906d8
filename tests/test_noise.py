"""Noise ladders, time travel, and random numbers of single items."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras, time_travel, travelled, truncate_ladder
from medrecon.priors import Counted
from medrecon.sample import sample
from medrecon.solvers import DPS, SOLVERS

from .make.posteriors import Dense, SharedNoise, gaussian_prior, measured
from .solvers.expectations import fitted


def test_ladders():
    sigmas = karras(80.0, 0.002, 18)
    assert len(sigmas) == 19
    assert sigmas[-1] == 0
    assert torch.allclose(sigmas[[0, 17]], torch.tensor([80.0, 0.002], dtype=torch.float64))
    root = sigmas[:-1] ** (1 / 7)
    assert torch.allclose(root.diff(), root.diff().mean().expand(17))
    assert torch.equal(
        truncate_ladder(sigmas, 0.5), torch.cat([torch.tensor([0.5], dtype=torch.float64), sigmas[sigmas < 0.5]])
    )
    assert time_travel(torch.arange(5.0).flip(0), 2, 2).tolist() == [4, 3, 2, 4, 3, 2, 1, 0]
    assert time_travel(torch.arange(4.0).flip(0), 1, 1).tolist() == [3, 2, 1, 0]
    from monai.networks.schedulers import DDPMScheduler

    from medrecon.noise import from_betas

    schedule = DDPMScheduler(num_train_timesteps=1000)
    kept = schedule.alphas_cumprod.double().flip(0)
    assert torch.allclose(from_betas(schedule.betas)[:-1], ((1 - kept) / kept).sqrt(), rtol=1e-3)  # MONAI keeps float32


def test_time_travel_keeps_the_law():
    """Rising steps add exactly the missing noise: without data, going up and down keeps mean and variance."""
    prior = gaussian_prior()
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), torch.zeros(2000, 3, dtype=torch.float64), 0.05)
    sigmas = time_travel(karras(20.0, 0.01, 100), 25, 2)
    x = sample(DPS(zeta=0.0), prior, data, sigmas, noise=SharedNoise(0)).flatten(1)
    assert abs(float(x.var(0).sum() / prior.covariance.trace()) - 1) < 0.1


def test_time_travel_within_a_budget():
    """The finest ladder whose number of downward steps fits the budget; without repeats all of it is used."""
    for budget in (1, 2, 7, 20, 50, 100):
        for length, repeats in ((1, 1), (3, 4), (2, 8), (10, 10)):
            sigmas = travelled(20.0, 0.01, budget, length, repeats)
            falls, levels = int((sigmas.diff() < 0).sum()), len(sigmas.unique()) - 1
            assert 0.7 * budget <= falls <= budget
            assert torch.allclose(sigmas.unique().flip(0), karras(20.0, 0.01, levels))
            again = min(repeats, max(1, budget // (4 * length)))
            finer = time_travel(karras(20.0, 0.01, levels + 1), length, again)
            assert int((finer.diff() < 0).sum()) > budget
    prior, data, _ = measured(batch=1)
    counted, repaint = Counted(prior), SOLVERS["repaint"]()
    sigmas = repaint.ladder(20.0, 0.01, 50)
    assert (sigmas.diff() > 0).any()
    sample(repaint, counted, fitted("repaint", data), sigmas, noise=Noise(0))
    assert 40 <= counted.calls <= 50
    assert torch.equal(SOLVERS["repaint"](repeats=1).ladder(20.0, 0.01, 50), karras(20.0, 0.01, 50))
    assert len(SOLVERS["scoremri"]().ladder(20.0, 0.01, 50)) == 26  # two evaluations a step


def test_noise_has_one_stream_per_item():
    both = Noise([5, 6])((2, 3, 4), torch.float64)
    assert torch.equal(both[1:], Noise(6)((1, 3, 4), torch.float64))
    with pytest.raises(ValueError, match="streams"):
        Noise([1, 2])((3, 4), torch.float64)
    z = Noise(0).like(torch.zeros(1, 100_000, dtype=torch.complex128))
    assert abs(float(z.real.var()) - 1) < 0.02
    assert abs(float(z.imag.var()) - 1) < 0.02
