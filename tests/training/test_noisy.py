"""Noisy training rows: one realisation per slice, with an estimated level."""

import math

import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.training.noisy import ScaledCrops, noise_range, noisy_rows

from ..make.images import blobs

ROWS = [{"image": (150 * np.abs(blobs((90, 83), k))).astype(np.uint8)[None], "subject": "a"} for k in range(6)]


def clean(k):
    return torch.from_numpy(ROWS[k]["image"]).float() / 200


@pytest.mark.parametrize(
    ("family", "level", "std"), [("gaussian", 0.1, 0.1), ("poisson", 30, 0.129), ("gamma", 50, 0.0707)]
)
def test_the_noise_and_its_estimate(family, level, std):
    """The variance over the whole image, within 10 %; the estimate of the level, within 25 % (edges count as noise)."""
    rows = noisy_rows(ROWS, family, level)
    for k, row in enumerate(rows):
        assert set(row) == {"image", "noise_std", "subject"}
        x = clean(k)
        variance = {"gaussian": torch.full_like(x, std**2), "poisson": x / 30, "gamma": x**2 / 50}[family]
        assert abs(float((row["image"] - x).square().sum() / variance.sum()) - 1) < 0.1
        assert abs(row["noise_std"] / std - 1) < 0.25


def test_one_realisation_per_slice_and_seed():
    """The same for the same seed, another for another, other noise in every slice; torch's generator is left alone."""
    state = torch.get_rng_state()
    first, again, other = (noisy_rows(ROWS, level=0.1, seed=seed, truth=True) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    noise = [row["image"] - row["clean"] for row in first]
    for k, row in enumerate(again):
        assert torch.equal(row["image"], first[k]["image"])
        assert torch.equal(row["clean"], clean(k))
        assert not torch.equal(other[k]["image"], row["image"])
    # 7470 pixels: a correlation of independent noise has a standard error of 0.012.
    assert abs(float(torch.corrcoef(torch.stack([n.flatten() for n in noise[:2]]))[0, 1])) < 0.05


def test_levels_of_a_range_are_log_uniform():
    """Within it, and half of them below the geometric mean: 200 slices, standard error 0.035; estimates within 25 %."""
    rows = noisy_rows(ROWS[:1] * 200, level=[0.02, 0.2], truth=True)
    true = [float((row["image"] - row["clean"]).std()) for row in rows]
    assert min(true) > 0.019
    assert max(true) < 0.21
    assert abs(np.mean([one < math.sqrt(0.02 * 0.2) for one in true]) - 0.5) < 0.11
    assert all(abs(row["noise_std"] / one - 1) < 0.25 for row, one in zip(rows, true, strict=True))


def test_slices_without_noise_are_left_out():
    rows = noisy_rows([{"image": np.zeros((1, 40, 40), np.uint8)}, ROWS[0]], "poisson", 30)
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("family", "level", "message"),
    [
        ("rician", 0.1, "noise must be one of gaussian, poisson, gamma"),
        ("gaussian", 0, "level must be one number above 0"),
        ("gaussian", [0.1], "level must be"),
        ("gaussian", [0.1, math.nan], "level must be"),
        ("gamma", 0.5, "k must be above 1"),
    ],
)
def test_levels_and_families_that_cannot_be(family, level, message):
    with pytest.raises(InputError, match=message):
        noisy_rows(ROWS, family, level)


def test_scaled_crops_scale_image_and_level_alike():
    """The ratio of image and level does not change; factors are within the range, and differ between items."""
    torch.manual_seed(0)
    image = torch.ones(16, 1, 20, 24)
    found = ScaledCrops(crop=8, scale=(0.5, 2.0))({"image": image, "noise_std": torch.full((16,), 0.1)})
    assert found["image"].shape == (16, 1, 8, 8)
    assert torch.allclose(found["image"][:, 0, 0, 0] * 0.1, found["noise_std"])
    assert 0.05 <= float(found["noise_std"].min()) < 0.08
    assert 0.12 < float(found["noise_std"].max()) <= 0.2


def test_the_noise_range_is_that_of_the_rows():
    """A hundred and one levels: the quantiles of one and 99 %, times the factors, and some more; one outlier does not count."""
    rows = [{"noise_std": 0.1 + 0.001 * k} for k in range(101)] + [{"noise_std": 5.0}]
    assert noise_range(rows[:101], (0.5, 2.0)) == pytest.approx((0.101 * 0.5 / 1.5, 0.199 * 2 * 1.1), rel=1e-3)
    assert noise_range(rows)[1] < 0.25
    assert noise_range(rows[:1]) == pytest.approx((0.1 / 1.5, 0.11), rel=1e-3)
    assert noise_range([{"noise_std": 1e-6}]) == pytest.approx((1e-6 / 1.5, 1.1e-6), rel=1e-3)


@pytest.mark.parametrize(
    ("scale", "family", "message"),
    [
        ((1.4, 0.7), "gaussian", "scale must be two numbers above 0, the smaller first"),
        ((0.0, 1.0), "gaussian", "scale must be"),
        ((0.7, 1.4), "poisson", r"poisson noise does not scale with the image; set scale to \[1.0, 1.0\]"),
    ],
)
def test_factors_that_cannot_be(scale, family, message):
    with pytest.raises(InputError, match=message):
        ScaledCrops(scale=scale, family=family)


def test_without_a_range_levels_stay():
    found = ScaledCrops(crop=8)({"image": torch.ones(2, 1, 9, 9), "noise_std": torch.tensor([0.1, 0.2])})
    assert found["noise_std"].tolist() == pytest.approx([0.1, 0.2])
    assert torch.equal(found["image"], torch.ones(2, 1, 8, 8))
