"""RED-diff: Mardani, Song, Kautz, Vahdat, "A variational perspective on solving inverse problems with diffusion models".

ICLR 2024, arXiv 2305.04391, algorithm 1; for MRI Ozturkler et al., MIDL 2023; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator, Operator
from medrecon.priors.base import Prior, eps
from medrecon.solvers.base import Requires, Solver, adam, setting

__all__ = ["REDDiff", "Schedule"]

Schedule = Literal["linear", "sqrt", "square", "constant", "inverse"]
_POWER = {"linear": 1.0, "sqrt": 0.5, "square": 2.0, "constant": 0.0, "inverse": -1.0}


class _State(NamedTuple):
    mu: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class REDDiff(Solver[_State, Gaussian]):
    """Variational point estimate: Adam on the data term and on the error of the prior's noise estimate.

    ``g = A^H (A mu - y) + prior_weight w(sigma) (eps(mu + sigma z) - z);  mu <- Adam(mu, g)``

    One Adam step a level, from the pseudo-inverse. Under ``w = 1 / sigma`` the expected second term is the gradient of the
    smoothed prior, so ``prior_weight = noise_std^2`` is maximum a posteriori.

    Args:
        prior_weight: weight of the prior (the paper's lambda, 0.25, for means over measurements and pixels; here both are
            sums).
        schedule: ``w(sigma)``: ``"linear"`` is sigma (the paper's choice); ``"sqrt"``, ``"square"``, ``"constant"``,
            ``"inverse"``.
        lr: learning rate of Adam, in image units (the paper's 0.1 for images of [-1, 1] and 1000 steps).
        n_cg: iterations of the pseudo-inverse it starts from.

    Cost:
        1 network evaluation, 1 forward and 1 adjoint a step.

    Deviation:
        sums instead of means; a nonlinear A starts from 0.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator)
    takes_start: ClassVar[bool] = False

    prior_weight: float = setting(0.1, 0.0, 1e12)
    schedule: Schedule = "linear"
    lr: float = setting(0.05, 1e-12, 1e6)
    n_cg: int = setting(5, 0, 10_000)

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> _State:
        """The pseudo-inverse; ``x``, which is noise, is not used."""
        A: object = data.A
        mu = A.pinv(data.y, self.n_cg) if isinstance(A, LinearOperator) else torch.zeros_like(x)
        return _State(mu, torch.zeros_like(x), torch.zeros_like(x))

    def step(
        self, state: _State, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> _State:
        """One Adam step at one noise level."""
        z = noise.like(state.mu)
        unseen = eps(prior, state.mu + sigma * z, sigma) - z
        gradient = -data.A.vjp(state.mu, data.residual(state.mu))
        gradient = gradient + self.prior_weight * sigma ** _POWER[self.schedule] * unseen
        move, first, second = adam(gradient, state.first, state.second, state.steps + 1, 0.99)
        return _State(state.mu - self.lr * move, first, second, state.steps + 1)

    def increase_noise(self, state: _State, sigma: float, sigma_next: float, *, noise: Noise) -> _State:
        """The estimate contains no noise and stays."""
        return state

    def output(self, state: _State) -> Tensor:
        """The estimate."""
        return state.mu
