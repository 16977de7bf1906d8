"""Reconstruct slice A from a real radial trajectory and from a spiral: PSNR, SSIM, time, and time of the network alone.

    python benchmarks/noncartesian.py

The fully sampled coil images of slice A, padded to 256 x 256, are measured along the trajectory (finufft), with noise
of 0.5 % of the coil-combined magnitude of the brightest pixel. The radial scan has every second of the 96 spokes of the
real trajectory of the data folder, and its maps are estimated by ESPIRiT from the gridded centre of these samples. The
spiral has 16 interleaves whose turns are three cycles apart, so that no part of k-space is fully sampled; its maps are
estimated by ESPIRiT from the full slice A. The settings are those of the bundle.
"""

from __future__ import annotations

import argparse
import time
import warnings

warnings.filterwarnings("ignore")

from pathlib import Path

import numpy as np
import torch
from problems import DATA, DEVICE, network, samples_of

from medrecon.bundle import load_prior
from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.espirit import combined_reference, espirit_maps
from medrecon.data.scan import NonCartesianScan
from medrecon.data.trajectories import spiral
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.operators import NUFFT, Finufft
from medrecon.posterior import fast_dtype, network_prior
from medrecon.reconstruction import plan

SIZE = 256
SOLVERS = ("zero-filled", "cg-sense", "tv", "dds")


def measured(trajectory: np.ndarray, seed: int) -> tuple[NonCartesianScan, np.ndarray, np.ndarray]:
    """A scan of slice A along a trajectory, the reference ``(1, y, x)``, and maps of the full data ``(coils, y, x)``."""
    kspace = load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace[0]
    images = np.zeros((len(kspace), SIZE, SIZE), np.complex64)
    (ny, nx), rng = kspace.shape[1:], np.random.default_rng(seed)
    first = (SIZE // 2 - ny // 2, SIZE // 2 - nx // 2)
    images[:, first[0] : first[0] + ny, first[1] : first[1] + nx] = from_kspace(kspace)
    full = to_kspace(images).astype(np.complex64)
    reference, maps = combined_reference(full[None]), espirit_maps(full, np.ones((SIZE, SIZE), bool)).numpy()
    transform = NUFFT(torch.from_numpy(trajectory), (SIZE, SIZE), backend=Finufft(), toeplitz=False)
    samples = transform(torch.from_numpy(images)[None])[0].numpy().reshape(len(images), *trajectory.shape[:2])
    noise = rng.standard_normal(samples.shape) + 1j * rng.standard_normal(samples.shape)
    samples = (samples + 0.005 * reference.max() * noise).astype(np.complex64)
    scan = NonCartesianScan(
        path=Path("slice A"),
        format="simulated",
        samples=samples[None],
        trajectory=trajectory[None],
        matrix=(SIZE, SIZE),
    )
    return scan, reference, maps


def network_seconds(steps: int) -> float:
    """Time of the same number of evaluations of the prior alone."""
    spec = load_prior("brain_mri")
    prior, _ = network_prior(spec, network("brain_mri"), (2, SIZE, SIZE), fast_dtype(DEVICE))
    x = torch.randn(1, 2, SIZE, SIZE, device=DEVICE)
    with torch.no_grad():
        prior(x, 0.3)
        began = time.perf_counter()
        for _ in range(steps):
            prior(x, 0.3)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="*", default=SOLVERS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, failures = time.perf_counter(), 0
    radial = np.load(DATA / "trajectories" / "radial_96x512.npy").astype(np.float32).clip(-SIZE / 2, SIZE / 2)[::2]
    turning = spiral((SIZE, SIZE), interleaves=16, undersampling=3.0).numpy().astype(np.float32)
    alone = network_seconds(50)
    print(
        "| trajectory | solver | PSNR dB | SSIM | seconds | seconds over the network's alone |\n|---|---|---|---|---|---|"
    )
    for name, trajectory in (("radial, 48 spokes", radial), ("spiral, 16 interleaves, R = 3", turning)):
        scan, reference, maps = measured(trajectory, arguments.seed)
        given = {"maps": maps} if name.startswith("spiral") else {}
        for solver in arguments.solvers:
            try:
                made = plan(scan, solver=solver, steps=50, seed=arguments.seed, **given).run(DEVICE)
            except Exception as error:
                failures += 1
                print(f"| {name} | {solver} | failed: {error} |")
                continue
            found, seconds = scores(samples_of(made)[0], reference), made.record["seconds"]
            ratio = f"{seconds / alone:.2f}" if made.record["network_evaluations"] else ""
            print(
                f"| {name} | {solver} | {found['psnr']:.2f} | {found['ssim']:.3f} | {seconds:.1f} | {ratio} |",
                flush=True,
            )
    print(
        f"\nseed {arguments.seed}, {2 * len(arguments.solvers)} reconstructions, {failures} failures, "
        f"{time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads; 50 evaluations of the network alone: "
        f"{alone:.1f} s"
    )


if __name__ == "__main__":
    main()
