"""DPS: Chung, Kim, McCann, Klasky, Ye, "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023.

arXiv 2209.14687, algorithm 1 (Gaussian noise); written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.operators.linalg import dot, per_item
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import Requires, Solver, renoise

__all__ = ["DPS"]


@dataclass(frozen=True, kw_only=True)
class DPS(Solver):
    """Diffusion posterior sampling: an ancestral step, then a step down the gradient of the residual norm.

    ``x0 = prior(x);  x' = ancestral(x0, x) - zeta sqrt((1 + sigma^2)(1 + sigma'^2)) grad_x |y - A(x0)|``

    The gradient is ``-J^T A^H r / |r|`` with J the Jacobian of the prior; it is 0 where r is. The root is the change
    from the paper's variance-preserving variable, ``1 / (s s')``.

    Args:
        zeta: step, a length in image space (the paper's zeta, 0.3 to 1 for 1000 steps on [-1, 1] images; fewer steps
            need more: 5 was chosen for 50 steps at 230 x 180 on validation scans).

    Cost:
        1 network evaluation, 1 vector-Jacobian product, 1 forward and 1 adjoint a step.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator)

    zeta: float = 5.0

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One ancestral step and one gradient step."""
        x0, vjp = with_vjp(prior, state, sigma)
        r = data.residual(x0)
        size = dot(r, r).sqrt()
        gradient = -vjp(data.A.vjp(x0, r)) / per_item(torch.where(size > 0, size, 1.0), state)
        x = renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise, "ddim")
        return x - self.zeta * ((1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * gradient
