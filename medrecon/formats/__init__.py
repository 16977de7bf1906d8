"""Readers of scan files: one module per format, and the functions that choose among them.

A format module has ``SUFFIXES``; ``KINDS``, the record classes that it may return; ``sniff(path)``, which recognises a file by a
few bytes or names inside, never by the suffix alone; and ``read(path, select, companions)``. Files are untrusted input: a reader
returns valid data or raises :class:`medrecon.data.errors.InputError`.
"""

from medrecon.formats.companions import Companions
from medrecon.formats.fastmri import save_fastmri
from medrecon.formats.kinds import load_array, load_image, load_kspace, load_like, load_noncartesian, load_sinogram
from medrecon.formats.registry import FORMATS, Format, format_of, load

__all__ = [
    "FORMATS",
    "Companions",
    "Format",
    "format_of",
    "load",
    "load_array",
    "load_image",
    "load_kspace",
    "load_like",
    "load_noncartesian",
    "load_sinogram",
    "save_fastmri",
]
