"""Files, masks, noise and coil maps."""

import os

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from sigpy.mri.app import EspiritCalib

from medrecon.data.errors import InputError
from medrecon.data.espirit import combined_reference, espirit_maps
from medrecon.data.files import write_whole
from medrecon.data.masks import KINDS, achieved_acceleration, acs_block, centred, undersampling_mask
from medrecon.data.noise import estimate_noise_std, noise_scan_std
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.phase import smooth_phase
from medrecon.data.sampling import check_mask, sampled
from medrecon.formats import load_array, load_kspace
from medrecon.training.slices import load_slices, sampling_weights, subject_weights

from ..conftest import blobs


def random_kspace(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


# Masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 60), (31, 33)])
def test_mask_has_its_acs_its_budget_and_its_seed(kind, shape):
    mask = undersampling_mask(shape, kind, 4, 7, seed=3)
    assert mask.dtype == bool
    full = np.broadcast_to(mask, shape)
    if mask.ndim == 1:
        assert mask.sum() == shape[1] // 4
        assert full[:, centred(shape[1], 7)].all()
    else:
        assert full[centred(shape[0], 7), centred(shape[1], 7)].all()
    if kind == "gaussian2d":
        assert mask.sum() == shape[0] * shape[1] // 4
    if kind == "poisson":  # sigpy searches a density that meets the acceleration to 10 %
        assert abs(achieved_acceleration(mask) - 4) < 0.41
    assert (mask == undersampling_mask(shape, kind, 4, 7, seed=3)).all()
    assert (mask != undersampling_mask(shape, kind, 4, 7, seed=4)).any()


def test_gaussian1d_is_numpys_choice_without_replacement():
    """The masks of the published table: ACS at n // 2, the rest drawn with default_rng(0) by density."""
    n, total, acs = 180, 45, 24
    mask = np.zeros(n, bool)
    mask[n // 2 - acs // 2 : n // 2 + acs // 2] = True
    rest = np.flatnonzero(~mask)
    p = np.exp(-((rest - n / 2) ** 2) / (2 * (n / 4) ** 2))
    mask[np.random.default_rng(0).choice(rest, total - acs, replace=False, p=p / p.sum())] = True
    assert (mask == undersampling_mask((230, 180), "gaussian1d", 4, 24, 0)).all()
    assert undersampling_mask((230, 180), "gaussian1d", 8, 14, 0).sum() == 22


def test_equispaced_gaps_differ_by_one_at_most():
    mask = undersampling_mask((8, 200), "equispaced", 4, 20, 1)
    rest = np.delete(np.arange(200), centred(200, 20))
    gaps = np.diff(np.flatnonzero(mask[rest]))
    assert gaps.max() - gaps.min() <= 1


def test_mask_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="gaussian1d"):
        undersampling_mask((8, 8), "gauss", 4, 2, 0)
    with pytest.raises(ValueError, match="do not fit"):
        undersampling_mask((64, 64), "random", 8, 24, 0)
    with pytest.raises(ValueError, match="at least 1"):
        undersampling_mask((64, 64), "random", 0.5, 4, 0)


def brute_acs(mask):
    best = (0, 0)
    for h in range(1, mask.shape[0] + 1):
        for w in range(1, mask.shape[1] + 1):
            if mask[centred(mask.shape[0], h), centred(mask.shape[1], w)].all() and h * w > best[0] * best[1]:
                best = (h, w)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_acs_block_is_the_largest_centred_rectangle(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 10)) < 0.3
    mask[centred(13, rng.integers(1, 9)), centred(10, rng.integers(1, 7))] = True
    rows, columns = acs_block(mask)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == np.prod(brute_acs(mask))
    assert mask[rows, columns].all()


def test_acs_block_of_columns_is_as_tall_as_the_matrix_and_of_nothing_is_empty():
    rows, columns = acs_block(np.broadcast_to(undersampling_mask((30, 40), "random", 4, 6, 0), (30, 40)))
    assert rows == slice(0, 30)
    assert columns.stop - columns.start >= 6
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    assert acs_block(mask) == (slice(0, 0), slice(0, 0))


def test_acs_block_prefers_a_usable_shape():
    """One fully sampled row through the centre is larger than the square, and of no use to a kernel."""
    mask = np.zeros((40, 300), bool)
    mask[20] = True
    mask[centred(40, 12), centred(300, 12)] = True
    assert acs_block(mask) == (slice(20, 21), slice(0, 300))
    assert acs_block(mask, least=6) == (centred(40, 12), centred(300, 12))


def test_masks_wider_than_the_matrix():
    assert undersampling_mask((8, 20), "equispaced", 1, 24, 0).all()
    assert undersampling_mask((8, 40), "poisson", 2, 12, 0)[:, centred(40, 12)].all()
    with pytest.raises(ValueError, match="leaves no samples"):
        undersampling_mask((8, 20), "random", 30, 0, 0)


# Noise


def test_noise_estimate_passes_over_zero_padding():
    shape, std = (96, 80), 0.05
    kspace = simulate_kspace(blobs(shape), loop_coils(shape, 8), std, np.random.default_rng(0))[None]
    padded = np.pad(kspace, ((0, 0), (0, 0), (20, 20), (16, 16)))
    everywhere = np.ones(padded.shape[-2:], bool)
    assert estimate_noise_std(padded, everywhere) == pytest.approx(std, rel=0.15)


def test_noise_estimate_is_right_within_its_sampling_error():
    shape, std = (96, 80), 0.02
    kspace = simulate_kspace(blobs(shape), loop_coils(shape, 8), std, np.random.default_rng(0))[None]
    mask = undersampling_mask(shape, "gaussian1d", 3, 12, 0)
    # The edges of this phantom reach the outermost k-space, so up to a fifth too large, never too small.
    assert 0.97 * std < estimate_noise_std(kspace * mask, mask) < 1.2 * std
    scan = std * random_kspace(8, 5000)
    assert abs(noise_scan_std(scan) / std - 1) < 0.01  # 80 000 numbers: 0.25 %


# Coil maps


@pytest.mark.parametrize("shape", [(64, 60), (45, 51)])
def test_espirit_finds_the_true_maps(shape):
    maps = loop_coils(shape, 6)
    image = blobs(shape)
    kspace = simulate_kspace(image, maps, 1e-3, np.random.default_rng(0))
    mask = undersampling_mask(shape, "gaussian1d", 2.5, 14, 0)
    found = espirit_maps(kspace * mask, mask).numpy()
    body = np.abs(image) > 0.3
    cosine = np.abs((found.conj() * maps).sum(0))[body]
    assert np.median(cosine) > 0.999
    assert np.quantile(cosine, 0.02) > 0.98
    size = (np.abs(found) ** 2).sum(0)
    assert np.allclose(size[size > 0], 1, atol=1e-4)


def test_espirit_of_noisy_data_keeps_the_signal_alone():
    """Beyond a few per cent of noise no fixed threshold parts the two; the edge of a random matrix does."""
    shape = (96, 88)
    maps, image = loop_coils(shape, 8), blobs(shape)
    mask = undersampling_mask(shape, "gaussian1d", 3, 20, 0)
    body = np.abs(image) > 0.3
    cosines = {}
    for noise_std in (0.003, 0.06):
        kspace = simulate_kspace(image, maps, noise_std, np.random.default_rng(0)) * mask
        for told in (0.0, noise_std):
            found = espirit_maps(kspace, mask, noise_std=told).numpy()
            cosines[noise_std, told] = np.median(np.abs((found.conj() * maps).sum(0))[body])
    assert cosines[0.003, 0.003] > 0.999
    assert cosines[0.06, 0.06] > 0.98
    assert cosines[0.06, 0.0] < 0.9  # what the fixed threshold makes of it
    assert not espirit_maps(0.06 * random_kspace(8, *shape) * mask, mask, noise_std=0.1).any()  # noise alone: no coil


def test_espirit_equals_sigpy_on_a_square_block():
    shape = (48, 44)
    kspace = simulate_kspace(blobs(shape), loop_coils(shape, 5), 2e-3, np.random.default_rng(1))
    theirs = EspiritCalib(kspace, calib_width=20, crop=0.9, max_iter=300, show_pbar=False).run()
    mask = np.zeros(shape, bool)
    mask[centred(48, 20), centred(44, 20)] = True
    ours = espirit_maps(kspace * mask, mask, crop=0.9).numpy()
    support = (np.abs(ours).sum(0) > 0) & (np.abs(theirs).sum(0) > 0)
    # Eigenvalues within 1e-3 of the crop may fall on either side: sigpy's power iteration stops early.
    assert ((np.abs(ours).sum(0) > 0) == (np.abs(theirs).sum(0) > 0)).mean() > 0.995
    assert np.abs((ours.conj() * theirs).sum(0))[support].min() > 0.999


def test_espirit_makes_the_image_nearly_real():
    shape = (64, 60)
    image = blobs(shape)
    kspace = simulate_kspace(image, loop_coils(shape, 6), 1e-3, np.random.default_rng(0))
    mask = undersampling_mask(shape, "gaussian1d", 2.5, 14, 0)
    found = espirit_maps(kspace * mask, mask).numpy()
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    combined = (found.conj() * coils).sum(0)[np.abs(image) > 0.3]
    assert np.abs(np.angle(combined)).mean() < 0.1


def test_espirit_reads_the_centre_only():
    shape = (40, 36)
    kspace = simulate_kspace(blobs(shape), loop_coils(shape, 4), 1e-3, np.random.default_rng(0))
    mask = undersampling_mask(shape, "gaussian1d", 2.5, 10, 0)
    _, columns = acs_block(np.broadcast_to(mask, shape))
    other = (kspace * mask).copy()
    outside = np.ones(36, bool)
    outside[columns] = False
    other[..., outside] *= -3
    assert torch.equal(espirit_maps(kspace * mask, mask), espirit_maps(other, mask))


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


def test_a_second_set_of_maps_describes_what_folds_over():
    """An object wider than the field of view: where it folds, one vector per pixel cannot span the coils' signals, two can."""
    shape, wide = (48, 40), (48, 56)
    maps, image = loop_coils(wide, 8), blobs(wide) + 0.5
    image[:, :3] = image[:, -3:] = 0
    coils = maps * image
    folded = coils[..., 8:48].copy()
    folded[..., -8:] += coils[..., :8]
    folded[..., :8] += coils[..., 48:]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(folded, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    mask = np.zeros(shape, bool)
    mask[12:36, 8:32] = True
    missed = []
    for sets in (1, 2):
        found = espirit_maps((kspace * mask).astype(np.complex64), mask, sets=sets, crop=0.6).numpy()
        found = found.reshape(-1, 8, *shape)
        assert len(found) == sets
        # The maps of a pixel are orthonormal where they are not 0.
        gram = np.einsum("acyx,bcyx->abyx", found.conj(), found)
        assert np.allclose(gram, gram * np.eye(sets)[:, :, None, None], atol=1e-4)
        seen = np.einsum("acyx,cyx->ayx", found.conj(), folded)
        rest = folded - np.einsum("acyx,ayx->cyx", found, seen)
        fold = np.zeros(shape, bool)
        fold[:, :5] = fold[:, -5:] = True
        missed.append([np.linalg.norm(rest[:, part]) / np.linalg.norm(folded[:, part]) for part in (fold, ~fold)])
    assert missed[0][0] > 0.1
    assert missed[1][0] < 0.3 * missed[0][0]
    assert missed[1][1] < 0.02
    with pytest.raises(InputError, match="1 to 8 sets"):
        espirit_maps((kspace * mask).astype(np.complex64), mask, sets=9)


def test_espirit_without_centre_says_what_to_do():
    mask = np.zeros((20, 20), bool)
    mask[:, ::3] = True
    with pytest.raises(InputError, match=r"scan\.h5.*--maps"):
        espirit_maps(random_kspace(2, 20, 20) * mask, mask, name="scan.h5")


def test_reference_of_noiseless_data_is_the_image():
    shape = (64, 60)
    image = blobs(shape)
    kspace = simulate_kspace(image, loop_coils(shape, 6), 0.0, np.random.default_rng(0))
    reference = combined_reference(kspace[None])[0]
    body = np.abs(image) > 0.3
    assert np.abs(reference - np.abs(image))[body].max() < 0.02  # ESPIRiT's own accuracy with a 24 x 24 block
    single = simulate_kspace(image, np.ones((1, *shape), np.complex64), 0.0, np.random.default_rng(0))
    assert np.allclose(combined_reference(single[None])[0], np.abs(image), atol=1e-5)


# Files


def write_cfl(base, array):
    base.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    array.astype(np.complex64).tofile(base.with_suffix(".cfl"))


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
    assert np.array_equal(sampled(k * columns), columns)
    points = np.random.default_rng(0).random((8, 6)) < 0.5
    assert np.array_equal(sampled(k * points), points)
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
        folder / "odd.xyz": "known are",
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


# Outputs


def test_outputs_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    first, second = tmp_path / "new" / "deep" / "a.bin", tmp_path / "new" / "deep" / "b.bin"
    write_whole({first: b"1", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted(p.name for p in first.parent.iterdir()) == ["a.bin", "b.bin"]
    with pytest.raises(InputError, match=r"a\.bin.*--overwrite"):
        write_whole({first: b"3"})
    write_whole({first: b"3"}, overwrite=True)
    assert first.read_bytes() == b"3"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_whole({tmp_path / "other" / "c.bin": b"4"})
    with pytest.raises(InputError, match="No space left"):
        write_whole({first: b"5"}, overwrite=True)
    assert not (tmp_path / "other").exists()
    assert first.read_bytes() == b"3"
    assert sorted(p.name for p in first.parent.iterdir()) == ["a.bin", "b.bin"]


def test_a_failed_rename_takes_the_others_back(tmp_path, monkeypatch):
    real = {name: getattr(os, name) for name in ("link", "replace")}

    def failing(name):
        def call(source, target, **more):
            if str(target).endswith("b.bin"):
                raise OSError(5, "Input/output error")
            real[name](source, target, **more)

        return call

    def second_fails(patch):
        for name in real:
            patch.setattr(os, name, failing(name))

    contents = {tmp_path / "new" / "a.bin": b"1", tmp_path / "new" / "b.bin": b"2"}
    with monkeypatch.context() as patch, pytest.raises(InputError, match="Input/output error"):
        second_fails(patch)
        write_whole(contents)
    assert list(tmp_path.iterdir()) == []
    write_whole(contents)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="Input/output error"):
        second_fails(patch)
        write_whole({path: b"new" for path in contents}, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"a.bin": b"1", "b.bin": b"2"}


def test_replacing_a_file_never_leaves_its_name_empty(tmp_path, monkeypatch):
    """A process may be killed between any two calls: the name must always hold the old content or the new."""
    path = tmp_path / "latest.pt"
    write_whole({path: b"old"})
    real = {name: getattr(os, name) for name in ("replace", "rename", "link", "unlink")}

    def watched(name):
        def call(*args, **kwargs):
            assert path.read_bytes() in (b"old", b"new")
            out = real[name](*args, **kwargs)
            assert path.read_bytes() in (b"old", b"new")
            return out

        return call

    for name in real:
        monkeypatch.setattr(os, name, watched(name))
    write_whole({path: b"new"}, overwrite=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["latest.pt"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_whole({tmp_path / "file" / "a.bin": b"1"})


# Training data


def test_smooth_phase_does_not_depend_on_the_crop_and_is_uniform():
    phase = smooth_phase((40, 50), np.random.RandomState(0))
    assert np.abs(np.diff(phase, n=3, axis=0)).max() < 1e-4  # second order: third differences vanish
    constants = np.exp(1j * np.array([smooth_phase((1, 1), np.random.RandomState(s))[0, 0] for s in range(2000)]))
    assert abs(constants.mean()) < 4 / 2000**0.5


def test_slices_and_their_shares(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "s.npz",
        img=rng.integers(0, 255, (6, 8, 8), dtype=np.uint8),
        subject=np.array(list("aabbbc")),
        contrast=np.array(["T1"] * 6),
        stripped=np.array([0, 0, 0, 0, 1, 1]),
    )
    rows = load_slices(tmp_path / "s.npz")
    assert rows[0]["image"].shape == (1, 8, 8)
    assert [r["subject"] for r in load_slices(tmp_path / "s.npz", {"subject": ["b"]})] == ["b"] * 3
    assert [r["subject"] for r in load_slices(tmp_path / "s.npz", exclude={"subject": ["b", "c"]})] == ["a"] * 2
    with pytest.raises(InputError, match=r"s\.npz.*no key 'age'"):
        load_slices(tmp_path / "s.npz", {"age": [3]})
    weights = sampling_weights(rows, {"stripped": {0: 0.8, 1: 0.2}, "subject": {"a": 0.3, "b": 0.6, "c": 0.1}})
    assert sum(weights) == pytest.approx(1)
    for key, value, share in (("stripped", 1, 0.2), ("subject", "a", 0.3), ("subject", "c", 0.1)):
        assert sum(w for w, r in zip(weights, rows, strict=True) if r[key] == value) == pytest.approx(share, abs=1e-3)
    with pytest.raises(ValueError, match="stripped = 1"):
        sampling_weights(rows, {"stripped": {0: 1.0}})
    with pytest.raises(ValueError, match="cannot be met"):
        sampling_weights(rows, {"stripped": {0: 0.8, 1: 0.2}, "subject": {"a": 0.98, "b": 0.01, "c": 0.01}})
    by_subject = subject_weights(rows, power=0.0)
    assert sum(w for w, r in zip(by_subject, rows, strict=True) if r["subject"] == "c") == pytest.approx(1 / 3)
    assert subject_weights(rows, power=1.0) == pytest.approx([1 / 6] * 6)
    with pytest.raises(InputError, match=r"none\.npz"):
        load_slices(tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:300])
    with pytest.raises(InputError, match=r"torn\.npz"):
        load_slices(tmp_path / "torn.npz")
    np.savez(tmp_path / "ct.npz", img=np.full((1, 4, 4), 2000, dtype=np.uint16))
    assert load_slices(tmp_path / "ct.npz")[0]["image"].dtype == np.int16
    both = load_slices([tmp_path / "s.npz", tmp_path / "ct.npz"])  # rows of one batch have the same keys
    assert [set(row) for row in both] == [{"image", "archive"}] * 7
    with pytest.raises(ValueError, match="not all archives have a key 'stripped'"):
        sampling_weights(both, {"stripped": {0: 1.0}})
