"""Batches of rows of equal shapes."""

from collections import Counter

import numpy as np
import pytest
import torch

from medrecon.training.batches import ShapeBatches, batches_in_order, groups_by_shape

ROWS = [
    {"image": np.zeros((1, *shape)), "subject": str(i)}
    for i, shape in enumerate([(4, 4), (5, 4), (4, 4), (5, 4), (4, 4)])
]


def test_rows_are_grouped_by_the_shapes_of_all_arrays():
    assert groups_by_shape(ROWS) == [[0, 2, 4], [1, 3]]
    assert groups_by_shape([{"a": np.zeros(3), "b": np.zeros(2)}, {"a": np.zeros(3), "b": np.zeros(4)}]) == [[0], [1]]
    assert groups_by_shape([{"a": np.zeros(3)}, {"b": np.zeros(3)}, {"a": np.zeros(3), "b": np.zeros(3)}]) == [
        [0],
        [1],
        [2],
    ]


def test_all_rows_are_visited_once_in_order():
    assert batches_in_order(ROWS, 2) == [[0, 2], [4], [1, 3]]
    assert batches_in_order([], 2) == []


def test_rows_are_drawn_by_their_weights_and_batches_do_not_mix_shapes():
    torch.manual_seed(0)
    weights = [1.0, 2.0, 3.0, 4.0, 0.0]
    sampler = ShapeBatches(ROWS, 4, 5000, weights)
    assert len(sampler) == 5000
    batches = list(sampler)
    assert len(batches) == 5000
    assert all(len(batch) == 4 and {i % 2 for i in batch} in ({0}, {1}) for batch in batches)
    counts = Counter(i for batch in batches for i in batch)
    for index, weight in enumerate(weights):
        # A group is drawn 5000 times: standard deviation of a fraction 0.5 / sqrt(5000) = 0.007, four of them.
        assert counts[index] / 20000 == pytest.approx(weight / 10, abs=0.028)
    assert counts[4] == 0


def test_without_weights_all_rows_are_equally_likely():
    torch.manual_seed(0)
    counts = Counter(i for batch in ShapeBatches(ROWS, 3, 4000) for i in batch)
    assert all(counts[i] / 12000 == pytest.approx(0.2, abs=0.03) for i in range(5))
