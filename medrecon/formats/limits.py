"""Files as untrusted input: what a header claims is compared with the file before memory is taken."""

from __future__ import annotations

import gzip
import io
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError, advised, redacted

__all__ = ["FREE", "RATIO", "BoundedReader", "check_claim", "check_packed", "inflated", "open_bounded", "reading"]

FREE = 2**28
"""Bytes that any file may unpack to: 256 MiB, which every machine has; blank and label volumes of usual sizes are smaller."""
RATIO = 100
"""How many times its stored size a larger file may unpack to. Raw data and images with noise reach 1.1 to 3, k-space with zeros
between eightfold undersampled lines 10, a head in empty air 8; deflate itself ends at 1032, which only constants reach."""


def check_claim(claimed: int, stored: int, name: object, what: str = "its header") -> None:
    """Refuse a file whose header claims far more bytes than the file can hold.

    Args:
        claimed: bytes of the arrays that would be made.
        stored: bytes of the file, or of the part of it that holds these arrays.
        name: of the file.
        what: claims it, as the subject of the sentence.

    Raises:
        InputError: for more than :data:`FREE` bytes and :data:`RATIO` times what is stored.
    """
    if claimed > FREE + RATIO * stored:
        raise InputError(
            f"{name}: {what} says {_size(claimed)}, but only {_size(stored)} are stored; the file is damaged or cut "
            "off, copy it again, or, if it holds little but one value, store it uncompressed"
        )


def _size(n: int) -> str:
    """Bytes in words, e.g. ``3.2 GB``."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= step:
            return f"{n / step:.3g} {unit}"
    return f"{n} bytes"


class BoundedReader(io.BufferedReader):
    """A file that never takes more memory than its rest for a read, however long that claims to be."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes."""
        rest = max(self._size - self.tell(), 0)
        return super().read(rest if size is None or size < 0 else min(size, rest))


@contextmanager
def open_bounded(path: str | Path) -> Iterator[BoundedReader]:
    """A :class:`BoundedReader`, closed at the end."""
    with BoundedReader(path) as file:
        yield file


def inflated(data: bytes, most: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Unpack a deflate stream, at most ``most`` bytes.

    Raises:
        ValueError: if it holds more, or ends early.
    """
    machine = zlib.decompressobj(wbits)
    out = machine.decompress(data, most + 1)
    if len(out) > most:
        raise ValueError(f"compressed data that unpack to more than {_size(most)}")
    if not machine.eof:
        raise ValueError("compressed data that end early")
    return out


def check_packed(path: str | Path) -> None:
    """Unpack a gzip file to its end, where its checksum is, and keep nothing of it.

    Raises:
        OSError, EOFError, zlib.error: if it is damaged.
    """
    with open_bounded(path) as stored, gzip.open(stored) as file:  # type: ignore[call-overload]
        while file.read(1 << 20):
            pass


@contextmanager
def reading(path: object, advice: str = "copy or export it again") -> Iterator[None]:
    """Whatever a file's bytes make a library raise becomes one sentence.

    The outermost net round a reader; what can be said better is said inside. Libraries' own warnings stay out of the output.

    Raises:
        InputError: naming the file and what to do.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: needs more memory than there is; read it on a larger machine") from error
    except Exception as error:  # libraries raise all kinds on damaged files, some of which derive from Exception alone
        if isinstance(error, OSError) and error.errno:  # of the system, not of the content
            why = os.strerror(error.errno)
            raise InputError(f"{path}: cannot be read ({why}); {advised(error, advice)}") from error
        raise InputError(f"{path}: cannot be read ({redacted(error)}); {advice}") from error
