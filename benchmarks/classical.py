"""Compare the classical solvers with BART and sigpy on slice A, and their default weights with the best weights.

    python benchmarks/classical.py

All programs get the same k-space, coil maps and weights, relative to the same unit (for BART by ``pics -w``).
``ecalib`` is BART with its own maps. Images are compared unscaled, and scaled to the reference by least squares. The
time of BART is the time of its process as installed (on Debian ``apt install bart``), with one thread or all threads,
whichever is faster. The time of medrecon and sigpy is the time of the call.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import Problem, prior_of, run, slice_a, validation
from sigpy.mri.app import L1WaveletRecon, TotalVariationRecon

from medrecon.metrics import scores

WEIGHTS = (0.001, 0.002, 0.005)
STRENGTHS = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
Image = Callable[[Problem, float, float], np.ndarray]


def ours(solver: str, **settings: object) -> Image:
    """Reconstruct with medrecon."""

    def image(case: Problem, weight: float, unit: float) -> np.ndarray:
        return run(case, replace(prior_of(case), tuned={}), solver=solver, settings={"lam": weight, **settings}).image[
            0
        ]

    return image


def sigpy(app: type, iterations: int, **settings: object) -> Image:
    """Reconstruct with an app of sigpy, whose data are divided by the unit."""

    def image(case: Problem, weight: float, unit: float) -> np.ndarray:
        mask = np.broadcast_to(case.mask, case.reference.shape[1:]).astype(np.float32)
        solve = app(case.kspace[0] / unit, case.maps[0].numpy(), weight, weights=mask, max_iter=iterations,
                    show_pbar=False, **settings)  # fmt: skip
        return np.abs(solve.run()) * unit

    return image


def bart(regulariser: str, own_maps: bool = False, threads: int = 1) -> Image:
    """Reconstruct with ``bart pics``, a process that reads and writes files."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    options = {"check": True, "capture_output": True, "env": environment}

    def write(path: str, array: np.ndarray) -> None:
        values = array.transpose(2, 1, 0)[:, :, None]  # readout, phase, slice, coil
        Path(path + ".hdr").write_text("# Dimensions\n" + " ".join(map(str, values.shape)) + "\n")
        values.astype(np.complex64).ravel(order="F").tofile(path + ".cfl")

    def image(case: Problem, weight: float, unit: float) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            write(f"{folder}/kspace", case.kspace[0])
            write(f"{folder}/maps", case.maps[0].numpy())
            if own_maps:
                subprocess.run(["bart", "ecalib", "-m1", "kspace", "maps"], cwd=folder, **options)
            command = ["bart", "pics", "-S", "-e", "-i100", f"-w{unit}", *regulariser.format(weight).split()]
            subprocess.run([*command, "kspace", "maps", "image"], cwd=folder, **options)
            values = np.fromfile(f"{folder}/image.cfl", np.complex64)
        return np.abs(values.reshape(case.reference.shape[1:]))

    return image


def unit_of(case: Problem) -> float:
    """Unit of a slice: the 99th percentile of its zero-filled magnitude."""
    return float(np.quantile(run(case, solver="zero-filled").image, 0.99))


def score(image: np.ndarray, case: Problem) -> tuple[float, float, float]:
    """PSNR, SSIM, and the PSNR of the image scaled by least squares."""
    reference = case.reference[0]
    scaled = image * float((image * reference).sum() / (image**2).sum())
    plain, fitted = (scores(x[None].astype(np.float32), reference[None]) for x in (image, scaled))
    return plain["psnr"], plain["ssim"], fitted["psnr"]


def peers() -> int:
    """Print the table of programs and return the number of failed runs."""
    threads = {1, os.cpu_count() or 1}
    methods: dict[str, Image | list[Image]] = {
        "medrecon wavelet (default: db4)": ours("wavelet"),
        "medrecon wavelet, db2 as BART": ours("wavelet", wavelet="db2"),
        "medrecon wavelet, no cycle spinning": ours("wavelet", spin=False),
        "sigpy L1WaveletRecon": sigpy(L1WaveletRecon, 100),
        "BART pics -l1": [bart("-l1 -r{}", threads=n) for n in threads],
        "BART ecalib -m1, pics -l1": [bart("-l1 -r{}", own_maps=True, threads=n) for n in threads],
        "medrecon tv": ours("tv"),
        "sigpy TotalVariationRecon": sigpy(TotalVariationRecon, 300),
        "BART pics -R T -u0.1": [bart("-RT:3:0:{} -u0.1", threads=n) for n in threads],
    }
    failures = 0
    for accel in (4, 8):
        case = slice_a(accel)
        unit = unit_of(case)
        print(f"\nslice A, R = {accel}: PSNR dB (scaled by least squares) / SSIM\n")
        print("| method | " + " | ".join(f"weight {w:g}" for w in WEIGHTS) + " | seconds |")
        print("|---|" + "---|" * (len(WEIGHTS) + 1))
        for name, method in methods.items():
            cells, seconds = [], []
            for weight in WEIGHTS:
                took = []
                try:
                    for one in method if isinstance(method, list) else [method]:
                        start = time.perf_counter()
                        image = one(case, weight, unit)
                        took.append(time.perf_counter() - start)
                except (subprocess.CalledProcessError, OSError) as error:
                    failures += 1
                    cells.append(f"failed: {error}")
                    continue
                seconds.append(min(took))
                plain, ssim, fitted = score(image, case)
                cells.append(f"{plain:.2f} ({fitted:.2f}) / {ssim:.3f}")
            print(f"| {name} | " + " | ".join(cells) + f" | {np.mean(seconds):.1f} |", flush=True)
    return failures


def defaults() -> int:
    """Print how far the default weight is from the best weight in dB, and return the number of scans with more than 0.4 dB."""
    off = 0
    for solver in ("wavelet", "tv"):
        print(f"\n{solver}: PSNR dB at the default strength, at the best of {STRENGTHS}, and the difference\n")
        print("| scan | R | default | best (strength) | difference |\n|---|---|---|---|---|")
        for accel in (4, 8):
            for case in (slice_a(accel), *validation(accel, per_source=1)):
                values = {}
                for strength in (None, *STRENGTHS):
                    settings = {} if strength is None else {"strength": strength}
                    image = run(case, replace(prior_of(case), tuned={}), solver=solver, settings=settings).image
                    values[strength] = scores(image, case.reference)["psnr"]
                best = max(STRENGTHS, key=values.__getitem__)
                difference = values[best] - values[None]
                off += difference > 0.4
                print(f"| {case.name} | {accel} | {values[None]:.2f} | {values[best]:.2f} ({best:g}) | {difference:.2f} |",
                      flush=True)  # fmt: skip
    return off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("peers", "defaults"))
    arguments = parser.parse_args()
    start = time.perf_counter()
    if shutil.which("bart") is None:
        print("bart is not installed, so its rows fail")
    failures = off = 0
    if arguments.only != "defaults":
        failures = peers()
    if arguments.only != "peers":
        off = defaults()
    print(f"\nmask seed 0, shifts of cycle spinning from seed 0; {failures} runs failed; {off} default weights more than "
          f"0.4 dB from the best; {time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")  # fmt: skip


if __name__ == "__main__":
    main()
