"""Cartesian MRI against sigpy, and special cases of masks and maps."""

import numpy as np
import pytest
import torch

from medrecon.operators import CartesianMRI, sense

from ..make.compare import assert_close
from ..make.operators import coil_maps, column_mask, point_mask, random_tensor

DOUBLE = torch.float64


@pytest.mark.parametrize("shape", [(31, 33), (32, 30), (7, 8, 9)])
def test_sense_equals_sigpy(shape):
    from sigpy.mri.linop import Sense

    maps, mask = coil_maps(1, 4, *shape).to(torch.complex64), point_mask(*shape)
    A = sense(maps, mask[None, None]).outer
    x = random_tensor(1, 1, *shape).to(torch.complex64)
    theirs = Sense(maps[0].numpy(), weights=mask.numpy().astype(np.float32))
    # Sense weighs by the root of its weights, which for 0 and 1 are themselves; float32 FFTs agree to a few 1e-7.
    y = A(x)
    assert np.abs(y[0].numpy() - theirs(x[0, 0].numpy())).max() < 1e-5
    assert np.abs(A.adjoint(y)[0, 0].numpy() - theirs.H(y[0].numpy())).max() < 1e-5


def test_normal_transforms_only_where_the_mask_varies():
    for shape in ((8, 9), (7, 6)):
        A = sense(coil_maps(1, 3, *shape), column_mask(shape[1])[None, None, None])
        assert A.outer.varying == (-1,)
        assert sense(coil_maps(1, 3, *shape), torch.ones(1, 1, 1, 1)).outer.varying == ()


def test_frames_and_sets_are_what_they_are_alone():
    maps, shape = coil_maps(1, 3, 7, 8), (7, 8)
    masks = torch.stack([column_mask(8, s) for s in range(3)])
    x = random_tensor(2, 6, *shape, dtype=torch.float64)
    y = sense(maps, masks[None, :, None, None])(x)
    for t in range(3):
        assert_close(y[:, t], sense(maps, masks[t][None, None, None])(x[:, 2 * t : 2 * t + 2]), 1e-12)
    both = torch.stack([maps, maps.flip(1)], dim=1)
    mask = masks[0][None, None, None]
    alone = sense(maps, mask)(x[:, :2]) + sense(maps.flip(1), mask)(x[:, 2:4])
    assert_close(sense(both, mask)(x[:, :4]), alone, 1e-12)


def test_errors_name_both_sides():
    with pytest.raises(ValueError, match="shape"):
        sense(coil_maps(1, 3, 8, 9), torch.ones(1, 1, 1, 8))
    with pytest.raises(ValueError, match="maps or the spatial shape"):
        sense(None, torch.ones(1, 1, 1, 8))
    with pytest.raises(ValueError, match="batch axis"):
        sense(coil_maps(1, 3, 8, 9)[0], torch.ones(1, 1, 1, 9))
    assert isinstance(sense(None, torch.ones(1, 1, 1, 8), (4, 8)).outer, CartesianMRI)


def test_maps_must_be_complex():
    with pytest.raises(ValueError, match="must be complex"):
        sense(torch.randn(1, 3, 7, 9), torch.ones(1, 1, 7, 9))


def test_gradients_where_nothing_was_sampled():
    A = CartesianMRI(column_mask(9)[None, None, None], (8, 9), torch.complex128)
    rho = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    A.solve(random_tensor(1, 1, 8, 9), rho).abs().sum().backward()
    assert rho.grad.isfinite()
