"""Solvers without a learned prior; they take one step, from any level to 0.

Sparsity is joint over the channels: the magnitude of a complex image (two channels), the value of a real one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.bridge import AsComplex
from medrecon.operators.image import FiniteDifferences
from medrecon.operators.linalg import batch_broadcast, cg, dot
from medrecon.operators.wavelet import Wavelet
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires, setting

__all__ = [
    "TV",
    "CGSense",
    "Classical",
    "L1Wavelet",
    "LowRank",
    "TVFista",
    "TVPrimalDual",
    "TotalVariation",
    "ZeroFilled",
    "lipschitz",
    "shrink",
]


def _magnitude(x: Tensor, channels: int) -> Tensor:
    return x.norm(dim=channels, keepdim=True)


def shrink(x: Tensor, threshold: Tensor, channels: int) -> Tensor:
    """Soft thresholding of the magnitude over the axis ``channels``."""
    size = _magnitude(x, channels)
    return x * ((size - threshold).clamp(min=0) / torch.where(size > 0, size, 1.0))


def _clip(p: Tensor, limit: Tensor) -> Tensor:
    """``p`` with magnitudes over the channels (axis 2) of at most ``limit``."""
    size = _magnitude(p, 2)
    return torch.where(size > limit, p * (limit / torch.where(size > 0, size, 1.0)), p)


def _momentum(x: Tensor, x_next: Tensor, z: Tensor, t: Tensor, restart: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """FISTA's next ``x``, ``z`` and ``t``; with ``restart``, items whose momentum points uphill restart."""
    uphill = dot(z - x_next, x_next - x) > 0 if restart else torch.zeros_like(t, dtype=torch.bool)
    t = torch.where(uphill, 1.0, t)
    t_next = (1 + (1 + 4 * t**2).sqrt()) / 2
    z = x_next + batch_broadcast(torch.where(uphill, 0.0, (t - 1) / t_next), x) * (x_next - x)
    return x_next, z, t_next


def lipschitz(data: Gaussian) -> Tensor:
    """An upper bound of |A|^2 per item, ``(B,)``, 1 where A is 0."""
    return torch.where(data.lipschitz > 0, data.lipschitz, 1.0)


def _weight(lam: float | None, strength: float, data: Gaussian) -> Tensor:
    """``lam``, or without it ``strength`` times the noise of ``A^H y``, per item, ``(B,)``.

    Noise below 0.003 (of images of unit scale) counts as 0.003, so that data without noise are regularised too.
    """
    if lam is not None:
        return data.adjoint_y.new_full((len(data.adjoint_y),), lam)
    size = lipschitz(data).sqrt()
    return strength * size * torch.maximum(data.noise_std * torch.ones_like(size), 3e-3 * size)


@dataclass(frozen=True, kw_only=True)
class Classical(ImageSolver[Gaussian]):
    """A point estimate in one step, independent of the state."""

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
        prior: Prior,
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
        return data.adjoint_y


@dataclass(frozen=True, kw_only=True)
class CGSense(Classical):
    """Regularised SENSE by conjugate gradients: ``argmin_x |y - A x|^2 + lam |x|^2``.

    Args:
        lam: weight of the regulariser.
        n_iter: iterations.

    Reference:
        Pruessmann et al., MRM 46 (2001), with Tikhonov's term.
    """

    lam: float = setting(0.01, 1e-12, 1e12)
    n_iter: int = setting(30, 1, 1_000_000)

    def estimate(self, data: Gaussian) -> Tensor:
        """``(A^H A + lam)^-1 A^H y``."""
        return data.A.pinv(data.y, self.n_iter, self.lam)


@dataclass(frozen=True, kw_only=True)
class L1Wavelet(Classical):
    """Compressed sensing with wavelets: ``argmin_x |y - A x|^2 / 2 + lam |W x|_1``, by FISTA with cycle spinning.

    Args:
        lam: weight of the sparsity, for images of unit scale; ``None``: ``strength`` times the noise of ``A^H y``.
        strength: weight over the noise of ``A^H y``, where ``lam`` is ``None``.
        wavelet: an orthogonal wavelet of PyWavelets.
        n_iter: iterations.
        spin: shift the image by a random number of pixels before every transform, and back after it; artifacts of the wavelet
            grid then average out.

    Deviation:
        ``W^H shrink(W x)`` is the exact proximal map for an orthogonal W; here W is an isometry onto more
        coefficients than pixels, as in sigpy and BART, and the map is a close approximation. Without cycle spinning the momentum
        restarts where it points uphill (O'Donoghue and Candes, 2015); with it the map changes at every iteration, and so
        would the direction.

    Reference:
        Lustig et al., Sparse MRI, MRM 58 (2007); Beck and Teboulle, FISTA, SIAM J. Imaging Sci. 2 (2009); Coifman and Donoho,
        Translation-invariant de-noising (1995); Figueiredo and Nowak, IEEE TIP 12 (2003), for shifts at every iteration.
    """

    lam: float | None = setting(None, 1e-12, 1e12)
    strength: float = setting(0.15, 0.0, 2.0)
    wavelet: str = "db4"
    n_iter: int = setting(100, 1, 1_000_000)
    spin: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        Wavelet((8,), self.wavelet)  # refuses unknown and biorthogonal ones now

    def estimate(self, data: Gaussian) -> Tensor:
        """FISTA from the zero-filled image."""
        W = Wavelet(data.shape[2:], self.wavelet)
        size = lipschitz(data)
        step = batch_broadcast(1 / size, data.adjoint_y)
        x = z = step * data.adjoint_y
        t = torch.ones(len(x), dtype=x.dtype, device=x.device)
        threshold = (_weight(self.lam, self.strength, data) / size).view(-1, *[1] * x.ndim)
        axes = list(range(2, x.ndim))
        chance = random.Random(0)  # the same shifts for every item, whatever the batch
        for _ in range(self.n_iter):
            shifts = [chance.randrange(W.period) if self.spin else 0 for _ in axes]
            bands = W.analysis((z - step * (data.A.normal(z) - data.adjoint_y)).roll(shifts, axes))
            x_next = W.synthesis([shrink(band, threshold, 2) for band in bands]).roll([-n for n in shifts], axes)
            x, z, t = _momentum(x, x_next, z, t, restart=not self.spin)
        return x


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Classical):
    """Total variation: ``argmin_x |y - A x|^2 / 2 + lam |D x|_1``, D differences along every axis, periodic but for volumes.

    :class:`TV`, :class:`TVFista` and :class:`TVPrimalDual` find the same minimum by different algorithms. Where few views leave A
    ill-conditioned, ADMM's few conjugate-gradient steps see more of the problem than the gradient steps of the other two, which
    need several times as many products with ``A^H A``.

    Args:
        lam: weight of the variation, for images of unit scale; ``None``: ``strength`` times the noise of ``A^H y``.
        strength: weight over the noise of ``A^H y``, where ``lam`` is ``None``.
        n_iter: iterations; sparse-view CT needs some hundred.

    Reference:
        Rudin, Osher, Fatemi, Physica D 60 (1992).
    """

    lam: float | None = setting(None, 1e-12, 1e12)
    strength: float = setting(0.1, 0.0, 2.0)
    n_iter: int = setting(30, 1, 1_000_000)


def _differences(data: Gaussian) -> FiniteDifferences:
    """Differences along the spatial axes of the image: periodic in a slice, but not in a volume, whose ends differ."""
    n = len(data.shape) - 2
    return FiniteDifferences(range(n), periodic=n < 3)


@dataclass(frozen=True, kw_only=True)
class TV(TotalVariation):
    """Total variation by ADMM: ``argmin_x |y - A x|^2 / 2 + lam |D x|_1``.

    ``x = (A^H A + rho D^H D)^-1 (A^H y + rho D^H (z - u));  z = shrink(D x + u, lam / rho);  u <- u + D x - z``

    Args:
        lam: weight of the variation, for images of unit scale; ``None``: ``strength`` times the noise of ``A^H y``.
        strength: weight over the noise of ``A^H y``, where ``lam`` is ``None``.
        n_iter: iterations; sparse-view CT needs some hundred.
        n_inner: conjugate-gradient steps per iteration, from the last image.

    Deviation:
        ``rho`` makes the threshold a tenth of the largest value of a least-squares image, whatever the scale.

    Reference:
        Goldstein and Osher, SIAM J. Imaging Sci. 2 (2009).
    """

    n_inner: int = setting(5, 1, 10_000)

    def estimate(self, data: Gaussian) -> Tensor:
        """ADMM from a least-squares image."""
        D = _differences(data)
        x = data.A.pinv(data.y, 2 * self.n_inner, 1e-3 * lipschitz(data))
        threshold = 0.1 * _magnitude(x, 1).flatten(1).amax(1)
        threshold = torch.where(threshold > 0, threshold, 1.0)
        rho = batch_broadcast(_weight(self.lam, self.strength, data) / threshold, x)
        z = u = torch.zeros_like(D(x))
        for _ in range(self.n_iter):
            right = data.adjoint_y + rho * D.adjoint(z - u)
            x = cg(lambda v: data.A.normal(v) + rho * D.adjoint(D(v)), right, x, self.n_inner)
            v = D(x) + u
            z = shrink(v, batch_broadcast(threshold, v), 2)
            u = v - z
        return x


@dataclass(frozen=True, kw_only=True)
class TVFista(TotalVariation):
    """Total variation by FISTA: ``x' = prox(z - A^H (A z - y) / L)``, the proximal map by its dual, with momentum.

    Args:
        lam: weight of the variation, for images of unit scale; ``None``: ``strength`` times the noise of ``A^H y``.
        strength: weight over the noise of ``A^H y``, where ``lam`` is ``None``.
        n_iter: iterations; sparse-view CT needs some hundred.
        n_inner: steps on the dual per iteration.

    Deviation:
        the momentum restarts where it points uphill.

    Reference:
        Beck and Teboulle, IEEE TIP 18 (2009).
    """

    n_inner: int = setting(5, 1, 10_000)

    def estimate(self, data: Gaussian) -> Tensor:
        """FISTA from the zero-filled image."""
        D = _differences(data)
        size = batch_broadcast(lipschitz(data), data.adjoint_y)
        bound = 4.0 * (len(data.shape) - 2)  # of |D|^2
        x = z = data.adjoint_y / size
        p = torch.zeros_like(D(x))
        limit = batch_broadcast(_weight(self.lam, self.strength, data) / lipschitz(data), p)
        t = torch.ones(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.n_iter):
            v = z - (data.A.normal(z) - data.adjoint_y) / size
            q, s = p, 1.0
            for _ in range(self.n_inner):
                p_next = _clip(q + D(v - D.adjoint(q)) / bound, limit)
                s_next = (1 + (1 + 4 * s**2) ** 0.5) / 2
                q, p, s = p_next + (s - 1) / s_next * (p_next - p), p_next, s_next
            x_next = v - D.adjoint(p)
            x, z, t = _momentum(x, x_next, z, t)
        return x


@dataclass(frozen=True, kw_only=True)
class TVPrimalDual(TotalVariation):
    """Total variation by the primal-dual hybrid gradient method (PDHG), with explicit steps on the data.

    ``x' = x - tau (A^H (A x - y) + D^H p);  p <- clip(p + s D (2 x' - x), lam)``

    Args:
        lam: weight of the variation, for images of unit scale; ``None``: ``strength`` times the noise of ``A^H y``.
        strength: weight over the noise of ``A^H y``, where ``lam`` is ``None``.
        n_iter: iterations; sparse-view CT needs some hundred.

    Deviation:
        ``s = L / |D|^2`` and ``tau = 2 / (3 L)`` hold for any A.

    Reference:
        Condat, J. Optim. Theory Appl. 158 (2013).
    """

    def estimate(self, data: Gaussian) -> Tensor:
        """PDHG from the zero-filled image."""
        D = _differences(data)
        size = batch_broadcast(lipschitz(data), data.adjoint_y)
        x = data.adjoint_y / size
        p = torch.zeros_like(D(x))
        s = batch_broadcast(lipschitz(data), p) / (4.0 * (len(data.shape) - 2))
        limit = batch_broadcast(_weight(self.lam, self.strength, data), p)
        for _ in range(self.n_iter):
            x_next = x - 2 / 3 / size * (data.A.normal(x) - data.adjoint_y + D.adjoint(p))
            p = _clip(p + s * D(2 * x_next - x), limit)
            x = x_next
        return x


@dataclass(frozen=True, kw_only=True)
class LowRank(Classical):
    """Low rank over the frames of a dynamic scan: ``argmin_x |y - A x|^2 / 2 + lam |X|_*``, by FISTA.

    ``X`` has a row for every frame and a column for every pixel; frames are the channels of the image, or where the operator
    takes complex images (:class:`medrecon.operators.AsComplex` is part of it) pairs of channels (real, imaginary).

    Args:
        lam: weight of the sum of the singular values, as a fraction of the largest of ``A^H y``.
        n_iter: iterations.

    Reference:
        Otazo, Candes, Sodickson, MRM 73 (2015), without its sparse part; Cai, Candes, Shen, SIAM J. Optim. 20 (2010).
    """

    lam: float = setting(0.005, 1e-12, 1e12)
    n_iter: int = setting(60, 1, 1_000_000)

    @staticmethod
    def _thresholded(frames: Tensor, threshold: Tensor) -> Tensor:
        """Singular values of every item, soft-thresholded, as a correction, so that round-off is relative to the threshold."""
        u, s, vh = torch.linalg.svd(frames.flatten(2), full_matrices=False)
        return frames - ((u * torch.minimum(s, threshold[:, None])[:, None]) @ vh).view_as(frames)

    def estimate(self, data: Gaussian) -> Tensor:
        """FISTA from the zero-filled frames."""
        paired = any(isinstance(part, AsComplex) for part in data.A.modules())
        frames, channels = (AsComplex(), AsComplex().adjoint) if paired else (nn.Identity(), nn.Identity())
        size = lipschitz(data)
        x = z = data.adjoint_y
        threshold = self.lam * torch.linalg.matrix_norm(frames(x).flatten(2), 2) / size
        t = 1.0
        for _ in range(self.n_iter):
            ahead = z - (data.A.normal(z) - data.adjoint_y) / batch_broadcast(size, x)
            x_next = channels(self._thresholded(frames(ahead), threshold))
            t_next = (1 + (1 + 4 * t**2) ** 0.5) / 2
            z = x_next + (t - 1) / t_next * (x_next - x)
            x, t = x_next, t_next
        return x
