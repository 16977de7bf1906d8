"""Additional files and numbers that complete a scan file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

__all__ = ["Companions"]


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Additional files and numbers that complete a file or override its values. ``None`` keeps the value of the file.

    Args:
        trajectory: trajectory of non-Cartesian k-space: a file (``npy`` or a BART pair) or an array ``(shots, readout, 2 or 3)``
            in cycles per field of view.
        matrix: image matrix of non-Cartesian k-space, ``(y, x)`` or ``(z, y, x)``.
        phase: file with the phase of a NIfTI magnitude image.
        imaginary: file with the imaginary part of a NIfTI real part.
        detector_spacing: distance between the detector pixels of a sinogram, mm.
        centre: detector pixel of a sinogram on which the rotation axis falls, counted from 0.
        axis_convention: how the rotation axis of an even detector is counted, ``middle`` or ``pixel``; see
            :func:`medrecon.formats.sinograms.checked_sinogram`.
    """

    trajectory: str | Path | np.ndarray | None = None
    matrix: Sequence[int] | None = None
    phase: str | Path | None = None
    imaginary: str | Path | None = None
    detector_spacing: float | None = None
    centre: float | None = None
    axis_convention: str | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are not ``None``."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)
