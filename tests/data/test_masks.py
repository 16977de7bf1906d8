"""Sampling masks and their calibration region."""

import numpy as np
import pytest

from medrecon.data.masks import KINDS, achieved_acceleration, acs_block, centred, undersampling_mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 60), (31, 33)])
def test_mask_has_its_acs_its_budget_and_its_seed(kind, shape):
    mask = undersampling_mask(shape, kind, 4, 7, seed=3)
    assert mask.dtype == bool
    full = np.broadcast_to(mask, shape)
    if mask.ndim == 1:
        assert mask.sum() == shape[1] // 4
        assert full[:, centred(shape[1], 7)].all()
    else:
        assert full[centred(shape[0], 7), centred(shape[1], 7)].all()
    if kind == "gaussian2d":
        assert mask.sum() == shape[0] * shape[1] // 4
    if kind == "poisson":  # sigpy searches a density that meets the acceleration to 10 %
        assert abs(achieved_acceleration(mask) - 4) < 0.41
    assert (mask == undersampling_mask(shape, kind, 4, 7, seed=3)).all()
    assert (mask != undersampling_mask(shape, kind, 4, 7, seed=4)).any()


def test_gaussian1d_is_numpys_choice_without_replacement():
    """The masks of the published table: ACS at n // 2, the rest drawn with default_rng(0) by density."""
    n, total, acs = 180, 45, 24
    mask = np.zeros(n, bool)
    mask[n // 2 - acs // 2 : n // 2 + acs // 2] = True
    rest = np.flatnonzero(~mask)
    p = np.exp(-((rest - n / 2) ** 2) / (2 * (n / 4) ** 2))
    mask[np.random.default_rng(0).choice(rest, total - acs, replace=False, p=p / p.sum())] = True
    assert (mask == undersampling_mask((230, 180), "gaussian1d", 4, 24, 0)).all()
    assert undersampling_mask((230, 180), "gaussian1d", 8, 14, 0).sum() == 22


def test_equispaced_gaps_differ_by_one_at_most():
    mask = undersampling_mask((8, 200), "equispaced", 4, 20, 1)
    rest = np.delete(np.arange(200), centred(200, 20))
    gaps = np.diff(np.flatnonzero(mask[rest]))
    assert gaps.max() - gaps.min() <= 1


def test_mask_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="gaussian1d"):
        undersampling_mask((8, 8), "gauss", 4, 2, 0)
    with pytest.raises(ValueError, match="do not fit"):
        undersampling_mask((64, 64), "random", 8, 24, 0)
    with pytest.raises(ValueError, match="at least 1"):
        undersampling_mask((64, 64), "random", 0.5, 4, 0)


def brute_acs(mask):
    best = (0, 0)
    for h in range(1, mask.shape[0] + 1):
        for w in range(1, mask.shape[1] + 1):
            if mask[centred(mask.shape[0], h), centred(mask.shape[1], w)].all() and h * w > best[0] * best[1]:
                best = (h, w)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_acs_block_is_the_largest_centred_rectangle(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 10)) < 0.3
    mask[centred(13, rng.integers(1, 9)), centred(10, rng.integers(1, 7))] = True
    rows, columns = acs_block(mask)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == np.prod(brute_acs(mask))
    assert mask[rows, columns].all()


def test_acs_block_of_columns_is_as_tall_as_the_matrix_and_of_nothing_is_empty():
    rows, columns = acs_block(np.broadcast_to(undersampling_mask((30, 40), "random", 4, 6, 0), (30, 40)))
    assert rows == slice(0, 30)
    assert columns.stop - columns.start >= 6
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    assert acs_block(mask) == (slice(0, 0), slice(0, 0))


def test_acs_block_prefers_a_usable_shape():
    """One fully sampled row through the centre is larger than the square, and of no use to a kernel."""
    mask = np.zeros((40, 300), bool)
    mask[20] = True
    mask[centred(40, 12), centred(300, 12)] = True
    assert acs_block(mask) == (slice(20, 21), slice(0, 300))
    assert acs_block(mask, least=6) == (centred(40, 12), centred(300, 12))


def test_masks_wider_than_the_matrix():
    assert undersampling_mask((8, 20), "equispaced", 1, 24, 0).all()
    assert undersampling_mask((8, 40), "poisson", 2, 12, 0)[:, centred(40, 12)].all()
    with pytest.raises(ValueError, match="leaves no samples"):
        undersampling_mask((8, 20), "random", 30, 0, 0)
