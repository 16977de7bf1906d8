"""The density of a prior, by its probability-flow ODE: Song et al., ICLR 2021, section 4.3 and appendix D.2.

On priors for inverse imaging: Feng et al., "Score-based diffusion models as principled priors for inverse imaging", ICCV 2023.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from medrecon.operators.linalg import dot
from medrecon.priors.base import Prior, with_vjp

__all__ = ["log_density"]


@torch.no_grad()
def log_density(
    prior: Prior,
    x: Tensor,
    *,
    sigma_min: float = 0.01,
    sigma_max: float = 80.0,
    n_steps: int = 100,
    probe: Tensor | None = None,
) -> Tensor:
    """``log p(x)`` at noise level ``sigma_min``, in nats, ``(B,)``.

    ``log N(x_T; 0, sigma_max^2 I) + int (n - tr J) / sigma d sigma`` along the flow ``dx / d sigma = (x - prior(x)) / sigma``,
    by Heun's steps, even in ln sigma. A network's is no exact density, since its Jacobian is that of no exact prior.

    A value, not a loss: it has no gradient.

    Args:
        prior: the prior.
        x: images ``(B, C, *spatial)``.
        sigma_min: first noise level; the density is that of images with this noise.
        sigma_max: last noise level, much larger than the standard deviation and mean of the images.
        n_steps: integration steps; two evaluations each.
        probe: random signs like ``x``, for Hutchinson's estimate of the trace along the whole path (Grathwohl et al.,
            FFJORD, 2019): one vector-Jacobian product an evaluation. ``None``: the exact trace, as many as ``x`` has numbers.

    Raises:
        ValueError: if ``sigma_min`` is not below ``sigma_max``.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max; got {sigma_min} and {sigma_max}")
    n = x[0].numel()

    def flow(z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Velocity and divergence in ln sigma."""
        x0, vjp = with_vjp(prior, z, sigma)
        if probe is not None:
            trace = dot(probe, vjp(probe))
        else:
            trace = z.new_zeros(len(z))
            for i in range(n):
                e = torch.zeros_like(z)
                e.flatten(1)[:, i] = 1
                trace = trace + vjp(e).flatten(1)[:, i]
        return z - x0, n - trace

    levels = torch.linspace(math.log(sigma_min), math.log(sigma_max), n_steps + 1, dtype=torch.float64).tolist()
    total = x.new_zeros(len(x))
    for low, high in pairwise(levels):
        h = high - low
        v_low, divergence_low = flow(x, math.exp(low))
        v_high, divergence_high = flow(x + h * v_low, math.exp(high))
        x = x + h * (v_low + v_high) / 2
        total = total + h * (divergence_low + divergence_high) / 2
    return total - dot(x, x) / (2 * sigma_max**2) - n * math.log(sigma_max * math.sqrt(2 * math.pi))
