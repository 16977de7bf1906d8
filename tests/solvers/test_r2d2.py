"""R2D2+: denoising, its guidance, the noise of images."""

import torch

from medrecon.noise import Noise, karras, truncate_ladder
from medrecon.sample import sample
from medrecon.solvers import R2D2
from medrecon.solvers.r2d2 import low_frequencies

from ..make.posteriors import SharedNoise, gaussian_prior, white

DOUBLE = torch.float64


def test_r2d2_denoises_to_the_posterior_mean():
    """Without regularisation, starting at the noise level: the mean of the draws is the clean estimate."""
    prior, sigma = white(0.4, (1, 8, 8)), 0.3
    noisy = prior.mean + torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).mul(0.5)
    many = noisy.expand(400, -1, -1, -1).contiguous()
    data = low_frequencies(many, sigma, factor=4)
    sigmas = truncate_ladder(karras(20.0, 0.002, 150), sigma)
    x = sample(R2D2(strength=0.0), prior, data, sigmas, noise=SharedNoise(0), start=many)
    assert (x.mean(0) - prior(noisy, sigma)[0]).abs().max() < 0.06  # 400 draws of standard deviation 0.24, 64 pixels
    held = sample(R2D2(strength=1.0), prior, data, sigmas, noise=SharedNoise(0), start=many)
    assert data.residual(held).abs().max() < 1e-9


def test_r2d2_guidance_is_the_gradient():
    """Against autograd: the gradient in x of |x' - prior(x)|^2, where x' is the predictor's step."""
    prior, sigma, after = gaussian_prior((1, 2, 4)), 0.5, 0.3
    x = torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    data = low_frequencies(x, 0.5, factor=2)
    plain, guided = (
        R2D2(guidance=g, strength=0.2).step(x, sigma, after, prior=prior, data=data, noise=Noise([1, 2]))
        for g in (0.0, 0.4)
    )
    free = x.clone().requires_grad_()
    x0 = prior(free, sigma)
    moved = free + (sigma**2 - after**2) * (x0 - free) / sigma**2
    moved = moved + (sigma**2 - after**2) ** 0.5 * Noise([1, 2]).like(x)
    (slope,) = torch.autograd.grad((moved - x0).square().sum(), free)
    assert torch.allclose(guided, plain - 0.4 * slope, atol=1e-12)
