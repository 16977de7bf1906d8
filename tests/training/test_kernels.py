"""Simulated blur kernels: sum, centre, seeds."""

import pytest
import torch

from medrecon.training.kernels import blur_kernels, defocus_kernels


@pytest.mark.parametrize("kind", ["motion", "defocus"])
@pytest.mark.parametrize("size", [21, 33])
def test_kernels_have_sum_one_and_their_mass_at_the_centre(kind, size):
    """The first moment of bilinear weights is exact; smoothing at the border of the support leaves at most 0.02 pixels."""
    k = blur_kernels(range(40), kind, size)
    assert k.shape == (40, 1, size, size)
    assert float(k.min()) >= 0
    line = torch.arange(size) - size // 2.0
    assert torch.allclose(k.sum((1, 2, 3)), torch.ones(40), atol=1e-5)
    for moment in ((k * line).sum((1, 2, 3)), (k * line[:, None]).sum((1, 2, 3))):
        assert float(moment.abs().max()) < 0.02


def test_a_kernel_depends_on_its_seed_alone():
    both = blur_kernels([5, 6])
    assert torch.equal(both[1:], blur_kernels([6]))
    assert not torch.equal(both[:1], both[1:])


def test_the_extent_of_a_motion_is_that_asked_for():
    """Smoothing by up to 0.8 pixels adds at most 5 pixels to the support above a thousandth of the largest value."""
    for k in blur_kernels(range(10), "motion", 33, extent=(10.0, 10.0)):
        rows, columns = torch.nonzero(k[0] > 1e-3 * k.max(), as_tuple=True)
        span = max(int(rows.max() - rows.min()), int(columns.max() - columns.min()))
        assert 8 <= span <= 16


def test_a_disc_is_flat_inside_and_zero_outside():
    k = defocus_kernels(8, 33, generator=torch.Generator().manual_seed(0), radius=(6.0, 6.0))
    line = torch.arange(33) - 16.0
    distance = (line[:, None] ** 2 + line**2).sqrt()
    # Two standard deviations of the widest edge, 1.5 pixels, from the edge: within erfc(-2 / sqrt 2) / 2 = 0.977 of the middle.
    inside = k[:, 0, distance < 3.0]
    assert float((inside / k.amax((1, 2, 3))[:, None]).min()) > 0.97
    assert float(k[:, 0, distance > 12.0].max()) < 1e-5


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="odd"):
        blur_kernels([0], "motion", 32)
    with pytest.raises(ValueError, match="choose motion or defocus"):
        blur_kernels([0], "shake")
