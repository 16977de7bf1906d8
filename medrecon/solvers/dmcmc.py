"""DMCMC: Kim and Ye, "Denoising MCMC for accelerating diffusion-based generative models", ICML 2023.

arXiv 2209.14593, algorithm 1 (DLG, denoising Langevin Gibbs); written for x = x0 + sigma n. Not a solver: the noise level is
part of the chain, and :func:`medrecon.sample.sample` denoises its states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.data.noise import noise_of_images
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior, as_levels, score

__all__ = ["DMCMC"]


@dataclass(frozen=True, kw_only=True)
class DMCMC:
    """An endless Markov chain of images and noise levels.

    ``x <- x + a (score(x, sigma) + A^H (y - A x) / (|A|^2 sigma^2 + noise_std^2)) + sqrt(2 a) z``, ``a = step_size sigma^2``,
    then ``sigma <- estimate_sigma(x)``

    Args:
        estimate_sigma: estimates the noise levels ``(B,)`` of images; the default measures them, the paper trains a classifier.
        step_size: step of a move over sigma^2, below 1 (the paper's eta is a length for all levels).
        sigma_min: lowest level.
        sigma_max: highest level.
        skip: moves from one yielded pair to the next (the paper's n_skip).
        burn_in: moves before the first ``skip``.
    """

    estimate_sigma: Callable[[Tensor], Tensor] = noise_of_images
    step_size: float = 0.4
    sigma_min: float = 0.02
    sigma_max: float = 1.0
    skip: int = 10
    burn_in: int = 10

    @torch.no_grad()
    def chain(
        self, prior: Prior, x: Tensor, sigma: float | Tensor, *, noise: Noise, data: Gaussian | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the chain and yield every ``skip``-th image with its noise level ``(B,)``, without end.

        Each pair is a start for an item: ``sample(solver, prior, data, truncate_ladder(sigmas, sigma), start=x)``. That takes few
        steps, since the level is low, so that one chain gives many samples.

        Args:
            prior: the prior.
            x: images at level ``sigma``, ``(B, C, *spatial)``, e.g. a sample with noise added.
            sigma: noise level, a number or one per item.
            noise: one random stream per item.
            data: measurements, for samples of the posterior; ``None``: samples of the prior.
        """
        sigmas = as_levels(sigma, x)
        moves = 0
        while True:
            a = batch_broadcast(self.step_size * sigmas**2, x)
            gradient = score(prior, x, sigmas)
            if data is not None:
                variance = data.lipschitz * sigmas**2 + torch.as_tensor(data.noise_std).to(x) ** 2
                variance = batch_broadcast(torch.where(variance > 0, variance, 1.0), x)
                gradient = gradient + data.A.adjoint(data.residual(x)) / variance
            x = x + a * gradient + (2 * a) ** 0.5 * noise.like(x)
            sigmas = self.estimate_sigma(x).to(x).clamp(self.sigma_min, self.sigma_max)
            moves += 1
            if moves > self.burn_in and (moves - self.burn_in) % self.skip == 0:
                yield x, sigmas
