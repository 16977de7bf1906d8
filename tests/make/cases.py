"""Cases for pages: slices, CT, volumes, and folders of many reconstructions."""

import json

import numpy as np

from medrecon.data.scan import Geometry
from medrecon.report.case import Case, Classical, Inputs
from medrecon.report.gather import case_of_images
from medrecon.volumes import load_volume
from medrecon.writers.nifti import nifti_bytes

from .images import blobs
from .outputs import made_up_maps, write_volume

__all__ = [
    "HOSTILE",
    "block_in_octant",
    "case_of_dicom",
    "ct_case",
    "record",
    "slice_case",
    "volume_case",
    "write_many",
]

HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>&amp;"
"""Text that would run a script if it were not escaped."""


def record(**more):
    """A record of a run, with hostile texts."""
    return {
        "versions": {"medrecon": "0", "torch": "0", HOSTILE: HOSTILE},
        "input": f"{HOSTILE}.h5",
        "modality": "MR",
        "solver": {"name": "dps", "zeta": 1.0, "calibrated": False},
        "steps": 20,
        "samples": 4,
        "seed": 0,
        "acceleration": 4.0,
        "noise_std": 0.01,
        "noise_source": HOSTILE,
        "relative_residual": 0.1,
        "residual_over_noise": 0.97,
        "residual_by_level": [[10.0, 4.0], [1.0, 1.4], [0.1, 0.97]],
        "warnings": [f"the noise level is a guess {HOSTILE}"],
        "seconds": 12.3,
        "device": "cpu",
        "files": ["x.nii.gz"],
        "sha256": {"x.nii.gz": "0" * 64},
        **more,
    }


def slice_case(shape=(96, 80)):
    """Three slices of an oblique head-like object with everything that a page can show."""
    rng = np.random.default_rng(0)
    truth = np.stack([np.abs(blobs(shape, seed)) for seed in range(3)]).astype(np.float32)
    samples = np.abs(truth + 0.05 * rng.standard_normal((4, *truth.shape))).astype(np.float32)
    maps = made_up_maps(samples)
    mask = np.zeros(shape, bool)
    mask[:, ::4] = mask[:, 34:46] = True
    made = case_of_images(
        f"head {HOSTILE}", record(), image=samples.mean(0), samples=samples, maps=maps.maps(), geometry=oblique(shape)
    )
    inputs = Inputs(
        kspace=rng.random(shape) * mask,
        mask=mask,
        acs=(0, shape[0], 34, 46),
        coil_maps=np.stack([truth[0], truth[1]]),
    )
    blurred = (truth + np.roll(truth, 3, axis=-1)) / 2
    return Case(
        **{
            **{name: getattr(made, name) for name in made.__dataclass_fields__},
            "reference": truth,
            "reference_name": HOSTILE,
            "zero_filled": Classical("zero-filled", {}, blurred),
            "classical": Classical("cg-sense", {"iterations": 10}, (blurred + truth) / 2),
            "inputs": inputs,
            "metrics": {"image": {"psnr": 33.3, "ssim": 0.9, "nmse": 0.01, "rmse": 0.02}},
        }
    )


def oblique(shape):
    """Geometry of slices that are tilted by 20 degrees."""
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[-1, 0, 0], [0, -np.cos(turn), -np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]]
    ) @ np.diag([2.0, 2.0, 4.0])
    affine[:3, 3] = [shape[1], shape[0], 10]
    return Geometry((4.0, 2.0, 2.0), affine)


def ct_case(side=128):
    """One CT slice in HU."""
    y, x = np.mgrid[:side, :side] - side / 2
    image = np.where(np.hypot(x, y) < side / 2.5, 40.0, -1000.0).astype(np.float32)
    image[side // 3 : side // 2, side // 3 : side // 2] = 700
    return case_of_images(
        "chest",
        record(modality="CT", samples=1, warnings=[], water_per_mm=0.02),
        image=image[None],
        geometry=Geometry(),
    )


def volume_case(affine=None, shape=(20, 28, 24), **more):
    """A volume with a bright block, and maps of its samples."""
    affine = np.diag([2.0, 1.5, 2.5, 1.0]) if affine is None else affine
    volume = block_in_octant(affine, shape)
    maps = made_up_maps(np.stack([volume, volume + 4]))
    return case_of_images(
        "block", record(**more), image=volume, maps=maps.maps(), geometry=Geometry((2.5, 1.5, 2.0), affine)
    )


def block_in_octant(affine, shape=(20, 28, 24)):
    """A volume ``(z, y, x)`` of 20, with a block of 100 in the patient's left, anterior, superior octant around the centre."""
    z, y, x = np.indices(shape)
    world = np.einsum("ij,jzyx->izyx", affine[:3, :3], np.stack([x, y, z]).astype(float))
    world -= world.mean(axis=(1, 2, 3), keepdims=True)
    size = np.min(np.linalg.norm(affine[:3, :3], axis=0) * shape[::-1]) / 2
    towards = world * np.array([-1, 1, 1])[:, None, None, None] / size
    block = ((towards > 0.15) & (towards < 0.7)).all(axis=0)
    return np.where(block, 100, 20).astype(np.float32)


def case_of_dicom(folder, affine, shape=(20, 28, 24)):
    """Write the volume with the block as a DICOM series, read it back; the folder of the series and its case."""
    volume = block_in_octant(affine, shape)
    spacing = tuple(float(one) for one in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    paths = write_volume(folder, "block", volume, record(samples=1), spacing=spacing, fmt="dicom", affine=affine)
    series = paths[0].parent
    read = load_volume(series)
    return series, case_of_images("block", record(samples=1), image=read.array, geometry=Geometry(None, read.affine))


def write_many(folder, n):
    """``n`` sidecars, with images and pages for some; a broken JSON file and a foreign one."""
    rng = np.random.default_rng(0)
    image = nifti_bytes(np.abs(blobs((40, 36)))[None].astype(np.float32), Geometry())
    for k in range(n):
        name = f"case {k:04d}" if k else f"case {HOSTILE.replace('/', '')}"
        entries = record(
            files=[f"{name}.nii.gz"],
            solver={"name": ("dps", "ddnm", "cg-sense")[k % 3]},
            acceleration=(2.0, 4.0, 8.0)[k % 3],
            residual_over_noise=None if k % 5 == 4 else 0.9 + 0.01 * (k * 7 % n),
            warnings=[f"warning {HOSTILE}"] * (k % 3),
            metrics={"psnr": float(rng.normal(35, 3))} if k % 2 else {},
            uncertainty={"flagged_fraction": 0.001 * k} if k % 4 else None,
        )
        (folder / f"{name}.json").write_text(json.dumps(entries))
        (folder / f"{name}.nii.gz").write_bytes(image)
        if k % 3:
            (folder / f"{name}.html").write_text("page")
    (folder / "broken.json").write_text("{")
    (folder / f"foreign {HOSTILE.replace('/', '')}.json").write_text("[1]")
