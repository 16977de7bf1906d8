"""DDS: Chung, Lee, Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems", ICLR 2024.

arXiv 2303.05754, algorithm 1 (noisy form); written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import per_item
from medrecon.priors.base import Prior
from medrecon.solvers.base import Kernel, Solver, data_weight, renoise

__all__ = ["DDS"]


@dataclass(frozen=True, kw_only=True)
class DDS(Solver):
    """Decomposed diffusion sampler: a few conjugate-gradient steps towards the data after every denoising step.

    ``x0 = prior(x);  xe = CG_K[(A^H A + I / gamma) z = A^H y + x0 / gamma, from x0]``
    ``x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``

    Args:
        gamma: weight of the data (the paper's gamma, 1 there); ``None`` derives it from the noise at every step,
            ``gamma = min(sigma, 1)^2 / (2 noise_std^2)``.
        n_cg: conjugate-gradient iterations (the paper's K, 5).
        eta: share of fresh noise, 0 to 1 (the paper's 0.85).
        kernel: how noise is added back, see :func:`medrecon.solvers.base.renoise`.

    Cost:
        1 network evaluation and ``n_cg + 1`` applications of ``A^H A`` a step.

    Deviation:
        the paper keeps gamma constant; a weight that follows the noise level lets late steps trust a good prior
        more than noisy data, and early ones the data (``gamma=1`` is the paper).
    """

    gamma: float | None = None
    n_cg: int = 5
    eta: float = 0.85
    kernel: Kernel = "ddnm"

    @property
    def calibrated(self) -> bool:
        """Never: data consistency by projection is not a posterior kernel."""
        return False

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One denoising, ``n_cg`` conjugate-gradient steps, one re-noising."""
        x0 = prior(state, sigma)
        rho = data_weight(self.gamma, data.noise_std, sigma)
        xe = data.A.solve(data.back + per_item(rho, x0) * x0, rho, x0, self.n_cg)
        return renoise(xe, (state - x0) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)
