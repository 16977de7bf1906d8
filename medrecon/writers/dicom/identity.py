"""De-identification: PS3.15 annex E."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy

from pydicom import Dataset

__all__ = ["code", "declare_deidentified", "deidentified", "remove_times"]


def code(value: str, meaning: str) -> Dataset:
    """A concept of DICOM's own terminology."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, "DCM", meaning)


def deidentified(headers: Sequence[Dataset]) -> list[Dataset]:
    """Copies de-identified by the Basic Application Level Confidentiality Profile (PS3.15 table E.1-1, by dicom-anonymizer).

    Every UID is replaced by the same new UID in all copies.
    """
    from dicomanonymizer import anonymize_dataset

    copies = []
    for header in headers:
        copy = Dataset({element.tag: deepcopy(element) for element in header if element.tag.group != 2})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            anonymize_dataset(copy)
        for element in copy:  # the library writes the year 1 and midnight where a value may be empty
            if element.VR in ("DA", "TM", "DT"):
                element.value = ""
        copies.append(copy)
    return copies


def declare_deidentified(dataset: Dataset) -> None:
    """Add the attributes that PS3.15 E.1.1 and E.3.6 require after identity, dates and times were removed."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "PS3.15 E.1 Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code("113100", "Basic Application Confidentiality Profile")]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def remove_times(dataset: Dataset) -> None:
    """Remove dates and times from a parametric map; those that its modules (PS3.3) require get placeholders."""
    placeholders = {
        "ContentDate": "19000101",
        "ContentTime": "000000",
        "StudyDate": "",
        "StudyTime": "",
        "PatientBirthDate": "",
    }
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value:
                remove_times(item)
        elif element.VR in ("DA", "TM", "DT"):
            if element.keyword in placeholders:
                element.value = placeholders[element.keyword]
            else:
                del dataset[element.tag]
