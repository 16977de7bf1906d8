"""Gather what a page shows: from a run, or from the files of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medrecon.data.errors import InputError, warn
from medrecon.data.scan import Geometry
from medrecon.report.baselines import classical, inputs_of, zero_filled
from medrecon.report.case import Case, shown_planes
from medrecon.report.command import command
from medrecon.volumes import Volume, check_pair, load_reference

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.problems.base import Problem

__all__ = ["beside", "case_of_run", "with_problem", "with_reference"]


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
    reconstruction: Reconstruction, record: Mapping[str, Any], name: str, problem: Problem, reference: str | Path | None = None
) -> Case:
    """The case of a run that has just ended.

    Args:
        reconstruction: result of the run.
        record: content of the sidecar.
        name: file name of the image without suffix.
        problem: problem of the scan.
        reference: file of the reference; ``None``: there is none.
    """
    uncertainty = reconstruction.uncertainty
    case = case_of_images(
        name,
        record,
        reconstruction.image,
        reconstruction.samples,
        {} if uncertainty is None else uncertainty.maps(),
        reconstruction.geometry,
    )
    case = with_problem(case, problem)
    return case if reference is None else with_reference(case, reference)


def with_problem(case: Case, problem: Problem) -> Case:
    """The case with zero-filled and classical images of the shown planes, and with pictures of the data."""
    solver = str((case.record.get("solver") or {}).get("name", ""))
    shown = list(case.shown)
    middle = shown[len(shown) // 2]
    return replace(
        case,
        zero_filled=zero_filled(problem, shown, solver),
        classical=classical(problem, shown, solver),
        inputs=inputs_of(problem, middle),
    )


# Reference


def _same_slices(reference: Volume, case: Case) -> Volume:
    """The reference on the slices that were reconstructed, if it has more."""
    numbers = case.record.get("slices")
    if case.has_frames or len(reference.array) == len(case.image) or not isinstance(numbers, list):
        return reference
    if len(numbers) != len(case.image) or not all(isinstance(k, int) and 0 <= k < len(reference.array) for k in numbers):
        return reference
    affine = reference.affine
    steps = np.diff(numbers)
    if affine is not None and (steps == steps[:1]).all():
        affine = Geometry(None, affine).slices(slice(numbers[0], None, int(steps[0]) if len(steps) else 1), 10**9).affine
    return replace(reference, array=reference.array[numbers], affine=affine)


def with_reference(case: Case, path: str | Path) -> Case:
    """The case with a reference, and with scores of its images against it.

    Raises:
        InputError: if the reference cannot be read or has another shape or position.
    """
    reference = _same_slices(load_reference(path), case)
    for text in reference.warnings:
        warn(text)
    image = Volume(path=Path(case.name), array=case.image, affine=case.geometry.affine, is_ct=case.modality == "CT")
    in_hu = check_pair(image, reference)
    case = replace(case, reference=reference.array, reference_name=Path(path).name)
    return replace(case, metrics=_metrics(case, in_hu))


def _metrics(case: Case, in_hu: bool) -> dict[str, Any]:
    """Scores of the whole image, and of all compared images on the shown planes; empty for images that are too small."""
    from medrecon.metrics import hounsfield_scores, magnitude_scores

    scores = hounsfield_scores if in_hu else magnitude_scores
    reference, shown = case.reference, list(case.shown)
    if reference is None:
        return {}
    images = {"image": (case.image, reference)}
    others = {one.name: one.image for one in (case.zero_filled, case.classical) if one is not None}
    if others:
        solver = str((case.record.get("solver") or {}).get("name", "reconstruction"))
        others[solver] = case.image[shown]
    where = "" if len(shown) == len(case.image) else ", shown planes"
    images |= {f"{name}{where}": (image, reference[shown]) for name, image in others.items()}
    if len(shown) == len(case.image) and others:
        del images["image"]
        images = {"image": (case.image, reference), **{k: v for k, v in images.items() if not k.startswith(solver)}}
    try:
        return {name: scores(*pair) for name, pair in images.items()}
    except InputError as error:
        warn(f"{case.name}: no scores; {error}")
        return {}


def beside(folder: str | Path, name: str) -> Path | None:
    """A file or folder of this name, or of this name with another suffix, in a folder; the path itself if it is a file."""
    folder = Path(folder)
    if not folder.is_dir():
        return folder
    if (folder / name).exists():
        return folder / name
    stem = Path(name).stem
    found = sorted(one for one in folder.iterdir() if one.name.split(".")[0] == stem.split(".")[0])
    return found[0] if len(found) == 1 else None
