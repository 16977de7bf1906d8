"""SMRD: Ozturkler et al., "SMRD: SURE-based robust MRI reconstruction with diffusion models", MICCAI 2023.

arXiv 2310.01799, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator, implicit_solve
from medrecon.operators.linalg import dot
from medrecon.priors.base import Prior, score
from medrecon.solvers.base import Solver, adam, add_noise, annealed, setting

__all__ = ["SMRD", "sure"]


class _State(NamedTuple):
    x: Tensor
    log_lam: Tensor
    """Logarithm of the weight of the prior, ``(B,)``."""
    first: Tensor
    second: Tensor
    steps: int = 0


def _fitted(A: LinearOperator, y: Tensor, lam: Tensor, n_cg: int) -> Tensor:
    """``A.pinv(y, n_cg, lam)``, differentiable in ``lam``."""
    return A.pinv(y, n_cg, lam) if A.closed_form else implicit_solve(A, A.adjoint(y), lam, None, n_cg)


def sure(data: Gaussian, x: Tensor, lam: Tensor, probe: Tensor, n_cg: int) -> tuple[Tensor, Tensor]:
    """Stein's unbiased estimate of ``E |A z - A x_true|^2`` of ``z = (A^H A + lam)^-1 (A^H y + lam x)``, and ``z`` itself.

    ``|A z - y|^2 - m noise_std^2 + 2 noise_std^2 tr(A (A^H A + lam)^-1 A^H)``, the trace by one ``probe`` of independent
    components with variance 1 (Hutchinson); ``m`` counts the nonzero components of ``y``. Differentiable in ``lam`` ``(B,)``;
    ``x`` counts as fixed.

    Reference: Stein, Ann. Stat. 9 (1981); Ramani, Blu, Unser, IEEE TIP 17 (2008).
    """
    z = x + _fitted(data.A, data.residual(x), lam, n_cg)
    spread = _fitted(data.A, data.A(probe), lam, n_cg)
    r = data.residual(z)
    variance = torch.as_tensor(data.noise_std).to(x) ** 2
    return dot(r, r) - variance * data.n_measured + 2 * variance * dot(probe, spread), z


@dataclass(frozen=True, kw_only=True)
class SMRD(Solver[_State, Gaussian]):
    """Annealed Langevin dynamics with a solve for the data, and a weight tuned online by SURE.

    ``n_inner`` times ``x <- x + a score(x, sigma) + s z``, ``a = step_size sigma^2``, then
    ``x <- (A^H A + lam)^-1 (A^H y + lam x)`` and one Adam step on SURE in ``ln lam``; last, ``prior(x, sigma)`` and that solve

    Args:
        step_size: step of a move over sigma^2, below 2.
        n_inner: moves per level.
        lam: initial weight (the paper's lambda, 2).
        lr: learning rate of Adam on ``ln lam`` (the paper's 0.2, on lambda).
        n_cg: conjugate-gradient iterations of a solve (the paper's 5).

    Cost:
        ``n_inner`` network evaluations and four times as many solves a step; one evaluation at the end.

    Deviation:
        the noise ``s`` is that of :func:`medrecon.solvers.base.annealed`, ``sqrt(2 a)`` in the limit of small steps;
        the risk of the measured components, for which SURE is unbiased as far as ``x`` is independent of the data (the
        reference code multiplies the two terms of SURE and measures it on aliased images, whose noise is not white);
        Adam on ``ln lam``, from 1 (the paper: on lambda, from 2); the weight is updated at all levels and the run ends
        with the ladder, where the paper stops when SURE rises.
    """

    step_size: float = setting(0.2, 1e-12, 2.0)
    n_inner: int = setting(3, 1, 10_000)
    lam: float = setting(1.0, 1e-12, 1e12)
    lr: float = setting(0.2, 1e-12, 1e6)
    n_cg: int = setting(5, 0, 10_000)

    @property
    def evaluations(self) -> int:
        """The moves."""
        return self.n_inner

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> _State:
        """The initial weight."""
        zero = x.new_zeros(len(x))
        return _State(x, x.new_full((len(x),), self.lam).log(), zero, zero)

    def _solve_data(self, state: _State, x: Tensor, data: Gaussian, noise: Noise) -> _State:
        """Solve for the data and update the weight."""
        probe = noise.white(x)
        with torch.enable_grad():
            log_lam = state.log_lam.detach().requires_grad_()
            risk, z = sure(data, x, log_lam.exp(), probe, self.n_cg)
            (gradient,) = torch.autograd.grad(risk.sum(), log_lam)
        move, first, second = adam(gradient, state.first, state.second, state.steps + 1)
        return _State(z.detach(), (state.log_lam - self.lr * move).clamp(-20, 20), first, second, state.steps + 1)

    def step(
        self, state: _State, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> _State:
        """Moves at ``sigma``, each followed by a solve; the clean estimate at the last level."""
        a = self.step_size * sigma**2
        for k in range(self.n_inner):
            target = sigma_next if k == self.n_inner - 1 and sigma_next > 0 else sigma
            s = annealed(self.step_size, sigma, target)
            x = state.x + a * score(prior, state.x, sigma) + s * noise.like(state.x)
            state = self._solve_data(state, x, data, noise)
        return self._solve_data(state, prior(state.x, sigma), data, noise) if sigma_next == 0 else state

    def increase_noise(self, state: _State, sigma: float, sigma_next: float, *, noise: Noise) -> _State:
        """Add noise to the image; keep the weight."""
        return state._replace(x=add_noise(state.x, sigma, sigma_next, noise))

    def output(self, state: _State) -> Tensor:
        """The image."""
        return state.x
