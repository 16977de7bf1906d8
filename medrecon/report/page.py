"""The page of a case: one HTML file that loads nothing and works without scripts."""

from __future__ import annotations

from importlib import resources

from medrecon.report import sections
from medrecon.report.case import Case
from medrecon.report.controls import rules
from medrecon.report.html import Html, document, el, joined, link
from medrecon.report.pictures import pixel_ratio, planes, scales
from medrecon.report.viewer import SHA256, volume_view

__all__ = ["page"]


def _resource(name: str) -> str:
    return resources.files("medrecon.report").joinpath(name).read_text(encoding="utf-8")


def _viewer(case: Case) -> tuple[str, list[bytes]]:
    """The view of a volume, where there is one, and SHA-256 of the script that it adds."""
    if not case.is_volume:
        return "", []
    return volume_view(case), [bytes.fromhex(SHA256)]


def _ratio(case: Case) -> str:
    """Style rule with width over height of the images."""
    height, width = case.image.shape[1:]
    return f":root{{--ratio:{width * pixel_ratio(case) / height:.4g}}}"


def _header(case: Case, titles: dict[str, str]) -> Html:
    record = case.record
    solver = (record.get("solver") or {}).get("name", "reconstruction")
    words = [case.modality, f"{solver}"]
    if record.get("acceleration") is not None:
        words.append(f"acceleration {record['acceleration']:.3g}")
    samples = record.get("samples", 1)
    words.append(f"{samples} samples" if samples != 1 else "one image")
    links = [el("li", el("a", title, href=f"#{name}")) for name, title in titles.items()]
    return el(
        "header",
        el("a", "Skip to the images", href="#images", class_="skip"),
        el("p", "medrecon, reconstruction report. Research use only.", class_="eyebrow"),
        el("h1", case.name),
        el("p", ", ".join(words), class_="lead"),
        el("nav", el("ul", *links), aria_label="Sections"),
    )


def page(case: Case) -> bytes:
    """The page of a case, UTF-8: at most 3 MB without a view of a volume."""
    ends = scales(case)
    shown = planes(case, ends)
    view, hashes = _viewer(case)
    parts = {
        "Warnings": sections.warnings(case),
        "Summary": sections.summary(case),
        "Images": sections.images(case, shown, ends),
        "Uncertainty" if case.is_calibrated else "Spread": sections.uncertainty(case, shown, ends),
        "Volume": sections.volume(case, ends, view),
        "What went in": sections.inputs(case),
        "Agreement with the data": sections.data(case),
        "Motion": sections.motion(case),
        "Metrics": sections.metrics(case),
        "Methods": sections.methods_section(case),
        "Provenance": sections.provenance(case),
    }
    present = {title: part for title, part in parts.items() if part is not None}
    identifiers = {
        "Volume": "volume-section",
        "What went in": "inputs",
        "Agreement with the data": "data",
        "Spread": "uncertainty",
    }
    titles = {identifiers.get(title, title.lower()): title for title in present}
    if "volume-section" in titles and not case.is_volume:
        titles["volume-section"] = "All frames" if case.has_frames else "All slices"
    end = el("footer", "Written by ", link("medrecon", "https://github.com/medrecon/medrecon"), ". Not for diagnosis.")
    body = joined([_header(case, titles), el("main", *present.values()), end])
    return document(
        f"{case.name}: medrecon report",
        body,
        _resource("page.css") + rules(shown) + _ratio(case),
        _resource("page.js"),
        hashes,
    )
