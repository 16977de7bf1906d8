"""Error messages for files that lack the requested array: what they contain instead, and what to do."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from medrecon.data.errors import InputError, list_names

__all__ = [
    "ArraySummary",
    "bart_advice",
    "missing_array_error",
    "missing_file_reason",
    "summarise_arrays",
    "summarise_hdf5",
]

_SINOGRAM = ("sino", "sinogram", "theta_rad", "theta", "proj", "projections", "exchange")
_MAPS = ("maps", "map", "sens", "sensitivities", "sensitivity", "coil_maps", "coilmaps", "csm", "smaps", "sens_maps")
_MASK = ("mask", "sampling", "sampling_mask")
_RESULT = ("reconstruction", "reconstruction_rss", "reconstruction_esc", "samples")
_IMAGE = ("image", "images", "img", "label", "volume", "vol", "target", "reference")
_RAW = ("kspace", "trajectory")
_KINDS = {"kspace": "k-space", "maps": "coil maps", "mask": "the sampling mask", "reconstruction": "the image"}
"""Description of the array requested under each name."""


class ArraySummary(NamedTuple):
    """Shape and type of an array in a file.

    Args:
        shape: shape of the array; ``None`` for a group or an array that is not numeric.
        kind: NumPy's one-letter kind of the data type.
    """

    shape: tuple[int, ...] | None
    kind: str = ""


def missing_file_reason(path: Path) -> str:
    """Why a path is not a regular file, and advice; completes a sentence that begins with the path."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return "cannot be reached (permission denied); check the permissions of its folders"
    except OSError:
        return "is a link to a file that does not exist; check the path" if path.is_symlink() else "no such file"
    if stat.S_ISDIR(mode):
        return "is a folder; give a file"
    return "is a pipe or device, not a file; save its data to a file and give that"


def summarise_arrays(arrays: Mapping[str, object], names: Sequence[str]) -> dict[str, ArraySummary]:
    """Summaries of all ``names``; those not among the ``arrays`` that were read have no shape."""
    return {
        name: ArraySummary(np.shape(arrays[name]), np.asarray(arrays[name]).dtype.kind)  # type: ignore[arg-type]
        if name in arrays
        else ArraySummary(None)
        for name in names
    }


def summarise_hdf5(file: h5py.Group) -> dict[str, ArraySummary]:
    """Summaries of the members of an HDF5 group; complex numbers may be stored as pairs."""
    out = {}
    for name in file:
        item = file.get(name)
        if isinstance(item, h5py.Dataset) and item.shape is not None and not item.dtype.hasobject:
            pair = item.dtype.names is not None and len(item.dtype.names) == 2
            out[name] = ArraySummary(item.shape, "c" if pair else item.dtype.kind)
        else:
            out[name] = ArraySummary(None)
    return out


def _hdf5_kind(file: h5py.Group) -> str | None:
    """Description and advice for HDF5 layouts that are recognised by more than array names, or ``None``."""
    groups = [item for name in file if isinstance(item := file.get(name), h5py.Group)]
    if "row" in file.attrs or any("row" in group.attrs for group in groups):
        return "holds prepared cases of 'medrecon prep', not raw data; read them with medrecon.prep.LoadPreparedd"
    inner = [item for group in (file, *groups) for name in group if isinstance(item := group.get(name), h5py.Group)]
    if any({"data", "header"} <= set(group) for group in inner):
        return "holds reconstructed MRD images, not raw data; give their raw data"
    for group in (file, *groups):
        data = group.get("data")
        if isinstance(data, h5py.Dataset) and data.dtype.names and "head" in data.dtype.names:
            return "holds ISMRMRD acquisitions without their XML header; convert the scanner's raw data again"
    if any("xml" in group for group in (file, *groups)):
        return "holds an ISMRMRD header without acquisitions; convert the scanner's raw data again"
    return None


def _other_kind(key: str, names: set[str]) -> str | None:
    """Description and advice for a file whose array names show content other than ``key``, or ``None``."""
    requested, raw = _KINDS.get(key, key), key == "kspace"
    if key != "kspace" and names & set(_RAW):
        return f"holds k-space, not {requested}; give the file of {requested}"
    if names & set(_SINOGRAM):
        return (
            "holds a CT sinogram, not MRI data; reconstruct it with the chest_ct bundle's inference.yaml, or read it with "
            "medrecon.transforms.LoadSinogram"
        )
    if key != "reconstruction" and names & set(_RESULT):
        advice = "its raw data" if raw else f"a file of {requested}"
        return f"holds a reconstructed image, not {requested}; give {advice}"
    if key != "maps" and names & set(_MAPS):
        return f"holds coil maps, not {requested}; give them in addition to k-space (medrecon recon --maps)"
    if key != "mask" and names & set(_MASK):
        return f"holds a sampling mask, not {requested}; give it in addition to k-space (medrecon recon --mask)"
    if key != "reconstruction" and names & set(_IMAGE):
        advice = (
            "raw data, or simulate some with medrecon.transforms.SimulateKSpace" if raw else f"a file of {requested}"
        )
        return f"holds an image, not {requested}; give {advice}"
    return None


def _may_be(key: str, array: ArraySummary) -> bool:
    """Whether an array may be the requested one, by its type and number of axes."""
    if array.shape is None or 0 in array.shape:
        return False
    axes = len([n for n in array.shape if n > 1])
    if key == "kspace":
        return array.kind == "c" and 2 <= axes <= 4
    if key == "maps":
        return array.kind == "c" and 3 <= axes <= 4
    return array.kind in "buif" and axes >= 1 if key == "mask" else 2 <= axes <= 3


def missing_array_error(
    path: Path, key: str, arrays: Mapping[str, ArraySummary], file: h5py.Group | None = None
) -> InputError:
    """Error for a file without the array ``key``.

    Args:
        path: path of the file.
        key: name of the missing array.
        arrays: summaries of the arrays in the file.
        file: open HDF5 file, whose groups are inspected; ``None`` for other formats.
    """
    kind = (None if file is None else _hdf5_kind(file)) or _other_kind(key, {name.lower() for name in arrays})
    if kind is not None:
        return InputError(f"{path}: {kind} (it has no '{key}', but {list_names(arrays)})")
    requested = _KINDS.get(key, f"'{key}'")
    candidates = [name for name, array in arrays.items() if _may_be(key, array)]
    if not candidates:
        return InputError(
            f"{path}: no array '{key}', nor one that may be {requested} (it holds {list_names(arrays)}); give {requested}"
        )
    choice = " or ".join(f"'{list_names([name])}'" for name in candidates[:3])
    return InputError(
        f"{path}: no array '{key}' (it holds {list_names(arrays)}); if {choice} is {requested}, rename it to '{key}'"
    )


def bart_advice(sampled: np.ndarray, dims: Sequence[int], key: str) -> str | None:
    """Advice for a BART array with axes that 2-D slices do not have, as the end of a sentence; ``None`` without such axes.

    Only axes whose positions are separate images may be sliced. Slices of k-space along kz of a 3-D scan are not slices of the
    object: a fully sampled axis is transformed first, and its positions become slices. Checked with BART 0.8.

    Args:
        sampled: sampling mask of x, y and z, ``(z, y, x)`` bool.
        dims: BART's 16 dimensions.
        key: ``kspace``, ``maps`` or the name of another array.
    """
    large = {axis for axis, n in enumerate(dims) if n > 1} - {0, 1, 3, 13}
    if not large:
        return None
    if 4 in large and key == "kspace":
        return "k-space has no maps axis, so these seem to be coil maps; give them as maps (medrecon recon --maps)"
    if large & {6, 7, 8, 12}:
        return "these axes do not hold separate images and are not supported; reconstruct with 'bart pics'"
    commands = ["bart avg -w 16384"] if 14 in large else []
    apart = sorted(large & {4, 5, 9, 10, 11, 15} | ({13} if 2 in large and dims[13] > 1 else set()))
    if apart:
        commands.append(f"bart slice {' '.join(f'{axis} 0' for axis in apart)}")
    if 2 not in large:
        what = "average them" if 14 in large and not apart else "take one of each (here the first)"
        return f"{what} with {_quoted(commands)}"
    if key != "kspace":
        return f"turn z into slices with {_quoted([*commands, 'bart transpose 2 13'])}"
    if _fully_sampled(sampled, 0):
        decode, move = "bart fft -i -u 4", ["bart transpose 2 13"]
    elif _fully_sampled(sampled, 2):
        decode, move = "bart fft -i -u 1", ["bart transpose 0 13", "bart transpose 0 2"]
    else:
        return "neither x nor z is fully sampled, so there are no 2-D slices; reconstruct the volume with 'bart pics'"
    plain = " (slices of a 2-D scan: leave out the fft)" if len(move) == 1 else ""
    return f"make slices with {_quoted([*commands, decode, *move])}{plain}"


def _quoted(commands: Sequence[str]) -> str:
    """Quoted commands; each reads the output of the previous one."""
    names = ["IN", *"ABCDEF"[: len(commands) - 1], "OUT"]
    return ", then ".join(f"'{command} {names[k]} {names[k + 1]}'" for k, command in enumerate(commands))


def _fully_sampled(sampled: np.ndarray, axis: int) -> bool:
    """Whether all sampled lines along an axis have the same samples, without gaps."""
    lines = np.moveaxis(sampled, axis, 0).reshape(sampled.shape[axis], -1)
    used = np.any(lines, axis=1)
    at = np.flatnonzero(used)
    return bool(len(at) and len(at) == at[-1] - at[0] + 1 and (lines == used[:, None] & lines.any(axis=0)).all())
