"""Output formats by name; a new format is a class in its own module and a line here."""

from __future__ import annotations

from medrecon.writers.base import Writer
from medrecon.writers.dicom import Dicom
from medrecon.writers.h5 import Hdf5
from medrecon.writers.mrd import Mrd
from medrecon.writers.nifti import Nifti
from medrecon.writers.npz import Npz
from medrecon.writers.png import Png

__all__ = ["WRITERS", "all_parts"]

WRITERS: dict[str, Writer] = {
    "nifti": Nifti(),
    "h5": Hdf5(),
    "dicom": Dicom(),
    "mrd": Mrd(),
    "npz": Npz(),
    "png": Png(),
}


def all_parts() -> tuple[str, ...]:
    """Parts of complex images that at least one format supports."""
    return tuple(dict.fromkeys(part for writer in WRITERS.values() for part in writer.parts))
