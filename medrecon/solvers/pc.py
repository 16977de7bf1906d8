"""Predictor-corrector sampling: Song et al., "Score-based generative modeling through stochastic differential equations".

ICLR 2021, arXiv 2011.13456, algorithms 2 to 5; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, score
from medrecon.solvers.base import ImageSolver, Requires, setting

__all__ = ["PredictorCorrector", "Process", "corrector", "predictor"]

Process = Literal["ve", "vp"]


def predictor(
    x: Tensor,
    sigma: float,
    sigma_next: float,
    *,
    prior: Prior,
    noise: Noise,
    process: Process = "ve",
    x0: Tensor | None = None,
) -> Tensor:
    """A reverse diffusion step; at ``sigma_next = 0`` its mean alone.

    ``x + d score + sqrt(d) z`` with ``d = sigma^2 - sigma'^2`` (``"ve"``); the variance-preserving form of the same is
    ``q ((2 - q) x + d score + sqrt(d) z)`` with ``q^2 = (1 + sigma'^2) / (1 + sigma^2)`` (``"vp"``).
    ``x0``: the clean estimate, if it is known.
    """
    drop = sigma**2 - sigma_next**2
    q = 1.0 if process == "ve" else ((1 + sigma_next**2) / (1 + sigma**2)) ** 0.5
    score_x = score(prior, x, sigma) if x0 is None else (x0 - x) / sigma**2
    mean = q * ((2 - q) * x + drop * score_x)
    return mean if sigma_next == 0 else mean + q * drop**0.5 * noise.like(x)


def corrector(x: Tensor, sigma: float, *, prior: Prior, noise: Noise, snr: float, keep_level: bool = False) -> Tensor:
    """A Langevin move, ``x + e score + sqrt(2 e) z`` with ``e = 2 (snr |z| / |score|)^2`` per item; 0 where the score is 0.

    ``keep_level``: for the large moves that few levels need, ``e`` is at most ``sigma^2`` and the noise that of
    :func:`medrecon.solvers.base.annealed`, ``sqrt(2 e - e^2 / sigma^2)``, which leaves an image at its level.
    """
    score_x, z = score(prior, x, sigma), noise.like(x)
    size = dot(score_x, score_x)
    e = batch_broadcast(2 * snr**2 * torch.where(size > 0, dot(z, z) / torch.where(size > 0, size, 1.0), 0.0), x)
    if keep_level:
        e = e.clamp(max=sigma**2)
    return x + e * score_x + (2 * e - (e / sigma) ** 2 if keep_level else 2 * e) ** 0.5 * z


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(ImageSolver[NoData]):
    """Unconditional sampler: Langevin moves at every level, then a step of the reverse diffusion to the next.

    Args:
        snr: signal-to-noise ratio of a move (the paper's r; 0.16 for 256 x 256 images).
        n_corrector: Langevin moves at every level.
        process: the discretisation, ``"ve"`` (variance exploding) or ``"vp"`` (variance preserving).

    Cost:
        ``n_corrector + 1`` network evaluations a step.

    Deviation:
        corrects first, as the authors' code does (the paper's algorithms predict first); norms are per item (that code
        averages over the batch); the factor ``alpha_t``, close to 1, of the variance-preserving corrector is left out.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    snr: float = setting(0.16, 0.0, 10.0)
    n_corrector: int = setting(1, 0, 10_000)
    process: Process = "ve"

    @property
    def evaluations(self) -> int:
        """Predictor and correctors."""
        return self.n_corrector + 1

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> Tensor:
        """Correct at ``sigma``, then predict ``sigma_next``."""
        for _ in range(self.n_corrector):
            state = corrector(state, sigma, prior=prior, noise=noise, snr=self.snr)
        return predictor(state, sigma, sigma_next, prior=prior, noise=noise, process=self.process)
