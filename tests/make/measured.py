"""Objectives of measurements whose trained networks are known, and networks with one weight."""

from dataclasses import dataclass

import torch

from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.mri import sense
from medrecon.priors.nets import EDMNet


class Factor(torch.nn.Module):
    """``network(x, t) = a x``; the number of calls is counted."""

    def __init__(self, a=0.0, channels=1):
        super().__init__()
        self.a = torch.nn.Parameter(torch.full((1, channels, 1, 1), float(a)))
        self.calls = 0

    def forward(self, x, timesteps):
        assert timesteps.shape == x.shape[:1]
        self.calls += 1
        return self.a * x


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Noise2Noise of a denoiser ``network(x, t)``, with ``repeats`` evaluations; the minimiser is the posterior mean."""

    repeats: int = 1
    weight: float = 1.0

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1; got {self.repeats}")

    @property
    def needs(self):
        return frozenset({"image", "second"})

    def loss(self, network, data):
        image = data["image"]
        out = [network(image, image.new_zeros(len(image))) for _ in range(self.repeats)]
        return self.weight * sum((one - data["second"]).square().flatten(1).mean(1) for one in out)

    def prior(self, network, multiple=16, dtype=None):
        return lambda x, sigma: network(x, x.new_zeros(len(x)))


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A loss that draws noise and differentiates the network with respect to its input: SURE for a known noise level."""

    full_precision = True

    @property
    def needs(self):
        return frozenset({"image", "noise_std"})

    def loss(self, network, data):
        x, variance = data["image"].requires_grad_(), batch_broadcast(data["noise_std"], data["image"]) ** 2
        out = network(x, x.new_zeros(len(x)))
        probe = torch.randn_like(x)
        (along,) = torch.autograd.grad((out * probe).sum(), x, create_graph=True)
        return ((out - x).square() + 2 * variance * probe * along).flatten(1).mean(1)

    def prior(self, network, multiple=16, dtype=None):
        return EDMNet(network, 0.5, multiple, dtype)


@dataclass(frozen=True, kw_only=True)
class Scans:
    """A loss of undersampled scans: the residual of the measured samples, with a network of the zero-filled image."""

    sigma_data: float = 0.5

    @property
    def needs(self):
        return frozenset({"kspace", "mask", "maps", "noise_std"})

    def loss(self, network, data):
        A = sense(data["maps"], data["mask"])
        x = A.adjoint(data["kspace"])
        out = self.prior(network)(x, torch.full((len(x),), 0.2))
        return (A.forward(out) - data["kspace"]).abs().square().flatten(1).mean(1)

    def prior(self, network, multiple=1, dtype=None):
        return EDMNet(network, self.sigma_data, multiple, dtype)
