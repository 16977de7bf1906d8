"""Small scans with a known truth, and a prior in closed form instead of a network."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medrecon.data.coils import to_kspace
from medrecon.data.phantom import loop_coils
from medrecon.data.scan import CartesianScan
from medrecon.posterior import PriorSpec, run, sampling
from medrecon.problems import physics_of, problem
from medrecon.settings import SamplingSettings

SHAPE = (36, 31)  # even and odd


class White:
    """The objective of a network that is the exact prior of white Gaussian images."""

    def __init__(self, std=1.0):
        self.std = std

    def prior(self, network, multiple=16, dtype=None):
        def mean(x, sigma):
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            return x * self.std**2 / (self.std**2 + level**2)

        return mean


class Smooth(White):
    """The objective of the exact prior of Gaussian images whose power falls with the fourth power of the frequency."""

    def prior(self, network, multiple=16, dtype=None):
        def mean(x, sigma):
            y, xx = (torch.fft.fftfreq(n, dtype=x.dtype) for n in x.shape[-2:])
            power = 40 * self.std**2 / (1 + ((y[:, None] ** 2 + xx**2) / 0.05**2) ** 2)
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            return torch.fft.ifft2(power / (power + level**2) * torch.fft.fft2(x)).real

        return mean


def spec(images="complex", objective=None, **more):
    """A prior in closed form, without weights; default: of white images."""
    channels = 2 if images == "complex" else 1
    return PriorSpec(
        name="toy", version="1", weights_sha256="0", network=lambda: nn.Linear(1, 1), objective=objective or White(),
        images=images, channels=channels, **more,
    )  # fmt: skip


def image(shape=SHAPE, seed=0):
    """A smooth complex object that fills the middle of the field of view."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    inside = (y / 0.42) ** 2 + (x / 0.4) ** 2 < 1
    blobs = sum(
        rng.uniform(0.3, 1) * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.02) for a, b in rng.uniform(-0.3, 0.3, (6, 2))
    )
    return (inside * (0.5 + blobs) * np.exp(1j * (1.5 * x + y))).astype(np.complex64)


def cartesian(shape=SHAPE, coils=4, slices=2, noise=0.0, mask=None, seed=0):
    """A scan ``(slices, coils, y, x)``, its images, and its maps."""
    rng = np.random.default_rng(seed)
    maps = loop_coils(shape, coils) if coils > 1 else np.ones((1, *shape), np.complex64)
    truth = np.stack([image(shape, seed + k) for k in range(slices)])
    kspace = to_kspace(maps * truth[:, None])
    kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    mask = np.ones(shape, bool) if mask is None else mask
    scan = CartesianScan(
        path=Path("toy.h5"),
        format="toy",
        kspace=(kspace * mask).astype(np.complex64),
        mask=mask[0] if (mask == mask[0]).all() else mask,
    )
    return scan, truth, maps


def solve(scan, solver="cg-sense", prior=None, physics=None, **settings):
    """The reconstruction of a scan."""
    prior = spec() if prior is None else prior
    plan = sampling(SamplingSettings(solver=solver, **settings), prior)
    return run(problem(scan, physics_of(scan, **(physics or {}))), prior, plan)
