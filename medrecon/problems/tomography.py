"""X-ray CT: sinograms of parallel, fan and cone beams, in Hounsfield units."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import as_number, check_count
from medrecon.data.errors import InputError, one_line
from medrecon.data.noise import median_std
from medrecon.data.scan import Geometry, Sinogram
from medrecon.likelihood import Gaussian, Transmission
from medrecon.operators.base import Composed
from medrecon.operators.ct import ConeBeam, FanBeam, ParallelBeam, Projector
from medrecon.operators.linalg import operator_norm
from medrecon.operators.weights import Weights
from medrecon.problems.base import Problem, Scaled, chosen_slices
from medrecon.settings import TomographyPhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.classical import ZeroFilled

__all__ = ["Tomography", "tomography_problem", "white_noise"]


_LARGEST = 1e4
"""No ray is attenuated by exp(-10000)."""


class Tomography(Problem):
    """Line integrals of images whose unit 1 is water, so no scale has to be guessed; see :func:`tomography_problem`.

    Rays are weighted by their counts where the number of photons is known, and the operator is divided by its norm, so that
    settings mean what they mean in MRI.

    Args:
        scan: of the slices alone.
        numbers: their indices in the file.
        physics: see :class:`medrecon.settings.TomographyPhysics`; all of it is set.
        project: the projector, in water and pixels.
    """

    images: tuple[str, ...] = ("attenuation",)
    bundle: str = "chest_ct"
    modality: str = "CT"
    real: bool = True

    def __init__(
        self, scan: Sinogram, numbers: Sequence[int], physics: TomographyPhysics, project: Projector, voxel: float
    ) -> None:
        geometry = scan.geometry
        if geometry.spacing is None:
            z = voxel if scan.beam == "cone" else 1.0
            geometry = Geometry((z, voxel, voxel), geometry.affine)
        super().__init__(str(scan.path), numbers, geometry)
        self.scan = scan
        self.physics = physics
        self.project = project
        self.voxel = voxel
        self.raw = False
        self.noise_std: float | None = physics.noise_std
        self.levels: dict[int, float] = {}  # estimated, by item

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One channel."""
        return 1, *self.project.shape

    def suited_to(self, solver: Solver) -> Problem:
        """Filtered back-projection takes all rays alike; a back-projection without filter is not an image."""
        if isinstance(solver, ZeroFilled):
            raise InputError(
                "a back-projection without filter is no image; choose fbp, sirt, tv or a solver with a prior"
            )
        out = copy.copy(self)
        out.raw = issubclass(solver.requires.operator, Projector)
        return out

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Weighted line integrals, or counts."""
        y = torch.from_numpy(self.scan.lines[items].astype(np.float32)).to(device)[:, None]
        project, photons = self.project.to(device), self.physics.photons or 0.0
        one = torch.ones(len(y), device=device)
        if self.raw:
            return Scaled(Gaussian(project, y, 1.0), one, one)
        if self.physics.noise_model == "poisson":
            return Scaled(Transmission(project, photons * (-y).exp(), photons=photons), one, one)
        # The variance of the log of a count is one over the count.
        root = (photons * (-y).exp()).clamp(min=1).sqrt() if photons > 0 else torch.ones_like(y)
        A = Composed(Weights(root), project)
        start = torch.ones(len(y), *self.image_shape, device=device)
        size = operator_norm(A.normal, start, 20).view(-1, *[1] * (y.ndim - 1))
        if not (size > 0).all():
            raise InputError(f"{self.name}: no ray meets the image; check centre, pitch and voxel")
        if photons > 0:
            std = torch.ones(len(y), device=device)
        elif self.noise_std is not None:
            std = torch.full((len(y),), self.noise_std, device=device)
        else:
            std = white_noise(y)
            self.levels |= zip(range(len(self.numbers))[items], std.tolist(), strict=True)
        unit = Composed(Weights(root / size), project)
        return Scaled(Gaussian(unit, root * y / size, std / size.flatten()), one, size.flatten())

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """HU ``(samples, slices, y, x)``."""
        return 1000 * (x.reshape(len(x), -1, *x.shape[-2:]) - 1)

    def facts(self) -> dict[str, Any]:
        """Geometry and photons."""
        scan, physics = self.scan, self.physics
        facts = {
            "views": len(scan.angles),
            "detectors": scan.lines.shape[-1],
            "pitch_mm": scan.pitch,
            "offset_pixels": scan.offset,
            "photons": physics.photons or None,
            "noise_std": self.noise_std
            if self.noise_std is not None
            else [self.levels[i] for i in sorted(self.levels)] or None,
            "spacing_mm": self.voxel,
            "water_per_mm": physics.water,
            "noise_model": physics.noise_model,
        }
        if scan.beam != "parallel":
            facts |= {
                "beam": scan.beam,
                "source_to_axis_mm": scan.source_to_axis,
                "source_to_detector_mm": scan.source_to_detector,
            }
        return facts

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the file."""
        return self.scan.warnings


def white_noise(y: Tensor) -> Tensor:
    """Standard deviation of the noise of every sinogram ``(B, ...)``: second differences along the detector see little else.

    Rays through air, which some scanners set to exactly 0, do not count.
    """
    out = []
    for lines in y.flatten(1, -2):
        three = lines.unfold(-1, 3, 1) if lines.shape[-1] >= 3 else lines.new_zeros(0, 3)
        three = three[(three > 0).all(-1)]
        second = three[:, 0] - 2 * three[:, 1] + three[:, 2]
        std = median_std(second.abs(), 6**0.5) if second.numel() else lines.new_zeros(())
        out.append(torch.maximum(std, 1e-4 * lines.abs().amax()))
    return torch.stack(out).clamp(min=1e-12)


def _checked(scan: Sinogram) -> Sinogram:
    """Line integrals that are finite, float32, in C order.

    Raises:
        InputError: for NaN, Inf, or numbers that no attenuation reaches.
    """
    lines = np.ascontiguousarray(scan.lines, dtype=np.float32)
    if not np.isfinite(lines).all():
        raise InputError(f"{scan.path}: the sinogram holds NaN or Inf; export the data again")
    if np.abs(lines).max() > _LARGEST:
        raise InputError(
            f"{scan.path}: the sinogram reaches {np.abs(lines).max():.3g}, but line integrals -log(I / I0) are below "
            f"{_LARGEST:g}; convert it"
        )
    return replace(scan, lines=lines, angles=np.ascontiguousarray(scan.angles, dtype=np.float64))


def _projector(scan: Sinogram, physics: TomographyPhysics, voxel: float) -> Projector:
    """The projector of a scan, for images in units of water."""
    angles, size, water = torch.from_numpy(np.asarray(scan.angles, np.float64)), physics.size, physics.water
    spacing, pitch, offset = voxel * water, scan.pitch * water, scan.offset * scan.pitch * water
    if scan.beam == "parallel":
        return ParallelBeam(angles, (size, size), scan.lines.shape[-1], spacing, pitch, offset)
    source = (scan.source_to_axis or 0.0) * water, (scan.source_to_detector or 0.0) * water
    if scan.beam == "fan":
        return FanBeam(angles, (size, size), *source, scan.lines.shape[-1], spacing, pitch, offset)
    rows, columns = scan.lines.shape[2:]
    depth = max(1, round(rows * scan.pitch * source[0] / source[1] / voxel))
    offsets = scan.row_offset * scan.pitch * water, offset
    return ConeBeam(angles, (depth, size, size), *source, (rows, columns), spacing, pitch, offsets)


def tomography_problem(scan: Sinogram, physics: TomographyPhysics) -> Tomography:
    """The problem of a sinogram.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    check_count("size", physics.size, 1, 4096)
    as_number("water", physics.water, positive=True)
    if physics.voxel is not None:
        as_number("voxel", physics.voxel, positive=True)
    photons = scan.photons if physics.photons is None else as_number("photons", physics.photons)
    if physics.noise_model == "rician":
        raise InputError(f"{name}: sinograms have Gaussian or Poisson noise; choose gaussian or poisson")
    if physics.noise_model == "poisson" and not photons > 0:
        raise InputError(f"{name}: Poisson noise needs the number of photons per ray; give it (--photons)")
    if physics.noise_std is not None:
        as_number("noise_std", physics.noise_std)
        if physics.photons or physics.noise_model == "poisson":
            raise InputError(f"{name}: photons determine the noise of every ray; give photons or noise_std, not both")
        photons = 0.0  # the file's
    physics = replace(physics, photons=photons)
    scan = _checked(scan)
    numbers = [0] if scan.beam == "cone" else chosen_slices(physics.slices, scan.n_slices, name)
    if scan.beam == "cone" and physics.slices != slice(None):
        raise InputError(
            f"{name}: the rays of a cone beam cross slices, so the volume is one unknown; leave slices out"
        )
    zoom = 1.0 if scan.beam == "parallel" else (scan.source_to_axis or 1.0) / (scan.source_to_detector or 1.0)
    voxel = physics.voxel or scan.pitch * zoom * scan.lines.shape[-1] / physics.size
    try:
        project = _projector(scan, physics, voxel)
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}") from error
    return Tomography(scan.items(physics.slices), numbers, physics, project, voxel)
