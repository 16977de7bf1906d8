"""EDM: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022.

arXiv 2206.00364, algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires, setting

__all__ = ["Heun"]


@dataclass(frozen=True, kw_only=True)
class Heun(ImageSolver[NoData]):
    """Unconditional sampler: Heun's second-order steps down the probability-flow ODE, with optional added noise.

    ``s = (1 + churn) sigma;  u = x + sqrt(s^2 - sigma^2) z;  d = (u - prior(u, s)) / s``
    ``e = u + (sigma' - s) d;  x' = u + (sigma' - s) (d + (e - prior(e, sigma')) / sigma') / 2``

    Args:
        churn: relative increase of the noise level before a step (the paper's gamma, ``S_churn / N``, up to 0.41); 0 is the ODE.
        churn_min: lowest level that is increased (the paper's S_tmin).
        churn_max: highest level that is increased (the paper's S_tmax).
        noise_scale: factor on the added noise (the paper's S_noise, 1.003 to 1.007).

    Cost:
        2 network evaluations a step, 1 in the last.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    churn: float = setting(0.0, 0.0, 0.4143)
    churn_min: float = 0.05
    churn_max: float = 50.0
    noise_scale: float = setting(1.0, 0.0, 10.0)

    @property
    def evaluations(self) -> int:
        """One at each end of a step."""
        return 2

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> Tensor:
        """Add noise, then an Euler step and its correction by the direction at the other end."""
        x, level = state, sigma
        if self.churn > 0 and self.churn_min <= sigma <= self.churn_max:
            level = (1 + self.churn) * sigma
            x = x + self.noise_scale * (level**2 - sigma**2) ** 0.5 * noise.like(x)
        direction = (x - prior(x, level)) / level
        ahead = x + (sigma_next - level) * direction
        if sigma_next == 0:
            return ahead
        return x + (sigma_next - level) * (direction + (ahead - prior(ahead, sigma_next)) / sigma_next) / 2
