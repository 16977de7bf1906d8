"""Shared by all tests: the folder of real data, and files made on the spot."""

import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace

from .make.images import blobs

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
