"""MCG: Chung, Sim, Ryu, Ye, "Improving diffusion models for inverse problems using manifold constraints", NeurIPS 2022.

arXiv 2206.00941, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ImageSolver, project_on_data, renoise, residual_norm_and_grad, setting

__all__ = ["MCG"]


@dataclass(frozen=True, kw_only=True)
class MCG(ImageSolver[Gaussian]):
    """Manifold-constrained gradient: a DPS step, then the measured part is replaced by noisy data.

    ``x0 = prior(x);  x' = ancestral(x0, x) - zeta sqrt(n (1 + sigma^2)(1 + sigma'^2)) grad_x |y - A x0|``
    ``x' <- x' + strength A^+ (y + sigma' A z - A x')``

    With ``strength = 1`` only the unmeasured part of the gradient changes the image. For noiseless data: it reproduces the
    noise in ``y`` (DPS, by the same authors, does not).

    Args:
        zeta: step, per root of the number ``n`` of values in an image; see DPS.
        strength: 0 (DPS) to 1 of the projection (the paper's lambda, which falls from 1 to 0.6 for CT).
        n_cg: iterations of ``A^+`` where it has no closed form.

    Cost:
        1 network evaluation, 1 vector-Jacobian product, 1 forward, 1 adjoint and one ``A^+`` a step.

    Deviation:
        the plain residual and its norm, where the paper's CT weights it by a filtered back-projection and takes the square; a
        constant strength; ancestral steps, where the paper's CT predicts and corrects.
    """

    zeta: float = setting(0.04, 0.0, 1.0)
    strength: float = setting(1.0, 0.0, 1.0)
    n_cg: int = setting(2, 0, 10_000)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One ancestral step, one gradient step, one projection."""
        x0, vjp = with_vjp(prior, state, sigma)
        _, gradient = residual_norm_and_grad(x0, data)
        x = renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise)
        n = state[0].numel()
        x = x - self.zeta * (n * (1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * vjp(gradient)
        return project_on_data(x, data, sigma_next, self.strength, self.n_cg, noise)
