"""What a sinogram must satisfy, whatever the format.

**Geometry.** It is that of :mod:`medrecon.operators.ct`: at angle 0 a view of a parallel beam is the sum over the image's rows,
its detector pixels run along x, and angles grow counterclockwise (x to the right, y up), as in scikit-image's ``radon``. The
central ray of a fan or cone beam at angle ``theta`` is the ray of the parallel beam at ``theta``; the source circles the axis of
z, and rows of a cone beam's panel follow z, the first row at the first slice.

**Rotation axis.** A detector of an odd number of pixels has one in its middle. With an even number, the axis may be in the
middle of the detector, between two pixels (``middle``: astra, and this package by default), or on pixel ``n // 2``, half a pixel
farther (``pixel``: scikit-image's ``radon``). Half a pixel costs about 8 dB.
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
"""How the rotation axis of an even detector is counted."""
_NUMBERS = ("pitch_mm", "centre", "centre_row", "photons", "source_to_axis_mm", "source_to_detector_mm")
KEYS = ("sino", "theta_rad", *_NUMBERS)
"""Arrays and numbers of an npz file."""
WORDS = ("beam", "axis_convention")
"""Texts of an npz file."""
NEEDS = (
    "give an npz with sino ([slices,] views, detectors), theta_rad (views) and pitch_mm, or a Data Exchange HDF5 file"
)


def checked_sinogram(path: Path, kind: str, held: Mapping[str, Any], companions: Companions) -> Sinogram:
    """A sinogram whose arrays and numbers have been checked as those of every format are.

    Args:
        path: of the file.
        kind: name of its format.
        held: by the keys of an npz file.
            ``sino``: line integrals ``(views, detectors)`` or ``(slices, views, detectors)``, of a cone beam
            ``(views, rows, columns)``.
            ``theta_rad``: angles of the views.
            ``pitch_mm``: distance between detector pixels, on the detector.
            Optional: ``centre``, the detector pixel on which the rotation axis (of a fan or cone beam: the central ray) falls,
            counted from 0, default by ``axis_convention`` (``middle`` or ``pixel``, see above); ``centre_row``, that of the rows
            of a cone beam, default the middle; ``photons`` per ray; ``beam`` (``parallel``, ``fan`` or ``cone``), of the latter
            two with ``source_to_axis_mm`` and ``source_to_detector_mm``.
        companions: pitch, centre and axis convention that replace those of the file.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.
    """
    words = {"beam": _word(path, held, key="beam", choice=BEAMS), "axis_convention": _word(path, held, *_CONVENTION)}
    if companions.axis_convention is not None:
        words["axis_convention"] = _word(path, vars(companions), *_CONVENTION)
    lines, angles = _arrays(path, held, words["beam"])
    numbers = _numbers(path, held, companions)
    middle, width = (lines.shape[-1] - 1) / 2, lines.shape[-1]
    usual: float = width // 2 if words["axis_convention"] == "pixel" else middle
    rows = lines.shape[-2] if words["beam"] == "cone" else 1
    centre, row = numbers.get("centre", usual), numbers.get("centre_row", (rows - 1) / 2)
    for name, value, n in (("centre", centre, width), ("centre_row", row, rows)):
        if not 0 <= value <= n - 1:
            raise InputError(f"{path}: {name} must be a pixel of the detector, 0...{n - 1}; got {value}")
    distances = _distances(path, numbers, words["beam"])
    return Sinogram(
        path=path,
        format=kind,
        lines=lines,
        angles=angles,
        pitch=numbers["pitch_mm"],
        offset=centre - middle,
        row_offset=row - (rows - 1) / 2,
        photons=numbers.get("photons", 0.0),
        source_to_axis=distances[0],
        source_to_detector=distances[1],
        beam=words["beam"],
        axis_convention=words["axis_convention"],
    )


_CONVENTION = ("axis_convention", CONVENTIONS)


def _word(path: Path, held: Mapping[str, Any], key: str, choice: tuple[str, ...]) -> str:
    """One of a few words under a key, the first of them by default.

    Raises:
        InputError: for another word.
    """
    if key not in held:
        return choice[0]
    value = np.asarray(held[key])
    text = str(value.item())[:20] if value.size == 1 and value.dtype.kind == "U" else None
    if text not in choice:
        got = f"is {text!r}" if text is not None and text.isprintable() else "is not a word"
        raise InputError(f"{path}: {key} {got}; give {', '.join(choice[:-1])} or {choice[-1]}")
    return text


def _arrays(path: Path, held: Mapping[str, Any], beam: str) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals, float32, and angles.

    Raises:
        InputError: if they are missing, or do not fit each other.
    """
    if "theta_rad" not in held:
        raise InputError(f"{path}: cannot be used as a sinogram (holds no theta_rad); {NEEDS}")
    if np.iscomplexobj(held["sino"]):
        raise InputError(f"{path}: cannot be used as a sinogram (sino is complex); {NEEDS}")
    try:
        lines = np.asarray(held["sino"], dtype=np.float32)
        angles = np.asarray(held["theta_rad"], dtype=np.float64).ravel()
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({one_line(error)}); {NEEDS}") from error
    if beam == "cone" and (lines.ndim != 3 or 0 in lines.shape):
        raise InputError(f"{path}: sino has shape {lines.shape}; of a cone beam give (views, rows, columns)")
    if lines.ndim == 2 or beam == "cone":
        lines = lines[None]
    if beam != "cone" and (lines.ndim != 3 or 0 in lines.shape):
        raise InputError(f"{path}: sino has shape {np.shape(held['sino'])}; {NEEDS}")
    if lines.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {lines.shape[1]} views, but theta_rad {len(angles)}; {NEEDS}")
    if not (np.isfinite(lines).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    if may_be_degrees(angles):
        raise InputError(
            f"{path}: theta_rad reaches {np.abs(angles).max():g}; degrees? Store numpy.deg2rad of it, or, if it is in rad, "
            "the angles within a turn"
        )
    return lines, angles


def _numbers(path: Path, held: Mapping[str, Any], companions: Companions) -> dict[str, float]:
    """The numbers of a file, with those that replace them.

    Raises:
        InputError: for a missing or impossible pitch, or negative photons.
    """
    try:
        numbers = {key: float(held[key]) for key in _NUMBERS if key in held}
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({one_line(error)}); {NEEDS}") from error
    given = {"pitch_mm": companions.pitch, "centre": companions.centre}
    numbers |= {key: float(value) for key, value in given.items() if value is not None}
    if "pitch_mm" not in numbers:
        raise InputError(
            f"{path}: does not give the spacing of its detector pixels; give the pitch in mm, or store it as pitch_mm (npz) or "
            "x_pixel_size (HDF5)"
        )
    pitch, photons = numbers["pitch_mm"], numbers.get("photons", 0.0)
    if not 0 < pitch < np.inf or not 0 <= photons < np.inf:
        raise InputError(f"{path}: pitch_mm must be positive and photons not negative; got {pitch} and {photons}")
    return numbers


def _distances(path: Path, numbers: Mapping[str, float], beam: str) -> tuple[float | None, float | None]:
    """From the source to the axis and to the detector, in mm; ``None`` of a parallel beam.

    Raises:
        InputError: if a fan or cone beam lacks them, or they are impossible.
    """
    names = ("source_to_axis_mm", "source_to_detector_mm")
    if beam == "parallel":
        return None, None
    lacks = [name for name in names if name not in numbers]
    if lacks:
        raise InputError(f"{path}: a {beam} beam needs {' and '.join(lacks)}; store them in mm")
    to_axis, to_detector = (numbers[name] for name in names)
    if not 0 < to_axis <= to_detector < np.inf:
        raise InputError(
            f"{path}: source_to_axis_mm must be positive and at most source_to_detector_mm; got {to_axis} and {to_detector}"
        )
    return to_axis, to_detector
