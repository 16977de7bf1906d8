"""Recognition of file formats by their first bytes, without trusting them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

from medrecon.data.errors import DAMAGE
from medrecon.formats.limits import open_bounded

__all__ = ["first_bytes", "is_hdf5", "is_matlab", "never_raises"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def never_raises(check: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """Decorate a check of a file to return false if the file is damaged, missing or cannot be read."""

    @functools.wraps(check)
    def quiet(path: Path) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return bool(check(Path(path)))
        except DAMAGE:
            return False

    return quiet


def first_bytes(path: Path, n: int, start: int = 0) -> bytes:
    """At most ``n`` bytes of a regular file from ``start`` on; empty for anything else."""
    if not path.is_file():
        return b""
    with open_bounded(path) as file:
        file.seek(start)
        return file.read(n)


def is_hdf5(path: Path) -> bool:
    """Whether a file has the HDF5 signature at an allowed position: byte 0, 512, 1024, 2048, ..."""
    if not path.is_file():
        return False
    size, at = path.stat().st_size, 0
    while at + 8 <= size:
        if first_bytes(path, 8, at) == _SIGNATURE:
            return True
        at = max(2 * at, 512)
    return False


def is_matlab(path: Path) -> bool:
    """Whether a file is a MATLAB file: by its signature, or by its suffix if it may lack one (version 4, other HDF5)."""
    start = first_bytes(path, 128)
    named = path.suffix.lower() == ".mat"
    if start[:10] == b"MATLAB 7.3" or (named and is_hdf5(path)):
        return is_hdf5(path)
    if start[126:128] in (b"IM", b"MI"):
        return start[:6] == b"MATLAB" or named
    return named and _is_version4(start)


def _is_version4(start: bytes) -> bool:
    """Whether a file begins with the header of a variable in MATLAB version 4."""
    for order in ("little", "big"):
        code, rows, columns, imaginary, n = (
            int.from_bytes(start[k : k + 4], order, signed=True) for k in range(0, 20, 4)
        )
        if code % 10 <= 2 and 0 <= code < 2000 and min(rows, columns) >= 0 and imaginary in (0, 1) and 0 < n < 256:
            return len(start) >= 20
    return False
