"""Image and coil maps as joint unknowns: smooth maps, the bilinear model and its regularised Gauss-Newton steps.

Uecker, Hohage, Block, Frahm, "Image reconstruction by regularized nonlinear inversion", MRM 60 (2008).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.operators.base import LinearOperator
from medrecon.operators.fourier import fft, ifft
from medrecon.operators.linalg import batch_broadcast, cg, dot
from medrecon.operators.mri import CartesianMRI

__all__ = [
    "Inversion",
    "JointMRI",
    "SmoothMaps",
    "invert",
    "low_resolution_phase",
    "root_sum_of_squares",
    "safe_divide",
]

_NEGLIGIBLE = 1e-6
"""Weight below which a frequency of the maps is left out."""
_LEAST_PIXELS = 192
"""Smallest matrix for which the weight is that of the reference."""
_PHASE_WIDTH = 0.03
"""Standard deviation of the low-pass filter whose phase the maps take over, as a fraction of k-space."""


def _pixels(n: int) -> int:
    """Number of pixels that frequencies of an axis are divided by."""
    return max(n, _LEAST_PIXELS)


class SmoothMaps(LinearOperator):
    """Smooth coil maps from weighted low frequencies: ``S = F^-1 W c``, ``W(k) = scale (1 + 220 |k / n|^2)^-16``.

    ``k`` are cycles per field of view, and ``n`` is the number of pixels of the axis, but at least 192: maps are as smooth at
    a low resolution as at a high one. (On a head of 96 x 96 pixels and 6 calibration lines, ``n = 96`` costs 4 dB.)

    A penalty ``|c|^2`` keeps the maps smooth. Frequencies with a weight below a millionth of the largest are left out, so that
    ``c`` is a small block of k-space, and the transform is two products with narrow matrices.

    Args:
        shape: shape of the maps, ``(y, x)``.
        dtype: complex type of the maps.
        scale: standard deviation of the coefficients of the lowest frequency; it weighs the penalties of maps and image.
        bend: factor of the squared frequency (``k / n`` lies between -0.5 and 0.5).
        power: exponent of the weight; 0: no smoothness.
    """

    weight: Tensor
    down: Tensor
    across: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.complex64,
        scale: float = 0.3,
        bend: float = 220.0,
        power: float = 16.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        widest = math.inf if power == 0 else ((_NEGLIGIBLE ** (-1 / power) - 1) / bend) ** 0.5
        rows, columns = (self._frequencies(n, widest) for n in shape)
        distance = (rows[:, None] / _pixels(shape[0])) ** 2 + (columns / _pixels(shape[1])) ** 2
        weight = scale * (1 + bend * distance) ** -power
        self.register_buffer("weight", weight.to(dtype.to_real()))
        down, across = (self._waves(n, k) for n, k in zip(shape, (rows, columns), strict=True))
        self.register_buffer("down", down.to(dtype))
        self.register_buffer("across", across.T.contiguous().to(dtype))

    @staticmethod
    def _frequencies(n: int, widest: float) -> Tensor:
        """Frequencies of an axis whose weight is not negligible, without the unpaired one of an even axis."""
        most = min((n - 1) // 2, math.floor(min(widest, 1.0) * _pixels(n)))
        return torch.arange(-most, most + 1, dtype=torch.float64)

    @staticmethod
    def _waves(n: int, frequencies: Tensor) -> Tensor:
        """Unitary inverse Fourier matrix of the frequencies, ``(n, frequencies)`` complex128."""
        angle = 2 * torch.pi * torch.outer(torch.arange(n, dtype=torch.float64) - n // 2, frequencies) / n
        return torch.polar(torch.full_like(angle, n**-0.5), angle)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, coils, y, x)`` of coefficients ``(B, coils, ky, kx)``."""
        return self.down @ ((self.weight * x) @ self.across)

    def adjoint(self, y: Tensor) -> Tensor:
        """``W F y`` at the frequencies of the coefficients."""
        return self.weight * (self.down.mH @ (y @ self.across.mH))


class JointMRI:
    """The bilinear model ``y = M F (x S c)`` of an image ``x`` and map coefficients ``c``, and Gauss-Newton steps on both.

    Args:
        mask: sampling mask, as :class:`medrecon.operators.CartesianMRI` takes it.
        maps: map coefficients to coil maps.
    """

    def __init__(self, mask: Tensor, maps: SmoothMaps) -> None:
        self.mask = mask
        self.maps = maps
        self.sampling = CartesianMRI(mask, maps.shape, maps.down.dtype)

    def __call__(self, image: Tensor, coefficients: Tensor) -> Tensor:
        """K-space ``(B, coils, *k)`` of an image ``(B, 1, *spatial)``."""
        return self.sampling(image * self.maps(coefficients))

    def derivative(self, image: Tensor, coefficients: Tensor, d_image: Tensor, d_coefficients: Tensor) -> Tensor:
        """Change of k-space, to first order."""
        return self.sampling(self._derivative(image, self.maps(coefficients), d_image, d_coefficients))

    def adjoint(self, image: Tensor, coefficients: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of :meth:`derivative`: the parts of the image and of the coefficients."""
        return self._adjoint(image, self.maps(coefficients), self.sampling.adjoint(y))

    def _derivative(self, image: Tensor, maps: Tensor, d_image: Tensor, d_coefficients: Tensor) -> Tensor:
        """Change of the coil images."""
        return maps * d_image + image * self.maps(d_coefficients)

    def _adjoint(self, image: Tensor, maps: Tensor, coils: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of :meth:`_derivative`."""
        return (maps.conj() * coils).sum(1, keepdim=True), self.maps.adjoint(image.conj() * coils)

    def step(
        self,
        image: Tensor,
        coefficients: Tensor,
        adjoint_y: Tensor,
        *,
        weights: tuple[Tensor, Tensor],
        centre: tuple[Tensor, Tensor],
        n_cg: int = 30,
        tol: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """One Gauss-Newton step: the minimum of ``|y - F - DF (dx, dc)|^2`` plus both penalties, by conjugate gradients.

        Args:
            image: image to linearise at, ``(B, 1, *spatial)``.
            coefficients: map coefficients to linearise at.
            adjoint_y: zero-filled coil images ``F^H M y``, ``(B, coils, *spatial)``.
            weights: weights of the penalties ``|image - centre|^2`` and ``|coefficients - centre|^2``, which broadcast against
                them.
            centre: centres of the penalties.
            n_cg: conjugate-gradient iterations.
            tol: relative residual at which an item stops.

        Returns:
            the new image and coefficients.
        """
        maps, n = self.maps(coefficients), image[0].numel()

        def pack(pair: tuple[Tensor, Tensor]) -> Tensor:
            return torch.cat([part.flatten(1) for part in pair], dim=1)

        def unpack(both: Tensor) -> tuple[Tensor, Tensor]:
            return both[:, :n].view_as(image), both[:, n:].view_as(coefficients)

        def apply(both: Tensor) -> Tensor:
            parts = unpack(both)
            seen = self._adjoint(image, maps, self.sampling.normal(self._derivative(image, maps, *parts)))
            return pack((seen[0] + weights[0] * parts[0], seen[1] + weights[1] * parts[1]))

        missing = self._adjoint(image, maps, adjoint_y - self.sampling.normal(image * maps))
        now = image, coefficients
        right = [m + w * (c - p) for m, w, c, p in zip(missing, weights, centre, now, strict=True)]
        d_image, d_coefficients = unpack(cg(apply, pack((right[0], right[1])), None, n_cg, tol))
        return image + d_image, coefficients + d_coefficients


class Inversion(NamedTuple):
    """Result of :func:`invert`.

    Args:
        image: image ``(B, 1, *spatial)``; its product with the maps explains the data, but each alone has no scale or phase.
        coefficients: map coefficients.
        steps: number of Newton steps of every item, ``(B,)``.
    """

    image: Tensor
    coefficients: Tensor
    steps: Tensor


def invert(
    model: JointMRI,
    y: Tensor,
    *,
    target: Tensor,
    n_steps: int = 12,
    n_cg: int = 30,
    alpha: float = 1.0,
    decrease: float = 2.0,
    energy: float = 6.0,
) -> Inversion:
    """Image and maps by the iteratively regularised Gauss-Newton method (IRGNM), from image 1 and maps 0.

    Step ``n`` has the penalty ``alpha / decrease^n (|x - 1|^2 + |c|^2)``. Every item stops when its residual has reached
    ``target``, since further steps would fit the noise.

    Args:
        model: bilinear model.
        y: k-space ``(B, coils, *k)``, 0 where not sampled.
        target: norm of the residual at which an item stops, ``(B,)``.
        n_steps: largest number of Newton steps.
        n_cg: conjugate-gradient iterations per step.
        alpha: weight of the first step.
        decrease: factor of the weight between steps.
        energy: mean square per pixel to which the data are scaled; the start and the weights belong to it.
    """
    pixels = math.prod(y.shape[2:])
    size = dot(y, y).sqrt()
    factor = torch.where(size > 0, (energy * pixels) ** 0.5 / torch.where(size > 0, size, 1.0), 1.0)
    y = y * batch_broadcast(factor, y)
    adjoint_y = model.sampling.adjoint(y)
    image = torch.ones_like(adjoint_y[:, :1])
    coefficients = model.maps.adjoint(torch.zeros_like(adjoint_y))
    start = image, coefficients
    steps = torch.zeros(len(y), dtype=torch.long, device=y.device)
    active = size > 0
    for _ in range(n_steps):
        if not active.any():
            break
        weight = torch.as_tensor(alpha, dtype=y.real.dtype, device=y.device)
        found = model.step(image, coefficients, adjoint_y, weights=(weight, weight), centre=start, n_cg=n_cg)
        image, coefficients = (
            torch.where(batch_broadcast(active, new), new, old)
            for new, old in zip(found, (image, coefficients), strict=True)
        )
        steps = steps + active
        residual = y - model(image, coefficients)
        active = active & (dot(residual, residual).sqrt() > target * factor)
        alpha = alpha / decrease
    return Inversion(image / batch_broadcast(factor, image), coefficients, steps)


def root_sum_of_squares(maps: Tensor) -> Tensor:
    """``sqrt(sum |S|^2)`` over the coils, ``(B, 1, *spatial)`` real."""
    return maps.abs().square().sum(1, keepdim=True).sqrt()


def low_resolution_phase(coils: Tensor, maps: Tensor) -> Tensor:
    """Unit phase factors of the combination of low-resolution coil images, ``(B, 1, *spatial)``, as ESPIRiT's maps have it.

    Args:
        coils: coil images ``(B, coils, y, x)``.
        maps: coil maps.
    """
    spectrum = fft(coils, (-2, -1))
    for axis, n in ((-2, coils.shape[-2]), (-1, coils.shape[-1])):
        k = (torch.arange(n, device=coils.device, dtype=coils.real.dtype) - n // 2) / (_PHASE_WIDTH * n)
        spectrum = spectrum * (-k.square() / 2).exp().view([-1 if a == axis else 1 for a in (-2, -1)])
    low = (maps.conj() * ifft(spectrum, (-2, -1))).sum(1, keepdim=True)
    size = low.abs()
    return torch.where(size > 0, safe_divide(low, size), 1.0)


def safe_divide(x: Tensor, size: Tensor) -> Tensor:
    """``x / size``, 0 where ``size`` is 0."""
    return torch.where(size > 0, x / torch.where(size > 0, size, 1.0), 0.0)
