"""The adaptive combination, against an eigenproblem for every pixel in double precision."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from medrecon.data.coils import combine_coils, from_kspace, magnitude_unit
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
