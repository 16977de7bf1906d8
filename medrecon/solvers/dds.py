"""DDS: Chung, Lee, Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems", ICLR 2024.

arXiv 2303.05754, algorithm 1 (noisy form); written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.admm import Splitting
from medrecon.solvers.base import Kernel, data_weight, renoise, setting
from medrecon.solvers.multistep import Multistep, MultistepSolver

__all__ = ["DDS"]


@dataclass(frozen=True, kw_only=True)
class DDS(MultistepSolver[Gaussian]):
    """Decomposed diffusion sampler: a few conjugate-gradient steps towards the data after every denoising step.

    ``x0 = prior(x, sigma_scale sigma);  xe = CG_K[(A^H A + rho I) z = A^H y + rho x0, from x0]``
    ``x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``

    Args:
        gamma: weight of the data, ``rho = 1 / gamma`` (the paper's gamma, 1 there); ``None`` derives rho from the
            noise at every step, ``rho = prior_weight noise_std^2 / min(sigma, 1)^2``.
        prior_weight: weight of the prior where ``gamma`` is ``None``.
        sigma_scale: noise level given to the prior, over the level of the ladder. The corrected estimate has errors where the
            data determine little, and fresh noise is added, so ``x`` is noisier than ``sigma``; 1 is the paper.
        n_cg: conjugate-gradient iterations (the paper's K, 5; more helps where few lines leave the system ill-conditioned).
        eta: fraction of fresh noise, 0 to 1 (the paper's 0.85; with the weak priors that a CPU trains, 1 was better on
            validation scans).
        kernel: formula of the added noise, see :func:`medrecon.solvers.base.renoise`.
        extrapolation: weight of the change since the previous step, see :class:`medrecon.solvers.MultistepSolver`; 0 is the
            paper.

    Cost:
        1 network evaluation and ``n_cg + 1`` applications of ``A^H A`` a step.

    Deviation:
        the paper keeps gamma constant (``gamma=1`` is the paper); with noisy data a weight that follows the noise
        level is better, see :func:`medrecon.solvers.base.data_weight`. The paper gives the prior ``sigma``.
    """

    gamma: float | None = setting(None, 1e-12, 1e12)
    prior_weight: float = setting(0.2, 0.0, 1e12)
    sigma_scale: float = setting(1.3, 0.01, 100.0)
    n_cg: int = setting(10, 0, 10_000)
    eta: float = setting(1.0, 0.0, 1.0)
    kernel: Kernel = "ddnm"

    def step(
        self, state: Multistep, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Multistep:
        """One denoising, ``n_cg`` conjugate-gradient steps, one re-noising."""
        x0 = prior(state.x, self.sigma_scale * sigma)
        constant = None if self.gamma is None else 1 / self.gamma
        rho = data_weight(constant, self.prior_weight, data.noise_std, sigma)
        xe, variables = self.correct(x0, data, rho, state.variables)
        ahead = self.change(state, xe, sigma, sigma_next)
        x = renoise(xe + ahead, (state.x - x0 - ahead) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)
        return Multistep(x, xe, sigma, variables)

    def correct(
        self, x0: Tensor, data: Gaussian, rho: float | Tensor, before: Splitting | None
    ) -> tuple[Tensor, Splitting | None]:
        """The clean estimate moved towards the data, and variables for the next step."""
        return data.fit(x0, rho, self.n_cg), None
