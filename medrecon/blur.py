"""Blur with an unknown kernel: its likelihood, and the kernel from the spectrum of the blurred image alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.likelihood import BlindGaussian, Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.base import LinearOperator
from medrecon.operators.deblur import InnerBlur, centred_kernel, unit_kernel
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior

__all__ = ["BlindBlur", "BlurSpectrum", "largest_one", "spectral_kernel"]

POWER, AMPLITUDE = 2.7, 2.4e-4
"""Mean power of images at unit scale at ``f`` cycles per pixel: ``AMPLITUDE f^-POWER``, of the training slices of brain and chest."""
KERNEL_STD = 0.15
"""Standard deviation of kernels that are divided by their largest value."""


def largest_one(k: Tensor) -> Tensor:
    """Kernels divided by their largest value, the scale of the kernel's prior, item by item."""
    return k / k.flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (k.ndim - 1))


@dataclass(frozen=True, eq=False)
class BlurSpectrum:
    """The likelihood of a kernel alone: the blurred image is stationary Gaussian noise of power ``g S(f) |K(f)|^2 + noise_std^2``.

    ``S`` is the mean power of images. The gain ``g`` and a change of its slope are fitted to the data, item by item, with a
    normal law of standard deviation 1 and ``slope_std``.

    Args:
        y: blurred images ``(B, C, y, x)``.
        noise_std: standard deviation of the noise, a number or one per item.
        slope_std: standard deviation of the slope of log power in log frequency.

    Reference: Whittle's likelihood; Levin et al., CVPR 2011 (estimation of the kernel, marginalised over images).
    """

    y: Tensor
    noise_std: float | Tensor
    slope_std: float = 0.3

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
        folded = F.pad(k, (0, max(nx - k.shape[3], 0), 0, max(ny - k.shape[2], 0)))
        return torch.fft.rfft2(folded[:, 0], s=(max(ny, k.shape[2]), max(nx, k.shape[3])))[
            :, :ny, : nx // 2 + 1
        ].abs().square()

    def images(self, k: Tensor) -> Tensor:
        """Power of the sharp image for given kernels: ``S`` times the fitted gain and slope, ``(B, y, x/2)``."""
        mean = AMPLITUDE * self.frequency**-POWER
        signal = self.transfer(k) * mean
        total = signal + self.variance
        edges = torch.logspace(float(self.frequency.min().log10()) + 0.15, -0.45, 8).tolist()
        rows = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            ring = self.weight * ((self.frequency >= low) & (self.frequency < high))
            n = ring.sum().clamp(min=1e-6)
            part = ((signal / total * ring).sum((1, 2)) / n).clamp(min=0.1)
            ratio = ((self.power / total * ring).sum((1, 2)) / n).clamp(min=1e-3)
            rows.append((n * part**2 / 2, ratio.log() / part, 0.5 * (n * 0 + 1) * torch.tensor(low * high).log() + 3.0))
        w, value, at = (torch.stack([torch.as_tensor(row[i]).to(signal).expand(len(signal)) for row in rows], 1) for i in range(3))
        a, b, c = w.sum(1) + 1, (w * at).sum(1), (w * at * at).sum(1) + 1 / self.slope_std**2
        d, e = (w * value).sum(1), (w * at * value).sum(1)
        det = a * c - b * b
        gain, slope = ((c * d - b * e) / det).view(-1, 1, 1), ((a * e - b * d) / det).view(-1, 1, 1)
        return mean * (gain + slope * (self.frequency.log() + 3.0)).exp()

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
    ``argmin_u energy(u / sum(u)) + |u - u0|^2 / (2 r^2)`` with ``1 / r^2 = 1 / s^2 + 1 / 0.15^2``, and noise of the next level is added.
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
    for s, s_next in zip(levels[:-1], levels[1:], strict=True):
        u0 = prior(u, s)
        images = spectrum.images(unit_kernel(u0))

        def energy(v: Tensor, images: Tensor = images) -> Tensor:
            return spectrum.energy(unit_kernel(v), images)

        spread = s * KERNEL_STD / (s**2 + KERNEL_STD**2) ** 0.5
        u0 = _minimise(energy, u0, spread**2, n_iter, 0.02 * min(1.0, s / KERNEL_STD))
        u = u0 + s_next * noise.like(u0) if s_next > 0 else u0
    return centred_kernel(unit_kernel(u))


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

    def operator(self, kernel: Tensor) -> LinearOperator:
        """The blur with given kernels, differentiable in them."""
        return InnerBlur(kernel, self.y.shape[2:])

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> BlindBlur:
        """With other kernels, which are normalised."""
        kernel = unit_kernel(parameters["kernel"])
        return replace(self, A=self.operator(kernel), kernel=kernel)

    def updated(self, x0: Tensor, sigma: float) -> BlindBlur:
        """Unchanged: kernels are estimated by the solvers that can (``blinddps``, ``gibbsddrm``)."""
        return self

    def repeated(self, n: int) -> BlindBlur:
        """The likelihood of a single item as a batch of ``n`` copies."""
        kernel = self.kernel.expand(n, *self.kernel.shape[1:])
        return replace(self, y=self.y.expand(n, *self.y.shape[1:]), A=self.operator(kernel), kernel=kernel)

    def given(self) -> Gaussian:
        """The likelihood with the current kernels as if they were known."""
        return Gaussian(self.A, self.y, self.noise_std, self.image_shape)

    def first_kernels(self, noise: Noise) -> Tensor:
        """Kernels from the spectra of ``y`` alone, see :func:`spectral_kernel`."""
        spectrum = BlurSpectrum(self.y, self.noise_std)
        return spectral_kernel(spectrum, self.prior, self.kernel.shape[-1], noise)
