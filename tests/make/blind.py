"""A problem with an unknown parameter: measurements multiplied by an unknown gain."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian
from medrecon.operators.linalg import dot

from .posteriors import Dense, dense, gaussian_prior

__all__ = ["Gain", "GainOperator", "unknown_gain"]


class GainOperator(Dense):
    """``y = gain * matrix x`` with a gain per item."""

    def __init__(self, matrix, gain):
        super().__init__(matrix)
        self.gain = gain

    def forward(self, x):
        return self.gain[:, None] * super().forward(x)

    def adjoint(self, y):
        return super().adjoint(self.gain[:, None] * y)


@dataclass(frozen=True, eq=False)
class Gain(BlindGaussian):
    """The gain is updated by least squares; ``updates`` counts how often."""

    updates: int = 0

    @property
    def parameters(self):
        return {"gain": self.A.gain}

    def with_parameters(self, parameters):
        return replace(self, A=GainOperator(self.A.matrix, parameters["gain"]))

    def repeated(self, n):
        return replace(super().repeated(n), A=GainOperator(self.A.matrix, self.A.gain.expand(n)))

    def updated(self, x0, sigma):
        plain = self.with_parameters({"gain": torch.ones_like(self.A.gain)}).A(x0)
        return replace(self.with_parameters({"gain": dot(self.y, plain) / dot(plain, plain)}), updates=self.updates + 1)


def unknown_gain(gain: Tensor, noise_std=0.01, rows=6, seed=3):
    """``(prior, likelihood with gains 1, images)`` of images of a prior, measured with gains ``(B,)``."""
    prior, matrix = gaussian_prior(), dense(rows)
    generator = torch.Generator().manual_seed(seed)
    root = prior.modes * prior.variances.clamp(min=0).sqrt()
    x = prior.mean.flatten() + torch.randn(len(gain), 6, generator=generator, dtype=torch.float64) @ root.T
    x = x.view(-1, *prior.mean.shape)
    y = GainOperator(matrix, gain)(x)
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return prior, Gain(GainOperator(matrix, torch.ones_like(gain)), y, noise_std), x
