"""The pictures of a page: which images are shown, in which window, and how many slices fit into a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrecon.report.case import MOST_SAMPLES, Case, shown_planes
from medrecon.report.html import Html, el
from medrecon.report.images import encoded, faded, grey, marked, mosaic, thumbnail
from medrecon.report.orientation import edges

__all__ = [
    "BUDGET",
    "Picture",
    "Plane",
    "Scales",
    "figure",
    "name_of_image",
    "pixel_ratio",
    "planes",
    "scales",
    "spread_word",
    "thumbnails",
]

BUDGET = 1_900_000
"""Bytes of the pictures of planes; the rest of 3 MB are thumbnails, pictures of the data and text."""
_GROUPS = "compare", "error", "map", "sample"
_LOSSES: Sequence[Mapping[str, tuple[int, int | None]]] = (
    {"sample": (92, None)},
    {"sample": (85, 384)},
    {"sample": (80, 256), "error": (92, None), "map": (92, None)},
    {"sample": (80, 256), "error": (80, 384), "map": (80, 384)},
    {**dict.fromkeys(_GROUPS, (92, None)), "sample": (80, 256)},
    {**dict.fromkeys(_GROUPS, (90, 640)), "sample": (80, 256)},
    {**dict.fromkeys(_GROUPS, (80, 384)), "sample": (60, 192)},
)
"""Where a single slice exceeds the budget: by group, quality of WebP with loss and largest side; the first that fits is used."""


@dataclass(frozen=True)
class Picture:
    """A picture of a plane.

    Args:
        key: short name, for the style sheet.
        group: ``compare``, ``error``, ``map`` or ``sample``.
        title: caption.
        source: data URI.
    """

    key: str
    group: str
    title: str
    source: str


@dataclass(frozen=True)
class Plane:
    """The pictures of a slice or frame.

    Args:
        label: name, e.g. ``slice 12``.
        pictures: pictures.
        lossy: groups whose pictures are compressed with loss.
    """

    label: str
    pictures: Sequence[Picture]
    lossy: tuple[str, ...] = ()

    def of(self, group: str) -> list[Picture]:
        """The pictures of a group."""
        return [one for one in self.pictures if one.group == group]


@dataclass(frozen=True)
class Scales:
    """Values at the ends of the legends, the same for all planes.

    Args:
        window: values shown as black and as white in images.
        error: absolute error shown as white.
        spread: spread shown as white, and from which images are transparent.
        null: unmeasured part shown as white.
    """

    window: tuple[float, float]
    error: float
    spread: float
    null: float


def _top(values: np.ndarray, share: float, least: float) -> float:
    """A rounded upper end for a legend: a percentile, but at least ``least``."""
    top = max(float(np.percentile(values, share)) if values.size else 0.0, least)
    digit = 10.0 ** np.floor(np.log10(top)) if top > 0 else 1.0
    return float(f"{np.ceil(top / digit * 2) / 2 * digit:.6g}") if top > 0 else 1.0


def scales(case: Case) -> Scales:
    """The ends of the legends: of errors that of the reconstruction, of the spread its 99th percentile."""
    low, high = case.window
    span, shown = high - low, list(case.shown)
    error = 0.0
    if case.reference is not None:
        error = _top(np.abs(case.image[shown] - case.reference[shown]), 99.5, 0.02 * span)
    spread = next((case.maps[name] for name in ("std", "spread") if name in case.maps), np.zeros(0))
    null = case.maps.get("null", np.zeros(0))
    return Scales(
        window=(low, high),
        error=error,
        spread=_top(spread[shown] if spread.size else spread, 99.5, 0.01 * span),
        null=_top(null[shown] if null.size else null, 99.8, 0.05 * span),
    )


def spread_word(case: Case) -> str:
    """The word for the spread of the samples: uncertainty only if it is calibrated."""
    return "uncertainty" if case.is_calibrated else "spread"


def name_of_image(case: Case) -> str:
    """Caption of the reconstruction."""
    solver = str((case.record.get("solver") or {}).get("name", "reconstruction"))
    return f"mean of the samples ({solver})" if case.record.get("samples", 1) != 1 else solver


def _compared(case: Case, k: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Images of shown plane ``k`` that are compared: key, caption, image."""
    first, second = case.zero_filled, case.classical
    if first is not None:
        yield "zero", first.name, first.image[k]
    if second is not None:
        yield "classical", second.name, second.image[k]
    yield "mean", name_of_image(case), case.image[case.shown[k]]
    if case.reference is not None:
        yield "reference", "reference", case.reference[case.shown[k]]


def _arrays(case: Case, k: int, ends: Scales) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """All pictures of shown plane ``k``: key, group, caption, grey values."""
    plane = case.shown[k]
    compared = list(_compared(case, k))
    for key, title, image in compared:
        yield key, "compare", title, grey(image, *ends.window)
    if case.reference is not None:
        for key, title, image in compared:
            if key != "reference":
                yield (
                    f"e-{key}",
                    "error",
                    f"error of {title}",
                    grey(np.abs(image - case.reference[plane]), 0, ends.error),
                )
    spread = next((case.maps[name] for name in ("std", "spread") if name in case.maps), None)
    mean = grey(case.image[plane], *ends.window)
    if spread is not None:
        word = spread_word(case)
        yield "faded", "map", f"image, transparent by {word}", faded(mean, spread[plane], ends.spread)
        yield "spread", "map", word, grey(spread[plane], 0, ends.spread)
    if "null" in case.maps:
        yield "null", "map", "part that was not measured", grey(case.maps["null"][plane], 0, ends.null)
    if "flags" in case.maps:
        yield "flags", "map", "flags", marked(case.maps["flags"][plane])
    for n, sample in enumerate([] if case.samples is None else case.samples[:MOST_SAMPLES]):
        yield f"s{n}", "sample", f"sample {n + 1}", grey(sample[k], *ends.window)


def _plane(case: Case, k: int, ends: Scales, loss: Mapping[str, tuple[int, int | None]] = {}) -> Plane:
    """The pictures of shown plane ``k``; ``loss`` gives the quality and the largest side of groups compressed with loss."""
    pictures = []
    for key, group, title, array in _arrays(case, k, ends):
        quality, size = loss.get(group, (None, None))
        small = array if size is None else thumbnail(array, size)
        pictures.append(Picture(key, group, title, encoded(small, None if key == "flags" else quality)))
    return Plane(case.labels[case.shown[k]], pictures, tuple(loss))


def _size(plane: Plane) -> int:
    return sum(len(one.source) for one in plane.pictures)


def planes(case: Case, ends: Scales, budget: int = BUDGET) -> list[Plane]:
    """Pictures of as many planes as fit, evenly spaced among the shown ones; without loss unless a single plane does not fit."""
    made: dict[int, Plane] = {}

    def exact(k: int) -> Plane:
        if k not in made:
            made[k] = _plane(case, k, ends)
        return made[k]

    n = len(case.shown)
    largest = _size(exact(n // 2))
    for count in range(min(n, max(1, int(1.3 * budget / max(largest, 1)))), 0, -1):
        chosen = [exact(k) for k in shown_planes(n, count)]
        if sum(map(_size, chosen)) <= budget:
            return chosen
    for loss in _LOSSES:
        plane = _plane(case, n // 2, ends, loss)
        if _size(plane) <= budget:
            break
    return [plane]


def thumbnails(case: Case, ends: Scales, budget: int = 300_000) -> tuple[str, int, int] | None:
    """All planes as thumbnails in one picture (with loss): data URI, width and height; ``None`` for a single plane."""
    n = len(case.image)
    if n == 1:
        return None
    columns = min(n, max(4, round((1.6 * n) ** 0.5)))
    for size in (128, 96, 64, 48, 32, 16):
        small = [thumbnail(grey(plane, *ends.window), size) for plane in case.image]
        page = mosaic(small, columns)
        if max(page.shape) > 12_000:
            continue
        source = encoded(page, 80)
        if len(source) <= budget:
            return source, page.shape[1], page.shape[0]
    return None


def pixel_ratio(case: Case) -> float:
    """Width over height of a pixel."""
    affine, spacing = case.geometry.affine, case.geometry.spacing
    if affine is not None:
        x, y = np.linalg.norm(np.asarray(affine, float)[:3, :2], axis=0)
    elif spacing is not None:
        y, x = spacing[1:]
    else:
        return 1.0
    ratio = float(x / y) if y > 0 else 1.0
    return ratio if np.isfinite(ratio) and 0.05 < ratio < 20 else 1.0


def figure(case: Case, plane: Plane, picture: Picture) -> Html:
    """A picture with its caption and, where the position is known, the directions at its edges."""
    height, width = case.image.shape[1:]
    ratio = f"{width * pixel_ratio(case):.6g} / {height}"
    letters = edges(case.geometry.affine)
    marks = []
    if letters is not None:
        marks = [
            el("span", text, class_=f"edge {side}", aria_hidden="true") for side, text in letters._asdict().items()
        ]
        where = f"; left edge {letters.left}, right {letters.right}, top {letters.top}, bottom {letters.bottom}"
    else:
        where = ""
    image = el(
        "img",
        src=picture.source,
        alt=f"{picture.title}, {plane.label}{where}",
        width=width,
        height=height,
        draggable="false",
    )
    frame = el("div", image, *marks, class_=f"frame f-{picture.key}", style=f"aspect-ratio:{ratio}")
    return el("figure", frame, el("figcaption", picture.title), class_=f"k-{picture.key}")
