"""Operators with a known singular value decomposition ``A = U S V^H``; all derived operations are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.operators.base import Composed, LinearOperator
from medrecon.operators.linalg import batch_broadcast

__all__ = ["Dense", "Separable", "Spectral"]


class Spectral(LinearOperator):
    """A linear operator ``A = U S V^H``: define ``vh, v, uh, u`` and ``singular``; everything else is derived and exact.

    Coefficients ``c = vh(x)`` are ``(B, ...)`` in any layout, with as many numbers as the image: V is square and unitary, and U
    has a column wherever ``singular`` is not 0.
    """

    closed_form = True
    singular: Tensor
    """Nonnegative singular values, broadcast against the coefficients."""

    def vh(self, x: Tensor) -> Tensor:
        """``V^H x``: coefficients of an image."""
        raise NotImplementedError(f"{type(self).__name__} must define vh")

    def v(self, c: Tensor) -> Tensor:
        """``V c``: the image of some coefficients."""
        raise NotImplementedError(f"{type(self).__name__} must define v")

    def uh(self, y: Tensor) -> Tensor:
        """``U^H y``: coefficients of measurements, 0 where ``singular`` is 0."""
        raise NotImplementedError(f"{type(self).__name__} must define uh")

    def u(self, c: Tensor) -> Tensor:
        """``U c``: the measurements of some coefficients; coefficients where ``singular`` is 0 are ignored."""
        raise NotImplementedError(f"{type(self).__name__} must define u")

    def forward(self, x: Tensor) -> Tensor:
        """``U S V^H x``."""
        return self.u(self.singular * self.vh(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """``V S U^H y``."""
        return self.v(self.singular * self.uh(y))

    def normal(self, x: Tensor) -> Tensor:
        """``V S^2 V^H x``."""
        return self.v(self.singular**2 * self.vh(x))

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """``V (S^2 + rho)^+ V^H b``, exact; the pseudo-inverse of ``A^H A`` for rho = 0."""
        c = self.vh(b)
        total = self.singular**2 + batch_broadcast(rho, c)
        return self.v(torch.where(total > 0, c / torch.where(total > 0, total, 1.0), 0.0))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """``V S (S^2 + rho)^-1 U^H y``, exact; the part in the null space of A is exactly 0 for every ``rho``."""
        c = self.uh(y)
        nonzero = self.singular > 0
        singular = torch.where(nonzero, self.singular, 1.0)
        # As 1 / (s + rho / s): s^2 of a small s would underflow.
        return self.v(torch.where(nonzero, c / (singular + batch_broadcast(rho, c) / singular), 0.0))

    def __matmul__(self, inner: LinearOperator) -> Composed:
        """The composition ``A(B(x))``; if ``B`` is an isometry, its decomposition is known too."""
        return _SpectralComposed(self, inner) if inner.isometry else Composed(self, inner)


class _SpectralComposed(Composed, Spectral):
    """``outer @ inner`` with a unitary ``inner``: V becomes ``inner^H V``."""

    outer: Spectral

    @property
    def singular(self) -> Tensor:  # type: ignore[override]
        """Singular values of the outer operator."""
        return self.outer.singular

    def vh(self, x: Tensor) -> Tensor:
        """See :meth:`Spectral.vh`."""
        return self.outer.vh(self.inner(x))

    def v(self, c: Tensor) -> Tensor:
        """See :meth:`Spectral.v`."""
        return self.inner.adjoint(self.outer.v(c))

    def uh(self, y: Tensor) -> Tensor:
        """See :meth:`Spectral.uh`."""
        return self.outer.uh(y)

    def u(self, c: Tensor) -> Tensor:
        """See :meth:`Spectral.u`."""
        return self.outer.u(c)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U (m, n), s (n,), V^H (n, n)`` of an ``(m, n)`` matrix: V square; U and s are 0 beyond the rank."""
    m, n = matrix.shape
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    k = min(m, n)
    rank = int((s > s.new_tensor(max(m, n) * torch.finfo(s.dtype).eps) * s.max()).sum())
    singular, left = s.new_zeros(n), matrix.new_zeros(m, n)
    singular[:rank], left[:, :rank] = s[:rank], u[:, :k][:, :rank]
    return left, singular, vh


class Dense(Spectral):
    """``y = M x`` on the flattened image, for small problems.

    Args:
        matrix: real or complex matrix, ``(m, n)``; decomposed once.
        shape: shape of the image without the batch axis, ``(C, *spatial)`` with ``n`` numbers; ``None``: ``(n,)``.
    """

    left: Tensor
    right: Tensor

    def __init__(self, matrix: Tensor, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = (matrix.shape[1],) if shape is None else tuple(shape)
        if matrix.ndim != 2 or math.prod(self.shape) != matrix.shape[1]:
            raise ValueError(f"a matrix {tuple(matrix.shape)} does not act on images of shape {self.shape}")
        left, singular, right = _svd(matrix)
        self.register_buffer("left", left)
        self.register_buffer("singular", singular)
        self.register_buffer("right", right)

    def vh(self, x: Tensor) -> Tensor:
        """``(B, n)``."""
        return x.flatten(1) @ self.right.T

    def v(self, c: Tensor) -> Tensor:
        """``(B, *shape)``."""
        return (c @ self.right.conj()).view(-1, *self.shape)

    def uh(self, y: Tensor) -> Tensor:
        """``(B, n)``."""
        return y @ self.left.conj()

    def u(self, c: Tensor) -> Tensor:
        """``(B, m)``."""
        return c @ self.left.T


class Separable(Spectral):
    """A matrix along every axis, ``y = (M_1 x M_2 x ...) x``: separable blur, downsampling, k-space truncation, crops.

    From images ``(B, C, *spatial)`` to ``(B, C, *out)``, the same for every channel. The singular values are products of those
    of the axes, so only one matrix per axis is decomposed.

    Args:
        matrices: one matrix ``(out, in)`` per spatial axis.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        super().__init__()
        singular = torch.ones((), dtype=matrices[0].dtype.to_real(), device=matrices[0].device)
        self.axes = len(matrices)
        for axis, matrix in enumerate(matrices):
            left, values, right = _svd(matrix)
            self.register_buffer(f"matrix{axis}", matrix)
            self.register_buffer(f"left{axis}", left)
            self.register_buffer(f"right{axis}", right)
            singular = singular[..., None] * values
        # A product of small singular values may be round-off although its factors are not.
        floor = 10 * max(singular.shape) * torch.finfo(singular.dtype).eps * singular.max()
        self.register_buffer("singular", torch.where(singular > floor, singular, 0.0))

    def _along(self, x: Tensor, kind: str, adjoint: bool) -> Tensor:
        """Multiply every axis by its matrix, or by the adjoint of its matrix."""
        for axis in range(self.axes):
            matrix = getattr(self, f"{kind}{axis}")
            x = (x.movedim(axis + 2, -1) @ (matrix.conj() if adjoint else matrix.T)).movedim(-1, axis + 2)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """``M x``, directly."""
        return self._along(x, "matrix", adjoint=False)

    def adjoint(self, y: Tensor) -> Tensor:
        """``M^H y``."""
        return self._along(y, "matrix", adjoint=True)

    def vh(self, x: Tensor) -> Tensor:
        """Shaped like the image."""
        return self._along(x, "right", adjoint=False)

    def v(self, c: Tensor) -> Tensor:
        """Shaped like the image."""
        return self._along(c, "right", adjoint=True)

    def uh(self, y: Tensor) -> Tensor:
        """Shaped like the image."""
        return torch.where(self.singular > 0, self._along(y, "left", adjoint=True), 0.0)

    def u(self, c: Tensor) -> Tensor:
        """Shaped like the measurements."""
        return self._along(torch.where(self.singular > 0, c, 0.0), "left", adjoint=False)
