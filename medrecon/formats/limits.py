"""Limits for untrusted files: sizes claimed by a header are checked against the file before memory is allocated."""

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

from medrecon.data.errors import InputError, os_error_advice, redacted

__all__ = [
    "FREE_BYTES",
    "MAX_RATIO",
    "BoundedReader",
    "check_claim",
    "check_gzip",
    "inflate",
    "open_bounded",
    "reading",
]

FREE_BYTES = 2**28
"""Bytes that any file may unpack to: 256 MiB, available on every machine; blank and label volumes of usual sizes are smaller."""
MAX_RATIO = 100
"""Largest compression ratio of a larger file. Raw data and images with noise reach 1.1 to 3, k-space with zeros between eightfold
undersampled lines 10, a head in empty air 8; the limit of deflate is 1032, reached only by constants."""


def check_claim(claimed: int, stored: int, name: object, what: str = "its header") -> None:
    """Refuse a file whose header claims far more bytes than the file can hold.

    Args:
        claimed: bytes of the arrays that would be allocated.
        stored: bytes of the file, or of the part of it that contains these arrays.
        name: name of the file.
        what: source of the claim, the subject of the message.

    Raises:
        InputError: for more than :data:`FREE_BYTES` bytes and :data:`MAX_RATIO` times what is stored.
    """
    if claimed > FREE_BYTES + MAX_RATIO * stored:
        raise InputError(
            f"{name}: {what} claims {_size(claimed)}, but only {_size(stored)} are stored; if the file is damaged or cut off, "
            "copy it again; if it contains little but one value, store it uncompressed"
        )


def _size(n: int) -> str:
    """Human-readable number of bytes, e.g. ``3.2 GB``."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= step:
            return f"{n / step:.3g} {unit}"
    return f"{n} bytes"


class BoundedReader(io.BufferedReader):
    """A file whose reads never allocate more than the remaining bytes, whatever size is requested."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """Read at most ``size`` bytes."""
        remaining = max(self._size - self.tell(), 0)
        return super().read(remaining if size is None or size < 0 else min(size, remaining))


@contextmanager
def open_bounded(path: str | Path) -> Iterator[BoundedReader]:
    """Open a file as a :class:`BoundedReader` and close it at the end."""
    with BoundedReader(path) as file:
        yield file


def inflate(data: bytes, limit: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Unpack a deflate stream of at most ``limit`` bytes.

    Raises:
        ValueError: if it unpacks to more, or ends early.
    """
    decompressor = zlib.decompressobj(wbits)
    out = decompressor.decompress(data, limit + 1)
    if len(out) > limit:
        raise ValueError(f"compressed data that unpack to more than {_size(limit)}")
    if not decompressor.eof:
        raise ValueError("compressed data that end early")
    return out


def check_gzip(path: str | Path) -> None:
    """Verify the checksum at the end of a gzip file by unpacking it without keeping the content.

    Raises:
        OSError, EOFError, zlib.error: if it is damaged.
    """
    with open_bounded(path) as stored, gzip.open(stored) as file:  # type: ignore[call-overload]
        while file.read(1 << 20):
            pass


@contextmanager
def reading(path: object, advice: str = "copy or export it again") -> Iterator[None]:
    """Turn any exception raised while reading a file into an :class:`InputError`.

    This is the outermost handler of every reader; more specific errors are raised inside. Warnings of libraries are suppressed.

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
        raise InputError(f"{path}: needs more memory than available; read it on a larger machine") from error
    except Exception as error:  # on damaged files libraries raise all kinds, some derived directly from Exception
        if isinstance(error, OSError) and error.errno:  # from the operating system, not the content
            reason = os.strerror(error.errno)
            raise InputError(f"{path}: cannot be read ({reason}); {os_error_advice(error, advice)}") from error
        raise InputError(f"{path}: cannot be read ({redacted(error)}); {advice}") from error
