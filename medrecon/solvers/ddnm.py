"""DDNM and DDNM+: Wang, Yu, Zhang, "Zero-shot image restoration using denoising diffusion null-space model", ICLR 2023.

arXiv 2212.00490, algorithms 1 and 2; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Kernel, renoise, setting
from medrecon.solvers.classical import lipschitz
from medrecon.solvers.ddrm import DDRM
from medrecon.solvers.multistep import Multistep, MultistepSolver

__all__ = ["DDNM", "DDNMPlus"]


@dataclass(frozen=True, kw_only=True)
class DDNM(MultistepSolver[Gaussian]):
    """Denoising diffusion null-space model: the range of A^H from the data, its null space from the prior.

    ``x0 = prior(x);  xe = x0 + A^+ (y - A x0);  x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``

    For noiseless data: it reproduces the noise in ``y``.

    Args:
        eta: fraction of fresh noise, 0 to 1 (the paper's 0.85; 1 was better on validation scans).
        n_cg: iterations of ``A^+`` where it has no closed form; more reproduce the data, and their noise amplified by the
            small singular values of A, so few are better unless the data are noiseless.
        kernel: formula of the added noise, see :func:`medrecon.solvers.base.renoise`.
        extrapolation: weight of the change since the previous step, see :class:`medrecon.solvers.MultistepSolver`; 0 is the
            paper.

    Cost:
        1 network evaluation and one ``A^+`` a step.
    """

    eta: float = setting(1.0, 0.0, 1.0)
    n_cg: int = setting(1, 0, 10_000)
    kernel: Kernel = "ddnm"

    def step(
        self, state: Multistep, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Multistep:
        """One denoising, one projection, one re-noising."""
        x0 = prior(state.x, sigma)
        xe = x0 + data.A.pinv(data.residual(x0), self.n_cg)
        ahead = self.change(state, xe, sigma, sigma_next)
        x = renoise(xe + ahead, (state.x - x0 - ahead) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)
        return Multistep(x, xe, sigma)


@dataclass(frozen=True, kw_only=True)
class DDNMPlus(ImageSolver[Gaussian]):
    """DDNM for noisy data: corrects only as far as the noise of the next level can hide the noise of the data.

    ``w = sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``, ``P = A^+ A`` and, with ``n = noise_std / |A|``,

    ``x' = x0 + (I - P) w + lambda A^+ (y - A x0) + P g z``

    * ``sigma' >= n``: ``lambda = 1, g = sqrt(sigma'^2 - n^2)``
    * ``sigma' < n``: ``lambda = sqrt(1 - eta^2) sigma' / n, g = eta sigma'``

    Where the singular values ``s`` are known, each has a separate ``n = noise_std / s``: these are the steps of
    :class:`DDRM` with ``eta_b = 1``.

    Args:
        eta: fraction of fresh noise, 0 to 0.95 (the paper's 0.85); with 1 the data would be forgotten, see :class:`DDRM`.
        n_cg: iterations of ``A^+`` where it has no closed form; see :class:`DDNM`.

    Cost:
        1 network evaluation a step, and two ``A^+`` where the singular values are not known.

    Deviation:
        where they are not known, all count as ``|A|``. That is right for multiples of a projector. For smaller singular
        values the data's noise in the image is larger than ``n``: what ``n_cg`` iterations of ``A^+`` let in of it is
        taken for the image.

    Reference: eq. 17 to 19 of the paper and their form per singular value in its appendix, with DDIM's eta as in its experiments.
    """

    eta: float = setting(0.85, 0.0, 0.95)
    n_cg: int = setting(2, 0, 10_000)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One denoising, one damped projection, and less noise where the data contributed theirs."""
        A = data.A
        if isinstance(A, Spectral):
            return DDRM(eta=self.eta).step(state, sigma, sigma_next, prior=prior, data=data, noise=noise)
        x0 = prior(state, sigma)
        kept = (1 - self.eta**2) ** 0.5
        n = batch_broadcast(torch.as_tensor(data.noise_std).to(x0) / lipschitz(data).sqrt(), x0)
        covered = n <= sigma_next
        damping = torch.where(covered, 1.0, kept * sigma_next / torch.where(n > 0, n, 1.0))
        x = x0 + damping * A.pinv(data.residual(x0), self.n_cg)
        if sigma_next == 0:
            return x
        z = noise.like(x)
        w = sigma_next * (kept * (state - x0) / sigma + self.eta * z)
        g = torch.where(covered, (sigma_next**2 - n**2).clamp(min=0).sqrt(), self.eta * sigma_next)
        return x + w + A.pinv(A(g * z - w), self.n_cg)
