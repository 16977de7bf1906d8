"""HDF5 files in fastMRI layout."""

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
from medrecon.formats.contents import missing_array_error, summarise_hdf5
from medrecon.formats.hdf5 import open_hdf5, read_dataset, text_of
from medrecon.formats.header import crop_readout, fit_header, voxel_size
from medrecon.formats.ismrmrd import is_ismrmrd
from medrecon.formats.probe import is_hdf5, is_matlab, never_raises
from medrecon.formats.scrub import scrub_header
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.stored import Stored

__all__ = ["KINDS", "SUFFIXES", "read", "save_fastmri", "sniff"]

SUFFIXES = (".h5", ".hdf5")
KINDS = (CartesianScan,)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 with a dataset ``kspace`` and in no other supported layout."""
    if not is_hdf5(path) or is_matlab(path):
        return False
    with open_hdf5(path) as file:
        kspace = file.get("kspace")
        return isinstance(kspace, h5py.Dataset) and not is_ismrmrd(file) and not is_hybrid(path, kspace)


def read(path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None) -> CartesianScan:
    """Dataset ``kspace`` ``(slices, coils, y, x)`` or ``(slices, y, x)``.

    Optional: ``mask``, ``noise``, ``ismrmrd_header``, and ``shots``, see :class:`medrecon.data.scan.CartesianScan`. Files written
    by this package may also contain an ``affine``. The readout (rows) is cropped to the header's recon field of view.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    with open_hdf5(path) as file:
        if "kspace" not in file or not isinstance(file["kspace"], h5py.Dataset):
            raise missing_array_error(path, "kspace", arrays=summarise_hdf5(file), file=file)
        data: dict[str, Any] = {
            key: read_dataset(file, key) for key in ("kspace", "mask", "noise", "shots", "affine") if key in file
        }
        header, problems = _optional_header(file)
        attributes = hdf5_attributes(file)
        bad_padding = any(key in file.attrs and key not in attributes for key in ("padding_left", "padding_right"))
    kspace = data["kspace"]
    if kspace.ndim == 3:  # single coil: (slices, y, x)
        kspace = kspace[:, None]
    stored = Stored(
        noise=data.get("noise"),
        shots=data.get("shots"),
        geometry=Geometry(affine=_affine(path, data.get("affine"))),
        header=header,
        attributes=attributes,
        warnings=tuple(f"{path}: {text}" for text in (*([_BAD_PADDING] if bad_padding else []), *problems)),
    )
    return _apply_header(cartesian_scan(path, "fastMRI HDF5", kspace=kspace, mask=data.get("mask"), stored=stored))


def _affine(path: Path, stored: object) -> np.ndarray | None:
    """Check the affine of a file; ``None`` stays ``None``.

    Raises:
        InputError: if it is not an invertible 4 x 4 matrix.
    """
    if stored is None:
        return None
    affine = np.asarray(stored)
    affine = affine.astype(float) if affine.dtype.kind in "iuf" else np.empty(0)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or min(_spacing(affine)) == 0:
        raise InputError(
            f"{path}: 'affine' is not an invertible 4 x 4 matrix of numbers; correct it, or leave it out of the file"
        )
    return affine


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size ``(z, y, x)`` in mm."""
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x


_BAD_PADDING = "padding_left and padding_right are not two numbers; they are ignored"


def _optional_header(file: h5py.File) -> tuple[bytes | None, tuple[str, ...]]:
    """Header of a file in fastMRI layout without personal data, or ``None``, and problems with it.

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
            return scrub_header(header), ()
    return None, ("its ismrmrd_header cannot be read and is ignored; the voxel size may be unknown",)


def _apply_header(scan: CartesianScan) -> CartesianScan:
    """Apply the header's voxel size and recon field of view along the readout; warn if the header does not fit k-space."""
    affine = scan.affine
    spacing, mismatch = voxel_size(scan.header, scan.kspace.shape[2:]) if affine is None else (_spacing(affine), "")
    kspace, mask, notes = crop_readout(scan.kspace, scan.mask, header=scan.header, has_affine=affine is not None)
    return replace(
        scan,
        kspace=kspace,
        mask=mask,
        geometry=Geometry(spacing, affine),
        attributes={**scan.attributes, **notes},
        warnings=scan.warnings + ((f"{scan.path}: {mismatch}",) if mismatch else ()),
    )


def save_fastmri(path: str | Path, data: CartesianScan, overwrite: bool = False) -> None:
    """Write k-space in fastMRI layout with a ``mask`` dataset and without a reference image; the write is atomic.

    The spaces of the header are adapted to the array, so that reading the file does not crop it again.

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
            columns_kept = data.format == "fastMRI HDF5"
            file["ismrmrd_header"] = fit_header(
                data.header, data.kspace.shape[2:], spacing=data.spacing, columns_kept=columns_kept
            )
        if data.noise_scan is not None:
            file["noise"] = data.noise_scan
        if data.shots is not None:
            file["shots"] = data.shots
        for key, value in data.attributes.items():
            if (
                key not in ("max", "norm") and permitted(key, value) is not None
            ):  # max and norm describe the reference image
                file.attrs[key] = value
        file.attrs["acceleration"] = achieved_acceleration(data.mask)
    write_atomically({Path(path): buffer.getvalue()}, overwrite)
