"""Blur with kernels that are estimated: normalisation, centring, gradients with respect to kernel and tilt."""

import pytest
import torch
from torch.nn import functional as F

from medrecon.operators.deblur import InnerBlur, SpectralBlur, Turbulence, centred_kernel, unit_kernel
from medrecon.operators.image import Blur

from ..make.operators import random_tensor

DOUBLE = torch.float64


def positive(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) + 0.05


def finite_difference(function, x, direction, step=1e-6):
    return float((function(x + step * direction) - function(x - step * direction)) / (2 * step))


def test_inner_pixels_are_those_of_an_explicit_convolution():
    """Correlation with the flipped kernel, as torch's conv2d computes it without padding."""
    kernel, x = positive(2, 1, 3, 5), random_tensor(2, 2, 9, 11, dtype=DOUBLE)
    expected = torch.stack([
        F.conv2d(image[:, None], one.flip(1, 2)[None])[:, 0] for image, one in zip(x, kernel, strict=True)
    ])  # fmt: skip
    # Round-off of FFTs.
    assert torch.allclose(InnerBlur(kernel, (7, 7))(x), expected, atol=1e-12)


def test_kernels_of_even_size_have_no_middle():
    with pytest.raises(ValueError, match="odd"):
        InnerBlur(positive(1, 1, 4, 3), (8, 8))


def test_normalisation_is_per_item_and_ignores_scale():
    u = random_tensor(3, 1, 5, 5, dtype=DOUBLE)
    scales = torch.tensor([1.0, 7.0, 1e-3], dtype=DOUBLE).view(3, 1, 1, 1)
    k = unit_kernel(u)
    assert torch.allclose(k, unit_kernel(scales * u), atol=1e-14)
    assert torch.allclose(k.sum((1, 2, 3)), torch.ones(3, dtype=DOUBLE))
    assert k.min() == 0
    assert torch.equal(unit_kernel(u[1:2]), k[1:2])


def test_a_kernel_without_positive_values_is_the_delta():
    k = unit_kernel(-positive(1, 1, 3, 3))
    assert k[0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_gradient_through_blur_and_normalisation():
    """Against central differences; their error is about 1e-9 for a step of 1e-6 in double precision."""
    u, x = positive(2, 1, 3, 5), random_tensor(2, 1, 9, 11, dtype=DOUBLE)
    y = random_tensor(2, 1, 7, 7, dtype=DOUBLE)

    def misfit(v):
        return (y - InnerBlur(unit_kernel(v), (7, 7))(x)).square().sum()

    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(misfit(leaf), leaf)
    direction = random_tensor(*u.shape, dtype=DOUBLE)
    assert float((gradient * direction).sum()) == pytest.approx(finite_difference(misfit, u, direction), rel=1e-6)
    # A change of scale changes nothing.
    assert torch.allclose((gradient * u).sum((1, 2, 3)), torch.zeros(2, dtype=DOUBLE), atol=1e-10)


def test_gradient_with_respect_to_the_tilt():
    """Bilinear interpolation is smooth but at whole pixels, which these displacements avoid."""
    kernel, x = unit_kernel(positive(1, 1, 3, 3)), random_tensor(1, 1, 9, 8, dtype=DOUBLE)
    tilt = 0.3 + 0.2 * positive(1, 2, 9, 8, seed=1)

    def misfit(field):
        return Turbulence(kernel, field)(x).square().sum()

    leaf = tilt.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(misfit(leaf), leaf)
    direction = random_tensor(*tilt.shape, dtype=DOUBLE)
    assert float((gradient * direction).sum()) == pytest.approx(finite_difference(misfit, tilt, direction), rel=1e-6)


def test_no_tilt_and_a_delta_kernel_change_nothing():
    delta = unit_kernel(torch.zeros(1, 1, 3, 3, dtype=DOUBLE))
    x = random_tensor(2, 1, 9, 8, dtype=DOUBLE)
    y = Turbulence(delta, torch.zeros(1, 2, 9, 8, dtype=DOUBLE))(x)
    assert torch.allclose(y, x[:, :, 1:-1, 1:-1], atol=1e-14)


@pytest.mark.parametrize("shift", [(2, -3), (0, 1)])
def test_shifted_kernels_are_centred_alike(shift):
    """Off the border a shift by whole pixels is undone; items do not influence each other."""
    k = torch.zeros(2, 1, 13, 13, dtype=DOUBLE)
    k[:, :, 4:9, 4:9] = unit_kernel(positive(2, 1, 5, 5))
    moved = torch.stack([k[0].roll(shift, (-2, -1)), k[1]])
    assert torch.equal(centred_kernel(moved), centred_kernel(k))


@pytest.mark.parametrize("shape", [(9, 7), (8, 10)])
def test_spectral_blur_is_the_periodic_blur(shape):
    kernel, x = positive(2, 1, 3, 5), random_tensor(2, 2, *shape, dtype=DOUBLE)
    assert torch.allclose(SpectralBlur(kernel, shape)(x), Blur(kernel, shape)(x), atol=1e-12)
