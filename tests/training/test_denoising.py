"""Objectives without clean images: their linear minimisers in closed form, blind spots, and toys with conjugate priors."""

import math

import pytest
import torch
from torch import nn
from torch.special import digamma

from medrecon.priors.nets import precondition
from medrecon.training.corruption import GammaNoise, GaussianNoise, PoissonNoise, measure
from medrecon.training.denoising import (
    Noise2Noise,
    Noise2Score,
    Noise2Self,
    Supervised,
    SURELoss,
    donut,
    grid_mask,
    with_own_pixel,
)

DOUBLE = torch.float64
N = 4
STD = 0.6


class Linear(nn.Module):
    """``F(x) = V x`` on images of ``N`` pixels; ``D = (c_skip + c_out c_in V) y``."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, x, timesteps):
        return (x.flatten(1) @ self.matrix.T).view_as(x)


def gaussian_images(n, sigma):
    """Clean and twice noisy images ``(n, 1, 2, 2)`` of a correlated Gaussian, and its covariance."""
    generator = torch.Generator().manual_seed(0)
    root = 0.5 * torch.randn(N, N, generator=generator, dtype=DOUBLE)
    x, a, b = torch.randn(3, n, N, generator=generator, dtype=DOUBLE)
    x = x @ root.T
    data = {"clean": x, "image": x + sigma * a, "second": x + sigma * b}
    data = {name: value.view(n, 1, 2, 2) for name, value in data.items()}
    return {**data, "noise_std": torch.full((n,), sigma, dtype=DOUBLE)}, root @ root.T


def linear_denoiser(objective, data, level):
    """The matrix of ``D`` at ``level`` that minimises the objective, which is quadratic, by its normal equations."""
    seed = 5

    def total(theta):
        torch.manual_seed(seed)
        return objective.loss(Linear(theta.view(N, N)), data).mean()

    zero = torch.zeros(N * N, dtype=DOUBLE)
    gradient = torch.autograd.functional.jacobian(total, zero)
    hessian = torch.autograd.functional.hessian(total, zero)
    v = -torch.linalg.solve(hessian, gradient).view(N, N)
    c = precondition(torch.tensor(level, dtype=DOUBLE), objective.sigma_data)
    return c.skip * torch.eye(N, dtype=DOUBLE) + c.out * c.input * v


def wiener(covariance, sigma):
    return covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(N, dtype=DOUBLE))


@pytest.mark.parametrize("kind", [Supervised, Noise2Noise, SURELoss], ids=lambda kind: kind.__name__)
def test_linear_denoisers_are_wiener_filters(kind):
    """``C (C + sigma^2)^-1``, from clean images, from pairs of noisy ones, and from the noise level."""
    data, covariance = gaussian_images(200_000, STD)
    objective = kind(family=GaussianNoise(STD), sigma_data=0.7)
    found = linear_denoiser(objective, data, STD)
    # Standard errors: sigma / sqrt(200000) of the noise over |y|, about 0.3 % of an entry.
    assert float((found - wiener(covariance, STD)).norm() / wiener(covariance, STD).norm()) < 0.02


def test_noise2score_is_the_score_of_the_noisier_images():
    """At smoothing a: ``R = -(C + sigma^2 + a^2)^-1 y``; the prior there is their Wiener filter, and so is the estimate."""
    ratio = 0.8
    data, covariance = gaussian_images(200_000, STD)
    objective = Noise2Score(family=GaussianNoise(STD), sigma_data=0.7, smoothing=(ratio, ratio))
    total = STD * (1 + ratio**2) ** 0.5
    found = linear_denoiser(objective, data, total)
    expected = wiener(covariance, total)
    assert float((found - expected).norm() / expected.norm()) < 0.03
    # The estimate from a network with exactly this R: y + (sigma^2 + a^2) R(y), with one level per item.
    c = precondition(torch.tensor(total, dtype=DOUBLE), 0.7)
    network = Linear((expected - c.skip * torch.eye(N, dtype=DOUBLE)) / (c.out * c.input))
    y = data["image"][:50]
    estimate = objective.denoise(network, y, multiple=1)
    assert torch.allclose(estimate.flatten(1), y.flatten(1) @ expected.T, rtol=1e-9)
    assert torch.allclose(objective.prior(network, multiple=1)(y, total), estimate, rtol=1e-9)
    # A level that training did not know: y + a^2 R + sigma'^2 R.
    score = (y.flatten(1) @ expected.T - y.flatten(1)) / total**2
    found, smoothing = objective.score(network, y, multiple=1)
    assert torch.allclose(found.flatten(1), score, rtol=1e-9)
    assert torch.allclose(smoothing, torch.full_like(y, ratio * STD))
    other = objective.denoise(network, y, multiple=1, family=GaussianNoise(2 * STD)).flatten(1)
    assert torch.allclose(other, y.flatten(1) + ((ratio * STD) ** 2 + 4 * STD**2) * score, rtol=1e-9)


class Answer(nn.Module):
    """The network whose denoiser returns a function of its input."""

    def __init__(self, function, sigma_data=0.25):
        super().__init__()
        self.function, self.sigma_data = function, sigma_data

    def forward(self, x, timesteps):
        c = precondition((timesteps * 4 / 250).exp().view(-1, 1, 1, 1), self.sigma_data)
        return (self.function(x / c.input) - c.skip * x / c.input) / c.out


FAMILIES = [GaussianNoise(0.1), PoissonNoise(30.0), GammaNoise(50.0)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_the_loss_of_no_score_is_one(family):
    torch.manual_seed(0)
    data = measure(torch.rand(4, 1, 100, 100, dtype=DOUBLE), family)
    objective = Noise2Score(family=family)
    same = Answer(lambda y: y)
    loss = objective.loss(same, data)
    assert loss.shape == (4,)
    assert ((loss - 1).abs() < 0.08).all()
    assert torch.allclose(objective.denoise(same, data["image"]), family.denoise(data["image"], 0 * data["image"]))


@pytest.mark.parametrize(("family", "power"), [(PoissonNoise(2000.0), 1), (GammaNoise(2000.0), 2)])
def test_noise_is_added_and_weighted_by_the_profile(family, power):
    """Dark and bright halves of known value x, noise s: R = (x - w) / (s^2 + a^2) has the loss ``1 / (1 + a^2 / s^2)`` in both.

    With a = s that is 1/2, and 1 where R = 0; halves are weighted with the variance of their noise.
    """
    torch.manual_seed(0)
    x = torch.full((2, 1, 200, 200), 0.2, dtype=DOUBLE)
    x[..., 100:] = 0.9
    data = measure(x, family)
    objective = Noise2Score(family=family, smoothing=(1.0, 1.0))
    # 4e4 pixels have a standard error of 0.7 %, and the profile is wrong at the seam of the halves, for 2 % of the pixels.
    loss = objective.loss(Answer(lambda y: x), data)
    assert ((loss - 0.5).abs() < 0.03).all()
    loss = objective.loss(Answer(lambda y: torch.where(x > 0.5, x, y)), data)
    bright = 0.9**power / (0.9**power + 0.2**power)
    assert ((loss - (1 - bright / 2)).abs() < 0.03).all()
    # The same network's estimate from the noisy images is the known value, to first order.
    score, smoothing = objective.score(Answer(lambda y: x), data["image"], multiple=1)
    assert torch.allclose(
        smoothing.mean((0, 1, 2))[[50, 150]] / family.std, (2 * x[0, 0, 0, [50, 150]]) ** (power / 2), rtol=0.03
    )
    error = family.denoise(data["image"], score, smoothing) - x
    assert float(error.square().mean()) < 0.1 * float((data["image"] - x).square().mean())


class Bent(nn.Module):
    """A smooth network in which every pixel of an image influences every other."""

    def __init__(self, shape, seed=0, size=1.0):
        super().__init__()
        torch.manual_seed(seed)
        n = math.prod(shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(n, 30), nn.Tanh(), nn.Linear(30, n)).double()
        self.size = size

    def forward(self, x, timesteps):
        return self.size * self.layers(x).view_as(x)


@pytest.mark.parametrize(
    ("shape", "stride"), [((1, 7, 5), 2), ((2, 6, 7), 3), ((1, 9), 4), ((1, 3, 2, 5), 2), ((1, 3, 3), 4)]
)
def test_noise2self_never_sees_the_pixel_that_it_predicts(shape, stride):
    """The Jacobian's diagonal is exactly 0, in every pair of channels, and the rest is not."""
    objective, network = Noise2Self(stride=stride), Bent(shape)
    y = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: objective.blind_spot(objective.denoiser(network), z, 0.1), y
    )
    pixels = math.prod(shape[1:])
    blocks = jacobian.view(shape[0], pixels, shape[0], pixels)
    own = torch.stack([blocks[:, i, :, i] for i in range(pixels)])
    assert torch.equal(own, torch.zeros_like(own))
    assert float(blocks.abs().max()) > 1e-3
    # So is the loss's: its gradient by the masked pixels is that of the target alone, -2 (D - y).
    torch.manual_seed(3)
    data = {"image": y.clone().requires_grad_(), "noise_std": torch.tensor([0.1], dtype=DOUBLE)}
    phase = [int(torch.randint(min(stride, n), ())) for n in shape[1:]]
    mask = grid_mask(shape[1:], stride, phase)
    torch.manual_seed(3)
    gradient = torch.autograd.grad(objective.loss(network, data).sum(), data["image"])[0]
    out = objective.denoiser(network)(torch.where(mask, donut(y), y), 0.1)
    weight = 1 / precondition(torch.tensor(0.1, dtype=DOUBLE), 0.25).out ** 2
    assert torch.allclose(gradient[..., mask], -2 * weight * (out - y)[..., mask] / (shape[0] * mask.sum()), rtol=1e-9)


def test_noise2self_is_the_supervised_loss_plus_the_noise():
    """In the mean over noise, on the grid: ``|D(y')_J - x_J|^2 + |J| sigma^2``."""
    shape, n, sigma = (1, 6, 6), 60_000, 0.3
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).expand(n, -1, -1, -1)
    torch.manual_seed(1)
    data = {"image": x + sigma * torch.randn_like(x), "noise_std": torch.full((n,), sigma, dtype=DOUBLE)}
    objective, network = Noise2Self(family=GaussianNoise(sigma), stride=3), Bent(shape)
    with torch.no_grad():
        torch.manual_seed(2)
        phase = [int(torch.randint(3, ())) for _ in range(2)]
        mask = grid_mask(shape[1:], 3, phase)
        torch.manual_seed(2)
        loss = objective.loss(network, data)
        away = objective.denoiser(network)(torch.where(mask, donut(data["image"]), data["image"]), sigma) - x
        expected = (away[..., mask] ** 2).mean((1, 2)) + sigma**2
    expected = expected / precondition(torch.tensor(sigma, dtype=DOUBLE), 0.25).out ** 2
    assert abs(float((loss - expected).mean())) < 4 * float((loss - expected).std()) / n**0.5
    assert float((loss - expected).std()) / n**0.5 < 0.005 * float(expected.mean())


def test_the_own_pixel_is_added_by_inverse_variances():
    """Errors of variance e^2 and s^2 combine to ``e^2 s^2 / (e^2 + s^2)``; an estimate without error stays as it is."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 300, 300, dtype=DOUBLE)
    for e, s in ((0.1, 0.2), (0.3, 0.1), (0.0, 0.2)):
        estimate, y = x + e * torch.randn_like(x), x + s * torch.randn_like(x)
        found = with_own_pixel(y, estimate, torch.tensor(s**2, dtype=DOUBLE))
        best = e**2 * s**2 / (e**2 + s**2)
        # The local mean of some 150 pixels knows e^2 + s^2 to 11 %, which costs a few per cent, and gives e = 0 some 1e-3.
        assert float(((found - x) ** 2).mean()) < 1.06 * best + 0.01 * s**2


def test_noise2self_as_a_prior_is_its_estimate():
    """The same for white noise of its own level; items with other levels are those alone."""
    shape = (2, 6, 7)
    objective, network = Noise2Self(family=GaussianNoise(0.2), stride=3), Bent(shape)
    y = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    prior = objective.prior(network, multiple=1)
    assert torch.allclose(prior(y, 0.2), objective.denoise(network, y, multiple=1), rtol=1e-12)
    levels = torch.tensor([0.1, 0.2, 0.5], dtype=DOUBLE)
    each = torch.cat([prior(y[i : i + 1], float(levels[i])) for i in range(3)])
    assert torch.allclose(prior(y, levels), each, rtol=1e-12)


def test_donuts_are_means_of_the_neighbours():
    x = torch.arange(12.0, dtype=DOUBLE).view(1, 1, 3, 4) ** 2
    inside = (x[0, 0, 0, 1] + x[0, 0, 2, 1] + x[0, 0, 1, 0] + x[0, 0, 1, 2]) / 6
    inside = inside + (x[0, 0, 0, 0] + x[0, 0, 0, 2] + x[0, 0, 2, 0] + x[0, 0, 2, 2]) / 12
    corner = (x[0, 0, 0, 1] + x[0, 0, 1, 0] + x[0, 0, 1, 1] / 2) / 2.5
    assert torch.allclose(donut(x)[0, 0, 1, 1], inside)
    assert torch.allclose(donut(x)[0, 0, 0, 0], corner)
    for shape in ((5,), (4, 5), (3, 4, 5)):
        assert torch.allclose(donut(torch.full((2, 3, *shape), 0.7)), torch.full((2, 3, *shape), 0.7))


@pytest.mark.parametrize("kind", [Supervised, Noise2Noise, SURELoss, Noise2Self, Noise2Score], ids=lambda k: k.__name__)
def test_losses_take_what_they_need_and_items_do_not_mix(kind):
    """Every item's gradient comes from itself; levels may differ; single precision agrees with double."""
    shape = (2, 6, 7)
    objective, network = kind(), Bent(shape)
    torch.manual_seed(0)
    data = measure(torch.rand(3, *shape, dtype=DOUBLE), objective.family)
    data["noise_std"] = torch.tensor([0.05, 0.1, 0.3], dtype=DOUBLE)
    data = {name: data[name] for name in objective.needs}
    changed = {name: torch.cat([value[:2], value[2:] * 1.5]) for name, value in data.items()}
    losses = []
    for each in (data, changed):
        torch.manual_seed(1)
        losses.append(objective.loss(network, each).detach())
    assert losses[0].shape == (3,)
    assert torch.equal(losses[0][:2], losses[1][:2])
    assert float((losses[0][2] - losses[1][2]).abs()) > 1e-4
    if kind not in (Noise2Self, Noise2Score, SURELoss):  # their random numbers depend on the precision
        single = objective.loss(network.float(), {name: value.float() for name, value in data.items()})
        assert torch.allclose(single.double().detach(), losses[0], rtol=1e-4)


def test_sure_estimates_the_supervised_loss():
    """In the mean over noise and probes, in single precision with the default step, for a network that is not linear."""
    shape, n = (1, 4, 5), 100_000
    torch.manual_seed(0)
    data = measure(torch.rand(1, *shape).expand(n, -1, -1, -1), GaussianNoise(0.2))
    network = Bent(shape, size=3.0).float()
    options = {"family": GaussianNoise(0.2), "sigma_data": 0.5}
    with torch.no_grad():
        found, expected = (kind(**options).loss(network, data) for kind in (SURELoss, Supervised))
    standard = float((found - expected).std()) / n**0.5
    assert abs(float((found - expected).mean())) < 4 * standard
    assert standard < 0.01 * float(expected.mean())


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="SURE needs gaussian noise"):
        SURELoss(family=PoissonNoise())
    with pytest.raises(ValueError, match="family must be a noise family"):
        Noise2Score(family="gaussian")
    for kind in (Supervised, Noise2Noise, Noise2Self, SURELoss, Noise2Score):
        with pytest.raises(ValueError, match="sigma_data must be a number above 0"):
            kind(sigma_data=0.0)
    with pytest.raises(ValueError, match="step must be a number above 0"):
        SURELoss(step=math.nan)
    for stride in (1, 0, 2.0, True):
        with pytest.raises(ValueError, match="stride must be an integer of at least 2"):
            Noise2Self(stride=stride)
    for smoothing in ((0.0, 1.0), (1.0, 0.5), (0.5, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="smoothing must be two numbers above 0"):
            Noise2Score(smoothing=smoothing)


class Pixelwise(nn.Module):
    """A small network of every pixel and the noise level."""

    def __init__(self, width=48):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, 1, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x, timesteps):
        level = (timesteps / 100).view(-1, 1, 1, 1).expand_as(x)
        return self.layers(torch.cat([x, level], dim=1))


def conjugate(family):
    """A sampler of clean images with independent pixels, and the closed-form estimate."""
    if isinstance(family, GaussianNoise):
        gain = 0.2**2 / (0.2**2 + family.sigma**2)
        return lambda n: 0.5 + 0.2 * torch.randn(n, 1, 12, 12), lambda y: 0.5 + gain * (y - 0.5)
    if isinstance(family, PoissonNoise):
        law, b = torch.distributions.Gamma(6.0, 12.0), 12.0 / family.peak
        return (
            lambda n: law.sample((n, 1, 12, 12)),
            lambda y: (digamma(family.peak * y + 6) - math.log(1 + b)).exp() / family.peak,
        )
    law, k = torch.distributions.Gamma(12.0, 6.0), family.k
    return lambda n: 1 / law.sample((n, 1, 12, 12)), lambda y: (6 + k * y) / (12 + k)


@pytest.mark.parametrize(
    "family", [GaussianNoise(0.2), PoissonNoise(20.0), GammaNoise(10.0)], ids=lambda f: type(f).__name__
)
def test_trained_noise2score_reaches_the_closed_form(family):
    """From noisy images alone, the error is within 5 % of the conjugate prior's estimate, and well below the noise."""
    clean, estimate = conjugate(family)
    objective = Noise2Score(family=family, sigma_data=0.3, smoothing=(0.3, 0.6))
    network = Pixelwise()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        loss = objective.loss(network, measure(clean(32), family)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = clean(2000)
    y = family.corrupt(x)
    with torch.no_grad():
        errors = [float(((found - x) ** 2).mean()) for found in (objective.denoise(network, y, 1), estimate(y), y)]
    assert errors[0] < 1.05 * errors[1]
    assert errors[1] < 0.85 * errors[2]
