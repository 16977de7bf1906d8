"""Conformal calibration of intervals from posterior samples: factors of the spread that reach a coverage on new images.

* Pixels: conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal risk control", ICLR 2024,
  arXiv 2208.02814, theorem 1). The loss of an image is the fraction of its pixels outside the intervals.
* Regions: split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", Springer 2005) of the
  mean of a region. Cheung et al., "Metric-guided conformal bounds for probabilistic image reconstruction" (arXiv 2404.15274),
  calibrate the number that is reported instead of the pixels: limits of pixels are not limits of their mean.

Both guarantees are averages over images that are exchangeable with those of the calibration. The unit is the image, not the
pixel, since pixels of one image are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = [
    "FLOOR",
    "LEVELS",
    "coverage",
    "images_needed",
    "mean_interval",
    "normalised_errors",
    "random_disc",
    "region_score",
    "risk_control",
    "split_conformal",
]

LEVELS = (0.5, 0.6827, 0.8, 0.9, 0.95)
"""Coverages of calibrated intervals; 0.6827 is that of mean +- standard deviation of a normal distribution."""
FLOOR = 1e-3
"""Least standard deviation of the mean of a region, relative to the 99 % quantile of the image's magnitudes."""
_ROUND_OFF = 1e-9


def images_needed(level: float) -> int:
    """Least number of images whose factor for a coverage is finite: ``n >= level / (1 - level)``."""
    return math.ceil(level / (1 - level) - _ROUND_OFF)


def normalised_errors(truth: np.ndarray, image: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """``|truth - image| / spread``; infinite where the spread is 0 and the error is not.

    Args:
        truth: true values.
        image: means of the samples.
        spread: standard deviations of the samples.
    """
    error = np.abs(np.asarray(truth, np.float64) - image)
    return np.divide(error, spread, out=np.where(error > 0, np.inf, 0.0), where=np.asarray(spread) > 0)


def risk_control(errors: Sequence[np.ndarray], levels: Sequence[float]) -> list[float]:
    """Smallest factors of the spread whose intervals cover a fraction ``level`` of the pixels of a new image, on average.

    With R the mean over n images of the fraction of pixels that an interval ``mean +- factor * spread`` misses, the factor is
    the smallest one with ``n / (n + 1) R + 1 / (n + 1) <= 1 - level``. R is a step function of the normalised errors, so the
    factor is one of them: the first at which the covered fractions of the images sum to ``(n + 1) level``.

    Args:
        errors: normalised errors of the pixels of every image, see :func:`normalised_errors`; none empty.
        levels: coverages, 0 to 1.

    Returns:
        a factor per level; infinite if there are fewer images than :func:`images_needed`, or too many pixels without spread.
    """
    n = len(errors)
    if not n:
        return [math.inf] * len(levels)
    values = np.concatenate(errors)
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in errors])
    order = np.argsort(values, kind="stable")
    values, covered = values[order], np.cumsum(weights[order])
    first = np.searchsorted(covered, (n + 1) * np.asarray(levels) - _ROUND_OFF * n)
    return [float(values[k]) if k < len(values) else math.inf for k in first]


def split_conformal(scores: Sequence[float] | np.ndarray, level: float) -> float:
    """The ``ceil((n + 1) level)``-th smallest of n scores, which a new score does not exceed with probability ``level`` or more.

    Returns:
        the score; infinite if there are fewer than :func:`images_needed`.
    """
    rank = math.ceil((len(scores) + 1) * level - _ROUND_OFF)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def coverage(errors: Sequence[np.ndarray], factor: float) -> float:
    """Fraction of pixels within ``mean +- factor * spread``, averaged over images."""
    return float(np.mean([np.mean(one <= factor) for one in errors]))


def random_disc(inside: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray | None:
    """A disc of pixels at a random place where it lies inside a mask; ``None`` if it fits nowhere.

    Args:
        inside: mask ``(y, x)`` that contains the disc.
        radius: radius, pixels.
        rng: source of the place.
    """
    from scipy.ndimage import distance_transform_edt

    # Pixels beyond the border are outside. A disc contains the pixels at most a radius away from its centre.
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]  # type: ignore[index]
    places = np.argwhere(depth > radius)
    if not len(places):
        return None
    y, x = places[rng.integers(len(places))]
    rows, columns = np.ogrid[: inside.shape[0], : inside.shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def _mean_and_spread(image: np.ndarray, samples: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    """Mean of a region of an image, and the standard deviation of that mean over samples, with its floor."""
    values = samples[:, region].mean(axis=1, dtype=np.float64)
    floor = FLOOR * float(np.percentile(np.abs(image), 99))
    return float(image[region].mean(dtype=np.float64)), float(values.std(ddof=1)) + floor


def region_score(truth: np.ndarray, image: np.ndarray, samples: np.ndarray, region: np.ndarray) -> float:
    """Error of the mean of a region, in standard deviations of that mean over samples.

    Args:
        truth: true image ``(y, x)``.
        image: mean of the samples ``(y, x)``.
        samples: samples ``(n, y, x)``, at least two.
        region: mask ``(y, x)``, not empty.
    """
    mean, spread = _mean_and_spread(image, samples, region)
    error = abs(float(truth[region].mean(dtype=np.float64)) - mean)
    return error / spread if spread > 0 else (math.inf if error > 0 else 0.0)


def mean_interval(image: np.ndarray, samples: np.ndarray, region: np.ndarray, factor: float) -> tuple[float, float]:
    """Interval of the mean of a region: ``mean +- factor * spread`` with the spread of :func:`region_score`.

    Args:
        image: mean of the samples ``(y, x)``.
        samples: samples ``(n, y, x)``, at least two.
        region: mask ``(y, x)``, not empty.
        factor: factor of a calibration for regions of this kind.
    """
    mean, spread = _mean_and_spread(image, samples, region)
    return mean - factor * spread, mean + factor * spread
