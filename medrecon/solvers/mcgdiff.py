"""MCG-diff: Cardoso, Janati el Idrissi, Le Corff, Moulines, "Monte Carlo guided diffusion for Bayesian linear inverse problems".

ICLR 2024, arXiv 2308.07983, section 3, with noise; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, setting
from medrecon.solvers.smc import ParticleSolver, ParticleState, Twist, log_normal

__all__ = ["BridgedSolver", "MCGDiff", "SpectralData", "as_spectral", "condition", "spectral_data"]


class SpectralData(NamedTuple):
    """Data in the basis of singular vectors, every tensor like the coefficients of the image.

    Args:
        value: ``U^H y / s``: noisy image coefficients, 0 where nothing was measured.
        level: their noise levels ``t = noise_std / s``.
        seen: where there are data.
    """

    value: Tensor
    level: Tensor
    seen: Tensor


def as_spectral(data: Gaussian) -> Spectral:
    """The operator, whose kind :meth:`medrecon.solvers.base.Solver.check` has checked."""
    return data.A  # type: ignore[return-value]


def spectral_data(data: Gaussian) -> SpectralData:
    """The data of a likelihood with singular values."""
    A = as_spectral(data)
    y = A.uh(data.y)
    singular = A.singular.broadcast_to(y.shape)
    seen, safe = singular > 0, torch.where(singular > 0, singular, 1.0)
    std = torch.as_tensor(batch_broadcast(data.noise_std, y), device=y.device).to(safe)
    return SpectralData(torch.where(seen, y / safe, 0.0), std / safe, seen)


def condition(mean: Tensor, variance: Tensor, observed: Tensor, gain: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``c ~ N(mean, variance)`` given ``observed = gain c + spread^(1/2) n``, coefficient by coefficient.

    Coefficients with ``gain`` 0 are not observed. Where both variances are 0, the observation wins.
    """
    seen = gain > 0
    total = gain**2 * variance + spread
    pull = torch.where(
        total > 0, variance * gain / torch.where(total > 0, total, 1.0), 1 / torch.where(seen, gain, 1.0)
    )
    pull = torch.where(seen, pull, 0.0)
    kept = torch.where(seen & (total > 0), variance * spread / torch.where(total > 0, total, 1.0), variance)
    return mean + pull * (observed - gain * mean), torch.where(seen & (total == 0), 0.0, kept)


@dataclass(frozen=True, kw_only=True)
class BridgedSolver(ParticleSolver):
    """Base of solvers that take data as image coefficients at noise levels of their own, ``y / s`` at ``t = noise_std / s``.

    A step that passes t goes through ``y / s`` there: an ancestral step is a bridge, which is conditioned in its middle.
    """

    requires: ClassVar[Requires] = Requires(operator=Spectral)
    takes_start: ClassVar[bool] = False

    def target_at(self, of: SpectralData, path: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Values that coefficients at ``sigma`` are compared with, and the variance of the comparison, where ``t < sigma``."""
        raise NotImplementedError(f"{type(self).__name__} must define target_at")

    def path_density(self, of: SpectralData, path: Tensor, sigma: float | None, sigma_next: float) -> Tensor | float:
        """Log-density by which the path of the data at ``sigma_next`` was drawn (FPS), ``(B P,)``."""
        return 0.0

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> ParticleState:
        """Draw from ``N(x; 0, sigma^2)`` given the data, those with t above ``sigma`` included, by the noise ``x / sigma``."""
        state, A = super().init(x, sigma, prior=prior, data=data, noise=noise), as_spectral(data)
        of, z = spectral_data(data), A.vh(x / sigma)
        value, spread = self.target_at(of, state.path, sigma)
        ahead = of.seen & (of.level < sigma)
        value, spread = torch.where(ahead, value, of.value), torch.where(ahead, spread, of.level**2 - sigma**2)
        variance = torch.full_like(spread, sigma**2)
        centre, var = condition(torch.zeros_like(z), variance, value, of.seen.to(spread), spread)
        c = centre + var.sqrt() * z
        weights = log_normal(value, torch.where(of.seen, variance + spread, 0.0))
        weights = weights - log_normal(value - c, torch.where(ahead, spread, 0.0)) - _log_volume(A, of)
        weights = weights - self.path_density(of, state.path, None, sigma)
        return state._replace(x=A.v(c), log_weights=weights.view(state.log_weights.shape))

    def look(self, state: ParticleState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian) -> Twist:
        """One denoising, and the likelihood of the data that lie ahead of the next level or between the two."""
        A = as_spectral(data)
        of, x, x0 = spectral_data(data), A.vh(state.x), A.vh(prior(state.x, sigma))
        value, spread = self.target_at(of, state.path, sigma_next)
        passing = of.level >= sigma_next
        value, spread = torch.where(passing, of.value, value), torch.where(passing, 0.0, spread)
        at = of.level.clamp(min=sigma_next)  # where the coefficient is compared: its own level, or the next one
        ratio = (at / sigma) ** 2
        variance = torch.where(of.seen & (of.level < sigma), at**2 * (1 - ratio) + spread, 0.0)
        log_psi = log_normal(value - x0 - ratio * (x - x0), variance)
        return Twist(log_psi - self.path_density(of, state.path, sigma, sigma_next), (x, x0))

    def move(
        self, twist: Twist, path: Tensor, sigma: float, sigma_next: float, *, data: Gaussian, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Coefficients with data ahead are drawn given them, those that pass their level go on from ``y / s``, others freely."""
        A = as_spectral(data)
        of, (x, x0) = spectral_data(data), twist.parts
        z = A.vh(noise(data.shape, x0.real.dtype, x0.device))
        ratio = (sigma_next / sigma) ** 2
        ahead, passing = of.seen & (of.level < sigma_next), of.seen & (of.level >= sigma_next) & (of.level < sigma)
        value, spread = self.target_at(of, path, sigma_next)
        spread = torch.where(ahead, spread, 0.0)
        variance = torch.full_like(spread, sigma_next**2 * (1 - ratio))
        centre, var = condition(x0 + ratio * (x - x0), variance, value, ahead.to(spread), spread)
        part = torch.where(of.level > 0, (sigma_next / torch.where(of.level > 0, of.level, 1.0)) ** 2, 1.0)
        centre = torch.where(passing, x0 + part * (of.value - x0), centre)
        var = torch.where(passing, sigma_next**2 * (1 - part).clamp(min=0), var)
        c = centre + var.sqrt() * z
        return A.v(c), twist.log_psi - log_normal(value - c, spread)


@dataclass(frozen=True, kw_only=True)
class MCGDiff(BridgedSolver):
    """Monte Carlo guided diffusion: data are image coefficients at noise levels of their own, which the particles pass.

    A datum with singular value s is the coefficient ``y / s`` at the level ``t = noise_std / s``. For a coefficient c above t
    ``psi(c) = N(y / s; c, k (sigma^2 - t^2))``; with the ancestral step ``N(c'; m, v)``
    ``c' ~ N(c'; m, v) psi'(c'),  w' = w N(y / s; m, v + k (sigma'^2 - t^2)) / psi(c)``
    The step that passes t goes through ``c = y / s`` at t, weighted by its density there; below t the prior is alone.

    The particles are exact for the chain whose coefficients are ``y / s`` at their levels t. That law is the posterior given y
    in the limit of many levels.

    Args:
        widening: the factor k. With 1 as in the paper, particles at high levels have half the variance of their posterior, so
            that the asymptotic variance of the result is infinite; it is finite for any k above 1.
        least_ess: smallest effective sample size, kept by tempering the weights; 1: exact weights; see
            :class:`medrecon.solvers.smc.ParticleSolver`.

    Cost:
        1 network evaluation and 4 changes of basis a step and particle.

    Deviation:
        the factor k. The levels t need not be on the ladder, since an ancestral step is a bridge, which is conditioned at t.
        A ladder that rises again (time travel) counts data twice whose level it passes twice.
    """

    widening: float = setting(2.0, 1.0, 1e3)

    def target_at(self, of: SpectralData, path: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The data, which differ from the coefficients by the noise between the levels, and more."""
        return of.value, self.widening * (sigma**2 - of.level**2).clamp(min=0)


def _log_volume(A: Spectral, of: SpectralData) -> Tensor:
    """``log |dy / d (y / s)|``, by which the log-density of ``y / s`` exceeds that of ``U^H y``, ``(B P,)``."""
    singular = torch.where(of.seen, A.singular.broadcast_to(of.value.shape), 1.0).double()
    return singular.log().flatten(1).sum(1) * (2 if of.value.is_complex() else 1)
