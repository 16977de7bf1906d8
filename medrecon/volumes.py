"""Volumes for evaluation: a reconstruction, and a reference from a volume or fully sampled k-space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.espirit import combined_reference
from medrecon.data.files import read_sidecar, sidecar_mismatch
from medrecon.data.geometry import lps_to_ras
from medrecon.data.sampling import one_sided_warnings, undersampled
from medrecon.data.scan import ImageScan
from medrecon.formats import FORMATS, format_of, load_array, load_image, load_kspace
from medrecon.formats.arrays import numpy_arrays
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.formats.ismrmrd import is_ismrmrd
from medrecon.formats.limits import reading
from medrecon.formats.nifti import is_nifti
from medrecon.formats.probe import first_bytes
from medrecon.uncertainty import MAPS

__all__ = ["Volume", "check_pair", "load_reference", "load_volume"]

_HEADER = ("position", "read_dir", "phase_dir", "slice_dir", "field_of_view")
"""Members of an MRD image header that determine the position of the image."""
_TOLERANCE = 0.1
"""Largest distance between corners of equal images, voxels: above the round-off of headers, below visible shifts."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An image.

    Args:
        path: path of the file or folder.
        array: image ``(slices, y, x)`` float32; the magnitude of complex images.
        affine: affine from voxel indices (x, y, slice) to mm in RAS, or ``None`` if it is not recorded.
        is_ct: whether file or sidecar record CT, so that values are HU.
        warnings: sentences about possible faults of the comparison.
    """

    path: Path
    array: np.ndarray
    affine: np.ndarray | None = None
    is_ct: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def has_negative(self) -> bool:
        """Whether there are negative values, so that the image is not a magnitude."""
        return bool((self.array < 0).any())


def load_volume(path: str | Path, select: Mapping[str, Any] | None = None) -> Volume:
    """Read a volume and, if ``medrecon`` wrote it, its sidecar.

    Args:
        path: path of NIfTI, a DICOM file or folder, HDF5 or npz with ``reconstruction``, or MRD images.
        select: selection among several DICOM series or volumes.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    with reading(path):
        return _volume(Path(path), select)


def _volume(path: Path, select: Mapping[str, Any] | None) -> Volume:
    """See :func:`load_volume`."""
    _refuse_map(path)
    sidecar = _sidecar(path)
    record, warnings = read_sidecar(sidecar) or {}, tuple(_other_content(path, sidecar))
    affine, attributes = None, {}
    if _holds_images(path):
        image = load_image(path, select)
        array, affine, attributes = image.array, image.affine, image.attributes
    elif (name := _mrd_group(path)) is not None:
        array, affine = _mrd(path, name)
        affine = affine if record.get("affine_known", True) else None
    else:
        array = load_array(path, "reconstruction")
        affine = _affine(record)
        if affine is None and first_bytes(path, 2) == b"PK":
            affine = _affine(numpy_arrays(path, ("affine",))[0])
    if array.ndim != 3:
        raise InputError(f"{path}: has shape {array.shape}; give one volume (slices, y, x)")
    array = np.abs(array) if np.iscomplexobj(array) else array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds NaN, Inf or numbers beyond single precision; reconstruct again")
    is_ct = attributes.get("Modality") == "CT" or record.get("modality") == "CT" or "water_per_mm" in record
    return Volume(path=path, array=array, affine=affine, is_ct=is_ct, warnings=warnings)


def load_reference(path: str | Path, select: Mapping[str, Any] | None = None) -> Volume:
    """Read a volume, or combine the coils of fully sampled k-space (:func:`medrecon.data.espirit.combined_reference`).

    Raises:
        InputError: as :func:`load_volume`, or if k-space is undersampled.
    """
    path = Path(path)
    with reading(path):
        is_volume = _holds_images(path) or _holds_reconstruction(path)
    if is_volume:
        return load_volume(path, select)
    full = load_kspace(path, select)
    if undersampled(full.kspace, full.mask):
        raise InputError(f"{full.path}: is undersampled itself; give a fully sampled reference")
    warnings = (*full.warnings, *one_sided_warnings(full.kspace, full.mask, str(full.path)))
    return Volume(path=full.path, array=combined_reference(full.kspace), affine=full.affine, warnings=warnings)


def check_pair(image: Volume, reference: Volume) -> bool:
    """Check that two volumes can be compared; return whether both are in HU (otherwise magnitudes).

    Raises:
        InputError: if shapes or affines differ, or if only one has negative values and neither is recorded as CT.
    """
    if image.array.shape != reference.array.shape:
        raise InputError(
            f"{image.path}: shape {image.array.shape}, but {reference.path} is {reference.array.shape} (slices, y, x); "
            "reconstruct all slices on the full matrix"
        )
    if image.affine is not None and reference.affine is not None:
        distance = _corner_distance(image.affine, reference.affine, image.array.shape)
        if distance > _TOLERANCE:
            raise InputError(
                f"{image.path}: has a different affine than {reference.path} (positions differ by up to {distance:.3g} voxels); "
                "give a reference of the same slices, stored in the same order"
            )
    if image.is_ct or reference.is_ct or (image.has_negative and reference.has_negative):
        return True
    for one in (image, reference):
        if one.has_negative:
            raise InputError(f"{one.path}: holds negative numbers, so it is not a magnitude image; give the magnitude")
    return False


def _corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the same corner by two affines, in units of the smallest voxel size of the first."""
    corners = np.array([[*at, 1] for at in product(*((0, n - 1) for n in shape[::-1]))], float).T
    distance = np.linalg.norm(((np.asarray(first) - second) @ corners)[:3], axis=0).max()
    return float(distance / np.linalg.norm(np.asarray(first)[:3, :3], axis=0).min())


# Sidecars


def _sidecar(path: Path) -> Path:
    """The path of the sidecar of an image of this package; for a folder of slices, beside the folder."""
    name = path.name if path.is_dir() else re.sub(r"(\.nii)?\.[^.]+$", "", path.name)
    beside = path.with_name(f"{name}.json")
    if not beside.is_file() and name.endswith("_part-mag"):
        return path.with_name(f"{name.removesuffix('_part-mag')}.json")
    return beside


def _refuse_map(path: Path) -> None:
    """Refuse a map of several samples, which has the name of its image and an ending.

    Raises:
        InputError: if the sidecar of another file lists the path as a map.
    """
    stem = re.sub(r"(\.nii)?\.[^.]+$", "", path.name)
    for name in MAPS:
        if stem.endswith(f"_{name}"):
            record = read_sidecar(path.with_name(f"{stem.removesuffix(f'_{name}')}.json"))
            maps = (record or {}).get("maps")
            entry = maps.get(name) if isinstance(maps, dict) else None
            files = entry.get("files") if isinstance(entry, dict) else None
            if isinstance(files, list) and path.name in files:
                raise InputError(
                    f"{path}: is a map of the samples ({MAPS[name]}); give their mean, the image beside it"
                )


def _other_content(path: Path, sidecar: Path) -> Iterator[str]:
    """A warning if the sidecar describes other content than that of the file, or of a file in the folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for one in files if sidecar.is_file() else []:
        problem = sidecar_mismatch(one, sidecar) if one.is_file() else None
        if problem is not None:
            yield problem
            return


def _affine(record: Mapping[str, Any]) -> np.ndarray | None:
    """The affine in a sidecar."""
    try:
        affine = np.array(record["affine"], float)
    except (LookupError, TypeError, ValueError):
        return None
    return affine if affine.shape == (4, 4) and np.isfinite(affine).all() else None


# Formats


def _holds_images(path: Path) -> bool:
    """Whether a path is read as NIfTI or DICOM: a folder, a file of these formats, or a file of no other format."""
    if is_nifti(path) or path.is_dir():
        return True
    found = format_of(path)
    if found is not None:
        return ImageScan in found.KINDS
    others = tuple(suffix for one in FORMATS if ImageScan not in one.KINDS for suffix in one.SUFFIXES)
    return path.is_file() and not _is_hdf5(path) and not path.name.lower().endswith(others)


def _is_hdf5(path: Path) -> bool:
    return path.is_file() and h5py.is_hdf5(path)


def _holds_reconstruction(path: Path) -> bool:
    """Whether HDF5 or npz contains images and no k-space; a file with k-space is always read as k-space."""
    if first_bytes(path, 2) == b"PK":
        names = numpy_arrays(path, ())[1]
        return "reconstruction" in names and "kspace" not in names
    if not _is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return not is_ismrmrd(file) and "kspace" not in file and ("reconstruction" in file or _groups(file) != [])


def _groups(file: h5py.Group, deepest: int = 3) -> list[str]:
    """Names of groups of MRD images, which have ``data`` and ``header``."""
    found = []
    for name in file:
        item = file.get(name)
        if isinstance(item, h5py.Group):
            if {"data", "header"} <= set(item):
                found.append(name)
            elif deepest > 1:
                found += [f"{name}/{inner}" for inner in _groups(item, deepest - 1)]
    return found


def _mrd_group(path: Path) -> str | None:
    """The group of MRD images in a file that is not in fastMRI layout, or ``None``; beside maps, that of the image.

    Raises:
        InputError: if there are several.
    """
    if not _is_hdf5(path):
        return None
    with open_hdf5(path) as file:
        groups = [] if "reconstruction" in file else _groups(file)
        groups = _without_maps(groups)
    if len(groups) > 1:
        raise InputError(f"{path}: contains several series of images ({', '.join(groups)}); give a file with one")
    return groups[0] if groups else None


def _without_maps(groups: list[str]) -> list[str]:
    """The group ``reconstruction`` alone if all other groups are maps beside it; otherwise all groups."""
    for group in groups:
        home, _, name = group.rpartition("/")
        beside = {f"{home}/{one}".lstrip("/") for one in MAPS}
        if name == "reconstruction" and set(groups) - {group} <= beside:
            return [group]
    return groups


def _mrd(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The array ``(slices, y, x)`` of MRD images, one per slice, and the affine from their headers.

    Raises:
        InputError: if they are not one image per slice.
    """
    with open_hdf5(path) as file:
        group = cast(h5py.Group, file[name])
        data, heads = (np.asarray(read_dataset(group, key)) for key in ("data", "header"))
    if data.dtype.names is not None:
        data = (data[data.dtype.names[0]] + 1j * data[data.dtype.names[1]]).astype(np.complex64)
    if data.ndim != 5 or data.shape[1:3] != (1, 1) or len(heads) != len(data):
        raise InputError(f"{path}: contains MRD images of shape {data.shape[1:]}; give one image (y, x) per slice")
    if any(key not in (heads.dtype.names or ()) or heads[key].shape != (len(heads), 3) for key in _HEADER):
        raise InputError(f"{path}: image headers lack positions; convert the file again")
    return data[:, 0, 0], _mrd_affine(heads, data.shape[-1], data.shape[-2])


def _mrd_affine(heads: np.ndarray, nx: int, ny: int) -> np.ndarray | None:
    """The affine from positions (of pixel ``n // 2``), directions and field of view; ``None`` for unequally spaced slices."""
    positions, field = heads["position"].astype(float), heads["field_of_view"][0].astype(float)
    axes = np.stack([heads[key][0].astype(float) for key in ("read_dir", "phase_dir", "slice_dir")], axis=1)
    lps = np.eye(4)
    lps[:3, :3] = axes * (field / [nx, ny, 1])
    if len(positions) > 1:
        steps = np.diff(positions, axis=0)
        lps[:3, 2] = steps.mean(axis=0)
        if np.abs(steps - steps.mean(axis=0)).max() > 1e-3:
            return None
    lps[:3, 3] = positions[0] - lps[:3, :2] @ [nx // 2, ny // 2]
    return lps_to_ras(lps) if np.isfinite(lps).all() else None
