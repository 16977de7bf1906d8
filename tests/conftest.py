"""Shared by all tests: the folder of real data, and files made on the spot."""

import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace

DATA = Path(os.environ.get("MEDRECON_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data_folder():
    """Real data; tests that need it skip with this reason where it is missing."""
    if not (DATA / "kspace").is_dir():
        pytest.skip(f"no real data at {DATA}; set MEDRECON_DATA to the folder that holds kspace/ and train/")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def settings_folder(tmp_path_factory):
    """Keys are made here, not among the user's settings; processes that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("settings")
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def third_party_warnings():
    """Warnings that MONAI raises about itself are not ours to fail on."""
    with warnings.catch_warnings():
        for module in ("monai", "ignite"):
            warnings.filterwarnings("ignore", module=module)
        warnings.filterwarnings("ignore", message=".*create_workflow.*")
        yield


def blobs(shape, seed=0):
    """A smooth complex image with a body, an edge and detail, maximum about 1, zero outside an ellipse."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[2 * (np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * 0.6
    for _ in range(6):
        cy, cx, r = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.3)
        body = body + rng.uniform(-0.2, 0.3) * (np.hypot(y - cy, x - cx) < r)
    return body * np.exp(1j * (0.5 + y + 0.5 * x))


@pytest.fixture
def scan(tmp_path):
    """``scan(shape=..., slices=..., ...)`` writes an undersampled fastMRI file and returns its path and truth."""

    def make(shape=(40, 36), slices=1, coils=4, accel=2.0, acs=12, noise=0.002, name="scan.h5", full=False):
        images = np.stack([blobs(shape, seed) for seed in range(slices)])
        maps = loop_coils(shape, coils)
        rng = np.random.default_rng(0)
        kspace = np.stack([simulate_kspace(image, maps, noise, rng) for image in images])
        mask = np.ones(shape[1], bool) if full else undersampling_mask(shape, "gaussian1d", accel, acs, 0)
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            file["kspace"] = kspace * mask
            file["mask"] = mask
        return path, np.abs(images)

    return make


def write_slices(path, contrasts=("T1", "T1Gd", "T2", "FLAIR"), side=64):
    """A tiny archive like those of the brain bundles."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        img=rng.integers(0, 200, (16, side, side), dtype=np.uint8),
        subject=np.array(["omsL_12"] * 16),
        contrast=np.array(list(contrasts) * 4),
        stripped=np.array([0] * 8 + [1] * 8),
    )


def write_ct_slices(path, side=64):
    """A tiny archive like that of the chest bundle: one held-out patient, two to train on."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        img=rng.integers(0, 2000, (12, side, side), dtype=np.uint16),
        subject=np.array(["siim_TCGA-17-Z021"] * 4 + ["a"] * 6 + ["b"] * 2),
        licence=np.array(["CC-BY-3.0"] * 12),
    )
