"""Operators built from other operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrecon.operators.base import LinearOperator

__all__ = ["Channels", "Slices", "Stack", "Sum"]


class Stack(LinearOperator):
    """Several measurements of one image, ``y = (A_1 x, A_2 x, ...)``, each flattened: ``(B, n_1 + n_2 + ...)``.

    Args:
        operators: operators on the same image, with measurements that are all real or all complex.
        like: an image ``(1, C, *spatial)``, from which the shapes of the measurements are inferred.
    """

    def __init__(self, operators: Sequence[LinearOperator], like: Tensor) -> None:
        super().__init__()
        if not operators:
            raise ValueError("a stack needs at least one operator")
        self.operators = nn.ModuleList(operators)
        with torch.no_grad():
            self.shapes = [tuple(A(like[:1]).shape[1:]) for A in operators]

    def forward(self, x: Tensor) -> Tensor:
        """All measurements."""
        return torch.cat([A(x).flatten(1) for A in self.operators], dim=1)

    def split(self, y: Tensor) -> list[Tensor]:
        """The measurements of each operator, unflattened."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        return [part.view(-1, *shape) for part, shape in zip(y.split(sizes, dim=1), self.shapes, strict=True)]

    def adjoint(self, y: Tensor) -> Tensor:
        """``sum_i A_i^H y_i``."""
        parts = zip(self.operators, self.split(y), strict=True)
        return torch.stack([A.adjoint(part) for A, part in parts]).sum(0)  # type: ignore[operator]

    def normal(self, x: Tensor) -> Tensor:
        """``sum_i A_i^H A_i x``, by the ``normal`` of each operator."""
        return torch.stack([A.normal(x) for A in self.operators]).sum(0)  # type: ignore[operator]


class Sum(LinearOperator):
    """``y = A_1 x + A_2 x + ...``, such as shots that fill different lines of one k-space.

    Args:
        operators: operators on the same image, with measurements of the same shape.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__()
        if not operators:
            raise ValueError("a sum needs at least one operator")
        self.operators = nn.ModuleList(operators)

    def forward(self, x: Tensor) -> Tensor:
        """``sum_i A_i x``."""
        return torch.stack([A(x) for A in self.operators]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        """``sum_i A_i^H y``."""
        return torch.stack([A.adjoint(y) for A in self.operators]).sum(0)  # type: ignore[operator]


class Channels(LinearOperator):
    """A row of blocks, ``y = A_1 x_1 + A_2 x_2 + ...``: every operator acts on its channels of the image.

    A :class:`Stack` of such rows is an arbitrary block matrix.

    Args:
        operators: operators with measurements of the same shape.
        channels: number of channels of each operator, in the order of the image.
    """

    def __init__(self, operators: Sequence[LinearOperator], channels: Sequence[int]) -> None:
        super().__init__()
        if not operators or len(operators) != len(channels):
            raise ValueError(
                f"every operator needs a number of channels; got {len(operators)} operators and channels {list(channels)}"
            )
        self.operators = nn.ModuleList(operators)
        self.channels = list(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``sum_i A_i x_i``."""
        if x.shape[1] != sum(self.channels):
            raise ValueError(f"these blocks take {sum(self.channels)} channels; got {x.shape[1]}")
        parts = zip(self.operators, x.split(self.channels, dim=1), strict=True)
        return torch.stack([A(part) for A, part in parts]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        """``(A_1^H y, A_2^H y, ...)``."""
        return torch.cat([A.adjoint(y) for A in self.operators], dim=1)  # type: ignore[operator]


class Slices(LinearOperator):
    """An operator of slices on volumes: ``(B, C, z, y, x)`` to ``(B, z, ...)``, the measurements of every slice.

    Solutions and pseudo-inverses are those of the slices, one by one, so that conjugate gradients take as many steps as a slice
    needs, and what the operator does not see of a slice is unchanged.

    Args:
        A: operator on a batch of slices, ``(z, C, y, x)``; its buffers may have one entry per slice (maps, masks).
        n: number of slices.
    """

    def __init__(self, A: LinearOperator, n: int) -> None:
        super().__init__()
        self.A = A
        self.n = n
        self.isometry, self.cheap_normal = A.isometry, A.cheap_normal
        self.closed_form, self.nonnegative = A.closed_form, A.nonnegative

    def _slices(self, x: Tensor) -> list[Tensor]:
        """Slices ``(z, C, y, x)`` of every volume of a batch."""
        if x.ndim < 4 or x.shape[2] != self.n:
            raise ValueError(f"this operator takes volumes (B, C, {self.n}, y, x); got {tuple(x.shape)}")
        return [one.movedim(1, 0) for one in x]

    def _data(self, y: Tensor) -> list[Tensor]:
        """Measurements ``(z, ...)`` of every volume of a batch."""
        if y.ndim < 2 or y.shape[1] != self.n:
            raise ValueError(f"measurements of {self.n} slices have the shape (B, {self.n}, ...); got {tuple(y.shape)}")
        return list(y)

    @staticmethod
    def _volumes(slices: list[Tensor]) -> Tensor:
        """Volumes ``(B, C, z, y, x)`` of slices ``(z, C, y, x)``."""
        return torch.stack(slices).movedim(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``A`` of every slice."""
        return torch.stack([self.A(one) for one in self._slices(x)])

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H`` of the measurements of every slice."""
        return self._volumes([self.A.adjoint(one) for one in self._data(y)])

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A`` of every slice."""
        return self._volumes([self.A.normal(one) for one in self._slices(x)])

    def norm_squared(self, x: Tensor) -> Tensor:
        """``|A x|^2`` of every volume, ``(B,)``."""
        return torch.stack([self.A.norm_squared(one).sum() for one in self._slices(x)])

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """See :meth:`LinearOperator.solve`, slice by slice."""
        sides = self._slices(b)
        starts = [None] * len(sides) if x is None else self._slices(x)
        each = zip(sides, _weights(rho, len(sides)), starts, strict=True)
        return self._volumes([self.A.solve(one, weight, start, n_iter, tol) for one, weight, start in each])

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`LinearOperator.pinv`, slice by slice."""
        data = self._data(y)
        return self._volumes(
            [self.A.pinv(one, n_iter, weight) for one, weight in zip(data, _weights(rho, len(data)), strict=True)]
        )


def _weights(rho: float | Tensor, n: int) -> list[float | Tensor]:
    """The weight of every item of a batch."""
    return list(rho.expand(n)) if isinstance(rho, Tensor) else [rho] * n
