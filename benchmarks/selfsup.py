"""Denoising networks that were trained without clean images, against one that was trained with them.

    python benchmarks/selfsup.py --store selfsup.jsonl [--only gaussian/noise2score poisson] [--seconds 300] [--seeds 3]
    python benchmarks/selfsup.py --store selfsup.jsonl --table
    python benchmarks/selfsup.py --store selfsup.jsonl --only gaussian --png selfsup    # pictures of one seed

Noise: Gaussian of sigma 0.1, Poisson of peak 30, Gamma (multiplicative) of k = 50; image unit 1.0 is the stored value 200. Every
training slice of brain_slices_256.npz has one noisy realisation (Noise2Noise: two), which does not change. All methods have the
same network and the same CPU seconds. Blind: the noise level of every image, in training and test, is estimated from the image.
Test: held-out slices of omsL_12 and torchio, the same noise for all methods. PSNR at unit range, mean over the slices; intervals
are those of Student's t over the seeds. Cells in the store are not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from fitting import fit
from problems import DATA
from scipy.stats import t as student
from torch import Tensor, nn

from medrecon.networks import ResidualUNet
from medrecon.report.montage import montage
from medrecon.training.augment import Crops
from medrecon.training.corruption import NoiseFamily, estimate_noise, noise_family
from medrecon.training.denoising import Noise2Noise, Noise2Score, Noise2Self, Supervised, SURELoss
from medrecon.training.slices import load_slices

LEVELS = {"gaussian": 0.1, "poisson": 30.0, "gamma": 50.0}
METHODS = {
    "supervised": Supervised,
    "noise2score": Noise2Score,
    "noise2score-blind": Noise2Score,
    "sure": SURELoss,
    "noise2noise": Noise2Noise,
    "noise2self": Noise2Self,
}
CELLS = [(family, method) for family in LEVELS for method in METHODS if method != "sure" or family == "gaussian"]
UNIT = 200.0


def network() -> nn.Module:
    """The network of all cells."""
    return ResidualUNet(1, (32, 64, 96), (2, 2, 2), embedding=64)


def clean(name: str, select: Mapping[str, list[str]] | None = None, every: int = 1) -> Tensor:
    """Images of an archive at unit scale, ``(n, 1, y, x)``."""
    rows = load_slices(DATA / "train" / name, select)[::every]
    return torch.stack([torch.from_numpy(row["image"]) for row in rows]).float() / UNIT


def held_out() -> Tensor:
    """Eight slices of omsL_12 and four of torchio."""
    both = (("omsL_12", 29, 8), ("torchio", 5, 4))
    return torch.cat([clean("brain_slices_256_val.npz", {"subject": [who]}, n)[:k] for who, n, k in both])


def std_of(family: str, images: Tensor) -> Tensor:
    """The estimated nominal level of every image; of images without noise the median of the others."""
    found = []
    for image in images:
        try:
            found.append(estimate_noise(family, image[None]).std)
        except ValueError:
            found.append(math.nan)
    out = torch.tensor(found)
    return torch.where(out.isnan(), out.nanmedian(), out)


def training_data(family: NoiseFamily, method: str) -> dict[str, Tensor]:
    """Everything that a method may see, one realisation of the noise per slice."""
    images = clean("brain_slices_256.npz")
    data = {"image": family.corrupt(images)}
    if method == "noise2noise":
        data["second"] = family.corrupt(images)
    if method == "supervised":
        data["clean"] = images
    return data


def batches(data: Mapping[str, Tensor], std: Tensor, size: int, crop: int) -> Callable[[], Mapping[str, Tensor]]:
    """Random crops of the fixed data."""
    crops = Crops(crop=crop)

    def batch() -> Mapping[str, Tensor]:
        chosen = torch.randint(len(std), (size,))
        return crops({**{name: value[chosen] for name, value in data.items()}, "noise_std": std[chosen]})

    return batch


def psnr(x: Tensor, truth: Tensor) -> float:
    """Mean over images, at unit range."""
    return float((-10 * (x - truth).square().flatten(1).mean(1).log10()).mean())


@torch.no_grad()
def denoised(objective: Any, trained: nn.Module, y: Tensor, family: str, blind: bool) -> Tensor:
    """The test images, one by one."""
    out = []
    for image in y:
        one = replace(objective, family=estimate_noise(family, image[None])) if blind else objective
        out.append(one.denoise(trained, image[None], 8))
    return torch.cat(out)


def cell(family: str, method: str, seed: int, seconds: float, size: int, crop: int) -> tuple[dict[str, Any], Tensor]:
    """Train, and denoise the test images: the row of the store, and noisy, denoised and true images ``(3, n, 1, y, x)``."""
    began = time.perf_counter()
    noise = noise_family(family, LEVELS[family])
    truth = held_out()
    torch.manual_seed(1000 + seed)
    y = noise.corrupt(truth)
    torch.manual_seed(seed)
    data = training_data(noise, method)
    blind = method.endswith("blind")
    std = std_of(family, data["image"]) if blind else torch.full((len(data["image"]),), noise.std)
    objective = METHODS[method](family=noise)
    made = fit(network(), objective, batches(data, std, size, crop), seconds=seconds)
    x = denoised(objective, made.network, y, family, blind)
    row = {
        "family": family, "method": method, "seed": seed, "cpu_seconds": seconds, "steps": made.steps, "loss": made.loss,
        "noisy": psnr(y, truth), "denoised": psnr(x, truth), "wall": time.perf_counter() - began,
    }  # fmt: skip
    return row, torch.stack([y, x, truth])


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval over the seeds."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {student.ppf(0.975, n - 1) * float(np.std(values, ddof=1)) / n**0.5:.2f}"


def table(rows: list[dict[str, Any]]) -> None:
    """Print the cells of every duration, with differences to the supervised network of the same seed."""
    print("| noise | method | CPU s | steps | seeds | noisy, dB | denoised, dB | above noisy | below supervised |")
    print("|---|---|---|---|---|---|---|---|---|")
    for family, method in CELLS:
        for seconds in sorted({row["cpu_seconds"] for row in rows}):
            same = [row for row in rows if row["family"] == family and row["cpu_seconds"] == seconds]
            mine = [row for row in same if row["method"] == method]
            if not mine:
                continue
            best = {row["seed"]: row["denoised"] for row in same if row["method"] == "supervised"}
            below = [best[row["seed"]] - row["denoised"] for row in mine if row["seed"] in best]
            columns = [
                f"{seconds:g}", f"{np.mean([row['steps'] for row in mine]):.0f}", str(len(mine)),
                interval([row["noisy"] for row in mine]), interval([row["denoised"] for row in mine]),
                interval([row["denoised"] - row["noisy"] for row in mine]), interval(below) if below else "",
            ]  # fmt: skip
            print(f"| {family} {LEVELS[family]:g} | {method} | {' | '.join(columns)} |")


def stored(path: Path | None) -> list[dict[str, Any]]:
    """The finished cells."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path is not None and path.exists() else []


def picture(images: Tensor, row: Mapping[str, Any], prefix: str) -> None:
    """Write the middle slice: noisy and denoised beside the truth."""
    noisy, made, truth = (part[len(part) // 3, 0].clamp(0, 1.2).numpy() for part in images)
    captions = {name: f"{row[name]:.1f} dB" for name in ("noisy", "denoised")}
    content = montage(truth, {"noisy": noisy, "denoised": made}, captions)
    Path(f"{prefix}-{row['family']}-{row['method']}-{row['seed']}.png").write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="file of finished cells, one line each")
    parser.add_argument("--only", nargs="*", default=[], metavar="CELL", help="families, or family/method")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of training per cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--png", help="prefix of the file names of pictures")
    parser.add_argument("--table", action="store_true", help="print the table of the store, and compute nothing")
    arguments = parser.parse_args()
    began, runs, failures, rows = time.perf_counter(), 0, 0, stored(arguments.store)
    done = {(row["family"], row["method"], row["seed"], row["cpu_seconds"]) for row in rows}
    for seed in range(0 if arguments.table else arguments.seeds):
        for family, method in CELLS:
            chosen = not arguments.only or family in arguments.only or f"{family}/{method}" in arguments.only
            if not chosen or (family, method, seed, arguments.seconds) in done:
                continue
            runs += 1
            try:
                row, images = cell(family, method, seed, arguments.seconds, arguments.batch, arguments.crop)
            except Exception as error:
                failures += 1
                print(f"{family}/{method}, seed {seed}: failed: {error}", flush=True)
                continue
            rows.append(row)
            if arguments.store is not None:
                with arguments.store.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if arguments.png:
                picture(images, row, arguments.png)
            print(json.dumps(row), flush=True)
    table(rows)
    print(f"\n{runs} cells, seeds 0 to {arguments.seeds - 1}, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
