"""Filtered back-projection: ramp filters, the arcs that views stand for, and interpolated back-projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "FILTERS",
    "Filter",
    "back_project",
    "filter_views",
    "full_turn_arcs",
    "pixel_grid",
    "ramp_filter",
    "view_arcs",
]

Filter = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]
FILTERS: tuple[Filter, ...] = get_args(Filter)


def ramp_filter(n: int, kind: Filter = "ramp") -> np.ndarray:
    """The ramp filter for ``n`` samples of unit spacing times a window, in frequency, ``(n // 2 + 1,)``.

    The transform of samples of the band-limited ramp (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988,
    eq. 3.61). Sampling ``|f|`` in frequency instead would lose the mean of the image.

    Raises:
        ValueError: for an unknown window.
    """
    if kind not in FILTERS:
        raise ValueError(f"unknown filter {kind!r}; choose one of {', '.join(FILTERS)}")
    position = np.fft.fftfreq(n, 1 / n)
    odd = np.abs(position) % 2 == 1
    samples = np.where(odd, -1 / (math.pi * np.where(odd, position, 1.0)) ** 2, 0.0)
    samples[0] = 0.25
    ramp = np.fft.rfft(samples).real
    f = np.fft.rfftfreq(n)
    window = {
        "ramp": np.ones_like(f),
        "shepp-logan": np.sinc(f),
        "cosine": np.cos(math.pi * f),
        "hamming": 0.54 + 0.46 * np.cos(2 * math.pi * f),
        "hann": 0.5 + 0.5 * np.cos(2 * math.pi * f),
    }[kind]
    return ramp * window


def filter_views(y: Tensor, spacing: float, kind: Filter) -> Tensor:
    """Convolve the last axis, whose samples are ``spacing`` apart, with the ramp; zeros outside."""
    size = 2 ** math.ceil(math.log2(2 * y.shape[-1]))
    ramp = torch.from_numpy(ramp_filter(size, kind)).to(y.device, y.dtype)
    return torch.fft.irfft(torch.fft.rfft(y, size) * ramp, size)[..., : y.shape[-1]] / spacing


def view_arcs(angles: Tensor, turn: float, wedge: float = math.inf) -> Tensor:
    """The arc of a ``turn`` that every view stands for: half the distance to each of its neighbours, rad.

    Gaps wider than ``wedge`` (and than three times the median gap) count as missing: they are replaced by the median gap.
    """
    # Views that coincide, such as opposite views of parallel rays, share one arc.
    wrapped = (angles % turn).round(decimals=9) % turn
    ordered, which, counts = wrapped.unique(sorted=True, return_inverse=True, return_counts=True)
    gaps = torch.cat([ordered[1:], ordered[:1] + turn]) - ordered
    median = gaps.median()
    gaps = torch.where(gaps > max(wedge, 3 * float(median)), median, gaps)
    return ((gaps + gaps.roll(1)) / 2 / counts)[which]


def full_turn_arcs(angles: Tensor) -> Tensor:
    """The arcs of views that cover a full turn.

    Raises:
        ValueError: if the views leave a gap of more than a tenth of the turn.
    """
    ordered = (angles % (2 * math.pi)).sort().values
    gap = float((torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered).max())
    if gap > 0.2 * math.pi:
        raise ValueError(
            "filtered back-projection of fan and cone beams needs views over a full turn, but these leave a gap of "
            f"{math.degrees(gap):.0f} degrees; use cg-sense or tv"
        )
    return view_arcs(angles, 2 * math.pi)


def pixel_grid(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """``y`` (up) and ``x`` (right) of every pixel, from the centre, in pixels."""
    y, x = ((n - 1) / 2 - torch.arange(n, device=like.device, dtype=like.dtype) for n in shape)
    return y[:, None], -x[None, :]


_VIEWS_AT_ONCE = 8
"""Views that are back-projected at once: one per thread, in little memory."""


def back_project(
    filtered: Tensor,
    shape: tuple[int, ...],
    geometry: Callable[[slice, Tensor], tuple[Tensor, Tensor, Tensor]],
    angles: Tensor,
) -> Tensor:
    """Sum over the views of their values at every pixel, interpolated linearly; 0 beyond the detector.

    Args:
        filtered: filtered views, ``(*leading, views, v, u)``.
        shape: shape of the image.
        geometry: function of the indices of some views and their angles ``(k, 1, 1)``; returns, for every pixel, the weight, and
            the row and column of the panel that its ray meets, each broadcastable to ``(k, *shape)``.
        angles: angles of all views, rad.
    """
    leading, (nv, nu) = filtered.shape[:-3], filtered.shape[-2:]
    image = filtered.new_zeros(math.prod(leading), *shape)
    panels = filtered.reshape(-1, *filtered.shape[-3:]).transpose(0, 1)
    for first in range(0, len(angles), _VIEWS_AT_ONCE):
        part = slice(first, min(first + _VIEWS_AT_ONCE, len(angles)))
        angle = angles[part].to(filtered).view(-1, *[1] * len(shape))
        weight, row, column = geometry(part, angle)
        # grid_sample counts positions from -1 on the first pixel to 1 on the last.
        positions = torch.stack(
            torch.broadcast_tensors(2 * column / max(nu - 1, 1) - 1, 2 * row / max(nv - 1, 1) - 1), dim=-1
        ).expand(len(angle), *shape, 2)
        values = F.grid_sample(panels[part], positions.reshape(len(angle), -1, shape[-1], 2), align_corners=True)
        image += (weight[:, None] * values.view(len(angle), -1, *shape)).sum(0)
    return image.view(*leading, *shape)
