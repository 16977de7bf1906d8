"""Every wrapper round one exact Gaussian must give back that Gaussian's posterior mean."""

import math

import pytest
import torch
from torch import nn

from medrecon.priors import (
    Counted,
    EDMNet,
    EpsNet,
    FlowNet,
    GaussianPrior,
    channelwise,
    eps,
    equivariant,
    guided,
    multiscale,
    score,
    slicewise,
    with_vjp,
)
from medrecon.priors.base import as_levels
from medrecon.priors.nets import Labelled, precondition
from medrecon.training.objectives import DDPM, EDM, RectifiedFlow, objective, stratified


def gaussian(shape=(2, 3, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(shape)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    return GaussianPrior(torch.randn(shape, generator=generator, dtype=torch.float64), root @ root.T)


def noisy(shape=(2, 3, 5), batch=3, seed=1):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class AsEps(nn.Module):
    """The eps-network that a perfectly trained DDPM of this Gaussian would be; twice the channels, as with learned variances."""

    def __init__(self, prior, alphas_cumprod):
        super().__init__()
        self.prior, self.kept = prior, alphas_cumprod

    def forward(self, x, timesteps):
        levels = ((1 - self.kept) / self.kept).log() / 2
        low = timesteps.floor().long().clamp(max=len(levels) - 2)
        sigma = torch.lerp(levels[low], levels[low + 1], timesteps - low).exp()
        view = sigma.view(-1, *[1] * (x.ndim - 1))
        x = x * (1 + view**2).sqrt()
        noise = (x - self.prior(x, sigma)) / view
        return torch.cat([noise, torch.full_like(noise, torch.nan)], dim=1)


class AsEDM(nn.Module):
    """The network F for which EDM's preconditioning gives this Gaussian's posterior mean."""

    def __init__(self, prior, sigma_data):
        super().__init__()
        self.prior, self.sigma_data = prior, sigma_data

    def forward(self, x, timesteps):
        sigma = (timesteps * 4 / 250).exp()
        c = precondition(sigma, self.sigma_data)
        view = (-1, *[1] * (x.ndim - 1))
        x = x / c.input.view(view)
        return (self.prior(x, sigma) - c.skip.view(view) * x) / c.out.view(view)


class AsFlow(nn.Module):
    """The velocity network of a rectified flow that was trained on this Gaussian perfectly."""

    def __init__(self, prior, sign):
        super().__init__()
        self.prior, self.sign = prior, sign

    def forward(self, x, timesteps):
        tau = timesteps / 1000
        view = tau.view(-1, *[1] * (x.ndim - 1))
        x0 = self.prior(x / (1 - view), tau / (1 - tau))
        return self.sign * (x - x0) / view  # E[n - x0 | x], since x = (1 - tau) x0 + tau n


ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
WRAPPERS = {
    "EDMNet": lambda prior: EDMNet(AsEDM(prior, 0.4), 0.4, multiple=1),
    "EpsNet": lambda prior: EpsNet(AsEps(prior, ABAR), ABAR, multiple=1),
    "FlowNet": lambda prior: FlowNet(AsFlow(prior, 1), multiple=1),
    "FlowNet, MONAI's sign": lambda prior: FlowNet(AsFlow(prior, -1), sign=-1, multiple=1),
    "guided by itself": lambda prior: guided(prior, prior, 3.0),
    "Counted": Counted,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("sigma", [0.02, 0.7, 30.0])
def test_wrapper_gives_back_the_gaussian(wrap, sigma):
    prior, x = gaussian(), noisy()
    assert torch.allclose(wrap(prior)(sigma * x, sigma), prior(sigma * x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_one_level_per_item_equals_items_alone(wrap):
    prior, x = wrap(gaussian()), noisy()
    sigma = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    alone = torch.cat([prior(x[i : i + 1], float(sigma[i])) for i in range(3)])
    assert torch.allclose(prior(x, sigma), alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_vjp_against_finite_differences(wrap):
    prior, x = wrap(gaussian()), noisy()
    v, u, h = noisy(seed=2), noisy(seed=3), 1e-5
    with torch.no_grad():
        x0, vjp = with_vjp(prior, x, 0.6)
        difference = (prior(x + h * u, 0.6) - prior(x - h * u, 0.6)) / (2 * h)
    assert torch.allclose(x0, prior(x, 0.6), rtol=1e-12)
    # The wrappers are linear in x, so central differences carry rounding only: 1e-16 / h.
    for _ in range(2):
        assert torch.allclose((vjp(v) * u).sum(), (v * difference).sum(), rtol=1e-7)


def test_score_and_eps_are_tweedie():
    prior, x = gaussian(), noisy()
    n = prior.mean.numel()
    precision = torch.linalg.inv(prior.covariance + 0.49 * torch.eye(n, dtype=torch.float64))
    exact = -((x - prior.mean).flatten(1) @ precision).view_as(x)
    assert torch.allclose(score(prior, x, 0.7), exact, rtol=1e-8)
    assert torch.allclose(eps(prior, x, 0.7), -0.7 * exact, rtol=1e-8)


def test_posterior_is_bayes():
    """Against the information form, an independent route: covariance = (C^-1 + A^T A / s^2)^-1."""
    prior = gaussian((6,))
    matrix = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.randn(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean, covariance = prior.posterior(matrix, y, 0.3)
    precision = torch.linalg.inv(prior.covariance) + matrix.T @ matrix / 0.09
    assert torch.allclose(covariance, torch.linalg.inv(precision), rtol=1e-6)
    right = torch.linalg.solve(prior.covariance, prior.mean) + matrix.T @ y / 0.09
    assert torch.allclose(mean, torch.linalg.solve(precision, right), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 30, 33), (2, 8, 8), (1, 5, 7, 9)])
def test_padding_is_seen_by_the_network_alone(shape):
    """A network that returns its input: sides grow to a multiple, the image comes back uncut and unmoved."""
    sides = []

    class Echo(nn.Module):
        def forward(self, x, timesteps):
            sides.append(x.shape[2:])
            return x

    x = noisy(shape, 2)
    out = EDMNet(Echo(), 0.5, multiple=8)(x, 0.3)
    assert all(n % 8 == 0 for n in sides[0])
    c = precondition(torch.tensor(0.3, dtype=torch.float64), 0.5)
    assert torch.allclose(out, (c.skip + c.out * c.input) * x)


def test_bfloat16_is_for_the_network_alone():
    seen = {}

    class Spy(nn.Conv2d):
        def forward(self, x, timesteps):
            out = super().forward(x)
            seen["inside"] = out.dtype
            return out

    prior = EDMNet(Spy(2, 2, 3, padding=1), 0.5, dtype=torch.bfloat16)
    assert prior(torch.zeros(1, 2, 8, 8), 0.3).dtype == torch.float32
    assert seen["inside"] == torch.bfloat16


class Says(nn.Module):
    """A network that answers what it was told to, once it was shown what it should be."""

    def __init__(self, inputs, answer):
        super().__init__()
        self.inputs, self.answer = inputs, answer

    def forward(self, x, timesteps):
        assert torch.allclose(x, self.inputs, rtol=1e-9)
        return self.answer


@pytest.mark.parametrize("kind", [EDM(sigma_data=0.4), DDPM(), RectifiedFlow()], ids=["edm", "ddpm", "flow"])
def test_target_and_wrapper_are_inverse(kind):
    """A network that says its target exactly is a prior that returns the clean image exactly, at any level."""
    x0, noise = noisy(seed=5), noisy(seed=6)
    for u in (0.03, 0.5, 0.97):
        pair = kind.pair(x0, torch.full((3,), u, dtype=torch.float64), noise)
        if isinstance(kind, EDM):
            sigma = (4 * pair.timesteps / 250).exp()
        elif isinstance(kind, DDPM):
            kept = kind.alphas_cumprod[pair.timesteps.long()]
            sigma = ((1 - kept) / kept).sqrt()
        else:
            sigma = pair.timesteps / 1000 / (1 - pair.timesteps / 1000)
        x = x0 + sigma.view(-1, 1, 1, 1) * noise
        prior = kind.prior(Says(pair.inputs, pair.target), multiple=1)
        assert torch.allclose(prior(x, sigma), x0, atol=1e-9)


def test_edm_regression_is_solved_by_the_exact_network():
    """The target of training is what a perfect denoiser's F answers on average: residuals have zero correlation with it."""
    prior = gaussian((4,))
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    root = prior.modes * prior.variances.clamp(min=0).sqrt()
    x0 = prior.mean + torch.randn(n, 4, generator=generator, dtype=torch.float64) @ root.T
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    pair = EDM(sigma_data=0.4, log_mean=-0.7, log_std=0.5).pair(x0, u, noise)
    answer = AsEDM(prior, 0.4)(pair.inputs, pair.timesteps)
    residual = pair.target - answer
    # Orthogonality of the conditional mean: standard error 1 / sqrt(n) = 0.0022, five of them.
    correlation = (residual * answer).mean(0) / (residual.std(0) * answer.square().mean(0).sqrt())
    assert correlation.abs().max() < 5 / n**0.5


@pytest.mark.parametrize("sigma", [0.05, 0.4, 6.0])
def test_preconditioning_keeps_input_and_target_at_unit_variance(sigma):
    """What EDM's factors are for (Karras et al., appendix B.6), on data of standard deviation 0.4."""
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    x0, noise = 0.4 * torch.randn(2, n, generator=generator, dtype=torch.float64) / torch.tensor([[1.0], [0.4]])
    at = EDM(sigma_data=0.4, log_mean=math.log(sigma), log_std=0.0)
    pair = at.pair(x0, torch.full((n,), 0.5, dtype=torch.float64), noise)
    for part in (pair.inputs, pair.target):
        assert abs(float(part.var()) - 1) < 5 * (2 / n) ** 0.5
    # Nothing linear is left for the network to learn.
    assert abs(float((pair.inputs * pair.target).mean())) < 5 / n**0.5
    assert torch.allclose(pair.timesteps, torch.tensor(250 * math.log(sigma) / 4, dtype=torch.float64))


def test_levels_follow_their_laws():
    n = 100_000
    u = stratified(n).double()
    bins = (1000 * stratified(1000)).floor().sort().values
    assert torch.equal(bins, torch.arange(1000.0))  # one in each
    zero = torch.zeros(n, 1, dtype=torch.float64)
    levels = EDM(log_mean=-1.0, log_std=1.2).pair(zero, u, zero).timesteps * 4 / 250
    assert abs(float(levels.mean()) + 1.0) < 0.01
    assert abs(float(levels.std()) - 1.2) < 0.01
    steps = DDPM().pair(zero, u, zero).timesteps
    assert torch.equal(steps.unique(), torch.arange(1000, dtype=torch.float64))
    tau = RectifiedFlow(mean=-0.5, std=1.2).pair(zero, u, zero).timesteps / 1000
    assert abs(float(tau.logit().mean()) + 0.5) < 0.01
    with pytest.raises(ValueError, match="parameterization must be one of edm, ddpm, flow"):
        objective("vp")


def test_ddpm_has_monais_chain():
    from monai.networks.schedulers import DDPMScheduler

    assert torch.allclose(
        DDPM().alphas_cumprod.float(), DDPMScheduler(num_train_timesteps=1000).alphas_cumprod, rtol=1e-4
    )


def test_guidance_interpolates_and_extrapolates():
    one, other, x = gaussian(seed=0), gaussian(seed=7), noisy()
    assert guided(one, other, 0.0) is other
    assert guided(one, other, 1.0) is one
    # Densities multiply where scores add: p_c^2 / p_null.
    expected = 2 * score(one, x, 0.6) - score(other, x, 0.6)
    assert torch.allclose(score(guided(one, other, 2.0), x, 0.6), expected, rtol=1e-9, atol=1e-9)


def test_a_labelled_network_is_told_its_label():
    class Echo(nn.Module):
        def forward(self, x, timesteps, class_labels):
            return class_labels.view(-1, 1, 1).expand_as(x).to(x.dtype)

    assert torch.equal(Labelled(Echo(), 3)(torch.zeros(2, 1, 4), torch.zeros(2)), torch.full((2, 1, 4), 3.0))


def test_channelwise_is_the_prior_of_independent_channels():
    prior, x = gaussian((1, 5)), noisy((3, 5))
    levels = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    out = channelwise(prior)(x, levels)
    for i in range(3):
        for c in range(3):
            assert torch.allclose(out[i, c], prior(x[i : i + 1, c : c + 1], float(levels[i]))[0, 0], rtol=1e-9)


SYMMETRIES = {
    "flips": {"flip": [-1, -2]},
    "shifts": {"shift": 4},
    "phase": {"phase": True},
    "all": {"flip": [-1], "shift": 16, "phase": True},
}


@pytest.mark.parametrize("symmetries", SYMMETRIES.values(), ids=SYMMETRIES)
def test_equivariant_undoes_what_it_does(symmetries):
    """A prior that has the symmetries is left as it is; what the network sees is another image at every level."""
    seen = []

    def prior(x, sigma):
        seen.append(x)
        return x / (1 + as_levels(sigma, x).view(-1, 1, 1, 1) ** 2)

    x = noisy((2, 6, 7))
    levels = [0.02 * 1.3**i for i in range(12)]
    for sigma in levels:
        assert torch.allclose(equivariant(prior, **symmetries)(x, sigma), prior(x, sigma), rtol=1e-12)
        assert torch.allclose(seen[-2].norm(), x.norm())
    assert len({float(x[0, 0, 0, 0]) for x in seen[::2]}) > 2


@pytest.mark.parametrize("symmetries", SYMMETRIES.values(), ids=SYMMETRIES)
def test_equivariant_is_a_function_of_item_and_level(symmetries):
    """Of a prior without any symmetry: items in a batch as alone, float or tensor, any precision."""
    prior, x = gaussian((2, 4, 3)), noisy((2, 4, 3))
    turned = equivariant(prior, **symmetries)
    levels = torch.tensor([0.3, 1.0, 0.3], dtype=torch.float64)
    together = turned(x, levels)
    for i, level in enumerate(levels.tolist()):
        assert torch.allclose(together[i : i + 1], turned(x[i : i + 1], level), rtol=1e-12)
    assert torch.equal(turned(x, 0.7), turned(x, torch.tensor(0.7, dtype=torch.float64)))
    assert torch.allclose(turned(x, 0.1), turned(x, torch.tensor(0.1, dtype=torch.float32)).double(), atol=1e-6)


def test_equivariant_averages_over_levels():
    """A gain across the image, which no mirror image has, averages to the mean of the gain and its mirror image."""
    gain = torch.linspace(0, 1, 9, dtype=torch.float64)
    turned = equivariant(lambda x, sigma: gain * x, flip=[-1])
    x = noisy((1, 4, 9), 1)
    n = 2000
    mean = sum(turned(x, 0.001 * (i + 1)) for i in range(n)) / n
    # A coin tossed 2000 times: standard error 1.1 % of the difference, five of them.
    assert torch.allclose(mean, x / 2, atol=0.056 * float(x.abs().max()))


def test_equivariant_has_a_gradient_and_knows_complex_images():
    prior, x, v = gaussian((2, 4, 3)), noisy((2, 4, 3)), noisy((2, 4, 3), seed=5)
    turned = equivariant(prior, flip=[-1], shift=3, phase=True)
    _, vjp = with_vjp(turned, x, 0.6)
    step = 1e-6 * v
    difference = (turned(x + step, 0.6) - turned(x - step, 0.6)) / 2e-6
    assert torch.allclose((vjp(x) * v).sum(), (x * difference).sum(), rtol=1e-7)
    with pytest.raises(ValueError, match="two channels"):
        turned(x[:, :1], 0.6)


def test_monai_network_as_eps_prior():
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=2, out_channels=2, channels=(8, 16), attention_levels=(False, False), num_res_blocks=1,
        norm_num_groups=8,
    ).eval()  # fmt: skip
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)  # MONAI starts the last layer at zero
    schedule = DDPMScheduler(num_train_timesteps=1000)
    prior = EpsNet(network, schedule.alphas_cumprod, multiple=2)
    x = noisy((2, 7, 9), 2).float()
    # At a level of the chain the wrapper must be DDPM's own estimate of x0.
    t, kept = 400, schedule.alphas_cumprod[400]
    sigma = float(((1 - kept) / kept).sqrt())
    with torch.no_grad():
        padded = nn.functional.pad(x * kept.sqrt(), (0, 1, 0, 1))
        noise = network(padded, torch.tensor([t, t]))[..., :7, :9]
        expected = (x * kept.sqrt() - (1 - kept).sqrt() * noise) / kept.sqrt()
        assert torch.allclose(prior(x, sigma), expected, atol=1e-3)  # float32 timestep of 400 +- 1e-5


def test_multiscale_of_a_smooth_gaussian_is_the_gaussian():
    """Where the prior has no energy at high frequencies, its overview with a quarter of the noise says all."""
    n, factor = 32, 4
    frequency = torch.fft.fftfreq(n, dtype=torch.float64)
    power = torch.exp(-((frequency[:, None] ** 2 + frequency[None, :] ** 2) / 0.04**2) / 2)

    def gaussian(power):
        def prior(x, sigma):
            wiener = power / (power + as_levels(sigma, x).view(-1, 1, 1, 1) ** 2)
            return torch.fft.ifft2(torch.fft.fft2(x) * wiener).real

        return prior

    kept = [0, 1, 2, 3, 4, -3, -2, -1]
    # Truncation divides every kept coefficient of the unitary transform by the factor.
    full, low = gaussian(power), gaussian(power[kept][:, kept] / factor**2)

    def network(x, sigma):
        return full(x, sigma) if x.shape[-1] == n else low(x, sigma)

    x = 5 * torch.randn(2, 1, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = multiscale(network, factor, 3.0)
    # The band's edge has power below 1e-4.
    assert torch.allclose(scaled(x, 5.0), full(x, 5.0), atol=1e-3)
    assert float((scaled(x, 5.0) - full(x, 5.0)).norm() / full(x, 5.0).norm()) < 0.01
    assert torch.equal(scaled(x, 2.9), full(x, 2.9))
    assert torch.allclose(scaled(x, torch.tensor([5.0, 7.0]))[1:], scaled(x[1:], 7.0), atol=1e-12)


def test_groups_of_channels_and_slices_go_through_the_prior_one_by_one():
    """Complex images of two frames, and the slices of a volume, each with its own noise level per item."""

    def prior(x, sigma):
        assert x.shape[1] == 2 and x.ndim == 4
        return x.flip(1) * torch.as_tensor(sigma).reshape(-1, 1, 1, 1)

    sigma = torch.tensor([0.5, 2.0])
    frames = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = channelwise(prior, 2)(frames, sigma)
    expected = [
        torch.cat([prior(x[None, :2], s), prior(x[None, 2:], s)], 1) for x, s in zip(frames, sigma, strict=True)
    ]
    assert torch.equal(found, torch.cat(expected))
    volume = torch.randn(2, 2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    found = slicewise(prior)(volume, sigma)
    for i, s in enumerate(sigma):
        for z in range(3):
            assert torch.equal(found[i, :, z], prior(volume[i : i + 1, :, z], s)[0])
    with pytest.raises(ValueError, match="does not fit"):
        channelwise(prior, 2)(torch.zeros(1, 3, 4, 4), 0.1)
