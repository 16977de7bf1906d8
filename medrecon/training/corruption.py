"""Noise of images at unit scale, where 1 is a bright pixel: Gaussian, Poisson and Gamma.

A family corrupts clean images, and denoises images from the score of their density by Tweedie's formula
(:mod:`medrecon.priors.tweedie`). Random numbers come from torch's generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Gamma
from torch.nn import functional as F

from medrecon.data.arguments import as_number
from medrecon.data.noise import noise_of_images
from medrecon.priors import tweedie

__all__ = [
    "FAMILIES",
    "GammaNoise",
    "GaussianNoise",
    "NoiseFamily",
    "PoissonNoise",
    "estimate_noise",
    "least_variation",
    "measure",
    "noise_family",
    "nominal_levels",
]

DARK = 0.05
"""Least local mean for a profile, at unit scale: where there is no signal there would be no noise to scale by."""


class NoiseFamily(Protocol):
    """A kind of noise with its parameter."""

    @property
    def std(self) -> float:
        """Nominal standard deviation, at half of the unit where it depends on the image: the noise level for a network."""
        ...

    def corrupt(self, x: Tensor) -> Tensor:
        """A noisy measurement of clean images ``(B, C, *spatial)``; its mean is ``x``."""
        ...

    def profile(self, y: Tensor) -> Tensor:
        """The standard deviation of every pixel's noise divided by ``std``, from local means of noisy images; never 0."""
        ...

    def denoise(self, y: Tensor, score: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
        """The clean estimate of noisy images from a score.

        Args:
            y: noisy images ``(B, C, *spatial)``.
            score: ``d log p / dy`` at ``y``, per unit of the image.
            smoothing: standard deviation of the Gaussian noise with which the density was smoothed, a number or like ``y``. Then
                ``y + smoothing^2 score``, the mean of the unsmoothed data, takes the place of ``y``, which is exact for
                Gaussian noise.
        """
        ...


def _check_nonnegative(x: Tensor, kind: str) -> None:
    if not bool((x >= 0).all()):
        raise ValueError(
            f"{kind} noise needs images without negative values or NaN; take magnitudes, or choose gaussian"
        )


@dataclass(frozen=True)
class GaussianNoise:
    """``y = x + sigma n``.

    Args:
        sigma: standard deviation per real component.
    """

    sigma: float = 0.1

    def __post_init__(self) -> None:
        as_number("sigma", self.sigma, positive=True)

    @property
    def std(self) -> float:
        """``sigma``."""
        return float(self.sigma)

    def corrupt(self, x: Tensor) -> Tensor:
        """Add white noise."""
        return x + self.sigma * torch.randn_like(x)

    def profile(self, y: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(y)

    def denoise(self, y: Tensor, score: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
        """The posterior mean; see :class:`NoiseFamily`."""
        return tweedie.gaussian(_unsmoothed(y, score, smoothing), score, self.sigma)


@dataclass(frozen=True)
class PoissonNoise:
    """``y = z / peak``, ``z ~ Poisson(peak x)``: counts at unit scale, of variance ``x / peak``.

    Scores are per unit of the image, so that networks see images at unit scale whatever the peak; the score of the counts, which
    Noise2Score's formulas use, is ``score / peak``.

    Args:
        peak: expected count of a pixel of value 1.
    """

    peak: float = 30.0

    def __post_init__(self) -> None:
        as_number("peak", self.peak, positive=True)

    @property
    def std(self) -> float:
        """``sqrt(0.5 / peak)``."""
        return math.sqrt(0.5 / self.peak)

    def corrupt(self, x: Tensor) -> Tensor:
        """Draw counts.

        Raises:
            ValueError: if ``x`` has negative values or NaN.
        """
        _check_nonnegative(x, "poisson")
        return torch.poisson(self.peak * x) / self.peak

    def profile(self, y: Tensor) -> Tensor:
        """``sqrt(x / 0.5)``."""
        return (2 * local_mean(y).clamp(min=DARK)).sqrt()

    def denoise(self, y: Tensor, score: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
        """The geometric mean of the posterior; where there is less than one count a pixel, mixed with the local mean.

        Between counts of 0 and 1 the score varies too much for a smoothed one to show; where there are no counts it is minus
        infinity, and the result 0. See :class:`NoiseFamily`.
        """
        mean = local_mean(y).clamp(min=0)
        trust = (self.peak * mean).clamp(0, 1) ** 2
        y = _unsmoothed(y, score, smoothing).clamp(min=0)
        # An estimated score may be far too large where there are few counts; e^3 is more than any real posterior moves.
        estimate = tweedie.poisson(y, score.clamp(max=3 * self.peak), 1 / self.peak)
        return trust * estimate + (1 - trust) * mean


@dataclass(frozen=True)
class GammaNoise:
    """``y = x g``, ``g ~ Gamma(shape k, rate k)``: multiplicative noise of mean 1 and variance ``1 / k``, as of k looks.

    Args:
        k: shape, above 1 (for k up to 1 the density of ``y`` has no finite harmonic mean).
    """

    k: float = 50.0

    def __post_init__(self) -> None:
        as_number("k", self.k, positive=True)
        if self.k <= 1:
            raise ValueError(f"k must be above 1; got {self.k!r}")

    @property
    def std(self) -> float:
        """``0.5 / sqrt(k)``."""
        return 0.5 / math.sqrt(self.k)

    def corrupt(self, x: Tensor) -> Tensor:
        """Multiply by Gamma noise.

        Raises:
            ValueError: if ``x`` has negative values or NaN.
        """
        _check_nonnegative(x, "gamma")
        return x * Gamma(torch.full_like(x, self.k), self.k).sample()

    def profile(self, y: Tensor) -> Tensor:
        """``x / 0.5``."""
        return 2 * local_mean(y).clamp(min=DARK)

    def denoise(self, y: Tensor, score: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
        """The harmonic mean of the posterior; see :class:`NoiseFamily`. Negative values count as 0."""
        y = _unsmoothed(y, score, smoothing).clamp(min=0)
        # k - 1 - y score = k y E[1 / x | y] is about k. An estimated score may make it cross 0, so it stays above k / 4.
        limit = (0.75 * self.k - 1) / y.clamp(min=torch.finfo(y.dtype).tiny)
        return tweedie.gamma(y, torch.minimum(score, limit), self.k, self.k)


def local_mean(y: Tensor) -> Tensor:
    """The mean of 5 pixels along every axis, fewer at the border, of images ``(B, C, *spatial)`` with up to three axes."""
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[y.ndim - 3]
    return pool(y, 5, stride=1, padding=2, count_include_pad=False)


def _unsmoothed(y: Tensor, score: Tensor, smoothing: float | Tensor) -> Tensor:
    return y + smoothing**2 * score


FAMILIES: Mapping[str, Callable[[float], NoiseFamily]] = MappingProxyType(
    {"gaussian": GaussianNoise, "poisson": PoissonNoise, "gamma": GammaNoise}
)
"""Families by name; the argument is sigma, the peak or k."""


def noise_family(name: str, level: float) -> NoiseFamily:
    """A family by its name, for configs.

    Args:
        name: ``gaussian``, ``poisson`` or ``gamma``.
        level: sigma, the peak or k.

    Raises:
        ValueError: for another name or a level out of range.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"noise must be one of {', '.join(FAMILIES)}; got {name!r}")
    return FAMILIES[name](level)


def measure(clean: Tensor, family: NoiseFamily) -> dict[str, Tensor]:
    """The data of a batch for the objectives of :mod:`medrecon.training.denoising`, from clean images.

    ``image`` and ``second`` are two measurements; ``noise_std`` is the nominal level of the family.
    """
    return {
        "image": family.corrupt(clean),
        "second": family.corrupt(clean),
        "clean": clean,
        "noise_std": clean.new_full((len(clean),), family.std),
    }


_LEVELS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"gaussian": lambda std: std, "poisson": lambda std: 0.5 / std**2, "gamma": lambda std: 0.25 / std**2}
)
"""The parameter of a family from its nominal standard deviation."""


def nominal_levels(name: str, y: Tensor, above: float | None = None) -> Tensor:
    """The nominal standard deviation of every noisy image, ``(B,)``, estimated from the images themselves.

    They are divided by the family's profile, which makes their noise uniform, and that of the result is estimated from second
    differences (:func:`medrecon.data.noise.noise_of_images`). Fine structure counts as noise, so that levels of noise are a
    little too high.

    Args:
        name: ``gaussian``, ``poisson`` or ``gamma``.
        y: noisy images ``(B, C, *spatial)``.
        above: for Gaussian noise: as there, for magnitudes.

    Raises:
        ValueError: for another name.
    """
    family = noise_family(name, 2.0)  # its profile does not depend on the level
    return noise_of_images(y / family.profile(y), above if name == "gaussian" else 0.2)


def estimate_noise(name: str, y: Tensor) -> NoiseFamily:
    """A family with its parameter estimated from noisy images themselves, the median over the batch.

    Args:
        name: ``gaussian``, ``poisson`` or ``gamma``.
        y: noisy images ``(B, C, *spatial)``.

    Raises:
        ValueError: for another name, or images without noise.
    """
    std = float(nominal_levels(name, y).median())
    if not std > 0:
        raise ValueError(f"no {name} noise is found in the images; give its level")
    return noise_family(name, _LEVELS[name](std))


def least_variation(
    families: Sequence[NoiseFamily], y: Tensor, score: Tensor, smoothing: float | Tensor = 0.0
) -> NoiseFamily:
    """The family, of candidates with different parameters, whose estimate has the least total variation.

    Noise2Score's choice of an unknown parameter: the score is computed once; too little noise leaves some, and too much adds
    its negative.
    """

    def variation(family: NoiseFamily) -> float:
        x = family.denoise(y, score, smoothing)
        return sum(float(x.diff(dim=axis).abs().sum()) for axis in range(2, x.ndim))

    return min(families, key=variation)
