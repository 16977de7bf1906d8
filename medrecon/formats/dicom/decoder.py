"""Separate process that decodes compressed DICOM images: the decoders are written in C++ and may crash their process.

Run by :func:`medrecon.formats.dicom.decoding.decode_file` as a script that does not import the package. For every line of JSON on
its input (path, transfer syntax, time limit in seconds) it writes a line of JSON (an error, or type and shape) and the bytes of
the pixels. An alarm ends the process if decoding exceeds the time limit, even if no process waits for the answer any more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__: list[str] = []


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns recorded in a JPEG, JPEG-LS or JPEG 2000 stream; ``None`` for other streams.

    Raises:
        ValueError: if the stream ends before its size, or has more than four components.
    """
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0:
        if len(frame) < at + 42:
            raise ValueError("a JPEG 2000 image ends in its header")
        right, bottom, left, top = (int.from_bytes(frame[k : k + 4], "big") for k in range(at + 8, at + 24, 4))
        if int.from_bytes(frame[at + 40 : at + 42], "big") > 4:
            raise ValueError("a JPEG 2000 image has more than four components")
        return bottom - top, right - left
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            raise ValueError("a JPEG image has a damaged header")
        kind = frame[at + 1]
        if kind == 0xFF:  # padding
            at += 1
            continue
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 2 + (0 if 0xD0 <= kind <= 0xD8 or kind == 1 else int.from_bytes(frame[at + 2 : at + 4], "big"))
    raise ValueError("a JPEG image ends in its header")


def check_codestreams(dataset: Any) -> None:  # noqa: ANN401 - of pydicom
    """Compare the sizes in compressed images with the header, since decoders allocate memory for the former.

    Raises:
        ValueError: if they differ.
    """
    from pydicom.encaps import generate_frames

    n, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    for frame in generate_frames(dataset.PixelData, number_of_frames=n):
        actual = codestream_size(frame)
        if actual is not None and actual != size:
            raise ValueError(
                f"a compressed image is {actual[0]} x {actual[1]}, but its header says {size[0]} x {size[1]}"
            )


def decode(path: str, syntax: str) -> np.ndarray:
    """Decode the stored values of one file.

    Raises:
        Exception: of any kind, if the file cannot be decoded.
    """
    import pydicom.uid

    with open(path, "rb") as file:  # in memory, where no element can allocate more than the file's size
        dataset = pydicom.dcmread(io.BytesIO(file.read()), force=True)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    check_codestreams(dataset)
    return dataset.pixel_array


def _end_after(seconds: float) -> None:
    """Set the alarm that ends this process; 0 cancels it. Not supported on Windows."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def serve() -> None:
    """Answer requests until the input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of the decoders must not mix with the answers
    for line in sys.stdin:
        path, syntax, seconds = json.loads(line)
        _end_after(seconds)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = decode(path, syntax)
            answer, content = {"dtype": pixels.dtype.str, "shape": pixels.shape}, pixels.tobytes()
        except Exception as error:
            answer, content = {"error": " ".join(str(error).split())[:500] or type(error).__name__}, b""
        _end_after(0.0)
        with contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(answer).encode() + b"\n" + content)
            out.flush()


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # modules in this folder must not shadow libraries
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    serve()
