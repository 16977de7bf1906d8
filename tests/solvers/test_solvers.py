"""Every entry of ``SOLVERS`` on problems whose posterior is known in closed form.

Exceptions from a row are listed with the sentence that explains them; that list is documentation.
"""

import copy
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.likelihood import Gaussian
from medrecon.networks import ResidualUNet
from medrecon.noise import Noise, karras, time_travel, travelled, truncate_ladder
from medrecon.operators import Operator, sense
from medrecon.operators.base import LinearOperator
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.operators.spectral import Spectral
from medrecon.priors import Counted, with_vjp
from medrecon.sample import draw, generate, sample
from medrecon.solvers import DDIM, DDNM, DDS, DPS, MGDM, SOLVERS, DDNMPlus, ZeroFilled, is_unconditional, renoise
from medrecon.solvers.base import residual_norm_and_grad
from medrecon.training.objectives import EDM

from ..make.images import blobs
from .problems import SHAPE, Dense, dense, gaussian_prior, measured

PROJECTORS_ONLY = {"fbp": "a filter between A^T and y that only X-ray transforms have; test_tomography.py"}
UNCONDITIONAL = [name for name, solver in SOLVERS.items() if is_unconditional(solver)]
GENERAL = [name for name in SOLVERS if name not in PROJECTORS_ONLY and name not in UNCONDITIONAL]
LEARNED = [name for name in GENERAL if SOLVERS[name].requires.prior]
CLASSICAL = [name for name in SOLVERS if not SOLVERS[name].requires.prior]
LADDER = karras(20.0, 0.01, 60)
ONE_RUNG = torch.tensor([1.0, 0.0])


def make(name):
    """The solver with its defaults."""
    return SOLVERS[name]()


def fitted(name, data):
    """The same problem for solvers that must know the singular values."""
    if SOLVERS[name].requires.operator is not Spectral:
        return data
    return replace(data, A=SpectralDense(data.A.matrix, data.A.image))


NOT_NEARER = {
    "daps": "r = sigma inflates the variance of its samples; test_methods.py has the exact one",
    "zero-filled": "A^H y is shrunk by the singular values of A and knows no prior mean",
    "cg-sense": "the least-norm solution is nearer 0 than the prior mean",
    "sirt": "the least-norm solution is nearer 0 than the prior mean",
    "wavelet": "sparsity in wavelets says nothing about this Gaussian",
    "tv": "total variation says nothing about this Gaussian",
    "low-rank": "two frames of three pixels have no rank to spare",
}
IDENTITY_TOLERANCE = {
    # With A = I and no noise the answer is y; what keeps a method from it, and how far.
    "cg-sense": (0.02, "shrinks by lam = 0.01"),
    "wavelet": (0.05, "soft thresholding moves every coefficient by lam"),
    "tv": (0.05, "flattens by lam"),
    "low-rank": (0.1, "shrinks every singular value by lam times the largest"),
    "ald": (0.08, "the last moves leave noise of the last level"),
    "dps": (0.15, "a step of fixed length stops near y, not on it"),
    "dsg": (0.03, "the length of its noise is the prior's; all of it must turn, or 60 steps stop far from y"),
    "pigdm": (1e-3, "the gradient passes the Jacobian, which is 1 only at the end"),
    "pnpdm": (0.06, "ends with a draw from the prior's side, at the last level"),
    "r2d2": (0.05, "its data are a hint: a share of the residual at a step"),
    "reddiff": (0.1, "Adam's steps have a length"),
    "sitcom": (0.02, "twenty Adam steps an input come near; five do not reach the data"),
    "smrd": (1e-2, "weighs by what it has learnt so far, never by infinity"),
    "lgd": (0.15, "a step of fixed length stops near y, not on it"),
}


THOROUGH = {"dsg": {"guidance": 1.0}, "r2d2": {"strength": 0.3}, "sitcom": {"n_inner": 20}}
"""Settings with which these answer the data; by default they leave more to the prior."""


def ladder(name):
    return LADDER if name in LEARNED else ONE_RUNG


def posterior_mean(prior, data, matrix):
    return torch.stack([prior.posterior(matrix, y, data.noise_std)[0] for y in data.y]).view(-1, *SHAPE)


@pytest.mark.parametrize("name", [n for n in GENERAL if n not in NOT_NEARER])
def test_nearer_to_the_posterior_mean_than_the_prior_mean_is(name):
    prior, data, matrix = measured(batch=64)
    exact = posterior_mean(prior, data, matrix)
    x = sample(make(name), prior, fitted(name, data), ladder(name), noise=Noise(range(64)))
    away = (prior.mean - exact).square().sum((1, 2)).mean()
    # A perfect posterior sample is off by the posterior's own spread.
    spread = prior.posterior(matrix, data.y[0], data.noise_std)[1].trace()
    assert (x - exact).square().sum((1, 2)).mean() < 0.5 * away + spread


@pytest.mark.parametrize("name", LEARNED)
def test_mean_of_many_samples_is_near_the_posterior_mean(name):
    """On one measurement, away from the prior mean: bias below a third of the way from prior to posterior mean."""
    prior, data, matrix = measured(batch=1, seed=5)
    many = replace(data, y=data.y.expand(512, -1))
    x = sample(make(name), prior, fitted(name, many), LADDER, noise=Noise(range(512))).mean(0)
    exact = posterior_mean(prior, data, matrix)[0]
    assert (x - exact).norm() < (prior.mean - exact).norm() / 3


@pytest.mark.parametrize("name", GENERAL)
def test_identity_without_noise_returns_the_data(name):
    shape = (2, 8, 9)
    n = 144
    prior = gaussian_prior(shape)
    generator = torch.Generator().manual_seed(3)
    y = 0.3 * torch.randn(2, n, generator=generator, dtype=torch.float64)
    data = Gaussian(Dense(torch.eye(n, dtype=torch.float64), shape), y, 0.0)
    solver = replace(make(name), **THOROUGH.get(name, {}))
    x = sample(solver, prior, fitted(name, data), ladder(name), noise=Noise([0, 1]))
    tolerance = IDENTITY_TOLERANCE.get(name, (1e-6, ""))[0]
    assert tolerance < y.abs().max() / 4  # neither the zero image nor the prior's mean passes
    assert (x.flatten(1) - y).abs().max() < tolerance


EXACT_KERNEL = ("ilvr", "repaint", "dps", "mcg", "pigdm", "tmpd", "lgd", "dsg")
"""DDIM's kernel with eta = 1."""
SPREAD = {
    # Variance over the prior's own, of methods that are no such recursion, and why it is not 1.
    "scoremri": (
        0.9,
        1.05,
        "a move leaves a share of the noise that the prior sees, which is a little less than there is",
    ),
    "scoremed": (0.9, 1.05, "the same"),
    "ald": (0.8, 1.0, "the same"),
    "smrd": (0.8, 1.0, "the same"),
    "daps": (1.5, 2.1, "r = sigma is too wide a spread for x0 given x"),
    "pnpdm": (0.5, 0.8, "five steps of the reverse diffusion lose variance"),
    "reddiff": (0.0, 0.4, "a point estimate: what is left is the jitter of Adam"),
    "r2d2": (1.0, 1.2, "the reverse diffusion as discretised there adds a little too much noise"),
}


def blind_variances(prior, name, levels):
    """Variances of every mode of the Gaussian when no data come in: all that is left is a linear recursion."""
    solver = make(name)
    kernel = "ddim" if name in EXACT_KERNEL else getattr(solver, "kernel", "ddnm")
    eta = solver.share**0.5 if name == "diffpir" else getattr(solver, "eta", 1.0)
    level = getattr(solver, "level", 1.0)
    variances = torch.full_like(prior.variances, float(levels[0]) ** 2)
    for sigma, after in pairwise(levels.tolist()):
        kappa = eta * ((1 - after**2 / sigma**2) ** 0.5 if kernel == "ddim" else 1.0)
        kept = prior.variances / (prior.variances + (level * sigma) ** 2)
        gain = kept + after / sigma * (1 - kappa**2) ** 0.5 * (1 - kept)
        variances = gain**2 * variances + (after * kappa) ** 2
    return variances


@pytest.mark.parametrize("name", LEARNED)
def test_without_data_samples_follow_the_prior_or_their_known_bias(name):
    """A = 0: the DDIM kernel with eta = 1 is exact in the limit of many steps; the DDNM kernel loses variance."""
    prior = gaussian_prior()
    levels = karras(20.0, 0.01, 100)
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), torch.zeros(2000, 3, dtype=torch.float64), 0.05)
    x = sample(make(name), prior, fitted(name, data), levels, noise=Noise(range(2000))).flatten(1)
    assert (x.mean(0) - prior.mean.flatten()).abs().max() < 0.06
    share = float(x.var(0).sum() / prior.covariance.trace())
    if name in SPREAD:
        low, high, _ = SPREAD[name]
        assert low < share < high
        assert not make(name).calibrated(levels)
        return
    expected = float(blind_variances(prior, name, levels).sum() / prior.covariance.trace())
    # 2000 samples in 6 dimensions: standard error of the ratio about sqrt(2 / 2000 / 3) = 1.8 %.
    assert abs(share / expected - 1) < 0.06
    # Who claims calibration has the prior's own variance, but for the finite number of steps.
    assert expected < 1.05
    assert expected > 0.9 or not make(name).calibrated(levels)


@pytest.mark.parametrize("name", GENERAL)
def test_a_batch_equals_its_items_alone(name):
    prior, data, _ = measured(batch=3)
    # One item a hundred times larger must not steer the others.
    data = replace(fitted(name, data), y=data.y * torch.tensor([[1.0], [100.0], [0.01]], dtype=torch.float64))
    together = sample(make(name), prior, data, ladder(name), noise=Noise([7, 8, 9]))
    for i in range(3):
        alone = sample(make(name), prior, replace(data, y=data.y[i : i + 1]), ladder(name), noise=Noise([7 + i]))
        assert torch.allclose(together[i], alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GENERAL)
def test_reproducible_pure_and_of_the_inputs_type(name):
    for dtype in (torch.float32, torch.float64):
        prior, data, _ = measured(batch=2, dtype=dtype)
        data = fitted(name, data)
        y, state = data.y.clone(), torch.get_rng_state()
        start = torch.ones(2, *SHAPE, dtype=dtype)
        given = {"start": start} if make(name).takes_start else {}
        first = sample(make(name), prior, data, ladder(name), noise=Noise([1, 2]), **given)
        again = sample(make(name), prior, data, ladder(name), noise=Noise([1, 2]), **given)
        assert first.dtype == dtype
        assert torch.equal(first, again)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(data.y, y)
        assert torch.equal(start, torch.ones_like(start))
        assert not first.requires_grad


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("shape", [(1, 7), (2, 5, 4), (1, 3, 4, 3)], ids=["1-D", "2-D", "3-D"])
def test_any_number_of_dimensions(name, shape):
    prior = gaussian_prior(shape)
    n = prior.mean.numel()
    truth = prior.mean[None]
    A = Dense(dense(n // 2, n), shape)
    x = sample(make(name), prior, fitted(name, Gaussian(A, A(truth), 0.01)), ladder(name), noise=Noise(0))
    assert x.shape == (1, *shape)
    assert (A(x) - A(truth)).norm() < A(truth).norm()


@pytest.mark.parametrize("name", SOLVERS)
def test_hyper_parameters_are_frozen_and_documented(name):
    solver = make(name)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        solver.anything = 1
    for field in fields(solver):
        assert f"{field.name}:" in type(solver).__doc__, f"{field.name} is not in the docstring of {name}"


LAST_STEP = {"ald": 1, "smrd": 1, "heun": -1, "langevin": 1}
"""Evaluations more in the last step: a clean estimate after the moves; no slope at sigma = 0."""


@pytest.mark.parametrize("name", LEARNED + UNCONDITIONAL)
def test_evaluations_are_as_declared(name):
    """The budget of a run is known beforehand; SITCOM may need less."""
    prior, data, _ = measured()
    counted = Counted(prior)
    if name in UNCONDITIONAL:
        generate(counted, SHAPE, LADDER, seeds=[0], solver=make(name), dtype=torch.float64)
    else:
        sample(make(name), counted, fitted(name, data), LADDER, noise=Noise(0))
    declared = make(name).evaluations * (len(LADDER) - 1) + LAST_STEP.get(name, 0)
    assert counted.calls <= declared if name == "sitcom" else counted.calls == declared


def test_draw_does_not_depend_on_the_chunk():
    prior, data, _ = measured()
    whole = draw(DDS(), prior, data, LADDER, seeds=[3, 4, 5], chunk=3)
    parts = draw(DDS(), prior, data, LADDER, seeds=[3, 4, 5], chunk=2)
    assert whole.shape == (3, 1, *SHAPE)
    assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(whole[0], whole[1])
    prior, data, _ = measured(batch=2)
    both = draw(DDS(), prior, data, LADDER, seeds=[[3, 9], [4, 8]])
    alone = draw(DDS(), prior, replace(data, y=data.y[:1]), LADDER, seeds=[3, 4])
    assert torch.allclose(both[:, :1], alone, rtol=1e-9, atol=1e-12)


# Single methods


def test_ddnm_satisfies_the_data_exactly():
    prior, data, _ = measured(batch=4)
    x = sample(DDNM(n_cg=30), prior, data, LADDER, noise=Noise(range(4)))
    assert data.residual(x).abs().max() < 1e-12


def test_ddnm_plus_leaves_the_noise_of_the_data_in_the_data():
    """Noiseless DDNM reproduces the noise (residual 0); DDNM+ must not: residual of the size of the noise, as of a draw."""
    prior = gaussian_prior()
    matrix = torch.linalg.qr(dense().T)[0].T.contiguous()  # orthonormal rows: all singular values 1
    generator = torch.Generator().manual_seed(0)
    root = prior.modes * prior.variances.sqrt()
    x = prior.mean.flatten() + torch.randn(300, 6, generator=generator, dtype=torch.float64) @ root.T
    y = x @ matrix.T + 0.1 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    data = Gaussian(Dense(matrix), y, 0.1)
    few = karras(20.0, 0.01, 20)  # every step below noise_std pulls a little further towards y: few of them
    z = sample(DDNMPlus(), prior, data, few, noise=Noise(range(300)))
    plain = sample(DDNM(), prior, data, few, noise=Noise(range(300)))
    assert data.residual(plain).abs().max() < 1e-12
    # In noise levels; a draw from the posterior has 1 (measured: 0.68).
    assert 0.5 < float(data.residual(z).square().mean().sqrt()) / 0.1 < 1.0
    # Without noise it is DDNM, whose noise keeps the unmeasured part of the old.
    free = sample(DDNMPlus(), prior, replace(data, noise_std=0.0), few, noise=Noise(range(300)))
    assert data.residual(free).abs().max() < 1e-9


def test_dds_limits():
    """gamma -> infinity with converged CG is DDNM; gamma -> 0 ignores the data."""
    prior, data, _ = measured(batch=2)
    noise = lambda: Noise([1, 2])  # noqa: E731
    hard = sample(DDS(gamma=1e9, level=1.0, n_cg=50), prior, data, LADDER, noise=noise())
    ddnm = sample(DDNM(n_cg=50, eta=DDS().eta, kernel=DDS().kernel), prior, data, LADDER, noise=noise())
    assert torch.allclose(hard, ddnm, atol=1e-6)
    free = sample(DDS(gamma=1e-12), prior, data, LADDER, noise=noise())
    blind = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), data.y * 0, 0.1)
    assert torch.allclose(free, sample(DDS(), prior, blind, LADDER, noise=noise()), atol=1e-9)


def test_dds_level_is_what_the_prior_is_told():
    with pytest.raises(ValueError, match="level"):
        DDS(level=-1.0)
    prior, data, _ = measured(batch=2)
    told = sample(DDS(level=1.4), prior, data, LADDER, noise=Noise([1, 2]))
    wrapped = sample(DDS(level=1.0), lambda x, s: prior(x, 1.4 * s), data, LADDER, noise=Noise([1, 2]))
    assert torch.allclose(told, wrapped, atol=1e-12)


def test_dds_more_iterations_approach_the_exact_prox():
    prior, data, _ = measured(batch=2)
    runs = [sample(DDS(gamma=5.0, n_cg=k), prior, data, LADDER, noise=Noise([1, 2])) for k in (0, 1, 2, 3, 50)]
    errors = [float((run - runs[-1]).norm()) for run in runs]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-6  # three measurements: three iterations are exact


def test_mgdm_ablations():
    """zeta = rho = 0 is DDS with gamma = 1 / lam; no outer level leaves nothing to refine; lam -> 0 is DDNM."""
    prior, data, _ = measured(batch=2)

    def run(solver):
        return sample(solver, prior, data, LADDER, noise=Noise([1, 2]))

    shared = {"eta": 0.85, "kernel": "ddnm", "n_cg": 50}
    plain = run(MGDM(zeta=0, rho=0, lam=0.2, **shared))
    assert torch.allclose(plain, run(DDS(gamma=5.0, level=1.0, **shared)), atol=1e-9)
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
    found = solver.step(x, sigma, after, prior=prior, data=data, noise=Noise(0)).flatten()
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


def test_dps_step_is_the_equation():
    prior, data, matrix = measured()
    x, sigma, after = torch.randn(1, *SHAPE, dtype=torch.float64), 0.8, 0.5
    found = DPS(zeta=0.7).step(x, sigma, after, prior=prior, data=data, noise=Noise(4))
    J = prior.modes @ torch.diag(prior.variances / (prior.variances + sigma**2)) @ prior.modes.T
    x0 = prior(x, sigma)
    r = data.y[0] - matrix @ x0.flatten()
    gradient = (-J @ matrix.T @ r / r.norm()).view_as(x)
    plain = DPS(zeta=0.0).step(x, sigma, after, prior=prior, data=data, noise=Noise(4))
    scale = (6 * (1 + sigma**2) * (1 + after**2)) ** 0.5  # six numbers in an image
    assert torch.allclose(found, plain - 0.7 * scale * gradient, atol=1e-12)
    # zeta = 0 is the ancestral step: mean and variance of x' given x0 and x.
    kappa2 = 1 - (after / sigma) ** 2
    mean = x0 + after * (1 - kappa2) ** 0.5 * (x - x0) / sigma
    assert torch.allclose(plain, mean + after * kappa2**0.5 * Noise(4).like(x), atol=1e-12)


def test_dps_takes_a_nonlinear_operator():
    class Square(Operator):
        def forward(self, x):
            return x.flatten(1)[:, :3] ** 2

    prior = gaussian_prior()
    data = Gaussian(Square(), torch.full((2, 3), 0.25, dtype=torch.float64), 0.05, image_shape=(2, *SHAPE))
    guided = sample(DPS(zeta=0.1), prior, data, LADDER, noise=Noise([0, 1]))
    free = sample(DPS(zeta=0.0), prior, data, LADDER, noise=Noise([0, 1]))
    assert data.residual(guided).norm() < 0.5 * data.residual(free).norm()


def test_residual_falls_with_the_step_of_dps():
    prior, data, _ = measured(batch=32)
    sizes = [
        float(data.residual(sample(DPS(zeta=z), prior, data, LADDER, noise=Noise(range(32)))).norm())
        for z in (0.0, 0.003, 0.01, 0.03)
    ]
    assert sizes == sorted(sizes, reverse=True)


# The size of the image


class Twice(Noise):
    """Every number drawn once for each of two halves of the last axis."""

    def __call__(self, shape, dtype, device=None):
        half = super().__call__((*shape[:-1], shape[-1] // 2), dtype, device)
        return torch.cat([half, half], -1)


class SideBySide(Spectral):
    """An operator on either half of the last axis, of images as of measurements: block-diagonal."""

    def __init__(self, tile):
        super().__init__()
        self.tile = tile

    @property
    def singular(self):
        return self.tile.singular.repeat(2)

    def _both(self, f, x):
        return torch.cat([f(half) for half in x.chunk(2, -1)], -1)

    def vh(self, x):
        return self._both(self.tile.vh, x)

    def v(self, c):
        return self._both(self.tile.v, c)

    def uh(self, y):
        return self._both(self.tile.uh, y)

    def u(self, c):
        return self._both(self.tile.u, c)


@pytest.mark.parametrize("name", LEARNED)
def test_settings_mean_the_same_at_every_size(name):
    """Two problems that know nothing of each other, side by side in one image: each half as if it were alone.

    The twin has the same data and the same noise, so every norm over the whole image is sqrt(2) times that of one half.
    """
    prior, data, matrix = measured(batch=2)
    one = replace(data, A=SpectralDense(matrix, SHAPE))
    two = replace(one, A=SideBySide(one.A), y=torch.cat([one.y, one.y], -1))

    def twin(x, sigma):
        return torch.cat([prior(half, sigma) for half in x.chunk(2, -1)], -1)

    alone = sample(make(name), prior, one, LADDER, noise=Noise([1, 2]))
    both = sample(make(name), twin, two, LADDER, noise=Twice([1, 2]))
    for half in both.chunk(2, -1):
        assert torch.allclose(half, alone, atol=1e-6)  # the order of sums, through Adam's division by small roots


# Kernels, ladders, the loop


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


def test_ladders():
    sigmas = karras(80.0, 0.002, 18)
    assert len(sigmas) == 19
    assert sigmas[-1] == 0
    assert torch.allclose(sigmas[[0, 17]], torch.tensor([80.0, 0.002], dtype=torch.float64))
    root = sigmas[:-1] ** (1 / 7)
    assert torch.allclose(root.diff(), root.diff().mean().expand(17))
    assert torch.equal(
        truncate_ladder(sigmas, 0.5), torch.cat([torch.tensor([0.5], dtype=torch.float64), sigmas[sigmas < 0.5]])
    )
    assert time_travel(torch.arange(5.0).flip(0), 2, 2).tolist() == [4, 3, 2, 4, 3, 2, 1, 0]
    assert time_travel(torch.arange(4.0).flip(0), 1, 1).tolist() == [3, 2, 1, 0]
    from monai.networks.schedulers import DDPMScheduler

    from medrecon.noise import from_betas

    schedule = DDPMScheduler(num_train_timesteps=1000)
    kept = schedule.alphas_cumprod.double().flip(0)
    assert torch.allclose(from_betas(schedule.betas)[:-1], ((1 - kept) / kept).sqrt(), rtol=1e-3)  # MONAI keeps float32


def test_time_travel_keeps_the_law():
    """Rising steps add exactly the missing noise: without data, going up and down changes neither mean nor variance."""
    prior = gaussian_prior()
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), torch.zeros(2000, 3, dtype=torch.float64), 0.05)
    sigmas = time_travel(karras(20.0, 0.01, 100), 25, 2)
    x = sample(DPS(zeta=0.0), prior, data, sigmas, noise=Noise(range(2000))).flatten(1)
    assert abs(float(x.var(0).sum() / prior.covariance.trace()) - 1) < 0.1


def test_time_travel_within_a_budget():
    """The finest ladder whose walk goes down at most so often; none of the budget is lost where nothing is repeated."""
    for budget in (1, 2, 7, 20, 50, 100):
        for length, repeats in ((1, 1), (3, 4), (2, 8), (10, 10)):
            sigmas = travelled(20.0, 0.01, budget, length, repeats)
            falls, levels = int((sigmas.diff() < 0).sum()), len(sigmas.unique()) - 1
            assert 0.7 * budget <= falls <= budget
            assert torch.allclose(sigmas.unique().flip(0), karras(20.0, 0.01, levels))
            again = min(repeats, max(1, budget // (4 * length)))
            finer = time_travel(karras(20.0, 0.01, levels + 1), length, again)
            assert int((finer.diff() < 0).sum()) > budget
    prior, data, _ = measured(batch=1)
    counted, repaint = Counted(prior), SOLVERS["repaint"]()
    sigmas = repaint.ladder(20.0, 0.01, 50)
    assert (sigmas.diff() > 0).any()
    sample(repaint, counted, fitted("repaint", data), sigmas, noise=Noise(0))
    assert 40 <= counted.calls <= 50
    assert torch.equal(SOLVERS["repaint"](repeats=1).ladder(20.0, 0.01, 50), karras(20.0, 0.01, 50))
    assert len(SOLVERS["scoremri"]().ladder(20.0, 0.01, 50)) == 26  # two evaluations a step


def test_noise_has_one_stream_per_item():
    both = Noise([5, 6])((2, 3, 4), torch.float64)
    assert torch.equal(both[1:], Noise(6)((1, 3, 4), torch.float64))
    with pytest.raises(ValueError, match="streams"):
        Noise([1, 2])((3, 4), torch.float64)
    z = Noise(0).like(torch.zeros(1, 100_000, dtype=torch.complex128))
    assert abs(float(z.real.var()) - 1) < 0.02
    assert abs(float(z.imag.var()) - 1) < 0.02


def test_requirements_are_checked_before_the_first_step():
    class Square(Operator):
        def forward(self, x):
            return x**2

    prior = gaussian_prior()
    data = Gaussian(Square(), torch.ones(1, *SHAPE, dtype=torch.float64), 0.1, image_shape=(1, *SHAPE))
    with pytest.raises(TypeError, match=r"DDS.*LinearOperator.*Square.*DPS"):
        sample(DDS(), prior, data, LADDER, noise=Noise(0))
    _, linear, _ = measured()
    with pytest.raises(TypeError, match="DDS needs a prior"):
        sample(DDS(), None, linear, LADDER, noise=Noise(0))
    with pytest.raises(ValueError, match="two levels"):
        sample(DDS(), prior, linear, torch.tensor([1.0]), noise=Noise(0))
    assert sample(ZeroFilled(), None, linear, ONE_RUNG, noise=Noise(0)).shape == (1, *SHAPE)


def test_callback_sees_every_step():
    prior, data, _ = measured()
    seen = []
    sample(DDS(), prior, data, LADDER, noise=Noise(0), callback=lambda i, n, s, x: seen.append((i, n, s)))
    assert [row[0] for row in seen] == list(range(60))
    assert {row[1] for row in seen} == {60}
    assert [row[2] for row in seen] == LADDER[1:].tolist()


# Likelihood


def test_gaussian_likelihood_against_autograd_and_brute_force():
    _, data, matrix = measured(batch=2)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_prob(free).sum(), free)
    assert torch.allclose(data.grad(x), gradient, rtol=1e-10)
    var = torch.tensor([0.2, 0.7], dtype=torch.float64)
    z = data.prox(x, var).clone().requires_grad_()
    objective = -data.log_prob(z) + (z - x).square().sum((1, 2)) / (2 * var)
    (slope,) = torch.autograd.grad(objective.sum(), z)
    assert slope.abs().max() < 1e-8  # convex: a stationary point is the minimiser
    projected = replace(data, noise_std=0.0).prox(x, 0.3)
    assert (data.y - data.A(projected)).abs().max() < 1e-12
    null = torch.linalg.svd(matrix)[2][3:]
    assert ((projected - x).flatten(1) @ null.T).abs().max() < 1e-10  # moved within the range of A^H only


@pytest.mark.parametrize("name", LEARNED)
def test_rising_and_equal_levels_are_legal(name):
    """Time travel, and a level twice: every state survives, and the end is as near to the data as it was."""
    prior, data, _ = measured(batch=16)
    data = fitted(name, data)
    plain = sample(make(name), prior, data, LADDER, noise=Noise(range(16)))
    sigmas = time_travel(LADDER, 20, 2)
    sigmas = torch.cat([sigmas[:30], sigmas[29:]])
    again = sample(make(name), prior, data, sigmas, noise=Noise(range(16)))
    assert data.residual(again).norm() < 1.6 * data.residual(plain).norm() + 0.05 * data.y.norm()


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("levels", [[0.05, 0.2], [0.0, 0.1]], ids=["", "one of them 0"])
def test_noise_level_may_differ_per_item(name, levels):
    prior, data, _ = measured(batch=2)
    levels = torch.tensor(levels, dtype=torch.float64)
    data = fitted(name, data)
    both = sample(make(name), prior, replace(data, noise_std=levels), ladder(name), noise=Noise([1, 2]))
    for i in range(2):
        one = replace(data, y=data.y[i : i + 1], noise_std=float(levels[i]))
        alone = sample(make(name), prior, one, ladder(name), noise=Noise([1 + i]))
        # Without noise a number is projected, a level per item solved with weight 0: the same but for rounding.
        assert torch.allclose(both[i : i + 1], alone, atol=1e-9 if float(levels[i]) else 1e-6)


def test_with_vjp_is_what_guided_solvers_need():
    prior, _, _ = measured()
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        _, vjp = with_vjp(prior, x, 0.5)
        v = torch.randn_like(x)
        J = prior.modes @ torch.diag(prior.variances / (prior.variances + 0.25)) @ prior.modes.T
        assert torch.allclose(vjp(v).flatten(), J @ v.flatten(), atol=1e-12)


def test_registry_knows_only_solvers():
    for name, solver in SOLVERS.items():
        operator = solver.requires.operator
        assert operator in (Operator, object) or issubclass(operator, LinearOperator), name
    assert set(SOLVERS) == set(LEARNED) | set(CLASSICAL) | set(UNCONDITIONAL)


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 200), (0.5, 400), (1.0, 400)])
def test_generate_draws_from_the_prior(eta, steps):
    """Mean and covariance of a Gaussian prior, from 4000 draws; and an image depends on its seed alone."""
    prior, _, _ = measured(batch=1)
    images = generate(
        prior, SHAPE, karras(50.0, 0.002, steps), seeds=range(4000), solver=DDIM(eta=eta), dtype=torch.float64
    )
    mean, flat = prior.mean.flatten(), images.flatten(1)
    spread = prior.covariance.diagonal().sqrt()
    # Standard error of a mean: spread / sqrt(4000); five of them. Of a covariance: sqrt(2 / 4000) = 2.2 % of its size, and
    # the ladder's own error is below 3 % at this length.
    assert ((flat.mean(0) - mean).abs() < 5 * spread / 4000**0.5).all()
    error = torch.cov(flat.T) - prior.covariance
    assert float(error.norm() / prior.covariance.norm()) < 0.08
    alone = generate(prior, SHAPE, karras(50.0, 0.002, steps), seeds=[17], solver=DDIM(eta=eta), dtype=torch.float64)
    assert torch.allclose(alone[0], images[17], atol=1e-9)


def test_the_noise_may_have_another_type_than_the_data():
    """Float64 levels, float32 data: single precision all the way."""
    prior, data, _ = measured(batch=2, dtype=torch.float32)
    data = replace(data, noise_std=torch.tensor([0.05, 0.1], dtype=torch.float64))
    for name in LEARNED:
        assert sample(make(name), prior, fitted(name, data), LADDER[-10:], noise=Noise([1, 2])).dtype == torch.float32


@pytest.fixture(scope="module")
def scans():
    """Three small scans in single precision, of four coils and of one, and a network that nobody has trained."""
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).eval().requires_grad_(False)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    shape = (24, 20)
    mask = torch.from_numpy(undersampling_mask(shape, "gaussian1d", 2, 6, 0))[None, None, None]
    x = torch.from_numpy(np.stack([blobs(shape, k) for k in range(3)]))
    out = {}
    for coils in (1, 4):
        A = sense(torch.from_numpy(loop_coils(shape, coils))[None] if coils > 1 else None, mask, shape)
        out[coils] = Gaussian(A, A(torch.stack([x.real, x.imag], dim=1).float()), 0.01)
    return network, out


def _image(name, network, data):
    prior, levels = EDM().prior(network, 16, None), karras(1.5, 0.01, 6) if name in LEARNED else ONE_RUNG
    return sample(make(name), prior, data, levels, noise=Noise([1, 2, 3][: len(data.y)]))


@pytest.mark.parametrize("name", GENERAL)
def test_single_precision_agrees_between_batches(name, scans):
    """With a network for a prior: to 1e-4 of the maximum alone and in company."""
    network, found = scans
    data = found[1 if SOLVERS[name].requires.operator is Spectral else 4]
    together = _image(name, network, data)
    alone = _image(name, network, replace(data, y=data.y[:1]))
    assert float((together[:1] - alone).abs().max()) < 1e-4 * float(together.abs().max())
    assert torch.equal(together, _image(name, network, data))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: compares it with the CPU")
@pytest.mark.parametrize("name", GENERAL)
def test_a_gpu_agrees_with_the_cpu(name, scans):
    """To 1e-3 of the maximum, with TF32 off."""
    network, found = scans
    data = found[1 if SOLVERS[name].requires.operator is Spectral else 4]
    here = _image(name, network, data)
    there = replace(data, A=copy.deepcopy(data.A).cuda(), y=data.y.cuda())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # matrix products have it off
        moved = _image(name, copy.deepcopy(network).cuda(), there).cpu()
    assert float((moved - here).abs().max()) < 1e-3 * float(here.abs().max())


def test_the_slope_of_the_misfit_is_the_same_by_either_way():
    """Where the normal operator is the cheaper one, ``A^H (A x - y)`` is found without the adjoint."""
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
