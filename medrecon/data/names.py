"""Names of cases: sort order and seeds."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

__all__ = ["case_seed", "natural_key"]


def case_seed(seed: int, name: str) -> int:
    """The seed of a case, independent of machine and order of the cases."""
    return zlib.crc32(f"{seed}:{name}".encode("utf-8", "surrogateescape"))


def natural_key(path: str | Path) -> list:
    """Natural sort key: slice2 before slice10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(len(p.lstrip("0")), p.lstrip("0"), p) if k % 2 else p for k, p in enumerate(parts)]
