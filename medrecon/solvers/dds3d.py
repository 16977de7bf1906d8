"""DDS-3D: Chung, Lee, Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems", ICLR 2024.

arXiv 2303.05754, section 4.3 (volumes); written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.solvers.admm import Splitting, z_step
from medrecon.solvers.base import setting
from medrecon.solvers.dds import DDS

__all__ = ["DDS3D"]


@dataclass(frozen=True, kw_only=True)
class DDS3D(DDS):
    """DDS of a volume: the step towards the data also makes the differences between neighbouring slices sparse.

    ``x0 = prior(x, sigma_scale sigma)``, slice by slice
    ``xe = one iteration of ADMM for |y - A z|^2 / 2 + rho |z - x0|^2 / 2 + lam |D_z z|_1``,
    see :func:`medrecon.solvers.admm.z_step`
    ``x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``

    The variables of ADMM are kept from level to level. The z axis is the first spatial axis of the image; ``D_z`` does not
    couple its ends.

    Args:
        gamma: see :class:`medrecon.solvers.DDS`.
        prior_weight: see :class:`medrecon.solvers.DDS`.
        sigma_scale: see :class:`medrecon.solvers.DDS`.
        n_cg: see :class:`medrecon.solvers.DDS`.
        eta: see :class:`medrecon.solvers.DDS`.
        kernel: see :class:`medrecon.solvers.DDS`.
        extrapolation: see :class:`medrecon.solvers.DDS`.
        strength: weight of the variation along z, ``lam = strength noise_std^2`` (the paper's lambda); 0 is DDS. For images of
            unit scale.
        threshold: soft threshold of differences between slices, for images of unit scale (the paper's lambda / rho: 0.004
            for sparse-view CT, 0.04 for limited angles). It determines how fast ADMM converges, not to what.

    Cost:
        1 network evaluation and ``n_cg + 1`` applications of ``A^H A`` a step.

    Deviation:
        the penalty ``rho |z - x0|^2`` keeps DDS's weight of the prior (the paper's system is ``A^H A + eta D^H D`` alone, and
        stays near x0 because it stops after few iterations); weights are relative to the noise, not to an operator that is not
        normalised; the authors' code takes a periodic difference, which couples the first slice to the last.
    """

    needs_volume: ClassVar[bool] = True

    strength: float = setting(3.0, 0.0, 1e6)
    threshold: float = setting(0.1, 1e-6, 10.0)

    def correct(
        self, x0: Tensor, data: Gaussian, rho: float | Tensor, before: Splitting | None
    ) -> tuple[Tensor, Splitting | None]:
        """One iteration of ADMM."""
        return z_step(x0, data, rho, before, strength=self.strength, threshold=self.threshold, n_cg=self.n_cg)
