"""Combinations of priors are priors."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.operators.image import downsample_kspace
from medrecon.operators.spectral import Separable
from medrecon.priors.base import Prior, as_levels

__all__ = ["channelwise", "equivariant", "guided", "multiscale", "perpendicular", "slicewise"]


def guided(conditional: Prior, unconditional: Prior, scale: float = 1.0) -> Prior:
    """Classifier-free guidance, ``D = D_null + scale (D_c - D_null)``.

    ``scale`` 0 is the unconditional prior, 1 the conditional one (one evaluation each); more than 1 exaggerates the
    condition (two evaluations). The same combination of clean estimates is that of scores, since these are affine
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


def channelwise(prior: Prior, width: int = 1) -> Prior:
    """A prior of ``width`` channels on images of several times as many, group by group.

    Width 1: real and imaginary parts, or coils. Width 2: several complex images (coil images, frames, sets of coil maps). The
    groups go through the prior as one batch, so it costs one evaluation a group. Relations between groups (the phase,
    for example) are not modelled.

    Raises:
        ValueError: for a number of channels that is not a multiple of ``width``.

    Reference: Chung and Ye, Score-MRI, Medical Image Analysis 80 (2022), section 3.
    """

    def each(x: Tensor, sigma: float | Tensor) -> Tensor:
        if x.shape[1] % width:
            raise ValueError(f"a prior of {width} channels does not fit images of {x.shape[1]} channels")
        levels = as_levels(sigma, x).repeat_interleave(x.shape[1] // width)
        return prior(x.reshape(-1, width, *x.shape[2:]), levels).view_as(x)

    return each


def slicewise(prior: Prior, chunk: int | None = None, axis: int = 2) -> Prior:
    """A prior of slices ``(B, C, rows, columns)`` on volumes ``(B, C, z, y, x)``.

    Relations between slices are not modelled.

    Args:
        prior: prior of slices.
        chunk: number of slices that go through it as one batch, which limits its memory; ``None``: all.
        axis: the axis across which the volume is cut: 2 gives slices ``(y, x)``, 3 planes ``(z, x)``, 4 planes ``(z, y)``.
    """

    def each(x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = as_levels(sigma, x).repeat_interleave(x.shape[axis])
        slices = x.movedim(axis, 1).flatten(0, 1)
        size = chunk or len(slices)
        parts = zip(slices.split(size), levels.split(size), strict=True)
        flat = torch.cat([prior(part, level) for part, level in parts])
        return flat.view(len(x), x.shape[axis], *flat.shape[1:]).movedim(1, axis)

    return each


def perpendicular(*planes: Prior, weights: Sequence[float] | None = None) -> Prior:
    """A product of priors of the same volumes, ``p = p_1^w1 p_2^w2 ...``, of which one is evaluated at every noise level.

    The score of the product is ``sum_i w_i score_i``, and so is its clean estimate. Each level takes one prior alone, with
    probability ``w_i``: over the levels of a sampler the mean is that of the product, at the cost of one prior. The choice is a
    deterministic function of the level, so an item's estimate depends only on its ``x`` and ``sigma``. Every solver keeps its
    step towards the data at every level.

    Args:
        planes: priors of volumes, e.g. ``slicewise(prior)`` (axial) and ``slicewise(prior, axis=3)`` (coronal).
        weights: a positive weight per prior, their sum 1; default: equal weights. The paper's K is
            ``(1 - 1 / K, 1 / K)``.

    Raises:
        ValueError: for no prior, or weights that do not fit.

    Reference: Lee et al., "Improving 3D imaging with pre-trained perpendicular 2D diffusion models" (TPDM), ICCV 2023, algorithm
    2; there the data step is left out where the second prior is chosen.
    """
    shares = [1 / len(planes)] * len(planes) if weights is None and planes else list(weights or ())
    if not planes or len(shares) != len(planes) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{len(planes)} priors need as many positive weights of sum 1; got {shares}")

    def one(x: Tensor, sigma: float | Tensor, level: float) -> Tensor:
        return _seeded(level, "plane").choices(planes, shares)[0](x, sigma)

    return _by_level(one)


def _by_level(one: Callable[[Tensor, float | Tensor, float], Tensor]) -> Prior:
    """A prior that depends on the level itself: ``one(x, sigma, level)``, item by item where the levels of a batch differ."""

    def prior(x: Tensor, sigma: float | Tensor) -> Tensor:
        values = as_levels(sigma, x).tolist() if isinstance(sigma, Tensor) else [sigma]
        if len(set(values)) == 1:
            return one(x, sigma, values[0])
        return torch.cat([one(x[i : i + 1], value, value) for i, value in enumerate(values)])

    return prior


def _seeded(level: float, name: str = "") -> random.Random:
    """Random numbers that are a function of the level."""
    # float32 has the same bits wherever the level is computed.
    return random.Random(struct.pack("<f", level) + name.encode())


def equivariant(prior: Prior, *, flip: Sequence[int] = (), shift: int = 0, phase: bool = False) -> Prior:
    """At every noise level, another symmetry of the training images is applied before the prior and undone afterwards.

    A network errs a little differently on an image and on its mirror image. Over the many levels of a sampler these errors
    average out, without further evaluations. The symmetry is a deterministic function of the level, so an item's estimate
    depends only on its ``x`` and ``sigma``.

    Args:
        prior: trained on images for which these are symmetries, or nearly so.
        flip: axes that are mirrored or not, e.g. ``[-1]`` (left and right).
        shift: circular shifts by 0 to ``shift - 1`` pixels along every axis, which spread the aliasing of a network with
            strides; its coarsest stride is enough. 0 or 1: none.
        phase: turn the complex plane of images of two channels (real, imaginary).

    Raises:
        ValueError: for ``phase`` and images without two channels.

    Reference: Terris et al., "Equivariant plug-and-play image reconstruction", CVPR 2024, algorithm 1.
    """

    def one(x: Tensor, sigma: float | Tensor, level: float) -> Tensor:
        chance = _seeded(level)
        axes = [axis for axis in flip if chance.random() < 0.5]
        spatial = list(range(2, x.ndim))
        shifts = [chance.randrange(shift) for _ in spatial] if shift > 1 else [0] * len(spatial)
        turn = _turn(2 * math.pi * chance.random(), x) if phase else None
        inside = x.flip(axes).roll(shifts, spatial)
        out = prior(inside if turn is None else _mix(turn, inside), sigma)
        out = out if turn is None else _mix(turn.mT, out)
        return out.roll([-n for n in shifts], spatial).flip(axes)

    each = _by_level(one)

    def equivariant_prior(x: Tensor, sigma: float | Tensor) -> Tensor:
        if phase and x.shape[1] != 2:
            raise ValueError(f"a phase needs two channels, real and imaginary; got {x.shape[1]}")
        return each(x, sigma)

    return equivariant_prior


def _turn(angle: float, like: Tensor) -> Tensor:
    return like.new_tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,bj...->bi...", matrix, x)


def multiscale(prior: Prior, factor: int = 4, sigma: float = 0.4) -> Prior:
    """From ``sigma`` upwards the prior sees the image with pixels ``factor`` times as wide, where the noise is less.

    Noise far above an image's detail hides all but its low frequencies. Keeping these alone (a k-space truncation) divides the
    standard deviation of white noise by the root of ``factor`` an axis, and a network trained on overviews (``overview_fraction``
    in train.yaml) sees the whole slice at once; its estimate is interpolated back. Below ``sigma`` the prior is left alone.
    For samples without data: the layout of a slice is decided far above the levels at which a reconstruction begins.

    Args:
        prior: trained on images and on overviews of them.
        factor: must divide every side of the images.
        sigma: lowest noise level of the coarse prior; in a batch with a level per item, the lowest level decides for all.
    """
    operators: dict[tuple, Separable] = {}

    lowest = sigma

    def scaled(x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = as_levels(sigma, x)
        if float(levels.min()) < lowest:
            return prior(x, sigma)
        key = (*x.shape[2:], x.device, x.dtype)
        if key not in operators:
            operators[key] = downsample_kspace(x.shape[2:], factor, torch.float64).to(x.device, x.dtype)
        low = operators[key]
        return low.pinv(prior(low(x), levels / math.sqrt(factor) ** (x.ndim - 2)))

    return scaled
