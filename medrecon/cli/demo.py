"""Simulate a scan of a brain template and reconstruct it with five methods; needs no data and no network connection."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_arguments", "run"]

METHODS = {
    "zero-filled": "zero-filled",
    "CG-SENSE": "cg-sense",
    "L1-wavelet": "wavelet",
    "TV": "tv",
    "diffusion (DDS)": "dds",
}
ACCELERATION, ACS, COILS, NOISE = 6.0, 18, 8, 0.01
HEIGHTS_MM = (-10.0, 10.0, 30.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``-o``, ``--json``, ``--seed`` and the options of the device."""
    from medrecon.cli.options import add_compute, add_json, seed

    parser.add_argument(
        "-o",
        "--output",
        default="medrecon_demo",
        metavar="DIR",
        help="output folder; existing files are replaced (default: ./medrecon_demo)",
    )
    add_compute(parser)
    add_json(parser)
    parser.add_argument("--seed", type=seed, default=0, help="random seed (default: 0)")


def _anatomy():  # noqa: ANN202 - numpy is imported inside
    """Axial slices of the MNI152 T1 template, and the RAS affine of their indices (x, y, slice).

    The slices have shape ``(slices, y, x)``, row 0 is anterior, column 0 the right of the head, and the 99.5th percentile is 1.
    """
    import nibabel as nib
    import numpy as np
    from nilearn.datasets import MNI152_FILE_PATH

    image = nib.as_closest_canonical(nib.load(MNI152_FILE_PATH))  # type: ignore[attr-defined]
    volume = np.asarray(image.dataobj, dtype=np.float32)
    indices = [round((z - image.affine[2, 3]) / image.affine[2, 2]) for z in HEIGHTS_MM]
    slices = volume[::-1, ::-1, indices].transpose(2, 1, 0)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [volume.shape[0] - 1, volume.shape[1] - 1, indices[0]]
    affine[:3, :3] *= [-1, -1, indices[1] - indices[0]]
    return np.ascontiguousarray(slices) / np.percentile(volume[volume > 0], 99.5), affine


def _simulate_kspace(reference: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Undersampled k-space ``(slices, coils, y, x)`` of magnitude images ``(slices, y, x)``, and the mask."""
    import numpy as np

    from medrecon.data.masks import undersampling_mask
    from medrecon.data.phantom import loop_coils, simulate_kspace
    from medrecon.data.phase import smooth_phase

    shape = reference.shape[1:]
    maps, rng = loop_coils(shape, COILS), np.random.default_rng(seed)
    phases = [smooth_phase(shape, np.random.RandomState(seed + i)) for i in range(len(reference))]
    images = [image * np.exp(1j * phase) for image, phase in zip(reference, phases, strict=True)]
    mask = undersampling_mask(shape, "gaussian1d", accel=ACCELERATION, acs=ACS, seed=seed)
    return np.stack([simulate_kspace(image, maps, noise_std=NOISE, rng=rng) for image in images]) * mask, mask


def _check_packages() -> None:
    from medrecon.data.errors import InputError

    for package in ("nilearn", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the demo needs {package}; install it with: pip install {package}")


def run(arguments: argparse.Namespace) -> None:
    """Simulate the scan, reconstruct it, and write images, scores and a figure."""
    _check_packages()
    import json
    from pathlib import Path

    from medrecon.cli.options import set_threads
    from medrecon.data.files import check_writable, write_atomically

    folder = Path(arguments.output)
    check_writable([folder / "metrics.json"], overwrite=True)
    set_threads(arguments)
    from medrecon.data.masks import achieved_acceleration
    from medrecon.data.scan import Geometry
    from medrecon.report.montage import montage
    from medrecon.writers.nifti import nifti_bytes

    reference, affine = _anatomy()
    kspace, mask = _simulate_kspace(reference, arguments.seed)
    if not arguments.json:
        print(
            f"MNI152 T1 template, {len(reference)} slices of {reference.shape[1]} x {reference.shape[2]}, {COILS} coils, "
            f"acceleration {achieved_acceleration(mask):.2f} with {ACS} ACS lines, "
            f"noise {NOISE:g} of the brightest tissue\n\n"
            f"{'method':18} {'PSNR dB':>8} {'SSIM':>6} {'NMSE':>7} {'seconds':>8} {'evaluations':>12}"
        )
    files = {folder / "reference.nii.gz": nifti_bytes(reference, Geometry(affine=affine))}
    table, pictures, captions = {}, {}, {}
    for title, solver in METHODS.items():
        image, row = _reconstruct(kspace, mask, reference=reference, solver=solver, arguments=arguments)
        if not arguments.json:
            print(
                f"{title:18} {row['psnr']:8.2f} {row['ssim']:6.3f} {row['nmse']:7.4f} {row['seconds']:8.1f} "
                f"{row['network_evaluations']:12d}",
                flush=True,
            )
        table[title] = row
        files[folder / f"{solver}.nii.gz"] = nifti_bytes(image, Geometry(affine=affine))
        pictures[title] = image[1]
        captions[title] = f"{row['psnr']:.1f} dB, {row['ssim']:.3f}"
    files[folder / "montage.png"] = montage(reference[1], pictures, captions)
    facts = {"acceleration": achieved_acceleration(mask), "noise_std": NOISE, "seed": arguments.seed, "methods": table}
    files[folder / "metrics.json"] = (json.dumps(facts, indent=2) + "\n").encode()
    write_atomically(files, overwrite=True)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"\n{folder / 'montage.png'} shows the images side by side")


def _reconstruct(
    kspace: np.ndarray, mask: np.ndarray, reference: np.ndarray, solver: str, arguments: argparse.Namespace
) -> tuple[np.ndarray, dict[str, Any]]:
    """Magnitude images ``(slices, y, x)``, and their scores."""
    from medrecon.cli.options import Progress
    from medrecon.metrics import scores
    from medrecon.reconstruction import reconstruct

    options = {"solver": solver, "seed": arguments.seed, "device": arguments.device, "name": "demo"}
    with Progress(solver) as progress:
        made = reconstruct(kspace, mask, progress=progress, **options)
    facts = {key: made.record[key] for key in ("seconds", "network_evaluations")}
    return made.image, {**scores(made.image, reference), **facts}
