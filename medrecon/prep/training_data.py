"""Training data from a folder that ``medrecon prep`` wrote, and the objective that they allow."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError, warn
from medrecon.data.masks import acs_block
from medrecon.data.sampling import one_sided_warnings
from medrecon.prep.shards import LoadPreparedd, load_manifest
from medrecon.prior_file import PriorFile
from medrecon.training.corruption import FAMILIES, nominal_levels
from medrecon.training.measured import PRIORS, measured_class
from medrecon.training.volumes import as_channels, check_values, filled, kind_of_sampling, plane_of, sliced, unit_of

__all__ = ["PreparedData", "PreparedSettings", "prepared_data"]

CLEAN = "clean"
"""Name of the objectives that need clean images: those of ``parameterization``."""
SELF_SUPERVISED = "noise2score"
"""The objective of noisy images, where none is named."""
ONE_COIL, COILS = "gsure", "ambient"
"""The objectives of a prior from undersampled k-space of one coil, and of several."""
_FEW_MASKS = 10
"""Fewer masks than these do not show how often a sample is measured."""
_SCAN = ("kspace", "mask", "maps", "noise_std")
_NOT_IMAGES = (*_SCAN, "noise_scan", "seg")
_PAIR = {"second": ("second",), "clean": ("clean", "full")}
"""Arrays with another image of the same object, by name of the data."""
_NOISY_NAMES = ("image", "low")


@dataclass(frozen=True, kw_only=True)
class PreparedSettings:
    """How a prepared folder becomes training data.

    Args:
        objective: ``auto``: by the data; ``clean``, or a name in :data:`medrecon.training.measured.MEASURED`.
        planes: planes of the slices, e.g. ``[axial, coronal]``; ``None``: slices as they are stored.
        contrasts: labels of prior.yaml by names of arrays; other arrays have the label of the same name, or none.
        exclude: names of cases to leave out.
        every: 1: all slices; n: every n-th.
        family: kind of noise of noisy images, ``gaussian``, ``poisson`` or ``gamma``.
        side: smallest side of images, pixels; smaller images are padded with background.
        memory_gb: limit of the memory for the slices, GB.

    Raises:
        InputError: for values that cannot be used.
    """

    objective: str = "auto"
    planes: Sequence[str] | None = None
    contrasts: Mapping[str, str] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    every: int = 1
    family: str = "gaussian"
    side: int = 1
    memory_gb: float = 16.0

    def __post_init__(self) -> None:
        if self.objective not in ("auto", CLEAN):
            measured_class(self.objective)  # for its error
        if self.planes is not None and (not self.planes or not set(self.planes) <= {"axial", "coronal", "sagittal"}):
            raise InputError(f"planes must be some of axial, coronal, sagittal, or null; got {self.planes!r}")
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every must be a whole number of at least 1; got {self.every!r}")
        if self.family not in FAMILIES:
            raise InputError(f"family must be one of {', '.join(FAMILIES)}; got {self.family!r}")


@dataclass(frozen=True)
class PreparedData:
    """Rows for MONAI data sets, and the objective.

    Args:
        train: rows to train with.
        val: rows of other subjects.
        objective: ``clean``, or a name in :data:`medrecon.training.measured.MEASURED`.
        sampling: for undersampled k-space, the number of calibration lines ``acs``, the acceleration ``accel``, and
            the ``kind`` of masks, whether they are of whole ``rows``, and whether there are ``several_coils``.
    """

    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    objective: str
    sampling: Mapping[str, Any] = field(default_factory=dict)


def prepared_data(
    folder: str | Path, prior: PriorFile, settings: PreparedSettings = PreparedSettings()
) -> PreparedData:
    """Read a prepared folder, and choose the objective.

    Args:
        folder: folder that ``medrecon prep`` wrote.
        prior: description of the prior that is trained.
        settings: how the folder becomes training data.

    Raises:
        InputError: if the folder cannot be read, its data do not fit the prior or the objective, or too few subjects are left.
    """
    items = [row for row in load_manifest(folder) if row["case"] not in settings.exclude]
    unknown = set(settings.exclude) - {row["case"] for row in load_manifest(folder)}
    if unknown:
        raise InputError(f"{folder}: has no case {min(unknown)!r} to exclude; correct exclude")
    train, val = _splits(items, folder)
    objective = _objective(train + val, folder, prior=prior, settings=settings)
    build = _builder(objective, prior, settings)
    _check_memory(train + val, folder, prior=prior, settings=settings, objective=objective)
    rows = {"train": _rows(train, build, settings), "val": _rows(val, build, settings)}
    for split, found in rows.items():
        if not found:
            raise InputError(
                f"{folder}: no slice of the split {split!r} can be used: they are empty, or no noise is found in noisy images; "
                "prepare other data"
            )
    if not (objective != CLEAN and "kspace" in _needs(objective)):
        return PreparedData(rows["train"], rows["val"], objective)
    masks = [row["mask"][0] for row in rows["train"] + rows["val"]]
    _add_density(rows["train"], rows["val"])
    sampling = {
        "acs": min(_calibration_lines(mask) for mask in masks),
        "accel": round(float(np.mean([1 / mask.mean() for mask in masks])), 3),
        "kind": "gaussian2d" if any(min(mask.shape) > 1 for mask in masks) else "gaussian1d",
        "rows": all(mask.shape[1] == 1 for mask in masks),
        "several_coils": any(len(row["kspace"]) > 1 for row in rows["train"] + rows["val"]),
    }
    return PreparedData(rows["train"], rows["val"], objective, sampling=sampling)


def _calibration_lines(mask: np.ndarray) -> int:
    """The number of fully sampled central lines of a mask ``(1 or y, 1 or x)``, along its shorter varying axis."""
    rows, columns = acs_block(mask, 1)
    found = [
        n
        for n, side in ((rows.stop - rows.start, mask.shape[0]), (columns.stop - columns.start, mask.shape[1]))
        if side > 1
    ]
    return min(found, default=0)


def _add_density(train: Sequence[dict[str, Any]], val: Sequence[dict[str, Any]]) -> None:
    """Give rows the fraction of the training scans of their matrix size that measure each sample, if there are enough scans.

    Without it, objectives assume that all samples outside the calibration lines are equally likely.
    """
    masks: dict[tuple, dict[str, np.ndarray]] = {}
    for row in train:
        masks.setdefault((row["mask"].shape, row["kspace"].shape[-2:]), {})[row["case"]] = row["mask"]
    for row in (*train, *val):
        found = masks.get((row["mask"].shape, row["kspace"].shape[-2:]), {})
        if len(found) >= _FEW_MASKS:
            count = np.sum(list(found.values()), axis=0, dtype=np.float32)
            row["density"] = (count + 1) / (len(found) + 2)  # a line that no scan has is not impossible


def _splits(items: list[dict[str, Any]], folder: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Items to train with and to validate with, of different subjects.

    Raises:
        InputError: if there are fewer than two subjects.
    """
    train, val = ([row for row in items if row["split"] == split] for split in ("train", "val"))
    if not train:
        raise InputError(f"{folder}: has no case of the split 'train'; prepare it again with another --split or --seed")
    if val:
        return train, val
    subjects = sorted({row["subject"] for row in train})
    if len(subjects) < 2:
        raise InputError(
            f"{folder}: holds one subject, so none is left to validate with; prepare the data of at least two subjects"
        )
    held_out = subjects[-1]
    warn(f"{folder}: the split 'val' is empty, so subject {held_out} of 'train' is used for validation")
    return [row for row in train if row["subject"] != held_out], [row for row in train if row["subject"] == held_out]


# The objective


def _objective(items: list[dict[str, Any]], folder: object, prior: PriorFile, settings: PreparedSettings) -> str:
    """The objective for the data, said in one sentence of the log.

    Raises:
        InputError: if the objective that is asked for does not fit the data.
    """
    scans = [row for row in items if "kspace" in row["arrays"]]
    if scans and len(scans) < len(items):
        raise InputError(
            f"{folder}: {len(scans)} of {len(items)} cases hold k-space and the others do not; prepare them separately"
        )
    if scans and prior.images == "attenuation":
        raise InputError(f"{folder}: holds k-space, but prior.yaml describes a prior of CT; train a copy of brain_mri")
    kinds = Counter(_sampling(row) for row in scans)
    asked = settings.objective
    coils = max((row["arrays"]["kspace"]["shape"][1] for row in scans), default=1)
    found = _of_images(prior) if not kinds["undersampled"] else ONE_COIL if coils == 1 else COILS
    chosen = found if asked == "auto" else asked
    needs = frozenset() if chosen == CLEAN else _needs(chosen)
    what = _described(items, kinds)
    if chosen == CLEAN and kinds["undersampled"]:
        raise InputError(
            f"{folder}: holds {what}; the objective 'clean' would learn their aliasing; choose ambient, or auto"
        )
    if "kspace" in needs and not kinds["undersampled"]:
        raise InputError(
            f"{folder}: holds {what}; the objective {chosen!r} needs undersampled k-space; choose clean, or auto"
        )
    if kinds["undersampled"] and "kspace" not in needs:
        raise InputError(f"{folder}: holds {what}; the objective {chosen!r} needs images; choose ambient, or auto")
    if chosen == ONE_COIL and coils > 1:
        raise InputError(
            f"{folder}: holds scans of {coils} coils, but {ONE_COIL} takes one coil; choose {COILS}, or auto"
        )
    _check_prior(chosen, prior)
    if "kspace" in needs:
        _check_scans(scans, folder, prior)
    logging.getLogger(__name__).info(
        "%s: %s; the network is trained %s (objective: %s)", folder, what, _purpose(chosen), chosen
    )
    return chosen


def _of_images(prior: PriorFile) -> str:
    return CLEAN if prior.noise is None else SELF_SUPERVISED


def _check_prior(objective: str, prior: PriorFile) -> None:
    """Refuse an objective whose result is not what prior.yaml describes: a prior for all noise levels, or a denoiser (noise).

    Raises:
        InputError: saying which bundle to train.
    """
    if objective == CLEAN and prior.noise is not None:
        raise InputError(
            "the objective 'clean' trains a prior for all noise levels, but prior.yaml describes a network that only denoises "
            f"(noise); train a copy of brain_mri_magnitude, or choose {SELF_SUPERVISED}, for noisy images"
        )
    if objective == CLEAN or objective in PRIORS:
        return
    if "kspace" in _needs(objective):
        raise InputError(
            f"the objective {objective!r} trains a reconstruction for one kind of scan, which no bundle holds; use it in Python "
            f"(docs/training.md), or choose {COILS}"
        )
    if prior.noise is None:
        advice = (
            "no bundle denoises CT so"
            if prior.images == "attenuation"
            else "train a copy of denoise_selfsup (docs/training.md)"
        )
        raise InputError(
            f"the objective {objective!r} gives no prior for all noise levels, as prior.yaml describes it; {advice}"
        )


def _described(items: Sequence[Mapping[str, Any]], kinds: Mapping[str, int]) -> str:
    """What the cases are."""
    if not kinds:
        return f"{len(items)} cases of images"
    parts = [
        f"{kinds[kind]} {text}"
        for kind, text in (("full", "fully sampled"), ("undersampled", "undersampled"))
        if kinds.get(kind)
    ]
    return " and ".join(parts) + " scans"


def _purpose(objective: str) -> str:
    if objective == CLEAN:
        return "to denoise clean images at all noise levels"
    return "on the measured samples alone" if "kspace" in _needs(objective) else "on noisy images"


def _needs(objective: str) -> frozenset[str]:
    """What an objective needs; the defaults of its settings decide."""
    return measured_class(objective)().needs  # type: ignore[call-arg]


def _sampling(row: Mapping[str, Any]) -> str:
    if "mask" not in row["arrays"]:
        raise InputError(f"{row['case']}: has k-space without a mask; prepare it with the recipe kspace")
    return kind_of_sampling(np.asarray(LoadPreparedd(["mask"])({**row})["mask"]), row["case"])


def _check_scans(scans: Sequence[Mapping[str, Any]], folder: object, prior: PriorFile) -> None:
    """Refuse scans without maps, and priors of other images than complex ones; warn if all masks are the same.

    Raises:
        InputError: naming the folder or the case.
    """
    if prior.images != "complex":
        raise InputError(
            f"{folder}: holds undersampled k-space, whose images are complex, but prior.yaml describes a prior of "
            f"{prior.images} images; train a copy of brain_mri"
        )
    for row in scans:
        missing = [name for name in _SCAN if name not in row["arrays"]]
        if missing:
            raise InputError(
                f"{row['case']}: lacks {', '.join(missing)}, which training with undersampled k-space needs; prepare it with "
                "the recipe kspace and maps=true, or exclude the case (its warnings in manifest.jsonl may explain why)"
            )
    masks = {(about := row["arrays"]["mask"]).get("sha256", id(about)) for row in scans}
    if len(masks) == 1 and len(scans) > 1:
        warn(
            f"{folder}: all {len(scans)} scans have the same mask; samples that no scan has are learned from the coils alone, so "
            "acquire different masks if you can"
        )


# Rows


_Build = Callable[[Mapping[str, Any]], list[dict[str, Any]]]


def _builder(objective: str, prior: PriorFile, settings: PreparedSettings) -> _Build:
    """The function that makes rows of a case."""
    if objective == CLEAN:
        return lambda row: _clean_rows(row, prior, settings)
    if "kspace" in _needs(objective):
        return lambda row: _scan_rows(row, settings)
    return lambda row: _noisy_rows(row, prior, _needs(objective), family=settings.family)


def _rows(items: Sequence[Mapping[str, Any]], build: _Build, settings: PreparedSettings) -> list[dict[str, Any]]:
    rows = [{**row, "subject": item["subject"], "case": item["case"]} for item in items for row in build(item)]
    return rows[:: settings.every]


def _padded(images: np.ndarray, side: int) -> np.ndarray:
    """Images ``(..., y, x)`` padded with background (0) to sides that are at least ``side`` and a multiple of 16."""
    more = [max(side, -(-n // 16) * 16) - n for n in images.shape[-2:]]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + [(n // 2, n - n // 2) for n in more])


def _image_names(row: Mapping[str, Any]) -> list[str]:
    """Arrays of images; where there is k-space, the combined image."""
    names = [name for name in row["arrays"] if name not in _NOT_IMAGES]
    if "clean" in names:
        return ["clean"]
    low_dose = "full" in names and "low" in names
    return [name for name in names if not (low_dose and name == "low") and name != "second"]


def _array(row: Mapping[str, Any], name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """An array and its meta."""
    tensor = LoadPreparedd([name])({**row})[name]
    meta = dict(tensor.meta) if isinstance(tensor, MetaTensor) else {}
    array = tensor.as_tensor().numpy() if isinstance(tensor, MetaTensor) else tensor.numpy()
    if isinstance(tensor, MetaTensor):
        meta["affine"] = tensor.affine.numpy() if meta.get("affine_known") else None
    return array, meta


def _clean_volume(row: Mapping[str, Any], name: str, images: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A volume ``(slices, y, x)`` at unit scale, and its affine.

    Raises:
        InputError: for values that are not those of the prior's kind of images.
    """
    volume, meta = _array(row, name)
    volume = volume.astype(np.complex64 if np.iscomplexobj(volume) else np.float32)
    about = f"{row['case']}, {name}"
    check_values(volume, about, images, modality=str(meta.get("modality", "")))
    if images == "attenuation":
        return 1 + np.where(volume < -1024, -1000, volume) / 1000, meta.get("affine")
    unit = unit_of(np.abs(volume))
    return volume / (unit or 1.0), meta.get("affine")


def _combined(row: Mapping[str, Any]) -> np.ndarray:
    """The image ``sum conj(S) F^-1 k`` of fully sampled k-space, which has the phase of a reconstruction with these maps."""
    kspace, maps = (_array(row, name)[0] for name in ("kspace", "maps"))
    mask = _array(row, "mask")[0] != 0
    for text in one_sided_warnings(kspace, mask, row["case"]):
        warn(text)
    image = (maps.conj() * from_kspace(kspace)).sum(1)
    if not np.isfinite(image).all():
        raise InputError(f"{row['case']}: contains NaN or Inf; exclude the case, or prepare a corrected file")
    return (image / (unit_of(np.abs(image)) or 1.0)).astype(np.complex64)


def _clean_rows(row: Mapping[str, Any], prior: PriorFile, settings: PreparedSettings) -> list[dict[str, Any]]:
    images = str(prior.images)
    if "kspace" in row["arrays"] and "maps" in row["arrays"]:
        volumes = {"image": (_combined(row), None)}
    else:
        volumes = {name: _clean_volume(row, name, images) for name in _image_names(row)}
    if not volumes:
        raise InputError(f"{row['case']}: holds no image; it holds {', '.join(row['arrays'])}")
    rows = []
    for name, (volume, affine) in volumes.items():
        planes = tuple(settings.planes) if settings.planes is not None else None
        _warn_of_plane(affine, planes, case=row["case"], prior=prior)
        label = _label(name, prior.labels, settings.contrasts)
        for stack in sliced(volume, affine, planes, name=f"{row['case']}, {name}"):
            kept = stack[filled(np.abs(stack))]
            rows += [{"image": one, **label} for one in _padded(as_channels(kept, images), settings.side)]
    return rows


def _warn_of_plane(affine: np.ndarray | None, planes: object, case: str, prior: PriorFile) -> None:
    if planes is None and affine is not None and (stored := plane_of(affine, 0)) not in prior.trained_planes:
        warn(
            f"{case}: is stored in {stored} slices, but trained_planes of prior.yaml are {', '.join(prior.trained_planes)}; add "
            f"{stored} there, or choose planes"
        )


def _label(name: str, labels: Sequence[str], contrasts: Mapping[str, str]) -> dict[str, int]:
    """The network's class ``label`` of an array: as in ``contrasts``, or of the same name up to case; otherwise no label.

    Raises:
        InputError: for a contrast that is not among the labels.
    """
    if not labels:
        return {}
    same = next((one for one in labels if one.lower() == name.lower()), "")
    label = contrasts.get(name, same)
    if label not in labels:
        raise InputError(f"contrasts: {label!r} is missing in the labels of prior.yaml; add it there, or correct it")
    return {"label": labels.index(label)}


def _noisy_rows(
    row: Mapping[str, Any], prior: PriorFile, needs: frozenset[str], family: str = "gaussian"
) -> list[dict[str, Any]]:
    """Noisy images with what else the objective needs, all in the unit of the noisy image."""
    images = str(prior.images)
    name = next((one for one in _NOISY_NAMES if one in row["arrays"]), None)
    others = {key: next((n for n in names if n in row["arrays"]), None) for key, names in _PAIR.items()}
    missing = [key for key, value in others.items() if key in needs and value is None]
    if name is None or missing:
        raise InputError(
            f"{row['case']}: lacks {', '.join(missing) or 'image'}, which the objective needs; it has "
            f"{', '.join(row['arrays'])} (docs/training.md lists recipes and objectives)"
        )
    volumes = {"image": _array(row, name)[0]}
    if np.iscomplexobj(volumes["image"]) and images != "complex":
        raise InputError(
            f"{row['case']}: is complex, but prior.yaml describes a denoiser of {images} images, which refuses complex ones; "
            "prepare magnitudes, or exclude the case"
        )
    volumes |= {key: _array(row, value)[0] for key, value in others.items() if value is not None}
    shapes = {key: volume.shape for key, volume in volumes.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{row['case']}: its images have different shapes {shapes}; exclude the case")
    modality = str(_array(row, name)[1].get("modality", ""))
    for key, volume in volumes.items():
        check_values(volume, f"{row['case']}, {key}", images, modality=modality)
    if images == "attenuation":
        volumes = {key: 1 + volume / 1000 for key, volume in volumes.items()}
    else:
        unit = unit_of(np.abs(volumes["image"])) or 1.0
        volumes = {key: volume / unit for key, volume in volumes.items()}
    kept = filled(np.abs(volumes["image"]))
    channels = {key: as_channels(volume[kept], images) for key, volume in volumes.items()}
    noisy = torch.from_numpy(channels["image"].astype(np.float32))
    std = nominal_levels(family, noisy, None if noisy.shape[1] == 2 else 0.3).tolist()
    return [
        {**{key: value[i] for key, value in channels.items()}, "noise_std": std[i]}
        for i in range(len(noisy))
        if std[i] > 0
    ]


def _scan_rows(row: Mapping[str, Any], settings: PreparedSettings) -> list[dict[str, Any]]:
    """Slices of k-space with mask, maps and noise level, in the unit of the zero-filled volume."""
    kspace, mask, maps, noise_std = (_array(row, name)[0] for name in _SCAN)
    if kspace.ndim != 4 or maps.shape != kspace.shape:
        raise InputError(
            f"{row['case']}: k-space has the shape {kspace.shape} and its maps {maps.shape}, but both must be "
            "(slices, coils, y, x); exclude the case"
        )
    entries = _entries(np.atleast_2d(mask) != 0)
    sampled = np.broadcast_to(entries, kspace.shape[-2:])
    if not np.isfinite(kspace).all() or not np.isfinite(maps).all() or not np.isfinite(noise_std):
        raise InputError(f"{row['case']}: contains NaN or Inf; exclude the case, or prepare a corrected file")
    zero_filled = np.abs((maps.conj() * from_kspace(kspace * sampled)).sum(1))
    unit = unit_of(zero_filled)
    if unit == 0:
        return []
    kept = np.flatnonzero(filled(zero_filled / unit))
    level = float(noise_std) / unit
    return [
        {
            "kspace": (kspace[i] * sampled / np.float32(unit)).astype(np.complex64),
            "mask": entries[None],
            "maps": maps[i].astype(np.complex64),
            "noise_std": level,
        }
        for i in kept
    ]


def _entries(mask: np.ndarray) -> np.ndarray:
    """A mask ``(1 or y, x)`` as ``(1 or y, 1 or x)``: one entry per line, where whole lines are measured."""
    mask = mask[:1] if (mask == mask[:1]).all() else mask
    return mask[:, :1] if len(mask) > 1 and (mask == mask[:, :1]).all() else mask


def _check_memory(
    items: Sequence[Mapping[str, Any]], folder: object, prior: PriorFile, settings: PreparedSettings, objective: str
) -> None:
    """Refuse data that exceed the limit of memory, before any array is read.

    Raises:
        InputError: with the size that is needed.
    """
    scans = objective != CLEAN and "kspace" in _needs(objective)
    size = 0.0
    for row in items:
        for name, about in row["arrays"].items():
            voxels = float(np.prod(about["shape"] or [0]))
            if scans and name in ("kspace", "maps"):
                size += 8 * voxels
            elif not scans and name not in _NOT_IMAGES:
                size += 2 * voxels * (2 if prior.images == "complex" and about["dtype"].startswith("complex") else 1)
    size *= (len(settings.planes) if settings.planes and not scans else 1) / settings.every / 1e9
    if size > settings.memory_gb:
        raise InputError(
            f"{folder}: its slices need up to {size:.3g} GB of memory, more than memory_gb = {settings.memory_gb:g}; raise it, "
            "or take fewer slices (every)"
        )
