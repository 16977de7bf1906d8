"""Annealed Langevin dynamics (SMLD, NCSN): Song and Ermon, "Generative modeling by estimating gradients", NeurIPS 2019.

arXiv 1907.05600, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior, score
from medrecon.solvers.base import ImageSolver, Requires, setting

__all__ = ["Langevin"]


@dataclass(frozen=True, kw_only=True)
class Langevin(ImageSolver[NoData]):
    """Unconditional sampler: Langevin moves at every noise level, which (nearly) preserve its distribution.

    ``n_inner`` times ``x <- x + a score(x, sigma) + sqrt(2 a) z`` with ``a = step_size sigma^2``; last, ``prior(x, sigma)``

    Args:
        step_size: step of a move over sigma^2, below 2 (the paper's ``epsilon / (2 sigma_L^2)``: its moves are
            ``alpha / 2`` along the score and ``sqrt(alpha)`` of noise).
        n_inner: moves at every level (the paper's T, 100).

    Cost:
        ``n_inner`` network evaluations a step, and one at the end.

    Deviation:
        ends with the clean estimate, as later versions do, and not with the last move.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    step_size: float = setting(0.1, 1e-12, 2.0)
    n_inner: int = setting(5, 1, 10_000)

    @property
    def evaluations(self) -> int:
        """The moves."""
        return self.n_inner

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> Tensor:
        """Moves at ``sigma``; the clean estimate at the last level."""
        x, a = state, self.step_size * sigma**2
        for _ in range(self.n_inner):
            x = x + a * score(prior, x, sigma) + (2 * a) ** 0.5 * noise.like(x)
        return prior(x, sigma) if sigma_next == 0 else x
