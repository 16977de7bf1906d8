"""Score, noise estimate and vector-Jacobian product of a prior."""

import torch

from medrecon.priors import eps, score, with_vjp

from ..make.posteriors import SHAPE, measured
from ..make.priors import gaussian, noisy


def test_score_and_eps_are_tweedie():
    prior, x = gaussian(), noisy()
    n = prior.mean.numel()
    precision = torch.linalg.inv(prior.covariance + 0.49 * torch.eye(n, dtype=torch.float64))
    exact = -((x - prior.mean).flatten(1) @ precision).view_as(x)
    assert torch.allclose(score(prior, x, 0.7), exact, rtol=1e-8)
    assert torch.allclose(eps(prior, x, 0.7), -0.7 * exact, rtol=1e-8)


def test_with_vjp_is_what_guided_solvers_need():
    prior, _, _ = measured()
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        _, vjp = with_vjp(prior, x, 0.5)
        v = torch.randn_like(x)
        J = prior.modes @ torch.diag(prior.variances / (prior.variances + 0.25)) @ prior.modes.T
        assert torch.allclose(vjp(v).flatten(), J @ v.flatten(), atol=1e-12)
