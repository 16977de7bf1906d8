"""Echo planar imaging (EPI): lines sampled while the readout gradient ramps, in both directions, brought onto the grid.

The position of a sample is the area under the gradient up to its time. Values on the grid follow from the samples by least
squares, for an object inside the field of view that the sparsest samples allow (Bruder et al., MRM 23, 1992, for the problem;
the inverse of a uniform resampling is that of Rosenfeld, MRM 40, 1998). Forward and backward lines differ by delays and eddy
currents, to first order by a phase that is linear along the readout. It is estimated from navigators, lines of both directions
that were measured without phase encoding (Heid, ISMRM 2000, p. 2014), and taken away, half from either direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medrecon.data.coils import from_kspace, to_kspace

__all__ = [
    "REVERSE",
    "Readout",
    "Straightened",
    "direction_phase",
    "off_centre",
    "resampling",
    "sample_points",
    "straightened",
]

REVERSE = 1 << 21
"""ISMRMRD's flag of a line that was measured backwards."""


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
    if not (min(readout[:5]) >= 0 and readout.dwell > 0 and end <= readout.duration + readout.dwell):
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
    if len(points) * n > 2**19:  # 512 samples of a matrix of 1024, whose inverse takes seconds
        raise ValueError(f"its lines have {len(points)} samples in a matrix of {n}, too many for a readout")
    # Two unknowns a pixel stand for objects anywhere; the cut-off leaves out what the samples do not determine.
    x = (np.arange(2 * width) - width + 0.5) / (2 * n)
    waves = np.exp(-2j * np.pi * np.outer(points, x))
    return np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, x)) @ np.linalg.pinv(waves, rcond=3e-2)


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
    return slope * x + np.angle((product * np.exp(-1j * slope * x)).sum())


class Straightened(NamedTuple):
    """Acquisitions after :func:`straightened`.

    Args:
        rows: of ``n`` samples, forward, their centre at ``n // 2``.
        uncorrected: how many lines found no navigators of both directions in their slice.
        noise_gain: standard deviation of the noise after resampling over that before, root mean square over the kept pixels.
    """

    rows: np.ndarray
    uncorrected: int
    noise_gain: float


def _check_middle(head: np.ndarray, points: np.ndarray) -> None:
    """Refuse a line whose header has its centre elsewhere than its gradient.

    Raises:
        ValueError: naming both.
    """
    total, middle = int(head["number_of_samples"]), int(head["center_sample"])
    nearest = np.abs(points).argmin()
    if 0 < middle < total and abs(middle - nearest) > 2:
        raise ValueError(f"sample {middle} is the centre of its lines, but sample {nearest} by the gradient")


def _gridded(
    rows: np.ndarray, readout: Readout | None, n: int, kept: int, field: float, siemens: bool
) -> tuple[list[np.ndarray], float]:
    """K-space ``(coils, n)`` of every row, the most negative k first, and the noise gain."""
    out, known, gain = [], {}, 1.0
    for row in rows:
        head, total = row["head"], int(row["head"]["number_of_samples"])
        backward = bool(int(head["flags"]) & REVERSE)
        before, after = int(head["discard_pre"]), int(head["discard_post"])
        samples = row["data"].view(np.complex64).reshape(-1, total)[:, before : total - after]
        if readout is None:
            if samples.shape[1] != n:
                raise ValueError(f"lines of {samples.shape[1]} samples in a matrix of {n} are partial echoes")
            out.append(samples[:, ::-1] if backward else samples)
            continue
        key = total, before, after
        if key not in known:
            if len(known) == 4:
                raise ValueError("its lines are of more than four kinds")
            points, linear = sample_points(readout, total, n)
            used = slice(before, total - after)
            matrices = resampling(points[used], n, kept), resampling(-points[used], n, kept)
            known[key] = points, linear, used, matrices
            pixels = from_kspace(np.stack(matrices), (1,))[:, n // 2 - kept // 2 :][:, :kept]
            gain = float(np.sqrt((np.abs(pixels) ** 2).sum(axis=2).mean()))
        points, linear, used, matrices = known[key]
        _check_middle(head, points)
        shift = (
            float(np.dot(head["position"].astype(float), head["read_dir"].astype(float))) / field if siemens else 0.0
        )
        factors = off_centre(points, linear, shift)[used]
        out.append((samples * (factors.conj() if backward else factors)) @ matrices[backward].T)
    return out, gain


def _phases(navigators: np.ndarray, kspace: Sequence[np.ndarray]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Of every slice, the phases between directions with the counter of their first navigator, in order of time.

    Navigators that follow each other in the file belong together.
    """
    counters = navigators["head"]["scan_counter"].astype(int)
    slices, reverse = navigators["head"]["idx"]["slice"], (navigators["head"]["flags"] & np.uint64(REVERSE)) > 0
    blocks = np.cumsum(np.diff(counters, prepend=counters[:1]) > 1)
    out: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, block in sorted(set(zip(slices.tolist(), blocks.tolist(), strict=True))):
        mine = np.flatnonzero((slices == number) & (blocks == block))
        phase = direction_phase(np.stack([kspace[k] for k in mine.tolist()]), reverse[mine])
        if phase is not None:
            out.setdefault(number, []).append((int(counters[mine[0]]), phase))
    return out


def straightened(
    rows: np.ndarray, navigators: np.ndarray, readout: Readout | None, n: int, kept: int, field: float, siemens: bool
) -> Straightened:
    """Acquisitions of EPI as if all had been sampled evenly and forward.

    Every line is corrected by the last navigators of its slice before it, or else the first after it.

    Args:
        rows: acquisitions as ISMRMRD has them; ``scan_counter`` is their place in the file.
        navigators: acquisitions without phase encoding.
        readout: the gradient, or ``None`` where samples are even.
        n: encoded samples of the readout.
        kept: of these, the samples that the image keeps.
        field: encoded field of view of the readout, mm.
        siemens: whether ramps need :func:`off_centre`.

    Raises:
        ValueError: if lines do not fit the gradient or the matrix.
    """
    kspace, gain = _gridded(rows, readout, n=n, kept=kept, field=field, siemens=siemens)
    phases = (
        _phases(navigators, _gridded(navigators, readout, n=n, kept=kept, field=field, siemens=siemens)[0])
        if len(navigators)
        else {}
    )
    out, uncorrected = rows.copy(), 0
    for k, (head, line) in enumerate(zip(rows["head"], kspace, strict=True)):
        held = phases.get(int(head["idx"]["slice"]), [])
        if held:
            phase = next((p for at, p in held[::-1] if at < head["scan_counter"]), held[0][1])
            half = 0.5j if int(head["flags"]) & REVERSE else -0.5j
            line = to_kspace(from_kspace(line, (-1,)) * np.exp(half * phase), (-1,))
        uncorrected += not held
        out["data"][k] = np.ascontiguousarray(line, np.complex64).view(np.float32).ravel()
    for name, value in (("number_of_samples", n), ("center_sample", n // 2), ("discard_pre", 0), ("discard_post", 0)):
        out["head"][name] = value
    out["head"]["flags"] &= ~np.uint64(REVERSE)
    return Straightened(out, uncorrected, gain)
