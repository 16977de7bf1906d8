"""Batched augmentation on the training device: clean magnitude slices become images as a scanner might acquire them.

Archives hold images that were interpolated to a common grid, so they are smooth at the scale of a pixel and have no phase. Images
reconstructed from k-space have content up to the highest frequency (and Gibbs ringing), shading from the coils, and a phase from
the shim and, in part, the anatomy. A prior that was trained without these removes real detail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.operators.fourier import resampling_matrix

__all__ = ["Augment", "Crops", "anatomical_phase", "demodulate", "polynomial_field", "random_field"]


def _uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, device=device)


def polynomial_field(shape: Sequence[int], coefficients: Tensor, pixels: float = 128.0) -> Tensor:
    """Second-order polynomials ``c . (1, y, x, y^2, yx, x^2)``, ``(B, 1, y, x)``, one per row of ``coefficients`` ``(B, 6)``.

    Coordinates are relative to the centre, in units of ``pixels``.
    """
    y, x = ((torch.arange(n, device=coefficients.device) - n // 2).to(coefficients) / pixels for n in shape)
    y, x = torch.broadcast_tensors(y[:, None], x[None, :])
    terms = torch.stack([torch.ones_like(y), y, x, y * y, y * x, x * x])
    return torch.einsum("bk,kyx->byx", coefficients, terms)[:, None]


def anatomical_phase(magnitude: Tensor, amplitude: Tensor, angle: Tensor, scale: Tensor) -> Tensor:
    """A phase with the edges of the image, ``(B, 1, y, x)`` in rad.

    The field of susceptibility sources is their convolution with a dipole (Salomir et al., Concepts Magn. Reson. B 19B, 2003),
    whose kernel in k-space is ``cos^2(angle to the field) - 1/3``. Here the magnitude replaces the sources, and the smooth part,
    which cannot be computed from one slice, is omitted.

    Args:
        magnitude: magnitude images ``(B, 1, y, x)``.
        amplitude: amplitude, rad per image unit, ``(B,)``.
        angle: in-plane angle of the field, rad, ``(B,)``.
        scale: standard deviation of the Gaussian low-pass whose band is removed, pixels, ``(B,)``.
    """
    ny, nx = magnitude.shape[2:]
    ky = torch.fft.fftfreq(ny, device=magnitude.device)[:, None]
    kx = torch.fft.rfftfreq(nx, device=magnitude.device)[None, :]
    square = ky**2 + kx**2
    view = (-1, 1, 1, 1)
    along = (ky * angle.view(view).sin() + kx * angle.view(view).cos()) ** 2
    dipole = along / square.clamp(min=1e-12) - 1 / 3
    high = 1 - (-2 * (math.pi * scale.view(view)) ** 2 * square).exp()
    spectrum = torch.fft.rfft2(magnitude.float()) * dipole * high
    return amplitude.view(view) * torch.fft.irfft2(spectrum, s=(ny, nx))


def random_field(shape: Sequence[int], scale: Tensor) -> Tensor:
    """Smooth Gaussian random fields of variance 1, periodic, ``(B, 1, y, x)``.

    Args:
        shape: shape of the fields, ``(y, x)``.
        scale: standard deviation of the Gaussian that smoothes white noise, pixels, ``(B,)``.
    """
    ky = torch.fft.fftfreq(shape[0], device=scale.device)[:, None]
    kx = torch.fft.rfftfreq(shape[1], device=scale.device)[None, :]
    band = (-2 * (math.pi * scale.view(-1, 1, 1, 1)) ** 2 * (ky**2 + kx**2)).exp()
    noise = torch.randn((len(scale), 1, *shape), device=scale.device)
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * band, s=tuple(shape))
    # The variance of filtered white noise is the mean of the squared filter: its inverse transform at the origin.
    variance = torch.fft.irfft2(band.square().to(torch.complex64), s=tuple(shape))[..., :1, :1]
    return field / variance.sqrt()


def demodulate(x: Tensor, lines: Tensor) -> Tensor:
    """Remove the phase of the low-resolution image from complex images ``(B, 1, y, x)``.

    Coil maps that are estimated from calibration lines (:func:`medrecon.data.espirit.espirit_maps`) contain this phase, so images
    in reconstructions lack it.

    Args:
        x: complex images.
        lines: width of the Hann window at the centre of k-space along each axis, samples, ``(B, 2)``.
    """
    windows = []
    for n, width in zip(x.shape[2:], lines.unbind(1), strict=True):
        distance = torch.fft.fftfreq(n, 1 / n, device=x.device) / width[:, None]
        windows.append(torch.where(distance.abs() < 0.5, (math.pi * distance).cos() ** 2, 0.0))
    window = windows[0][:, None, :, None] * windows[1][:, None, None, :]
    low = torch.fft.ifft2(torch.fft.fft2(x) * window)
    return x * torch.polar(torch.ones_like(low.real), -low.angle())


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random crops of a batch of slices, resampled, shaded and with a phase, computed on the device of the batch.

    Args:
        crop: side of the crops, pixels; with several values, each batch takes one at random, and as many images as keep the
            number of pixels of the first value. Small crops show more images per second, large crops the layout of a slice.
        copies: number of different crops per image; small crops need several to fill a batch.
        unit: input value of image unit 1.0.
        kind: ``"complex"`` (two channels: real, imaginary), ``"magnitude"`` (one channel, not negative) or ``"real"`` (one
            channel of any sign, such as CT).
        signed: probability that a magnitude becomes the real part of the complex image, for a prior that is applied channel by
            channel.
        zoom: range of output pixels per input pixel, log-uniform; the two axes differ by up to 5 %.
        zoomed: probability that an item is resampled; other items keep their pixels.
        rotated: probability of a quarter turn.
        flipped: probability of a left-right flip.
        gain: standard deviation of the logarithm of a global factor.
        shading: standard deviation of the first- and second-order terms of the logarithm of a smooth gain.
        linear: standard deviation of the linear phase, rad per 128 pixels.
        quadratic: standard deviation of the quadratic phase, rad per 128 pixels squared.
        anatomical: standard deviation of the phase that follows the anatomy, rad per image unit.
        fat: standard deviation of the phase of the brightest tissue (chemical shift), rad.
        field: standard deviation of a phase that varies over a few centimetres, as near the air of the sinuses, rad.
        demodulated: probability that the phase of the low-resolution image is removed from a complex image, see
            :func:`demodulate`.
        calibration: range of the number of calibration lines for the low-resolution image (for a slice of the size of the
            input), log-uniform; half of the slices have all lines along one axis, as with undersampling along the other.
    """

    crop: int | Sequence[int] = 128
    copies: int = 1
    unit: float = 200.0
    kind: Literal["complex", "magnitude", "real"] = "complex"
    signed: float = 0.0
    zoom: tuple[float, float] = (0.6, 1.25)
    zoomed: float = 0.75
    rotated: float = 0.25
    flipped: float = 0.5
    gain: float = 0.12
    shading: float = 0.15
    linear: float = 1.5
    quadratic: float = 1.0
    anatomical: float = 0.6
    fat: float = 0.3
    field: float = 0.0
    demodulated: float = 0.0
    calibration: tuple[float, float] = (10.0, 48.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Map images ``(B, 1, y, x)`` of any real type to crops ``(n, C, crop, crop)``, float32.

        Images with two channels are complex: they keep their phase, up to a random constant, and none is added. The first images
        are used, as many as keep the number of pixels of a batch, and the whole sequence ``copies`` times.

        Raises:
            ValueError: if the images have more than one channel, or two for ``kind="real"``, or are smaller than a crop.
        """
        sizes = [self.crop] if isinstance(self.crop, int) else list(self.crop)
        crop = sizes[int(torch.randint(len(sizes), (1,)))]
        images = images[: max(1, round(len(images) * (sizes[0] / crop) ** 2))].repeat(self.copies, 1, 1, 1)
        n = len(images)
        device = images.device
        if images.shape[1] not in ((1,) if self.kind == "real" else (1, 2)) or min(images.shape[2:]) < crop:
            raise ValueError(
                f"crops of {crop} pixels need images with one channel (two for complex images) and no smaller sides; got "
                f"{images.shape}"
            )
        x = images.float() / self.unit
        x = torch.complex(x[:, 0], x[:, 1]) if x.shape[1] == 2 else x[:, 0]
        x = torch.where((torch.rand(n, device=device) < self.rotated).view(-1, 1, 1), self._rotated(x), x)
        # A crop must not extend beyond the slice, where periodic resampling would wrap around.
        low = math.log(max(self.zoom[0], crop / min(images.shape[2:])))
        high = max(low, math.log(self.zoom[1]))
        resampled = torch.rand(n, device=device) < self.zoomed
        common = _uniform(n, low, high, device)
        matrices = []
        for side in x.shape[1:]:
            zoom = (common + _uniform(n, -0.05, 0.05, device)).clamp(low, high).exp()
            zoom = torch.where(resampled, zoom, 1.0)
            margin = side - crop / zoom
            first = torch.rand(n, device=device) * margin
            matrices.append(resampling_matrix(side, crop, zoom, torch.where(resampled, first, first.floor())))
        left, right = (matrix.to(x.dtype) for matrix in matrices)
        x = (left @ x @ right.mT)[:, None]
        flip = (torch.rand(n, device=device) < self.flipped).view(-1, 1, 1, 1)
        x = torch.where(flip, x.flip(-1), x)
        scale = torch.tensor([self.gain, *[self.shading] * 5], device=device)
        field = polynomial_field(x.shape[2:], scale * torch.randn(n, 6, device=device), crop / 2)
        x = x * field.exp()
        if self.kind == "real":
            return x
        if self.kind == "magnitude" and self.signed == 0:
            return x.abs()
        if x.is_complex():
            return self._with_own_phase(x)
        phase = self._phase(x)
        if self.kind == "magnitude":
            signed = (torch.rand(n, device=device) < self.signed).view(-1, 1, 1, 1)
            return torch.where(signed, x * phase.cos(), x.abs())
        x = torch.complex(x * phase.cos(), x * phase.sin())
        if self.demodulated > 0:
            # The field of view of a crop, as a fraction of the slice.
            field_of_view = crop / max(images.shape[2:]) / torch.where(resampled, common.exp(), 1.0)
            chosen = (torch.rand(n, device=device) < self.demodulated).view(-1, 1, 1, 1)
            x = torch.where(chosen, demodulate(x, field_of_view[:, None] * self._lines(n, images.shape[2:], device)), x)
        return torch.cat([x.real, x.imag], dim=1)

    def _lines(self, n: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Calibration lines along every axis of the slice, ``(n, 2)``."""
        low, high = (math.log(value) for value in self.calibration)
        lines = torch.stack([_uniform(n, low, high, device).exp() for _ in shape], dim=1)
        # 0, 1: this axis has all lines; 2, 3: neither axis has.
        full = torch.randint(4, (n, 1), device=device) == torch.arange(2, device=device)
        return torch.where(full, torch.tensor(shape, device=device), lines)

    def _with_own_phase(self, x: Tensor) -> Tensor:
        """Complex images ``(n, 1, y, x)`` times a random phase factor, as channels."""
        n = len(x)
        angle = _uniform(n, -math.pi, math.pi, x.device).view(-1, 1, 1, 1)
        x = x * torch.polar(torch.ones_like(angle), angle)
        if self.kind == "magnitude":
            signed = (torch.rand(n, device=x.device) < self.signed).view(-1, 1, 1, 1)
            return torch.where(signed, x.real, x.abs())
        return torch.cat([x.real, x.imag], dim=1)

    @staticmethod
    def _rotated(x: Tensor) -> Tensor:
        """A quarter turn, or half a turn where the batch is not square."""
        return x.mT.flip(1) if x.shape[1] == x.shape[2] else x.flip(1, 2)

    def _phase(self, x: Tensor) -> Tensor:
        n, device = len(x), x.device
        scale = torch.tensor([0.0, *[self.linear] * 2, *[self.quadratic] * 3], device=device)
        phase = polynomial_field(x.shape[2:], scale * torch.randn(n, 6, device=device))
        phase = phase + _uniform(n, -math.pi, math.pi, device).view(-1, 1, 1, 1)
        if self.anatomical > 0:
            amplitude = self.anatomical * torch.randn(n, device=device)
            angle = _uniform(n, 0.0, math.pi, device)
            phase = phase + anatomical_phase(x, amplitude, angle, _uniform(n, 2.0, 10.0, device))
        if self.fat > 0:
            threshold = _uniform(n, 0.6, 1.0, device).view(-1, 1, 1, 1)
            bright = F.hardsigmoid(20 * (x - threshold))
            phase = phase + self.fat * torch.randn(n, device=device).view(-1, 1, 1, 1) * bright
        if self.field > 0:
            amplitude = self.field * torch.randn(n, device=device).view(-1, 1, 1, 1)
            scale = _uniform(n, math.log(8.0), math.log(40.0), device).exp()
            phase = phase + amplitude * random_field(x.shape[2:], scale)
        return phase


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The same random crops, quarter turns and flips of all images of an item, which leave white noise white.

    Args:
        crop: side of the crops, pixels; of several values, each batch takes one at random; images with smaller sides keep them.
        rotated: probability of a quarter turn, where crops are square.
        flipped: probability of a left-right flip.
    """

    crop: int | Sequence[int] = 128
    rotated: float = 0.25
    flipped: float = 0.5

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Crop the tensors ``(B, C, y, x)``; other data, such as noise levels, stay unchanged."""
        images = {name: value for name, value in data.items() if value.ndim == 4}
        if not images:
            return data
        first = next(iter(images.values()))
        sizes = [self.crop] if isinstance(self.crop, int) else list(self.crop)
        crop = sizes[int(torch.randint(len(sizes), (1,)))]
        sides = [min(crop, n) for n in first.shape[2:]]
        cuts = []
        for _ in range(len(first)):
            at = [int(torch.randint(n - side + 1, (1,))) for n, side in zip(first.shape[2:], sides, strict=True)]
            turned = sides[0] == sides[1] and float(torch.rand(())) < self.rotated
            cuts.append((*at, turned, float(torch.rand(())) < self.flipped))
        return {**data, **{name: self._cut(value, sides, cuts) for name, value in images.items()}}

    @staticmethod
    def _cut(images: Tensor, sides: Sequence[int], cuts: Sequence[tuple[int, int, bool, bool]]) -> Tensor:
        out = []
        for image, (y, x, turned, flipped) in zip(images, cuts, strict=True):
            cut = image[:, y : y + sides[0], x : x + sides[1]]
            cut = cut.mT.flip(1) if turned else cut
            out.append(cut.flip(2) if flipped else cut)
        return torch.stack(out)
