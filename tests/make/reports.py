"""Cases of reports."""

import numpy as np

from medrecon.data.scan import Geometry
from medrecon.report.case import Case, Classical, Inputs, shown_planes
from medrecon.uncertainty import map_names

__all__ = ["case", "record"]


def record(**more):
    """A sidecar."""
    return {
        "versions": {"medrecon": "0.4.0", "monai": "1.6.1", "torch": "2.8.0", "python": "3.11.0"},
        "bundle": {"name": "brain_mri", "version": "1", "weights_sha256": "a" * 64},
        "input": "scan.h5", "modality": "MR", "noise_std": 0.5, "noise_source": "noise scan", "maps_source": "ESPIRiT",
        "acceleration": 4.0, "solver": {"name": "dds", "gamma": None, "eta": 1.0, "calibrated": False},
        "options": {"samples": 4, "seed": 3}, "steps": 20, "sigma_max": 3.0, "sigma_min": 0.005, "network_evaluations": 80,
        "network_dtype": "float32", "samples": 4, "seed": 3, "relative_residual": 0.1, "residual_over_noise": 0.96,
        "residual_by_level": [[3.0, 12.0], [0.5, 3.0], [0.005, 0.97]], "warnings": [], "seconds": 12.0, "device": "cpu",
        "uncertainty": {"null_energy": 0.002, "self_test": {"agrees": True, "text": "samples agree with the noise"}},
        "files": ["scan.nii.gz"], "sha256": {"scan.nii.gz": "b" * 64}, **more,
    }  # fmt: skip


def case(shape=(3, 40, 32), samples=4, calibrated=False, noise=1.0, affine=None, seed=0, **more):
    """A case of noise on a gradient: every picture is there, and none compresses well."""
    rng = np.random.default_rng(seed)
    n, y, x = shape
    ramp = np.linspace(0, 100, y)[:, None] * np.ones(x)

    def images(*lead):
        return (ramp + 20 * noise * rng.standard_normal((*lead, y, x))).clip(0).astype(np.float32)

    shown = shown_planes(n)
    maps = {name: np.abs(images(n)) for name in map_names(calibrated)} if samples > 1 else {}
    if "flags" in maps:
        maps["flags"] = (rng.random(shape) < 0.1).astype(np.uint8)
    image = images(n)
    facts = record(samples=samples)
    facts |= more.pop("record", {})
    made = {
        "name": "scan", "record": facts, "image": image, "shown": shown, "labels": [f"slice {k}" for k in range(n)],
        "samples": images(samples, len(shown)) if samples > 1 else None, "maps": maps,
        "geometry": Geometry(None if affine is None else (1.0, 1.0, 1.0), affine), "reference": images(n),
        "reference_name": "full.h5", "zero_filled": Classical("zero-filled", {}, images(len(shown))),
        "classical": Classical("tv", {"n_iter": 20}, images(len(shown))),
        "inputs": Inputs(
            kspace=rng.random((y, x)), mask=rng.random((y, x)) < 0.3, acs=(0, y, x // 2 - 4, x // 2 + 4),
            coil_maps=rng.random((4, y, x)),
        ),
        "metrics": {"zero-filled": {"psnr": 20.0, "ssim": 0.5, "nmse": 0.1, "rmse": 9.0}, "image": {"psnr": 30.0, "ssim": 0.9}},
        "command": "medrecon recon scan.h5 -o out --samples=4",
    }  # fmt: skip
    return Case(**{**made, **more})
