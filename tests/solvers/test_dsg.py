"""DSG: the sphere of its steps."""

import torch

from medrecon.noise import Noise
from medrecon.priors import with_vjp
from medrecon.sample import sample
from medrecon.solvers import DSG
from medrecon.solvers.base import residual_norm_and_grad

from ..make.posteriors import SHAPE, measured
from .expectations import LADDER

DOUBLE = torch.float64


def test_dsg_stays_on_the_sphere():
    prior, data, _ = measured(batch=3)
    x, sigma, after = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE), 0.8, 0.5
    x0 = prior(x, sigma)
    mean = x0 + (after / sigma) ** 2 * (x - x0)
    r = after * (1 - (after / sigma) ** 2) ** 0.5 * 6**0.5
    for guidance in (0.0, 0.3, 1.0):
        z = DSG(guidance=guidance).step(x, sigma, after, prior=prior, data=data, noise=Noise([1, 2, 3]))
        assert torch.allclose((z - mean).flatten(1).norm(dim=1), torch.full((3,), r, dtype=DOUBLE))
        fresh = Noise([1, 2, 3]).like(x)
        if guidance == 0:
            assert torch.allclose(z - mean, r * fresh / fresh.flatten(1).norm(dim=1)[:, None, None])
        if guidance == 1:
            _, vjp = with_vjp(prior, x, sigma)
            slope = vjp(residual_norm_and_grad(x0, data)[1])
            assert torch.allclose(z - mean, -r * slope / slope.flatten(1).norm(dim=1)[:, None, None])
    sizes = [
        float(data.residual(sample(DSG(guidance=g), prior, data, LADDER, noise=Noise([1, 2, 3]))).norm())
        for g in (0.0, 0.1, 0.3)
    ]
    assert sizes == sorted(sizes, reverse=True)
