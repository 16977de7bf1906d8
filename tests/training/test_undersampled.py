"""Objectives of undersampled k-space against closed forms: linear denoisers of Gaussian images, and sums over all masks."""

from itertools import combinations

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.networks import ResidualUNet
from medrecon.noise import Noise, karras
from medrecon.operators.linalg import batch_broadcast, cg
from medrecon.operators.mri import sense
from medrecon.priors.nets import denoise, denoise_masked, precondition
from medrecon.sample import sample
from medrecon.solvers.dds import DDS
from medrecon.training.measured import measured_objective
from medrecon.training.objectives import EDM, MeasuredObjective
from medrecon.training.undersampled import (
    FULL_DIVERGENCE,
    GSURE,
    SSDU,
    Ambient,
    Draw,
    Unrolled,
    calibration_region,
    keep_lines,
    sampling_density,
)

N, LEVEL, NOISE_STD = 6, 0.5, 0.3
DOUBLE = torch.float64
FIXED = {"sigma_data": 0.7, "log_mean": -0.6931471805599453, "log_std": 1e-12}
"""One noise level, 0.5, so that the best linear denoiser has a closed form."""


class Linear:
    """A network whose denoiser at noise level 0.5 is a matrix, ``D(u) = L u``; it ignores the channel of a mask."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, x, timesteps):
        c = precondition(torch.tensor(LEVEL, dtype=DOUBLE), FIXED["sigma_data"])
        u = x[:, :2] / c.input
        made = (u.flatten(1) @ self.matrix.T).view_as(u)
        if x.shape[1] == 2:
            return (made - c.skip * u) / c.out
        lines = sense(None, x[:, 2:], tuple(x.shape[2:]), DOUBLE.to_complex()).normal(made)
        out = (lines - c.skip * u) / c.out + (made - lines) / FIXED["sigma_data"]
        return torch.cat([out, torch.zeros_like(x[:, 2:])], dim=1)


def measure(x0, mask, noise_std=0.0, maps=None):
    """Data of images ``(B, 2, y, x)`` of a single coil."""
    maps = torch.ones((len(x0), 1, *x0.shape[2:]), dtype=x0.dtype.to_complex()) if maps is None else maps
    kspace = sense(maps, mask)(x0)
    noise = torch.view_as_complex(torch.randn((*kspace.shape, 2), dtype=x0.dtype))
    level = torch.full((len(x0),), noise_std, dtype=x0.dtype)
    return {"kspace": kspace + noise_std * mask * noise, "mask": mask, "maps": maps, "noise_std": level}


def covariance(stationary):
    """Of images ``(2, 1, 6)``; that of stationary images is diagonal in k-space."""
    root = torch.randn(2 * N, 2 * N, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    if not stationary:
        return root @ root.T / (2 * N)
    spectrum = torch.tensor([0.05, 0.2, 1.0, 2.0, 0.6, 0.1], dtype=DOUBLE)
    basis = torch.eye(2 * N, dtype=DOUBLE).view(2 * N, 2, 1, N)
    A = sense(torch.ones((1, 1, 1, N), dtype=DOUBLE.to_complex()), spectrum.sqrt().view(1, 1, 1, N))
    return A.normal(basis).flatten(1)


def images(c, n, seed):
    """Gaussian images."""
    torch.manual_seed(seed)
    return (torch.randn(n, 2 * N, dtype=DOUBLE) @ torch.linalg.cholesky(c).T).view(n, 2, 1, N)


def random_masks(n, probability=0.5):
    """Independent columns; the two central ones are always sampled."""
    mask = (torch.rand(n, 1, 1, N, dtype=DOUBLE) < probability).double()
    return torch.where(calibration_region(mask, 2), 1.0, mask)


def minimiser(objective, data, network=Linear, size=2 * N):
    """The matrix that minimises a loss, which is quadratic in it, by conjugate gradients on its gradient."""
    draw = objective.draw(data)

    def gradient(flat):
        matrix = flat.view(size, size).clone().requires_grad_()
        loss = objective.loss_at(network(matrix), data, draw).mean()
        return torch.autograd.grad(loss, matrix)[0].detach().view(1, -1)

    zero = gradient(torch.zeros(1, size * size, dtype=DOUBLE))
    return cg(lambda v: gradient(v) - zero, -zero, None, 400, 1e-9).view(size, size)


def errors(objective, make, expected, n_batches=6):
    """Difference of the mean of minimisers to ``expected`` in standard errors, root mean square over the entries."""
    torch.manual_seed(0)
    found = torch.stack([minimiser(objective, make(seed)) for seed in range(n_batches)])
    error = found.std(0) / n_batches**0.5
    return float(((found.mean(0) - expected) / error.clamp(min=1e-12)).square().mean().sqrt())


# The statistic of a right loss is that of t with 5 degrees of freedom, whose root mean square is 1.29; over 144 entries
# it was below 1.8 for ten seeds. A wrong loss has tens of standard errors.
RIGHT, WRONG = 2.0, 6.0


def optimum(c, noisy=0.0):
    """``(C + noisy^2) (C + s^2)^-1``."""
    unit = torch.eye(2 * N, dtype=DOUBLE)
    return (c + noisy**2 * unit) @ torch.linalg.inv(c + LEVEL**2 * unit)


def coil_maps(n, coils, shape):
    """Random maps whose squares sum to 1, the same for ``n`` items."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.complex(*torch.randn(2, 1, coils, *shape, generator=generator, dtype=DOUBLE))
    return (maps / maps.abs().square().sum(1, keepdim=True).sqrt()).expand(n, coils, *shape)


@pytest.mark.parametrize("coils", [1, 3])
def test_gsure_of_fully_sampled_noisy_images_finds_the_denoiser(coils):
    """``C (C + s^2)^-1`` although the targets are noisy; without the divergence ``(C + noise^2) (C + s^2)^-1``."""
    c = covariance(stationary=False)

    def make(seed):
        maps = coil_maps(4000, coils, (1, N))
        return measure(images(c, 4000, seed), torch.ones(4000, 1, 1, N, dtype=DOUBLE), NOISE_STD, maps)

    assert errors(GSURE(**FIXED, acs=2), make, optimum(c)) < RIGHT
    naive = GSURE(**FIXED, acs=2, divergence=0.0)
    assert errors(naive, make, optimum(c)) > WRONG
    assert errors(naive, make, optimum(c, NOISE_STD)) < RIGHT


def test_gsure_of_undersampled_noisy_images_finds_the_denoiser():
    """Of stationary images, whose spatial frequencies are uncorrelated, ``C (C + s^2)^-1`` from half of the lines."""
    c = covariance(stationary=True)

    def make(seed):
        return measure(images(c, 8000, seed), random_masks(8000), NOISE_STD)

    assert errors(GSURE(**FIXED, acs=2), make, optimum(c)) < RIGHT
    assert errors(GSURE(**FIXED, acs=2, divergence=0.0), make, optimum(c)) > WRONG


def test_gsure_weights_are_those_of_full_sampling():
    """Of denoisers that are one number the best is ``tr C / tr(C + s^2)``; without weights central lines count too much."""
    c = covariance(stationary=True)
    best = float(c.trace() / (c.trace() + 2 * N * LEVEL**2))
    probability = torch.tensor([0.2, 0.5, 1.0, 1.0, 0.6, 0.3], dtype=DOUBLE)

    class Number:
        def __init__(self, value):
            self.network = Linear(value * torch.eye(2 * N, dtype=DOUBLE))
            self.__class__.__call__ = lambda self, x, timesteps: self.network(x, timesteps)

    def found(density):
        made = []
        for seed in range(6):
            x0 = images(c, 4000, seed)
            data = measure(x0, random_masks(4000, probability), NOISE_STD)
            data["density"] = density.view(1, 1, 1, N).expand(4000, 1, 1, N)
            made.append(float(minimiser(GSURE(**FIXED, acs=2), data, Number, 1)))
        made = torch.tensor(made, dtype=DOUBLE)
        return abs(float(made.mean()) - best) / float(made.std() / 6**0.5)

    assert found(probability) < 3.5  # t with 5 degrees of freedom: 1 in 60
    assert found(torch.ones(N, dtype=DOUBLE)) > 8


@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_ambient_of_undersampled_images_finds_the_denoiser(dropped):
    """``C (C + s^2)^-1`` of stationary images; noise in the data is learned as part of the image."""
    c, objective = covariance(stationary=True), Ambient(**FIXED, acs=2, dropped=dropped)
    noisy = c + NOISE_STD**2 * torch.eye(2 * N, dtype=DOUBLE)

    def make(noise_std):
        return lambda seed: measure(images(c, 8000, seed), random_masks(8000, 0.7), noise_std)

    assert errors(objective, make(0.0), optimum(c)) < RIGHT
    assert errors(objective, make(NOISE_STD), optimum(noisy)) < RIGHT
    assert errors(objective, make(NOISE_STD), optimum(c)) > WRONG


def all_masks(n_lines, n_sampled, n_dropped):
    """All pairs of a mask with ``n_sampled`` of the outer lines and one with ``n_dropped`` fewer, and 2 calibration lines."""
    outer = [k for k in range(n_lines) if k not in (n_lines // 2 - 1, n_lines // 2)]
    masks, seen = [], []
    for lines in combinations(outer, n_sampled):
        for gone in combinations(lines, n_dropped):
            mask = torch.zeros(n_lines, dtype=DOUBLE)
            mask[[n_lines // 2 - 1, n_lines // 2, *lines]] = 1
            masks.append(mask)
            seen.append(mask.index_fill(0, torch.tensor(gone), 0.0))
    return (torch.stack(m)[:, None, None] for m in (masks, seen))


class Small(torch.nn.Module):
    """A smooth network with a bias, so that nothing vanishes on lines that are not sampled."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Conv2d(channels, 5, 3, padding=1, dtype=DOUBLE)
        self.second = torch.nn.Conv2d(5, channels, 3, padding=1, dtype=DOUBLE)

    def forward(self, x, timesteps):
        return self.second(torch.tanh(self.first(x)) + 1e-3 * timesteps.view(-1, 1, 1, 1))


def slopes(loss, network):
    """The gradient with respect to all weights."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def every_mask(maps):
    """One image with all pairs of masks: data, its fully sampled k-space, and the masks that networks see."""
    mask, seen = all_masks(7, 3, 1)
    torch.manual_seed(0)
    x0 = torch.randn(1, 2, 5, 7, dtype=DOUBLE).expand(len(mask), 2, 5, 7)
    maps = None if maps is None else maps.expand(len(mask), *maps.shape[1:])
    full = measure(x0, torch.ones_like(mask), maps=maps)
    return {**full, "kspace": full["kspace"] * mask, "mask": mask}, full["kspace"], seen, x0


def test_ambient_has_the_gradient_of_full_sampling():
    """The sum over all masks equals that of the loss against the true image, of any network; without weights it does not."""
    data, _, seen, x0 = every_mask(None)
    network, objective = Small(3), Ambient(acs=2, dropped=1 / 3)
    noise = torch.randn(1, 2, 5, 7, dtype=DOUBLE).expand_as(x0)
    draw = Draw(torch.full((len(x0),), LEVEL, dtype=DOUBLE), noise, seen, data["kspace"], noise, noise[:, 0, 0, 0])
    full = {**data, "kspace": sense(data["maps"], torch.ones_like(seen))(x0), "mask": torch.ones_like(seen)}
    supervised = slopes(objective.loss_at(network, full, draw).mean(), network)
    found = slopes(objective.loss_at(network, data, draw).mean(), network)
    # Sums of 30 terms in float64.
    assert (found - supervised).norm() < 1e-12 * supervised.norm()
    naive = slopes(objective.loss_at(network, {**data, "density": torch.ones_like(seen)}, draw).mean(), network)
    assert (naive - supervised).norm() > 0.1 * supervised.norm()


@pytest.mark.parametrize("coils", [1, 3])
def test_ssdu_has_the_gradient_of_full_sampling(coils):
    """The sum over all masks and splits equals the supervised gradient on the lines that the network does not see."""
    data, kspace, seen, _ = every_mask(coil_maps(1, coils, (5, 7)))
    network, objective = torch.nn.Conv2d(2, 2, 3, padding=1, dtype=DOUBLE), SSDU(acs=2, dropped=1 / 3)

    def linear(x, timesteps):
        return 0.1 * network(x)

    x = objective.reconstruct(linear, kspace, seen, data["maps"])
    error = (1 - seen) * (sense(data["maps"], torch.ones_like(seen))(x) - kspace)
    supervised = slopes(torch.view_as_real(error).square().flatten(1).mean(1).mean(), network)
    found = slopes(objective.loss_at(linear, data, seen).mean(), network)
    assert (found - supervised).norm() < 1e-12 * supervised.norm()
    naive = slopes(objective.loss_at(linear, {**data, "density": torch.ones_like(seen)}, seen).mean(), network)
    assert (naive - supervised).norm() > 0.1 * supervised.norm()


def test_unrolled_network_in_closed_form():
    """One coil, a network that adds ``r``: on sampled lines ``r`` shrinks by ``mu / (1 + mu)`` in every iteration."""
    torch.manual_seed(0)
    x0, r = torch.randn(2, 2, 2, 5, 7, dtype=DOUBLE)
    data = measure(x0, random_columns(2, 7))
    full, sampled = (sense(data["maps"], m) for m in (torch.ones_like(data["mask"]), data["mask"]))
    found = Unrolled(n_unrolled=2, mu=0.25, n_cg=20)(lambda x, timesteps: r, data["kspace"], data["mask"], data["maps"])
    # Of r: 1/5 after the first iteration, (1 + 1/5) / 5 after the second; other lines get r twice.
    expected = data["kspace"] + 0.24 * sampled(r) + (1 - data["mask"]) * 2 * full(r)
    assert torch.allclose(full(found), expected, atol=1e-10)


@pytest.mark.parametrize("objective", [Ambient(acs=2, dropped=0.0), Ambient(acs=2), GSURE(acs=2)])
def test_full_sampling_without_noise_is_edm(objective):
    """Not bit for bit: the image goes through an FFT and back, and the loss is a sum over k-space."""
    torch.manual_seed(0)
    x0 = torch.randn(3, 2, 5, 7, dtype=DOUBLE)
    data = measure(x0, torch.ones(3, 1, 1, 7, dtype=DOUBLE))
    draw = objective.draw(data)._replace(mask=data["mask"])
    masked = isinstance(objective, Ambient)
    network = Small(3 if masked else 2)
    u = torch.special.ndtr((draw.sigma.log() - objective.log_mean) / objective.log_std)
    pair = EDM().pair(x0, u, draw.noise)
    inputs = torch.cat([pair.inputs, torch.ones_like(x0[:, :1])], dim=1) if masked else pair.inputs
    expected = (network(inputs, pair.timesteps)[:, :2] - pair.target).square().flatten(1).mean(1)
    # u and back to sigma loses a few digits in the tails of the normal distribution.
    assert torch.allclose(objective.loss_at(network, data, draw), expected, rtol=1e-9)


OBJECTIVES = [Ambient(acs=2), GSURE(acs=2), SSDU(acs=2)]


def batch(objective, dtype=DOUBLE):
    """Four items with masks and noise levels of their own, odd sides, and a draw."""
    torch.manual_seed(0)
    mask = (torch.rand(4, 1, 1, 9) < 0.6).double()
    data = measure(torch.randn(4, 2, 7, 9, dtype=DOUBLE), torch.where(calibration_region(mask, 2), 1.0, mask), 0.05)
    data["noise_std"] = torch.tensor([0.05, 0.3, 0.0, 0.1], dtype=DOUBLE)
    return data, objective.draw(data), Small(3 if isinstance(objective, Ambient) else 2)


def items(data, draw, chosen):
    """Some items of a batch."""
    part = draw[chosen] if isinstance(draw, torch.Tensor) else Draw(*(value[chosen] for value in draw))
    return {key: value[chosen] for key, value in data.items()}, part


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_items_of_a_batch_are_independent(objective):
    data, draw, network = batch(objective)
    together = objective.loss_at(network, data, draw)
    for i in range(4):
        assert torch.allclose(objective.loss_at(network, *items(data, draw, [i])), together[i : i + 1], rtol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_single_precision(objective):
    """Sums of 126 values whose conditioning is that of a mean square, about 10; the least squares of SSDU have 1 / mu = 20."""
    data, draw, network = batch(objective)
    expected = objective.loss_at(network, data, draw)

    def single(value):
        return value.to(torch.complex64 if value.is_complex() else torch.float32)

    less = single(draw) if isinstance(draw, torch.Tensor) else Draw(*map(single, draw))
    found = objective.loss_at(network.float(), {key: single(value) for key, value in data.items()}, less)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=2e-5)


def test_gsure_below_the_noise_of_the_data_is_finite():
    """Noise levels below that of the data count as it, instead of the root of a negative number."""
    data, draw, network = batch(GSURE(acs=2))
    loss = GSURE(acs=2).loss_at(network, data, draw._replace(sigma=torch.full_like(draw.sigma, 1e-3)))
    assert loss.isfinite().all()
    other = GSURE(acs=2).loss_at(network, data, draw._replace(sigma=torch.full_like(draw.sigma, 2e-3)))
    # Only the item without noise changes.
    assert torch.equal(loss[[0, 1, 3]], other[[0, 1, 3]]) and loss[2] != other[2]


@pytest.mark.parametrize("coils", [1, 3])
def test_gsure_loss_is_the_error_against_the_truth_on_average(coils):
    """The constant included, over 20 000 draws, five standard errors. The input has white noise of level sigma."""
    torch.manual_seed(0)
    x0 = torch.randn(1, 2, 1, N, dtype=DOUBLE).expand(20_000, 2, 1, N)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=DOUBLE).expand(20_000, 1, 1, N)
    data, objective = measure(x0, mask, NOISE_STD, coil_maps(20_000, coils, (1, N))), GSURE(**FIXED, acs=2)
    draw, network, seen = objective.draw(data), Small(2), []

    def spy(x, timesteps):
        # The first call is that of the error, the second that of the divergence.
        c = precondition(torch.tensor(LEVEL, dtype=DOUBLE), FIXED["sigma_data"])
        seen.append((x / c.input, (c.skip * x / c.input + c.out * network(x, timesteps))))
        return network(x, timesteps)

    found = objective.loss_at(spy, data, draw).detach()
    u, made = (value.detach() for value in seen[0])
    A = sense(data["maps"], mask)
    weights = mask / sampling_density(data, 2)
    error = torch.view_as_real(weights.sqrt() * A(made - x0)).square().flatten(1).sum(1) / (2 * N)
    error = error / precondition(torch.tensor(LEVEL, dtype=DOUBLE), FIXED["sigma_data"]).out ** 2
    away = found - error
    assert abs(float(away.mean())) < 5 * float(away.std()) / 20_000**0.5
    noise = (u - A.normal(x0)).flatten(1)
    # Entries of a sample covariance: at most sqrt(2) standard errors of 1 / sqrt(20 000) each, five of them.
    assert (torch.cov(noise.T) / LEVEL**2 - torch.eye(2 * N)).abs().max() < 5 * (2 / 20_000) ** 0.5


def test_gsure_divergence_of_some_items_has_the_expectation_of_all():
    """``p`` times the loss with the divergence and ``1 - p`` times that without is the loss in which it has the weight 1."""
    data, draw, network = batch(GSURE(acs=2))
    level = 0.3
    draw = draw._replace(sigma=torch.full((4,), level, dtype=DOUBLE))
    probability = (FULL_DIVERGENCE * data["noise_std"] / level).clamp(max=1.0)

    def loss(accept, divergence=1.0):
        chosen = draw._replace(accept=torch.full((4,), accept, dtype=DOUBLE))
        return GSURE(acs=2, divergence=divergence).loss_at(network, data, chosen)

    mean = probability * loss(0.0) + (1 - probability) * loss(1.0)
    without = loss(0.0, 0.0)
    # Where all are computed nothing is left to chance; elsewhere the weight is 1 / p.
    whole = without + probability * (loss(0.0) - without)
    assert torch.allclose(mean, whole, rtol=1e-12)
    assert torch.equal(loss(0.0)[1:2], loss(0.999)[1:2]) and probability[1] == 1
    assert (loss(0.0) != without).tolist() == [True, True, False, True]
    # The divergence itself, by central differences, whose error is the square of 1e-5 and rounding over it.
    c, x = data, draw
    A = sense(c["maps"], c["mask"])
    least = batch_broadcast(c["noise_std"], x.noise)
    filled = c["mask"] * c["kspace"] + least * (1 - c["mask"]) * x.fill
    u = sense(c["maps"], torch.ones_like(c["mask"])).adjoint(filled) + (level**2 - least**2).sqrt() * x.noise
    along = A.adjoint(c["mask"] / sampling_density(c, 2) * A(x.probe))

    def denoised(step):
        return denoise(network, u + step * x.probe, x.sigma, 0.25)[0]

    slope = (denoised(1e-5) - denoised(-1e-5)) / 2e-5
    expected = 2 * c["noise_std"] ** 2 * (slope * along).flatten(1).mean(1)
    c_out = denoise(network, u, x.sigma, 0.25)[1].flatten()
    assert torch.allclose((whole - without) * c_out**2, expected, rtol=1e-5, atol=1e-12)


def test_gsure_divergence_works_in_validation():
    data, _, network = batch(GSURE(acs=2))
    with torch.no_grad():
        torch.manual_seed(0)
        found = GSURE(acs=2).loss(network, data)
    torch.manual_seed(0)
    assert torch.equal(found, GSURE(acs=2).loss(network, data))


@pytest.mark.parametrize("shape", [(1, 1, 1, 32), (1, 1, 24, 1), (1, 1, 12, 11)])
def test_further_masks(shape):
    """Calibration lines stay; the others lose their fraction, with equal probabilities."""
    torch.manual_seed(0)
    mask = (torch.rand(shape) < 0.5).float()
    centre = calibration_region(mask, 4)
    mask = torch.where(centre, 1.0, mask).expand(2000, *shape[1:])
    kept = keep_lines(mask, 4, 0.3)
    outer = (mask > 0) & ~centre
    n = int(outer[0].sum())
    assert (kept <= mask).all() and torch.equal(kept * centre, mask * centre)
    assert ((mask - kept).flatten(1).sum(1) == round(0.3 * n)).all()
    share = round(0.3 * n) / n
    # A frequency over 2000 draws, five standard errors.
    assert ((1 - kept.mean(0))[outer[0]] - share).abs().max() < 5 * (share * (1 - share) / 2000) ** 0.5
    assert torch.equal(keep_lines(mask, 4, 0.0), mask)


def test_default_density_is_the_fraction_outside_the_calibration_lines():
    mask = torch.zeros(2, 1, 1, 10)
    mask[:, ..., [4, 5, 0]] = 1
    mask[1, ..., [1, 2, 3]] = 1
    expected = torch.tensor([1 / 8, 4 / 8])
    found = sampling_density({"mask": mask}, 2)
    assert torch.equal(found[..., [4, 5]], torch.ones(2, 1, 1, 2))
    assert torch.allclose(found[..., 0].flatten(), expected)


def test_prior_of_a_network_with_a_mask():
    """A network that is exact for stationary images: the estimate on the lines of a mask as in training, else 0."""
    c = covariance(stationary=True)
    objective = Ambient(**FIXED, acs=2, accel=1.5, kind="random", dropped=0.4)
    prior = objective.prior(Network(Linear(optimum(c))), multiple=1)
    x = torch.randn(3, 2, 1, N, dtype=DOUBLE)
    sigma = torch.full((3,), LEVEL, dtype=DOUBLE)
    mask = objective.masks((1, N), round(1000 * float(sigma[0].log())) + 10**6).double()
    assert (
        int(mask.sum()) == 3
    )  # 4 lines at acceleration 1.5, of which 2 are for calibration; one of the others is dropped
    seen = sense(torch.ones((1, 1, 1, N), dtype=DOUBLE.to_complex()), mask)
    expected = (seen.normal(x).flatten(1) @ optimum(c).T).view_as(x)
    assert torch.allclose(prior(x, LEVEL), expected, atol=1e-12)
    assert torch.equal(prior(x, sigma), prior(x, LEVEL))
    levels = torch.tensor([0.5, 0.2, 0.5], dtype=DOUBLE)
    assert torch.allclose(prior(x, levels)[1:2], prior(x[1:2], 0.2), atol=1e-12)
    others = {tuple(objective.masks((1, N), index).flatten().tolist()) for index in range(50)}
    assert len(others) == 4  # which of the outer lines is left
    assert not torch.equal(Ambient(seed=1).masks((8, 256), 5), Ambient(seed=0).masks((8, 256), 5))


@pytest.mark.parametrize(("kind", "sampled"), [("gaussian1d", 8), ("gaussian2d", 256)])
def test_masks_of_images_smaller_than_the_calibration_region(kind, sampled):
    """A quarter of the columns, or points, of 32 x 32, all of them calibration lines or points, so that none is dropped."""
    mask = Ambient(acs=24, accel=4.0, kind=kind, dropped=0.5).masks((32, 32), 3)
    assert int(mask.sum()) == sampled
    assert bool((mask[..., 12:20] == 1).all() if kind == "gaussian1d" else (mask[..., 8:24, 8:24] == 1).all())


def test_masks_of_rows_and_of_full_sampling():
    """Rows are columns of the turned image; without acceleration nothing is dropped or drawn."""
    columns, rows = (Ambient(acs=4, accel=3.0, rows=turned).masks((24, 24), 7) for turned in (False, True))
    assert torch.equal(columns.mT, rows) and columns.shape == (1, 1, 1, 24)
    assert bool((Ambient(accel=1.0).masks((24, 20), 7) == 1).all())


def test_prior_with_the_mask_of_the_scan():
    """The network sees the lines of the scan, of every item; if they are more than in training, a mask as in training."""
    c = covariance(stationary=True)
    objective = Ambient(**FIXED, acs=2, accel=2.0, kind="random")
    network, x = Network(Linear(optimum(c))), torch.randn(2, 2, 1, N, dtype=DOUBLE)
    mask = torch.tensor([[1.0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 1]], dtype=DOUBLE).view(2, 1, 1, N)
    ones = torch.ones((1, 1, 1, N), dtype=DOUBLE.to_complex())
    expected = (sense(ones, mask).normal(x).flatten(1) @ optimum(c).T).view_as(x)
    assert torch.allclose(objective.prior(network, 1, mask=mask)(x, LEVEL), expected, atol=1e-12)
    more = torch.ones_like(mask)
    assert torch.equal(objective.prior(network, 1, mask=more)(x, LEVEL), objective.prior(network, 1)(x, LEVEL))


def test_a_network_of_several_coils_has_one_scale():
    """``D = c_skip u + sigma_data F``: aliasing does not fall with the noise."""
    torch.manual_seed(0)
    u, mask, sigma = (
        torch.randn(2, 2, 5, 7, dtype=DOUBLE),
        random_columns(2, 7),
        torch.tensor([0.01, 2.0], dtype=DOUBLE),
    )
    network = Small(3)
    made = denoise_masked(network, u, mask, sigma, 0.25, coils=4)
    c = precondition(sigma.view(2, 1, 1, 1), 0.25)
    inside = torch.cat([c.input * u, mask.expand(2, 1, 5, 7)], dim=1)
    assert torch.allclose(made.estimate, c.skip * u + 0.25 * network(inside, c.noise.flatten())[:, :2])
    assert bool((made.seen == 0.25).all()) and bool((made.unseen == 0.25).all())


def test_prior_of_a_network_with_a_mask_and_coil_maps():
    """The input is ``A^H A x`` with the maps of every item, as in training; without maps it is that of one coil."""
    seen = []

    def look(x, timesteps):
        seen.append(x[:, :2] / c.input)
        return torch.cat([made, torch.zeros_like(x[:, 2:])], dim=1)

    torch.manual_seed(0)
    objective = Ambient(**FIXED, acs=2, accel=1.5, kind="random", dropped=0.4)
    c, made = (
        precondition(torch.tensor(LEVEL, dtype=DOUBLE), FIXED["sigma_data"]),
        torch.randn(2, 2, 5, N, dtype=DOUBLE),
    )
    x, maps = torch.randn(2, 2, 5, N, dtype=DOUBLE), torch.randn(2, 3, 5, N, dtype=DOUBLE.to_complex())
    mask = objective.masks((5, N), round(1000 * float(torch.tensor(LEVEL).log())) + 10**6).double()
    for coils in (maps, None):
        found = objective.prior(Network(look), multiple=1, maps=coils)(x, LEVEL)
        ones = torch.ones((1, 1, 5, N), dtype=DOUBLE.to_complex())
        u, lines = sense(ones if coils is None else coils, mask).normal(x), sense(ones, mask).normal(made)
        assert torch.allclose(seen[-1], u, atol=1e-12)
        one_coil = c.out * lines + FIXED["sigma_data"] * (made - lines)
        assert torch.allclose(
            found, c.skip * u + (one_coil if coils is None else FIXED["sigma_data"] * made), atol=1e-12
        )


class Network(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, timesteps):
        return self.function(x, timesteps)


def test_prior_with_a_mask_in_dds():
    """The same seed gives the same image, alone and in a batch, whatever torch's generator; another seed of masks another."""
    torch.manual_seed(0)
    network = ResidualUNet(3, channels=(8, 8), blocks=(1, 1)).double()
    torch.nn.init.normal_(network.tail.weight, std=0.05)
    data = measure(torch.randn(2, 2, 20, 24, dtype=DOUBLE), random_columns(2, 24), 0.05)

    def run(chosen, seeds, **settings):
        likelihood = Gaussian(sense(data["maps"][chosen], data["mask"][chosen]), data["kspace"][chosen], 0.05)
        prior = Ambient(acs=4, accel=3.0, **settings).prior(network)
        return sample(DDS(), prior, likelihood, karras(4.0, 0.01, 6).double(), noise=Noise(seeds))

    both = run([0, 1], [5, 6])
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.allclose(run([1], [6]), both[1:], atol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)
    assert (run([1], [6], seed=1) - both[1:]).abs().max() > 1e-3


def random_columns(n, width):
    """Half of the columns, and four for calibration."""
    mask = (torch.rand(n, 1, 1, width) < 0.5).double()
    return torch.where(calibration_region(mask, 4), 1.0, mask)


@pytest.mark.parametrize("name", ["ambient", "gsure", "ssdu"])
def test_objectives_by_name(name):
    objective = measured_objective(name, acs=2)
    assert isinstance(objective, MeasuredObjective)
    data, _, network = batch(objective)
    assert objective.needs <= data.keys()
    assert objective.loss(network, data).shape == (4,)


def test_bad_data_and_settings():
    data, draw, network = batch(GSURE(acs=2))
    for wrong, sentence in (
        ({"mask": 0.5 * data["mask"]}, "1 where sampled"),
        ({"mask": 0 * data["mask"]}, "samples nothing"),
        ({"maps": data["maps"][:, :, :5]}, "one shape"),
        ({"maps": 2 * data["maps"]}, "sum to at most 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            GSURE(acs=2).loss_at(network, {**data, **wrong}, draw)
    with pytest.raises(ValueError, match="not a prior"):
        SSDU().prior(network)
    for kind, settings in (
        (Ambient, {"dropped": 1.0}), (Ambient, {"acs": -1}), (Ambient, {"sigma_data": 0.0}), (GSURE, {"divergence": -1.0}),
        (SSDU, {"dropped": 0.0}), (SSDU, {"mu": float("nan")}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            kind(**settings)


def test_gsure_trains_networks_with_attention():
    """The divergence has a gradient, which fused attention lacks."""
    data, _, _ = batch(GSURE(acs=2))
    sides = {key: torch.nn.functional.pad(data[key], (0, 3, 0, 5)) for key in ("kspace", "maps")}
    data |= sides | {"mask": torch.nn.functional.pad(data["mask"], (0, 3))}
    network = ResidualUNet(2, channels=(8, 8), blocks=(1, 1), heads=2).double()
    torch.nn.init.normal_(network.tail.weight, std=0.1)
    for weight in (network.attention[0].out.weight, network.up[0].weight):  # zero at first
        torch.nn.init.normal_(weight, std=0.1)
    GSURE(acs=2, log_mean=-3.0).loss(network, data).mean().backward()
    assert network.attention[0].qkv.weight.grad.abs().max() > 0
