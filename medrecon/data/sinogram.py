"""Parallel-beam sinograms from files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medrecon.data.errors import InputError

__all__ = ["Sinogram", "counted", "load_sinogram"]


def counted(lines: np.ndarray, photons: float, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals as a detector tells them that counts ``photons`` per unattenuated ray, float32.

    ``-log(N / photons)`` with ``N = Poisson(photons exp(-line)) + electronic n``, at least one photon; as they are for
    ``photons = 0``.
    """
    if photons == 0:
        return lines.astype(np.float32)
    counts = rng.poisson(photons * np.exp(-lines.astype(np.float64))) + electronic * rng.standard_normal(lines.shape)
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)


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
    """Read an ``npz`` file with ``sino``, ``theta_rad`` and ``pitch_mm``.

    ``sino`` is ``(views, detectors)`` or ``(slices, views, detectors)``. Optional: ``centre``, the index of the detector
    pixel on which the rotation axis falls (default: the middle), and ``photons`` per ray.

    Args:
        path: of the file.
        pitch: in mm, instead of the file's.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    path = Path(path)
    needs = "give an npz with sino ([slices,] views, detectors), theta_rad (views) and pitch_mm"
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            held = {
                key: archive[key] for key in ("sino", "theta_rad", "centre", "pitch_mm", "photons") if key in archive
            }
        missing = [key for key in ("sino", "theta_rad") if key not in held]
        if missing:
            raise ValueError(f"holds no {' and no '.join(missing)}")
        if np.iscomplexobj(held["sino"]):
            raise ValueError("sino is complex")
        lines = np.asarray(held["sino"], dtype=np.float32)
        angles = np.asarray(held["theta_rad"], dtype=np.float64).ravel()
        numbers = {key: float(held[key]) for key in ("centre", "pitch_mm", "photons") if key in held}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {needs}") from error
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({error}); {needs}") from error
    if lines.ndim == 2:
        lines = lines[None]
    if lines.ndim != 3 or 0 in lines.shape:
        raise InputError(f"{path}: sino has shape {held['sino'].shape}; {needs}")
    if lines.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {lines.shape[1]} views, but theta_rad {len(angles)}; {needs}")
    if not (np.isfinite(lines).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    eighths = bool((8 * angles == np.round(8 * angles)).all())
    if np.ptp(angles) > 8 * np.pi or (np.abs(angles).max() > 2 * np.pi and eighths):
        raise InputError(
            f"{path}: theta_rad reaches {np.abs(angles).max():g}; degrees? Store numpy.deg2rad of it, or, if it is in rad, "
            "the angles within a turn"
        )
    if pitch is None and "pitch_mm" not in numbers:
        raise InputError(
            f"{path}: does not tell the distance of its detector pixels; add pitch_mm or give --pitch in mm"
        )
    pitch = numbers["pitch_mm"] if pitch is None else pitch
    photons, middle = numbers.get("photons", 0.0), (lines.shape[2] - 1) / 2
    centre = numbers.get("centre", middle)
    if not 0 < pitch < np.inf or not 0 <= photons < np.inf:
        raise InputError(f"{path}: pitch_mm must be positive and photons not negative; got {pitch} and {photons}")
    if not 0 <= centre <= lines.shape[2] - 1:
        raise InputError(f"{path}: centre must be a pixel of the detector, 0...{lines.shape[2] - 1}; got {centre}")
    return Sinogram(lines, angles, pitch, centre - middle, photons, path)
