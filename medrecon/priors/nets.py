"""Networks as priors: each parameterization is converted to ``x = x0 + sigma n`` here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.mri import sense
from medrecon.priors.base import as_levels

__all__ = [
    "EDMNet",
    "EpsNet",
    "FlowNet",
    "Labelled",
    "Masked",
    "MaskedNet",
    "Preconditioning",
    "denoise",
    "denoise_masked",
    "precondition",
]


class Preconditioning(NamedTuple):
    """The four factors of EDM, each of the shape of ``sigma``; ``noise`` is on MONAI's 0...1000 timestep scale."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


def precondition(sigma: Tensor, sigma_data: float) -> Preconditioning:
    """EDM's factors for noise levels ``sigma > 0`` and data of standard deviation ``sigma_data`` (Table 1).

    The paper feeds ``ln(sigma) / 4``; MONAI's sinusoidal embedding expects numbers up to about 1000, hence the 250.
    """
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        skip=sigma_data**2 / total,
        out=sigma * sigma_data / total.sqrt(),
        input=1 / total.sqrt(),
        noise=250 * sigma.log() / 4,
    )


def denoise(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """EDM's denoiser ``c_skip x + c_out F(c_in x)``, and ``c_out`` ``(B, 1, ...)``; ``sigma`` is ``(B,)``."""
    c = precondition(batch_broadcast(sigma, x), sigma_data)
    return c.skip * x + c.out * network(c.input * x, c.noise.flatten()).to(x.dtype), c.out


class Masked(NamedTuple):
    """A clean estimate, and the scales of the network's output on the lines that it saw and on the others, ``(B, 1, 1, 1)``."""

    estimate: Tensor
    seen: Tensor
    unseen: Tensor


def denoise_masked(
    network: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    mask: Tensor,
    sigma: Tensor,
    sigma_data: float,
    *,
    coils: int = 1,
) -> Masked:
    """The same for an undersampled image ``u = A^H A (x0 + sigma n)``; the mask is a further channel of the network's input.

    ``D = c_skip u + P c_out F + (1 - P) sigma_data F`` with ``P`` the projection on the lines of the mask: lines that the network
    saw are denoised as by EDM, the others, whose error does not fall with the noise, have the scale of the images. Images of
    several coils are aliased instead, and all of them has that scale.

    Args:
        network: called as ``network(x, timesteps)``; has as many channels at the end as at the start; the last is ignored.
        u: ``(B, C, y, x)``.
        mask: ``(B or 1, 1, y or 1, x or 1)``.
        sigma: ``(B,)``.
        sigma_data: standard deviation of the images per channel.
        coils: coils of ``A``.
    """
    c = precondition(batch_broadcast(sigma, u), sigma_data)
    channel = mask.to(u.dtype).expand(len(u), 1, *u.shape[2:])
    made = network(torch.cat([c.input * u, channel], dim=1), c.noise.flatten())[:, : u.shape[1]].to(u.dtype)
    unseen = torch.full_like(c.out, sigma_data)
    if coils > 1:
        return Masked(c.skip * u + sigma_data * made, unseen, unseen)
    lines = sense(None, mask.to(u.dtype), tuple(u.shape[2:]), u.dtype.to_complex()).normal(made)
    return Masked(c.skip * u + c.out * lines + sigma_data * (made - lines), c.out, unseen)


def _run(network: nn.Module, x: Tensor, timesteps: Tensor, multiple: int, dtype: torch.dtype | None) -> Tensor:
    """Call a network on sides padded to ``multiple`` (at the far end, with zeros) and crop back."""
    spatial = x.shape[2:]
    pad = [side for n in reversed(spatial) for side in (0, -n % multiple)]
    inside = F.pad(x, pad)
    if dtype is not None:
        if inside.ndim == 4:
            inside = inside.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=dtype):
            out = network(inside, timesteps)
    else:
        out = network(inside, timesteps)
    return out.to(x.dtype)[(..., *[slice(n) for n in spatial])]


class Labelled(nn.Module):
    """A network that takes ``class_labels``, with the same label for every image."""

    def __init__(self, network: nn.Module, label: int) -> None:
        super().__init__()
        self.network = network
        self.label = label

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """``network(x, timesteps, class_labels=label)``."""
        labels = x.new_full((x.shape[0],), self.label, dtype=torch.long)
        return self.network(x, timesteps, class_labels=labels)


class EDMNet:
    """A network trained with EDM preconditioning: ``D = c_skip x + c_out F(c_in x, 250 ln(sigma) / 4)``.

    Args:
        network: F, called as ``network(x, timesteps)``, e.g. MONAI's ``DiffusionModelUNet`` or ``ResidualUNet``.
        sigma_data: standard deviation of the training images per channel.
        multiple: sides are padded to a multiple of it for the network, then cropped back.
        dtype: autocast type of the network alone (``torch.bfloat16``); ``None`` runs it in the type of its weights.

    Reference: Karras et al., NeurIPS 2022, eq. 7 and Table 1.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float, multiple: int = 8, dtype: torch.dtype | None = None
    ) -> None:
        self.network = network
        self.sigma_data = sigma_data
        self.multiple = multiple
        self.dtype = dtype

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate; sigma > 0."""
        c = precondition(as_levels(sigma, x), self.sigma_data)
        out = _run(self.network, batch_broadcast(c.input, x) * x, c.noise, self.multiple, self.dtype)
        return batch_broadcast(c.skip, x) * x + batch_broadcast(c.out, x) * out


class MaskedNet:
    """A network that was trained on undersampled images, with the mask as a channel: ``D(A^H A x, M, sigma)``, ``A = M F S``.

    It never saw full images, so ``x`` is undersampled: with the mask of the scan, whose lines hold what is known, or with masks
    as in training. Then every noise level has its own, so that over the steps of a solver all lines are seen.

    Args:
        network: called as ``network(x, timesteps)`` with the channels of the image and one of the mask.
        sigma_data: standard deviation of the training images per channel.
        masks: ``masks(shape, index)``, a sampling mask ``(1, 1, y or 1, x or 1)`` for images of this shape, the same for the same
            index; or the masks of the items, ``(B or 1, 1, y or 1, x or 1)``.
        multiple: sides are padded to a multiple of it for the network, then cropped back.
        dtype: autocast type of the network alone.
        maps: coil maps ``S`` of the scan, complex ``(B or 1, coils, y, x)``; ``None``: a single coil. Aliasing depends on them:
            a network that was trained on several coils needs them.

    Reference: Aali et al., "Ambient diffusion posterior sampling", ICLR 2025.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        masks: Callable[[tuple[int, ...], int], Tensor] | Tensor,
        multiple: int = 8,
        dtype: torch.dtype | None = None,
        maps: Tensor | None = None,
    ) -> None:
        self.network = network
        self.sigma_data = sigma_data
        self.masks = masks
        self.maps = maps
        self.multiple = multiple
        self.dtype = dtype

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate; sigma > 0."""
        levels = as_levels(sigma, x)
        mask = (self.masks if isinstance(self.masks, Tensor) else self._drawn(self.masks, levels, x)).to(x)
        complex_type = x.dtype.to_complex()
        maps = None if self.maps is None else self.maps.to(complex_type)
        u = sense(maps, mask, tuple(x.shape[2:]), complex_type).normal(x)

        def run(inputs: Tensor, timesteps: Tensor) -> Tensor:
            return _run(self.network, inputs, timesteps, self.multiple, self.dtype)

        coils = 1 if maps is None else maps.shape[1]
        return denoise_masked(run, u, mask, levels, self.sigma_data, coils=coils).estimate

    @staticmethod
    def _drawn(masks: Callable[[tuple[int, ...], int], Tensor], levels: Tensor, x: Tensor) -> Tensor:
        """A mask for every item; levels that differ by less than 0.1 % have the same."""
        indices = [round(1000 * value) + 10**6 for value in levels.double().log().tolist()]
        made = {index: masks(tuple(x.shape[2:]), index) for index in set(indices)}
        return torch.cat([made[index] for index in indices])


class EpsNet:
    """A noise-predicting network of a variance-preserving chain (DDPM), e.g. one trained with MONAI's schedulers.

    ``x_vp = x / sqrt(1 + sigma^2)``; the timestep is interpolated in ln(sigma), so any sigma is legal, and levels
    outside the chain get its first or last step.

    Args:
        network: called as ``network(x_vp, timesteps)``; only the first C of its output channels are used (networks
            with learned variances give 2 C).
        alphas_cumprod: ``(T,)``, the chain's cumulative product, as in MONAI's schedulers.
        multiple: sides are padded to a multiple of it for the network, then cropped back.
        dtype: autocast type of the network alone.

    Reference: Ho et al., NeurIPS 2020.
    """

    def __init__(
        self, network: nn.Module, alphas_cumprod: Tensor, multiple: int = 8, dtype: torch.dtype | None = None
    ) -> None:
        self.network = network
        kept = alphas_cumprod.double()
        self.log_levels = ((1 - kept) / kept).log() / 2
        self.multiple = multiple
        self.dtype = dtype

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional index of noise level ``sigma`` ``(B,)`` in the chain."""
        levels = self.log_levels.to(sigma.device)
        log_sigma = sigma.double().log().clamp(levels[0], levels[-1])
        after = torch.searchsorted(levels, log_sigma).clamp(1, len(levels) - 1)
        low, high = levels[after - 1], levels[after]
        return (after - 1 + (log_sigma - low) / (high - low)).to(sigma.dtype)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``x - sigma eps(x / sqrt(1 + sigma^2), t(sigma))``."""
        levels = as_levels(sigma, x)
        scaled = x / batch_broadcast((1 + levels**2).sqrt(), x)
        out = _run(self.network, scaled, self.timestep(levels), self.multiple, self.dtype)
        return x - batch_broadcast(levels, x) * out[:, : x.shape[1]]


class FlowNet:
    """A velocity-predicting network of a rectified flow, ``x_tau = (1 - tau) x0 + tau n``.

    ``tau = sigma / (1 + sigma)``, ``x_tau = x / (1 + sigma)``, and the clean estimate is ``x_tau - tau v``.

    Args:
        network: called as ``network(x_tau, 1000 tau)``, answers ``v``.
        sign: 1 for ``v = n - x0``; -1 for ``v = x0 - n``, the convention of MONAI's ``RFlowScheduler``.
        multiple: sides are padded to a multiple of it for the network, then cropped back.
        dtype: autocast type of the network alone.

    References: Liu et al., ICLR 2023; Lipman et al., ICLR 2023.
    """

    def __init__(self, network: nn.Module, sign: int = 1, multiple: int = 8, dtype: torch.dtype | None = None) -> None:
        if sign not in (1, -1):
            raise ValueError(f"sign must be 1 (v = n - x0) or -1 (v = x0 - n); got {sign}")
        self.network = network
        self.sign = sign
        self.multiple = multiple
        self.dtype = dtype

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate, ``x_tau - tau v``."""
        levels = as_levels(sigma, x)
        tau = levels / (1 + levels)
        scaled = x / batch_broadcast(1 + levels, x)
        velocity = self.sign * _run(self.network, scaled, 1000 * tau, self.multiple, self.dtype)
        return scaled - batch_broadcast(tau, x) * velocity
