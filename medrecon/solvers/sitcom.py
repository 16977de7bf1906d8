"""SITCOM: Alkhouri et al., "SITCOM: step-wise triple-consistent diffusion sampling for inverse problems", ICML 2025.

arXiv 2410.04479, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ImageSolver, Requires, adam, setting

__all__ = ["SITCOM"]


@dataclass(frozen=True, kw_only=True)
class SITCOM(ImageSolver[Gaussian]):
    """Step-wise triple consistency: the network's input is optimised until its denoised output explains the data.

    ``v = argmin |y - A prior(v, sigma)|^2 + lam |v - x|^2 / (1 + sigma^2)``, by ``n_inner`` steps of Adam from ``x``;
    ``x' = prior(v, sigma) + sigma' z``; an item stops once the noise explains its residual

    Args:
        lam: weight of the distance from the input (the paper's lambda, in its variance-preserving variable: hence ``1 +
            sigma^2``).
        n_inner: Adam steps (the paper's K, 20 to 30, at 20 levels).
        lr: learning rate of Adam, relative to the size ``sqrt(sigma^2 + 0.25^2)`` of the input (the paper's 0.01 to
            0.02 for images and noise of unit size; with five steps an input, 0.1 to 0.2 was better on validation scans).

    Cost:
        ``n_inner + 1`` network evaluations, ``n_inner`` vector-Jacobian products, forwards and adjoints a step; fewer where
        the data are explained.

    Deviation:
        steps are relative to the size of the input, with images of a spread of 0.25; the noise explains ``noise_std^2`` times
        the number of nonzero components of ``y``.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator)

    lam: float = setting(1e-3, 1e-12, 1e12)
    n_inner: int = setting(5, 1, 10_000)
    lr: float = setting(0.02, 1e-12, 1e6)

    @property
    def evaluations(self) -> int:
        """Adam steps and the last estimate, unless all items stop early."""
        return self.n_inner + 1

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """Move the input, denoise it, and add noise of the next level."""
        enough = torch.as_tensor(data.noise_std).to(state) ** 2 * data.n_measured
        lr = self.lr * (sigma**2 + 0.25**2) ** 0.5
        v, first, second = state, torch.zeros_like(state), torch.zeros_like(state)
        going = torch.ones(len(state), dtype=torch.bool, device=state.device)
        for k in range(1, self.n_inner + 1):
            x0, vjp = with_vjp(prior, v, sigma)
            r = data.residual(x0)
            going = going & (dot(r, r) > enough)
            if not going.any():
                break
            gradient = -2 * vjp(data.A.vjp(x0, r)) + 2 * self.lam / (1 + sigma**2) * (v - state)
            move, first, second = adam(gradient, first, second, k)
            v = v - batch_broadcast(going.to(v.dtype), v) * lr * move
        else:
            x0 = prior(v, sigma)
        return x0 if sigma_next == 0 else x0 + sigma_next * noise.like(x0)
