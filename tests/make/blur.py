"""Small blurred images of a smooth Gaussian prior, and a Gaussian prior of kernels."""

import torch
from torch import Tensor

from medrecon.blur import BlindBlur
from medrecon.operators.deblur import InnerBlur, unit_kernel

__all__ = ["KERNEL_MEAN", "blurred_images", "image_prior", "kernel_prior"]

SIZE = 5
KERNEL_MEAN = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64)
KERNEL_MEAN[..., 1:4, 1:4] = 0.5


def image_prior(x: Tensor, sigma) -> Tensor:
    """White images of variance 0.25 around 0.5; nonlinear enough to have no constant Jacobian at the edges of the batch."""
    level = torch.as_tensor(sigma, dtype=x.dtype) ** 2
    return 0.5 + 0.25 / (0.25 + level) * (x - 0.5)


def kernel_prior(u: Tensor, sigma) -> Tensor:
    """Kernels around a box, of variance 0.02."""
    level = torch.as_tensor(sigma, dtype=u.dtype) ** 2
    mean = KERNEL_MEAN.to(u)
    return mean + 0.02 / (0.02 + level) * (u - mean)


def blurred_images(n=2, shape=(14, 13), noise_std=0.05, seed=0):
    """``(data, images, true kernels)``, kernels drawn around the box."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.5 * torch.randn((n, 1, *(m + SIZE - 1 for m in shape)), generator=generator, dtype=torch.float64)
    kernel = unit_kernel(KERNEL_MEAN + 0.1 * torch.randn((n, 1, SIZE, SIZE), generator=generator, dtype=torch.float64))
    clean = InnerBlur(kernel, shape)(x)
    y = clean + noise_std * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return BlindBlur.of(y, noise_std, kernel_prior, SIZE), x, kernel
