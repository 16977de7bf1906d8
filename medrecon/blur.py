"""Blur with an unknown kernel: its likelihood, and the kernel from the spectrum of the blurred image alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian
from medrecon.noise import Noise, karras
from medrecon.operators.base import LinearOperator
from medrecon.operators.deblur import InnerBlur, Turbulence, centred_kernel, unit_kernel
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior

__all__ = ["BlindBlur", "BlindTurbulence", "BlurSpectrum", "SmoothField", "largest_one", "spectral_kernel"]

B = TypeVar("B", bound="BlindBlur")
POWER, AMPLITUDE = 2.7, 2.4e-4
"""About the mean power of images at unit scale, at ``f`` cycles per pixel: ``AMPLITUDE f^-POWER``; the gain is fitted."""
MAX_TILT = 2.5
"""Largest displacement of a tilt field, pixels."""
KERNEL_STD = 0.15
"""Standard deviation of kernels that are divided by their largest value."""


def largest_one(k: Tensor) -> Tensor:
    """Kernels divided by their largest value, the scale of the kernel's prior, item by item."""
    return k / k.flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (k.ndim - 1))


@dataclass(frozen=True, eq=False)
class BlurSpectrum:
    """The likelihood of a kernel alone: the image is Gaussian noise, and its blur has power ``g S |K|^2 + noise_std^2``.

    ``S`` is the mean power of images. The gain ``g`` is fitted to the data, item by item.

    Args:
        y: blurred images ``(B, C, y, x)``.
        noise_std: standard deviation of the noise, a number or one per item.

    Reference: Whittle's likelihood; Levin et al., CVPR 2011 (estimation of the kernel, marginalised over images).
    """

    y: Tensor
    noise_std: float | Tensor

    @cached_property
    def window(self) -> Tensor:
        """Hann window, of mean square 1."""
        lines = [torch.hann_window(n + 2, periodic=False)[1:-1].to(self.y) for n in self.y.shape[2:]]
        w = lines[0][:, None] * lines[1]
        return w / w.square().mean().sqrt()

    @cached_property
    def frequency(self) -> Tensor:
        """Cycles per pixel of the real FFT, at least that of the smallest side."""
        ny, nx = self.y.shape[2:]
        fy, fx = torch.fft.fftfreq(ny).to(self.y), torch.fft.rfftfreq(nx).to(self.y)
        return (fy[:, None].square() + fx.square()).sqrt().clamp(min=1 / min(ny, nx))

    @cached_property
    def weight(self) -> Tensor:
        """Independent values at every frequency: 2 or 1 of the real FFT, less for the window, 0 for the lowest frequencies."""
        ny, nx = self.y.shape[2:]
        twice = torch.full_like(self.frequency, 2.0)
        twice[:, 0] = 1.0
        if nx % 2 == 0:
            twice[:, -1] = 1.0
        effective = 1 / self.window.pow(4).mean()
        return twice * effective * (self.frequency > 1.5 / min(ny, nx)) * self.y.shape[1]

    @cached_property
    def power(self) -> Tensor:
        """Periodogram ``(B, y, x/2)``, the mean over channels."""
        mean = (self.y * self.window).mean((2, 3), keepdim=True) / self.window.mean()
        transform = torch.fft.rfft2((self.y - mean) * self.window, norm="ortho")
        return transform.abs().square().mean(1)

    @cached_property
    def variance(self) -> Tensor:
        """Variance of the noise, ``(B or 1, 1, 1)``."""
        return torch.as_tensor(self.noise_std).to(self.y).view(-1, 1, 1) ** 2

    def transfer(self, k: Tensor) -> Tensor:
        """``|K|^2``, ``(B, y, x/2)``."""
        ny, nx = self.y.shape[2:]
        if k.shape[2] > ny or k.shape[3] > nx:
            raise ValueError(f"a kernel {tuple(k.shape[2:])} does not fit an image of {ny} x {nx} pixels")
        return torch.fft.rfft2(k[:, 0], s=(ny, nx)).abs().square()

    @cached_property
    def rings(self) -> Tensor:
        """Weights of seven rings of frequencies, from the lowest to 0.35 cycles per pixel, ``(7, y, x/2)``."""
        edges = torch.logspace(math.log10(1.5 / min(self.y.shape[2:])), math.log10(0.35), 8).tolist()
        return torch.stack([self.weight * ((self.frequency >= a) & (self.frequency < b)) for a, b in pairwise(edges)])

    def images(self, k: Tensor) -> Tensor:
        """Power of the sharp images for given kernels: ``S`` times the fitted gain, ``(B, y, x/2)``."""
        mean = AMPLITUDE * self.frequency**-POWER
        signal = self.transfer(k) * mean
        total = signal + self.variance
        n = self.rings.sum((1, 2)).clamp(min=1e-6)
        fraction = torch.einsum("byx,ryx->br", signal / total, self.rings) / n
        ratio = torch.einsum("byx,ryx->br", self.power / total, self.rings) / n
        # The mean of log gains over rings, which a wrong kernel in a few rings moves less than the gain of their mean.
        weight = n * fraction**2 / 2
        gain = (weight * ratio.clamp(min=1e-3).log() / fraction.clamp(min=0.1)).sum(1) / (weight.sum(1) + 1)
        return mean * gain.exp().view(-1, 1, 1)

    def energy(self, k: Tensor, images: Tensor) -> Tensor:
        """Minus the log-likelihood of kernels ``(B, 1, ky, kx)`` with sum 1, given the power of the sharp images, ``(B,)``."""
        total = self.transfer(k) * images + self.variance
        return (self.weight * (self.power / total + total.log())).sum((1, 2)) / 2


def _minimise(energy: Callable[[Tensor], Tensor], centre: Tensor, variance: float, n_iter: int, rate: float) -> Tensor:
    """``argmin_u energy(u) + |u - centre|^2 / (2 variance)`` by gradient steps whose size is normalised item by item."""
    u, first, second = centre, torch.zeros_like(centre), centre.new_zeros(len(centre))
    for i in range(1, n_iter + 1):
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            cost = energy(leaf) + dot(leaf - centre, leaf - centre) / (2 * variance)
            (gradient,) = torch.autograd.grad(cost.sum(), leaf)
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient.flatten(1).square().mean(1)
        size = (second / (1 - 0.9**i)).sqrt() + 1e-12
        u = u - rate / (1 - 0.8**i) * first / batch_broadcast(size, first)
    return u


def spectral_kernel(
    spectrum: BlurSpectrum, prior: Prior, size: int, noise: Noise, *, n_levels: int = 60, n_iter: int = 10
) -> Tensor:
    """A draw of the kernel, from the spectrum of the blurred image and the kernel's prior, ``(B, 1, size, size)``.

    A reverse diffusion of the kernel alone: at every level ``s`` the prior's estimate ``u0`` is corrected by the data,
    ``argmin_u energy(u / sum(u)) + |u - u0|^2 / (2 r^2)`` with ``1 / r^2 = 1 / s^2 + 1 / 0.15^2``, and noise of the next level is
    added.
    The spectrum does not determine the direction of a kernel: ``k(r)`` and ``k(-r)`` are equally likely.

    Args:
        spectrum: likelihood of the kernel.
        prior: prior of kernels divided by their largest value.
        size: side of the kernels, odd.
        noise: one stream per item.
        n_levels: noise levels.
        n_iter: gradient steps of every correction.
    """
    levels = karras(2.0, 0.01, n_levels).tolist()
    like = spectrum.y
    u = levels[0] * noise((len(like), 1, size, size), like.dtype, like.device)
    for s, s_next in pairwise(levels):
        u0 = prior(u, s)
        images = spectrum.images(unit_kernel(u0))

        def energy(v: Tensor, images: Tensor = images) -> Tensor:
            return spectrum.energy(unit_kernel(v), images)

        spread = s * KERNEL_STD / (s**2 + KERNEL_STD**2) ** 0.5
        u0 = _minimise(energy, u0, spread**2, n_iter, 0.02 * min(1.0, s / KERNEL_STD))
        u = u0 + s_next * noise.like(u0) if s_next > 0 else u0
    return centred_kernel(unit_kernel(u))


@dataclass(frozen=True, kw_only=True)
class SmoothField:
    """The prior of displacements that are smooth Gaussian noise, in closed form: ``F^-1 [P / (P + sigma^2)] F x``, periodic.

    Args:
        std: standard deviation of the displacements, pixels.
        scale: standard deviation of the Gaussian that smooths white noise to a field, pixels.
    """

    std: float = 1.0
    scale: float = 8.0

    def power(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Variance of every Fourier coefficient (orthonormal transform), ``(y, x/2)``."""
        fy, fx = torch.fft.fftfreq(shape[0]).to(like), torch.fft.rfftfreq(shape[1]).to(like)
        power = (-4 * (math.pi * self.scale) ** 2 * (fy[:, None].square() + fx.square())).exp()
        mean = torch.fft.irfft2(
            power.to(torch.complex64 if like.dtype == torch.float32 else torch.complex128), s=tuple(shape)
        )
        return self.std**2 * power / mean[0, 0]

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate of fields ``(B, 2, y, x)``."""
        shape = x.shape[2:]
        power = self.power(shape, x)
        gain = power / (power + batch_broadcast(sigma, x) ** 2)
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=tuple(shape))

    def draw(self, shape: Sequence[int], noise: Noise, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random fields, one per stream, ``(B, 2, y, x)``, limited to 2.5 pixels."""
        white = noise((len(noise.seeds), 2, *shape), dtype)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * self.power(shape, white).sqrt(), s=tuple(shape))
        return field.clamp(-MAX_TILT, MAX_TILT)


@dataclass(frozen=True, eq=False)
class BlindBlur(BlindGaussian):
    """An image blurred by an unknown kernel, ``y = k * x + noise_std n``, where the kernel needs no pixel outside of ``x``.

    Images ``x`` are larger than ``y`` by half a kernel on every side.

    Args:
        kernel: current kernels ``(B, 1, ky, kx)``, with sum 1.
        prior: prior of kernels divided by their largest value.
    """

    kernel: Tensor = field(kw_only=True)
    prior: Prior = field(kw_only=True)

    @staticmethod
    def of(y: Tensor, noise_std: float | Tensor, prior: Prior, size: int) -> BlindBlur:
        """The likelihood of blurred images ``(B, C, y, x)``, with delta kernels of side ``size``."""
        kernel = unit_kernel(torch.zeros((len(y), 1, size, size), dtype=y.dtype, device=y.device))
        return BlindBlur(InnerBlur(kernel, y.shape[2:]), y, noise_std, kernel=kernel, prior=prior)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The kernels."""
        return {"kernel": self.kernel}

    @property
    def priors(self) -> Mapping[str, Prior]:
        """Priors of the unknown parameters, in the variables of :meth:`as_unit`."""
        return {"kernel": self.prior}

    def as_unit(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters in the scale of their priors: kernels with the largest value 1."""
        return {**parameters, "kernel": largest_one(parameters["kernel"])}

    def from_unit(self, u: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters from variables of any scale, differentiable: kernels not negative, with sum 1."""
        return {**u, "kernel": unit_kernel(u["kernel"])}

    def operator(self, parameters: Mapping[str, Tensor]) -> LinearOperator:
        """The blur with given parameters, differentiable in them."""
        return InnerBlur(parameters["kernel"], self.y.shape[2:])

    def with_parameters(self: B, parameters: Mapping[str, Tensor]) -> B:
        """With other parameters; kernels are normalised."""
        known = self.from_unit(parameters)
        return replace(self, A=self.operator(known), **known)

    def updated(self: B, x0: Tensor, sigma: float) -> B:
        """Unchanged: these parameters are estimated by the solvers that can (``blinddps``, ``gibbsddrm``)."""
        return self

    def repeated(self: B, n: int) -> B:
        """The likelihood of a single item as a batch of ``n`` copies."""
        many = replace(self, y=self.y.expand(n, *self.y.shape[1:]))
        return many.with_parameters({name: one.expand(n, *one.shape[1:]) for name, one in self.parameters.items()})

    def first_kernels(self, noise: Noise) -> Tensor:
        """Kernels from the spectra of ``y`` alone, see :func:`spectral_kernel`."""
        spectrum = BlurSpectrum(self.y, self.noise_std)
        return spectral_kernel(spectrum, self.prior, self.kernel.shape[-1], noise)


@dataclass(frozen=True, eq=False)
class BlindTurbulence(BlindBlur):
    """An image seen through turbulence, ``y = k * warp(x) + noise_std n``, with unknown kernel and tilt field.

    Args:
        tilt: displacements in pixels along (y, x) of the whole image, ``(B, 2, y, x)``, at most 2.5 pixels.
        tilt_prior: prior of the displacements.
    """

    tilt: Tensor = field(kw_only=True)
    tilt_prior: Prior = field(default=SmoothField(), kw_only=True)

    @staticmethod
    def of(
        y: Tensor, noise_std: float | Tensor, prior: Prior, size: int, tilt_prior: Prior = SmoothField()
    ) -> BlindTurbulence:
        """The likelihood of blurred images ``(B, C, y, x)``, with delta kernels and without tilt."""
        kernel = unit_kernel(torch.zeros((len(y), 1, size, size), dtype=y.dtype, device=y.device))
        tilt = torch.zeros((len(y), 2, *(n + size - 1 for n in y.shape[2:])), dtype=y.dtype, device=y.device)
        A = Turbulence(kernel, tilt)
        return BlindTurbulence(A, y, noise_std, kernel=kernel, prior=prior, tilt=tilt, tilt_prior=tilt_prior)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Kernels and tilt fields."""
        return {"kernel": self.kernel, "tilt": self.tilt}

    @property
    def priors(self) -> Mapping[str, Prior]:
        """Priors of both."""
        return {"kernel": self.prior, "tilt": self.tilt_prior}

    def from_unit(self, u: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Kernels not negative, with sum 1; displacements of at most 2.5 pixels."""
        return {"kernel": unit_kernel(u["kernel"]), "tilt": u["tilt"].clamp(-MAX_TILT, MAX_TILT)}

    def operator(self, parameters: Mapping[str, Tensor]) -> LinearOperator:
        """Warp, then blur, differentiable in both."""
        return Turbulence(parameters["kernel"], parameters["tilt"])
