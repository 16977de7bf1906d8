"""Reconstruction in one call."""

import json

import h5py
import nibabel as nib
import numpy as np
import pytest

import medrecon
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.formats import load_kspace
from medrecon.settings import default_solver


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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "dds"),
        ({"task": "superres", "factor": 2}, "dds"),
        ({"task": "superres", "factor": [2, 2]}, "dds"),
        ({"task": "superres", "factor": [4, 1, 1]}, "dds-3d"),
        ({"task": "deblur", "kernel": "unknown"}, "blinddps"),
        ({"task": "deblur", "kernel": "gaussian"}, "dds"),
        ({"task": "denoise", "factor": [4, 1, 1]}, "dds"),
    ],
)
def test_the_default_solver_suits_the_options(options, expected):
    assert default_solver(options) == expected


def test_the_solver_of_thick_slices_is_that_of_the_file_name(tmp_path):
    image = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    path = tmp_path / "thick.nii.gz"
    nib.save(nib.Nifti1Image(image.T, np.diag([1.0, 1.0, 4.0, 1.0])), path)
    arguments = ["recon", str(path), "-o", str(tmp_path / "out"), "--task", "superres", "--factor", "4,1,1"]
    arguments += ["--kernel", "mean", "--steps", "2", "--name", "{stem}_{solver}", "--noise-std", "0.05"]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "out" / "thick_dds-3d.json").read_text())
    assert record["solver"]["name"] == "dds-3d"
