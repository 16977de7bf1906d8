"""DDNM and DDNM+: exact data, and the paper's formula per singular value."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.sample import sample
from medrecon.solvers import DDNM, DDNMPlus

from ..make.posteriors import SHAPE, Dense, SharedNoise, dense, gaussian_prior, measured
from .expectations import LADDER

DOUBLE = torch.float64
N = 5000
"""Items of one step: a standard deviation has a relative error of 1 %, a mean one of 1.4 % of the spread."""


def test_ddnm_satisfies_the_data_exactly():
    prior, data, _ = measured(batch=4)
    x = sample(DDNM(n_cg=30), prior, data, LADDER, noise=Noise(range(4)))
    assert data.residual(x).abs().max() < 1e-12


def test_ddnm_plus_leaves_the_noise_of_the_data_in_the_data():
    """DDNM reproduces the noise of the data (residual 0); DDNM+ must not: its residual has the size of the noise."""
    prior = gaussian_prior()
    matrix = torch.linalg.qr(dense().T)[0].T.contiguous()  # orthonormal rows: all singular values 1
    generator = torch.Generator().manual_seed(0)
    root = prior.modes * prior.variances.sqrt()
    x = prior.mean.flatten() + torch.randn(300, 6, generator=generator, dtype=torch.float64) @ root.T
    y = x @ matrix.T + 0.1 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    data = Gaussian(Dense(matrix), y, 0.1)
    few = karras(20.0, 0.01, 20)  # every step below noise_std pulls a little further towards y: few of them
    z = sample(DDNMPlus(), prior, data, few, noise=SharedNoise(0))
    plain = sample(DDNM(), prior, data, few, noise=SharedNoise(0))
    assert data.residual(plain).abs().max() < 1e-12
    # In noise levels; a draw from the posterior has 1 (measured: 0.68).
    assert 0.5 < float(data.residual(z).square().mean().sqrt()) / 0.1 < 1.0
    # Without noise it is DDNM, whose noise keeps the unmeasured part of the old.
    free = sample(DDNMPlus(), prior, replace(data, noise_std=0.0), few, noise=SharedNoise(0))
    assert data.residual(free).abs().max() < 1e-9


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
    """With one lambda for all singular values it equals the form per singular value, at any scale of the operator."""
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
    x = DDNMPlus(n_cg=30).step(state, 1.0, 0.2, prior=prior, data=data, noise=SharedNoise(0)).flatten(1)
    assert torch.allclose(x.mean(0) @ matrix.T, y[0], atol=40 * 0.01)
    expected = (0.85 * 0.2) ** 2 * (torch.eye(6, dtype=DOUBLE) - P) + (0.2**2 - n**2) * P
    assert torch.allclose(torch.cov(x.T), expected, atol=0.0025)
    # And below it.
    x = DDNMPlus(n_cg=30).step(state, 1.0, after, prior=prior, data=data, noise=SharedNoise(0))
    kept = (1 - 0.85**2) ** 0.5
    pull = kept * after / n * (torch.linalg.pinv(matrix) @ (y[0] - matrix @ x0.flatten()))
    hidden = (torch.eye(6, dtype=DOUBLE) - P) @ (after * kept * (exact[0] - x0[0]).flatten())
    assert torch.allclose(x.flatten(1).mean(0), x0.flatten() + pull + hidden, atol=0.003)
    assert torch.allclose(torch.cov(x.flatten(1).T), (0.85 * after) ** 2 * torch.eye(6, dtype=DOUBLE), atol=2e-4)
