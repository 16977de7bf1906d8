"""DPM-Solver++(2M): Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models".

arXiv 2211.01095, algorithm 2; written for x = x0 + sigma n, where the log-SNR step is ln(sigma / sigma').
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, Solver, add_noise

__all__ = ["DPMSolver"]


class _State(NamedTuple):
    x: Tensor
    x0: Tensor | None = None
    """Clean estimate of the previous step."""
    h: float = 0.0
    """Length of the previous step."""


@dataclass(frozen=True, kw_only=True)
class DPMSolver(Solver[_State, NoData]):
    """Unconditional sampler: second-order multistep integration of the probability-flow ODE, one evaluation a step.

    ``h = ln(sigma / sigma'), r = h_before / h;  D = (1 + 1 / 2r) x0 - (1 / 2r) x0_before``
    ``x' = (sigma' / sigma) x + (1 - sigma' / sigma) D``; the first and the last step are of first order (``D = x0``)

    Cost:
        1 network evaluation a step.
    """

    requires: ClassVar[Requires] = Requires(operator=object, likelihood=NoData)

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: NoData, noise: Noise) -> _State:
        """The state before the first step."""
        return _State(x)

    def step(
        self, state: _State, sigma: float, sigma_next: float, *, prior: Prior, data: NoData, noise: Noise
    ) -> _State:
        """Extrapolate the clean estimate from the current and the previous one."""
        if sigma_next == sigma:
            return state
        x0 = prior(state.x, sigma)
        if sigma_next == 0:
            return _State(x0)
        h = math.log(sigma / sigma_next)
        estimate = x0
        if state.x0 is not None:
            half = h / (2 * state.h)
            estimate = (1 + half) * x0 - half * state.x0
        ratio = sigma_next / sigma
        return _State(ratio * state.x + (1 - ratio) * estimate, x0, h)

    def increase_noise(self, state: _State, sigma: float, sigma_next: float, *, noise: Noise) -> _State:
        """Add noise; the previous estimate belongs to another path and is dropped."""
        return _State(add_noise(state.x, sigma, sigma_next, noise))

    def output(self, state: _State) -> Tensor:
        """The image."""
        return state.x
