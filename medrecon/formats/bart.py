"""BART file pairs: ``.hdr`` (text) and ``.cfl`` (samples)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, NonCartesianScan
from medrecon.formats.arrays import numpy_array
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.companions import Companions
from medrecon.formats.contents import bart_advice, missing_file_reason
from medrecon.formats.limits import open_bounded
from medrecon.formats.mapped import is_mappable, mapped
from medrecon.formats.noncartesian import noncartesian_scan
from medrecon.formats.probe import never_raises
from medrecon.formats.selecting import refuse_selection

__all__ = ["KINDS", "SUFFIXES", "read", "read_array", "read_slices", "sniff"]

SUFFIXES = (".cfl", ".hdr")
KINDS = (CartesianScan, NonCartesianScan)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file belongs to a pair whose header contains a line of dimensions."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():  # samples have no signature
        return False
    return _beside(path, ".cfl").is_file() and bool(_dims(_beside(path, ".hdr")))


def read(
    path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan:
    """Read k-space with axes x, y, coils and slices (0, 1, 3 and 13), or ``(1, readout, shots, coils)`` with a trajectory.

    The trajectory is given by :class:`Companions`: another pair ``(3, readout, shots)``, an ``npy`` file or an array.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    companions = companions or Companions()
    if companions.trajectory is None:
        return cartesian_scan(path, "BART cfl", read_slices(path, "kspace"))
    samples = _samples(path)
    trajectory = _trajectory(path, companions.trajectory, samples)
    return noncartesian_scan(path, "BART cfl", arrays=(samples, trajectory), matrix=companions.matrix)


def _samples(path: Path) -> np.ndarray:
    """Samples ``(1, coils, shots, readout)`` from BART's ``(1, readout, shots, coils)``."""
    kspace = read_array(path)
    dims = list(kspace.shape[::-1]) + [1] * 16
    if dims[0] != 1 or any(n > 1 for k, n in enumerate(dims) if k > 3):
        raise InputError(f"{path}: has BART dimensions {dims[:8]}; non-Cartesian k-space is (1, readout, shots, coils)")
    return kspace.reshape(1, dims[3], dims[2], dims[1])


def _trajectory(path: Path, given: str | Path | np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Trajectory ``(shots, readout, 3)`` in the order of the image axes, from another pair, an ``npy`` file or an array."""
    if isinstance(given, np.ndarray):
        return given
    trajectory = Path(given)
    if not trajectory.is_file():
        raise InputError(f"{trajectory}: {missing_file_reason(trajectory)}")
    if trajectory.suffix.lower() == ".npy":
        return numpy_array(trajectory)
    points = read_array(trajectory)
    dims = [1, samples.shape[3], samples.shape[2]]
    sizes = list(points.shape[::-1]) + [1] * 16
    if sizes[0] != 3 or sizes[1:3] != dims[1:3] or any(n > 1 for n in sizes[3:]):
        raise InputError(
            f"{trajectory}: has BART dimensions {sizes[:8]}; the trajectory of {path} must be (3, {dims[1]}, {dims[2]}), "
            "as written by 'bart traj'"
        )
    return np.real(points).reshape(sizes[2], sizes[1], 3)[..., ::-1]


_BART_AXES = ("x", "y", "z", "coils", "maps", "TE", "coefficients", "coefficients 2", "iterations", "cardiac phases",
              "time", "time 2", "levels", "slices", "averages", "batch")  # fmt: skip


def _beside(path: Path, suffix: str) -> Path:
    """File of a BART pair with the given suffix, in lower or upper case."""
    upper = path.with_suffix(suffix.upper())
    return upper if upper.is_file() and not path.with_suffix(suffix).is_file() else path.with_suffix(suffix)


def read_array(path: Path) -> np.ndarray:
    """Read the array of a BART pair, with BART's axes reversed (the first axis varies fastest in the file)."""
    header, samples = _beside(path, ".hdr"), _beside(path, ".cfl")
    for file in (header, samples):
        if not file.is_file():
            raise InputError(
                f"{file}: {missing_file_reason(file)}; BART data need both {header.name} and {samples.name}"
            )
    dims = _dims(header)
    n, size = math.prod(dims), samples.stat().st_size
    if not n:
        raise InputError(f"{header}: has an axis of length 0 ({' x '.join(map(str, dims))}); export the pair again")
    if size != 8 * n:
        raise InputError(f"{samples}: has {size} bytes, but the header says {8 * n} ({n} samples); copy the pair again")
    kind = np.dtype("<c8")
    if is_mappable(kind, dims):
        return mapped(samples, 0, dtype=kind, shape=dims[::-1])
    return np.fromfile(samples, dtype=kind, count=n).astype(np.complex64, copy=False).reshape(dims[::-1])


def _dims(header: Path) -> list[int]:
    """Sizes in a BART header, without trailing ones."""
    with open_bounded(header) as file:
        content = file.read(2**16)
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{header}: not a text file; give a BART header and its samples") from error
    sizes = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if not re.fullmatch(r"\s*[0-9]{1,18}(\s+[0-9]{1,18})*\s*", sizes):
        raise InputError(f"{header}: has no line of dimensions; give a BART header and its samples")
    dims = [int(n) for n in sizes.split()]
    while len(dims) > 1 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 16:
        raise InputError(f"{header}: has {len(dims)} axes, but BART supports 16; give a BART header and its samples")
    return dims


def read_slices(path: Path, key: str) -> np.ndarray:
    """Read BART's axes x, y, coils and slices as ``(slices, coils, y, x)``; ``key`` is the kind of array, for messages."""
    array = read_array(path)
    dims = list(array.shape[::-1]) + [1] * (16 - array.ndim)
    unsupported = [
        f"{name} ({n})"
        for k, (name, n) in enumerate(zip(_BART_AXES, dims, strict=False))
        if n > 1 and k not in (0, 1, 3, 13)
    ]
    if unsupported:
        sampled = np.any(array.reshape(-1, *dims[3::-1]), axis=(0, 1))
        raise InputError(f"{path}: has BART axes {', '.join(unsupported)}; {bart_advice(sampled, dims, key)}")
    return array.reshape(dims[13], dims[3], dims[1], dims[0])
