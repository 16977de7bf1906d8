"""What a sinogram must satisfy, whatever the format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, told
from medrecon.data.scan import Geometry, Sinogram
from medrecon.formats.companions import Companions

__all__ = ["KEYS", "NEEDS", "checked_sinogram"]

KEYS = ("sino", "theta_rad", "centre", "pitch_mm", "photons")
"""Of an npz file."""
NEEDS = (
    "give an npz with sino ([slices,] views, detectors), theta_rad (views) and pitch_mm, or a Data Exchange HDF5 file"
)


def checked_sinogram(path: Path, kind: str, held: Mapping[str, Any], companions: Companions) -> Sinogram:
    """A sinogram whose arrays and numbers have been checked as those of every format are.

    Args:
        path: of the file.
        kind: name of its format.
        held: by the keys of an npz file. ``sino`` ``(views, detectors)`` or ``(slices, views, detectors)``, line integrals;
            ``theta_rad``; ``pitch_mm``. Optional: ``centre``, the index of the detector pixel on which the rotation axis falls
            (default: the middle), and ``photons`` per ray.
        companions: pitch and centre that replace those of the file.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    if "theta_rad" not in held:
        raise InputError(f"{path}: cannot be used as a sinogram (holds no theta_rad); {NEEDS}")
    if np.iscomplexobj(held["sino"]):
        raise InputError(f"{path}: cannot be used as a sinogram (sino is complex); {NEEDS}")
    try:
        lines = np.asarray(held["sino"], dtype=np.float32)
        angles = np.asarray(held["theta_rad"], dtype=np.float64).ravel()
        numbers = {key: float(held[key]) for key in ("centre", "pitch_mm", "photons") if key in held}
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({told(error)}); {NEEDS}") from error
    if lines.ndim == 2:
        lines = lines[None]
    if lines.ndim != 3 or 0 in lines.shape:
        raise InputError(f"{path}: sino has shape {held['sino'].shape}; {NEEDS}")
    if lines.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {lines.shape[1]} views, but theta_rad {len(angles)}; {NEEDS}")
    if not (np.isfinite(lines).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    eighths = bool((8 * angles == np.round(8 * angles)).all())
    if np.ptp(angles) > 8 * np.pi or (np.abs(angles).max() > 2 * np.pi and eighths):
        raise InputError(
            f"{path}: theta_rad reaches {np.abs(angles).max():g}; degrees? Store numpy.deg2rad of it, or, if it is in rad, "
            "the angles within a turn"
        )
    pitch, centre = companions.pitch, companions.centre
    if pitch is None and "pitch_mm" not in numbers:
        raise InputError(
            f"{path}: does not give the spacing of its detector pixels; give the pitch in mm, or store it as pitch_mm (npz) or "
            "x_pixel_size (HDF5)"
        )
    pitch = numbers["pitch_mm"] if pitch is None else pitch
    photons, middle = numbers.get("photons", 0.0), (lines.shape[2] - 1) / 2
    centre = numbers.get("centre", middle) if centre is None else centre
    if not 0 < pitch < np.inf or not 0 <= photons < np.inf:
        raise InputError(f"{path}: pitch_mm must be positive and photons not negative; got {pitch} and {photons}")
    if not 0 <= centre <= lines.shape[2] - 1:
        raise InputError(f"{path}: centre must be a pixel of the detector, 0...{lines.shape[2] - 1}; got {centre}")
    return Sinogram(
        path=path,
        format=kind,
        geometry=Geometry(),
        lines=lines,
        angles=angles,
        pitch=pitch,
        offset=centre - middle,
        photons=photons,
    )
