"""Maps of posterior samples: their spread, their quantiles, and what the data did not measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from medrecon.calibration_file import INTERVAL, SIGMA, Calibration
from medrecon.likelihood import Gaussian, Rician, linear_gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.problems.base import Problem, Scaled

__all__ = [
    "FLAG_THRESHOLD",
    "LEAST_NOISE",
    "LEAST_SCATTER",
    "MAPS",
    "MOST_SCATTER",
    "PRIOR_VARIANCE",
    "TOLERANCE",
    "NullSpace",
    "SelfTest",
    "Uncertainty",
    "calibrated_maps",
    "effective_number",
    "interval_coverage",
    "local_spread",
    "map_names",
    "measured_part",
    "noise_of_measured",
    "null_space",
    "pixel_statistics",
    "self_test_facts",
    "uncertainty_facts",
]

FLAG_THRESHOLD = 3.0
"""Spread of what was not measured, over the noise in the image, above which a pixel is flagged: nine tenths of the variance of
the two together. With dds and --posterior nothing of slice A exceeds it at R = 4, 21 % of the head at R = 8
(benchmarks/null_space.py)."""
LEAST_NOISE = 1e-3
"""Least noise level for flags, of images of unit scale: a thousandth of the image, less than a display shows."""
TOLERANCE = 0.2
"""Relative error of the residual over the noise that counts as agreement: noise levels are estimates."""
MOST_SCATTER = 1.1
"""Largest spread of samples in measured directions, over the noise; the noise itself bounds it."""
LEAST_SCATTER = 0.2
"""Least such spread: only a prior that is five times narrower than the noise has less, and then nobody would measure."""
PRIOR_VARIANCE = 0.1
"""Variance of a component of an image of unit scale (0.14 for a head), which decides what counts as measured."""
N_CG = 50
"""Conjugate-gradient iterations of the pseudo-inverse; for eight coils at R = 4 the unmeasured part is accurate to 0.6 %."""

MAPS: Mapping[str, str] = {
    "std": "standard deviation, calibrated",
    "spread": "standard deviation of the samples, not calibrated",
    "p05": "5 % quantile; calibrated: lower limit of 90 %",
    "p95": "95 % quantile; calibrated: upper limit of 90 %",
    "null": "part of the mean that was not measured",
    "null_spread": "standard deviation of the part that was not measured",
    "flags": "1 where the samples disagree on what was not measured",
}
"""Maps by the ending of their name in files; a run has either ``std`` or ``spread``."""


def map_names(calibrated: bool) -> tuple[str, ...]:
    """Names of the maps of a run with several samples, in the order of :data:`MAPS`.

    Args:
        calibrated: whether the spread of the samples is that of the posterior, so that it may be called an uncertainty.
    """
    return tuple(name for name in MAPS if name != ("spread" if calibrated else "std"))


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Maps of several samples, ``(slices, y, x)`` or ``(frames, slices, y, x)`` like the image, in its unit.

    Args:
        spread: standard deviation of the samples (of magnitudes or HU), float32.
        p05: 5 % quantile, float32.
        p95: 95 % quantile, float32.
        null: magnitude of the part of the mean that was not measured, ``(I - A^+ A) x``, float32.
        null_spread: standard deviation of that part (root of the sum over real and imaginary part), float32.
        flags: uint8, 1 where ``null_spread`` is large in noise units.
        calibrated: whether ``spread`` may be called an uncertainty: by a calibration, or as the solver promises.
    """

    spread: np.ndarray
    p05: np.ndarray
    p95: np.ndarray
    null: np.ndarray
    null_spread: np.ndarray
    flags: np.ndarray
    calibrated: bool = False

    def maps(self) -> dict[str, np.ndarray]:
        """Maps by name, in the order of :func:`map_names`."""
        return {
            name: self.spread if name in ("std", "spread") else getattr(self, name)
            for name in map_names(self.calibrated)
        }


def calibrated_maps(
    maps: Uncertainty, image: np.ndarray, calibration: Calibration, magnitude: bool = True
) -> Uncertainty:
    """Maps with the factors of a calibration: the standard deviation, and the limits of the interval around the image.

    Flags and what was not measured stay as they are: they compare samples with the noise.

    Args:
        maps: maps of the samples, not calibrated.
        image: mean of the samples.
        calibration: factors of the spread by coverage.
        magnitude: whether values are magnitudes, so that no limit is below 0.
    """
    away = (calibration.factors[INTERVAL] * maps.spread).astype(np.float32)
    low = image - away
    return replace(
        maps,
        spread=(calibration.factors[SIGMA] * maps.spread).astype(np.float32),
        p05=np.maximum(low, 0) if magnitude else low,
        p95=image + away,
        calibrated=True,
    )


def effective_number(weights: Tensor) -> Tensor:
    """Number of equal weights with the same sum of squares, ``1 / sum w^2`` over the first axis, of weights that sum to 1."""
    return 1 / weights.square().sum(0)


def interval_coverage(n: float) -> float:
    """Probability that a further value of the law of ``n`` samples lies between their 5 % and their 95 % quantile.

    0.9 from 19 samples on. The smallest and the largest of fewer samples enclose it with probability ``(n - 1) / (n + 1)``.
    """
    return min(0.9, (n - 1) / (n + 1))


def pixel_statistics(images: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, 5 % and 95 % quantile of every pixel of samples ``(n, ...)``.

    The standard deviation has the divisor ``n - 1`` (with weights ``1 - sum w^2``). Quantiles interpolate order statistics at
    ``p (n + 1)``, so that a value of the samples' own law lies outside with probability 0.1; below 19 samples they are the
    smallest and the largest. With weights, n is ``1 / sum w^2``, and a sample counts by its weight.

    Args:
        images: samples ``(n, ...)``.
        weights: weights of the samples, which sum to 1, ``(n, ...)`` or broadcastable; ``None``: equal.
    """
    n = len(images)
    if weights is None:
        weights = torch.full((n, *[1] * (images.ndim - 1)), 1 / n, dtype=torch.float64, device=images.device)
    weights = weights.double()
    mean = (weights * images).sum(0)
    variance = (weights * (images - mean).square()).sum(0) / _divisor(weights)
    ordered, order = images.sort(0)
    # Edges of the steps of the empirical distribution function.
    edges = weights.expand(*weights.shape[:1], *images.shape[1:]).gather(0, order).cumsum(0)
    lower = torch.cat([torch.zeros_like(edges[:1]), edges[:-1]])
    quantiles = [_quantile(ordered, lower, edges, effective_number(weights), p) for p in (0.05, 0.95)]
    return variance.sqrt().to(images.dtype), quantiles[0], quantiles[1]


def _divisor(weights: Tensor) -> Tensor:
    """``1 - sum w^2``; infinite for a single sample, whose spread is then 0."""
    left = 1 - weights.square().sum(0)
    return torch.where(left > 1e-12, left, torch.inf)


def _quantile(ordered: Tensor, lower: Tensor, upper: Tensor, n: Tensor, p: float) -> Tensor:
    """Mean of the empirical quantile function over the ``n``-th part of it that ends at ``p (n + 1)``.

    For equal weights this interpolates order statistics. A sample without weight has no effect.

    Reference: Akinshin, arXiv 2304.07265 (weighted quantiles), for ``p (n + 1)``.

    Args:
        ordered: samples in ascending order, ``(n, ...)``.
        lower: sum of the weights of the smaller samples.
        upper: the same with the weight of the sample itself.
        n: effective number of samples.
        p: probability.
    """
    end = (p * (n + 1)).clamp(min=1.0).minimum(n) / n
    width = (upper.minimum(end) - lower.maximum(end - 1 / n)).clamp(min=0)
    return ((width * ordered).sum(0) / width.sum(0)).to(ordered.dtype)


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Comparison of samples with the noise where data were measured. All numbers are sums over items.

    If samples follow the posterior, a sample and the data have the joint law of truth and data: the expected square of the
    residual ``y - A x`` of a single sample is that of the noise. The variance of ``A x`` is at most that of the noise in every
    measured direction, and less where the prior is narrower than the noise.

    Args:
        squares: mean of ``|y - A x|^2`` over the samples, divided by the variance of the noise; NaN if not defined.
        n: number of measured real components.
        scatter: variance of ``A x`` over the samples, summed over components, divided by the variance of the noise.
        directions: number of measured directions, the trace of ``A^+ A``.
    """

    squares: float
    n: int
    scatter: float
    directions: float


@dataclass(frozen=True, kw_only=True)
class NullSpace:
    """What was not measured of an item; maps are ``(slices, ...)`` like ``Problem.to_image``, in the unit of the image.

    Args:
        null: magnitude of the part of the mean that was not measured.
        spread: standard deviation of that part, over all components.
        flags: whether the spread is large in noise units.
        shown: whether the pixel can differ between samples.
        noise: standard deviation of measured directions in the image.
        energy: squared norm of the mean.
        null_energy: squared norm of its part that was not measured.
        test: comparison of the samples with the noise; ``None`` without noise.
    """

    null: Tensor
    spread: Tensor
    flags: Tensor
    shown: Tensor
    noise: float
    energy: float
    null_energy: float
    test: SelfTest | None

    def of_slices(self, index: slice) -> NullSpace:
        """The maps of some slices; numbers stay those of all."""
        maps = {name: getattr(self, name)[index] for name in ("null", "spread", "flags", "shown")}
        return replace(self, **maps)


def _weight(data: Gaussian) -> float | Tensor:
    """Weight of the regularisation of ``A^+``, ``noise_std^2 / PRIOR_VARIANCE``."""
    return data.noise_std**2 / PRIOR_VARIANCE


def measured_part(data: Gaussian, x: Tensor) -> Tensor:
    """``A^+ A x``, with ``A^+`` regularised at the noise level: for a singular value s it is ``s / (s^2 + w)``.

    A direction is kept in the proportion ``s^2 / (s^2 + w)``, ``w = noise_std^2 / PRIOR_VARIANCE``: the part of its variance
    that the data explain. Without noise ``A^+`` is the pseudo-inverse.
    """
    return data.A.pinv(data.A(x), N_CG, _weight(data))


def noise_of_measured(data: Gaussian) -> tuple[Tensor, float]:
    """Noise in the image, and the number of measured directions.

    In a measured direction the data have the precision ``s^2 / noise_std^2``; the noise has the mean precision of these
    directions. The noise of ``A^+ y`` itself would be that of the worst directions, which are hardly measured. For one coil and a
    Cartesian mask it is the noise of k-space.

    Traces are estimated from white noise in the space of the data (Hutchinson, Commun. Stat. 18, 1989). One vector is enough for
    ten thousand pixels; smaller images take several.

    Args:
        data: likelihood of a single item.

    Returns:
        images ``(n, C, *spatial)`` whose root mean square is the noise; and the trace of ``A^+ A``.
    """
    n = max(1, min(16, 2**15 // math.prod(data.shape)))
    white = Noise(range(n)).like(data.y.expand(n, *data.y.shape[1:]))
    back, seen = data.A.adjoint(white), data.A(data.A.pinv(white, N_CG, _weight(data)))
    directions = float(dot(white, seen).sum()) / n
    precision = float(dot(back, data.A.adjoint(seen)).sum()) / n / max(directions, 1e-30)
    size = float(back[back != 0].square().mean().sqrt()) if bool((back != 0).any()) else 1.0
    return batch_broadcast(data.noise_std, back) * back / (size * max(precision, 1e-30) ** 0.5), directions


class _Sums(NamedTuple):
    """Sums over samples, weighted.

    Args:
        variance: squared deviations of what was not measured, in the image.
        squares: squared residuals ``|y - A x|^2`` where there are data.
        scatter: squared deviations ``|A (x - mean)|^2``.
    """

    variance: Tensor
    squares: float
    scatter: float


def null_space(
    problem: Problem, scaled: Scaled, items: slice, x: Tensor, weights: Tensor | None, chunk: int
) -> NullSpace:
    """The part of samples that was not measured, ``(I - A^+ A) x``, and a comparison of the samples with the noise.

    Args:
        problem: problem of the scan.
        scaled: likelihood of the item.
        items: the item.
        x: samples or particles ``(n, 1, C, *spatial)`` at unit scale.
        weights: weights of particles, which sum to 1, ``(n,)``; ``None``: equal.
        chunk: number of samples that are projected together.
    """

    def in_image(d: Tensor) -> Tensor:
        # In double precision, because squares of very large or small units overflow single precision.
        return problem.difference_image(d[:, None], items, scaled.image_scale).double()

    data = linear_gaussian(scaled.likelihood)
    w = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weights is None else weights.double().cpu()
    divisor, w = float(_divisor(w)), w.to(x)
    mean = (batch_broadcast(w, x) * x).sum(0)
    unmeasured = mean - measured_part(data, mean)
    image, null, one = in_image(torch.cat([mean, unmeasured, torch.ones_like(mean)]))
    sums = _sums(data, x[:, 0], mean, w, in_image, chunk)
    noise, directions = noise_of_measured(data)
    shown, spread = one > 0, (sums.variance / divisor).sqrt()
    level, least = (
        float(each[shown.expand_as(each)].square().mean().sqrt()) if shown.any() else 0.0
        for each in (in_image(noise), LEAST_NOISE * one)
    )
    return NullSpace(
        null=null.to(x.dtype).cpu(),
        spread=spread.to(x.dtype).cpu(),
        flags=(local_spread(spread, shown) > FLAG_THRESHOLD * max(level, least)).cpu(),
        shown=shown.cpu(),
        noise=level,
        energy=float(image.square().sum()),
        null_energy=float(null.square().sum()),
        test=_self_test(scaled, data, sums._replace(scatter=sums.scatter / divisor), directions),
    )


def _sums(
    data: Gaussian, x: Tensor, mean: Tensor, weights: Tensor, in_image: Callable[[Tensor], Tensor], chunk: int
) -> _Sums:
    """Sums over samples ``(n, C, *spatial)``, of which ``chunk`` are projected together, so that memory stays bounded."""
    rest, variance, squares, scatter = data.residual(mean), torch.zeros_like(in_image(mean)[0]), 0.0, 0.0
    for away, part in zip((x - mean).split(chunk), weights.split(chunk), strict=True):
        measured = data.A(away)
        left = torch.where(data.y != 0, rest - measured, 0.0)
        squares += float((part * dot(left, left)).sum())
        scatter += float((part * dot(measured, measured)).sum())
        # Of deviations, not of samples: their rounding errors are smaller.
        unmeasured = in_image(away - data.A.pinv(measured, N_CG, _weight(data)))
        variance = variance + (batch_broadcast(part, unmeasured) * unmeasured.square()).sum(0)
    return _Sums(variance, squares, scatter)


def _self_test(scaled: Scaled, data: Gaussian, sums: _Sums, directions: float) -> SelfTest | None:
    """Sums in units of the noise; ``None`` without noise or signal, and for magnitudes, whose residual has another law."""
    variance = float(torch.as_tensor(data.noise_std).square().mean())
    if isinstance(scaled.likelihood, Rician) or not variance > 0 or not bool((scaled.image_scale > 0).all()):
        return None
    n = int(data.n_measured.sum())
    return SelfTest(squares=sums.squares / variance, n=n, scatter=sums.scatter / variance, directions=directions)


def local_spread(spread: Tensor, shown: Tensor) -> Tensor:
    """Root mean square of a standard deviation over 3 x 3 pixels, of which only those that are shown count; 0 elsewhere.

    From eight samples, the variance of a single pixel is uncertain by half, and structures are larger than a pixel.

    Args:
        spread: standard deviation ``(slices, ..., y, x)``.
        shown: pixels that count.
    """
    both = torch.stack([spread.square() * shown, shown.to(spread)]).reshape(2, -1, *spread.shape[-2:])
    variance, fraction = (avg_pool2d(one, 3, 1, 1) for one in both)
    return (variance / fraction.clamp(min=0.1)).sqrt().reshape(spread.shape) * shown


def self_test_facts(tests: Sequence[SelfTest], n: float) -> dict[str, Any] | None:
    """The comparison of ``n`` samples of several items with the noise, for the record; ``None`` if there is none.

    Bounds: noise levels are estimates, and operators models, so a fifth is tolerated, and a tenth for the spread, whose bound is
    reached by no prior; four standard errors are added.
    """
    if not tests:
        return None
    measured, directions = sum(one.n for one in tests), sum(one.directions for one in tests)
    residual = math.sqrt(sum(one.squares for one in tests) / max(measured, 1))
    scatter = math.sqrt(sum(one.scatter for one in tests) / max(directions, 1e-30))
    error = 4 / math.sqrt(2 * max(measured, 1))
    spread_error = 4 / math.sqrt(2 * max(directions * (n - 1), 1e-30))
    if scatter > MOST_SCATTER + spread_error:
        result = (
            f"samples scatter {scatter:.2g} times as much as the noise allows: they do not follow the data; use more steps, "
            "--posterior or another solver"
        )
    elif residual > 1 + TOLERANCE + error:
        result = (
            f"the residual of samples is {residual:.2g} times the noise: they do not follow the data; use more steps, "
            "--posterior or another solver"
        )
    elif residual < 1 - TOLERANCE - error or scatter < LEAST_SCATTER:
        result = (
            f"samples do not scatter within the noise (spread {scatter:.2g}, residual {residual:.2g} of the noise): the spread "
            "of what was measured is too small; use --posterior or another solver"
        )
    else:
        result = None
    return {
        "residual_over_noise": round(residual, 4),
        "spread_over_noise": round(scatter, 4),
        "agrees": result is None,
        "text": result or f"samples agree with the noise (residual {residual:.2g}, spread {scatter:.2g} of the noise)",
    }


def uncertainty_facts(parts: Sequence[NullSpace], n: float) -> dict[str, Any]:
    """Entries of the record on the maps of several samples.

    Args:
        parts: what was not measured of every item.
        n: number of samples, or effective number of particles.
    """
    energy, shown = sum(one.energy for one in parts), sum(int(one.shown.sum()) for one in parts)
    return {
        "interval_coverage": round(interval_coverage(n), 4),
        "null_energy": sum(one.null_energy for one in parts) / energy if energy > 0 else 0.0,
        "flagged_fraction": sum(int(one.flags.sum()) for one in parts) / max(shown, 1),
        "flag_threshold": FLAG_THRESHOLD,
        "noise_in_image": [float(f"{one.noise:.6g}") for one in parts],
        "self_test": self_test_facts([one.test for one in parts if one.test is not None], n),
    }
