"""Tweedie's formula for exponential families: what the score of noisy data says about the clean value.

For ``p(y | eta) = p0(y) exp(eta . T(y) - phi(eta))`` the posterior mean of the natural parameter follows from the density of the
noisy data, ``p(y)``, alone: ``E[eta | y] . T'(y) = d log p(y) / dy - d log p0(y) / dy``. Only where ``eta`` is linear in ``x`` is
this a posterior mean of ``x``; every function says which functional of the posterior it returns.

References: Efron, "Tweedie's formula and selection bias", JASA 106 (2011); Kim & Ye, "Noise2Score", NeurIPS 2021,
arXiv 2106.07009.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.operators.linalg import batch_broadcast

__all__ = [
    "NaturalParameters",
    "bernoulli",
    "exponential",
    "gamma",
    "gaussian",
    "gaussian_unknown_variance",
    "poisson",
    "poisson_approximate",
]


class NaturalParameters(NamedTuple):
    """Posterior means of the natural parameters of a Gaussian of unknown mean ``x`` and variance ``sigma^2``."""

    scaled_mean: Tensor
    """``E[x / sigma^2 | y]``."""
    precision: Tensor
    """``E[1 / sigma^2 | y]``."""

    @property
    def mean(self) -> Tensor:
        """``E[x / sigma^2 | y] / E[1 / sigma^2 | y]``, the mean of ``x`` weighted with the precision."""
        return self.scaled_mean / self.precision


def gaussian(y: Tensor, score: Tensor, sigma: float | Tensor) -> Tensor:
    """``y = x + sigma n``: the posterior mean ``E[x | y] = y + sigma^2 score``.

    Args:
        y: noisy data.
        score: ``d log p(y) / dy``.
        sigma: standard deviation of the noise, a number or ``(B,)``.
    """
    return y + batch_broadcast(sigma, y) ** 2 * score


def gaussian_unknown_variance(y: Tensor, score: Tensor, dim: int = 0) -> NaturalParameters:
    """``y_i = x + sigma n_i`` with unknown ``sigma``: the posterior means ``E[x / sigma^2 | y]`` and ``E[1 / sigma^2 | y]``.

    Tweedie's formula is one equation, ``E[x / sigma^2 | y] - y_i E[1 / sigma^2 | y] = score_i``, for two natural parameters, so
    at least two different measurements of the same ``x`` and ``sigma`` are needed; of more than two the line is fitted by
    least squares (all lie on it if the score is exact). With one measurement and ``E[1 / sigma^2 | y]`` from elsewhere,
    :func:`gaussian` with ``sigma^2 = 1 / E[1 / sigma^2 | y]`` returns ``E[x / sigma^2 | y] / E[1 / sigma^2 | y]``.

    Args:
        y: repeated measurements along ``dim``.
        score: gradient of ``log p(y_1, y_2, ...)``, like ``y``.
        dim: axis of the repetitions, of length 2 or more.

    Raises:
        ValueError: if there is only one measurement.
    """
    if y.shape[dim] < 2:
        raise ValueError("mean and variance cannot both follow from one measurement; give at least two along dim")
    y_mean, score_mean = y.mean(dim, keepdim=True), score.mean(dim, keepdim=True)
    away = y - y_mean
    precision = -(away * (score - score_mean)).sum(dim) / (away * away).sum(dim)
    return NaturalParameters(score_mean.squeeze(dim) + y_mean.squeeze(dim) * precision, precision)


def poisson(y: Tensor, score: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``y = scale z``, ``z ~ Poisson(x / scale)``: ``exp(E[log x | y])``, the geometric mean of the posterior.

    ``scale exp(digamma(y / scale + 1) + scale score)``. It is exact for ``p(y)`` continued between the counts by the gamma
    function, and at most the posterior mean of ``x`` (Jensen).

    Args:
        y: noisy data, 0 or more.
        score: ``d log p(y) / dy``; that of the counts is ``scale score``.
        scale: value of one count.
    """
    scale = batch_broadcast(scale, y)
    return scale * (torch.special.digamma(y / scale + 1) + scale * score).exp()


def poisson_approximate(y: Tensor, score: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """As :func:`poisson`, with ``log(z + 1/2)`` for ``digamma(z + 1)``: ``(y + scale / 2) exp(scale score)``.

    The form of Noise2Score. It is too small, by less than ``1 / (24 (z + 1/2)^2)`` in the logarithm: 11 % at no count, 1.8 % at
    one, 0.04 % at ten.

    Args:
        y: noisy data, above ``-scale / 2``.
        score: ``d log p(y) / dy``.
        scale: value of one count.
    """
    scale = batch_broadcast(scale, y)
    return (y + scale / 2) * (scale * score).exp()


def gamma(y: Tensor, score: Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """``y ~ Gamma(shape alpha, rate beta / x)``: ``1 / E[1 / x | y]``, the harmonic mean of the posterior.

    ``beta y / (alpha - 1 - y score)``. Multiplicative noise of mean 1 and variance ``1 / k`` has ``alpha = beta = k``. The
    denominator is ``beta y E[1 / x | y] > 0`` for the exact score; that of an estimated one may not be.

    Args:
        y: noisy data, above 0.
        score: ``d log p(y) / dy``.
        alpha: shape.
        beta: rate of ``y / x``.
    """
    return batch_broadcast(beta, y) * y / (batch_broadcast(alpha, y) - 1 - y * score)


def bernoulli(score: Tensor) -> Tensor:
    """``y`` is 1 with probability ``x``, otherwise 0: ``sigmoid(E[logit x | y])``.

    The score is that of ``p(y)`` continued between 0 and 1, ``integral of exp(y eta) / (1 + exp(eta)) p(eta)``; data alone do not
    determine it.

    Args:
        score: ``d log p(y) / dy``.
    """
    return score.sigmoid()


def exponential(score: Tensor) -> Tensor:
    """``y`` exponential of rate ``x``: the posterior mean ``E[x | y] = -score``.

    Args:
        score: ``d log p(y) / dy``.
    """
    return -score
