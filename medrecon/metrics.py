"""Image quality as MONAI metrics: per volume, data range = maximum of the reference."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import SSIMMetric
from monai.metrics.regression import RegressionMetric
from torch import Tensor

__all__ = ["NMSE", "PSNR", "SSIM", "scores"]


def _range(y: Tensor) -> Tensor:
    return y.flatten(1).amax(1).clamp(min=torch.finfo(y.dtype).tiny)


class PSNR(RegressionMetric):
    """Peak signal-to-noise ratio in dB, ``10 log10(max(y)^2 / mean((x - y)^2))`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        error = ((y_pred - y) ** 2).flatten(1).mean(1)
        return (10 * torch.log10(_range(y) ** 2 / error))[:, None]


class NMSE(RegressionMetric):
    """Normalised mean squared error, ``|x - y|^2 / |y|^2`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        energy = (y**2).flatten(1).sum(1).clamp(min=torch.finfo(y.dtype).tiny)
        return (((y_pred - y) ** 2).flatten(1).sum(1) / energy)[:, None]


class SSIM(RegressionMetric):
    """Structural similarity of two-dimensional slices (the channels), uniform 7 x 7 window, mean over the slices.

    MONAI's, with the window of scikit-image and fastMRI (which divide the covariance by n - 1 instead of n).
    """

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        values = []
        for x, reference, top in zip(y_pred, y, _range(y), strict=True):
            metric = SSIMMetric(spatial_dims=2, data_range=float(top), kernel_type="uniform", win_size=7)
            values.append(metric._compute_metric(x[:, None].float(), reference[:, None].float()).mean())
        return torch.stack(values)[:, None]


def scores(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """PSNR (dB), SSIM and NMSE of magnitudes ``(slices, y, x)``."""
    x, y = (torch.as_tensor(np.asarray(v, dtype=np.float32))[None] for v in (image, reference))
    return {
        "psnr": float(PSNR()._compute_metric(x.double(), y.double())),
        "ssim": float(SSIM()._compute_metric(x, y)),
        "nmse": float(NMSE()._compute_metric(x.double(), y.double())),
    }
