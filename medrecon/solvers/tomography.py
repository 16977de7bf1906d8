"""Filtered back-projection and SIRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.operators.fbp import Filter
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.projector import Projector
from medrecon.solvers.base import Requires, setting
from medrecon.solvers.classical import Classical, lipschitz

__all__ = ["FBP", "SIRT"]


@dataclass(frozen=True, kw_only=True)
class FBP(Classical):
    """Filtered back-projection (for cone beams that of Feldkamp, Davis and Kress).

    Args:
        kind: window on the ramp: ramp, shepp-logan, cosine, hamming or hann, from the sharpest to the smoothest.

    Reference:
        Kak and Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3; the noise of the rays
        is not modelled.
    """

    requires: ClassVar[Requires] = Requires(operator=Projector, prior=False)

    kind: Filter = "ramp"

    def estimate(self, data: Gaussian) -> Tensor:
        """``fbp`` of the projector."""
        A: Projector = data.A  # type: ignore[assignment]
        return A.fbp(data.y, self.kind)


@dataclass(frozen=True, kw_only=True)
class SIRT(Classical):
    """Simultaneous iterative reconstruction: ``x <- x + relaxation C A^T R (y - A x)`` from 0.

    ``R`` and ``C`` are one over the row and column sums of A. Early iterations recover coarse structure and late ones fit
    noise, so the number of iterations is the regulariser.

    Args:
        n_iter: iterations.
        relaxation: above 0 and below 2.

    Deviation:
        the sums are those of a matrix without negative entries, as projectors are; for any other operator (MRI, say)
        both are replaced by one bound of ``|A|``, which makes it Landweber's iteration.

    Reference:
        Gregor and Benson, IEEE TMI 27 (2008), eq. 3; Landweber, Am. J. Math. 73 (1951).
    """

    n_iter: int = setting(200, 1, 1_000_000)
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.relaxation < 2:
            raise ValueError(f"SIRT: relaxation must lie between 0 and 2; got {self.relaxation}")

    def estimate(self, data: Gaussian) -> Tensor:
        """``n_iter`` iterations."""
        A, x = data.A, torch.zeros_like(data.adjoint_y)
        if A.nonnegative:
            rows, columns = _inverse(A(torch.ones_like(x))), _inverse(A.adjoint(torch.ones_like(data.y)))
        else:
            rows, columns = torch.ones_like(data.y.real), batch_broadcast(1 / lipschitz(data), x)
        for _ in range(self.n_iter):
            x = x + self.relaxation * columns * A.adjoint(rows * data.residual(x))
        return x


def _inverse(sums: Tensor) -> Tensor:
    """One over the sums; 0 for a ray without pixels and a pixel without rays."""
    return torch.where(sums > 0, 1 / torch.where(sums > 0, sums, 1.0), 0.0)
