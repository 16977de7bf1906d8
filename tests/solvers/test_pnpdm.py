"""PnP-DM: the smoothed law of one level."""

import pytest
import torch

from medrecon.sample import sample
from medrecon.solvers import PnPDM

from ..make.posteriors import SHAPE, SharedNoise, dense, distance, repeated

DOUBLE = torch.float64


@pytest.mark.slow
def test_pnpdm_reaches_its_smoothed_law():
    """At one level: p(x) N(y; A x, noise_std^2 + sigma^2 A A^T)."""
    rho, matrix = 0.3, dense()
    prior, data, _, _ = repeated(2000)
    gain = prior.covariance @ matrix.T
    inner = matrix @ gain + 0.05**2 * torch.eye(3, dtype=DOUBLE) + rho**2 * matrix @ matrix.T
    weigh = torch.linalg.solve(inner, gain.T).T
    mean = prior.mean.flatten() + weigh @ (data.y[0] - matrix @ prior.mean.flatten())
    covariance = prior.covariance - weigh @ matrix @ prior.covariance
    sigmas = torch.cat([torch.full((80,), rho, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])
    start = prior.mean.expand(2000, *SHAPE).contiguous()
    x = sample(PnPDM(n_inner=40), prior, data, sigmas, noise=SharedNoise(0), start=start)
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.04
    assert spread < 0.12
