"""The sections of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medrecon.report.case import MOST_SHOWN, Case
from medrecon.report.controls import comparison_controls, sample_controls
from medrecon.report.html import Html, el, joined, table
from medrecon.report.images import encoded, grey, mosaic, thumbnail
from medrecon.report.methods import methods, number
from medrecon.report.pictures import Plane, Scales, figure, name_of_image, spread_word, thumbnails
from medrecon.report.plots import residual_plot

__all__ = [
    "data",
    "images",
    "inputs",
    "methods_section",
    "metrics",
    "motion",
    "provenance",
    "summary",
    "uncertainty",
    "volume",
    "warnings",
]  # fmt: skip

_LARGE_NULL = 0.01
"""Fraction of the energy of the image that was not measured from which a page says so prominently: a tenth of the amplitude."""


def section(identifier: str, title: str, *children: object) -> Html:
    """A section with its heading."""
    heading = el("h2", title, id=f"{identifier}-title")
    return el("section", heading, *children, id=identifier, aria_labelledby=f"{identifier}-title")


def warnings(case: Case) -> Html:
    """Warnings of the run, a failed self-test among them; that there are none is stated as well."""
    texts = [str(text) for text in case.record.get("warnings") or []]
    test = case.facts.get("self_test")
    if isinstance(test, Mapping) and test.get("agrees") is False:
        texts.append(f"Self-test: {test.get('text', 'no result')}.")
    if not texts:
        return section("warnings", "Warnings", el("p", "None.", class_="fine"))
    return section("warnings", "Warnings", el("div", el("ul", *(el("li", text) for text in texts)), class_="note"))


def _fact(name: str, value: object, note: str | None = None) -> Html:
    return el("div", el("dt", name), el("dd", value, el("small", note) if note else None))


def _residual_note(ratio: float | None) -> str:
    if ratio is None:
        return "unknown noise, or not weighted by it"
    if ratio > 1.5:
        return "the image does not explain the data"
    if ratio < 0.8:
        return "the image reproduces the noise"
    return "explains the data as well as noise allows"


def summary(case: Case) -> Html:
    """The main numbers."""
    record = case.record
    ratio = record.get("residual_over_noise")
    facts = [_fact("Residual over noise", "unknown" if ratio is None else f"{ratio:.3g}", _residual_note(ratio))]
    if record.get("acceleration") is not None:
        facts.append(_fact("Acceleration", f"{record['acceleration']:.3g}"))
    facts.append(_fact("Solver", str((record.get("solver") or {}).get("name")), _steps(record)))
    facts.append(
        _fact("Samples", number(record.get("samples", 1)), spread_word(case) + " shown below" if case.maps else None)
    )
    if isinstance(case.facts.get("null_energy"), int | float):
        facts.append(_fact("Not measured", f"{100 * case.facts['null_energy']:.3g} %", "of the energy of the image"))
    shape = " × ".join(map(str, case.image.shape[::-1]))
    spacing = case.geometry.spacing
    size = None if spacing is None else " × ".join(f"{one:.3g}" for one in spacing[::-1]) + " mm"
    facts.append(_fact("Matrix (x, y, slice)" if not case.has_frames else "Matrix (x, y, frame)", shape, size))
    scores = case.metrics.get("image", {})
    if "psnr" in scores:
        facts.append(
            _fact("PSNR", f"{scores['psnr']:.2f} dB", f"SSIM {scores['ssim']:.3f}" if "ssim" in scores else None)
        )
    facts.append(
        _fact("Time", f"{record['seconds']:.3g} s" if "seconds" in record else "unknown", str(record.get("device", "")))
    )
    return section("summary", "Summary", el("dl", *facts, class_="facts"))


def _steps(record: Mapping[str, Any]) -> str:
    bundle = record.get("bundle")
    return f"{record.get('steps')} steps, prior {bundle.get('name')}" if bundle else "no learned prior"


def _grids(case: Case, planes: Sequence[Plane], group: str, class_: str) -> Html:
    """The pictures of a group, plane by plane; a choice at the top of the page shows one plane at a time."""
    blocks = []
    for k, plane in enumerate(planes):
        pictures = [figure(case, plane, one) for one in plane.of(group)]
        heading = el("h3", plane.label) if len(planes) > 1 else None
        blocks.append(
            el("div", heading, el("div", *pictures, class_=f"pictures {class_}"), class_="plane", data_plane=k)
        )
    return el("div", *blocks, class_="pannable")


def legend(title: str, low: str, high: str, kind: str = "") -> Html:
    """A bar with the values at its ends."""
    bar = el("span", class_=f"bar {kind}".strip(), role="img", aria_label=f"{title}: from {low} to {high}")
    return el("div", el("b", title), el("span", low), bar, el("span", high), class_="legend")


def _text(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".strip()


def _orientation(case: Case) -> str:
    if case.geometry.affine is None:
        return "The position in the patient is unknown, so that the edges have no letters."
    return (
        "Letters at the edges: R right, L left, A anterior, P posterior, S superior, I inferior of the patient; a second letter "
        "is given for oblique slices."
    )


def images(case: Case, planes: Sequence[Plane], ends: Scales) -> Html:
    """Zero-filled, classical and posterior images and the reference in one window, and error maps."""
    low, high = (_text(value, case.unit) for value in ends.window)
    shown = "" if len(planes) == len(case.image) else f" Shown are {len(planes)} of {len(case.image)} planes."
    parts: list[object] = [comparison_controls(planes), _grids(case, planes, "compare", "compare")]
    parts.append(el("div", legend("Window of all images", low, high), class_="legends"))
    parts.append(el("p", f"{_orientation(case)} {_compression(planes[0])}{shown}", class_="soft"))
    if case.zero_filled is None and case.classical is None:
        parts.append(el("p", _how_to_add("zero-filled and classical images"), class_="soft"))
    elif case.classical is not None:
        settings = ", ".join(f"{key} = {number(value)}" for key, value in case.classical.settings.items())
        parts.append(el("p", f"Settings of {case.classical.name}: {settings}.", class_="soft"))
    if case.reference is not None:
        parts += [el("h3", "Absolute error"), _grids(case, planes, "error", "errors")]
        bar = legend("Absolute error", _text(0, case.unit), f"≥ {_text(ends.error, case.unit)}")
        about = f"Reference: {case.reference_name}." if case.reference_name else ""
        parts += [el("div", bar, class_="legends"), el("p", about, class_="soft") if about else None]
    else:
        parts.append(
            el("p", "There is no reference, so that errors are unknown. Add one with --reference.", class_="soft")
        )
    return section("images", "Images", *parts)


def _compression(plane: Plane) -> str:
    """How the pictures are compressed."""
    if not plane.lossy:
        return "Pictures have 8 bits and are compressed without loss (WebP)."
    if "compare" in plane.lossy:
        return "Pictures have 8 bits and, since they are large, are compressed with loss (WebP)."
    names = {"sample": "samples", "error": "errors", "map": "maps"}
    lossy = " and ".join(names[group] for group in plane.lossy)
    return f"Pictures have 8 bits; these are compressed without loss (WebP), {lossy} with loss."


def _how_to_add(what: str) -> str:
    return f"To add {what}, run medrecon report with --scan and the file of the scan."


def _flags_text(case: Case) -> str:
    """What flags mark, and their fraction: that of the record, of pixels in which samples can differ, if it is there."""
    share = case.facts.get("flagged_fraction")
    where = "the pixels in which samples can differ"
    if not isinstance(share, int | float):
        share, where = float(np.mean(np.asarray(case.maps["flags"]) > 0)), "all pixels"
    return f"Flags (white) mark where samples disagree on what was not measured: {100 * share:.2g} % of {where}."


def _null_text(case: Case) -> Html:
    """What the samples cannot show, prominently where much of the image was not measured."""
    energy = case.facts.get("null_energy")
    known = isinstance(energy, int | float)
    sentence = (
        "What all samples share and the data never measured is the prior's word: the samples agree there whether it is right or "
        "wrong, and no map of their spread can flag it."
    )
    if known and energy > _LARGE_NULL:
        share = f"{100 * energy:.3g} % of the energy of this image was not measured. "
        return el("p", el("strong", share), sentence, class_="note")
    share = f" Here {100 * energy:.2g} % of the energy of the image was not measured." if known else ""
    return el("p", sentence + share)


def _meaning(case: Case) -> str:
    """What the standard deviation means."""
    calibration = case.record.get("calibration")
    if not case.is_calibrated:
        return (
            "The standard deviation of the samples is not calibrated for these settings: it shows where samples differ, not how "
            "wrong the image may be."
        )
    if isinstance(calibration, Mapping):
        images, source = number(calibration.get("images")), number(calibration.get("source"))
        return (
            f"The standard deviation is an uncertainty: that of the samples, times a factor from {images} images with references "
            f"({source}). For new images like these, image ± standard deviation contains 68 % of the pixels on average. It says "
            "less about a single pixel, and nothing about other kinds of images."
        )
    return (
        "The standard deviation is an uncertainty as far as the prior is right: with these settings, the solver gives samples "
        "the spread of the posterior. It has not been compared with errors."
    )


def uncertainty(case: Case, planes: Sequence[Plane], ends: Scales) -> Html | None:
    """Spread of the samples as transparency, flags, the part that was not measured, and the samples."""
    if not case.maps and case.samples is None:
        return None
    word = spread_word(case)
    parts: list[object] = [el("p", _meaning(case))]
    if any(plane.of("map") for plane in planes):
        parts.append(_grids(case, planes, "map", "maps"))
    bars = []
    if any(name in case.maps for name in ("std", "spread")):
        high = f"≥ {_text(ends.spread, case.unit)}"
        bars += [legend(f"{word.capitalize()} as transparency", _text(0, case.unit), high, "fade")]
        bars += [legend(f"{word.capitalize()} (one standard deviation)", _text(0, case.unit), high)]
    if "null" in case.maps:
        bars.append(legend("Part that was not measured", _text(0, case.unit), f"≥ {_text(ends.null, case.unit)}"))
    parts.append(el("div", *bars, class_="legends") if bars else None)
    if "flags" in case.maps:
        parts.append(el("p", _flags_text(case)))
    if "null" in case.maps or "null_energy" in case.facts:
        parts.append(_null_text(case))
    if any(plane.of("sample") for plane in planes):
        total = case.record.get("samples", 0)
        count = len(planes[0].of("sample"))
        note = f" The first {count} of {total} are shown." if total > count else ""
        parts += [el("h3", "Samples"), sample_controls(), _grids(case, planes, "sample", "samples")]
        parts.append(el("p", f"Samples in the window of the images.{note}", class_="soft"))
    return section("uncertainty", word.capitalize(), *parts)


def volume(case: Case, ends: Scales, view: str = "") -> Html | None:
    """All planes as thumbnails, which a view of the volume replaces where the browser supports it."""
    made = thumbnails(case, ends)
    if made is None:
        return None
    source, width, height = made
    what = "frames" if case.has_frames else "slices"
    first, last = case.labels[0], case.labels[-1]
    picture = el(
        "img",
        src=source,
        alt=f"Thumbnails of all {len(case.image)} {what}, row by row, from {first} to {last}",
        width=width,
        height=height,
    )
    caption = el(
        "figcaption",
        f"All {len(case.image)} {what}, row by row, from {first} to {last} (reduced, compressed with loss).",
    )
    place = el("div", el("figure", picture, caption, class_="mosaic", id="volume-static"), Html(view), id="volume")
    return section("volume-section", "Volume" if case.is_volume else f"All {what}", place)


# Inputs


def _still(array: np.ndarray, title: str, alt: str, sharp: bool = False) -> Html:
    height, width = array.shape
    picture = el(
        "img", src=encoded(array), alt=alt, width=width, height=height, class_="still sharp" if sharp else "still",
        style=f"width:{min(max(width, 220), 480)}px",
    )  # fmt: skip
    return el("figure", picture, el("figcaption", title))


def _with_box(mask: np.ndarray, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """A mask as an image with the calibration region in grey."""
    out = np.where(mask, 255, 0).astype(np.uint8)
    if box is not None:
        y0, y1, x0, x1 = box
        part = out[y0:y1, x0:x1]
        part[part > 0] = 150
    return out


def _inputs(case: Case) -> list[Html]:
    given = case.inputs
    if given is None:
        return []
    out = []
    if given.kspace is not None:
        title = "k-space: logarithm of the magnitude, root of the sum of squares over coils"
        out.append(_still(grey(thumbnail(grey(given.kspace, 0, 1), 384), 0, 255), title, "Measured k-space"))
    if given.mask is not None:
        sampled = f"{100 * float(np.mean(given.mask)):.3g} %"
        box = given.acs
        region = "" if box is None else f"; grey: calibration region, {box[1] - box[0]} × {box[3] - box[2]} (y × x)"
        title = f"sampling mask: {sampled} of the positions{region}"
        out.append(_still(_with_box(given.mask, box), title, f"Sampling mask, {sampled} sampled", sharp=True))
    if given.trajectory is not None:
        out.append(_still(given.trajectory, "trajectory in k-space (part of its points)", "Points of the trajectory"))
    if given.sinogram is not None:
        low, high = (float(one) for one in np.percentile(given.sinogram, (0.5, 99.5)))
        title = f"sinogram: line integrals, views × detector pixels, {low:.3g} (black) to {high:.3g} (white)"
        out.append(_still(thumbnail(grey(given.sinogram, low, high), 512), title, "Sinogram"))
    if given.image is not None:
        out.append(_still(thumbnail(grey(given.image, *case.window), 512), "image that was processed", "Input image"))
    if given.coil_maps is not None:
        maps = [thumbnail(grey(one, 0, max(float(given.coil_maps.max()), 1e-12)), 96) for one in given.coil_maps[:16]]
        more = f" (first 16 of {len(given.coil_maps)})" if len(given.coil_maps) > 16 else ""
        title = f"coil sensitivities{more}: magnitude, black 0, white {float(given.coil_maps.max()):.3g}"
        out.append(_still(mosaic(maps, min(4, len(maps))), title, f"Magnitude of {len(maps)} coil sensitivities"))
    return out


def inputs(case: Case) -> Html:
    """What went in."""
    record = case.record
    pictures = _inputs(case)
    plane = case.labels[case.inputs.plane] if case.inputs is not None else ""
    content = (
        el("div", *pictures, class_="pictures")
        if pictures
        else el("p", _how_to_add("pictures of the data"), class_="soft")
    )
    note = el("p", f"Of {plane}.", class_="soft") if pictures and len(case.image) > 1 else None
    names = (
        "input", "noise_std", "noise_source", "noise_model", "acceleration", "maps_source", "map_sets", "coil_images", "whitened",
        "virtual_coils", "frames", "frame_axis", "shots", "readout", "views", "detectors", "detector_spacing_mm", "offset_pixels",
        "photons", "water_per_mm", "spacing_mm", "beam", "task", "factor", "kernel", "blur", "region",
    )  # fmt: skip
    rows = [(name, el("span", number(record[name]), class_="mono")) for name in names if name in record]
    details = table(("field", "value"), rows, "Data, as recorded in the sidecar") if rows else None
    return section("inputs", "What went in", content, note, details)


def _self_test(case: Case) -> list[Html]:
    """Whether the samples scatter in the measured data as the noise does."""
    test = case.facts.get("self_test")
    if not isinstance(test, Mapping):
        return []
    text = el("p", f"Self-test: {test.get('text', 'no result')}.")
    notable = test.get("agrees") is False
    rows = [
        (key.replace("_", " "), number(test[key]))
        for key in ("residual_over_noise", "spread_over_noise")
        if key in test
    ]
    names = ("samples in the measured data", "value")
    return [
        el("h3", "Self-test"),
        el("div", text, class_="note") if notable else text,
        table(names, rows) if rows else Html(),
    ]


def data(case: Case) -> Html:
    """Residual per noise level against the noise, and the self-test."""
    record = case.record
    ratio = record.get("residual_over_noise")
    text = (
        "The residual of the final image over the noise is unknown, since the noise level is unknown or the solver does not "
        "weight the data by it."
        if ratio is None
        else f"The residual of the final image is {ratio:.3g} times the noise: {_residual_note(ratio)}."
    )
    parts: list[object] = [el("p", text)]
    levels = record.get("residual_by_level") or []
    plot = residual_plot(levels)
    if plot is not None:
        rows = [(f"{sigma:.4g}", f"{value:.4g}") for sigma, value in levels]
        numbers = el("details", el("summary", "Numbers"), table(("noise level", "residual over noise"), rows))
        about = "Residual of the clean estimate, over the noise of the data, at every noise level of the first sample."
        parts += [el("figure", plot, el("figcaption", about)), numbers]
    else:
        parts.append(
            el("p", "The residual per noise level is not recorded; runs with --report record it.", class_="soft")
        )
    parts += _self_test(case)
    return section("data", "Agreement with the data", *parts)


def motion(case: Case) -> Html | None:
    """Motion of every shot in the shown slices; ``None`` where it was not estimated."""
    found = case.record.get("motion")
    if not isinstance(found, Mapping) or not found.get("slices"):
        return None
    unit = "pixels" if found.get("shift_mm") is None else "mm"
    parts: list[object] = [
        el(
            "p",
            "Rotation (positive: from x towards negative y) and shift (positive: towards higher indices) of the object "
            f"in every shot, relative to shot {found['reference_shot']}, whose pose the image has.",
        )
    ]
    each = zip(found["slices"], found["angle_degrees"], found[f"shift_{unit}"], strict=True)
    for k, (number_of_slice, angles, shifts) in enumerate(each):
        if k >= MOST_SHOWN:
            parts.append(el("p", f"{len(found['slices']) - k} more slices are in the sidecar.", class_="soft"))
            break
        rows = [
            (str(shot), f"{angle:.2f}", f"{y:.2f}", f"{x:.2f}")
            for shot, (angle, (y, x)) in enumerate(zip(angles, shifts, strict=True))
        ]
        names = ("shot", "rotation (degrees)", f"shift along y ({unit})", f"shift along x ({unit})")
        parts.append(el("details", el("summary", f"Slice {number_of_slice}"), table(names, rows), open=k == 0 or None))
    return section("motion", "Motion between shots", *parts)


def metrics(case: Case) -> Html | None:
    """Scores against the reference."""
    if not case.metrics:
        return None
    names = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "nmse": "NMSE",
        "rmse": f"RMSE{f' ({case.unit})' if case.unit else ''}",
    }
    keys = [key for key in names if any(key in scores for scores in case.metrics.values())]
    rows = []
    for title, scores in case.metrics.items():
        label = name_of_image(case) if title == "image" else title
        rows.append((label, *(f"{scores[key]:.4g}" if key in scores else "" for key in keys)))
    return section(
        "metrics", "Metrics", table(("image", *(names[key] for key in keys)), rows, "Scores against the reference")
    )


def methods_section(case: Case) -> Html:
    """Methods paragraph and papers."""
    classical = case.classical.name if case.classical is not None else None
    return section("methods", "Methods", methods(case.record, classical))


def provenance(case: Case) -> Html:
    """Command, versions, hashes, seed and device."""
    record = case.record
    if case.command is None:
        how = el("p", "The options of this run are not recorded, or were given in Python.", class_="soft")
    else:
        how = joined([el("pre", el("code", case.command)), el("p", "Names of folders are left out.", class_="soft")])
    bundle = record.get("bundle") or {}
    rows: list[tuple[str, object]] = [("input", record.get("input", "unknown")), ("seed", number(record.get("seed")))]
    rows += [("device", f"{record.get('device')}, network in {record.get('network_dtype')}")]
    rows += [(f"version of {name}", str(value)) for name, value in (record.get("versions") or {}).items()]
    if bundle:
        rows += [
            ("prior", f"{bundle.get('name')} {bundle.get('version')}"),
            ("SHA-256 of the weights", bundle.get("weights_sha256")),
        ]
    rows += [(f"SHA-256 of {name}", digest) for name, digest in (record.get("sha256") or {}).items()]
    if record.get("request_sha256"):
        rows.append(("SHA-256 of options and inputs", record["request_sha256"]))
    cells = [(name, el("span", str(value), class_="mono")) for name, value in rows]
    sidecar = json.dumps(record, indent=2, default=str)
    sidecar = sidecar if len(sidecar) < 60_000 else sidecar[:60_000] + "\n… (shortened)"
    whole = el(
        "details", el("summary", "Whole record (sidecar)"), el("pre", el("code", sidecar), tabindex=0), class_="screen"
    )
    parts = [el("h3", "Command"), how, el("h3", "Versions and checksums"), table(("", "value"), cells), whole]
    return section("provenance", "Provenance", *parts)
