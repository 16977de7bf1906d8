"""Sparse-view and limited-angle CT of held-out patients: FBP, TV and DDS with the bundle's prior.

    python benchmarks/chest_ct.py --views 23 --quality best

The slices have 256 x 256 pixels. The scan is simulated with a monoenergetic parallel beam and Poisson noise of 100 000
photons per ray; water is 0.02 / mm. For every slice, FBP uses its best filter, and the weight of TV is tuned on the
reference. The table gives PSNR for the range 0...2 of the image unit (water is 1), which is 2000 HU, and the mean
absolute error in HU.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, bundle_prior, network, samples_of

from medrecon.bundle import load_prior
from medrecon.data.scan import Sinogram
from medrecon.operators import ParallelBeam
from medrecon.operators.fbp import FILTERS
from medrecon.reconstruction import plan
from medrecon.report.montage import montage
from medrecon.settings import QUALITIES
from medrecon.training.slices import load_slices

WATER = 0.02  # per mm


def psnr(x: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB for the range 2 (-1000 to 1000 HU)."""
    return float(10 * np.log10(4.0 / np.mean((x - reference) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=23)
    parser.add_argument("--range", type=float, default=180.0, help="angular range of the views, degrees")
    parser.add_argument("--photons", type=float, default=1e5)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--settings", type=json.loads, help="settings of DDS as JSON (default: the bundle's)")
    parser.add_argument("--quality", choices=QUALITIES, help="evaluations of DDS (default: standard)")
    parser.add_argument("--every", type=int, default=2, help="use every n-th held-out slice")
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    *_, held_out = bundle_prior("chest_ct")
    prior = replace(load_prior("chest_ct"), network=lambda: network("chest_ct"))
    rows = load_slices(DATA / "train" / "ct_slices_256.npz", {"subject": held_out})[:: arguments.every]
    degrees = np.linspace(0, arguments.range, arguments.views, endpoint=False)
    angles = torch.from_numpy(np.deg2rad(degrees))
    settings = {} if arguments.settings is None else {"settings": arguments.settings}
    table: dict[str, list[tuple[float, float]]] = {}
    seconds = []
    for i, row in enumerate(rows):
        spacing = float(np.ravel(row["spacing"])[0])
        truth = torch.from_numpy(row["image"][None] / np.float32(1000))
        project = ParallelBeam(angles, (256, 256), spacing=spacing * WATER)
        line = project(truth)
        noise = torch.Generator().manual_seed(i)
        counts = torch.poisson(arguments.photons * (-line).exp(), generator=noise).clamp(min=1)
        sinogram = -(counts / arguments.photons).log()
        x0 = truth[0, 0].numpy()

        def reconstruct(
            sinogram: torch.Tensor = sinogram, spacing: float = spacing, seed: int = i, **changes: object
        ) -> np.ndarray:
            scan = Sinogram(
                path=Path("chest"), format="simulated", sinogram=sinogram[0].numpy(), angles=angles.numpy(),
                detector_spacing=spacing, photons=arguments.photons,
            )  # fmt: skip
            made = plan(scan, bundle=prior, image_size=256, voxel=spacing, seed=seed, **changes).run()
            return samples_of(made)[:, 0] / 1000 + 1

        fbp = max((project.fbp(sinogram, kind)[0, 0].numpy() for kind in FILTERS), key=lambda z: psnr(z, x0))
        weights = np.geomspace(3e-5, 3e-2, 9)
        best = max(
            (reconstruct(solver="tv", settings={"lam": float(lam), "n_iter": 150})[0] for lam in weights),
            key=lambda z: psnr(z, x0),
        )
        begin = time.perf_counter()
        draws = reconstruct(solver="dds", samples=arguments.samples, quality=arguments.quality, **settings)
        seconds.append((time.perf_counter() - begin) / arguments.samples)
        shown = {"FBP": fbp, "TV (tuned on the reference)": best, "DDS, one sample": draws[0],
                 f"DDS, mean of {arguments.samples}": draws.mean(0)}  # fmt: skip
        for name, image in shown.items():
            table.setdefault(name, []).append((psnr(image, x0), 1000 * float(np.abs(image - x0).mean())))
        print(row["subject"], row["k"], {n: f"{v[-1][0]:.1f}" for n, v in table.items()}, flush=True)
        if arguments.png and i == 0:
            arguments.png.write_bytes(montage(x0, shown, {n: f"{v[-1][0]:.1f} dB" for n, v in table.items()}, gain=3.0))
    patients = len({row["subject"] for row in rows})
    print(f"\n{len(rows)} slices of {patients} patients, {arguments.views} views over {arguments.range:g} degrees, "
          f"{np.mean(seconds):.1f} s a sample\n\n| method | PSNR dB | mean error HU |\n|---|---|---|")  # fmt: skip
    for name, values in table.items():
        a, b = np.mean(values, axis=0)
        print(f"| {name} | {a:.1f} | {b:.0f} |")


if __name__ == "__main__":
    main()
