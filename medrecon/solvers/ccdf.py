"""CCDF: Chung, Sim, Ye, "Come-closer-diffuse-faster: accelerating conditional diffusion models for inverse problems".

CVPR 2022, arXiv 2112.05146. Not a separate solver, but any solver that starts from a noised estimate,
``noised(estimate, sigma)``, on ``medrecon.noise.truncate_ladder(sigmas, sigma)``. These functions choose the level to
start at, for ``x = x0 + sigma n``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor

from medrecon.noise import Noise

__all__ = ["contraction", "forward_error", "noised"]


def noised(estimate: Tensor, sigma: float, noise: Noise) -> Tensor:
    """``estimate + sigma n``: a start at level ``sigma``."""
    return estimate + sigma * noise.like(estimate)


def forward_error(error: float | Tensor, sigma: float, n: int) -> float | Tensor:
    """``E |noised(a) - noised(b)|^2`` of two images with ``|a - b|^2 = error`` and ``n`` components: ``error + 2 sigma^2 n``.

    The distance grows, but vanishes relative to the noise (lemma 1, in our variable).
    """
    return error + 2 * sigma**2 * n


def contraction(sigmas: Tensor, kind: Literal["ddim", "ddpm", "smld"] = "ddim") -> float:
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
