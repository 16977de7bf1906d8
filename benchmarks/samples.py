"""Draw unconditional samples from a bundle's prior, and find the nearest training image of each.

    python benchmarks/samples.py brain_mri --png samples.png

A memorised sample would match a training slice much better than a held-out slice does. The table gives the correlation
of every sample with its nearest training slice (over flips and shifts up to 8 pixels), and the same for held-out
slices, which are not copies. The comparison uses magnitudes at 64 x 64.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, bundle_prior
from torch.nn import functional as F

from medrecon.noise import karras
from medrecon.priors import multiscale
from medrecon.report.montage import sheet
from medrecon.sample import generate
from medrecon.solvers.ddim import DDIM
from medrecon.training.slices import load_slices


def small(images: torch.Tensor) -> torch.Tensor:
    """Magnitudes ``(n, y, x)`` at 64 x 64, with mean 0 and norm 1."""
    low = F.interpolate(images[:, None].float(), (64, 64), mode="area").flatten(1)
    low = low - low.mean(1, keepdim=True)
    return low / low.norm(dim=1, keepdim=True).clamp(min=1e-6)


def nearest(images: torch.Tensor, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest correlation of every image with a training image, and its index."""
    best, index = torch.full((len(images),), -1.0), torch.zeros(len(images), dtype=torch.long)
    against = small(training)
    for flip in (False, True):
        for dy in range(-8, 9, 4):
            for dx in range(-8, 9, 4):
                moved = small((images.flip(2) if flip else images).roll((dy, dx), (1, 2)))
                value, where = (moved @ against.T).max(1)
                index = torch.where(value > best, where, index)
                best = torch.maximum(best, value)
    return best, index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--png", type=Path, help="figure with the samples above and the nearest training slices below")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    prior, network, held_out = bundle_prior(arguments.bundle)
    prior = multiscale(prior)
    channels = network.tail.out_channels // network.unshuffle**2
    shape = (channels, arguments.side, arguments.side)
    images = torch.cat(
        [
            generate(prior, shape, karras(60.0, 0.005, arguments.steps), seeds=[s], solver=DDIM(eta=0.5))
            for s in range(arguments.n)
        ]
    )
    images = images.norm(dim=1)
    folder = DATA / "train"
    if arguments.bundle == "chest_ct":
        unit = 1000
        rows = load_slices(folder / "ct_slices_256.npz", exclude={"subject": held_out})
        others = load_slices(folder / "ct_slices_256.npz", {"subject": held_out})
    else:
        unit = 200
        rows = load_slices([folder / "brain_slices_256.npz", folder / "brain_corsag_256.npz"])
        others = load_slices(folder / "brain_slices_256_val.npz", {"subject": held_out})[::10]
    crop = (256 - arguments.side) // 2
    training, unseen = (torch.from_numpy(np.concatenate([row["image"] for row in r])) / unit for r in (rows, others))
    training, unseen = (t[:, crop : crop + arguments.side, crop : crop + arguments.side] for t in (training, unseen))
    best, index = nearest(images, training)
    reference, _ = nearest(unseen, training)
    print(f"nearest training slice, correlation: {len(images)} samples mean {best.mean():.3f}, highest {best.max():.3f}; "
          f"{len(unseen)} held-out slices mean {reference.mean():.3f}, highest {reference.max():.3f}")  # fmt: skip
    if arguments.png:
        top = 1.4 if arguments.bundle == "chest_ct" else 1.2
        arguments.png.write_bytes(sheet(torch.cat([images, training[index]]).numpy(), top, columns=arguments.n))


if __name__ == "__main__":
    main()
