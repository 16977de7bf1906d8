"""DPS: Chung, Kim, McCann, Klasky, Ye, "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023.

arXiv 2209.14687, algorithms 1 (Gaussian noise) and 2 (Poisson); written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ANY, ImageSolver, Requires, renoise, residual_norm_and_grad, setting

__all__ = ["DPS"]


@dataclass(frozen=True, kw_only=True)
class DPS(ImageSolver[Likelihood]):
    """Diffusion posterior sampling: an ancestral step, then a step down the gradient of the residual norm.

    ``x0 = prior(x);  x' = ancestral(x0, x) - zeta sqrt(n (1 + sigma^2)(1 + sigma'^2)) grad_x |y - A(x0)|``

    The gradient is ``-J^T A^H r / |r|`` with J the Jacobian of the prior; it is 0 where r is. Its norm does not grow with the
    image, whose norm is about ``sqrt(n)`` for ``n`` values; with the factor ``sqrt(n)``, ``zeta`` has the same meaning
    at every size. The rest of the root is the change from the paper's variance-preserving variable, ``1 / (s s')``.
    Counts are weighted by about one over their standard deviation.

    Args:
        zeta: step, per root of the number of values in an image. The paper's zeta is ``zeta sqrt(n)``: 0.3 to 1 for 1000 steps
            on [-1, 1] images of 3 x 256 x 256, here 0.0007 to 0.0023. Fewer steps need more: 0.02 to 0.04 were best for 50
            steps on validation scans.

    Cost:
        1 network evaluation, 1 vector-Jacobian product, 1 forward and 1 adjoint a step.

    Deviation:
        ``sqrt(n)``, see above; for counts the weighted norm, where algorithm 2 takes its square.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator, likelihood=ANY)

    zeta: float = setting(0.04, 0.0, 1.0)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Tensor:
        """One ancestral step and one gradient step."""
        x0, vjp = with_vjp(prior, state, sigma)
        _, gradient = residual_norm_and_grad(x0, data)
        x = renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise, "ddim")
        n = state[0].numel()
        return x - self.zeta * (n * (1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * vjp(gradient)
