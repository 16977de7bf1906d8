"""Echo planar imaging (EPI): lines sampled while the readout gradient ramps, in both directions, brought onto the grid.

The position of a sample is the area under the gradient up to its time. Values on the grid follow from the samples by least
squares, for an object inside the field of view that the sparsest samples allow (Bruder et al., MRM 23, 1992, for the problem;
the inverse of a uniform resampling is that of Rosenfeld, MRM 40, 1998). Forward and backward lines differ by delays and eddy
currents, to first order by a phase that is linear along the readout. It is estimated from navigators, lines of both directions
that were measured without phase encoding (Heid, ISMRM 2000, p. 2014), and taken away, half from either direction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medrecon.data.coils import from_kspace, to_kspace

__all__ = ["Readout", "direction_phase", "half_phases", "off_centre", "resampling", "sample_points"]


class Readout(NamedTuple):
    """The gradient of one line and its samples, in microseconds.

    Args:
        ramp_up: duration of the ramp up.
        flat_top: duration of the constant part.
        ramp_down: duration of the ramp down.
        delay: from the start of the gradient to the start of the first sample.
        dwell: duration of a sample.
        sinusoidal: ramps are quarters of a sine, not straight.
    """

    ramp_up: float
    flat_top: float
    ramp_down: float
    delay: float
    dwell: float
    sinusoidal: bool = False

    @property
    def duration(self) -> float:
        """Duration of the gradient."""
        return self.ramp_up + self.flat_top + self.ramp_down


def _ramp_area(t: np.ndarray, duration: float, sinusoidal: bool) -> np.ndarray:
    """Area under a ramp of height 1 from its start to ``t``, at most ``duration``."""
    if duration == 0:
        return np.zeros_like(t)
    t = np.clip(t, 0, duration) / duration
    return duration * (2 / np.pi * (1 - np.cos(np.pi / 2 * t)) if sinusoidal else t**2 / 2)


def _area(readout: Readout, t: np.ndarray) -> np.ndarray:
    """Area under the gradient, of height 1, from its start to the times ``t``."""
    up, flat, down, *_, sinusoidal = readout
    left = _ramp_area(np.asarray(readout.duration - t), down, sinusoidal)
    whole = _ramp_area(np.asarray(down), down, sinusoidal)
    return _ramp_area(np.asarray(t), up, sinusoidal) + np.clip(t - up, 0, flat) + whole - left


def sample_points(readout: Readout, samples: int, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a forward line's samples, and those of a gradient that is always at its maximum.

    Both are 0 in the middle of the gradient's area, or of its time.

    Args:
        readout: of the line.
        samples: their number.
        extent: of k-space that all samples cover, cycles per field of view: the size of the encoded matrix.

    Returns:
        two arrays ``(samples,)``, cycles per field of view.

    Raises:
        ValueError: if the samples do not fit under the gradient.
    """
    start, end = readout.delay, readout.delay + samples * readout.dwell
    if min(readout[:5]) < 0 or readout.dwell <= 0 or end > readout.duration + readout.dwell:
        raise ValueError(
            f"{samples} samples of {readout.dwell:g} us after {readout.delay:g} us do not fit under a gradient of "
            f"{readout.duration:g} us"
        )
    edges = _area(readout, np.array([start, end, readout.duration]))
    scale = extent / (edges[1] - edges[0])
    times = start + readout.dwell * (np.arange(samples) + 0.5)
    middle = np.interp(edges[2] / 2, _area(readout, (fine := np.linspace(0, readout.duration, 4097))), fine)
    return scale * (_area(readout, times) - edges[2] / 2), scale * (times - middle)


def resampling(points: np.ndarray, n: int, kept: int) -> np.ndarray:
    """The matrix ``(n, samples)`` from samples at ``points`` to the grid, whose centre is at ``n // 2``.

    Args:
        points: cycles per field of view, in the order of the samples.
        n: size of the grid.
        kept: size of the image in the middle that will be kept.

    Raises:
        ValueError: if the samples are too sparse for ``kept``.
    """
    width = min(n, int(n / np.abs(np.diff(points)).max() + 1e-6))
    if width < kept:
        raise ValueError(f"its samples are {n / width:.3g} cycles apart, too sparse for {kept} of {n} pixels")
    x = (np.arange(width) - width // 2) / n
    waves = np.exp(-2j * np.pi * np.outer(points, x))
    return np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, x)) @ np.linalg.pinv(waves, rcond=1e-2)


def off_centre(points: np.ndarray, linear: np.ndarray, shift: float) -> np.ndarray:
    """Factors ``(samples,)`` of a forward line that complete the demodulation of an image which is off the centre.

    Siemens scanners shift the field of view along the readout by a constant frequency, that of the gradient's maximum: right on
    the flat top, too much on the ramps. A point at the shift has exp(2 pi i shift points) in Siemens' sign convention. Factors of
    a backward line are the complex conjugates.

    Args:
        points: see :func:`sample_points`.
        linear: as the constant frequency assumes them.
        shift: along the readout, in fields of view.
    """
    return np.exp(2j * np.pi * shift * (linear - points))


def direction_phase(navigators: np.ndarray, reverse: np.ndarray) -> np.ndarray | None:
    """Phase ``(n,)`` of forward against backward lines along the readout's image, linear.

    Each navigator is compared with the mean of its neighbours in time, if both have the other direction, since the phase drifts
    off resonance; or else with one of them. The phase is that of all coils.

    Args:
        navigators: ``(lines, coils, n)`` k-space on the grid, in their order of time, the first sample that of most negative k.
        reverse: whether a line was measured backwards, ``(lines,)``.

    Returns:
        ``None`` without neighbours of different directions.
    """
    lines = from_kspace(navigators, (-1,))
    product = np.zeros(lines.shape[-1], complex)
    for k in range(len(lines)):
        beside = [j for j in (k - 1, k + 1) if 0 <= j < len(lines) and reverse[j] != reverse[k]]
        if len(beside) == 2 or (beside == [k + 1] and len(lines) == 2):
            other = lines[beside].mean(axis=0)
            forward, backward = (other, lines[k]) if reverse[k] else (lines[k], other)
            product += (forward * backward.conj()).sum(axis=0)
    if not product.any():
        return None
    x = np.arange(len(product)) - len(product) // 2
    slope = np.angle((product[1:] * product[:-1].conj()).sum())
    line = slope * x + np.angle((product * np.exp(-1j * slope * x)).sum())
    # The slope between neighbours is safe from wraps but noisy: what it leaves is fitted where there is signal.
    weight = np.abs(product)
    left = np.angle(product * np.exp(-1j * line))
    return line + np.polynomial.Polynomial.fit(x, left, 1, w=np.sqrt(weight))(x)


def half_phases(phase: np.ndarray, kspace: np.ndarray, reverse: bool) -> np.ndarray:
    """K-space ``(coils, n)`` of a line without half of the ``phase`` between the directions."""
    return to_kspace(from_kspace(kspace, (-1,)) * np.exp((0.5j if reverse else -0.5j) * phase), (-1,))
