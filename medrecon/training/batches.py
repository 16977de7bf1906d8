"""Batches of rows whose arrays have equal shapes, since arrays of different shapes cannot be stacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

__all__ = ["ShapeBatches", "batches_in_order", "groups_by_shape"]


def groups_by_shape(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Indices of rows whose arrays have the same names and shapes, in the order of first appearance."""
    groups: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        shapes = ((name, tuple(value.shape)) for name, value in row.items() if hasattr(value, "shape"))
        groups.setdefault(tuple(sorted(shapes)), []).append(index)
    return list(groups.values())


def batches_in_order(rows: Sequence[Mapping[str, Any]], size: int) -> list[list[int]]:
    """Indices of all rows in batches of at most ``size`` rows of equal shapes."""
    return [group[i : i + size] for group in groups_by_shape(rows) for i in range(0, len(group), size)]


class ShapeBatches(Sampler[list[int]]):
    """Random batches of rows of equal shapes, with replacement: every row is drawn in proportion to its weight.

    Args:
        rows: rows with arrays.
        size: rows in a batch.
        count: number of batches.
        weights: sampling weights of the rows; ``None``: uniform.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], size: int, count: int, weights: Sequence[float] | None = None
    ) -> None:
        self.size = size
        self.count = count
        self.groups = [torch.tensor(group) for group in groups_by_shape(rows)]
        all_weights = torch.tensor([1.0] * len(rows) if weights is None else list(weights), dtype=torch.float64)
        self.weights: list[Tensor] = [all_weights[group] for group in self.groups]

    def __len__(self) -> int:
        """Number of batches."""
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        """Draw a group by the sum of its weights, then the rows."""
        totals = torch.stack([weights.sum() for weights in self.weights])
        for which in torch.multinomial(totals, self.count, replacement=True).tolist():
            chosen = torch.multinomial(self.weights[which], self.size, replacement=True)
            yield self.groups[which][chosen].tolist()
