"""Networks that denoise at a range of noise levels and know no others, such as those trained on noisy images alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior, as_levels

__all__ = ["TrainedNoise", "dimmed"]


class TrainedNoise(NamedTuple):
    """The noise that a network was trained for.

    Args:
        family: kind of noise, ``gaussian``, ``poisson`` or ``gamma``.
        least: smallest noise level, for images of unit scale.
        most: largest noise level.
        stride: of the grids of pixels that a network of Noise2Self predicts from the others; ``None``: other networks.
    """

    family: str
    least: float
    most: float
    stride: int | None = None


def dimmed(prior: Prior, most: float) -> Prior:
    """A prior of levels up to ``most`` for all levels: images with more noise are divided by ``sigma / most``, and dimmer.

    ``c prior(x / c, sigma / c)`` with ``c = max(sigma / most, 1)`` per item: exact if ``c x0`` is as likely an image as ``x0``.
    Slices of air, whose unit is the noise itself, need it.
    """

    def each(x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = as_levels(sigma, x)
        c = torch.clamp(levels / most, min=1.0)
        size = batch_broadcast(c, x)
        return size * prior(x / size, levels / c)

    return each
