"""Where k-space is sampled, for scans that do not follow a grid.

Points are in cycles per field of view, ``(interleaves, samples, 2)`` float32, ``(ky, kx)`` as the image's axes, within
-n/2 and n/2: what :class:`medrecon.operators.NUFFT` takes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.data.masks import GOLDEN_ANGLE

__all__ = ["GOLDEN_ANGLE", "TINY_GOLDEN_ANGLE", "echo_planar", "radial", "spiral"]

TINY_GOLDEN_ANGLE = math.pi / ((1 + math.sqrt(5)) / 2 + 6)
"""23.63 degrees, the seventh of its kind: as even, with smaller jumps (Wundrak et al., MRM 75, 2016)."""


def _checked(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")


def radial(
    shape: tuple[int, int], spokes: int, samples: int | None = None, step: float | None = None, first: float = 0.0
) -> Tensor:
    """Spokes through the centre.

    Args:
        shape: of the image, ``(y, x)``; a spoke of an oblong field of view ends on its ellipse.
        spokes: number of them; ``pi / 2 max(shape)`` are what Nyquist asks for.
        samples: of a spoke; default ``2 max(shape)``, twofold oversampling. The centre is sample ``samples // 2``.
        step: angle between consecutive spokes in rad, e.g. ``GOLDEN_ANGLE``; default: evenly over the half circle.
        first: angle of the first spoke, from the x axis.

    Raises:
        ValueError: for numbers that are not positive.
    """
    samples = 2 * max(shape) if samples is None else samples
    _checked(spokes=spokes, samples=samples)
    angles = first + torch.arange(spokes, dtype=torch.float64) * (math.pi / spokes if step is None else step)
    along = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    return _ellipse(along[None, :], angles[:, None], shape)


def spiral(
    shape: tuple[int, int],
    interleaves: int = 16,
    samples: int | None = None,
    undersampling: float = 1.0,
    step: float | None = None,
) -> Tensor:
    """Archimedean spirals from the centre outwards, at constant speed (on a square field of view).

    Neighbouring turns are ``undersampling`` cycles per field of view apart, all interleaves together.

    Args:
        shape: of the image, ``(y, x)``.
        interleaves: number of spirals, turned against each other.
        samples: of a spiral; default: enough for steps of at most half a cycle.
        undersampling: distance of the turns.
        step: angle between consecutive interleaves in rad; default: evenly over the circle.

    Raises:
        ValueError: for numbers that are not positive.

    Reference: Meyer et al., MRM 28 (1992).
    """
    _checked(interleaves=interleaves, undersampling=undersampling)
    turns = max(shape) / 2 / (interleaves * undersampling)
    # The arc length of r = way max(shape) / 2, theta = turn way, in closed form; its inverse by interpolation.
    turn = 2 * math.pi * turns
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    length = max(shape) / 4 * (grid * (1 + (turn * grid) ** 2).sqrt() + torch.asinh(turn * grid) / turn)
    samples = math.ceil(2 * float(length[-1])) + 1 if samples is None else samples
    _checked(samples=samples)
    equal = torch.linspace(0, float(length[-1]), samples, dtype=torch.float64)
    after = torch.searchsorted(length, equal).clamp(1, len(grid) - 1)
    share = (equal - length[after - 1]) / (length[after] - length[after - 1])
    way = torch.lerp(grid[after - 1], grid[after], share).clamp(0, 1)
    angles = torch.arange(interleaves, dtype=torch.float64) * (2 * math.pi / interleaves if step is None else step)
    return _ellipse(0.5 * way[None, :], turn * way[None, :] + angles[:, None], shape)


def echo_planar(shape: tuple[int, int], shots: int = 1, samples: int | None = None, ramp: float = 0.0) -> Tensor:
    """Echo trains along x, every other line backwards; shot ``s`` has the lines ``s, s + shots, ...``.

    Args:
        shape: of the image, ``(y, x)``; one line for every row.
        shots: number of echo trains.
        samples: of a line; default ``shape[1]``.
        ramp: share of the line, 0 to 1, in which the read gradient rises and falls and points lie denser.

    Returns:
        ``(shots, lines of a shot * samples, 2)``.

    Raises:
        ValueError: if the shots do not share the lines evenly, or a number is out of its range.

    Reference: Mansfield, J. Phys. C 10 (1977).
    """
    height, width = shape
    samples = width if samples is None else samples
    _checked(shots=shots, samples=samples)
    if height % shots or not 0 <= ramp <= 1:
        raise ValueError(f"shots must divide the {height} lines and ramp lie in [0, 1]; got {shots} and {ramp}")
    # The integral of a trapezoid that rises for half of the ramp, holds, and falls; the middle sample is the echo.
    t = (torch.arange(samples, dtype=torch.float64) + 0.5 * (samples % 2)) / samples
    rise = ramp / 2
    way = t - rise / 2
    if rise > 0:
        way = torch.where(t < rise, t**2 / (2 * rise), way)
        way = torch.where(t > 1 - rise, 1 - rise - (1 - t) ** 2 / (2 * rise), way)
    way = way / (1 - rise)
    kx = (way - 0.5) * width
    ky = torch.arange(height, dtype=torch.float64) - height // 2
    lines = torch.stack([ky[:, None].expand(-1, samples), kx.expand(height, -1)], dim=-1)
    trains = torch.stack([lines[shot::shots] for shot in range(shots)])
    trains[:, 1::2] = trains[:, 1::2].flip(2)
    return trains.flatten(1, 2).float()


def _ellipse(radius: Tensor, angle: Tensor, shape: tuple[int, int]) -> Tensor:
    """Polar points, ``radius`` 0.5 on the edge of the band."""
    return torch.stack([shape[0] * radius * angle.sin(), shape[1] * radius * angle.cos()], dim=-1).float()
