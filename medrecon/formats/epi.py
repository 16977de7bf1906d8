"""Echo planar imaging (EPI): resampling of ramp-sampled lines to the grid, and phase correction of the two readout directions.

The k-space position of a sample is the area under the gradient up to its time. Grid values are the least-squares solution for an
object inside the field of view supported by the sparsest samples (Bruder et al., MRM 23, 1992, for the problem; Rosenfeld, MRM
40, 1998, for the inverse of uniform resampling). Delays and eddy currents make forward and backward lines differ, to first order
by a phase that is linear along the readout. The phase is estimated from navigators, lines measured in both directions without
phase encoding (Heid, ISMRM 2000, p. 2014), and half of it is removed from each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medrecon.data.coils import from_kspace, to_kspace

__all__ = [
    "REVERSE",
    "CorrectedLines",
    "Readout",
    "correct_epi",
    "direction_phase",
    "off_centre",
    "resampling_matrix",
    "sample_points",
]

REVERSE = 1 << 21
"""ISMRMRD flag of a line that was measured backwards."""


class Readout(NamedTuple):
    """Readout gradient of a line and its sampling; times in microseconds.

    Args:
        ramp_up: duration of the ramp up.
        flat_top: duration of the constant part.
        ramp_down: duration of the ramp down.
        delay: time from the start of the gradient to the start of the first sample.
        dwell: duration of a sample.
        sinusoidal: whether the ramps are quarters of a sine instead of linear.
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
    """Area under a ramp of height 1 from its start to ``t``, which is limited to ``duration``."""
    if duration == 0:
        return np.zeros_like(t)
    t = np.clip(t, 0, duration) / duration
    return duration * (2 / np.pi * (1 - np.cos(np.pi / 2 * t)) if sinusoidal else t**2 / 2)


def _area(readout: Readout, t: np.ndarray) -> np.ndarray:
    """Area under the gradient of height 1 from its start to the times ``t``."""
    up, flat, down, *_, sinusoidal = readout
    left = _ramp_area(np.asarray(readout.duration - t), down, sinusoidal)
    whole = _ramp_area(np.asarray(down), down, sinusoidal)
    return _ramp_area(np.asarray(t), up, sinusoidal) + np.clip(t - up, 0, flat) + whole - left


def sample_points(readout: Readout, samples: int, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """K-space positions of the samples of a forward line, and positions for a gradient that is always at its maximum.

    Both are 0 at the time when half the area under the gradient is reached.

    Args:
        readout: readout gradient of the line.
        samples: number of samples.
        extent: k-space extent covered by all samples in cycles per field of view, the size of the encoded matrix.

    Returns:
        Two arrays ``(samples,)`` in cycles per field of view.

    Raises:
        ValueError: if the sampling is longer than the gradient.
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


def resampling_matrix(points: np.ndarray, n: int, image_size: int) -> np.ndarray:
    """Matrix ``(n, samples)`` that maps samples at ``points`` to the grid, whose centre is at ``n // 2``.

    Args:
        points: k-space positions in cycles per field of view, in the order of the samples.
        n: size of the grid.
        image_size: size of the central part of the image that is kept.

    Raises:
        ValueError: if the samples are too sparse for ``image_size``.
    """
    width = min(n, int(n / np.abs(np.diff(points)).max() + 1e-6))
    if width < image_size:
        raise ValueError(f"its samples are {n / width:.3g} cycles apart, too sparse for {image_size} of {n} pixels")
    if len(points) * n > 2**19:  # 512 samples of a matrix of 1024, whose inverse takes seconds
        raise ValueError(f"its lines have {len(points)} samples in a matrix of {n}, too many for a readout")
    # Two unknowns per pixel represent objects at any position; the cut-off drops components that the samples do not determine.
    x = (np.arange(2 * width) - width + 0.5) / (2 * n)
    waves = np.exp(-2j * np.pi * np.outer(points, x))
    return np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, x)) @ np.linalg.pinv(waves, rcond=3e-2)


def off_centre(points: np.ndarray, linear: np.ndarray, shift: float) -> np.ndarray:
    """Factors ``(samples,)`` that complete the demodulation of a forward line for an off-centre field of view.

    Siemens scanners shift the field of view along the readout by a constant frequency for the maximum of the gradient, which is
    correct on the flat top but too large on the ramps. A point at the shift has samples exp(2 pi i shift points) in the Siemens
    sign convention. The factors of a backward line are the complex conjugates.

    Args:
        points: k-space positions of the samples; see :func:`sample_points`.
        linear: positions assumed by the constant frequency.
        shift: shift along the readout, in fields of view.
    """
    return np.exp(2j * np.pi * shift * (linear - points))


def direction_phase(navigators: np.ndarray, reverse: np.ndarray) -> np.ndarray | None:
    """Linear phase ``(n,)`` of forward relative to backward lines along the readout of the image.

    If both neighbours in time of a navigator have the other direction, it is compared with their mean, since the phase drifts off
    resonance. Of only two navigators, one is compared with the other. All coils share one phase.

    Args:
        navigators: ``(lines, coils, n)`` k-space on the grid in temporal order, the most negative k first.
        reverse: whether a line was measured backwards, ``(lines,)``.

    Returns:
        The phase, or ``None`` without neighbours in different directions.
    """
    lines = from_kspace(navigators, (-1,))
    product = np.zeros(lines.shape[-1], complex)
    for k in range(len(lines)):
        neighbours = [j for j in (k - 1, k + 1) if 0 <= j < len(lines) and reverse[j] != reverse[k]]
        if len(neighbours) == 2 or (neighbours == [k + 1] and len(lines) == 2):
            opposite = lines[neighbours].mean(axis=0)
            forward, backward = (opposite, lines[k]) if reverse[k] else (lines[k], opposite)
            product += (forward * backward.conj()).sum(axis=0)
    if not product.any():
        return None
    x = np.arange(len(product)) - len(product) // 2
    slope = np.angle((product[1:] * product[:-1].conj()).sum())
    return slope * x + np.angle((product * np.exp(-1j * slope * x)).sum())


class CorrectedLines(NamedTuple):
    """Result of :func:`correct_epi`.

    Args:
        rows: acquisitions of ``n`` samples, all forward, with their centre at ``n // 2``.
        uncorrected: number of lines without navigators in both directions in their slice.
        noise_gain: ratio of the noise standard deviations after and before resampling, root mean square over the image.
    """

    rows: np.ndarray
    uncorrected: int
    noise_gain: float


def _check_centre(head: np.ndarray, points: np.ndarray) -> None:
    """Check that the centre of a line in its header agrees with the gradient.

    Raises:
        ValueError: if they differ by more than two samples.
    """
    total, centre = int(head["number_of_samples"]), int(head["center_sample"])
    nearest = np.abs(points).argmin()
    if 0 < centre < total and abs(centre - nearest) > 2:
        raise ValueError(
            f"the centre of its lines is sample {centre} by the header, but sample {nearest} by the gradient"
        )


def _resample(
    rows: np.ndarray, readout: Readout | None, n: int, image_size: int, fov: float, siemens: bool
) -> tuple[list[np.ndarray], float]:
    """K-space ``(coils, n)`` of every row, the most negative k first, and the noise gain."""
    out, cache, gain = [], {}, 1.0
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
        if key not in cache:
            if len(cache) == 4:
                raise ValueError("its lines have more than four combinations of length and discarded samples")
            points, linear = sample_points(readout, total, n)
            used = slice(before, total - after)
            matrices = resampling_matrix(points[used], n, image_size), resampling_matrix(-points[used], n, image_size)
            cache[key] = points, linear, used, matrices
            pixels = from_kspace(np.stack(matrices), (1,))[:, n // 2 - image_size // 2 :][:, :image_size]
            gain = float(np.sqrt((np.abs(pixels) ** 2).sum(axis=2).mean()))
        points, linear, used, matrices = cache[key]
        _check_centre(head, points)
        shift = float(np.dot(head["position"].astype(float), head["read_dir"].astype(float))) / fov if siemens else 0.0
        factors = off_centre(points, linear, shift)[used]
        out.append((samples * (factors.conj() if backward else factors)) @ matrices[backward].T)
    return out, gain


def _phases(navigators: np.ndarray, kspace: Sequence[np.ndarray]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Phases between the directions for every slice, with the counter of their first navigator, in temporal order.

    Consecutive navigators in the file belong together.
    """
    counters = navigators["head"]["scan_counter"].astype(int)
    slices, reverse = navigators["head"]["idx"]["slice"], (navigators["head"]["flags"] & np.uint64(REVERSE)) > 0
    blocks = np.cumsum(np.diff(counters, prepend=counters[:1]) > 1)
    out: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, block in sorted(set(zip(slices.tolist(), blocks.tolist(), strict=True))):
        indices = np.flatnonzero((slices == number) & (blocks == block))
        phase = direction_phase(np.stack([kspace[k] for k in indices.tolist()]), reverse[indices])
        if phase is not None:
            out.setdefault(number, []).append((int(counters[indices[0]]), phase))
    return out


def correct_epi(
    rows: np.ndarray,
    navigators: np.ndarray,
    readout: Readout | None,
    n: int,
    image_size: int,
    fov: float,
    siemens: bool,
) -> CorrectedLines:
    """Resample EPI lines uniformly, flip backward lines and correct the phase between the directions.

    Every line is corrected by the last navigators of its slice before it, or otherwise by the first after it.

    Args:
        rows: ISMRMRD acquisitions; ``scan_counter`` is their position in the file.
        navigators: acquisitions without phase encoding.
        readout: readout gradient, or ``None`` for uniform samples.
        n: number of encoded samples of the readout.
        image_size: number of pixels of the image along the readout, without oversampling.
        fov: encoded field of view along the readout, mm.
        siemens: whether samples on ramps need :func:`off_centre`.

    Raises:
        ValueError: if lines do not fit the gradient or the matrix.
    """
    kspace, gain = _resample(rows, readout, n=n, image_size=image_size, fov=fov, siemens=siemens)
    phases = (
        _phases(navigators, _resample(navigators, readout, n=n, image_size=image_size, fov=fov, siemens=siemens)[0])
        if len(navigators)
        else {}
    )
    out, uncorrected = rows.copy(), 0
    for k, (head, line) in enumerate(zip(rows["head"], kspace, strict=True)):
        candidates = phases.get(int(head["idx"]["slice"]), [])
        if candidates:
            phase = next((p for at, p in candidates[::-1] if at < head["scan_counter"]), candidates[0][1])
            half = 0.5j if int(head["flags"]) & REVERSE else -0.5j
            line = to_kspace(from_kspace(line, (-1,)) * np.exp(half * phase), (-1,))
        uncorrected += not candidates
        out["data"][k] = np.ascontiguousarray(line, np.complex64).view(np.float32).ravel()
    for name, value in (("number_of_samples", n), ("center_sample", n // 2), ("discard_pre", 0), ("discard_post", 0)):
        out["head"][name] = value
    out["head"]["flags"] &= ~np.uint64(REVERSE)
    return CorrectedLines(out, uncorrected, gain)
