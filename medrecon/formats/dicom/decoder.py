"""A process of its own that decodes compressed DICOM images: decoders are C++ and can take their process down.

Run by :func:`medrecon.formats.dicom.decoding.decoded`, as a script that imports nothing of the package. For every line of JSON
on its input (a path, a transfer syntax, and the seconds that it may take), it answers with a line of JSON (an error, or type and
shape) and the bytes of the pixels. Its own alarm ends it where decoding takes longer, also when nobody waits for the answer any
more.
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
    """Rows and columns by a JPEG, JPEG-LS or JPEG 2000 stream, ``None`` if it is of another kind.

    Raises:
        ValueError: if it is cut off before its size, or of more than four components.
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
    """Compare the sizes in compressed images with the header's: decoders take memory for theirs.

    Raises:
        ValueError: if one differs.
    """
    from pydicom.encaps import generate_frames

    n, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    for frame in generate_frames(dataset.PixelData, number_of_frames=n):
        own = codestream_size(frame)
        if own is not None and own != size:
            raise ValueError(f"a compressed image is {own[0]} x {own[1]}, but its header says {size[0]} x {size[1]}")


def decode(path: str, syntax: str) -> np.ndarray:
    """The stored values of one file.

    Raises:
        Exception: of any kind, for what cannot be decoded.
    """
    import pydicom.uid

    with open(path, "rb") as file:  # from memory, of which no element takes more than is there
        dataset = pydicom.dcmread(io.BytesIO(file.read()), force=True)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    check_codestreams(dataset)
    return dataset.pixel_array


def _end_after(seconds: float) -> None:
    """Let the system end this process; 0: not any more. Windows cannot."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def serve() -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what decoders print is no answer
    for line in sys.stdin:
        path, syntax, seconds = json.loads(line)
        _end_after(seconds)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = decode(path, syntax)
            about, content = {"dtype": pixels.dtype.str, "shape": pixels.shape}, pixels.tobytes()
        except Exception as error:
            about, content = {"error": " ".join(str(error).split())[:500] or type(error).__name__}, b""
        _end_after(0.0)
        with contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(about).encode() + b"\n" + content)
            out.flush()


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # whose names are not those of libraries
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    serve()
