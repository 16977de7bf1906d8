"""DAPS: Zhang et al., "Improving diffusion inverse problem solving with decoupled noise annealing", CVPR 2025.

arXiv 2407.01521, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian, Likelihood, NoData, Poisson, Rician, Transmission
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator, Operator
from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior
from medrecon.solvers.base import ANY, ImageSolver, Requires, image_spread, probability_flow, sample_prox, setting

__all__ = ["DAPS", "DAPSLangevin", "DecoupledAnnealing"]


@dataclass(frozen=True, kw_only=True)
class DecoupledAnnealing(ImageSolver[Likelihood]):
    """Decoupled annealing: a draw from data and clean estimate together, then all noise anew.

    ``x0 = ODE(x, sigma -> 0);  z ~ exp(log p(y | z) - |z - x0|^2 / (2 r^2));  x' = z + sigma' n``

    :class:`DAPS` draws ``z`` exactly, :class:`DAPSLangevin` by Langevin moves.

    Args:
        n_ode: steps of the probability-flow ODE.
        image_std: standard deviation of the images per component, which makes ``r = sigma s / sqrt(sigma^2 + s^2)``;
            ``None``: ``r = sigma``.
        n_cg: conjugate-gradient iterations of a solve.
    """

    n_ode: int = setting(5, 1, 10_000)
    image_std: float | None = setting(None, 1e-6, 1e6)
    n_cg: int = setting(10, 0, 10_000)

    @property
    def evaluations(self) -> int:
        """Steps of the ODE."""
        return self.n_ode

    def draw(self, x0: Tensor, r: float, data: Likelihood, noise: Noise) -> Tensor:
        """``z`` near the clean estimate ``x0`` of standard deviation ``r``, given the data."""
        raise NotImplementedError(f"{type(self).__name__} must define draw")

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Likelihood, noise: Noise
    ) -> Tensor:
        """Down the ODE, a draw, and noise of the next level."""
        x0 = probability_flow(prior, state, sigma, self.n_ode)
        r = sigma if self.image_std is None else image_spread(sigma, self.image_std)
        z = self.draw(x0, r, data, noise)
        return z if sigma_next == 0 else z + sigma_next * noise.like(z)


@dataclass(frozen=True, kw_only=True)
class DAPS(DecoupledAnnealing):
    """Decoupled annealing with an exact draw: for linear A and Gaussian noise, by a perturbed solve.

    ``x0 = ODE(x, sigma -> 0);  z ~ exp(log p(y | z) - |z - x0|^2 / (2 r^2));  x' = z + sigma' n``

    Args:
        n_ode: steps of the probability-flow ODE (the paper's 5, with 50 to 200 levels; 50 evaluations in all are better spent on
            levels, with ``n_ode=1`` and ``image_std=0.1``).
        image_std: standard deviation of the images per component, which makes ``r = sigma s / sqrt(sigma^2 + s^2)``; ``None`` is
            the paper's ``r = sigma``, which inflates the variance of the samples.
        n_cg: conjugate-gradient iterations of the solve.

    Cost:
        ``n_ode`` network evaluations and one solve a step.

    Deviation:
        the paper draws by Langevin moves; see :class:`DAPSLangevin`.
    """

    def check(self, data: Likelihood | NoData) -> None:
        """Refuse a problem without an exact draw, and name the solver that can work with it.

        Raises:
            TypeError: if the operator is not linear or the noise not Gaussian.
        """
        linear = isinstance(data.A, LinearOperator)
        if isinstance(data.A, Operator) and not (linear and isinstance(data, Gaussian)):
            more = "" if linear else " with a step lr (1e-4, say)"
            raise TypeError(
                f"DAPS needs a LinearOperator and a Gaussian likelihood; choose DAPSLangevin (daps-langevin){more}"
            )
        super().check(data)

    def draw(self, x0: Tensor, r: float, data: Likelihood, noise: Noise) -> Tensor:
        """An exact draw, as far as the solve is exact."""
        assert isinstance(data, Gaussian)
        return sample_prox(x0, data, r**2, self.n_cg, noise)


@dataclass(frozen=True, kw_only=True)
class DAPSLangevin(DecoupledAnnealing):
    """Decoupled annealing with Langevin moves: for any operator and any law of the noise.

    ``x0 = ODE(x, sigma -> 0);  z ~ exp(log p(y | z) - |z - x0|^2 / (2 r^2));  x' = z + sigma' n``

    Args:
        n_ode: steps of the probability-flow ODE; see :class:`DAPS`.
        image_std: standard deviation of the images per component; see :class:`DAPS`.
        n_cg: conjugate-gradient iterations of each Newton step to the mode, where the moves begin for laws other than Gaussian.
        n_inner: Langevin moves per draw (the paper's 100).
        lr: step of a move; ``None`` takes a twentieth of the largest stable one for linear A (the paper's 1e-4 diverges where the
            data are precise). It takes data with Gaussian noise more precise than 1e-3 of ``r`` for that precise; under other
            laws, whose curvature differs from ray to ray, the moves begin at the mode.
        momentum: momentum of the moves, 0 (overdamped) to 1 (the paper's Hamiltonian form).

    Cost:
        ``n_ode`` network evaluations and ``n_inner`` forwards and adjoints a step.

    Deviation:
        one ``lr`` for all levels (the paper's falls to a hundredth).
    """

    requires: ClassVar[Requires] = Requires(operator=Operator, likelihood=ANY)

    n_inner: int = setting(100, 1, 10_000)
    lr: float | None = setting(None, 1e-12, 1e6)
    momentum: float = setting(0.0, 0.0, 0.999)

    def check(self, data: Likelihood | NoData) -> None:
        """The automatic step needs a linear operator.

        Raises:
            TypeError: if there is neither a step nor a linear operator.
        """
        super().check(data)
        if self.lr is None and not isinstance(data.A, LinearOperator):
            raise TypeError("DAPSLangevin: lr=None needs a LinearOperator; give a step lr (1e-4, say)")

    def draw(self, x0: Tensor, r: float, data: Likelihood, noise: Noise) -> Tensor:
        """Langevin moves from ``x0``, or from the mode."""
        lr: float | Tensor | None = self.lr
        first = x0
        if lr is None and isinstance(data, Gaussian):
            std = torch.as_tensor(data.noise_std).to(x0).clamp(min=1e-3 * r)
            lr = batch_broadcast(0.1 / (data.lipschitz / std**2 + 1 / r**2), x0)
            data = replace(data, noise_std=std)  # after lipschitz, which the given likelihood caches
        elif lr is None:
            assert isinstance(data, Poisson | Transmission | Rician)
            lr = batch_broadcast(0.1 / (data.curvature + 1 / r**2), x0)
            first = data.prox(x0, r**2, self.n_cg)
        x, velocity = first, torch.zeros_like(x0)
        for _ in range(self.n_inner):
            gradient = data.grad(x) - (x - x0) / r**2
            fresh = (2 * (1 - self.momentum) * lr) ** 0.5 * noise.like(x)
            velocity = self.momentum * velocity + lr * gradient + fresh
            x = x + velocity
        return x
