"""Reconstruct a tooth measured at a synchrotron (181 parallel views) by FBP, SIRT and TV, from all views and every eighth.

    python benchmarks/tooth.py [--png tooth.png]

There is no reference. "residual" is the relative error of the projections of an image at the 181 measured views; the
lower rows were reconstructed from 23 of them. "to SIRT" compares with SIRT from all views, in a circle inside the field
of view. --tv is the weight of TV.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA

from medrecon.bundle import load_prior
from medrecon.formats import load_sinogram
from medrecon.operators import Detector, ParallelBeam
from medrecon.reconstruction import plan
from medrecon.report.montage import sheet
from medrecon.settings import TomographyPhysics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--tv", type=float, default=0.01)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    size = arguments.image_size
    data = load_sinogram(DATA / "kspace" / "ct_tooth_parallel_sino.npz", detector_spacing=0.02)
    measured, angles = torch.from_numpy(data.sinogram), torch.from_numpy(data.angles)
    unit = TomographyPhysics().water
    detectors = measured.shape[-1]
    project = ParallelBeam(
        angles,
        (size, size),
        Detector(detectors, 0.02 * unit, data.offset * 0.02 * unit),
        detectors / size * 0.02 * unit,
    )
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = np.hypot(y, x) < 0.48 * size
    reference, images = None, []
    print("| views | method | s | residual | to SIRT |\n|---|---|---|---|---|")
    for step in (1, 8):
        for name, settings in (
            ("sirt", {}),
            ("fbp", {}),
            ("fbp", {"kind": "hann"}),
            ("tv", {"lam": arguments.tv, "n_iter": 150}),
        ):
            scan = replace(data, sinogram=data.sinogram[:, ::step], angles=data.angles[::step], photons=0.0)
            planned = plan(
                scan, bundle=replace(load_prior("chest_ct"), tuned={}), image_size=size, solver=name, settings=settings
            )
            began = time.perf_counter()
            value = torch.from_numpy(planned.run().image / 1000 + 1)
            seconds = time.perf_counter() - began
            residual = float((project(value[None]) - measured[:, None]).norm() / measured.norm())
            shown = value[0].numpy()
            reference = shown if reference is None else reference
            away = np.linalg.norm((shown - reference)[inside]) / np.linalg.norm(reference[inside])
            label = " ".join([name, *(f"{k}={v}" for k, v in settings.items())])
            print(f"| {len(scan.angles)} | {label} | {seconds:.1f} | {residual:.3f} | {away:.3f} |", flush=True)
            images.append(shown)
    if arguments.png:
        arguments.png.write_bytes(sheet(np.stack(images), float(np.quantile(images[0], 0.999)), columns=4))


if __name__ == "__main__":
    main()
