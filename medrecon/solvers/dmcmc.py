"""DMCMC: Kim and Ye, "Denoising MCMC for accelerating diffusion-based generative models", ICML 2023.

arXiv 2209.14593, algorithm 1 (DLG, denoising Langevin Gibbs); written for x = x0 + sigma n. No solver: the noise level is
part of the chain, whose states :func:`medrecon.sample.sample` finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior, as_levels, score
from medrecon.solvers.r2d2 import noise_of_images

__all__ = ["dmcmc"]


@torch.no_grad()
def dmcmc(
    prior: Prior,
    x: Tensor,
    sigma: float | Tensor,
    *,
    noise: Noise,
    data: Gaussian | None = None,
    level: Callable[[Tensor], Tensor] = noise_of_images,
    step_size: float = 0.4,
    sigma_min: float = 0.02,
    sigma_max: float = 1.0,
    skip: int = 10,
    burn_in: int = 10,
) -> Iterator[tuple[Tensor, Tensor]]:
    """A chain of images and noise levels without end; every ``skip``-th pair is worth finishing.

    ``x <- x + a (score(x, sigma) + A^H (y - A x) / (|A|^2 sigma^2 + noise_std^2)) + sqrt(2 a) z``, ``a = step_size sigma^2``,
    then ``sigma <- level(x)``. Each pair is a start, ``sample(solver, prior, data, below(sigmas, sigma), start=x)`` for an item
    with its level: a few steps, since the level is low. So many samples cost one chain.

    Args:
        prior: the prior.
        x: images at level ``sigma``, ``(B, C, *spatial)``, e.g. a finished sample with noise.
        sigma: their level, a number or one per item.
        noise: one stream per item.
        data: measurements, for samples of the posterior; ``None``: of the prior.
        level: the noise level of images, ``(B,)``; the default measures it, the paper trains a classifier.
        step_size: of a move over sigma^2, below 1 (the paper's eta is a length for all levels).
        sigma_min: lowest level.
        sigma_max: highest level.
        skip: moves between two pairs (the paper's n_skip), of which the last is given.
        burn_in: moves before the first ``skip``.

    Yields:
        image and level ``(B,)``.
    """
    levels = as_levels(sigma, x)
    moves = 0
    while True:
        a = batch_broadcast(step_size * levels**2, x)
        slope = score(prior, x, levels)
        if data is not None:
            spread = data.lipschitz * levels**2 + torch.as_tensor(data.noise_std).to(x) ** 2
            slope = slope + data.A.adjoint(data.residual(x)) / batch_broadcast(torch.where(spread > 0, spread, 1.0), x)
        x = x + a * slope + (2 * a) ** 0.5 * noise.like(x)
        levels = level(x).to(x).clamp(sigma_min, sigma_max)
        moves += 1
        if moves > burn_in and (moves - burn_in) % skip == 0:
            yield x, levels
