"""GibbsDDRM: Murata, Saito, Lai, Takida, Uesaka, Mitsufuji, Ermon, "GibbsDDRM", ICML 2023.

arXiv 2301.12686, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.blur import BlindBlur, largest_one
from medrecon.likelihood import BlindGaussian, Gaussian
from medrecon.noise import Noise
from medrecon.operators.deblur import InnerBlur, SpectralBlur, centred_kernel, unit_kernel
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, setting
from medrecon.solvers.blinddps import BlindSolver, BlindState, gradients
from medrecon.solvers.ddrm import DDRM

__all__ = ["GibbsDDRM"]

LEVEL = 0.05
"""Noise level at which the prior of the kernel is asked for its score."""


@dataclass(frozen=True, kw_only=True)
class GibbsDDRM(BlindSolver):
    """A partially collapsed Gibbs sampler: a DDRM step for the image given the kernel, then Langevin steps for the kernel.

    The image is updated by DDRM with the singular values of the periodic blur; the border of the blurred image, which was not
    measured, is drawn from ``k * x0`` plus noise. Below ``sigma_kernel``, ``n_langevin`` times:
    ``u <- u + tau (kernel_prior(u, s) - u) / s^2 - tau grad_u |y - khat * x0|^2 / (2 v) + sqrt(2 tau t) z``,
    with ``v`` the mean square of the residual, at least the noise, and a step ``tau`` that is normalised item by item.
    Without unknown parameters the solver is DDRM.

    Args:
        eta: as in DDRM.
        eta_b: as in DDRM.
        n_starts: see :class:`BlindSolver`.
        n_langevin: steps of the kernel per level.
        step_size: length of a step of the kernel, relative to its norm.
        sigma_kernel: see :class:`BlindSolver`; the paper skips the first 30 % of the levels.

    Cost:
        1 network evaluation, ``n_langevin`` evaluations of the kernel's prior a step; at the start as BlindDPS.

    Deviation:
        the prior of the kernel is a network, where the paper penalises its norm; kernels start from the spectrum of the data, as
        for BlindDPS. The step and the temperature are relative.
    """

    requires: ClassVar[Requires] = Requires(operator=Spectral)

    eta: float = setting(0.85, 0.0, 0.95)
    eta_b: float = setting(1.0, 0.0, 1.0)
    n_langevin: int = setting(3, 0, 1000)
    step_size: float = setting(0.01, 0.0, 1.0)

    def check(self, data: object) -> None:
        """Any blur with an unknown kernel, or data that DDRM takes."""
        if isinstance(data, BlindGaussian) and type(data) is not BlindBlur:
            raise TypeError(f"GibbsDDRM estimates blur kernels; {type(data).__name__} has other unknown parameters")
        if not isinstance(data, BlindBlur):
            super().check(data)  # type: ignore[arg-type]

    def step(
        self, state: BlindState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> BlindState:
        """One step of DDRM, then the kernel."""
        x0 = prior(state.x, sigma)

        def estimate(x: Tensor, sigma: float | Tensor) -> Tensor:
            return x0

        sweep = DDRM(eta=self.eta, eta_b=self.eta_b)
        if not isinstance(data, BlindBlur):
            x = sweep.step(state.x, sigma, sigma_next, prior=estimate, data=data, noise=noise)
            return BlindState(x, state.parameters)
        parameters = state.parameters
        whole = periodic(data, parameters["kernel"], x0, noise)
        x = sweep.step(state.x, sigma, sigma_next, prior=estimate, data=whole, noise=noise)
        if sigma < self.sigma_kernel:
            for _ in range(self.n_langevin):
                parameters = self._langevin(parameters, x0, data=data, noise=noise)
        return BlindState(x, parameters)

    def _langevin(
        self, parameters: Mapping[str, Tensor], x0: Tensor, *, data: BlindBlur, noise: Noise
    ) -> dict[str, Tensor]:
        """One step of the kernels."""
        u = largest_one(parameters["kernel"])
        square, found = gradients({"kernel": u}, data, x0)
        floor = torch.as_tensor(data.noise_std).to(u) ** 2
        v = torch.maximum(square / data.y[0].numel(), floor)
        drift = (data.prior(u, LEVEL) - u) / LEVEL**2 - found["kernel"] / batch_broadcast(2 * v, u)
        size = dot(drift, drift).sqrt().clamp(min=1e-12)
        tau = self.step_size * dot(u, u).sqrt() / size
        z = batch_broadcast((2 * tau).sqrt(), u) * noise.like(u)
        return {"kernel": centred_kernel(unit_kernel(u + batch_broadcast(tau, u) * drift + z))}


def periodic(data: BlindBlur, kernel: Tensor, x0: Tensor, noise: Noise) -> Gaussian:
    """The data with known kernels, on the whole periodic image: the border that was not measured is drawn given ``x0``.

    The noise level is the root mean square of the residual of ``x0``, at least that of the data: the residual ends at the border,
    so that it is spread over all frequencies.
    """
    one = data.with_parameters({"kernel": kernel})
    A = SpectralBlur(one.kernel, x0.shape[2:])
    r = one.residual(x0)
    given = torch.as_tensor(data.noise_std).to(r)
    level = torch.maximum((dot(r, r) / r[0].numel()).sqrt(), given)
    blurred = A(x0)
    drawn = blurred + batch_broadcast(given, blurred) * noise.like(blurred)
    outer: InnerBlur = one.A  # type: ignore[assignment]
    inside = outer.outer(torch.ones_like(data.y))
    return Gaussian(A, torch.where(inside > 0, outer.outer(data.y), drawn), level)
