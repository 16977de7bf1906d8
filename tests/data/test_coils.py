"""Coils: whitened noise is white, compression is the best of its size, combinations are what they are in closed form."""

import numpy as np
import pytest
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose

from medrecon.data.coils import (
    combine_coils,
    compress_coils,
    crop_field_of_view,
    from_kspace,
    noise_covariance,
    prewhiten,
    remove_oversampling,
    to_kspace,
)
from medrecon.data.errors import InputError
from medrecon.data.phantom import loop_coils
from medrecon.formats import load_kspace
from medrecon.transforms import (
    CombineCoils,
    CombineCoilsd,
    CompressCoils,
    CompressCoilsd,
    LoadKSpaced,
    PrewhitenCoils,
    PrewhitenCoilsd,
    RemoveOversampling,
    RemoveOversamplingd,
)
from tests.make.images import blobs


def gaussian(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def test_transforms_are_unitary_inverses_of_any_size_and_precision():
    for dtype in (np.complex64, np.complex128):
        x = gaussian((2, 3, 11, 8)).astype(dtype)
        k = to_kspace(x)
        assert k.dtype == dtype
        assert np.allclose(from_kspace(k), x, atol=1e-5)
        assert np.linalg.norm(k) == pytest.approx(np.linalg.norm(x), rel=1e-5)
        assert k[0, 0, 5, 4] == pytest.approx(x[0, 0].sum() / 88**0.5, rel=1e-4)  # the centre is the mean


def test_whitened_noise_is_white():
    mixing = gaussian((5, 5), 1)
    scan = mixing @ gaussian((5, 40000), 2)
    covariance = noise_covariance(scan)
    assert np.allclose(covariance, 2 * mixing @ mixing.conj().T, atol=0.05 * np.abs(covariance).max())
    noise = (mixing @ gaussian((5, 3 * 50 * 40), 3)).reshape(5, 3, 50, 40).swapaxes(0, 1)
    white, std = prewhiten(noise, covariance)
    after = noise_covariance(white.swapaxes(0, 1))
    # 6000 samples: an entry is known to 1 / sqrt(6000).
    assert np.abs(after / (2 * std**2) - np.eye(5)).max() < 0.06
    assert std == pytest.approx(np.sqrt(np.trace(covariance).real / 10))
    assert prewhiten(noise.astype(np.complex64), covariance)[0].dtype == np.complex64


def test_whitening_refuses_what_it_cannot_use():
    k = gaussian((1, 3, 4, 4))
    with pytest.raises(InputError, match="3 x 3"):
        prewhiten(k, np.eye(4))
    with pytest.raises(InputError, match="positive definite"):
        prewhiten(k, np.diag([1.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="2 samples is too short for the covariance of 3 coils"):
        noise_covariance(gaussian((3, 2)))


def scanned(coils=8, shape=(40, 36)):
    maps = loop_coils(shape, coils)
    return to_kspace((maps * blobs(shape))[None].astype(np.complex64)), maps


@pytest.mark.parametrize("method", ["svd", "geometric"])
def test_compression_keeps_what_it_says_and_noise_white(method):
    kspace, _ = scanned()
    mask = np.ones(36, bool)
    small, share = compress_coils(kspace, mask, 4, method)
    assert small.shape == (1, 4, 40, 36)
    assert np.linalg.norm(small) ** 2 == pytest.approx(share * np.linalg.norm(kspace) ** 2, rel=1e-4)
    # Orthonormal mixtures: white noise outside the centre, which does not change them, is white noise afterwards.
    lines = np.arange(36) % 2 == 0
    lines[12:24] = True
    noise = gaussian((1, 8, 40, 36), 4) * (lines & ~((np.arange(36) >= 12) & (np.arange(36) < 24)))
    quiet, noisy = (compress_coils(k * lines, lines, 4, method)[0] for k in (1e-3 * kspace, 1e-3 * kspace + noise))
    covariance = noise_covariance((noisy - quiet)[0][..., np.abs(noise[0, 0, 0]) > 0])
    assert np.abs(covariance / 2 - np.eye(4)).max() < 5 / 480**0.5  # 480 samples
    # As many coils as there are: nothing happens.
    assert compress_coils(kspace, mask, 8, method) == (kspace, 1.0)
    # With all coils but one the image is as before, wherever there is any.
    most, _ = compress_coils(kspace, mask, 7, method)
    before, after = combine_coils(kspace), combine_coils(most)
    assert np.abs(after - before).max() < 0.02 * before.max()


def test_no_mixture_keeps_more_than_svd_but_one_that_varies():
    kspace, _ = scanned()
    mask = np.ones(36, bool)
    _, best = compress_coils(kspace, mask, 3)
    for seed in range(20):
        mixture = np.linalg.qr(gaussian((8, 3), seed))[0].conj().T
        kept = np.linalg.norm(np.einsum("nc,scyx->snyx", mixture, kspace)) ** 2 / np.linalg.norm(kspace) ** 2
        assert kept <= best + 1e-6
    assert compress_coils(kspace, mask, 3, "geometric")[1] > best


def test_geometric_mixtures_vary_smoothly():
    """Turned towards each other, neighbouring rows of the virtual coils differ no more than those of the real ones do."""
    kspace, _ = scanned()
    small, _ = compress_coils(kspace, np.ones(36, bool), 4, "geometric")

    def rough(k):
        images = from_kspace(k)
        return np.linalg.norm(np.diff(images, axis=-2)) / np.linalg.norm(images)

    assert rough(small) < 1.2 * rough(kspace)


def test_compression_refuses():
    kspace, _ = scanned()
    points = np.ones((40, 36), bool)
    points[::2, 3] = False
    with pytest.raises(InputError, match="choose svd"):
        compress_coils(kspace, points, 4, "geometric")
    with pytest.raises(InputError, match="got 0"):
        compress_coils(kspace, points, 0)
    with pytest.raises(InputError, match="svd, geometric"):
        compress_coils(kspace, points, 2, "pca")


@pytest.mark.parametrize("rows", [40, 44, 42])
def test_oversampling_goes_and_the_image_stays(rows):
    """An image in the middle half of the rows comes back alone."""
    kept = rows // 2
    image = gaussian((2, 3, kept, 9))
    wide = np.zeros((2, 3, rows, 9), complex)
    first = rows // 2 - kept // 2
    wide[:, :, first : first + kept] = image
    small = remove_oversampling(to_kspace(wide), np.ones(9, bool))
    assert np.allclose(from_kspace(small), image)
    with pytest.raises(InputError, match="not a multiple"):
        remove_oversampling(to_kspace(wide), np.ones(9, bool), 1.7)
    half = np.ones((rows, 9), bool)
    half[: rows // 3] = False
    with pytest.raises(InputError, match="fully sampled"):
        remove_oversampling(to_kspace(wide), half)


@pytest.mark.parametrize("shape", [(7, 9), (12, 5), (7, 5), (12, 9)])
def test_cropping_k_space_crops_the_image(shape):
    image = gaussian((2, 3, 12, 9))
    y, x = (n // 2 - kept // 2 for n, kept in zip((12, 9), shape, strict=True))
    small = crop_field_of_view(to_kspace(image), np.ones(9, bool), shape)
    assert np.allclose(from_kspace(small), image[..., y : y + shape[0], x : x + shape[1]])


def test_a_folded_axis_is_not_cropped():
    columns = np.arange(9) % 2 == 0
    k = to_kspace(gaussian((1, 1, 12, 9))) * columns
    assert crop_field_of_view(k, columns, (6, 9)).shape == (1, 1, 6, 9)
    with pytest.raises(InputError, match="columns were not fully sampled"):
        crop_field_of_view(k, columns, (12, 5))
    with pytest.raises(InputError, match="12 x 9 pixels cannot be cropped to 13 x 9"):
        crop_field_of_view(k, columns, (13, 9))


def test_combinations_in_closed_form():
    shape = (40, 36)
    kspace, maps = scanned(shape=shape)
    image = blobs(shape)
    # The maps' squares sum to 1.
    assert np.allclose(combine_coils(kspace)[0], np.abs(image), atol=1e-5)
    assert np.allclose(combine_coils(kspace, "mvue", maps[None])[0], image, atol=1e-5)
    assert np.allclose(combine_coils(kspace, "mvue", 3 * maps[None])[0], image / 3, atol=1e-5)
    # A matched filter keeps the magnitude where the maps hardly vary over the window.
    adaptive = combine_coils(kspace, "adaptive")[0]
    bright = np.abs(image) > 0.3
    assert np.abs(np.abs(adaptive) - np.abs(image))[bright].max() < 0.05
    with pytest.raises(InputError, match="mvue needs maps"):
        combine_coils(kspace, "mvue")
    with pytest.raises(InputError, match="rss, mvue, adaptive, inati"):
        combine_coils(kspace, "sum")


def test_adaptive_combination_has_less_noise_than_the_root_of_squares():
    shape = (40, 36)
    kspace, _ = scanned(shape=shape)
    noisy = kspace + 0.05 * gaussian(kspace.shape, 5)
    empty = np.abs(blobs(shape)) < 1e-3
    assert np.abs(combine_coils(noisy, "adaptive")[0])[empty].mean() < 0.9 * combine_coils(noisy)[0][empty].mean()


def test_a_real_head_needs_few_of_its_coils(data_folder):
    data = load_kspace(data_folder / "kspace" / "brain_gre_16ch_96.h5")
    before = combine_coils(data.kspace)
    for method, error, energy in (("svd", 0.1, 0.88), ("geometric", 0.002, 0.999)):
        small, share = compress_coils(data.kspace, data.mask, 6, method)
        assert share > energy
        assert np.linalg.norm(combine_coils(small) - before) < error * np.linalg.norm(before)


@pytest.fixture
def case(tmp_path):
    """What ``LoadKSpaced`` makes of an npz with a noise scan, loaded inside MONAI's ``Compose``."""
    kspace, _ = scanned(shape=(40, 36))
    mixing = np.eye(8) + 0.3 * gaussian((8, 8), 6)
    scan = 0.02 * (mixing @ gaussian((8, 5000), 7)).astype(np.complex64)
    noise = 0.02 * np.einsum("ab,sbyx->sayx", mixing, gaussian(kspace.shape, 8))
    np.savez(tmp_path / "scan.npz", kspace=(kspace[0] + noise[0]).astype(np.complex64), noise=scan)
    return LoadKSpaced("image")({"image": tmp_path / "scan.npz"})


def test_transforms_do_what_their_functions_do(case):
    chain = Compose([
        PrewhitenCoilsd("image"), RemoveOversamplingd("image"), CompressCoilsd("image", 5, "geometric"),
        CombineCoilsd("image", "adaptive", image_key="shown"),
    ])  # fmt: skip
    out = chain(case)
    k, mask, scan = case["image"].as_tensor().numpy(), case["mask"].numpy(), case["noise_scan"].numpy()
    white, std = prewhiten(k, noise_covariance(scan))
    small, share = compress_coils(remove_oversampling(white, mask), mask[..., :20, :], 5, "geometric")
    assert np.allclose(out["image"].as_tensor().numpy(), small, atol=1e-6)
    assert out["noise_std"] == pytest.approx(std)
    assert out["image"].meta["coil_energy"] == pytest.approx(share)
    assert out["image"].meta["filename_or_obj"] == case["image"].meta["filename_or_obj"]
    assert np.allclose(out["shown"].numpy(), combine_coils(small, "adaptive"), atol=1e-6)
    # Twenty rows in the middle of forty: the origin moves by ten of the second axis.
    before, after = case["image"].affine, out["image"].affine
    assert torch.allclose(after[:3, :3], before[:3, :3])
    assert torch.allclose(after[:3, 3], before[:3, 3] + 10 * before[:3, 1])
    # The whitened scan is white, and whitening it again changes nothing.
    again = noise_covariance(out["noise_scan"].numpy())
    assert np.abs(again / (2 * std**2) - np.eye(8)).max() < 1e-4
    assert (out["mask"].shape, case["mask"].shape) == ((1, 36), (1, 36))
    assert case["image"].shape == (1, 8, 40, 36)  # transforms change no input


def test_arrays_and_dictionaries_agree(case):
    k = case["image"]
    covariance = noise_covariance(case["noise_scan"].numpy())
    assert torch.equal(PrewhitenCoils(covariance)(k), PrewhitenCoilsd("image")(case)["image"])
    assert torch.equal(CompressCoils(3)(k), CompressCoilsd("image", 3)(case)["image"])
    assert torch.equal(RemoveOversampling()(k), RemoveOversamplingd("image")(case)["image"])
    assert torch.equal(CombineCoils()(k), CombineCoilsd("image")(case)["image"])
    plain = CombineCoils()(k.as_tensor())
    assert type(plain) is torch.Tensor
    assert CombineCoils()(k.as_tensor().numpy()).dtype == torch.float32


def test_transforms_in_a_persistent_dataset(case, tmp_path):
    """Cached on disk and read back: the same k-space, complex."""
    chain = Compose([LoadKSpaced("image"), CompressCoilsd("image", 4)])
    path = case["image"].meta["filename_or_obj"]
    first, second = (
        PersistentDataset([{"image": path}], chain, cache_dir=tmp_path / "cache", track_meta=True)[0] for _ in range(2)
    )
    assert torch.equal(first["image"].as_tensor(), second["image"].as_tensor())
    assert second["image"].is_complex()
    assert torch.equal(second["image"].affine, first["image"].affine)


def test_whitening_without_a_scan_says_so(case):
    case = {k: v for k, v in case.items() if k != "noise_scan"}
    with pytest.raises(InputError, match="needs a noise scan"):
        PrewhitenCoilsd("image").__call__(case)
    with pytest.raises(InputError, match="mvue needs maps"):
        CombineCoilsd("image", "mvue")(case)


@pytest.mark.parametrize("method", ["rss", "adaptive", "inati"])
def test_what_cannot_be_combined(method):
    kspace = np.ones((1, 2, 6, 5), np.complex64)
    for window in (0, -1, 2.5):
        with pytest.raises(InputError, match="window"):
            combine_coils(kspace, method, window=window)
    for bad in (np.full_like(kspace, np.nan), np.full_like(kspace, np.inf), kspace[:0], kspace[:, :0]):
        with pytest.raises(InputError, match="empty or holds NaN or Inf"):
            combine_coils(bad, method)


@pytest.mark.parametrize("method", ["svd", "geometric"])
def test_nothing_cannot_be_compressed(method):
    with pytest.raises(InputError, match="needs a fully sampled centre"):
        compress_coils(np.zeros((2, 4, 8, 8), np.complex64), np.ones(8, bool), 2, method)
