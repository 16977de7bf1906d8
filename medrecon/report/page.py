"""The page of a case: one HTML file that loads nothing and works without scripts."""

from __future__ import annotations

from importlib import resources, util

from medrecon.report import sections
from medrecon.report.case import Case
from medrecon.report.controls import rules
from medrecon.report.html import Html, document, el, joined, link
from medrecon.report.pictures import planes, scales

__all__ = ["page"]


def _resource(name: str) -> str:
    return resources.files("medrecon.report").joinpath(name).read_text(encoding="utf-8")


def _viewer(case: Case) -> str:
    """The view of a volume, where it is installed."""
    if not case.is_volume or util.find_spec("medrecon.report.viewer") is None:
        return ""
    from medrecon.report.viewer import volume_view

    return volume_view(case)


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
    parts = {
        "Warnings": sections.warnings(case),
        "Summary": sections.summary(case),
        "Images": sections.images(case, shown, ends),
        "Uncertainty" if case.is_calibrated else "Spread": sections.uncertainty(case, shown, ends),
        "Volume": sections.volume(case, ends, _viewer(case)),
        "What went in": sections.inputs(case),
        "Agreement with the data": sections.data(case),
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
    return document(f"{case.name}: medrecon report", body, _resource("page.css") + rules(shown), _resource("page.js"))
