"""DAPS: Zhang et al., "Improving diffusion inverse problem solving with decoupled noise annealing", CVPR 2025.

arXiv 2407.01521, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian, Likelihood, Poisson, Rician, Transmission
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator, Operator
from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior
from medrecon.solvers.base import ANY, Requires, Solver, image_spread, probability_flow, sample_prox

__all__ = ["DAPS", "Inner"]

Inner = Literal["exact", "langevin"]


@dataclass(frozen=True, kw_only=True)
class DAPS(Solver):
    """Decoupled annealing: a draw from data and clean estimate together, then all noise anew.

    ``x0 = ODE(x, sigma -> 0);  z ~ exp(log p(y | z) - |z - x0|^2 / (2 r^2));  x' = z + sigma' n``

    Args:
        n_ode: steps of the probability-flow ODE (the paper's 5, with 50 to 200 levels; 50 evaluations in all are better spent on
            levels, with ``n_ode=1`` and ``image_std=0.1``).
        inner: how ``z`` is drawn: ``"exact"`` (linear A, Gaussian noise: a perturbed solve) or ``"langevin"`` (any A and noise).
        image_std: spread of the images per component, which makes ``r = sigma s / sqrt(sigma^2 + s^2)``; ``None`` is the
            paper's ``r = sigma``, which inflates the variance of the samples.
        n_cg: iterations of the solve.
        n_inner: Langevin moves (the paper's 100).
        lr: of a move; ``None`` takes a twentieth of the largest stable one for linear A (the paper's 1e-4 diverges where the
            data are precise). It takes data with Gaussian noise more precise than 1e-3 of ``r`` for that precise; under other
            laws, whose curvature differs from ray to ray, the moves begin at the mode.
        momentum: of the moves, 0 (overdamped) to 1 (the paper's Hamiltonian form).

    Cost:
        ``n_ode`` network evaluations and one solve, or ``n_inner`` forwards and adjoints, a step.

    Deviation:
        draws exactly by default; one ``lr`` for all levels (the paper's falls to a hundredth).
    """

    requires: ClassVar[Requires] = Requires(operator=Operator, likelihood=ANY)

    n_ode: int = 5
    inner: Inner = "exact"
    image_std: float | None = None
    n_cg: int = 10
    n_inner: int = 100
    lr: float | None = None
    momentum: float = 0.0

    @property
    def evaluations(self) -> int:
        """Steps of the ODE."""
        return self.n_ode

    def check(self, data: Likelihood) -> None:
        """The exact draw needs a linear operator and Gaussian noise, the automatic step a linear operator."""
        super().check(data)
        linear = isinstance(data.A, LinearOperator)
        if self.inner == "exact" and not (linear and isinstance(data, Gaussian)):
            more = "" if linear else ", and a step lr (1e-4, say)"
            raise TypeError(
                f"DAPS: inner='exact' needs a LinearOperator and a Gaussian likelihood; give inner='langevin'{more}"
            )
        if self.lr is None and not linear:
            raise TypeError("DAPS: lr=None needs a LinearOperator; give a step lr (1e-4, say)")

    def _moved(self, x0: Tensor, r: float, data: Likelihood, noise: Noise) -> Tensor:
        """Langevin moves from ``x0`` on data and centre."""
        lr: float | Tensor | None = self.lr
        first = x0
        if lr is None and isinstance(data, Gaussian):
            std = torch.as_tensor(data.noise_std).to(x0).clamp(min=1e-3 * r)
            lr = batch_broadcast(0.1 / (data.lipschitz / std**2 + 1 / r**2), x0)
            data = replace(data, noise_std=std)  # after gain, which the problem keeps
        elif lr is None:
            assert isinstance(data, Poisson | Transmission | Rician)
            lr = batch_broadcast(0.1 / (data.curvature + 1 / r**2), x0)
            first = data.prox(x0, r**2, self.n_cg)
        x, velocity = first, torch.zeros_like(x0)
        for _ in range(self.n_inner):
            slope = data.grad(x) - (x - x0) / r**2
            fresh = (2 * (1 - self.momentum) * lr) ** 0.5 * noise.like(x)
            velocity = self.momentum * velocity + lr * slope + fresh
            x = x + velocity
        return x

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Tensor:
        """Down the ODE, a draw, and noise of the next level."""
        x0 = probability_flow(prior, state, sigma, self.n_ode)
        r = sigma if self.image_std is None else image_spread(sigma, self.image_std)
        if self.inner == "exact":
            assert isinstance(data, Gaussian)
            z = sample_prox(x0, data, r**2, self.n_cg, noise)
        else:
            z = self._moved(x0, r, data, noise)
        return z if sigma_next == 0 else z + sigma_next * noise.like(z)
