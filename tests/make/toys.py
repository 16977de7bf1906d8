"""Small scans with a known truth, and priors in closed form instead of a network."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medrecon.data.coils import to_kspace
from medrecon.data.phantom import loop_coils
from medrecon.data.scan import CartesianScan, DynamicScan, Geometry, ImageScan, NonCartesianScan, Sinogram
from medrecon.operators import Detector, FanBeam, ParallelBeam
from medrecon.posterior import PriorSpec, run, sampling
from medrecon.problems import physics_of, problem
from medrecon.settings import SamplingSettings

__all__ = [
    "ANGLES",
    "SHAPE",
    "TURN",
    "Smooth",
    "White",
    "cartesian",
    "columns",
    "frames",
    "grid",
    "image",
    "images",
    "noncartesian",
    "picture",
    "sinogram",
    "solve",
    "spec",
    "water_disc",
]

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


def columns(shape=SHAPE, acs=11):
    """Every second column, and a calibration region."""
    mask = np.zeros(shape, bool)
    mask[:, shape[1] % 2 :: 2] = True
    mask[:, shape[1] // 2 - acs // 2 : shape[1] // 2 + acs // 2 + 1] = True
    return mask


def grid(shape=SHAPE):
    """All points of a Cartesian grid, column by column, as a trajectory ``(shots, readout, 2)``."""
    y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    return np.stack([y.T, x.T], axis=-1).astype(np.float32)


def noncartesian(scan, shape=SHAPE):
    """A Cartesian scan as samples along the trajectory of its columns."""
    chosen = np.broadcast_to(scan.mask, shape).any(axis=0)
    samples = scan.kspace.swapaxes(2, 3)[:, :, chosen]
    trajectory = np.broadcast_to(grid(shape)[chosen], (len(samples), *grid(shape)[chosen].shape))
    # The grid's first row and column lie on the edge of the band of an even axis.
    return NonCartesianScan(path=Path("toy.npz"), format="toy", samples=samples, trajectory=trajectory, matrix=shape)


def water_disc(n=64, spacing=1.5, radius=30.0):
    """A disc of water, 1 inside and 0 outside."""
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * spacing
    return (np.hypot(y, x) < radius).astype(np.float32)


ANGLES = np.arange(180) * np.pi / 180
TURN = np.arange(360) * np.pi / 180


def sinogram(beam, **more):
    """Line integrals of a disc of water of 0.02 / mm."""
    x = torch.from_numpy(water_disc())[None, None] * 0.02
    if beam == "parallel":
        A = ParallelBeam(torch.from_numpy(ANGLES), (64, 64), Detector(96, 1.0), 1.5)
        return Sinogram(
            path=Path("a.npz"), format="toy", sinogram=A(x)[0].numpy(), angles=ANGLES, detector_spacing=1.0, **more
        )
    A = FanBeam(torch.from_numpy(TURN), (64, 64), 200.0, 400.0, Detector(128, 1.6), 1.5)
    return Sinogram(
        path=Path("a.npz"), format="toy", sinogram=A(x)[0].numpy(), angles=TURN, detector_spacing=1.6, beam="fan",
        source_to_axis=200.0, source_to_detector=400.0, **more,
    )  # fmt: skip


def picture(shape=(48, 40), noise=0.0, seed=0):
    """A magnitude image of scale 1000."""
    rng = np.random.default_rng(seed)
    return (1000 * np.abs(image(shape)) + noise * rng.standard_normal(shape)).astype(np.float32)


def images(array, affine=None, spacing=(2.0, 1.0, 1.0)):
    return ImageScan(path=Path("a.nii.gz"), format="NIfTI", array=array[None], geometry=Geometry(spacing, affine))


def frames(scan, mask=None, affine=None):
    mask = np.ones((2, *SHAPE), bool) if mask is None else mask
    geometry = Geometry((3.0, 2.0, 2.0), affine)
    kspace = np.stack([scan.kspace, 0.5 * scan.kspace])
    return DynamicScan(path=Path("a.npz"), format="toy", kspace=kspace, mask=mask, axis="phase", geometry=geometry)
