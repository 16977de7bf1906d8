"""Images and where they lie: one structure for DICOM and NIfTI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.data.errors import InputError, SelectionError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Image", "is_nifti", "load_image", "load_like", "nifti_stem", "volume_number"]


@dataclass(frozen=True)
class Image:
    """A volume.

    Args:
        array: ``(slices, y, x)``, float32 or complex64; CT in HU.
        path: of the file, or the folder.
        format: ``DICOM`` or ``NIfTI``.
        spacing: voxel size ``(z, y, x)`` in mm, or ``None`` where the file does not tell.
        affine: from the indices (x, y, slice) to mm in RAS, ``(4, 4)``, or ``None`` where the file does not tell.
        attributes: what else is worth knowing; nothing of the patient.
        warnings: see :class:`medrecon.data.kspace.KSpace`.
        headers: of a DICOM series, the data sets of its slices in order, without pixels; of frames, as classic images have them.
    """

    array: np.ndarray
    path: Path
    format: str
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None
    attributes: dict[str, str | float] = field(default_factory=dict)
    headers: tuple[Dataset, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Name of outputs."""
        return nifti_stem(self.path) if self.format == "NIfTI" else self.path.stem

    def summary(self) -> dict:
        """What ``medrecon info`` shows: plain numbers and strings."""
        return {
            "file": str(self.path),
            "format": self.format,
            "slices": len(self.array),
            "matrix": list(self.array.shape[1:]),
            "values": "complex" if np.iscomplexobj(self.array) else "real",
            "range": [round(float(v), 4) for v in (np.abs(self.array).min(), np.abs(self.array).max())]
            if np.iscomplexobj(self.array)
            else [round(float(v), 4) for v in (self.array.min(), self.array.max())],
            "spacing_mm": None if self.spacing is None else [round(s, 4) for s in self.spacing],
            "orientation": "unknown" if self.affine is None else "known",
            "attributes": self.attributes,
            "warnings": list(self.warnings),
        }


def is_nifti(path: Path) -> bool:
    """Whether a file is named as NIfTI, in lower or upper case."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def nifti_stem(path: Path) -> str:
    """The name of a NIfTI file without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def volume_number(wanted: object, count: int, name: object) -> int:
    """Which of ``count`` volumes is asked for.

    Raises:
        InputError: if there is none of that number.
    """
    try:
        number = float(str(wanted))
    except ValueError:
        number = -1.0
    if not 0 <= number < count or number != int(number):
        held = f"there are volume=0 to volume={count - 1}" if count > 1 else "there is one volume, volume=0"
        raise InputError(f"{name}: no volume={wanted}; {held}")
    return int(number)


def load_image(
    path: str | Path | Sequence[str | Path],
    select: Mapping[str, str | int | float] | None = None,
    phase: str | Path | None = None,
    imaginary: str | Path | None = None,
) -> Image:
    """Read a volume: a NIfTI file, a DICOM file, or the DICOM files of a folder (whatever they are called).

    Args:
        path: of the file or folder, or those of the DICOM files of one series.
        select: which of several volumes, ``{"volume": 1}`` (counted from 0); of DICOM series or stacks by attribute as well, see
            :func:`medrecon.data.dicom.read_dicom`.
        phase: of a NIfTI magnitude, a second file with the phase; see :func:`medrecon.data.nifti.read_nifti`.
        imaginary: of a NIfTI real part, a second file with the imaginary part.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise InputError("no file to read; give a NIfTI file, or DICOM files")
    for one in paths:
        if not one.exists():
            raise InputError(f"{one}: no such file or folder")
    if len(paths) == 1 and is_nifti(paths[0]):
        from medrecon.data.nifti import read_nifti

        return read_nifti(paths[0], phase, imaginary, select)
    if phase is not None or imaginary is not None:
        raise InputError(f"{paths[0]}: a second file with phase or imaginary part goes with NIfTI only; leave it out")
    from medrecon.data.dicom import read_dicom

    return read_dicom(paths, select)


def load_like(path: str | Path, select: Mapping[str, str | int | float] | None = None) -> Image:
    """Read the DICOM series that a new one shall resemble.

    Args:
        path: see :func:`load_image`.
        select: see :func:`load_image`.

    Returns:
        the series; its warnings do not name the folder.

    Raises:
        InputError: as :func:`load_image`, or if it is no DICOM series.
    """
    try:
        series = load_image(path, select)
    except SelectionError as error:
        advice = re.sub(r"\bselect one\b", "select one by --like-select", str(error), count=1)
        raise SelectionError(advice) from error
    if not series.headers:
        raise InputError(f"{path}: is not a DICOM series; give a folder of DICOM files")
    texts = (text.replace(f"{path}{os.sep}", "").replace(str(path), "it") for text in series.warnings)
    return replace(series, warnings=tuple(f"the series that was given as --like: {text}" for text in texts))
