"""Likelihoods: measurements, operator and noise model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from medrecon.operators.base import Composed, LinearOperator, Operator
from medrecon.operators.linalg import batch_broadcast, cg, dot, operator_norm
from medrecon.operators.weights import Weights

__all__ = ["BlindGaussian", "Gaussian", "Likelihood", "NoData", "Poisson", "Rician", "Transmission", "linear_gaussian"]


L = TypeVar("L", bound="Likelihood")
C = TypeVar("C", bound="_Counts")
G = TypeVar("G", bound="Gaussian")
B = TypeVar("B", bound="BlindGaussian")


class Likelihood(Protocol):
    """``p(y | x)`` for solvers; images are real ``(B, C, *spatial)``."""

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

    def repeated(self: L, n: int) -> L:
        """The likelihood of a single item as a batch of ``n`` copies."""
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


def _lipschitz(A: LinearOperator, shape: tuple[int, ...], y: Tensor) -> Tensor:
    """``|A|^2`` by power iteration, which approaches it from below, times 1.05, ``(B,)``."""
    # Double precision, rounded: the estimate, and so every step that rests on it, is the same in either type.
    one = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 1.05 * operator_norm(A.normal, one.expand(shape).to(y.device, y.real.dtype), 30) ** 2


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

    def __post_init__(self) -> None:
        """Noise levels of the type of the data, so that float64 ones do not raise an error in single precision."""
        if isinstance(self.noise_std, Tensor):
            object.__setattr__(self, "noise_std", self.noise_std.to(self.y.device, self.y.real.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, ``(B, C, *spatial)``."""
        return self.image_shape or tuple(self.adjoint_y.shape)

    @property
    def n_measured(self) -> Tensor:
        """Number of real components that were measured, ``(B,)``: those of ``y`` that are not 0."""
        return (self.y != 0).flatten(1).sum(1) * (2 if self.y.is_complex() else 1)

    @cached_property
    def adjoint_y(self) -> Tensor:
        """``A^H y``, computed once."""
        return self._linear("adjoint_y").adjoint(self.y)

    @cached_property
    def lipschitz(self) -> Tensor:
        """``|A|^2``, the largest eigenvalue of ``A^H A``, ``(B,)``, which bounds step sizes."""
        return _lipschitz(self._linear("lipschitz"), self.shape, self.y)

    def repeated(self: G, n: int) -> G:
        """The likelihood of a single item as a batch of ``n`` copies."""
        shape = None if self.image_shape is None else (n, *self.image_shape[1:])
        return replace(self, y=self.y.expand(n, *self.y.shape[1:]), image_shape=shape)

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
        return self.A.vjp(x, self.residual(x)) / batch_broadcast(self.noise_std, x) ** 2

    def fit(self, x: Tensor, rho: float | Tensor, n_iter: int = 30) -> Tensor:
        """``argmin_z |y - A z|^2 + rho |z - x|^2``; for ``rho = 0`` the projection of ``x`` onto the least-squares solutions.

        It is computed as a correction of ``x``, in the range of ``A^H``: the null space of A is unchanged, and round-off is
        not divided by ``rho``.

        Args:
            x: centre of the penalty.
            rho: weight >= 0, a number or one per item ``(B,)``.
            n_iter: conjugate-gradient iterations, where A has no closed form.
        """
        return x + self._linear("fit").pinv(self.residual(x), n_iter, rho)

    def prox(self, x: Tensor, var: float | Tensor, n_iter: int = 30) -> Tensor:
        """``(A^H A + rho I)^-1 (A^H y + rho x)`` with ``rho = noise_std^2 / var``; the projection for no noise."""
        return self.fit(x, self.noise_std**2 / var, n_iter)


@dataclass(frozen=True, eq=False)
class BlindGaussian(Gaussian):
    """A Gaussian likelihood whose operator has unknown parameters, such as coil maps, motion or a blur kernel.

    ``A`` is the operator with the current parameters. :func:`medrecon.sample.sample_blind` estimates them again between the noise
    levels, so that a solver sees an ordinary Gaussian likelihood at every step. Subclasses define the three methods below, and
    ``repeated`` where parameters are fields.
    """

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Current parameters by name, one entry per item, ``(B, ...)``."""
        raise NotImplementedError(f"{type(self).__name__} must define parameters")

    def with_parameters(self: B, parameters: Mapping[str, Tensor]) -> B:
        """The likelihood with other parameters, ``(B, ...)`` each."""
        raise NotImplementedError(f"{type(self).__name__} must define with_parameters")

    def updated(self: B, x0: Tensor, sigma: float) -> B:
        """The likelihood with parameters estimated again, item by item.

        Args:
            x0: the prior's last clean estimate ``(B, C, *spatial)``.
            sigma: noise level at which the next step begins.
        """
        raise NotImplementedError(f"{type(self).__name__} must define updated")


@dataclass(frozen=True, eq=False)
class NoData:
    """No measurements: every image is equally likely, so a sampler draws from the prior.

    Args:
        y: empty tensor with the real type and the device of the images.
        shape: shape of the image, ``(B, C, *spatial)``.
    """

    y: Tensor
    shape: tuple[int, ...]
    A: None = None
    noise_std: float = 0.0


@dataclass(frozen=True, eq=False)
class _Counts:
    """Base of the two Poisson models: Newton's method on rays, where the Hessian is diagonal.

    Outside the valid or plausible range of rates, ``grad`` and ``prox`` extend ``-log p`` by a tangent, so that it
    stays convex and finite and leads back into the range. ``log_prob`` is the exact log-likelihood.
    """

    A: LinearOperator
    y: Tensor
    noise_std: float | Tensor = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, ``(B, C, *spatial)``."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.A.adjoint(torch.zeros_like(self.y)).shape)

    def repeated(self: C, n: int) -> C:
        """The likelihood of a single item as a batch of ``n`` copies."""
        return replace(self, y=self.y.expand(n, *self.y.shape[1:]))

    def _rates(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``u = A x``: the expected counts, and the first two derivatives of the continued ``-log p`` in ``u``."""
        raise NotImplementedError(f"{type(self).__name__} must define _rates")

    def _energy(self, u: Tensor) -> Tensor:
        """The continued ``-log p`` of every ray up to a constant, in float64."""
        raise NotImplementedError(f"{type(self).__name__} must define _energy")

    def _true_rate(self, u: Tensor) -> Tensor:
        """The expected counts of the law itself."""
        return self._rates(u)[0]

    def residual(self, x: Tensor) -> Tensor:
        """``y`` minus the expected counts."""
        return self.y - self._rates(self.A(x))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """``sum y log(rate) - rate - log(y!)``, ``(B,)``; minus infinity where a rate is not positive but a count is.

        Summed in float64: single terms are a million times the differences that matter.
        """
        rate = self._true_rate(self.A(x)).double()
        return (torch.xlogy(self.y, rate.clamp(min=0)) - rate - torch.lgamma(self.y + 1)).flatten(1).sum(1)

    def grad(self, x: Tensor) -> Tensor:
        """Gradient of ``log_prob``, continued."""
        return -self.A.adjoint(self._rates(self.A(x))[1])

    def prox(self, x: Tensor, var: float | Tensor, n_iter: int = 30) -> Tensor:
        """``argmin_z -log_prob(z) + |z - x|^2 / (2 var)`` by Newton's method with step halving, per item.

        Args:
            x: centre of the penalty; may be an image of zero likelihood.
            var: a number or one per item.
            n_iter: conjugate-gradient iterations of each of at most 20 Newton steps.

        Raises:
            ValueError: if no image is possible near ``x``: counts where none can arrive, or NaN.
        """
        weight = batch_broadcast(1 / var, x)

        def cost(z: Tensor) -> Tensor:
            d = z - x
            value = self._energy(self.A(z)).flatten(1).sum(1) + dot(d, weight * d) / 2
            return torch.where(value.isnan(), torch.inf, value)

        z, now = x, cost(x)
        if not now.isfinite().all():
            raise ValueError(
                f"{type(self).__name__}.prox: image or data hold NaN or Inf, or there are counts where none can arrive; "
                "check the counts, or give a background"
            )
        for _ in range(20):
            _, ray_gradient, curvature = self._rates(self.A(z))
            gradient = self.A.adjoint(ray_gradient) + weight * (z - x)

            def hessian(v: Tensor, curvature: Tensor = curvature) -> Tensor:
                return self.A.adjoint(curvature * self.A(v)) + weight * v

            step = cg(hessian, -gradient, None, n_iter, tol=1e-6)
            decrease = -dot(gradient, step)
            moving = decrease > 1e-9  # nats: an item with a smaller decrease has converged
            length = torch.ones(len(z), dtype=now.dtype, device=x.device)
            ahead, better = now, torch.zeros_like(now, dtype=torch.bool)
            for _ in range(30):
                ahead = cost(z + batch_broadcast(length.to(z.dtype), z) * step)
                better = (ahead <= now - 1e-4 * length * decrease) & (ahead < now)
                if (better | ~moving).all():
                    break
                length = torch.where(better, length, length / 2)
            better = better & moving
            z = z + batch_broadcast(torch.where(better, length, 0.0).to(z.dtype), z) * step
            now = torch.where(better, ahead, now)
            if not better.any():
                break
        return z

    @cached_property
    def curvature(self) -> Tensor:
        """The largest curvature of ``-log p`` near images that explain the data, ``(B,)``, which bounds step sizes."""
        ray = self._ray_curvature().expand_as(self.y).flatten(1).amax(1)
        return _lipschitz(self.A, self.shape, self.y) * ray

    def _ray_curvature(self) -> Tensor:
        """Of ``-log p`` in ``u`` where the expected counts equal the measured ones, or one."""
        raise NotImplementedError(f"{type(self).__name__} must define _ray_curvature")

    def _most_likely(self) -> Tensor:
        """``u`` for which the expected counts equal the measured ones, or one."""
        raise NotImplementedError(f"{type(self).__name__} must define _most_likely")

    def linear_gaussian(self) -> Gaussian:
        """The second-order expansion of ``-log p`` in every ray, as a Gaussian likelihood of noise level 1."""
        root = self._ray_curvature().expand_as(self.y).sqrt()
        return Gaussian(Composed(Weights(root), self.A), root * self._most_likely(), 1.0)


@dataclass(frozen=True, eq=False)
class Poisson(_Counts):
    """Counts of an emission: ``y ~ Poisson(counts_per_unit A x + background)``.

    Continued by its tangent where a rate is below a tenth of its count.

    Args:
        A: linear, with real measurements.
        y: counts.
        noise_std: required by the protocol, unused; counts have Poisson noise.
        counts_per_unit: expected counts per unit of ``A x``.
        background: expected counts without an image, at least 0.
    """

    counts_per_unit: float = 1.0
    background: float = 0.0

    def _rates(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rate, positive = self.counts_per_unit * u + self.background, self.y > 0
        ratio = torch.where(
            positive, self.y / torch.where(positive, torch.maximum(rate, self.y / 10), 1.0), -10 * rate.clamp(max=0)
        )
        # Curvature of the parabola that touches the likelihood here and has the same minimum; close to the minimum, Newton's.
        least = torch.where(positive, self.y, -0.1)
        near = (rate - least).abs() < 1e-3 * least.abs()
        curvature = (1 - ratio) / torch.where(near, 1.0, rate - least)
        return (
            rate,
            self.counts_per_unit * (1 - ratio),
            self.counts_per_unit**2 * torch.where(near, 1 / least.abs(), curvature),
        )

    def _energy(self, u: Tensor) -> Tensor:
        rate, y = (self.counts_per_unit * u + self.background).double(), self.y.double()
        safe = torch.where(y > 0, torch.maximum(rate, y / 10), 1.0)
        none = rate + 5 * rate.clamp(max=0) ** 2
        return torch.where(y > 0, rate - y * (safe.log() + rate / safe - 1), none)

    def _ray_curvature(self) -> Tensor:
        return self.counts_per_unit**2 / self.y.clamp(min=1)

    def _most_likely(self) -> Tensor:
        return (self.y - self.background) / self.counts_per_unit

    def log_prob(self, x: Tensor) -> Tensor:
        """Minus infinity where a rate is negative, or 0 with a count."""
        rate = self._true_rate(self.A(x))
        possible = ((rate > 0) | ((rate == 0) & (self.y == 0))).flatten(1).all(1)
        return torch.where(possible, super().log_prob(x), -torch.inf)


@dataclass(frozen=True, eq=False)
class Transmission(_Counts):
    """Counts behind an absorber: ``y ~ Poisson(photons exp(-A x) + background)``, ``A x`` the line integrals (CT).

    The expected counts go on along their tangent where a line integral is below -1, which no absorber has.

    Args:
        A: linear, with real measurements.
        y: counts.
        noise_std: required by the protocol, unused; counts have Poisson noise.
        photons: expected counts without an absorber, a number or one per ray.
        background: scatter and dark counts, at least 0, a number or one per ray.
    """

    photons: float | Tensor = 1e5
    background: float | Tensor = 0.0

    def _true_rate(self, u: Tensor) -> Tensor:
        return self.photons * (-u).exp() + self.background

    def _rates(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        thick = u.clamp(min=-1.0)
        tangent = self.photons * (-thick).exp()
        rate = tangent * (1 + thick - u) + self.background
        # 1 without a background, also where the rate is too small a number to divide by.
        ratio = torch.where(rate > 0, tangent / torch.where(rate > 0, rate, 1.0), 1.0)
        # The expected Hessian (Fisher's), never negative, where a background makes the true one indefinite.
        return rate, ratio * self.y - tangent, ratio * tangent

    def _energy(self, u: Tensor) -> Tensor:
        u, y = u.double(), self.y.double()
        photons, background = (torch.as_tensor(v).to(u) for v in (self.photons, self.background))
        thick = u.clamp(min=-1.0)
        log_primary = photons.log() - thick + (1 + thick - u).log()
        log_rate = torch.logaddexp(log_primary, background.log())
        return log_primary.exp() + background - torch.where(y > 0, y * log_rate, 0.0)

    def _ray_curvature(self) -> Tensor:
        return self.y.clamp(min=1)

    def _most_likely(self) -> Tensor:
        return -((self.y - self.background).clamp(min=1) / self.photons).log()


@dataclass(frozen=True, eq=False)
class Rician:
    """Magnitudes of a complex signal in Gaussian noise: ``y = |A x + noise_std n|``, two real components of ``n`` each.

    Args:
        A: linear, with complex measurements.
        y: magnitudes, not negative.
        noise_std: per real component, a number or one per item; positive.

    Reference: Gudbjartsson and Patz, MRM 34 (1995).
    """

    A: LinearOperator
    y: Tensor
    noise_std: float | Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, ``(B, C, *spatial)``."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.A.adjoint(torch.complex(self.y, torch.zeros_like(self.y))).shape)

    def repeated(self, n: int) -> Rician:
        """The likelihood of a single item as a batch of ``n`` copies."""
        return replace(self, y=self.y.expand(n, *self.y.shape[1:]))

    @cached_property
    def curvature(self) -> Tensor:
        """At least the largest curvature of ``-log p``, ``(B,)``: that of Gaussian noise."""
        like = torch.complex(self.y, torch.zeros_like(self.y))
        return _lipschitz(self.A, self.shape, like) / torch.as_tensor(self.noise_std).to(self.y) ** 2

    def residual(self, x: Tensor) -> Tensor:
        """``y - |A x|``."""
        return self.y - self.A(x).abs()

    def log_prob(self, x: Tensor) -> Tensor:
        """Rice's law at ``y``, ``(B,)``."""
        var = batch_broadcast(self.noise_std, self.y) ** 2
        size = self.A(x).abs()
        z = self.y * size / var
        # log I0(z) = log i0e(z) + z, which completes the square.
        log_density = -((self.y - size) ** 2) / (2 * var) + torch.special.i0e(z).log()
        # The factor y / var does not depend on x; samples that are 0, such as unmeasured ones, go without it.
        log_density = log_density + torch.where(self.y > 0, self.y / var, 1.0).log()
        return log_density.flatten(1).sum(1)

    def _expected(self, measured: Tensor) -> Tensor:
        """The complex data to expect, given their magnitude and the signal: ``y I1(z) / I0(z)`` along the signal's phase."""
        z = self.y * measured.abs() / batch_broadcast(self.noise_std, self.y) ** 2
        return torch.sgn(measured) * (self.y * torch.special.i1e(z) / torch.special.i0e(z))

    def grad(self, x: Tensor) -> Tensor:
        """Gradient of ``log_prob``."""
        measured = self.A(x)
        return self.A.adjoint(self._expected(measured) - measured) / batch_broadcast(self.noise_std, x) ** 2

    def prox(self, x: Tensor, var: float | Tensor, n_iter: int = 30) -> Tensor:
        """``argmin_z -log_prob(z) + |z - x|^2 / (2 var)``, from ``x``, by expectation maximisation over the lost phases.

        Every one of ``n_iter`` rounds is a linear problem and never makes the cost larger.
        """
        rho = self.noise_std**2 / var
        z = x
        for _ in range(n_iter):
            missing = self._expected(self.A(z)) - self.A(x)
            if self.A.closed_form:
                z = x + self.A.pinv(missing, 30, rho)
            else:
                z = x + self.A.solve(self.A.adjoint(missing), rho, z - x, 30)
        return z


def linear_gaussian(data: Likelihood) -> Gaussian:
    """The linear Gaussian model that stands for a likelihood where only its precision matters: what was measured, how well.

    Counts get the weights of their curvature. Magnitudes with Rician noise get Gaussian noise of the same level, which is their
    law where the signal is well above the noise; the phase of the data is 0.
    """
    if isinstance(data, Gaussian):
        return data
    if isinstance(data, _Counts):
        return data.linear_gaussian()
    if isinstance(data, Rician):
        return Gaussian(data.A, torch.complex(data.y, torch.zeros_like(data.y)), data.noise_std)
    raise TypeError(f"no linear model is known for a {type(data).__name__} likelihood")
