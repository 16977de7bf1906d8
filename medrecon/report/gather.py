"""Gather what a page shows: from a run, or from the files of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medrecon.data.errors import InputError, one_line, warn
from medrecon.data.scan import Geometry
from medrecon.report.baselines import classical, inputs_of, zero_filled
from medrecon.report.case import Case, shown_planes
from medrecon.report.command import command
from medrecon.report.pictures import name_of_image
from medrecon.volumes import Volume, check_pair, load_reference

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.problems.base import Problem

__all__ = [
    "case_of_images",
    "case_of_run",
    "entry_of_scores",
    "find_beside",
    "reference_of",
    "scores_of",
    "with_problem",
    "with_reference",
]


def _planes(array: np.ndarray) -> np.ndarray:
    """``(frames, slices, y, x)`` or ``(slices, y, x)`` as planes ``(planes, y, x)``, float32."""
    return np.asarray(array, np.float32).reshape(-1, *array.shape[-2:])


def labels(record: Mapping[str, Any], shape: Sequence[int]) -> list[str]:
    """Names of the planes of an image ``(slices, y, x)`` or ``(frames, slices, y, x)``; slices have their index in the scan."""
    frames, slices = (shape[0] if len(shape) == 4 else 1), shape[-3]
    numbers = record.get("slices")
    if not isinstance(numbers, list) or len(numbers) != slices:
        numbers = list(range(slices))
    if len(shape) == 3:
        return [f"slice {number}" for number in numbers]
    names = [f", slice {number}" if slices > 1 else "" for number in numbers]
    return [f"frame {frame}{name}" for frame in range(frames) for name in names]


def case_of_images(
    name: str,
    record: Mapping[str, Any],
    image: np.ndarray,
    samples: np.ndarray | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    geometry: Geometry = Geometry(),
) -> Case:
    """A case from its images, without inputs, comparisons and reference.

    Args:
        name: file name of the image without suffix.
        record: content of the sidecar.
        image: image ``(slices, y, x)`` or ``(frames, slices, y, x)``.
        samples: samples ``(n, ...)`` of the same shape, or ``None``.
        maps: maps by name, each of the same shape.
        geometry: geometry of the image.
    """
    planes = _planes(image)
    shown = shown_planes(len(planes))
    return Case(
        name=name,
        record=record,
        image=planes,
        shown=shown,
        labels=labels(record, image.shape),
        samples=None if samples is None else np.stack([_planes(one)[shown] for one in samples]),
        maps={key: _planes(one) for key, one in (maps or {}).items()},
        geometry=geometry,
        modality=str(record.get("modality", "MR")),
        has_frames=image.ndim == 4,
        command=command(record),
    )


def case_of_run(
    reconstruction: Reconstruction,
    record: Mapping[str, Any],
    name: str,
    problem: Problem,
    reference: Volume | None = None,
) -> Case:
    """The case of a run that has just ended.

    Args:
        reconstruction: result of the run.
        record: content of the sidecar.
        name: file name of the image without suffix.
        problem: problem of the scan.
        reference: reference on the same slices; ``None``: there is none.
    """
    uncertainty = reconstruction.uncertainty
    case = case_of_images(
        name,
        record,
        image=reconstruction.image,
        samples=reconstruction.samples,
        maps={} if uncertainty is None else uncertainty.maps(),
        geometry=reconstruction.geometry,
    )
    case = with_problem(case, problem)
    return case if reference is None else with_reference(case, reference)


def with_problem(case: Case, problem: Problem) -> Case:
    """The case with zero-filled and classical images of the shown planes, and with pictures of the data.

    What cannot be made is left out with a warning: hours of computation must not be lost for a picture.
    """
    problem = problem.slicewise  # classical images and pictures of the data are those of the slices
    solver = str((case.record.get("solver") or {}).get("name", ""))
    shown = list(case.shown)
    makers: dict[str, Callable[[], Any]] = {
        "zero_filled": lambda: zero_filled(problem, shown, solver),
        "classical": lambda: classical(problem, shown, solver),
        "inputs": lambda: inputs_of(problem, shown[len(shown) // 2]),
    }
    made = {}
    for part, make in makers.items():
        try:
            made[part] = make()
        except Exception as error:
            warn(f"{case.name}: the report lacks {part.replace('_', '-')} pictures ({one_line(error)})")
    return replace(case, **made)


# Reference


def reference_of(
    path: str | Path, shape: Sequence[int], geometry: Geometry, numbers: Sequence[int], is_ct: bool
) -> Volume:
    """The reference of an image, on the slices that were reconstructed.

    Args:
        path: file of the reference: a volume, or fully sampled k-space.
        shape: shape of the planes of the image, ``(planes, y, x)``.
        geometry: geometry of the image.
        numbers: indices of the slices of the image in the scan; used where the reference has more slices.
        is_ct: whether the image is CT.

    Raises:
        InputError: if the reference cannot be read or has another shape or position.
    """
    reference = load_reference(path)
    several = len(reference.array) > shape[0] == len(numbers)
    if several and all(isinstance(k, int) and 0 <= k < len(reference.array) for k in numbers):
        affine, steps = reference.affine, np.diff(numbers)
        step = int(steps[0]) if len(steps) else 1
        even = affine is not None and (steps == step).all()
        chosen = Geometry(None, affine).slices(slice(numbers[0], None, step), len(reference.array)).affine
        reference = replace(reference, array=reference.array[list(numbers)], affine=chosen if even else None)
    image = Volume(path=Path("image"), array=np.zeros(shape, np.float32), affine=geometry.affine, is_ct=is_ct)
    try:
        check_pair(image, reference)
    except InputError as error:
        raise InputError(f"{path}: does not fit as a reference; {str(error).removeprefix('image: ')}") from error
    return reference


def with_reference(case: Case, reference: Volume) -> Case:
    """The case with a reference, and with scores of its images against it."""
    for text in reference.warnings:
        warn(text)
    name = Path(reference.path).name
    return replace(case, reference=reference.array, reference_name=name, metrics=_metrics(case, reference))


def scores_of(image: np.ndarray, reference: Volume, is_ct: bool) -> dict[str, Any]:
    """Scores of an image against its reference; empty for images that are too small.

    Args:
        image: image ``(slices, y, x)`` or ``(frames, slices, y, x)``.
        reference: reference on the same planes.
        is_ct: whether the image is CT.
    """
    try:
        return _scores(is_ct or reference.is_ct)(_planes(image), reference.array)
    except InputError:
        return {}


def entry_of_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the sidecar on scores, of which JSON has no infinite ones; empty without scores."""
    return {"metrics": {name: one for name, one in scores.items() if np.isfinite(one)}} if scores else {}


def _scores(in_hu: bool) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    from medrecon.metrics import hounsfield_scores, magnitude_scores

    return hounsfield_scores if in_hu else magnitude_scores


def _metrics(case: Case, volume: Volume) -> dict[str, Any]:
    """Scores of all compared images on the shown planes, and of the whole image; empty for images that are too small."""
    scores, reference, shown = _scores(case.modality == "CT" or volume.is_ct), volume.array, list(case.shown)
    images = {one.name: one.image for one in (case.zero_filled, case.classical) if one is not None}
    where = "" if len(shown) == len(case.image) else ", shown planes"
    pairs = {f"{name}{where}": (image, reference[shown]) for name, image in images.items()}
    if images and where:
        pairs[f"{name_of_image(case)}{where}"] = case.image[shown], reference[shown]
    pairs["image"] = case.image, reference
    try:
        return {name: scores(*pair) for name, pair in pairs.items()}
    except InputError as error:
        warn(f"{case.name}: the report has no scores; {error}")
        return {}


def find_beside(path: Path, name: str) -> Path:
    """A file, or in a folder the file of a given name, or of this name with another suffix.

    Raises:
        InputError: if the folder has no such file, or several.
    """
    if not path.is_dir() or not name:
        return path
    if (path / name).exists():
        return path / name
    if path.resolve().name == name:  # the folder itself is the scan, e.g. of DICOM
        return path
    stem = name.partition(".")[0]
    found = sorted(one for one in path.iterdir() if one.name.partition(".")[0] == stem)
    if len(found) != 1:
        raise InputError(
            f"{path}: has {len(found) or 'no'} file{'s' * (len(found) > 1)} named {stem}; give the file itself"
        )
    return found[0]
