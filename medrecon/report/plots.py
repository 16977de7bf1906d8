"""Small plots as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medrecon.report.html import Html, el

__all__ = ["residual_plot"]

_WIDTH, _HEIGHT = 640, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 46


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``; between two of them also 2 and 5 times the lower one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    return [t for t in (f * 10.0**p for p in powers for f in factors) if low * 0.999 <= t <= high * 1.001]


def _scale(value: float, low: float, high: float) -> float:
    """Position between ``low`` and ``high`` on a logarithmic axis, 0 to 1."""
    return math.log(value / low) / math.log(high / low)


def residual_plot(levels: Sequence[Sequence[float]]) -> Html | None:
    """Residual of the clean estimate over the noise of the data, by noise level, both on logarithmic axes.

    Args:
        levels: pairs of noise level and ratio, in the order of the run.
    """
    points = [
        (float(pair[0]), float(pair[1]))
        for pair in levels
        if len(pair) == 2 and all(math.isfinite(float(value)) and float(value) > 0 for value in pair)
    ]
    if len(points) < 2:
        return None
    sigmas, ratios = zip(*points, strict=True)
    left, right = max(sigmas) * 1.1, min(sigmas) / 1.1
    low, high = min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.2

    def at(sigma: float, ratio: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * _scale(sigma, left, right)
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * _scale(ratio, low, high)
        return round(x, 1), round(y, 1)

    parts = []
    for tick in _ticks(low, high):
        y = at(left, tick)[1]
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 8, y=y + 4, text_anchor="end"))
    for tick in _ticks(right, left):
        x = at(tick, low)[0]
        parts.append(el("line", x1=x, x2=x, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 5, class_="axis"))
        parts.append(el("text", f"{tick:g}", x=x, y=_HEIGHT - _BOTTOM + 19, text_anchor="middle"))
    y = at(left, 1.0)[1]
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="one"))
    parts.append(el("text", "noise of the data", x=_LEFT + 6, y=y - 5, class_="small"))
    line = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
    parts.append(el("polyline", points=line, class_="curve"))
    parts += [el("circle", cx=x, cy=y, r=2.6, class_="dot") for x, y in (at(*point) for point in points)]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        el("text", "noise level σ (unit scale), from first to last", x=middle, y=_HEIGHT - 6, text_anchor="middle")
    )
    parts.append(
        el(
            "text",
            "residual / noise",
            x=14,
            y=_HEIGHT / 2 - 14,
            text_anchor="middle",
            transform=f"rotate(-90 14 {_HEIGHT / 2 - 14})",
        )
    )
    about = (
        f"Residual over noise: {ratios[0]:.3g} at level {sigmas[0]:.3g}, {ratios[-1]:.3g} at level {sigmas[-1]:.3g}."
    )
    return el("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="plot", role="img", aria_label=about)
