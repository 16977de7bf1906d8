"""Non-Cartesian trajectories.

Points are ``(interleaves, samples, 2)`` float32, ``(ky, kx)`` in the order of the image's axes, in cycles per field of view from
-n/2 to n/2, as :class:`medrecon.operators.NUFFT` takes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.data.masks import GOLDEN_ANGLE

__all__ = ["GOLDEN_ANGLE", "TINY_GOLDEN_ANGLE", "echo_planar", "radial", "spiral"]

TINY_GOLDEN_ANGLE = math.pi / ((1 + math.sqrt(5)) / 2 + 6)
"""23.63 degrees, the seventh tiny golden angle: equally uniform, with smaller steps (Wundrak et al., MRM 75, 2016)."""


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")


def radial(
    shape: tuple[int, int], spokes: int, samples: int | None = None, step: float | None = None, first: float = 0.0
) -> Tensor:
    """Spokes through the centre.

    Args:
        shape: shape of the image, ``(y, x)``; if it is not square, spokes end on an ellipse.
        spokes: number of spokes; the Nyquist rate needs ``pi / 2 max(shape)``.
        samples: samples per spoke; ``None``: ``2 max(shape)``, twofold oversampling. The centre is sample ``samples // 2``.
        step: angle between consecutive spokes, rad, e.g. ``GOLDEN_ANGLE``; ``None``: equally spaced over the half circle.
        first: angle of the first spoke from the x axis, rad.

    Raises:
        ValueError: for numbers that are not positive.
    """
    samples = 2 * max(shape) if samples is None else samples
    _check_positive(spokes=spokes, samples=samples)
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
    """Archimedean spirals from the centre outwards, at constant speed (for a square field of view).

    Neighbouring turns of all interleaves together are ``undersampling`` cycles per field of view apart.

    Args:
        shape: shape of the image, ``(y, x)``.
        interleaves: number of rotated spirals.
        samples: samples per spiral; ``None``: enough for steps of at most half a cycle.
        undersampling: distance between turns, cycles per field of view.
        step: angle between consecutive interleaves, rad; ``None``: equally spaced over the circle.

    Raises:
        ValueError: for numbers that are not positive.

    Reference: Meyer et al., MRM 28 (1992).
    """
    _check_positive(interleaves=interleaves, undersampling=undersampling)
    turns = max(shape) / 2 / (interleaves * undersampling)
    # The arc length of r = u max(shape) / 2, theta = turn u, in closed form; inverted by interpolation.
    turn = 2 * math.pi * turns
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    length = max(shape) / 4 * (grid * (1 + (turn * grid) ** 2).sqrt() + torch.asinh(turn * grid) / turn)
    samples = math.ceil(2 * float(length[-1])) + 1 if samples is None else samples
    _check_positive(samples=samples)
    equal = torch.linspace(0, float(length[-1]), samples, dtype=torch.float64)
    after = torch.searchsorted(length, equal).clamp(1, len(grid) - 1)
    fraction = (equal - length[after - 1]) / (length[after] - length[after - 1])
    u = torch.lerp(grid[after - 1], grid[after], fraction).clamp(0, 1)
    angles = torch.arange(interleaves, dtype=torch.float64) * (2 * math.pi / interleaves if step is None else step)
    return _ellipse(0.5 * u[None, :], turn * u[None, :] + angles[:, None], shape)


def echo_planar(shape: tuple[int, int], shots: int = 1, samples: int | None = None, ramp: float = 0.0) -> Tensor:
    """Echo-planar trains along x, with every second line reversed; shot ``s`` has the lines ``s, s + shots, ...``.

    Args:
        shape: shape of the image, ``(y, x)``; one line per row.
        shots: number of echo trains.
        samples: samples per line; ``None``: ``shape[1]``.
        ramp: fraction of the line, 0 to 1, during which the read gradient ramps up or down and points are denser.

    Returns:
        points ``(shots, lines per shot * samples, 2)``.

    Raises:
        ValueError: if the number of lines is not a multiple of the shots, or a number is out of range.

    Reference: Mansfield, J. Phys. C 10 (1977).
    """
    height, width = shape
    samples = width if samples is None else samples
    _check_positive(shots=shots, samples=samples)
    if height % shots or not 0 <= ramp <= 1:
        raise ValueError(
            f"the {height} lines must be a multiple of shots, and ramp in [0, 1]; got {shots} shots and ramp {ramp}"
        )
    # The integral of a trapezoid with ramps up and down of half of ``ramp`` each; the middle sample is the echo.
    t = (torch.arange(samples, dtype=torch.float64) + 0.5 * (samples % 2)) / samples
    ramp_up = ramp / 2
    integral = t - ramp_up / 2
    if ramp_up > 0:
        integral = torch.where(t < ramp_up, t**2 / (2 * ramp_up), integral)
        integral = torch.where(t > 1 - ramp_up, 1 - ramp_up - (1 - t) ** 2 / (2 * ramp_up), integral)
    integral = integral / (1 - ramp_up)
    kx = (integral - 0.5) * width
    ky = torch.arange(height, dtype=torch.float64) - height // 2
    lines = torch.stack([ky[:, None].expand(-1, samples), kx.expand(height, -1)], dim=-1)
    trains = torch.stack([lines[shot::shots] for shot in range(shots)])
    trains[:, 1::2] = trains[:, 1::2].flip(2)
    return trains.flatten(1, 2).float()


def _ellipse(radius: Tensor, angle: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cartesian points from polar coordinates; ``radius`` 0.5 is the edge of the band."""
    return torch.stack([shape[0] * radius * angle.sin(), shape[1] * radius * angle.cos()], dim=-1).float()
