"""The view of a volume in a page: NiiVue and the volume, inside the page.

``vendor/niivue.umd.js.gz`` is NiiVue's own build, unchanged. To make it again (the npm package, 6.8 MB)::

    npm pack @niivue/niivue@0.69.0
    tar -xzf niivue-niivue-0.69.0.tgz package/dist/niivue.umd.js
    sha256sum package/dist/niivue.umd.js    # SHA256, below
    gzip -9n < package/dist/niivue.umd.js > medrecon/report/vendor/niivue.umd.js.gz
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from medrecon.report.case import Case
from medrecon.report.controls import choice
from medrecon.report.html import Html, el, joined
from medrecon.report.methods import number
from medrecon.uncertainty import MAPS

__all__ = ["SHA256", "STATIC_ID", "VERSION", "library", "quantised", "volume_view"]

VERSION = "0.69.0"
"""Version of NiiVue."""
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""SHA-256 of ``dist/niivue.umd.js`` in the npm package of that version."""
STATIC_ID = "volume-static"
"""The ``id`` of the element with the still pictures, which the view replaces."""

_FOLDER = Path(__file__).parent
_IMAGE_BYTES, _OVERLAY_BYTES = 7_500_000, 1_200_000
"""Largest sizes of the volumes in the page, so that NiiVue, pictures and volumes stay below 12 MB."""
_EFFORT = 5
"""Level of gzip. Higher levels take minutes for noise of few levels, and save 2 %."""
_STEPS = (255, 127, 63)
"""Numbers of steps between the lowest and the highest grey level. Noise, which makes a volume large, hides few levels."""
_COLOURS = {"std": (230, 159, 0), "spread": (230, 159, 0), "flags": (204, 121, 167)}
_SHORT = {"std": "standard deviation", "spread": "spread", "flags": "flags"}


class Quantised(NamedTuple):
    """A volume of at most 256 grey levels as gzipped NIfTI.

    Args:
        content: the file.
        factor: number of voxels, along every axis, that were averaged to one.
        steps: number of grey levels minus one.
        low: value of the lowest level.
        high: value of the highest level.
    """

    content: bytes
    factor: int
    steps: int
    low: float
    high: float

    @property
    def text(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.content).decode()


def library() -> bytes:
    """NiiVue, gzipped."""
    return (_FOLDER / "vendor" / "niivue.umd.js.gz").read_bytes()


def quantised(
    volume: np.ndarray, affine: np.ndarray, window: tuple[float, float], most: int, largest: bool = False
) -> Quantised:
    """Quantise a volume in a window; use fewer levels, and then average neighbouring voxels, until it is small enough.

    Args:
        volume: volume ``(z, y, x)``.
        affine: affine from voxel indices (x, y, z) to mm in RAS.
        window: values of the lowest and the highest level; values beyond are clipped.
        most: largest number of bytes in base64.
        largest: whether the volume is 0 and 1, and the largest of neighbouring voxels is kept instead of their mean.
    """
    low, high = window
    high = high if high > low else low + 1.0
    factor, limit = 1, max(volume.shape)
    while True:
        scaled = np.nan_to_num(np.clip((_pooled(volume, factor, largest) - low) / (high - low), 0, 1))
        for steps in (1,) if largest else _STEPS:
            content = _nifti(
                np.rint(steps * scaled).astype(np.uint8), _pooled_affine(affine, factor), (low, high, steps)
            )
            if len(content) * 4 / 3 <= most or factor >= limit:
                return Quantised(content, factor, steps, low, high)
        factor += 1


def volume_view(case: Case) -> Html:
    """The view of a volume, its data and its script; empty if the case is not a volume.

    The view is hidden. Its script shows it, and hides the element with the ``id`` :data:`STATIC_ID`, once WebGL 2 has drawn the
    volume.
    """
    if not case.is_volume:
        return Html()
    affine = _affine(case)
    volumes = {"vv-image": quantised(case.image, affine, case.window, _IMAGE_BYTES)}
    overlays = {f"vv-{name}": name for name in ("std", "spread", "flags") if name in case.maps}
    for key, name in overlays.items():
        volumes[key] = _overlay(name, case.maps[name], affine)
    image = volumes["vv-image"]
    facts = {
        "oriented": _is_oriented(case),
        "unit": case.unit,
        "size": [-(-n // image.factor) for n in case.image.shape],
        "volumes": [_facts(key, one, overlays.get(key)) for key, one in volumes.items()],
    }
    data = [_block(key, one.text) for key, one in volumes.items()]
    return joined(
        [
            _html(case, image, {key: (name, volumes[key]) for key, name in overlays.items()}),
            Html(f'<script type="application/json" id="vv-facts">{_json(facts)}</script>'),
            *data,
            _block("vv-library", base64.b64encode(library()).decode()),
            Html(f"<script>{(_FOLDER / 'viewer.js').read_text()}</script>"),
        ]
    )


def _is_oriented(case: Case) -> bool:
    """Whether the position in the patient is recorded, by an affine that has an inverse."""
    affine = case.geometry.affine
    return affine is not None and bool(np.isfinite(affine).all()) and bool(np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _affine(case: Case) -> np.ndarray:
    """The affine; if it is not recorded, one that shows axial slices as they are stored, in the radiological convention."""
    if _is_oriented(case):
        return np.asarray(case.geometry.affine, dtype=float)
    z, y, x = case.geometry.spacing or (1.0, 1.0, 1.0)
    return np.diag([-x, -y, z, 1.0])


def _overlay(name: str, values: np.ndarray, affine: np.ndarray) -> Quantised:
    """A map of the samples: flags, or a spread from 0 to its 99.8 % quantile."""
    if name == "flags":
        return quantised(values, affine, (0.0, 1.0), _OVERLAY_BYTES, largest=True)
    positive = values[values > 0]
    top = float(np.percentile(positive, 99.8)) if positive.size else 1.0
    return quantised(values, affine, (0.0, top), _OVERLAY_BYTES)


def _pooled(volume: np.ndarray, factor: int, largest: bool) -> np.ndarray:
    """Means (or maxima) of blocks of ``factor`` voxels along every axis; the last block repeats the edge."""
    volume = np.asarray(volume, dtype=np.float32)
    if factor == 1:
        return volume
    padded = np.pad(volume, [(0, -n % factor) for n in volume.shape], mode="edge")
    z, y, x = (n // factor for n in padded.shape)
    blocks = padded.reshape(z, factor, y, factor, x, factor)
    return blocks.max(axis=(1, 3, 5)) if largest else blocks.mean(axis=(1, 3, 5))


def _pooled_affine(affine: np.ndarray, factor: int) -> np.ndarray:
    """The affine of blocks of voxels: their centres are at ``factor * i + (factor - 1) / 2``."""
    blocks = np.diag([factor, factor, factor, 1.0])
    blocks[:3, 3] = (factor - 1) / 2
    return affine @ blocks


def _nifti(levels: np.ndarray, affine: np.ndarray, scale: tuple[float, float, int]) -> bytes:
    """Gzipped NIfTI of bytes ``(z, y, x)``; the scale is the lowest value, the highest one, and the steps between them."""
    low, high, steps = scale
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(levels.shape[::-1])
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, code=1)
    header.set_slope_inter((high - low) / steps, low)
    header.set_xyzt_units("mm")
    header["cal_min"], header["cal_max"], header["vox_offset"] = low, high, 352
    return gzip.compress(
        header.binaryblock + bytes(4) + levels.tobytes(), _EFFORT, mtime=0
    )  # x runs fastest in both orders


def _facts(key: str, volume: Quantised, name: str | None) -> dict[str, Any]:
    """What the script needs of a volume."""
    facts: dict[str, Any] = {"id": key, "low": volume.low, "high": volume.high, "short": "value"}
    if name is not None:
        facts |= {"colour": _COLOURS[name], "short": _SHORT[name], "flags": name == "flags"}
    return facts


def _json(facts: dict[str, Any]) -> str:
    """JSON that cannot end a script element."""
    return json.dumps(facts).replace("<", "\\u003c")


def _block(key: str, text: str) -> Html:
    """Data in the page; the type keeps browsers from running it."""
    return Html(f'<script type="application/gzip;base64" id="{key}">{text}</script>')


# What the page contains


def _html(case: Case, image: Quantised, overlays: Mapping[str, tuple[str, Quantised]]) -> Html:
    """The stage and its controls, which stay hidden without the script."""
    help_text = "Slices through the volume. Arrow keys, page up and page down move the cross-hair."
    licences = (_FOLDER / "vendor" / "NIIVUE_LICENSES.txt").read_text()
    types = [(name, name) for name in ("axial", "coronal", "sagittal")]
    return el(
        "div",
        Html(f"<style>{_STYLE}</style>"),
        el("div", el("canvas", id="vv-canvas", aria_label=help_text), id="vv-stage", style=_aspect(case)),
        el("p", id="vv-where", class_="vv-where"),
        el(
            "div",
            choice("vv-type", "Slices", [("all", "all three"), *types], "all"),
            *_overlay_controls(overlays),
            class_="controls",
        ),
        *_legends(case, overlays),
        el("p", *_convention(case)),
        el("div", *_sliders(case, image), class_="vv-controls"),
        el("p", _resolution(image, overlays), f" Shown by NiiVue {VERSION}.", class_="soft"),
        el("details", el("summary", "Licences of the viewer"), el("pre", licences)),
        id="volume-view",
        role="group",
        aria_label="View of the volume",
        hidden=True,
    )


def _aspect(case: Case) -> str:
    """Width and height of axial, coronal and sagittal slices in one row."""
    affine = _affine(case)
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * case.image.shape[::-1]
    axes = nib.io_orientation(affine)[:, 0]
    x, y, z = sizes[np.argsort(axes)]
    return f"--row:{(2 * x + y) / max(y, z) / 1.03:.3f}"


def _convention(case: Case) -> Iterator[object]:
    if not _is_oriented(case):
        yield "The scan does not record its orientation: axes are those of the file, and left and right are unknown."
        return
    box = el("input", type="checkbox", id="vv-radiological", checked=True)
    yield el("label", box, " Radiological convention")
    yield joined(
        [": the patient’s left is on the ", el("strong", "right", id="vv-side"), " of axial and coronal slices. "]
    )
    yield "Letters name sides of the patient; of oblique slices, the nearest side."


def _slider(key: str, text: str, values: tuple[float, float, float, float], shown: str | None = None) -> Html:
    """A slider: least and largest value, step, and value."""
    low, high, step, value = values
    output = None if shown is None else el("output", shown, id=f"{key}-text", for_=key)
    label = el("label", text, " ", output, for_=key, class_="soft")
    return el(
        "div", label, el("input", type="range", id=key, min=low, max=high, step=step, value=value), class_="range"
    )


def _sliders(case: Case, image: Quantised) -> Iterator[Html]:
    """Position and window, and the buttons."""
    known = ("Left to right", "Back to front", "Feet to head")
    names = known if _is_oriented(case) else ("First axis", "Second axis", "Third axis")
    for key, name in zip("xyz", names, strict=True):
        yield _slider(f"vv-{key}", name, (0, 1, 1, 0))
    low, high = image.low, image.high
    unit = f", {case.unit}" if case.unit else ""
    for key, name, value in (("vv-low", f"Black{unit}", low), ("vv-high", f"White{unit}", high)):
        yield _slider(key, name, (low, high, (high - low) / image.steps, value), f"{value:.4g}")
    reset = el("button", "Reset window and zoom", type="button", id="vv-reset")
    stills = el("button", "Show thumbnails", type="button", id="vv-stills", aria_pressed="false")
    yield el("div", reset, " ", stills)


def _overlay_controls(overlays: Mapping[str, tuple[str, Quantised]]) -> Iterator[Html]:
    """Choice and opacity of the overlay."""
    if overlays:
        names = [(key, _SHORT[name]) for key, (name, _) in overlays.items()]
        yield choice("vv-overlay", "Overlay", [("none", "none"), *names], "none")
        yield _slider("vv-opacity", "Opacity of the overlay", (0, 100, 5, 70), "70 %")


def _legends(case: Case, overlays: Mapping[str, tuple[str, Quantised]]) -> Iterator[Html]:
    """The legend of each overlay, of which the script shows one."""
    for key, (name, one) in overlays.items():
        colour = "rgb({},{},{})".format(*_COLOURS[name])
        if name == "flags":
            legend = [el("span", style=f"background:{colour}", class_="vv-swatch"), f" {MAPS[name]}"]
        else:
            ramp = f"background:linear-gradient(to right,transparent,{colour}) #000"
            top = f" {number(one.high)}{f' {case.unit}' if case.unit else ''} or more"
            legend = ["0 ", el("span", style=ramp, class_="vv-ramp"), top, f": {MAPS[name]}, as opacity"]
        yield el("p", *legend, id=f"{key}-legend", hidden=True)


def _resolution(image: Quantised, overlays: Mapping[str, tuple[str, Quantised]]) -> str:
    """What the view leaves out."""
    step = (image.high - image.low) / image.steps
    texts = [
        f"The view has {image.steps + 1} grey levels, {number(step)} apart, from {number(image.low)} to {number(image.high)}."
    ]
    parts = {"the image": image, **{f"the map “{MAPS[name]}”": one for name, one in overlays.values()}}
    texts += [
        f"To keep the page small, {text} has voxels {one.factor} times as large along every axis."
        for text, one in parts.items()
        if one.factor > 1
    ]
    return " ".join(texts)


_STYLE = """
#volume-view[hidden],#volume-view [hidden],#volume-static[hidden]{display:none}
#vv-stage{aspect-ratio:var(--row);max-height:80vh;width:100%;background:#000;position:relative;overflow:hidden;border-radius:4px}
#vv-canvas{display:block;outline-offset:-3px}
.vv-where{min-height:1.6em;font-variant-numeric:tabular-nums}
.vv-controls{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:.8rem 1.4rem;margin:.8rem 0}
#volume-view button{font:inherit;font-size:.88rem;color:inherit;background:var(--back);border:1px solid var(--line);
border-radius:5px;padding:.22rem .65rem;min-height:2.2rem;cursor:pointer}
#volume-view button[aria-pressed=true]{background:var(--accent);border-color:var(--accent);color:var(--on-accent)}
.vv-ramp,.vv-swatch{display:inline-block;height:.9em;width:8em;vertical-align:middle;border:1px solid currentColor}
.vv-swatch{width:1.4em}
@media (max-width:40rem){#vv-stage{aspect-ratio:9/10}}
@media print{#volume-view{display:none!important}#volume-static{display:block!important}}
"""
