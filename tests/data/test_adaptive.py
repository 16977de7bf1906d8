"""The adaptive combination, against an eigenproblem for every pixel in double precision."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from medrecon.data.coils import combine_coils, from_kspace
from medrecon.data.passes import magnitude_unit
from medrecon.formats import load_kspace


def reference(images, window):
    """The image, the first weights, and the difference of the first two eigenvalues over the first."""
    images = images.astype(np.complex128)
    strongest = int((np.abs(images) ** 2).sum(axis=(1, 2)).argmax())
    pairs = images[:, None] * images[None].conj()
    size = (0, 0, window, window)
    smooth = uniform_filter(pairs.real, size) + 1j * uniform_filter(pairs.imag, size)
    values, weights = np.linalg.eigh(np.moveaxis(smooth, (0, 1), (2, 3)))
    weights = weights[..., -1] * np.exp(-1j * np.angle(weights[..., -1][..., strongest]))[..., None]
    combined = (np.conj(np.moveaxis(weights, -1, 0)) * images).sum(axis=0)
    first = values[..., -1]
    return combined, np.abs(weights[..., strongest]), (first - values[..., -2]) / np.where(first > 0, first, 1)


@pytest.mark.parametrize("window", [7, 4])
@pytest.mark.parametrize("name", ["brain_t1_8ch_sliceA.h5", "brain_gre_16ch_96.h5"])
def test_real_slices_equal_the_eigenproblem_of_every_pixel(data_folder, name, window):
    kspace = load_kspace(data_folder / "kspace" / name).kspace[..., 2:-1, 1:-1]
    images = from_kspace(kspace / magnitude_unit(kspace))[0]
    expected, strength, gap = reference(images, window)
    found = combine_coils(kspace, "adaptive", window=window)[0] / magnitude_unit(kspace)
    assert found.dtype == np.complex64
    size = np.sqrt((np.abs(images) ** 2).sum(axis=0))
    # The sine of the angle between the weights is below 1e-4, and single precision adds 1e-6 over the gap; the phase is that
    # of one coil's weight, so its error is larger where that weight is small.
    limit = (1e-4 + 1e-6 / np.maximum(gap, 1e-6)) * size
    assert (np.abs(np.abs(found) - np.abs(expected)) <= 2 * limit).all()
    assert (np.abs(found - expected) * strength <= 4 * limit).all()
    assert np.linalg.norm(found - expected) < 3e-5 * np.linalg.norm(expected)


def test_nothing_stays_nothing_and_edges_are_mirrors():
    images = np.zeros((1, 3, 9, 8), np.complex64)
    assert not combine_coils(images, "adaptive").any()
    rng = np.random.default_rng(0)
    small = (rng.standard_normal((1, 3, 3, 2)) + 1j * rng.standard_normal((1, 3, 3, 2))).astype(np.complex64)
    expected, strength, _ = reference(from_kspace(small / magnitude_unit(small))[0], 7)  # a window wider than the image
    found = combine_coils(small, "adaptive")[0] / magnitude_unit(small)
    assert (np.abs(found - expected) * strength < 1e-3).all()


@pytest.mark.parametrize("name", ["brain_t1_8ch_sliceA.h5", "brain_gre_16ch_96.h5"])
def test_the_iteration_agrees_with_the_eigenproblem_on_real_heads(data_folder, name):
    kspace = load_kspace(data_folder / "kspace" / name).kspace
    exact, found = (combine_coils(kspace, method)[0] for method in ("adaptive", "inati"))
    assert found.dtype == np.complex64
    root = combine_coils(kspace)[0]
    head = root > 0.1 * root.max()
    # The weights are those of neighbours as well, so they are as good as exact ones where they vary slowly.
    energies = [(np.abs(image[head]) ** 2).sum() for image in (exact, found)]
    assert abs(energies[1] / energies[0] - 1) < 1e-3
    assert np.linalg.norm(np.abs(found)[head] - np.abs(exact)[head]) < 0.01 * np.linalg.norm(exact[head])
    # Noise in air is as much below the root of the sum of squares.
    air = root < 0.03 * root.max()
    assert np.abs(found[air]).mean() < 1.02 * np.abs(exact[air]).mean() < 0.9 * root[air].mean()


def test_the_iteration_keeps_its_fixed_point(data_folder):
    """Weights of the image are those that made it; the phase is smooth, and does not depend on that of a coil."""
    kspace = load_kspace(data_folder / "kspace" / "brain_t1_8ch_sliceA.h5").kspace
    images = from_kspace(kspace / magnitude_unit(kspace))[0]
    found = combine_coils(kspace, "inati")[0] / magnitude_unit(kspace)
    pairs = images * found.conj()
    smooth = uniform_filter(pairs.real, (0, 7, 7)) + 1j * uniform_filter(pairs.imag, (0, 7, 7))
    again = (smooth.conj() * images).sum(axis=0) / np.sqrt((np.abs(smooth) ** 2).sum(axis=0))
    strong = np.abs(found) > 0.1 * np.abs(found).max()
    # Three steps leave a change of 0.0017, one 0.0051.
    assert np.linalg.norm(
        again * np.exp(1j * np.angle(found)) * np.exp(-1j * np.angle(again)) - found
    ) < 2.5e-3 * np.linalg.norm(found)
    turned = kspace * np.exp(1j * np.arange(8))[None, :, None, None].astype(np.complex64)
    other = combine_coils(turned, "inati")[0] / magnitude_unit(turned)
    steps = [np.angle((one[1:] * one[:-1].conj())[strong[1:] & strong[:-1]]).std() for one in (found, other)]
    assert max(steps) < 0.2


def test_the_iteration_of_one_coil_is_its_image_and_of_nothing_nothing():
    rng = np.random.default_rng(0)
    one = (rng.standard_normal((1, 1, 9, 8)) + 1j * rng.standard_normal((1, 1, 9, 8))).astype(np.complex64)
    assert np.allclose(np.abs(combine_coils(one, "inati")), np.abs(from_kspace(one)), atol=1e-5)
    assert not combine_coils(np.zeros((1, 3, 9, 8), np.complex64), "inati").any()
    two = np.concatenate([one, -one], axis=1)  # whose mean is nothing
    assert np.allclose(np.abs(combine_coils(two, "inati")), 2**0.5 * np.abs(from_kspace(one[:, 0])), atol=1e-4)
