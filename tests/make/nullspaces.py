"""Plain problems whose images are the unknowns, and exact samples: what was measured is known in closed form."""

import torch

from medrecon.data.scan import Geometry
from medrecon.likelihood import Gaussian
from medrecon.operators import AsComplex, sense
from medrecon.priors import MixturePrior
from medrecon.problems.base import Problem, Scaled

__all__ = ["Plain", "columns_problem", "exact_samples", "on_columns", "scaled", "two_components", "white_posterior"]

DOUBLE = torch.float64


class Plain(Problem):
    """One item whose image is the unknown: the complex image, or its only channel."""

    def __init__(self, data, offset=0.0):
        super().__init__("plain", [0], Geometry())
        self.data = data
        self.offset = offset
        self.real = data.shape[1] == 1

    def to_image(self, x, items, scale):
        if self.real:
            return x[:, :, 0] * scale.view(-1, 1, 1) + self.offset
        return AsComplex()(x.flatten(0, 1)).view(len(x), -1, *x.shape[-2:]) * scale.view(-1, 1, 1)


def scaled(data, scale=1.0):
    """A likelihood of one item, and its scale."""
    one = torch.full((1,), scale, dtype=data.y.real.dtype)
    return Scaled(data, one, one)


def on_columns(mask, shape, dtype=torch.complex128):
    """One coil, which samples the columns where ``mask`` is true."""
    return sense(None, mask[None, None, None], shape, dtype)


def columns_problem(shape=(21, 18), noise_std=0.05, prior_std=0.5, seed=0, dtype=DOUBLE):
    """A Gaussian likelihood of two thirds of the columns, of a white image with noise."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape[1], generator=generator) < 0.66
    mask[shape[1] // 2] = True
    A = on_columns(mask, shape, torch.complex64 if dtype == torch.float32 else torch.complex128)
    x = prior_std * torch.randn(1, 2, *shape, generator=generator, dtype=DOUBLE).to(dtype)
    y = A(x)
    noise = torch.view_as_complex(torch.randn(*y.shape, 2, generator=generator, dtype=DOUBLE)).to(y.dtype)
    return Gaussian(A, y + noise_std * noise * (y != 0), noise_std), mask


def white_posterior(data, means, std, n, seed=1):
    """Exact posterior samples ``(n, C, *spatial)`` of the prior N(means, std^2 I); A has the singular values 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    var = data.noise_std**2
    gain = std**2 / (std**2 + var)
    mean = means + gain * data.A.adjoint(data.y - data.A(means))
    noise = std * torch.randn(n, *data.shape[1:], generator=generator, dtype=DOUBLE).to(data.y.real.dtype)
    # In the measured part the variance is std^2 var / (std^2 + var).
    return mean + noise - (1 - (var / (std**2 + var)) ** 0.5) * data.A.normal(noise)


def two_components(measured, amplitude=0.8, size=4.0, shape=(32, 31), noise_std=0.05, std=0.02):
    """A smooth object with and without a textured patch, whose energy lies in lines that are not sampled, or that are.

    Returns:
        the prior, the likelihood of the object with the patch, the pixels of the patch, and the fraction of the energy of the
        patch in sampled lines.
    """
    y, x = torch.meshgrid(*[torch.arange(n, dtype=DOUBLE) - n // 2 for n in shape], indexing="ij")
    body = torch.exp(-((y / 9) ** 2 + (x / 9) ** 2))
    envelope = torch.exp(-((y - 3) ** 2 + (x - 2) ** 2) / (2 * size**2))
    frequency = 3 if measured else 11
    patch = amplitude * envelope * torch.cos(2 * torch.pi * frequency * x / shape[1])
    mask = (torch.arange(shape[1]) - shape[1] // 2).abs() <= 6
    A = on_columns(mask, shape)
    means = torch.stack([torch.stack([one, torch.zeros_like(one)]) for one in (body, body + patch)])
    prior = MixturePrior(torch.tensor([0.5, 0.5], dtype=DOUBLE), means, std)
    generator = torch.Generator().manual_seed(3)
    kspace = A(means[1:] + std * torch.randn(means[1:].shape, generator=generator, dtype=DOUBLE))
    noise = torch.view_as_complex(torch.randn(*kspace.shape, 2, generator=generator, dtype=DOUBLE))
    data = Gaussian(A, kspace + noise_std * noise * (kspace != 0), noise_std)
    difference = means[1:] - means[:1]
    share = float(A(difference).abs().square().sum() / difference.square().sum())
    return prior, data, envelope > 0.5, share


def exact_samples(prior, data, n, seed=1):
    """Samples ``(n, C, *spatial)`` of the posterior of a mixture; A has the singular values 0 and 1."""
    each = [white_posterior(data, mean[None], prior.std, n, seed + k) for k, mean in enumerate(prior.means)]
    # |y - A m|^2 has the same variance in every component and direction.
    away = torch.stack([(data.y - data.A(mean[None])).abs().square().sum() for mean in prior.means])
    weights = (prior.weights.log() - away / (2 * (prior.std**2 + data.noise_std**2))).softmax(0)
    chosen = torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return torch.stack([each[k][i] for i, k in enumerate(chosen.tolist())]), weights
