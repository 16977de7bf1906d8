"""DDNM and DDNM+: Wang, Yu, Zhang, "Zero-shot image restoration using denoising diffusion null-space model", ICLR 2023.

arXiv 2212.00490, algorithms 1 and 2; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import Kernel, Solver, renoise

__all__ = ["DDNM", "DDNMPlus"]


@dataclass(frozen=True, kw_only=True)
class DDNM(Solver):
    """Denoising diffusion null-space model: the range of A^H from the data, its null space from the prior.

    ``x0 = prior(x);  xe = x0 + A^+ (y - A x0);  x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``

    For noiseless data: it reproduces whatever noise ``y`` holds.

    Args:
        eta: share of fresh noise, 0 to 1 (the paper's 0.85; 1 was better on validation scans).
        n_cg: iterations of ``A^+`` where it has no closed form; more reproduce the data, and their noise amplified by the
            small singular values of A, so few are better unless the data are noiseless.
        kernel: how noise is added back, see :func:`medrecon.solvers.base.renoise`.

    Cost:
        1 network evaluation and one ``A^+`` a step.
    """

    eta: float = 1.0
    n_cg: int = 1
    kernel: Kernel = "ddnm"

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One denoising, one projection, one re-noising."""
        x0 = prior(state, sigma)
        xe = x0 + data.A.pinv(data.residual(x0), self.n_cg)
        return renoise(xe, (state - x0) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)


@dataclass(frozen=True, kw_only=True)
class DDNMPlus(Solver):
    """DDNM for noisy data: corrects only as far as the noise of the next level can hide the noise of the data.

    ``lambda = min(1, eta sigma' / noise_std);  P = A^+ A;  xe = x0 + lambda A^+ (y - A x0)``
    ``x' = xe + sigma' sqrt(1 - eta^2) (x - x0) / sigma + eta sigma' (I - P) z
    + sqrt(eta^2 sigma'^2 - lambda^2 noise_std^2) P z``

    Args:
        eta: share of fresh noise, 0 to 1.
        n_cg: iterations of ``A^+`` where it has no closed form; see :class:`DDNM`.

    Cost:
        1 network evaluation and two ``A^+`` a step.

    Deviation:
        the scalar form, which takes all non-zero singular values of A as 1; ``x0`` is returned at the last step.
    """

    eta: float = 1.0
    n_cg: int = 2

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One denoising, one damped projection, and noise that is smaller where the data's own noise came in."""
        x0 = prior(state, sigma)
        fresh = self.eta * sigma_next
        std = torch.as_tensor(data.noise_std, dtype=x0.dtype, device=x0.device).view(-1, *[1] * (x0.ndim - 1))
        damping = torch.where(std > 0, (fresh / torch.where(std > 0, std, 1.0)).clamp(max=1.0), 1.0)
        xe = x0 + damping * data.A.pinv(data.residual(x0), self.n_cg)
        x = xe + sigma_next * (1 - self.eta**2) ** 0.5 * (state - x0) / sigma
        if fresh == 0:
            return x
        z = noise.like(x)
        measured = data.A.pinv(data.A(z), self.n_cg)
        # 0 but for rounding wherever damping < 1.
        left = (fresh**2 - (damping * std) ** 2).clamp(min=0).sqrt()
        return x + fresh * (z - measured) + left * measured
