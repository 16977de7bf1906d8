"""The base class of X-ray transforms: matrices of rays, shared between views that differ by a symmetry of the square."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from medrecon.operators.base import HALF, LinearOperator, with_adjoint_as_backward
from medrecon.operators.fbp import Filter
from medrecon.operators.linalg import MatrixTooLargeError, check_matrix, sparse_pair

__all__ = ["FlatRays", "Projector"]

_GEOMETRY = ("normals", "positions", "u", "v")
"""Buffers that describe the rays and stay in double precision."""
_MAX_ENTRIES = 4e8
"""Entries of the largest matrix that is kept; with its transpose, 16 bytes each in float32."""


Symmetry = tuple[int, int]
"""A symmetry of the square: ``(sign, quarters)`` maps the angle ``t`` to ``sign t + quarters pi / 2``."""


def _shared_rays(angles: Tensor, square: bool, mirrors: bool) -> tuple[Tensor, list[Symmetry], Tensor]:
    """Group the views so that all views of a group project rotated or mirrored images along the same rays.

    Of the ten groups of symmetries of a square, the one with the least work is chosen: reading an entry of a matrix takes
    about ten times as long as one more multiplication by it.

    Returns:
        the index of the first view of every set of rays; the symmetries that occur; and for every view
        ``symmetry * sets + rays``, where ``rays`` is the index of its set of rays and ``symmetry`` maps the angle of the view to
        the angle of these rays.
    """
    quarters = angles / (math.pi / 2)
    # Angles computed in single precision agree only to single precision.
    same = 1e-6 if bool((angles.float().double() == angles).all()) else 1e-9
    best: tuple[int, Tensor, list[Symmetry], Tensor] | None = None
    for step in (4, 2, 1):
        for mirror in (None, *range(step)) if mirrors else (None,):
            group = [(1, k) for k in range(0, 4, step)]
            if mirror is not None:
                group += [(-1, (k + mirror) % 4) for k in range(0, 4, step)]
            if not square and any(k % 2 for _, k in group):
                continue
            # The shift by the tolerance maps angles just below a full turn to values just below 0.
            mapped = torch.stack([(s * quarters + k + same) % 4 - same for s, k in group])
            lowest = mapped.min(dim=0).values
            which = (mapped <= lowest + same).int().argmax(dim=0)
            ordered, order = lowest.sort()
            ray_set = torch.empty_like(order)
            ray_set[order] = (ordered.diff(prepend=ordered[:1]) > same).cumsum(0)
            sets = int(ray_set.max()) + 1
            used, symmetry = which.unique(return_inverse=True)
            cost = sets * (10 + len(used))
            if best is None or cost < best[0]:
                first = torch.full((sets,), len(angles)).scatter_reduce(0, ray_set, torch.arange(len(angles)), "amin")
                best = cost, first, [group[i] for i in used.tolist()], symmetry * sets + ray_set
    assert best is not None
    return best[1:]


class Projector(LinearOperator):
    """X-ray transform: line integrals along rays that a subclass defines, view by view.

    The matrix of the rays and its transpose are kept if they fit. Otherwise their entries are recomputed at every application.
    Views a quarter of a turn apart, and mirror images of parallel rays, share one set of rays: the image is rotated or mirrored
    instead. Equally spaced views therefore need a quarter of the matrix, or an eighth.

    Args:
        angles: angles of the views, rad.
        view_shape: shape of a view.
        shape: shape of the image or volume.
        dtype: type of images and projections.
        per_ray: largest number of entries of a ray.
        mirrors: whether the mirror image of a view is a view, detector pixel by detector pixel.
        keep: whether to keep the matrix; ``None``: keep it if it has at most 4e8 entries and fits into the free memory, and
            warn otherwise.

    Raises:
        ValueError: if a size is not positive, or if ``keep`` is true and the matrix does not fit.
    """

    nonnegative = True

    def __init__(
        self,
        angles: Tensor,
        view_shape: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        per_ray: int,
        mirrors: bool,
        keep: bool | None = None,
    ) -> None:
        super().__init__()
        if min(*view_shape, *shape) < 1:
            raise ValueError(f"image and detector need at least one pixel per axis; got {shape} and {view_shape}")
        self.angles = angles
        self.views = len(angles)
        self.view_shape = view_shape
        self.shape = shape
        self.dtype = dtype
        first, self.symmetries, ray_index = _shared_rays(angles, shape[-1] == shape[-2], mirrors)
        self.sets = len(first)
        self.first_views = [(view, *self.symmetries[int(ray_index[view]) // self.sets]) for view in first.tolist()]
        self.ray_index: Tensor
        self.register_buffer("ray_index", ray_index, persistent=False)
        entries = self.sets * math.prod(view_shape) * per_ray
        try:
            if keep is not False:
                check_matrix(entries, "the matrix of all rays", "give keep=False to recompute it at every application")
            self.keep = entries <= _MAX_ENTRIES if keep is None else keep
        except MatrixTooLargeError:
            if keep:
                raise
            self.keep = False
        if keep is None and not self.keep:
            warnings.warn(
                f"the matrix of all rays may need {16 * entries / 1e9:.0f} GB, so it is recomputed at every application, which "
                "takes some fifteen times as long; give keep=True to keep it, or keep=False to silence this warning",
                stacklevel=3,
            )

    def _keep_matrix(self) -> None:
        """Compute the matrix if it is to be kept; subclasses call this once the geometry is set."""
        if not self.keep:
            return
        for name, part in zip(("matrix", "transpose"), sparse_pair(self._matrix()), strict=True):
            self.register_buffer(name, part, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projector:
        """As in torch, except that the geometry stays in double precision."""
        geometry = {name: part for name, part in self.named_buffers(recurse=False) if name in _GEOMETRY}
        super()._apply(fn, recurse)
        for name, part in geometry.items():
            setattr(self, name, part.to(getattr(self, name).device))
        after = fn(torch.empty(0, dtype=self.dtype)).dtype
        self.dtype = self.dtype if after in HALF else after
        return self

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Entries of the matrix, some rays at a time: the views of ``first_views``, in order.

        Yields:
            the pixels that the rays meet and their weights, ``(rays, n, k)``; weight 0 outside the image.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _entries")

    def fbp(self, y: Tensor, kind: Filter = "ramp") -> Tensor:
        """Filtered back-projection of ``y``, with a window ``kind`` on the ramp."""
        raise NotImplementedError(f"{type(self).__name__} has no filtered back-projection")

    def _matrix(self) -> csr_matrix:
        """The matrix, one row per ray."""
        counts, columns, values = [], [], []
        for pixels, weights in self._entries():
            nonzero = weights != 0
            counts.append(nonzero.sum(dim=(1, 2)))
            columns.append(pixels[nonzero])
            values.append(weights[nonzero])
        first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)]).int()
        arrays = torch.cat(values).numpy(), torch.cat(columns).numpy(), first.numpy()
        return csr_matrix(arrays, shape=(self.sets * math.prod(self.view_shape), math.prod(self.shape)))

    def _along_rays(self, x: Tensor) -> Tensor:
        """Line integrals along the sets of rays, ``(n, pixels)`` to ``(n, rays)``."""
        if self.keep:
            return (self.matrix @ x.T).T  # type: ignore[operator]
        parts = [
            (x[:, pixels.flatten()].view(len(x), *pixels.shape) * weights).sum(dim=(2, 3))
            for pixels, weights in self._entries()
        ]
        return torch.cat(parts, dim=1)

    def _from_rays(self, y: Tensor) -> Tensor:
        """The transpose of :meth:`_along_rays`, ``(n, rays)`` to ``(n, pixels)``."""
        if self.keep:
            return (self.transpose @ y.T).T  # type: ignore[operator]
        x = y.new_zeros(len(y), math.prod(self.shape))
        done = 0
        for pixels, weights in self._entries():
            rays = y[:, done : done + len(pixels), None, None]
            done += len(pixels)
            x.scatter_add_(1, pixels.flatten().long().expand(len(y), -1), (rays * weights).flatten(1))
        return x

    def _project(self, x: Tensor) -> Tensor:
        """``(n, *image)`` to ``(n, views, *view_shape)``."""
        mapped = torch.stack([(x if s > 0 else x.flip(-2)).rot90(k, (-2, -1)) for s, k in self.symmetries], dim=1)
        rays = self._along_rays(mapped.view(-1, math.prod(self.shape)))
        return rays.reshape(len(x), -1, *self.view_shape).index_select(1, self.ray_index)

    def _back_project(self, y: Tensor) -> Tensor:
        """``(n, views, *view_shape)`` to ``(n, *image)``."""
        rays = y.new_zeros(len(y), len(self.symmetries) * self.sets, *self.view_shape).index_add_(1, self.ray_index, y)
        mapped = self._from_rays(rays.view(len(y) * len(self.symmetries), -1)).reshape(len(y), -1, *self.shape)
        rotated = (part.rot90(-k, (-2, -1)) for part, (_, k) in zip(mapped.unbind(1), self.symmetries, strict=True))
        return sum(part if s > 0 else part.flip(-2) for part, (s, _) in zip(rotated, self.symmetries, strict=True))  # type: ignore[return-value]

    @staticmethod
    def _leading_axes(x: Tensor, shape: tuple[int, ...], what: str) -> tuple[int, ...]:
        """The axes before ``shape``.

        Raises:
            ValueError: if ``x`` does not end in ``shape``.
        """
        if x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"the {what} must end in the axes {shape}; got {tuple(x.shape)}")
        return x.shape[: x.ndim - len(shape)]

    def forward(self, x: Tensor) -> Tensor:
        """Project; leading axes, such as slices, are kept."""
        leading = self._leading_axes(x, self.shape, "image")
        flat = with_adjoint_as_backward(x.reshape(-1, *self.shape), self._project, self._back_project)
        return flat.view(*leading, self.views, *self.view_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project, without a filter or weights."""
        leading = self._leading_axes(y, (self.views, *self.view_shape), "projection")
        flat = with_adjoint_as_backward(y.reshape(-1, self.views, *self.view_shape), self._back_project, self._project)
        return flat.view(*leading, *self.shape)


class FlatRays(Projector):
    """Rays in a plane, sampled by Joseph's method (IEEE TMI 1, 1982).

    A ray crosses every row or every column of the image once, whichever it meets more steeply. At each crossing it interpolates
    linearly between two pixels.

    Args:
        angles: angles of the views, rad.
        normals: angle of the normal of every ray, rad, ``(views, detectors)``.
        positions: signed distance of every ray from the centre of the image along its normal, in pixels.
        shape: shape of the image, ``(y, x)``.
        spacing: size of an image pixel.
        dtype: type of images and projections.
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
        self._keep_matrix()

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        """View by view; pixels and weights ``(detectors, n, 2)``."""
        ny, nx = self.shape
        device = self.normals.device
        # From the centre of the image: x to the right, y up.
        x = torch.arange(nx, device=device).double() - (nx - 1) / 2
        y = (ny - 1) / 2 - torch.arange(ny, device=device).double()
        n = max(ny, nx)
        for view, sign, quarters in self.first_views:
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
