"""Number of network evaluations, and the settings that suit it, by acceleration and quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medrecon.settings import QUALITIES

__all__ = ["QualityRow", "choose_row", "default_steps", "overridden"]


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Settings of a solver at one acceleration and quality.

    Args:
        acceleration: acceleration that the row was chosen for, see :attr:`medrecon.problems.base.Problem.acceleration`.
        quality: ``fast``, ``standard`` or ``best``.
        steps: network evaluations per sample.
        settings: settings of the solver that differ from those tuned at other accelerations, ``sigma_max`` and ``spacing`` of the
            noise levels among them.
    """

    acceleration: float
    quality: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)


def choose_row(
    rows: Sequence[QualityRow], acceleration: float | None, quality: str | None, steps: int | None
) -> QualityRow | None:
    """The row for an acceleration and a quality, or the row whose number of evaluations is nearest to ``steps``.

    Accelerations and numbers of evaluations are compared by their ratio.

    Args:
        rows: rows of one solver; every acceleration has all qualities.
        acceleration: acceleration of the problem; ``None``: it has none, and neither does it have a row.
        quality: quality that was asked for; ``None``: ``standard``, or the nearest where ``steps`` is given.
        steps: number of evaluations that was asked for, or ``None``.
    """
    if not rows or acceleration is None:
        return None

    def ratio(a: float, b: float) -> float:
        return abs(math.log(a / b))

    nearest = min((row.acceleration for row in rows), key=lambda one: ratio(one, acceleration))
    rows = [row for row in rows if row.acceleration == nearest]
    if quality is None and steps is not None:
        return min(rows, key=lambda row: ratio(row.steps, steps))
    return next(row for row in rows if row.quality == (quality or "standard"))


def default_steps(n_steps: int, quality: str | None) -> int:
    """Evaluations of a solver without rows: half of ``n_steps`` for ``fast``, twice as many for ``best``, at least 1."""
    return {QUALITIES[0]: max(1, n_steps // 2), QUALITIES[2]: 2 * n_steps}.get(quality or "", n_steps)


def overridden(
    rows: Mapping[str, Sequence[QualityRow]], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[QualityRow]]:
    """The rows of every solver, with settings that come first."""
    return {
        name: [replace(row, settings={**row.settings, **settings.get(name, {})}) for row in each]
        for name, each in rows.items()
    }
