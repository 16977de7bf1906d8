"""ILVR: the level at which it stops."""

import torch

from medrecon.noise import Noise
from medrecon.sample import generate, sample
from medrecon.solvers import DDPM, ILVR

from ..make.posteriors import single_coil
from .expectations import LADDER

DOUBLE = torch.float64


def test_ilvr_leaves_the_end_to_the_prior():
    prior, data, _ = single_coil()
    free = sample(ILVR(until=1e9), prior, data, LADDER, noise=Noise([1, 2]))
    plain = generate(prior, data.shape[1:], LADDER, seeds=[1, 2], solver=DDPM(), dtype=DOUBLE)
    assert torch.allclose(free, plain, atol=1e-12)
    some = sample(ILVR(until=0.5), prior, data, LADDER, noise=Noise([1, 2]))
    assert 1e-3 < float(data.residual(some).abs().max()) < float(data.residual(free).abs().max())
