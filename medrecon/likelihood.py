"""What the data say: measurements, operator and noise together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from medrecon.operators.base import LinearOperator, Operator
from medrecon.operators.linalg import dot, per_item

__all__ = ["Gaussian", "Likelihood", "Nothing"]


class Likelihood(Protocol):
    """``p(y | x)`` as solvers see it; images are real ``(B, C, *spatial)``."""

    @property
    def A(self) -> Operator:  # noqa: N802 - the operator's name in this field
        """The forward model."""
        ...

    @property
    def y(self) -> Tensor:
        """The measurements."""
        ...

    @property
    def noise_std(self) -> float | Tensor:
        """Standard deviation per real component, a number or one per item."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, ``(B, C, *spatial)``."""
        ...

    def residual(self, x: Tensor) -> Tensor:
        """``y - A x``."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood up to a constant, ``(B,)``."""
        ...

    def grad(self, x: Tensor) -> Tensor:
        """Gradient of ``log_prob``."""
        ...

    def prox(self, x: Tensor, var: float | Tensor, n_iter: int = 30) -> Tensor:
        """``argmin_z -log_prob(z) + |z - x|^2 / (2 var)``."""
        ...


@dataclass(frozen=True, eq=False)
class Gaussian:
    """``y = A x + noise_std n`` with ``n ~ N(0, I)`` per real component.

    Args:
        A: the operator; linear for everything but ``residual``, ``log_prob`` and ``grad``.
        y: measurements, as ``A`` gives them.
        noise_std: standard deviation per real component, a number or one per item ``(B,)``; 0 is legal: ``prox`` is
            then the projection onto ``A x = y``, and ``log_prob`` and ``grad`` have no meaning.
        image_shape: ``(B, C, *spatial)``; needed only for a nonlinear ``A``.
    """

    A: LinearOperator
    y: Tensor
    noise_std: float | Tensor
    image_shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, ``(B, C, *spatial)``."""
        return self.image_shape or tuple(self.back.shape)

    @cached_property
    def back(self) -> Tensor:
        """``A^H y``, computed once."""
        return self._linear("back").adjoint(self.y)

    def _linear(self, what: str) -> LinearOperator:
        A: object = self.A
        if not isinstance(A, LinearOperator):
            raise TypeError(f"Gaussian.{what} needs a LinearOperator; got {type(A).__name__}")
        return A

    def residual(self, x: Tensor) -> Tensor:
        """``y - A x``."""
        return self.y - self.A(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """``-|y - A x|^2 / (2 noise_std^2)``, ``(B,)``."""
        r = self.residual(x)
        return -dot(r, r) / (2 * self.noise_std**2)

    def grad(self, x: Tensor) -> Tensor:
        """``A^H (y - A x) / noise_std^2``."""
        return self.A.vjp(x, self.residual(x)) / per_item(self.noise_std, x) ** 2

    def prox(self, x: Tensor, var: float | Tensor, n_iter: int = 30) -> Tensor:
        """``(A^H A + rho I)^-1 (A^H y + rho x)`` with ``rho = noise_std^2 / var``; the projection for no noise."""
        A = self._linear("prox")
        if isinstance(self.noise_std, int | float) and self.noise_std == 0:
            return x + A.pinv(self.residual(x), n_iter)
        rho = self.noise_std**2 / var
        return A.solve(self.back + per_item(rho, x) * x, rho, x, n_iter)


@dataclass(frozen=True, eq=False)
class Nothing:
    """No measurements: every image is equally likely, so a sampler draws from the prior.

    Args:
        y: an empty tensor of the real type and on the device that images shall have.
        shape: of the image, ``(B, C, *spatial)``.
    """

    y: Tensor
    shape: tuple[int, ...]
    A: None = None
    noise_std: float = 0.0
