"""Sampling from the prior alone: DDIM and DDPM's ancestral sampling.

Song, Meng, Ermon, "Denoising diffusion implicit models", ICLR 2021, arXiv 2010.02502, eq. 12 and 16; Ho, Jain, Abbeel,
"Denoising diffusion probabilistic models", NeurIPS 2020, algorithm 2; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Kernel, Requires, renoise, setting

__all__ = ["DDIM"]


@dataclass(frozen=True, kw_only=True)
class DDIM(ImageSolver[NoData]):
    """Unconditional sampler: ``x0 = prior(x);  x' = x0 + sigma' (sqrt(1 - kappa^2) (x - x0) / sigma + kappa z)``.

    Args:
        eta: 0 is the probability-flow ODE by Euler's method, 1 is ancestral (DDPM with its small variance).
        kernel: formula of the added noise, see :func:`medrecon.solvers.base.renoise`.

    Cost:
        1 network evaluation a step.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    eta: float = setting(0.0, 0.0, 1.0)
    kernel: Kernel = "ddim"

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> Tensor:
        """One denoising, one re-noising."""
        x0 = prior(state, sigma)
        return renoise(x0, (state - x0) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)
