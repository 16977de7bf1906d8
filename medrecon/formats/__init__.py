"""Files of scans: one module per format, and the functions that find the right one.

A module has ``SUFFIXES``; ``KINDS``, the records that it may return; ``sniff(path)``, whether a file is of this format, seen
from a few bytes or names inside and never from the suffix alone; and ``read(path, select, companions)``. Files from elsewhere
are untrusted input: a reader returns data that make sense, or raises :class:`medrecon.data.errors.InputError`.
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
