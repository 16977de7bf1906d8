"""NLINV: Uecker, Hohage, Block, Frahm, "Image reconstruction by regularized nonlinear inversion", MRM 60 (2008).

Image and coil sensitivities are estimated jointly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

from torch import Tensor

from medrecon.joint_maps import JointMaps
from medrecon.likelihood import BlindGaussian, Likelihood, NoData
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, Solver, setting

__all__ = ["NLINV"]


class Joint(NamedTuple):
    """State of NLINV.

    Args:
        x: image ``(B, C, *spatial)``.
        data: likelihood with the maps that belong to it; ``None`` before the step.
    """

    x: Tensor
    data: JointMaps | None


@dataclass(frozen=True, kw_only=True)
class NLINV(Solver[Joint, JointMaps]):
    """Regularised nonlinear inversion: image and coil maps from the same data, without calibration.

    ``(dx, dc) = argmin |y - F(x, c) - DF (dx, dc)|^2 + 2^-n (|x + dx - 1|^2 + |c + dc|^2)``, n = 0, 1, ...
    ``F(x, c) = M F (x F^-1 W c)``, ``W(k) = (1 + 220 |k / n|^2)^-16``; at the end maps have unit sum of squares

    Args:
        n_newton: largest number of Newton steps.
        n_cg: conjugate-gradient iterations per Newton step.
        discrepancy: residual over the noise at which the Newton steps stop; 0: they never do.

    Deviation:
        the reference takes a fixed number of steps (8 in BART, which leaves noisy scans too noisy and clean ones blurred). The
        data are scaled by their energy per pixel, so that the result does not depend on the size of the image.

    Reference:
        Uecker et al., MRM 60 (2008).
    """

    requires: ClassVar[Requires] = Requires(likelihood=JointMaps, prior=False)
    takes_start: ClassVar[bool] = False
    estimates_parameters: ClassVar[bool] = True

    n_newton: int = setting(12, 1, 100)
    n_cg: int = setting(30, 1, 10_000)
    discrepancy: float = setting(0.9, 0.0, 100.0)

    def check(self, data: Likelihood | NoData) -> None:
        """Refuse everything but k-space with unknown maps.

        Raises:
            TypeError: for another likelihood.
        """
        if not isinstance(data, JointMaps):
            raise TypeError(
                "NLINV estimates coil maps from Cartesian k-space of several coils, which these data are not; choose another "
                "solver, such as cg-sense"
            )
        super().check(data)

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: JointMaps, noise: Noise) -> Joint:
        """The image, which is not used."""
        return Joint(x, None)

    def step(
        self, state: Joint, sigma: float, sigma_next: float, *, prior: Prior, data: JointMaps, noise: Noise
    ) -> Joint:
        """All Newton steps."""
        return Joint(*data.inverted(self.n_newton, self.n_cg, self.discrepancy))

    def increase_noise(self, state: Joint, sigma: float, sigma_next: float, *, noise: Noise) -> Joint:
        """The estimate does not depend on the level."""
        return state

    def output(self, state: Joint) -> Tensor:
        """The image."""
        return state.x

    def final_data(self, state: Joint, data: BlindGaussian) -> BlindGaussian:
        """The likelihood with the maps that belong to the image."""
        return cast(JointMaps, data if state.data is None else state.data)
