"""All that the page of a reconstruction shows, as arrays and plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from medrecon.data.scan import Geometry

__all__ = ["MOST_SAMPLES", "MOST_SHOWN", "VOLUME_SLICES", "Case", "Classical", "Inputs", "shown_planes"]

MOST_SHOWN = 8
"""Largest number of slices (or frames) that a page shows in full."""
MOST_SAMPLES = 8
"""Largest number of samples that a page shows."""
VOLUME_SLICES = 16
"""Number of slices from which a page has a view of the volume."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What went into a reconstruction, for one plane. A member that does not apply is ``None``.

    Args:
        plane: index of the plane.
        kspace: logarithm of the magnitude of k-space ``(y, x)``, root of the sum of squares over coils, from 0 to 1.
        mask: sampling mask ``(y, x)``, bool.
        acs: calibration region, ``(y0, y1, x0, x1)``.
        coil_maps: magnitudes of the coil sensitivities ``(coils, y, x)``.
        trajectory: points of the k-space trajectory as a picture ``(n, n)``, uint8.
        sinogram: line integrals ``(views, detectors)``.
        image: image that was processed, ``(y, x)``, for denoising, super-resolution and deblurring.
    """

    plane: int = 0
    kspace: np.ndarray | None = None
    mask: np.ndarray | None = None
    acs: tuple[int, int, int, int] | None = None
    coil_maps: np.ndarray | None = None
    trajectory: np.ndarray | None = None
    sinogram: np.ndarray | None = None
    image: np.ndarray | None = None


class Classical(NamedTuple):
    """A reconstruction without a learned prior.

    Args:
        name: name of the solver.
        settings: its settings.
        image: shown slices, ``(shown, y, x)``, in the unit of the image.
    """

    name: str
    settings: Mapping[str, Any]
    image: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reconstruction as a page shows it. A plane is a slice, or one frame of a slice.

    Args:
        name: file name of the image without suffix.
        record: content of the sidecar.
        image: planes ``(planes, y, x)`` float32, magnitudes or HU.
        shown: indices of the planes that are shown in full.
        labels: name of every plane, e.g. ``slice 12``.
        samples: samples of the shown planes, ``(n, shown, y, x)``, or ``None``.
        maps: maps of the samples by their names in :data:`medrecon.uncertainty.MAPS`, each ``(planes, y, x)``.
        geometry: geometry of the image.
        modality: ``MR`` or ``CT``.
        has_frames: whether planes are frames, so that they are not a volume.
        reference: fully sampled image ``(planes, y, x)``, or ``None``.
        reference_name: file name of the reference.
        zero_filled: zero-filled (or filtered back-projected) image of the shown planes, or ``None``.
        classical: a classical reconstruction of the shown planes, or ``None``.
        inputs: what went in; ``None``: the scan was not available.
        metrics: scores against the reference by their names; empty without one.
        command: command line that makes this reconstruction again, without names of folders; ``None`` if it is not recorded.
    """

    name: str
    record: Mapping[str, Any]
    image: np.ndarray
    shown: Sequence[int]
    labels: Sequence[str]
    samples: np.ndarray | None = None
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    geometry: Geometry = Geometry()
    modality: str = "MR"
    has_frames: bool = False
    reference: np.ndarray | None = None
    reference_name: str | None = None
    zero_filled: Classical | None = None
    classical: Classical | None = None
    inputs: Inputs | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None

    @property
    def is_volume(self) -> bool:
        """Whether the planes are a volume of known voxel size, which a viewer can show."""
        known = self.geometry.affine is not None or self.geometry.spacing is not None
        return not self.has_frames and len(self.image) >= VOLUME_SLICES and known

    @property
    def is_calibrated(self) -> bool:
        """Whether the spread of the samples may be called an uncertainty."""
        return "std" in self.maps

    @property
    def facts(self) -> Mapping[str, Any]:
        """Entries of the record on several samples; empty for one sample."""
        found = self.record.get("uncertainty")
        return found if isinstance(found, Mapping) else {}

    @property
    def unit(self) -> str:
        """Unit of the image; empty for magnitudes."""
        return "HU" if self.modality == "CT" else ""

    @property
    def window(self) -> tuple[float, float]:
        """Values shown as black and as white in every image of the page: those of the reconstruction, whatever is compared."""
        signal = self.image[self.image.reshape(len(self.image), -1).any(axis=1)]
        if not signal.size:
            return 0.0, 1.0
        low, high = np.percentile(signal[:, :: 1 + signal.shape[1] // 512], (0.5, 99.8)).tolist()
        if self.modality == "CT":
            low, high = 10 * np.floor(low / 10), 10 * np.ceil(high / 10)
        else:
            low = min(0.0, low)
        return low, high if high > low else low + 1.0


def shown_planes(n: int, most: int = MOST_SHOWN) -> list[int]:
    """Indices of at most ``most`` of ``n`` planes: all of them, or evenly spaced ones, the middle plane first of all.

    Planes at both ends of a stack are often empty, so that of many planes those at the centres of equal parts are taken.
    """
    if n <= most:
        return list(range(n))
    return [int((k + 0.5) * n / most) for k in range(most)]
