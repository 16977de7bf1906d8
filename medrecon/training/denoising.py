"""Objectives for denoising networks, most of them without clean images.

All train the same kind of network: a denoiser ``D(y, sigma)`` with EDM's preconditioning, conditioned on the nominal noise level
of the images (``noise_std``), so that their results can be compared and any of them is a :class:`medrecon.priors.EDMNet`
afterwards. ``prior(x, sigma)`` is one evaluation (several for :class:`Noise2Self`): ``x + sigma^2 R(x)`` for Noise2Score and
Gaussian noise, the denoiser's output for the others. It is not a prior at noise levels that the training images did not have.

``noise_std`` is above 0. For noise that is not Gaussian it is the family's ``std``; of an unknown level, any guess, since it only
scales and conditions the network, except for SURE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon.data.arguments import as_number
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, as_levels
from medrecon.priors.nets import EDMNet, precondition
from medrecon.training.corruption import GaussianNoise, NoiseFamily, local_mean
from medrecon.training.objectives import Network
from medrecon.training.score_matching import finite_difference_divergence, random_signs, sure

__all__ = ["Noise2Noise", "Noise2Score", "Noise2Self", "SURELoss", "Supervised"]


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """What the objectives share: noise, preconditioning, and the scale of the loss.

    Args:
        family: noise of the training images, whose ``std`` is the noise level for the network in :meth:`denoise`.
        sigma_data: standard deviation of the clean images, per channel.
    """

    family: NoiseFamily = field(default_factory=GaussianNoise)
    sigma_data: float = 0.25

    def __post_init__(self) -> None:
        if not hasattr(self.family, "corrupt"):
            raise ValueError(f"family must be a noise family, such as GaussianNoise(0.1); got {self.family!r}")
        as_number("sigma_data", self.sigma_data, positive=True)

    @property
    def needs(self) -> frozenset[str]:
        """Noisy images and their nominal noise level."""
        return frozenset({"image", "noise_std"})

    @staticmethod
    def level(data: Mapping[str, Tensor]) -> Tensor:
        """The nominal noise level of every item ``(B,)``.

        Raises:
            ValueError: if it is not above 0, where the network's input would be NaN.
        """
        std = data["noise_std"]
        if not bool((std > 0).all()):
            raise ValueError("noise_std must be above 0 in every item; leave out images without noise")
        return std

    def denoiser(self, network: Network) -> EDMNet:
        """``D(y, sigma)`` of a network in training."""
        return EDMNet(network, self.sigma_data, multiple=1)  # type: ignore[arg-type]

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Prior:
        """The trained denoiser; see the module."""
        return EDMNet(network, self.sigma_data, multiple, dtype)

    def denoise(self, network: nn.Module, y: Tensor, multiple: int = 16) -> Tensor:
        """The clean estimate of images ``(B, C, *spatial)`` with the noise of ``family``."""
        return self.prior(network, multiple)(y, self.family.std)

    def weight(self, sigma: Tensor, like: Tensor) -> Tensor:
        """EDM's weight of a squared error, and the mean over elements, ``(B,)``."""
        return 1 / (precondition(sigma, self.sigma_data).out ** 2 * like[0].numel())


@dataclass(frozen=True, kw_only=True)
class Supervised(Denoising):
    """Squared error against clean images: the reference for the others."""

    target: ClassVar[str] = "clean"
    """Name of the images to compare with."""

    @property
    def needs(self) -> frozenset[str]:
        """As for the others, and the target."""
        return super().needs | {self.target}

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """``|D(y) - target|^2``."""
        sigma = self.level(data)
        away = self.denoiser(network)(data["image"], sigma) - data[self.target]
        return dot(away, away) * self.weight(sigma, away)


@dataclass(frozen=True, kw_only=True)
class Noise2Noise(Supervised):
    """Squared error against a second noisy image of the same object, whose noise is independent and has mean 0.

    Reference: Lehtinen et al., ICML 2018, arXiv 1803.04189.
    """

    target: ClassVar[str] = "second"


@dataclass(frozen=True, kw_only=True)
class SURELoss(Denoising):
    """Stein's unbiased risk estimate, for white Gaussian noise of known level ``noise_std``.

    Args:
        step: length of the step of the divergence's finite difference, at unit scale.

    References: Stein (1981); Ramani et al., IEEE TIP 17 (2008); Soltanayev & Chun, NeurIPS 2018, arXiv 1803.01314.
    """

    full_precision: ClassVar[bool] = True  # of a finite difference
    step: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        as_number("step", self.step, positive=True)
        if not isinstance(self.family, GaussianNoise):
            raise ValueError(f"SURE needs gaussian noise; got {self.family}. Choose noise2score")

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """SURE of ``D``, an estimate of the supervised loss; it may be negative."""
        y, sigma, denoiser = data["image"], self.level(data), self.denoiser(network)
        estimate = denoiser(y, sigma)
        slope = finite_difference_divergence(
            lambda z: denoiser(z, sigma), y, random_signs(y), step=self.step, value=estimate
        )
        return sure(y, estimate, sigma, slope) * self.weight(sigma, y)


def grid_mask(shape: Sequence[int], stride: int, phase: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Every ``stride``-th pixel along every axis, starting at ``phase``: bool, of ``shape``."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool, device=device)
    mask[tuple(slice(start, None, stride) for start in phase)] = True
    return mask


def donut(x: Tensor) -> Tensor:
    """The mean of a pixel's neighbours, without the pixel itself: weight 1 across a face, 1/2 across an edge, 1/4 a corner."""
    dims = x.ndim - 2
    away = torch.tensor([sum(map(abs, offset)) for offset in product((-1, 0, 1), repeat=dims)])
    kernel = torch.where(away > 0, 2.0 ** (1 - away), 0.0).view(1, 1, *[3] * dims).to(x)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    flat = x.flatten(0, 1)[:, None]
    # At the border fewer neighbours count.
    return (convolve(flat, kernel, padding=1) / convolve(torch.ones_like(flat[:1]), kernel, padding=1)).view_as(x)


@dataclass(frozen=True, kw_only=True)
class Noise2Self(Denoising):
    """Predict pixels from the others: the noise of different pixels must be independent and have mean 0.

    The pixels of a grid J, at a random position for every batch, are replaced by the mean of their neighbours, and
    ``|D(y')_J - y_J|^2``. ``D(y')_J`` does not depend on ``y_J``, so the loss is the supervised one plus a constant. The
    pixel itself is added to the estimate in :meth:`denoise`, where the level of the noise must be known.

    Args:
        stride: distance between the pixels of J, 2 or more.

    Reference: Batson & Royer, ICML 2019, arXiv 1901.11365.
    """

    stride: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.stride, bool) or not isinstance(self.stride, int) or self.stride < 2:
            raise ValueError(f"stride must be an integer of at least 2, so that neighbours remain; got {self.stride!r}")

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """The mean squared error on the grid."""
        y, sigma = data["image"], self.level(data)
        phase = [int(torch.randint(min(self.stride, n), ())) for n in y.shape[2:]]
        mask = grid_mask(y.shape[2:], self.stride, phase, y.device)
        away = (self.denoiser(network)(torch.where(mask, donut(y), y), sigma) - y) * mask
        return dot(away, away) * self.weight(sigma, y) * mask.numel() / mask.sum()

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Prior:
        """:meth:`blind_spot` and :func:`with_own_pixel` for white noise; ``stride ** dims`` evaluations."""
        denoiser = super().prior(network, multiple, dtype)

        def prior(x: Tensor, sigma: float | Tensor) -> Tensor:
            return with_own_pixel(x, self.blind_spot(denoiser, x, sigma), batch_broadcast(as_levels(sigma, x), x) ** 2)

        return prior

    def denoise(self, network: nn.Module, y: Tensor, multiple: int = 16) -> Tensor:
        """As :meth:`prior`, with the noise of ``family``."""
        estimate = self.blind_spot(super().prior(network, multiple), y, self.family.std)
        return with_own_pixel(y, estimate, (self.family.std * self.family.profile(y)) ** 2)

    def blind_spot(self, denoiser: Prior, y: Tensor, sigma: float | Tensor) -> Tensor:
        """The J-invariant estimate: every pixel from the others, by ``stride ** dims`` evaluations.

        One evaluation of the unmasked image, the paper's other choice, fails with a residual network, which was never trained to
        return anything but its input there.
        """
        replaced, out = donut(y), torch.zeros_like(y)
        for phase in product(*[range(min(self.stride, n)) for n in y.shape[2:]]):
            mask = grid_mask(y.shape[2:], self.stride, phase, y.device)
            out = torch.where(mask, denoiser(torch.where(mask, replaced, y), sigma), out)
        return out


def with_own_pixel(y: Tensor, estimate: Tensor, variance: Tensor) -> Tensor:
    """A blind-spot estimate combined with the pixel itself, weighted by the inverse variances of their independent errors.

    That of the estimate is a local mean of ``(y - estimate)^2`` minus the variance of the noise.

    Args:
        y: noisy images ``(B, C, *spatial)``.
        estimate: estimates of pixels from other pixels.
        variance: that of the noise, which broadcasts against ``y``.

    Reference: Laine et al., NeurIPS 2019, arXiv 1901.10277, whose network predicts the variance of its estimate.
    """
    error = (y - estimate) ** 2
    for _ in range(6):
        error = local_mean(error)
    error = (error - variance).clamp(min=0)
    return estimate + error / (error + variance) * (y - estimate)


@dataclass(frozen=True, kw_only=True)
class Noise2Score(Denoising):
    """The score of the noisy images by AR-DAE, from which Tweedie's formula denoises any exponential family.

    ``|u + a R(y + a u)|^2`` with ``R(y) = (D(y, s) - y) / s^2``, ``s^2 = noise_std^2 + a^2``: for Gaussian noise R is the score
    of images with noise s, and D their denoiser. ``a`` is drawn for every item, log-uniform within ``smoothing`` times
    ``noise_std``, and the network is conditioned on s. Where the noise depends on the image, ``noise_std``, ``a`` and ``s`` of a
    pixel are multiplied by the family's profile, so that bright pixels have as much signal for the training as dark ones.

    For Gaussian noise the loss is Stein's risk estimate of ``D(y + a u)``, up to its scale and a constant, with the divergence
    ``u D(y + a u) / a`` of one evaluation (also Pang et al., "Recorrupted-to-recorrupted", CVPR 2021).

    :meth:`denoise` evaluates R at the least ``a`` and corrects for it (:class:`medrecon.training.corruption.NoiseFamily`).
    :meth:`prior` is D at s = sigma, so at a = 0, which is reached by continuity alone; for Gaussian noise,
    ``prior(x, sqrt(1 + smoothing[0]^2) sigma)`` is :meth:`denoise`.

    Args:
        smoothing: least and largest ``a / noise_std``.

    Deviation:
        the papers lower ``a`` during the training, to 1 % of the noise (Gaussian, Gamma), where the variance of the target is
        ``1 / a^2``, and evaluate at 0 without a correction; here all levels are trained at once, so that the loss has no state.

    References: Kim & Ye, NeurIPS 2021, arXiv 2106.07009; Lim et al., ICML 2020, arXiv 2006.05164.
    """

    smoothing: tuple[float, float] = (0.4, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.smoothing
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"smoothing must be two numbers above 0, the smaller first; got {self.smoothing}")

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """AR-DAE's loss, relative to that of R = 0, ``(B,)``; every pixel counts as much as in a squared error of the image."""
        y, nominal, denoiser = data["image"], self.level(data), self.denoiser(network)
        low, high = self.smoothing
        ratio = low * (high / low) ** torch.rand_like(nominal)
        profile, noise = self.family.profile(y), torch.randn_like(y)
        a = batch_broadcast(nominal * ratio, y) * profile
        noisy = y + a * noise
        away = (noise + a * self.residual(denoiser, noisy, nominal, ratio)) * profile
        return dot(away, away) / dot(profile, profile)

    def residual(self, denoiser: Prior, y: Tensor, nominal: Tensor, ratio: Tensor) -> Tensor:
        """``R(y)``, the score of images to which noise of ``ratio`` times their own was added."""
        total = nominal * (1 + ratio**2).sqrt()
        return (denoiser(y, total) - y) / (batch_broadcast(total, y) * self.family.profile(y)) ** 2

    def score(self, network: nn.Module, y: Tensor, multiple: int = 16) -> tuple[Tensor, Tensor]:
        """The score of noisy images ``(B, C, *spatial)`` at the least smoothing, and that smoothing of every pixel.

        ``least_variation(families, y, *objective.score(network, y))`` chooses an unknown noise parameter.
        """
        nominal = y.new_full((len(y),), self.family.std)
        ratio = torch.full_like(nominal, self.smoothing[0])
        score = self.residual(self.prior(network, multiple), y, nominal, ratio)
        return score, self.smoothing[0] * self.family.std * self.family.profile(y)

    def denoise(
        self, network: nn.Module, y: Tensor, multiple: int = 16, *, family: NoiseFamily | None = None
    ) -> Tensor:
        """The clean estimate of images ``(B, C, *spatial)``.

        Args:
            network: the trained network.
            y: noisy images.
            multiple: sides are padded to a multiple of it.
            family: noise of ``y``, if its parameter was not known in training.
        """
        return (family or self.family).denoise(y, *self.score(network, y, multiple))
