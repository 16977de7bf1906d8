"""DDRM: Kawar, Elad, Ermon, Song, "Denoising diffusion restoration models", NeurIPS 2022.

arXiv 2201.11793, equations 7 and 8; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires, setting

__all__ = ["DDRM"]


@dataclass(frozen=True, kw_only=True)
class DDRM(ImageSolver[Gaussian]):
    """Denoising diffusion restoration: data enter per singular value of A, according to its noise level.

    ``x0 = V^H prior(x), e = V^H (x - prior(x)) / sigma, c = U^H y / s, n = noise_std / s``, all per singular value ``s``:

    * ``s = 0``: ``x0 + sigma' (sqrt(1 - eta^2) e + eta z)``
    * ``sigma' < n``: ``x0 + sigma' (sqrt(1 - eta^2) (c - x0) / n + eta z)``
    * ``sigma' >= n``: ``(1 - eta_b) x0 + eta_b c + sqrt(sigma'^2 - eta_b^2 n^2) z``

    Args:
        eta: fraction of fresh noise where the data are noisier than the image, 0 to 0.95. With 1 these steps would not contain
            ``c``, and the image would forget the data step by step: in noise levels, a residual of 1.4 after 20 steps and of
            4 after 1000 on an exact Gaussian problem, where 0.95 leaves 0.9 and 0.4.
        eta_b: weight of the data where they are less noisy, 0 to 1.

    Cost:
        1 network evaluation a step.

    Deviation:
        starts from noise like every solver here, which for a high first level is nearly the paper's start.
    """

    requires: ClassVar[Requires] = Requires(operator=Spectral)

    eta: float = setting(0.85, 0.0, 0.95)
    eta_b: float = setting(1.0, 0.0, 1.0)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One denoising, one draw per singular value."""
        A: Spectral = data.A  # type: ignore[assignment]
        clean = prior(state, sigma)
        x0, e = A.vh(clean), A.vh((state - clean) / sigma)
        seen = (A.singular > 0).expand(x0.shape)
        singular = torch.where(seen, A.singular, 1.0)
        c = A.uh(data.y) / singular
        n = batch_broadcast(torch.as_tensor(data.noise_std).to(singular), x0) / singular
        z = noise.like(x0) if sigma_next > 0 else torch.zeros_like(x0)
        kept = (1 - self.eta**2) ** 0.5
        hidden = x0 + sigma_next * (kept * e + self.eta * z)
        behind = x0 + sigma_next * (kept * (c - x0) / torch.where(n > 0, n, 1.0) + self.eta * z)
        fresh = (sigma_next**2 - (self.eta_b * n) ** 2).clamp(min=0).sqrt()
        ahead = x0 + self.eta_b * (c - x0) + fresh * z
        return A.v(torch.where(seen, torch.where(n > sigma_next, behind, ahead), hidden))
