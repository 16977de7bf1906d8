"""Kinds of problems that the other tables do not cover: one image per coil, dynamic series, and magnitude images.

    python benchmarks/other_problems.py --png other_problems

- coils: slice A, undersampled by columns at R = 4, with Score-MRI (SENSE, SSOS and hybrid; the last two have one image
  per coil) and DDS.
- frames: eight frames of slice A, each with its own columns at R = 8 and its own noise, reconstructed one by one and as
  one problem (low-rank; DDS frame by frame with shared maps). The frames show a head at rest, which suits a low-rank
  solver. A bright spot of a few pixels appears and disappears, so that a mean over the frames would fail visibly.
- images: held-out magnitude slices with Rician noise (sigma 0.1 and 0.2 of the unit) by R2D2+, by one evaluation of the
  prior (tweedie) and by DDS (both assume Gaussian noise), and by DiffPIR with the Rician likelihood; and twofold
  super-resolution of k-space. The scores count the head only, since air contains nothing but the mean of the Rician noise.

PSNR (relative to the largest value) and SSIM are computed after scaling the images to the reference by least squares.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

warnings.filterwarnings("ignore")

from pathlib import Path
from typing import NamedTuple

import numpy as np
from problems import ACS, DATA, DEVICE, slice_a
from scipy.ndimage import binary_fill_holes

from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.masks import undersampling_mask
from medrecon.data.scan import CartesianScan, DynamicScan, Geometry, ImageScan, Scan
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.reconstruction import plan
from medrecon.report.montage import montage
from medrecon.training.slices import load_slices

N_FRAMES = 8


class Case(NamedTuple):
    """Name, scan and options of a method, and the conversion of its image to ``(images, y, x)`` for the comparison."""

    name: str
    scan: Scan
    options: dict


class Table(NamedTuple):
    """Methods for the same images; ``inside``: whether air is set to zero."""

    name: str
    truth: np.ndarray
    cases: list[Case]
    inside: bool = False


def coils() -> Table:
    """One image per coil."""
    case = slice_a(4)
    scan = CartesianScan(path=Path(case.name), format="real", kspace=case.kspace, mask=case.mask)
    forms = [(form, {"solver": "scoremri", "coil_images": form}) for form in ("sense", "ssos", "hybrid")]
    ways = [Case("cg-sense", scan, {"solver": "cg-sense"}), Case("dds", scan, {"solver": "dds"})]
    ways += [Case(f"scoremri, {form}", scan, options) for form, options in forms]
    return Table("slice A, R = 4", case.reference, ways)


def frames() -> Table:
    """A head with a spot that appears and disappears."""
    full = load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace[0]
    images, shape = from_kspace(full), full.shape[1:]
    y, x = np.ogrid[: shape[0], : shape[1]]
    spot = np.exp(-((y - 0.45 * shape[0]) ** 2 + (x - 0.55 * shape[1]) ** 2) / (2 * 3.0**2))
    moving = [images * (1 + 0.8 * np.sin(np.pi * k / N_FRAMES) * spot) for k in range(N_FRAMES)]
    masks = np.stack(
        [np.broadcast_to(undersampling_mask(shape, "gaussian1d", 8, ACS[8], seed=k), shape) for k in range(N_FRAMES)]
    )
    kspace = np.stack([to_kspace(one) for one in moving]).astype(np.complex64) * masks[:, None]
    truth = np.stack([np.sqrt((np.abs(one) ** 2).sum(0)) for one in moving]).astype(np.float32)
    together = DynamicScan(path=Path("frames"), format="real", kspace=kspace[:, None], mask=masks, axis="repetition")
    alone = CartesianScan(path=Path("frame"), format="real", kspace=kspace[:1], mask=masks[0])
    ways = [Case(f"{name}, as one problem", together, {"solver": name}) for name in ("cg-sense", "low-rank", "dds")]
    return Table("frames of slice A, R = 8", truth, [*ways, Case("frame 0 alone, dds", alone, {"solver": "dds"})])


def images(subjects: list[str], more: dict) -> Iterator[Table]:
    """Magnitude images with Rician noise, and with half of the frequencies; ``more`` are options of DDS."""
    rows = load_slices(DATA / "train" / "brain_slices_256_val.npz", {"subject": subjects})
    chosen = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, 5)[1:-1]]
    truth = np.stack([row["image"][0] / np.float32(200) for row in chosen])
    for std in (0.1, 0.2):
        noise = np.random.default_rng(0).standard_normal((2, *truth.shape)).astype(np.float32)
        noisy = np.hypot(truth + std * noise[0], std * noise[1])
        scan = ImageScan(path=Path("image"), format="simulated", array=noisy, geometry=Geometry((1.0, 1.0, 1.0)))
        ways = [Case("as it is", scan, {}), Case("r2d2", scan, {"solver": "r2d2"})]
        ways += [Case("tweedie", scan, {"solver": "tweedie"})]
        ways += [Case("tweedie, denoise_selfsup", scan, {"bundle": "denoise_selfsup"})]
        ways += [Case("dds", scan, {"solver": "dds", **more})]
        ways += [Case("diffpir, Rician", scan, {"solver": "diffpir", "noise_model": "rician"})]
        yield Table(f"three heads, Rician noise {std:g}", truth, ways, True)
    kspace = to_kspace(truth)
    n = truth.shape[-1]
    middle = slice(n // 4, n // 4 + n // 2)
    low = np.abs(from_kspace(kspace[:, middle, middle])).astype(np.float32) / 2
    scan = ImageScan(path=Path("image"), format="simulated", array=low, geometry=Geometry((1.0, 2.0, 2.0)))
    sharpen = {"task": "superres", "factor": 2}
    ways = [Case("zero-filled", scan, {"solver": "zero-filled", **sharpen})]
    ways += [Case("r2d2", scan, {"solver": "r2d2", **sharpen}), Case("dds", scan, {"solver": "dds", **sharpen, **more})]
    yield Table("three heads, half of the matrix", truth, ways, True)


NAMES = ("coils", "frames", "images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=NAMES, metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--subject", nargs="*", default=["omsL_12"], help="held-out subjects of the images")
    parser.add_argument("--dds", nargs="*", default=[], metavar="NAME=VALUE", help="settings of DDS for images")
    parser.add_argument("--sigma-max", type=float, help="first noise level of DDS for images")
    parser.add_argument("--png", help="prefix of the file names of figures")
    arguments = parser.parse_args()
    began, runs, failures = time.perf_counter(), 0, 0
    pairs = (pair.split("=") for pair in arguments.dds)
    more = {"settings": {name: float(value) for name, value in pairs}, "sigma_max": arguments.sigma_max}
    made_of = {
        "coils": lambda: [coils()],
        "frames": lambda: [frames()],
        "images": lambda: images(arguments.subject, more),
    }
    print("| data | method | PSNR dB / SSIM | seconds |\n|---|---|---|---|")
    for name in arguments.tables:
        for k, table in enumerate(made_of[name]()):
            pictures, captions = {}, {}
            for case in table.cases:
                runs += 1
                start = time.perf_counter()
                try:
                    image = made(case)
                except Exception as error:
                    failures += 1
                    print(f"| {table.name} | {case.name} | failed: {error} | |", flush=True)
                    continue
                truth = table.truth[: len(image)]
                if table.inside:
                    image, truth = image * head(truth), truth * head(truth)
                image = image * float((image * truth).sum() / (image**2).sum())
                found = [scores(a[None], b[None]) for a, b in zip(image, truth, strict=True)]
                psnr, ssim = (float(np.mean([one[key] for one in found])) for key in ("psnr", "ssim"))
                took = time.perf_counter() - start
                print(f"| {table.name} | {case.name} | {psnr:.2f} / {ssim:.3f} | {took:.1f} |", flush=True)
                pictures[case.name], captions[case.name] = image[len(image) // 2], f"{psnr:.1f} dB"
            if arguments.png:
                shown = table.truth[len(table.truth) // 2]
                Path(f"{arguments.png}-{name}{k}.png").write_bytes(montage(shown, pictures, captions))
    print(f"\nseed 0, {runs} reconstructions, {failures} failures, {time.perf_counter() - began:.0f} s")


def head(truth: np.ndarray) -> np.ndarray:
    """Mask of the head in images ``(n, y, x)``: all pixels surrounded by signal."""
    return np.stack([binary_fill_holes(one > 0.05 * one.max()) for one in truth])


def made(case: Case) -> np.ndarray:
    """Images ``(n, y, x)`` of a case."""
    if isinstance(case.scan, ImageScan) and not case.options:
        return np.asarray(case.scan.array)
    image = plan(case.scan, **{"steps": 50, **case.options}).run(DEVICE).image
    return image.reshape(-1, *image.shape[-2:])


if __name__ == "__main__":
    main()
