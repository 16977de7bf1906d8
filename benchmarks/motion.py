"""Rigid motion between shots on slice A (8 coils, 230 x 180): pose errors and PSNR, with and without correction.

    python benchmarks/motion.py --store motion.jsonl [--cases still still-on true prescan data] [--seeds 0 1 2] [--accel 2]
    python benchmarks/motion.py --store motion.jsonl --table

The coil-combined fully sampled slice is moved by exact trigonometric interpolation (a discrete Fourier sum at the moved
points, not the operator of the reconstruction), multiplied by coil maps that stand still, and sampled by 8 interleaved shots;
noise of the level of the scan is added. Angles and shifts of every shot but the first are uniform in +-5 degrees and +-5
pixels and independent of each other, which is harder than smooth motion. The maps of the simulation are ESPIRiT's from the
full k-space without crop; their common phase is that of the image at 30 pixels resolution, and the rest of the phase moves
with the object.

Cases: ``still`` (no motion, no correction), ``still-on`` (no motion, correction on), ``uncorrected``, ``image`` (Gauss-Newton
with the true image), ``true`` (maps of the simulation), ``prescan`` (maps of calibration lines without motion), ``data``
(maps of the moved calibration lines). PSNR is of magnitudes in the head, in the pose of shot 0. Results in the store are not
computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, DEVICE, network
from scipy import ndimage

from medrecon.bundle import load_prior
from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.espirit import espirit_maps
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import estimate_noise_std
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace
from medrecon.operators import moving_sense
from medrecon.posterior import Reconstruction
from medrecon.problems.motion import MovingShots
from medrecon.reconstruction import plan

CASES = ("still", "still-on", "uncorrected", "image", "true", "prescan", "data")
LARGEST = 5.0
ACS = 24


class Simulated(NamedTuple):
    """A simulated scan: k-space ``(coils, y, x)``, its shots ``(x,)``, the object, its coil maps, the head and the poses."""

    kspace: np.ndarray
    shots: np.ndarray
    noise_std: float
    image: np.ndarray
    maps: np.ndarray
    head: np.ndarray
    poses: np.ndarray


def rotated(image: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    """The trigonometric interpolation of an image at the points that move to the pixels (angle in rad, shift in pixels)."""
    ny, nx = image.shape
    y = np.arange(ny)[:, None] - (ny - 1) / 2 - shift[0]
    x = np.arange(nx) - (nx - 1) / 2 - shift[1]
    from_y = (math.cos(angle) * y + math.sin(angle) * x + (ny - 1) / 2 - ny // 2).ravel()
    from_x = (math.cos(angle) * x - math.sin(angle) * y + (nx - 1) / 2 - nx // 2).ravel()
    spectrum = to_kspace(image.astype(np.complex128))
    out = np.empty(ny * nx, complex)
    for first in range(0, ny * nx, 4096):
        part = slice(first, first + 4096)
        ey = np.exp(2j * np.pi * np.outer(from_y[part], np.arange(ny) - ny // 2) / ny)
        ex = np.exp(2j * np.pi * np.outer(from_x[part], np.arange(nx) - nx // 2) / nx)
        out[part] = ((ey @ spectrum) * ex).sum(1)
    return out.reshape(ny, nx) / math.sqrt(ny * nx)


def receive_maps(kspace: np.ndarray, noise_std: float, width: float = 30.0) -> np.ndarray:
    """Maps of full k-space everywhere, with a common phase that varies over ``width`` pixels only."""
    maps = espirit_maps(kspace, np.ones(kspace.shape[-1], bool), noise_std=noise_std, crop=0.0).numpy()
    coils = from_kspace(kspace)
    weighted = (maps * np.abs(coils)).reshape(len(maps), -1)
    virtual = np.linalg.eigh(weighted @ weighted.conj().T)[1][:, -1]
    maps = maps * np.exp(-1j * np.angle(np.tensordot(virtual.conj(), maps, 1)))
    image = (maps.conj() * coils).sum(0)
    smooth = ndimage.gaussian_filter(image.real, width, mode="wrap") + 1j * ndimage.gaussian_filter(
        image.imag, width, mode="wrap"
    )
    return maps * np.exp(1j * np.angle(smooth))


def simulate(seed: int, accel: int, n_shots: int, largest: float = LARGEST) -> Simulated:
    """Slice A, measured in interleaved shots, each in a random pose."""
    full = load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace[0]
    shape = full.shape[1:]
    noise_std = estimate_noise_std(full[None], np.ones(shape[1], bool))
    maps = receive_maps(full, noise_std)
    magnitude = np.sqrt((np.abs(from_kspace(full)) ** 2).sum(0))
    head = ndimage.binary_opening(magnitude > 0.08 * magnitude.max(), iterations=2)
    head = ndimage.binary_dilation(ndimage.binary_fill_holes(head))
    image = (maps.conj() * from_kspace(full)).sum(0) * head
    generator = np.random.default_rng(seed)
    mask = undersampling_mask(shape, "gaussian1d", accel, ACS, seed=0)
    shots = np.full(shape[1], -1)
    shots[mask] = np.arange(mask.sum()) % n_shots
    poses = largest * generator.uniform(-1, 1, (n_shots, 3)) * [math.radians(1), 1, 1]
    poses[0] = 0
    kspace = np.zeros(full.shape, complex)
    for shot, pose in enumerate(poses):
        there = rotated(image, pose[0], pose[1:]) if pose.any() else image
        kspace += to_kspace(maps * there) * (shots == shot)
    noise = noise_std * (generator.normal(size=full.shape) + 1j * generator.normal(size=full.shape))
    kspace = (kspace + noise * mask).astype(np.complex64)
    return Simulated(kspace, shots, noise_std, image, maps.astype(np.complex64), head, poses)


def psnr(image: np.ndarray, case: Simulated) -> float:
    """PSNR of magnitudes in the head, dB; the range is the maximum of the object."""
    truth = np.abs(case.image)
    error = (np.abs(image) - truth)[case.head]
    return float(10 * np.log10(truth.max() ** 2 / np.mean(error**2)))


def pose_errors(poses: np.ndarray, case: Simulated) -> dict[str, float]:
    """Largest errors of angle (degrees) and shift (pixels)."""
    error = np.abs(poses - case.poses)
    return {"degrees": float(np.rad2deg(error[:, 0].max())), "pixels": float(error[:, 1:].max())}


def with_image(case: Simulated) -> dict[str, Any]:
    """Gauss-Newton with the true image."""
    y = torch.from_numpy(case.kspace)[None]
    masks = torch.from_numpy(case.shots == np.arange(len(case.poses))[:, None])[:, None]
    angle, shift = torch.zeros(1, len(masks)), torch.zeros(1, len(masks), 2)
    A = moving_sense(torch.from_numpy(case.maps)[None], masks, angle, shift)
    data = MovingShots(A, y, case.noise_std, angle=angle, shift=shift)
    x = torch.from_numpy(np.stack([np.real(case.image), np.imag(case.image)])[None]).float()
    for sigma in (*[0.2] * 8, *[0.01] * 4):
        data = data.updated(x, sigma)
    return pose_errors(torch.cat([data.angle[..., None], data.shift], dim=-1)[0].numpy(), case)


def reconstructed(case: Simulated, correct: bool, maps: np.ndarray | None, **options: Any) -> Reconstruction:
    """The slice by the one path."""
    spec = load_prior("brain_mri")
    spec = replace(spec, network=lambda: network("brain_mri"))
    scan = CartesianScan(
        path=Path("slice A"), format="simulated", kspace=case.kspace[None], mask=case.shots >= 0, shots=case.shots
    )
    more = {"correct_motion": True} if correct else {}
    return plan(scan, maps=maps, noise_std=case.noise_std, bundle=spec, **more, **options).run(DEVICE)


def measure(name: str, seed: int, accel: int, n_shots: int) -> dict[str, Any]:
    """One row of the table."""
    began = time.perf_counter()
    still = name.startswith("still")
    case = simulate(seed, accel, n_shots, 0.0 if still else LARGEST)
    if name == "image":
        return {**with_image(case), "seconds": time.perf_counter() - began}
    if name == "true":
        maps = case.maps
    elif name == "data":
        maps = None
    else:  # from calibration lines without motion
        quiet = simulate(seed + 1000, accel, n_shots, 0.0)
        maps = espirit_maps(quiet.kspace, quiet.shots >= 0, noise_std=quiet.noise_std).numpy()
    correct = name not in ("still", "uncorrected")
    made = reconstructed(case, correct, maps, seed=seed)
    found = {"psnr": psnr(made.image[0], case), "seconds": made.record["seconds"]}
    found |= {"residual": made.record["relative_residual"], "warnings": list(made.record["warnings"])}
    if correct:
        poses = np.concatenate([made.parameters["angle"][0][:, None], made.parameters["shift"][0]], axis=1)
        found |= pose_errors(poses, case)
    return found


def table(rows: list[dict[str, Any]]) -> None:
    """Mean PSNR and largest errors over the seeds."""
    print(
        "| case | seeds | PSNR dB, mean (lowest) | largest error, degrees | pixels | seconds |\n|---|---|---|---|---|---|"
    )
    for name in CASES:
        chosen = [row for row in rows if row["case"] == name]
        if not chosen:
            continue
        values = [row["psnr"] for row in chosen if "psnr" in row]
        quality = f"{np.mean(values):.2f} ({min(values):.2f})" if values else ""
        errors = [f"{max(row[key] for row in chosen):.3f}" if key in chosen[0] else "" for key in ("degrees", "pixels")]
        seconds = np.mean([row["seconds"] for row in chosen])
        print(f"| {name} | {len(chosen)} | {quality} | {errors[0]} | {errors[1]} | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="results, one JSON object per line")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--accel", type=int, default=2)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--table", action="store_true", help="print the table of the store only")
    arguments = parser.parse_args()
    lines = arguments.store.read_text().splitlines() if arguments.store.exists() else []
    rows, failures = [json.loads(line) for line in lines], 0
    for seed in [] if arguments.table else arguments.seeds:
        for name in arguments.cases:
            key = {"case": name, "seed": seed, "accel": arguments.accel, "shots": arguments.shots}
            if any(key.items() <= row.items() for row in rows):
                continue
            try:
                rows.append({**key, **measure(name, seed, arguments.accel, arguments.shots)})
            except Exception as error:  # a failure is a result
                failures += 1
                print(f"{key}: {type(error).__name__}: {error}", flush=True)
                continue
            print(rows[-1], flush=True)
            with arguments.store.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    table([row for row in rows if (row["accel"], row["shots"]) == (arguments.accel, arguments.shots)])
    print(f"{len(rows)} results, {failures} failures")


if __name__ == "__main__":
    main()
