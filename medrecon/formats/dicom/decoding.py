"""Decoding of compressed DICOM pixels in a separate process, which may crash without affecting this one."""

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

__all__ = ["SECONDS", "decode_file"]

SECONDS = 60.0
"""Time limit for a file; decoders take less than 0.1 s for an image."""


class _Decoder:
    """Process of :mod:`medrecon.formats.dicom.decoder`, started on demand and restarted after a crash."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.owner = 0

    def ask(self, path: str, syntax: str, max_bytes: int) -> np.ndarray:
        """See :func:`decode_file`."""
        with self.lock:
            process = self._started()
            try:
                return self._answer(process, path, syntax=syntax, max_bytes=max_bytes)
            except _RefusedError:
                raise
            except BaseException:
                self.stop()
                raise

    def _started(self) -> subprocess.Popen:
        if (
            self.process is None or self.owner != os.getpid() or self.process.poll() is not None
        ):  # a forked child must not use the process of its parent
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

    def _answer(self, process: subprocess.Popen, path: str, syntax: str, max_bytes: int) -> np.ndarray:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([path, syntax, SECONDS]).encode() + b"\n")
        head = b""
        while not head.endswith(b"\n") and len(head) < 4096:
            head += self._read(process, 1)
        answer = json.loads(head)
        if "error" in answer:
            raise _RefusedError(answer["error"])
        dtype, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
        size = dtype.itemsize * math.prod(shape)
        if size > max_bytes:
            raise ValueError(f"they are {size} bytes, but the header says {max_bytes}")
        content = bytearray()
        while len(content) < size:
            content += self._read(process, min(size - len(content), 2**20))
        return np.frombuffer(content, dtype).reshape(shape)

    def _read(self, process: subprocess.Popen, n: int) -> bytes:
        assert process.stdout is not None
        data = process.stdout.read(n)
        if not data:
            timed_out = hasattr(signal, "SIGALRM") and process.wait() == -signal.SIGALRM
            raise ValueError(f"the decoder did not finish within {SECONDS:g} s" if timed_out else "the decoder crashed")
        return data

    def stop(self) -> None:
        """End the process, if this process started it."""
        process, self.process = self.process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class _RefusedError(ValueError):
    """An error reported by the decoder, which keeps running."""


_decoder = _Decoder()
atexit.register(_decoder.stop)


def decode_file(path: str, syntax: str, max_bytes: int) -> np.ndarray:
    """Decode the pixels of one file.

    Args:
        path: path of the file.
        syntax: UID of the transfer syntax.
        max_bytes: largest size of the decoded pixels in bytes.

    Returns:
        The stored values, as in pydicom's ``pixel_array``.

    Raises:
        ValueError: if the pixels cannot be decoded, or the decoder crashes or takes longer than :data:`SECONDS`.
    """
    return _decoder.ask(path, syntax, max_bytes)
