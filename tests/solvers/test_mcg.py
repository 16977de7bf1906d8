"""MCG: its limit is DPS, and the gradient moves only what is not measured."""

import torch

from medrecon.noise import Noise
from medrecon.sample import sample
from medrecon.solvers import DPS, MCG

from ..make.posteriors import SHAPE, measured
from .expectations import LADDER

DOUBLE = torch.float64


def test_mcg_without_projection_is_dps():
    prior, data, _ = measured(batch=2)
    a, b = (
        sample(solver, prior, data, LADDER, noise=Noise([1, 2]))
        for solver in (MCG(zeta=0.2, strength=0.0), DPS(zeta=0.2))
    )
    assert torch.equal(a, b)
    # With it, the gradient moves only what is not measured.
    sigma, x = 0.5, torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    with_step, without = (
        MCG(zeta=z, n_cg=30).step(x, sigma, 0.3, prior=prior, data=data, noise=Noise([1, 2])) for z in (0.2, 0.0)
    )
    assert not torch.allclose(with_step, without)
    assert data.A(with_step - without).abs().max() < 1e-10
