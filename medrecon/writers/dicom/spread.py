"""The spread of samples as a DICOM parametric map (PS3.3)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from medrecon._version import __version__
from medrecon.writers.dicom.identity import declare_deidentified, remove_times

if TYPE_CHECKING:
    from medrecon.writers.dicom.series import Slice

__all__ = ["spread_map"]


def spread_map(samples: np.ndarray, series: Sequence[Slice], record: Mapping[str, Any]) -> bytes:
    """Standard deviation of samples as a parametric map of floats (highdicom), which refers to ``series``.

    Its label states whether the solver's samples are calibrated, so that the map is an uncertainty.

    Args:
        samples: ``(n, slices, y, x)``.
        series: series of the image.
        record: record of the reconstruction, with ``solver.calibrated``.
    """
    source = [one.dataset for one in series]
    calibrated = bool((record.get("solver") or {}).get("calibrated"))
    label = "standard deviation of samples" if calibrated else "spread of samples, not calibrated"
    spread = samples.std(axis=0, dtype=np.float64)
    result = _parametric_map(np.ascontiguousarray(spread, dtype=np.float32), source, label)
    result.SeriesDescription = f"medrecon {label}"[:64]
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


def _parametric_map(data: np.ndarray, source: list[Dataset], label: str) -> Dataset:
    """Parametric map of ``(slices, y, x)`` float32, in the unit of the source images."""
    import highdicom
    from pydicom.sr.codedict import codes

    top = float(data.max()) or 1.0
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="spread",
        lut_explanation=label,
        unit=codes.UCUM.HounsfieldUnit if source[0].Modality == "CT" else codes.UCUM.NoUnits,
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
    )
    # Other functions require a width of at least 1.
    window = highdicom.VOILUTTransformation(window_center=top / 2, window_width=top, voi_lut_function="LINEAR_EXACT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return highdicom.pm.ParametricMap(
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
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[window],
            content_description=label,
            content_label="SPREAD",
        )
