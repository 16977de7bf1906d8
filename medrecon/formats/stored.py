"""Data that readers find in a file in addition to the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medrecon.data.scan import Geometry

__all__ = ["Stored"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Data of a scan other than its samples, before they are checked.

    Args:
        noise: noise scan ``(coils, n)`` as stored in the file, or ``None``.
        shots: labels of the shots as stored in the file, or ``None``.
        geometry: geometry of the image.
        header: ISMRMRD header without personal data, or ``None``.
        attributes: see :class:`medrecon.data.scan.CartesianScan`.
        warnings: see :class:`medrecon.data.scan.CartesianScan`.
    """

    noise: object = None
    shots: np.ndarray | None = None
    geometry: Geometry = field(default_factory=Geometry)
    header: bytes | None = None
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
