"""Which of several things in a file is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medrecon.data.errors import InputError

__all__ = ["refuse_selection", "volume_number"]


def refuse_selection(path: Path, select: Mapping[str, object] | None) -> None:
    """Refuse a selection in a file that holds one thing only.

    Raises:
        InputError: if anything is selected.
    """
    if select:
        raise InputError(f"{path}: nothing can be selected in this format; leave the selection (--select) out")


def volume_number(wanted: object, count: int, name: object) -> int:
    """Which of ``count`` volumes is asked for.

    Raises:
        InputError: if there is none of that number.
    """
    try:
        number = float(str(wanted))
    except ValueError:
        number = -1.0
    if not 0 <= number < count or number != int(number):
        held = f"there are volume=0 to volume={count - 1}" if count > 1 else "there is one volume, volume=0"
        raise InputError(f"{name}: no volume={wanted}; {held}")
    return int(number)
