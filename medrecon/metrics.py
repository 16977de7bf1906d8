"""Image quality metrics per volume, as MONAI metrics, and the scores of ``medrecon evaluate``.

The data range is the maximum of the reference for magnitudes, and fixed for CT (2000 HU).
"""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import SSIMMetric
from monai.metrics.regression import RegressionMetric
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.operators.linalg import batch_broadcast

__all__ = ["HU_RANGE", "NMSE", "PSNR", "SSIM", "SSIM_WINDOW", "hounsfield_scores", "magnitude_scores", "scores"]

HU_RANGE = (-1000.0, 1000.0)
"""Air to dense bone, HU: 0 to 2 in the image unit of the CT bundle, where water is 1."""

SSIM_WINDOW = 7
"""Side of SSIM's window, pixels."""


class _RangeMetric(RegressionMetric):
    """Base class of metrics with a data range.

    Args:
        low: value that counts as 0; relevant for SSIM and NMSE.
        data_range: data range of PSNR and SSIM; ``None``: the maximum of the reference.
    """

    def __init__(self, low: float = 0.0, data_range: float | None = None) -> None:
        super().__init__()
        self.low = low
        self.data_range = data_range

    def unit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and reference, divided by the data range."""
        return _unit(x - self.low, y - self.low, self.data_range)


def _unit(x: Tensor, y: Tensor, data_range: float | None = None) -> tuple[Tensor, Tensor]:
    """Both divided by the data range (default: the maximum of ``y``), in double precision, since squares may overflow."""
    if data_range is not None:
        return x.double() / data_range, y.double() / data_range
    top = y.flatten(1).amax(1).double().clamp(min=torch.finfo(y.dtype).tiny)
    return x.double() / batch_broadcast(top, x), y.double() / batch_broadcast(top, y)


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR ``(B, 1)`` of images that are divided by their data range."""
    return (-10 * torch.log10(((x - y) ** 2).flatten(1).mean(1)))[:, None]


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM ``(B, 1)`` of images ``(B, slices, y, x)`` that are divided by their data range.

    Raises:
        InputError: for slices smaller than the window.
    """
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"slices of {x.shape[-2]} x {x.shape[-1]} pixels are too small for SSIM, whose window is "
            f"{SSIM_WINDOW} x {SSIM_WINDOW}"
        )
    metric = SSIMMetric(spatial_dims=2, data_range=1.0, kernel_type="uniform", win_size=SSIM_WINDOW)
    pairs = zip(x, y, strict=True)
    values = [metric._compute_metric(one[:, None].float(), other[:, None].float()).mean() for one, other in pairs]
    return torch.stack(values)[:, None]


class PSNR(_RangeMetric):
    """Peak signal-to-noise ratio in dB, ``10 log10(max(y)^2 / mean((x - y)^2))`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return _psnr(*self.unit(y_pred, y))


class NMSE(_RangeMetric):
    """Normalised mean squared error, ``|x - y|^2 / |y|^2`` of every item."""

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        x, y = self.unit(y_pred, y)
        energy = (y**2).flatten(1).sum(1).clamp(min=torch.finfo(y.dtype).tiny)
        return (((x - y) ** 2).flatten(1).sum(1) / energy)[:, None]


class SSIM(_RangeMetric):
    """Structural similarity of two-dimensional slices (the channels), uniform 7 x 7 window, mean over the slices.

    MONAI's SSIM with the window of scikit-image and fastMRI (which divide the covariance by n - 1 instead of n).
    """

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return _ssim(*self.unit(y_pred, y))


def scores(image: np.ndarray, reference: np.ndarray, data_range: float | None = None) -> dict[str, float]:
    """PSNR (dB), SSIM and NMSE of an image.

    Args:
        image: image ``(slices, y, x)``.
        reference: reference of the same shape.
        data_range: data range of PSNR and SSIM; default: the maximum of the reference.
    """
    x, y = (torch.as_tensor(np.asarray(v, dtype=np.float32))[None] for v in (image, reference))
    return {
        "psnr": float(_psnr(*_unit(x.double(), y.double(), data_range))),
        "ssim": float(_ssim(*_unit(x, y, data_range))),
        "nmse": float(NMSE()._compute_metric(x.double(), y.double())),
    }


def _rmse(image: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image.astype(np.float64) - reference) ** 2)))


def magnitude_scores(image: np.ndarray, reference: np.ndarray) -> dict[str, float | bool]:
    """:func:`scores` of magnitudes, RMSE, and the range: the maximum of the reference."""
    facts = {"rmse": _rmse(image, reference), "data_range": float(reference.max()), "hounsfield": False}
    return {**scores(image, reference), **facts}


def hounsfield_scores(image: np.ndarray, reference: np.ndarray) -> dict[str, float | bool]:
    """:func:`scores` of HU with the data range ``HU_RANGE``, and RMSE in HU; SSIM and NMSE are computed on ``HU + 1000``."""
    low, high = HU_RANGE
    facts = {"rmse": _rmse(image, reference), "data_range": high - low, "hounsfield": True}
    return {**scores(image - low, reference - low, high - low), **facts}
