"""Parallel-beam sinograms from files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medrecon.data.errors import InputError

__all__ = ["Sinogram", "load_sinogram"]


class Sinogram(NamedTuple):
    """Line integrals and their geometry.

    Args:
        lines: ``(slices, views, detectors)`` float32, ``-log(I / I0)``.
        angles: of the views, rad, ``(views,)``.
        pitch: distance of two detector pixels in mm.
        offset: position of the rotation axis on the detector, from its middle, in pixels.
        photons: emitted per ray, 0 if unknown.
        path: of the file.
    """

    lines: np.ndarray
    angles: np.ndarray
    pitch: float
    offset: float
    photons: float
    path: Path


def load_sinogram(path: str | Path, pitch: float | None = None) -> Sinogram:
    """Read an ``npz`` file with ``sino`` and ``theta_rad``.

    ``sino`` is ``(views, detectors)`` or ``(slices, views, detectors)``. Optional: ``centre``, the index of the detector
    pixel on which the rotation axis falls (default: the middle); ``pitch_mm`` (default 1); ``photons`` per ray.

    Args:
        path: of the file.
        pitch: in mm, instead of the file's.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    path = Path(path)
    needs = "give an npz with sino ([slices,] views, detectors) and theta_rad (views)"
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            held = {
                key: archive[key] for key in ("sino", "theta_rad", "centre", "pitch_mm", "photons") if key in archive
            }
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {needs}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as npz ({error}); {needs}") from error
    missing = [key for key in ("sino", "theta_rad") if key not in held]
    if missing:
        raise InputError(f"{path}: holds no {' and no '.join(missing)}; {needs}")
    lines = np.asarray(held["sino"], dtype=np.float32)
    angles = np.asarray(held["theta_rad"], dtype=np.float64).ravel()
    if lines.ndim == 2:
        lines = lines[None]
    if lines.ndim != 3 or 0 in lines.shape:
        raise InputError(f"{path}: sino has shape {held['sino'].shape}; {needs}")
    if lines.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {lines.shape[1]} views, but theta_rad {len(angles)}; {needs}")
    if not (np.isfinite(lines).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    middle = (lines.shape[2] - 1) / 2
    pitch = float(held.get("pitch_mm", 1.0)) if pitch is None else pitch
    photons = float(held.get("photons", 0.0))
    if not 0 < pitch < np.inf or not 0 <= photons < np.inf:
        raise InputError(f"{path}: pitch_mm must be positive and photons not negative; got {pitch} and {photons}")
    return Sinogram(lines, angles, pitch, float(held.get("centre", middle)) - middle, photons, path)
