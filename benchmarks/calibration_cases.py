"""Write simulated scans of held-out brains and their references, for `medrecon calibrate`.

    python benchmarks/calibration_cases.py 8 cases --per-source 30     # cases/R8/*.h5 and cases/reference/*.h5
    medrecon recon cases/R8 -o out/R8 --posterior --samples 8 --format h5
    medrecon calibrate out/R8 --reference cases/reference -o calibration.json

Scans: eight coils, 216 x 176, noise 0.01, phase with anatomy, slices with skull of subjects that no prior has seen
(`held_out_brains` in benchmarks/problems.py). The reference is the simulated magnitude before noise. Names of the files are
``SUBJECT_INDEX.h5``; the patients of the source ``cheng`` are not known, and may be several.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import h5py
import numpy as np
from problems import ACS, held_out_brains

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace

SHAPE, ZOOM, COILS, NOISE = (216, 176), 0.85, 8, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("acceleration", type=int, choices=tuple(ACS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-source", type=int, default=30, help="slices per source, at most (default: 30)")
    arguments = parser.parse_args()
    began, accel = time.perf_counter(), arguments.acceleration
    scans, references = arguments.folder / f"R{accel}", arguments.folder / "reference"
    scans.mkdir(parents=True, exist_ok=True)
    references.mkdir(exist_ok=True)
    mask = undersampling_mask(SHAPE, "gaussian1d", accel, ACS[accel], seed=0)
    names = []
    for name, image, generator in held_out_brains(arguments.per_source, SHAPE, ZOOM):
        names.append(name.replace("_", "").replace("[", "_").rstrip("]"))
        kspace = simulate_kspace(image, loop_coils(SHAPE, COILS), NOISE, generator) * mask
        with h5py.File(scans / f"{names[-1]}.h5", "w") as file:
            file["kspace"], file["mask"] = kspace[None].astype(np.complex64), mask.astype(np.float32)
        with h5py.File(references / f"{names[-1]}.h5", "w") as file:
            file["reconstruction"] = np.abs(image)[None].astype(np.float32)
    print(f"{len(names)} scans at R = {accel}, mask seed 0, noise seeded by name, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
