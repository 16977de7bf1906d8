"""Scans: what a file of measurements holds, one record for each kind. No formats and no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.geometry import affine_of_slices
from medrecon.data.masks import achieved_acceleration, acs_block, bounding_box
from medrecon.data.passes import held_samples

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "Backing",
    "CartesianScan",
    "DynamicScan",
    "Geometry",
    "ImageScan",
    "NonCartesianScan",
    "Scan",
    "Sinogram",
]


@dataclass(frozen=True)
class Geometry:
    """Position of the voxels in space.

    Args:
        spacing: voxel size ``(z, y, x)`` in mm, or ``None`` where the file does not record it.
        affine: from the indices (x, y, slice) to mm in RAS, ``(4, 4)``, or ``None`` where the file does not record it.
    """

    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None

    def slices(self, index: slice, n: int) -> Geometry:
        """The geometry of some of ``n`` slices."""
        return replace(self, affine=affine_of_slices(self.affine, index, n))

    def resampled(self, sides: Sequence[float], first: Sequence[float]) -> Geometry:
        """The geometry of other pixels in the same plane, or in the same volume.

        Args:
            sides: of the new pixels, in old ones, ``(y, x)`` or ``(z, y, x)``.
            first: position of the first new pixel, in old ones, likewise.
        """
        spacing, affine = self.spacing, self.affine
        if spacing is not None:
            z, y, x = (side * ratio for side, ratio in zip(spacing, [1.0] * (3 - len(sides)) + [*sides], strict=True))
            spacing = z, y, x
        if affine is not None:
            affine = np.array(affine, dtype=float)
            for column, (side, at) in enumerate(zip(sides[::-1], first[::-1], strict=True)):  # x is the last axis
                affine[:3, 3] += at * affine[:3, column]
                affine[:3, column] *= side
        return Geometry(spacing, affine)

    def on_matrix(self, old: tuple[int, ...], new: tuple[int, ...]) -> Geometry:
        """The geometry of the same field of view with other pixels; index ``n // 2`` stays where it is.

        Args:
            old: pixels that it is of, ``(y, x)`` or ``(z, y, x)``.
            new: as many numbers.
        """
        sides = [m / n for m, n in zip(old, new, strict=True)]
        return self.resampled(sides, [m // 2 - n // 2 * side for m, n, side in zip(old, new, sides, strict=True)])

    def summary(self) -> dict[str, Any]:
        """The two lines of ``medrecon info``."""
        return {
            "spacing_mm": None if self.spacing is None else [round(side, 4) for side in self.spacing],
            "orientation": "unknown" if self.affine is None else "known",
        }


class Backing(NamedTuple):
    """A file that arrays are read from while they are used, and what it was like when it was opened.

    Args:
        path: of the file.
        size: bytes.
        changed: time of the last change, ns.
    """

    path: Path
    size: int
    changed: int

    @classmethod
    def now(cls, path: Path) -> Backing:
        """The file as it is."""
        about = path.stat()
        return cls(path, about.st_size, about.st_mtime_ns)

    def check(self) -> None:
        """Refuse what was read from a file that has changed.

        Raises:
            InputError: naming the file.
        """
        try:
            same = self == Backing.now(self.path)
        except OSError:  # removed: what was opened stays as it was
            return
        if not same:
            raise InputError(f"{self.path}: was changed while it was read; run again when nothing writes to it")


class Scan(Protocol):
    """What every kind of scan has; arrays are numpy, in the order the scanner's file stores them."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def format(self) -> str:
        """Name of its format."""
        ...

    @property
    def geometry(self) -> Geometry:
        """Of the image."""
        ...

    @property
    def attributes(self) -> Mapping[str, str | float]:
        """Those of an allow-list, and decisions made in reading the file; nothing personal."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what may make the image wrong but could not be decided."""
        ...

    @property
    def backing(self) -> Backing | None:
        """The file that its arrays are read from while they are used; ``None`` where they are in memory."""
        ...

    @property
    def stem(self) -> str:
        """Name of outputs."""
        ...

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        ...

    @property
    def matrix(self) -> tuple[int, ...]:
        """Pixels of the image, ``(y, x)`` or ``(z, y, x)``; of a sinogram that of the usual image."""
        ...

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints: plain numbers and strings."""
        ...

    def items(self: _S, index: slice) -> _S:
        """Some of its slices."""
        ...


_S = TypeVar("_S", bound="Scan")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Fields that all kinds of scan share.

    Args:
        path: of the file.
        format: name of its format.
        geometry: of the image.
        attributes: those of the file that :mod:`medrecon.formats.attributes` lists, and decisions made in reading it.
        warnings: sentences on what may make the image wrong but could not be decided; ``info``, log and sidecar repeat them.
        backing: the file that large arrays are mapped from, or ``None``: they are in memory.
    """

    path: Path
    format: str
    geometry: Geometry = Geometry()
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    backing: Backing | None = None

    @property
    def stem(self) -> str:
        """Name of outputs."""
        name = self.path.name
        for suffix in (".nii.gz", ".nii"):
            if self.format == "NIfTI" and name.lower().endswith(suffix):
                return name[: -len(suffix)]
        return self.path.stem

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel size, see :class:`Geometry`."""
        return self.geometry.spacing

    @property
    def affine(self) -> np.ndarray | None:
        """Affine, see :class:`Geometry`."""
        return self.geometry.affine

    def _summary(self, facts: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "format": self.format,
            **facts,
            **self.geometry.summary(),
            **(more or {}),
            "attributes": dict(self.attributes),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True)
class CartesianScan(_Stored):
    """K-space on a grid, centred at index ``n // 2`` on every axis.

    Args:
        kspace: ``(slices, coils, y, x)`` complex64, zero where not sampled.
        mask: true where sampled, bool, ``(x,)`` for whole columns or ``(y, x)``.
        mask_in_file: whether the mask was stored (otherwise inferred from zeros).
        noise_scan: ``(coils, n)`` complex, or ``None``.
        header: ISMRMRD header without personal data, or ``None``.
    """

    kspace: np.ndarray
    mask: np.ndarray
    mask_in_file: bool = False
    noise_scan: np.ndarray | None = None
    header: bytes | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.kspace)

    @property
    def matrix(self) -> tuple[int, ...]:
        """``(y, x)``."""
        return self.kspace.shape[-2:]

    @property
    def gaps(self) -> int:
        """Unsampled positions inside the bounding box of the samples; 0 for zero-padded full k-space."""
        sampled = np.broadcast_to(self.mask, self.matrix) & held_samples(self.kspace)
        return int((bounding_box(sampled) & ~sampled).sum())

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints."""
        rows, columns = acs_block(np.broadcast_to(self.mask, self.matrix))
        facts = {
            "slices": self.n_slices,
            "coils": self.kspace.shape[1],
            "matrix": list(self.matrix),
            "mask": "stored" if self.mask_in_file else "inferred from zeros",
            "gaps": self.gaps,
            "sampling": "columns" if self.mask.ndim == 1 else "points",
            "acceleration": round(achieved_acceleration(self.mask), 3),
            "acs": [rows.stop - rows.start, columns.stop - columns.start],
        }
        return self._summary(facts, {"noise_scan": self.noise_scan is not None})

    def items(self, index: slice) -> CartesianScan:
        """Some of its slices."""
        return replace(self, kspace=self.kspace[index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class DynamicScan(_Stored):
    """Frames of the same slices, e.g. the cardiac phases of a cine or the repetitions of a series.

    Args:
        kspace: ``(frames, slices, coils, y, x)`` complex64, zero where not sampled.
        mask: true where sampled, bool, ``(frames, y, x)``.
        axis: what a frame is: ``phase``, ``repetition``, ``set`` or ``contrast``.
        noise_scan: ``(coils, n)`` complex, or ``None``.
    """

    kspace: np.ndarray
    mask: np.ndarray
    axis: str
    noise_scan: np.ndarray | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.kspace.shape[1]

    @property
    def matrix(self) -> tuple[int, ...]:
        """``(y, x)``."""
        return self.kspace.shape[-2:]

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints."""
        facts = {
            "frames": len(self.kspace),
            "frame axis": self.axis,
            "slices": self.n_slices,
            "coils": self.kspace.shape[2],
            "matrix": list(self.matrix),
            "acceleration": round(float(self.mask.size / max(self.mask.sum(), 1)), 3),
        }
        return self._summary(facts, {"noise_scan": self.noise_scan is not None})

    def items(self, index: slice) -> DynamicScan:
        """Some of its slices."""
        return replace(self, kspace=self.kspace[:, index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class NonCartesianScan(_Stored):
    """Samples along a trajectory.

    Args:
        samples: ``(slices, coils, shots, readout)`` complex64.
        trajectory: ``(slices, shots, readout, 2 or 3)`` float32, cycles per field of view within -n/2 and n/2, (ky, kx) or
            (kz, ky, kx) in the order of the image's axes, as :func:`medrecon.operators.nufft_sense` takes it.
        matrix: of the image, ``(y, x)`` or ``(z, y, x)``.
        noise_scan: ``(coils, n)`` complex, or ``None``.
        header: ISMRMRD header without personal data, or ``None``.
    """

    samples: np.ndarray
    trajectory: np.ndarray
    matrix: tuple[int, ...]
    noise_scan: np.ndarray | None = None
    header: bytes | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.samples)

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints."""
        slices, coils, shots, readout = self.samples.shape
        facts = {
            "slices": slices,
            "coils": coils,
            "matrix": list(self.matrix),
            "shots": shots,
            "readout": readout,
            "reach": round(float(np.abs(self.trajectory).max()), 3),
        }
        return self._summary(facts, {"noise_scan": self.noise_scan is not None})

    def items(self, index: slice) -> NonCartesianScan:
        """Some of its slices."""
        return replace(
            self,
            samples=self.samples[index],
            trajectory=self.trajectory[index],
            geometry=self.geometry.slices(index, self.n_slices),
        )


@dataclass(frozen=True, kw_only=True)
class Sinogram(_Stored):
    """Line integrals of parallel, fan or cone beams.

    Args:
        lines: ``-log(I / I0)``, float32, ``(slices, views, detectors)``, or ``(1, views, rows, columns)`` of a cone beam.
        angles: of the views, rad, ``(views,)``.
        pitch: distance between detector pixels, mm.
        offset: of the rotation axis on the detector, from its middle, in pixels; of a cone beam that of the columns.
        row_offset: of the plane of the source on the detector of a cone beam, from its middle, in pixels.
        photons: emitted per ray, 0 if unknown.
        beam: ``parallel``, ``fan`` or ``cone``.
        source_to_axis: mm, of fan and cone beams.
        source_to_detector: mm, of fan and cone beams.
        axis_convention: how the rotation axis of a detector with an even number of pixels is counted: ``middle`` (between the
            two middle pixels, astra) or ``pixel`` (pixel ``n // 2``, scikit-image).
    """

    lines: np.ndarray
    angles: np.ndarray
    pitch: float
    offset: float = 0.0
    row_offset: float = 0.0
    photons: float = 0.0
    beam: str = "parallel"
    source_to_axis: float | None = None
    source_to_detector: float | None = None
    axis_convention: str = "middle"

    @property
    def n_slices(self) -> int:
        """Number of slices; of a cone beam rows of the detector."""
        return self.lines.shape[2] if self.beam == "cone" else len(self.lines)

    @property
    def matrix(self) -> tuple[int, ...]:
        """``(256, 256)``, the usual image; a sinogram has no matrix of its own."""
        return 256, 256

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints."""
        facts = {
            "beam": self.beam,
            "slices": self.n_slices,
            "views": len(self.angles),
            "detectors": list(self.lines.shape[2:]) if self.beam == "cone" else self.lines.shape[-1],
            "arc_degrees": round(float(np.rad2deg(np.ptp(self.angles))), 2),
            "pitch_mm": round(self.pitch, 6),
            "offset_pixels": round(self.offset, 4),
            "photons": self.photons or None,
        }
        if self.beam != "parallel":
            facts |= {"source_to_axis_mm": self.source_to_axis, "source_to_detector_mm": self.source_to_detector}
        return self._summary(facts)

    def items(self, index: slice) -> Sinogram:
        """Some of its slices; a cone beam has one unknown, its volume, and stays whole."""
        if self.beam == "cone":
            return self
        return replace(self, lines=self.lines[index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class ImageScan(_Stored):
    """A volume of images: DICOM or NIfTI.

    Args:
        array: ``(slices, y, x)``, float32 or complex64; CT in HU.
        headers: of a DICOM series, the data sets of its slices in order, without pixels; of frames, as classic images have them.
    """

    array: np.ndarray
    headers: tuple[Dataset, ...] = ()

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.array)

    @property
    def matrix(self) -> tuple[int, ...]:
        """``(y, x)``."""
        return self.array.shape[1:]

    def summary(self) -> dict[str, Any]:
        """What ``medrecon info`` prints."""
        is_complex = np.iscomplexobj(self.array)
        values = np.abs(self.array) if is_complex else self.array
        facts = {
            "slices": self.n_slices,
            "matrix": list(self.matrix),
            "values": "complex" if is_complex else "real",
            "range": [float(f"{value:.6g}") for value in (values.min(), values.max())],
        }
        return self._summary(facts)

    def items(self, index: slice) -> ImageScan:
        """Some of its slices."""
        headers = self.headers[index] if len(self.headers) == self.n_slices else self.headers
        return replace(
            self, array=self.array[index], headers=headers, geometry=self.geometry.slices(index, self.n_slices)
        )
