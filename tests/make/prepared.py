"""Cases to prepare, and what was prepared of them."""

import json

import h5py
import numpy as np

from medrecon.data.phantom import loop_coils, simulate_kspace
from tests.make.images import blobs


def measured(seed, shape=(24, 20), coils=3, slices=2):
    rng = np.random.default_rng(seed)
    maps = loop_coils(shape, coils)
    return np.stack([simulate_kspace(blobs(shape, seed + k), maps, 0.001, rng) for k in range(slices)])


def scans(folder, n=6, bad=False):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        np.savez(folder / f"s{k}.npz", kspace=measured(k))
    if bad:
        (folder / "bad.npz").write_text("junk")
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def fastmri(path, patient=None, coils=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = measured(1, coils=coils)
    with h5py.File(path, "w") as file:
        file["kspace"] = data if coils > 1 else data[:, 0]
        file["reconstruction_rss"] = np.zeros((2, 20, 20), np.float32)
        file.attrs["acquisition"] = "CORPD_FBK"
        if patient:
            file.attrs["patient_id"] = patient
