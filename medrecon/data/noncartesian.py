"""Raw k-space off the grid: samples and where they were taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.arrays import numpy_array, numpy_arrays
from medrecon.data.contents import about_arrays, absent, lacking
from medrecon.data.errors import InputError
from medrecon.data.hdf5 import open_hdf5
from medrecon.data.ismrmrd import is_ismrmrd, read_noncartesian
from medrecon.data.kspace import loud_scan, read_cfl_array, usable_scan
from medrecon.data.limits import check_claim, reading
from medrecon.data.noise import outermost_std

__all__ = ["NonCartesian", "load_noncartesian", "outer_noise_std"]


@dataclass(frozen=True)
class NonCartesian:
    """Samples along a trajectory.

    Args:
        samples: ``(slices, coils, shots, readout)`` complex64.
        trajectory: ``(slices, shots, readout, 2 or 3)`` float32, cycles per field of view within -n/2 and n/2, (ky, kx) or
            (kz, ky, kx) as the image's axes: what :func:`medrecon.operators.nufft_sense` takes.
        matrix: of the image, ``(y, x)`` or ``(z, y, x)``.
        path: of the file.
        format: ``ISMRMRD``, ``BART cfl`` or ``NumPy``.
        noise: a noise scan ``(coils, n)`` complex, or ``None``.
        spacing: voxel size ``(z, y, x)`` in mm, or ``None`` where the file does not tell.
        affine: from the indices (x, y, slice) to mm in RAS, or ``None`` where the file does not tell.
        header: the raw ISMRMRD header, scrubbed, or ``None``.
        attributes: what was decided in reading the file; nothing of the patient.
        warnings: sentences on what may make the image wrong but could not be decided; ``info``, log and sidecar repeat them.
    """

    samples: np.ndarray
    trajectory: np.ndarray
    matrix: tuple[int, ...]
    path: Path
    format: str
    noise: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None
    header: bytes | None = None
    attributes: dict[str, str | float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def summary(self) -> dict:
        """What ``medrecon info`` shows: plain numbers and strings."""
        slices, coils, shots, readout = self.samples.shape
        return {
            "file": str(self.path),
            "format": self.format,
            "slices": slices,
            "coils": coils,
            "matrix": list(self.matrix),
            "shots": shots,
            "readout": readout,
            "reach": round(float(np.abs(self.trajectory).max()), 3),
            "spacing_mm": None if self.spacing is None else [round(s, 4) for s in self.spacing],
            "orientation": "unknown" if self.affine is None else "known",
            "noise_scan": self.noise is not None,
            "attributes": self.attributes,
            "warnings": list(self.warnings),
        }


def outer_noise_std(data: NonCartesian) -> float:
    """Noise per real component, from the twentieth of the samples that lie farthest out.

    See :func:`medrecon.data.noise.outermost_std`: empty slices and dead coils are passed over.
    """
    held = data.samples.any(axis=(1, 2, 3))
    samples = data.samples[held]
    radius = np.linalg.norm(data.trajectory[held] / (np.array(data.matrix) / 2), axis=-1)
    outer = radius >= np.quantile(radius, 0.95)
    peaks = [np.abs(one).max(axis=(1, 2)) for one in samples]
    return outermost_std([one[:, far] for one, far in zip(samples, outer, strict=True)], peaks)


def _bart_samples(path: Path) -> np.ndarray:
    kspace = read_cfl_array(path)
    dims = list(kspace.shape[::-1]) + [1] * 16
    if dims[0] != 1 or any(n > 1 for k, n in enumerate(dims) if k > 3):
        raise InputError(f"{path}: has BART dimensions {dims[:8]}; non-Cartesian k-space is (1, readout, shots, coils)")
    return kspace.reshape(1, dims[3], dims[2], dims[1])


def _bart(path: Path, trajectory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Samples and trajectory of two BART pairs: ``(1, readout, shots, coils)`` and ``(3, readout, shots)``."""
    samples, points = _bart_samples(path), read_cfl_array(trajectory)
    dims = [1, samples.shape[3], samples.shape[2]]
    sizes = list(points.shape[::-1]) + [1] * 16
    if sizes[0] != 3 or sizes[1:3] != dims[1:3] or any(n > 1 for n in sizes[3:]):
        raise InputError(
            f"{trajectory}: has BART dimensions {sizes[:8]}; a trajectory of {path} is (3, {dims[1]}, {dims[2]}), "
            "as 'bart traj' makes it"
        )
    return samples, points.real.reshape(sizes[2], sizes[1], 3)[..., ::-1]


def load_noncartesian(
    path: str | Path,
    trajectory: str | Path | np.ndarray | None = None,
    matrix: Sequence[int] | None = None,
    select: Mapping[str, int | str] | None = None,
) -> NonCartesian:
    """Read k-space off the grid: ISMRMRD, a BART pair with its trajectory's, or ``npz``.

    ISMRMRD: trajectories of the acquisitions in cycles per pixel (at most 0.5) or per field of view. BART: ``path`` of k-space
    and ``trajectory`` of the other pair. ``npz``: ``kspace`` ``(coils, shots, readout)`` or with slices in front, ``trajectory``
    ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), and optional ``matrix``.

    Args:
        path: of the file.
        trajectory: a file (``npy``, or BART's) or an array, where the file itself holds none.
        matrix: of the image; default: the file's, else twice the trajectory's reach, even.
        select: of ISMRMRD files, which contrast, phase, repetition, set or dataset.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = Path(path)
    if path.suffix.lower() not in (".h5", ".hdf5", ".mrd", ".npz", ".cfl", ".hdr"):
        raise InputError(f"{path}: unknown format; non-Cartesian k-space is ISMRMRD (.h5, .mrd), BART (.cfl) or .npz")
    if not path.is_file():
        raise InputError(f"{path}: {absent(path)}")
    given = trajectory if trajectory is None or isinstance(trajectory, np.ndarray) else Path(trajectory)
    if isinstance(given, Path) and not given.is_file():
        raise InputError(f"{given}: {absent(given)}")
    if isinstance(given, Path) and given.suffix.lower() == ".npy":
        given = numpy_array(given)
    if isinstance(given, Path) and path.suffix.lower() not in (".cfl", ".hdr"):
        raise InputError(f"{given}: a trajectory is given as .npy here")
    with reading(path):
        held, kind = _held(path, given, select)
        return _finish(path, held, kind, matrix)


def _held(
    path: Path, given: Path | np.ndarray | None, select: Mapping[str, int | str] | None
) -> tuple[dict[str, Any], str]:
    """What a file of any format holds, and the format."""
    if path.suffix.lower() in (".cfl", ".hdr"):
        if given is None:
            raise InputError(f"{path}: BART keeps the trajectory in a pair of its own; give that too")
        samples, points = _bart(path, given) if isinstance(given, Path) else (_bart_samples(path), given)
        return {"samples": samples, "trajectory": points}, "BART cfl"
    array = given if isinstance(given, np.ndarray) else None
    if path.suffix.lower() == ".npz":
        return _numpy(path, array), "NumPy"
    return _hdf5(path, select, array), "ISMRMRD"


def _numpy(path: Path, given: np.ndarray | None) -> dict[str, Any]:
    held: dict[str, Any]
    held, names = numpy_arrays(path, ("kspace", "trajectory", "matrix", "noise"))
    if given is not None:
        held["trajectory"] = given
    for key in ("kspace", "trajectory"):
        if key not in held:
            if key == "kspace":
                raise lacking(path, key, about_arrays({}, names))
            raise InputError(
                f"{path}: holds k-space without a trajectory; give its trajectory, or read it as Cartesian with LoadKSpaced"
            )
    held["samples"] = held.pop("kspace")
    return held


def _hdf5(path: Path, select: Mapping[str, int | str] | None, given: np.ndarray | None) -> dict[str, Any]:
    with open_hdf5(path) as file:
        if not is_ismrmrd(file):
            raise InputError(f"{path}: not ISMRMRD; non-Cartesian HDF5 is read in that format only")
    return read_noncartesian(path, select, given)


def _finish(path: Path, held: dict[str, Any], kind: str, matrix: Sequence[int] | None) -> NonCartesian:
    """Check what every format must satisfy."""
    samples, points = np.asarray(held.pop("samples")), np.asarray(held.pop("trajectory"))
    told_matrix = held.pop("matrix", None)
    size_given = matrix if matrix is not None else told_matrix
    numeric = np.asarray([] if size_given is None else size_given)
    if points.dtype.kind not in "iufc" or (
        numeric.size and (numeric.dtype.kind not in "iuf" or not np.isfinite(numeric).all())
    ):
        raise InputError(
            f"{path}: its trajectory or matrix does not hold numbers; give (shots, readout, 2 or 3) and (y, x)"
        )
    if not np.iscomplexobj(samples) or samples.ndim not in (3, 4) or 0 in samples.shape:
        raise InputError(
            f"{path}: k-space is {samples.dtype} {samples.shape}; expected complex (slices, coils, shots, readout)"
        )
    samples = np.ascontiguousarray(samples.reshape(-1, *samples.shape[-3:]), np.complex64)
    points = np.asarray(points.real, np.float32)
    points = np.broadcast_to(points, (len(samples), *points.shape[-3:])) if points.ndim == 3 else points
    if points.ndim != 4 or points.shape[:3] != (len(samples), *samples.shape[2:]) or points.shape[-1] not in (2, 3):
        raise InputError(
            f"{path}: the trajectory is {points.shape}, but k-space (slices, coils, shots, readout) {samples.shape}; expected "
            "(shots, readout, 2 or 3)"
        )
    if not (np.isfinite(samples).all() and np.isfinite(points).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    if not samples.any():
        raise InputError(f"{path}: k-space is all zeros; export the data again")
    if points.shape[-1] == 3 and not np.any(points[..., 0]):  # a plane
        points = points[..., 1:]
    axes = points.shape[-1]
    reach = np.abs(points).reshape(-1, axes).max(axis=0)
    size = tuple(int(n) for n in np.ravel(2 * np.ceil(reach) if size_given is None else size_given))
    if len(size) != axes or min(size) < 1 or (reach > np.array(size) / 2 * (1 + 1e-3)).any():
        raise InputError(
            f"{path}: the trajectory reaches {', '.join(f'{r:.4g}' for r in reach)} cycles per field of view, beyond half of "
            f"the matrix {size}; give it in cycles per field of view, or a larger matrix"
        )
    check_claim(8 * math.prod(size), samples.nbytes, path, f"the matrix {size}")
    # Rounding may put the ends beyond the band.
    half = np.array(size, np.float32) / 2
    points = np.ascontiguousarray(np.clip(points, -half, half), np.float32)
    scan, more = usable_scan(held.pop("noise", None), samples.shape[1], samples.any(axis=(0, 2, 3)), path)
    warnings = (*held.pop("warnings", ()), *more)
    data = NonCartesian(samples, points, size, path, kind, noise=scan, warnings=warnings, **held)
    return data if scan is None else replace(data, warnings=warnings + loud_scan(path, scan, outer_noise_std(data)))
