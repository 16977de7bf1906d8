"""Score prior by variational inference beside DDS: 64 x 64 single-coil scans of held-out brains, R = 4.

    python benchmarks/scoreprior.py [--steps 500] [--first] [--only NAME ...]

The prior is that of brain_mri; slices of held-out subjects are resampled to 64 x 64 pixels, with phase and noise. Settings
were chosen on the first scan, which is not in the table; the three of the table are of three sources. PSNR in dB of the
mean of the samples; coverage: how often the true real and imaginary parts lie in the 90 % interval of the samples, mean
+- 1.645 standard deviations, which for the score prior includes its noise of 0.03.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import bundle_prior, held_out_brains
from torch import Tensor

from medrecon.data.masks import undersampling_mask
from medrecon.likelihood import Gaussian
from medrecon.metrics import scores
from medrecon.noise import Noise, karras
from medrecon.operators import sense
from medrecon.priors import Counted, Prior
from medrecon.sample import draw
from medrecon.solvers import DDS
from medrecon.solvers.scoreprior import Family, LowRankGaussian, RealNVP, ScorePrior

SHAPE = (64, 64)
NOISE_STD = 0.02
FAMILIES: dict[str, Callable[[Tensor], Family]] = {
    "Gaussian, diagonal": lambda mean: LowRankGaussian(mean, 0.05),
    "Gaussian, rank 32": lambda mean: LowRankGaussian(mean, 0.05, rank=32),
    "RealNVP, 8 couplings of 128": lambda mean: RealNVP(mean, 0.05, n_couplings=8, width=128),
}


class Scan(NamedTuple):
    """A likelihood of one item, and the true image ``(1, 2, y, x)``."""

    data: Gaussian
    truth: Tensor


class Made(NamedTuple):
    """Samples ``(n, 2, y, x)``, network evaluations and seconds."""

    samples: Tensor
    evaluations: int
    seconds: float


def scans() -> list[Scan]:
    """Undersampled columns, a quarter of them, eight of these in the centre."""
    out = []
    for index, (_, image, _) in enumerate(held_out_brains(2, SHAPE, 0.25)):
        mask = torch.from_numpy(undersampling_mask(SHAPE, "gaussian1d", 4, 8, seed=index))
        truth = torch.from_numpy(np.stack([image.real, image.imag])[None]).float()
        A = sense(None, mask[None, None, None], SHAPE, torch.complex64)
        y = A(truth)
        noise = Noise([index]).like(y) * (y != 0)
        out.append(Scan(Gaussian(A, y + NOISE_STD * noise, NOISE_STD), truth))
    return out


def variational(name: str, scan: Scan, prior: Prior, settings: dict) -> Made:
    """A fit that begins with the zero-filled image, and 64 samples."""
    began = time.time()
    family = FAMILIES[name](scan.data.adjoint_y[0])
    lr = settings["lr"] / 10 if isinstance(family, RealNVP) else settings["lr"]
    made = ScorePrior(**{**settings, "lr": lr}).fit(family, prior, scan.data, noise=Noise([0]))
    return Made(made.sample(64, Noise([1])), made.evaluations, time.time() - began)


def dds(n: int, scan: Scan, prior: Prior) -> Made:
    """``n`` samples of 50 evaluations."""
    began, counted = time.time(), Counted(prior)
    x = draw(DDS(), counted, scan.data, karras(0.3, 0.005, 50), seeds=list(range(n)), chunk=8)
    return Made(x[:, 0], counted.calls, time.time() - began)


def score(made: Made, truth: Tensor) -> list[float]:
    """PSNR and SSIM of the mean, coverage, evaluations and seconds."""
    mean = made.samples.mean(0)
    found = scores(mean.norm(dim=0)[None].numpy(), truth.norm(dim=1).numpy())
    coverage = float("nan")
    if len(made.samples) > 1:
        coverage = float(((truth[0] - mean).abs() <= 1.645 * made.samples.std(0)).float().mean())
    return [found["psnr"], found["ssim"], 100 * coverage, made.evaluations, made.seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--samples", type=int, default=4, help="images per step")
    parser.add_argument("--lr", type=float, default=0.02, help="of Gaussians; a tenth for RealNVP")
    parser.add_argument("--sigma-min", type=float, default=0.03)
    parser.add_argument("--first", action="store_true", help="the scan on which settings are chosen, alone")
    parser.add_argument("--only", nargs="*", default=["zero-filled", "dds", "dds x 8", *FAMILIES])
    arguments = parser.parse_args()
    prior, *_ = bundle_prior("brain_mri")
    settings = {
        "n_steps": arguments.steps, "n_samples": arguments.samples, "lr": arguments.lr, "sigma_min": arguments.sigma_min,
        "sigma_max": 0.3,
    }  # fmt: skip
    chosen = scans()[:1] if arguments.first else scans()[1::2]
    print(f"{settings}, {len(chosen)} scans")
    print("| method | PSNR | SSIM | 90 % interval covers | evaluations | seconds |\n" + "|---" * 6 + "|")
    methods: dict[str, Callable[[Scan], Made]] = {
        "zero-filled": lambda scan: Made(scan.data.adjoint_y, 0, 0.0),
        "dds": lambda scan: dds(1, scan, prior),
        "dds x 8": lambda scan: dds(8, scan, prior),
    }
    for name in arguments.only:
        method = methods.get(name, lambda scan, name=name: variational(name, scan, prior, settings))
        psnr, ssim, covered, evaluations, seconds = np.mean([score(method(s), s.truth) for s in chosen], 0)
        print(f"| {name} | {psnr:.2f} | {ssim:.3f} | {covered:.0f} % | {evaluations:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
