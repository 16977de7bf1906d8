"""What every solver shares: hyper-parameters in a frozen dataclass, one step between two noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from medrecon.likelihood import Gaussian, Likelihood
from medrecon.noise import Noise
from medrecon.operators.base import LinearOperator, Operator
from medrecon.priors.base import Prior

__all__ = ["Kernel", "Requires", "Solver", "data_weight", "renoise"]

Kernel = Literal["ddim", "ddnm"]
State: TypeAlias = Any
"""What a solver carries from step to step: ``x``, or a tuple of its own."""
Data: TypeAlias = Any
"""A likelihood of the kind that the solver requires."""


class Requires(NamedTuple):
    """What a solver needs; :meth:`Solver.check` compares it with the problem before the first step."""

    operator: type = LinearOperator
    likelihood: type = Gaussian
    prior: bool = True


def renoise(
    x0: Tensor, direction: Tensor, sigma: float, sigma_next: float, eta: float, noise: Noise, kernel: Kernel = "ddim"
) -> Tensor:
    """``x0 + sigma' (sqrt(1 - kappa^2) direction + kappa z)``: a clean estimate at the next noise level.

    ``kappa^2 = eta^2 (1 - sigma'^2 / sigma^2)`` for ``"ddim"`` (eta = 1 is DDPM's ancestral step, exact in the limit
    of many steps) and ``eta^2`` for ``"ddnm"`` (DDRM, DDNM, DDS, MGDM: contracts towards the posterior mean, so the
    spread of its samples is too small by an amount that more steps do not remove).

    Args:
        x0: clean estimate, after any correction by the data.
        direction: the noise to keep, usually ``(x - prior(x)) / sigma`` of the *uncorrected* estimate.
        sigma: level now.
        sigma_next: level next, not above ``sigma``.
        eta: share of fresh noise, 0 (deterministic) to 1.
        noise: the random source; not touched where no fresh noise is needed.
        kernel: which kappa.

    Reference: Song et al., DDIM, ICLR 2021, eq. 12 and 16; Wang et al., DDNM, ICLR 2023.
    """
    if kernel not in ("ddim", "ddnm"):
        raise ValueError(f'kernel must be "ddim" or "ddnm"; got {kernel!r}')
    if sigma_next == 0:
        return x0
    kappa2 = eta**2 * (1 - (sigma_next / sigma) ** 2 if kernel == "ddim" else 1.0)
    x = x0 + sigma_next * (1 - kappa2) ** 0.5 * direction
    return x if kappa2 == 0 else x + sigma_next * kappa2**0.5 * noise.like(x)


def data_weight(constant: float | None, prior_weight: float, noise_std: float | Tensor, sigma: float) -> float | Tensor:
    """The rho of ``(A^H A + rho I)``: ``constant`` if it is given, else ``prior_weight noise_std^2 / min(sigma, 1)^2``.

    The latter is the variance of the data over that of the clean estimate, which grows as sigma^2 until it reaches
    that of the images (unit scale): late steps trust a good prior more than noisy data, early ones the data.
    """
    return constant if constant is not None else prior_weight * noise_std**2 / min(sigma, 1.0) ** 2


_RANGES = {
    "eta": (0.0, 1.0),
    "gamma": (1e-12, 1e12),
    "prior_weight": (0.0, 1e12),
    "level": (0.01, 100.0),
    "lam": (1e-12, 1e12),
    "zeta": (0.0, 1e12),
    "rho": (0.0, 1e12),
    "n_cg": (0, 10_000),
    "n_iter": (1, 1_000_000),
}


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A posterior sampler (or point estimate): hyper-parameters only, no data and no results."""

    requires: ClassVar[Requires] = Requires()

    def __post_init__(self) -> None:
        """Refuse values that no solver can work with.

        Raises:
            ValueError: naming the hyper-parameter and its range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = _RANGES.get(field.name, (float("-inf"), float("inf")))
            if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{type(self).__name__}: {field.name} must be in [{low:g}, {high:g}]; got {value}")
            if field.name == "kernel" and value not in get_args(Kernel):
                raise ValueError(f"{type(self).__name__}: kernel must be one of {get_args(Kernel)}; got {value!r}")

    @property
    def calibrated(self) -> bool:
        """Whether the spread of its samples may be shown as an uncertainty."""
        return False

    def check(self, data: Likelihood) -> None:
        """Refuse a problem that the solver cannot work with, naming both.

        Raises:
            TypeError: if operator or likelihood are of the wrong kind.
        """
        name = type(self).__name__
        if not isinstance(data.A, self.requires.operator):
            needs = "any operator" if self.requires.operator is Operator else f"a {self.requires.operator.__name__}"
            hint = ", which DPS can work with" if isinstance(data.A, Operator) else ""
            raise TypeError(f"{name} needs {needs}; got {type(data.A).__name__}{hint}")
        if not isinstance(data, self.requires.likelihood):
            raise TypeError(f"{name} needs a {self.requires.likelihood.__name__} likelihood; got {type(data).__name__}")

    def init(self, x: Tensor, sigma: float, *, prior: Prior | None, data: Data, noise: Noise) -> State:
        """The first state; most solvers carry ``x`` alone."""
        return x

    def step(
        self,
        state: State,
        sigma: float,
        sigma_next: float,
        *,
        prior: Prior | None,
        data: Data,
        noise: Noise,
    ) -> State:
        """From level ``sigma`` down to ``sigma_next``; a new state."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def rise(self, state: State, sigma: float, sigma_next: float, *, noise: Noise) -> State:
        """From level ``sigma`` up to ``sigma_next`` (time travel): add the missing noise."""
        return state + (sigma_next**2 - sigma**2) ** 0.5 * noise.like(state)

    def output(self, state: State) -> Tensor:
        """The image in the last state."""
        return state
