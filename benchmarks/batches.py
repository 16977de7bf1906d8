"""Reconstruct the slices of a volume one by one and in batches: time, memory (Linux) and difference of the images.

    python benchmarks/batches.py [--sides 64 128 256] [--slices 16]

The data are axial slices of the head in the data folder with coarser pixels and eight simulated coils, undersampled by
columns at R = 4. The settings are those of the prior. Every result comes from a separate process; the peak counts the
memory of the process itself. "Together" is the default (:func:`medrecon.posterior.batch_size`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import nibabel as nib
import numpy as np
from memory import peak
from problems import ACS, DATA

from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.phase import smooth_phase


def measured(side: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """K-space ``(slices, coils, y, x)`` and its mask."""
    image = nib.as_closest_canonical(nib.load(DATA / "volumes" / "head_t1_1mm.nii.gz"))
    volume = np.asarray(image.dataobj, np.float32)
    volume = np.pad(
        volume, [(max(0, (256 - n) // 2), max(0, 256 - n - (256 - n) // 2)) for n in volume.shape[:2]] + [(0, 0)]
    )
    first = volume.shape[2] // 2 - slices // 2
    full = to_kspace(volume[:256, :256, first : first + slices].transpose(2, 1, 0))
    middle = slice(128 - side // 2, 128 + side // 2)
    images = np.abs(from_kspace(full[:, middle, middle])) / np.abs(volume).max()
    rng, maps = np.random.default_rng(0), loop_coils((side, side), 8)
    phases = [smooth_phase((side, side), np.random.RandomState(k)) for k in range(slices)]
    mask = undersampling_mask((side, side), "gaussian1d", 4, ACS[4] * side // 256 + 8, 0)
    pairs = zip(images, phases, strict=True)
    return np.stack([simulate_kspace(one * np.exp(1j * phase), maps, 0.003, rng) for one, phase in pairs]) * mask, mask


def cell(side: int, slices: int, solver: str, chunk: int | None, path: str) -> None:
    """Reconstruct, and write the images and the time."""
    import medrecon

    kspace, mask = measured(side, slices)
    medrecon.reconstruct(kspace[:1], mask, solver=solver, steps=2)  # what is loaded once
    began = time.perf_counter()
    made = medrecon.reconstruct(kspace, mask, solver=solver, steps=50, chunk=chunk)
    np.savez(path, image=made.image, seconds=time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--solvers", nargs="*", default=["dds", "tv"])
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        cell(*json.loads(arguments.cell))
        return
    began, runs, failures = time.perf_counter(), 0, 0
    print(
        "| pixels | solver | slices | seconds | over one slice | peak, MB | largest difference |\n|---|---|---|---|---|---|---|"
    )
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "cell.npz"
    for side in arguments.sides:
        for solver in arguments.solvers:
            images, single = None, 0.0
            for label, slices, chunk in (
                ("1", 1, None), (f"{arguments.slices}, one by one", arguments.slices, 1),
                (f"{arguments.slices}, together", arguments.slices, None),
            ):  # fmt: skip
                runs += 1
                given = json.dumps([side, slices, solver, chunk, str(path)])
                try:
                    highest, _ = peak([sys.executable, str(Path(__file__).resolve()), "--cell", given])
                except (RuntimeError, subprocess.SubprocessError) as error:
                    failures += 1
                    print(f"| {side} | {solver} | {label} | failed: {error} | | | |", flush=True)
                    continue
                with np.load(path) as made:
                    image, seconds = made["image"], float(made["seconds"])
                single = single or seconds
                worst = "" if images is None or slices == 1 else f"{np.abs(image - images).max() / images.max():.1e}"
                images = image if slices > 1 else None
                print(
                    f"| {side} | {solver} | {label} | {seconds:.1f} | {seconds / single:.1f} | {highest:.0f} | {worst} |",
                    flush=True,
                )
    folder.cleanup()
    print(f"\nseed 0, {runs} runs, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
