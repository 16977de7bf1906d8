"""Data Exchange files (synchrotron tomography)."""

import h5py
import numpy as np
import pytest

from medrecon.data.errors import InputError
from medrecon.formats import load_sinogram
from medrecon.transforms import LoadSinogram, LoadSinogramd
from tests.make.sinograms import exchange


@pytest.mark.parametrize("units", [None, "rad"])
def test_data_exchange_files_lose_flats_and_darks(tmp_path, units):
    lines = np.random.default_rng(1).uniform(0, 3, (12, 2, 30))
    path = exchange(tmp_path / "a.h5", lines, theta_units=units, x_pixel_size=(5.0, "um"))
    data = load_sinogram(path)
    # Counts in single precision, a few thousand of them.
    assert np.abs(data.sinogram - lines.swapaxes(0, 1)).max() < 1e-4
    assert np.allclose(data.angles, np.arange(12) * np.pi / 12)
    assert data.detector_spacing == pytest.approx(0.005)
    assert load_sinogram(path, 0.2, centre=10.0).offset == 10.0 - 14.5
    out = LoadSinogramd("image", detector_spacing=0.2)({"image": path})
    assert tuple(out["image"].shape) == (2, 12, 30)
    assert out["detector_spacing"] == LoadSinogram(0.2)(path).meta["detector_spacing"] == 0.2


def test_data_exchange_files_that_cannot_be_used(tmp_path):
    lines = np.ones((4, 1, 8))
    with pytest.raises(InputError, match="detector spacing is not recorded"):
        load_sinogram(exchange(tmp_path / "a.h5", lines))
    with pytest.raises(InputError, match=r"in 'furlong'; give the detector spacing"):
        load_sinogram(exchange(tmp_path / "b.h5", lines, x_pixel_size=(1.0, "furlong")))
    with pytest.raises(InputError, match="count no more in the flats than in the darks"):
        load_sinogram(exchange(tmp_path / "c.h5", lines, white=100.0), 1.0)
    path = exchange(tmp_path / "d.h5", lines)
    with h5py.File(path, "r+") as file:
        del file["exchange/theta"]
    with pytest.raises(InputError, match="exchange/theta is missing"):
        load_sinogram(path, 1.0)
    with h5py.File(path, "r+") as file:
        file["exchange/theta"] = np.arange(5) * 36.0
    with pytest.raises(InputError, match=r"with 5 angles; expected \(views, slices, detectors\)"):
        load_sinogram(path, 1.0)
    (tmp_path / "e.h5").write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        load_sinogram(tmp_path / "e.h5", 1.0)


def test_the_tooths_counts_become_its_line_integrals(data_folder, tmp_path):
    with np.load(data_folder / "kspace" / "ct_tooth_parallel_sino.npz") as held:
        with h5py.File(tmp_path / "t.h5", "w") as file:
            for key, name in (("proj", "data"), ("white", "data_white"), ("dark", "data_dark")):
                file[f"exchange/{name}"] = held[key]
            file["exchange/theta"] = np.rad2deg(held["theta_rad"])
        data = load_sinogram(tmp_path / "t.h5", 1.0, float(held["centre"]))
        assert np.abs(data.sinogram[0] - held["sino"]).max() < 1e-4
