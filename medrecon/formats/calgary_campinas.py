"""Hybrid HDF5 layout of the Calgary-Campinas multi-channel data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from medrecon.data.coils import to_kspace
from medrecon.data.scan import CartesianScan, Geometry
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.companions import Companions
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.formats.probe import is_hdf5, never_raises
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "is_hybrid", "read", "sniff"]

SUFFIXES = (".h5", ".hdf5")
KINDS = (CartesianScan,)


def is_hybrid(path: Path, kspace: h5py.Dataset) -> bool:
    """Whether a dataset has this layout; the file name is checked too, since real numbers alone are ambiguous."""
    named = re.match(r"e\d+s\d+_P\d+", path.name) is not None
    return named and kspace.dtype.kind == "f" and len(kspace.shape or ()) == 4 and kspace.shape[-1] % 2 == 0


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 in this layout."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        kspace = file.get("kspace")
        return isinstance(kspace, h5py.Dataset) and is_hybrid(path, kspace)


def read(path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None) -> CartesianScan:
    """Read the dataset ``kspace`` ``(readout, y, z, 2 coils)``; readout positions become slices, voxels are 1 mm.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    with open_hdf5(path) as file:
        pairs = read_dataset(file, "kspace")
    stored = Stored(geometry=Geometry((1.0, 1.0, 1.0)))
    return cartesian_scan(path, "Calgary-Campinas HDF5", _centred(pairs), stored=stored)


def _centred(pairs: np.ndarray) -> np.ndarray:
    """Convert to centred k-space ``(slices, coils, y, x)``.

    ``pairs`` is ``(readout, y, z, 2 coils)`` with alternating real and imaginary parts, already transformed along the readout; a
    plain inverse FFT along y and z gives images of 1 mm that need no shift (Souza et al., NeuroImage 170, 2018; Beauferris et
    al., Front. Neurosci. 16, 2022). Whether the centre of k-space is at the corner or in the middle is inferred from the data.
    """
    kspace = np.moveaxis(pairs[..., ::2] + 1j * pairs[..., 1::2], -1, 1).astype(np.complex64)
    y, x = np.unravel_index(np.argmax((np.abs(kspace) ** 2).sum(axis=(0, 1))), kspace.shape[-2:])
    ny, nx = kspace.shape[-2:]
    if abs(y - ny // 2) <= ny // 4 and abs(x - nx // 2) <= nx // 4:
        kspace = np.fft.ifftshift(kspace, (-2, -1))
    image = np.fft.ifft2(kspace, norm="ortho")
    centred = to_kspace(image).astype(np.complex64)
    # Samples that were not measured must stay exactly zero; the transform to the image and back leaves round-off there.
    measured = np.fft.fftshift((kspace != 0).any(axis=(0, 1)))
    return centred * measured
