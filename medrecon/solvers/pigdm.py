"""PiGDM: Song, Vahdat, Mardani, Kautz, "Pseudoinverse-guided diffusion models for inverse problems", ICLR 2023.

Equations 7 and 8; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ImageSolver, image_spread, limit_step, renoise, setting

__all__ = ["PiGDM"]


@dataclass(frozen=True, kw_only=True)
class PiGDM(ImageSolver[Gaussian]):
    """Pseudoinverse guidance: the gradient of the likelihood if the clean estimate erred by white noise.

    ``x0 = prior(x), J its Jacobian, r = sigma s / sqrt(sigma^2 + s^2)``
    ``xe = x0 + (sigma / r)^2 J^T (A^H A + (noise_std / r)^2)^-1 A^H (y - A x0);  x' = renoised xe``

    Exact for a prior N(0, s^2 I).

    Args:
        image_std: standard deviation ``s`` of the images per component; the paper's r_t takes 1. Between 0.25 and 1 it
            hardly mattered on validation scans.
        eta: fraction of fresh noise, 0 to 1.
        n_cg: iterations of the solve where it has no closed form.

    Cost:
        1 network evaluation, 1 vector-Jacobian product and 1 solve a step.

    Deviation:
        the guided estimate takes the place of the clean one, and the noise direction is that of the guided estimate,
        as Bayes' rule has it; the paper adds the gradient, scaled, to a DDIM step. Steps that would increase the
        residual are shortened, see :func:`medrecon.solvers.base.limit_step`.
    """

    image_std: float = setting(0.5, 1e-6, 1e6)
    eta: float = setting(1.0, 0.0, 1.0)
    n_cg: int = setting(10, 0, 10_000)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One guided denoising, one re-noising."""
        x0, vjp = with_vjp(prior, state, sigma)
        r = image_spread(sigma, self.image_std)
        rho = (data.noise_std / r) ** 2
        missing = data.residual(x0)
        guided = data.A.pinv(missing, self.n_cg, rho)
        xe = x0 + limit_step((sigma / r) ** 2 * vjp(guided), data, missing)
        return renoise(xe, (state - xe) / sigma, sigma, sigma_next, self.eta, noise)
