"""Objectives whose data are undersampled, noisy k-space: priors without clean images (Ambient, GSURE), reconstructors (SSDU).

``y = M (F S x + n)``, with ``n ~ N(0, noise_std^2)`` per real component. All three compare on sampled lines that the network did
not see, or with a correction for what it saw, and weight the lines by their probability of being sampled. Every loss comes in
two parts, ``draw`` with the random numbers, and ``loss_at`` without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from medrecon.data.masks import centred, undersampling_mask
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.mri import sense
from medrecon.priors.nets import EDMNet, MaskedNet, denoise, denoise_masked
from medrecon.training.objectives import Network, stratified

__all__ = ["GSURE", "SSDU", "Ambient", "Draw", "Unrolled", "calibration_region", "keep_lines", "sampling_density"]

NEEDS = frozenset({"kspace", "mask", "maps", "noise_std"})
_COLUMNS = ("equispaced", "random", "gaussian1d")
"""Kinds of masks of whole columns."""
FULL_DIVERGENCE = 1.0
"""GSURE computes the divergence of all items with noise levels up to this times the noise of the data, of others less often."""
LEAST_DENSITY = 1e-3
"""Densities below this count as this, so that no weight exceeds 1000."""


class Draw(NamedTuple):
    """Random numbers of a loss: noise levels ``(B,)``, white noise, and the mask that the network sees.

    ``fill`` is white noise like k-space, ``probe`` has random signs like the images, ``accept`` is uniform ``(B,)``; these are
    for GSURE.
    """

    sigma: Tensor
    noise: Tensor
    mask: Tensor
    fill: Tensor
    probe: Tensor
    accept: Tensor


def calibration_region(mask: Tensor, acs: int) -> Tensor:
    """True in the central ``acs`` entries along every axis of the mask, ``(1, 1, y or 1, x or 1)``."""
    region = torch.zeros((1, 1, *mask.shape[2:]), dtype=torch.bool, device=mask.device)
    region[(..., *[centred(n, min(acs, n)) if n > 1 else slice(None) for n in mask.shape[2:]])] = True
    return region


def keep_lines(mask: Tensor, acs: int, dropped: float) -> Tensor:
    """Drop sampled lines (entries of the mask) at random outside the calibration lines, of the shape and type of ``mask``.

    Every item loses the same fraction of its lines, rounded, and at least one where ``dropped`` is above 0.
    """
    if dropped == 0:
        return mask
    outer = (mask > 0) & ~calibration_region(mask, acs)
    n_outer = outer.flatten(1).sum(1)
    n_dropped = (dropped * n_outer).round().clamp(min=1).minimum(n_outer)
    keys = torch.where(outer, torch.rand(mask.shape, device=mask.device), 2.0).flatten(1)
    rank = keys.argsort(1).argsort(1).view(mask.shape)
    return torch.where(rank < batch_broadcast(n_dropped, mask), 0, mask)


def sampling_density(data: Mapping[str, Tensor], acs: int) -> Tensor:
    """The probability that each entry of the mask is sampled, of the shape of the mask.

    ``density`` of the data if it is there; otherwise calibration lines have 1, and all others the same probability, the fraction
    that the mask samples.
    """
    mask = data["mask"]
    if "density" in data:
        return data["density"].to(mask.device, torch.float32).expand(mask.shape).clamp(LEAST_DENSITY, 1.0)
    centre = calibration_region(mask, acs)
    fraction = ((mask > 0) & ~centre).flatten(1).sum(1) / (~centre).sum().clamp(min=1)
    return torch.where(centre, 1.0, batch_broadcast(fraction, mask)).clamp(LEAST_DENSITY, 1.0)


def _unseen_weights(mask: Tensor, seen: Tensor, density: Tensor, acs: int, dropped: float) -> Tensor:
    """One over the probability of a line outside ``seen`` to be sampled; 1 in ``seen``.

    For lines that are sampled independently, ``(density - kept) / (1 - kept)`` with ``kept = density (1 - dropped)`` the
    probability to be in ``seen``. ``dropped`` is the fraction after rounding.
    """
    outer = (mask > 0) & ~calibration_region(mask, acs)
    n_outer = outer.flatten(1).sum(1).clamp(min=1)
    fraction = (outer & (seen <= 0)).flatten(1).sum(1) / n_outer if dropped else torch.zeros_like(n_outer)
    kept = density * (1 - batch_broadcast(fraction, density))
    unseen = (density - kept) / (1 - kept).clamp(min=LEAST_DENSITY)
    return torch.where((seen > 0) | (unseen <= 0), 1.0, 1 / unseen.clamp(min=LEAST_DENSITY))


def _check(data: Mapping[str, Tensor], acs: int) -> None:
    kspace, mask, maps = data["kspace"], data["mask"], data["maps"]
    if kspace.shape != maps.shape or len(mask) != len(kspace):
        raise ValueError(
            f"kspace and maps need one shape, and one mask per item; got {tuple(kspace.shape)}, {tuple(maps.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("a sampling mask must be 1 where sampled and 0 elsewhere")
    if not (mask > 0).flatten(1).any(1).all():
        raise ValueError("a sampling mask samples nothing")


def _levels(n: int, log_mean: float, log_std: float, like: Tensor) -> Tensor:
    return (log_mean + log_std * torch.special.ndtri(stratified(n, like.device))).exp().to(like.dtype)


def _image_like(kspace: Tensor) -> Tensor:
    """An empty image of two channels for k-space ``(B, coils, y, x)``."""
    return torch.empty((len(kspace), 2, *kspace.shape[2:]), dtype=kspace.real.dtype, device=kspace.device)


def _check_settings(dropped: float, acs: int, positive: Mapping[str, float]) -> None:
    if not 0 <= dropped < 1:
        raise ValueError(f"the fraction of lines must be at least 0 and below 1; got {dropped!r}")
    if not isinstance(acs, int) or acs < 0:
        raise ValueError(f"acs must be a number of lines, 0 or more; got {acs!r}")
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a number above 0; got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Ambient:
    """Ambient diffusion: the network sees fewer lines than were sampled, and is compared on all that were.

    ``u = A~^H A~ (x + sigma z)``, from ``y`` and projected noise;  ``loss = |W^(1/2) (A D(u, M~, sigma) - y)|^2``

    The further mask ``M~`` is a third channel. Weights are 1 on the lines in ``M~`` and one over the probability of being sampled
    on the others, over the squared scale of the network's output there (:func:`medrecon.priors.nets.denoise_masked`), so the
    expectation over masks is a loss against the fully sampled image. Noise in ``y`` is learned as if it were part of the images;
    :class:`GSURE` corrects for it.

    Args:
        sigma_data: standard deviation of the images, per channel.
        log_mean: mean of ln(sigma).
        log_std: standard deviation of ln(sigma).
        dropped: fraction of the sampled lines outside the calibration lines that the network does not see.
        acs: calibration lines, which are never dropped.
        kind: masks of the prior, see :func:`medrecon.data.masks.undersampling_mask`.
        accel: acceleration of these masks before lines are dropped.
        rows: whether masks of columns are of rows instead.
        several_coils: whether the training scans have several coils, see :func:`medrecon.priors.nets.denoise_masked`;
            ``None``: not known.
        seed: random seed of these masks.

    Reference: Daras et al., "Ambient diffusion", NeurIPS 2023; Aali et al., "Ambient diffusion posterior sampling", ICLR 2025.
    They drop a number of lines from a table, about a fifth at R = 4, and have no weights.
    """

    sigma_data: float = 0.25
    log_mean: float = -1.6
    log_std: float = 1.4
    dropped: float = 0.2
    acs: int = 24
    kind: str = "gaussian1d"
    accel: float = 4.0
    rows: bool = False
    several_coils: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        positive = {"sigma_data": self.sigma_data, "log_std": self.log_std, "accel": self.accel}
        _check_settings(self.dropped, self.acs, positive)

    @property
    def needs(self) -> frozenset[str]:
        """Undersampled k-space."""
        return NEEDS

    def draw(self, data: Mapping[str, Tensor]) -> Draw:
        """Random numbers of a batch."""
        image = _image_like(data["kspace"])
        sigma = _levels(len(image), self.log_mean, self.log_std, image)
        noise = torch.randn_like(image)
        return Draw(sigma, noise, keep_lines(data["mask"], self.acs, self.dropped), data["kspace"], noise, sigma)

    def loss_at(self, network: Network, data: Mapping[str, Tensor], draw: Draw) -> Tensor:
        """The loss of every item ``(B,)`` for given random numbers."""
        _check(data, self.acs)
        kspace, mask, maps = data["kspace"], data["mask"], data["maps"]
        seen, A = sense(maps, draw.mask), sense(maps, mask)
        sigma = batch_broadcast(draw.sigma, draw.noise)
        u = seen.adjoint(kspace) + sigma * seen.normal(draw.noise)
        made = denoise_masked(network, u, draw.mask, draw.sigma, self.sigma_data, coils=maps.shape[1])
        weights = _unseen_weights(mask, draw.mask, sampling_density(data, self.acs), self.acs, self.dropped)
        scale = torch.where(draw.mask > 0, made.seen, made.unseen)
        residual = weights.to(sigma.dtype).sqrt() / scale * (A(made.estimate) - mask * kspace)
        # Per value of the image, as for one coil.
        return maps.shape[1] * torch.view_as_real(residual).square().flatten(1).mean(1)

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """The loss of every item ``(B,)``."""
        return self.loss_at(network, data, self.draw(data))

    def masks(self, shape: tuple[int, ...], index: int) -> Tensor:
        """A mask as in training, ``(1, 1, y or 1, x)``, the same for the same seed and index."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        # Images may be smaller than those of the training.
        fits = shape[-2 if self.rows else -1] / self.accel if self.kind in _COLUMNS else min(shape) / self.accel**0.5
        acs = min(self.acs, int(fits))
        rows = self.rows and self.kind in _COLUMNS
        if self.accel <= 1:
            return torch.ones((1, 1, *([1] * len(shape))))
        made = undersampling_mask(shape[::-1] if rows else shape, self.kind, self.accel, acs, seed)
        mask = torch.as_tensor(np.atleast_2d(made), dtype=torch.float32)[None, None]
        mask = mask.mT if rows else mask
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return keep_lines(mask, self.acs, self.dropped)

    def prior(
        self,
        network: nn.Module,
        multiple: int = 16,
        dtype: torch.dtype | None = None,
        maps: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> MaskedNet:
        """See :class:`medrecon.priors.nets.MaskedNet`.

        Args:
            network: the trained network.
            multiple: sides are padded to a multiple of it.
            dtype: autocast type of the network.
            maps: coil maps of the scan; ``None``: a single coil.
            mask: sampling mask of the scan ``(B or 1, 1, y or 1, x or 1)``. If it samples no more than those of the training, the
                network sees the image through it, otherwise, or without it, through a mask as in training at every noise level.
        """
        own = mask is not None and float(mask.to(torch.float32).mean()) <= 1.05 / self.accel
        return MaskedNet(network, self.sigma_data, mask if own else self.masks, multiple, dtype, maps)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class GSURE:
    """Generalised SURE: denoising of undersampled, noisy images, with a correction for their noise.

    ``u = S^H F^H (y + noise_std (1 - M) w) + sqrt(sigma^2 - noise_std^2 |S|^2) z``
    ``loss = (|W^(1/2) (A D(u, sigma) - y)|^2 + 2 noise_std^2 div(A^H W A D) - constant) / c_out^2``

    ``w`` and ``z`` are white noise, so ``u = A^H A x`` with white noise of level ``sigma``: of one coil, the noise of sampled
    lines is raised from ``noise_std`` to ``sigma``, the others get ``sigma``. ``W`` is one over the sampling density. The
    expectation over noise is the error against the image without noise on the sampled lines; the constant makes it exactly so.
    The divergence matters little where ``sigma`` is far above ``noise_std``; there it is computed for a random part of the items,
    with the weight that keeps the expectation. Levels below ``noise_std`` are replaced with it. The network never sees the mask:
    the prior is exact if different spatial frequencies are uncorrelated, or if the noise hides the mask. Maps need
    ``|S|^2 <= 1`` summed over the coils.

    Args:
        sigma_data: standard deviation of the images, per channel.
        log_mean: mean of ln(sigma).
        log_std: standard deviation of ln(sigma).
        acs: calibration lines, which have the density 1 if the data have none.
        divergence: weight of the divergence; 1 is the theory.

    Reference: Kawar et al., "GSURE-based diffusion model training with corrupted data", TMLR 2024. They compare with the noised
    measurement, with the divergence times ``sigma^2``, which has the same expectation and a larger variance; and have one coil.
    """

    full_precision = True

    sigma_data: float = 0.25
    log_mean: float = -1.6
    log_std: float = 1.4
    acs: int = 24
    divergence: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_settings(0.0, self.acs, {"sigma_data": self.sigma_data, "log_std": self.log_std})
        if not 0 <= self.divergence < float("inf"):
            raise ValueError(f"divergence must be a number, 0 or more; got {self.divergence!r}")

    @property
    def needs(self) -> frozenset[str]:
        """Undersampled k-space."""
        return NEEDS

    def draw(self, data: Mapping[str, Tensor]) -> Draw:
        """Random numbers of a batch."""
        image = _image_like(data["kspace"])
        sigma = _levels(len(image), self.log_mean, self.log_std, image)
        noise = torch.randn_like(image)
        fill = torch.view_as_complex(torch.randn_like(torch.view_as_real(data["kspace"])))
        return Draw(sigma, noise, data["mask"], fill, torch.randint_like(image, 2) * 2 - 1, torch.rand_like(sigma))

    def loss_at(self, network: Network, data: Mapping[str, Tensor], draw: Draw) -> Tensor:
        """The loss of every item ``(B,)`` for given random numbers."""
        _check(data, self.acs)
        kspace, mask, maps = data["kspace"], data["mask"], data["maps"]
        power = maps.abs().square().sum(1, keepdim=True)
        if power.max() > 1 + 1e-3:
            raise ValueError(
                "GSURE needs coil maps whose squares sum to at most 1; divide them by their root sum of squares"
            )
        A, full = sense(maps, mask), sense(maps, torch.ones_like(mask))
        noise_std = data["noise_std"].to(draw.sigma)
        sigma = draw.sigma.maximum(noise_std)
        level, least = (batch_broadcast(value, draw.noise) for value in (sigma, noise_std))
        filled = mask * kspace + least * (1 - mask) * draw.fill
        u = full.adjoint(filled) + (level**2 - least**2 * power).clamp(min=0).sqrt() * draw.noise
        x0, c_out = denoise(network, u, sigma, self.sigma_data)
        weights = (mask / sampling_density(data, self.acs)).to(level.dtype)
        residual = torch.view_as_real(weights.sqrt() * (A(x0) - mask * kspace)).square().flatten(1).mean(1)
        constant = weights.expand(len(u), 1, *u.shape[2:]).flatten(1).mean(1)
        # Per value of the image, as for one coil.
        error = maps.shape[1] * (residual - noise_std**2 * constant)
        probability = (FULL_DIVERGENCE * noise_std / sigma).clamp(max=1.0)
        chosen = (draw.accept < probability).nonzero().flatten()
        if self.divergence > 0 and len(chosen):
            along = A.adjoint(weights * A(draw.probe))
            part = self._divergence(network, u[chosen], sigma[chosen], along[chosen], draw.probe[chosen])
            part = 2 * self.divergence * (noise_std**2 / probability)[chosen] * part
            error = error.index_add(0, chosen, part)
        return error / c_out.flatten() ** 2

    def _divergence(self, network: Network, u: Tensor, sigma: Tensor, along: Tensor, probe: Tensor) -> Tensor:
        """Monte-Carlo estimate (Hutchinson) of the trace of ``Q dD/du`` per value, ``(B,)``; ``along`` is ``Q probe``."""
        u = u.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            x0, _ = denoise(network, u, sigma, self.sigma_data)
        (slope,) = torch.autograd.grad(x0, u, along, create_graph=True)
        return (slope * probe).flatten(1).mean(1)

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """The loss of every item ``(B,)``."""
        with torch.enable_grad():  # the divergence is a derivative, also in validation
            return self.loss_at(network, data, self.draw(data))

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> EDMNet:
        """See :class:`medrecon.priors.EDMNet`."""
        return EDMNet(network, self.sigma_data, multiple, dtype)


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """An unrolled reconstructor: a network and a least-squares step in turns, with the same weights in all iterations.

    ``z = x + network(x);  x = (A^H A + mu I)^-1 (A^H y + mu z)``, from ``x = A^H y``

    Args:
        n_unrolled: iterations.
        mu: weight of the network's image.
        n_cg: conjugate-gradient iterations.

    Reference: Aggarwal, Mani and Jacob, MoDL, IEEE TMI 38 (2019).
    """

    n_unrolled: int = 4
    mu: float = 0.05
    n_cg: int = 6

    def __call__(self, network: Network, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """The image ``(B, 2, y, x)`` from k-space, of which only what ``mask`` samples is used."""
        A = sense(maps, mask)
        start = x = A.adjoint(kspace)
        timesteps = x.new_zeros(len(x))
        for _ in range(self.n_unrolled):
            z = x + network(x, timesteps).to(x.dtype)
            x = A.solve(start + self.mu * z, self.mu, z, self.n_cg)
        return x


@dataclass(frozen=True, kw_only=True)
class SSDU:
    """Self-supervision by data undersampling: an unrolled network sees some of the sampled lines, the others are its target.

    ``loss = |W^(1/2) M_target (F S x(M_seen y) - y)|^2``, the mean over lines and coils. ``W`` is one over the probability of a
    line that the network does not see to be a target, so the expectation over masks is the supervised loss on these lines.

    Args:
        dropped: fraction of the sampled lines outside the calibration lines that are the target (the paper's rho).
        acs: calibration lines, which the network always sees.
        n_unrolled: see :class:`Unrolled`.
        mu: see :class:`Unrolled`.
        n_cg: see :class:`Unrolled`.

    Reference: Yaman et al., MRM 84 (2020); the weights are from Millard and Chiew, IEEE TCI 9 (2023).

    Deviation: entries of the mask, which are lines for column masks, are chosen uniformly; the paper chooses points, with a
    Gaussian density, and has a loss that is half l2, half l1.
    """

    dropped: float = 0.4
    acs: int = 24
    n_unrolled: int = 4
    mu: float = 0.05
    n_cg: int = 6

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_settings(self.dropped, self.acs, {"mu": self.mu, "n_unrolled": self.n_unrolled, "n_cg": self.n_cg})
        if self.dropped == 0:
            raise ValueError("dropped must be above 0, or there is no target")

    @property
    def needs(self) -> frozenset[str]:
        """Undersampled k-space."""
        return NEEDS

    def draw(self, data: Mapping[str, Tensor]) -> Tensor:
        """The lines that the network sees, a mask like the data's."""
        return keep_lines(data["mask"], self.acs, self.dropped)

    def loss_at(self, network: Network, data: Mapping[str, Tensor], seen: Tensor) -> Tensor:
        """The loss of every item ``(B,)`` for given lines."""
        _check(data, self.acs)
        kspace, mask, maps = data["kspace"], data["mask"], data["maps"]
        x = self.reconstruct(network, kspace, seen, maps)
        weights = _unseen_weights(mask, seen, sampling_density(data, self.acs), self.acs, self.dropped)
        target = mask - seen
        residual = sense(maps, target)(x) - target * kspace
        residual = weights.to(x.dtype).sqrt() * residual
        return torch.view_as_real(residual).square().flatten(1).mean(1)

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """The loss of every item ``(B,)``."""
        return self.loss_at(network, data, self.draw(data))

    def reconstruct(self, network: Network, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """The image of a trained network, from all lines of ``mask``."""
        return Unrolled(n_unrolled=self.n_unrolled, mu=self.mu, n_cg=self.n_cg)(network, kspace, mask, maps)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> EDMNet:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "ssdu trains a reconstruction, not a prior; use its method reconstruct, or train with ambient or gsure"
        )
