"""A derived DICOM series: classic MR or CT images with the exact affine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from medrecon.writers.base import with_signal
from medrecon.writers.dicom.common import Axes, common_attributes, decimals
from medrecon.writers.dicom.identity import code, deidentified

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction

__all__ = ["Slice", "derived_series"]


@dataclass(frozen=True)
class Slice:
    """One file: its data set, and its bytes."""

    dataset: Dataset
    content: bytes


def derived_series(
    reconstruction: Reconstruction, like: Sequence[Dataset] = (), deidentify: bool = False
) -> list[Slice]:
    """A new series, one slice per file, in the order of the slices.

    Patient and study, and where they are recorded the frame of reference and the scanner's settings, are those of ``like``;
    series and instances get UIDs of their own, and refer to the slices of ``like`` as their source. Without ``like`` patient and
    study stay empty. Magnitudes are stored with one scale for the whole series, which a real-world value map records (MR images
    have no rescaling); HU as they are, rounded.

    Args:
        reconstruction: with an affine.
        like: data sets of a source series, with pixels or without.
        deidentify: see :func:`medrecon.writers.dicom.identity.deidentified`.

    Raises:
        InputError: for axes that are not perpendicular.
    """
    source = deidentified(like) if deidentify and like else list(like)
    first = source[0] if source else None
    axes = Axes.of(cast(np.ndarray, reconstruction.geometry.affine))
    modality = reconstruction.modality
    stored, slope = _stored(reconstruction.image, modality)
    common = common_attributes(reconstruction.record, first, modality, axes, deidentify)
    if modality == "MR":
        low, high = np.percentile(with_signal(stored), (1, 99.5))
        common.WindowCenter, common.WindowWidth = decimals([(low + high) / 2, max(high - low, 1)])
        common.RealWorldValueMappingSequence = [_scale(slope)]
    return [_slice(common, k, plane, axes, source) for k, plane in enumerate(stored)]


def _stored(image: np.ndarray, modality: str) -> tuple[np.ndarray, float]:
    """Integers, and the value of one step."""
    if modality == "CT":
        return np.clip(np.round(image), -32768, 32767).astype(np.int16), 1.0
    # 15 bits: many viewers take 16 for signed ones.
    slope = (float(image.max()) or 1.0) / 32767
    return np.clip(np.round(image / slope), 0, 32767).astype(np.uint16), slope


def _slice(common: Dataset, k: int, plane: np.ndarray, axes: Axes, source: Sequence[Dataset]) -> Slice:
    """File ``k``, of stored integers ``(y, x)``."""
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = decimals(axes.position(k))
    dataset.ImageOrientationPatient = decimals([*axes.right, *axes.down])
    dataset.SliceLocation = format_number_as_ds(float(np.cross(axes.right, axes.down) @ axes.position(k)))
    dataset.Rows, dataset.Columns = plane.shape
    signed = plane.dtype.kind == "i"
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = plane.astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    near = _nearest(source, axes, k)
    if near is not None:
        dataset.SourceImageSequence = [near]
    return _file(dataset)


def _scale(slope: float) -> Dataset:
    """Stored values to those of the reconstruction."""
    import highdicom
    from pydicom.sr.codedict import codes

    return highdicom.pm.RealWorldValueMapping(
        lut_label="magnitude",
        lut_explanation="Stored value to magnitude of the reconstruction",
        unit=codes.UCUM.NoUnits,
        value_range=(0, 32767),
        slope=slope,
        intercept=0.0,
    )


def _nearest(source: Sequence[Dataset], axes: Axes, k: int) -> Dataset | None:
    """A reference to the source slice that lies nearest along the normal."""
    placed = [s for s in source if s.get("ImagePositionPatient") is not None and s.get("SOPInstanceUID")]
    if not placed:
        return None
    normal = np.cross(axes.right, axes.down)
    normal = normal / np.linalg.norm(normal)
    here = axes.position(k) @ normal
    best = min(placed, key=lambda s: abs(np.array(s.ImagePositionPatient, float) @ normal - here))
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = best.SOPClassUID, best.SOPInstanceUID
    if best.get("ReferencedFrameNumber"):  # of an object with several frames
        item.ReferencedFrameNumber = best.ReferencedFrameNumber
    item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return item


def _file(dataset: Dataset) -> Slice:
    """With its meta information, as bytes."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return Slice(dataset, buffer.getvalue())
