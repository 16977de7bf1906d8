"""The order of names."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["natural"]


def natural(path: str | Path) -> list:
    """A sort key for names with numbers in their order: slice2 before slice10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(len(p.lstrip("0")), p.lstrip("0"), p) if k % 2 else p for k, p in enumerate(parts)]
