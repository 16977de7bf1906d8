"""Baselines without a learned prior; they take one step, from any level to 0.

Sparsity is joint over the channels: the magnitude of a complex image (two channels), the value of a real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.image import FiniteDifferences
from medrecon.operators.linalg import dot, operator_norm, per_item
from medrecon.operators.wavelet import Wavelet
from medrecon.priors.base import Prior
from medrecon.solvers.base import Requires, Solver

__all__ = ["TV", "CGSense", "Classical", "L1Wavelet", "ZeroFilled", "lipschitz"]


def _magnitude(x: Tensor, channels: int) -> Tensor:
    return x.norm(dim=channels, keepdim=True)


def _shrink(x: Tensor, threshold: Tensor, channels: int) -> Tensor:
    """Soft thresholding of the magnitude over the axis ``channels``."""
    size = _magnitude(x, channels)
    return x * ((size - threshold).clamp(min=0) / torch.where(size > 0, size, 1.0))


def lipschitz(data: Gaussian) -> Tensor:
    """An upper bound of |A|^2 per item, ``(B,)``: power iteration approaches it from below, hence the 5 %."""
    size = 1.05 * operator_norm(data.A.normal, data.back, 20) ** 2
    return torch.where(size > 0, size, 1.0)


@dataclass(frozen=True, kw_only=True)
class Classical(Solver):
    """A point estimate in one step: what came before does not matter."""

    requires: ClassVar[Requires] = Requires(prior=False)

    def estimate(self, data: Gaussian) -> Tensor:
        """The image, from the data alone."""
        raise NotImplementedError

    def step(
        self,
        state: Tensor,
        sigma: float,
        sigma_next: float,
        *,
        prior: Prior | None,
        data: Gaussian,
        noise: Noise,
    ) -> Tensor:
        """The estimate, whatever the state."""
        return self.estimate(data)


@dataclass(frozen=True, kw_only=True)
class ZeroFilled(Classical):
    """Zero-filled reconstruction: ``A^H y``."""

    def estimate(self, data: Gaussian) -> Tensor:
        """``A^H y``."""
        return data.back


@dataclass(frozen=True, kw_only=True)
class CGSense(Classical):
    """Regularised SENSE by conjugate gradients: ``argmin_x |y - A x|^2 + lam |x|^2``.

    Args:
        lam: weight of the regulariser.
        n_iter: iterations.

    Reference:
        Pruessmann et al., MRM 46 (2001), with Tikhonov's term.
    """

    lam: float = 0.01
    n_iter: int = 30

    def estimate(self, data: Gaussian) -> Tensor:
        """``(A^H A + lam)^-1 A^H y``."""
        return data.A.solve(data.back, self.lam, None, self.n_iter)


@dataclass(frozen=True, kw_only=True)
class L1Wavelet(Classical):
    """Compressed sensing with wavelets: ``argmin_x |y - A x|^2 / 2 + lam |W x|_1``, by FISTA.

    Args:
        lam: weight of the sparsity, for images of unit scale.
        wavelet: an orthogonal wavelet of PyWavelets.
        n_iter: iterations.

    Deviation:
        ``W^H shrink(W x)`` is the exact proximal map for an orthogonal W; here W is an isometry onto more
        coefficients than pixels, as in sigpy, and the map is a close approximation. The momentum restarts where it
        points uphill (O'Donoghue and Candes, 2015).

    Reference:
        Lustig et al., Sparse MRI, MRM 58 (2007); Beck and Teboulle, FISTA, SIAM J. Imaging Sci. 2 (2009).
    """

    lam: float = 0.005
    wavelet: str = "db4"
    n_iter: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        Wavelet((8,), self.wavelet)  # refuses unknown and biorthogonal ones now

    def estimate(self, data: Gaussian) -> Tensor:
        """FISTA from the zero-filled image."""
        W = Wavelet(data.shape[2:], self.wavelet)
        size = lipschitz(data)
        step = per_item(1 / size, data.back)
        x = z = data.back
        t = torch.ones(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.n_iter):
            bands = W.analysis(z - step * (data.A.normal(z) - data.back))
            threshold = (self.lam / size).view(-1, *[1] * (x.ndim))
            x_next = W.synthesis([_shrink(band, threshold, 2) for band in bands])
            uphill = dot(z - x_next, x_next - x) > 0
            t = torch.where(uphill, 1.0, t)
            t_next = (1 + (1 + 4 * t**2).sqrt()) / 2
            z = x_next + per_item(torch.where(uphill, 0.0, (t - 1) / t_next), x) * (x_next - x)
            x, t = x_next, t_next
        return x


@dataclass(frozen=True, kw_only=True)
class TV(Classical):
    """Total variation: ``argmin_x |y - A x|^2 / 2 + lam |D x|_1``, D periodic differences along every axis, by PDHG.

    Args:
        lam: weight of the variation, for images of unit scale.
        n_iter: iterations.

    Deviation:
        PDHG in the form of Condat and Vu, which takes the data term by its gradient ``A^H A x - A^H y``.

    Reference:
        Rudin, Osher, Fatemi, Physica D 60 (1992); Condat, J. Optim. Theory Appl. 158 (2013).
    """

    lam: float = 0.003
    n_iter: int = 200

    def estimate(self, data: Gaussian) -> Tensor:
        """PDHG from the zero-filled image."""
        D = FiniteDifferences(range(len(data.shape) - 2), periodic=True)
        size = per_item(lipschitz(data), data.back)
        # The dual variable lives in [-lam, lam], the image in [0, 1]: their steps differ by about that factor.
        dual_step = size * min(0.05, 4 * self.lam)
        step = 1 / (size / 2 + dual_step * 4 * len(D.dims))
        x = data.back
        u = torch.zeros_like(D(x))
        for _ in range(self.n_iter):
            x_next = x - step * (data.A.normal(x) - data.back + D.adjoint(u))
            v = u + dual_step[:, None] * D(2 * x_next - x)
            u = v / (_magnitude(v, 2) / self.lam).clamp(min=1)
            x = x_next
        return x
