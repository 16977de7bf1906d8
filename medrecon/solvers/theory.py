"""What is proved of diffusion samplers, as functions of numbers; and the distance of samples from where they should be.

The bounds of warm starts are in ``medrecon.solvers.ccdf``. Written for x = x0 + sigma n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.operators.linalg import cg
from medrecon.priors.base import Prior

__all__ = ["jensen_gap_bound", "noise_norm", "outside_range", "sliced_wasserstein"]


def jensen_gap_bound(
    spread: float | Tensor, noise_std: float, lipschitz: float = 1.0, n_measured: int = 0
) -> float | Tensor:
    """Bound of ``|E p(y | x0) - p(y | E x0)|`` over ``x0`` given ``x``: the error of DPS, which exchanges the two.

    ``(2 pi s^2)^(-m/2) e^(-1/2) / s |A| m1`` with ``s = noise_std``, and never more than the peak ``(2 pi s^2)^(-m/2)``: the
    gradient of the density is largest at a residual of length s, where it is ``e^(-1/2) / s`` of the peak. So
    the bound is informative only while ``m1 < 1.65 s / |A|``.

    Reference: Chung et al., DPS, ICLR 2023, theorem 1. Its constant, ``m / sqrt(2 pi s^2) exp(-1 / (2 s^2))``, holds for noise of
    1 and more. For one measurement it is right at ``s = 1``, too large above, and no bound below: at s = 0.05 it is too small by
    a factor of ``10^87``.

    Args:
        spread: ``m1 = E |x0 - E x0|`` of ``x0`` given ``x``, a number or one per item.
        noise_std: standard deviation per real measurement.
        lipschitz: largest ``|A(a) - A(b)| / |a - b|``; the operator norm of a linear ``A``.
        n_measured: number ``m`` of real measurements; 0: the bound in units of the peak, which does not depend on ``m``.

    Raises:
        ValueError: for a noise level that is not positive; without noise the likelihood is no function.
    """
    if not noise_std > 0:
        raise ValueError(f"noise_std must be positive; got {noise_std}")
    log_peak = -n_measured * (math.log(2 * math.pi) / 2 + math.log(noise_std))
    peak = math.exp(log_peak) if log_peak < 700 else math.inf  # a density beyond the range of numbers
    share = spread * (math.exp(-0.5) * lipschitz / noise_std)
    if isinstance(share, Tensor):
        return torch.where(share == 0, 0.0, peak * share.clamp(max=1.0))
    return peak * min(share, 1.0) if share != 0 else 0.0


def noise_norm(n: int) -> tuple[float, float]:
    """Mean and standard deviation of ``|x - x0| / (sigma sqrt(n))``, exact: noise concentrates on a sphere.

    A chi variable over ``sqrt(n)``: ``1 - 1 / (4 n) + ...`` and ``1 / sqrt(2 n) + ...``.

    Reference: Chung et al., MCG, NeurIPS 2022, proposition 1, which has the limit; Johnson, Kotz and Balakrishnan, "Continuous
    univariate distributions" 1, 1994, section 18.

    Args:
        n: number of real components of an image.

    Raises:
        ValueError: if ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"an image has at least 1 component; got {n}")
    if n < 1000:
        mean = math.sqrt(2 / n) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
        return mean, math.sqrt(1 - mean**2)
    # The difference of two large logarithms loses digits; the next terms of the series are below 1e-12.
    mean = 1 - 1 / (4 * n) + 1 / (32 * n**2) + 5 / (128 * n**3)
    return mean, math.sqrt(1 / (2 * n) - 1 / (8 * n**2) - 1 / (16 * n**3))


def outside_range(
    prior: Prior, x: Tensor, sigma: float | Tensor, v: Tensor, *, basis: Tensor | None = None, n_iter: int = 100
) -> Tensor:
    """The part of ``v`` outside the range of ``J^T``, J the Jacobian of the prior at ``x``; of the shape of ``v``.

    Gradients of guidance, ``J^T A^H r``, have none: they move along the images that the prior describes at this noise level. A
    projection on the data, or ``A^H r`` alone, has.

    Reference: Chung et al., MCG, NeurIPS 2022, theorem 1; DPS, ICLR 2023, section 3.

    Args:
        prior: the prior; differentiable twice, unless ``basis`` is given.
        x: images at level ``sigma``, ``(B, C, *spatial)``.
        sigma: noise level, a number or one per item.
        v: directions, like ``x``.
        basis: columns ``(n, k)`` that span the range, if they are known; ``None``: least squares by conjugate gradients,
            with one Jacobian and one transposed Jacobian an iteration.
        n_iter: conjugate-gradient iterations; the rank of J is enough.
    """
    if basis is not None:
        q, _ = torch.linalg.qr(basis)
        flat = v.flatten(1)
        return v - ((flat @ q) @ q.T).view_as(v)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = prior(x, sigma)
        u = torch.zeros_like(x0, requires_grad=True)
        # J^T u is linear in u, so that its own transposed Jacobian is J.
        (slope,) = torch.autograd.grad(x0, x, u, create_graph=True)

    def transposed(w: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x, w, retain_graph=True)[0]

    def jacobian(w: Tensor) -> Tensor:
        return torch.autograd.grad(slope, u, w, retain_graph=True)[0]

    weights = cg(lambda w: jacobian(transposed(w)), jacobian(v), None, n_iter)
    return v - transposed(weights)


def sliced_wasserstein(a: Tensor, b: Tensor, n_directions: int = 200, seed: int = 0) -> float:
    """Distance of two sets of samples: the root mean square, over random directions, of the 2-Wasserstein distance along each.

    Two sets of one law are not at 0, but at two to three times ``1 / sqrt(n)`` of their standard deviation.

    Reference: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV 51 (2015).

    Args:
        a: images ``(n, ...)``.
        b: as many others of the same shape.
        n_directions: number of directions.
        seed: of the directions.
    """
    if a.shape != b.shape:
        raise ValueError(f"needs as many samples of the same shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.flatten(1), b.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], n_directions, generator=generator, dtype=torch.float64).to(a)
    directions = directions / directions.norm(dim=0)
    gaps = (a @ directions).sort(0).values - (b @ directions).sort(0).values
    return float(gaps.square().mean().sqrt())
