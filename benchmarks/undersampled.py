"""Priors and reconstructors trained on undersampled, noisy k-space, against training on clean images.

    python benchmarks/undersampled.py --store undersampled.jsonl [--only ambient gsure] [--seconds 600] [--seeds 0 1 2]
    python benchmarks/undersampled.py --store undersampled.jsonl --table

Training: crops of 64 x 64 of brain_slices_256.npz with a phase, one coil; every image has one mask (R = 4, columns, 6 calibration
lines) and one noise (0.01 per component, images of unit scale). Networks of one size and the same CPU time of training: priors on
clean images, on zero-filled images, and by Ambient (whose network sees the lines of the scan) and GSURE, all used by DDS with 50
steps, mean of 4 samples (and one sample); unrolled networks, supervised and by SSDU. Test: crops of other subjects (omsL_12,
torchio) with other masks. PSNR and SSIM of magnitudes, mean over the images; the interval is twice the standard error of the mean
over seeds, or over images for one seed. Results in the store are not computed again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from fitting import fit
from torch import Tensor, nn

from medrecon.data.masks import undersampling_mask
from medrecon.likelihood import Gaussian
from medrecon.metrics import scores
from medrecon.networks import ResidualUNet
from medrecon.noise import Noise, karras
from medrecon.operators.mri import sense
from medrecon.priors import EDMNet
from medrecon.sample import sample
from medrecon.solvers import SOLVERS
from medrecon.training.augment import Augment
from medrecon.training.objectives import EDM, MeasuredObjective, Network, stratified
from medrecon.training.undersampled import GSURE, SSDU, Ambient

CROP, ACCEL, ACS, NOISE_STD = 64, 4.0, 6, 0.01
N_TRAIN, N_TEST, N_SAMPLES, BATCH, STEPS = 6000, 32, 4, 16, 50
UNIT = 200.0
UNTRAINED = ("zero-filled image", "tv")
PRIORS = ("clean", "zero-filled", "ambient", "gsure")
RECONSTRUCTORS = ("supervised", "ssdu")
Data = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class OnImages:
    """EDM on the image of a name, as a measured objective."""

    name: str
    edm: EDM = EDM()

    @property
    def needs(self) -> frozenset[str]:
        """The image."""
        return frozenset({self.name})

    def loss(self, network: Network, data: Data) -> Tensor:
        """EDM's, of every item."""
        x0 = data[self.name]
        pair = self.edm.pair(x0, stratified(len(x0)), torch.randn_like(x0))
        return (network(pair.inputs, pair.timesteps) - pair.target).square().flatten(1).mean(1)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> EDMNet:
        """EDM's."""
        return self.edm.prior(network, multiple, dtype)


@dataclass(frozen=True, kw_only=True)
class Supervised(SSDU):
    """The unrolled network of SSDU with all sampled lines, against the clean image."""

    def loss(self, network: Network, data: Data) -> Tensor:
        """The mean squared error of every item."""
        x = self.reconstruct(network, data["kspace"], data["mask"], data["maps"])
        return (x - data["clean"]).square().flatten(1).mean(1)


OBJECTIVES: dict[str, MeasuredObjective] = {
    "clean": OnImages(name="clean"),
    "zero-filled": OnImages(name="adjoint"),
    "ambient": Ambient(acs=ACS),
    "gsure": GSURE(acs=ACS),
    "supervised": Supervised(acs=ACS),
    "ssdu": SSDU(acs=ACS),
}


def masks(n: int, seed: int) -> Tensor:
    """Column masks ``(n, 1, 1, x)``."""
    made = [undersampling_mask((CROP, CROP), "gaussian1d", ACCEL, ACS, seed * 10**6 + i) for i in range(n)]
    return torch.as_tensor(np.stack(made), dtype=torch.float32)[:, None, None]


@functools.cache
def density() -> Tensor:
    """The fraction of masks that sample each column."""
    return masks(20_000, 99).mean(0, keepdim=True)


def crops(name: str, n: int, seed: int, keep: Callable[[Any], np.ndarray] | None = None) -> Tensor:
    """Complex crops with tissue in at least a third of their pixels."""
    with np.load(Path(os.environ["MEDRECON_DATA"]) / "train" / name) as archive:
        images = archive["img"] if keep is None else archive["img"][keep(archive["subject"])]
    augment, rng, found = Augment(crop=CROP, unit=UNIT), np.random.default_rng(seed), []
    torch.manual_seed(seed)
    while sum(map(len, found)) < n:
        chosen = images[rng.integers(len(images), size=64)]
        x = augment(torch.as_tensor(chosen)[:, None])
        found.append(x[(x.square().sum(1).sqrt() > 0.15).flatten(1).float().mean(1) > 1 / 3])
    return torch.cat(found)[:n]


def measured(clean: Tensor, seed: int) -> dict[str, Tensor]:
    """K-space of every image with a mask and noise of its own, and the images that other objectives take."""
    n = len(clean)
    mask, maps = masks(n, seed), torch.ones((n, 1, CROP, CROP), dtype=torch.complex64)
    A = sense(maps, mask)
    noise = torch.randn((n, 1, CROP, CROP, 2), generator=torch.Generator().manual_seed(seed))
    kspace = A(clean) + NOISE_STD * mask * torch.view_as_complex(noise)
    return {
        "clean": clean, "kspace": kspace, "mask": mask, "maps": maps, "adjoint": A.adjoint(kspace),
        "noise_std": torch.full((n,), NOISE_STD), "density": density().expand(mask.shape),
    }  # fmt: skip


@functools.cache
def test_data() -> dict[str, Tensor]:
    """Crops of subjects that are not in the training set."""

    def held_out(subject: np.ndarray) -> np.ndarray:
        return np.array([str(s).startswith(("omsL_12", "torchio")) for s in subject])

    return measured(crops("brain_slices_256_val.npz", N_TEST, 7, held_out), 77)


def trained(name: str, seed: int, seconds: float) -> tuple[nn.Module, dict[str, float]]:
    """A network, and facts of its training."""
    data = measured(crops("brain_slices_256.npz", N_TRAIN, seed), seed)
    torch.manual_seed(seed)
    objective = OBJECTIVES[name]
    network = ResidualUNet(3 if name == "ambient" else 2, channels=(32, 64, 64), blocks=(1, 1, 1))
    if name in RECONSTRUCTORS:
        network = ResidualUNet(2, channels=(32, 64), blocks=(1, 1))

    def batch() -> Data:
        index = torch.randint(N_TRAIN, (BATCH,))
        return {key: value[index] for key, value in data.items()}

    made = fit(network, objective, batch, seconds=seconds)
    return made.network, {"steps": made.steps, "cpu_seconds": made.seconds, "loss": made.loss}


@torch.no_grad()
def reconstructed(name: str, network: nn.Module | None, steps: int = STEPS) -> Tensor:
    """Samples of the test images, ``(1 or N_SAMPLES, n, 2, y, x)``."""
    data = test_data()
    likelihood = Gaussian(sense(data["maps"], data["mask"]), data["kspace"], NOISE_STD)
    if name == "zero-filled image":
        return data["adjoint"][None]
    if name == "tv":
        return SOLVERS["tv"]().estimate(likelihood)[None]  # type: ignore[attr-defined]
    assert network is not None
    objective = OBJECTIVES[name]
    if isinstance(objective, SSDU):
        return objective.reconstruct(network, data["kspace"], data["mask"], data["maps"])[None]
    solver = SOLVERS["dds"]()
    sigmas = karras(8.0, NOISE_STD, steps)
    seen = {"mask": data["mask"]} if isinstance(objective, Ambient) else {}
    prior = objective.prior(network, **seen)  # type: ignore[arg-type] - of Ambient alone
    streams = [range(N_TEST * k, N_TEST * (k + 1)) for k in range(N_SAMPLES)]
    return torch.stack([sample(solver, prior, likelihood, sigmas, noise=Noise(seeds)) for seeds in streams])


def quality(images: Tensor) -> dict[str, list[float]]:
    """PSNR and SSIM of every test image."""
    truth = test_data()["clean"]
    found = [
        scores(image.norm(dim=0, keepdim=True).numpy(), true.norm(dim=0, keepdim=True).numpy())
        for image, true in zip(images, truth, strict=True)
    ]
    return {key: [round(one[key], 4) for one in found] for key in ("psnr", "ssim")}


def cell(name: str, seed: int, seconds: float, weights: Path | None) -> dict[str, Any]:
    """A line of the store."""
    began = time.time()
    row: dict[str, Any] = {"name": name, "seed": seed, "seconds": seconds}
    network = None
    if name not in UNTRAINED:
        network, facts = trained(name, seed, seconds)
        row |= facts
        if weights is not None:
            weights.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), weights / f"{name}_{seed}_{seconds:g}.pt")
    images = reconstructed(name, network)
    found = quality(images.mean(0))
    row["one_psnr"] = float(np.mean(quality(images[0])["psnr"]))
    row |= {"mean_psnr": float(np.mean(found["psnr"])), "mean_ssim": float(np.mean(found["ssim"])), **found}
    return {**row, "wall_seconds": round(time.time() - began, 1)}


def _interval(rows: list[dict[str, Any]], key: str) -> str:
    means = [one[f"mean_{key}"] for one in rows]
    over = means if len(means) > 1 else rows[0][key]
    return f"{np.mean(means):.3f} ± {2 * np.std(over, ddof=1) / len(over) ** 0.5:.3f}"


def table(rows: list[dict[str, Any]]) -> None:
    """Print the results in the store."""
    if not rows:
        return
    print("| trained on | CPU seconds | seeds | steps | PSNR, dB | SSIM | PSNR of one sample |\n" + "|---" * 7 + "|")
    for seconds in sorted({one["seconds"] for one in rows}):
        for name in (*UNTRAINED, *PRIORS, *RECONSTRUCTORS):
            found = [one for one in rows if (one["name"], one["seconds"]) == (name, seconds)]
            if found:
                steps = f"{np.mean([one.get('steps', 0) for one in found]):.0f}"
                seeds = " ".join(str(one["seed"]) for one in sorted(found, key=lambda one: one["seed"]))
                print(f"| {name} | {seconds:g} | {seeds} | {steps} | {_interval(found, 'psnr')} | "
                      f"{_interval(found, 'ssim')} | {np.mean([one['one_psnr'] for one in found]):.2f} |")  # fmt: skip
    print(f"{len(rows)} cells, {sum(one['wall_seconds'] for one in rows):.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=(*UNTRAINED, *PRIORS, *RECONSTRUCTORS))
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of training of every network")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--weights", type=Path, help="folder in which to keep the networks")
    parser.add_argument("--table", action="store_true", help="print the stored results without running anything")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    held = {(one["name"], one["seed"], one["seconds"]) for one in rows}
    names = arguments.only or (*UNTRAINED, *PRIORS, *RECONSTRUCTORS)
    for seed in () if arguments.table else arguments.seeds:
        for name in names:
            if (name, seed, arguments.seconds) in held or (name in UNTRAINED and seed != arguments.seeds[0]):
                continue
            rows.append(cell(name, seed, arguments.seconds, arguments.weights))
            with open(arguments.store, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print({key: value for key, value in rows[-1].items() if key not in ("psnr", "ssim")}, flush=True)
    table(rows)


if __name__ == "__main__":
    main()
