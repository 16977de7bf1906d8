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

from medrecon.writers.base import nonzero_slices
from medrecon.writers.dicom.common import Axes, common_attributes, decimals
from medrecon.writers.dicom.identity import code, deidentified

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction

__all__ = ["Slice", "derived_series"]


@dataclass(frozen=True)
class Slice:
    """One DICOM file: data set and bytes."""

    dataset: Dataset
    content: bytes


def derived_series(
    reconstruction: Reconstruction, like: Sequence[Dataset] = (), deidentify: bool = False
) -> list[Slice]:
    """A new series with one file per slice, in slice order.

    Patient, study, and, if recorded, the frame of reference and the scanner's settings are copied from ``like``. Series and
    instances get new UIDs and refer to the slices of ``like`` as their source. Without ``like``, patient and study are empty.
    Magnitudes are stored with one scale for the whole series, recorded in a real-world value map (MR images have no rescaling);
    HU are rounded.

    Args:
        reconstruction: reconstruction with an affine.
        like: data sets of a source series, with or without pixels.
        deidentify: see :func:`medrecon.writers.dicom.identity.deidentified`.

    Raises:
        InputError: if the axes of a slice are not perpendicular.
    """
    source = deidentified(like) if deidentify and like else list(like)
    first = source[0] if source else None
    axes = Axes.of(cast(np.ndarray, reconstruction.geometry.affine))
    modality = reconstruction.modality
    stored, slope = _stored(reconstruction.image, modality)
    common = common_attributes(reconstruction.record, first, modality=modality, axes=axes, deidentify=deidentify)
    if modality == "MR":
        low, high = np.percentile(nonzero_slices(stored), (1, 99.5))
        common.WindowCenter, common.WindowWidth = decimals([(low + high) / 2, max(high - low, 1)])
        common.RealWorldValueMappingSequence = [_scale(slope)]
    return [_slice(common, k, plane, axes=axes, source=source) for k, plane in enumerate(stored)]


def _stored(image: np.ndarray, modality: str) -> tuple[np.ndarray, float]:
    """Stored integers and their scale."""
    if modality == "CT":
        return np.clip(np.round(image), -32768, 32767).astype(np.int16), 1.0
    # 15 bits, since many viewers read 16 bits as signed.
    slope = (float(image.max()) or 1.0) / 32767
    return np.clip(np.round(image / slope), 0, 32767).astype(np.uint16), slope


def _slice(common: Dataset, k: int, plane: np.ndarray, *, axes: Axes, source: Sequence[Dataset]) -> Slice:
    """File of slice ``k`` with stored integers ``(y, x)``."""
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
    """Real-world value map from stored values to magnitudes of the reconstruction."""
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
    """Reference to the source slice that is nearest along the normal."""
    with_position = [s for s in source if s.get("ImagePositionPatient") is not None and s.get("SOPInstanceUID")]
    if not with_position:
        return None
    normal = np.cross(axes.right, axes.down)
    normal = normal / np.linalg.norm(normal)
    here = axes.position(k) @ normal
    best = min(with_position, key=lambda s: abs(np.array(s.ImagePositionPatient, float) @ normal - here))
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = best.SOPClassUID, best.SOPInstanceUID
    if best.get("ReferencedFrameNumber"):  # in an object with several frames
        item.ReferencedFrameNumber = best.ReferencedFrameNumber
    item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return item


def _file(dataset: Dataset) -> Slice:
    """The data set with file meta information, and its bytes."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return Slice(dataset, buffer.getvalue())
