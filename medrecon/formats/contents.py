"""What a file holds that does not hold what was asked for, and what to do with it: the sentences of errors."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from medrecon.data.errors import InputError, listed

__all__ = ["About", "about_arrays", "about_hdf5", "absent", "bart_advice", "lacking"]

_SINOGRAM = ("sino", "sinogram", "theta_rad", "theta", "proj", "projections", "exchange")
_MAPS = ("maps", "map", "sens", "sensitivities", "sensitivity", "coil_maps", "coilmaps", "csm", "smaps", "sens_maps")
_MASK = ("mask", "sampling", "sampling_mask")
_RESULT = ("reconstruction", "reconstruction_rss", "reconstruction_esc", "samples")
_IMAGE = ("image", "images", "img", "label", "volume", "vol", "target", "reference")
_RAW = ("kspace", "trajectory")
_KINDS = {"kspace": "k-space", "maps": "coil maps", "mask": "the sampling mask", "reconstruction": "the image"}
"""What is asked for under a name."""


class About(NamedTuple):
    """An array of a file.

    Args:
        shape: of it, ``None`` for a group or what is not an array of numbers.
        kind: numpy's letter of its type.
    """

    shape: tuple[int, ...] | None
    kind: str = ""


def absent(path: Path) -> str:
    """What is wrong with a path that is not a regular file, as the end of a sentence that begins with its name."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return "cannot be reached (permission denied); check the permissions of its folders"
    except OSError:
        return "is a link to a file that does not exist; check the path" if path.is_symlink() else "no such file"
    if stat.S_ISDIR(mode):
        return "is a folder; give a file"
    return "is a pipe or device, not a file; save its data to a file and give that"


def about_arrays(held: Mapping[str, object], names: Sequence[str]) -> dict[str, About]:
    """Arrays that were read, and the names of all."""
    return {
        name: About(np.shape(held[name]), np.asarray(held[name]).dtype.kind) if name in held else About(None)  # type: ignore[arg-type]
        for name in names
    }


def about_hdf5(file: h5py.Group) -> dict[str, About]:
    """The members of a group; complex numbers may be stored as pairs."""
    out = {}
    for name in file:
        item = file.get(name)
        if isinstance(item, h5py.Dataset) and item.shape is not None and not item.dtype.hasobject:
            pair = item.dtype.names is not None and len(item.dtype.names) == 2
            out[name] = About(item.shape, "c" if pair else item.dtype.kind)
        else:
            out[name] = About(None)
    return out


def _hdf5_kind(file: h5py.Group) -> str | None:
    """What an HDF5 file is, of the layouts that are known by more than the names of their arrays."""
    groups = [item for name in file if isinstance(item := file.get(name), h5py.Group)]
    if "row" in file.attrs or any("row" in group.attrs for group in groups):
        return "holds prepared cases of 'medrecon prep', not raw data; read them with medrecon.prep.LoadPreparedd"
    inner = [item for group in (file, *groups) for name in group if isinstance(item := group.get(name), h5py.Group)]
    if any({"data", "header"} <= set(group) for group in inner):
        return "holds reconstructed MRD images, not raw data; give the raw data that they were made of"
    for group in (file, *groups):
        data = group.get("data")
        if isinstance(data, h5py.Dataset) and data.dtype.names and "head" in data.dtype.names:
            return "holds ISMRMRD acquisitions without their XML header; convert the scanner's raw data again"
    if any("xml" in group for group in (file, *groups)):
        return "holds an ISMRMRD header without acquisitions; convert the scanner's raw data again"
    return None


def _other_kind(key: str, names: set[str]) -> str | None:
    """What a file holds by the names of its arrays, where that is not ``key``, and what takes it."""
    asked, raw = _KINDS.get(key, key), key == "kspace"
    if key != "kspace" and names & set(_RAW):
        return f"holds k-space, not {asked}; give the file of {asked}"
    if names & set(_SINOGRAM):
        return (
            "holds a CT sinogram, not MRI data; reconstruct it with the chest_ct bundle's inference.yaml, or read it with "
            "medrecon.transforms.LoadSinogram"
        )
    if key != "reconstruction" and names & set(_RESULT):
        advice = "the raw data that it was made of" if raw else f"a file of {asked}"
        return f"holds a reconstructed image, not {asked}; give {advice}"
    if key != "maps" and names & set(_MAPS):
        return f"holds coil maps, not {asked}; give them as maps (medrecon recon --maps), beside the file of k-space"
    if key != "mask" and names & set(_MASK):
        return (
            f"holds a sampling mask, not {asked}; give it as mask (medrecon recon --mask), beside the file of k-space"
        )
    if key != "reconstruction" and names & set(_IMAGE):
        advice = "raw data, or simulate some with medrecon.transforms.SimulateKSpace" if raw else f"a file of {asked}"
        return f"holds an image, not {asked}; give {advice}"
    return None


def _fits(key: str, about: About) -> bool:
    """Whether an array may be what is asked for, by its type and number of axes."""
    if about.shape is None or 0 in about.shape:
        return False
    axes = len([n for n in about.shape if n > 1])
    if key == "kspace":
        return about.kind == "c" and 2 <= axes <= 4
    if key == "maps":
        return about.kind == "c" and 3 <= axes <= 4
    return about.kind in "buif" and axes >= 1 if key == "mask" else 2 <= axes <= 3


def lacking(path: Path, key: str, arrays: Mapping[str, About], file: h5py.Group | None = None) -> InputError:
    """The error of a file that has no array ``key``.

    Args:
        path: of the file.
        key: what is missing.
        arrays: what is there.
        file: if it is HDF5, to look into its groups.
    """
    kind = (None if file is None else _hdf5_kind(file)) or _other_kind(key, {name.lower() for name in arrays})
    if kind is not None:
        return InputError(f"{path}: {kind} (it has no '{key}', but {listed(arrays)})")
    what = _KINDS.get(key, f"'{key}'")
    fitting = [name for name, about in arrays.items() if _fits(key, about)]
    if not fitting:
        return InputError(
            f"{path}: no array '{key}', nor one that may be {what} (it holds {listed(arrays)}); give {what}"
        )
    choice = " or ".join(f"'{listed([name])}'" for name in fitting[:3])
    return InputError(
        f"{path}: no array '{key}' (it holds {listed(arrays)}); if {choice} is {what}, rename it to '{key}'"
    )


def bart_advice(sampled: np.ndarray, dims: Sequence[int], key: str) -> str | None:
    """What to do with a BART array of axes that 2-D slices do not have, as the end of a sentence; ``None`` without such axes.

    Only axes whose positions are images of their own may be sliced. Along kz of a 3-D scan slices of k-space are no slices of
    the object: an axis that was sampled whole is transformed first, and its positions become slices. Checked with BART 0.8.

    Args:
        sampled: of x, y and z, ``(z, y, x)`` bool.
        dims: BART's 16 dimensions.
        key: ``kspace``, ``maps`` or another array.
    """
    large = {axis for axis, n in enumerate(dims) if n > 1} - {0, 1, 3, 13}
    if not large:
        return None
    if 4 in large and key == "kspace":
        return "k-space has no axis of maps, so they seem to be coil maps; give them as maps (medrecon recon --maps)"
    if large & {6, 7, 8, 12}:
        return "these axes do not hold images of their own, and are not supported; reconstruct with 'bart pics'"
    commands = ["bart avg -w 16384"] if 14 in large else []
    apart = sorted(large & {4, 5, 9, 10, 11, 15} | ({13} if 2 in large and dims[13] > 1 else set()))
    if apart:
        commands.append(f"bart slice {' '.join(f'{axis} 0' for axis in apart)}")
    if 2 not in large:
        what = "average them" if 14 in large and not apart else "take one of each (here the first)"
        return f"{what} with {_quoted(commands)}"
    if key != "kspace":
        return f"make slices of z with {_quoted([*commands, 'bart transpose 2 13'])}"
    if _whole(sampled, 0):
        decode, move = "bart fft -i -u 4", ["bart transpose 2 13"]
    elif _whole(sampled, 2):
        decode, move = "bart fft -i -u 1", ["bart transpose 0 13", "bart transpose 0 2"]
    else:
        return "neither x nor z was sampled whole, so there are no 2-D slices; reconstruct the volume with 'bart pics'"
    plain = " (slices of a 2-D scan: leave out the fft)" if len(move) == 1 else ""
    return f"make slices with {_quoted([*commands, decode, *move])}{plain}"


def _quoted(commands: Sequence[str]) -> str:
    """Commands, each of which reads what the one before it wrote."""
    names = ["IN", *"ABCDEF"[: len(commands) - 1], "OUT"]
    return ", then ".join(f"'{one} {names[k]} {names[k + 1]}'" for k, one in enumerate(commands))


def _whole(sampled: np.ndarray, axis: int) -> bool:
    """Whether every line along an axis that was sampled has the same samples, without gaps."""
    lines = np.moveaxis(sampled, axis, 0).reshape(sampled.shape[axis], -1)
    own = np.any(lines, axis=1)
    held = np.flatnonzero(own)
    return bool(len(held) and len(held) == held[-1] - held[0] + 1 and (lines == own[:, None] & lines.any(axis=0)).all())
