"""The sampling loop, and several samples from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian, Gaussian, Likelihood, NoData
from medrecon.noise import Noise, VolumeSeeds
from medrecon.priors.base import Observed, Prior
from medrecon.solvers.base import D, S, Solver
from medrecon.solvers.ccdf import noised
from medrecon.solvers.ddim import DDIM
from medrecon.solvers.smc import Particles, ParticleSolver

__all__ = [
    "BlindResult",
    "StartImage",
    "draw",
    "draw_blind",
    "draw_particles",
    "generate",
    "sample",
    "sample_blind",
    "sample_particles",
]

Callback = Callable[[int, int, float, object], None]
Seeds: TypeAlias = "Sequence[int] | Sequence[Sequence[int]] | VolumeSeeds"


class StartImage(NamedTuple):
    """An image from which samples start (CCDF) instead of pure noise.

    Args:
        image: estimate ``(B, C, *spatial)``.
        add_noise: whether every sample adds its own noise of the first level; ``False`` for an image that is noisy already
            (R2D2+).
    """

    image: Tensor
    add_noise: bool = True


class BlindResult(NamedTuple):
    """Images and the parameters that were estimated with them.

    Args:
        x: images ``(B, C, *spatial)``, or samples ``(n, B, C, *spatial)``.
        data: likelihood with the final parameters; of several samples their mean.
    """

    x: Tensor
    data: BlindGaussian


@torch.no_grad()
def sample(
    solver: Solver,
    prior: Prior | None,
    data: Likelihood | NoData,
    sigmas: Tensor,
    *,
    noise: Noise,
    start: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run ``solver`` down a ladder of noise levels.

    Args:
        solver: the method.
        prior: ``prior(x, sigma)``, the clean estimate; ``None`` for solvers without a prior.
        data: likelihood; it determines the shape of the image.
        sigmas: levels, 1-D, positive but for the last, which is usually 0; a step may rise (time travel).
        noise: one random stream per batch item.
        start: x at ``sigmas[0]``, e.g. ``estimate + sigmas[0] * noise.like(estimate)`` (CCDF); never noised here.
            Default: pure noise.
        callback: called after every step as ``callback(i, n, sigma_next, state)``.

    Returns:
        the image, ``(B, C, *spatial)``; of a particle solver the weighted mean of every group of particles.

    Raises:
        TypeError: if the solver cannot work with this operator, likelihood or missing prior.
        ValueError: for a ladder of fewer than two levels or with a level at which no step can begin, if the solver does
            not use the given start, or if ``noise`` has groups of particles and the solver has none.
    """
    return solver.output(_descend(solver, prior, data, sigmas, noise=noise, start=start, callback=callback)[0])


@torch.no_grad()
def sample_blind(
    solver: Solver,
    prior: Prior | None,
    data: BlindGaussian,
    sigmas: Tensor,
    *,
    noise: Noise,
    start: Tensor | None = None,
    callback: Callback | None = None,
) -> BlindResult:
    """Run ``solver`` down a ladder of noise levels, as :func:`sample`, and return the estimated parameters too.

    Args:
        solver: the method. Before each of its steps but the first, the parameters are estimated again from the prior's last
            clean estimate, unless the solver estimates them itself.
        prior: as in :func:`sample`.
        data: likelihood with the first parameters.
        sigmas: the ladder.
        noise: one random stream per batch item.
        start: as in :func:`sample`.
        callback: as in :func:`sample`.
    """
    state, data = _descend(solver, prior, data, sigmas, noise=noise, start=start, callback=callback)
    return BlindResult(solver.output(state), solver.final_data(state, data))


@torch.no_grad()
def sample_particles(
    solver: ParticleSolver,
    prior: Prior,
    data: Gaussian,
    sigmas: Tensor,
    *,
    noise: Noise,
    start: Tensor | None = None,
    callback: Callback | None = None,
) -> Particles:
    """Run a particle solver down a ladder of noise levels, as :func:`sample`, and return its particles.

    Args:
        solver: the method.
        prior: ``prior(x, sigma)``, the clean estimate.
        data: likelihood of ``B P`` items: every measurement P times, side by side.
        sigmas: levels, the last one 0.
        noise: ``Noise(seeds, P)``, one seed per measurement. Two measurements give what two runs give.
        start: as in :func:`sample`.
        callback: as in :func:`sample`.
    """
    state, _ = _descend(solver, prior, data, sigmas, noise=noise, start=start, callback=callback)
    return solver.particles(state, data)


def _descend(
    solver: Solver[S, D],
    prior: Prior | None,
    data: D,
    sigmas: Tensor,
    *,
    noise: Noise,
    start: Tensor | None,
    callback: Callback | None,
) -> tuple[S, D]:
    """The last state of a run, and the likelihood of its last step; see :func:`sample` and :func:`sample_blind`."""
    solver.check(data)
    if noise.n_particles > 1 and not solver.has_particles:
        raise ValueError(f"{type(solver).__name__} has no particles; give it Noise(seeds)")
    if start is not None and not solver.takes_start:
        raise ValueError(f"{type(solver).__name__} computes its own initial estimate; omit the start")
    if prior is None:
        if solver.requires.prior:
            raise TypeError(f"{type(solver).__name__} needs a prior; got None")
        prior = _no_prior
    levels = _checked(sigmas)
    if solver.has_particles and levels[-1] > 0:
        raise ValueError(f"the ladder of {type(solver).__name__} must end in 0, where the last weight is known")
    like = data.y.real
    x = levels[0] * noise(data.shape, like.dtype, like.device) if start is None else start
    prior, estimates = _observed(prior) if isinstance(data, BlindGaussian) else (prior, {})
    state = solver.init(x, levels[0], prior=prior, data=data, noise=noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if isinstance(data, BlindGaussian) and i > 0 and estimates and not solver.estimates_parameters:
            data = data.updated(estimates["last"], sigma)
        if sigma_next > sigma:
            state = solver.increase_noise(state, sigma, sigma_next, noise=noise)
        else:
            state = solver.step(state, sigma, sigma_next, prior=prior, data=data, noise=noise)
        if callback is not None:
            callback(i, len(levels) - 1, sigma_next, state)
    return state, data


def _observed(prior: Prior) -> tuple[Prior, dict[str, Tensor]]:
    """The prior, and a dictionary whose entry ``last`` is its last clean estimate."""
    estimates: dict[str, Tensor] = {}

    def observe(x0: Tensor, sigma: float | Tensor) -> None:
        estimates["last"] = x0

    return Observed(prior, observe), estimates


def _no_prior(x: Tensor, sigma: float | Tensor) -> Tensor:
    """In place of a prior, for solvers that use none."""
    raise TypeError("this solver has requires.prior = False, so it must not call the prior")


def _checked(sigmas: Tensor) -> list[float]:
    """Levels of a ladder, checked to be valid for every step."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"a ladder needs at least two levels in one row; got shape {tuple(sigmas.shape)}")
    levels = sigmas.tolist()
    for i, level in enumerate(levels):
        if not (math.isfinite(level) and (level > 0 or (level == 0 and i == len(levels) - 1))):
            raise ValueError(
                f"noise levels must be positive and finite, and only the last may be 0; got {level:g} as number {i + 1} of "
                f"{len(levels)}"
            )
    return levels


def draw(
    solver: Solver,
    prior: Prior | None,
    data: Likelihood,
    sigmas: Tensor,
    *,
    seeds: Seeds,
    chunk: int = 4,
    start: StartImage | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Draw ``n = len(seeds)`` samples of the same problem, ``(n, B, C, *spatial)``.

    A sample depends on its seed alone, not on ``chunk`` or the other samples.

    Args:
        solver: the method.
        prior: the prior, or ``None`` for solvers that use none.
        data: the likelihood of ``B`` items.
        sigmas: the ladder.
        seeds: per sample one seed for every item of the batch; a single number where ``B = 1``; or the seeds of volumes.
        chunk: number of samples that run as one batch (only where ``B = 1``).
        start: the image to start from; default: pure noise.
        callback: as in :func:`sample`, called for every chunk.
    """
    rows, noise_of = _rows(seeds)

    def run(problem: Likelihood, streams: Sequence[int]) -> Tensor:
        noise = noise_of(streams)
        return sample(
            solver, prior, problem, sigmas, noise=noise, start=_first(start, float(sigmas[0]), noise), callback=callback
        )

    if data.shape[0] > 1:
        return torch.stack([run(data, row) for row in rows])
    out = []
    for first in range(0, len(rows), chunk):
        part = [row[0] for row in rows[first : first + chunk]]
        out.append(run(data.repeated(len(part)), part))
    return torch.cat(out)[:, None]


def _rows(seeds: Seeds) -> tuple[list[list[int]], Callable[[Sequence[int]], Noise]]:
    """One row per sample with a seed for every item, and the function from some seeds to their numbers."""
    if isinstance(seeds, VolumeSeeds):
        return [list(row) for row in seeds.rows], seeds.noise
    return [[seed] if isinstance(seed, int) else list(seed) for seed in seeds], Noise


def _first(start: StartImage | None, sigma: float, noise: Noise) -> Tensor | None:
    """The image at the first level, for the streams of ``noise``; ``None``: pure noise."""
    if start is None:
        return None
    x = start.image.expand(len(noise.seeds), *start.image.shape[1:])
    return noised(x, sigma, noise) if start.add_noise else x


def draw_blind(
    solver: Solver,
    prior: Prior | None,
    data: BlindGaussian,
    sigmas: Tensor,
    *,
    seeds: Seeds,
    start: StartImage | None = None,
    callback: Callback | None = None,
) -> BlindResult:
    """Draw ``n = len(seeds)`` samples as :func:`draw`, each with parameters of its own.

    Args:
        solver: the method.
        prior: the prior, or ``None`` for solvers that use none.
        data: the likelihood of ``B`` items.
        sigmas: the ladder.
        seeds: as in :func:`draw`.
        start: as in :func:`draw`.
        callback: as in :func:`draw`; samples run one after the other.

    Returns:
        samples ``(n, B, C, *spatial)``, and the likelihood with the mean of their parameters.
    """
    made = []
    rows, noise_of = _rows(seeds)
    for row in rows:
        noise = noise_of(row)
        first = _first(start, float(sigmas[0]), noise)
        made.append(sample_blind(solver, prior, data, sigmas, noise=noise, start=first, callback=callback))
    parameters = [one.data.parameters for one in made]
    means = {name: torch.stack([one[name] for one in parameters]).mean(0) for name in parameters[0]}
    final = made[0].data if len(made) == 1 else made[0].data.with_parameters(means)
    return BlindResult(torch.stack([one.x for one in made]), final)


def draw_particles(
    solver: ParticleSolver,
    prior: Prior,
    data: Gaussian,
    sigmas: Tensor,
    *,
    seed: int,
    n_particles: int,
    callback: Callback | None = None,
) -> Particles:
    """Run ``n_particles`` particles of one item as one batch.

    Args:
        solver: the method.
        prior: the prior.
        data: the likelihood of one item.
        sigmas: the ladder.
        seed: random seed.
        n_particles: number of particles P.
        callback: as in :func:`sample`.
    """
    noise, many = Noise([seed], n_particles), data.repeated(n_particles)
    return sample_particles(solver, prior, many, sigmas, noise=noise, callback=callback)


def generate(
    prior: Prior,
    shape: Sequence[int],
    sigmas: Tensor,
    *,
    seeds: Sequence[int],
    solver: Solver = DDIM(),  # noqa: B008 - frozen
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Images of the prior alone, ``(len(seeds), *shape)``.

    Args:
        prior: ``prior(x, sigma)``, the clean estimate.
        shape: shape of one image, ``(C, *spatial)``.
        sigmas: the ladder; its first level should be several times the standard deviation of the images.
        seeds: one per image; an image depends on its seed alone.
        solver: an unconditional sampler.
        device: device of the computation.
        dtype: real type of the images.
    """
    data = NoData(torch.empty(0, dtype=dtype, device=device), (len(seeds), *shape))
    return sample(solver, prior, data, sigmas, noise=Noise(seeds))
