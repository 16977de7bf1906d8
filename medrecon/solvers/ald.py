"""ALD: Jalal, Arvinte, Daras, Price, Dimakis, Tamir, "Robust compressed sensing MRI with deep generative priors".

NeurIPS 2021, arXiv 2108.01368; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, score
from medrecon.solvers.base import ImageSolver, annealed, setting

__all__ = ["ALD", "ALDRelative"]


@dataclass(frozen=True, kw_only=True)
class ALD(ImageSolver[Gaussian]):
    """Annealed Langevin dynamics on the posterior: the likelihood is widened by the noise of the image.

    ``n_inner`` times ``x <- x + a (score + A^H (y - A x) / (L sigma^2 + noise_std^2)) + s z``,
    ``a = step_size sigma^2``, ``L = |A|^2``; last, ``prior(x, sigma)``. The noise ``s`` leaves the image at level ``sigma``,
    and after the last move at the next: :func:`medrecon.solvers.base.annealed`

    Args:
        step_size: step of a move over sigma^2, below 1 (score and data term each contribute at most this much).
        n_inner: moves at every level (the paper's 3 to 6, with 1155 levels).

    Cost:
        ``n_inner`` network evaluations, ``A`` and ``A^H`` a step; one evaluation at the end.

    Deviation:
        ``s`` is ``sqrt(2 a)`` in the paper, where it is the limit of small steps; at the steps that fifty levels need, the image
        would be noisier than the level that the prior assumes, and worse than a zero-filled one.
        the paper's gamma_t is a free sequence; here it is the spread of ``A n`` for noise ``n`` of the level, at most.
        Norms are per item.
    """

    step_size: float = setting(0.2, 1e-12, 1.0)
    n_inner: int = setting(3, 1, 10_000)

    @property
    def evaluations(self) -> int:
        """The moves."""
        return self.n_inner

    def _data_weight(self, x: Tensor, sigma: float, score_x: Tensor, gradient: Tensor, data: Gaussian) -> Tensor:
        """Weight of ``gradient = A^H (y - A x)`` beside the score, ``(B,)``."""
        spread = data.lipschitz * sigma**2 + torch.as_tensor(data.noise_std).to(x) ** 2
        return torch.where(spread > 0, 1 / torch.where(spread > 0, spread, 1.0), 0.0)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """Moves at ``sigma``; the clean estimate at the last level."""
        x, a = state, self.step_size * sigma**2
        for k in range(self.n_inner):
            score_x, gradient = score(prior, x, sigma), data.A.adjoint(data.residual(x))
            weight = batch_broadcast(self._data_weight(x, sigma, score_x, gradient, data), x)
            target = sigma_next if k == self.n_inner - 1 and sigma_next > 0 else sigma
            x = x + a * (score_x + weight * gradient) + annealed(self.step_size, sigma, target) * noise.like(x)
        return prior(x, sigma) if sigma_next == 0 else x


@dataclass(frozen=True, kw_only=True)
class ALDRelative(ALD):
    """Annealed Langevin dynamics as in the reference code: the data term has ``weight`` times the length of the score.

    ``n_inner`` times ``x <- x + a (score + weight |score| g / |g|) + s z`` with ``g = A^H (y - A x)``; all else as :class:`ALD`

    Args:
        step_size: step of a move over sigma^2, below 1.
        n_inner: moves at every level (the paper's 3 to 6, with 1155 levels).
        weight: length of the data term over that of the score (5 in the reference code).

    Cost:
        ``n_inner`` network evaluations, ``A`` and ``A^H`` a step; one evaluation at the end.
    """

    weight: float = setting(5.0, 0.0, 1e12)

    def _data_weight(self, x: Tensor, sigma: float, score_x: Tensor, gradient: Tensor, data: Gaussian) -> Tensor:
        """``weight |score| / |g|``, 0 where ``g`` is."""
        size = dot(gradient, gradient)
        ratio = dot(score_x, score_x) / torch.where(size > 0, size, 1.0)
        return self.weight * torch.where(size > 0, ratio, 0.0).sqrt()
