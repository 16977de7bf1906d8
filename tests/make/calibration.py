"""Reconstructions with samples, and references of the same form."""

import json

import h5py
import numpy as np

from .outputs import write_volume

__all__ = ["RECORD", "SHAPE", "change_h5", "write_case", "write_cases"]

SHAPE = (2, 36, 40)
RECORD = {
    "solver": {"name": "dds", "n_cg": 10, "calibrated": False}, "bundle": {"name": "brain_mri", "weights_sha256": "ab"},
    "steps": 2, "sigma_max": 4.0, "sigma_min": 0.005, "start": None, "condition": None, "guidance": None, "symmetries": {},
    "samples": 6, "particles": None, "modality": "MR", "acceleration": 8.0, "seed": 0, "input": "scan.h5", "warnings": [],
}  # fmt: skip


def write_case(folder, stem, format="h5", record=RECORD, seed=0, shape=SHAPE, value=None, values=None, overwrite=False):
    """Write a disc of tissue with noise; return image and samples. ``value`` or ``values`` replace it, without samples."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[1], : shape[2]]
    head = np.hypot(y - shape[1] / 2, x - shape[2] / 2) < 0.4 * shape[1]
    samples = np.abs(head + 0.05 * rng.standard_normal((6, *shape))).astype(np.float32)
    image = samples.mean(0)
    if value is not None or values is not None:
        image, samples = (np.full(shape, value) if values is None else values).astype(np.float32), None
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    write_volume(folder, stem, image, record, samples, (2.0, 1.0, 1.0), format, overwrite=overwrite, affine=affine)
    return image, samples


def write_cases(folder, stems, format="h5", **more):
    """Write cases of different noise."""
    for k, stem in enumerate(stems):
        write_case(folder, stem, format, seed=k, **more)


def change_h5(folder, stem, **arrays):
    """Replace datasets of a case, or remove them (``None``); its sidecar then records no SHA-256."""
    with h5py.File(folder / f"{stem}.h5", "a") as file:
        for name, values in arrays.items():
            file.pop(name, None)
            if values is not None:
                file[name] = values
    sidecar = json.loads((folder / f"{stem}.json").read_text())
    del sidecar["sha256"]
    (folder / f"{stem}.json").write_text(json.dumps(sidecar))
