"""TDS: Wu, Trippe, Naesseth, Blei, Cunningham, "Practical and asymptotically exact conditional sampling in diffusion models".

NeurIPS 2023, arXiv 2306.17775, algorithm 1; with the covariance of Boys et al. (TMPD) in its twist; written for x = x0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import dot
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import image_spread, limit_step, setting
from medrecon.solvers.smc import ParticleSolver, ParticleState, Twist, log_likelihood
from medrecon.solvers.tmpd import weigh_residual

__all__ = ["TDS", "TDSIsotropic"]


@dataclass(frozen=True, kw_only=True)
class TDS(ParticleSolver):
    """Twisted diffusion sampler: particles guided as in TMPD, with weights that correct the guidance.

    ``psi(x) = exp(-<r, S^-1 r> / 2),  r = y - A x0,  S = sigma^2 A J^T A^H + noise_std^2 I,  g = J^T A^H S^-1 r``
    ``x' = m + (sigma^2 - sigma'^2) g + sqrt(v) z,  m = x0 + (sigma'/sigma)^2 (x - x0),  v = sigma'^2 (1 - sigma'^2 / sigma^2)``
    ``w' = w N(x'; m, v) psi'(x') / (psi(x) N(x'; m + (sigma^2 - sigma'^2) g, v))``
    ``last:  x' = x0,  w' = w N(y; A x0, noise_std^2) / psi(x)``

    For a Gaussian prior psi is ``p(y | x)`` up to a constant: weights then stay equal but for the finite number of levels.

    Args:
        n_cg: conjugate-gradient iterations of ``S^-1 r``. They begin at 0, so psi is a function of x alone, and weights are
            exact for any number; few iterations make a worse twist.
        least_ess: smallest effective sample size, kept by tempering the weights; 1: exact weights; see
            :class:`medrecon.solvers.smc.ParticleSolver`.

    Cost:
        1 network evaluation and ``n_cg + 1`` vector-Jacobian products a step and particle.

    Deviation:
        the paper's twist has the noise of the data alone, which leaves one particle already with sixteen unknowns; g takes J as
        constant in x, and psi has no determinant of S, which is constant for a Gaussian prior: both concern the twist, not
        the weights. Steps that would increase the residual are shortened, see :func:`medrecon.solvers.base.limit_step`.
    """

    n_cg: int = setting(5, 0, 10_000)

    def covariance(self, vjp: Callable[[Tensor], Tensor], sigma: float) -> Callable[[Tensor], Tensor]:
        """``v -> C v``, the covariance of ``x0`` given ``x``."""
        return lambda v: sigma**2 * vjp(v)

    def look(self, state: ParticleState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian) -> Twist:
        """One denoising, and the likelihood if ``x0`` erred by a Gaussian."""
        x0, vjp = with_vjp(prior, state.x, sigma)
        missing = data.residual(x0)
        weighed = weigh_residual(missing, data, self.covariance(vjp, sigma), self.n_cg)
        step = limit_step(sigma**2 * vjp(data.A.adjoint(weighed)), data, missing)
        return Twist(-dot(missing, weighed) / 2, (state.x, x0, step))

    def move(
        self, twist: Twist, path: Tensor, sigma: float, sigma_next: float, *, data: Gaussian, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """A guided ancestral step; the last step takes the clean estimate."""
        x, x0, step = twist.parts
        if sigma_next == 0:
            return x0, log_likelihood(x0, data, twist.log_psi)
        ratio = (sigma_next / sigma) ** 2
        std = sigma_next * (1 - ratio) ** 0.5
        shift, z = (1 - ratio) * step, noise.like(x)
        log_ratio = -dot(shift, z) / std - dot(shift, shift) / (2 * std**2)
        return x0 + ratio * (x - x0) + shift + std * z, log_ratio


@dataclass(frozen=True, kw_only=True)
class TDSIsotropic(TDS):
    """TDS with the covariance of PiGDM, ``r^2 I`` in place of ``sigma^2 J``, in its twist: one vector-Jacobian product a step.

    ``S = r^2 A A^H + noise_std^2 I,  r = sigma s / sqrt(sigma^2 + s^2)``; everything else as in :class:`TDS`.

    Args:
        image_std: standard deviation ``s`` of the images per component.
        n_cg: conjugate-gradient iterations of ``S^-1 r``.
        least_ess: smallest effective sample size, kept by tempering the weights; 1: exact weights; see
            :class:`medrecon.solvers.smc.ParticleSolver`.

    Cost:
        1 network evaluation and 1 vector-Jacobian product a step and particle.
    """

    image_std: float = setting(0.5, 1e-6, 1e6)

    def covariance(self, vjp: Callable[[Tensor], Tensor], sigma: float) -> Callable[[Tensor], Tensor]:
        """``v -> r^2 v``."""
        return lambda v: image_spread(sigma, self.image_std) ** 2 * v
