"""Directions in the patient at the edges of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Edges", "edges"]

_POSITIVE, _NEGATIVE = "RAS", "LPI"
_OBLIQUE = 0.3
"""Direction cosine from which a second letter is given."""


class Edges(NamedTuple):
    """Directions in the patient that the edges of an image face.

    R and L are right and left, A and P anterior and posterior, S and I superior and inferior.
    """

    left: str
    right: str
    top: str
    bottom: str


def _letters(direction: np.ndarray) -> str:
    """The main direction, and for oblique slices the second one."""
    cosines = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(cosines), kind="stable")
    main, second = ((_POSITIVE if cosines[k] > 0 else _NEGATIVE)[k] for k in order[:2])
    return main + (second if abs(cosines[order[1]]) > _OBLIQUE else "")


def edges(affine: np.ndarray | None) -> Edges | None:
    """Directions at the edges of slices whose rows run downwards and columns to the right.

    Args:
        affine: affine from indices (x, y, slice) to mm in RAS; ``None``: unknown.
    """
    if affine is None:
        return None
    columns = np.asarray(affine, float)[:3, :3]
    if not np.isfinite(columns).all() or not np.linalg.norm(columns, axis=0).all():
        return None
    x, y = columns[:, 0], columns[:, 1]
    return Edges(left=_letters(-x), right=_letters(x), top=_letters(-y), bottom=_letters(y))
