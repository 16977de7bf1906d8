"""Selection among several volumes of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medrecon.data.errors import InputError

__all__ = ["refuse_selection", "volume_number"]


def refuse_selection(path: Path, select: Mapping[str, object] | None) -> None:
    """Refuse a selection in a format with only one scan per file.

    Raises:
        InputError: if anything is selected.
    """
    if select:
        raise InputError(f"{path}: this format does not support selection; leave it out (--select)")


def volume_number(volume: object, count: int, name: object) -> int:
    """Convert the selection of one of ``count`` volumes to its number.

    Raises:
        InputError: if there is no volume of that number.
    """
    try:
        number = float(str(volume))
    except ValueError:
        number = -1.0
    if not 0 <= number < count or number != int(number):
        available = f"there are volume=0 to volume={count - 1}" if count > 1 else "there is one volume, volume=0"
        raise InputError(f"{name}: no volume={volume}; {available}")
    return int(number)
