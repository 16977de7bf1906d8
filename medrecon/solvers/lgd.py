"""LGD-MC: Song et al., "Loss-guided diffusion models for plug-and-play controllable generation", ICML 2023.

Algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ANY, ImageSolver, Requires, image_spread, renoise, residual_norm_and_grad, setting

__all__ = ["LGD"]


@dataclass(frozen=True, kw_only=True)
class LGD(ImageSolver[Likelihood]):
    """Loss-guided diffusion: like DPS, with the residual norm averaged over images near the clean estimate.

    ``x' = ancestral(x0, x) - zeta sqrt(n (1 + sigma^2)(1 + sigma'^2)) J^T mean_k grad |y - A(x0 + r z_k)|``,
    ``r = sigma s / sqrt(sigma^2 + s^2)``, ``s = image_std``

    Args:
        zeta: step, per root of the number ``n`` of values in an image; see DPS.
        n_draws: images over which the residual norm is averaged (the paper's n).
        image_std: standard deviation of the images per component (the paper's 1).

    Cost:
        1 network evaluation, 1 vector-Jacobian product, ``n_draws`` forwards and adjoints a step.

    Deviation:
        the mean of the gradients of norms, where the paper takes the gradient of the logarithm of the mean of
        exponentials: of thousands of measurements the largest of these outweighs all others.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator, likelihood=ANY)

    zeta: float = setting(0.04, 0.0, 1.0)
    n_draws: int = setting(4, 1, 10_000)
    image_std: float = setting(0.25, 1e-6, 1e6)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Tensor:
        """One ancestral step and one averaged gradient step."""
        x0, vjp = with_vjp(prior, state, sigma)
        r = image_spread(sigma, self.image_std)
        gradients = [residual_norm_and_grad(x0 + r * noise.like(x0), data)[1] for _ in range(self.n_draws)]
        x = renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise)
        scale = self.zeta * (state[0].numel() * (1 + sigma**2) * (1 + sigma_next**2)) ** 0.5
        return x - scale * vjp(torch.stack(gradients).mean(0))
