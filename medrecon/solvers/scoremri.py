"""Score-MRI: Chung and Ye, "Score-based diffusion models for accelerated MRI", Medical Image Analysis 80 (2022).

arXiv 2110.05243, algorithms 2 to 5; written for x = x0 + sigma n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator
from medrecon.priors.base import Prior
from medrecon.solvers.base import Solver, add_noise, renoise, setting
from medrecon.solvers.pc import corrector

__all__ = ["ScoreMRI"]


class _State(NamedTuple):
    x: Tensor
    first: float
    """First noise level of the run."""
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class ScoreMRI(Solver[_State, Gaussian]):
    """Predictor-corrector sampling with a step towards the data after every update.

    ``x <- x + strength A^H (y - A x)`` after each of ``n_corrector`` Langevin moves and after the predictor

    Real images of one coil need no further setting. For complex images, wrap a prior of magnitudes by ``channelwise``. Several
    coils without maps (SSOS): the coil-wise operator, images of ``2 coils`` channels, ``channelwise``, and the root of the sum
    of squares afterwards; with ``coils`` every ``period``-th step also ties them together (the paper's hybrid).

    Args:
        snr: signal-to-noise ratio of a Langevin move (the paper's r); 0.7 replaces nearly all of the noise.
        n_corrector: Langevin moves at every level (the paper's M).
        strength: step towards the data; 1 replaces measured samples where ``A A^H = I`` (the paper's lambda).
        coils: operator from an image to its coil images, ``A`` being coil-wise, e.g. ``AsComplex^H Coils AsComplex``.
        period: steps between two ties.

    Cost:
        ``n_corrector + 1`` network evaluations and as many ``A``, ``A^H`` a step (twice that by ``channelwise``).

    Deviation:
        predictor and corrector leave the noise of the level that the prior assumes (the ancestral step; ``keep_level``
        moves); the paper's are their limits for many levels and small moves, 2000 there. With few, moves must be large
        to bring measured and unmeasured parts together: three of ``snr = 0.7`` a level gain 2 to 5 dB at 50 evaluations;
        norms are per item, and coils too are corrected first; the weight of a tie falls from 1 to 0.2 with the logarithm of
        sigma (in the paper with the number of the step, which on its ladder is the same), it goes to the coil images of the
        combined image (the reference code multiplies coil images by the maps that they already contain), and the data step is
        last.
    """

    snr: float = setting(0.16, 0.0, 10.0)
    n_corrector: int = setting(1, 0, 10_000)
    strength: float = setting(1.0, 0.0, 2.0)
    coils: LinearOperator | None = None
    period: int = setting(50, 1, 1_000_000)

    @property
    def evaluations(self) -> int:
        """Predictor and correctors."""
        return self.n_corrector + 1

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> _State:
        """Store the first level."""
        return _State(x, sigma)

    def _towards(self, x: Tensor, data: Gaussian) -> Tensor:
        return x + self.strength * data.A.adjoint(data.residual(x))

    def _tied(self, x: Tensor, weight: float, data: Gaussian, coils: LinearOperator) -> Tensor:
        """Coil images moved towards those of one image after a data step."""
        one = coils.adjoint(x)
        one = one + coils.adjoint(data.A.adjoint(data.residual(coils(one))))
        return x + weight * (coils(one) - x)

    def step(
        self, state: _State, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> _State:
        """Correct, predict, and step towards the data after each."""
        x, first, steps = state
        for _ in range(self.n_corrector):
            x = self._towards(corrector(x, sigma, prior=prior, noise=noise, snr=self.snr, keep_level=True), data)
        x0 = prior(x, sigma)
        x = renoise(x0, (x - x0) / sigma, sigma, sigma_next, 1.0, noise)
        steps += 1
        if self.coils is not None and steps % self.period == 0:
            high = math.log(sigma / 0.01) / math.log(first / 0.01) if first > 0.01 else 1.0
            x = self._tied(x, 0.2 + 0.8 * min(max(high, 0.0), 1.0), data, self.coils)
        return _State(self._towards(x, data), first, steps)

    def increase_noise(self, state: _State, sigma: float, sigma_next: float, *, noise: Noise) -> _State:
        """Add noise to the image."""
        return state._replace(x=add_noise(state.x, sigma, sigma_next, noise))

    def output(self, state: _State) -> Tensor:
        """The image, or the coil images."""
        return state.x
