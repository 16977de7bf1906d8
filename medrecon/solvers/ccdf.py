"""CCDF: Chung, Sim, Ye, "Come-closer-diffuse-faster: accelerating conditional diffusion models for inverse problems".

CVPR 2022, arXiv 2112.05146. Not a separate solver, but any solver that starts from a noised estimate,
``noised(estimate, sigma)``, on ``medrecon.noise.truncate_ladder(sigmas, sigma)``. These functions choose the level to
start at, for ``x = x0 + sigma n``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor

from medrecon.noise import Noise, truncate_ladder

__all__ = ["Process", "contraction", "contraction_bound", "forward_error", "noised", "start_level", "uniform_bound"]

Process = Literal["ddim", "ddpm", "smld"]


def noised(estimate: Tensor, sigma: float, noise: Noise) -> Tensor:
    """``estimate + sigma n``: a start at level ``sigma``."""
    return estimate + sigma * noise.like(estimate)


def forward_error(error: float | Tensor, sigma: float, n: int) -> float | Tensor:
    """``E |noised(a) - noised(b)|^2`` of two images with ``|a - b|^2 = error`` and ``n`` components: ``error + 2 sigma^2 n``.

    The distance grows, but vanishes relative to the noise (lemma 1, in our variable).
    """
    return error + 2 * sigma**2 * n


def contraction(sigmas: Tensor, kind: Process = "ddim") -> float:
    """Fraction of an initial error that remains at the end of a ladder, the product of the factors of its steps.

    ``"ddim"``: ``sigma' / sigma``; ``"ddpm"`` (ancestral): ``sigma'^2 / sigma^2``; ``"smld"`` (reverse diffusion):
    ``(sigma'^2 - s^2) / (sigma^2 - s^2)`` with s the lowest level above 0, whose step is left out. A step to 0 takes
    the clean estimate, whose factor is that of the prior, and counts as 1.

    The bound for steps with non-expansive data consistency (theorem 1). The largest factor alone, as the theorem is often
    quoted, is close to 1 on a fine ladder and hardly informative.

    Args:
        sigmas: levels, falling.
        kind: kind of sampler; the paper's factor of DDPM is ``sqrt(alpha) (1 - abar') / (1 - abar)`` in the variance-preserving
            variable, which in ours is ``sigma'^2 / sigma^2``.
    """
    levels = [level for level in sigmas.tolist() if level > 0]
    if kind not in ("ddim", "ddpm", "smld"):
        raise ValueError(f"kind must be ddim, ddpm or smld; got {kind!r}")
    lowest = levels[-1] ** 2 if kind == "smld" else 0.0
    factor = 1.0
    for sigma, after in pairwise(levels):
        if kind == "ddim":
            factor *= after / sigma
        elif after**2 > lowest:
            factor *= (after**2 - lowest) / (sigma**2 - lowest)
    return factor


def _steps(sigmas: Tensor, kind: Process, image_std: float) -> list[tuple[float, float]]:
    """Of every step of a ladder: its largest factor of a difference of images, and the variance of its fresh noise."""
    if kind not in ("ddim", "ddpm", "smld"):
        raise ValueError(f"kind must be ddim, ddpm or smld; got {kind!r}")
    out = []
    for sigma, after in pairwise(sigmas.tolist()):
        if not sigma > after >= 0:
            raise ValueError(f"the levels must fall, and end at 0 or above; got {after:g} after {sigma:g}")
        left = after / sigma if kind == "ddim" else (after / sigma) ** 2
        kept = image_std**2 / (image_std**2 + sigma**2)
        fresh = 0.0 if kind == "ddim" or after == 0 else sigma**2 - after**2
        out.append((kept + (1 - kept) * left, fresh * (after / sigma) ** 2 if kind == "ddpm" else fresh))
    return out


def contraction_bound(
    error: float, sigmas: Tensor, trace: float, kind: Process = "ddim", *, image_std: float = 0.0
) -> float:
    """Bound of ``E |x - x~|^2`` at the end of a ladder, of two runs that start ``error`` apart and draw noise of their own.

    ``e' = f^2 e + 2 g^2 tr(A^T A)`` step by step, for steps ``x' = A (f(x) + g z) + b`` with non-expansive data consistency.
    ``f = k + (1 - k) r`` with ``k = s^2 / (s^2 + sigma^2)`` and ``r`` as in :func:`contraction` (``"smld"``: that of ``"ddpm"``).
    ``g^2`` is 0 (``"ddim"``), ``sigma'^2 (1 - sigma'^2 / sigma^2)`` (``"ddpm"``) or ``sigma^2 - sigma'^2`` (``"smld"``). A step
    to 0 has ``r = g = 0``.

    The bound is attained by white images of standard deviation ``s`` if the error lies in what A leaves free.

    Reference: theorem 1. It has ``s = 0``, that is, it takes the denoised image for a constant; for the images that a prior
    describes that is too small. Its factor for SMLD counts the noise of the lowest level as part of the image.

    Args:
        error: ``E |x - x~|^2`` at the first level, see :func:`forward_error`.
        sigmas: levels, falling.
        trace: ``tr(A^T A)``, the paper's ``n tau``: the number of values of an image that data consistency leaves free.
        kind: kind of sampler.
        image_std: ``s``, at least the standard deviation of images in any direction. Enough for Gaussian and for all strongly
            log-concave priors (``-log p`` curved by at least ``1 / s^2``), not for images of several modes, which two
            runs may leave for different ones.

    Raises:
        ValueError: for an unknown kind, or levels that do not fall.
    """
    for factor, fresh in _steps(sigmas, kind, image_std):
        error = factor**2 * error + 2 * fresh * trace
    return error


def uniform_bound(
    error: float, sigmas: Tensor, trace: float, kind: Process = "ddim", *, image_std: float = 0.0
) -> float:
    """The same in closed form, never smaller: ``2 G^2 tr(A^T A) / (1 - F^2) + F^(2 N) error``.

    ``F`` and ``G^2`` are the largest factor and variance of all ``N`` steps. The paper's ``2 C tau / (1 - lambda^2) +
    lambda^(2 N') e``, ``C = n G^2``. On a fine ladder ``F`` is close to 1.

    Args:
        error: as for :func:`contraction_bound`, like all others.
        sigmas: levels, falling.
        trace: ``tr(A^T A)``.
        kind: kind of sampler.
        image_std: ``s``.
    """
    steps = _steps(sigmas, kind, image_std)
    factor, fresh = max(f for f, _ in steps), max(g for _, g in steps)
    gap = 1 - factor**2
    noise = 0.0 if fresh * trace == 0 else math.inf if gap == 0 else 2 * fresh * trace / gap
    return noise + factor ** (2 * len(steps)) * error


def start_level(
    error: float,
    sigmas: Tensor,
    n: int,
    target: float,
    kind: Process = "ddim",
    *,
    trace: float | None = None,
    image_std: float = 0.0,
) -> float | None:
    """The lowest level from which an estimate comes within ``target`` of a run from the true image; ``None``: no level does.

    Of squared errors, by :func:`forward_error` and :func:`contraction_bound` on the rest of the ladder. For a given ``target``
    the level falls with the error of the estimate: a better one needs fewer steps. For ``target = mu error``, a fraction of
    the error as in the paper's theorem 2, it rises instead: the noise adds the same to a small error as to a large one.

    Args:
        error: squared error of the estimate.
        sigmas: the ladder, falling.
        n: number of real components of an image.
        target: squared error to reach, in expectation.
        kind: kind of sampler.
        trace: ``tr(A^T A)`` of data consistency; ``None``: ``n``, no data consistency.
        image_std: see :func:`contraction_bound`.
    """
    for sigma in sorted(sigmas[sigmas > 0].tolist()):
        ladder = truncate_ladder(sigmas, sigma)
        started = float(forward_error(error, sigma, n))
        if contraction_bound(started, ladder, n if trace is None else trace, kind, image_std=image_std) <= target:
            return sigma
    return None
