"""Compare networks, crops, batch sizes and optimisers at equal training time on this machine.

    python benchmarks/networks.py --seconds 120

Every candidate is trained from scratch on the brain slices for the given time, which includes compilation but not the
loading of data. The learning rate has a warm-up and a cosine decay that ends with the time. The moving average of the
weights then denoises slices of a held-out subject. Columns: parameters, seconds per step, steps, images of 128 x 128
per second, PSNR at five noise levels and their mean, milliseconds per evaluation at 256 x 256.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet
from problems import DATA
from torch import nn
from torch.nn import functional as F

from medrecon.data.phase import smooth_phase
from medrecon.handlers import averaged
from medrecon.networks import ResidualUNet
from medrecon.posterior import fast_dtype
from medrecon.training.augment import Augment
from medrecon.training.objectives import EDM, stratified
from medrecon.training.slices import load_slices, sampling_weights

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Unshuffled(nn.Module):
    """A network of MONAI on pixel-unshuffled images."""

    def __init__(self, network: nn.Module, factor: int = 2) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """See ``DiffusionModelUNet.forward``."""
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x, self.factor), timesteps), self.factor)


def monai_unet(channels: tuple[int, ...], pixels: int) -> DiffusionModelUNet:
    """MONAI's network with one residual block per scale and without attention."""
    return DiffusionModelUNet(
        spatial_dims=2, in_channels=pixels, out_channels=pixels, channels=channels, num_res_blocks=1,
        attention_levels=[False] * len(channels), num_head_channels=8, norm_num_groups=16,
    )  # fmt: skip


class Muon(torch.optim.Muon):
    """torch's Muon for convolutions. Muon takes matrices only, so a weight is reshaped to (out, in * k * k)."""

    def __init__(self, convolutions: list[nn.Parameter], lr: float) -> None:
        self.pairs = [(w, nn.Parameter(w.data.permute(0, 2, 3, 1).reshape(len(w), -1))) for w in convolutions]
        super().__init__([m for _, m in self.pairs], lr=lr, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")

    def step(self) -> None:
        """Copy the gradients, take a step, and copy the weights back."""
        with torch.no_grad():
            for w, m in self.pairs:
                m.grad = w.grad.permute(0, 2, 3, 1).reshape(m.shape)
            super().step()
            for w, m in self.pairs:
                w.copy_(m.view(len(w), *w.shape[2:], w.shape[1]).permute(0, 3, 1, 2))


def optimisers(network: nn.Module, kind: str, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for the inner convolutions and AdamW for the rest."""
    convolutions = [p for n, p in network.named_parameters() if p.ndim == 4 and "head" not in n and "tail" not in n]
    if kind == "adamw":
        return [torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)]
    others = [p for p in network.parameters() if all(p is not c for c in convolutions)]
    return [Muon(convolutions, rate), torch.optim.AdamW(others, 8e-4, betas=(0.9, 0.99), fused=True)]


RESIDUAL = {"channels": (64, 128, 224), "blocks": (2, 2, 4)}
SHIPPED = {"channels": (64, 128, 224, 192), "blocks": (2, 2, 2, 1)}
# name: network, crop, batch, compile, optimiser, learning rate
CANDIDATES = {
    "MONAI U-Net 32-64-96-128": (lambda: monai_unet((32, 64, 96, 128), 2), 128, 8, False, "adamw", 5e-4),
    "MONAI U-Net 64-128-192, unshuffled": (
        lambda: Unshuffled(monai_unet((64, 128, 192), 8)), 128, 8, False, "adamw", 5e-4),
    "residual 64-128-224": (lambda: ResidualUNet(**RESIDUAL), 128, 8, False, "adamw", 8e-4),
    "  learning rate 4e-4": (lambda: ResidualUNet(**RESIDUAL), 128, 8, False, "adamw", 4e-4),
    "  learning rate 1.6e-3": (lambda: ResidualUNet(**RESIDUAL), 128, 8, False, "adamw", 1.6e-3),
    "  crops of 96": (lambda: ResidualUNet(**RESIDUAL), 96, 8, False, "adamw", 8e-4),
    "  crops of 64, batches of 16": (lambda: ResidualUNet(**RESIDUAL), 64, 16, False, "adamw", 8e-4),
    "  batches of 4": (lambda: ResidualUNet(**RESIDUAL), 128, 4, False, "adamw", 8e-4),
    "  batches of 16": (lambda: ResidualUNet(**RESIDUAL), 128, 16, False, "adamw", 8e-4),
    "  compiled": (lambda: ResidualUNet(**RESIDUAL), 128, 8, True, "adamw", 8e-4),
    "  Muon": (lambda: ResidualUNet(**RESIDUAL), 128, 8, False, "muon", 8e-4),
    "  Muon, batches of 16": (lambda: ResidualUNet(**RESIDUAL), 128, 16, False, "muon", 1.6e-3),
    "residual 96-160-256": (
        lambda: ResidualUNet(channels=(96, 160, 256), blocks=(2, 2, 2)), 128, 8, False, "adamw", 8e-4),
    "residual 64-128-224-192": (lambda: ResidualUNet(**SHIPPED), 128, 8, False, "adamw", 8e-4),
    "  with attention (shipped)": (lambda: ResidualUNet(**SHIPPED, heads=6), 128, 8, False, "adamw", 8e-4),
    "residual 64-128-192": (
        lambda: ResidualUNet(channels=(64, 128, 192), blocks=(2, 2, 2)), 128, 8, False, "adamw", 8e-4),
    "residual 128-256, unshuffled by 4": (
        lambda: ResidualUNet(channels=(128, 256), blocks=(3, 4), unshuffle=4), 128, 8, False, "adamw", 8e-4),
}  # fmt: skip


def held_out(subject: str = "omsL_12", every: int = 12) -> torch.Tensor:
    """Complex slices ``(n, 2, 256, 256)`` of a validation subject."""
    rows = load_slices(DATA / "train" / "brain_slices_256_val.npz", {"subject": [subject]})[::every]
    out = []
    for i, row in enumerate(rows):
        phase = torch.from_numpy(smooth_phase((256, 256), np.random.RandomState(i)))
        image = torch.from_numpy(row["image"][0]) / 200
        out.append(torch.stack([image * phase.cos(), image * phase.sin()]))
    return torch.stack(out)


def train(name: str, seconds: float, images: torch.Tensor, weights: torch.Tensor, device: torch.device) -> str:
    """A row of the table."""
    make, crop, batch, compiled, kind, rate = CANDIDATES[name]
    torch.manual_seed(0)
    network = make().to(device, memory_format=torch.channels_last)
    average = averaged(network, 0.998)
    run = torch.compile(network) if compiled else network
    chain, augment, objective = optimisers(network, kind, rate), Augment(crop=crop), EDM()
    dtype = fast_dtype(device)
    start, step = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        done = elapsed / seconds
        for optimiser in chain:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * min(1.0, (step + 1) / 100) * (
                    0.02 + 0.49 * (1 + math.cos(math.pi * done)))  # fmt: skip
        rows = torch.multinomial(weights, batch, replacement=True)
        x0 = augment(images[rows].to(device))
        pair = objective.pair(x0, stratified(batch, device), torch.randn_like(x0))
        inputs = pair.inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            out = run(inputs, pair.timesteps)
        loss = F.mse_loss(out.float(), pair.target)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimiser in chain:
            optimiser.step()
        network.zero_grad(set_to_none=True)
        average.update_parameters(network)
        step += 1
    spent = time.perf_counter() - start
    prior = objective.prior(average.module.eval(), 16, dtype)
    cells, x = [], held_out().to(device)
    with torch.no_grad():
        for sigma in LEVELS:
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(device)
            errors = [
                (prior(x[i : i + 1] + sigma * noise[i : i + 1], sigma) - x[i : i + 1]).square().mean()
                for i in range(len(x))
            ]
            cells.append(float(-10 * torch.stack(errors).log10().mean()))
        times = []
        for _ in range(12):
            begin = time.perf_counter()
            prior(x[:1], 0.3).sum().item()
            times.append(time.perf_counter() - begin)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    values = " | ".join(f"{c:.1f}" for c in (*cells, np.mean(cells)))
    speed = step * batch * (crop / 128) ** 2 / spent
    return (f"| {name} | {count:.1f} M | {spent / step:.3f} | {step} | {speed:.0f} | {values} | "
            f"{1000 * np.median(times):.0f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--only", nargs="*", help="candidates whose names contain one of these texts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder = DATA / "train"
    rows = load_slices([folder / "brain_slices_256.npz", folder / "brain_corsag_256.npz"])
    images = torch.from_numpy(np.stack([row["image"] for row in rows]))
    weights = torch.tensor(sampling_weights(rows, {"contrast": {"T1": 1, "T1Gd": 1, "T2": 1, "FLAIR": 1}}))
    print("| network | parameters | s/step | steps | images/s | " + " | ".join(f"σ {s:g}" for s in LEVELS)
          + " | mean | ms at 256² |\n|---|" + "---|" * 11)  # fmt: skip
    for name in CANDIDATES:
        if not arguments.only or any(part in name for part in arguments.only):
            print(train(name, arguments.seconds, images, weights, torch.device(arguments.device)), flush=True)


if __name__ == "__main__":
    main()
