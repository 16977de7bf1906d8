"""DDPM: Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020.

arXiv 2006.11239, algorithm 2; written for x = x0 + sigma n, for any ladder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires

__all__ = ["DDPM", "Variance"]

Variance = Literal["small", "large"]


@dataclass(frozen=True, kw_only=True)
class DDPM(ImageSolver[NoData]):
    """Unconditional sampler: the ancestral step, with either of the paper's two variances.

    ``x' = x0 + (sigma'^2 / sigma^2) (x - x0) + v z``, ``v^2 = sigma'^2 (1 - sigma'^2 / sigma^2)`` (small) or
    ``(sigma^2 - sigma'^2)(1 + sigma'^2) / (1 + sigma^2)`` (large: the paper's beta)

    Args:
        variance: ``"small"`` is right for images without uncertainty (DDIM with eta = 1), ``"large"`` for images that
            are N(0, 1).

    Cost:
        1 network evaluation a step.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    variance: Variance = "small"

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> Tensor:
        """One denoising, one draw of the reverse chain; the clean estimate at the end."""
        x0 = prior(state, sigma)
        if sigma_next == 0:
            return x0
        variance_ratio = (sigma_next / sigma) ** 2
        if self.variance == "small":
            variance = sigma_next**2 * (1 - variance_ratio)
        else:
            variance = (sigma**2 - sigma_next**2) * (1 + sigma_next**2) / (1 + sigma**2)
        return x0 + variance_ratio * (state - x0) + variance**0.5 * noise.like(state)
