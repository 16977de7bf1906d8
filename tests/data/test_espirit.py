"""Coil maps by ESPIRiT: the true ones, and those of sigpy."""

import numpy as np
import pytest
import torch
from sigpy.mri.app import EspiritCalib

from medrecon.data.errors import InputError
from medrecon.data.espirit import combined_reference, espirit_maps
from medrecon.data.masks import acs_block, centred, undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace
from tests.make.images import blobs
from tests.make.kspace import random_kspace


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
        for given in (0.0, noise_std):
            found = espirit_maps(kspace, mask, noise_std=given).numpy()
            cosines[noise_std, given] = np.median(np.abs((found.conj() * maps).sum(0))[body])
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
