"""DiffPIR: Zhu et al., "Denoising diffusion models for plug-and-play image restoration", CVPR workshops 2023.

arXiv 2305.08995, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ANY, Requires, renoise, setting
from medrecon.solvers.multistep import Multistep, MultistepSolver

__all__ = ["DiffPIR"]


@dataclass(frozen=True, kw_only=True)
class DiffPIR(MultistepSolver[Likelihood]):
    """Half-quadratic splitting: a proximal step on the data after every denoising, and noise seen from the result.

    ``x0 = prior(x);  xe = argmin -log p(y | z) + lam |z - x0|^2 / (2 sigma^2)``
    ``x' = xe + sigma' (sqrt(1 - f) (x - xe) / sigma + sqrt(f) z)`` with ``f = fresh_noise_fraction``

    Args:
        lam: weight of the clean estimate (the paper's lambda, 1 to 8); 1 is Bayes' rule if it erred by sigma.
        fresh_noise_fraction: fraction of the variance of the noise that is drawn anew, 0 to 1 (the paper's zeta).
        n_cg: conjugate-gradient iterations of the proximal step, where it has no closed form.
        extrapolation: weight of the change since the previous step, see :class:`medrecon.solvers.MultistepSolver`; 0 is the
            paper.

    Cost:
        1 network evaluation and 1 proximal step a step.
    """

    requires: ClassVar[Requires] = Requires(likelihood=ANY)

    lam: float = setting(1.0, 1e-12, 1e12)
    fresh_noise_fraction: float = setting(0.3, 0.0, 1.0)
    n_cg: int = setting(10, 0, 10_000)

    def step(
        self, state: Multistep, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Multistep:
        """One denoising, one proximal step, one re-noising."""
        xe = data.prox(prior(state.x, sigma), sigma**2 / self.lam, self.n_cg)
        ahead = xe + self.change(state, xe, sigma, sigma_next)
        eta = self.fresh_noise_fraction**0.5
        x = renoise(ahead, (state.x - ahead) / sigma, sigma, sigma_next, eta, noise, "ddnm")
        return Multistep(x, xe, sigma)
