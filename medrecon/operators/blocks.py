"""Operators built from other operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrecon.operators.base import LinearOperator

__all__ = ["Channels", "Stack", "Sum"]


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
