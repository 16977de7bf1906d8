"""Volumes slice by slice: what the suites of all operators do not see."""

import pytest
import torch

from medrecon.operators import Slices, sense

from ..make.operators import coil_maps, column_mask, random_tensor


def _volume(n: int) -> tuple[Slices, torch.Tensor]:
    masks = torch.stack([column_mask(9, s) for s in range(n)])[:, None, None]
    return Slices(sense(coil_maps(n, 3, 8, 9), masks), n), random_tensor(2, 2, n, 8, 9, dtype=torch.float64)


def test_every_slice_has_its_own_maps_and_mask():
    """Slice k of every volume is measured, and solved for, by the operator of slice k alone, to the last bit."""
    A, x = _volume(4)
    y = A(x)
    for k in range(4):
        mask = column_mask(9, k)[None, None, None]
        alone = sense(coil_maps(4, 3, 8, 9)[k : k + 1], mask)
        assert torch.allclose(y[:, k], alone(x[:, :, k]), rtol=1e-12, atol=1e-13)
        found = A.pinv(y, 5, torch.tensor([0.1, 0.4], dtype=torch.float64))[:, :, k]
        for b, rho in enumerate((0.1, 0.4)):
            assert torch.allclose(found[b], alone.pinv(y[b : b + 1, k], 5, rho)[0], rtol=1e-9, atol=1e-11)


def test_wrong_numbers_of_slices_are_refused():
    A, x = _volume(3)
    with pytest.raises(ValueError, match=r"takes volumes \(B, C, 3, y, x\)"):
        A(x[:, :, :2])
    with pytest.raises(ValueError, match="measurements of 3 slices"):
        A.adjoint(A(x)[:, :2])
