"""Noise ladders, time travel, and random numbers of single items."""

import math

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, VolumeSeeds, karras, slice_weights, time_travel, travelled, truncate_ladder
from medrecon.operators import Weights
from medrecon.priors import Counted
from medrecon.sample import draw, sample
from medrecon.solvers import DPS, SOLVERS

from .make.posteriors import Dense, SharedNoise, gaussian_prior, measured
from .solvers.expectations import fitted


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
    """Rising steps add exactly the missing noise: without data, going up and down keeps mean and variance."""
    prior = gaussian_prior()
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), torch.zeros(2000, 3, dtype=torch.float64), 0.05)
    sigmas = time_travel(karras(20.0, 0.01, 100), 25, 2)
    x = sample(DPS(zeta=0.0), prior, data, sigmas, noise=SharedNoise(0)).flatten(1)
    assert abs(float(x.var(0).sum() / prior.covariance.trace()) - 1) < 0.1


def test_time_travel_within_a_budget():
    """The finest ladder whose number of downward steps fits the budget; without repeats all of it is used."""
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


def test_the_weights_of_slices_have_the_correlation_of_their_length():
    """The sum of squares is 1, so every slice is N(0, 1); the autocorrelation is ``exp(-d^2 / (2 L^2))``."""
    for length in (0.0, 0.3, 1.0, 2.5, 7.0):
        w = torch.tensor(slice_weights(length), dtype=torch.float64)
        assert abs(float(w @ w) - 1) < 1e-12
        for d in range(min(3 * int(length) + 1, len(w))):
            found = float(w[d:] @ w[: len(w) - d])
            # Sums at whole slices differ from integrals by a fraction of 4 exp(-(pi L)^2 / 2), which is 3 % at L = 1.
            assert abs(found - math.exp(-(d**2) / (2 * max(length, 1e-9) ** 2))) < (0.018 if length >= 1 else 0.4)
    assert slice_weights(0.0) == [1.0]


def test_slices_of_a_volume_are_normal_and_correlated_as_the_weights():
    """Covariance along z of 20,000 pixels: 0.03 is four standard deviations of its estimate."""
    length, n = 1.5, 6
    z = Noise(3, z_correlation=length)((1, 2, n, 100, 100), torch.float64)[0].movedim(1, 0).flatten(1)
    w = torch.tensor(slice_weights(length), dtype=torch.float64)
    expected = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            expected[i, j] = w[abs(i - j) :] @ w[: len(w) - abs(i - j)]
    assert torch.allclose(z @ z.T / z.shape[1], expected, atol=0.03)
    inside = z.view(n, 2, 100, 100)  # no correlation within a slice, nor between the parts of a complex image
    assert abs(float((inside[:, :, 1:] * inside[:, :, :-1]).mean())) < 0.012
    assert abs(float((inside[:, 0] * inside[:, 1]).mean())) < 0.016


@pytest.mark.parametrize("length", [0.0, 0.6, 3.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slab_has_the_numbers_of_the_whole_volume(length, dtype):
    whole = Noise([7, 8], z_correlation=length, slices=range(9))
    slab = Noise(8, z_correlation=length, slices=range(3, 8))
    alone = Noise(8, z_correlation=length, slices=[5])
    downwards = Noise(8, z_correlation=length, slices=[8, 5, 2])
    for _ in range(3):  # in every draw of a run, not only in the first
        every = whole((2, 2, 9, 5, 7), dtype)[1]
        assert torch.equal(slab((1, 2, 5, 5, 7), dtype)[0], every[:, 3:8])
        assert torch.equal(alone((1, 2, 1, 5, 7), dtype)[0], every[:, 5:6])
        assert torch.equal(downwards((1, 2, 3, 5, 7), dtype)[0], every[:, [8, 5, 2]])


def test_without_correlation_slices_have_streams_of_their_own():
    volume = Noise(4, z_correlation=0.0)((1, 1, 3, 6, 6), torch.float64)[0, 0]
    assert len(volume.unique()) == volume.numel()
    for j in range(3):
        assert torch.equal(Noise(4, z_correlation=0.0, slices=[j])((1, 1, 1, 6, 6), torch.float64)[0, 0, 0], volume[j])


def test_only_images_of_the_volume_are_correlated():
    """Measurements have white noise, also those with the shape of the image; so do images without a z axis."""
    noise = Noise(1, z_correlation=100.0, slices=range(4))
    x = torch.zeros(1, 1, 4, 50, 50, dtype=torch.float64)

    def between(z):
        return float((z[0, 0, 0] * z[0, 0, 1]).mean())

    assert between(noise.like(x)) > 0.8
    assert abs(between(noise.white(x))) < 0.1
    assert (
        abs(between(noise.like(torch.zeros(1, 1, 3, 50, 50, dtype=torch.float64)))) < 0.1
    )  # three slices: another image
    y = torch.zeros(1, 4, 3, 50, 50, dtype=torch.complex128)
    z = noise.like(y)
    assert abs(float((z[0, 0] * z[0, 1].conj()).real.mean())) < 0.1
    assert torch.equal(Noise(1).white(x), Noise(1).like(x))


def test_particles_and_samples_of_volumes_have_streams_of_their_own():
    z = Noise([1, 2], 2, z_correlation=1.0)((4, 1, 3, 4, 4), torch.float64)
    assert len(z.unique()) == z.numel()
    assert torch.equal(Noise(2, 2, z_correlation=1.0)((2, 1, 3, 4, 4), torch.float64), z[2:])


def test_samples_of_a_volume_are_those_of_its_seeds():
    """Samples of ``draw`` that run as one batch, or one by one, or with the numbers made by hand."""
    data = Gaussian(Weights(torch.ones(1, dtype=torch.float64)), torch.zeros(1, 1, 4, 5, 6, dtype=torch.float64), 0.1)
    sigmas, prior = karras(5.0, 0.1, 4), lambda x, sigma: x / (1 + torch.as_tensor(sigma) ** 2)
    seeds = VolumeSeeds([[5], [6], [7]], 2.0, range(10, 14))
    every = [draw(SOLVERS["dps"](), prior, data, sigmas, seeds=seeds, chunk=chunk) for chunk in (1, 3)]
    assert torch.allclose(every[0], every[1], rtol=0, atol=1e-12)
    noise = Noise([6], z_correlation=2.0, slices=range(10, 14))
    assert torch.equal(sample(SOLVERS["dps"](), prior, data, sigmas, noise=noise), every[0][1])
