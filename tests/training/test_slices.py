"""Slices to train on, and how often each contrast and subject is drawn."""

import numpy as np
import pytest

from medrecon.data.errors import InputError
from medrecon.training.slices import load_slices, sampling_weights, subject_weights


def test_slices_and_their_shares(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "s.npz",
        img=rng.integers(0, 255, (6, 8, 8), dtype=np.uint8),
        subject=np.array(list("aabbbc")),
        contrast=np.array(["T1"] * 6),
        stripped=np.array([0, 0, 0, 0, 1, 1]),
    )
    rows = load_slices(tmp_path / "s.npz")
    assert rows[0]["image"].shape == (1, 8, 8)
    assert [r["subject"] for r in load_slices(tmp_path / "s.npz", {"subject": ["b"]})] == ["b"] * 3
    assert [r["subject"] for r in load_slices(tmp_path / "s.npz", exclude={"subject": ["b", "c"]})] == ["a"] * 2
    with pytest.raises(InputError, match=r"s\.npz.*no key 'age'"):
        load_slices(tmp_path / "s.npz", {"age": [3]})
    weights = sampling_weights(rows, {"stripped": {0: 0.8, 1: 0.2}, "subject": {"a": 0.3, "b": 0.6, "c": 0.1}})
    assert sum(weights) == pytest.approx(1)
    for key, value, share in (("stripped", 1, 0.2), ("subject", "a", 0.3), ("subject", "c", 0.1)):
        assert sum(w for w, r in zip(weights, rows, strict=True) if r[key] == value) == pytest.approx(share, abs=1e-3)
    with pytest.raises(ValueError, match="stripped = 1"):
        sampling_weights(rows, {"stripped": {0: 1.0}})
    with pytest.raises(ValueError, match="cannot be satisfied"):
        sampling_weights(rows, {"stripped": {0: 0.8, 1: 0.2}, "subject": {"a": 0.98, "b": 0.01, "c": 0.01}})
    by_subject = subject_weights(rows, power=0.0)
    assert sum(w for w, r in zip(by_subject, rows, strict=True) if r["subject"] == "c") == pytest.approx(1 / 3)
    assert subject_weights(rows, power=1.0) == pytest.approx([1 / 6] * 6)
    with pytest.raises(InputError, match=r"none\.npz"):
        load_slices(tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:300])
    with pytest.raises(InputError, match=r"torn\.npz"):
        load_slices(tmp_path / "torn.npz")
    np.savez(tmp_path / "ct.npz", img=np.full((1, 4, 4), 2000, dtype=np.uint16))
    assert load_slices(tmp_path / "ct.npz")[0]["image"].dtype == np.int16
    both = load_slices([tmp_path / "s.npz", tmp_path / "ct.npz"])  # rows of one batch have the same keys
    assert [set(row) for row in both] == [{"image", "archive"}] * 7
    with pytest.raises(ValueError, match="not all archives have the key 'stripped'"):
        sampling_weights(both, {"stripped": {0: 1.0}})
