"""Metrics against MONAI."""

import pytest
import torch
from monai.metrics import SSIMMetric

from medrecon.metrics import SSIM, scores


def test_ssim_is_monais_on_every_slice():
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(1, 3, 24, 20, generator=generator)
    x = y + 0.1 * torch.rand(1, 3, 24, 20, generator=generator)
    metric = SSIMMetric(2, data_range=float(y.max()), kernel_type="uniform", win_size=7)
    slices = [
        metric._compute_metric(x[:, i : i + 1], y[:, i : i + 1])
        for i in range(3)
    ]  # fmt: skip
    assert float(SSIM()._compute_metric(x, y)) == pytest.approx(float(torch.cat(slices).mean()), rel=1e-5)
    assert scores(y[0].numpy(), y[0].numpy())["ssim"] == pytest.approx(1.0, abs=1e-5)
