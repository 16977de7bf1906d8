"""Volumes as training slices."""

import numpy as np
import pytest

from medrecon.data.errors import InputError
from medrecon.training.volumes import (
    as_channels,
    check_values,
    filled,
    is_hounsfield,
    kind_of_sampling,
    plane_of,
    sliced,
    unit_of,
)

RNG = np.random.default_rng(0)
MAGNITUDE = np.abs(RNG.standard_normal((3, 5, 7))).astype(np.float32)
CT = np.where(RNG.random((3, 5, 7)) < 0.5, -1000, 40).astype(np.float32)


@pytest.mark.parametrize("images", ["complex", "magnitude"])
def test_magnitudes_are_accepted(images):
    check_values(MAGNITUDE, "a", images)
    check_values(MAGNITUDE * np.complex64(1j), "a", images)
    check_values(MAGNITUDE - 0.01, "a", images, "MR")  # interpolation undershoots


@pytest.mark.parametrize(
    ("volume", "images", "modality", "message"),
    [
        (np.where(MAGNITUDE > 2, np.nan, MAGNITUDE), "complex", "", "a: contains NaN or Inf"),
        (np.where(MAGNITUDE > 2, np.inf, MAGNITUDE), "complex", "", "a: contains NaN or Inf"),
        (MAGNITUDE[0], "complex", "", r"a: has the shape \(5, 7\)"),
        (MAGNITUDE[:0], "complex", "", r"a: has the shape \(0, 5, 7\)"),
        (CT, "magnitude", "", "a: is CT in HU, but prior.yaml describes a prior of magnitude images"),
        (MAGNITUDE, "complex", "CT", "a: is CT in HU"),
        (MAGNITUDE, "attenuation", "", "a: has no air of about -1000"),
        (MAGNITUDE, "attenuation", "MR", "a: is MR, but prior.yaml describes a prior of CT"),
        (MAGNITUDE - 1, "magnitude", "", "a: has negative values"),
    ],
)
def test_volumes_of_another_kind_are_refused(volume, images, modality, message):
    with pytest.raises(InputError, match=message):
        check_values(volume, "a", images, modality)


def test_hounsfield_units_are_recognized_by_air_unless_dicom_says():
    assert is_hounsfield(CT) and not is_hounsfield(MAGNITUDE) and not is_hounsfield(CT * np.complex64(1))
    assert is_hounsfield(MAGNITUDE, "CT") and not is_hounsfield(CT, "MR")
    check_values(CT, "a", "attenuation")


def affine(columns, spacing):
    """RAS affine of indices (x, y, slice) whose axes point along the named world axes."""
    out = np.eye(4)
    out[:3, :3] = 0
    for k, (column, step) in enumerate(zip(columns, spacing, strict=True)):
        out["xyz".index(column), k] = step
    return out


def test_planes_follow_the_affine():
    axial, sagittal = affine("xyz", (1, 1, 1)), affine("yzx", (1, 1, 1))
    assert [plane_of(axial, axis) for axis in range(3)] == ["axial", "coronal", "sagittal"]
    assert [plane_of(sagittal, axis) for axis in range(3)] == ["sagittal", "axial", "coronal"]
    turned = axial.copy()
    turned[:3, :3] = [[-0.9, 0.3, 0], [0.3, 0.9, 0.1], [0, -0.1, 1]]
    assert plane_of(turned, 0) == "axial"
    # Voxel (slice 2, row 4, column 6) of the volume is at row 2 or 4 of the other planes.
    (coronal,) = sliced(MAGNITUDE, axial, ("coronal",), "a")
    assert coronal.shape == (5, 3, 7) and coronal[4, 2, 6] == MAGNITUDE[2, 4, 6]
    assert [stack.shape for stack in sliced(MAGNITUDE, sagittal, ("axial", "sagittal"), "a")] == [(3, 5, 7), (5, 3, 7)]
    assert sliced(MAGNITUDE, None, None, "a")[0] is MAGNITUDE


def test_thick_slices_are_not_cut_across():
    thick = affine("xyz", (1, 1, 3))
    assert [stack.shape for stack in sliced(MAGNITUDE, thick, ("axial", "coronal"), "a")] == [(3, 5, 7)]
    with pytest.raises(InputError, match="a: has no coronal slices of sufficient resolution"):
        sliced(MAGNITUDE, thick, ("coronal",), "a")
    with pytest.raises(InputError, match="a: its orientation is unknown"):
        sliced(MAGNITUDE, None, ("axial",), "a")


def test_the_unit_is_one_quantile_of_the_volume():
    values = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    assert unit_of(values) == 995
    sparse = np.zeros((10, 10, 10), np.float32)
    sparse[0, 0, 0] = 5
    assert unit_of(sparse) == 5 and unit_of(0 * sparse) == 0


def test_slices_that_show_nothing_are_found():
    stack = np.zeros((3, 10, 10), np.float32)
    stack[0, 0, :2] = 1  # 2 %
    stack[1, 0, 0] = 1
    stack[2] = 0.1  # a haze
    assert filled(stack).tolist() == [True, False, False]


def test_channels():
    z = (MAGNITUDE * np.exp(1j * RNG.random(MAGNITUDE.shape))).astype(np.complex64)
    two = as_channels(z, "complex")
    assert two.dtype == np.float16
    assert np.abs(two[:, 0] + 1j * two[:, 1] - z).max() < 1e-3 * np.abs(z).max()  # half precision: 2^-11
    assert np.abs(as_channels(z, "magnitude")[:, 0] - MAGNITUDE).max() < 1e-3 * MAGNITUDE.max()
    assert as_channels(MAGNITUDE, "complex").shape == (3, 1, 5, 7)
    assert np.isfinite(as_channels(MAGNITUDE * 1e6, "magnitude")).all()  # which half precision cannot hold


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (np.ones((1, 8)), "full"),
        (np.array([0, 1, 1, 1, 1, 0]), "full"),  # zero padding
        (np.pad(np.ones((4, 4)), 2), "full"),
        (np.array([0, 1, 1, 0, 1, 0]), "undersampled"),
        (np.array([[1, 1], [1, 0]]), "undersampled"),
    ],
)
def test_sampling(mask, kind):
    assert kind_of_sampling(mask) == kind


def test_an_empty_mask_is_refused():
    with pytest.raises(InputError, match="s1: its mask is 0 everywhere"):
        kind_of_sampling(np.zeros(4), "s1")
