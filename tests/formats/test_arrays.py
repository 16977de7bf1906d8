"""K-space and masks from arrays in files of every format."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from medrecon.data.errors import InputError
from medrecon.data.sampling import check_mask, mask_from_zeros
from medrecon.formats import load_array, load_kspace
from tests.make.bart import write_cfl
from tests.make.kspace import random_kspace


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_files_of_both_kinds(tmp_path, version):
    rng = np.random.default_rng(0)
    k = (rng.standard_normal((2, 3, 8, 6)) + 1j * rng.standard_normal((2, 3, 8, 6))).astype(np.complex64)
    columns = np.array([1, 0, 1, 1, 0, 1])
    noise = (rng.standard_normal((3, 50)) + 1j * rng.standard_normal((3, 50))).astype(np.complex64)
    matlab = {"kspace": k.transpose(2, 3, 1, 0), "mask": columns[None].astype(float), "noise": noise}
    path = tmp_path / "scan.mat"
    if version == "5":
        savemat(path, matlab)
    else:  # as MATLAB writes it: axes reversed, complex numbers as pairs
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in matlab.items():
                if np.iscomplexobj(array):
                    pairs = np.empty(array.T.shape, [("real", "<f4"), ("imag", "<f4")])
                    pairs["real"], pairs["imag"] = array.T.real, array.T.imag
                    file[name] = pairs
                else:
                    file[name] = array.T
    data = load_kspace(path)
    assert np.array_equal(data.kspace, k * columns)
    assert data.mask.tolist() == columns.astype(bool).tolist()
    assert np.array_equal(data.noise_scan, noise)
    assert np.array_equal(load_array(path, "kspace"), k)
    with pytest.raises(InputError, match=r"holds k-space, not coil maps"):
        load_array(path, "maps")
    whole = path.read_bytes()
    for cut in (10, 200, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"scan\.mat"):
            load_kspace(path)


def test_every_format_gives_the_same_array(tmp_path):
    k = random_kspace(1, 3, 7, 6)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = k
    np.savez(tmp_path / "a.npz", kspace=k)
    np.savez(tmp_path / "b.npz", kspace=k[0])
    np.save(tmp_path / "a.npy", k)
    write_cfl(tmp_path / "a", k[0][:, None])  # x y z coils
    for name in ("a.h5", "a.npz", "b.npz", "a.npy", "a.cfl", "a.hdr", "a"):
        loaded = load_kspace(tmp_path / name)
        assert np.array_equal(loaded.kspace, k), name
        assert loaded.mask.shape == (6,)
        assert loaded.mask.all()
    slices = random_kspace(4, 3, 7, 6)
    array = np.zeros((4, *[1] * 9, 3, 1, 7, 6), np.complex64)  # BART: x y z coils ... slices (axis 13)
    array[...] = slices.reshape(array.shape)
    write_cfl(tmp_path / "v", array)
    assert np.array_equal(load_kspace(tmp_path / "v.cfl").kspace, slices)


def test_three_forms_of_the_real_slice_are_one(data_folder):
    forms = [load_kspace(data_folder / "kspace" / f"brain_t1_8ch_sliceA{s}").kspace for s in (".h5", ".npz", ".cfl")]
    assert forms[0].shape == (1, 8, 230, 180)
    assert np.array_equal(forms[0], forms[1])
    assert np.array_equal(forms[0], forms[2])


def test_mask_from_the_file_or_from_zeros(tmp_path):
    k = random_kspace(2, 3, 8, 6)
    columns = np.array([1, 0, 1, 1, 0, 1], bool)
    assert np.array_equal(mask_from_zeros(k * columns), columns)
    points = np.random.default_rng(0).random((8, 6)) < 0.5
    assert np.array_equal(mask_from_zeros(k * points), points)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["mask"] = k, columns.astype(np.float32).reshape(1, 1, 6, 1)[..., 0]
    loaded = load_kspace(tmp_path / "a.h5")
    assert loaded.mask_in_file
    assert np.array_equal(loaded.mask, columns)
    assert (loaded.kspace[..., ~columns] == 0).all()
    assert np.array_equal(check_mask(np.broadcast_to(columns, (8, 6)), (8, 6), "m"), columns)


def test_mask_axes_keep_their_meaning():
    rows = np.array([1, 0, 1, 1, 0, 1, 0, 1], bool)
    assert np.array_equal(check_mask(rows[:, None], (8, 8), "m"), np.broadcast_to(rows[:, None], (8, 8)))
    assert np.array_equal(check_mask(rows[None, None], (8, 8), "m"), rows)
    assert np.array_equal(check_mask(rows[None, None, :, None], (6, 8), "m"), rows)


def test_zero_padding_is_no_undersampling(tmp_path):
    k = random_kspace(1, 2, 8, 6)
    np.save(tmp_path / "padded.npy", np.pad(k, ((0, 0), (0, 0), (2, 1), (0, 3))))
    assert load_kspace(tmp_path / "padded.npy").gaps == 0
    np.save(tmp_path / "holes.npy", k * (np.arange(6) != 3))
    assert load_kspace(tmp_path / "holes.npy").gaps == 8


def test_bart_names_may_hold_dots(tmp_path):
    k = random_kspace(1, 3, 7, 6)
    write_cfl(tmp_path / "scan.v1x", k[0][:, None])
    for suffix in (".cfl", ".hdr"):
        (tmp_path / f"scan{suffix}").rename(tmp_path / f"scan.v1{suffix}")
    assert np.array_equal(load_kspace(tmp_path / "scan.v1.cfl").kspace, k)
    assert np.array_equal(load_kspace(tmp_path / "scan.v1").kspace, k)


def test_spacing_from_an_ismrmrd_header(tmp_path):
    header = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace>'
        "<matrixSize><x>8</x><y>6</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>16</x><y>9</y><z>5</z></fieldOfView_mm></encodedSpace></encoding></ismrmrdHeader>"
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = random_kspace(1, 2, 8, 6), header
    assert load_kspace(tmp_path / "a.h5").spacing == (5.0, 2.0, 1.5)  # fastMRI keeps the readout x as rows


def bad_files(folder):
    def h5(name, **data):
        with h5py.File(folder / name, "w") as file:
            for key, value in data.items():
                file[key] = value
        return folder / name

    k = random_kspace(1, 2, 8, 6)
    nan = k.copy()
    nan[0, 0, 0, 0] = np.nan
    (folder / "text.h5").write_text("no HDF5")
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (folder / "odd.xyz").write_text("text")
    (folder / "half.hdr").write_text("# Dimensions\n6 8 1 2\n")
    write_cfl(folder / "short", k[0][:, None])
    (folder / "short.cfl").write_bytes(b"12345678")
    write_cfl(folder / "deep", random_kspace(2, 3, 8, 6))
    np.savez(folder / "other.npz", image=k)
    group = h5("group.h5", kspace=k)
    with h5py.File(group, "a") as file:
        file.create_group("mask")
    (folder / "zip.npz").write_bytes((folder / "other.npz").read_bytes()[:60])
    (folder / "binary.hdr").write_bytes(b"\xff\xfe\x00\x81")
    (folder / "binary.cfl").write_bytes(b"12345678")
    whole = h5("whole.h5", kspace=k).read_bytes()
    (folder / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    return {
        folder / "missing.h5": "no such file",
        folder: "a folder",
        folder / "text.h5": "HDF5",
        folder / "truncated.h5": "HDF5",
        folder / "cut.npy": "NumPy",
        folder / "odd.xyz": "supported: ",
        folder / "half.hdr": "half.cfl",
        folder / "short.cfl": "header says",
        folder / "deep.cfl": "axes z",
        folder / "other.npz": "'kspace'",
        folder / "zip.npz": "NumPy",
        folder / "binary.cfl": "not a text file",
        h5("empty.h5", image=k.real): "holds an image, not k-space",
        h5("real.h5", kspace=k.real): "not complex",
        h5("nan.h5", kspace=nan): "NaN or Inf",
        h5("inf.h5", kspace=np.where(np.isnan(nan), np.inf, nan)): "NaN or Inf",
        h5("zeros.h5", kspace=k * 0): "all zeros",
        h5("nothing.h5", kspace=k, mask=np.zeros(6, bool)): "0 everywhere",
        h5("misfit.h5", kspace=k, mask=np.ones(7, bool)): "mask has shape",
        h5("flat.h5", kspace=k[0, 0, 0]): "store (slices, coils, y, x)",
        group: "is a group",
        h5("hollow.h5", kspace=np.zeros((0, 2, 8, 6), np.complex64)): "store (slices, coils, y, x)",
    }


def test_bad_files_are_named_with_their_fault(tmp_path):
    for path, words in bad_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            load_kspace(path)
        assert words in str(caught.value), (path, str(caught.value))
        assert path.stem in str(caught.value)
        assert "\n" not in str(caught.value).strip()


def test_load_array(tmp_path):
    maps = random_kspace(3, 8, 6)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["maps"] = maps
    np.save(tmp_path / "m.npy", maps)
    np.savez(tmp_path / "m.npz", maps=maps)
    write_cfl(tmp_path / "m", maps[:, None])
    for suffix in (".h5", ".npy", ".npz", ".cfl"):
        assert np.array_equal(load_array(tmp_path / f"m{suffix}", "maps"), maps)
    with pytest.raises(InputError, match="holds coil maps, not the sampling mask"):
        load_array(tmp_path / "m.h5", "mask")
