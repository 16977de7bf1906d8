"""Compare one and two sets of coil maps for a field of view smaller than the head, with classical and learned solvers.

    python benchmarks/small_fov.py --png small_fov.png

The field of view of slice A is cropped to 70 % along the rows, so that the outside folds over, as if the scanner had
sampled k-space too coarsely. It is sampled fully, and by columns at R = 4 (24 ACS). The reference is the root sum of
squares of the fully sampled, folded coil images of that field of view. PSNR and SSIM are computed after scaling the
images to the reference by least squares.
"""

from __future__ import annotations

import argparse
import time
import warnings

warnings.filterwarnings("ignore")

from pathlib import Path

import numpy as np
from problems import DATA, DEVICE

from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.masks import undersampling_mask
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.reconstruction import plan
from medrecon.report.montage import montage

SOLVERS = ("cg-sense", "tv", "dds")


def folded(kspace: np.ndarray, factor: float) -> np.ndarray:
    """K-space ``(slices, coils, y, x)`` of a field of view of ``factor`` of the size along y."""
    images = np.moveaxis(from_kspace(kspace), 2, 0)
    n = len(images)
    kept = 2 * round(factor * n / 2)
    out = np.zeros((kept, *images.shape[1:]), images.dtype)
    np.add.at(out, (np.arange(n) - n // 2 + kept // 2) % kept, images)
    return to_kspace(np.moveaxis(out, 0, 2)).astype(np.complex64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="*", default=SOLVERS)
    parser.add_argument("--factor", type=float, default=0.7)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    began, failures = time.perf_counter(), 0
    full = folded(load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace, arguments.factor)
    truth = np.sqrt((np.abs(from_kspace(full)) ** 2).sum(1)).astype(np.float32)
    pictures, captions = {}, {}
    print("| R | solver | one set: PSNR dB / SSIM | two sets | chosen |\n|---|---|---|---|---|")
    for accel, acs in ((1, 0), (4, 24)):
        shape = full.shape[2:]
        mask = np.ones(shape[1], bool) if accel == 1 else undersampling_mask(shape, "gaussian1d", accel, acs, seed=0)
        scan = CartesianScan(path=Path("slice A"), format="folded", kspace=full * mask, mask=mask)
        for solver in arguments.solvers:
            cells = []
            for sets in ("1", "2", "auto"):
                try:
                    made = plan(scan, solver=solver, steps=50, map_sets=sets).run(DEVICE)
                except Exception as error:
                    failures += 1
                    cells.append(f"failed: {error}")
                    continue
                if sets == "auto":
                    cells.append(str(made.record["map_sets"]))
                    continue
                image = made.image * float((made.image * truth).sum() / (made.image**2).sum())
                found = scores(image, truth)
                cells.append(f"{found['psnr']:.2f} / {found['ssim']:.3f}")
                if accel > 1:
                    pictures[f"{solver}, {sets} set{'s' * (sets == '2')}"] = image[0]
                    captions[f"{solver}, {sets} set{'s' * (sets == '2')}"] = f"{found['psnr']:.1f} dB"
            print(f"| {accel} | {solver} | " + " | ".join(cells) + " |", flush=True)
    if arguments.png:
        arguments.png.write_bytes(montage(truth[0], pictures, captions))
    runs = 6 * len(arguments.solvers)
    print(f"\nseed 0, {runs} reconstructions, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
