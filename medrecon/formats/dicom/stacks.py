"""The frames of a DICOM series, split into the volumes that they belong to."""

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
"""Attributes that all slices of one volume share."""
_LABELS = ("SeriesNumber", *_MIXED, "ConvolutionKernel", "DiffusionDirectionality", "StackID", "FrameReferenceTime")
"""Attributes that distinguish volumes."""
_ACQUISITIONS = ("AcquisitionNumber", "FrameAcquisitionNumber")
"""Attributes that distinguish volumes, or parts of one: scanners count interleaves and breath holds, too."""
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
"""Attributes to select by, the most distinctive first; messages show their values, and no others."""
_CODED = {
    "ImageType", "FrameType", "ComplexImageComponent", "DiffusionDirectionality", "PhotometricInterpretation", "ScanningSequence",
}  # fmt: skip
"""Of these, the ones whose values are codes: anything else that stands there is not shown."""
FARTHEST = 1e7
"""mm from the origin; positions farther out are damaged."""


@dataclass(eq=False)
class Frame:
    """One slice.

    Args:
        header: data set of its file, without pixels.
        index: number of the frame in its file.
        own: attributes from the functional groups.
        file: attributes of the file that were asked for; pydicom is slow to look them up.
    """

    header: Dataset
    index: int
    own: dict[str, Any]
    file: dict[str, Any] = field(default_factory=dict)

    def get(self, keyword: str) -> Any:  # noqa: ANN401 - whatever DICOM holds
        """An attribute of the frame, else of its file, else ``None``."""
        if keyword in self.own:
            return self.own[keyword]
        if keyword not in self.file:
            self.file[keyword] = self.header.get(keyword)
        return self.file[keyword]


@dataclass(frozen=True)
class Stack:
    """The frames of one volume.

    Args:
        frames: in any order.
        warnings: reasons to doubt that they belong together.
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
    """Unit vectors along a row and a column: ImageOrientationPatient, which is written with few digits, made orthonormal.

    Raises:
        InputError: if they are not unit vectors, or not perpendicular, to what rounding to three digits leaves.
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
    """The values of an attribute as text; one empty text for a missing attribute."""
    several = value if not isinstance(value, str) and isinstance(value, Sequence) else [value]
    return tuple("" if one is None else str(one) for one in several) or ("",)


def show(value: Any) -> str:  # noqa: ANN401
    """An attribute in a message."""
    return "/".join(_values(value)) or "none"


def is_code(text: str) -> bool:
    """Whether a text is a code of DICOM (VR CS): capitals, digits, spaces and underscores."""
    return re.fullmatch(r"[A-Z0-9_ ]{0,16}", text) is not None


def _float(text: object) -> float | None:
    try:
        found = float(str(text))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def same_value(value: Any, wanted: object) -> bool:  # noqa: ANN401
    """Whether an attribute has a value, as one of several; numbers to six digits. An empty text is a missing attribute."""
    want = "" if wanted is None else str(wanted)
    number = _float(want)
    for one in _values(value):
        if one == want:
            return True
        other = None if number is None else _float(one)
        if other is not None and number is not None and math.isclose(other, number, rel_tol=1e-6):
            return True
    return False


def _key(value: Any) -> tuple:  # noqa: ANN401
    """A sort key: missing attributes, numbers, text."""
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
    """The number of every frame in its series: the file's, or of objects with several frames a count through all of them."""
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
    """What frames of one stack have in common: exactly, and to a tolerance."""
    pixel, turn = numbers(frame, "PixelSpacing", 2), numbers(frame, "ImageOrientationPatient", 6)
    place = numbers(frame, "ImagePositionPatient", 3)
    colour = int(frame.get("SamplesPerPixel") or 1)
    size = int(frame.get("Rows")), int(frame.get("Columns"))
    exact = (size, turn is not None and place is not None, pixel is not None, _is_mosaic(frame), colour)
    return exact, np.r_[
        np.zeros(6) if turn is None else turn, np.log(np.abs(pixel) + 1e-9) if pixel is not None else 0.0
    ]


def _bygeometry(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one size, direction and pixel size, in the order of their first."""
    groups: list[tuple[tuple, np.ndarray, list[Frame]]] = []
    for frame in frames:
        exact, near = geometry(frame)
        for other, place, held in groups:
            # Direction cosines have four digits at least, pixel sizes more.
            if exact == other and (np.abs(near - place) <= [1e-3] * 6 + [1e-4] * (len(near) - 6)).all():
                held.append(frame)
                break
        else:
            groups.append((exact, near, [frame]))
    if len(groups) == 1:
        return [list(frames)]
    ranks = dict(zip(map(id, frames), _ranks(frames), strict=True))
    return sorted((held for _, _, held in groups), key=lambda held: min(ranks[id(frame)] for frame in held))


def _positions(frames: Sequence[Frame]) -> np.ndarray | None:
    """Which slice position each frame has, counted along the normal, or ``None`` where they are unknown."""
    at = [numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    turn = numbers(frames[0], "ImageOrientationPatient", 6)
    if turn is None or any(place is None for place in at):
        return None
    normal = np.cross(*axes(turn, frames[0].header.filename))
    places = np.array(at) @ normal
    order = np.argsort(places, kind="stable")
    thick = _float(frames[0].get("SliceThickness")) or 0.0
    # Positions of one slice in several volumes may differ by rounding.
    steps = np.diff(places[order]) > max(1e-3, min(0.01, 0.02 * thick))
    positions = np.empty(len(frames), int)
    positions[order] = np.r_[0, np.cumsum(steps)]
    return positions


def _ranks(frames: Sequence[Frame]) -> list[tuple]:
    """Sort keys that bring the frames of one position into the order of their volumes."""
    counts = _counts(frames) or [0] * len(frames)
    return [
        (*(_key(f.get(k)) for k in _ORDER), n, *(_key(f.get(k)) for k in _TIMES), f.index)
        for f, n in zip(frames, counts, strict=True)
    ]


def _by_occurrence(frames: Sequence[Frame], positions: np.ndarray) -> list[list[Frame]] | None:
    """The first images of all positions, the second ones, ...; ``None`` if positions have different numbers of images."""
    count = np.bincount(positions)
    count = count[count > 0]
    if len(set(count.tolist())) > 1:
        return None
    ranks = _ranks(frames)
    order = sorted(range(len(frames)), key=lambda i: (positions[i], ranks[i]))
    n = int(count[0])
    return [[frames[i] for i in order[k::n]] for k in range(n)]


def _by_number(frames: Sequence[Frame], positions: np.ndarray) -> list[list[Frame]] | None:
    """Volumes of which some are incomplete, if the numbers count through every volume along its slices; else ``None``."""
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
    """Frames of one geometry by volume, or ``None`` where it cannot be decided which belong together."""
    if len(np.unique(positions)) == len(frames):
        return [list(frames)]
    where = dict(zip(map(id, frames), positions.tolist(), strict=True))
    found = _by_occurrence(frames, positions)
    if found is not None:
        # Incomplete volumes may complement one another; numbers that follow a rule are better then.
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


def _unsteady(one: Sequence[Frame], two: Sequence[Frame], positions: Mapping[int, int]) -> bool:
    """Whether the numbers of two volumes fail to differ by one constant."""
    counts = _counts([*one, *two])
    if counts is None:
        return True
    first = {positions[id(frame)]: n for frame, n in zip(one, counts[: len(one)], strict=True)}
    second = {positions[id(frame)]: n for frame, n in zip(two, counts[len(one) :], strict=True)}
    jumps = {second[place] - n for place, n in first.items() if place in second}
    return len(jumps) > 1 or 0 in jumps


def _irregular(volumes: Sequence[Sequence[Frame]], positions: Mapping[int, int]) -> bool:
    """Whether volumes that share all attributes are numbered without a rule, so that their slices may be mixed."""
    keywords = (*_LABELS, *_ACQUISITIONS)
    groups: dict[tuple, list[Sequence[Frame]]] = {}
    for volume in volumes:
        groups.setdefault(tuple(frozenset(_values(f.get(k)) for f in volume) for k in keywords), []).append(volume)
    return any(_unsteady(one, two, positions) for alike in groups.values() for one, two in pairwise(alike))


def _doubts(volumes: Sequence[Sequence[Frame]], positions: Mapping[int, int]) -> list[str]:
    """Warnings that concern how the volumes were separated."""
    out = []
    if _irregular(volumes, positions):
        out.append(
            "the volumes differ in InstanceNumber, time or file name alone, and these follow no rule: some slices may belong to "
            "another volume"
        )
    first = volumes[0][0]
    claimed = int(_float(first.get("NumberOfTemporalPositions")) or 1)
    if claimed > 0 and len(volumes) % claimed and first.get("TemporalPositionIdentifier") is None:
        out.append(
            f"NumberOfTemporalPositions is {claimed}, but the volumes are {len(volumes)}: some images may be missing"
        )
    return out


def _mixed(frames: Sequence[Frame]) -> list[str]:
    """Warnings of one volume: attributes in which its slices differ, and gaps in their numbers."""
    out = []
    for keyword in _MIXED:
        found = sorted({show(f.get(keyword)) for f in frames})
        if len(found) > 1:
            held = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
            out.append(f"slices of this volume differ in {keyword} ({held}): some may belong to another volume")
    counts = sorted(set(_counts(frames) or []))
    steps = set(np.diff(counts).tolist())
    if len(counts) == len(frames) and len(steps) > 1:
        k = int(np.argmax(np.diff(counts)))
        out.append(
            f"InstanceNumber jumps, e.g. from {counts[k]} to {counts[k + 1]}: some slices may belong to another volume"
        )
    return out


def split(frames: Sequence[Frame], name: str) -> list[Stack]:
    """The volumes of one series, in order.

    Frames of different size, direction or pixel size are different stacks; a mosaic is a volume of its own. Of several images
    at one position the k-th belongs to the k-th volume, in the order of the attributes that distinguish volumes (time,
    acquisition, b-value, echo, ...) and then of InstanceNumber. Where positions have different numbers of images (an
    incomplete volume), the attributes or a regular InstanceNumber must decide.

    Raises:
        InputError: if it cannot be decided which slices belong together.
    """
    stacks: list[Stack] = []
    for group in _bygeometry(frames):
        if _is_mosaic(group[0]):
            ranks = dict(zip(map(id, group), _ranks(group), strict=True))
            stacks += [Stack([frame]) for frame in sorted(group, key=lambda frame: ranks[id(frame)])]
            continue
        positions = _positions(group)
        if positions is None:
            stacks.append(Stack(group, tuple(_mixed(group))))
            continue
        _refuse_one_position(group, name)
        volumes = _volumes(group, positions)
        if volumes is None:
            raise InputError(f"{name}: {_undecided(group, positions)}")
        where = dict(zip(map(id, group), positions.tolist(), strict=True))
        doubts = _doubts(volumes, where)
        for volume in volumes:
            lacking = len(set(where.values())) - len(volume)
            notes = list(doubts)
            if lacking:
                notes.append(f"this volume lacks {lacking} of the slice positions that the other volumes have")
            stacks.append(Stack(volume, (*notes, *_mixed(volume))))
    return stacks


def _refuse_one_position(frames: Sequence[Frame], name: str) -> None:
    """Objects whose frames share the position of their file."""
    one_file = len({id(frame.header) for frame in frames}) == 1 and len(frames) > 1
    if one_file and not any("ImagePositionPatient" in frame.own for frame in frames):
        raise InputError(f"{name}: gives one position for all of its {len(frames)} frames; such objects cannot be used")


def _undecided(frames: Sequence[Frame], positions: np.ndarray) -> str:
    """Positions have different numbers of images: what to do."""
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
    """Several stacks of one series, in words, with the attribute of the geometry in which they differ."""
    n, firsts = len(stacks), [stack.frames[0] for stack in stacks]
    exact, near = zip(*(geometry(frame) for frame in firsts), strict=True)
    if len({e[0] for e in exact}) > 1:
        return f"{n} stacks of different matrix sizes ({_each(f'{y} x {x}' for y, x in (e[0] for e in exact))})"
    if len({e[4] for e in exact}) > 1:
        return f"{n} stacks, some grey and some in colour"
    if len({e[1:4] for e in exact}) > 1:
        return f"{n} stacks, some of them without ImagePositionPatient or PixelSpacing, or mosaics"
    turns = np.array([a[:6] for a in near])
    if np.abs(turns - turns[0]).max() > 1e-3:
        held = _each("/".join(f"{c:.3g}" for c in turn + 0.0) for turn in turns)
        return f"{n} stacks in different directions, as in a localizer: ImageOrientationPatient is {held}"
    if np.ptp(np.array([a[6:] for a in near]), axis=0).max() > 1e-4:
        held = _each(show(frame.get("PixelSpacing")) for frame in firsts)
        return f"{n} stacks of different pixel sizes: PixelSpacing is {held}"
    return f"{n} mosaics, each a whole volume" if exact[0][3] else f"{n} volumes"


def _each(values: Iterable[str]) -> str:
    held = list(dict.fromkeys(values))
    return ", ".join(held[:4]) + (", ..." if len(held) > 4 else "")


def _uniform(stacks: Sequence[Sequence[Frame]], keyword: str) -> list[tuple[str, ...]] | None:
    """The value that all frames of a stack share, for every stack; ``None`` where they do not, or all stacks share one."""
    out = []
    for frames in stacks:
        found = _values(frames[0].get(keyword))
        if any(_values(frame.get(keyword)) != found for frame in frames[1:]):
            return None
        if keyword in _CODED and not all(is_code(one) for one in found):
            return None
        out.append(found)
    return out if len(set(out)) > 1 else None


def _tokens(found: Sequence[tuple[str, ...]]) -> list[str] | None:
    """Of every stack's values one that selects the stacks with the same values alone; ``None`` if there is none."""
    token = {}
    for one in dict.fromkeys(found):
        unique = (t for t in one if all(other == one or not same_value(list(other), t) for other in found))
        token[one] = next(unique, None)
        if token[one] is None:
            return None
    return [str(token[one]) for one in found]


def _listed(keyword: str, tokens: Sequence[str]) -> str:
    each = list(dict.fromkeys(tokens))
    held = [t for t in each if t]
    shown = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "")
    return f"{keyword} ({shown}{f', or none: {keyword}=' if '' in each else ''})"


def _numbered_apart(stacks: Sequence[Sequence[Frame]]) -> str:
    """Of stacks that no other attribute distinguishes, the ranges of InstanceNumber, if they do not overlap."""
    found = [[_float(frame.header.get("InstanceNumber")) for frame in frames] for frames in stacks]
    if any(n is None for own in found for n in own):
        return ""
    ends = [(min(own), max(own)) for own in found]  # type: ignore[type-var]
    apart = all(a[1] < b[0] for a, b in pairwise(sorted(ends)))  # type: ignore[operator]
    return f", which differ in InstanceNumber ({_each(f'{a:g} to {b:g}' for a, b in ends)})" if apart else ""


def advice(stacks: Sequence[Sequence[Frame]], numbered: bool = True) -> str:
    """How to select one of several stacks: by one attribute, or two, that are enough, and by number.

    Args:
        stacks: frames of each.
        numbered: whether they can be selected by number as well.
    """
    number = f"volume=0 (numbered from 0 to {len(stacks) - 1})" if numbered else ""
    held = {k: found for k in ADVISED if (found := _uniform(stacks, k)) is not None}
    tokens = {k: t for k, found in held.items() if (t := _tokens(found)) is not None}
    pairs = combinations([k for k in tokens if k in _LABELS], 2)
    for keywords in (*((k,) for k in tokens), *pairs):
        picks = list(zip(*(tokens[k] for k in keywords), strict=True))
        if len(set(picks)) == len(stacks):
            pick = next((p for p in picks if all(p)), picks[0])
            example = " and ".join(f"{k}={value}" for k, value in zip(keywords, pick, strict=True))
            which = " and ".join(_listed(k, tokens[k]) for k in keywords)
            of_each = " of each" if len(keywords) > 1 else ""
            return f", which differ in {which}; select one{of_each}, e.g. {example}{f', or {number}' if number else ''}"
    some = [_listed(k, ["/".join(v) for v in held[k]]) for k in held if k in _LABELS][:2]
    which = f", which differ in {' and '.join(some)}" if some else _numbered_apart(stacks)
    return f"{which}; select one, e.g. {number}" if number else f"{which}; give the files of one alone"
