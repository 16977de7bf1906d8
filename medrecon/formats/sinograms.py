"""Checks of sinograms, the same for every format.

**Geometry.** As in :mod:`medrecon.operators.ct`: at angle 0 a view of a parallel beam is the sum over the rows of the image, its
detector pixels run along x, and angles grow counterclockwise (x to the right, y up), as in scikit-image's ``radon``. The central
ray of a fan or cone beam at angle ``theta`` is the parallel ray at ``theta``. The source circles the z axis, and the rows of a
cone beam's panel run along z, the first row at the first slice.

**Rotation axis.** A detector with an odd number of pixels has one in its middle. With an even number, the axis is either in the
middle of the detector, between two pixels (``middle``: astra, and the default here), or on pixel ``n // 2``, half a pixel farther
(``pixel``: scikit-image's ``radon``). Half a pixel costs about 8 dB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.angles import may_be_degrees
from medrecon.data.errors import InputError, one_line
from medrecon.data.scan import Sinogram
from medrecon.formats.companions import Companions

__all__ = ["BEAMS", "CONVENTIONS", "KEYS", "NEEDS", "WORDS", "checked_sinogram"]

BEAMS = ("parallel", "fan", "cone")
CONVENTIONS = ("middle", "pixel")
"""Positions of the rotation axis on a detector with an even number of pixels."""
_NUMBERS = ("detector_spacing_mm", "centre", "centre_row", "photons", "source_to_axis_mm", "source_to_detector_mm")
_FORMER = {"detector_spacing_mm": "pitch_mm"}
"""Former names of keys, which older files have."""
KEYS = ("sino", "theta_rad", *_NUMBERS, *_FORMER.values())
"""Arrays and numbers of an npz file."""
WORDS = ("beam", "axis_convention")
"""Strings of an npz file."""
NEEDS = (
    "give an npz with sino ([slices,] views, detectors), theta_rad (views) and detector_spacing_mm, or a Data Exchange "
    "HDF5 file"
)


def checked_sinogram(path: Path, kind: str, fields: Mapping[str, Any], companions: Companions) -> Sinogram:
    """A sinogram, after the checks that are the same for every format.

    Args:
        path: path of the file.
        kind: name of its format.
        fields: what the file holds, by the keys of an npz file.
            ``sino``: line integrals ``(views, detectors)`` or ``(slices, views, detectors)``; of a cone beam
            ``(views, rows, columns)``.
            ``theta_rad``: angles of the views.
            ``detector_spacing_mm`` (formerly ``pitch_mm``): distance between detector pixels, on the detector.
            Optional: ``centre``, the detector pixel on which the rotation axis (fan and cone beam: the central ray) falls,
            counted from 0, default by ``axis_convention`` (``middle`` or ``pixel``, see above); ``centre_row``, the same for the
            rows of a cone beam, default the middle; ``photons`` per ray; ``beam`` (``parallel``, ``fan`` or ``cone``), the latter
            two with ``source_to_axis_mm`` and ``source_to_detector_mm``.
        companions: detector spacing, centre and axis convention that replace the values in the file.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    words = {
        "beam": _word(path, fields, key="beam", choice=BEAMS),
        "axis_convention": _word(path, fields, *_CONVENTION),
    }
    if companions.axis_convention is not None:
        words["axis_convention"] = _word(path, vars(companions), *_CONVENTION)
    sinogram, angles = _arrays(path, fields, words["beam"])
    numbers = _numbers(path, fields, companions)
    middle, width = (sinogram.shape[-1] - 1) / 2, sinogram.shape[-1]
    default: float = width // 2 if words["axis_convention"] == "pixel" else middle
    rows = sinogram.shape[-2] if words["beam"] == "cone" else 1
    centre, row = numbers.get("centre", default), numbers.get("centre_row", (rows - 1) / 2)
    for name, value, n in (("centre", centre, width), ("centre_row", row, rows)):
        if not 0 <= value <= n - 1:
            raise InputError(f"{path}: {name} must be a pixel of the detector, 0...{n - 1}; got {value}")
    distances = _distances(path, numbers, words["beam"])
    return Sinogram(
        path=path,
        format=kind,
        sinogram=sinogram,
        angles=angles,
        detector_spacing=numbers["detector_spacing_mm"],
        offset=centre - middle,
        row_offset=row - (rows - 1) / 2,
        photons=numbers.get("photons", 0.0),
        source_to_axis=distances[0],
        source_to_detector=distances[1],
        beam=words["beam"],
        axis_convention=words["axis_convention"],
    )


_CONVENTION = ("axis_convention", CONVENTIONS)


def _word(path: Path, fields: Mapping[str, Any], key: str, choice: tuple[str, ...]) -> str:
    """The word under a key, one of ``choice``; the first of these if the key is missing.

    Raises:
        InputError: for any other word.
    """
    if key not in fields:
        return choice[0]
    value = np.asarray(fields[key])
    text = str(value.item())[:20] if value.size == 1 and value.dtype.kind == "U" else None
    if text not in choice:
        got = f"is {text!r}" if text is not None and text.isprintable() else "is not a word"
        raise InputError(f"{path}: {key} {got}; give {', '.join(choice[:-1])} or {choice[-1]}")
    return text


def _arrays(path: Path, fields: Mapping[str, Any], beam: str) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals, float32, and angles.

    Raises:
        InputError: if they are missing or do not match.
    """
    if "theta_rad" not in fields:
        raise InputError(f"{path}: cannot be used as a sinogram (theta_rad is missing); {NEEDS}")
    if np.iscomplexobj(fields["sino"]):
        raise InputError(f"{path}: cannot be used as a sinogram (sino is complex); {NEEDS}")
    try:
        sinogram = np.asarray(fields["sino"], dtype=np.float32)
        angles = np.asarray(fields["theta_rad"], dtype=np.float64).ravel()
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({one_line(error)}); {NEEDS}") from error
    if beam == "cone" and (sinogram.ndim != 3 or 0 in sinogram.shape):
        raise InputError(f"{path}: sino has shape {sinogram.shape}; a cone beam needs (views, rows, columns)")
    if sinogram.ndim == 2 or beam == "cone":
        sinogram = sinogram[None]
    if beam != "cone" and (sinogram.ndim != 3 or 0 in sinogram.shape):
        raise InputError(f"{path}: sino has shape {np.shape(fields['sino'])}; {NEEDS}")
    if sinogram.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {sinogram.shape[1]} views, but theta_rad has {len(angles)}; {NEEDS}")
    if not (np.isfinite(sinogram).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: contains NaN or Inf; export the data again")
    if may_be_degrees(angles):
        raise InputError(
            f"{path}: theta_rad reaches {np.abs(angles).max():g}; degrees? Store numpy.deg2rad of it, or, if it is in rad, "
            "the angles within a turn"
        )
    return sinogram, angles


def _numbers(path: Path, fields: Mapping[str, Any], companions: Companions) -> dict[str, float]:
    """The numbers of a file, some of them replaced by those in ``companions``.

    Raises:
        InputError: if the detector spacing is missing or not positive, or photons are negative.
    """
    fields = {**{key: fields[former] for key, former in _FORMER.items() if former in fields}, **fields}
    try:
        numbers = {key: float(fields[key]) for key in _NUMBERS if key in fields}
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({one_line(error)}); {NEEDS}") from error
    given = {"detector_spacing_mm": companions.detector_spacing, "centre": companions.centre}
    numbers |= {key: float(value) for key, value in given.items() if value is not None}
    if "detector_spacing_mm" not in numbers:
        raise InputError(
            f"{path}: the detector spacing is not recorded; give it in mm, or store it as detector_spacing_mm (npz) or "
            "x_pixel_size (HDF5)"
        )
    spacing, photons = numbers["detector_spacing_mm"], numbers.get("photons", 0.0)
    if not 0 < spacing < np.inf or not 0 <= photons < np.inf:
        raise InputError(
            f"{path}: detector_spacing_mm must be positive and photons not negative; got {spacing} and {photons}"
        )
    return numbers


def _distances(path: Path, numbers: Mapping[str, float], beam: str) -> tuple[float | None, float | None]:
    """Distances from the source to the axis and to the detector, mm; ``None`` for a parallel beam.

    Raises:
        InputError: if they are missing for a fan or cone beam, or impossible.
    """
    names = ("source_to_axis_mm", "source_to_detector_mm")
    if beam == "parallel":
        return None, None
    missing = [name for name in names if name not in numbers]
    if missing:
        raise InputError(f"{path}: a {beam} beam needs {' and '.join(missing)}; store them in mm")
    to_axis, to_detector = (numbers[name] for name in names)
    if not 0 < to_axis <= to_detector < np.inf:
        raise InputError(
            f"{path}: source_to_axis_mm must be positive and at most source_to_detector_mm; got {to_axis} and {to_detector}"
        )
    return to_axis, to_detector
