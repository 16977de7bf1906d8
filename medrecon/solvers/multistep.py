"""Second-order multistep form of solvers that correct a clean estimate and add noise again.

After DPM-Solver++(2M) and SDE-DPM-Solver++(2M): Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion
probabilistic models", arXiv 2211.01095, algorithm 2 and appendix; written for x = x0 + sigma n, where the log-SNR step is
ln(sigma / sigma').
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.admm import Splitting
from medrecon.solvers.base import Solver, add_noise, setting

__all__ = ["Multistep", "MultistepSolver"]

D = TypeVar("D", bound=Likelihood, contravariant=True)


class Multistep(NamedTuple):
    """An image, and the clean estimate that it was made of.

    Args:
        x: image.
        estimate: corrected clean estimate of the previous step; ``None`` before the first step and after the noise was raised.
        sigma: noise level of the previous step.
        variables: variables of ADMM, of solvers that use it.
    """

    x: Tensor
    estimate: Tensor | None = None
    sigma: float = 0.0
    variables: Splitting | None = None


@dataclass(frozen=True, kw_only=True)
class MultistepSolver(Solver[Multistep, D]):
    """A solver that can extrapolate its corrected clean estimate from the current and the previous one.

    ``xe + extrapolation h / (2 h_before) (xe - xe_before)`` takes the place of ``xe``, with ``h = ln(sigma / sigma')`` and
    ``h_before`` that of the previous step; the first step and the step to 0 are of first order.

    Args:
        extrapolation: 0 is the method of the paper, of first order; with 1, the deterministic form is of second order. Fresh
            noise makes successive estimates differ by more than their trend. Extrapolation amplifies this, so that values above
            1 are seldom useful.
    """

    extrapolation: float = setting(0.0, 0.0, 2.0)

    def change(self, state: Multistep, estimate: Tensor, sigma: float, sigma_next: float) -> Tensor | float:
        """What extrapolation adds to the corrected clean ``estimate``."""
        # A level that is repeated has no length to extrapolate from.
        if self.extrapolation == 0 or state.estimate is None or sigma_next == 0 or not state.sigma > sigma:
            return 0.0
        weight = self.extrapolation * math.log(sigma / sigma_next) / (2 * math.log(state.sigma / sigma))
        return weight * (estimate - state.estimate)

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: D, noise: Noise) -> Multistep:
        """The state before the first step."""
        return Multistep(x)

    def increase_noise(self, state: Multistep, sigma: float, sigma_next: float, *, noise: Noise) -> Multistep:
        """Add noise; the previous estimate belongs to another path and is dropped."""
        return Multistep(add_noise(state.x, sigma, sigma_next, noise), variables=state.variables)

    def output(self, state: Multistep) -> Tensor:
        """The image."""
        return state.x
