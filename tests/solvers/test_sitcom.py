"""SITCOM: the stopping rule and the weight of its input."""

from dataclasses import replace

import torch

from medrecon.noise import Noise
from medrecon.solvers import SITCOM

from ..make.posteriors import SHAPE, measured

DOUBLE = torch.float64


def test_sitcom_explains_the_data_and_no_more():
    prior, data, _ = measured(batch=2)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)

    def misfits(n):
        z = SITCOM(n_inner=n, lr=0.05).step(
            x, 0.5, 0.0, prior=prior, data=replace(data, noise_std=0.0), noise=Noise([1, 2])
        )
        return float(data.residual(z).norm())

    sizes = [misfits(n) for n in (1, 5, 20, 80)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.2 * sizes[0]
    clean, free = prior(x, 0.5), replace(data, noise_std=0.0)
    held = [
        float(
            (SITCOM(n_inner=40, lam=lam).step(x, 0.5, 0.0, prior=prior, data=free, noise=Noise([1, 2])) - clean).norm()
        )
        for lam in (1e-6, 1.0, 1e4)
    ]
    assert held == sorted(held, reverse=True)  # a larger lam moves the input less
    # An item that the noise explains is not moved; its neighbour is.
    levels = torch.tensor([100.0, 0.01], dtype=DOUBLE)
    z = SITCOM().step(x, 0.5, 0.0, prior=prior, data=replace(data, noise_std=levels), noise=Noise([1, 2]))
    assert torch.equal(z[:1], prior(x, 0.5)[:1])
    assert not torch.allclose(z[1:], prior(x, 0.5)[1:])
