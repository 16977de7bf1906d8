"""X-ray transforms with a matched adjoint, and filtered back-projection."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from medrecon.angles import may_be_degrees
from medrecon.operators.base import HALF, LinearOperator, with_adjoint_as_backward
from medrecon.operators.linalg import MatrixTooLargeError, check_matrix, sparse_pair

__all__ = ["FILTERS", "ConeBeam", "FanBeam", "Filter", "ParallelBeam", "Projector", "ramp_filter"]

Filter = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]
FILTERS: tuple[Filter, ...] = get_args(Filter)

_GEOMETRY = ("normals", "positions", "u", "v")
_KEPT = 4e8
"""Entries of the largest matrix that is kept; with its transpose, 16 bytes each in float32."""


Move = tuple[int, int]
"""A symmetry of the square: ``(sign, quarters)`` takes the angle ``t`` to ``sign t + quarters pi / 2``."""


def _shared(angles: Tensor, square: bool, mirrors: bool) -> tuple[Tensor, list[Move], Tensor]:
    """The views that need rays of their own, and how the others see a turned or mirrored image along the same rays.

    Of the ten groups of symmetries of a square that group is taken which leaves least to do: reading an entry of a matrix
    takes about ten times as long as multiplying it once more.

    Returns:
        the first of the views of every set of rays; the moves that occur; for every view the move that takes its angle to
        that of its rays, and the number of the rays, as ``move * sets + rays``. The angle of the rays of view ``i`` is thus
        ``moves[slots[i] // sets]`` of its own.
    """
    quarters = angles / (math.pi / 2)
    # Angles that were made in single precision are equal no further than that.
    same = 1e-6 if bool((angles.float().double() == angles).all()) else 1e-9
    best: tuple[int, Tensor, list[Move], Tensor] | None = None
    for step in (4, 2, 1):
        for mirror in (None, *range(step)) if mirrors else (None,):
            group = [(1, k) for k in range(0, 4, step)]
            if mirror is not None:
                group += [(-1, (k + mirror) % 4) for k in range(0, 4, step)]
            if not square and any(k % 2 for _, k in group):
                continue
            # Angles just below a full turn are just above none.
            moved = torch.stack([(s * quarters + k + same) % 4 - same for s, k in group])
            lowest = moved.min(dim=0).values
            which = (moved <= lowest + same).int().argmax(dim=0)
            ordered, order = lowest.sort()
            of = torch.empty_like(order)
            of[order] = (ordered.diff(prepend=ordered[:1]) > same).cumsum(0)
            rays = int(of.max()) + 1
            used, slot = which.unique(return_inverse=True)
            cost = rays * (10 + len(used))
            if best is None or cost < best[0]:
                first = torch.full((rays,), len(angles)).scatter_reduce(0, of, torch.arange(len(angles)), "amin")
                best = cost, first, [group[i] for i in used.tolist()], slot * rays + of
    assert best is not None
    return best[1:]


class Projector(LinearOperator):
    """X-ray transform: line integrals along rays whose entries a subclass makes, view by view.

    The matrix of the rays is kept, with its transpose, if it fits; else its entries are made anew at every application.
    Views a quarter of a turn apart, and mirror images of parallel rays, have one set of rays between them: it is the image
    that is turned. Equally spaced views thus need a quarter of the matrix, or an eighth.

    Args:
        angles: of the views, rad.
        detector: shape of a view.
        shape: of the image or volume.
        dtype: of images and projections.
        per_ray: entries of a ray at most.
        mirrors: whether the mirror image of a view is a view, detector pixel by detector pixel.
        keep: whether the matrix is kept; ``None``: if it has no more than 4e8 entries and fits into the free memory, and
            a warning is logged if not.

    Raises:
        ValueError: for sizes that are not positive, or a matrix to be kept that does not fit.
    """

    nonnegative = True

    def __init__(
        self,
        angles: Tensor,
        detector: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        per_ray: int,
        mirrors: bool,
        keep: bool | None = None,
    ) -> None:
        super().__init__()
        if min(*detector, *shape) < 1:
            raise ValueError(f"image and detector need at least one pixel a side; got {shape} and {detector}")
        self.angles = angles
        self.views = len(angles)
        self.detector = detector
        self.shape = shape
        self.dtype = dtype
        first, self.moves, slots = _shared(angles, shape[-1] == shape[-2], mirrors)
        self.sets = len(first)
        self.own = [(view, *self.moves[int(slots[view]) // self.sets]) for view in first.tolist()]
        self.slots: Tensor
        self.register_buffer("slots", slots, persistent=False)
        entries = self.sets * math.prod(detector) * per_ray
        try:
            if keep is not False:
                check_matrix(entries, "the matrix of all rays", "keep=False makes them anew at every application")
            self.keep = entries <= _KEPT if keep is None else keep
        except MatrixTooLargeError:
            if keep:
                raise
            self.keep = False
        if keep is None and not self.keep:
            warnings.warn(
                f"the matrix of all rays may need {16 * entries / 1e9:.0f} GB: they are made anew at every application, which "
                "takes some fifteen times as long (keep=True keeps them, keep=False keeps this quiet)",
                stacklevel=3,
            )

    def _keep(self) -> None:
        """Make the matrix, if it is to be kept; to be called once the geometry is known."""
        if not self.keep:
            return
        for name, part in zip(("matrix", "transpose"), sparse_pair(self._matrix()), strict=True):
            self.register_buffer(name, part, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projector:
        """As torch does, but where the rays are stays in double precision."""
        geometry = {name: part for name, part in self.named_buffers(recurse=False) if name in _GEOMETRY}
        super()._apply(fn, recurse)
        for name, part in geometry.items():
            setattr(self, name, part.to(getattr(self, name).device))
        after = fn(torch.empty(0, dtype=self.dtype)).dtype
        self.dtype = self.dtype if after in HALF else after
        return self

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rays at a time, of the views ``own`` after their moves, in order.

        Yields:
            the pixels that they meet and their weights, ``(rays, n, k)``; weight 0 outside.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _entries")

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection of ``y``, with a window ``kind`` on the ramp."""
        raise NotImplementedError(f"{type(self).__name__} has no filtered back-projection")

    def _matrix(self) -> csr_matrix:
        """A row for every ray, made some rays at a time."""
        counts, columns, values = [], [], []
        for pixels, weights in self._entries():
            meets = weights != 0
            counts.append(meets.sum(dim=(1, 2)))
            columns.append(pixels[meets])
            values.append(weights[meets])
        first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)]).int()
        arrays = torch.cat(values).numpy(), torch.cat(columns).numpy(), first.numpy()
        return csr_matrix(arrays, shape=(self.sets * math.prod(self.detector), math.prod(self.shape)))

    def _along_rays(self, x: Tensor) -> Tensor:
        """``(n, pixels)`` to ``(n, rays)``, of the sets of rays."""
        if self.keep:
            return (self.matrix @ x.T).T  # type: ignore[operator]
        parts = [
            (x[:, at.flatten()].view(len(x), *at.shape) * weight).sum(dim=(2, 3)) for at, weight in self._entries()
        ]
        return torch.cat(parts, dim=1)

    def _from_rays(self, y: Tensor) -> Tensor:
        """``(n, rays)`` of the sets of rays to ``(n, pixels)``."""
        if self.keep:
            return (self.transpose @ y.T).T  # type: ignore[operator]
        x = y.new_zeros(len(y), math.prod(self.shape))
        done = 0
        for at, weight in self._entries():
            rays = y[:, done : done + len(at), None, None]
            done += len(at)
            x.scatter_add_(1, at.flatten().long().expand(len(y), -1), (rays * weight).flatten(1))
        return x

    def _project(self, x: Tensor) -> Tensor:
        """``(n, *image)`` to ``(n, views, *detector)``."""
        moved = torch.stack([(x if s > 0 else x.flip(-2)).rot90(k, (-2, -1)) for s, k in self.moves], dim=1)
        rays = self._along_rays(moved.view(-1, math.prod(self.shape)))
        return rays.reshape(len(x), -1, *self.detector).index_select(1, self.slots)

    def _back_project(self, y: Tensor) -> Tensor:
        """``(n, views, *detector)`` to ``(n, *image)``."""
        rays = y.new_zeros(len(y), len(self.moves) * self.sets, *self.detector).index_add_(1, self.slots, y)
        moved = self._from_rays(rays.view(len(y) * len(self.moves), -1)).reshape(len(y), -1, *self.shape)
        back = (part.rot90(-k, (-2, -1)) for part, (_, k) in zip(moved.unbind(1), self.moves, strict=True))
        return sum(part if s > 0 else part.flip(-2) for part, (s, _) in zip(back, self.moves, strict=True))  # type: ignore[return-value]

    @staticmethod
    def _outer(x: Tensor, shape: tuple[int, ...], what: str) -> tuple[int, ...]:
        """The axes before ``shape``."""
        if x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"the {what} must end in the axes {shape}; got {tuple(x.shape)}")
        return x.shape[: x.ndim - len(shape)]

    def forward(self, x: Tensor) -> Tensor:
        """Project; axes between channels and the image, such as slices, stay."""
        outer = self._outer(x, self.shape, "image")
        flat = with_adjoint_as_backward(x.reshape(-1, *self.shape), self._project, self._back_project)
        return flat.view(*outer, self.views, *self.detector)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project, without any filter or weight."""
        outer = self._outer(y, (self.views, *self.detector), "projection")
        flat = with_adjoint_as_backward(y.reshape(-1, self.views, *self.detector), self._back_project, self._project)
        return flat.view(*outer, *self.shape)


class _FlatRays(Projector):
    """Rays in a plane, sampled by Joseph's method (IEEE TMI 1, 1982).

    A ray crosses every row or every column of the image once, whichever it meets more steeply; there it takes a linear
    interpolation between two pixels.

    Args:
        angles: of the views, rad.
        normals: angle of the normal of every ray, rad, ``(views, detectors)``.
        positions: signed distance of every ray from the centre of the image along that normal, in pixels.
        shape: of the image, ``(y, x)``.
        spacing: side of an image pixel.
        dtype: of images and projections.
        mirrors: see :class:`Projector`.
        keep: see :class:`Projector`.
    """

    def __init__(
        self,
        angles: Tensor,
        normals: Tensor,
        positions: Tensor,
        shape: tuple[int, int],
        spacing: float,
        dtype: torch.dtype,
        mirrors: bool,
        keep: bool | None = None,
    ) -> None:
        shape = (int(shape[0]), int(shape[1]))
        super().__init__(angles, (normals.shape[1],), shape, dtype, 2 * max(shape), mirrors, keep)
        self.detectors = normals.shape[1]
        self.spacing = spacing
        self.normals: Tensor
        self.positions: Tensor
        self.register_buffer("normals", normals.double(), persistent=False)
        self.register_buffer("positions", positions.double(), persistent=False)
        self._keep()

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """View by view; pixels and weights ``(detectors, n, 2)``."""
        ny, nx = self.shape
        device = self.normals.device
        # Counted from the centre: x to the right, y up.
        x = torch.arange(nx, device=device).double() - (nx - 1) / 2
        y = (ny - 1) / 2 - torch.arange(ny, device=device).double()
        n = max(ny, nx)
        for view, sign, quarters in self.own:
            normal, s = sign * self.normals[view] + quarters * math.pi / 2, self.positions[view]
            cos, sin = normal.cos()[:, None], normal.sin()[:, None]
            pixels = torch.zeros(self.detectors, n, 2, dtype=torch.int32, device=device)
            weights = torch.zeros(self.detectors, n, 2, dtype=self.dtype, device=device)
            steep = cos[:, 0].abs() >= sin[:, 0].abs()  # crosses every row once
            for rays, rows in ((steep, True), (~steep, False)):
                if not rays.any():
                    continue
                if rows:
                    position = (s[rays, None] - y * sin[rays]) / cos[rays] + (nx - 1) / 2
                    length, across, along = self.spacing / cos[rays].abs(), nx, torch.arange(ny, device=device)
                else:
                    position = (ny - 1) / 2 - (s[rays, None] - x * cos[rays]) / sin[rays]
                    length, across, along = self.spacing / sin[rays].abs(), ny, torch.arange(nx, device=device)
                low = position.floor()
                index = torch.stack([low, low + 1], dim=-1)
                weight = torch.stack([1 - (position - low), position - low], dim=-1) * length[..., None]
                inside = (index >= 0) & (index < across)
                index = index.clamp(0, across - 1).int()
                pixel = along[:, None] * nx + index if rows else index * nx + along[:, None]
                pixels[rays, : len(along)] = pixel.int()
                weights[rays, : len(along)] = torch.where(inside, weight, 0.0).to(self.dtype)
            yield pixels, weights


def ramp_filter(n: int, kind: Filter = "ramp") -> np.ndarray:
    """The ramp filter of ``n`` samples of unit distance by its spectrum, ``(n // 2 + 1,)``, times a window.

    The transform of the band-limited ramp's samples (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988,
    eq. 3.61), not ``|f|`` itself: sampled in frequency, the ramp would lose the mean of the image.

    Raises:
        ValueError: for an unknown window.
    """
    if kind not in FILTERS:
        raise ValueError(f"unknown filter {kind!r}; choose one of {', '.join(FILTERS)}")
    position = np.fft.fftfreq(n, 1 / n)
    odd = np.abs(position) % 2 == 1
    samples = np.where(odd, -1 / (math.pi * np.where(odd, position, 1.0)) ** 2, 0.0)
    samples[0] = 0.25
    ramp = np.fft.rfft(samples).real
    f = np.fft.rfftfreq(n)
    window = {
        "ramp": np.ones_like(f),
        "shepp-logan": np.sinc(f),
        "cosine": np.cos(math.pi * f),
        "hamming": 0.54 + 0.46 * np.cos(2 * math.pi * f),
        "hann": 0.5 + 0.5 * np.cos(2 * math.pi * f),
    }[kind]
    return ramp * window


def _filtered(y: Tensor, pitch: float, kind: Filter) -> Tensor:
    """Convolve the last axis with the ramp, zeros outside."""
    size = 2 ** math.ceil(math.log2(2 * y.shape[-1]))
    ramp = torch.from_numpy(ramp_filter(size, kind)).to(y.device, y.dtype)
    return torch.fft.irfft(torch.fft.rfft(y, size) * ramp, size)[..., : y.shape[-1]] / pitch


def _arcs(angles: Tensor, turn: float, wedge: float = math.inf) -> Tensor:
    """The share of a ``turn`` that every angle stands for: half the way to each of its neighbours.

    Gaps wider than ``wedge`` (and than three times the usual) are missing: they count like the usual gap.
    """
    # Views that coincide, such as opposite ones of parallel rays, share the arc of one.
    wrapped = (angles % turn).round(decimals=9) % turn
    ordered, which, counts = wrapped.unique(sorted=True, return_inverse=True, return_counts=True)
    gaps = torch.cat([ordered[1:], ordered[:1] + turn]) - ordered
    usual = gaps.median()
    gaps = torch.where(gaps > max(wedge, 3 * float(usual)), usual, gaps)
    return ((gaps + gaps.roll(1)) / 2 / counts)[which]


def _full_turn(angles: Tensor) -> Tensor:
    """The arcs of views all round, or an error if they are not."""
    ordered = (angles % (2 * math.pi)).sort().values
    gap = float((torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered).max())
    if gap > 0.2 * math.pi:
        raise ValueError(
            f"filtered back-projection of diverging rays needs views all round, but {math.degrees(gap):.0f} degrees are empty; "
            "use cg-sense or tv"
        )
    return _arcs(angles, 2 * math.pi)


def _grid(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """``y`` (up) and ``x`` (right) of every pixel from the centre, in pixels."""
    y, x = ((n - 1) / 2 - torch.arange(n, device=like.device, dtype=like.dtype) for n in shape)
    return y[:, None], -x[None, :]


_TOGETHER = 8
"""Views that are back-projected in one go: one thread each, in little memory."""


def _smeared(
    filtered: Tensor,
    shape: tuple[int, ...],
    at: Callable[[slice, Tensor], tuple[Tensor, Tensor, Tensor]],
    angles: Tensor,
) -> Tensor:
    """Sum over the views of their values at every pixel, interpolated linearly, 0 beyond the detector.

    Args:
        filtered: ``(*outer, views, v, u)``.
        shape: of the image.
        at: from the numbers of some views and their angles ``(k, 1, 1)`` to weight, row and column of the panel that every
            pixel meets, each broadcastable to ``(k, *shape)``.
        angles: of all views.
    """
    outer, (nv, nu) = filtered.shape[:-3], filtered.shape[-2:]
    image = filtered.new_zeros(math.prod(outer), *shape)
    panels = filtered.reshape(-1, *filtered.shape[-3:]).transpose(0, 1)
    for first in range(0, len(angles), _TOGETHER):
        part = slice(first, min(first + _TOGETHER, len(angles)))
        angle = angles[part].to(filtered).view(-1, *[1] * len(shape))
        weight, row, column = at(part, angle)
        # Positions as grid_sample counts them, from -1 on the first pixel to 1 on the last.
        where = torch.stack(
            torch.broadcast_tensors(2 * column / max(nu - 1, 1) - 1, 2 * row / max(nv - 1, 1) - 1), dim=-1
        ).expand(len(angle), *shape, 2)
        values = F.grid_sample(panels[part], where.reshape(len(angle), -1, shape[-1], 2), align_corners=True)
        image += (weight[:, None] * values.view(len(angle), -1, *shape)).sum(0)
    return image.view(*outer, *shape)


class ParallelBeam(_FlatRays):
    """Line integrals of real images ``(B, C, y, x)`` along parallel rays, ``(B, C, views, detectors)``.

    A ray of view ``theta`` at detector position ``s`` is ``{x cos(theta) + y sin(theta) = s}``, x to the right, y up,
    both from the centre of the image; positions count from the centre of the detector. At ``theta = 0`` a view is the sum
    over rows, as in scikit-image's ``radon``.

    The matrix is kept, with its transpose, where it has no more than 4e8 entries (6.4 GB); else it is made anew, view by view.

    Args:
        angles: rad, ``(views,)``.
        shape: of the image, ``(y, x)``.
        detectors: detector pixels; default: enough for the diagonal.
        spacing: side of an image pixel; sets the unit of length of the line integrals.
        pitch: distance of two detector pixels; default: ``spacing``.
        offset: position of the rotation axis on the detector, from its centre, in units of length.
        dtype: of images and projections.
        keep: whether to keep the matrix; ``None`` decides by its size.

    Raises:
        ValueError: for no angles, angles that are no numbers, or angles that must be degrees.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int],
        detectors: int | None = None,
        spacing: float = 1.0,
        pitch: float | None = None,
        offset: float = 0.0,
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_lengths(spacing=spacing, pitch=pitch, offset=offset)
        # The diagonal, and a detector in its middle whenever the image has a pixel in its own.
        pitch = spacing if pitch is None else pitch
        if detectors is None:
            detectors = math.ceil((math.hypot(*shape) / 2 * spacing + abs(offset)) / pitch) * 2 + max(shape) % 2
        s = ((torch.arange(detectors).double() - (detectors - 1) / 2) * pitch - offset) / spacing
        normals, positions = angles[:, None].expand(-1, detectors), s.expand(len(angles), -1)
        super().__init__(angles, normals, positions, shape, spacing, dtype, True, keep)
        self.pitch = pitch
        self.offset = offset

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection, ``(B, C, y, x)``: the inverse for many views all round, and no adjoint.

        Filtered views are interpolated at the pixels' own positions. Every view counts for the arc that it stands for, so
        views need not be equally spaced; where a wedge of more than 15 degrees is missing, its neighbours are not stretched
        over it.

        Args:
            y: projections.
            kind: window on the ramp.
        """
        self._outer(y, (self.views, *self.detector), "projection")
        arcs = _arcs(self.angles, math.pi, wedge=math.pi / 12)
        filtered = _filtered(y, self.pitch, kind)[..., None, :]
        up, right = _grid(self.shape, y)
        arcs = arcs.to(y).view(-1, 1, 1)

        def at(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            s = self.spacing * (right * angle.cos() + up * angle.sin()) + self.offset
            return arcs[part], torch.zeros_like(angle), s / self.pitch + (self.detectors - 1) / 2

        return _smeared(filtered, self.shape, at, self.angles)


class FanBeam(_FlatRays):
    """Line integrals along rays from a point to a flat detector, ``(B, C, y, x)`` to ``(B, C, views, detectors)``.

    The central ray of view ``beta`` is the parallel ray of ``theta = beta`` through the rotation axis; with the source far away
    the views are those of :class:`ParallelBeam` with a pitch smaller by ``source_to_axis / source_to_detector``.

    Args:
        angles: rad, ``(views,)``.
        shape: of the image, ``(y, x)``.
        source_to_axis: in units of length; the image must lie inside this circle.
        source_to_detector: in units of length.
        detectors: detector pixels; default: enough for the diagonal.
        spacing: side of an image pixel; sets the unit of length of the line integrals.
        pitch: distance of two detector pixels, on the detector; default: the shadow of an image pixel at the axis.
        offset: where the central ray meets the detector, from its centre, in units of length on the detector.
        dtype: of images and projections.
        keep: whether to keep the matrix; ``None`` decides by its size.

    Raises:
        ValueError: for angles as in :class:`ParallelBeam`, or a source inside the image or behind the detector.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int],
        source_to_axis: float,
        source_to_detector: float,
        detectors: int | None = None,
        spacing: float = 1.0,
        pitch: float | None = None,
        offset: float = 0.0,
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_lengths(spacing=spacing, pitch=pitch, offset=offset)
        radius = math.hypot(*shape) / 2 * spacing
        if not radius < source_to_axis <= source_to_detector:
            raise ValueError(
                f"the source must lie outside the image (radius {radius:g}) and before the detector; got source_to_axis "
                f"{source_to_axis:g} and source_to_detector {source_to_detector:g}"
            )
        magnification = source_to_detector / source_to_axis
        pitch = spacing * magnification if pitch is None else pitch
        if detectors is None:
            widest = source_to_axis * math.tan(math.asin(radius / source_to_axis)) * magnification
            detectors = math.ceil((widest + abs(offset)) / pitch) * 2 + max(shape) % 2
        u = ((torch.arange(detectors).double() - (detectors - 1) / 2) * pitch - offset) / magnification
        gamma = torch.atan(u / source_to_axis)
        positions = (source_to_axis * gamma.sin() / spacing).expand(len(angles), -1)
        super().__init__(angles, angles[:, None] - gamma, positions, shape, spacing, dtype, False, keep)
        self.source_to_axis = source_to_axis
        self.magnification = magnification
        self.pitch = pitch
        self.offset = offset

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection of a full turn, ``(B, C, y, x)`` (Kak and Slaney, 1988, section 3.4.2).

        Args:
            y: projections.
            kind: window on the ramp.

        Raises:
            ValueError: if the views leave a gap of more than a tenth of the turn: rays are then not all seen twice.
        """
        self._outer(y, (self.views, *self.detector), "projection")
        arcs = _full_turn(self.angles)
        R = self.source_to_axis
        pitch, offset = self.pitch / self.magnification, self.offset / self.magnification
        u = ((torch.arange(self.detectors).to(y) - (self.detectors - 1) / 2) * pitch - offset) / R
        filtered = _filtered(y / (1 + u**2).sqrt(), pitch, kind)[..., None, :]
        up, right = _grid(self.shape, y)
        arcs = arcs.to(y).view(-1, 1, 1)

        def at(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nearness = 1 / (1 + self.spacing * (up * angle.cos() - right * angle.sin()) / R)
            s = self.spacing * (right * angle.cos() + up * angle.sin()) * nearness + offset
            return arcs[part] / 2 * nearness**2, torch.zeros_like(angle), s / pitch + (self.detectors - 1) / 2

        return _smeared(filtered, self.shape, at, self.angles)


class ConeBeam(Projector):
    """Line integrals from a point that circles the z axis to a flat panel, ``(B, C, z, y, x)`` to ``(B, C, views, v, u)``.

    In the plane of the source a view is one of :class:`FanBeam`; rows of the panel follow z, index by index. Entries are made
    anew at every application unless the matrix is small; rays may climb by at most 45 degrees.

    Args:
        angles: rad, ``(views,)``.
        shape: of the volume, ``(z, y, x)``, cubic voxels.
        source_to_axis: in units of length; every slice must lie inside this circle.
        source_to_detector: in units of length.
        panel: pixels of the detector, ``(v, u)``.
        spacing: side of a voxel; sets the unit of length of the line integrals.
        pitch: distance of two detector pixels, on the detector; default: the shadow of a voxel at the axis.
        offset: where the central ray meets the panel, from its centre, along (v, u) in units of length on the detector.
        dtype: of volumes and projections.
        keep: whether to keep the matrix; ``None`` decides by its size.

    Raises:
        ValueError: for angles as in :class:`ParallelBeam`, a source inside the volume, or too steep a cone.
    """

    def __init__(
        self,
        angles: Tensor,
        shape: tuple[int, int, int],
        source_to_axis: float,
        source_to_detector: float,
        panel: tuple[int, int],
        spacing: float = 1.0,
        pitch: float | None = None,
        offset: tuple[float, float] = (0.0, 0.0),
        dtype: torch.dtype = torch.float32,
        keep: bool | None = None,
    ) -> None:
        angles = _checked(angles)
        _check_lengths(spacing=spacing, pitch=pitch, offset=offset[0], offset_u=offset[1])
        radius = math.hypot(*shape[1:]) / 2 * spacing
        if not radius < source_to_axis <= source_to_detector:
            raise ValueError(
                f"the source must lie outside the volume (radius {radius:g}) and before the detector; got source_to_axis "
                f"{source_to_axis:g} and source_to_detector {source_to_detector:g}"
            )
        super().__init__(angles, panel, tuple(shape), dtype, 4 * max(shape[1:]), False, keep)
        self.spacing = spacing
        self.source_to_axis = source_to_axis
        self.magnification = source_to_detector / source_to_axis
        self.pitch = spacing * self.magnification if pitch is None else pitch
        self.offset = offset
        v, u = (
            ((torch.arange(n).double() - (n - 1) / 2) * self.pitch - o) / self.magnification
            for n, o in zip(panel, offset, strict=True)
        )
        if float(v.abs().max()) > source_to_axis:
            raise ValueError("rays climb by more than 45 degrees; use a lower panel or a source farther away")
        self.v: Tensor
        self.u: Tensor
        self.register_buffer("v", v, persistent=False)
        self.register_buffer("u", u, persistent=False)
        self._keep()

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Bilinear interpolation in every plane of constant y, or of constant x, whichever the ray meets more steeply."""
        nz, ny, nx = self.shape
        R, d = self.source_to_axis, self.spacing
        grid = [part.flatten() for part in torch.meshgrid(self.v, self.u, indexing="ij")]
        n = max(ny, nx)
        chunks = list(zip(*(part.split(max(1, 2**22 // n)) for part in grid), strict=True))
        betas = [float(self.angles[view]) + quarters * math.pi / 2 for view, _, quarters in self.own]
        for beta, (v, u) in ((beta, chunk) for beta in betas for chunk in chunks):
            cos, sin = math.cos(beta), math.sin(beta)
            # From the source (right, up) = R (sin, -cos) through u (cos, sin) at the axis, climbing to v there.
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
                main, other = (up, right) if rows else (right, up)
                start, beside = (-R * cos, R * sin) if rows else (R * sin, -R * cos)
                t = (along - start) / main[rays, None]  # 1 at the axis' plane
                position = (beside + t * other[rays, None]) / d * (1 if rows else -1) + (across - 1) / 2
                height = t * v[rays, None] / d + (nz - 1) / 2
                direction = (right**2 + up**2 + v**2).sqrt()[rays]
                length = d * direction / main[rays].abs()
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
        """The reconstruction of Feldkamp, Davis and Kress (J. Opt. Soc. Am. A 1, 1984) from a full turn, ``(B, C, z, y, x)``.

        Exact in the plane of the source, approximate above and below.

        Args:
            y: projections.
            kind: window on the ramp.

        Raises:
            ValueError: if the views leave a gap of more than a tenth of the turn.
        """
        self._outer(y, (self.views, *self.detector), "projection")
        arcs = _full_turn(self.angles)
        nz, ny, nx = self.shape
        R = self.source_to_axis
        pitch = self.pitch / self.magnification
        v0, u0 = (o / self.magnification for o in self.offset)
        v, u = self.v.to(y), self.u.to(y)
        cosine = R / (R**2 + u**2 + v[:, None] ** 2).sqrt()
        filtered = _filtered(y * cosine, pitch, kind)
        up, right = _grid((ny, nx), y)
        z = (torch.arange(nz, device=y.device, dtype=y.dtype) - (nz - 1) / 2) * self.spacing
        z = z[:, None, None]
        arcs = arcs.to(y).view(-1, 1, 1, 1)

        def at(part: slice, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nearness = 1 / (1 + self.spacing * (up * angle.cos() - right * angle.sin()) / R)
            s = self.spacing * (right * angle.cos() + up * angle.sin()) * nearness
            row = (z * nearness + v0) / pitch + (self.detector[0] - 1) / 2
            return arcs[part] / 2 * nearness**2, row, (s + u0) / pitch + (self.detector[1] - 1) / 2

        return _smeared(filtered, self.shape, at, self.angles)


def _check_lengths(**lengths: float | None) -> None:
    for name, value in lengths.items():
        if value is not None and not (math.isfinite(value) and (value > 0 or name.startswith("offset"))):
            raise ValueError(f"{name} must be {'finite' if name.startswith('offset') else 'positive'}; got {value}")


def _checked(angles: Tensor) -> Tensor:
    """Angles in float64, or an error that says what is wrong with them."""
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
