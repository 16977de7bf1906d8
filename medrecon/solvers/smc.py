"""Sequential Monte Carlo: weighted particles, asymptotically exact for the chain of reverse steps that a ladder defines.

Doucet, de Freitas, Gordon, "Sequential Monte Carlo methods in practice", 2001; with diffusion priors: Wu et al., NeurIPS 2023.
Written for x = x0 + sigma n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import Solver, add_noise, setting

__all__ = [
    "ParticleSolver",
    "ParticleState",
    "Particles",
    "Twist",
    "effective_sample_size",
    "log_normal",
    "systematic",
    "tempered",
    "weighted_mean",
]


class ParticleState(NamedTuple):
    """Particles at a noise level.

    Args:
        x: images ``(B P, C, *spatial)``, the particles of an item side by side.
        log_weights: log-weights ``(B, P)``, float64, without the twist of this level. Their mean is an estimate of the evidence:
            resampling gives every particle the mean weight.
        ess: effective sample size after every step so far, before resampling, ``(steps, B)``.
        path: noise of the measurements at this level (FPS), or an empty tensor.
        tempered: items whose weights were tempered, ``(B,)``.
    """

    x: Tensor
    log_weights: Tensor
    ess: Tensor
    path: Tensor
    tempered: Tensor


class Particles(NamedTuple):
    """Weighted samples of the posterior.

    Args:
        x: images ``(B P, C, *spatial)``, the particles of an item side by side.
        log_weights: log-weights ``(B, P)``, normalised: their exponentials sum to 1.
        ess: effective sample size of every level and of the result, before resampling, ``(levels, B)``; 1 to P.
        log_evidence: estimate of ``log p(y)`` in nats, ``(B,)``, a density of the real components of the measurements; NaN
            for data without noise and after tempering.
        tempered: items whose weights were tempered (``least_ess``), ``(B,)``.
    """

    x: Tensor
    log_weights: Tensor
    ess: Tensor
    log_evidence: Tensor
    tempered: Tensor

    @property
    def mean(self) -> Tensor:
        """Weighted mean of every item, ``(B, C, *spatial)``."""
        return weighted_mean(self.x, self.log_weights)

    def choose(self, n: int, noise: Noise) -> Tensor:
        """Indices ``(B, n)`` of ``n`` particles of equal weight, by systematic resampling.

        For equal weights and ``n`` of P particles no index comes twice.
        """
        return systematic(self.log_weights, noise.groups.uniform(len(self.log_weights)).to(self.x.device), n)


class Twist(NamedTuple):
    """Look ahead from the particles of a level.

    Args:
        log_psi: log of the twist ``(B P,)``, a function of ``x`` alone: it decides which particles are resampled.
        parts: tensors ``(B P, ...)`` from which the particles move, carried along when they are resampled.
    """

    log_psi: Tensor
    parts: tuple[Tensor, ...]


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2`` of log-weights ``(B, P)``: ``(B,)``, 1 to P."""
    return 1 / log_weights.softmax(1).square().sum(1)


def systematic(log_weights: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Indices ``(B, n)`` of particles, each ``n w`` times on average, by one uniform number ``u`` ``(B,)`` per item.

    Reference: Kitagawa, J. Comput. Graph. Stat. 5 (1996), appendix.

    Args:
        log_weights: log-weights ``(B, P)``.
        u: numbers in [0, 1).
        n: number of indices; default: P.
    """
    n = log_weights.shape[1] if n is None else n
    edges = log_weights.softmax(1).cumsum(1)
    points = (torch.arange(n, device=u.device, dtype=edges.dtype) + u[:, None].to(edges.dtype)) / n * edges[:, -1:]
    return torch.searchsorted(edges, points, right=True).clamp(max=log_weights.shape[1] - 1)


def tempered(log_weights: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Log-weights ``(B, P)``, multiplied per item by the largest factor up to 1 that leaves an ESS of ``least``.

    The mean weight of an item stays as it was.

    Returns:
        the log-weights, and where the factor is below 1, ``(B,)``.
    """
    n = log_weights.shape[1]
    short = effective_sample_size(log_weights) < min(least, n) * (1 - 1e-9)
    if not bool(short.any()):
        return log_weights, short
    total = log_weights.logsumexp(1, keepdim=True)
    low, high = torch.zeros_like(total), torch.ones_like(total)
    for _ in range(60):
        middle = (low + high) / 2
        enough = effective_sample_size(middle * (log_weights - total))[:, None] >= min(least, n) * (1 - 1e-9)
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    flat = low * (log_weights - total)
    return torch.where(short[:, None], flat - flat.logsumexp(1, keepdim=True) + total, log_weights), short


def weighted_mean(x: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted mean of particles ``(B P, ...)`` with log-weights ``(B, P)``: ``(B, ...)``."""
    share = log_weights.softmax(1).to(x.real.dtype)
    particles = x.unflatten(0, share.shape)
    return (share.view(*share.shape, *[1] * (x.ndim - 1)) * particles).sum(1)


def log_normal(away: Tensor, variance: Tensor) -> Tensor:
    """Log-density of numbers ``away`` from their mean, summed over each item, ``(B,)``, float64; 0 where the variance is 0.

    Args:
        away: differences ``(B, ...)``, real or complex (two real components each).
        variance: variance per real component, broadcast against ``away``.
    """
    square = (away.abs().double() ** 2).broadcast_to(torch.broadcast_shapes(away.shape, variance.shape))
    known = variance > 0
    spread = torch.where(known, variance, 1.0).double()
    each = square / spread + (2 if away.is_complex() else 1) * (2 * math.pi * spread).log()
    return -torch.where(known, each, 0.0).flatten(1).sum(1) / 2


def log_likelihood(x: Tensor, data: Gaussian, otherwise: Tensor) -> Tensor:
    """``log N(y; A x, noise_std^2 I)`` of the measured components, ``(B,)``, float64; ``otherwise`` for items without noise."""
    std = torch.as_tensor(data.noise_std, dtype=torch.float64, device=x.device).expand(len(x))
    known = torch.where(std > 0, std, 1.0)
    r = data.residual(x)
    square = (r.abs().double() ** 2).flatten(1).sum(1)
    value = -square / (2 * known**2) - data.n_measured / 2 * (2 * math.pi * known**2).log()
    return torch.where(std > 0, value, otherwise)


def _flat(chosen: Tensor, n_particles: int) -> Tensor:
    """Indices into the batch, ``(B n,)``, of indices into every group, ``(B, n)``."""
    return (chosen + n_particles * torch.arange(len(chosen), device=chosen.device)[:, None]).flatten()


@dataclass(frozen=True, kw_only=True)
class ParticleSolver(Solver[ParticleState, Gaussian]):
    """Base of solvers whose batch items are weighted particles; a subclass defines ``look`` and ``move``.

    A step computes the twist of its particles, resamples those items whose effective sample size is below P / 2, and moves. A
    particle's weight is ``p(x_T) prod p(x' | x) p(y | x_0)`` over the density from which its path was drawn: twists cancel
    out, and decide only how many particles survive.

    Args:
        least_ess: effective sample size (at most P) below which the weights of a step are tempered, raised to the power below 1
            that leaves this size. With many particles it is not reached, and weights are exact; 1: never. With few particles
            and many measurements, weights carry the errors of the twist, and leave one particle; tempered, the result is near
            that of guidance without weights.
    """

    least_ess: float = setting(1.0, 1.0, 1e6)
    has_particles: ClassVar[bool] = True

    def look(self, state: ParticleState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian) -> Twist:
        """The twist at ``state.x``, and what :meth:`move` needs."""
        raise NotImplementedError(f"{type(self).__name__} must define look")

    def move(
        self, twist: Twist, path: Tensor, sigma: float, sigma_next: float, *, data: Gaussian, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw the particles of the next level.

        Args:
            twist: what :meth:`look` returned, after resampling.
            path: noise of the measurements at the next level (FPS).
            sigma: noise level.
            sigma_next: next noise level.
            data: the likelihood.
            noise: random source.

        Returns:
            the images, and ``log p(x' | x) - log q(x' | x)`` of the chain and the density from which they were drawn, ``(B P,)``;
            in the last step including ``log p(y | x')``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define move")

    def start_path(self, sigma: float, data: Gaussian, noise: Noise) -> Tensor:
        """Noise of the measurements at the first level; by default an empty tensor."""
        return data.y.new_zeros(0)

    def continue_path(self, path: Tensor, sigma: float, sigma_next: float, data: Gaussian, noise: Noise) -> Tensor:
        """Noise of the measurements at the next level."""
        return path

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> ParticleState:
        """Particles of equal weight."""
        groups = len(x) // noise.n_particles
        weights = torch.zeros(groups, noise.n_particles, dtype=torch.float64, device=x.device)
        path, none = self.start_path(sigma, data, noise), weights.new_zeros(groups, dtype=torch.bool)
        return ParticleState(x, weights, weights.new_zeros(0, groups), path, none)

    def step(
        self, state: ParticleState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> ParticleState:
        """One look ahead, resampling where it is due, one move."""
        if sigma_next == sigma:
            return state
        path = self.continue_path(state.path, sigma, sigma_next, data, noise)
        log_psi, parts = self.look(state._replace(path=path), sigma, sigma_next, prior=prior, data=data)
        groups, n = state.log_weights.shape
        weights = state.log_weights + log_psi.double().view(groups, n)
        ess = effective_sample_size(weights)
        weights, short = tempered(weights, self.least_ess)
        due = effective_sample_size(weights) < n / 2
        u = noise.groups.uniform(groups).to(weights.device)  # of every item, whether it is due or another is
        if bool(due.any()):
            kept = torch.arange(n, device=weights.device).expand(groups, n)
            chosen = _flat(torch.where(due[:, None], systematic(weights, u), kept), n)
            log_psi, parts = log_psi[chosen], tuple(part[chosen] for part in parts)
            weights = torch.where(due[:, None], weights.logsumexp(1, keepdim=True) - math.log(n), weights)
        x, ratio = self.move(Twist(log_psi, parts), path, sigma, sigma_next, data=data, noise=noise)
        weights = weights + (ratio.double() - log_psi.double()).view(groups, n)
        return ParticleState(x, weights, torch.cat([state.ess, ess[None]]), path, state.tempered | short)

    def increase_noise(self, state: ParticleState, sigma: float, sigma_next: float, *, noise: Noise) -> ParticleState:
        """Add the missing noise; weights do not change."""
        return state._replace(x=add_noise(state.x, sigma, sigma_next, noise))

    def particles(self, state: ParticleState, data: Gaussian) -> Particles:
        """The particles of the last state, with normalised weights."""
        n = state.log_weights.shape[1]
        weights, short = tempered(state.log_weights, self.least_ess)
        total = weights.logsumexp(1)
        short = state.tempered | short
        std = torch.as_tensor(data.noise_std, device=weights.device).expand(weights.numel())[::n]
        evidence = torch.where((std > 0) & ~short, total - math.log(n), torch.nan)
        ess = torch.cat([state.ess, effective_sample_size(state.log_weights)[None]])
        return Particles(state.x, weights.log_softmax(1), ess, evidence, short)

    def output(self, state: ParticleState) -> Tensor:
        """The weighted mean of every item, ``(B, C, *spatial)``."""
        return weighted_mean(state.x, tempered(state.log_weights, self.least_ess)[0])
