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
from medrecon.operators.ct import ConeBeam, Detector, FanBeam, Panel, ParallelBeam
from medrecon.operators.linalg import operator_norm
from medrecon.operators.projector import Projector
from medrecon.operators.weights import Weights
from medrecon.problems.base import Problem, Scaled, chosen_slices
from medrecon.settings import TomographyPhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.classical import ZeroFilled

__all__ = ["Tomography", "tomography_problem", "white_noise"]


_MAX_LINE_INTEGRAL = 1e4
"""Larger line integrals, an attenuation by exp(-10000), do not occur."""


class Tomography(Problem):
    """Line integrals of images in units of water, so that no scale is estimated; see :func:`tomography_problem`.

    Rays are weighted by their counts if the number of photons is known. The operator is divided by its norm, so that settings of
    solvers have the same meaning as for MRI.

    Args:
        scan: the scan, with the selected slices only.
        numbers: their indices in the file.
        physics: options, with the number of photons filled in.
        projector: projector of images in units of water.
        voxel: size of an image pixel, mm.
    """

    images: tuple[str, ...] = ("attenuation",)
    bundle: str = "chest_ct"
    modality: str = "CT"
    real: bool = True

    def __init__(
        self, scan: Sinogram, numbers: Sequence[int], physics: TomographyPhysics, projector: Projector, voxel: float
    ) -> None:
        geometry = scan.geometry
        if geometry.spacing is None:
            z = voxel if scan.beam == "cone" else 1.0
            geometry = Geometry((z, voxel, voxel), geometry.affine)
        super().__init__(str(scan.path), numbers, geometry)
        self.scan = scan
        self.physics = physics
        self.projector = projector
        self.voxel = voxel
        self.unweighted = False  # whether the solver takes the projector itself
        self.noise_std: float | None = physics.noise_std
        self.estimated_std: dict[int, float] = {}  # by item

    @property
    def acceleration(self) -> float:
        """Views that the image size needs (``pi / 2`` per pixel of a side; Kak and Slaney 1988, section 5.1.2) over views."""
        return float(np.pi / 2 * self.projector.shape[-1] / max(len(self.scan.angles), 1))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One channel."""
        return 1, *self.projector.shape

    def suited_to(self, solver: Solver) -> Problem:
        """Without weights for solvers that take the projector itself, such as filtered back-projection."""
        if isinstance(solver, ZeroFilled):
            raise InputError(
                "zero-filled would be a back-projection without a filter, which is not an image; choose fbp, sirt, tv or a "
                "solver with a prior"
            )
        out = copy.copy(self)
        out.unweighted = issubclass(solver.requires.operator, Projector)
        return out

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Weighted line integrals, or counts."""
        y = torch.from_numpy(self.scan.sinogram[items].astype(np.float32)).to(device)[:, None]
        projector, photons = self.projector.to(device), self.physics.photons or 0.0
        one = torch.ones(len(y), device=device)
        if self.unweighted:
            return Scaled(Gaussian(projector, y, 1.0), one, one)
        if self.physics.noise_model == "poisson":
            return Scaled(Transmission(projector, photons * (-y).exp(), photons=photons), one, one)
        # The logarithm of a count has a variance of one over the count.
        root = (photons * (-y).exp()).clamp(min=1).sqrt() if photons > 0 else torch.ones_like(y)
        A = Composed(Weights(root), projector)
        start = torch.ones(len(y), *self.image_shape, device=device)
        norm = operator_norm(A.normal, start, 20).view(-1, *[1] * (y.ndim - 1))
        if not (norm > 0).all():
            raise InputError(
                f"{self.name}: no ray meets the image; check the centre, the detector spacing and the voxel size"
            )
        if photons > 0:
            std = torch.ones(len(y), device=device)
        elif self.noise_std is not None:
            std = torch.full((len(y),), self.noise_std, device=device)
        else:
            std = white_noise(y)
            self.estimated_std |= zip(range(len(self.numbers))[items], std.tolist(), strict=True)
        unit = Composed(Weights(root / norm), projector)
        return Scaled(Gaussian(unit, root * y / norm, std / norm.flatten()), one, norm.flatten())

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Images in HU, ``(samples, slices, y, x)``."""
        return 1000 * (x.reshape(len(x), -1, *x.shape[-2:]) - 1)

    def facts(self) -> dict[str, Any]:
        """Geometry, noise and attenuation of water."""
        scan, physics = self.scan, self.physics
        facts = {
            "acceleration": round(self.acceleration, 4),
            "views": len(scan.angles),
            "detectors": scan.sinogram.shape[-1],
            "detector_spacing_mm": scan.detector_spacing,
            "offset_pixels": scan.offset,
            "photons": physics.photons or None,
            "noise_std": self.noise_std
            if self.noise_std is not None
            else [self.estimated_std[i] for i in sorted(self.estimated_std)] or None,
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
        """Warnings about the file."""
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
    """The scan with its sinogram in float32 and its angles in float64, both in C order.

    Raises:
        InputError: for NaN, Inf, line integrals that do not occur, or a source whose position is unknown.
    """
    sinogram = np.ascontiguousarray(scan.sinogram, dtype=np.float32)
    if not np.isfinite(sinogram).all():
        raise InputError(f"{scan.path}: the sinogram contains NaN or Inf; export the data again")
    if np.abs(sinogram).max() > _MAX_LINE_INTEGRAL:
        raise InputError(
            f"{scan.path}: the sinogram reaches {np.abs(sinogram).max():.3g}, but line integrals -log(I / I0) are below "
            f"{_MAX_LINE_INTEGRAL:g}; convert it"
        )
    to_axis, to_detector = scan.source_to_axis, scan.source_to_detector
    if scan.beam != "parallel" and not (to_axis and to_detector and 0 < to_axis <= to_detector < float("inf")):
        raise InputError(
            f"{scan.path}: a {scan.beam} beam needs 0 < source_to_axis <= source_to_detector in mm; got {to_axis} and "
            f"{to_detector}"
        )
    return replace(scan, sinogram=sinogram, angles=np.ascontiguousarray(scan.angles, dtype=np.float64))


def _projector(scan: Sinogram, physics: TomographyPhysics, voxel: float) -> Projector:
    """The projector of a scan, for images in units of water: lengths are multiplied by its attenuation."""
    angles, size, water = torch.from_numpy(np.asarray(scan.angles, np.float64)), physics.image_size, physics.water
    spacing, detector_spacing = voxel * water, scan.detector_spacing * water
    # In this order: another one rounds differently.
    row_offset, offset = (pixels * scan.detector_spacing * water for pixels in (scan.row_offset, scan.offset))
    to_axis, to_detector = (scan.source_to_axis or 0.0) * water, (scan.source_to_detector or 0.0) * water
    if scan.beam == "cone":
        rows, columns = scan.sinogram.shape[2:]
        panel = Panel((rows, columns), detector_spacing, (row_offset, offset))
        depth = max(1, round(rows * scan.detector_spacing * to_axis / to_detector / voxel))
        return ConeBeam(
            angles, (depth, size, size),
            source_to_axis=to_axis, source_to_detector=to_detector, panel=panel, spacing=spacing,
        )  # fmt: skip
    detector = Detector(scan.sinogram.shape[-1], detector_spacing, offset)
    if scan.beam == "fan":
        return FanBeam(
            angles, (size, size),
            source_to_axis=to_axis, source_to_detector=to_detector, detector=detector, spacing=spacing,
        )  # fmt: skip
    return ParallelBeam(angles, (size, size), detector, spacing=spacing)


def tomography_problem(scan: Sinogram, physics: TomographyPhysics) -> Tomography:
    """The problem of a sinogram.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    check_count("image_size", physics.image_size, least=1, most=4096)
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
        photons = 0.0  # instead of the number in the file
    physics = replace(physics, photons=photons)
    scan = _checked(scan)
    numbers = [0] if scan.beam == "cone" else chosen_slices(physics.slices, scan.n_slices, name)
    if scan.beam == "cone" and physics.slices != slice(None):
        raise InputError(
            f"{name}: rays of a cone beam cross slices, so the volume is reconstructed as a whole; leave slices out"
        )
    zoom = 1.0 if scan.beam == "parallel" else (scan.source_to_axis or 1.0) / (scan.source_to_detector or 1.0)
    voxel = physics.voxel or scan.detector_spacing * zoom * scan.sinogram.shape[-1] / physics.image_size
    try:
        projector = _projector(scan, physics, voxel)
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}") from error
    return Tomography(scan.select_slices(physics.slices), numbers, physics, projector=projector, voxel=voxel)
