"""Losses that fit a score to samples, divergences by random probes, and Stein's unbiased risk estimate.

All take a function of ``x`` ``(B, ...)``, return one number per item ``(B,)``, sums over its elements, and have gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.operators.linalg import batch_broadcast, dot

__all__ = [
    "denoising_loss",
    "divergence",
    "finite_difference_divergence",
    "implicit_loss",
    "probed_divergence",
    "random_signs",
    "sliced_loss",
    "sure",
]

Field = Callable[[Tensor], Tensor]
"""A function from ``(B, ...)`` to the same shape whose items do not influence each other."""


def random_signs(like: Tensor) -> Tensor:
    """Rademacher probes of the shape of ``like``; a divergence has less variance with them than with Gaussian probes."""
    return torch.randint_like(like, 2) * 2 - 1


def divergence(field: Field, x: Tensor) -> Tensor:
    """The exact divergence ``sum_i d field_i / d x_i``, by one vector-Jacobian product per element: for small ``x``."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = field(x)
        total = x.new_zeros(len(x))
        for i in range(x[0].numel()):
            e = torch.zeros_like(x)
            e.flatten(1)[:, i] = 1
            total = total + dot(e, torch.autograd.grad(value, x, e, create_graph=True)[0])
    return total


def probed_divergence(field: Field, x: Tensor, probe: Tensor) -> Tensor:
    """``u . J u`` by automatic differentiation: unbiased for the divergence if ``E[u u^T] = 1`` (Hutchinson).

    Args:
        field: the function.
        x: where, ``(B, ...)``.
        probe: ``u``, Gaussian or :func:`random_signs`, like ``x``.
    """
    return _value_and_divergence(field, x, probe)[1]


def _value_and_divergence(field: Field, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = field(x)
        return value, dot(probe, torch.autograd.grad(value, x, probe, create_graph=True)[0])


def finite_difference_divergence(
    field: Field, x: Tensor, probe: Tensor, step: float | Tensor, value: Tensor | None = None
) -> Tensor:
    """``u . (field(x + step u) - field(x)) / step``: needs no second derivative to be trained (Ramani et al., 2008).

    Args:
        field: the function.
        x: where, ``(B, ...)``.
        probe: ``u``, Gaussian or :func:`random_signs`, like ``x``.
        step: length of the step, a number or ``(B,)``; about ``1e-3`` of the largest value in single precision.
        value: ``field(x)``, if it is already known.
    """
    value = field(x) if value is None else value
    return dot(probe, field(x + batch_broadcast(step, x) * probe) - value) / step


def denoising_loss(score: Field, x: Tensor, sigma: float | Tensor, noise: Tensor) -> Tensor:
    """Denoising score matching, weighted by ``sigma^2``: ``|noise + sigma score(x + sigma noise)|^2``.

    Its minimiser is the score of the samples ``x`` with noise ``sigma``. With samples that are noisy images and a small
    ``sigma`` this is the loss of AR-DAE.

    Args:
        score: the score, or AR-DAE's residual.
        x: samples ``(B, ...)``.
        sigma: noise level, a number or ``(B,)``.
        noise: standard Gaussian noise, like ``x``.

    References: Vincent, Neural Computation 23 (2011); Lim et al., "AR-DAE", ICML 2020, arXiv 2006.05164.
    """
    level = batch_broadcast(sigma, x)
    residual = noise + level * score(x + level * noise)
    return dot(residual, residual)


def implicit_loss(score: Field, x: Tensor) -> Tensor:
    """Implicit score matching (Hyvarinen, JMLR 6, 2005): ``|score|^2 / 2 + div score``, with the exact divergence."""
    value = score(x)
    return dot(value, value) / 2 + divergence(score, x)


def sliced_loss(score: Field, x: Tensor, probe: Tensor) -> Tensor:
    """Sliced score matching: ``|score|^2 / 2 + u . J u``; its mean over probes is :func:`implicit_loss`.

    Args:
        score: the score.
        x: samples ``(B, ...)``.
        probe: ``u``, Gaussian or :func:`random_signs`, like ``x``.

    Reference: Song et al., UAI 2019, arXiv 1905.07088, the variance-reduced form (eq. 8).
    """
    value, slope = _value_and_divergence(score, x, probe)
    return dot(value, value) / 2 + slope


def sure(y: Tensor, estimate: Tensor, sigma: float | Tensor, slope: Tensor) -> Tensor:
    """Stein's unbiased estimate of ``|x - estimate|^2`` from ``y = x + sigma n`` alone.

    ``|y - estimate|^2 - n sigma^2 + 2 sigma^2 div``. For ``estimate = y + sigma^2 score(y)`` it is ``2 sigma^4`` times the loss
    of implicit score matching, plus ``n sigma^2``. (MONAI's ``SURELoss`` is another quantity: the mean squared error times the
    divergence, without ``sigma``.)

    Args:
        y: noisy data ``(B, ...)``.
        estimate: the denoised data.
        sigma: standard deviation of the noise, a number or ``(B,)``.
        slope: divergence of the estimate as a function of ``y``, ``(B,)``.

    Reference: Stein, Annals of Statistics 9 (1981).
    """
    away = y - estimate
    return dot(away, away) - y[0].numel() * sigma**2 + 2 * sigma**2 * slope
