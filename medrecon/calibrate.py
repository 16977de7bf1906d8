"""Calibrate the spread of posterior samples on reconstructions with references: ``medrecon calibrate``."""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from medrecon.calibration_file import (
    INTERVAL,
    LARGEST_FACTOR,
    SIGMA,
    Calibration,
    differences,
    read_calibrations,
    same_acceleration,
    same_settings,
    settings_of,
)
from medrecon.conformal import (
    LEVELS,
    coverage,
    images_needed,
    normalised_errors,
    random_disc,
    region_score,
    risk_control,
    split_conformal,
)
from medrecon.data.errors import InputError, warn
from medrecon.data.files import read_sidecar, sidecar_mismatch
from medrecon.formats import load_array, load_image
from medrecon.uncertainty import MAPS, pixel_statistics
from medrecon.volumes import Volume, check_pair, load_reference, load_volume

__all__ = [
    "RADII",
    "Case",
    "ImageScores",
    "Options",
    "appended",
    "calibration_of",
    "check_by_splits",
    "check_by_subjects",
    "check_different",
    "check_same_settings",
    "find_cases",
    "head_mask",
    "scores_before",
    "scores_of",
    "subjects_of",
    "with_subjects",
]

RADII = (3.0, 6.0, 12.0)
"""Radii of discs, pixels."""
_MOST_RATIO = 1.5
"""Root mean squares of image and reference that differ more than this are of different units."""
_LEAST_COSINE = 0.9
"""Least cosine of the angle between image and reference; 0.95 is an error of 30 %, as of a zero-filled image."""
_MAP_ENDING = re.compile(rf"_(?:samples|part-mag|part-phase|{'|'.join(MAPS)})$")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reconstruction with several samples.

    Args:
        sidecar: path of its sidecar.
        record: content of the sidecar.
    """

    sidecar: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """File name without suffix."""
        return self.sidecar.stem

    @property
    def files(self) -> list[Path]:
        """Files of the images and maps."""
        return [self.sidecar.parent / Path(str(name)).name for name in self.record["files"]]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run."""
        return settings_of(self.record)

    @property
    def acceleration(self) -> float | None:
        """Acceleration of the scan."""
        value = self.record.get("acceleration")
        return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How cases are compared with their references.

    Args:
        reference: folder of references with the names of the cases, or the reference of a single case.
        mask: likewise, masks of the pixels that count; ``None``: see :func:`head_mask`.
        regions: likewise, images of labels; ``None``: none.
        radii: radii of the discs, pixels.
        seed: seed of the places of the discs.
        subject: subject of a case by its name.
    """

    reference: Path
    mask: Path | None = None
    regions: Path | None = None
    radii: Sequence[float] = RADII
    seed: int = 0
    subject: Callable[[str], str] = field(default=lambda name: name)


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Errors of one image (a slice) relative to the spread of its samples.

    Args:
        case: name of the case.
        subject: its subject.
        errors: normalised errors of the pixels inside the head, float32.
        in_quantiles: fraction of these pixels between the 5 % and 95 % quantile of the samples.
        width: mean spread of these pixels, relative to the 99 % quantile of the reference.
        discs: scores of the mean of a disc by its radius, where one fits.
        regions: scores of the mean of a region by its label.
    """

    case: str
    subject: str
    errors: np.ndarray
    in_quantiles: float
    width: float
    discs: Mapping[float, float]
    regions: Mapping[float, float]


# Cases


def _sidecar_of(path: Path) -> Path:
    """The sidecar beside an image, a map or a sidecar."""
    if path.suffix.lower() == ".json":
        return path
    stem = re.sub(r"(\.nii)?\.[^.]+$", "", path.name)
    names = dict.fromkeys((stem, _MAP_ENDING.sub("", stem)))
    found = [one for name in names if (one := path.with_name(f"{name}.json")).is_file()]
    if not found:
        raise InputError(
            f"{path}: has no sidecar beside it ({stem}.json); give outputs of 'medrecon recon --samples K'"
        )
    return found[0]


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """The content of a sidecar that names its files and its solver; ``None`` for other files."""
    record = read_sidecar(path)
    return record if record and record["files"] and isinstance(record.get("solver"), dict) else None


def find_cases(paths: Iterable[str | Path]) -> list[Case]:
    """Cases of files and folders, every one once, sorted by name.

    Args:
        paths: images, sidecars, or folders of them.

    Raises:
        InputError: if a path is no reconstruction with several samples.
    """
    found: dict[Path, Case] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: does not exist; give outputs of 'medrecon recon --samples K'")
        sidecars = sorted(path.rglob("*.json")) if path.is_dir() else [_sidecar_of(path)]
        before = len(found)
        for sidecar in sidecars:
            record = _read_sidecar(sidecar)
            if record is None and not path.is_dir():
                raise InputError(
                    f"{sidecar}: is not a sidecar of medrecon; give outputs of 'medrecon recon --samples K'"
                )
            if record is not None:
                found[sidecar.resolve()] = Case(sidecar=sidecar, record=record)
        if len(found) == before and path.is_dir() and not any(path in one.sidecar.parents for one in found.values()):
            raise InputError(f"{path}: holds no sidecars of medrecon; give outputs of 'medrecon recon --samples K'")
    return sorted(found.values(), key=lambda one: (one.name, str(one.sidecar)))


def check_same_settings(cases: Sequence[Case]) -> None:
    """Refuse cases of several kinds of runs, or of runs that cannot be calibrated.

    Raises:
        InputError: naming the file, or both files and what differs.
    """
    first = cases[0]
    for case in cases:
        record = case.record
        if record.get("samples") in (None, 1):
            raise InputError(f"{case.sidecar}: describes a run with one sample; reconstruct with --samples K")
        if "frames" in record:
            raise InputError(
                f"{case.sidecar}: describes frames of a dynamic series, which cannot be calibrated; leave it out"
            )
        if record.get("task") is not None:
            raise InputError(
                f"{case.sidecar}: describes a run on images, whose noise levels depend on the image, so it cannot be calibrated; "
                "leave it out"
            )
        samples = record["samples"]
        named = isinstance(record["solver"].get("name"), str)
        if not isinstance(samples, int) or samples < 1 or not named or not _is_finite(case.settings):
            raise InputError(f"{case.sidecar}: has entries that medrecon does not write; reconstruct again")
        alike = same_acceleration(first.acceleration, case.acceleration)
        if not alike or not same_settings(first.settings, case.settings):
            calibration = Calibration(settings=first.settings, acceleration=first.acceleration, images=1, factors={})
            texts = differences(calibration, case.settings, case.acceleration)
            raise InputError(
                f"{case.sidecar}: differs from {first.sidecar} ({texts}); calibrate runs with the same settings"
            )


def _is_finite(settings: Mapping[str, Any]) -> bool:
    """Whether settings can be written as JSON: without NaN and infinite numbers."""
    try:
        json.dumps(settings, allow_nan=False)
    except ValueError:
        return False
    return True


def check_different(cases: Sequence[Case]) -> None:
    """Refuse an image that comes twice: images count as independent, and splits would test on what they calibrated with.

    Raises:
        InputError: naming both sidecars.
    """
    found: dict[str, Case] = {}
    for case in cases:
        digests = case.record.get("sha256")
        digest = digests.get(str(case.record["files"][0])) if isinstance(digests, Mapping) else None
        if isinstance(digest, str):
            other = found.setdefault(digest, case)
            if other is not case:
                raise InputError(f"{case.sidecar}: holds the same image as {other.sidecar}; give every image once")


def _companion(folder: Path, case: Case, what: str, alone: bool) -> Path:
    """The file of a folder with the name of a case, or the file itself."""
    if not folder.is_dir():
        if not folder.exists():
            raise InputError(f"{folder}: does not exist; give a folder with a {what} of the same name for every case")
        if not alone:
            raise InputError(
                f"{folder}: is one {what} of several cases; give a folder with one of the same name for every case"
            )
        return folder
    names = dict.fromkeys([case.name, re.sub(r"(\.nii)?\.[^.]+$", "", Path(str(case.record.get("input"))).name)])
    for name in names:
        found = [one for one in sorted(folder.iterdir()) if one.name == name or one.name.startswith(f"{name}.")]
        found = [one for one in found if one.suffix.lower() != ".json"]
        if len(found) > 1:
            raise InputError(
                f"{folder}: has {found[0].name} and {found[1].name} for {case.sidecar}; leave one {what} there"
            )
        if found:
            return found[0]
    raise InputError(f"{folder}: has no {what} for {case.sidecar}; name it {case.name} with the suffix of its format")


def _samples(case: Case) -> np.ndarray:
    """Samples ``(n, slices, y, x)`` of magnitudes or HU."""
    first = case.files[0]
    if first.suffix in (".h5", ".npz"):
        array = load_array(first, "samples")
    elif first.name.endswith(".nii.gz"):
        path = next((one for one in case.files if re.search(r"samples(_[^_]*)?\.nii\.gz$", one.name)), None)
        if path is None:
            raise InputError(f"{case.sidecar}: lists no file of samples; reconstruct with --samples K")
        array = np.stack([load_image(path, {"volume": k}).array for k in range(int(case.record["samples"]))])
    else:
        raise InputError(f"{first}: this format holds no samples; reconstruct with --format h5, npz or nifti")
    if array.ndim != 4 or len(array) < 2 or np.iscomplexobj(array):
        raise InputError(
            f"{first}: holds samples of shape {array.shape}; give at least two real samples (n, slices, y, x)"
        )
    return np.asarray(array, np.float32)


def _spread(case: Case, samples: np.ndarray) -> np.ndarray:
    """Standard deviation of the samples, not calibrated; that of weighted particles is read from the map of the run."""
    if case.record.get("particles") is None:
        return samples.std(axis=0, ddof=1, dtype=np.float64)
    calibration = case.record.get("calibration")
    factor = 1.0 if calibration is None else float(calibration["factors"][f"{SIGMA:g}"])
    for name in ("std",) if calibration is not None else ("spread", "std"):
        try:
            first = case.files[0]
            found = [one for one in case.files if one.name.endswith(f"_{name}.nii.gz")]
            map_ = load_image(found[0]).array if found else load_array(first, name)
            return np.asarray(map_, np.float64) / factor
        except InputError:
            continue
    raise InputError(
        f"{case.sidecar}: particles have weights, and no map of their spread is stored; reconstruct again, as h5 or nifti"
    )


def head_mask(reference: np.ndarray, in_hu: bool = False) -> np.ndarray:
    """Pixels inside the head or body ``(slices, y, x)``, without the air around it.

    In every slice: the largest connected part, holes filled, of what is above 8 % of the 99.5 % quantile of the volume (CT: above
    -500 HU) after smoothing with a Gaussian of 2 pixels; then eroded by 3 pixels, by about which the smoothing widens it.

    Args:
        reference: volume ``(slices, y, x)``.
        in_hu: whether it is CT.
    """
    from scipy import ndimage

    threshold = -500.0 if in_hu else 0.08 * float(np.quantile(reference, 0.995))
    masks = np.zeros(reference.shape, bool)
    for k, one in enumerate(reference):
        low = ndimage.gaussian_filter(one.astype(np.float64), 2.0)
        labels, n = ndimage.label(ndimage.binary_fill_holes(low > threshold))  # type: ignore[misc]
        if n:
            largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
            masks[k] = ndimage.binary_erosion(largest, iterations=3)
    return masks


def _labels(path: Path, shape: tuple[int, ...], case: Case) -> np.ndarray:
    """An image of whole numbers on the grid of a case."""
    array = load_volume(path).array
    if array.shape != shape:
        raise InputError(
            f"{path}: shape {array.shape}, but {case.files[0]} is {shape} (slices, y, x); give one on the same grid"
        )
    if not np.array_equal(array, np.rint(array)) or (array < 0).any():
        raise InputError(f"{path}: holds numbers other than 0, 1, 2, ...; give an image of labels, 0 outside")
    return array.astype(np.int64)


def _check_content(image: Volume, reference: Volume, in_hu: bool) -> None:
    """Refuse an image as its own reference, and warn about a reference of another unit or position.

    Factors of the spread would be 0, or far too large.

    Raises:
        InputError: if all values are equal.
    """
    if image.array.any() and np.array_equal(image.array, reference.array):
        raise InputError(f"{reference.path}: is the image {image.path} itself; give the fully sampled reference")
    x, y = (one.array.astype(np.float64).ravel() for one in (image, reference))
    squares = float(x @ x), float(y @ y)
    if in_hu or not min(squares) > 0:
        return
    size, cosine = (squares[1] / squares[0]) ** 0.5, float(x @ y) / (squares[0] * squares[1]) ** 0.5
    if not 1 / _MOST_RATIO < size < _MOST_RATIO:
        warn(
            f"{reference.path}: is {size:.3g} times as bright as {image.path}, so that factors are wrong unless that is an error "
            "of the reconstruction; give references in the unit of the images"
        )
    elif cosine < _LEAST_COSINE:
        warn(
            f"{reference.path}: hardly resembles {image.path} (cosine {cosine:.2f}); check that it is the reference of "
            "this case, with the same axes"
        )


def scores_of(case: Case, options: Options, alone: bool = False) -> list[ImageScores]:
    """Scores of the slices of a case that have pixels inside the head.

    Args:
        case: a reconstruction with samples.
        options: references, masks and regions.
        alone: whether it is the only case, so that a reference may be a file.

    Raises:
        InputError: if a file cannot be used, or image and reference cannot be compared.
    """
    for one in case.files:
        mismatch = sidecar_mismatch(one, case.sidecar) if one.is_file() else None
        if mismatch is not None:
            raise InputError(mismatch)
    image = load_volume(case.files[0])
    reference = load_reference(_companion(options.reference, case, "reference", alone))
    for text in reference.warnings:
        warn(text)
    in_hu, samples, shape = check_pair(image, reference), _samples(case), image.array.shape
    if samples.shape[1:] != shape:
        raise InputError(f"{case.files[0]}: samples {samples.shape} do not fit the image {shape}; reconstruct again")
    given = {"mask": options.mask, "image of labels": options.regions}
    mask, labels = (
        None if folder is None else _labels(_companion(folder, case, what, alone), shape, case)
        for what, folder in given.items()
    )
    inside = head_mask(reference.array, in_hu) if mask is None else mask > 0
    spread, unit = _spread(case, samples), float(np.quantile(np.abs(reference.array), 0.99)) or 1.0
    low, high = (one.numpy() for one in pixel_statistics(torch.from_numpy(samples))[1:])
    within = (low <= reference.array) & (reference.array <= high)
    _check_content(image, reference, in_hu)
    slices = [
        _Slice(
            truth=reference.array[k],
            mean=image.array[k],
            samples=samples[:, k],
            spread=spread[k],
            inside=inside[k],
            within=within[k],
            labels=None if labels is None else labels[k],
            name=f"{case.name}:{k}",
        )
        for k in np.flatnonzero(inside.any(axis=(1, 2)))
    ]
    return [_slice_scores(one, case.name, options, unit) for one in slices]


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """Arrays ``(y, x)`` of one slice (``samples`` ``(n, y, x)``), and its name."""

    truth: np.ndarray
    mean: np.ndarray
    samples: np.ndarray
    spread: np.ndarray
    inside: np.ndarray
    within: np.ndarray
    labels: np.ndarray | None
    name: str


def _slice_scores(one: _Slice, case: str, options: Options, unit: float) -> ImageScores:
    inside = one.inside
    regions = {}
    if one.labels is not None:
        found = np.unique(one.labels[one.labels > 0])
        regions = {float(k): region_score(one.truth, one.mean, one.samples, one.labels == k) for k in found}
    return ImageScores(
        case=case,
        subject=options.subject(case),
        errors=normalised_errors(one.truth[inside], one.mean[inside], one.spread[inside]).astype(np.float32),
        in_quantiles=float(one.within[inside].mean()),
        width=float(one.spread[inside].mean()) / unit,
        discs=_discs(one, options),
        regions=regions,
    )


def _discs(one: _Slice, options: Options) -> dict[float, float]:
    """Score of one random disc per radius; its place depends on seed, case, slice and radius alone."""
    scores = {}
    for radius in options.radii:
        rng = np.random.default_rng(zlib.crc32(f"{options.seed}:{one.name}:{radius:g}".encode()))
        disc = random_disc(one.inside, radius, rng)
        if disc is not None:
            scores[radius] = region_score(one.truth, one.mean, one.samples, disc)
    return scores


# Calibration


def _finite(levels: Sequence[float], factors: Sequence[float]) -> dict[float, float]:
    """Factors by level, without those that no calibration file may hold."""
    return {level: one for level, one in zip(levels, factors, strict=True) if one <= LARGEST_FACTOR}


def _by_name(images: Sequence[ImageScores], kind: str) -> dict[float, list[float]]:
    """Scores of all images by radius or label."""
    names = sorted({name for one in images for name in getattr(one, kind)})
    return {name: [getattr(one, kind)[name] for one in images if name in getattr(one, kind)] for name in names}


def _region_factors(images: Sequence[ImageScores], kind: str) -> dict[float, dict[float, float]]:
    """Factors by radius or label, and level."""
    found = {}
    for name, scores in _by_name(images, kind).items():
        factors = _finite(LEVELS, [split_conformal(scores, level) for level in LEVELS])
        if factors:
            found[name] = factors
    return found


def calibration_of(cases: Sequence[Case], images: Sequence[ImageScores], check: Mapping[str, Any]) -> Calibration:
    """The calibration from all images.

    Args:
        cases: cases, all with the same settings.
        images: scores of their images.
        check: coverage before and after, for readers of the file.

    Raises:
        InputError: if there are too few images for the levels that runs use, or too many pixels at which all samples are equal.
    """
    factors = _finite(LEVELS, risk_control([one.errors for one in images], LEVELS))
    n, needed = len(images), images_needed(INTERVAL)
    if n < needed:
        raise InputError(
            f"{cases[0].sidecar.parent}: has {n} image{'s' * (n != 1)} with a reference; intervals of {INTERVAL:.0%} need at "
            f"least {needed}, those of {LEVELS[-1]:.0%} need {images_needed(LEVELS[-1])}; give more cases"
        )
    if INTERVAL not in factors or SIGMA not in factors:
        equal = float(np.mean([(one.errors > LARGEST_FACTOR).mean() for one in images]))
        raise InputError(
            f"{cases[0].sidecar.parent}: at {equal:.1%} of the pixels all samples are equal, but not to the reference, so no "
            f"factor reaches {INTERVAL:.0%}; give masks without these pixels (--mask), or other settings"
        )
    accelerations = [one.acceleration for one in cases if one.acceleration is not None]
    return Calibration(
        settings=cases[0].settings,
        acceleration=round(float(np.median(accelerations)), 4) if accelerations else None,
        images=n,
        factors=factors,
        discs=_region_factors(images, "discs"),
        regions=_region_factors(images, "regions"),
        check=check,
    )


def appended(path: Path, new: Calibration) -> list[Calibration]:
    """The calibrations of an existing file, and a new one, which replaces that of the same settings and acceleration."""
    kept = [
        one
        for one in read_calibrations(path)
        if not (same_settings(one.settings, new.settings) and same_acceleration(one.acceleration, new.acceleration))
    ]
    return [*kept, new]


# Coverage


def _keyed(values: Mapping[float, Any]) -> dict[str, Any]:
    return {f"{key:.9g}": value for key, value in values.items()}


def scores_before(images: Sequence[ImageScores]) -> dict[str, Any]:
    """Coverage without a calibration: of ``mean +- z spread`` for a normal distribution, and between the quantiles."""
    errors = [one.errors for one in images]
    normal = {level: NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS}

    def regions(kind: str) -> dict[str, Any]:
        return _keyed({
            name: _keyed({level: float(np.mean(np.asarray(scores) <= normal[level])) for level in LEVELS})
            for name, scores in _by_name(images, kind).items()
        })  # fmt: skip

    return {
        "pixels": _keyed({level: coverage(errors, normal[level]) for level in LEVELS}),
        "p05_to_p95": float(np.mean([one.in_quantiles for one in images])),
        "discs": regions("discs"),
        "regions": regions("regions"),
        "mean_spread": float(np.mean([one.width for one in images])),
    }


def _held_out(train: Sequence[ImageScores], test: Sequence[ImageScores]) -> dict[str, Any]:
    """Coverage of images by a calibration from others; levels that it does not reach are left out."""
    factors = _finite(LEVELS, risk_control([one.errors for one in train], LEVELS))
    pixels = {level: coverage([one.errors for one in test], factor) for level, factor in factors.items()}

    def regions(kind: str) -> dict[float, dict[float, float]]:
        scores = _by_name(test, kind)
        return {
            name: {level: float(np.mean(np.asarray(scores[name]) <= factor)) for level, factor in factors.items()}
            for name, factors in _region_factors(train, kind).items()
            if name in scores
        }

    return {"pixels": pixels, "discs": regions("discs"), "regions": regions("regions")}


def check_by_splits(images: Sequence[ImageScores], number: int, seed: int = 0, fraction: float = 0.5) -> dict[str, Any]:
    """Coverage of the other images by a calibration from a random part of them: mean and range over splits.

    Args:
        images: scores of all images.
        number: number of splits.
        seed: seed of the splits.
        fraction: part of the images that calibrates; at least one image is left for each part.
    """
    rng, n = np.random.default_rng(seed), min(max(round(fraction * len(images)), 1), len(images) - 1)
    found: list[dict[str, Any]] = []
    for _ in range(number):
        order = rng.permutation(len(images))
        found.append(_held_out(*([images[k] for k in part] for part in (order[:n], order[n:]))))

    def summary(values: Sequence[float]) -> dict[str, Any]:
        return {
            "mean": float(np.mean(values)),
            "std": float(np.std(values)),
            "least": float(min(values)),
            "largest": float(max(values)),
            "failures": number - len(values),
        }

    def by_level(tables: Sequence[Mapping[float, float]]) -> dict[str, Any]:
        columns = {level: [one[level] for one in tables if level in one] for level in LEVELS}
        return _keyed({level: summary(values) for level, values in columns.items() if values})

    def by_name(kind: str) -> dict[str, Any]:
        names = sorted({name for one in found for name in one[kind]})
        return _keyed({name: by_level([one[kind].get(name, {}) for one in found]) for name in names})

    return {
        "number": number,
        "seed": seed,
        "images": [n, len(images) - n],
        "pixels": by_level([one["pixels"] for one in found]),
        "discs": by_name("discs"),
        "regions": by_name("regions"),
    }


def check_by_subjects(images: Sequence[ImageScores], seed: int = 0) -> dict[str, Any]:
    """Coverage of other subjects by a calibration from about half of the images: one random split of the subjects.

    Raises:
        InputError: if all images are of one subject.
    """
    subjects = sorted({one.subject for one in images})
    if len(subjects) < 2:
        raise InputError(
            f"all images are of one subject ({subjects[0]}), so they cannot be split by subject; leave --subjects out"
        )
    order = [subjects[k] for k in np.random.default_rng(seed).permutation(len(subjects))]
    counts = np.cumsum([sum(one.subject == name for one in images) for name in order[:-1]])
    chosen = set(order[: 1 + int(np.argmin(np.abs(counts - len(images) / 2)))])
    train, test = ([one for one in images if (one.subject in chosen) == kept] for kept in (True, False))
    found = _held_out(train, test)
    return {
        "seed": seed,
        "subjects": [len(chosen), len(subjects) - len(chosen)],
        "images": [len(train), len(test)],
        "pixels": _keyed(found["pixels"]),
        "discs": _keyed({name: _keyed(one) for name, one in found["discs"].items()}),
        "regions": _keyed({name: _keyed(one) for name, one in found["regions"].items()}),
    }


def subjects_of(text: str, cases: Sequence[Case]) -> dict[str, str]:
    """The subject of every case.

    Args:
        text: ``prefix`` (the part of the name before the first underscore), or a CSV file of case and subject.
        cases: cases.

    Raises:
        InputError: if the file cannot be used, or lacks a case.
    """
    if text == "prefix":
        return {one.name: one.name.partition("_")[0] for one in cases}
    try:
        with open(text, newline="", encoding="utf-8") as file:
            rows = {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) >= 2}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{text}: cannot be read as a CSV file; give 'prefix', or a file with lines CASE,SUBJECT"
        ) from error
    missing = next((one.name for one in cases if one.name not in rows), None)
    if missing is not None:
        raise InputError(f"{text}: has no line for the case {missing}; add {missing},SUBJECT")
    return {one.name: rows[one.name] for one in cases}


def with_subjects(options: Options, subjects: Mapping[str, str]) -> Options:
    """The options with the subjects of the cases."""
    return replace(options, subject=lambda name: subjects[name])
