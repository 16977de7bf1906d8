"""Derived DICOM series: classic MR or CT images with the exact affine, and the spread of samples as a parametric map.

PS3.3 (MR Image, CT Image and Parametric Map information objects), PS3.15 annex E (de-identification).
"""

from __future__ import annotations

import datetime
import io
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds, validate_value

from medrecon._version import __version__
from medrecon.data.errors import InputError
from medrecon.writers.formats import with_signal

__all__ = ["Slice", "deidentified", "derived_series", "spread_map"]

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


@dataclass(frozen=True)
class Slice:
    """One file: its data set, and its bytes."""

    dataset: Dataset
    content: bytes


def deidentified(headers: Sequence[Dataset]) -> list[Dataset]:
    """Copies as the Basic Application Level Confidentiality Profile leaves them (PS3.15 table E.1-1, by dicom-anonymizer).

    UIDs are replaced alike in all of them.
    """
    from dicomanonymizer import anonymize_dataset

    copies = []
    for header in headers:
        copy = Dataset({element.tag: deepcopy(element) for element in header if element.tag.group != 2})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            anonymize_dataset(copy)
        for element in copy:  # the library puts the year 1 and midnight where a value may be empty
            if element.VR in ("DA", "TM", "DT"):
                element.value = ""
        copies.append(copy)
    return copies


def _text(value: Any) -> Any:  # noqa: ANN401
    """A value decoded, so that the new file's character set fits it."""
    return str(value) if type(value).__name__ == "PersonName" else value


def _is_valid(keyword: str, value: Any) -> bool:  # noqa: ANN401
    """Whether a value is one of its kind in DICOM; source series of scanners hold ages like ``0Y``."""
    vr = dictionary_VR(keyword)
    if vr not in ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM"):
        return True  # UIDs of a study or frame of reference are what others have, whatever they are
    try:
        for one in value if isinstance(value, MultiValue) else [value]:
            validate_value(vr, str(one), config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _copied(target: Dataset, source: Dataset | None, keywords: Sequence[str], required: bool = False) -> None:
    for keyword in keywords:
        value = None if source is None else source.get(keyword)
        value = _text(value) if value not in (None, "") and _is_valid(keyword, _text(value)) else None
        if value is not None or required:
            setattr(target, keyword, "" if value is None else value)


def _ds(values: Sequence[float] | np.ndarray) -> list[str]:
    return [format_number_as_ds(float(v)) for v in values]


def _geometry(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float], float]:
    """LPS affine, unit directions of x and y, pixel sides (row spacing first) and distance of slices."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, float)
    right, down, step = lps[:3, 0], lps[:3, 1], lps[:3, 2]
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    if min(sides) == 0 or abs(right @ down) > 1e-3 * sides[0] * sides[1]:
        raise InputError(
            "the image's axes are not perpendicular, which DICOM needs within a slice; write NIfTI instead"
        )
    normal = np.cross(right / sides[0], down / sides[1])
    return lps, right / sides[0], down / sides[1], (float(sides[1]), float(sides[0])), float(abs(step @ normal))


def derived_series(
    volume: np.ndarray,
    affine: np.ndarray | None,
    record: Mapping[str, Any],
    like: Sequence[Dataset] = (),
    deidentify: bool = False,
    name: str = "",
    modality: str = "MR",
) -> list[Slice]:
    """A new series, one slice a file, in the order of ``volume``.

    Patient and study, and where they are given the frame of reference and what the scanner was set to, are those of ``like``;
    series and instances get UIDs of their own, and refer to the slices of ``like`` as their source. Without ``like`` patient and
    study stay empty. Magnitudes are stored by one scale for the whole series, which a real-world value map tells (MR images have
    no rescaling); HU as they are, rounded.

    Args:
        volume: ``(slices, y, x)``, magnitudes or HU.
        affine: RAS, of (x, y, slice).
        record: provenance; solver, bundle, seed and acceleration are told in the derivation.
        like: data sets of a source series, pixels or not.
        deidentify: see :func:`deidentified`.
        name: of the data, for errors.
        modality: ``MR`` or ``CT``.

    Raises:
        InputError: without an affine, or for axes that are not perpendicular.
    """
    if affine is None:
        raise InputError(
            f"{name}: does not give the position of its image, which DICOM needs; write NIfTI, or give headers (--like) of a "
            "series of the same slices"
        )
    source = deidentified(like) if deidentify and like else list(like)
    first = source[0] if source else None
    lps, right, down, pixel, apart = _geometry(affine)
    if modality == "CT":
        stored = np.clip(np.round(volume), -32768, 32767).astype(np.int16)
        slope = 1.0
    else:
        # 15 bits: half of the viewers take 16 for signed ones.
        slope = (float(volume.max()) or 1.0) / 32767
        stored = np.clip(np.round(volume / slope), 0, 32767).astype(np.uint16)
    now = datetime.datetime.now()
    common = _common(record, first, modality, pixel, apart, deidentify, now)
    low, high = np.percentile(with_signal(stored), (1, 99.5))
    out = []
    for k, plane in enumerate(stored):
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = _ds((lps @ [0, 0, k, 1])[:3])
        dataset.ImageOrientationPatient = _ds([*right, *down])
        dataset.SliceLocation = format_number_as_ds(float(np.cross(right, down) @ (lps @ [0, 0, k, 1])[:3]))
        dataset.Rows, dataset.Columns = plane.shape
        dataset.PixelRepresentation = int(modality == "CT")
        dataset.PixelData = plane.astype("<i2" if modality == "CT" else "<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        if modality == "MR":
            dataset.WindowCenter, dataset.WindowWidth = _ds([(low + high) / 2, max(high - low, 1)])
            dataset.RealWorldValueMappingSequence = [_scale(slope)]
        near = _nearest(source, lps, k)
        if near is not None:
            dataset.SourceImageSequence = [near]
        out.append(_file(dataset))
    return out


def _common(
    record: Mapping[str, Any], first: Dataset | None, modality: str, pixel: tuple[float, float], apart: float, deidentify: bool,
    now: datetime.datetime,
) -> Dataset:  # fmt: skip
    """What all slices share."""
    common = Dataset()
    common.SpecificCharacterSet = "ISO_IR 192"
    _copied(common, first, ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), True)
    _copied(common, first, _PATIENT)
    _copied(common, first, ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"), True)
    _copied(common, first, _STUDY)
    _copied(common, first, _FRAME)
    _copied(common, first, _SCAN)
    if not common.get("StudyInstanceUID"):
        common.StudyInstanceUID = generate_uid(prefix=None)
    if not common.get("FrameOfReferenceUID"):
        common.FrameOfReferenceUID = generate_uid(prefix=None)
    if "PositionReferenceIndicator" not in common:
        common.PositionReferenceIndicator = ""
    part = common.get("BodyPartExamined")
    if "Laterality" not in common and "ImageLaterality" not in common and (not part or part in _PAIRED):
        common.Laterality = ""  # which of the two sides, if it has two, is not known
    if "PatientPosition" not in common:
        common.PatientPosition = ""
    if modality == "MR":
        for keyword, otherwise in _MR_NEEDS.items():
            setattr(common, keyword, otherwise)
        _copied(common, first, tuple(_MR_NEEDS))
        # Present where, and only where, the magnetisation was inverted (PS3.3 C.8.3.1).
        if "IR" not in (common.ScanningSequence or ""):
            common.pop("InversionTime", None)
        elif "InversionTime" not in common:
            common.InversionTime = None
    else:
        common.KVP = None
        _copied(common, first, ("KVP",))
        common.AcquisitionNumber = None
        common.RescaleIntercept, common.RescaleSlope, common.RescaleType = "0", "1", "HU"
        common.WindowCenter, common.WindowWidth = ["40", "-600"], ["400", "1500"]
        common.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]
    common.SOPClassUID = _MR if modality == "MR" else _CT
    common.Modality = modality
    common.ImageType = ["DERIVED", "PRIMARY", "OTHER" if modality == "MR" else "AXIAL"]
    common.SeriesInstanceUID = generate_uid(prefix=None)
    number = None if first is None else first.get("SeriesNumber")
    common.SeriesNumber = 9001 if not number else 9000 + int(number) % 1000
    solver = (record.get("solver") or {}).get("name", "")
    common.SeriesDescription = f"medrecon {solver}".strip()[:64]
    if not deidentify:  # images are reconstructed on the day of the scan, or soon after
        common.SeriesDate = common.ContentDate = common.InstanceCreationDate = now.strftime("%Y%m%d")
        common.SeriesTime = common.ContentTime = common.InstanceCreationTime = now.strftime("%H%M%S")
    common.Manufacturer = "medrecon"
    common.ManufacturerModelName = "medrecon"
    common.SoftwareVersions = __version__
    bundle = record.get("bundle") or {}
    told = [
        f"solver {solver}",
        *([f"prior {bundle['name']} {bundle['version']}"] if bundle else []),
        *(
            f"{key} {record[key]}"
            for key in ("network_evaluations", "acceleration", "samples", "seed")
            if key in record
        ),
        _NOTE,
    ]
    common.DerivationDescription = ", ".join(told)[:1024]
    common.ImageComments = f"Research use only, {_NOTE}"
    common.BurnedInAnnotation = "NO"
    common.SliceThickness = format_number_as_ds(apart)
    common.SpacingBetweenSlices = format_number_as_ds(apart)
    common.PixelSpacing = _ds(pixel)
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, 16, 15
    if deidentify:
        _declare_deidentified(common)
    return common


def _declare_deidentified(dataset: Dataset) -> None:
    """What PS3.15 E.1.1 and E.3.6 ask of data sets without identity, all dates and times of which were removed."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "PS3.15 E.1 Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [_code("113100", "Basic Application Confidentiality Profile")]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _remove_times(dataset: Dataset) -> None:
    """Take dates and times out of a parametric map, as far as its modules (PS3.3) allow; others get values that say nothing."""
    needed = {
        "ContentDate": "19000101",
        "ContentTime": "000000",
        "StudyDate": "",
        "StudyTime": "",
        "PatientBirthDate": "",
    }
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value:
                _remove_times(item)
        elif element.VR in ("DA", "TM", "DT"):
            if element.keyword in needed:
                element.value = needed[element.keyword]
            else:
                del dataset[element.tag]


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


def _code(value: str, meaning: str) -> Dataset:
    """Of DICOM's own terminology."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, "DCM", meaning)


def _nearest(source: Sequence[Dataset], lps: np.ndarray, k: int) -> Dataset | None:
    """A reference to the source slice that lies nearest along the normal."""
    placed = [s for s in source if s.get("ImagePositionPatient") is not None and s.get("SOPInstanceUID")]
    if not placed:
        return None
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    normal = normal / np.linalg.norm(normal)
    here = (lps @ [0, 0, k, 1])[:3] @ normal
    best = min(placed, key=lambda s: abs(np.array(s.ImagePositionPatient, float) @ normal - here))
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = best.SOPClassUID, best.SOPInstanceUID
    if best.get("ReferencedFrameNumber"):  # of an object with several frames
        item.ReferencedFrameNumber = best.ReferencedFrameNumber
    item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
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


def spread_map(spread: np.ndarray, series: Sequence[Slice], record: Mapping[str, Any]) -> bytes:
    """The standard deviation of samples as a parametric map of floats (highdicom), which refers to ``series``.

    Its label says whether the solver claims that it is an uncertainty.

    Args:
        spread: ``(slices, y, x)``, in the unit of the image.
        series: that of the image.
        record: provenance; ``solver.calibrated`` tells.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    source = [one.dataset for one in series]
    calibrated = bool((record.get("solver") or {}).get("calibrated"))
    label = "standard deviation of samples" if calibrated else "spread of samples, not calibrated"
    data = np.ascontiguousarray(spread, dtype=np.float32)
    hu = source[0].Modality == "CT"
    top = float(data.max()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = highdicom.pm.ParametricMap(
            source_images=source,
            pixel_array=data,
            series_instance_uid=generate_uid(prefix=None),
            series_number=int(source[0].SeriesNumber) + 100,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="medrecon",
            manufacturer_model_name="medrecon",
            software_versions=__version__,
            device_serial_number="0",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping(
                    lut_label="spread",
                    lut_explanation=label,
                    unit=codes.UCUM.HounsfieldUnit if hu else codes.UCUM.NoUnits,
                    value_range=(0.0, top),
                    slope=1.0,
                    intercept=0.0,
                )
            ],
            voi_lut_transformations=[
                highdicom.VOILUTTransformation(
                    window_center=top / 2,
                    window_width=top,
                    voi_lut_function="LINEAR_EXACT",  # of the others a width is at least 1
                )
            ],
            content_description=label,
            content_label="SPREAD",
        )
    result.SeriesDescription = f"medrecon {label}"[:64]
    if source[0].get("PatientIdentityRemoved") == "YES":
        _declare_deidentified(result)
        _remove_times(result)
    if "BodyPartExamined" in source[0]:
        result.BodyPartExamined = source[0].BodyPartExamined  # which says whether there are two sides
    if "Laterality" in source[0]:
        result.Laterality = source[0].Laterality  # highdicom leaves an empty one out
    buffer = io.BytesIO()
    result.save_as(buffer)
    return buffer.getvalue()
