"""Sparse-view and limited-angle CT of held-out patients: FBP, TV and DDS with the bundle's prior.

    python benchmarks/chest_ct.py --views 23

256 x 256 slices, parallel beam, monoenergetic, Poisson noise of 100 000 photons a ray; water is 0.02 / mm. FBP is scikit-
image's with the best of its filters for every slice; the weight of TV is tuned on the reference of every slice. PSNR against
the range 0...2 of the image unit (water 1), so 2000 HU, and the mean absolute error in HU.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, bundle_prior
from skimage.transform import iradon

from medrecon.data.slices import load_slices
from medrecon.likelihood import Gaussian
from medrecon.noise import karras
from medrecon.operators import ParallelBeam
from medrecon.operators.base import Composed
from medrecon.operators.linalg import operator_norm
from medrecon.operators.weights import Weights
from medrecon.report.montage import montage
from medrecon.sample import draw
from medrecon.solvers import DDS
from medrecon.solvers.classical import TV

WATER = 0.02  # per mm
FILTERS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


def psnr(x: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB against the whole range of 2 (-1000 to 1000 HU)."""
    return float(10 * np.log10(4.0 / np.mean((x - reference) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=23)
    parser.add_argument("--range", type=float, default=180.0, help="degrees covered by the views")
    parser.add_argument("--photons", type=float, default=1e5)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sigma-max", type=float, default=2.0)
    parser.add_argument("--n-cg", type=int, default=10)
    parser.add_argument("--prior-weight", type=float, default=1.0)
    parser.add_argument("--eta", type=float, default=0.85)
    parser.add_argument("--every", type=int, default=2, help="take every n-th held-out slice")
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    prior, _, held_out = bundle_prior("chest_ct")
    rows = load_slices(DATA / "train" / "ct_slices_256.npz", {"subject": held_out})[:: arguments.every]
    degrees = np.linspace(0, arguments.range, arguments.views, endpoint=False)
    solver = DDS(n_cg=arguments.n_cg, prior_weight=arguments.prior_weight, eta=arguments.eta)
    ladder = karras(arguments.sigma_max, 0.005, arguments.steps)
    table: dict[str, list[tuple[float, float]]] = {}
    seconds = []
    for i, row in enumerate(rows):
        spacing = float(np.ravel(row["spacing"])[0])
        truth = torch.from_numpy(row["image"][None] / np.float32(1000))
        project = ParallelBeam(torch.from_numpy(np.deg2rad(degrees)), (256, 256), spacing=spacing * WATER)
        line = project(truth)
        counts = torch.poisson(arguments.photons * (-line).exp(), generator=torch.Generator().manual_seed(i)).clamp(
            min=1
        )
        sinogram = -(counts / arguments.photons).log()
        # The variance of a log count is one over the count: with rows divided by its root, noise is white of variance 1.
        # All is then divided by the operator's norm, so that weights mean what they mean in MRI.
        A = Composed(Weights(counts.sqrt()), project)
        y = counts.sqrt() * sinogram
        scale = float(operator_norm(A.normal, torch.ones_like(truth), 20))
        unit = Gaussian(Composed(Weights(counts.sqrt() / scale), project), y / scale, 1.0 / scale)
        x0 = truth[0, 0].numpy()
        views = sinogram[0, 0].numpy()
        centred = project.detectors
        fbp = max((_fbp(views, degrees, centred, spacing * WATER, f) for f in FILTERS), key=lambda z: psnr(z, x0))
        best = max(
            (TV(lam=lam, n_iter=300).estimate(unit)[0, 0].numpy() for lam in np.geomspace(3e-5, 3e-2, 9)),
            key=lambda z: psnr(z, x0),
        )
        begin = time.perf_counter()
        draws = draw(solver, prior, unit, ladder, seeds=list(range(arguments.samples)))[:, 0, 0].numpy()
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


def _fbp(views: np.ndarray, degrees: np.ndarray, detectors: int, spacing: float, kind: str) -> np.ndarray:
    """scikit-image's, on our grid: its rotation axis is pixel n // 2, ours the middle of detector and image."""
    position = np.arange(detectors)
    radians = np.deg2rad(degrees)
    moved = np.stack([
        np.interp(position - (detectors // 2 - (detectors - 1) / 2) + 0.5 * (np.cos(a) - np.sin(a)), position, v)
        for a, v in zip(radians, views, strict=True)
    ])  # fmt: skip
    return iradon(moved.T, degrees, output_size=256, filter_name=kind, circle=False) / spacing


if __name__ == "__main__":
    main()
