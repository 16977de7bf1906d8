"""Reconstruction in one call."""

import h5py
import numpy as np
import pytest

import medrecon
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.formats import load_kspace


def test_python_api_matches_the_sampling_mask_of_zeros(scan):
    path, _ = scan()
    data = load_kspace(path)
    with_mask = medrecon.reconstruct(
        data.kspace, undersampling_mask((40, 36), "gaussian1d", 2, 12, 0), solver="cg-sense"
    )
    without = medrecon.reconstruct(data.kspace[0], solver="cg-sense")
    assert np.array_equal(with_mask.image, without.image)
    with h5py.File(path) as file:
        assert without.image.shape == (1, *file["kspace"].shape[2:])
    with pytest.raises(InputError, match="complex"):
        medrecon.reconstruct(np.zeros((2, 8, 8)))
    with pytest.raises(InputError, match="all zeros"):
        medrecon.reconstruct(np.zeros((2, 8, 8), np.complex64), np.ones(8))
