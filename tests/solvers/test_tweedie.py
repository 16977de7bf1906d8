"""Tweedie: the posterior mean in one evaluation of the prior, and what it refuses."""

import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.likelihood import Gaussian, Poisson, Rician
from medrecon.noise import Noise, karras
from medrecon.operators.bridge import RealAsComplex
from medrecon.operators.image import gaussian_blur
from medrecon.operators.weights import Weights
from medrecon.posterior import sampling
from medrecon.priors import Counted, MixturePrior
from medrecon.sample import sample
from medrecon.settings import SamplingSettings
from medrecon.solvers import Tweedie

from ..make.posteriors import SHAPE, Dense, gaussian_prior, mixture
from ..make.toys import spec

DOUBLE = torch.float64
LEVELS = torch.tensor([1.0, 0.0])


def identity(y, noise_std):
    return Gaussian(Weights(torch.ones(1, dtype=y.dtype)), y, noise_std)


def noisy(batch=3, dtype=DOUBLE):
    return (0.3 + 0.5 * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (torch.float32, 1e-5)])
def test_a_gaussian_prior_gives_the_posterior_mean(dtype, tolerance):
    """``(S^-1 + I / s^2)^-1 (S^-1 m + y / s^2)``, for one noise level per item; single precision: 1e-7 times the condition."""
    prior, y, std = gaussian_prior(dtype=dtype), noisy(dtype=dtype), torch.tensor([0.02, 0.1, 0.7], dtype=DOUBLE)
    x = sample(Tweedie(), prior, identity(y, std), LEVELS, noise=Noise([0, 1, 2]))
    assert x.dtype == dtype
    exact = gaussian_prior()
    precision = torch.linalg.inv(exact.covariance)
    for one, data, s in zip(x, y.double(), std, strict=True):
        both = precision + torch.eye(6, dtype=DOUBLE) / s**2
        mean = torch.linalg.solve(both, precision @ exact.mean.flatten() + data.flatten() / s**2)
        assert torch.allclose(one.double().flatten(), mean, atol=tolerance)


def test_a_mixture_gives_the_mean_over_both_modes():
    """Components' means weighted by their evidence: where the data leave both modes possible, it lies between them."""
    _, direction, _, _ = mixture()
    mode, std, s = direction.view(SHAPE), 0.2, 0.9
    prior = MixturePrior(torch.tensor([0.3, 0.7], dtype=DOUBLE), torch.stack([mode, -mode]), std)
    y = 0.2 * noisy()
    x = sample(Tweedie(), prior, identity(y, s), LEVELS, noise=Noise([0, 1, 2]))
    total = std**2 + s**2
    for one, data in zip(x, y, strict=True):
        evidence = [w * torch.exp(-((data - m) ** 2).sum() / (2 * total)) for w, m in ((0.3, mode), (0.7, -mode))]
        means = [(s**2 * m + std**2 * data) / total for m in (mode, -mode)]
        share = evidence[0] / sum(evidence)
        assert 0.02 < share < 0.98
        assert torch.allclose(one, share * means[0] + (1 - share) * means[1], atol=1e-12)


def test_one_evaluation_whatever_the_levels_and_the_seed():
    counted, y = Counted(gaussian_prior()), noisy(1)
    first = sample(Tweedie(), counted, identity(y, 0.1), Tweedie().ladder(8.0, 0.01, 50), noise=Noise(0))
    assert counted.calls == 1
    other = sample(Tweedie(), counted, identity(y, 0.1), karras(20.0, 0.1, 3), noise=Noise(5))
    assert torch.equal(first, other)


def test_a_batch_equals_its_items_alone():
    prior, y, std = gaussian_prior(), noisy(), torch.tensor([0.02, 0.1, 0.7], dtype=DOUBLE)
    both = sample(Tweedie(), prior, identity(y, std), LEVELS, noise=Noise([0, 1, 2]))
    for i in range(3):
        alone = sample(Tweedie(), prior, identity(y[i : i + 1], float(std[i])), LEVELS, noise=Noise(i))
        assert torch.allclose(both[i : i + 1], alone, atol=1e-14)


def refused(data, message):
    with pytest.raises(TypeError, match=message):
        sample(Tweedie(), gaussian_prior(), data, LEVELS, noise=Noise(0))


def test_other_data_are_refused():
    y, image = noisy(1), torch.rand(1, 1, 6, 7)
    measured = "measured as they are"
    refused(Gaussian(Dense(torch.eye(6, dtype=DOUBLE)), y.flatten(1), 0.1), measured)
    refused(Gaussian(Weights(torch.tensor([1.0, 1.0, 0.5], dtype=DOUBLE)), y, 0.1), measured)
    refused(Gaussian(gaussian_blur((6, 7), 1.0), image, 0.1), measured)
    refused(Rician(RealAsComplex() @ Weights(torch.ones(1)), image, torch.tensor([0.1])), measured)
    refused(Poisson(Weights(torch.ones(1)), image), measured)


@pytest.mark.parametrize("level", [0.0, torch.tensor([0.1, 0.0]), float("nan")])
def test_noise_must_be_above_zero(level):
    refused(identity(noisy(2), level), "noise level above 0")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"samples": 2}, "has no random samples; ask for 1, or choose a solver that draws samples"),
        ({"start": "tv", "start_sigma": 0.1}, "computes its own initial estimate"),
        ({"posterior": True}, "no settings for posterior samples"),
    ],
)
def test_options_of_samplers_are_refused(more, message):
    with pytest.raises(InputError, match=message):
        sampling(SamplingSettings(solver="tweedie", **more), spec("magnitude"))


def test_the_number_of_steps_is_one():
    assert sampling(SamplingSettings(solver="tweedie", steps=50), spec("magnitude")).sigmas.tolist() == [1.0, 0.0]
