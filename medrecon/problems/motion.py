"""Cartesian MRI of an object that moves between shots: rigid in-plane motion, estimated between the noise levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.data.masks import acs_block
from medrecon.data.scan import CartesianScan
from medrecon.data.shots import check_shots, shot_warnings
from medrecon.likelihood import BlindGaussian, Gaussian
from medrecon.operators.base import Composed, LinearOperator
from medrecon.operators.bridge import AsComplex
from medrecon.operators.fourier import fft, ifft
from medrecon.operators.linalg import dot
from medrecon.operators.motion import Poses, Shots, moved, moving_sense
from medrecon.problems.base import Fit, Scaled
from medrecon.problems.cartesian import Cartesian, cartesian_parts
from medrecon.problems.maps import array_or_file
from medrecon.settings import CartesianPhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.settings import name_of

__all__ = ["MovingCartesian", "MovingShots", "moving_problem", "relative_poses", "smooth_map_phase"]

FIRST_LEVEL = 0.5
"""Noise level from which on motion is estimated; above it, estimates are too blurred."""
LARGEST_STEP = 0.5
"""Largest step of a parameter, degrees or pixels."""
STEPS = 2
"""Gauss-Newton steps per noise level."""
PLAUSIBLE_STEP = 10.0
"""Standard deviation of a step, degrees or pixels, that shots with little information are held back by."""
RESOLUTION = 0.012
"""Resolution at which motion is estimated, in cycles per pixel, times the noise level."""
COARSEST, FINE_LEVEL = 0.03, 0.03
"""Coarsest resolution, cycles per pixel, and noise level below which all of k-space counts."""
MOST_RESIDUAL = 0.5
"""Fraction of the energy of the data above which an estimate does not explain them, so that motion cannot be seen in it."""
PHASE_WIDTH = 1 / 8
"""Width of the low-pass filter that the phase of the coil maps passes, as a fraction of the field of view."""
UNEXPLAINED = 0.05
"""Residual beyond the noise, as a fraction of the signal, above which a warning is given; on slice A it was below 0.02 for good
images, 0.06 to 0.14 with maps of moved calibration lines, and above 0.2 with wrong labels or without correction."""
CALIBRATION_MOTION = 0.5
"""Motion between calibration lines, degrees or pixels, above which maps that are estimated from them give a warning."""
MOST_CHANGE = 0.15
"""Change of a pose in the last update, degrees or pixels, above which a warning is given: it is not determined yet."""
LARGEST_ANGLE, LARGEST_SHIFT = 20.0, 0.2
"""Motion beyond which a warning is given: degrees, and fraction of the field of view."""

_M = TypeVar("_M", bound="MovingCartesian")


@dataclass(frozen=True, eq=False)
class MovingShots(BlindGaussian):
    """K-space of an object that moves rigidly in the plane between shots, with coil maps that do not move.

    ``y = sum_s M_s F S W(angle_s, shift_s) x + noise``. A common motion of all shots and the inverse motion of the image do not
    change the data, so the image is that of shot 0, whose angle and shift are 0.

    :meth:`updated` takes Gauss-Newton steps on ``|y - A x0|^2`` for the three parameters of every shot. Steps are limited, and
    those that do not reduce the residual of their shot are not taken. At high noise levels only the centre of k-space counts.

    Args:
        angle: rotation in every shot, rad, ``(B, shots)``, see :func:`medrecon.operators.rigid_field`.
        shift: shift in every shot, pixels along (y, x), ``(B, shots, 2)``.
        change: largest change of a pose in the last update, degrees or pixels, ``(B,)``; 0 before the first.

    Reference: Cordero-Grande et al., IEEE TCI 2 (2016), alternating estimation of image and motion; there without a prior.
    """

    angle: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    shift: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 2))
    change: Tensor = field(default_factory=lambda: torch.zeros(1))

    @property
    def shots(self) -> Shots:
        """The coils and shots, without motion."""
        return cast(Shots, cast(Composed, self.A).outer)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """``angle`` (rad) and ``shift`` (pixels) of every shot."""
        return {"angle": self.angle, "shift": self.shift}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> MovingShots:
        """The likelihood with other poses."""
        angle, shift = parameters["angle"], parameters["shift"]
        A = self.shots @ (Poses(self.shots.shape, angle, shift) @ AsComplex())
        return replace(self, A=A, angle=angle, shift=shift)

    def repeated(self, n: int) -> MovingShots:
        """The likelihood of a single item as a batch of ``n`` copies."""
        parameters = {"angle": self.angle.expand(n, -1), "shift": self.shift.expand(n, -1, -1)}
        return replace(super().repeated(n).with_parameters(parameters), change=self.change.expand(n))

    def updated(self, x0: Tensor, sigma: float) -> MovingShots:
        """The likelihood with the motion of every shot estimated again, relative to shot 0."""
        if sigma >= FIRST_LEVEL:
            return self
        r = self.residual(x0)
        explained = dot(r, r) <= MOST_RESIDUAL * dot(self.y, self.y)
        if not explained.any():
            return self
        poses = start = torch.cat([self.angle[..., None], self.shift], dim=-1)
        window = _window(self.shots.shape, sigma, self.y)
        for _ in range(STEPS):
            poses = self._step(AsComplex()(x0), poses, window)
        poses = torch.where(explained[:, None, None], relative_poses(poses), start)
        moved_on = replace(self, change=((poses - start) / _unit(poses)).abs().amax((1, 2)))
        return moved_on.with_parameters({"angle": poses[..., 0], "shift": poses[..., 1:]})

    def _step(self, x: Tensor, poses: Tensor, window: Tensor) -> Tensor:
        """One Gauss-Newton step from poses ``(B, shots, 3)``, for a complex image ``(B, 1, y, x)``."""
        now, columns = self._predicted(x, poses, window)
        r = window * self.y - now
        hessian = torch.stack([torch.stack([self._per_shot(a, b) for b in columns], dim=-1) for a in columns], dim=-2)
        gradient = torch.stack([self._per_shot(a, r) for a in columns], dim=-1)
        unit = _unit(poses)
        noise = torch.as_tensor(self.noise_std).to(poses).expand(len(poses)).view(-1, 1, 1, 1)
        # In units of degrees and pixels; the added diagonal holds back what the shot does not determine.
        hessian = hessian * unit[:, None] * unit + torch.eye(3).to(poses) * (
            1e-30
            + (noise / PLAUSIBLE_STEP) ** 2
            + 1e-6 * hessian.diagonal(dim1=-2, dim2=-1).amax((-2, -1))[:, None, None, None]
        )
        step = torch.linalg.solve(hessian, gradient * unit)
        step = step / (step.abs().amax(-1, keepdim=True) / LARGEST_STEP).clamp(min=1) * unit
        ahead = window * (self.y - self.shots(moved(x, poses[..., 0] + step[..., 0], poses[..., 1:] + step[..., 1:])))
        better = self._per_shot(ahead, ahead) < self._per_shot(r, r)
        return torch.where(better[..., None], poses + step, poses)

    def _predicted(self, x: Tensor, poses: Tensor, window: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Windowed k-space of an image, and its three derivatives; each is that of the shot a position belongs to."""
        now, columns = x, []
        for direction in torch.eye(3).to(poses):
            now, change = torch.func.jvp(  # type: ignore[misc] - two values without has_aux
                lambda p: moved(x, p[..., 0], p[..., 1:]), (poses,), (direction.expand_as(poses).contiguous(),)
            )
            columns.append(window * self.shots(change))
        return window * self.shots(now), columns

    def _per_shot(self, a: Tensor, b: Tensor) -> Tensor:
        """Real inner products of k-space, shot by shot, ``(B, shots)``."""
        products = (torch.view_as_real(a) * torch.view_as_real(b)).sum(-1).sum(1)
        masks = self.shots.masks.expand(-1, *self.shots.shape).to(products)
        return products.flatten(1) @ masks.flatten(1).T


def _unit(like: Tensor) -> Tensor:
    """One degree and one pixel, in the units of poses: angle, shift y, shift x."""
    return like.new_tensor([math.radians(1.0), 1.0, 1.0])


def _window(shape: tuple[int, int], sigma: float, like: Tensor) -> Tensor:
    """Gaussian weights of k-space ``(y, x)``, the narrower the higher the noise level; 1 at low levels."""
    if sigma <= FINE_LEVEL:
        return like.real.new_ones(shape)
    width = max(COARSEST, RESOLUTION / sigma)
    ky, kx = ((torch.arange(n, device=like.device) - n // 2).to(like.real) / n for n in shape)
    return torch.exp(-(ky[:, None] ** 2 + kx**2) / (2 * width**2))


def relative_poses(poses: Tensor) -> Tensor:
    """Poses ``(B, shots, 3)`` of angle, shift y, shift x for the image in the pose of shot 0: ``W_s W_0^-1``."""
    angle = poses[..., 0] - poses[:, :1, 0]
    cos, sin = angle.cos(), angle.sin()
    y, x = poses[:, :1, 1], poses[:, :1, 2]
    relative = torch.stack([angle, poses[..., 1] - (cos * y - sin * x), poses[..., 2] - (cos * x + sin * y)], dim=-1)
    return torch.cat([torch.zeros_like(relative[:, :1]), relative[:, 1:]], dim=1)


def smooth_map_phase(maps: Tensor, kspace: Tensor) -> Tensor:
    """Maps ``(B, coils, y, x)`` whose common phase is as smooth as that of a receiver.

    ESPIRiT gives maps the phase of the low-resolution image, so that images are nearly real. But the phase of the object moves
    with it, and outside the object, where it moves to, this phase is noise. Here the maps keep only the part of the phase that
    varies over an eighth of the field of view; the rest belongs to the image.

    Args:
        maps: coil sensitivities, complex.
        kspace: k-space ``(B, coils, y, x)``, of which only the centre matters.
    """
    coils = ifft(kspace, (-2, -1))
    # The phase of a virtual coil, the principal component of the maps where there is signal, is a continuous reference.
    weighted = (maps * coils.abs()).flatten(2)
    virtual = torch.linalg.eigh(weighted @ weighted.mH)[1][..., -1]
    reference = torch.sgn((virtual.conj()[..., None, None] * maps).sum(1, keepdim=True))
    aligned = maps * torch.where(reference == 0, 1.0, reference.conj())
    image = (aligned.conj() * coils).sum(1, keepdim=True)
    ky, kx = ((torch.arange(n, device=maps.device) - n // 2).to(maps.real) for n in maps.shape[-2:])
    low_pass = torch.exp(-2 * (math.pi * PHASE_WIDTH) ** 2 * (ky[:, None] ** 2 + kx**2)) + 1e-6
    phase = torch.sgn(ifft(fft(image, (-2, -1)) * low_pass, (-2, -1)))
    return aligned * torch.where(phase == 0, 1.0, phase)


class MovingCartesian(Cartesian):
    """Slices of an object that moves rigidly in the plane between shots. Images are in the pose of shot 0.

    Args: as for :class:`Cartesian`, and
        shots: sampling mask of every shot, ``(shots, 1 or y, x)``.
    """

    is_blind = True
    # Extrapolating the change of the estimates would extrapolate the change of the pose.
    tuned: Mapping[str, Mapping[str, Any]] = {"dds": {"extrapolation": 0.0}}

    def __init__(self, *, shots: np.ndarray, **parts: Any) -> None:  # noqa: ANN401 - of Cartesian
        super().__init__(**parts)
        self.shots = shots
        self.motion: dict[int, Tensor] = {}
        self.changes: dict[int, float] = {}

    def suited_to(self: _M, solver: Solver) -> _M:
        """Refuse solvers whose estimates do not come from a prior, or that weigh particles."""
        if not solver.requires.prior or solver.has_particles or solver.estimates_parameters:
            raise InputError(
                f"{self.name}: motion is estimated between the noise levels of a sampler; solver {name_of(solver)!r} cannot do "
                "that, choose dds or another, or leave out --correct-motion"
            )
        out = super().suited_to(solver)
        out.motion, out.changes = {}, {}
        return out

    def _operator(self, items: slice, mask: Tensor) -> LinearOperator:
        """SENSE of an object that does not move yet."""
        maps = self.maps(items).to(mask.device)
        kspace = torch.from_numpy(self.kspace[items] * self.mask).to(mask.device) * (1 / self.unit)
        shots = torch.from_numpy(self.shots).to(mask.device)
        still = torch.zeros(len(maps), len(shots), device=mask.device)
        shift = torch.stack([still, still], dim=-1)
        return moving_sense(smooth_map_phase(maps, kspace), shots, angle=still, shift=shift)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Likelihood of k-space, without motion so far."""
        scaled = super().likelihood(items, device)
        data = cast(Gaussian, scaled.likelihood)
        still = torch.zeros(len(data.y), len(self.shots), device=device)
        shift = torch.stack([still, still], dim=-1)
        moving = MovingShots(data.A, data.y, data.noise_std, angle=still, shift=shift, change=still[:, 0])
        return scaled._replace(likelihood=moving)

    def keep(self, items: slice, data: BlindGaussian) -> None:
        """Keep the motion of some slices."""
        found = torch.cat([data.parameters["angle"][..., None], data.parameters["shift"]], dim=-1).double().cpu()
        self.motion |= dict(zip(range(self.n_items)[items], found, strict=True))
        self.changes |= dict(zip(range(self.n_items)[items], cast(MovingShots, data).change.tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """As for Cartesian scans, and the motion of every shot and slice."""
        return {**super().facts(), "motion": self._motion_facts()}

    def _motion_facts(self) -> dict[str, Any]:
        """Angles in degrees and shifts in pixels, and in mm if the spacing is known; per slice and shot."""
        rows = [(self.numbers[i], one) for i, one in sorted(self.motion.items())]
        degrees = [[round(v, 4) for v in one[:, 0].rad2deg().tolist()] for _, one in rows]
        spacing = self.geometry.spacing

        def shifts(size: Sequence[float]) -> list[list[list[float]]]:
            return [
                [[round(v * d, 4) for v, d in zip(row, size, strict=True)] for row in one[:, 1:].tolist()]
                for _, one in rows
            ]

        return {
            "shots": len(self.shots),
            "reference_shot": 0,
            "slices": [number for number, _ in rows],
            "angle_degrees": degrees,
            "shift_pixels": shifts((1.0, 1.0)),
            "shift_mm": None if spacing is None else shifts(spacing[1:]),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """As for Cartesian scans, and about shots with little information."""
        return (*super().warnings, *shot_warnings(self.shots, self.name))

    def _fit_warnings(self, fits: Sequence[Fit]) -> list[str]:
        # Uncorrected motion of 5 degrees and pixels leaves 0.27; with wrong poses, samplers hide a part of it in the image.
        return self.unexplained(fits, self.trusted_std / self.unit, UNEXPLAINED)

    def _calibration_warnings(self) -> list[str]:
        """A warning about maps that were estimated from lines in several poses, with which motion may not be found."""
        if self.given is not None or self.kspace.shape[1] == 1:
            return []
        rows, columns = acs_block(np.broadcast_to(self.mask, self.kspace.shape[-2:]))
        masks = np.broadcast_to(self.shots, (len(self.shots), *self.kspace.shape[-2:]))
        used = torch.from_numpy(masks[:, rows, columns].any(axis=(1, 2)))
        if not used.any():
            return []
        each = sorted(self.motion.items())
        spread = {i: ((one[used].amax(0) - one[used].amin(0)) / _unit(one)).tolist() for i, one in each}
        moving = {i: one for i, one in spread.items() if max(one) > CALIBRATION_MOTION}
        if not moving:
            return []
        degrees, pixels = max(one[0] for one in moving.values()), max(max(one[1:]) for one in moving.values())
        return [
            f"the coil maps of slice {', '.join(str(self.numbers[i]) for i in moving)} are estimated from calibration lines in "
            f"several poses (up to {degrees:.1f} degrees and {pixels:.1f} pixels apart), so poses and image may be wrong; give "
            "maps of lines without motion (--maps)"
        ]

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """As for Cartesian scans, and warnings about maps from moved lines, and about poses that are not to be trusted."""
        texts = [*super().review(images, fits, solver), *self._calibration_warnings()]
        moving = {str(self.numbers[i]): change for i, change in sorted(self.changes.items()) if change > MOST_CHANGE}
        if moving:
            texts.append(
                f"the estimated motion of slice {', '.join(moving)} still changed by {max(moving.values()):.2f} degrees or "
                "pixels at the last step, so poses and image may be wrong; use more steps, and check coil maps and labels "
                "of the shots"
            )
        limit = LARGEST_SHIFT * min(self.kspace.shape[-2:])
        large = [
            str(self.numbers[i]) for i, one in sorted(self.motion.items())
            if float(one[:, 0].rad2deg().abs().max()) > LARGEST_ANGLE or float(one[:, 1:].abs().max()) > limit
        ]  # fmt: skip
        if large:
            texts.append(
                f"the estimated motion of slice {', '.join(large)} is implausibly large, so the image may be wrong; check which "
                "lines belong to which shot"
            )
        return texts


def moving_problem(scan: CartesianScan, physics: CartesianPhysics) -> MovingCartesian:
    """The problem of Cartesian k-space with motion between shots.

    Raises:
        InputError: for data or options that cannot be used, and unknown shots.
    """
    name = str(scan.path)
    if physics.volume:
        raise InputError(f"{name}: motion is corrected slice by slice; leave out --correct-motion, or --volume")
    if physics.coil_images != "sense" or str(physics.map_sets) == "2":
        raise InputError(
            f"{name}: motion is corrected for one image and one set of maps; leave out --correct-motion, or the options "
            "coil_images and map_sets"
        )
    given, file = (scan.shots, None) if physics.shots is None else array_or_file(physics.shots, "shots")
    if given is None:
        raise InputError(
            f"{name}: which lines belong to which shot is not recorded, but --correct-motion needs it; give them as an array "
            "'shots' of labels (--shots FILE), or leave it out"
        )
    if isinstance(physics.maps, str) and physics.maps == "joint":
        raise InputError(
            f"{name}: maps are not estimated together with motion; leave out --correct-motion, or --maps joint"
        )
    parts = cartesian_parts(scan, replace(physics, map_sets="1"))
    parts.pop("method")  # maps from ESPIRiT, or given
    if parts["mask"].ndim == 3:
        raise InputError(
            f"{name}: motion is corrected for one mask of all slices; give that, or leave out --correct-motion"
        )
    return MovingCartesian(shots=check_shots(given, parts["mask"], scan.matrix, name=file or name), **parts)
