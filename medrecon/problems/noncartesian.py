"""Non-Cartesian multicoil MRI: NUFFT SENSE with maps from the gridded centre of k-space, per slice or as one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import as_number
from medrecon.data.coils import compress_samples
from medrecon.data.errors import InputError, one_line
from medrecon.data.espirit import SINGLE_COIL, CoilMaps, Espirit, coil_maps
from medrecon.data.masks import achieved_acceleration
from medrecon.data.noise import noise_scan_std, outer_noise_std
from medrecon.data.sampling import check_samples
from medrecon.data.scan import NonCartesianScan
from medrecon.likelihood import Gaussian
from medrecon.operators.base import LinearOperator
from medrecon.operators.bridge import AsComplex
from medrecon.operators.density import pipe_menon_dcf
from medrecon.operators.linalg import operator_norm
from medrecon.operators.nufft import NUFFT, Coils
from medrecon.operators.weights import Multiple
from medrecon.problems.base import Fit, Scaled, chosen_slices, unit_scale
from medrecon.problems.calibration import calibration_block
from medrecon.problems.maps import CoilProblem, checked_maps, prepare_coils, refuse_joint
from medrecon.settings import NonCartesianPhysics, given_maps
from medrecon.solvers.base import Solver

__all__ = ["NonCartesian", "noncartesian_problem"]

_CENTRE = 12.0
"""Radius around the centre, cycles per field of view, of the samples that determine the virtual coils."""


class NonCartesian(CoilProblem):
    """Samples ``(slices, coils, shots, readout)`` along a trajectory; see :func:`noncartesian_problem`.

    Samples are weighted by the area of k-space that they stand for. In Pruessmann et al., MRM 46 (2001), these weights
    precondition; here they are part of the model, so that conjugate gradients need few iterations and settings of solvers have
    the same meaning as for Cartesian k-space. As a consequence, noise is assumed to be as strong in the densely sampled centre as
    elsewhere, although it is weaker there. The operator is divided by its norm, and every slice by the 99th percentile of its
    gridded image.

    Args: as for :class:`CoilProblem`.
    """

    scan: NonCartesianScan
    transform: tuple[int, NUFFT, Tensor] | None = None
    tuned: Mapping[str, Mapping[str, Any]] = {"dds": {"n_cg": 2}}  # enough for weighted samples

    @property
    def acceleration(self) -> float | None:
        """Positions of the Cartesian grid over those that the first trajectory passes, so that a dense centre counts once."""
        matrix = np.array(self.scan.matrix)
        first = np.rint(self.scan.trajectory[0].reshape(-1, len(matrix))).astype(np.int64) + matrix // 2
        passed = np.zeros(self.scan.matrix, bool)
        passed[tuple(first[((first >= 0) & (first < matrix)).all(axis=1)].T)] = True
        return achieved_acceleration(passed)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Real and imaginary part."""
        return 2, *self.scan.matrix

    def batches(self, size: int) -> list[slice]:
        """Slices of items that share a trajectory, of at most ``size`` items."""
        out, first = [], 0
        for i in range(1, self.n_items + 1):
            same = i < self.n_items and np.array_equal(self.scan.trajectory[i], self.scan.trajectory[first])
            if not same or i - first == size:
                out.append(slice(first, i))
                first = i
        return out

    def estimate(self, item: int) -> CoilMaps:
        """Maps by ESPIRiT from the gridded centre of k-space."""
        scan = self.scan
        if scan.trajectory.shape[-1] == 3 and scan.samples.shape[1] > 1:
            raise InputError(
                f"{self.name}: coil maps of a 3-D trajectory cannot be estimated; give coil maps (medrecon recon --maps)"
            )
        if scan.samples.shape[1] == 1:
            return CoilMaps(torch.ones((1, *scan.matrix), dtype=torch.complex64), SINGLE_COIL)
        block, mask = calibration_block(scan.samples[item], scan.trajectory[item], scan.matrix)
        if mask.any(axis=1).sum() < 4:
            raise InputError(
                f"{self.name}: the trajectory samples too little of the centre of k-space to estimate coil sensitivities; give "
                "coil maps (medrecon recon --maps)"
            )
        return coil_maps(block, mask, self.trusted_std, name=self.name, settings=Espirit())

    def _transform(self, item: int) -> tuple[NUFFT, Tensor]:
        """The NUFFT of the trajectory of an item and the roots of its weights; kept while items share the trajectory."""
        points = self.scan.trajectory[item]
        if self.transform is None or not np.array_equal(self.scan.trajectory[self.transform[0]], points):
            trajectory = torch.tensor(points).reshape(-1, points.shape[-1])
            try:
                density = pipe_menon_dcf(trajectory, self.scan.matrix)
                transform = NUFFT(trajectory, self.scan.matrix, weights=density)
            except ValueError as error:
                raise InputError(f"{self.name}: {one_line(error)}") from error
            self.transform = item, transform, density.float().sqrt()
        return self.transform[1:]

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Density-weighted NUFFT SENSE with the Toeplitz normal operator."""
        transform, root = self._transform(range(self.n_items)[items][0])
        transform, root, maps = transform.to(device), root.to(device), self.maps(items).to(device)
        samples = torch.from_numpy(self.scan.samples[items].copy()).to(device)
        y = samples.flatten(2) * root * (1 / self.unit)
        single = maps.shape[1] == 1 and bool((maps == 1).all())
        A: LinearOperator = (transform if single else transform @ Coils(maps)) @ AsComplex()
        gridded = A.adjoint(y)
        scale, unit = unit_scale(gridded)
        norm = torch.ones_like(scale)
        if not self.zero_filled:  # the zero-filled image is the density-compensated adjoint itself
            norm = operator_norm(A.normal, torch.ones_like(gridded), 20).clamp(min=1e-6)
        total = unit * norm
        noise = self.noise_std * float(root.square().mean().sqrt()) / self.unit / total
        return Scaled(Gaussian(Multiple(A, 1 / norm), y / total.view(-1, 1, 1), noise), scale, total)

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings about images that do not fit the data, and about a centre of k-space that was not measured."""
        texts = []
        if any(np.linalg.norm(points, axis=-1).min() > 1 for points in self.scan.trajectory):
            texts.append(
                "the centre of k-space was not measured, so the contrast of large areas is lost; check the trajectory"
            )
        if self.zero_filled or self.transform is None:  # a density-compensated adjoint does not fit the data
            return texts
        # Off-resonance and gradient delays make residuals larger than for Cartesian k-space.
        noise_std = self.trusted_std / self.unit * float(self.transform[2].square().mean().sqrt())
        return [*texts, *self.unexplained(fits, noise_std, limit=0.3)]


def _checked(scan: NonCartesianScan) -> NonCartesianScan:
    """The scan with samples in complex64 and its trajectory in float32, both in C order.

    Raises:
        InputError: if samples or trajectory are not finite, or the samples are all zero.
    """
    samples = check_samples(scan.samples, str(scan.path))
    trajectory = np.ascontiguousarray(scan.trajectory, dtype=np.float32)
    if not np.isfinite(trajectory).all():
        raise InputError(f"{scan.path}: the trajectory contains NaN or Inf; export it again")
    return replace(scan, samples=samples, trajectory=trajectory)


def noncartesian_problem(scan: NonCartesianScan, physics: NonCartesianPhysics) -> NonCartesian:
    """The problem of non-Cartesian k-space.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    if physics.noise_model != "gaussian":
        raise InputError(f"{name}: k-space has Gaussian noise; leave the noise model at gaussian")
    refuse_joint(physics, name, "non-Cartesian k-space")
    scan = _checked(scan)
    numbers = chosen_slices(physics.slices, scan.n_slices, name)
    if scan.trajectory.shape[-1] == 3 and len(numbers) > 1:
        raise InputError(f"{name}: contains {len(numbers)} volumes; choose volume k with --slices k:k+1")
    given = None if physics.noise_std is None else as_number("noise_std", physics.noise_std)
    total, points = scan.n_slices, scan.trajectory[0]
    near = np.linalg.norm(scan.trajectory, axis=-1) <= _CENTRE
    coils = prepare_coils(
        scan.samples,
        scan.noise_scan,
        physics,
        name=name,
        compress=lambda samples, n: compress_samples(samples, near, n),
    )
    scan, white, facts = replace(scan, samples=coils.samples, noise_scan=coils.noise_scan), coils.noise_std, coils.facts
    outer = outer_noise_std(scan)
    if given is not None:
        std, source = given, physics.noise_source
    elif white is not None:
        std, source = white, "noise scan"
    elif scan.noise_scan is not None:
        std, source = noise_scan_std(scan.noise_scan), "noise scan"
    else:
        std, source = outer, "outermost k-space"
    scan = scan.select_slices(physics.slices)
    maps = given_maps(physics.maps)
    if maps is not None:
        maps = checked_maps(maps, scan.samples, scan.matrix, slices=numbers, total=total, name=name)
    facts |= {
        "acceleration": round(float(np.prod(scan.matrix)) / points[..., 0].size, 4),
        "noise_source": source,
        "shots": points.shape[0],
        "readout": points.shape[1],
    }
    return NonCartesian(scan, numbers, noise_std=std, trusted_std=min(std, outer), maps=maps, facts=facts)
