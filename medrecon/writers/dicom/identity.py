"""De-identification: PS3.15 annex E."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy

from pydicom import Dataset

__all__ = ["code", "declare_deidentified", "deidentified", "remove_times"]


def code(value: str, meaning: str) -> Dataset:
    """Of DICOM's own terminology."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, "DCM", meaning)


def deidentified(headers: Sequence[Dataset]) -> list[Dataset]:
    """Copies as the Basic Application Level Confidentiality Profile leaves them (PS3.15 table E.1-1, by dicom-anonymizer).

    Every UID is replaced by the same new one in all of them.
    """
    from dicomanonymizer import anonymize_dataset

    copies = []
    for header in headers:
        copy = Dataset({element.tag: deepcopy(element) for element in header if element.tag.group != 2})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            anonymize_dataset(copy)
        for element in copy:  # where a value may be empty, the library writes the year 1 and midnight
            if element.VR in ("DA", "TM", "DT"):
                element.value = ""
        copies.append(copy)
    return copies


def declare_deidentified(dataset: Dataset) -> None:
    """Add what PS3.15 E.1.1 and E.3.6 require of data sets whose identity, dates and times were removed."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "PS3.15 E.1 Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code("113100", "Basic Application Confidentiality Profile")]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def remove_times(dataset: Dataset) -> None:
    """Take dates and times out of a parametric map, as far as its modules (PS3.3) allow; others get placeholders."""
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
                remove_times(item)
        elif element.VR in ("DA", "TM", "DT"):
            if element.keyword in needed:
                element.value = needed[element.keyword]
            else:
                del dataset[element.tag]
