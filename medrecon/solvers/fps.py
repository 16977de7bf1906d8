"""FPS-SMC: Dou and Song, "Diffusion posterior sampling for linear inverse problem solving: a filtering perspective", ICLR 2024.

Algorithm 2; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.solvers.mcgdiff import BridgedSolver, SpectralData, as_spectral, spectral_data
from medrecon.solvers.smc import log_normal

__all__ = ["FPS"]


def _kept(level: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Fraction of the variance of a path above its level ``t`` that stays in a step: ``(sigma'^2 - t^2) / (sigma^2 - t^2)``."""
    above = (sigma**2 - level**2).clamp(min=0)
    return torch.where(above > 0, (sigma_next**2 - level**2).clamp(min=0) / torch.where(above > 0, above, 1.0), 0.0)


@dataclass(frozen=True, kw_only=True)
class FPS(BridgedSolver):
    """Filtering posterior sampling: the data get the noise of every level, and each step is conditioned on them exactly.

    A datum with singular value s is an image coefficient, ``y / s``, at the level ``t = noise_std / s``. Above t its path is
    ``y_sigma = y / s + sqrt(sigma^2 - t^2) n``, n of the recursion that noises images, common to the particles of an item
    ``c' = y_sigma',  w' = w N(y_sigma'; m, v) / q(y_sigma' | y_sigma, y)``; at t and below as in MCG-diff.

    The density q of the path is the same for all particles; with it, the evidence is that of the data, not of the path.

    Args:
        least_ess: smallest effective sample size, kept by tempering the weights; 1: exact weights; see
            :class:`medrecon.solvers.smc.ParticleSolver`.

    Cost:
        1 network evaluation and 5 changes of basis a step and particle.

    Deviation:
        the paper compares ``y_sigma`` with ``A x_sigma`` at every level as if the noise of the data were new each time, which
        counts the data once per level: its samples are too certain, and more so with more levels (tests/solvers/test_fps.py).
        Here data are used until their own level. Time travel counts them twice, as in MCG-diff.
    """

    def target_at(self, of: SpectralData, path: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The path, which coefficients follow exactly."""
        return of.value + (sigma**2 - of.level**2).clamp(min=0).sqrt() * path[0], torch.zeros_like(of.level)

    def path_density(self, of: SpectralData, path: Tensor, sigma: float | None, sigma_next: float) -> Tensor | float:
        """Log-density of the path at ``sigma_next`` given that at ``sigma``, ``(B P,)``."""
        variance = sigma_next**2 - of.level**2
        if sigma is not None:
            variance = variance * (1 - _kept(of.level, sigma, sigma_next))
        variance = torch.where(of.seen & (of.level < sigma_next), variance, 0.0)
        return log_normal(variance.sqrt() * path[1], variance)

    def start_path(self, sigma: float, data: Gaussian, noise: Noise) -> Tensor:
        """``n`` of the first level, and the fresh noise of the step, ``(2, B P, ...)``, in the basis of the operator."""
        fresh = self._shared(data, noise)
        return torch.stack([fresh, fresh])

    def continue_path(self, path: Tensor, sigma: float, sigma_next: float, data: Gaussian, noise: Noise) -> Tensor:
        """``n`` of the next level, and the fresh noise of the step."""
        kept = _kept(spectral_data(data).level, sigma, sigma_next)
        fresh = self._shared(data, noise)
        return torch.stack([kept.sqrt() * path[0] + (1 - kept).sqrt() * fresh, fresh])

    @staticmethod
    def _shared(data: Gaussian, noise: Noise) -> Tensor:
        n, shape = noise.n_particles, data.shape
        z = noise.groups((shape[0] // n, *shape[1:]), data.y.real.dtype, data.y.device)
        return as_spectral(data).vh(z.repeat_interleave(n, 0))
