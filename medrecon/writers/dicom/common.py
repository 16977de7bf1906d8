"""Attributes common to all slices of a derived series (PS3.3: MR Image and CT Image information objects)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds, validate_value

from medrecon._version import __version__
from medrecon.data.errors import InputError
from medrecon.data.geometry import ras_to_lps
from medrecon.writers.dicom.identity import declare_deidentified

__all__ = ["Axes", "common_attributes", "decimals"]

_MR, _CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
            "PatientWeight")  # fmt: skip
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
          "StudyDescription")  # fmt: skip
_FRAME = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
)
_SCAN = ("MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus", "EchoNumbers", "FlipAngle", "InversionTime",
         "ProtocolName", "SequenceName", "AcquisitionDate", "AcquisitionTime", "PixelBandwidth")  # fmt: skip
_MR_NEEDS = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": None, "MRAcquisitionType": "2D",
             "RepetitionTime": None, "EchoTime": None, "EchoTrainLength": None}  # fmt: skip
_PAIRED = ("ANKLE", "ARM", "BREAST", "CLAVICLE", "EAR", "ELBOW", "EYE", "FEMUR", "FOOT", "FOREARM", "HAND", "HIP", "HUMERUS",
           "KIDNEY", "KNEE", "LEG", "ORBIT", "SHOULDER", "THIGH", "TIBIA FIBULA", "WRIST")  # fmt: skip
_NOTE = "not for diagnostic use"


def _text(value: Any) -> Any:  # noqa: ANN401
    """A decoded value, which can be written in another character set."""
    return str(value) if type(value).__name__ == "PersonName" else value


def _is_valid(keyword: str, value: Any) -> bool:  # noqa: ANN401
    """Whether a value is valid in DICOM; source series of scanners contain ages like ``0Y``."""
    vr = dictionary_VR(keyword)
    if vr not in ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM"):
        return True  # UIDs of a study or frame of reference must be copied even if they are invalid
    try:
        for one in value if isinstance(value, MultiValue) else [value]:
            validate_value(vr, str(one), config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _copy(target: Dataset, source: Dataset | None, keywords: Sequence[str], *, required: bool = False) -> None:
    """Copy valid values of ``source``; if ``required``, missing ones become empty."""
    for keyword in keywords:
        value = None if source is None else source.get(keyword)
        value = _text(value) if value not in (None, "") and _is_valid(keyword, _text(value)) else None
        if value is not None or required:
            setattr(target, keyword, "" if value is None else value)


def decimals(values: Sequence[float] | np.ndarray) -> list[str]:
    """Numbers as decimal strings of DICOM."""
    return [format_number_as_ds(float(v)) for v in values]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Axes of the image in the patient's coordinates (LPS).

    Args:
        lps: affine of (x, y, slice), mm.
        right: unit vector along x.
        down: unit vector along y.
        pixel: distance between rows and distance between columns, mm.
        slice_spacing: distance between slices along their normal, mm.
    """

    lps: np.ndarray
    right: np.ndarray
    down: np.ndarray
    pixel: tuple[float, float]
    slice_spacing: float

    @classmethod
    def of(cls, affine: np.ndarray) -> Axes:
        """Axes of an RAS affine.

        Raises:
            InputError: if the axes of a slice are not perpendicular.
        """
        lps = ras_to_lps(affine)
        lengths = np.linalg.norm(lps[:3, :3], axis=0)
        if min(lengths) == 0 or abs(lps[:3, 0] @ lps[:3, 1]) > 1e-3 * lengths[0] * lengths[1]:
            raise InputError(
                "the image's axes are not perpendicular, which DICOM needs within a slice; write NIfTI instead"
            )
        right, down = lps[:3, 0] / lengths[0], lps[:3, 1] / lengths[1]
        spacing = float(abs(lps[:3, 2] @ np.cross(right, down)))
        return cls(lps=lps, right=right, down=down, pixel=(float(lengths[1]), float(lengths[0])), slice_spacing=spacing)

    def position(self, k: int) -> np.ndarray:
        """Position of the first pixel of slice ``k``, mm."""
        return (self.lps @ [0, 0, k, 1])[:3]


def common_attributes(
    record: Mapping[str, Any], first: Dataset | None, *, modality: str, axes: Axes, deidentify: bool
) -> Dataset:
    """The attributes that all slices share.

    Args:
        record: record of the reconstruction.
        first: data set of the source series, if there is one.
        modality: ``MR`` or ``CT``.
        axes: axes of the image.
        deidentify: whether to declare that the identity was removed, and to omit the time of writing.
    """
    common = Dataset()
    common.SpecificCharacterSet = "ISO_IR 192"
    _add_patient_and_study(common, first)
    if modality == "MR":
        _add_mr(common, first)
    else:
        _add_ct(common, first)
    _add_series(common, first, modality=modality, deidentify=deidentify)
    _add_derivation(common, record)
    common.SliceThickness = format_number_as_ds(axes.slice_spacing)
    common.SpacingBetweenSlices = format_number_as_ds(axes.slice_spacing)
    common.PixelSpacing = decimals(axes.pixel)
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, 16, 15
    if deidentify:
        declare_deidentified(common)
    return common


def _add_patient_and_study(common: Dataset, first: Dataset | None) -> None:
    """Patient, study, frame of reference and scanner settings of the source; empty where an attribute is required."""
    _copy(common, first, ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), required=True)
    _copy(common, first, _PATIENT)
    _copy(
        common, first, ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"), required=True
    )
    _copy(common, first, _STUDY)
    _copy(common, first, _FRAME)
    _copy(common, first, _SCAN)
    if not common.get("StudyInstanceUID"):
        common.StudyInstanceUID = generate_uid(prefix=None)
    if not common.get("FrameOfReferenceUID"):
        common.FrameOfReferenceUID = generate_uid(prefix=None)
    if "PositionReferenceIndicator" not in common:
        common.PositionReferenceIndicator = ""
    part = common.get("BodyPartExamined")
    if "Laterality" not in common and "ImageLaterality" not in common and (not part or part in _PAIRED):
        common.Laterality = ""  # for paired body parts, the side is unknown
    if "PatientPosition" not in common:
        common.PatientPosition = ""


def _add_mr(common: Dataset, first: Dataset | None) -> None:
    """Required attributes of MR images."""
    for keyword, default in _MR_NEEDS.items():
        setattr(common, keyword, default)
    _copy(common, first, tuple(_MR_NEEDS))
    # Present if and only if the magnetisation was inverted (PS3.3 C.8.3.1).
    if "IR" not in (common.ScanningSequence or ""):
        common.pop("InversionTime", None)
    elif "InversionTime" not in common:
        common.InversionTime = None


def _add_ct(common: Dataset, first: Dataset | None) -> None:
    """Required attributes of CT images; values are HU."""
    common.KVP = None
    _copy(common, first, ("KVP",))
    common.AcquisitionNumber = None
    common.RescaleIntercept, common.RescaleSlope, common.RescaleType = "0", "1", "HU"
    common.WindowCenter, common.WindowWidth = ["40", "-600"], ["400", "1500"]
    common.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]


def _add_series(common: Dataset, first: Dataset | None, *, modality: str, deidentify: bool) -> None:
    """Attributes of a new series with the current date and time."""
    common.SOPClassUID = _MR if modality == "MR" else _CT
    common.Modality = modality
    common.ImageType = ["DERIVED", "PRIMARY", "OTHER" if modality == "MR" else "AXIAL"]
    common.SeriesInstanceUID = generate_uid(prefix=None)
    number = None if first is None else first.get("SeriesNumber")
    common.SeriesNumber = 9001 if not number else 9000 + int(number) % 1000
    now = datetime.datetime.now()
    if not deidentify:  # images are reconstructed on or soon after the day of the scan
        common.SeriesDate = common.ContentDate = common.InstanceCreationDate = now.strftime("%Y%m%d")
        common.SeriesTime = common.ContentTime = common.InstanceCreationTime = now.strftime("%H%M%S")
    common.Manufacturer = "medrecon"
    common.ManufacturerModelName = "medrecon"
    common.SoftwareVersions = __version__


def _add_derivation(common: Dataset, record: Mapping[str, Any]) -> None:
    """Description of the reconstruction."""
    solver = (record.get("solver") or {}).get("name", "")
    common.SeriesDescription = f"medrecon {solver}".strip()[:64]
    bundle = record.get("bundle") or {}
    facts = [
        f"solver {solver}",
        *([f"prior {bundle['name']} {bundle['version']}"] if bundle else []),
        *(
            f"{key} {record[key]}"
            for key in ("network_evaluations", "acceleration", "samples", "seed")
            if key in record
        ),
        _NOTE,
    ]
    common.DerivationDescription = ", ".join(facts)[:1024]
    common.ImageComments = f"Research use only, {_NOTE}"
    common.BurnedInAnnotation = "NO"
