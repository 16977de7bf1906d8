"""Which solvers sample the posterior: every solver and setting block on two problems whose posterior is known.

    python benchmarks/exactness.py --store exactness.jsonl [--only dds tmpd] [--blocks default tuned posterior]
    python benchmarks/exactness.py --store exactness.jsonl --table

Blocks: the solver's defaults (50 evaluations from level 8 to 0.005), ``tuned`` and ``posterior`` of a bundle's prior.yaml
(default: brain_mri), with their ladders, its ``quality`` settings for R = 4, ``standard`` and ``fast``, and if asked for
``long``, the defaults with 400 evaluations. Solvers without data are compared with the prior itself. Results in the
store are not computed again.

Gaussian: 8 values of standard deviations 0.05 to 0.5 in rotated directions, 4 measurements of singular values 1 to 0.5 with
noise of 0.05. The error of the mean of the samples is in standard deviations of the posterior, the root mean square over
its 8 directions; what exact samples would have is 1 / sqrt(n). The variance is that of the samples over that of the
posterior, per direction: geometric mean (lowest to highest). Mixture: two modes ten standard deviations apart, of
weights 0.698 and 0.302 given the data; the error of the probability of the first, with its standard error.

Particle solvers run in groups of 64, each with its own resampling; their standard error is that of independent groups.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")

import torch
from torch import Tensor

from medrecon.bundle import load_prior
from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise
from medrecon.operators.spectral import Dense
from medrecon.posterior import PriorSpec, sampling
from medrecon.priors import GaussianPrior, MixturePrior, Prior
from medrecon.sample import sample, sample_particles
from medrecon.settings import SamplingSettings
from medrecon.solvers import SOLVERS, Solver, is_unconditional
from medrecon.solvers.scoreprior import Family, FullGaussian, RealNVP, ScorePrior

N_PARTICLES = 64
BLOCKS = ("default", "tuned", "standard", "fast", "posterior", "long")
FAMILIES = ("score prior, Gaussian", "score prior, RealNVP")
DOUBLE = torch.float64


class Toy(NamedTuple):
    """A prior, and one measurement of it."""

    prior: Prior
    matrix: Tensor
    y: Tensor
    noise_std: float
    shape: tuple[int, ...]


class Shared(Noise):
    """One random stream for a whole batch of independent samples."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
        """See the base class."""
        return torch.randn(tuple(shape), generator=self._streams[0], dtype=dtype)


def gaussian() -> Toy:
    """The Gaussian problem."""
    generator = torch.Generator().manual_seed(0)
    modes, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=DOUBLE))
    covariance = modes @ torch.diag(torch.logspace(math.log10(0.05), math.log10(0.5), 8, dtype=DOUBLE) ** 2) @ modes.T
    prior = GaussianPrior(0.2 * torch.randn(2, 4, generator=generator, dtype=DOUBLE), covariance)
    u, _, vh = torch.linalg.svd(torch.randn(4, 8, generator=generator, dtype=DOUBLE), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1.0, 0.5, 4, dtype=DOUBLE)) @ vh
    x = prior.mean.flatten() + torch.linalg.cholesky(covariance) @ torch.randn(8, generator=generator, dtype=DOUBLE)
    y = matrix @ x + 0.05 * torch.randn(4, generator=generator, dtype=DOUBLE)
    return Toy(prior, matrix, y, 0.05, (2, 4))


def mixture() -> tuple[Toy, Tensor]:
    """The problem of two modes, and the direction that separates them."""
    direction = torch.full((6,), 6**-0.5, dtype=DOUBLE)
    others = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    basis, _ = torch.linalg.qr(torch.cat([direction[:, None], others], dim=1))
    mode = direction.view(2, 3)
    prior = MixturePrior(torch.tensor([0.5, 0.5], dtype=DOUBLE), torch.stack([mode, -mode]), 0.2)
    matrix = torch.stack([0.3 * direction + 0.91**0.5 * basis[:, 1], 0.7 * basis[:, 2]])
    return Toy(prior, matrix, torch.tensor([0.07, 0.1], dtype=DOUBLE), 0.1, (2, 3)), direction


def solver_of(name: str, block: str, spec: PriorSpec) -> tuple[Solver, Tensor]:
    """A solver with the settings of a block, and its ladder."""
    if block in ("default", "long"):
        solver = SOLVERS[name]()
        return solver, solver.ladder(8.0, 0.005, 50 if block == "default" else 400)
    quality = block if block in ("standard", "fast") else None
    settings = SamplingSettings(solver=name, posterior=block == "posterior", quality=quality)
    made = sampling(settings, replace(spec, acceleration=4.0) if quality else spec)
    return made.solver, made.sigmas


def draws(solver: Solver, toy: Toy, sigmas: Tensor, n: int, seed: int) -> Tensor:
    """``n`` samples of equal weight, ``(n, *shape)``."""
    if is_unconditional(solver):
        return sample(
            solver, toy.prior, NoData(torch.empty(0, dtype=DOUBLE), (n, *toy.shape)), sigmas, noise=Shared(seed)
        )
    one = Gaussian(Dense(toy.matrix, toy.shape), toy.y[None], toy.noise_std)
    if solver.has_particles:
        groups = n // N_PARTICLES
        noise = Noise(range(1000 * seed, 1000 * seed + groups), N_PARTICLES)
        many = one.repeated(groups * N_PARTICLES)
        made = sample_particles(solver, toy.prior, many, sigmas, noise=noise)
        chosen = made.choose(N_PARTICLES, noise) + N_PARTICLES * torch.arange(groups)[:, None]
        return made.x[chosen.flatten()]
    return sample(solver, toy.prior, one.repeated(n), sigmas, noise=Shared(seed))


def fitted(name: str, toy: Toy, n: int, seed: int) -> Tensor:
    """``n`` samples of a fitted distribution."""
    start = torch.zeros(toy.shape, dtype=DOUBLE)
    family: Family = FullGaussian(start, 0.3) if name.endswith("Gaussian") else RealNVP(start, 0.3, 6, 32)
    data = Gaussian(Dense(toy.matrix, toy.shape), toy.y[None], toy.noise_std)
    fit = ScorePrior(n_steps=2000, sigma_min=0.01, sigma_max=0.5)
    return fit.fit(family, toy.prior, data, noise=Noise(seed)).sample(n, Noise(seed + 1))


def moments(x: Tensor, toy: Toy, alone: bool) -> dict[str, float]:
    """Error of the mean, and ratios of variances, along the directions of the posterior (``alone``: of the prior)."""
    prior = toy.prior
    assert isinstance(prior, GaussianPrior)
    mean, covariance = prior.posterior(toy.matrix, toy.y, toy.noise_std)
    if alone:
        mean, covariance = prior.mean.flatten(), prior.covariance
    variances, directions = torch.linalg.eigh(covariance)
    along = (x.flatten(1) - mean) @ directions
    ratio = along.var(0) / variances
    return {
        "mean": float((along.mean(0).square() / variances).mean().sqrt()),
        "variance": float(ratio.log().mean().exp()), "lowest": float(ratio.min()), "highest": float(ratio.max()),
    }  # fmt: skip


def weights(x: Tensor, toy: Toy, direction: Tensor, alone: bool, particles: bool) -> dict[str, float]:
    """Error of the probability of the first mode, and its standard error."""
    prior = toy.prior
    assert isinstance(prior, MixturePrior)
    true = 0.5 if alone else float(prior.posterior_weights(toy.matrix, toy.y, toy.noise_std)[0])
    first = (x.flatten(1) @ direction > 0).double()
    error = float(first.mean()) - true
    if particles:
        groups = first.view(-1, N_PARTICLES).mean(1)
        return {"mode": error, "mode_error": float(groups.std() / len(groups) ** 0.5)}
    return {"mode": error, "mode_error": (true * (1 - true) / len(x)) ** 0.5}


def row(name: str, block: str, spec: PriorSpec, n: int, seed: int) -> dict[str, Any]:
    """An entry of the table; ``error`` says why there is none."""
    began, (two, direction) = time.time(), mixture()
    out: dict[str, Any] = {"solver": name, "block": block, "n": n, "seed": seed}
    try:
        if name in FAMILIES:
            alone, particles = False, False
            found = [fitted(name, toy, n, seed) for toy in (gaussian(), two)]
        else:
            solver, sigmas = solver_of(name, block, spec)
            alone, particles = is_unconditional(solver), solver.has_particles
            found = [draws(solver, toy, sigmas, n, seed) for toy in (gaussian(), two)]
        for x in found:
            if not x.isfinite().all():
                return {**out, "error": "values that are not finite", "seconds": time.time() - began}
        out |= moments(found[0], gaussian(), alone) | weights(found[1], two, direction, alone, particles)
    except (ValueError, TypeError, RuntimeError) as error:
        out["error"] = str(error)
    return {**out, "seconds": time.time() - began}


def table(rows: list[dict[str, Any]]) -> None:
    """Print the results in the store."""
    print(
        "| solver | settings | error of the mean, sd | variance / true | error of a mode's probability | seconds |\n"
        + "|---" * 6
        + "|"
    )
    for name in (*SOLVERS, *FAMILIES):
        for block in BLOCKS:
            for one in rows:
                if (one["solver"], one["block"]) != (name, block):
                    continue
                if "error" in one:
                    print(f"| {name} | {block} | failed: {one['error']} | | | {one['seconds']:.0f} |")
                    continue
                alone = " (the prior)" if name in SOLVERS and is_unconditional(SOLVERS[name]) else ""
                print(
                    f"| {name} | {block}{alone} | {one['mean']:.2f} | {one['variance']:.2f} ({one['lowest']:.2f} to "
                    f"{one['highest']:.2f}) | {one['mode']:+.3f} ± {one['mode_error']:.3f} | {one['seconds']:.0f} |"
                )
    failures = sum("error" in one for one in rows)
    print(f"seed {sorted({one['seed'] for one in rows})}, {sorted({one['n'] for one in rows})} samples, "
          f"{len(rows)} rows, {failures} failures, {sum(one['seconds'] for one in rows):.0f} s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[*(n for n, s in SOLVERS.items() if s.requires.prior), *FAMILIES])
    parser.add_argument("--blocks", nargs="*", default=BLOCKS[:5], choices=BLOCKS)
    parser.add_argument("--bundle", default="brain_mri")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results without running anything")
    arguments = parser.parse_args()
    spec = load_prior(arguments.bundle)
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    held = {(one["solver"], one["block"]) for one in rows}
    for name in () if arguments.table else arguments.only:
        for block in arguments.blocks:
            known = {
                "default": True,
                "long": name in SOLVERS,
                "standard": name in spec.quality,
                "fast": name in spec.quality,
                "tuned": name in spec.tuned,
                "posterior": name in spec.posterior,
            }[block]
            if not known or (name, block) in held:
                continue
            rows.append(row(name, block, spec, arguments.samples, arguments.seed))
            with open(arguments.store, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    table(rows)


if __name__ == "__main__":
    main()
