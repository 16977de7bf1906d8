"""Functions that solvers share: kernels, projections, proximal draws, gradients of the residual, kept variance."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from medrecon.likelihood import Gaussian, Poisson, Rician, Transmission
from medrecon.noise import Noise, karras, time_travel
from medrecon.operators import Weights, sense
from medrecon.priors import GaussianPrior
from medrecon.solvers import DDIM, FPS, MCG, PiGDM, ScoreMed, renoise
from medrecon.solvers.base import (
    data_weight,
    limit_step,
    probability_flow,
    project_on_data,
    residual_norm_and_grad,
    sample_prox,
    variance_kept,
)

from ..make.posteriors import SHAPE, Dense, SharedNoise, gaussian_prior, images_of_prior, measured

DOUBLE = torch.float64


def test_kernels():
    x0, x = torch.zeros(1, 1, 5, dtype=torch.float64), torch.ones(1, 1, 5, dtype=torch.float64)
    for kernel in ("ddim", "ddnm"):
        assert torch.equal(renoise(x0, x, 2.0, 0.0, 1.0, Noise(0), kernel), x0)
        assert torch.allclose(renoise(x0, x, 2.0, 1.0, 0.0, Noise(0), kernel), x0 + x)
    z = Noise(3).like(x)
    assert torch.allclose(renoise(x0, x, 2.0, 1.0, 0.8, Noise(3), "ddnm"), 0.6 * x + 0.8 * z)
    kappa = 0.8 * 0.75**0.5
    assert torch.allclose(renoise(x0, x, 2.0, 1.0, 0.8, Noise(3), "ddim"), (1 - kappa**2) ** 0.5 * x + kappa * z)
    with pytest.raises(ValueError, match="kernel"):
        renoise(x0, x, 2.0, 1.0, 0.8, Noise(0), "other")


def test_shares_between_their_ends():
    """A strength or eta of 0.5 (MCG, ScoreMed, PiGDM) differs from both 0 and 1."""
    prior, data, _ = measured(batch=2)
    for build in (lambda v: MCG(zeta=0.1, strength=v), lambda v: ScoreMed(strength=v), lambda v: PiGDM(eta=v)):
        runs = [
            build(v).step(torch.ones(2, *SHAPE, dtype=DOUBLE), 0.8, 0.5, prior=prior, data=data, noise=Noise([1, 2]))
            for v in (0.0, 0.5, 1.0)
        ]
        assert not any(torch.allclose(a, b) for a, b in pairwise([*runs, runs[0]]))
    x, z = torch.ones(2, *SHAPE, dtype=DOUBLE), Noise([1, 2]).like(torch.ones(2, *SHAPE, dtype=DOUBLE))
    half = project_on_data(x, data, 0.3, 0.5, 30, Noise([1, 2]))
    assert torch.allclose(half, x + 0.5 * data.A.pinv(data.residual(x - 0.3 * z), 30))


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "transmission", "rician"])
def test_misfit_and_its_gradient(kind):
    """Against central differences."""
    generator = torch.Generator().manual_seed(0)
    A = Weights(0.5 + torch.rand(5, generator=generator, dtype=DOUBLE))
    x = 0.5 + torch.rand(2, 1, 5, generator=generator, dtype=DOUBLE)
    y = 100 * (0.5 + torch.rand(2, 1, 5, generator=generator, dtype=DOUBLE))
    data = {
        "gaussian": Gaussian(A, y / 100, 0.1),
        "poisson": Poisson(A, y.round(), counts_per_unit=100.0),
        "transmission": Transmission(A, y.round(), photons=200.0),
        "rician": Rician(A, y / 100, 0.1),
    }[kind]
    size, slope = residual_norm_and_grad(x, data)
    for i in range(5):
        step = torch.zeros_like(x)
        step[..., i] = 1e-5
        up, down = (residual_norm_and_grad(x + s * step, data)[0] for s in (1, -1))
        assert torch.allclose(slope[:, 0, i], (up - down) / 2e-5, rtol=1e-5, atol=1e-7)
    if kind == "poisson":
        r = (y.round() - 100 * A(x)) / y.round().sqrt()
        mean = y.round().flatten(1).mean(1)
        assert torch.allclose(size, r.flatten(1).norm(dim=1) / mean.sqrt())
    if kind == "gaussian":
        assert torch.equal(residual_norm_and_grad(x, replace(data, y=A(x)))[1], torch.zeros_like(x))


def test_the_slope_of_the_misfit_is_the_same_by_either_way():
    """Where the normal operator is cheaper, ``A^H (A x - y)`` is computed without the adjoint."""
    maps = torch.complex(*torch.randn(2, 1, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for mask, light in ((torch.arange(8) % 2 == 0, True), (torch.rand(9, 8) < 0.5, False)):
        A = sense(maps, mask.expand(9, 8)[None, None])
        assert A.cheap_normal is light
        x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        data = Gaussian(A, A(torch.flip(x, (2,))), 0.1)
        size, slope = residual_norm_and_grad(x, data)
        r = data.residual(x)
        assert torch.allclose(size, r.abs().square().sum().sqrt())
        assert torch.allclose(slope, -A.adjoint(r) / size, atol=1e-12)
        exact = Gaussian(A, A(x), 0.1)
        assert not exact.residual(x).any()
        assert not residual_norm_and_grad(x, exact)[1].any()


def test_guidance_never_overshoots_the_data():
    """A step ten times too long is shortened to fit the data best; a step that reduces the residual is kept."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    A = Dense(matrix, SHAPE)
    y = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    data = Gaussian(A, y, 0.1)
    exact = torch.linalg.pinv(matrix) @ y.T
    exact = exact.T.view(2, *SHAPE)
    long = exact * torch.tensor([10.0, 1.9], dtype=torch.float64).view(-1, *[1] * len(SHAPE))
    cut = limit_step(long, data, y)
    assert torch.allclose(cut[0], exact[0], atol=1e-10)
    assert torch.equal(cut[1], long[1])
    assert torch.equal(limit_step(-exact, data, y), torch.zeros_like(exact))
    assert torch.equal(limit_step(torch.zeros_like(exact), data, y), torch.zeros_like(exact))


def test_a_drawn_image_follows_its_law():
    """Mean and covariance of p(y | z) N(z; x, var), in closed form."""
    _, data, matrix = measured(batch=1, noise_std=0.2)
    many = replace(data, y=data.y.expand(20_000, -1))
    x = torch.full((20_000, *SHAPE), 0.4, dtype=DOUBLE)
    z = sample_prox(x, many, 0.09, 30, SharedNoise(0)).flatten(1)
    covariance = torch.linalg.inv(matrix.T @ matrix / 0.04 + torch.eye(6, dtype=DOUBLE) / 0.09)
    mean = covariance @ (matrix.T @ data.y[0] / 0.04 + 0.4 / 0.09)
    assert (z.mean(0) - mean).abs().max() < 0.01
    assert float((torch.cov(z.T) - covariance).norm() / covariance.norm()) < 0.04


def test_probability_flow_of_a_gaussian():
    prior = gaussian_prior()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    c = (x - prior.mean).flatten(1) @ prior.modes
    exact = prior.mean + ((c * (prior.variances / (prior.variances + 0.8**2)).sqrt()) @ prior.modes.T).view_as(x)
    errors = [float((probability_flow(prior, x, 0.8, n) - exact).norm()) for n in (1, 10, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.015 * float(exact.norm())
    assert torch.equal(probability_flow(prior, x, 0.8, 1), prior(x, 0.8))


def test_the_weight_of_the_prior_grows_no_further_than_images_do():
    """``noise_std^2 / min(sigma, 1)^2``: 1 is the scale of images, so early levels do not weigh the data more."""
    assert data_weight(None, 2.0, 0.1, 0.5) == pytest.approx(2.0 * 0.01 / 0.25)
    assert data_weight(None, 2.0, 0.1, 1.0) == data_weight(None, 2.0, 0.1, 20.0) == pytest.approx(0.02)
    assert data_weight(0.3, 2.0, 0.1, 20.0) == 0.3


def test_the_variance_that_ancestral_steps_keep():
    """The recursion against 4000 draws, rising steps included."""
    prior = GaussianPrior(
        torch.zeros(1, 3, dtype=DOUBLE), torch.diag(torch.tensor([0.05, 0.3, 1.0], dtype=DOUBLE) ** 2)
    )
    for sigmas in (karras(8.0, 0.01, 12), time_travel(karras(8.0, 0.01, 12), 4, 2)):
        x = images_of_prior(prior, (1, 3), sigmas, 4000, DDIM(eta=1.0)).flatten(1)
        kept = variance_kept(sigmas, torch.tensor([0.05, 0.3, 1.0]))
        assert torch.allclose(x.var(0) / prior.covariance.diagonal(), kept, rtol=0.1)  # standard error 0.022


def test_a_likelihood_of_the_wrong_kind_is_named_before_the_operator():
    """No solver for Gaussian noise can work with it, whatever the operator."""
    data = Rician(Dense(torch.eye(5, dtype=DOUBLE)), torch.ones(1, 5, dtype=DOUBLE), 0.1)
    with pytest.raises(
        TypeError, match="FPS needs a Gaussian likelihood; got Rician, which DPS or DiffPIR can work with"
    ):
        FPS().check(data)
