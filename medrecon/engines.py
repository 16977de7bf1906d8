"""What MONAI's trainers and evaluators need to train and to judge a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from torch import Tensor

from medrecon.training.edm import denoising_pair, log_normal_levels

__all__ = ["EDMPrepareBatch", "NoisyPrepareBatch"]


class EDMPrepareBatch(PrepareBatch):
    """Noise the images and set up EDM's regression, so that ``MSELoss`` on the bare network trains the denoiser.

    Args:
        sigma_data: standard deviation of the images, per channel.
        log_mean: mean of ln(sigma).
        log_std: standard deviation of ln(sigma).
        key: where the clean images ``(B, C, *spatial)`` are.
    """

    def __init__(self, sigma_data: float, log_mean: float = -1.6, log_std: float = 1.4, key: str = "image") -> None:
        self.sigma_data = sigma_data
        self.log_mean = log_mean
        self.log_std = log_std
        self.key = key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict]:
        """Return network input, regression target and the timesteps."""
        x0 = batchdata[self.key].to(device, non_blocking=non_blocking, **kwargs)
        sigma = log_normal_levels(len(x0), self.log_mean, self.log_std, x0.device)
        pair = denoising_pair(x0, sigma, self.sigma_data, torch.randn_like(x0))
        return pair.inputs, pair.target, (pair.timesteps,), {}


class NoisyPrepareBatch(PrepareBatch):
    """Noise the images to given levels for validation: always the same noise for the same batch.

    Args:
        levels: noise levels sigma; image ``i`` of a batch gets level ``i`` modulo their number.
        seed: of the noise.
        key: where the clean images ``(B, C, *spatial)`` are.
    """

    def __init__(self, levels: Sequence[float], seed: int = 0, key: str = "image") -> None:
        self.levels = levels
        self.seed = seed
        self.key = key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict]:
        """Return noisy images, clean images and the noise levels."""
        x0 = batchdata[self.key].to(device, non_blocking=non_blocking, **kwargs)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(self.seed)).to(x0)
        sigma = x0.new_tensor([self.levels[i % len(self.levels)] for i in range(len(x0))])
        return x0 + sigma.view(-1, *[1] * (x0.ndim - 1)) * noise, x0, (sigma,), {}
