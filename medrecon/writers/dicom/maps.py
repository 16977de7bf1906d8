"""Maps of several samples in DICOM (PS3.3): parametric maps of floats, and the flags as a segmentation.

Viewers show a segmentation as an overlay on its series, and a parametric map as an image of its own.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from medrecon._version import __version__
from medrecon.uncertainty import MAPS
from medrecon.writers.dicom.identity import declare_deidentified, remove_times

if TYPE_CHECKING:
    from medrecon.writers.dicom.series import Slice

__all__ = ["dicom_map"]

_SCHEME = "99MEDRECON"
"""Designator of this package's own codes; private designators start with 99 (PS3.3, 8.2)."""


def dicom_map(name: str, values: np.ndarray, series: Sequence[Slice], number: int) -> bytes:
    """A map as one file, a series of its own, which refers to the slices of ``series`` and has their geometry.

    Args:
        name: name in :data:`medrecon.uncertainty.MAPS`.
        values: ``(slices, y, x)``, float32, or uint8 for ``flags``.
        series: series of the image.
        number: number of the map from 1, for its series number.
    """
    source = [one.dataset for one in series]
    common = _common_arguments(name, source, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = _segmentation(values, common) if name == "flags" else _parametric_map(name, values, common)
    result.SeriesDescription = f"medrecon {MAPS[name]}"[:64]
    if source[0].get("PatientIdentityRemoved") == "YES":
        declare_deidentified(result)
        remove_times(result)
    if "BodyPartExamined" in source[0]:
        result.BodyPartExamined = source[0].BodyPartExamined  # determines whether Laterality is required
    if "Laterality" in source[0]:
        result.Laterality = source[0].Laterality  # highdicom omits an empty one
    buffer = io.BytesIO()
    result.save_as(buffer)
    return buffer.getvalue()


def _common_arguments(name: str, source: list[Dataset], number: int) -> dict[str, Any]:
    """Arguments that highdicom takes for every kind of object."""
    return {
        "source_images": source,
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": int(source[0].SeriesNumber) + 100 * number,
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": "medrecon",
        "manufacturer_model_name": "medrecon",
        "software_versions": __version__,
        "device_serial_number": "0",
        "content_description": MAPS[name],
        "content_label": name.upper(),
    }


def _parametric_map(name: str, values: np.ndarray, common: dict[str, Any]) -> Dataset:
    """Parametric map of float32, in the unit of the source images."""
    import highdicom
    from pydicom.sr.codedict import codes

    low, high = min(float(values.min()), 0.0), float(values.max())
    high = high if high > low else low + 1.0
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=name.replace("_", " "),
        lut_explanation=MAPS[name],
        unit=codes.UCUM.HounsfieldUnit if common["source_images"][0].Modality == "CT" else codes.UCUM.NoUnits,
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
    )
    # Other functions require a width of at least 1.
    window = highdicom.VOILUTTransformation(
        window_center=(low + high) / 2, window_width=high - low, voi_lut_function="LINEAR_EXACT"
    )
    return highdicom.pm.ParametricMap(
        pixel_array=np.ascontiguousarray(values, dtype=np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        **common,
    )


def _segmentation(values: np.ndarray, common: dict[str, Any]) -> Dataset:
    """Binary segmentation of the flags, with a frame for every slice."""
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="samples disagree",
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=CodedConcept("FLAGS", _SCHEME, "Samples disagree on what was not measured"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="medrecon", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )
    return highdicom.seg.Segmentation(
        pixel_array=values,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=False,
        **common,
    )
