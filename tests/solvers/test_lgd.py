"""LGD: its limit is DPS."""

import torch

from medrecon.noise import Noise
from medrecon.solvers import DPS, LGD

from ..make.posteriors import SHAPE, measured

DOUBLE = torch.float64


def test_lgd_with_no_spread_is_dps():
    prior, data, _ = measured(batch=2)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    common = {"prior": prior, "data": data}
    a = LGD(zeta=0.2, image_std=1e-6, n_draws=3).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    b = DPS(zeta=0.2).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    assert torch.allclose(a, b, atol=1e-5)
    # The step's scale, at a level that does not end the run: what zeta adds.
    adds = []
    for solver, plain in (
        (LGD(zeta=0.2, image_std=1e-6), LGD(zeta=0.0, image_std=1e-6)),
        (DPS(zeta=0.2), DPS(zeta=0.0)),
    ):
        one, zero = (s.step(x, 0.8, 0.5, noise=Noise([1, 2]), **common) for s in (solver, plain))
        adds.append(one - zero)
    assert torch.allclose(*adds, atol=1e-5)
    # A misfit averaged over a spread is smooth: the gradient of its norm is shorter.
    c = LGD(zeta=0.2, image_std=1.0, n_draws=500).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    assert (c - prior(x, 0.8)).norm() < (b - prior(x, 0.8)).norm()
