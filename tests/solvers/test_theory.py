"""Bounds and identities of diffusion samplers, on problems where both sides are known; and what breaks them."""

import math

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors import GaussianPrior, MixturePrior, with_vjp
from medrecon.solvers.base import project_on_data
from medrecon.solvers.theory import jensen_gap_bound, noise_norm, outside_range, sliced_wasserstein

from ..make.posteriors import SHAPE, Dense, SharedNoise, dense

DOUBLE = torch.float64


# The Jensen gap of DPS


def paper(spread, noise_std, lipschitz, n_measured):
    """The bound as the paper has it."""
    slope = n_measured / math.sqrt(2 * math.pi * noise_std**2) * math.exp(-1 / (2 * noise_std**2))
    return slope * lipschitz * spread


def one_dimensional(noise_std, y, x, sigma, std=0.3):
    """Gap and ``m1`` of two components at -1 and 1 seen through ``A = 1``, by the trapezoidal rule."""
    grid = torch.linspace(-6, 6, 200_001, dtype=DOUBLE)
    weights = torch.tensor([0.4, 0.6], dtype=DOUBLE)
    log_p = torch.stack([-((grid - m) ** 2) / (2 * std**2) for m in (-1.0, 1.0)], 1).add(weights.log()).logsumexp(1)
    density = (log_p - (x - grid) ** 2 / (2 * sigma**2)).softmax(0)
    mean = (density * grid).sum()
    prior = MixturePrior(weights, torch.tensor([[[-1.0]], [[1.0]]], dtype=DOUBLE), std)
    assert abs(float(prior(torch.full((1, 1, 1), x, dtype=DOUBLE), sigma)) - float(mean)) < 1e-9
    h = (-((y - grid) ** 2) / (2 * noise_std**2)).exp() / math.sqrt(2 * math.pi) / noise_std
    at_mean = math.exp(-((y - float(mean)) ** 2) / (2 * noise_std**2)) / math.sqrt(2 * math.pi) / noise_std
    return abs(float((density * h).sum()) - at_mean), float((density * (grid - mean).abs()).sum())


def test_the_jensen_gap_of_a_mixture_is_below_its_bound_and_above_the_published_one():
    below_paper = 0
    for noise_std in (0.05, 0.2, 0.5, 1.0, 2.0):
        for y in (-1.0, 0.0, 0.7):
            for sigma, x in ((0.2, 0.5), (0.7, 0.1), (3.0, -1.0)):
                gap, spread = one_dimensional(noise_std, y, x, sigma)
                assert gap <= jensen_gap_bound(spread, noise_std, 1.0, 1) * (1 + 1e-9)
                if noise_std >= 1:
                    assert gap <= paper(spread, noise_std, 1.0, 1)
                below_paper += gap <= paper(spread, noise_std, 1.0, 1)
    # 18 of the 45 have noise of 1 or more; with less, the published constant is no bound.
    assert below_paper < 30
    gap, spread = one_dimensional(0.05, 0.0, 0.1, 0.7)
    assert gap > 1e80 * paper(spread, 0.05, 1.0, 1)


def test_the_jensen_gap_comes_near_to_its_bound():
    """Two narrow modes at a distance of 1.585 noise levels to either side of the data: 0.744 of the bound, its largest share."""
    s, a = 0.4, 1.5852 * 0.4
    gap = (1 - math.exp(-(a**2) / (2 * s**2))) / math.sqrt(2 * math.pi) / s
    assert 0.743 < gap / jensen_gap_bound(a, s, 1.0, 1) < 0.745
    found, spread = one_dimensional(s, 0.0, 0.0, 10.0, std=0.001)  # modes at 1: 2.5 noise levels
    assert 0.5 < found / min(found + 1, jensen_gap_bound(spread, s, 1.0, 1)) <= 1


@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_slope_of_the_likelihood_is_the_constant_of_the_bound(m):
    """The largest gradient of the density of ``m`` measurements, to six digits, which a wrong power of s fails."""
    s = 0.3
    r = torch.linspace(0, 3, 300_001, dtype=DOUBLE, requires_grad=True)
    density = (-(r**2) / (2 * s**2)).exp() * (2 * math.pi * s**2) ** (-m / 2)
    (slope,) = torch.autograd.grad(density.sum(), r)
    assert abs(float(slope.abs().max()) * 1e-3 / jensen_gap_bound(1e-3, s, 1.0, m) - 1) < 1e-6
    # The density never differs by more than its peak.
    assert abs(jensen_gap_bound(1e9, s, 1.0, m) / (2 * math.pi * s**2) ** (-m / 2) - 1) < 1e-12
    assert torch.allclose(
        jensen_gap_bound(torch.tensor([0.01, 0.02], dtype=DOUBLE), s, 2.0),
        torch.tensor([0.02, 0.04], dtype=DOUBLE) * math.exp(-0.5) / s,
    )
    assert jensen_gap_bound(1.0, 0.05, 1.0, 100_000) == math.inf
    assert jensen_gap_bound(1.0, 50.0, 1.0, 100_000) == 0.0
    assert jensen_gap_bound(0.0, 0.05, 1.0, 100_000) == 0.0
    assert jensen_gap_bound(torch.zeros(2), 0.05, 1.0, 100_000).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="noise_std"):
        jensen_gap_bound(1.0, 0.0)


def test_the_jensen_gap_in_six_dimensions():
    """Both expectations in closed form, ``m1`` from 20 000 draws (0.5 %): below the bound for every data set."""
    mode = torch.full(SHAPE, 6**-0.5, dtype=DOUBLE)
    prior = MixturePrior(torch.tensor([0.5, 0.5], dtype=DOUBLE), torch.stack([mode, -mode]), 0.2)
    matrix, sigma, s = 0.5 * dense(), 0.8, 0.3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *SHAPE, generator=generator, dtype=DOUBLE)
    mean = prior(x, sigma).flatten()
    weights = prior.shares(x, prior.std**2 + sigma**2)[0]
    kept = prior.std**2 / (prior.std**2 + sigma**2)
    centres = prior.means.flatten(1) + kept * (x.flatten() - prior.means.flatten(1))
    which = torch.multinomial(weights, 20_000, replacement=True, generator=generator)
    draws = centres[which] + (kept * sigma**2) ** 0.5 * torch.randn(20_000, 6, generator=generator, dtype=DOUBLE)
    spread = float((draws - mean).norm(dim=1).mean())
    eye = torch.eye(3, dtype=DOUBLE)
    shares = []
    # Data near to what either mode or the mean gives.
    means = torch.cat([centres, mean[None]]) @ matrix.T
    for y in means.repeat(20, 1) + s * torch.randn(60, 3, generator=generator, dtype=DOUBLE):
        laws = [
            torch.distributions.MultivariateNormal(matrix @ c, kept * sigma**2 * matrix @ matrix.T + s**2 * eye)
            for c in centres
        ]
        expected = sum(w * law.log_prob(y).exp() for w, law in zip(weights, laws, strict=True))
        at_mean = torch.distributions.MultivariateNormal(matrix @ mean, s**2 * eye).log_prob(y).exp()
        shares.append(float((expected - at_mean).abs()) / jensen_gap_bound(spread, s, 0.5, 3))
    assert max(shares) <= 1
    assert max(shares) > 0.1  # a bound ten times smaller would be none


# Concentration of noise


@pytest.mark.parametrize("n", [1, 2, 6, 500])
def test_the_norm_of_noise(n):
    """Against 40 000 draws, within three standard errors of mean and standard deviation."""
    x = torch.randn(40_000, n, generator=torch.Generator().manual_seed(n), dtype=DOUBLE)
    ratio = x.norm(dim=1) / n**0.5
    mean, std = noise_norm(n)
    assert abs(float(ratio.mean()) - mean) < 3 * std / 200
    # The standard error of a standard deviation, with the fourth moment of the draws.
    fourth = float(((ratio - mean) ** 4).mean())
    assert abs(float(ratio.var()) - std**2) < 3 * (fourth - std**4) ** 0.5 / 200


def test_noise_concentrates_as_one_over_the_root_of_n():
    assert noise_norm(1) == pytest.approx(((2 / math.pi) ** 0.5, (1 - 2 / math.pi) ** 0.5), abs=1e-14)
    assert noise_norm(2)[0] == pytest.approx(math.pi**0.5 / 2, abs=1e-14)
    # Gamma functions and the series agree where one takes over; the former lose digits to a difference of logarithms.
    below, above = noise_norm(999), noise_norm(1000)
    assert 0 < above[0] - below[0] < 3e-7
    assert 1 < below[1] / above[1] * (999 / 1000) ** 0.5 + 1e-6 < 1 + 2e-6
    for n in (100, 10_000, 10**8, 10**12):
        mean, std = noise_norm(n)
        assert 0 < 1 - mean < 0.26 / n
        assert std * (2 * n) ** 0.5 == pytest.approx(1, abs=0.3 / n + 1e-9)
    with pytest.raises(ValueError, match="at least 1"):
        noise_norm(0)


# The range of the Jacobian


def manifold(n=12, rank=4, seed=0):
    """Images on a plane of ``rank`` dimensions, as ``(prior, basis)``."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=DOUBLE))
    covariance = basis @ torch.diag(torch.linspace(0.3, 0.9, rank, dtype=DOUBLE) ** 2) @ basis.T
    return GaussianPrior(torch.randn(2, n // 2, generator=generator, dtype=DOUBLE), covariance), basis


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_guidance_stays_in_the_range_of_the_jacobian_and_a_projection_does_not(sigma):
    """Below 1e-8 of its length with the basis given and with conjugate gradients."""
    prior, basis = manifold()
    x = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    data = Gaussian(Dense(dense(5, 12), (2, 6)), torch.ones(3, 5, dtype=DOUBLE), 0.1)
    x0, vjp = with_vjp(prior, x, sigma)
    through = data.A.adjoint(data.residual(x0))
    guidance = vjp(through)
    projection = project_on_data(x, data, 0.0, 1.0, 30, Noise(range(3))) - x
    for v, inside in ((guidance, True), (through, False), (projection, False)):
        known = outside_range(prior, x, sigma, v, basis=basis)
        found = outside_range(prior, x, sigma, v)
        size = v.flatten(1).norm(dim=1)
        assert torch.allclose(found, known, atol=1e-8 * float(size.max()))
        share = known.flatten(1).norm(dim=1) / size
        assert (share < 1e-8).all() if inside else (share > 0.3).all()
        assert ((found.flatten(1).norm(dim=1) / size < 1e-8) == inside).all()


def test_a_prior_of_full_rank_has_no_outside_and_one_that_is_not_linear_is_asked_where_it_is():
    whole = GaussianPrior(torch.zeros(SHAPE, dtype=DOUBLE), torch.eye(6, dtype=DOUBLE))
    v = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert outside_range(whole, v, 1.0, v).abs().max() < 1e-12

    def curved(x, sigma):
        """Images on a parabola, ``(t, t^2)`` with ``t = x_1``: an asymmetric Jacobian; the range of its transpose is ``x_1``."""
        return torch.stack([x[:, 0], x[:, 0] ** 2], dim=1)

    x = torch.tensor([[[0.5], [3.0]], [[-1.0], [0.0]]], dtype=DOUBLE)
    v = torch.tensor([[[2.0], [5.0]], [[1.0], [-7.0]]], dtype=DOUBLE)
    found = outside_range(curved, x, 1.0, v)
    assert torch.allclose(found, torch.stack([torch.zeros(2, 1, dtype=DOUBLE), v[:, 1]], dim=1), atol=1e-12)


def test_distance_of_samples():
    """Of two normal laws, along every direction ``sqrt(d^2 + (s - t)^2)``; over directions in 6 dimensions ``|m|^2 / 6``."""
    a = SharedNoise(0)((20_000, *SHAPE), DOUBLE)
    b = 0.5 * SharedNoise(1)((20_000, *SHAPE), DOUBLE) + 1.0
    expected = (6 / 6 + 0.5**2) ** 0.5
    # 20 000 draws, 400 directions of the mean: 1 % and 3 %.
    assert abs(sliced_wasserstein(a, b, 400) / expected - 1) < 0.08
    assert sliced_wasserstein(a, a) == 0
    assert 0.01 < sliced_wasserstein(a, SharedNoise(2)((20_000, *SHAPE), DOUBLE)) < 0.03  # 1 / sqrt(20 000) = 0.007
    with pytest.raises(ValueError, match="same shape"):
        sliced_wasserstein(a, b[:5])
