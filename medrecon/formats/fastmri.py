"""FastMRI's HDF5 layout."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.files import write_atomically
from medrecon.data.masks import achieved_acceleration
from medrecon.data.scan import CartesianScan, Geometry
from medrecon.formats.attributes import hdf5_attributes, permitted
from medrecon.formats.calgary_campinas import is_hybrid
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.companions import Companions
from medrecon.formats.contents import about_hdf5, lacking
from medrecon.formats.hdf5 import open_hdf5, read_dataset, text_of
from medrecon.formats.header import fitted, readout_cropped, voxel_size
from medrecon.formats.ismrmrd import is_ismrmrd
from medrecon.formats.probe import is_hdf5, is_matlab, never_raises
from medrecon.formats.scrub import scrubbed
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "read", "save_fastmri", "sniff"]

SUFFIXES = (".h5", ".hdf5")
KINDS = (CartesianScan,)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 with a dataset ``kspace``, and no other layout of these."""
    if not is_hdf5(path) or is_matlab(path):
        return False
    with open_hdf5(path) as file:
        kspace = file.get("kspace")
        return isinstance(kspace, h5py.Dataset) and not is_ismrmrd(file) and not is_hybrid(path, kspace)


def read(path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None) -> CartesianScan:
    """Dataset ``kspace`` ``(slices, coils, y, x)`` or ``(slices, y, x)``; optional ``mask``, ``noise``, ``ismrmrd_header``.

    Files that this package writes may hold an ``affine`` as well. The readout (rows) is cropped to the header's recon field of
    view.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    with open_hdf5(path) as file:
        if "kspace" not in file or not isinstance(file["kspace"], h5py.Dataset):
            raise lacking(path, "kspace", arrays=about_hdf5(file), file=file)
        data: dict[str, Any] = {
            key: read_dataset(file, key) for key in ("kspace", "mask", "noise", "affine") if key in file
        }
        header, lost = _optional_header(file)
        attributes = hdf5_attributes(file)
        odd = any(key in file.attrs and key not in attributes for key in ("padding_left", "padding_right"))
    kspace = data["kspace"]
    if kspace.ndim == 3:  # single coil: (slices, y, x)
        kspace = kspace[:, None]
    stored = Stored(
        noise=data.get("noise"),
        geometry=Geometry(affine=_affine(path, data.get("affine"))),
        header=header,
        attributes=attributes,
        warnings=tuple(f"{path}: {text}" for text in (*([_ODD_PADDING] if odd else []), *lost)),
    )
    return _by_header(cartesian_scan(path, "fastMRI HDF5", kspace=kspace, mask=data.get("mask"), stored=stored))


def _affine(path: Path, stored: object) -> np.ndarray | None:
    """The affine of a file, or ``None`` if it has none.

    Raises:
        InputError: if it cannot be inverted.
    """
    if stored is None:
        return None
    affine = np.asarray(stored)
    affine = affine.astype(float) if affine.dtype.kind in "iuf" else np.empty(0)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or min(_sides(affine)) == 0:
        raise InputError(
            f"{path}: 'affine' is not a 4 x 4 matrix of numbers that can be inverted; correct it, or leave it out of the file"
        )
    return affine


def _sides(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size ``(z, y, x)``."""
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x


_ODD_PADDING = "padding_left and padding_right are not two numbers; they are not used"


def _optional_header(file: h5py.File) -> tuple[bytes | None, tuple[str, ...]]:
    """The header of a file in fastMRI's layout without personal data, or ``None`` and what is to be said of it.

    Raises:
        InputError: if its text is damaged.
    """
    if "ismrmrd_header" not in file:
        return None, ()
    item, header = file["ismrmrd_header"], None
    if isinstance(item, h5py.Dataset) and item.shape is not None and (item.size == 1 or item.dtype == np.uint8):
        header = text_of(read_dataset(file, "ismrmrd_header"))
    with suppress(ElementTree.ParseError, ValueError, LookupError):  # also of an unknown encoding
        if header is not None:
            return scrubbed(header), ()
    return None, ("its ismrmrd_header cannot be read, so it is not used; the voxel size may not be known",)


def _by_header(scan: CartesianScan) -> CartesianScan:
    """With voxel size and recon field of view (of the readout) from the header, and a warning where it does not fit."""
    affine = scan.affine
    spacing, misfit = voxel_size(scan.header, scan.kspace.shape[2:]) if affine is None else (_sides(affine), "")
    kspace, mask, said = readout_cropped(scan.kspace, scan.mask, header=scan.header, placed=affine is not None)
    return replace(
        scan,
        kspace=kspace,
        mask=mask,
        geometry=Geometry(spacing, affine),
        attributes={**scan.attributes, **said},
        warnings=scan.warnings + ((f"{scan.path}: {misfit}",) if misfit else ()),
    )


def save_fastmri(path: str | Path, data: CartesianScan, overwrite: bool = False) -> None:
    """Write k-space in fastMRI layout with a ``mask`` dataset, whole or not at all; no reference image goes along.

    The header's spaces are made those of the arrays, so that nothing is cropped again when the file is read.

    Raises:
        InputError: if the file exists (without ``overwrite``) or cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["kspace"] = data.kspace
        file["mask"] = data.mask
        if data.affine is not None:
            file["affine"] = data.affine
        if data.header is not None:
            own = data.format == "fastMRI HDF5"
            file["ismrmrd_header"] = fitted(data.header, data.kspace.shape[2:], spacing=data.spacing, columns_kept=own)
        if data.noise_scan is not None:
            file["noise"] = data.noise_scan
        for key, value in data.attributes.items():
            if key not in ("max", "norm") and permitted(key, value) is not None:  # those two are of the reference image
                file.attrs[key] = value
        file.attrs["acceleration"] = achieved_acceleration(data.mask)
    write_atomically({Path(path): buffer.getvalue()}, overwrite)
