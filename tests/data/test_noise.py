"""How noisy k-space is: slices without signal, dead coils and unusable noise scans do not change what is estimated."""

import json

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

import medrecon
from medrecon.bundle import find_bundle
from medrecon.cli import main
from medrecon.data.coils import noise_covariance, prewhiten
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import estimate_noise_std, noise_of_images, noise_scan_std, outer_noise_std
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.monai_bundle import load_config
from medrecon.transforms import EstimateSensitivityMapsd, LoadKSpaced, LoadNonCartesiand, PrewhitenCoilsd
from tests.make.images import blobs
from tests.make.kspace import random_kspace

STD = 0.02


def gaussian(shape, std=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return (std * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)


@pytest.fixture
def three(scan, tmp_path):
    """``three(slices=..., noise=...)``: path of a file of three noisy slices among others, k-space and mask."""
    path, _ = scan(slices=3, noise=STD)
    with h5py.File(path) as file:
        kspace, mask = file["kspace"][()], file["mask"][()]

    def make(after=(), name="three.h5", **more):
        whole = np.concatenate([kspace, *after]) if len(after) else kspace
        with h5py.File(tmp_path / name, "w") as file:
            file["kspace"], file["mask"] = whole, mask
            for key, value in more.items():
                file[key] = value
        return tmp_path / name, whole, mask

    return make


def test_empty_slices_do_not_count(three):
    _, kspace, mask = three()
    alone = estimate_noise_std(kspace, mask)
    assert 0.97 * STD < alone < 1.6 * STD  # the phantom's edges reach the outermost k-space of this small matrix
    for number in (1, 2, 5, 40):
        more = np.concatenate([kspace[:1], np.zeros((number, *kspace.shape[1:]), np.complex64), kspace[1:]])
        assert estimate_noise_std(more, mask) == alone


def test_slices_of_noise_alone_do_not_count(three):
    """However many: the level of the others stays, bit for bit."""
    _, kspace, mask = three()
    noise = gaussian((20, *kspace.shape[1:]), STD, 1) * mask
    assert estimate_noise_std(np.concatenate([kspace, noise]), mask) == estimate_noise_std(kspace, mask)
    # Without any signal it is known from them: a median of 11 500 numbers, to 1.1 %.
    assert estimate_noise_std(noise, mask) == pytest.approx(STD, rel=0.04)


def test_dead_coils_do_not_count(three):
    _, kspace, mask = three()
    dead = np.concatenate([kspace, np.zeros_like(kspace)], axis=1)
    assert estimate_noise_std(dead, mask) == estimate_noise_std(kspace, mask)
    scan = gaussian((4, 5000), STD)
    half = np.concatenate([scan, np.zeros_like(scan), np.full_like(scan, 3 + 2j)])
    assert noise_scan_std(half) == pytest.approx(STD, rel=0.01)  # 40 000 numbers: 0.4 %


def test_slices_sampled_otherwise_do_not_bring_zeros(three):
    _, kspace, mask = three()
    full = gaussian((2, 4, 40, 36), STD)
    full[0, ..., ::2] = 0
    full[1, ..., 1::2] = 0
    assert estimate_noise_std(full, np.ones(36, bool)) == pytest.approx(STD, rel=0.1)  # 1100 numbers: 4 %
    assert mask.any()
    assert kspace.any()


@pytest.mark.parametrize("scale", [1e-25, 1e30])
def test_the_scale_does_not_matter(three, scale):
    _, kspace, mask = three()
    scaled = (kspace.astype(complex) * scale).astype(np.complex64)
    assert estimate_noise_std(scaled, mask) == pytest.approx(scale * estimate_noise_std(kspace, mask), rel=1e-4)
    scan = (gaussian((4, 5000), STD).astype(complex) * scale).astype(np.complex64)
    assert noise_scan_std(scan) == pytest.approx(scale * STD, rel=0.01)


def test_no_noise_is_none():
    kspace = np.zeros((1, 2, 16, 16), np.complex64)
    kspace[..., 8, 8] = 1
    kspace[0, 0, 0, 0] = 0
    assert estimate_noise_std(np.zeros_like(kspace), np.ones(16, bool)) == 0
    assert noise_scan_std(np.zeros((2, 50), np.complex64)) == 0


# Images


@pytest.mark.parametrize("more", [(), ("--compress", "3"), ("--whiten", "--compress", "3"), ("--format", "png")])
def test_empty_slices_change_no_image(three, tmp_path, more):
    """Bit for bit, on the command line: files of the other slices are equal."""
    scan = gaussian((4, 400), STD, 5) * np.array([1, 1.5, 0.7, 1.2], np.float32)[:, None]
    with_scan = {"noise": scan} if "--whiten" in more else {}
    images = []
    for empty in (0, 5):
        path, kspace, _ = three([np.zeros((empty, 4, 40, 36), np.complex64)], f"e{empty}.h5", **with_scan)
        out = tmp_path / f"o{empty}"
        assert main(["recon", str(path), "-o", str(out), "--solver", "cg-sense", *more]) == 0
        if "png" in more:
            images.append([(out / f"{path.stem}_{n:03d}.png").read_bytes() for n in range(3)])
        else:
            images.append(np.asarray(nib.load(out / f"{path.stem}.nii.gz").dataobj).T[:3].tobytes())
        assert len(kspace) == 3 + empty
    assert images[0] == images[1]


def test_empty_slices_change_no_image_in_python_or_a_bundle(three):
    path, kspace, mask = three()
    longer, _, _ = three([np.zeros((4, 4, 40, 36), np.complex64)], "longer.h5")
    one = medrecon.reconstruct(kspace, mask, steps=2)
    other = medrecon.reconstruct(load_kspace(longer).kspace, mask, steps=2)
    assert np.array_equal(one.image, other.image[:3])
    assert one.record["noise_std"] == other.record["noise_std"]
    a, b = (EstimateSensitivityMapsd("image")(LoadKSpaced("image")({"image": p})) for p in (path, longer))
    assert a["noise_std"] == b["noise_std"]
    assert torch.equal(a["maps"], b["maps"][:3])


# Noise scans


UNUSABLE = {
    "is constant": np.full((4, 100), 2 + 1j, np.complex64),
    "is constant in coil 2": gaussian((4, 100), STD) * np.array([1, 1, 0, 1], np.float32)[:, None],
    "has shape ()": np.complex64(3),
    "has shape (100,)": gaussian(100, STD),
    "has shape (3, 100)": gaussian((3, 100), STD),
    "has only 5 samples": gaussian((4, 5), STD),
    "holds NaN": np.where(np.arange(100) == 7, np.nan, gaussian((4, 100), STD)).astype(np.complex64),
    "is float64, not complex": gaussian((4, 100), STD).real.astype(float),
    "is |S12, not complex": "a noise scan",
}


@pytest.mark.parametrize("words", UNUSABLE)
def test_unusable_noise_scans(three, tmp_path, capsys, words):
    """The outermost k-space takes their place, with a warning; whitening is refused."""
    path, kspace, mask = three(noise=UNUSABLE[words])
    data = load_kspace(path)
    assert data.noise_scan is None
    assert len(data.warnings) == 1
    assert f"{path}: the noise scan {words}" in data.warnings[0]
    out = tmp_path / "o"
    assert main(["recon", str(path), "-o", str(out), "--solver", "zero-filled"]) == 0
    record = json.loads((out / "three.json").read_text())
    assert record["warnings"] == [text.replace(str(path), "three.h5") for text in data.warnings]
    assert record["noise_source"] == "outermost k-space"
    assert record["noise_std"] == pytest.approx(estimate_noise_std(kspace, mask), rel=1e-6)
    loaded = LoadKSpaced("image")({"image": path})
    assert loaded["noise_std"] == estimate_noise_std(kspace, mask)
    capsys.readouterr()
    assert main(["recon", str(path), "-o", str(tmp_path / "w"), "--whiten"]) == 2
    assert "needs a usable noise scan" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    with pytest.raises(InputError, match="needs a noise scan"):
        PrewhitenCoilsd("image")(loaded)


def test_a_scan_that_is_much_louder_than_the_data_is_reported(three):
    path, *_ = three(noise=gaussian((4, 500), 50 * STD))
    data = load_kspace(path)
    assert data.noise_scan is not None
    assert "if they differ in scale" in data.warnings[0]
    assert load_kspace(three(noise=gaussian((4, 500), STD))[0]).warnings == ()


@pytest.mark.parametrize("way", ["command line", "bundle"])
def test_a_loud_scan_is_reported_once(three, tmp_path, way, caplog):
    """By the reader; a level that is given is compared with k-space by the reconstruction."""
    path, kspace, mask = three(noise=gaussian((4, 500), 50 * STD))
    (text,) = load_kspace(path).warnings
    caplog.clear()
    if way == "bundle":
        more = {"solver": "zero-filled", "output_format": "h5", "device": torch.device("cpu")}
        config = load_config(find_bundle("brain_mri"), scan=str(path), output_dir=str(tmp_path / "o"), **more)
        config.get_parsed_content("run")
    else:
        assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled"]) == 0
    record = json.loads((tmp_path / "o" / "three.json").read_text())
    assert record["noise_source"] == "noise scan"
    assert record["warnings"] == [text.replace(str(path), "three.h5")]
    assert [r.message for r in caplog.records if "outermost" in r.message] == [text]
    (given,) = medrecon.reconstruct(kspace, mask, solver="zero-filled", noise_std=50 * STD).record["warnings"]
    assert "times the noise in the outermost k-space" in given


def test_covariances_that_cannot_be_known_are_refused_by_name():
    with pytest.raises(
        InputError, match=r"a\.h5: a noise scan of 20 samples is too short for the covariance of 24 coils"
    ):
        noise_covariance(gaussian((24, 20)), "a.h5")
    for scan, words in (
        (np.complex64(1), "has shape"),
        (np.ones((3, 50), np.complex64), "is constant"),
        (gaussian((3, 50)).real, "not complex"),
        (gaussian((3, 50)) * np.nan, "NaN"),
    ):
        with pytest.raises(InputError, match=rf"a\.h5: the noise scan .*{words}"):
            noise_covariance(scan, "a.h5")
    twice = gaussian((2, 500))[[0, 1, 0]]
    with pytest.raises(InputError, match=r"a\.h5: .*copies or mixtures"):
        prewhiten(gaussian((1, 3, 8, 8)), noise_covariance(twice), "a.h5")


def test_a_dead_coil_does_not_stop_whitening():
    """The others are whitened as if it were not there, and the level is theirs."""
    scan = gaussian((3, 3), 1, 1) @ gaussian((3, 5000), 1, 2)
    kspace = gaussian((2, 3, 8, 8), 1, 3)
    alone, std = prewhiten(kspace, noise_covariance(scan))
    zero = np.zeros((1, 5000), np.complex64)
    dead, level = prewhiten(
        np.insert(kspace, 1, 0, axis=1), noise_covariance(np.concatenate([scan[:1], zero, scan[1:]]))
    )
    assert np.allclose(dead[:, [0, 2, 3]], alone, atol=1e-5)
    assert not dead[:, 1].any()
    assert level == pytest.approx(std)
    with pytest.raises(InputError, match="coil 1 has no noise"):
        prewhiten(np.insert(kspace, 1, 1, axis=1), noise_covariance(np.concatenate([scan[:1], zero, scan[1:]])))


# Off the grid


def test_samples_off_the_grid(tmp_path):
    """The same rules: empty slices, dead coils and constant scans do not count."""
    angle = np.pi * np.arange(20) / 20
    points = np.stack([np.sin(angle), np.cos(angle)], -1)[:, None] * np.linspace(-16, 16, 64)[None, :, None]
    samples = gaussian((2, 3, 20, 64), STD)
    samples += 5 * np.exp(-(np.linalg.norm(points, axis=-1) ** 2)).astype(np.float32)  # signal in the centre

    def std(kspace, **more):
        np.savez(tmp_path / "a.npz", kspace=kspace, trajectory=points, matrix=(32, 32), **more)
        return outer_noise_std(load_noncartesian(tmp_path / "a.npz"))

    alone = std(samples)
    assert alone == pytest.approx(STD, rel=0.15)  # 770 numbers: 4 %
    assert std(np.concatenate([samples, np.zeros_like(samples)[:1]])) == alone
    assert std(np.concatenate([np.zeros_like(samples), samples])) == alone
    assert std(np.concatenate([samples, np.zeros_like(samples)], axis=1)) == alone
    assert std(np.concatenate([samples, gaussian(samples.shape, STD / 2, 8)])) == alone
    std(samples, noise=np.full((3, 100), 1 + 1j, np.complex64))
    out = LoadNonCartesiand("image")({"image": tmp_path / "a.npz"})
    assert out["noise_std"] == alone
    assert out["image"].meta["noise_source"] == "outermost k-space"
    assert "the noise scan is constant" in out["image"].meta["warnings"][0]


def test_the_noise_of_real_files_is_what_it_was(data_folder):
    """As before slices, coils and zeros were distinguished: these have none of them."""
    for name, std in (("brain_gre_16ch_96.h5", 28.0275087), ("brain_t1_8ch_sliceA.cfl", 1.22455235)):
        data = load_kspace(data_folder / "kspace" / name)
        assert estimate_noise_std(data.kspace, data.mask) == pytest.approx(std, rel=1e-6)
        assert data.mask.all()
        assert data.warnings == ()


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


@pytest.mark.parametrize("sigma", [0.02, 0.07, 0.2])
def test_noise_of_images_within_five_per_cent(sigma):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 230), indexing="ij")
    clean = (y**2 + x**2 < 0.8).float() + 0.5 * ((y - 0.2) ** 2 + x**2 < 0.1).float() + 0.3 * torch.sin(4 * y)
    noisy = clean + sigma * torch.randn(3, 1, 256, 230, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(noise_of_images(noisy), torch.full((3,), sigma), rtol=0.05)
    assert float(noise_of_images(torch.zeros(1, 1, 8, 8))) == 0
