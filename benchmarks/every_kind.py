"""Run ``medrecon recon`` and ``medrecon evaluate`` as programs on a file of every kind of scan.

    python benchmarks/every_kind.py [--keep FOLDER]

The files are real files of the data folder (fastMRI and BART layouts, twix, EPI, ISMRMRD, a sinogram) and files in
common layouts made from real data: slice A undersampled, along a real radial trajectory and as frames; a held-out
chest; a held-out head with Rician noise and with half of its matrix. If there is a reference, the scores are those
printed by ``evaluate``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import noncartesian
import numpy as np
import other_problems
from problems import DATA, PHOTONS, chest, slice_a

from medrecon.data.scan import CartesianScan, Geometry, ImageScan
from medrecon.formats import save_fastmri
from medrecon.writers.nifti import nifti_bytes


class File(NamedTuple):
    """A file, options, and the reference ``(slices, y, x)``."""

    kind: str
    path: Path
    options: tuple[str, ...] = ()
    truth: np.ndarray | None = None
    fit: bool = True


def files(folder: Path) -> Iterator[File]:
    """Cases of all kinds of scans."""
    raw = DATA / "kspace"
    case = slice_a(4)
    save_fastmri(
        folder / "slice_a.h5", CartesianScan(path=Path("a"), format="array", kspace=case.kspace, mask=case.mask)
    )
    yield File("k-space, fastMRI layout, R = 4", folder / "slice_a.h5", (), case.reference)
    yield File("the same, tv", folder / "slice_a.h5", ("--solver", "tv"), case.reference)
    yield File("k-space, BART", raw / "brain_t1_8ch_sliceA.cfl", ("--solver", "cg-sense"), case.reference)
    yield File("k-space, Siemens twix", raw / "siemens" / "gre.dat", ("--solver", "cg-sense"))
    yield File("k-space, ISMRMRD", raw / "siemens" / "gre_real.mrd", ("--solver", "cg-sense"))
    yield File("EPI, Siemens twix", raw / "siemens" / "epi.dat", ("--solver", "cg-sense"))
    spokes = np.load(DATA / "trajectories" / "radial_96x512.npy").astype(np.float32).clip(-128, 128)[::2]
    scan, truth, _ = noncartesian.measured(spokes, 0)
    np.savez(folder / "radial.npz", kspace=scan.samples, trajectory=spokes, matrix=scan.matrix)
    yield File("k-space along 48 spokes", folder / "radial.npz", (), truth)
    frames = other_problems.frames()
    held = frames.cases[0].scan
    np.savez(folder / "frames.npz", kspace=held.kspace[:3])
    yield File("frames, the first of three", folder / "frames.npz", ("--dynamic", "repetition", "--solver", "low-rank"))
    ct = chest(23)
    sinogram = ct.sinogram[0].numpy()
    np.savez(
        folder / "chest.npz",
        sino=sinogram,
        theta_rad=ct.angles.numpy(),
        detector_spacing_mm=ct.spacing,
        photons=PHOTONS,
    )
    yield File(
        "sinogram, 23 views", folder / "chest.npz", ("--voxel", str(ct.spacing)), 1000 * (ct.reference - 1), False
    )
    tooth = "--solver", "fbp", "--detector-spacing", "1", "--image-size", "640"  # its pixel size is not known
    yield File("sinogram of a tooth", raw / "ct_tooth_parallel_sino.npz", tooth)
    tables = list(other_problems.images(["omsL_12"], {}))
    for name, table, options in (
        ("image, Rician noise 0.1", tables[0], ()),
        ("image, half of the matrix", tables[-1], ("--task", "superres", "--factor", "2")),
    ):
        held = table.cases[0].scan
        assert isinstance(held, ImageScan)
        side = held.geometry.spacing or (1.0, 1.0, 1.0)
        path = folder / f"{name.replace(', ', '_').replace(' ', '_')}.nii.gz"
        path.write_bytes(nifti_bytes(held.array, Geometry(side, np.diag([side[2], side[1], side[0], 1.0]))))
        yield File(name, path, options, table.truth)


def program(*arguments: object) -> subprocess.CompletedProcess:
    """Run medrecon as a program."""
    return subprocess.run([sys.executable, "-m", "medrecon", *map(str, arguments)], capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder in which to keep the files and images")
    arguments = parser.parse_args()
    began, runs, failures = time.perf_counter(), 0, 0
    print("| scan | file | options | exit code | seconds | PSNR dB / SSIM |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(files(folder)):
            out = folder / f"out{number}"
            start = time.perf_counter()
            done = program("recon", one.path, "-o", out, "--overwrite", "--json", *one.options)
            took, runs = time.perf_counter() - start, runs + 1
            failures += done.returncode != 0
            score = done.stderr.strip().replace("\n", " ") if done.returncode else ""
            if not done.returncode and one.truth is not None:
                np.savez(folder / f"truth{number}.npz", reconstruction=one.truth)
                image = json.loads(done.stdout)["files"][0]
                fit = ["--fit-scale"] if one.fit else []
                found = program("evaluate", image, "--reference", folder / f"truth{number}.npz", "--json", *fit)
                failures += found.returncode != 0
                score = found.stderr.strip()
                if not found.returncode:
                    held = json.loads(found.stdout)
                    score = f"{held['psnr']:.2f} / {held['ssim']:.3f}"
            options = " ".join(one.options)
            print(
                f"| {one.kind} | {one.path.name} | {options} | {done.returncode} | {took:.1f} | {score} |", flush=True
            )
    print(f"\nseed 0, {runs} reconstructions, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
