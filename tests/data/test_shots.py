"""Labels of shots: what is refused, and the masks they become."""

import numpy as np
import pytest

from medrecon.data.errors import InputError
from medrecon.data.shots import check_shots, shot_warnings

MASK = np.array([1, 1, 1, 0, 1, 1], bool)
LABELS = np.array([7, 2, 7, -1, 2, 7])


def test_masks_are_those_of_the_labels_in_ascending_order():
    masks = check_shots(LABELS, MASK, (4, 6), "scan")
    assert masks.shape == (2, 1, 6)
    assert np.array_equal(masks[0, 0], LABELS == 2) and np.array_equal(masks[1, 0], LABELS == 7)
    assert np.array_equal(masks.sum(0)[0] == 1, MASK)


def test_points_and_equal_rows():
    rows = np.tile(LABELS, (4, 1))
    assert np.array_equal(check_shots(rows, MASK, (4, 6), "scan"), check_shots(LABELS, MASK, (4, 6), "scan"))
    points = np.tile(MASK, (4, 1))
    points[0, 0] = False
    masks = check_shots(rows, points, (4, 6), "scan")
    assert masks.shape == (2, 4, 6) and np.array_equal(masks.any(0), points)
    # Labels of positions that were not sampled mean nothing.
    more = np.where(MASK, LABELS, 3)
    assert np.array_equal(check_shots(more, MASK, (4, 6), "scan"), check_shots(LABELS, MASK, (4, 6), "scan"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(LABELS == 2, -1, LABELS), "8 of 20 samples belong to no shot"),
        (np.where(MASK, 0, -1), "one shot"),
        (LABELS + 0.5, "whole numbers"),
        (np.where(MASK, np.nan, 0), "whole numbers"),
        (LABELS.astype(str), "whole numbers"),
        (LABELS.astype(complex), "whole numbers"),
        (LABELS[:5], "shape"),
        (np.tile(LABELS, (2, 4, 1)), "shape"),
        (np.zeros((0,), int), "shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        check_shots(labels, MASK, (4, 6), "scan")


def test_a_label_per_sample_is_refused():
    n = 40
    with pytest.raises(InputError, match="1600 shots"):
        check_shots(np.arange(n * n).reshape(n, n), np.ones((n, n), bool), (n, n), "scan")


def test_shots_of_few_lines_give_a_warning():
    masks = check_shots(np.repeat([0, 1], [8, 3]), np.ones(11, bool), (5, 11), "scan")
    (text,) = shot_warnings(masks, "scan")
    assert "shot 1 has fewer than 4 lines" in text
    assert shot_warnings(masks[:1], "scan") == ()
