"""Compressed DICOM pixels, decoded in a process of their own, which may die of a file without harm."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

__all__ = ["SECONDS", "decoded"]

SECONDS = 60.0
"""After which a file is given up; decoders take less than 0.1 s for an image."""


class _Decoder:
    """The process of :mod:`medrecon.formats.dicom.decoder`, started when it is needed and again after it died."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.owner = 0

    def ask(self, path: str, syntax: str, most: int) -> np.ndarray:
        """See :func:`decoded`."""
        with self.lock:
            process = self._started()
            try:
                return self._answer(process, path, syntax=syntax, most=most)
            except _RefusedError:
                raise
            except BaseException:
                self.stop()
                raise

    def _started(self) -> subprocess.Popen:
        if (
            self.process is None or self.owner != os.getpid() or self.process.poll() is not None
        ):  # of a parent: not ours
            script = str(Path(__file__).with_name("decoder.py"))
            self.process = subprocess.Popen(
                [sys.executable, script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            self.owner = os.getpid()
        return self.process

    def _answer(self, process: subprocess.Popen, path: str, syntax: str, most: int) -> np.ndarray:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([path, syntax, SECONDS]).encode() + b"\n")
        head = b""
        while not head.endswith(b"\n") and len(head) < 4096:
            head += self._read(process, 1)
        about = json.loads(head)
        if "error" in about:
            raise _RefusedError(about["error"])
        dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
        size = dtype.itemsize * math.prod(shape)
        if size > most:
            raise ValueError(f"they are {size} bytes, but the header says {most}")
        content = bytearray()
        while len(content) < size:
            content += self._read(process, min(size - len(content), 2**20))
        return np.frombuffer(content, dtype).reshape(shape)

    def _read(self, process: subprocess.Popen, n: int) -> bytes:
        assert process.stdout is not None
        data = process.stdout.read(n)
        if not data:
            late = hasattr(signal, "SIGALRM") and process.wait() == -signal.SIGALRM
            raise ValueError(f"the decoder did not end within {SECONDS:g} s" if late else "the decoder crashed")
        return data

    def stop(self) -> None:
        """End the process, if it is one of ours."""
        process, self.process = self.process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class _RefusedError(ValueError):
    """An answer of the decoder, which goes on."""


_decoder = _Decoder()
atexit.register(_decoder.stop)


def decoded(path: str, syntax: str, most: int) -> np.ndarray:
    """Decode the pixels of one file.

    Args:
        path: of the file.
        syntax: UID of the transfer syntax.
        most: bytes that they may have.

    Returns:
        the stored values, as pydicom's ``pixel_array``.

    Raises:
        ValueError: if they cannot be decoded, if the decoder crashes on them, or takes longer than :data:`SECONDS`.
    """
    return _decoder.ask(path, syntax, most)
