"""Combinations of priors are priors."""

from __future__ import annotations

from torch import Tensor

from medrecon.priors.base import Prior, as_levels

__all__ = ["channelwise", "guided"]


def guided(conditional: Prior, unconditional: Prior, scale: float = 1.0) -> Prior:
    """Classifier-free guidance, ``D = D_null + scale (D_c - D_null)``.

    ``scale`` 0 is the unconditional prior, 1 the conditional one (one evaluation each); more than 1 exaggerates what the
    condition says (two evaluations). The same combination of clean estimates is that of scores, since these are affine
    in them.

    Reference: Ho and Salimans, arXiv 2207.12598, eq. 6, with ``scale = 1 + w``.
    """
    if scale == 0:
        return unconditional
    if scale == 1:
        return conditional

    def prior(x: Tensor, sigma: float | Tensor) -> Tensor:
        base = unconditional(x, sigma)
        return base + scale * (conditional(x, sigma) - base)

    return prior


def channelwise(prior: Prior) -> Prior:
    """A one-channel prior on images of several channels, each on its own: real and imaginary parts, or coils.

    The channels go through the prior as one batch, so it costs one evaluation a channel. How channels belong together
    (the phase, say) is not modelled.

    Reference: Chung and Ye, Score-MRI, Medical Image Analysis 80 (2022), section 3.
    """

    def each(x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = as_levels(sigma, x).repeat_interleave(x.shape[1])
        return prior(x.flatten(0, 1)[:, None], levels).view_as(x)

    return each
