"""Total variation along z, for solvers of volumes: one iteration of ADMM, whose variables are kept from level to level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.operators.image import FiniteDifferences
from medrecon.operators.linalg import batch_broadcast, cg, dot
from medrecon.solvers.classical import shrink

__all__ = ["Splitting", "Z", "z_objective", "z_step"]

Z = FiniteDifferences((0,))
"""Differences along z, the first spatial axis; the first slice and the last are not neighbours."""


class Splitting(NamedTuple):
    """Variables of ADMM, ``(B, 1, C, *spatial)``.

    Args:
        d: sparse differences.
        u: scaled dual variable.
    """

    d: Tensor
    u: Tensor


def z_step(
    x: Tensor,
    data: Gaussian,
    rho: float | Tensor,
    before: Splitting | None,
    *,
    strength: float,
    threshold: float,
    n_cg: int,
) -> tuple[Tensor, Splitting | None]:
    """One iteration of ADMM for ``argmin_z |y - A z|^2 / 2 + rho |z - x|^2 / 2 + lam |D z|_1``.

    ``z = CG[(A^H A + rho I + eta D^H D) z = A^H y + rho x + eta D^H (d - u), from x]``
    ``d = shrink(D z + u, threshold);  u <- u + D z - d`` with ``eta = lam / threshold``

    ``lam = strength noise_std^2``: for images whose differences between slices have a Laplace density of rate ``strength``, this
    is the negative log-posterior times ``noise_std^2``, as with the ``rho`` of :func:`medrecon.solvers.base.data_weight`. The
    magnitude over the channels is thresholded, so a complex image is treated as one. With ``strength`` 0 or without noise it is
    :meth:`medrecon.likelihood.Gaussian.fit`.

    Args:
        x: centre of the quadratic penalty, and where the conjugate gradients begin.
        data: data of the volume.
        rho: weight of the penalty, a number or one per item.
        before: variables of the last iteration; ``None``: zeros.
        strength: weight of the variation along z, over the variance of the noise, for images of unit scale.
        threshold: soft threshold of differences between slices, for images of unit scale.
        n_cg: conjugate-gradient iterations.
    """
    each = _lam(data, strength) / threshold
    if not each.any():
        return data.fit(x, rho, n_cg), None
    A, weight = data.A, batch_broadcast(rho, x)
    eta = batch_broadcast(each, x)
    d, u = before or Splitting(torch.zeros_like(Z(x)), torch.zeros_like(Z(x)))

    def norm_squared(v: Tensor) -> Tensor:
        Dv = Z(v)
        return A.norm_squared(v) + rho * dot(v, v) + each * dot(Dv, Dv)

    # A correction of x, as in fit: round-off is not divided by small weights.
    right = A.adjoint(data.residual(x)) + eta * Z.adjoint(d - u - Z(x))
    tol = 1e-7 if x.dtype == torch.float32 else 1e-14
    z = x + cg(lambda v: A.normal(v) + weight * v + eta * Z.adjoint(Z(v)), right, None, n_cg, tol, norm_squared)
    v = Z(z) + u
    d = shrink(v, v.new_tensor(threshold), 2)
    return z, Splitting(d, v - d)


def z_objective(z: Tensor, x: Tensor, data: Gaussian, rho: float | Tensor, strength: float) -> Tensor:
    """What :func:`z_step` minimises, ``(B,)``."""
    r, away = data.residual(z), z - x
    variation = Z(z).norm(dim=2).flatten(1).sum(1)
    return dot(r, r) / 2 + rho * dot(away, away) / 2 + _lam(data, strength) * variation


def _lam(data: Gaussian, strength: float) -> Tensor:
    """Weight of the variation along z, ``(B,)`` or a single number."""
    return strength * torch.as_tensor(data.noise_std, dtype=data.y.real.dtype, device=data.y.device) ** 2
