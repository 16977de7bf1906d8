"""Training objectives: EDM's regression, the noise of a DDPM, or the velocity of a rectified flow.

An objective turns clean images into a supervised pair, so that any supervised trainer with a squared error can train the
network, and turns the trained network into a :class:`medrecon.priors.Prior`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medrecon.operators.linalg import batch_broadcast
from medrecon.priors.base import Prior
from medrecon.priors.nets import EDMNet, EpsNet, FlowNet, precondition

__all__ = [
    "DDPM",
    "EDM",
    "OBJECTIVES",
    "MeasuredObjective",
    "Network",
    "Objective",
    "Pair",
    "RectifiedFlow",
    "objective",
    "stratified",
]

Network = Callable[[Tensor, Tensor], Tensor]
"""A network in training, called as ``network(x, timesteps)``."""


class Pair(NamedTuple):
    """Network input, noise level and target."""

    inputs: Tensor
    timesteps: Tensor
    target: Tensor


class Objective(Protocol):
    """Noise levels, pairs of input and target, and the prior of a trained network."""

    def pair(self, x0: Tensor, u: Tensor, noise: Tensor) -> Pair:
        """Noisy input and target for ``x0`` ``(B, C, *spatial)``, at the noise level of quantile ``u`` ``(B,)`` in (0, 1)."""
        ...

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Prior:
        """The network as a prior of ``x = x0 + sigma n``."""
        ...


@runtime_checkable
class MeasuredObjective(Protocol):
    """An objective whose data are measurements: noisy images, or undersampled k-space.

    The data of a batch are tensors by name, each with the items first. Images are ``(B, C, *spatial)`` at unit scale: ``image``,
    the noisy image; ``second``, the same object with other noise; ``clean``, without noise. ``noise_std`` ``(B,)`` is the noise
    per real component. Undersampled scans have ``kspace`` ``(B, coils, y, x)``, ``mask`` ``(B, 1, y or 1, x or 1)`` and
    ``maps`` ``(B, coils, y, x)``.

    The network is called under autocast where the device supports it. An objective that needs more than eight bits, such as one
    with finite differences, has an attribute ``full_precision = True``.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of the data that :meth:`loss` takes."""
        ...

    def loss(self, network: Network, data: Mapping[str, Tensor]) -> Tensor:
        """The loss of every item ``(B,)``; random numbers come from torch's generator."""
        ...

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Prior:
        """The trained network as a prior of ``x = x0 + sigma n``."""
        ...


def stratified(n: int, device: torch.device | str | None = None) -> Tensor:
    """``n`` uniform numbers in (0, 1), one in each of ``n`` equal bins, in random order.

    Each number is uniform, so the expectation of a loss is unchanged; its variance is smaller.
    """
    uniform = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
    return uniform.clamp(1e-6, 1 - 1e-6)


@dataclass(frozen=True, kw_only=True)
class EDM:
    """Denoising score matching with EDM's preconditioning (Karras et al., NeurIPS 2022, arXiv 2206.00364).

    The denoiser is ``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)``. With the paper's loss weight
    ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2`` the loss is an unweighted squared error of the
    network ``F`` against ``(x0 - c_skip x) / c_out``.

    Args:
        sigma_data: standard deviation of the images, per channel.
        log_mean: mean of ln(sigma).
        log_std: standard deviation of ln(sigma).
    """

    sigma_data: float = 0.25
    log_mean: float = -1.6
    log_std: float = 1.4

    def pair(self, x0: Tensor, u: Tensor, noise: Tensor) -> Pair:
        """Input ``c_in x``, target ``(x0 - c_skip x) / c_out``."""
        sigma: Tensor = (self.log_mean + self.log_std * torch.special.ndtri(u)).exp()
        c = precondition(batch_broadcast(sigma, x0), self.sigma_data)
        x = x0 + batch_broadcast(sigma, x0) * noise
        return Pair(c.input * x, c.noise.flatten(), (x0 - c.skip * x) / c.out)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> EDMNet:
        """See :class:`medrecon.priors.EDMNet`."""
        return EDMNet(network, self.sigma_data, multiple, dtype)


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Prediction of the noise of a variance-preserving chain (Ho et al., NeurIPS 2020), for images of unit scale.

    The chain has linear betas, as MONAI's ``DDPMScheduler("linear_beta")``, so networks can be exchanged.

    Args:
        steps: length of the chain.
        beta_start: first beta.
        beta_end: last beta.
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 2e-2

    @property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative products of ``1 - beta``, ``(steps,)``, float64."""
        betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        return torch.cumprod(1 - betas, 0)

    def pair(self, x0: Tensor, u: Tensor, noise: Tensor) -> Pair:
        """Input ``sqrt(abar) x0 + sqrt(1 - abar) noise``, target ``noise``."""
        t = (u * self.steps).long().clamp(max=self.steps - 1)
        kept = batch_broadcast(self.alphas_cumprod.to(x0.device, x0.dtype)[t], x0)
        return Pair(kept.sqrt() * x0 + (1 - kept).sqrt() * noise, t.to(x0.dtype), noise)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> EpsNet:
        """See :class:`medrecon.priors.EpsNet`."""
        return EpsNet(network, self.alphas_cumprod, multiple, dtype)


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """Velocity of the straight path ``x_tau = (1 - tau) x0 + tau n`` (Liu et al., ICLR 2023; Lipman et al., ICLR 2023).

    tau has a logit-normal distribution (Esser et al., ICML 2024).

    Args:
        mean: mean of logit(tau).
        std: standard deviation of logit(tau).
    """

    mean: float = -0.5
    std: float = 1.2

    def pair(self, x0: Tensor, u: Tensor, noise: Tensor) -> Pair:
        """Input ``(1 - tau) x0 + tau noise``, target ``noise - x0``, timestep ``1000 tau``."""
        tau = (self.mean + self.std * torch.special.ndtri(u)).sigmoid()
        x = (1 - batch_broadcast(tau, x0)) * x0 + batch_broadcast(tau, x0) * noise
        return Pair(x, 1000 * tau, noise - x0)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> FlowNet:
        """See :class:`medrecon.priors.FlowNet`."""
        return FlowNet(network, multiple=multiple, dtype=dtype)


OBJECTIVES: Mapping[str, Callable[..., Objective]] = MappingProxyType({"edm": EDM, "ddpm": DDPM, "flow": RectifiedFlow})
"""Objectives by name of the parameterization."""


def objective(parameterization: str, sigma_data: float = 0.25, **law: float) -> Objective:
    """The objective of a parameterization, for configs.

    Args:
        parameterization: what the network predicts: ``"edm"``, ``"ddpm"`` or ``"flow"``.
        sigma_data: standard deviation of the images per channel, for EDM.
        **law: other arguments of the class, such as the distribution of noise levels.

    Raises:
        ValueError: for another name, a ``sigma_data`` that is not a positive number, or an unknown argument.
    """
    if not isinstance(parameterization, str) or parameterization not in OBJECTIVES:
        raise ValueError(f"parameterization must be one of {', '.join(OBJECTIVES)}; got {parameterization!r}")
    if not isinstance(sigma_data, int | float) or not 0 < sigma_data < float("inf"):
        raise ValueError(f"sigma_data must be a number above 0; got {sigma_data!r}")
    try:
        return OBJECTIVES[parameterization](**({"sigma_data": sigma_data} if parameterization == "edm" else {}), **law)
    except TypeError as error:
        raise ValueError(f"{parameterization}: {error}") from error
