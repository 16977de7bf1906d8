"""Letters at the edges against nibabel, and against where the patient's left lies in the picture."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from medrecon.report.orientation import edges

OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def signed_permutations():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            yield matrix


def rotation(angles):
    x, y, z = angles
    rx = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    ry = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    rz = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    return np.array(rx) @ ry @ rz


def affines():
    for k, matrix in enumerate(signed_permutations()):
        affine = np.eye(4)
        angles = np.deg2rad([[0, 0, 0], [7, -5, 9], [-20, 4, 3]][k % 3])
        affine[:3, :3] = rotation(angles) @ matrix * [0.8, 1.1, 3.0]
        affine[:3, 3] = [-70.0, 35.0, 12.0]
        yield affine


@pytest.mark.parametrize("affine", list(affines()))
def test_letters_are_those_of_nibabel(affine):
    found = edges(affine)
    x, y, _ = aff2axcodes(affine)
    assert found.right[0] == x and found.left[0] == OPPOSITE[x]
    assert found.bottom[0] == y and found.top[0] == OPPOSITE[y]


@pytest.mark.parametrize("affine", list(affines()))
def test_letters_point_to_where_the_patients_sides_lie(affine):
    """An asymmetric phantom: one bright pixel beside the middle. Its position in mm says on which side it lies."""
    shape = (4, 41, 37)
    middle = np.array([shape[2] // 2, shape[1] // 2, 2, 1.0])
    for edge, step in {"left": (-15, 0), "right": (15, 0), "top": (0, -15), "bottom": (0, 15)}.items():
        at = middle + np.array([*step, 0, 0])
        moved = (affine @ at - affine @ middle)[:3]
        for letter in getattr(edges(affine), edge):
            axis, sign = "RAS".find(letter), 1
            if axis < 0:
                axis, sign = "LPI".find(letter), -1
            assert sign * moved[axis] > 0
        assert np.abs(moved).argmax() == ("RAS" if getattr(edges(affine), edge)[0] in "RAS" else "LPI").find(
            getattr(edges(affine), edge)[0]
        )


def test_a_file_of_nibabel_with_the_left_on_the_right():
    image = nib.Nifti1Image(np.zeros((5, 6, 2)), np.diag([-1.0, -1.0, 2.0, 1.0]))
    assert edges(image.affine) == ("R", "L", "A", "P")


def test_oblique_slices_have_a_second_letter():
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.deg2rad([0, 0, 30]))
    assert edges(affine) == ("LP", "RA", "PR", "AL")


@pytest.mark.parametrize("affine", [None, np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_unknown_position_has_none(affine):
    assert edges(affine) is None
