"""Writing reconstructions, one class per format, with a JSON sidecar; images are never resampled or flipped."""

from __future__ import annotations

from medrecon.writers.base import Contents, Writer
from medrecon.writers.earlier import is_finished
from medrecon.writers.output import Output, check, write
from medrecon.writers.place import like_series, output_geometry
from medrecon.writers.registry import WRITERS, all_parts

__all__ = [
    "WRITERS",
    "Contents",
    "Output",
    "Writer",
    "all_parts",
    "check",
    "is_finished",
    "like_series",
    "output_geometry",
    "write",
]
