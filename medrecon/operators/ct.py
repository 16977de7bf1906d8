"""X-ray transforms with a matched adjoint."""

from __future__ import annotations

import math
import warnings

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from medrecon.operators.base import LinearOperator

__all__ = ["ParallelBeam"]


class _Matrix(torch.autograd.Function):
    """A sparse matrix and its transpose, kept both: the backward pass of one is the forward pass of the other."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.pair = transpose, matrix  # type: ignore[attr-defined]
        return (matrix @ x.T).T

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Matrix.apply(grads[0], *ctx.pair), None, None  # type: ignore[attr-defined, return-value]


class ParallelBeam(LinearOperator):
    """Line integrals of real images ``(B, C, y, x)`` along parallel rays, ``(B, C, views, detectors)``.

    A ray of view ``theta`` at detector position ``s`` is ``{x cos(theta) + y sin(theta) = s}``, x to the right, y up,
    both from the centre of the image; positions count from the centre of the detector. At ``theta = 0`` a view is the sum
    over rows, as in scikit-image's ``radon``. Rays are sampled by Joseph's method (IEEE TMI 1, 1982): once in every row
    or column, whichever they cross more steeply, with linear interpolation between two pixels.

    The matrix is kept, with its transpose: ``2 * views * detectors * max(y, x) * 2`` numbers, and as many 32-bit indices.

    Args:
        angles: rad, ``(views,)``.
        shape: of the image, ``(y, x)``.
        detectors: detector pixels; default: enough for the diagonal.
        spacing: side of an image pixel; sets the unit of length of the line integrals.
        pitch: distance of two detector pixels; default: ``spacing``.
        offset: position of the rotation axis on the detector, from its centre, in units of length.
        dtype: of images and projections.
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
    ) -> None:
        super().__init__()
        if angles.ndim != 1 or not len(angles):
            raise ValueError(f"angles must be a list of at least one angle in rad; got shape {tuple(angles.shape)}")
        self.shape = (int(shape[0]), int(shape[1]))
        # The diagonal, and a detector in its middle whenever the image has a pixel in its own.
        self.detectors = detectors or math.ceil(math.hypot(*self.shape) / 2) * 2 + max(self.shape) % 2
        self.angles = angles
        self.spacing = spacing
        self.pitch = spacing if pitch is None else pitch
        self.offset = offset
        self.dtype = dtype
        entries = 2 * len(angles) * self.detectors * max(self.shape)
        if entries > 4e8:
            raise ValueError(
                f"the matrix of {len(angles)} views x {self.detectors} detectors of a {self.shape} image and its "
                f"transpose would fill {16e-9 * entries:.0f} GB; use fewer views or a smaller image"
            )
        matrix = self._matrix(angles.double())
        for name, part in (("matrix", matrix), ("transpose", matrix.T.tocsr())):
            with warnings.catch_warnings():  # torch calls the layout beta
                warnings.simplefilter("ignore")
                # 32-bit indices: the sparse products of torch's CPU library would convert wider ones at every call.
                arrays = (torch.from_numpy(a) for a in (part.indptr, part.indices, part.data))
                self.register_buffer(name, torch.sparse_csr_tensor(*arrays, part.shape, dtype=dtype), persistent=False)

    def _matrix(self, angles: Tensor) -> csr_matrix:
        """A row for every ray, made view by view, so that nothing larger than the matrix itself is ever held."""
        ny, nx = self.shape
        s = (
            (torch.arange(self.detectors, dtype=torch.float64) - (self.detectors - 1) / 2) * self.pitch - self.offset
        ) / self.spacing
        x, y = torch.arange(nx).double() - (nx - 1) / 2, (ny - 1) / 2 - torch.arange(ny).double()
        counts, columns, values = [], [], []
        for angle in angles.tolist():
            cos, sin = math.cos(angle), math.sin(angle)
            steep = abs(cos) >= abs(sin)  # crosses every row once
            if steep:
                position = (s[:, None] - y * sin) / cos + (nx - 1) / 2
                length, across = self.spacing / abs(cos), nx
            else:
                position = (ny - 1) / 2 - (s[:, None] - x * cos) / sin
                length, across = self.spacing / abs(sin), ny
            low = position.floor()
            weight = position - low
            index = torch.stack([low, low + 1], dim=-1)
            weight = torch.stack([1 - weight, weight], dim=-1)
            inside = (index >= 0) & (index < across) & (weight > 0)
            along = torch.arange(position.shape[1])[:, None]
            pixel = along * nx + index if steep else index * nx + along
            counts.append(inside.sum(dim=(1, 2)))
            columns.append(pixel[inside].int())
            values.append((length * weight[inside]).to(self.dtype))
        first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)]).int()
        arrays = torch.cat(values).numpy(), torch.cat(columns).numpy(), first.numpy()
        return csr_matrix(arrays, shape=(len(angles) * self.detectors, ny * nx))

    def forward(self, x: Tensor) -> Tensor:
        """Project."""
        flat = _Matrix.apply(x.reshape(-1, self.shape[0] * self.shape[1]), self.matrix, self.transpose)
        return flat.view(*x.shape[:2], len(self.angles), self.detectors)  # type: ignore[union-attr]

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-project, without any filter or weight."""
        flat = _Matrix.apply(y.reshape(-1, len(self.angles) * self.detectors), self.transpose, self.matrix)
        return flat.view(*y.shape[:2], *self.shape)  # type: ignore[union-attr]
