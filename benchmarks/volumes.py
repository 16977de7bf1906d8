"""Volumes from slices: correlated noise, total variation along z, perpendicular planes, against slices one by one and TV-3D.

    python benchmarks/volumes.py --store volumes.jsonl [--cases mri-1d-r4 thick-x4] [--only dds dds-3d] [--pictures DIR]
    python benchmarks/volumes.py --store volumes.jsonl --table
    python benchmarks/volumes.py --denoising

Cases: a whole head (T1, isotropic voxels of 256 / side mm, with a phase that is smooth in three dimensions) seen by eight
simulated coils, whose maps are known, at R = 8 with one mask of both phase encodings (``mri-2d-r8``), and at R = 4 and 8 with
masks of columns that differ by slice (``mri-1d-r4``, ``mri-1d-r8``); its magnitudes in slices four times as thick
(``thick-x4``); a plastic skull with inserts, 16 parallel views (``ct-16-views``) and 64 views over 90 degrees
(``ct-90-degrees``), which is unlike the chests of its prior; and a measured pair of series of this phantom, 5 mm and 1 mm
(``ct-5-mm``), where the width of edges along z (10 % to 90 %, in mm) is compared, since the 1 mm series has a sharper kernel.

PSNR (of the maximum of the truth) and SSIM are means over the planes with an object; z is the mean difference between
neighbouring slices over that of the truth (1 is right). Every cell is a process of its own, with its peak memory. Results in
the store are not computed again. ``--tuning`` takes another head (3 mm slices) and another part of the skull: settings, and the
weight of TV, were chosen there. ``--denoising`` measures the brain prior on the three planes of the head.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from memory import peak
from problems import DEVICE, bundle_prior
from torch import Tensor
from volume_cases import CASES, Case, case, head, measures, truth_of

from medrecon.bundle import load_prior
from medrecon.data.scan import Geometry
from medrecon.posterior import run, sampling
from medrecon.problems.base import Problem, Scaled
from medrecon.settings import SamplingSettings

PLANES = "axial,coronal,sagittal"
TV = {"mri-2d-r8": 0.1, "mri-1d-r4": 0.1, "mri-1d-r8": 0.1, "thick-x4": 0.1, "ct-16-views": 0.1, "ct-90-degrees": 0.1}
"""Weight of TV-3D in units of the noise, the best of 0.03, 0.1 and 0.3 with ``--tuning``."""
METHODS: dict[str, dict[str, Any]] = {
    "first": {},
    "tv, slices": {"solver": "tv", "volume": False},
    "tv, volume": {"solver": "tv"},
    "dds": {"solver": "dds"},
    "dds, L = 2": {"solver": "dds", "z_correlation": 2.0},
    "dds, planes": {"solver": "dds", "planes": PLANES},
    "dds-3d": {"solver": "dds-3d"},
    "dds-3d, L = 2": {"solver": "dds-3d", "z_correlation": 2.0},
    "dds-3d, planes": {"solver": "dds-3d", "planes": PLANES},
    "dds-3d, planes, L = 2": {"solver": "dds-3d", "planes": PLANES, "z_correlation": 2.0},
    "mbir": {"solver": "mbir"},
}
ACCELERATION = {"mri-2d-r8": 8.0, "mri-1d-r4": 4.0, "mri-1d-r8": 8.0, "ct-16-views": 25.0, "ct-90-degrees": 6.0}
KEYS = ("side", "slices", "tuning", "settings")
"""Arguments that a result in the store is for."""
COLUMNS = [f"{what} {plane}" for what in ("psnr", "ssim") for plane in ("axial", "coronal", "sagittal")]


class Simulated(Problem):
    """A case as one unknown, or as its slices."""

    real = True
    z_correlation = 0.0

    def __init__(self, name: str, given: Case, volume: bool) -> None:
        n = len(given.truth)
        super().__init__(name, [0] if volume else range(n), Geometry((1.0, 1.0, 1.0)))
        self.given, self.volume, self.n = given, volume, n
        self.images = ("complex",) if given.complex else ("attenuation",) if "ct" in name else ("magnitude",)
        self.rate = ACCELERATION.get(name)

    @property
    def acceleration(self) -> float | None:
        """That of the data."""
        return self.rate

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of the volume, or of a slice."""
        channels, plane = 2 if self.given.complex else 1, self.given.truth.shape[1:]
        return (channels, self.n, *plane) if self.volume else (channels, *plane)

    def batches(self, size: int) -> list[slice]:
        """All slices at once."""
        return [slice(0, self.n_items)]

    def slices_of(self, items: slice) -> list[int] | None:
        """Those of the volume."""
        return list(range(self.n)) if self.volume else None

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Of the volume, or of all slices."""
        data, one = self.given.data, torch.ones(self.n_items)
        return Scaled(data if self.volume else replace(data, A=data.A.A, y=data.y[0]), one, one)

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Magnitudes, or attenuation."""
        found = x.norm(dim=2) if self.given.complex else x[:, :, 0]
        return found[:, 0] if self.volume else found


def reconstructed(name: str, method: str, given: Case, changes: dict[str, Any]) -> np.ndarray:
    """The volume of a method, ``(z, y, x)``."""
    options = dict(METHODS[method])
    if not options:
        return given.first
    volume, planes = options.pop("volume", True), options.pop("planes", "axial")
    problem = Simulated(name, given, volume)
    spec = load_prior(given.bundle).in_planes(planes).suited_to(problem)
    settings = dict(changes)
    if options["solver"] == "tv":
        settings = {"lam": None, "strength": TV.get(name, 0.1), **settings}
    steps = settings.pop("steps", None)
    plan = sampling(SamplingSettings(settings=settings, steps=steps, **options), spec)
    return run(problem, spec, plan, device=DEVICE).image


def cell(name: str, method: str, changes: dict[str, Any], path: str) -> None:
    """Measure the volume in a file, reconstruct it, and write the result and the time."""
    with np.load(path) as archive:
        given = case(name, archive["truth"])
    began = time.perf_counter()
    made = reconstructed(name, method, given, changes)
    np.savez(path, image=made, truth=given.truth, seconds=time.perf_counter() - began, edges=given.edges)


def measured(name: str, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell of the table, in a process of its own."""
    key = {one: getattr(arguments, one) for one in KEYS}
    out: dict[str, Any] = {"case": name, "method": method, **key}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell.npz"
        np.savez(path, truth=truth_of(name, arguments.side, arguments.slices, arguments.tuning))
        given = json.dumps([name, method, arguments.settings, str(path)])
        try:
            highest, _ = peak([sys.executable, str(Path(__file__).resolve()), "--cell", given])
        except (RuntimeError, subprocess.SubprocessError) as error:
            return {**out, "error": str(error).strip().splitlines()[-1][:300]}
        with np.load(path) as made:
            image, truth, seconds, edges = made["image"], made["truth"], float(made["seconds"]), bool(made["edges"])
    if arguments.pictures:
        picture(arguments.pictures / f"{name} {method}.png", image, truth)
    return {**out, **measures(image, truth, edges), "seconds": seconds, "peak_mb": highest}


def picture(path: Path, x: np.ndarray, truth: np.ndarray) -> None:
    """Axial, coronal and sagittal planes of an image over those of the truth."""
    from PIL import Image

    def planes(volume: np.ndarray) -> np.ndarray:
        z, row, column = (n // 2 for n in volume.shape)
        parts = [volume[z], volume[::-1, row], volume[::-1, :, column]]
        height = max(len(part) for part in parts)
        return np.concatenate([np.pad(part, [(0, height - len(part)), (0, 4)]) for part in parts], axis=1)

    both = np.concatenate([planes(x), planes(truth)]) / np.percentile(truth, 99.8)
    image = Image.fromarray((255 * both.clip(0, 1)).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * 3, image.height * 3)).save(path)


def denoising() -> None:
    """PSNR of clean estimates of the brain prior on the planes of the head, at 1 mm, and of TV with its best weight."""
    from skimage.restoration import denoise_tv_chambolle

    prior, *_ = bundle_prior("brain_mri")
    volume = head(256, 168)
    levels = (0.05, 0.1, 0.2, 0.5)
    print("| planes | method | sigma 0.05 | 0.1 | 0.2 | 0.5 |\n" + "|---" * 6 + "|")
    for name, axes, turn in (
        ("axial", (0, 1, 2), False), ("coronal", (1, 0, 2), True), ("sagittal", (2, 0, 1), True),
        ("coronal, upside down", (1, 0, 2), False),
    ):  # fmt: skip
        planes = volume.transpose(axes)
        planes = planes[[len(planes) * k // 6 for k in (2, 3, 4)]]
        planes = planes[:, ::-1] if turn else planes
        x = torch.from_numpy(np.ascontiguousarray(planes))[:, None]
        x = torch.cat([x, torch.zeros_like(x)], dim=1)
        rows: dict[str, list[str]] = {"prior": [], "TV": []}
        for sigma in levels:
            noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                rows["prior"].append(_psnr(prior(noisy, sigma), x))
            flat = [
                np.stack([[denoise_tv_chambolle(c, weight * sigma) for c in one] for one in noisy.numpy()])
                for weight in (0.7, 1.0, 1.4, 2.0, 2.8)
            ]
            rows["TV"].append(max((_psnr(torch.from_numpy(one), x) for one in flat), key=float))
        for method, row in rows.items():
            print(f"| {name} | {method} | {' | '.join(row)} |", flush=True)


def _psnr(x: Tensor, truth: Tensor) -> str:
    return f"{float(-10 * (x - truth).square().mean().log10()):.1f}"


def table(rows: list[dict[str, Any]]) -> None:
    """Print the results in the store."""
    planes = "axial | coronal | sagittal"
    print(f"| case | method | PSNR {planes} | SSIM {planes} | z | edge (of the truth), mm | seconds | peak, MB |")
    print("|---" * 12 + "|")
    for one in sorted(rows, key=lambda r: (list(CASES).index(r["case"]), list(METHODS).index(r["method"]))):
        name = f"| {one['case']} | {one['method']} "
        if "error" in one:
            print(f"{name}| failed: {one['error']} " + "| " * 9 + "|")
            continue
        numbers = ["" if c not in one else f"{one[c]:.2f}" if c[0] == "p" else f"{one[c]:.3f}" for c in COLUMNS]
        edge = f"{one['edge']:.2f} ({one['edge of the truth']:.2f})" if "edge" in one else ""
        print(
            f"{name}| {' | '.join(numbers)} | {one['z']:.2f} | {edge} | {one['seconds']:.0f} | {one['peak_mb']:.0f} |"
        )
    failures = sum("error" in one for one in rows)
    print(f"\nseed 0, {len(rows)} cells, {failures} failures, {sum(one.get('seconds', 0) for one in rows):.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the solver, and steps, as JSON")
    parser.add_argument("--tuning", action="store_true", help="the volumes on which settings were chosen")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--denoising", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the stored results without running anything")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        cell(*json.loads(arguments.cell))
        return
    if arguments.denoising:
        denoising()
        return
    if arguments.store is None:
        parser.error("--store is needed")
    if not arguments.table and 256 % arguments.side and any(name.startswith("ct") for name in arguments.cases):
        parser.error("--side of the cases of CT must divide 256")
    if not arguments.table and "ct-5-mm" in arguments.cases and arguments.slices < 25:
        parser.error("ct-5-mm needs 25 --slices or more, since an edge is 16 slices long")
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    rows = [one for one in rows if "error" not in one and all(one[key] == getattr(arguments, key) for key in KEYS)]
    held = {(one["case"], one["method"]) for one in rows}
    for name in () if arguments.table else arguments.cases:
        for method in arguments.only:
            if (name, method) in held or _impossible(name, method):
                continue
            rows.append(measured(name, method, arguments))
            with open(arguments.store, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    table(rows)


def _impossible(name: str, method: str) -> bool:
    """Whether a case has no such method: slices one by one of thick slices, and planes of a prior of chests."""
    thick, chest = name in ("thick-x4", "ct-5-mm"), name.startswith("ct")
    return (thick and method == "tv, slices") or (chest and "planes" in method)


if __name__ == "__main__":
    main()
