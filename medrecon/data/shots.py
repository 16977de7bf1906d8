"""Shots: which samples of k-space were measured together, in the same pose of the object."""

from __future__ import annotations

import numpy as np

from medrecon.data.errors import InputError

__all__ = ["FEWEST_LINES", "check_shots", "shot_warnings"]

FEWEST_LINES = 4
"""Number of lines below which the motion of a shot is poorly determined."""
_MOST_SHOTS = 1000


def check_shots(shots: np.ndarray, mask: np.ndarray, matrix: tuple[int, ...], name: str) -> np.ndarray:
    """Sampling mask of every shot, bool ``(shots, 1 or y, x)``, by ascending label.

    Args:
        shots: label of every position, whole numbers ``(x,)`` or ``(y, x)``; negative where not sampled.
        mask: sampling mask ``(x,)`` or ``(y, x)``; labels of positions that were not sampled are ignored.
        matrix: shape of k-space, ``(y, x)``.
        name: name of the scan or file, for errors.

    Raises:
        InputError: if labels do not fit, samples have none, or there is a single shot.
    """
    labels = np.asarray(shots)
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
        raise InputError(f"{name}: labels of shots must be whole numbers, -1 where not sampled; got {labels.dtype}")
    labels = labels[0] if labels.shape == (1, matrix[1]) else labels
    if labels.shape not in (matrix[1:], matrix):
        raise InputError(
            f"{name}: the labels of shots have shape {labels.shape}, but k-space is {matrix[0]} x {matrix[1]}; give "
            f"({matrix[1]},) for columns or {matrix} for points"
        )
    labels, sampled = np.atleast_2d(labels), np.atleast_2d(mask)
    if len(sampled) == 1 and (labels == labels[:1]).all():
        labels = labels[:1]
    labels, sampled = np.broadcast_arrays(labels, sampled)
    without = int((sampled & (labels < 0)).sum()) * (matrix[0] // len(labels))
    if without:
        total = int(sampled.sum()) * (matrix[0] // len(labels))
        raise InputError(f"{name}: {without} of {total} samples belong to no shot; give every sampled line a label")
    found = np.unique(labels[sampled])
    if len(found) < 2:
        raise InputError(
            f"{name}: all samples belong to one shot, so there is no motion between shots; leave out --correct-motion"
        )
    if len(found) > _MOST_SHOTS:
        raise InputError(
            f"{name}: there are {len(found)} shots, more than {_MOST_SHOTS}; give one label per shot, not per sample"
        )
    return (labels == found[:, None, None]) & sampled


def shot_warnings(shots: np.ndarray, name: str) -> tuple[str, ...]:
    """A warning about shots of few lines, whose motion is poorly determined.

    Args:
        shots: masks ``(shots, 1 or y, x)``.
        name: name of the scan.
    """
    few = [str(s) for s, mask in enumerate(shots) if mask.any(axis=0).sum() < FEWEST_LINES]
    if not few:
        return ()
    shown = ", ".join(few[:8]) + (", ..." if len(few) > 8 else "")
    return (
        f"{name}: shot {shown} has fewer than {FEWEST_LINES} lines, so its motion is poorly determined and the image may be "
        "wrong; join shots that were measured shortly after each other",
    )
