"""Checks of non-Cartesian k-space common to all formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.noise import outer_noise_std
from medrecon.data.sampling import check_noise_scan, check_samples, noise_scan_warnings
from medrecon.data.scan import NonCartesianScan
from medrecon.formats.arrays import numpy_array
from medrecon.formats.contents import missing_file_reason
from medrecon.formats.limits import check_claim
from medrecon.formats.mapped import backing_of
from medrecon.formats.stored import Stored

__all__ = ["noncartesian_scan", "trajectory_array"]


def trajectory_array(given: str | Path | np.ndarray) -> np.ndarray:
    """Trajectory from an array or an ``npy`` file.

    Raises:
        InputError: for any other file.
    """
    if isinstance(given, np.ndarray):
        return given
    path = Path(given)
    if not path.is_file():
        raise InputError(f"{path}: {missing_file_reason(path)}")
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: not an .npy file; save the trajectory (shots, readout, 2 or 3) with numpy.save")
    return numpy_array(path)


def noncartesian_scan(
    path: Path,
    kind: str,
    arrays: tuple[np.ndarray, np.ndarray],
    matrix: Sequence[int] | np.ndarray | None = None,
    stored: Stored = Stored(),  # noqa: B008
) -> NonCartesianScan:
    """Build a non-Cartesian scan after the checks common to all formats.

    Args:
        path: path of the file.
        kind: name of the file's format.
        arrays: samples ``(slices, coils, shots, readout)`` or ``(coils, shots, readout)``, and trajectory
            ``(shots, readout, 2 or 3)`` or ``(slices, shots, readout, 2 or 3)`` in cycles per field of view.
        matrix: image matrix; default: twice the extent of the trajectory, rounded to even.
        stored: other data of the file.

    Raises:
        InputError: if the arrays do not match each other or the matrix, contain NaN or Inf, or are all zero.
    """
    backing = backing_of(arrays[0])
    samples, points = _check_arrays(path, *(np.asarray(array) for array in arrays))
    if points.shape[-1] == 3 and not np.any(points[..., 0]):  # a plane
        points = points[..., 1:]
    size = _matrix(path, points, matrix)
    check_claim(8 * math.prod(size), samples.nbytes, name=path, what=f"the matrix {size}")
    # Round-off may put the end points beyond n / 2.
    half = np.array(size, np.float32) / 2
    scan, noise_warnings = check_noise_scan(
        stored.noise, samples.shape[1], alive=np.any(samples, axis=(0, 2, 3)), path=path
    )
    data = NonCartesianScan(
        path=path,
        format=kind,
        samples=samples,
        trajectory=np.ascontiguousarray(np.clip(points, -half, half), np.float32),
        matrix=size,
        noise_scan=scan,
        geometry=stored.geometry,
        header=stored.header,
        attributes=stored.attributes,
        warnings=(*stored.warnings, *noise_warnings),
        backing=backing,
    )
    if scan is None:
        return data
    return replace(data, warnings=data.warnings + noise_scan_warnings(path, scan, outer_noise_std(data)))


def _check_arrays(path: Path, samples: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check samples and trajectory, and convert them to complex64 and float32 arrays with slices.

    Raises:
        InputError: if they differ in size, are not finite, or are all zero.
    """
    if points.dtype.kind not in "iufc":
        raise InputError(f"{path}: its trajectory is not numeric; give (shots, readout, 2 or 3)")
    if not np.iscomplexobj(samples) or samples.ndim not in (3, 4) or 0 in samples.shape:
        raise InputError(
            f"{path}: k-space is {samples.dtype} {samples.shape}; expected complex (slices, coils, shots, readout)"
        )
    samples = check_samples(samples.reshape(-1, *samples.shape[-3:]), str(path))
    points = np.asarray(np.real(points), np.float32)
    points = np.broadcast_to(points, (len(samples), *points.shape[-3:])) if points.ndim == 3 else points
    if points.ndim != 4 or points.shape[:3] != (len(samples), *samples.shape[2:]) or points.shape[-1] not in (2, 3):
        raise InputError(
            f"{path}: the trajectory has shape {points.shape}, but k-space {samples.shape} (slices, coils, shots, readout); give "
            "a trajectory (shots, readout, 2 or 3)"
        )
    if not np.isfinite(points).all():
        raise InputError(f"{path}: its trajectory contains NaN or Inf; export the data again")
    return samples, points


def _matrix(path: Path, points: np.ndarray, given: Sequence[int] | np.ndarray | None) -> tuple[int, ...]:
    """The given matrix, or twice the extent of a trajectory ``(..., 2 or 3)``, rounded to even.

    Raises:
        InputError: if the trajectory extends beyond the matrix.
    """
    axes = points.shape[-1]
    numeric = np.asarray([] if given is None else given)
    if numeric.size and (numeric.dtype.kind not in "iuf" or not np.isfinite(numeric).all()):
        raise InputError(f"{path}: its matrix is not numeric; give (y, x) or (z, y, x)")
    extent = np.abs(points).reshape(-1, axes).max(axis=0)
    size = tuple(int(n) for n in np.ravel(2 * np.ceil(extent) if given is None else numeric))
    if len(size) != axes or min(size) < 1 or (extent > np.array(size) / 2 * (1 + 1e-3)).any():
        raise InputError(
            f"{path}: the trajectory extends to {', '.join(f'{r:.4g}' for r in extent)} cycles per field of view, beyond half of "
            f"the matrix {size}; give it in cycles per field of view, or a larger matrix"
        )
    return size
