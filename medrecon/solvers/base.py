"""Base classes of solvers (hyper-parameters in a frozen dataclass, one step between two noise levels) and shared functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian, Gaussian, Likelihood, NoData, Poisson, Rician, Transmission
from medrecon.noise import Noise, karras
from medrecon.operators.base import LinearOperator, Operator
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior

__all__ = [
    "ANY",
    "ImageSolver",
    "Kernel",
    "Requires",
    "Solver",
    "adam",
    "add_noise",
    "annealed",
    "data_weight",
    "image_spread",
    "limit_step",
    "probability_flow",
    "project_on_data",
    "renoise",
    "residual_norm_and_grad",
    "reverse_diffusion",
    "sample_prox",
    "setting",
    "variance_kept",
]

Kernel = Literal["ddim", "ddnm"]
S = TypeVar("S")
"""State that a solver carries from step to step."""
D = TypeVar("D", bound="Likelihood | NoData", contravariant=True)
"""Likelihood that a solver requires."""
T = TypeVar("T")

ANY = (Gaussian, Poisson, Transmission, Rician)
"""All likelihoods with data, for solvers that need only a residual, a gradient or a proximal step."""


class Requires(NamedTuple):
    """Requirements of a solver; :meth:`Solver.check` compares them with the problem before the first step."""

    operator: type = LinearOperator
    likelihood: type | tuple[type, ...] = Gaussian
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
        direction: noise to keep, usually ``(x - prior(x)) / sigma`` of the *uncorrected* estimate.
        sigma: current noise level.
        sigma_next: next noise level, not above ``sigma``.
        eta: fraction of fresh noise, 0 (deterministic) to 1.
        noise: random source; unused where no fresh noise is needed.
        kernel: formula of kappa.

    Reference: Song et al., DDIM, ICLR 2021, eq. 12 and 16; Wang et al., DDNM, ICLR 2023.
    """
    if kernel not in ("ddim", "ddnm"):
        raise ValueError(f'kernel must be "ddim" or "ddnm"; got {kernel!r}')
    if sigma_next == 0:
        return x0
    kappa2 = eta**2 * (1 - (sigma_next / sigma) ** 2 if kernel == "ddim" else 1.0)
    x = x0 + sigma_next * (1 - kappa2) ** 0.5 * direction
    return x if kappa2 == 0 else x + sigma_next * kappa2**0.5 * noise.like(x)


def add_noise(x: Tensor, sigma: float, sigma_next: float, noise: Noise) -> Tensor:
    """``x`` at level ``sigma`` raised to the higher level ``sigma_next``."""
    return x + (sigma_next**2 - sigma**2) ** 0.5 * noise.like(x)


def variance_kept(sigmas: Tensor, spreads: Tensor) -> Tensor:
    """Ratio of the variance of white Gaussian samples, after ancestral steps down ``sigmas``, to the true one, ``spreads^2``.

    ``v' = (k + (1 - k) sigma'^2 / sigma^2)^2 v + sigma'^2 (1 - sigma'^2 / sigma^2)`` with ``k = s^2 / (s^2 + sigma^2)``: the
    effect of :func:`renoise` with ``eta = 1`` on a mode of standard deviation ``s`` of any Gaussian prior or posterior. The ratio
    tends to 1 with many steps and is 0 to 0.9 with few.
    """
    square = spreads.double() ** 2
    v = square.new_full(square.shape, float(sigmas[0]) ** 2)
    for sigma, after in pairwise(sigmas.tolist()):
        if after > sigma:
            v = v + after**2 - sigma**2
            continue
        k, ratio = square / (square + sigma**2), (after / sigma) ** 2
        v = (k + (1 - k) * ratio) ** 2 * v + after**2 * (1 - ratio)
    return v / square


def project_on_data(x: Tensor, data: Gaussian, sigma: float, strength: float, n_cg: int, noise: Noise) -> Tensor:
    """``x + strength A^+ (y + sigma A z - A x)``: replace the measured part of ``x`` by data with noise of level ``sigma``.

    The noise is drawn in the image and passed through ``A``. It is not drawn if ``sigma`` or ``strength`` is 0.
    """
    if strength == 0:
        return x
    missing = data.residual(x - sigma * noise.like(x) if sigma > 0 else x)
    return x + strength * data.A.pinv(missing, n_cg)


def residual_norm_and_grad(x0: Tensor, data: Likelihood) -> tuple[Tensor, Tensor]:
    """``|y - A(x0)|`` per item, ``(B,)``, and its gradient in ``x0``, which is 0 where the residual is.

    Counts are weighted by one over their standard deviation, ``1 / sqrt(max(y, 1))``, as in Chung et al. (DPS, ICLR 2023), and
    divided by the root of their mean, so that the residual is relative and a step has the same meaning as for Gaussian data.
    """
    if isinstance(data, Gaussian):
        r = data.residual(x0)
        size = dot(r, r).sqrt()
        cheap = isinstance(data.A, LinearOperator) and data.A.cheap_normal
        gradient = data.A.normal(x0) - data.adjoint_y if cheap else -data.A.vjp(x0, r)
        return size, gradient * batch_broadcast(torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0), x0)
    weight: float | Tensor = 1.0
    if isinstance(data, Poisson | Transmission):
        counts = data.y.clamp(min=1)
        weight = (counts * batch_broadcast(counts.flatten(1).mean(1), counts)).rsqrt()
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        r = weight * data.residual(leaf)
        square = dot(r, r)
        size = torch.where(square > 0, square, 1.0).sqrt()
        (gradient,) = torch.autograd.grad(size.sum(), leaf)
    return torch.where(square > 0, size, 0.0).detach(), gradient


def adam(
    gradient: Tensor, first: Tensor, second: Tensor, k: int, decay: float = 0.999
) -> tuple[Tensor, Tensor, Tensor]:
    """Direction of step ``k`` (from 1) of Adam, and its two moments (Kingma and Ba, ICLR 2015), elementwise."""
    first, second = 0.9 * first + 0.1 * gradient, decay * second + (1 - decay) * gradient**2
    return first / (1 - 0.9**k) / ((second / (1 - decay**k)).sqrt() + 1e-12), first, second


def annealed(step_size: float, sigma: float, target: float) -> float:
    """Noise level of a Langevin move of ``step_size sigma^2`` that takes an image from level ``sigma`` to level ``target``.

    ``s^2 = target^2 - (1 - step_size)^2 sigma^2``, at least 0: the move keeps ``1 - step_size`` of the noise.
    The ``2 step_size sigma^2`` of Langevin dynamics is the limit for small steps. With the large steps that few levels need, it
    leaves more noise than the prior assumes (1.35 times at a step of 0.9), and the image degrades.

    Reference: Jolicoeur-Martineau et al., "Adversarial score matching and improved sampling for image generation", ICLR
    2021, algorithm 2 (consistent annealed sampling).
    """
    return max(target**2 - ((1 - step_size) * sigma) ** 2, 0.0) ** 0.5


def limit_step(step: Tensor, data: Gaussian, missing: Tensor) -> Tensor:
    """``step``, scaled by ``<r, A step> / |A step|^2`` where the whole step would increase the residual.

    ``missing`` is the residual ``r`` before the step. The step of a Gaussian prior, ``Sigma A^H (A Sigma A^H + v)^-1
    r``, is never shortened. A step through the Jacobian of a network, which need not be a covariance, may be far too long.
    """
    A_step = data.A(step)
    size = dot(A_step, A_step)
    t = torch.where(size > 0, dot(missing, A_step) / torch.where(size > 0, size, 1.0), 1.0)
    return batch_broadcast(torch.where(t < 0.5, t.clamp(min=0.0), 1.0), step) * step


def sample_prox(x: Tensor, data: Gaussian, var: float | Tensor, n_cg: int, noise: Noise) -> Tensor:
    """A draw from ``p(z) ~ p(y | z) N(z; x, var)``, exact if the solve is: perturb data and centre, then minimise.

    Reference: Papandreou and Yuille, "Gaussian sampling by local perturbations", NeurIPS 2010.
    """
    z = x + batch_broadcast(var, x) ** 0.5 * noise.like(x)
    y = data.y + batch_broadcast(data.noise_std, data.y) * noise.white(data.y)
    return replace(data, y=y).prox(z, var, n_cg)


def _inner(sigma: float, n: int) -> list[tuple[float, float]]:
    """Pairs of levels of ``n`` steps from ``sigma`` to 0."""
    return list(pairwise(karras(sigma, min(0.01, sigma / 2), n).tolist())) if n > 1 else [(sigma, 0.0)]


def probability_flow(prior: Prior, x: Tensor, sigma: float, n: int) -> Tensor:
    """From ``x`` at ``sigma`` to a clean image by ``n`` Euler steps of the probability-flow ODE."""
    for level, after in _inner(sigma, n):
        x0 = prior(x, level)
        x = x0 + after / level * (x - x0)
    return x


def reverse_diffusion(prior: Prior, x: Tensor, sigma: float, n: int, noise: Noise) -> Tensor:
    """From ``x`` at ``sigma`` to a draw of ``p(x0 | x)`` in ``n`` ancestral steps."""
    for level, after in _inner(sigma, n):
        x0 = prior(x, level)
        x = renoise(x0, (x - x0) / level, level, after, 1.0, noise)
    return x


def image_spread(sigma: float, image_std: float) -> float:
    """Standard deviation of ``x0`` given ``x`` if images were white with ``image_std``: ``sigma s / sqrt(sigma^2 + s^2)``."""
    return sigma * image_std / (sigma**2 + image_std**2) ** 0.5


def data_weight(constant: float | None, prior_weight: float, noise_std: float | Tensor, sigma: float) -> float | Tensor:
    """The rho of ``(A^H A + rho I)``: ``constant`` if it is given, else ``prior_weight noise_std^2 / min(sigma, 1)^2``.

    The latter is the variance of the data over the variance of the clean estimate, which grows as sigma^2 up to the variance
    of the images (unit scale). Early steps trust the data more; late steps trust the prior more.
    """
    return constant if constant is not None else prior_weight * noise_std**2 / min(sigma, 1.0) ** 2


def setting(default: T, low: float = -math.inf, high: float = math.inf) -> T:
    """A hyper-parameter of a solver: a dataclass field with its default and the closed range of its values."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class Solver(Generic[S, D]):
    """A posterior sampler or point estimate; it holds hyper-parameters, neither data nor results."""

    requires: ClassVar[Requires] = Requires()
    takes_start: ClassVar[bool] = True
    """Whether the solver uses a given ``x`` at the first level."""
    has_particles: ClassVar[bool] = False
    """Whether batch items are particles, in the groups of ``Noise(seeds, n_particles)``; the ladder must then end in 0."""
    estimates_parameters: ClassVar[bool] = False
    """Whether the solver itself estimates the parameters of a ``BlindGaussian``, see :meth:`final_data`."""

    is_estimate: ClassVar[bool] = False
    """Whether the result is one estimate in one step, the same whatever the ladder and the random numbers."""
    needs_volume: ClassVar[bool] = False
    """Whether the method relates neighbouring slices, so that items must be volumes ``(B, C, z, y, x)``."""

    def __post_init__(self) -> None:
        """Check the ranges of the hyper-parameters.

        Raises:
            ValueError: for a value out of range, naming the hyper-parameter and its range.
        """
        hints = get_type_hints(type(self))
        for one in fields(self):
            value = getattr(self, one.name)
            low, high = one.metadata.get("range", (-math.inf, math.inf))
            if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{type(self).__name__}: {one.name} must be in [{low:g}, {high:g}]; got {value}")
            known = get_args(hints[one.name]) if get_origin(hints[one.name]) is Literal else (value,)
            if value not in known:
                raise ValueError(f"{type(self).__name__}: {one.name} must be one of {known}; got {value!r}")

    @property
    def evaluations(self) -> int:
        """Evaluations of the prior per step."""
        return 1 if self.requires.prior else 0

    def calibrated(self, sigmas: Tensor) -> bool:
        """Whether the standard deviation of samples from noise down the ladder ``sigmas`` is a valid uncertainty."""
        return False

    def ladder(self, sigma_max: float, sigma_min: float, budget: int, spacing: float = 7.0) -> Tensor:
        """Levels from ``sigma_max`` to ``sigma_min``, then 0, for ``budget`` evaluations of the prior; at least one step.

        They are evenly spaced in ``sigma^(1 / spacing)``, see :func:`medrecon.noise.karras`.
        """
        return karras(sigma_max, sigma_min, max(1, budget // max(1, self.evaluations)), spacing)

    def check(self, data: Likelihood | NoData) -> None:
        """Refuse a problem that the solver cannot work with; the message names both.

        Raises:
            TypeError: if the operator or the likelihood is of the wrong kind.
        """
        name = type(self).__name__
        if self.requires.likelihood is NoData and not isinstance(data, NoData):
            raise TypeError(f"{name} draws images of the prior alone; choose a solver that takes data, such as DDS")
        if not isinstance(data, self.requires.likelihood):
            kinds = self.requires.likelihood
            needs = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise TypeError(
                f"{name} needs a {needs} likelihood; got {type(data).__name__}, which DPS or DiffPIR can work with"
            )
        if not isinstance(data.A, self.requires.operator):
            needs = "any operator" if self.requires.operator is Operator else f"a {self.requires.operator.__name__}"
            if self.requires.operator is Spectral:
                needs += " operator (with known singular values, such as one coil's)"
            others = "DDS or DDNM" if isinstance(data.A, LinearOperator) else "DPS"
            hint = f", which {others} can work with" if isinstance(data.A, Operator) else ""
            raise TypeError(f"{name} needs {needs}; got {type(data.A).__name__}{hint}")
        if self.has_particles and isinstance(data, BlindGaussian):
            raise TypeError(
                f"{name} weighs particles by one likelihood, and {type(data).__name__} has unknown parameters; choose DDS"
            )

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: D, noise: Noise) -> S:
        """The first state, of an image ``x`` at level ``sigma``."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def step(self, state: S, sigma: float, sigma_next: float, *, prior: Prior, data: D, noise: Noise) -> S:
        """From level ``sigma`` down to ``sigma_next``; a new state."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def increase_noise(self, state: S, sigma: float, sigma_next: float, *, noise: Noise) -> S:
        """From level ``sigma`` up to ``sigma_next`` (time travel): add the missing noise."""
        raise NotImplementedError(f"{type(self).__name__} must define increase_noise")

    def output(self, state: S) -> Tensor:
        """The image in the last state."""
        raise NotImplementedError(f"{type(self).__name__} must define output")

    def final_data(self, state: S, data: BlindGaussian) -> BlindGaussian:
        """The likelihood with the parameters of the last state, for solvers that estimate them; otherwise unchanged."""
        return data


@dataclass(frozen=True, kw_only=True)
class ImageSolver(Solver[Tensor, D]):
    """A solver whose state is the image ``x`` alone; most solvers are of this kind."""

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: D, noise: Noise) -> Tensor:
        """The image itself."""
        return x

    def increase_noise(self, state: Tensor, sigma: float, sigma_next: float, *, noise: Noise) -> Tensor:
        """From level ``sigma`` up to ``sigma_next`` (time travel): add the missing noise."""
        return add_noise(state, sigma, sigma_next, noise)

    def output(self, state: Tensor) -> Tensor:
        """The image itself."""
        return state
