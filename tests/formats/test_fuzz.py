"""Damaged and mislabelled files of every kind: one error of ours, or data that make sense; never a crash or a real part."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from medrecon.data.errors import InputError
from medrecon.formats import load_image, load_kspace, load_noncartesian, load_sinogram
from tests.make.dicom import damaged, numbers, oblique, write_series
from tests.make.nifti import save as save_nifti
from tests.make.prepared import measured
from tests.make.sinograms import exchange


def fastmri(path):
    with h5py.File(path, "w") as file:
        file["kspace"] = measured(0)
        file["mask"] = np.ones(20, bool)
        file.attrs["acquisition"] = "T1"
    return load_kspace


def npz(path):
    np.savez(path, kspace=measured(0), mask=np.ones(20, bool))
    return load_kspace


def npz_compressed(path):
    np.savez_compressed(path, kspace=measured(0))
    return load_kspace


def npy(path):
    np.save(path, measured(0))
    return load_kspace


def mat(path):
    savemat(path, {"kspace": measured(0).transpose(2, 3, 1, 0)})
    return load_kspace


def mat73(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        k = measured(0).transpose(0, 1, 3, 2)
        pairs = np.zeros(k.shape, [("real", "<f4"), ("imag", "<f4")])
        pairs["real"], pairs["imag"] = k.real, k.imag
        file["kspace"] = pairs
    return load_kspace


def hdr(path):
    path.with_suffix(".cfl").write_bytes(np.ascontiguousarray(measured(0, slices=1)[0].transpose(0, 1, 2)).tobytes())
    path.write_text("# Dimensions\n20 24 1 3 1 1\n")
    return load_kspace


def spokes(path):
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(2, 6, 20)) + 1j).astype(np.complex64)
    np.savez(path, kspace=samples, trajectory=rng.uniform(-8, 8, (6, 20, 2)), matrix=(16, 16))
    return load_noncartesian


def sinogram(path):
    np.savez(path, sino=np.ones((4, 9), np.float32), theta_rad=np.arange(4) * 0.7, detector_spacing_mm=1.0)
    return load_sinogram


def data_exchange(path):
    exchange(path, np.ones((4, 1, 8)), x_pixel_size=(1.0, "mm"))
    return load_sinogram


KINDS = {
    "fastmri.h5": fastmri, "a.npz": npz, "c.npz": npz_compressed, "a.npy": npy, "a.mat": mat, "b.mat": mat73, "a.hdr": hdr,
    "r.npz": spokes, "s.npz": sinogram, "x.h5": data_exchange,
}  # fmt: skip


def sensible(data):
    """What any loader may return."""
    if hasattr(data, "kspace"):
        assert np.iscomplexobj(data.kspace)
        assert data.kspace.ndim == 4
        assert np.isfinite(data.kspace).all()
        assert np.broadcast_to(data.mask, data.kspace.shape[2:]).shape == data.kspace.shape[2:]
    elif hasattr(data, "samples"):
        assert np.iscomplexobj(data.samples)
        assert np.isfinite(data.samples).all()
        assert np.isfinite(data.trajectory).all()
    elif hasattr(data, "sinogram"):
        assert np.isfinite(data.sinogram).all()
    else:
        assert np.isfinite(data.array).all()


# Libraries leave some damaged files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(tmp_path, name):
    path = tmp_path / name
    load = KINDS[name](path)
    sensible(load(path))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        path.write_bytes(damaged(content, rng))
        try:
            data = load(path)
        except InputError as error:
            refused += 1
            assert path.stem in str(error)
            assert "\n" not in str(error)
            continue
        sensible(data)
    assert refused > 5


@pytest.mark.parametrize("name", KINDS)
def test_mislabelled_files(tmp_path, name):
    path = tmp_path / name
    KINDS[name](path)
    content = path.read_bytes()
    for suffix in (".h5", ".npz", ".npy", ".mat", ".cfl", ".hdr", ".mrd", ".dat", ".nii", ".nii.gz", ".dcm", ""):
        other = tmp_path / f"other{suffix}"
        for load in (load_kspace, load_image, load_sinogram, load_noncartesian):
            (tmp_path / "other.hdr").unlink(missing_ok=True)
            other.write_bytes(content)
            try:
                sensible(load(other))
            except InputError as error:
                assert "other" in str(error)
                assert "\n" not in str(error)


def test_an_image_is_no_k_space_and_the_reverse(tmp_path):
    save_nifti(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32), oblique())
    write_series(tmp_path / "d", oblique(), numbers())
    for path in (tmp_path / "a.nii", tmp_path / "d", tmp_path / "d" / "0"):
        with pytest.raises(InputError):
            load_kspace(path)
    np.save(tmp_path / "real.npy", np.ones((4, 4)))
    with pytest.raises(InputError, match="not complex"):
        load_kspace(tmp_path / "real.npy")
