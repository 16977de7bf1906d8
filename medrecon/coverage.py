"""Whether the truth behaves like one more of K posterior samples: ranks, coverage of central intervals, spread over error.

Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", arXiv 1804.06788: if truth and samples
have one law, the rank of the truth among the samples is uniform on 0 ... K. That holds for any function of truth and data. Only
functions of the data as well (the likelihood) notice a sampler that ignores the data: Modrak et al., "Simulation-based
calibration checking for Bayesian computation: the choice of test quantities shapes sensitivity", Bayesian Analysis, 2023, arXiv
2211.02383.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Uniformity",
    "central_coverage",
    "distance_from_uniform",
    "holm",
    "rank_frequencies",
    "rms_error_of_mean",
    "spread_over_error",
    "student_coverage",
    "truth_ranks",
    "uniformity",
]


def rank_frequencies(truth: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Frequencies ``(K + 1,)`` of the number of samples below the truth.

    Values equal to the truth count half as below and half as above.

    Args:
        truth: values ``(n,)``, not empty.
        samples: samples ``(K, n)`` of each of them.
    """
    n = len(samples) + 1
    below, up_to = (samples < truth).sum(0), (samples <= truth).sum(0)
    counts = np.bincount(below, minlength=n) + np.bincount(up_to, minlength=n)
    return counts / (2 * truth.size)


def distance_from_uniform(frequencies: np.ndarray) -> float:
    """Half the sum of ``|frequency - 1 / (K + 1)|``: 0 for a uniform rank, ``K / (K + 1)`` for a constant one."""
    return float(np.abs(frequencies - 1 / len(frequencies)).sum() / 2)


def central_coverage(frequencies: np.ndarray, level: float) -> float | None:
    """Coverage of the central interval of the samples that covers a fraction ``level`` if the ranks are uniform.

    The j-th smallest to the j-th largest of K samples cover the truth with probability ``(K + 1 - 2 j) / (K + 1)``, so
    ``j = (K + 1) (1 - level) / 2``. Between two whole j, the two coverages (not the limits) are interpolated, which is exact for
    uniform ranks.

    Args:
        frequencies: frequencies of the ranks, ``(K + 1,)``, see :func:`rank_frequencies`.
        level: expected coverage, 0 to 1.

    Returns:
        the coverage; ``None`` for a level above ``(K - 1) / (K + 1)``, the coverage of smallest to largest sample.
    """
    n = len(frequencies)
    j = n * (1 - level) / 2
    if j < 1 - 1e-9:
        return None
    low = math.floor(j + 1e-9)
    high = min(low + 1, n / 2)  # the interval of j = (K + 1) / 2 is empty
    if high <= low:
        return 0.0
    outer, inner = (float(frequencies[math.ceil(i) : n - math.ceil(i)].sum()) for i in (low, high))
    return outer + (j - low) / (high - low) * (inner - outer)


def student_coverage(truth: np.ndarray, samples: np.ndarray, level: float) -> float:
    """Coverage of ``mean +- t s sqrt(1 + 1 / K)``: it covers a fraction ``level`` if the values are normal, for every K >= 2.

    Args:
        truth: values ``(n,)``.
        samples: samples ``(K, n)`` of each of them.
        level: expected coverage, 0 to 1.
    """
    from scipy.stats import t

    k = len(samples)
    width = t.ppf((1 + level) / 2, k - 1) * samples.std(0, ddof=1) * (1 + 1 / k) ** 0.5
    return float((np.abs(truth - samples.mean(0)) <= width).mean())


def spread_over_error(truth: np.ndarray, samples: np.ndarray) -> float:
    """``sqrt((K + 1) / K)`` times the rms standard deviation of the samples, over the rms error of their mean.

    The expectations of both squares are equal if truth and samples have one law.

    Args:
        truth: values ``(n,)``.
        samples: samples ``(K, n)`` of each of them, K >= 2.
    """
    k = len(samples)
    error = float(((samples.mean(0) - truth) ** 2).mean())
    spread = float(samples.var(0, ddof=1).mean()) * (k + 1) / k
    return math.sqrt(spread / error) if error > 0 else math.inf


def rms_error_of_mean(truth: np.ndarray, samples: np.ndarray) -> float:
    """Rms error of the mean of infinitely many samples: the mean square error of the mean of K is larger by variance / K.

    Args:
        truth: values ``(n,)``.
        samples: samples ``(K, n)`` of each of them, K >= 2.
    """
    error = float(((samples.mean(0) - truth) ** 2).mean())
    return math.sqrt(max(error - float(samples.var(0, ddof=1).mean()) / len(samples), 0.0))


def truth_ranks(truth: np.ndarray, samples: np.ndarray, seed: int = 0) -> np.ndarray:
    """Number of samples below the truth, ``(n,)``, 0 to K; among equal values a random place.

    Args:
        truth: one value of a test quantity per simulation, ``(n,)``.
        samples: its values for the samples of each simulation, ``(K, n)``.
        seed: random seed for equal values.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return below + np.random.default_rng(seed).integers(0, equal + 1)


class Uniformity(NamedTuple):
    """Histogram of ranks, and p-values of three tests that it is uniform.

    Args:
        counts: number of ranks per bin.
        chi_square: p-value of Pearson's test of the histogram: any departure.
        mean: p-value of the mean rank: a bias.
        spread: p-value of the mean squared distance from the middle rank: samples too narrow or too wide.
    """

    counts: np.ndarray
    chi_square: float
    mean: float
    spread: float


def uniformity(ranks: np.ndarray, n_samples: int, n_bins: int | None = None) -> Uniformity:
    """Test whether ranks are uniform on 0 ... K.

    The tests of mean and spread use the normal approximation of the mean of n ranks, with its exact variance; it is close for n
    of 100 and more. Use ``n / n_bins`` of at least 5 for the chi-square approximation.

    Args:
        ranks: ranks ``(n,)``, see :func:`truth_ranks`.
        n_samples: number K of samples.
        n_bins: number of bins, a divisor of K + 1; ``None``: one per rank.

    Raises:
        ValueError: if the bins would hold unequal numbers of ranks.
    """
    from scipy.stats import chi2, norm

    values = n_samples + 1
    n_bins = n_bins or values
    if values % n_bins:
        raise ValueError(f"{n_samples} samples have {values} ranks, which {n_bins} bins do not divide")
    counts = np.bincount(ranks * n_bins // values, minlength=n_bins)
    expected = len(ranks) / n_bins
    statistic = float(((counts - expected) ** 2 / expected).sum())

    def two_sided(of_rank: np.ndarray) -> float:
        """P-value of the mean of a function of the rank, given for every rank."""
        z = (of_rank[ranks].mean() - of_rank.mean()) / (of_rank.std() / len(ranks) ** 0.5)
        return float(2 * norm.sf(abs(z)))

    places = np.arange(values) - n_samples / 2
    return Uniformity(counts, float(chi2.sf(statistic, n_bins - 1)), two_sided(places), two_sided(places**2))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number: below a level for at least one true hypothesis with at most that probability.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values)
    factors = len(order) - np.arange(len(order))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, float)[order]), 1.0)
    return adjusted
