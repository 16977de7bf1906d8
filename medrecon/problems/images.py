"""Images as measurements: denoising, super-resolution and deblurring of magnitude, complex or CT images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.blur import BlindBlur
from medrecon.data.arguments import as_number, shown
from medrecon.data.errors import InputError, one_line
from medrecon.data.noise import noise_of_images
from medrecon.data.scan import Geometry, ImageScan
from medrecon.likelihood import BlindGaussian, Gaussian, Rician
from medrecon.operators.base import LinearOperator
from medrecon.operators.bridge import AsComplex, RealAsComplex
from medrecon.operators.image import DOWNSAMPLING, gaussian_blur
from medrecon.operators.weights import Weights
from medrecon.problems.base import InitialImages, Problem, Scaled, chosen_slices, unit_scale
from medrecon.problems.kernel_prior import KERNEL_SIZE, kernel_prior
from medrecon.settings import ImagePhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.r2d2 import R2D2, low_frequencies

__all__ = ["Images", "images_problem"]

BLIND_SOLVERS = ("blinddps", "gibbsddrm")
"""Names of the solvers that estimate a blur kernel."""
BLIND_START = 0.5
"""Noise level, at unit scale, from which an image with an unknown kernel starts."""
SMALLEST_BLIND = 48
"""Smallest side of images whose blur kernel can be estimated, pixels."""
TV_SOLVERS = ("tv", "tv-fista", "tv-pdhg")
"""Names of the solvers that minimise total variation: one weight suits them all."""


class Images(Problem):
    """Slices ``(slices, y, x)`` that are noisy, blurred or of low resolution; see :func:`images_problem`.

    Magnitude images are divided by their 99.5th percentile; CT images are scaled so that water is 1.

    Args:
        scan: the scan, with the selected slices only.
        numbers: their indices in the file.
        physics: options, see :class:`medrecon.settings.ImagePhysics`.
        noise_std: noise of every slice, in the units of the scan.
        geometry: geometry of the result.
        is_ct: whether values are HU.
    """

    unit_fraction: float = 0.995

    def __init__(
        self,
        scan: ImageScan,
        numbers: Sequence[int],
        physics: ImagePhysics,
        noise_std: np.ndarray,
        geometry: Geometry,
        is_ct: bool,
    ) -> None:
        super().__init__(str(scan.path), numbers, geometry)
        self.scan = scan
        self.physics = physics
        self.noise_std = noise_std
        self.is_complex = np.iscomplexobj(scan.array)
        self.is_ct = is_ct
        self.images = (
            ("complex", "magnitude") if self.is_complex else ("attenuation",) if self.is_ct else ("magnitude",)
        )
        self.bundle = "brain_mri" if self.is_complex else "chest_ct" if self.is_ct else "brain_mri_magnitude"
        self.modality = "CT" if self.is_ct else "MR"
        self.real = not self.is_complex
        if physics.task == "denoise":
            # Every pixel is measured, so the prior needs more weight than for k-space. Tuned on other subjects than the tables:
            # benchmarks/other_problems.py images --subject cheng_0109 cheng_0973 cheng_2044 --dds prior_weight=0.5 ...
            # tv and wavelet have weights in units of the noise; 0.4 to 0.6 and 0.8 to 1.4 were best on three other heads and
            # three chests.
            self.tuned = {
                "dds": {"prior_weight": 0.5, "sigma_max": 1.5},
                **{key: {"lam": None, "strength": 0.5} for key in TV_SOLVERS},
                "wavelet": {"lam": None, "strength": 1.0},
            }
        elif is_ct:  # the bundle's weights are tuned for sinograms; for images they follow from the noise
            self.tuned = {**{key: {"lam": None} for key in TV_SOLVERS}, "wavelet": {"lam": None}}
        self.is_blind = physics.kernel == "unknown"
        self.kernels: dict[int, np.ndarray] = {}  # by index in the file
        self.lowpass = False
        self.interpolated = False  # whether the run starts from the interpolated image

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One channel, or two for complex images; with an unknown kernel, half a kernel more on every side."""
        margin = KERNEL_SIZE - 1 if self.is_blind else 0
        sides = zip(self.scan.matrix, self._factors(), strict=True)
        return 2 if self.is_complex else 1, *(n * f + margin for n, f in sides)

    def _factors(self) -> tuple[int, ...]:
        return _factors(self.physics) if self.physics.task == "superres" else (1, 1)

    def suited_to(self, solver: Solver) -> Problem:
        """For R2D2+: start from the noisy image and keep its low frequencies, or start from the interpolated image."""
        out = copy.copy(self)
        out.lowpass = isinstance(solver, R2D2) and self.physics.task == "denoise"
        out.interpolated = self.physics.noise_model == "rician" or (
            isinstance(solver, R2D2) and self.physics.task == "superres"
        )
        if isinstance(solver, R2D2) and (self.physics.task == "deblur" or self.physics.noise_model == "rician"):
            raise InputError(
                "R2D2+ removes Gaussian noise and does not deblur; choose the noise model gaussian and the task denoise, or "
                "another solver"
            )
        if self.is_blind and not solver.estimates_parameters:
            raise InputError(
                f"{type(solver).__name__} does not estimate blur kernels; choose the solver {' or '.join(BLIND_SOLVERS)}"
            )
        if self.physics.strength is not None and not isinstance(solver, R2D2):
            raise InputError("--strength is an option of R2D2+; choose the solver r2d2, or leave it out")
        return out

    def _channels(self, items: slice, device: torch.device) -> Tensor:
        """Real images ``(B, C, y, x)``, in units of water for CT and otherwise of the scan."""
        array = self.scan.array[items]
        if self.is_complex:
            return AsComplex().adjoint(torch.from_numpy(array.astype(np.complex64))[:, None]).to(device)
        values = torch.from_numpy(array.astype(np.float32))[:, None].to(device)
        return values / 1000 + 1 if self.is_ct else values

    def _data(self, items: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Real images ``(B, C, y, x)`` at unit scale, and the scale."""
        y = self._channels(items, device)
        if self.is_ct:
            return y, torch.ones(len(y), device=device)
        scale, unit = unit_scale(y, self.unit_fraction)
        return y / unit.view(-1, 1, 1, 1), scale

    def _operator(self) -> LinearOperator:
        if self.physics.task == "superres":
            downsample = DOWNSAMPLING[self.physics.kernel or "kspace"]
            return downsample(self.image_shape[1:], self._factors(), orthonormal=True)
        if self.physics.task == "deblur":
            return gaussian_blur(self.scan.matrix, self.physics.blur)
        return Weights(torch.ones(1))

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Gaussian likelihood, or Rician for magnitudes."""
        y, scale = self._data(items, device)
        unit = torch.where(scale > 0, scale, 1.0)
        std = torch.from_numpy(self.noise_std[items].astype(np.float32)).to(device) / (1000 if self.is_ct else unit)
        data_scale = torch.full_like(scale, 1000.0) if self.is_ct else scale
        if self.lowpass:
            factor = next(f for f in (8, 4, 2, 1) if not any(n % f for n in self.scan.matrix))
            return Scaled(low_frequencies(y, std, factor), scale, data_scale)
        if self.is_blind:
            return Scaled(BlindBlur.of(y, std, prior=kernel_prior(device), size=KERNEL_SIZE), scale, data_scale)
        A = self._operator().to(device)
        root = float(np.prod(self._factors())) ** 0.5  # the operator has orthonormal rows
        y, std, data_scale = y * root, std * root, data_scale / root
        if self.physics.noise_model == "rician":
            return Scaled(Rician(RealAsComplex() @ A, y, std), scale, data_scale)
        return Scaled(Gaussian(A, y, std), scale, data_scale)

    def magnitudes(self, scaled: Scaled) -> Tensor | None:
        """Those of the images themselves; ``None`` for CT."""
        if self.is_ct:
            return None
        return scaled.likelihood.y.norm(dim=1) * scaled.data_scale.view(-1, 1, 1)

    def batches(self, size: int) -> list[slice]:
        """Single slices where the ladder starts at the noise level of the slice."""
        return super().batches(1 if self.lowpass or self.interpolated else size)

    def start(self, items: slice, device: torch.device) -> InitialImages | None:
        """For R2D2+ denoising, the noisy image at ``strength`` times its noise level (default 1).

        For Rician noise and for super-resolution by R2D2+, the pseudo-inverse (the interpolated image), to which noise is added:
        ``strength`` times 0.1 at unit scale, or three times the noise if that is more. A magnitude has lost the sign of its
        signal, which a run from noise would have to guess.

        For an unknown kernel the blurred image, continued by its border pixels, to which noise of 0.5 is added: from pure noise
        few steps do not reach the data.
        """
        y, scale = self._data(items, device)
        unit = 1000.0 if self.is_ct else float(scale[0])
        # Without a unit any value will do: the image of an empty slice is empty.
        std = float(self.noise_std[items][0]) / unit if unit > 0 else 0.1
        strength = self.physics.strength or 1.0
        if self.lowpass:
            return InitialImages(y, strength * std, add_noise=False)
        if self.is_blind:
            edge = F.pad(y, (KERNEL_SIZE // 2,) * 4, mode="replicate")
            return InitialImages(edge, BLIND_START, add_noise=True)
        if not self.interpolated:
            return None
        root = float(np.prod(self._factors())) ** 0.5
        return InitialImages(self._operator().to(device).pinv(root * y), strength * max(3 * std, 0.1), add_noise=True)

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Magnitudes, complex images or HU ``(samples, slices, y, x)``; outside the region the input is kept."""
        if self.is_blind:
            margin = KERNEL_SIZE // 2
            x = x[..., margin:-margin, margin:-margin]
        if self.is_complex:
            out = AsComplex()(x.flatten(0, 1)).view(len(x), -1, *x.shape[-2:]) * scale.view(-1, 1, 1)
        else:
            out = 1000 * (x[:, :, 0] - 1) if self.is_ct else x[:, :, 0].abs() * scale.view(-1, 1, 1)
        if self.physics.region is None:
            return out
        y0, y1, x0, x1 = self.physics.region
        whole = torch.from_numpy(self.scan.array[items].copy()).to(out).expand_as(out).clone()
        whole[..., y0:y1, x0:x1] = out[..., y0:y1, x0:x1]
        return whole

    def keep(self, items: slice, data: BlindGaussian) -> None:
        """Keep the estimated kernels for the record."""
        found = data.parameters["kernel"][:, 0].cpu().numpy()
        self.kernels |= dict(zip(self.numbers[items], found, strict=True))

    def facts(self) -> dict[str, Any]:
        """Task, noise level, region, factor, kernel and blur."""
        physics = self.physics
        facts: dict[str, Any] = {
            "task": physics.task,
            "noise_std": [float(np.float32(std)) for std in self.noise_std],
            "noise_source": "estimated from the image" if physics.noise_std is None else physics.noise_source,
            "noise_model": physics.noise_model,
            "region": None if physics.region is None else list(physics.region),
        }
        if physics.task == "superres":
            facts |= {"factor": list(self._factors()), "kernel": physics.kernel}
        if self.is_blind:
            facts |= {
                "kernel": "unknown",
                "kernels": [_trimmed(self.kernels[i]) for i in self.numbers if i in self.kernels],
            }
        elif physics.task == "deblur":
            facts |= {"kernel": "gaussian", "blur": physics.blur}
        return facts

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the file."""
        return self.scan.warnings


def _trimmed(kernel: np.ndarray) -> list[list[float]]:
    """The middle of a kernel, without a border of values below 1e-4, rounded: for the record."""
    rows, columns = np.nonzero(kernel >= 1e-4)
    centre = kernel.shape[0] // 2
    reach = int(max(np.abs(rows - centre).max(initial=0), np.abs(columns - centre).max(initial=0)))
    inner = kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]
    return [[round(float(value), 5) for value in row] for row in inner]


def _is_ct(scan: ImageScan) -> bool:
    """Whether an image is CT: by the modality of DICOM; otherwise if a tenth of the pixels is below -500, as air is."""
    if scan.headers:
        return str(scan.headers[0].get("Modality", "")) == "CT"
    if np.iscomplexobj(scan.array):
        return False
    return bool(scan.array.min() > -3100 and np.quantile(scan.array, 0.1) < -500)


def _check_values(scan: ImageScan, std: np.ndarray, is_ct: bool) -> None:
    """Refuse real images that are neither magnitudes nor HU (phases, CT without air), because their signs would be lost."""
    array = scan.array
    if is_ct or np.iscomplexobj(array):
        return
    low, high = float(array.min()), float(array.max())
    negative = float(np.quantile(array, 0.01)) < -max(6 * float(np.median(std)), 0.02 * high)
    if negative or low < -0.25 * high:
        raise InputError(
            f"{scan.path}: contains negative numbers (down to {low:.4g}), and is neither a magnitude image nor recognized as CT; "
            "give the magnitude, or CT as DICOM"
        )


def _factors(physics: ImagePhysics) -> tuple[int, ...]:
    """Super-resolution factors ``(y, x)``, or ``(z, y, x)`` for thick slices.

    Raises:
        InputError: if they are not one to three whole numbers from 1 to 64.
    """
    given = physics.factor if isinstance(physics.factor, Sequence | np.ndarray) else [physics.factor] * 2
    whole = all(isinstance(f, Integral) and not isinstance(f, bool) and 1 <= f <= 64 for f in given)
    if len(given) not in (2, 3) or not whole:
        raise InputError(
            "the super-resolution factor is a whole number from 1 to 64, two for (y, x), or three for (z, y, x); got "
            f"{shown(physics.factor)}"
        )
    return tuple(int(f) for f in given)


def finer_geometry(geometry: Geometry, factors: tuple[int, ...], matrix: tuple[int, ...], kernel: str) -> Geometry:
    """The geometry of an image with smaller pixels, or thinner slices, and the same field of view.

    Args:
        geometry: geometry of the coarse image.
        factors: super-resolution factors ``(y, x)`` or ``(z, y, x)``.
        matrix: shape of the coarse image, along the same axes.
        kernel: model of the low resolution, which determines where pixel centres coincide: ``kspace`` at index ``n // 2``,
            ``gaussian`` at every ``f``-th pixel from ``f // 2``, ``mean`` in the middle of every block.
    """
    first = [
        {"kspace": m // 2 - (m * f // 2) / f, "gaussian": -(f // 2) / f, "mean": -(f - 1) / (2 * f)}[kernel]
        for m, f in zip(matrix, factors, strict=True)
    ]
    return geometry.resampled([1 / f for f in factors], first)


def _finer(geometry: Geometry, scan: ImageScan, physics: ImagePhysics) -> Geometry:
    """The geometry after super-resolution, in the plane or of the volume."""
    factors = _factors(physics)
    return finer_geometry(geometry, factors, scan.array.shape[-len(factors) :], kernel=physics.kernel or "kspace")


def _noise(scan: ImageScan, physics: ImagePhysics, numbers: Sequence[int], is_ct: bool) -> np.ndarray:
    """Noise of every slice, in the units of the scan; for empty slices the median of the others.

    Raises:
        InputError: if a slice seems to have no noise.
    """
    if physics.noise_std is not None:
        return np.full(scan.n_slices, as_number("noise_std", physics.noise_std, positive=True))
    parts = [np.real(scan.array), np.imag(scan.array)] if np.iscomplexobj(scan.array) else [scan.array]
    stack = torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))
    stack = stack / 1000 + 1 if is_ct else stack
    std = noise_of_images(stack, None if np.iscomplexobj(scan.array) else 0.3).numpy() * (1000 if is_ct else 1)
    filled = scan.array.any(axis=(1, 2))
    silent = np.flatnonzero(filled & (std <= 0))
    if len(silent):
        raise InputError(
            f"{scan.path}: slice {numbers[int(silent[0])]} seems to have no noise; give the noise level (--noise-std)"
        )
    return np.where(filled, std, np.median(std[filled]) if filled.any() else 1.0)


def _kernel(physics: ImagePhysics, scan: ImageScan) -> str:
    """The kernel, or the default for the task.

    Raises:
        InputError: for a kernel that the task does not have, or an image that is too small to estimate it.
    """
    deblur = physics.task == "deblur"
    known = ["gaussian", "unknown"] if deblur else list(DOWNSAMPLING)
    kernel = physics.kernel if physics.kernel is not None else "gaussian" if deblur else "kspace"
    if kernel not in known:  # not every argument is hashable
        if kernel == "unknown":
            raise InputError(
                f"{scan.path}: the kernel unknown is for the task deblur (--task deblur); got {physics.task}"
            )
        raise InputError(f"unknown kernel {shown(kernel)}; choose {', '.join(known[:-1])} or {known[-1]}")
    if kernel == "unknown" and physics.noise_model != "gaussian":
        raise InputError(f"{scan.path}: an unknown kernel needs the noise model gaussian; got {physics.noise_model}")
    if kernel == "unknown" and physics.volume:
        raise InputError(f"{scan.path}: an unknown kernel is estimated slice by slice; leave out --volume")
    if kernel == "unknown" and min(scan.matrix) < SMALLEST_BLIND:
        raise InputError(
            f"{scan.path}: images of {scan.matrix[0]} x {scan.matrix[1]} pixels are too small to estimate a kernel; at least "
            f"{SMALLEST_BLIND} x {SMALLEST_BLIND} are needed"
        )
    return kernel


def _check_region(region: Sequence[int], matrix: tuple[int, ...], name: str) -> None:
    good = isinstance(region, Sequence) and len(region) == 4 and all(isinstance(n, Integral) for n in region)
    if not good or not (0 <= region[0] < region[1] <= matrix[0] and 0 <= region[2] < region[3] <= matrix[1]):
        raise InputError(
            f"{name}: the region {shown(region)} is not (y0, y1, x0, x1) inside the image of {matrix[0]} x {matrix[1]} pixels"
        )


def images_problem(scan: ImageScan, physics: ImagePhysics, kind: type[Images] = Images) -> Images:
    """The problem of images that are already reconstructed: denoising, super-resolution or deblurring.

    Args:
        scan: the images.
        physics: options.
        kind: class of the problem; with factors ``(z, y, x)`` one of volumes.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    if physics.task not in ("denoise", "superres", "deblur"):
        raise InputError(f"unknown task {physics.task!r}; choose denoise, superres or deblur")
    kernel = _kernel(physics, scan)
    physics = replace(physics, kernel=kernel)
    if not np.isfinite(scan.array).all() or not scan.array.any():
        raise InputError(f"{name}: the image contains NaN or Inf, or only zeros; export it again")
    is_ct = _is_ct(scan)  # from all slices, because a single slice may have no air
    if physics.noise_model == "poisson" or (physics.noise_model == "rician" and (np.iscomplexobj(scan.array) or is_ct)):
        raise InputError(
            f"{name}: the noise model {physics.noise_model} does not apply to these images; choose gaussian"
        )
    if physics.task == "deblur" and as_number("blur", physics.blur, positive=True) > max(scan.matrix) / 2:
        raise InputError(
            f"{name}: a blur of {physics.blur} pixels is too large for the image; give a smaller one (--blur)"
        )
    numbers = chosen_slices(physics.slices, scan.n_slices, name)
    if physics.region is not None:
        if physics.task == "superres":
            raise InputError(f"{name}: a region is an option of denoise and deblur; leave it out")
        _check_region(physics.region, scan.matrix, name)
    if physics.strength is not None and not 0.1 <= as_number("strength", physics.strength) <= 10:
        raise InputError(f"strength must be from 0.1 to 10 (1 is the image's own noise level); got {physics.strength}")
    scan = scan.select_slices(physics.slices)
    geometry = scan.geometry
    if physics.task == "superres":
        geometry = _finer(geometry, scan, physics)
    std = _noise(scan, physics, numbers, is_ct=is_ct)
    _check_values(scan, std, is_ct)
    physics = replace(physics, slices=slice(None))
    problem = kind(scan, numbers, physics, noise_std=std, geometry=geometry, is_ct=is_ct)
    try:
        problem._operator()
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}") from error
    return problem
