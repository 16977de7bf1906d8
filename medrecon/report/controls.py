"""Controls of a page: radio buttons that work without scripts, and the style rules that belong to them."""

from __future__ import annotations

from collections.abc import Sequence

from medrecon.report.html import Html, el, joined
from medrecon.report.pictures import Plane

__all__ = ["choice", "comparison_controls", "position_rules", "rules", "sample_controls"]

_POSITIONS = (0, 25, 50, 75, 100)
_REGIONS = {
    "top-left": (0, 0), "top": (50, 0), "top-right": (100, 0), "left": (0, 50), "middle": (50, 50), "right": (100, 50),
    "bottom-left": (0, 100), "bottom": (50, 100), "bottom-right": (100, 100),
}  # fmt: skip
"""Regions of the zoom: origin of the scaling, percent."""


def choice(
    name: str, legend: str, options: Sequence[tuple[str, object]], chosen: str, class_: str | None = None
) -> Html:
    """Radio buttons.

    Args:
        name: name of the group; a button has the identifier ``<name>-<key>``.
        legend: heading.
        options: keys and texts.
        chosen: key of the button that is pressed at first.
        class_: class of the group.
    """
    buttons = [
        el("label", el("input", type="radio", name=name, id=f"{name}-{key}", checked=key == chosen), el("span", text))
        for key, text in options
    ]
    return el("fieldset", el("legend", legend), el("div", *buttons, class_="choices"), class_=class_)


def _hidden(text: str) -> Html:
    return el("span", text, style="position:absolute;left:-100rem;border:0;padding:0")


def comparison_controls(planes: Sequence[Plane]) -> Html:
    """Slice, view, the two images, position of the cut, and zoom."""
    compared = [(one.key, one.title) for one in planes[0].of("compare")]
    keys = [key for key, _ in compared]
    groups = []
    if len(planes) > 1:
        middle = str(len(planes) // 2)
        groups.append(choice("plane", "Shown", [(str(k), plane.label) for k, plane in enumerate(planes)], middle))
    if len(compared) > 1:
        views = [("grid", "side by side"), ("slider", "slider"), ("flicker", "flicker")]
        groups.append(choice("view", "View", views, "grid"))
        groups.append(choice("first", "First image", compared, keys[0], "pair"))
        groups.append(choice("second", "Second image", compared, "mean" if keys[0] != "mean" else keys[1], "pair"))
        cuts = [(str(at), f"{at} %") for at in _POSITIONS]
        groups.append(choice("cut", "Cut", cuts, "50", "cut scriptless"))
        slider = el("input", type="range", id="position", min=0, max=100, value=50)
        label = el("label", "Cut between first and second image", for_="position", class_="soft")
        groups.append(el("div", label, slider, class_="range cut scripted"))
    groups.append(choice("zoom", "Zoom", [("1", "1×"), ("2", "2×"), ("4", "4×")], "1"))
    regions = [(key, _hidden(key)) for key in _REGIONS]
    groups.append(choice("region", "Region", regions, "middle", "region"))
    return el("form", *groups, class_="controls", autocomplete="off")


def sample_controls() -> Html:
    """Samples side by side, or one after another."""
    views = [("grid", "side by side"), ("flicker", "flicker")]
    still = el("p", "Animations are off, as this device asks for reduced motion.", class_="soft still-motion")
    return joined(
        [el("form", choice("samples", "Samples", views, "grid"), class_="controls", autocomplete="off"), still]
    )


def position_rules() -> str:
    """Style rules of the cut without scripts, and of the regions of the zoom."""
    out = [f"body:has(#cut-{at}:checked){{--position:{at}%}}" for at in _POSITIONS]
    out += [f"body:has(#region-{key}:checked){{--x:{x}%;--y:{y}%}}" for key, (x, y) in _REGIONS.items()]
    return "".join(out)


def rules(planes: Sequence[Plane]) -> str:
    """Style rules that depend on the planes, images and samples of a page."""
    out = [position_rules()]
    for k in range(len(planes) if len(planes) > 1 else 0):
        out.append(f'body:has(#plane-{k}:checked) .plane:not([data-plane="{k}"]){{display:none}}')
    both, slider, flicker = (
        ":has(#view-slider:checked,#view-flicker:checked)", ":has(#view-slider:checked)", ":has(#view-flicker:checked)",
    )  # fmt: skip
    for one in planes[0].of("compare"):
        first, second, at = (
            f":has(#first-{one.key}:checked)",
            f":has(#second-{one.key}:checked)",
            f".compare>.k-{one.key}",
        )
        out.append(f"body{both}{first} {at}{{visibility:visible}}")
        out.append(f"body{both}{second} {at}{{visibility:visible;z-index:2}}")
        out.append(f"body{both}{second} {at}>figcaption{{justify-content:flex-end}}")
        out.append(f"body{slider}{second} {at} .frame{{clip-path:inset(0 0 0 var(--position));background:none}}")
        out.append(f"body{flicker}{second} {at}{{animation:flicker 1.2s infinite}}")
    samples = planes[0].of("sample")
    if samples:
        seconds = 0.5
        out.append(f":root{{--cycle:{len(samples) * seconds}s}}")
        out += [f".k-{one.key}{{--delay:{k * seconds}s}}" for k, one in enumerate(samples)]
    share = 100 / max(len(samples), 1)
    animation = f"@keyframes sample{{0%{{opacity:1}}{share:.4f}%{{opacity:0}}100%{{opacity:0}}}}"
    return f"@media screen{{{''.join(out)}}}{animation if samples else ''}"
