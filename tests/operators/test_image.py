"""Image-space operators against their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrecon.operators import Blur, FiniteDifferences, crop, downsample_kspace, downsample_mean, gaussian_blur
from medrecon.operators.fourier import fft
from medrecon.operators.image import gaussian_kernel, motion_kernel

from ..make.operators import random_tensor

X = random_tensor(1, 1, 12, 15, dtype=torch.float64)


@pytest.mark.parametrize("sides", [(3, 5), (4, 2)])
def test_blur_is_periodic_convolution(sides):
    kernel = random_tensor(*sides, dtype=torch.float64)
    expected = torch.zeros_like(X)
    for i in range(sides[0]):
        for j in range(sides[1]):
            expected += kernel[i, j] * X.roll((i - sides[0] // 2, j - sides[1] // 2), (-2, -1))
    assert torch.allclose(Blur(kernel, (12, 15))(X), expected, atol=1e-12)


def test_gaussian_blur_is_scipys_with_zeros_outside():
    expected = ndimage.gaussian_filter(X[0, 0].numpy(), 1.3, mode="constant", radius=6)
    assert np.allclose(gaussian_blur((12, 15), 1.3, torch.float64)(X)[0, 0].numpy(), expected, atol=1e-12)


def test_kernels_have_their_moments():
    line = gaussian_kernel(1.7, 1, torch.float64)
    position = torch.arange(len(line)) - len(line) // 2
    assert abs(float(line.sum()) - 1) < 1e-12
    assert abs(float((line * position**2).sum()) - 1.7**2) < 0.01  # cut at four standard deviations
    kernel = motion_kernel(9.0, 0.6, torch.float64)
    n = kernel.shape[0] // 2
    y, x = torch.meshgrid(*[torch.arange(s) - n for s in kernel.shape], indexing="ij")
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert abs(float((kernel * x).sum())) < 1e-12 and abs(float((kernel * y).sum())) < 1e-12
    # The second moment along a line of length 9 is 81 / 12, and sharing points out to pixels adds at most 1/4 an axis.
    along = x * math.cos(0.6) - y * math.sin(0.6)
    assert 81 / 12 < float((kernel * along**2).sum()) < 81 / 12 + 0.25
    across = x * math.sin(0.6) + y * math.cos(0.6)
    assert float((kernel * across**2).sum()) < 0.25


def test_a_gradient_in_the_kernel():
    kernel = gaussian_kernel(0.8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: Blur(k, (12, 15))(X), kernel)


def test_downsampling_by_definition():
    x = random_tensor(2, 1, 12, 20, dtype=torch.float64)
    mean = torch.nn.functional.avg_pool2d(x, 4)
    assert torch.allclose(downsample_mean((12, 20), 4, torch.float64)(x), mean, atol=1e-12)
    singular = downsample_mean((12, 20), 4, torch.float64).singular
    assert torch.allclose(singular, 0.25 * (singular > 0.1).double(), atol=1e-12) and (singular > 0.1).sum() == 15
    # An odd number of kept frequencies has no Nyquist term to share: the centred spectra agree up to the pixel's size.
    coarse = downsample_kspace((12, 20), 4, torch.float64)(x)
    kept = fft(x, (-2, -1))[..., 5:8, 8:13]
    assert torch.allclose(fft(coarse, (-2, -1)), kept / 4, atol=1e-12)
    constant = torch.ones(1, 1, 12, 20, dtype=torch.float64)
    for downsample in (downsample_mean, downsample_kspace):
        low = downsample((12, 20), 2, torch.float64)(constant)
        assert torch.allclose(low, torch.ones_like(low), atol=1e-12)


def test_differences_and_crop():
    D = FiniteDifferences()(X)
    assert torch.equal(D[:, 0, :, :-1], X.diff(dim=-2)) and torch.equal(D[:, 1, ..., :-1], X.diff(dim=-1))
    assert (D[:, 0, :, -1] == 0).all() and (D[:, 1, ..., -1] == 0).all()
    periodic = FiniteDifferences([-1], periodic=True)(X)
    assert float(periodic.sum(-1).abs().max()) < 1e-12
    assert torch.equal(crop((12, 15), (5, 4), torch.float64)(X), X[..., 4:9, 5:9])


def test_errors_say_what_does_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        Blur(torch.ones(20, 3), (12, 15))
    with pytest.raises(ValueError, match="must be a multiple"):
        downsample_mean((12, 15), 2)
    with pytest.raises(ValueError, match="cannot crop"):
        crop((12, 15), (13, 4))
