"""Coverage, ranks and spread: what one law of truth and samples gives, and what another gives."""

import math

import numpy as np
import pytest

from medrecon.coverage import (
    central_coverage,
    distance_from_uniform,
    rank_frequencies,
    rms_error_of_mean,
    spread_over_error,
    student_coverage,
)

N = 200_000
"""Values: standard errors of coverages are at most 0.0012."""


def drawn(k, spread=1.0, seed=0, law="normal"):
    """Truths of unit variance with a common mean per value, and K samples whose standard deviation is ``spread``."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(N)
    draw = rng.standard_normal if law == "normal" else lambda shape: rng.standard_exponential(shape) - 1
    return centre + draw(N), centre + spread * draw((k, N))


@pytest.mark.parametrize("law", ["normal", "exponential"])
@pytest.mark.parametrize("k", [2, 3, 4, 9, 19])
def test_truths_of_the_law_of_the_samples_have_uniform_ranks_and_the_expected_coverage(k, law):
    """Of any law: the ranks need no normal distribution."""
    truth, samples = drawn(k, law=law)
    frequencies = rank_frequencies(truth, samples)
    assert frequencies.shape == (k + 1,) and frequencies.sum() == pytest.approx(1)
    assert distance_from_uniform(frequencies) < 0.01
    for level in (0.1, 0.5, 0.6, 0.8, 0.9):
        found = central_coverage(frequencies, level)
        assert (found is None) == (level > (k - 1) / (k + 1) + 1e-6)
        assert found is None or found == pytest.approx(level, abs=0.005)
    assert spread_over_error(truth, samples) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("k", [2, 3, 9])
def test_students_interval_covers_normal_values_at_every_number_of_samples(k):
    truth, samples = drawn(k)
    for level in (0.5, 0.9):
        assert student_coverage(truth, samples, level) == pytest.approx(level, abs=0.005)


def test_too_small_a_spread_is_seen():
    """Samples of half the spread: the coverage is that of the normal law, and the ranks are at both ends."""
    truth, samples = drawn(19, spread=0.5)
    frequencies = rank_frequencies(truth, samples)
    assert frequencies[0] > 0.15 and frequencies[-1] > 0.15 and frequencies[10] < 0.04
    # Half the ratio of variances: sqrt(20 / 19) 0.5 / sqrt(1 + 0.25 / 19)
    assert spread_over_error(truth, samples) == pytest.approx(0.5 * math.sqrt(20 / 19 / (1 + 0.25 / 19)), abs=0.005)
    inner = central_coverage(frequencies, 0.5)
    assert inner is not None and inner == pytest.approx(0.264, abs=0.02)  # P(|n| < 0.6745 / 2) = 0.264
    assert student_coverage(truth, samples, 0.9) < 0.65


def test_ties_count_half():
    frequencies = rank_frequencies(np.zeros(4), np.zeros((3, 4)))
    assert frequencies.tolist() == [0.5, 0.0, 0.0, 0.5]
    assert rank_frequencies(np.array([1.0]), np.array([[0.0], [2.0]])).tolist() == [0.0, 1.0, 0.0]


def test_interpolated_coverages_by_hand():
    frequencies = np.array([0.3, 0.1, 0.2, 0.1, 0.3])  # K = 4
    assert central_coverage(frequencies, 0.6) == pytest.approx(0.4)  # j = 1
    assert central_coverage(frequencies, 0.2) == pytest.approx(0.2)  # j = 2
    assert central_coverage(frequencies, 0.4) == pytest.approx(0.3)  # j = 1.5
    assert central_coverage(frequencies, 0.1) == pytest.approx(0.1)  # j = 2.25: half of the coverage of j = 2
    assert central_coverage(frequencies, 0.0) == 0.0
    assert central_coverage(np.array([0.3, 0.2, 0.2, 0.3]), 0.0) == 0.0
    assert central_coverage(frequencies, 0.61) is None
    assert distance_from_uniform(frequencies) == pytest.approx(0.2)


def test_the_error_of_the_mean_of_many_samples_does_not_depend_on_their_number():
    """Samples that are off by 0.3 and have the spread 2: the mean of infinitely many has the error sqrt(1 + 0.09)."""
    for k in (2, 9):
        truth, samples = drawn(k, spread=2.0)
        assert rms_error_of_mean(truth, samples + 0.3) == pytest.approx(math.sqrt(1.09), abs=0.02)
    assert rms_error_of_mean(np.zeros(3), np.array([[1.0] * 3, [-1.0] * 3])) == 0
    assert spread_over_error(np.zeros(3), np.zeros((2, 3))) == math.inf
