"""DiffusionMBIR: its step against the equations, and slices that inform each other."""

import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors import slicewise
from medrecon.solvers import MBIR
from medrecon.solvers.admm import z_step

from ..make.posteriors import Dense, dense, gaussian_prior

DOUBLE = torch.float64
SHAPE = (2, 4, 3, 3)


def problem():
    A = Dense(dense(30, 72, seed=3), SHAPE)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return slicewise(gaussian_prior((2, 3, 3))), Gaussian(A, A(0.5 * x), 0.05), x


def test_step_is_admm_between_prior_and_predictor():
    """Without correctors: one iteration from the clean estimate, then the ancestral step with the noise that x had."""
    prior, data, x = problem()
    solver = MBIR(n_corrector=0, prior_weight=0.5, n_cg=3, strength=0.5, threshold=0.05)
    settings = {"strength": 0.5, "threshold": 0.05, "n_cg": 3}
    start = solver.init(x, 1.0, prior=prior, data=data, noise=Noise([1, 2]))
    found = solver.step(start, 0.8, 0.4, prior=prior, data=data, noise=Noise([1, 2]))
    x0, z = prior(x, 0.8), Noise([1, 2]).like(x)
    xe, variables = z_step(x0, data, 0.5 * 0.05**2 / 0.8**2, None, **settings)
    kappa = (1 - 0.5**2) ** 0.5
    assert torch.allclose(found.x, xe + 0.4 * (0.5 * (x - x0) / 0.8 + kappa * z), atol=1e-12)
    assert torch.equal(found.variables.u, variables.u)
    after = solver.step(found, 0.4, 0.0, prior=prior, data=data, noise=Noise([3, 4]))
    expected, _ = z_step(prior(found.x, 0.4), data, 0.5 * 0.05**2 / 0.4**2, variables, **settings)
    assert torch.equal(after.x, expected)


def test_correctors_come_first_and_keep_the_level():
    """A corrector of large snr replaces the noise: x0 + sigma z, of which the predictor then starts."""
    prior, data, x = problem()
    state = MBIR().init(x, 1.0, prior=prior, data=data, noise=Noise([1, 2]))
    seen = []

    def watched(x, sigma):
        seen.append(x)
        return prior(x, sigma)

    MBIR(n_corrector=2, snr=10.0).step(state, 1.0, 0.4, prior=watched, data=data, noise=Noise([1, 2]))
    noise = Noise([1, 2])
    assert len(seen) == 3
    assert torch.allclose(seen[1], prior(x, 1.0) + noise.like(x), atol=1e-9)
    assert torch.allclose(seen[2], prior(seen[1], 1.0) + noise.like(x), atol=1e-9)
