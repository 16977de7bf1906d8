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
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from medrecon.report.case import Case
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
        largest: whether to keep the largest of neighbouring voxels instead of their mean.
    """
    low, high = window
    high = high if high > low else low + 1.0
    factor, limit = 1, max(volume.shape)
    while True:
        scaled = np.nan_to_num(np.clip((_pooled(volume, factor, largest) - low) / (high - low), 0, 1))
        for steps in _STEPS:
            content = _nifti(np.rint(steps * scaled).astype(np.uint8), _pooled_affine(affine, factor), (low, high, steps))
            if len(content) * 4 / 3 <= most or factor >= limit:
                return Quantised(content, factor, steps, low, high)
        factor += 1


def volume_view(case: Case) -> str:
    """The view of a volume, its data and its script, as HTML; empty if the case is not a volume.

    The view is hidden. Its script shows it, and hides the element with the ``id`` :data:`STATIC_ID`, once WebGL 2 has drawn the
    volume.
    """
    if not case.is_volume:
        return ""
    affine = _affine(case)
    volumes = {"vv-image": quantised(case.image, affine, case.window, _IMAGE_BYTES)}
    overlays = {f"vv-{name}": name for name in ("std", "spread", "flags") if name in case.maps}
    for key, name in overlays.items():
        volumes[key] = _overlay(name, case.maps[name], affine)
    image = volumes["vv-image"]
    facts = {
        "oriented": case.geometry.affine is not None,
        "unit": case.unit,
        "size": [-(-n // image.factor) for n in case.image.shape],
        "volumes": [_facts(key, one, overlays.get(key)) for key, one in volumes.items()],
    }
    data = [_block(key, one.text) for key, one in volumes.items()]
    return "\n".join(
        [
            _html(case, image, {key: (name, volumes[key]) for key, name in overlays.items()}),
            f'<script type="application/json" id="vv-facts">{_json(facts)}</script>',
            *data,
            _block("vv-library", base64.b64encode(library()).decode()),
            f"<script>{(_FOLDER / 'viewer.js').read_text()}</script>",
        ]
    )


def _affine(case: Case) -> np.ndarray:
    """The affine; if it is not recorded, one that shows axial slices as they are stored, in the radiological convention."""
    if case.geometry.affine is not None:
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
    return gzip.compress(header.binaryblock + bytes(4) + levels.tobytes(), 9, mtime=0)  # x runs fastest in both orders


def _facts(key: str, volume: Quantised, name: str | None) -> dict[str, Any]:
    """What the script needs of a volume."""
    facts: dict[str, Any] = {"id": key, "low": volume.low, "high": volume.high, "short": "value"}
    if name is not None:
        facts |= {"colour": _COLOURS[name], "short": _SHORT[name], "flags": name == "flags"}
    return facts


def _json(facts: dict[str, Any]) -> str:
    """JSON that cannot end a script element."""
    return json.dumps(facts).replace("<", "\\u003c")


def _block(key: str, text: str) -> str:
    """Data in the page; the type keeps browsers from running it."""
    return f'<script type="application/gzip;base64" id="{key}">{text}</script>'


# The page's part


def _html(case: Case, image: Quantised, overlays: dict[str, tuple[str, Quantised]]) -> str:
    """The stage and its controls."""
    low, high = image.low, image.high
    step = (high - low) / image.steps
    licences = (_FOLDER / "vendor" / "NIIVUE_LICENSES.txt").read_text()
    return f"""<style>{_STYLE}</style>
<section id="volume-view" class="vv" aria-label="View of the volume" hidden>
<div id="vv-stage"><canvas id="vv-canvas" aria-label="Slices through the volume. Arrow keys, page up and page down move the
cross-hair."></canvas></div>
<p id="vv-where" class="vv-note" aria-live="off"></p>
<p class="vv-note">{_convention(case)}</p>
<div class="vv-controls">
<fieldset><legend>Slices</legend>{"".join(_radios())}</fieldset>
<fieldset><legend>Position</legend>
{_slider("vv-x", "left to right" if case.geometry.affine is not None else "first axis")}
{_slider("vv-y", "back to front" if case.geometry.affine is not None else "second axis")}
{_slider("vv-z", "feet to head" if case.geometry.affine is not None else "third axis")}</fieldset>
<fieldset><legend>Window{f", {escape(case.unit)}" if case.unit else ""}</legend>
{_slider("vv-low", "black", (low, high, step, low))}
{_slider("vv-high", "white", (low, high, step, high))}
<button type="button" id="vv-reset">Reset window and zoom</button></fieldset>
{_overlay_controls(case, overlays)}
</div>
<p class="vv-note"><button type="button" id="vv-stills" aria-pressed="false">Still pictures</button></p>
<p class="vv-note">{_resolution(image, overlays)} Shown by NiiVue {VERSION}.</p>
<details class="vv-note"><summary>Licences of the viewer</summary><pre>{escape(licences)}</pre></details>
</section>"""


def _convention(case: Case) -> str:
    if case.geometry.affine is None:
        return "The scan does not record its orientation: axes are those of the file, and left and right are unknown."
    return (
        '<label><input type="checkbox" id="vv-radiological" checked> Radiological convention</label>: the patient’s left is on '
        'the <strong id="vv-side">right</strong> of axial and coronal slices. Letters name the side of the patient: left, right, '
        "anterior, posterior, superior, inferior; of oblique slices, the nearest one."
    )


def _radios() -> Iterator[str]:
    for value, text in {"all": "all three", "axial": "axial", "coronal": "coronal", "sagittal": "sagittal"}.items():
        checked = " checked" if value == "all" else ""
        yield f'<label><input type="radio" name="vv-type" value="{value}"{checked}> {text}</label> '


def _slider(key: str, text: str, values: tuple[float, float, float, float] = (0, 1, 1, 0)) -> str:
    low, high, step, value = values
    shown = f' <output id="{key}-text" for="{key}">{value:.4g}</output>' if key in ("vv-low", "vv-high") else ""
    return (
        f'<label for="{key}">{escape(text)}{shown}</label>'
        f'<input type="range" id="{key}" min="{low!r}" max="{high!r}" step="{step!r}" value="{value!r}">'
    )


def _overlay_controls(case: Case, overlays: dict[str, tuple[str, Quantised]]) -> str:
    """Choice and opacity of the overlay, with a legend of each."""
    if not overlays:
        return ""
    options = "".join(f'<option value="{key}">{escape(MAPS[name])}</option>' for key, (name, _) in overlays.items())
    legends = []
    for key, (name, one) in overlays.items():
        colour = "rgb({},{},{})".format(*_COLOURS[name])
        if name == "flags":
            legend = f'<span class="vv-swatch" style="background:{colour}"></span> flagged'
        else:
            unit = f" {escape(case.unit)}" if case.unit else ""
            ramp = f"background:linear-gradient(to right,transparent,{colour}) #000"
            legend = f'0 <span class="vv-ramp" style="{ramp}"></span> {one.high:.3g}{unit} or more'
        legends.append(f'<p class="vv-note" id="{key}-legend" hidden>{legend}</p>')
    return f"""<fieldset><legend>Overlay</legend><label for="vv-overlay">map</label>
<select id="vv-overlay"><option value="">none</option>{options}</select>
<label for="vv-opacity">opacity <output id="vv-opacity-text" for="vv-opacity">70 %</output></label>
<input type="range" id="vv-opacity" min="0" max="100" step="5" value="70">
{"".join(legends)}</fieldset>"""


def _resolution(image: Quantised, overlays: dict[str, tuple[str, Quantised]]) -> str:
    """What the view leaves out."""
    step = (image.high - image.low) / image.steps
    texts = [f"The view has {image.steps + 1} grey levels, {step:.2g} apart, from {image.low:.4g} to {image.high:.4g}."]
    parts = {"the image": image, **{f"the map “{MAPS[name]}”": one for name, one in overlays.values()}}
    texts += [
        f"To keep the page small, {escape(text)} has voxels {one.factor} times as large along every axis."
        for text, one in parts.items()
        if one.factor > 1
    ]
    return " ".join(texts)


_STYLE = """
.vv{margin:1em 0}
.vv[hidden],.vv [hidden]{display:none}
#vv-stage{height:min(70vh,34rem);background:#000;position:relative;overflow:hidden;border-radius:4px}
#vv-canvas{display:block;outline-offset:-3px}
#vv-canvas:focus-visible{outline:3px solid #56b4e9}
.vv-controls{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:.8em;margin:.8em 0}
.vv fieldset{min-width:0;border:1px solid currentColor;border-radius:4px;padding:.4em .8em .7em}
.vv input[type=range],.vv select{display:block;width:100%;box-sizing:border-box;margin:.2em 0 .6em}
.vv-note{margin:.4em 0;min-height:1.2em;overflow-wrap:anywhere}
.vv pre{white-space:pre-wrap;font-size:.75em}
.vv-ramp,.vv-swatch{display:inline-block;height:.9em;width:8em;vertical-align:middle;border:1px solid currentColor}
.vv-swatch{width:1.4em}
@media (max-width:40rem){#vv-stage{height:75vh}}
@media print{.vv{display:none!important}#volume-static{display:block!important}}
"""
