"""An exact Gaussian, the networks that a perfect training on it would give, and a prior of any network."""

import math

import torch
from torch import nn

from medrecon.posterior import PriorSpec
from medrecon.priors import GaussianPrior
from medrecon.priors.nets import precondition

__all__ = [
    "AsEDM",
    "AsEps",
    "AsFlow",
    "gaussian",
    "noisy",
    "toy_prior",
]


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


def toy_prior(network=None, **more):
    """A prior of any network."""
    return PriorSpec(name="toy", version="1", weights_sha256="0", network=lambda: network, **more)
