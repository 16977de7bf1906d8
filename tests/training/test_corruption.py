"""Noise families: moments of what they draw, their Tweedie estimates on conjugate priors, limits, unknown parameters."""

import math

import pytest
import torch
from torch.special import digamma

from medrecon.priors import tweedie
from medrecon.training.corruption import (
    FAMILIES,
    GammaNoise,
    GaussianNoise,
    PoissonNoise,
    estimate_noise,
    least_variation,
    local_mean,
    measure,
    noise_family,
)

DOUBLE = torch.float64
ALL = [GaussianNoise(0.2), PoissonNoise(20.0), GammaNoise(12.0)]
NAMES = ["gaussian", "poisson", "gamma"]


def image(shape=(96, 80), batch=3):
    """Smooth bumps between 0.2 and 1 within a disc, 0 outside."""
    y, x = (torch.linspace(-1, 1, n, dtype=DOUBLE) for n in shape)
    r = y[:, None] ** 2 + x**2
    bumps = [0.6 + 0.4 * torch.cos((2 + k) * y)[:, None] * torch.sin((3 - k) * x + k) for k in range(batch)]
    return (torch.stack(bumps) * (r < 0.8))[:, None]


@pytest.mark.parametrize("family", ALL, ids=NAMES)
@pytest.mark.parametrize("level", [0.5, 0.05])
def test_noise_has_mean_zero_and_the_stated_spread(family, level):
    """Mean x and standard deviation ``std * profile``; half the unit is where ``profile`` is 1. 4e5 pixels, 5 standard errors."""
    torch.manual_seed(0)
    x = torch.full((1, 1, 700, 600), level, dtype=DOUBLE)
    y = family.corrupt(x)
    assert y.dtype == x.dtype
    std, n = float(family.std * family.profile(x).mean()), x.numel()
    assert abs(float(y.mean()) - level) < 5 * std / n**0.5
    kurtosis = float(((y - y.mean()) ** 4).mean() / y.var() ** 2)
    assert abs(float(y.var()) / std**2 - 1) < 5 * ((kurtosis - 1) / n) ** 0.5
    if level == 0.5:
        assert torch.allclose(family.profile(x), torch.ones_like(x))


@pytest.mark.parametrize("family", ALL, ids=NAMES)
def test_draws_follow_torch_and_leave_the_image_alone(family):
    x = image().float()
    before = x.clone()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(family.corrupt(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(x, before)
    data = measure(x, family)
    assert not torch.equal(data["image"], data["second"])
    assert torch.equal(data["clean"], x)
    assert torch.equal(data["noise_std"], torch.full((3,), family.std))


# Conjugate priors of single pixels: clean values, the score of p(y), and the posterior functional that Tweedie returns.
CLEAN, SHAPE, RATE = 0.4, 4.0, 10.0


def conjugate(family, n=200_000):
    """Clean values, noisy values, their score and the closed-form estimate, ``(1, 1, n, 1)``: no pixel is like its neighbour."""
    torch.manual_seed(0)
    law = torch.distributions.Gamma(torch.tensor(SHAPE, dtype=DOUBLE), torch.tensor(RATE, dtype=DOUBLE))
    if isinstance(family, GaussianNoise):
        x = CLEAN + 0.3 * torch.randn(1, 1, n, 1, dtype=DOUBLE)
        y = family.corrupt(x)
        total = 0.3**2 + family.sigma**2
        return x, y, (CLEAN - y) / total, CLEAN + 0.3**2 / total * (y - CLEAN)
    if isinstance(family, PoissonNoise):
        x = law.sample((1, 1, n, 1))
        y = family.corrupt(x)
        z, b = family.peak * y, RATE / family.peak
        log_mean = digamma(z + SHAPE) - math.log(1 + b)
        return x, y, family.peak * (log_mean - digamma(z + 1)), log_mean.exp() / family.peak
    x = 1 / law.sample((1, 1, n, 1))
    y = family.corrupt(x)
    return (
        x,
        y,
        (family.k - 1) / y - (SHAPE + family.k) * family.k / (RATE + family.k * y),
        (RATE + family.k * y) / (SHAPE + family.k),
    )


@pytest.mark.parametrize("family", ALL, ids=NAMES)
def test_estimates_are_the_closed_forms_of_conjugate_priors(family):
    x, y, score, expected = conjugate(family)
    found = family.denoise(y, score)
    # Where a Poisson pixel and its neighbours have no counts, 0 is returned by design.
    kept = local_mean(y) > 0
    assert float(kept.double().mean()) > 0.99
    assert torch.allclose(found[kept], expected[kept], rtol=1e-10)

    def mse(a):
        return float(((a - x)[kept] ** 2).mean())

    assert mse(found) < 0.95 * mse(y)
    assert mse(family.denoise(y, -score)) > mse(y)


@pytest.mark.parametrize("family", ALL, ids=NAMES)
def test_smoothed_scores_are_corrected(family):
    """Of one known value x the score after smoothing by ``a`` is about ``(x - y) / (noise^2 + a^2)``: x must come out.

    To first order in the noise, so that it is small here; without the correction the error is three times larger and more.
    """
    small = {GaussianNoise: GaussianNoise(0.01), PoissonNoise: PoissonNoise(4e4), GammaNoise: GammaNoise(1e4)}[
        type(family)
    ]
    x = torch.full((1, 1, 9, 9), 0.5, dtype=DOUBLE)
    a = 0.7 * small.std
    y = x + small.std * torch.linspace(-2, 2, 81, dtype=DOUBLE).view_as(x)
    score = (x - y) / (small.std**2 + a**2)
    corrected, plain = ((small.denoise(y, score, s) - x).abs().max() for s in (a, 0.0))
    assert float(corrected) < 0.1 * small.std
    assert float(plain) > 0.5 * small.std


def test_estimated_scores_cannot_break_the_estimates():
    """A wrong score of any size leaves finite values of the right sign, also at 0 and below."""
    y = torch.tensor([0.0, 1e-6, 0.3, 1.0, -0.2]).repeat(4, 1)[None, None]
    for family in (PoissonNoise(30.0), GammaNoise(50.0)):
        for score in (-1e4, -30.0, 0.0, 30.0, 1e4, 1e30):
            found = family.denoise(y, torch.full_like(y, score))
            assert found.isfinite().all()
            assert (found >= 0).all()
    # The limit of the denominator is k / 4, so an estimate is at most four times the data.
    assert float(GammaNoise(50.0).denoise(y, torch.full_like(y, 1e6)).max()) <= 4 * (1 + 1e-5)
    # An empty background stays empty, whatever the score.
    assert torch.equal(
        PoissonNoise(30.0).denoise(torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)), torch.zeros(1, 1, 7, 7)
    )


def test_poisson_images_with_few_counts_keep_their_local_mean():
    """Of 0.2 counts a pixel, whatever the score says; of 30 counts the estimate is Tweedie's alone."""
    torch.manual_seed(0)
    family = PoissonNoise(30.0)
    dark, bright = (family.corrupt(torch.full((1, 1, 60, 60), x)) for x in (0.2 / 30, 1.0))
    for score in (0.0, -20.0):
        found = family.denoise(dark, torch.full_like(dark, score))
        # The weight of Tweedie's estimate is 0.2^2; 3600 pixels, standard error 0.0075 counts.
        assert 30 * float(found.mean()) == pytest.approx(0.2, abs=0.05)
        assert 30 * float(found.std()) < 0.15  # of 25 pixels 0.09, of one 0.45
    score = torch.full_like(bright, -3.0)
    assert torch.equal(family.denoise(bright, score), tweedie.poisson(bright, score, 1 / 30))


@pytest.mark.parametrize("shape", [(7,), (5, 8), (6, 5, 7)])
def test_local_mean_counts_only_pixels_inside(shape):
    x = torch.rand(2, 3, *shape, dtype=DOUBLE)
    found = local_mean(x)
    assert found.shape == x.shape
    index = tuple(n // 2 for n in shape)
    window = tuple(slice(max(i - 2, 0), i + 3) for i in index)
    assert torch.allclose(found[(1, 2, *index)], x[(1, 2, *window)].mean())
    assert torch.allclose(found[(0, 0, *[0] * len(shape))], x[(0, 0, *[slice(0, 3)] * len(shape))].mean())


@pytest.mark.parametrize(
    ("name", "level"), [("gaussian", 0.1), ("gaussian", 0.02), ("poisson", 15.0), ("poisson", 60.0), ("gamma", 20.0)]
)
def test_unknown_parameters_are_estimated(name, level):
    """Within 12 % of the standard deviation, which is 25 % of the peak or k."""
    torch.manual_seed(0)
    family = noise_family(name, level)
    found = estimate_noise(name, family.corrupt(image((160, 144))))
    assert type(found) is type(family)
    assert abs(found.std / family.std - 1) < 0.12
    with pytest.raises(ValueError, match=f"no {name} noise is found"):
        estimate_noise(name, torch.zeros(1, 1, 20, 20))


def test_least_variation_finds_the_parameter():
    """With the exact score of flat images whose value is known, of which only the truth leaves no noise."""
    torch.manual_seed(0)
    x = torch.full((2, 1, 40, 40), 0.5, dtype=DOUBLE)
    for name, level in (("gaussian", 0.1), ("poisson", 300.0), ("gamma", 200.0)):
        family = noise_family(name, level)
        y = family.corrupt(x)
        score = (x - y) / family.std**2
        candidates = [noise_family(name, level * f) for f in (0.25, 0.5, 1.0, 2.0, 4.0)]
        assert least_variation(candidates, y, score) == family


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("level", [0.0, -1.0, math.nan, math.inf, "1", True, None])
def test_levels_are_checked(name, level):
    with pytest.raises(ValueError, match="must be a number that is finite"):
        noise_family(name, level)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="noise must be one of gaussian, poisson, gamma; got 'rician'"):
        noise_family("rician", 1.0)
    with pytest.raises(ValueError, match="k must be above 1"):
        GammaNoise(0.5)
    for bad in (-0.01, math.nan):
        x = torch.tensor([[[[0.5, bad]]]])
        for family in (PoissonNoise(), GammaNoise()):
            with pytest.raises(ValueError, match="images without negative values or NaN"):
                family.corrupt(x)
