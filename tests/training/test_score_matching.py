"""Score matching recovers scores in closed form; divergences by probes are unbiased; SURE is implicit score matching."""

import math

import pytest
import torch
from torch import nn

from medrecon.training import score_matching as sm

DOUBLE = torch.float64
N = 3


def gaussian_samples(n, seed=0):
    """Samples of a correlated Gaussian in three dimensions, its mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.tensor([[1.0, 0, 0], [0.6, 0.5, 0], [-0.3, 0.2, 0.7]], dtype=DOUBLE)
    mean = torch.tensor([0.5, -1.0, 0.2], dtype=DOUBLE)
    return mean + torch.randn(n, N, generator=generator, dtype=DOUBLE) @ root.T, mean, root @ root.T


def like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def linear_minimiser(loss):
    """The linear score ``x -> x W^T + b`` that minimises a quadratic loss, by its normal equations: ``(N, N + 1)``."""

    def objective(theta):
        w, b = theta.view(N, N + 1).split([N, 1], dim=1)
        return loss(lambda x: x @ w.T + b[:, 0]).mean()

    zero = torch.zeros(N * (N + 1), dtype=DOUBLE)
    gradient = torch.autograd.functional.jacobian(objective, zero)
    hessian = torch.autograd.functional.hessian(objective, zero)
    return -torch.linalg.solve(hessian, gradient).view(N, N + 1)


def linear_score(mean, covariance):
    precision = torch.linalg.inv(covariance)
    return torch.cat([-precision, (precision @ mean)[:, None]], dim=1)


def test_implicit_score_matching_recovers_the_score_of_a_gaussian():
    """Its minimiser is that of the samples' own mean and covariance, exactly; and those are near the true ones."""
    x, _, _ = gaussian_samples(500)
    found = linear_minimiser(lambda score: sm.implicit_loss(score, x))
    assert torch.allclose(found, linear_score(x.mean(0), torch.cov(x.T, correction=0)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_all_losses_recover_the_score_of_a_noisy_gaussian(sigma):
    """-(C + s^2)^-1 (x - mu): denoising from clean samples; implicit and sliced from noisy ones."""
    x0, mean, covariance = gaussian_samples(200_000)
    noise = like(x0, 1)
    y = x0 + sigma * noise
    expected = linear_score(mean, covariance + sigma**2 * torch.eye(N, dtype=DOUBLE))
    losses = {
        "denoising": lambda score: sm.denoising_loss(score, x0, sigma, noise),
        "implicit": lambda score: sm.implicit_loss(score, y[:50_000]),
        "sliced": lambda score: sm.sliced_loss(score, y, like(y, 2)),
        "sliced, signs": lambda score: sm.sliced_loss(score, y, like(y, 2).sign()),
    }
    for name, loss in losses.items():
        # Standard error of an entry: about |P| / sqrt(50000 or 200000) = 0.4 % of the norm.
        error = float((linear_minimiser(loss) - expected).norm() / expected.norm())
        assert error < 0.02, name


def test_denoising_loss_takes_one_level_per_item():
    x, noise = like(torch.zeros(3, 2, 5, 7, dtype=DOUBLE), 0), like(torch.zeros(3, 2, 5, 7, dtype=DOUBLE), 1)
    sigma = torch.tensor([0.1, 1.0, 3.0], dtype=DOUBLE)
    batch = sm.denoising_loss(torch.tanh, x, sigma, noise)
    each = [sm.denoising_loss(torch.tanh, x[i : i + 1], float(sigma[i]), noise[i : i + 1]) for i in range(3)]
    assert torch.allclose(batch, torch.cat(each))
    expected = ((noise[1] + torch.tanh(x[1] + noise[1])) ** 2).sum()
    assert torch.allclose(batch[1], expected)


class Bent(nn.Module):
    """A smooth map that mixes all elements."""

    def __init__(self, n=12, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(n, 20), nn.Tanh(), nn.Linear(20, n)).double()

    def forward(self, x):
        return self.layers(x).view_as(x)


def test_divergence_is_the_trace_of_the_jacobian():
    field, x = Bent(), like(torch.zeros(2, 1, 3, 4, dtype=DOUBLE), 0)
    jacobian = torch.autograd.functional.jacobian(field, x)
    trace = torch.stack([jacobian[i, :, :, :, i].reshape(12, 12).trace() for i in range(2)])
    assert torch.allclose(sm.divergence(field, x), trace, rtol=1e-10)


@pytest.mark.parametrize("probes", ["gaussian", "signs"])
@pytest.mark.parametrize("method", ["automatic", "finite difference"])
def test_probed_divergences_are_unbiased(probes, method):
    """A t-test on 4000 probes, and that the probes have unit variance: 0.8 I has divergence 0.80 +- 1e-3 per element."""
    torch.manual_seed(0)
    bent, n = Bent(), 4000
    x = like(torch.zeros(1, 1, 3, 4, dtype=DOUBLE), 0).expand(n, -1, -1, -1).contiguous()
    draw = torch.randn_like if probes == "gaussian" else sm.random_signs

    def field(x):
        return x / 2 + bent(x)

    def estimate(f, x):
        u = draw(x)
        if method == "automatic":
            return sm.probed_divergence(f, x, u)
        return sm.finite_difference_divergence(f, x, u, 1e-5)

    values, exact = estimate(field, x).detach(), float(sm.divergence(field, x[:1]).detach())
    standard = float(values.std()) / n**0.5
    assert abs(float(values.mean()) - exact) < 3.5 * standard
    assert standard < 0.02 * exact  # so that the test could fail
    # The Gaussian estimate has a standard error of 0.8 sqrt(2 / 3e7) = 2e-4.
    big = torch.zeros(30, 1, 1000, 1000) if probes == "gaussian" else torch.zeros(2, 1, 100, 100)
    assert abs(float(estimate(lambda z: 0.8 * z, big).detach().mean()) / big[0].numel() - 0.8) < 1e-3


def test_finite_differences_hold_in_single_precision():
    """With the step that the docstring advises, 1e-3 of unit scale, the error stays below 1 % of the divergence."""
    field = Bent()
    x = like(torch.zeros(5, 1, 3, 4, dtype=DOUBLE), 0)
    u = sm.random_signs(x)
    exact = sm.probed_divergence(field, x, u).detach()
    single = sm.finite_difference_divergence(field.float(), x.float(), u.float(), 1e-3).detach()
    assert float((single - exact).abs().max()) < 0.01 * float(exact.abs().max())


@pytest.mark.parametrize("slope", ["exact", "probe"])
def test_sure_is_implicit_score_matching(slope):
    """``SURE / (2 sigma^4)`` of ``y + sigma^2 s`` less ``n / (2 sigma^2)`` is the loss, with the same gradients."""
    sigma, network = 0.3, Bent()
    y = like(torch.zeros(6, 1, 3, 4, dtype=DOUBLE), 3)
    probe = like(y, 4).sign()

    def denoiser(y):
        return y + sigma**2 * network(y)

    if slope == "exact":
        by_sure = sm.sure(y, denoiser(y), sigma, sm.divergence(denoiser, y)) / (2 * sigma**4)
        loss = sm.implicit_loss(network, y)
    else:
        by_sure = sm.sure(y, denoiser(y), sigma, sm.probed_divergence(denoiser, y, probe)) / (2 * sigma**4)
        loss = sm.sliced_loss(network, y, probe)
    assert torch.allclose(by_sure - 12 / (2 * sigma**2), loss, rtol=1e-9)
    parameters = list(network.parameters())
    pairs = zip(
        *(torch.autograd.grad(value.mean(), parameters, allow_unused=True) for value in (by_sure, loss)), strict=True
    )
    for a, b in pairs:
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_sure_averages_to_the_true_error(sigma):
    """Within 2 %, for a denoiser that is not linear, and with a probe; one level per item gives the same."""
    x = 2 * like(torch.zeros(40_000, 1, 3, 4, dtype=DOUBLE), 0).sign() * like(torch.zeros(40_000, 1, 3, 4), 5).abs()
    y = x + sigma * like(x, 1)

    def shrink(y):
        return y - sigma * torch.tanh(2 * y)

    u = like(x, 2).sign()
    slope = sm.finite_difference_divergence(shrink, y, u, 1e-4)
    truth = float(((shrink(y) - x) ** 2).flatten(1).sum(1).mean())
    estimates = sm.sure(y, shrink(y), sigma, slope)
    assert abs(float(estimates.mean()) / truth - 1) < 0.02
    assert torch.allclose(sm.sure(y, shrink(y), torch.full((len(y),), sigma, dtype=DOUBLE), slope), estimates)
    # Exact for F = c y: |(c - 1) y|^2 - n sigma^2 + 2 n c sigma^2.
    scaled = sm.sure(y, 0.7 * y, sigma, sm.divergence(lambda z: 0.7 * z, y))
    assert torch.allclose(scaled, 0.09 * (y**2).flatten(1).sum(1) + 12 * sigma**2 * 0.4, rtol=1e-10)


class Conditioned(nn.Module):
    """A small network of ``x`` ``(B, n)`` and a noise level ``(B,)``."""

    def __init__(self, n, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n)
        )

    def forward(self, x, level):
        return self.layers(torch.cat([x, 2 * level[:, None]], dim=1))


@pytest.mark.parametrize("n", [1, 2])
def test_ar_dae_learns_the_score_of_a_mixture(n):
    """Correlation above 0.99 with the analytic score, at the least noise added; the samples alone are given."""
    torch.manual_seed(0)
    centres = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])[:, :n]

    def samples(batch):
        return centres[torch.randint(2, (batch,))] + 0.5 * torch.randn(batch, n)

    network = Conditioned(n)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        y = samples(2048)
        level = 0.1 * 3 ** torch.rand(len(y))
        loss = sm.denoising_loss(lambda z: network(z, level), y, level, torch.randn_like(y)).mean()  # noqa: B023
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    y = samples(5000)

    def score(std):
        x = y.clone().requires_grad_()
        log_p = torch.logsumexp(-((x[:, None] - centres) ** 2).sum(2) / (2 * std**2), dim=1)
        return torch.autograd.grad(log_p.sum(), x)[0].flatten()

    with torch.no_grad():
        found = network(y, torch.full((5000,), 0.1)).flatten()
    assert float(torch.corrcoef(torch.stack([found, score(0.5)]))[0, 1]) > 0.99
    # And its size, against the score of the samples with the noise that was added; a network this small is a little smoother.
    smoothed = score((0.5**2 + 0.1**2) ** 0.5)
    assert 0.85 < float((found * smoothed).sum() / (smoothed * smoothed).sum()) < 1.05


def test_random_signs_are_signs():
    torch.manual_seed(0)
    u = sm.random_signs(torch.zeros(10_000, dtype=torch.float32))
    assert u.dtype == torch.float32
    assert torch.equal(u.abs(), torch.ones_like(u))
    assert abs(float(u.mean())) < 4 / math.sqrt(len(u))
