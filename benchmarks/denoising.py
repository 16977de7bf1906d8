"""Denoising of held-out images by the bundle's prior: PSNR (unit range) against the noise level, and its speed.

python benchmarks/denoising.py
"""

from __future__ import annotations

import time
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, inferer

from medrecon.data.phase import smooth_phase
from medrecon.data.slices import load_slices
from medrecon.priors import EDMNet

GROUPS = {"omsL_12 (skull on)": ["omsL_12"], "omsC_26 (skull-stripped)": ["omsC_26"]}


@torch.no_grad()
def main() -> None:
    solve, network = inferer()
    prior = EDMNet(network, solve.sigma_data, solve.multiple, solve.dtype)
    levels = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    print("| subject | " + " | ".join(f"σ {s:g}" for s in levels) + " |\n|---|" + "---|" * len(levels))
    print("| (noisy) | " + " | ".join(f"{-20 * np.log10(s):.1f}" for s in levels) + " |")
    for name, subjects in GROUPS.items():
        rows = load_slices(DATA / "train" / "brain_slices_256_val.npz", {"subject": subjects})[::10]
        cells = []
        for sigma in levels:
            errors = []
            for i, row in enumerate(rows):
                phase = torch.from_numpy(smooth_phase((256, 256), np.random.RandomState(i)))
                image = torch.from_numpy(row["image"][0]) / 200
                x0 = torch.stack([image * phase.cos(), image * phase.sin()])[None]
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(i))
                errors.append(-10 * torch.log10(((prior(x0 + sigma * noise, sigma) - x0) ** 2).mean()))
            cells.append(f"{float(torch.stack(errors).mean()):.1f}")
        print(f"| {name}, {len(rows)} slices | " + " | ".join(cells) + " |", flush=True)
    x = torch.randn(1, 2, 256, 256)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        prior(x, 0.3)
        times.append(time.perf_counter() - start)
    n = sum(p.numel() for p in network.parameters())
    print(f"\n{n / 1e6:.1f} M parameters, {1000 * np.median(times):.0f} ms an evaluation at 256 x 256 "
          f"({torch.get_num_threads()} threads)")  # fmt: skip


if __name__ == "__main__":
    main()
