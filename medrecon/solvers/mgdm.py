"""MGDM: "Bi-level guided diffusion models for zero-shot medical imaging inverse problems".

Askari, Roosta, Sun, arXiv 2404.03706 (BGDM, the revised form), algorithm 2 with line 11 read as
``|xe - xt0|^2`` stored in the next x; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import Kernel, data_weight, renoise, setting
from medrecon.solvers.multistep import Multistep, MultistepSolver

__all__ = ["MGDM"]


@dataclass(frozen=True, kw_only=True)
class MGDM(MultistepSolver[Gaussian]):
    """Bi-level guidance: a conditional mean inside, a proximal step outside, then the gradient of their discrepancy.

    ``x0 = prior(x);  xt0 = x0 + 2 zeta sqrt(1 + sigma^2) J^T A^H (y - A x0)``            (inner)
    ``xe = (A^H A + lam)^-1 (A^H y + lam xt0);  w = xe - xt0``                             (outer)
    ``x' = xe + sigma' (sqrt(1 - eta^2) (x - x0) / sigma + eta z)``
    ``x' += 2 rho sqrt((1 + sigma^2)(1 + sigma'^2)) J^T A^H A (A^H A + lam)^-1 w``          (refinement)

    Args:
        zeta: step of the inner conditional mean, below 1; 0 switches it off (the ablation's "no-i").
        rho: step of the refinement; 0 switches it off ("no-r").
        outer: whether the proximal step is taken; without it the refinement is skipped ("no-pr").
        lam: weight of the estimate in the proximal step (the paper's lambda, 1e-3 to 1e-2 for noiseless data);
            ``None`` derives it from the noise at every step, ``prior_weight noise_std^2 / min(sigma, 1)^2``.
        prior_weight: weight of the prior where ``lam`` is ``None``.
        sigma_scale: noise level given to the prior, over the level of the ladder; see :class:`medrecon.solvers.DDS`. 1
            is the paper.
        eta: fraction of fresh noise, 0 to 1 (the paper's 0.85; 1 was better on validation scans).
        n_cg: conjugate-gradient iterations of each of the two solves, where they have no closed form.
        kernel: formula of the added noise, see :func:`medrecon.solvers.base.renoise`.
        extrapolation: weight of the change since the previous step, see :class:`medrecon.solvers.MultistepSolver`; 0 is the
            paper.

    Raises:
        ValueError: for steps that amplify errors, ``zeta >= 1`` or ``2 rho |1 - 2 zeta| >= 1`` (the paper's printed
            ranges reach beyond).

    Cost:
        1 network evaluation, 2 vector-Jacobian products (1 without zeta or rho) and 2 solves a step.

    Deviation:
        the refinement takes the Jacobian of the inner correction as zero, which saves second derivatives, and it is
        left out at the last step, so the result is a proximal point.
    """

    zeta: float = setting(0.25, 0.0, 1.0)
    rho: float = setting(0.25, 0.0, 1e12)
    outer: bool = True
    lam: float | None = setting(None, 1e-12, 1e12)
    prior_weight: float = setting(1.0, 0.0, 1e12)
    sigma_scale: float = setting(1.0, 0.01, 100.0)
    eta: float = setting(1.0, 0.0, 1.0)
    n_cg: int = setting(5, 0, 10_000)
    kernel: Kernel = "ddnm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zeta >= 1 or 2 * self.rho * abs(1 - 2 * self.zeta) >= 1:
            raise ValueError(
                f"MGDM amplifies errors with zeta = {self.zeta} and rho = {self.rho}; "
                "keep zeta < 1 and 2 rho |1 - 2 zeta| < 1"
            )

    def step(
        self, state: Multistep, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Multistep:
        """Inner mean, outer proximal step, re-noising, refinement."""
        A = data.A
        refine = self.outer and self.rho > 0 and sigma_next > 0
        if self.zeta > 0 or refine:
            x0, vjp = with_vjp(prior, state.x, self.sigma_scale * sigma)
        else:
            x0, vjp = prior(state.x, self.sigma_scale * sigma), None

        # Inner level
        xt0 = x0
        if vjp is not None and self.zeta > 0:
            xt0 = x0 + 2 * self.zeta * (1 + sigma**2) ** 0.5 * vjp(data.adjoint_y - A.normal(x0))

        # Outer level
        lam = data_weight(self.lam, self.prior_weight, data.noise_std, sigma)
        xe = data.fit(xt0, lam, self.n_cg) if self.outer else xt0
        ahead = self.change(state, xe, sigma, sigma_next)
        x = renoise(xe + ahead, (state.x - x0 - ahead) / sigma, sigma, sigma_next, self.eta, noise, self.kernel)

        # Refinement
        if vjp is not None and refine:
            discrepancy = A.pinv(A(xe - xt0), self.n_cg, lam)  # A^H A commutes with the inverse
            x = x + 2 * self.rho * ((1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * vjp(discrepancy)
        return Multistep(x, xe, sigma)
