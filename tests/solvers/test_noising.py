"""How much noise a step leaves, and how much of the data: the books that a sampler keeps, and what ladders allow."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.data.scan import CartesianScan
from medrecon.likelihood import Gaussian
from medrecon.networks import ResidualUNet
from medrecon.noise import Noise, karras, time_travel
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.posterior import PriorSpec
from medrecon.priors import GaussianPrior
from medrecon.reconstruction import plan
from medrecon.sample import generate, sample
from medrecon.solvers import DDIM, DDRM, DDS, ILVR, MCG, SOLVERS, TMPD, DDNMPlus, RePaint
from medrecon.solvers.base import data_weight, variance_kept

from .problems import SHAPE, Dense, dense, gaussian_prior, measured
from .test_solvers import LEARNED, UNCONDITIONAL, fitted, make

DOUBLE = torch.float64
N = 5000
"""Items of one step: a standard deviation has a relative error of 1 %, a mean one of 1.4 % of the spread."""


def one_step(solver, sigma, after, noise_std=0.3, seed=0):
    """``x'`` of ``N`` items with one ``y`` and a prior that answers the same image, in coefficients; what they should hold."""
    generator = torch.Generator().manual_seed(seed)
    A = SpectralDense(dense(), SHAPE)
    estimate = torch.randn(1, *SHAPE, generator=generator, dtype=DOUBLE)
    y = torch.randn(1, 3, generator=generator, dtype=DOUBLE)
    state = estimate + sigma * torch.randn(N, *SHAPE, generator=generator, dtype=DOUBLE)
    data = Gaussian(A, y.expand(N, -1), noise_std)
    x = solver.step(
        state, sigma, after, prior=lambda x, s: 0 * x + estimate.expand_as(x), data=data, noise=Noise(range(N))
    )
    seen = (A.singular > 0).flatten()
    return A, data, A.vh(x)[:, seen], A.vh(estimate)[0, seen], (A.uh(y) / A.singular)[0, seen], A.singular[seen]


def test_repaint_noises_what_is_known():
    """Known coefficients are those of the data with the noise of the next level: 0.5, and 0 at the end."""
    _, _, found, _, c, _ = one_step(RePaint(), 1.0, 0.5)
    assert torch.allclose(found.mean(0), c, atol=0.03)
    assert torch.allclose(found.std(0), torch.full((3,), 0.5, dtype=DOUBLE), rtol=0.04)
    _, _, found, _, c, _ = one_step(RePaint(), 1.0, 0.0)
    assert torch.allclose(found, c.expand_as(found))


@pytest.mark.parametrize("solver", [ILVR(), MCG(zeta=0.0)], ids=["ilvr", "mcg"])
def test_what_is_exchanged_has_the_noise_of_the_next_level(solver):
    """``A x' = y + sigma' A z``: noise of an image, measured, so that every coefficient has that of the level."""
    _, _, found, _, c, _ = one_step(solver, 1.0, 0.5)
    assert torch.allclose(found.mean(0), c, atol=0.03)
    assert torch.allclose(found.std(0), torch.full((3,), 0.5, dtype=DOUBLE), rtol=0.04)


@pytest.mark.parametrize("solver", [DDRM(eta=0.6), DDNMPlus(eta=0.6)], ids=["ddrm", "ddnmplus"])
def test_data_noisier_than_the_level_pull_as_far_as_the_paper_says(solver):
    """``x0 + sigma' (0.8 (c - x0) / n + 0.6 z)`` below ``n = noise_std / s``; the whole of ``c`` above it."""
    after, noise_std = 0.2, 0.3
    _, _, found, estimate, c, s = one_step(solver, 1.0, after, noise_std)
    assert torch.allclose(found.mean(0), estimate + after * 0.8 * (c - estimate) * s / noise_std, atol=0.008)
    assert torch.allclose(found.std(0), torch.full((3,), 0.6 * after, dtype=DOUBLE), rtol=0.04)
    _, _, found, _, c, s = one_step(solver, 1.0, after, noise_std=0.05)
    assert torch.allclose(found.mean(0), c, atol=0.01)
    assert torch.allclose(found.std(0), (after**2 - (0.05 / s) ** 2).sqrt(), rtol=0.04)


def paper(prior, matrix, y, noise_std, sigmas, eta, noise):
    """DDNM+ in the paper's variables, ``x_t = sqrt(abar) x0 + sqrt(1 - abar) e``, one singular value after another."""
    u, s, vh = torch.linalg.svd(matrix)
    m, n = matrix.shape
    inverse = vh[:m].T @ torch.diag(1 / s) @ u.T
    kept = [1 / (1 + sigma**2) for sigma in sigmas.tolist()]
    x = noise((len(y), *SHAPE), DOUBLE)  # the ladder begins far up: noise alone
    x = x * (1 - kept[0]) ** 0.5
    for abar, after in pairwise(kept):
        x0 = prior(x / abar**0.5, ((1 - abar) / abar) ** 0.5)
        e = ((x - abar**0.5 * x0) / (1 - abar) ** 0.5).flatten(1) @ vh.T
        off = (inverse @ (matrix @ x0.flatten(1).T - y.T)).T @ vh.T
        z = noise.like(off) if after < 1 else torch.zeros_like(off)
        level, a, out = (1 - after) ** 0.5, after**0.5, []
        for i in range(n):
            if i >= m:
                share, new = 0.0, level * (eta * z[:, i] + (1 - eta**2) ** 0.5 * e[:, i])
            elif level >= a * noise_std / s[i]:
                share, new = 1.0, (level**2 - (a * noise_std / s[i]) ** 2) ** 0.5 * z[:, i]
            else:
                share, new = s[i] * level * (1 - eta**2) ** 0.5 / (a * noise_std), level * eta * z[:, i]
            out.append(a * ((x0.flatten(1) @ vh.T)[:, i] - share * off[:, i]) + new)
        x = (torch.stack(out, dim=1) @ vh).view_as(x0)
    return x


def spread_values(values, seed=1):
    """A 3 x 6 matrix with these singular values."""
    u, _, vh = torch.linalg.svd(dense(seed=seed), full_matrices=False)
    return u @ torch.diag(torch.tensor(values, dtype=DOUBLE)) @ vh


@pytest.mark.parametrize("noise_std", [0.1, 0.0])
def test_ddnm_plus_is_the_papers_formula_per_singular_value(noise_std):
    prior, data, _ = measured(batch=5)
    matrix, sigmas = spread_values([1.0, 0.3, 0.05]), karras(20.0, 0.01, 40)
    exact = paper(prior, matrix, data.y, noise_std, sigmas, 0.85, Noise(range(5)))
    found = sample(
        DDNMPlus(), prior, Gaussian(SpectralDense(matrix, SHAPE), data.y, noise_std), sigmas, noise=Noise(range(5))
    )
    # The start is noise without the factor that makes its variance one, 1 - 1 / 801.
    assert torch.allclose(found, exact, atol=1e-6)


def test_ddnm_plus_without_singular_values_is_right_for_multiples_of_a_projector():
    """One lambda for all: equal to the form per singular value where there is one, at any scale of the operator."""
    prior, data, _ = measured(batch=4)
    matrix = 40 * torch.linalg.qr(dense().T)[0].T.contiguous()
    y = 40 * data.y
    sigmas = karras(20.0, 0.01, 40)
    # |A|^2 is taken 5 % too large, which is a noise 2.5 % smaller.
    exact = paper(prior, matrix, y, 40 * 0.1 / 1.05**0.5, sigmas, 0.85, Noise(range(4)))
    data = Gaussian(Dense(matrix), y, 40 * 0.1)
    # The fresh noise is that of the image here and that of the coefficients there: the same law, so means over many.
    found = DDNMPlus(n_cg=30).step(exact, 1.0, 0.0, prior=prior, data=data, noise=Noise(range(4)))
    assert torch.allclose(found, prior(exact, 1.0), atol=1e-12)
    state, after, n = exact[:1].expand(N, -1, -1), 0.05, 0.1 / 1.05**0.5
    data = Gaussian(Dense(matrix), y[:1].expand(N, -1), 40 * 0.1)
    x0, P = prior(exact[:1], 1.0), torch.linalg.pinv(matrix) @ matrix
    # At a level above the noise: what is measured has the data, and only so much fresh noise that both make up the level.
    x = DDNMPlus(n_cg=30).step(state, 1.0, 0.2, prior=prior, data=data, noise=Noise(range(N))).flatten(1)
    assert torch.allclose(x.mean(0) @ matrix.T, y[0], atol=40 * 0.01)
    expected = (0.85 * 0.2) ** 2 * (torch.eye(6, dtype=DOUBLE) - P) + (0.2**2 - n**2) * P
    assert torch.allclose(torch.cov(x.T), expected, atol=0.0025)
    # And below it.
    x = DDNMPlus(n_cg=30).step(state, 1.0, after, prior=prior, data=data, noise=Noise(range(N)))
    kept = (1 - 0.85**2) ** 0.5
    pull = kept * after / n * (torch.linalg.pinv(matrix) @ (y[0] - matrix @ x0.flatten()))
    hidden = (torch.eye(6, dtype=DOUBLE) - P) @ (after * kept * (exact[0] - x0[0]).flatten())
    assert torch.allclose(x.flatten(1).mean(0), x0.flatten() + pull + hidden, atol=0.003)
    assert torch.allclose(torch.cov(x.flatten(1).T), (0.85 * after) ** 2 * torch.eye(6, dtype=DOUBLE), atol=2e-4)


@pytest.mark.parametrize("name", ["ddrm", "ddnmplus"])
@pytest.mark.parametrize("eta", [0.85, 0.95])
def test_more_steps_do_not_forget_the_data(name, eta):
    """The residual in noise levels stays below that of a posterior sample, 1; with eta = 1 it rose from 1.7 to 4."""
    prior, data, matrix = measured(batch=100, noise_std=0.1)
    data = replace(data, A=SpectralDense(matrix, SHAPE))
    for steps in (50, 1000):
        x = sample(SOLVERS[name](eta=eta), prior, data, karras(20.0, 0.01, steps), noise=Noise(range(100)))
        assert 0.1 < float(data.residual(x).square().mean().sqrt()) / 0.1 < 1.0
    with pytest.raises(ValueError, match=r"eta must be in \[0, 0.95\]; got 1"):
        SOLVERS[name](eta=1.0)


def test_the_weight_of_the_prior_grows_no_further_than_images_do():
    """``noise_std^2 / min(sigma, 1)^2``: 1 is the scale of images, so early levels do not trust the data the more."""
    assert data_weight(None, 2.0, 0.1, 0.5) == pytest.approx(2.0 * 0.01 / 0.25)
    assert data_weight(None, 2.0, 0.1, 1.0) == data_weight(None, 2.0, 0.1, 20.0) == pytest.approx(0.02)
    assert data_weight(0.3, 2.0, 0.1, 20.0) == 0.3


# What calibrated promises


def repeated(n, noise_std=0.05):
    _, data, matrix = measured(batch=1, noise_std=noise_std, seed=5)
    prior = gaussian_prior()
    return prior, replace(data, y=data.y.expand(n, -1).contiguous()), prior.posterior(matrix, data.y[0], noise_std)


@pytest.mark.parametrize("steps", [1, 5, 10, 20, 50, 150])
def test_who_is_called_calibrated_has_the_variance_of_the_posterior(steps):
    """TMPD's variance over the true one: within a tenth where it says so, short of it by more where it does not."""
    prior, data, (mean, covariance) = repeated(2000)
    sigmas = karras(8.0, 0.005, steps)
    x = sample(TMPD(n_cg=20), prior, data, sigmas, noise=Noise(range(2000))).flatten(1)
    share = float(x.var(0).sum() / covariance.trace())
    # 2000 samples of three free directions: standard error 0.018.
    assert TMPD(n_cg=20).calibrated(sigmas) == (steps >= 150)
    if steps >= 150:
        assert abs(share - 1) < 0.1
        assert (x.mean(0) - mean).norm() < 0.1 * covariance.trace().sqrt()
    else:
        assert share < 0.9
    modes = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    expected = float((variance_kept(sigmas, modes) * modes**2).sum() / covariance.trace())
    assert abs(share - expected) < 0.06 * expected


def test_calibration_needs_the_kernel_the_solve_and_the_ladder():
    long = karras(8.0, 0.005, 400)
    assert TMPD(n_cg=20).calibrated(long)
    assert not TMPD(n_cg=20, eta=0.0).calibrated(long)
    assert not TMPD(n_cg=5).calibrated(long)
    assert not TMPD(n_cg=20).calibrated(karras(0.3, 0.005, 400))  # noise of 0.3 is no start for images of spread 1
    assert not TMPD(n_cg=20).calibrated(karras(8.0, 0.2, 400))  # ends before the detail
    for name in SOLVERS:
        if name != "tmpd":
            assert not make(name).calibrated(long), name


def test_the_variance_that_ancestral_steps_keep():
    """The recursion against 4000 draws, rising steps included."""
    prior = GaussianPrior(
        torch.zeros(1, 3, dtype=DOUBLE), torch.diag(torch.tensor([0.05, 0.3, 1.0], dtype=DOUBLE) ** 2)
    )
    for sigmas in (karras(8.0, 0.01, 12), time_travel(karras(8.0, 0.01, 12), 4, 2)):
        x = generate(prior, (1, 3), sigmas, seeds=range(4000), solver=DDIM(eta=1.0), dtype=DOUBLE).flatten(1)
        kept = variance_kept(sigmas, torch.tensor([0.05, 0.3, 1.0]))
        assert torch.allclose(x.var(0) / prior.covariance.diagonal(), kept, rtol=0.1)  # standard error 0.022


# Ladders that no step can begin at


@pytest.mark.parametrize("name", LEARNED + UNCONDITIONAL)
@pytest.mark.parametrize(
    "levels",
    [[1.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0], [1.0, -0.5, 0.0], [1.0, math.nan, 0.0], [math.inf, 1.0, 0.0]],
    ids=["0 twice", "0 between", "from 0", "negative", "NaN", "infinite"],
)  # fmt: skip
def test_ladders_with_a_level_that_cannot_be_are_refused(name, levels):
    """In one sentence and before the first step; they ended in NaN."""
    prior, data, _ = measured()
    with pytest.raises(ValueError, match="noise levels must be positive and finite, and only the last may be 0; got"):
        if name in UNCONDITIONAL:
            generate(prior, SHAPE, torch.tensor(levels), seeds=[0], solver=make(name))
        else:
            sample(make(name), prior, fitted(name, data), torch.tensor(levels), noise=Noise(0))


def test_a_ladder_is_one_row():
    prior, data, _ = measured()
    for sigmas in (torch.ones(1), torch.ones(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="at least two levels in one row"):
            sample(DDS(), prior, data, sigmas, noise=Noise(0))


def test_sidecars_ask_the_solver_about_their_ladder(monkeypatch):
    """And whose run starts from another estimate has no spread of its own, whatever the solver says."""
    asked = []
    monkeypatch.setattr(TMPD, "calibrated", lambda self, sigmas: asked.append(sigmas) or True)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).eval()
    kspace = torch.randn(1, 1, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.complex64).numpy()
    scan = CartesianScan(path=Path("a.h5"), format="toy", kspace=kspace, mask=np.ones(20, bool))
    prior = PriorSpec(name="toy", version="1", weights_sha256="0", network=lambda: network)
    for start, expected in (({}, True), ({"start": "cg-sense", "start_sigma": 0.5}, False)):
        made = plan(scan, bundle=prior, solver="tmpd", steps=3, noise_std=0.1, **start)
        assert made.run().record["solver"]["calibrated"] is expected
        assert expected is False or torch.equal(asked[-1], made.sampling.sigmas)
