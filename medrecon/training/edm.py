"""Denoising score matching with EDM preconditioning (Karras et al., NeurIPS 2022, arXiv 2206.00364).

The denoiser is ``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)``. With the paper's loss weight
``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2`` the training loss is an unweighted squared error
of the network ``F`` against ``(x0 - c_skip x) / c_out``, so an ordinary supervised trainer can minimise it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.priors.nets import precondition

__all__ = ["DenoisingPair", "denoising_pair", "log_normal_levels"]


class DenoisingPair(NamedTuple):
    """What a network is shown, the noise level it is told, and what it should answer."""

    inputs: Tensor
    timesteps: Tensor
    target: Tensor


def log_normal_levels(n: int, mean: float, std: float, device: torch.device | str | None = None) -> Tensor:
    """``n`` noise levels with ``ln sigma ~ N(mean, std^2)``, ``(n,)``.

    Drawn by stratified sampling (one level in each of ``n`` equal-probability bins), which lowers the variance of
    the loss and leaves its expectation as it is.
    """
    uniform = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
    normal = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))
    return (mean + std * normal).exp()


def denoising_pair(x0: Tensor, sigma: Tensor, sigma_data: float, noise: Tensor) -> DenoisingPair:
    """Turn clean images ``(B, C, *spatial)``, levels ``(B,)`` and unit noise like ``x0`` into a supervised pair."""
    factors = precondition(sigma.view(-1, *[1] * (x0.ndim - 1)), sigma_data)
    x = x0 + sigma.view_as(factors.skip) * noise
    return DenoisingPair(factors.input * x, factors.noise.flatten(), (x0 - factors.skip * x) / factors.out)
