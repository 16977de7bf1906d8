"""Checks of user arguments: numbers and counts."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from medrecon.data.errors import InputError

__all__ = ["as_number", "check_count", "shown"]


def shown(value: object) -> str:
    """A value as text for a message, at most 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, values that contain themselves
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_count(name: str, value: object, least: int, most: int) -> None:
    """Check that a value is a whole number from ``least`` to ``most``.

    Raises:
        InputError: naming the argument.
    """
    number: Any = value  # the abstract number classes do not declare comparisons
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= number <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}; got {shown(value)}")


def as_number(name: str, value: object, positive: bool = False) -> float:
    """A number that fits single precision and is nonnegative (or, with ``positive``, above 0).

    Raises:
        InputError: for anything else, naming the argument.
    """
    value = value.item() if isinstance(value, np.ndarray | Tensor) and value.ndim == 0 else value
    number: Any = value
    fits = isinstance(value, Real) and not isinstance(value, bool) and 0 <= number <= float(np.finfo(np.float32).max)
    if not fits or (positive and not value):
        kind = "above 0" if positive else "not negative"
        raise InputError(f"{name} must be a number that is finite (at most 3.4e38) and {kind}; got {shown(value)}")
    return float(number)
