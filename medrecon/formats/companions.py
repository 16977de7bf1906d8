"""What belongs to a file of measurements but is not in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

__all__ = ["Companions"]


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Second files and numbers that complete a file, or replace what it holds. ``None``: as the file has it.

    Args:
        trajectory: of k-space samples, a file (``npy``, or BART's pair) or an array ``(shots, readout, 2 or 3)`` in cycles per
            field of view.
        matrix: of the image of k-space along a trajectory, ``(y, x)`` or ``(z, y, x)``.
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
        """Names of those that are not ``None``."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) is not None)
