"""Cartesian MRI with an image per coil: Score-MRI's coil-wise (SSOS) and hybrid forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan
from medrecon.operators.base import LinearOperator
from medrecon.operators.bridge import AsComplex, OnChannels
from medrecon.operators.mri import CartesianMRI
from medrecon.operators.nufft import Coils
from medrecon.problems.cartesian import Cartesian, cartesian_parts
from medrecon.problems.joint_maps import EstimatedMaps
from medrecon.problems.motion import moving_problem
from medrecon.settings import CartesianPhysics, given_maps
from medrecon.solvers.base import Solver
from medrecon.solvers.scoremri import ScoreMRI

__all__ = ["CoilImages", "HybridCoilImages", "cartesian_problem"]


_C = TypeVar("_C", bound="CoilImages")


class CoilImages(Cartesian):
    """One unknown image per coil; the result is their root sum of squares, or their combination by maps.

    A prior is applied to each coil image. All coils of a slice are divided by the 99th percentile of the root sum of squares of
    their zero-filled images.

    Reference: Chung and Ye, Score-MRI, Medical Image Analysis 80 (2022), algorithms 4 (SSOS) and 5 (hybrid).
    """

    hybrid = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Real and imaginary part of every coil."""
        return 2 * self.kspace.shape[1], *self.kspace.shape[2:]

    def suited_to(self: _C, solver: Solver) -> _C:
        """Hybrid coil images need the solver Score-MRI."""
        out = super().suited_to(solver)
        if self.hybrid and not isinstance(solver, ScoreMRI):
            raise InputError("hybrid coil images need the solver scoremri; choose it, or coil_images ssos")
        return out

    def solver_for(self, items: slice, solver: Solver, device: torch.device) -> Solver:
        """For the hybrid, Score-MRI with the coil maps of these items."""
        if not self.hybrid:
            return solver
        return replace(solver, coils=OnChannels(Coils(self.maps(items).to(device))))  # type: ignore[call-arg]

    def _operator(self, items: slice, mask: Tensor) -> LinearOperator:
        """A masked Fourier transform of every coil."""
        return CartesianMRI(mask, tuple(self.kspace.shape[2:])) @ AsComplex()

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Complex ``(samples, slices, y, x)``."""
        coils = AsComplex()(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.hybrid:
            image = (self.maps(items).to(x.device).conj() * coils).sum(2)
        else:
            image = coils.abs().square().sum(2).sqrt().to(coils.dtype)
        return image * (scale * self.unit).view(-1, 1, 1)

    def facts(self) -> dict[str, Any]:
        """As for SENSE, and the kind of coil images."""
        facts = super().facts()
        if not self.hybrid:
            facts["maps_source"] = "none (an image per coil)"
        return {**facts, "coil_images": "hybrid" if self.hybrid else "ssos"}


class HybridCoilImages(CoilImages):
    """Coil images that Score-MRI makes consistent with the coil maps every ``period`` steps."""

    hybrid = True


_PROBLEMS = {"sense": Cartesian, "ssos": CoilImages, "hybrid": HybridCoilImages}


def cartesian_problem(scan: CartesianScan, physics: CartesianPhysics) -> Cartesian:
    """The problem of Cartesian k-space; ``physics.coil_images`` selects its class.

    Raises:
        InputError: for data or options that cannot be used.
    """
    if physics.coil_images not in _PROBLEMS:
        raise InputError(f"unknown coil_images {physics.coil_images!r}; choose one of {', '.join(_PROBLEMS)}")
    if not isinstance(physics.correct_motion, bool):
        raise InputError(f"correct_motion must be true or false; got {shown(physics.correct_motion)}")
    if physics.correct_motion:
        return moving_problem(scan, physics)
    if physics.shots is not None:
        raise InputError(
            f"{scan.path}: labels of shots are used with --correct-motion only; add it, or leave out --shots"
        )
    if physics.coil_images == "ssos" and given_maps(physics.maps) is not None:
        raise InputError(f"{scan.path}: ssos combines coil images without maps; leave maps out, or choose hybrid")
    parts = cartesian_parts(scan, physics)
    method = parts.pop("method")
    if method is None or physics.coil_images != "sense":
        return _PROBLEMS[physics.coil_images](**parts)
    estimated = EstimatedMaps(**parts)
    estimated.method, estimated.in_volume = method, physics.volume
    return estimated
