"""DiffusionMBIR: Chung, Ryu, McCann, Klasky, Ye, "Solving 3D inverse problems using pre-trained 2D diffusion models".

CVPR 2023, arXiv 2211.10655, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.admm import Splitting, z_step
from medrecon.solvers.base import Solver, add_noise, data_weight, renoise, setting
from medrecon.solvers.pc import corrector

__all__ = ["MBIR"]


class _State(NamedTuple):
    x: Tensor
    variables: Splitting | None = None


@dataclass(frozen=True, kw_only=True)
class MBIR(Solver[_State, Gaussian]):
    """Predictor-corrector sampling of slices, which one iteration of ADMM joins by total variation along z.

    ``x <- corrector(x);  x0 = prior(x, sigma)``, slice by slice
    ``xe = one iteration of ADMM for |y - A z|^2 / 2 + rho |z - x0|^2 / 2 + lam |D_z z|_1``,
    see :func:`medrecon.solvers.admm.z_step`
    ``x' = xe + sigma' (sqrt(1 - kappa^2) (x - x0) / sigma + kappa z)``, ``kappa^2 = 1 - sigma'^2 / sigma^2`` (the predictor)

    The variables of ADMM are kept from level to level. The z axis is the first spatial axis of the image; ``D_z`` does not
    couple its ends.

    Args:
        snr: signal-to-noise ratio of a Langevin move (the paper's r, 0.16); 0.7 replaces nearly all of the noise.
        n_corrector: Langevin moves at every level.
        prior_weight: weight of the prior, ``rho = prior_weight noise_std^2 / min(sigma, 1)^2``; 0 is the paper.
        n_cg: conjugate-gradient iterations (1 in the paper).
        strength: weight of the variation along z, ``lam = strength noise_std^2`` (the paper's lambda), for images of unit
            scale.
        threshold: soft threshold of differences between slices, for images of unit scale (the paper's lambda / rho).

    Cost:
        ``n_corrector + 1`` network evaluations and ``n_cg + 1`` applications of ``A^H A`` a step.

    Deviation:
        the iteration of ADMM corrects the clean estimate, before the predictor adds noise. The paper's corrects the noisy image:
        among its 2000 levels two neighbours have nearly the same noise. With fifty, the kept variables would return the noise of
        the last level. Predictor and corrector leave the noise of the level that the prior assumes, as in
        :class:`medrecon.solvers.ScoreMRI`; weights are relative to the noise; the authors' code takes a periodic difference,
        which couples the first slice to the last.
    """

    needs_volume: ClassVar[bool] = True

    snr: float = setting(0.16, 0.0, 10.0)
    n_corrector: int = setting(1, 0, 10_000)
    prior_weight: float = setting(0.2, 0.0, 1e12)
    n_cg: int = setting(10, 1, 10_000)
    strength: float = setting(3.0, 0.0, 1e6)
    threshold: float = setting(0.1, 1e-6, 10.0)

    @property
    def evaluations(self) -> int:
        """Predictor and correctors."""
        return self.n_corrector + 1

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> _State:
        """The image, without variables."""
        return _State(x)

    def step(
        self, state: _State, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> _State:
        """Correct, denoise, join the slices, and add noise."""
        x = state.x
        for _ in range(self.n_corrector):
            x = corrector(x, sigma, prior=prior, noise=noise, snr=self.snr, keep_level=True)
        x0 = prior(x, sigma)
        rho = data_weight(None, self.prior_weight, data.noise_std, sigma)
        xe, variables = z_step(
            x0, data, rho, state.variables, strength=self.strength, threshold=self.threshold, n_cg=self.n_cg
        )
        return _State(renoise(xe, (x - x0) / sigma, sigma, sigma_next, 1.0, noise), variables)

    def increase_noise(self, state: _State, sigma: float, sigma_next: float, *, noise: Noise) -> _State:
        """Add noise to the image."""
        return _State(add_noise(state.x, sigma, sigma_next, noise), state.variables)

    def output(self, state: _State) -> Tensor:
        """The image."""
        return state.x
