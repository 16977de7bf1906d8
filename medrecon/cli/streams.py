"""Standard output and standard error that may be closed, or be read by a program that ends first (``medrecon ... | head``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

__all__ = ["lasting"]


def _to_nowhere(stream: TextIO) -> None:
    """Let what is still written to a stream, by us or when Python ends, go nowhere."""
    with suppress(OSError, ValueError):  # no file stands behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Lasting:
    """A stream whose reader may go away: the command goes on, and nobody reads what it prints.

    Args:
        stream: where to write.
        name: of the stream, for errors.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """See ``TextIO``."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            _to_nowhere(self._stream)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error
        return len(text)

    def flush(self) -> None:
        """See ``TextIO``."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            _to_nowhere(self._stream)
        except OSError as error:
            _to_nowhere(self._stream)  # what is left would fail again when Python ends
            raise OSError(error.errno, error.strerror, self._name) from error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


def _open_descriptors() -> None:
    """Occupy descriptors 0 to 2 where they are closed: the next file would get their number, and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


@contextmanager
def lasting() -> Iterator[None]:
    """Standard output and error that outlive their readers, and take any file name.

    Raises:
        OSError: if the output cannot be written for another reason, such as a full disk.
    """
    _open_descriptors()
    out, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    with suppress(AttributeError, ValueError):  # not a stream of Python's own
        out.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    streams = _Lasting(out, "standard output"), _Lasting(err, "standard error")
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):  # type: ignore[type-var]
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
