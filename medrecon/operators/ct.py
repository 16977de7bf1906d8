"""X-ray transforms of parallel, fan and cone beams, with a matched adjoint and filtered back-projection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.angles import may_be_degrees
from medrecon.operators.fbp import Filter, back_project, filter_views, full_turn_arcs, pixel_grid, view_arcs
from medrecon.operators.projector import FlatRays, Projector

__all__ = ["ConeBeam", "Detector", "FanBeam", "Panel", "ParallelBeam"]


@dataclass(frozen=True)
class Detector:
    """A row of detector pixels. Lengths are in the unit of the image's ``spacing``, measured on the detector.

    Args:
        pixels: number of detector pixels; ``None``: enough for the diagonal of the image.
        spacing: distance between detector pixels; ``None``: the size of an image pixel, as the beam projects it.
        offset: position of the rotation axis (fan beam: of the central ray), from the centre of the detector.

    Raises:
        ValueError: if the spacing is not positive, or the offset is not finite.
    """

    pixels: int | None = None
    spacing: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.spacing is not None:
            _check_positive("detector spacing", self.spacing)
        _check_finite("detector offset", self.offset)

    def for_image(self, radius: float, spacing: float, shape: tuple[int, int]) -> tuple[int, float]:
        """Number of pixels and their spacing, with defaults filled in.

        Args:
            radius: largest distance from the centre that the image projects to, on the detector.
            spacing: size of an image pixel, projected on the detector.
            shape: shape of the image.
        """
        spacing = spacing if self.spacing is None else self.spacing
        if self.pixels is not None:
            return self.pixels, spacing
        # An odd number, with a pixel in the middle of the detector, if the image has a pixel in its middle.
        return math.ceil((radius + abs(self.offset)) / spacing) * 2 + max(shape) % 2, spacing


@dataclass(frozen=True)
class Panel:
    """A flat panel of detector pixels. Lengths are in the unit of the volume's ``spacing``, measured on the panel.

    Args:
        shape: number of detector pixels, ``(v, u)``.
        spacing: distance between detector pixels; ``None``: the size of a voxel at the axis, projected on the panel.
        offset: position of the central ray, from the centre of the panel, along ``(v, u)``.

    Raises:
        ValueError: if the spacing is not positive, or an offset is not finite.
    """

    shape: tuple[int, int]
    spacing: float | None = None
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.spacing is not None:
            _check_positive("panel spacing", self.spacing)
        for offset in self.offset:
            _check_finite("panel offset", offset)


class ParallelBeam(FlatRays):
    """Line integrals of real images ``(B, C, y, x)`` along parallel rays, ``(B, C, views, detectors)``.

    A ray of view ``theta`` at detector position ``s`` is ``{x cos(theta) + y sin(theta) = s}``, with x to the right and y up from
    the centre of the image. Detector positions are measured from the centre of the detector. At ``theta = 0`` a view is the sum
    over rows, as in scikit-image's ``radon``.

    The matrix and its transpose are kept if the matrix has at most 4e8 entries (6.4 GB). Otherwise it is recomputed view by view.

    Args:
        angles: angles of the views, rad, ``(views,)``.
        shape: shape of the image, ``(y, x)``.
        detector: number of detector pixels, their spacing and the position of the rotation axis; ``None``: enough pixels for the
            diagonal, as wide as those of the image.
        spacing: size of an image pixel; sets the unit of length of the line integrals.
        dtype: type of images and projections.
        keep: whether to keep the matrix; ``None``: decided by its size.

    Raises:
        ValueError: if there are no angles, if they are not finite, or if they must be in degrees.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int],
        detector: Detector | None = None,
        spacing: float = 1.0,
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_positive("spacing", spacing)
        detector = detector or Detector()
        n, detector_spacing = detector.for_image(math.hypot(*shape) / 2 * spacing, spacing, shape)
        s = ((torch.arange(n).double() - (n - 1) / 2) * detector_spacing - detector.offset) / spacing
        normals, positions = angles[:, None].expand(-1, n), s.expand(len(angles), -1)
        super().__init__(angles, normals, positions, shape, spacing, dtype, True, keep)
        self.detector_spacing = detector_spacing
        self.offset = detector.offset

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection, ``(B, C, y, x)``: the inverse for many views over half a turn or more; not an adjoint.

        Filtered views are interpolated at the positions of the pixels. Every view is weighted by the arc that it stands for, so
        views need not be equally spaced. Where a wedge of more than 15 degrees is missing, the views beside it keep their usual
        arcs.

        Args:
            y: projections.
            kind: window on the ramp.
        """
        self._leading_axes(y, (self.views, *self.view_shape), "projection")
        arcs = view_arcs(self.angles, math.pi, wedge=math.pi / 12)
        filtered = filter_views(y, self.detector_spacing, kind)[..., None, :]
        up, right = pixel_grid(self.shape, y)
        arcs = arcs.to(y).view(-1, 1, 1)

        def geometry(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            s = self.spacing * (right * angle.cos() + up * angle.sin()) + self.offset
            return arcs[part], torch.zeros_like(angle), s / self.detector_spacing + (self.detectors - 1) / 2

        return back_project(filtered, self.shape, geometry, self.angles)


class FanBeam(FlatRays):
    """Line integrals along rays from a point to a flat detector, ``(B, C, y, x)`` to ``(B, C, views, detectors)``.

    The central ray of view ``beta`` is the parallel ray of ``theta = beta`` through the rotation axis. With a distant source the
    views are those of :class:`ParallelBeam` with a detector spacing smaller by ``source_to_axis / source_to_detector``.

    Args:
        angles: angles of the views, rad, ``(views,)``.
        shape: shape of the image, ``(y, x)``.
        source_to_axis: distance from the source to the rotation axis; the image must lie inside this circle.
        source_to_detector: distance from the source to the detector.
        detector: number of detector pixels, their spacing and the position of the central ray; ``None``: enough pixels for the
            diagonal, as wide as an image pixel at the axis, projected on the detector.
        spacing: size of an image pixel; sets the unit of length of the line integrals.
        dtype: type of images and projections.
        keep: whether to keep the matrix; ``None``: decided by its size.

    Raises:
        ValueError: for the angles that :class:`ParallelBeam` refuses, or for a source inside the image or behind the detector.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int],
        source_to_axis: float,
        source_to_detector: float,
        detector: Detector | None = None,
        spacing: float = 1.0,
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_positive("spacing", spacing)
        radius = math.hypot(*shape) / 2 * spacing
        _check_source("image", radius, source_to_axis, source_to_detector)
        magnification = source_to_detector / source_to_axis
        detector = detector or Detector()
        tangent = source_to_axis * math.tan(math.asin(radius / source_to_axis))
        n, detector_spacing = detector.for_image(tangent * magnification, spacing * magnification, shape)
        u = ((torch.arange(n).double() - (n - 1) / 2) * detector_spacing - detector.offset) / magnification
        gamma = torch.atan(u / source_to_axis)
        positions = (source_to_axis * gamma.sin() / spacing).expand(len(angles), -1)
        super().__init__(angles, angles[:, None] - gamma, positions, shape, spacing, dtype, False, keep)
        self.source_to_axis = source_to_axis
        self.magnification = magnification
        self.detector_spacing = detector_spacing
        self.offset = detector.offset

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection of a full turn, ``(B, C, y, x)`` (Kak and Slaney, 1988, section 3.4.2).

        Args:
            y: projections.
            kind: window on the ramp.

        Raises:
            ValueError: if the views leave a gap of more than a tenth of the turn, so that some rays are not seen twice.
        """
        self._leading_axes(y, (self.views, *self.view_shape), "projection")
        arcs = full_turn_arcs(self.angles)
        R = self.source_to_axis
        spacing, offset = self.detector_spacing / self.magnification, self.offset / self.magnification  # at the axis
        u = ((torch.arange(self.detectors).to(y) - (self.detectors - 1) / 2) * spacing - offset) / R
        filtered = filter_views(y / (1 + u**2).sqrt(), spacing, kind)[..., None, :]
        up, right = pixel_grid(self.shape, y)
        arcs = arcs.to(y).view(-1, 1, 1)

        def geometry(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nearness = 1 / (1 + self.spacing * (up * angle.cos() - right * angle.sin()) / R)
            s = self.spacing * (right * angle.cos() + up * angle.sin()) * nearness + offset
            return arcs[part] / 2 * nearness**2, torch.zeros_like(angle), s / spacing + (self.detectors - 1) / 2

        return back_project(filtered, self.shape, geometry, self.angles)


class ConeBeam(Projector):
    """Line integrals along rays from a point that circles the z axis, ``(B, C, z, y, x)`` to ``(B, C, views, v, u)``.

    In the plane of the source a view is a view of :class:`FanBeam`. The panel rows run along z in index order. The matrix is
    recomputed at every application unless it is small. Rays may climb by at most 45 degrees.

    Args:
        angles: angles of the views, rad, ``(views,)``.
        shape: shape of the volume, ``(z, y, x)``, cubic voxels.
        source_to_axis: distance from the source to the rotation axis; every slice must lie inside this circle.
        source_to_detector: distance from the source to the detector.
        panel: number of detector pixels, their spacing and the position of the central ray.
        spacing: size of a voxel; sets the unit of length of the line integrals.
        dtype: type of volumes and projections.
        keep: whether to keep the matrix; ``None``: decided by its size.

    Raises:
        ValueError: for the angles that :class:`ParallelBeam` refuses, for a source inside the volume or behind the detector, or
            for rays that are too steep.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int, int],
        source_to_axis: float,
        source_to_detector: float,
        panel: Panel,
        spacing: float = 1.0,
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_positive("spacing", spacing)
        _check_source("volume", math.hypot(*shape[1:]) / 2 * spacing, source_to_axis, source_to_detector)
        super().__init__(angles, panel.shape, tuple(shape), dtype, 4 * max(shape[1:]), False, keep)
        self.spacing = spacing
        self.source_to_axis = source_to_axis
        self.magnification = source_to_detector / source_to_axis
        self.detector_spacing = spacing * self.magnification if panel.spacing is None else panel.spacing
        self.offset = panel.offset
        v, u = (
            ((torch.arange(n).double() - (n - 1) / 2) * self.detector_spacing - offset) / self.magnification
            for n, offset in zip(panel.shape, panel.offset, strict=True)
        )
        if float(v.abs().max()) > source_to_axis:
            raise ValueError("rays climb by more than 45 degrees; use a lower panel or a source farther away")
        self.v: Tensor
        self.u: Tensor
        self.register_buffer("v", v, persistent=False)
        self.register_buffer("u", u, persistent=False)
        self._keep_matrix()

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Interpolate bilinearly in every plane of constant y or constant x, whichever the ray meets more steeply."""
        nz, ny, nx = self.shape
        R, d = self.source_to_axis, self.spacing
        grid = [part.flatten() for part in torch.meshgrid(self.v, self.u, indexing="ij")]
        n = max(ny, nx)
        chunks = list(zip(*(part.split(max(1, 2**22 // n)) for part in grid), strict=True))
        betas = [float(self.angles[view]) + quarters * math.pi / 2 for view, _, quarters in self.first_views]
        for beta, (v, u) in ((beta, chunk) for beta in betas for chunk in chunks):
            cos, sin = math.cos(beta), math.sin(beta)
            # In (right, up), from the source at R (sin, -cos) to u (cos, sin) beside the axis, where the ray reaches height v.
            right, up = u * cos - R * sin, u * sin + R * cos
            pixels = torch.zeros(len(u), n, 4, dtype=torch.int32, device=u.device)
            weights = torch.zeros(len(u), n, 4, dtype=self.dtype, device=u.device)
            steep = up.abs() >= right.abs()
            for rays, rows in ((steep, True), (~steep, False)):
                if not rays.any():
                    continue
                count, across = (ny, nx) if rows else (nx, ny)
                index = torch.arange(count, device=u.device)
                along = (index.double() - (count - 1) / 2) * d * (-1 if rows else 1)
                steepest, other = (up, right) if rows else (right, up)
                start, beside = (-R * cos, R * sin) if rows else (R * sin, -R * cos)
                t = (along - start) / steepest[rays, None]  # 0 at the source, 1 at the axis
                position = (beside + t * other[rays, None]) / d * (1 if rows else -1) + (across - 1) / 2
                height = t * v[rays, None] / d + (nz - 1) / 2
                direction = (right**2 + up**2 + v**2).sqrt()[rays]
                length = d * direction / steepest[rays].abs()
                low, floor = position.floor(), height.floor()
                parts = []
                for i in (0, 1):
                    for k in (0, 1):
                        at, level = low + i, floor + k
                        weight = (1 - (position - at).abs()) * (1 - (height - level).abs()) * length[:, None]
                        inside = (at >= 0) & (at < across) & (level >= 0) & (level < nz) & (t > 0)
                        at, level = at.clamp(0, across - 1).int(), level.clamp(0, nz - 1).int()
                        flat = (level * ny + index.int()) * nx + at if rows else (level * ny + at) * nx + index.int()
                        parts.append((flat, torch.where(inside, weight, 0.0)))
                pixels[rays, :count] = torch.stack([p for p, _ in parts], dim=-1).int()
                weights[rays, :count] = torch.stack([w for _, w in parts], dim=-1).to(self.dtype)
            yield pixels, weights

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Feldkamp-Davis-Kress reconstruction (J. Opt. Soc. Am. A 1, 1984) from a full turn, ``(B, C, z, y, x)``.

        Exact in the plane of the source, approximate above and below it.

        Args:
            y: projections.
            kind: window on the ramp.

        Raises:
            ValueError: if the views leave a gap of more than a tenth of the turn.
        """
        self._leading_axes(y, (self.views, *self.view_shape), "projection")
        arcs = full_turn_arcs(self.angles)
        nz, ny, nx = self.shape
        R = self.source_to_axis
        spacing = self.detector_spacing / self.magnification  # at the axis
        v0, u0 = (o / self.magnification for o in self.offset)
        v, u = self.v.to(y), self.u.to(y)
        cosine = R / (R**2 + u**2 + v[:, None] ** 2).sqrt()
        filtered = filter_views(y * cosine, spacing, kind)
        up, right = pixel_grid((ny, nx), y)
        z = (torch.arange(nz, device=y.device, dtype=y.dtype) - (nz - 1) / 2) * self.spacing
        z = z[:, None, None]
        arcs = arcs.to(y).view(-1, 1, 1, 1)

        def geometry(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nearness = 1 / (1 + self.spacing * (up * angle.cos() - right * angle.sin()) / R)
            s = self.spacing * (right * angle.cos() + up * angle.sin()) * nearness
            row = (z * nearness + v0) / spacing + (self.view_shape[0] - 1) / 2
            return arcs[part] / 2 * nearness**2, row, (s + u0) / spacing + (self.view_shape[1] - 1) / 2

        return back_project(filtered, self.shape, geometry, self.angles)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"the {name} must be positive; got {value}")


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the {name} must be finite; got {value}")


def _check_source(what: str, radius: float, to_axis: float, to_detector: float) -> None:
    """Refuse a source inside the image or behind the detector."""
    if not radius < to_axis <= to_detector:
        raise ValueError(
            f"the source must lie outside the {what} (radius {radius:g}) and in front of the detector; got source_to_axis "
            f"{to_axis:g} and source_to_detector {to_detector:g}"
        )


def _checked(angles: Tensor) -> Tensor:
    """Angles in float64.

    Raises:
        ValueError: if there are none, if they are not finite, or if they seem to be in degrees.
    """
    angles = torch.as_tensor(angles)
    if angles.ndim != 1 or not len(angles):
        raise ValueError(f"angles must be a list of at least one angle in rad; got shape {tuple(angles.shape)}")
    angles = angles.double().cpu()
    if not angles.isfinite().all():
        raise ValueError("angles hold NaN or Inf")
    if may_be_degrees(angles.numpy()):
        raise ValueError(
            f"angles reach {float(angles.abs().max()):g} rad: are they degrees? (torch.deg2rad) If they are rad, give them "
            "within a turn (angles % (2 * torch.pi))"
        )
    return angles
