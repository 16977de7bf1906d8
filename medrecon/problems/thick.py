"""Thick slices as measurements of a volume with thin slices: super-resolution along z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.data.scan import ImageScan
from medrecon.likelihood import Gaussian
from medrecon.operators.bridge import AsComplex
from medrecon.problems.base import InitialImages, Problem, Scaled, volume_scale
from medrecon.problems.images import Images, images_problem
from medrecon.settings import ImagePhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.r2d2 import R2D2
from medrecon.solvers.settings import name_of

__all__ = ["ThickSlices", "image_problem"]


class ThickSlices(Images):
    """A volume ``(C, z, y, x)`` of which thick slices (and perhaps large pixels) were measured; see :class:`Images`.

    One scale and one noise level, the median of the slices', hold for the volume. Thick slices are contiguous: the distance of
    two is their thickness.
    """

    z_correlation: float | None = 0.0

    @property
    def n_items(self) -> int:
        """The volume is one unknown."""
        return 1

    def _factors(self) -> tuple[int, ...]:
        """Super-resolution factors ``(z, y, x)``."""
        z, y, x = self.physics.factor  # type: ignore[misc] - checked by the caller
        return int(z), int(y), int(x)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One channel, or two for complex images, and the thin slices."""
        sizes = zip(self.scan.array.shape, self._factors(), strict=True)
        return 2 if self.is_complex else 1, *(n * f for n, f in sizes)

    def suited_to(self, solver: Solver) -> Problem:
        """The problem itself.

        Raises:
            InputError: for a solver of single slices.
        """
        if solver.has_particles or isinstance(solver, R2D2):
            raise InputError(f"{self.name}: solver {name_of(solver)!r} works on single slices; choose dds or another")
        if self.physics.strength is not None:
            raise InputError("--strength is an option of R2D2+, which works on single slices; leave it out")
        return self

    @property
    def needs_related_slices(self) -> bool:
        """Whether only means of slices were measured."""
        return self._factors()[0] > 1

    def seed_numbers(self, items: slice) -> list[int]:
        """Of the volume."""
        return [-1]

    def slices_of(self, items: slice) -> list[int]:
        """Indices of the thin slices, counted from the first thin slice of the scan."""
        return [number * self._factors()[0] + k for number in self.numbers for k in range(self._factors()[0])]

    def batches(self, size: int) -> list[slice]:
        """The volume."""
        return [slice(0, 1)]

    def start(self, items: slice, device: torch.device) -> InitialImages | None:
        """Start from noise."""
        return None

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Gaussian likelihood of all slices."""
        y = self._channels(slice(None), device).movedim(0, 1)[None]
        size = 1.0 if self.is_ct else volume_scale([y.norm(dim=1).flatten().cpu().numpy()], self.unit_fraction)
        scale = torch.full((1,), size, device=device)
        unit = torch.where(scale > 0, scale, 1.0)
        root = float(np.prod(self._factors())) ** 0.5  # the operator has orthonormal rows
        std = root * self.level / (1000.0 if self.is_ct else unit)
        data_scale = (1000.0 if self.is_ct else unit) / root * torch.ones(1, device=device)
        A = self._operator().to(device)
        return Scaled(Gaussian(A, y * (root / float(unit)), std), scale, data_scale)

    @property
    def level(self) -> float:
        """Noise of the slices, in the units of the scan."""
        return float(np.median(self.noise_std))

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Magnitudes, complex images or HU ``(samples, z, y, x)``."""
        if self.is_complex:
            return AsComplex()(x[:, 0])[:, 0] * scale
        return 1000 * (x[:, 0, 0] - 1) if self.is_ct else x[:, 0, 0].abs() * scale

    def facts(self) -> dict[str, Any]:
        """As for images, with one noise level."""
        return {**super().facts(), "noise_std": self.level, "volume": True}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the file, and about gaps between the slices."""
        spacing = self.scan.geometry.spacing
        known = [float(one.SliceThickness) for one in self.scan.headers if one.get("SliceThickness")]
        if spacing is None or not known or abs(known[0] / spacing[0] - 1) < 0.05:
            return self.scan.warnings
        return (
            *self.scan.warnings,
            f"{self.name}: slices of {known[0]:g} mm have a distance of {spacing[0]:g} mm, but are reconstructed as if their "
            "thickness were their distance",
        )


def image_problem(scan: ImageScan, physics: ImagePhysics) -> Images:
    """The problem of images: slice by slice, or, for super-resolution with factors ``(z, y, x)``, a volume.

    Raises:
        InputError: for data or options that cannot be used.
    """
    factor = physics.factor
    is_thick = physics.task == "superres" and isinstance(factor, Sequence | np.ndarray) and len(factor) == 3
    if not is_thick:
        return images_problem(scan, physics)
    if physics.noise_model == "rician":
        raise InputError(
            f"{scan.path}: the noise model rician is for single slices; choose gaussian, or a factor (y, x)"
        )
    if getattr(physics.slices, "step", None) not in (None, 1):
        raise InputError(f"{scan.path}: thick slices must be adjacent; select slices without a step")
    return images_problem(scan, physics, ThickSlices)
