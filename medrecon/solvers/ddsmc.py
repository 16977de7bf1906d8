"""DDSMC: Kelvinius, Zhao, Lindsten, "Solving linear-Gaussian Bayesian inverse problems with decoupled diffusion SMC", ICML 2025.

arXiv 2502.06379; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, image_spread, setting
from medrecon.solvers.mcgdiff import as_spectral, condition
from medrecon.solvers.smc import ParticleSolver, ParticleState, Twist, log_normal

__all__ = ["DDSMC"]


@dataclass(frozen=True, kw_only=True)
class DDSMC(ParticleSolver):
    """Decoupled diffusion: a draw of the clean image given the data, then its noise, with weights that correct both.

    ``x0 = prior(x),  u ~ N(u; x0, r^2) N(y; A u, noise_std^2),  r = sigma s / sqrt(sigma^2 + s^2)``
    ``x' = u + k (x - u) + sqrt(sigma'^2 - k^2 sigma^2) z,  k = eta (sigma'/sigma)^2``
    ``psi(x) = N(y; A x0, r^2 A A^H + noise_std^2);  w' = w p(x' | x) psi'(x') / (psi(x) q(x' | x)), p as q without the data``

    For a prior N(0, s^2 I) the chain without data is exact at any number of levels, and with ``eta=1`` weights stay equal.

    Args:
        eta: how much of the noise of ``x`` stays (the paper's eta, 0.5): 1 is the ancestral step, 0 draws it anew, as DAPS. With
            less than 1 fewer particles survive, even for white images.
        image_std: standard deviation ``s`` of the images per component.
        least_ess: smallest effective sample size, kept by tempering the weights; 1: exact weights; see
            :class:`medrecon.solvers.smc.ParticleSolver`.

    Cost:
        1 network evaluation and 4 changes of basis a step and particle.

    Deviation:
        r follows the noise level as in PiGDM, in place of a ladder of its own (from 47 to 0.01 in the authors' code). The last
        step draws u. The density of ``U^H y``, not of ``y``, is the evidence.
    """

    eta: float = setting(1.0, 0.0, 1.0)
    image_std: float = setting(0.5, 1e-6, 1e6)
    requires: ClassVar[Requires] = Requires(operator=Spectral)

    def look(self, state: ParticleState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian) -> Twist:
        """One denoising, and the likelihood if ``x0`` erred by white noise."""
        A = as_spectral(data)
        x, x0 = A.vh(state.x), A.vh(prior(state.x, sigma))
        spread = batch_broadcast(data.noise_std, x0) ** 2
        total = A.singular**2 * image_spread(sigma, self.image_std) ** 2 + spread
        return Twist(log_normal(A.uh(data.y) - A.singular * x0, torch.where(A.singular > 0, total, 0.0)), (x, x0))

    def move(
        self, twist: Twist, path: Tensor, sigma: float, sigma_next: float, *, data: Gaussian, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw the clean image given the data, and its noise, both at once."""
        A = as_spectral(data)
        x, x0 = twist.parts
        kept = self.eta * (sigma_next / sigma) ** 2
        fresh = sigma_next**2 - (kept * sigma) ** 2
        spread = torch.as_tensor(batch_broadcast(data.noise_std, x0), device=x0.device).to(x0.real.dtype) ** 2
        wide = torch.full_like(x0.real, image_spread(sigma, self.image_std) ** 2)
        mean, narrow = condition(x0, wide, A.uh(data.y), A.singular, spread)
        centre, var = (1 - kept) * mean + kept * x, fresh + (1 - kept) ** 2 * narrow
        c = centre + var.sqrt() * A.vh(noise(data.shape, x0.real.dtype, x0.device))
        if sigma_next == 0:  # N(u; x0, r^2) N(y; A u, noise_std^2) over the density of u is psi(x)
            return A.v(c), twist.log_psi
        free, free_var = (1 - kept) * x0 + kept * x, fresh + (1 - kept) ** 2 * wide
        measured = A.singular > 0
        ratio = log_normal(torch.where(measured, c - free, 0.0), torch.where(measured, free_var, 0.0))
        return A.v(c), ratio - log_normal(torch.where(measured, c - centre, 0.0), torch.where(measured, var, 0.0))
