"""Keep a command running if its output is closed, or read by a program that ends first (``medrecon ... | head``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

__all__ = ["robust_streams"]


def _discard_output(stream: TextIO) -> None:
    """Discard everything that is still written to a stream, also when Python exits."""
    with suppress(OSError, ValueError):  # the stream has no file descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _RobustStream:
    """A stream that discards its output once the reader has closed it.

    Args:
        stream: stream to write to.
        name: name of the stream in error messages.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """See ``TextIO``."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            _discard_output(self._stream)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error
        return len(text)

    def flush(self) -> None:
        """See ``TextIO``."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            _discard_output(self._stream)
        except OSError as error:
            _discard_output(self._stream)  # otherwise the remaining output fails again when Python exits
            raise OSError(error.errno, error.strerror, self._name) from error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


def _open_descriptors() -> None:
    """Open descriptors 0 to 2 if they are closed, so that no file gets their number and the output of libraries."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


@contextmanager
def robust_streams() -> Iterator[None]:
    """Redirect standard output and error to streams that survive the end of their readers and accept any file name.

    Raises:
        OSError: if the output cannot be written for another reason, e.g. a full disk.
    """
    _open_descriptors()
    out, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    with suppress(AttributeError, ValueError):  # not a standard text stream
        out.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    streams = _RobustStream(out, "standard output"), _RobustStream(err, "standard error")
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):  # type: ignore[type-var]
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
