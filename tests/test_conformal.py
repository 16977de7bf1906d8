"""Intervals cover a new exchangeable image as often as they claim, whatever the samples' spread and the correlation of pixels."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medrecon.conformal import (
    FLOOR,
    LEVELS,
    coverage,
    images_needed,
    mean_interval,
    normalised_errors,
    random_disc,
    region_score,
    risk_control,
    split_conformal,
)


def fields(n, rng, side=10, smooth=2.0):
    """Correlated normal errors of unit variance, times a scale of their own for every image: ``(n, pixels)``."""
    noise = rng.standard_normal((n, side, side))
    out = gaussian_filter(noise, (0, smooth, smooth), mode="wrap")
    return (out / out.std() * np.exp(rng.standard_normal((n, 1, 1)))).reshape(n, -1)


def mean_coverage(n, level, trials, spread=1.0, control=risk_control):
    """Coverage of image n + 1 by a calibration from n others, and its standard error, over many draws of n + 1 images."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(trials):
        errors = np.abs(fields(n + 1, rng)) / spread
        (factor,) = control(list(errors[:n]), [level])
        found.append(coverage(errors[n:], factor))
    return np.mean(found), np.std(found) / math.sqrt(trials)


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (19, 0.9), (19, 0.95), (11, 0.5), (25, 0.8)])
def test_coverage_of_a_new_image_is_that_of_the_level(n, level):
    """Theorems 1 and 2 of conformal risk control: ``level`` to ``level + 2 / (n + 1)``, up to three standard errors."""
    found, error = mean_coverage(n, level, 1500)
    assert level - 3 * error <= found <= level + 2 / (n + 1) + 3 * error


def test_without_the_correction_for_n_plus_1_images_the_coverage_is_too_low():
    """Images differ in scale, so that the empirical quantile of 9 images covers less than 0.9, by 3 standard errors and more."""

    def empirical(errors, levels):
        n = len(errors)
        return risk_control(errors, [level * n / (n + 1) for level in levels])

    found, error = mean_coverage(9, 0.9, 1500, control=empirical)
    assert found < 0.9 - 3 * error


def test_a_spread_that_is_too_small_by_three_gets_a_factor_three_times_as_large():
    rng = np.random.default_rng(1)
    errors = list(np.abs(fields(40, rng)))
    right, wrong = (np.array(risk_control([one / spread for one in errors], LEVELS)) for spread in (1.0, 1 / 3))
    assert np.allclose(wrong, 3 * right, rtol=1e-12)
    assert mean_coverage(19, 0.9, 200, spread=1 / 3)[0] == mean_coverage(19, 0.9, 200)[0]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_the_factor_is_the_smallest_that_satisfies_the_definition(level):
    """Images of different sizes, and errors with ties; the condition of the docstring, evaluated as it is written."""
    rng = np.random.default_rng(2)
    errors = [np.round(rng.exponential(size=size), 1) for size in (3, 40, 7, 11, 25, 8, 30, 1, 5, 60)]
    n = len(errors)

    def holds(factor):
        return n / (n + 1) * (1 - coverage(errors, factor)) + 1 / (n + 1) <= 1 - level + 1e-12

    (factor,) = risk_control(errors, [level])
    assert holds(factor)
    assert not any(holds(value) for value in np.concatenate(errors) if value < factor)


def test_too_few_images_have_no_finite_factor():
    assert [images_needed(level) for level in LEVELS] == [1, 3, 4, 9, 19]
    for level in LEVELS:
        n = images_needed(level)
        images = [np.arange(1.0, 6.0)] * n
        assert risk_control(images, [level]) == [5.0]  # of the fewest images, the largest error
        assert risk_control(images[1:], [level]) == [math.inf]
        assert split_conformal(np.arange(n), level) == n - 1
        assert split_conformal(np.arange(n - 1), level) == math.inf


def test_pixels_without_spread_count_as_misses():
    assert normalised_errors([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 4.0]).tolist() == [0.0, math.inf, 0.5]
    errors = [np.array([0.5, np.inf])] * 50
    assert risk_control(errors, [0.4, 0.6]) == [0.5, math.inf]


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (24, 0.8), (10, 0.5)])
def test_a_new_score_is_covered_as_often_as_ranks_say(n, level):
    """The rank of the new score is uniform on 1 ... n + 1, so the coverage is ``ceil((n + 1) level) / (n + 1)`` exactly."""
    rng, trials = np.random.default_rng(3), 20_000
    scores = rng.exponential(size=(trials, n + 1))
    found = np.mean([one[n] <= split_conformal(one[:n], level) for one in scores])
    expected = math.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert abs(found - expected) < 4 * math.sqrt(0.25 / trials)


# Regions


def reconstructions(n, rng, side=24, k=8):
    """Truth, mean and samples of n images whose errors are smooth, while their samples differ from pixel to pixel.

    The spread of every pixel is right (0.1), that of a region's mean is far too small.
    """
    smooth = gaussian_filter(rng.standard_normal((n, side, side)), (0, 4, 4), mode="wrap")
    truth = 1 + 0.1 * smooth / smooth.std()
    samples = 1 + 0.1 * rng.standard_normal((n, k, side, side))
    return truth, samples.mean(1), samples


def test_limits_of_pixels_are_not_limits_of_means_and_calibrated_ones_are():
    """30 repetitions of 39 + 40 images; the standard error is about 0.01 with the errors of 39 scores, which 40 images share.

    Risk control covers up to 1 / 40 more than its level if images are alike.
    """
    rng = np.random.default_rng(4)
    inside = np.ones((24, 24), bool)
    by_pixels, by_means, pixels = [], [], []
    for _ in range(30):
        truth, mean, samples = reconstructions(79, rng)
        spread = samples.std(1, ddof=1)
        errors = [normalised_errors(*(a.ravel() for a in one)) for one in zip(truth, mean, spread, strict=True)]
        (factor,) = risk_control(errors[:39], [0.9])
        pixels.append(coverage(errors[39:], factor))
        scores = [
            region_score(truth[i], mean[i], samples[i], random_disc(inside, 5, rng))  # type: ignore[arg-type]
            for i in range(79)
        ]
        by_pixels.append(np.mean(np.array(scores[39:]) <= factor))
        by_means.append(np.mean(np.array(scores[39:]) <= split_conformal(scores[:39], 0.9)))
    assert 0.9 <= np.mean(pixels) <= 0.9 + 1 / 40
    assert np.mean(by_pixels) < 0.5
    assert np.mean(by_means) == pytest.approx(0.9, abs=0.03)


def test_the_interval_of_a_mean_contains_what_its_score_says():
    rng = np.random.default_rng(5)
    truth, mean, samples = (one[0] for one in reconstructions(1, rng))
    region = random_disc(np.ones((24, 24), bool), 3, rng)
    assert region is not None
    score = region_score(truth, mean, samples, region)
    for factor, expected in ((0.999 * score, False), (1.001 * score, True)):
        low, high = mean_interval(mean, samples, region, factor)
        assert (low <= truth[region].mean() <= high) == expected
    assert high - mean[region].mean() == pytest.approx(
        factor * (samples[:, region].mean(1).std(ddof=1) + FLOOR * np.percentile(mean, 99))
    )


def test_means_without_spread_are_missed_unless_they_are_right():
    region, zero = np.ones((4, 4), bool), np.zeros((4, 4))
    assert region_score(zero, zero, np.zeros((3, 4, 4)), region) == 0
    assert region_score(zero + 1, zero, np.zeros((3, 4, 4)), region) == math.inf


def test_discs_lie_inside_and_everywhere():
    inside = np.zeros((20, 17), bool)
    inside[2:, 1:16] = True  # touches the lower border
    rng = np.random.default_rng(6)
    total = np.zeros(inside.shape, int)
    for _ in range(600):
        disc = random_disc(inside, 2.5, rng)
        assert disc is not None
        assert disc.sum() == 21  # 5 x 5 without corners
        assert not (disc & ~inside).any()
        total += disc
    assert (total[3:19, 2:15] > 0).all()
    assert random_disc(inside, 8, rng) is None
    assert random_disc(np.zeros((5, 5), bool), 1, rng) is None
