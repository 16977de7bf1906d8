"""Splitting the frames of a DICOM series into volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from medrecon.data.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "ADVISED",
    "FARTHEST",
    "Frame",
    "Stack",
    "advice",
    "axes",
    "describe",
    "geometry",
    "is_code",
    "numbers",
    "same_value",
    "show",
    "split",
]

_MIXED = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "InversionTime", "FlipAngle", "KVP",
    "EffectiveEchoTime", "EchoTime", "EchoNumbers", "ComplexImageComponent", "ImageType", "FrameType",
)  # fmt: skip
"""Attributes shared by all slices of a volume."""
_LABELS = ("SeriesNumber", *_MIXED, "ConvolutionKernel", "DiffusionDirectionality", "StackID", "FrameReferenceTime")
"""Attributes that distinguish volumes."""
_ACQUISITIONS = ("AcquisitionNumber", "FrameAcquisitionNumber")
"""Attributes that distinguish volumes, or parts of one, since scanners also count interleaves and breath holds."""
_ORDER = (
    "SeriesNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "FrameReferenceTime", *_ACQUISITIONS,
    "DiffusionBValue", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel", "EffectiveEchoTime", "EchoTime", "EchoNumbers",
    "ComplexImageComponent", "ImageType", "FrameType", "DiffusionDirectionality", "StackID", "NominalCardiacTriggerDelayTime",
)  # fmt: skip
"""Sort keys of the images at one position, before their numbers."""
_TIMES = ("TriggerTime", "AcquisitionTime", "ContentTime")
"""Sort keys after the numbers: gated scans measure the trigger time from the last heartbeat, not from the start."""
ADVISED = (
    "SeriesNumber", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "ImageType", "FrameType", "ComplexImageComponent",
    "DiffusionBValue", "DiffusionDirectionality", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime",
    "FrameReferenceTime", *_ACQUISITIONS, "StackID", "Rows", "Columns", "PhotometricInterpretation", "SequenceName",
    "ScanningSequence", "AcquisitionTime", "ContentTime", "SliceThickness", "InstanceNumber",
)  # fmt: skip
"""Attributes suggested for selection, the most distinctive first; messages show values of these attributes only."""
_CODED = {
    "ImageType", "FrameType", "ComplexImageComponent", "DiffusionDirectionality", "PhotometricInterpretation", "ScanningSequence",
}  # fmt: skip
"""Those of :data:`ADVISED` whose values are codes; values that are not codes are not shown."""
FARTHEST = 1e7
"""Largest distance from the origin in mm; positions beyond it are damaged."""


@dataclass(eq=False)
class Frame:
    """One slice.

    Args:
        header: data set of the file, without pixels.
        index: number of the frame in its file.
        attributes: attributes of the frame from the functional groups.
        file: cached attributes of the file, since pydicom is slow to look them up.
    """

    header: Dataset
    index: int
    attributes: dict[str, Any]
    file: dict[str, Any] = field(default_factory=dict)

    def get(self, keyword: str) -> Any:  # noqa: ANN401 - whatever DICOM holds
        """Attribute of the frame, or otherwise of its file, or ``None``."""
        if keyword in self.attributes:
            return self.attributes[keyword]
        if keyword not in self.file:
            self.file[keyword] = self.header.get(keyword)
        return self.file[keyword]


@dataclass(frozen=True)
class Stack:
    """Frames of one volume.

    Args:
        frames: frames in any order.
        warnings: reasons why the frames may not belong together.
    """

    frames: list[Frame]
    warnings: tuple[str, ...] = ()


# Attributes


def numbers(frame: Frame, keyword: str, n: int) -> np.ndarray | None:
    """``n`` finite numbers of an attribute, or ``None``."""
    value = frame.get(keyword)
    try:
        found = np.array([float(v) for v in value], float)
    except (TypeError, ValueError):
        return None
    return found if len(found) == n and np.isfinite(found).all() else None


def axes(cosines: np.ndarray, name: object) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal unit vectors along a row and a column from ImageOrientationPatient, which is written with few digits.

    Raises:
        InputError: if the vectors are not unit length or not perpendicular, beyond rounding to three digits.
    """
    right, down = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(right), np.linalg.norm(down)])
    if np.abs(lengths - 1).max() > 0.02:
        raise InputError(f"{name}: ImageOrientationPatient is not two unit vectors; export the series again")
    right, down = right / lengths[0], down / lengths[1]
    if abs(right @ down) > 2e-3:
        raise InputError(
            f"{name}: ImageOrientationPatient is not two perpendicular directions; export the series again"
        )
    right, down = right - (right @ down) / 2 * down, down - (right @ down) / 2 * right
    return right / np.linalg.norm(right), down / np.linalg.norm(down)


def _values(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Values of an attribute as text; a single empty text for a missing attribute."""
    several = value if not isinstance(value, str) and isinstance(value, Sequence) else [value]
    return tuple("" if item is None else str(item) for item in several) or ("",)


def show(value: Any) -> str:  # noqa: ANN401
    """Value of an attribute as shown in messages."""
    return "/".join(_values(value)) or "none"


def is_code(text: str) -> bool:
    """Whether a text is a DICOM code (VR CS): capital letters, digits, spaces and underscores."""
    return re.fullmatch(r"[A-Z0-9_ ]{0,16}", text) is not None


def _float(text: object) -> float | None:
    try:
        found = float(str(text))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def same_value(value: Any, selected: object) -> bool:  # noqa: ANN401
    """Whether one of an attribute's values is the selected one; numbers agree to six digits, empty means missing."""
    text = "" if selected is None else str(selected)
    number = _float(text)
    for item in _values(value):
        if item == text:
            return True
        item_number = None if number is None else _float(item)
        if item_number is not None and number is not None and math.isclose(item_number, number, rel_tol=1e-6):
            return True
    return False


def _key(value: Any) -> tuple:  # noqa: ANN401
    """Sort key of an attribute: missing values first, then numbers, then text."""
    texts = _values(value)
    if texts == ("",):
        return (0, 0.0, "")
    number = _float(texts[0]) if len(texts) == 1 else None
    return (2, 0.0, "/".join(texts)) if number is None else (1, number, "")


def _group(frames: Iterable[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return list(groups.values())


def _counts(frames: Sequence[Frame]) -> list[int] | None:
    """Number of every frame in its series: InstanceNumber, or a running count for multi-frame objects."""
    if len({id(frame.header) for frame in frames}) == 1:
        return [frame.index for frame in frames]
    instances = [_float(frame.header.get("InstanceNumber")) for frame in frames]
    if any(n is None for n in instances):
        return None
    if not any(frame.index for frame in frames):
        return [int(n) for n in instances if n is not None]
    order = sorted(range(len(frames)), key=lambda i: (instances[i], frames[i].index))
    return np.argsort(order).tolist()


# Splitting


def _is_mosaic(frame: Frame) -> bool:
    return "MOSAIC" in _values(frame.get("ImageType"))


def geometry(frame: Frame) -> tuple[tuple, np.ndarray]:
    """Geometry shared by the frames of a stack: attributes that agree exactly, and numbers that agree to a tolerance."""
    pixel, cosines = numbers(frame, "PixelSpacing", 2), numbers(frame, "ImageOrientationPatient", 6)
    position = numbers(frame, "ImagePositionPatient", 3)
    colour = int(frame.get("SamplesPerPixel") or 1)
    size = int(frame.get("Rows")), int(frame.get("Columns"))
    exact = (size, cosines is not None and position is not None, pixel is not None, _is_mosaic(frame), colour)
    return exact, np.r_[
        np.zeros(6) if cosines is None else cosines, np.log(np.abs(pixel) + 1e-9) if pixel is not None else 0.0
    ]


def _group_by_geometry(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames of the same size, direction and pixel size; groups are ordered by their first frame."""
    groups: list[tuple[tuple, np.ndarray, list[Frame]]] = []
    for frame in frames:
        exact, near = geometry(frame)
        for group_exact, group_near, members in groups:
            # Direction cosines have at least four digits, pixel sizes more.
            if exact == group_exact and (np.abs(near - group_near) <= [1e-3] * 6 + [1e-4] * (len(near) - 6)).all():
                members.append(frame)
                break
        else:
            groups.append((exact, near, [frame]))
    if len(groups) == 1:
        return [list(frames)]
    ranks = dict(zip(map(id, frames), _ranks(frames), strict=True))
    return sorted((members for _, _, members in groups), key=lambda members: min(ranks[id(frame)] for frame in members))


def _positions(frames: Sequence[Frame]) -> np.ndarray | None:
    """Number of the slice position of each frame, counted along the normal, or ``None`` if positions are unknown."""
    at = [numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    cosines = numbers(frames[0], "ImageOrientationPatient", 6)
    if cosines is None or any(position is None for position in at):
        return None
    normal = np.cross(*axes(cosines, frames[0].header.filename))
    places = np.array(at) @ normal
    order = np.argsort(places, kind="stable")
    thickness = _float(frames[0].get("SliceThickness")) or 0.0
    # Positions of one slice in several volumes may differ by rounding.
    steps = np.diff(places[order]) > max(1e-3, min(0.01, 0.02 * thickness))
    positions = np.empty(len(frames), int)
    positions[order] = np.r_[0, np.cumsum(steps)]
    return positions


def _ranks(frames: Sequence[Frame]) -> list[tuple]:
    """Sort keys that order the frames at one position by volume."""
    counts = _counts(frames) or [0] * len(frames)
    return [
        (*(_key(f.get(k)) for k in _ORDER), n, *(_key(f.get(k)) for k in _TIMES), f.index)
        for f, n in zip(frames, counts, strict=True)
    ]


def _by_occurrence(frames: Sequence[Frame], positions: np.ndarray) -> list[list[Frame]] | None:
    """Volumes of the first images at all positions, the second images, ...; ``None`` if positions differ in number of images."""
    count = np.bincount(positions)
    count = count[count > 0]
    if len(set(count.tolist())) > 1:
        return None
    ranks = _ranks(frames)
    order = sorted(range(len(frames)), key=lambda i: (positions[i], ranks[i]))
    n = int(count[0])
    return [[frames[i] for i in order[k::n]] for k in range(n)]


def _by_number(frames: Sequence[Frame], positions: np.ndarray) -> list[list[Frame]] | None:
    """Volumes, possibly incomplete, if the numbers count along the slices of one volume after the other; otherwise ``None``."""
    counts = _counts(frames)
    if counts is None:
        return None
    number = np.array(counts)
    rank = np.unique(positions, return_inverse=True)[1]
    gaps = [np.diff(np.sort(number[rank == r])) for r in range(rank.max() + 1)]
    period = int(np.gcd.reduce(np.concatenate(gaps))) if any(map(len, gaps)) else 0
    if period <= rank.max():
        return None
    for direction in (1, -1):
        start = number - direction * rank
        volume = (start - start.min()) // period
        exact = ((start - start.min()) % period == 0).all()
        if exact and len({(v, r) for v, r in zip(volume, rank, strict=True)}) == len(frames):
            return [[f for f, v in zip(frames, volume, strict=True) if v == k] for k in np.unique(volume)]
    return None


def _volumes(frames: Sequence[Frame], positions: np.ndarray) -> list[list[Frame]] | None:
    """Split frames of one geometry into volumes; ``None`` if it cannot be decided which frames belong together."""
    if len(np.unique(positions)) == len(frames):
        return [list(frames)]
    where = dict(zip(map(id, frames), positions.tolist(), strict=True))
    found = _by_occurrence(frames, positions)
    if found is not None:
        # Incomplete volumes may complement each other; regular numbers are more reliable then.
        return (_by_number(frames, positions) or found) if _irregular(found, where) else found
    for keywords in (_LABELS, (*_LABELS, *_ACQUISITIONS)):
        groups = _group(frames, lambda f, keywords=keywords: tuple(_values(f.get(k)) for k in keywords))
        if len(groups) < 2:
            continue
        parts: list[list[list[Frame]] | None] = []
        for group in groups:
            at = np.array([where[id(frame)] for frame in group])
            parts.append(_by_occurrence(group, at) or _by_number(group, at))
        if all(part is not None for part in parts):
            volumes = [volume for part in parts if part is not None for volume in part]
            ranks = dict(zip(map(id, frames), _ranks(frames), strict=True))
            return sorted(volumes, key=lambda volume: min(ranks[id(frame)] for frame in volume))
    return _by_number(frames, positions)


def _inconsistent_numbers(first: Sequence[Frame], second: Sequence[Frame], positions: Mapping[int, int]) -> bool:
    """Whether the numbers of two volumes do not differ by a constant."""
    counts = _counts([*first, *second])
    if counts is None:
        return True
    numbers_1 = {positions[id(frame)]: n for frame, n in zip(first, counts[: len(first)], strict=True)}
    numbers_2 = {positions[id(frame)]: n for frame, n in zip(second, counts[len(first) :], strict=True)}
    steps = {numbers_2[position] - n for position, n in numbers_1.items() if position in numbers_2}
    return len(steps) > 1 or 0 in steps


def _irregular(volumes: Sequence[Sequence[Frame]], positions: Mapping[int, int]) -> bool:
    """Whether volumes with the same attributes are numbered irregularly, so that their slices may be mixed."""
    keywords = (*_LABELS, *_ACQUISITIONS)
    groups: dict[tuple, list[Sequence[Frame]]] = {}
    for volume in volumes:
        groups.setdefault(tuple(frozenset(_values(f.get(k)) for f in volume) for k in keywords), []).append(volume)
    return any(_inconsistent_numbers(one, two, positions) for alike in groups.values() for one, two in pairwise(alike))


def _split_warnings(volumes: Sequence[Sequence[Frame]], positions: Mapping[int, int]) -> list[str]:
    """Warnings about the separation of volumes."""
    out = []
    if _irregular(volumes, positions):
        out.append(
            "the volumes differ only in InstanceNumber, time or file name, and these are irregular: some slices may belong to "
            "another volume"
        )
    first = volumes[0][0]
    claimed = int(_float(first.get("NumberOfTemporalPositions")) or 1)
    if claimed > 0 and len(volumes) % claimed and first.get("TemporalPositionIdentifier") is None:
        out.append(
            f"NumberOfTemporalPositions is {claimed}, but the number of volumes is {len(volumes)}: some images may be missing"
        )
    return out


def _volume_warnings(frames: Sequence[Frame]) -> list[str]:
    """Warnings about one volume: attributes in which its slices differ, and gaps in their numbers."""
    out = []
    for keyword in _MIXED:
        found = sorted({show(f.get(keyword)) for f in frames})
        if len(found) > 1:
            values = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
            out.append(f"slices of this volume differ in {keyword} ({values}): some may belong to another volume")
    counts = sorted(set(_counts(frames) or []))
    steps = set(np.diff(counts).tolist())
    if len(counts) == len(frames) and len(steps) > 1:
        k = int(np.argmax(np.diff(counts)))
        out.append(
            f"InstanceNumber jumps, e.g. from {counts[k]} to {counts[k + 1]}: some slices may belong to another volume"
        )
    return out


def split(frames: Sequence[Frame], name: str) -> list[Stack]:
    """Split a series into its volumes, in order.

    Frames of different size, direction or pixel size form different stacks; each mosaic is a volume. The k-th of several images
    at one position belongs to the k-th volume, in the order of the attributes that distinguish volumes (time, acquisition,
    b-value, echo, ...) and then of InstanceNumber. If positions have different numbers of images (an incomplete volume), volumes
    are separated by the attributes or a regular InstanceNumber.

    Raises:
        InputError: if it cannot be decided which slices belong together.
    """
    stacks: list[Stack] = []
    for group in _group_by_geometry(frames):
        if _is_mosaic(group[0]):
            ranks = dict(zip(map(id, group), _ranks(group), strict=True))
            stacks += [Stack([frame]) for frame in sorted(group, key=lambda frame: ranks[id(frame)])]
            continue
        positions = _positions(group)
        if positions is None:
            stacks.append(Stack(group, tuple(_volume_warnings(group))))
            continue
        _refuse_one_position(group, name)
        volumes = _volumes(group, positions)
        if volumes is None:
            raise InputError(f"{name}: {_undecided(group, positions)}")
        where = dict(zip(map(id, group), positions.tolist(), strict=True))
        split_warnings = _split_warnings(volumes, where)
        for volume in volumes:
            n_missing = len(set(where.values())) - len(volume)
            messages = list(split_warnings)
            if n_missing:
                messages.append(f"this volume lacks {n_missing} of the slice positions that the other volumes have")
            stacks.append(Stack(volume, (*messages, *_volume_warnings(volume))))
    return stacks


def _refuse_one_position(frames: Sequence[Frame], name: str) -> None:
    """Refuse multi-frame objects that have one position for all frames."""
    one_file = len({id(frame.header) for frame in frames}) == 1 and len(frames) > 1
    if one_file and not any("ImagePositionPatient" in frame.attributes for frame in frames):
        raise InputError(f"{name}: has one position for all of its {len(frames)} frames, which is not supported")


def _undecided(frames: Sequence[Frame], positions: np.ndarray) -> str:
    """Message for positions with different numbers of images."""
    count = np.bincount(positions)
    usual = int(np.median(count))
    odd = int(np.argmax(count != usual))
    example = frames[int(np.flatnonzero(positions == odd)[0])]
    place = numbers(example, "ImagePositionPatient", 3)
    where = "" if place is None else f", e.g. at {'/'.join(f'{v:.1f}' for v in place)} mm {count[odd]}"
    return (
        f"a series with {usual} images at most positions but not at all{where}, and it cannot be decided which belong together; "
        "export the series again, or give the files of one volume"
    )


# Messages


def describe(stacks: Sequence[Stack]) -> str:
    """Description of several stacks of a series, with the geometric attribute in which they differ."""
    n, firsts = len(stacks), [stack.frames[0] for stack in stacks]
    exact, near = zip(*(geometry(frame) for frame in firsts), strict=True)
    if len({e[0] for e in exact}) > 1:
        return f"{n} stacks of different matrix sizes ({_each(f'{y} x {x}' for y, x in (e[0] for e in exact))})"
    if len({e[4] for e in exact}) > 1:
        return f"{n} stacks, some grey and some in colour"
    if len({e[1:4] for e in exact}) > 1:
        return f"{n} stacks, some of them without ImagePositionPatient or PixelSpacing, or mosaics"
    cosines = np.array([a[:6] for a in near])
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        values = _each("/".join(f"{c:.3g}" for c in row + 0.0) for row in cosines)
        return f"{n} stacks in different directions, as in a localizer: ImageOrientationPatient is {values}"
    if np.ptp(np.array([a[6:] for a in near]), axis=0).max() > 1e-4:
        values = _each(show(frame.get("PixelSpacing")) for frame in firsts)
        return f"{n} stacks of different pixel sizes: PixelSpacing is {values}"
    return f"{n} mosaics, each a whole volume" if exact[0][3] else f"{n} volumes"


def _each(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")


def _uniform(stacks: Sequence[Sequence[Frame]], keyword: str) -> list[tuple[str, ...]] | None:
    """Value shared by all frames of each stack; ``None`` if frames of a stack differ, or all stacks have the same value."""
    out = []
    for frames in stacks:
        found = _values(frames[0].get(keyword))
        if any(_values(frame.get(keyword)) != found for frame in frames[1:]):
            return None
        if keyword in _CODED and not all(is_code(text) for text in found):
            return None
        out.append(found)
    return out if len(set(out)) > 1 else None


def _tokens(found: Sequence[tuple[str, ...]]) -> list[str] | None:
    """For every stack, a value that selects only stacks with the same values; ``None`` if a stack has none."""
    token = {}
    for values in dict.fromkeys(found):
        unique = (t for t in values if all(v == values or not same_value(list(v), t) for v in found))
        token[values] = next(unique, None)
        if token[values] is None:
            return None
    return [str(token[values]) for values in found]


def _listed(keyword: str, tokens: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(tokens))
    values = [t for t in distinct if t]
    shown = ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
    return f"{keyword} ({shown}{f', or none: {keyword}=' if '' in distinct else ''})"


def _number_ranges(stacks: Sequence[Sequence[Frame]]) -> str:
    """Ranges of InstanceNumber of the stacks, if they do not overlap; for stacks that no other attribute distinguishes."""
    found = [[_float(frame.header.get("InstanceNumber")) for frame in frames] for frames in stacks]
    if any(n is None for instances in found for n in instances):
        return ""
    ends = [(min(instances), max(instances)) for instances in found]  # type: ignore[type-var]
    apart = all(a[1] < b[0] for a, b in pairwise(sorted(ends)))  # type: ignore[operator]
    return f", which differ in InstanceNumber ({_each(f'{a:g} to {b:g}' for a, b in ends)})" if apart else ""


def advice(stacks: Sequence[Sequence[Frame]], numbered: bool = True) -> str:
    """Advice to select one of several stacks: by one or two sufficient attributes, and by number.

    Args:
        stacks: frames of each stack.
        numbered: whether stacks can also be selected by number.
    """
    number = f"volume=0 (numbered from 0 to {len(stacks) - 1})" if numbered else ""
    uniform = {k: found for k in ADVISED if (found := _uniform(stacks, k)) is not None}
    tokens = {k: t for k, found in uniform.items() if (t := _tokens(found)) is not None}
    pairs = combinations([k for k in tokens if k in _LABELS], 2)
    for keywords in (*((k,) for k in tokens), *pairs):
        picks = list(zip(*(tokens[k] for k in keywords), strict=True))
        if len(set(picks)) == len(stacks):
            pick = next((p for p in picks if all(p)), picks[0])
            example = " and ".join(f"{k}={value}" for k, value in zip(keywords, pick, strict=True))
            which = " and ".join(_listed(k, tokens[k]) for k in keywords)
            of_each = " of each" if len(keywords) > 1 else ""
            return f", which differ in {which}; select one{of_each}, e.g. {example}{f', or {number}' if number else ''}"
    some = [_listed(k, ["/".join(v) for v in uniform[k]]) for k in uniform if k in _LABELS][:2]
    which = f", which differ in {' and '.join(some)}" if some else _number_ranges(stacks)
    return f"{which}; select one, e.g. {number}" if number else f"{which}; give the files of one only"
