"""TDS: the twist and the weights against their definitions; test_smc.py has the laws."""

import pytest
import torch

from medrecon.noise import Noise, karras
from medrecon.sample import draw_particles
from medrecon.solvers import TDS, TDSIsotropic
from medrecon.solvers.smc import log_normal

from ..make.posteriors import SHAPE, dense, repeated

DOUBLE = torch.float64


@pytest.mark.parametrize("solver", [TDS(n_cg=10), TDS(n_cg=1), TDSIsotropic()])
def test_weights_of_tds_by_definition(solver):
    """``N(x'; m, v) / N(x'; m + shift, v)`` by their densities, and the twist by its matrix; a truncated solve is a twist too."""
    prior, data, _, _ = repeated(3)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    sigma, after = 0.4, 0.3
    state = solver.init(x, sigma, prior=prior, data=data, noise=Noise([0], 3))
    twist = solver.look(state, sigma, after, prior=prior, data=data)
    moved, ratio = solver.move(twist, state.path, sigma, after, data=data, noise=Noise([0], 3))
    kept, x0 = (after / sigma) ** 2, prior(x, sigma)
    variance = torch.tensor(after**2 * (1 - kept), dtype=DOUBLE)
    free = x0 + kept * (x - x0)
    z = Noise([0], 3).like(x)
    guided = moved - variance.sqrt() * z
    assert torch.allclose(ratio, log_normal(moved - free, variance) - log_normal(moved - guided, variance), atol=1e-10)
    if solver.n_cg == 1:
        return
    jacobian = prior.covariance @ torch.linalg.inv(prior.covariance + sigma**2 * torch.eye(6, dtype=DOUBLE))
    spread = sigma**2 * jacobian
    if isinstance(solver, TDSIsotropic):
        spread = sigma**2 * 0.25 / (sigma**2 + 0.25) * torch.eye(6, dtype=DOUBLE)
    matrix = dense()
    missing = data.y - x0.flatten(1) @ matrix.T
    weighed = torch.linalg.solve(matrix @ spread @ matrix.T + 0.05**2 * torch.eye(3, dtype=DOUBLE), missing.T).T
    assert torch.allclose(twist.log_psi, -(missing * weighed).sum(1) / 2, rtol=1e-6)
    step = (sigma**2 - after**2) * weighed @ matrix @ jacobian
    assert torch.allclose((guided - free).flatten(1), step, atol=1e-6)


def test_the_covariance_of_the_prior_keeps_more_particles_than_white_noise():
    """At 60 levels; for this Gaussian prior the twist of TDS is p(y | x), the best one."""
    prior, data, _, _ = repeated(1)
    sizes = [
        sum(
            float(draw_particles(solver, prior, data, karras(20.0, 0.01, 60), seed=s, n_particles=64).ess.min())
            for s in range(4)
        )
        for solver in (TDS(), TDSIsotropic(image_std=0.2), TDS(n_cg=0))
    ]
    assert sizes[0] > 1.2 * sizes[1]
    assert sizes[2] < 0.2 * sizes[0]  # unguided particles, all of the same weight until the last step
