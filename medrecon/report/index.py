"""The overview of many reconstructions: one table in one HTML file, which sorts and filters with its script."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from medrecon.data.errors import InputError, SelectionError
from medrecon.data.files import sidecar_mismatch, write_atomically
from medrecon.formats import load_image
from medrecon.report.folder import sidecars_in
from medrecon.report.gather import case_of_images
from medrecon.report.html import Html, document, el, joined
from medrecon.report.images import encoded, grey, thumbnail
from medrecon.volumes import load_volume

__all__ = ["NAME", "Row", "index_page", "row_of", "write_index"]

NAME = "index.html"
"""File name of the overview."""
_MARK = "<!-- medrecon index -->"
_THUMBNAILS = 3_000_000
"""Largest number of bytes of all thumbnails together, in base64."""
_SIZES = ((96, 60), (64, 50), (48, 40), (32, 30))
"""Longer side of thumbnails, pixels, and their quality."""
_FOREIGN = ("dataset_description.json",)
"""JSON files that every BIDS data set has."""
_MOST_WARNINGS = 5
_MOST_SKIPPED = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """A reconstruction in the overview; ``None``: not recorded.

    Args:
        name: path of the sidecar relative to the folder, without suffix.
        page: path of the page relative to the folder; ``None``: there is none.
        solver: name of the solver.
        acceleration: acceleration of the scan.
        residual: residual over noise.
        psnr: PSNR against a reference, dB.
        ssim: SSIM against a reference.
        nmse: NMSE against a reference.
        flagged: fraction of flagged pixels.
        warnings: warnings of the run.
        written: time of the last change of the sidecar, seconds since 1970.
        picture: data URI of the thumbnail, its width and its height, pixels.
    """

    name: str
    page: str | None
    solver: str
    acceleration: float | None
    residual: float | None
    psnr: float | None
    ssim: float | None
    nmse: float | None
    flagged: float | None
    warnings: Sequence[str]
    written: float
    picture: tuple[str, int, int] | None = None


class Column(NamedTuple):
    """A column of numbers.

    Args:
        key: name in the page.
        title: heading.
        value: the number of a row.
        text: the number as text.
    """

    key: str
    title: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]


_COLUMNS = (
    Column("acceleration", "Acceleration", lambda row: row.acceleration, "{:.3g}".format),
    Column("residual", "Residual over noise", lambda row: row.residual, "{:.3g}".format),
    Column("psnr", "PSNR, dB", lambda row: row.psnr, "{:.2f}".format),
    Column("ssim", "SSIM", lambda row: row.ssim, "{:.3f}".format),
    Column("nmse", "NMSE", lambda row: row.nmse, "{:.3g}".format),
    Column("flagged", "Flagged, %", lambda row: None if row.flagged is None else 100 * row.flagged, "{:.2g}".format),
    Column("warnings", "Warnings", lambda row: float(len(row.warnings)), "{:.0f}".format),
)


def write_index(folder: Path, overwrite: bool = False) -> Path:
    """Write the overview of all reconstructions in a folder and its subfolders to ``index.html``.

    Args:
        folder: folder of images that ``medrecon recon`` wrote.
        overwrite: whether to replace an ``index.html`` that is not an overview.

    Raises:
        InputError: if the folder holds no reconstruction, or another file has the name of the overview.
    """
    sidecars = sidecars_in(folder)
    target = folder / NAME
    if folder / "index.json" in sidecars:
        raise InputError(f"{target}: is the name of the page of {folder / 'index.json'}; rename that image")
    if target.exists() and not overwrite and not _is_index(target):
        raise InputError(f"{target}: exists and is not an overview of medrecon; pass --overwrite to replace it")
    others = sorted({path for path in folder.rglob("*.json") if path.name not in _FOREIGN} - set(sidecars))
    most = _THUMBNAILS // len(sidecars)
    rows = [row for sidecar in sidecars if (row := row_of(sidecar, folder, most)) is not None]
    content = index_page("Reconstructions", rows, [path.relative_to(folder).as_posix() for path in others])
    write_atomically({target: content}, True, home=folder)
    return target


def _is_index(path: Path) -> bool:
    with suppress(OSError):
        return _MARK.encode() in path.read_bytes()
    return False


# Rows


def row_of(sidecar: Path, folder: Path, most: int) -> Row | None:
    """The row of a sidecar, whatever its entries are; ``None`` if it cannot be read any more.

    Args:
        sidecar: path of the sidecar.
        folder: folder of the overview.
        most: largest number of bytes of the thumbnail; there is none if it needs more.
    """
    try:
        record, written = json.loads(sidecar.read_bytes()), sidecar.stat().st_mtime
    except (OSError, ValueError, RecursionError):
        return None
    page = sidecar.with_suffix(".html")
    scores = _mapping(record.get("metrics"))
    scores = _mapping(scores.get("image")) or scores
    warnings, changed = record.get("warnings"), _is_changed(sidecar, record)
    texts = [f"the image is not the one that {sidecar.name} describes (its SHA-256 differs)"] * changed
    return Row(
        name=sidecar.relative_to(folder).as_posix().removesuffix(".json"),
        page=page.relative_to(folder).as_posix() if page.is_file() else None,
        solver=str(_mapping(record.get("solver")).get("name", "unknown"))[:80],
        acceleration=_number(record.get("acceleration")),
        residual=_number(record.get("residual_over_noise")),
        psnr=_number(scores.get("psnr")),
        ssim=_number(scores.get("ssim")),
        nmse=_number(scores.get("nmse")),
        flagged=_number(_mapping(record.get("uncertainty")).get("flagged_fraction")),
        warnings=[*texts, *(map(str, warnings) if isinstance(warnings, list) else ())],
        written=written,
        picture=None if changed else _picture(sidecar, record, most),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    """A finite number, or ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _picture(sidecar: Path, record: Mapping[str, Any], most: int) -> tuple[str, int, int] | None:
    """The middle slice as a data URI of at most ``most`` bytes, with its width and height."""
    try:
        image = _middle(sidecar, record)
    except (InputError, SelectionError, OSError, ValueError, EOFError):
        return None
    if image is None or not image.size:
        return None
    case = case_of_images("", {"modality": record.get("modality", "MR")}, image=image[None])
    for size, quality in _SIZES:
        small = thumbnail(grey(image, *case.window), size)
        text = encoded(small, quality)
        if len(text) <= most:
            return text, small.shape[1], small.shape[0]
    return None


def _image(sidecar: Path, record: Mapping[str, Any]) -> Path | None:
    """The image that a sidecar lists, or ``None`` if it is not beside it."""
    name = next((one for one in record["files"] if isinstance(one, str)), None)
    path = None if name is None else sidecar.parent / name
    try:
        beside = path is not None and path.resolve().is_relative_to(sidecar.parent.resolve()) and path.is_file()
    except (OSError, ValueError):
        return None
    return path if beside else None


def _is_changed(sidecar: Path, record: Mapping[str, Any]) -> bool:
    path = _image(sidecar, record)
    return path is not None and sidecar_mismatch(path, sidecar) is not None


def _middle(sidecar: Path, record: Mapping[str, Any]) -> np.ndarray | None:
    """The middle slice ``(y, x)`` of the image that a sidecar lists, or ``None`` if it is not beside it."""
    path = _image(sidecar, record)
    if path is None:
        return None
    if path.suffix == ".dcm" and path.parent != sidecar.parent:
        path = path.parent  # a series
    volume = load_image(path, {"volume": 0}).array if "frames" in record else load_volume(path).array
    middle = volume[len(volume) // 2]
    return np.abs(middle) if np.iscomplexobj(middle) else middle


# Page


def index_page(title: str, rows: Sequence[Row], skipped: Sequence[str] = ()) -> bytes:
    """The overview, UTF-8.

    Args:
        title: heading; not the name of the folder, which may be the name of a patient.
        rows: reconstructions.
        skipped: names of JSON files that are not sidecars.
    """
    columns = [one for one in _COLUMNS if one.key == "warnings" or any(one.value(row) is not None for row in rows)]
    header = el(
        "header",
        el("a", "Skip to the table", href="#cases", class_="skip"),
        el("p", "medrecon, overview of reconstructions. Research use only.", class_="eyebrow"),
        el("h1", title),
        el("p", _summary(rows), class_="lead"),
    )
    table = el(
        "table",
        el("caption", "Written: last change of the sidecar, UTC. Empty cells are not recorded."),
        el("thead", el("tr", *_headings(columns))),
        el("tbody", *(_row(row, columns) for row in rows)),
        id="cases",
    )
    main = el(
        "main", _filters(rows, columns), el("p", id="shown", role="status", class_="soft"), table, _skipped(skipped)
    )
    end = el("footer", "Written by medrecon. Not for diagnosis.")
    read = resources.files("medrecon.report").joinpath
    style = read("page.css").read_text(encoding="utf-8") + read("index.css").read_text(encoding="utf-8")
    script = read("index.js").read_text(encoding="utf-8")
    return document(f"{title}: medrecon overview", joined([Html(_MARK), header, main, end]), style, script)


def _summary(rows: Sequence[Row]) -> str:
    solvers = ", ".join(f"{name} {count}" for name, count in Counter(row.solver for row in rows).most_common(6))
    warned = sum(bool(row.warnings) for row in rows)
    missing = sum(row.page is None for row in rows)
    texts = [f"{len(rows)} reconstructions ({solvers}), {warned} with warnings."]
    if missing:
        texts.append(f"{missing} have no page; medrecon report DIR writes the pages.")
    return " ".join(texts)


def _headings(columns: Iterable[Column]) -> list[Html]:
    """Headings, which the script turns into buttons."""
    yes = {"scope": "col", "data-kind": "number"}
    return [
        el("th", el("span", "Image", class_="unseen"), scope="col"),
        el("th", "Name", scope="col", data_key="name", data_kind="text"),
        el("th", "Solver", scope="col", data_key="solver", data_kind="text"),
        *(el("th", one.title, data_key=one.key, **yes) for one in columns),
        el("th", "Written", data_key="written", **yes),
    ]


def _row(row: Row, columns: Iterable[Column]) -> Html:
    cells = []
    for one in columns:
        value = one.value(row)
        content = "" if value is None else one.text(value)
        if one.key == "warnings":
            content = _warnings(row.warnings)
        cells.append(el("td", content, data_label=one.title, data_value="" if value is None else f"{value:.6g}"))
    picture = ""
    if row.picture is not None:
        source, width, height = row.picture
        picture = el("img", src=source, alt="", width=width, height=height, loading="lazy")
    name = row.name if row.page is None else el("a", row.name, href=quote(row.page, errors="surrogateescape"))
    return el(
        "tr",
        el("td", picture, class_="thumb"),
        el("th", name, scope="row"),
        el("td", row.solver, data_label="Solver"),
        *cells,
        el("td", _date(row.written), data_label="Written", data_value=f"{row.written:.0f}"),
    )


def _warnings(texts: Sequence[str]) -> object:
    """The number of warnings, which opens to their texts."""
    if not texts:
        return "0"
    items = [el("li", text[:300]) for text in texts[:_MOST_WARNINGS]]
    more = [el("li", f"and {len(texts) - _MOST_WARNINGS} more")] if len(texts) > _MOST_WARNINGS else []
    return el("details", el("summary", str(len(texts))), el("ul", *items, *more))


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return ""


def _filters(rows: Sequence[Row], columns: Sequence[Column]) -> Html:
    """Fields that the script shows and uses."""
    solvers = [el("option", "all", value="")]
    solvers += [el("option", name, value=name) for name in sorted({row.solver for row in rows})]
    keys = {"name": "Name", "solver": "Solver", **{one.key: one.title for one in columns}, "written": "Written"}
    order = [el("option", text, value=key) for key, text in keys.items()]
    fields = [
        _field("filter-name", "Name contains", el("input", type="search", id="filter-name", autocomplete="off")),
        _field("filter-solver", "Solver", el("select", *solvers, id="filter-solver")),
        _field("sort-key", "Sort by", el("select", *order, id="sort-key")),
        _field("sort-down", "Largest first", el("input", type="checkbox", id="sort-down")),
    ]
    ranges = []
    for key, text in [*((one.key, one.title) for one in columns), ("written", "Written")]:
        kind = {"type": "date"} if key == "written" else {"type": "number", "step": "any"}
        least = el("input", id=f"least-{key}", aria_label=f"{text}, at least", **kind)
        most = el("input", id=f"most-{key}", aria_label=f"{text}, at most", **kind)
        ranges.append(el("fieldset", el("legend", text), least, " to ", most, class_="range-field"))
    more = el("details", el("summary", "Ranges"), el("div", *ranges, class_="fields"))
    clear = el("button", "Clear filters", type="button", id="clear")
    return el("div", el("div", *fields, clear, class_="fields"), more, id="filters", class_="scripted")


def _field(key: str, text: str, field: Html) -> Html:
    return el("div", el("label", text, for_=key, class_="soft"), field)


def _skipped(names: Sequence[str]) -> Html | None:
    """JSON files that were left out, by name."""
    if not names:
        return None
    items = [el("li", name) for name in names[:_MOST_SKIPPED]]
    more = [el("li", f"and {len(names) - _MOST_SKIPPED} more")] if len(names) > _MOST_SKIPPED else []
    title = el("h2", f"Left out: {len(names)} JSON files that are not sidecars, or cannot be read")
    return el("section", title, el("ul", *items, *more), class_="left-out")
