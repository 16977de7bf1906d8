"""ScoreMed: Song, Shen, Xing, Ermon, "Solving inverse problems in medical imaging with score-based generative models".

ICLR 2022, arXiv 2111.08005, algorithm 2; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, project_on_data, renoise, setting
from medrecon.solvers.pc import corrector

__all__ = ["ScoreMed"]


@dataclass(frozen=True, kw_only=True)
class ScoreMed(ImageSolver[Gaussian]):
    """Predictor-corrector sampling in which the image is projected on data of its noise level before every update.

    ``x <- x + strength A^+ (y + sigma A z - A x)``, then a Langevin move or the predictor; at the end the clean estimate and
    the same with ``sigma = 0`` and ``strength = 1``

    Args:
        snr: signal-to-noise ratio of a Langevin move (the paper's r).
        n_corrector: Langevin moves at every level.
        strength: 0 (the prior alone) to 1 (measured components are replaced; the paper's lambda).
        n_cg: iterations of ``A^+`` where it has no closed form.

    Cost:
        ``n_corrector + 1`` network evaluations and as many ``A^+`` a step.

    Deviation:
        predictor and corrector leave the noise of the level, see :class:`medrecon.solvers.scoremri.ScoreMRI`;
        written with the pseudo-inverse: for ``A = P(Lambda) T`` with T unitary (MRI of one coil) it is the paper's; CT
        and several coils need no invertible T this way.
    """

    snr: float = setting(0.16, 0.0, 10.0)
    n_corrector: int = setting(1, 0, 10_000)
    strength: float = setting(1.0, 0.0, 1.0)
    n_cg: int = setting(2, 0, 10_000)

    @property
    def evaluations(self) -> int:
        """Predictor and correctors."""
        return self.n_corrector + 1

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """Project on the data, correct, project, predict."""
        x = state
        for _ in range(self.n_corrector):
            x = project_on_data(x, data, sigma, self.strength, self.n_cg, noise)
            x = corrector(x, sigma, prior=prior, noise=noise, snr=self.snr, keep_level=True)
        x = project_on_data(x, data, sigma, self.strength, self.n_cg, noise)
        x0 = prior(x, sigma)
        x = renoise(x0, (x - x0) / sigma, sigma, sigma_next, 1.0, noise)
        if sigma_next == 0 and self.strength > 0:
            return project_on_data(x, data, 0.0, 1.0, self.n_cg, noise)
        return x
