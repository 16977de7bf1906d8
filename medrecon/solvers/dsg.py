"""DSG: Yang et al., "Guidance with spherical Gaussian constraint for conditional diffusion", ICML 2024.

arXiv 2402.03201, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ANY, ImageSolver, Requires, residual_norm_and_grad, setting

__all__ = ["DSG"]


def _unit(v: Tensor) -> Tensor:
    size = dot(v, v).sqrt()
    return v / batch_broadcast(torch.where(size > 0, size, 1.0), v)


@dataclass(frozen=True, kw_only=True)
class DSG(ImageSolver[Likelihood]):
    """Diffusion with spherical Gaussian constraint: guidance rotates the fresh noise and keeps its length.

    ``x' = m + r u`` with m the mean of the ancestral step, ``r = sqrt(n) v`` the length of its noise of standard deviation v, and
    u the direction of ``d + guidance (-r g / |g| - d)``, ``d = v z``, ``g = grad_x |y - A(x0)|``

    Args:
        guidance: 0 (the prior alone) to 1 (all noise points down the residual norm; the paper's g_r, 0.05 to 0.2).

    Cost:
        1 network evaluation, 1 vector-Jacobian product, 1 forward and 1 adjoint a step.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator, likelihood=ANY)

    guidance: float = setting(0.2, 0.0, 1.0)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Tensor:
        """The ancestral mean plus noise rotated towards the data; the clean estimate at the end."""
        x0, vjp = with_vjp(prior, state, sigma)
        if sigma_next == 0:
            return x0
        variance_ratio = (sigma_next / sigma) ** 2
        mean, std = x0 + variance_ratio * (state - x0), sigma_next * (1 - variance_ratio) ** 0.5
        r = std * state[0].numel() ** 0.5
        fresh = std * noise.like(state)
        _, gradient = residual_norm_and_grad(x0, data)
        towards = -r * _unit(vjp(gradient))
        guided = batch_broadcast((dot(towards, towards) > 0).to(state.dtype), state)  # 0 where the gradient is 0
        return mean + r * _unit(fresh + self.guidance * guided * (towards - fresh))
