"""Scans: the content of a file of measurements, one record per kind. No formats and no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.geometry import affine_of_slices
from medrecon.data.masks import achieved_acceleration, acs_block, bounding_box
from medrecon.data.passes import nonzero_positions

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
        spacing: voxel size ``(z, y, x)`` in mm, or ``None`` if the file does not record it.
        affine: affine from voxel indices (x, y, slice) to mm in RAS, ``(4, 4)``, or ``None`` if the file does not record it.
    """

    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None

    def slices(self, index: slice, n: int) -> Geometry:
        """The geometry of a selection of ``n`` slices."""
        return replace(self, affine=affine_of_slices(self.affine, index, n))

    def resampled(self, ratios: Sequence[float], first: Sequence[float]) -> Geometry:
        """The geometry after resampling in the plane, or in the volume.

        Args:
            ratios: size of the new pixels in old pixels, ``(y, x)`` or ``(z, y, x)``.
            first: position of the first new pixel in old pixels, along the same axes.
        """
        spacing, affine = self.spacing, self.affine
        if spacing is not None:
            z, y, x = (size * ratio for size, ratio in zip(spacing, [1.0] * (3 - len(ratios)) + [*ratios], strict=True))
            spacing = z, y, x
        if affine is not None:
            affine = np.array(affine, dtype=float)
            for column, (ratio, at) in enumerate(zip(ratios[::-1], first[::-1], strict=True)):  # x is the last axis
                affine[:3, 3] += at * affine[:3, column]
                affine[:3, column] *= ratio
        return Geometry(spacing, affine)

    def on_matrix(self, old: tuple[int, ...], new: tuple[int, ...]) -> Geometry:
        """The geometry of the same field of view on another matrix; index ``n // 2`` keeps its position.

        Args:
            old: current matrix, ``(y, x)`` or ``(z, y, x)``.
            new: new matrix, along the same axes.
        """
        ratios = [m / n for m, n in zip(old, new, strict=True)]
        return self.resampled(ratios, [m // 2 - n // 2 * ratio for m, n, ratio in zip(old, new, ratios, strict=True)])

    def summary(self) -> dict[str, Any]:
        """Entries of ``medrecon info``."""
        return {
            "spacing_mm": None if self.spacing is None else [round(size, 4) for size in self.spacing],
            "orientation": "unknown" if self.affine is None else "known",
        }


class Backing(NamedTuple):
    """A file from which arrays are read on demand, and its state when it was opened.

    Args:
        path: path of the file.
        size: size, bytes.
        changed: time of the last change, ns.
    """

    path: Path
    size: int
    changed: int

    @classmethod
    def now(cls, path: Path) -> Backing:
        """The current state of a file."""
        about = path.stat()
        return cls(path, about.st_size, about.st_mtime_ns)

    def check(self) -> None:
        """Refuse data from a file that has changed.

        Raises:
            InputError: naming the file.
        """
        try:
            same = self == Backing.now(self.path)
        except OSError:  # removed: the opened file stays readable
            return
        if not same:
            raise InputError(f"{self.path}: was changed while it was read; run again when it is no longer written to")


class Scan(Protocol):
    """Common members of all scans. Arrays are numpy, in the order in which the scanner's file stores them."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        ...

    @property
    def format(self) -> str:
        """Name of the file format."""
        ...

    @property
    def geometry(self) -> Geometry:
        """Geometry of the image."""
        ...

    @property
    def attributes(self) -> Mapping[str, str | float]:
        """Attributes from an allow-list, and decisions made in reading the file; nothing personal."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about possible faults of the image that could not be decided."""
        ...

    @property
    def backing(self) -> Backing | None:
        """The file from which arrays are read on demand; ``None`` if they are in memory."""
        ...

    @property
    def stem(self) -> str:
        """Name of output files, without suffix."""
        ...

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        ...

    @property
    def matrix(self) -> tuple[int, ...]:
        """Shape of the image, ``(y, x)`` or ``(z, y, x)``; for sinograms the default shape."""
        ...

    def summary(self) -> dict[str, Any]:
        """Entries of ``medrecon info``: plain numbers and strings."""
        ...

    def select_slices(self: _S, index: slice) -> _S:
        """A selection of slices."""
        ...


_S = TypeVar("_S", bound="Scan")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Fields of all kinds of scan.

    Args:
        path: path of the file.
        format: name of the file format.
        geometry: geometry of the image.
        attributes: attributes of the file that :mod:`medrecon.formats.attributes` lists, and decisions made in reading it.
        warnings: sentences about possible faults of the image that could not be decided; repeated by ``info``, log and sidecar.
        backing: file from which large arrays are mapped; ``None``: they are in memory.
    """

    path: Path
    format: str
    geometry: Geometry = Geometry()
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    backing: Backing | None = None

    @property
    def stem(self) -> str:
        """Name of output files, without suffix."""
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
        kspace: k-space ``(slices, coils, y, x)`` complex64, zero where not sampled.
        mask: sampling mask, bool, ``(x,)`` for whole columns or ``(y, x)``, true where sampled.
        mask_in_file: whether the file contains the mask (otherwise inferred from zeros).
        noise_scan: noise scan ``(coils, n)`` complex, or ``None``.
        header: ISMRMRD header without personal data, or ``None``.
        shots: label of the shot that measured every position, whole numbers ``(x,)`` or ``(y, x)``, -1 where not sampled;
            ``None`` if unknown.
    """

    kspace: np.ndarray
    mask: np.ndarray
    mask_in_file: bool = False
    noise_scan: np.ndarray | None = None
    header: bytes | None = None
    shots: np.ndarray | None = None

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
        sampled = np.broadcast_to(self.mask, self.matrix) & nonzero_positions(self.kspace)
        return int((bounding_box(sampled) & ~sampled).sum())

    def summary(self) -> dict[str, Any]:
        """Entries of ``medrecon info``."""
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
        if self.shots is not None:
            facts["shots"] = len(np.unique(self.shots[self.shots >= 0]))
        return self._summary(facts, {"noise_scan": self.noise_scan is not None})

    def select_slices(self, index: slice) -> CartesianScan:
        """A selection of slices."""
        return replace(self, kspace=self.kspace[index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class DynamicScan(_Stored):
    """Frames of the same slices, e.g. the cardiac phases of a cine or the repetitions of a series.

    Args:
        kspace: k-space ``(frames, slices, coils, y, x)`` complex64, zero where not sampled.
        mask: sampling masks, bool ``(frames, y, x)``, true where sampled.
        axis: meaning of a frame: ``phase``, ``repetition``, ``set`` or ``contrast``.
        noise_scan: noise scan ``(coils, n)`` complex, or ``None``.
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
        """Entries of ``medrecon info``."""
        facts = {
            "frames": len(self.kspace),
            "frame axis": self.axis,
            "slices": self.n_slices,
            "coils": self.kspace.shape[2],
            "matrix": list(self.matrix),
            "acceleration": round(float(self.mask.size / max(self.mask.sum(), 1)), 3),
        }
        return self._summary(facts, {"noise_scan": self.noise_scan is not None})

    def select_slices(self, index: slice) -> DynamicScan:
        """A selection of slices."""
        return replace(self, kspace=self.kspace[:, index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class NonCartesianScan(_Stored):
    """Samples along a trajectory.

    Args:
        samples: samples ``(slices, coils, shots, readout)`` complex64.
        trajectory: points ``(slices, shots, readout, 2 or 3)`` float32, (ky, kx) or (kz, ky, kx) in the order of the image's
            axes, in cycles per field of view from -n/2 to n/2, as :func:`medrecon.operators.nufft_sense` takes them.
        matrix: shape of the image, ``(y, x)`` or ``(z, y, x)``.
        noise_scan: noise scan ``(coils, n)`` complex, or ``None``.
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
        """Entries of ``medrecon info``."""
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

    def select_slices(self, index: slice) -> NonCartesianScan:
        """A selection of slices."""
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
        sinogram: line integrals ``-log(I / I0)``, float32, ``(slices, views, detectors)``; of a cone beam
            ``(1, views, rows, columns)``.
        angles: angles of the views, rad, ``(views,)``.
        detector_spacing: distance between detector pixels, mm.
        offset: position of the rotation axis on the detector, from its middle, in pixels; for a cone beam along the columns.
        row_offset: position of the plane of the source on the detector of a cone beam, from its middle, in pixels.
        photons: photons emitted per ray, 0 if unknown.
        beam: ``parallel``, ``fan`` or ``cone``.
        source_to_axis: distance from the source to the rotation axis of fan and cone beams, mm.
        source_to_detector: distance from the source to the detector of fan and cone beams, mm.
        axis_convention: position of the rotation axis on a detector with an even number of pixels: ``middle`` (between the two
            middle pixels, astra) or ``pixel`` (pixel ``n // 2``, scikit-image).
    """

    sinogram: np.ndarray
    angles: np.ndarray
    detector_spacing: float
    offset: float = 0.0
    row_offset: float = 0.0
    photons: float = 0.0
    beam: str = "parallel"
    source_to_axis: float | None = None
    source_to_detector: float | None = None
    axis_convention: str = "middle"

    @property
    def n_slices(self) -> int:
        """Number of slices; for a cone beam, of detector rows."""
        return self.sinogram.shape[2] if self.beam == "cone" else len(self.sinogram)

    @property
    def matrix(self) -> tuple[int, ...]:
        """``(256, 256)``, the default image; a sinogram does not determine it."""
        return 256, 256

    def summary(self) -> dict[str, Any]:
        """Entries of ``medrecon info``."""
        facts = {
            "beam": self.beam,
            "slices": self.n_slices,
            "views": len(self.angles),
            "detectors": list(self.sinogram.shape[2:]) if self.beam == "cone" else self.sinogram.shape[-1],
            "arc_degrees": round(float(np.rad2deg(np.ptp(self.angles))), 2),
            "detector_spacing_mm": round(self.detector_spacing, 6),
            "offset_pixels": round(self.offset, 4),
            "photons": self.photons or None,
        }
        if self.beam != "parallel":
            facts |= {"source_to_axis_mm": self.source_to_axis, "source_to_detector_mm": self.source_to_detector}
        return self._summary(facts)

    def select_slices(self, index: slice) -> Sinogram:
        """A selection of slices; a cone beam is returned whole, because its volume is one unknown."""
        if self.beam == "cone":
            return self
        return replace(self, sinogram=self.sinogram[index], geometry=self.geometry.slices(index, self.n_slices))


@dataclass(frozen=True, kw_only=True)
class ImageScan(_Stored):
    """A volume of images: DICOM or NIfTI.

    Args:
        array: images ``(slices, y, x)``, float32 or complex64; CT in HU.
        headers: data sets of the slices of a DICOM series, in order, without pixels; frames are converted to classic images.
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
        """Entries of ``medrecon info``."""
        is_complex = np.iscomplexobj(self.array)
        values = np.abs(self.array) if is_complex else self.array
        facts = {
            "slices": self.n_slices,
            "matrix": list(self.matrix),
            "values": "complex" if is_complex else "real",
            "range": [float(f"{value:.6g}") for value in (values.min(), values.max())],
        }
        return self._summary(facts)

    def select_slices(self, index: slice) -> ImageScan:
        """A selection of slices."""
        headers = self.headers[index] if len(self.headers) == self.n_slices else self.headers
        return replace(
            self, array=self.array[index], headers=headers, geometry=self.geometry.slices(index, self.n_slices)
        )
