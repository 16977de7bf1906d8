"""Image quality as MONAI metrics: per volume, data range = maximum of the reference."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import SSIMMetric
from monai.metrics.regression import RegressionMetric
from torch import Tensor

from medrecon.operators.linalg import per_item

__all__ = ["NMSE", "PSNR", "SSIM", "scores"]


def _unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both over the maximum of ``y``, in double precision: squares of very large or small numbers are no numbers."""
    top = y.flatten(1).amax(1).double().clamp(min=torch.finfo(y.dtype).tiny)
    return x.double() / per_item(top, x), y.double() / per_item(top, y)


class PSNR(RegressionMetric):
    """Peak signal-to-noise ratio in dB, ``10 log10(max(y)^2 / mean((x - y)^2))`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        x, y = _unit(y_pred, y)
        return (-10 * torch.log10(((x - y) ** 2).flatten(1).mean(1)))[:, None]


class NMSE(RegressionMetric):
    """Normalised mean squared error, ``|x - y|^2 / |y|^2`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        x, y = _unit(y_pred, y)
        energy = (y**2).flatten(1).sum(1).clamp(min=torch.finfo(y.dtype).tiny)
        return (((x - y) ** 2).flatten(1).sum(1) / energy)[:, None]


class SSIM(RegressionMetric):
    """Structural similarity of two-dimensional slices (the channels), uniform 7 x 7 window, mean over the slices.

    MONAI's, with the window of scikit-image and fastMRI (which divide the covariance by n - 1 instead of n).
    """

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        values = []
        metric = SSIMMetric(spatial_dims=2, data_range=1.0, kernel_type="uniform", win_size=7)
        for x, reference in zip(*_unit(y_pred, y), strict=True):
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
