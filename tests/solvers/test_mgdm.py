"""MGDM: ablations, the equation of a step, refused settings."""

import pytest
import torch

from medrecon.noise import Noise
from medrecon.sample import sample
from medrecon.solvers import DDNM, DDS, MGDM
from medrecon.solvers.multistep import Multistep

from ..make.posteriors import SHAPE, measured
from .expectations import LADDER


def test_mgdm_ablations():
    """zeta = rho = 0 is DDS with gamma = 1 / lam; no outer level leaves nothing to refine; lam -> 0 is DDNM."""
    prior, data, _ = measured(batch=2)

    def run(solver):
        return sample(solver, prior, data, LADDER, noise=Noise([1, 2]))

    shared = {"eta": 0.85, "kernel": "ddnm", "n_cg": 50}
    plain = run(MGDM(zeta=0, rho=0, lam=0.2, **shared))
    assert torch.allclose(plain, run(DDS(gamma=5.0, sigma_scale=1.0, **shared)), atol=1e-9)
    assert torch.allclose(run(MGDM(zeta=0, rho=0, lam=1e-9, **shared)), run(DDNM(**shared)), atol=1e-6)
    assert torch.equal(run(MGDM(outer=False, rho=0.2)), run(MGDM(outer=False, rho=0.0)))  # nothing to refine
    full = run(MGDM(lam=0.2, **shared))
    for part in ({"zeta": 0.0}, {"rho": 0.0}, {"outer": False}):
        assert not torch.allclose(full, run(MGDM(lam=0.2, **shared | part)), atol=1e-6)


def test_mgdm_step_is_the_equation():
    """One step against the formula with an explicit Jacobian (a Gaussian's is symmetric and constant)."""
    prior, data, matrix = measured()
    x, sigma, after = torch.randn(1, *SHAPE, dtype=torch.float64), 0.8, 0.5
    solver = MGDM(zeta=0.3, rho=0.2, lam=0.05, eta=0.0, n_cg=50)
    found = solver.step(Multistep(x), sigma, after, prior=prior, data=data, noise=Noise(0)).x.flatten()
    J = prior.modes @ torch.diag(prior.variances / (prior.variances + sigma**2)) @ prior.modes.T
    x0 = prior(x, sigma).flatten()
    inner = torch.linalg.inv(matrix.T @ matrix + 0.05 * torch.eye(6))
    y = data.y[0]
    xt0 = x0 + 2 * 0.3 * (1 + sigma**2) ** 0.5 * J @ matrix.T @ (y - matrix @ x0)
    xe = inner @ (matrix.T @ y + 0.05 * xt0)

    def discrepancy(z):
        return (inner @ (matrix.T @ y + 0.05 * z) - z).square().sum()

    step = torch.func.grad(discrepancy)(xt0)  # d |xe - xt0|^2 / d xt0, by autograd
    expected = xe + after * (x.flatten() - x0) / sigma - 0.2 * ((1 + sigma**2) * (1 + after**2)) ** 0.5 * J @ step
    assert torch.allclose(found, expected, atol=1e-10)


def test_mgdm_refuses_steps_that_amplify_errors():
    with pytest.raises(ValueError, match="amplifies"):
        MGDM(zeta=0.0, rho=0.5)
    with pytest.raises(ValueError, match="amplifies"):
        MGDM(zeta=1.0, rho=0.1)
