"""DMCMC beside plain sampling at equal network evaluations: the distance of their samples to a prior that is known.

    python benchmarks/dmcmc.py [--samples 4000] [--seeds 8]

The prior is a mixture of two Gaussians in 6 dimensions, whose score is exact, so that only the sampler errs. One chain
draws its noise level exactly, given the image (the paper trains a classifier for that), and each of its states is
denoised by a few steps; plain samplers start from noise of level 20. Evaluations are per sample, the chain's burn-in
included. The error is the sliced 2-Wasserstein distance to exact draws, the mean over seeds with its standard error; the
last row is the distance of independent exact draws. Settings of DMCMC are the best of those tried, chosen on other
seeds, from 1000 on; those of plain sampling, the best solver of five, likewise.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.likelihood import NoData
from medrecon.noise import Noise, karras, truncate_ladder
from medrecon.priors import Counted, MixturePrior
from medrecon.sample import sample
from medrecon.solvers import DDIM, DPMSolver, Heun
from medrecon.solvers.base import Solver
from medrecon.solvers.dmcmc import DMCMC
from medrecon.solvers.theory import sliced_wasserstein

SHAPE = (2, 3)
SIGMA_MAX, SIGMA_MIN = 20.0, 0.01
BUDGETS = (4, 6, 10, 20)
PLAIN: dict[str, Callable[[], Solver]] = {
    "ddpm": lambda: DDIM(eta=1.0), "ddim": DDIM, "ddim, eta 0.5": lambda: DDIM(eta=0.5), "heun": Heun, "dpmsolver": DPMSolver,
}  # fmt: skip


class Shared(Noise):
    """One random stream for a whole batch."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype, device: object = None) -> Tensor:
        """See the base class."""
        return torch.randn(tuple(shape), generator=self._streams[0], dtype=dtype)


def toy(weight: float = 0.3) -> MixturePrior:
    """Two modes at distance 2, 10 standard deviations."""
    mode = torch.full(SHAPE, 6**-0.5, dtype=torch.float64)
    weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
    return MixturePrior(weights, torch.stack([mode, -mode]), 0.2)


def exact(prior: MixturePrior, n: int, seed: int) -> Tensor:
    """Draws of the prior, ``(n, *SHAPE)``, of each mode as many as expected."""
    generator = torch.Generator().manual_seed(seed)
    which = (torch.arange(n) >= float(prior.weights[0]) * n).long()
    return prior.means[which] + prior.std * torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)


def plain(prior: MixturePrior, solver: Solver, budget: int, n: int, seed: int) -> tuple[Tensor, float]:
    """Samples from noise, and evaluations a sample."""
    counted = Counted(prior)
    data = NoData(torch.empty(0, dtype=torch.float64), (n, *SHAPE))
    x = sample(solver, counted, data, solver.ladder(SIGMA_MAX, SIGMA_MIN, budget), noise=Shared(seed))
    return x, counted.calls / n


def dmcmc(
    prior: MixturePrior, skip: int, steps: int, sigma_max: float, chains: int, *, n: int, seed: int
) -> tuple[Tensor, float]:
    """Denoised states of ``chains`` chains, and evaluations a sample: moves, burn-in and denoising, all counted."""
    counted, noise = Counted(prior), Shared(seed)
    grid = torch.logspace(-1.7, torch.tensor(sigma_max).log10().item(), 20, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed + 7)

    def level(x: Tensor) -> Tensor:
        log_p = prior.log_prob(x.repeat_interleave(len(grid), 0), grid.repeat(len(x))).view(len(x), -1)
        return grid[torch.multinomial(log_p.softmax(1), 1, generator=generator)[:, 0]]

    first = sample(
        DDIM(eta=1.0),
        counted,
        NoData(torch.empty(0, dtype=torch.float64), (chains, *SHAPE)),
        karras(20.0, 0.01, 20),
        noise=noise,
    )
    chain = DMCMC(estimate_sigma=level, sigma_max=sigma_max, skip=skip, burn_in=10)
    start = first + 0.5 * noise.like(first)
    states = itertools.islice(chain.chain(counted, start, 0.5, noise=noise), n // chains)
    x, sigma = (torch.cat(parts) for parts in zip(*states, strict=True))
    ladder = karras(sigma_max, SIGMA_MIN, steps)
    out = torch.empty_like(x)
    # A ladder per level: states at the same level are denoised together.
    for value in sigma.unique().tolist():
        chosen = sigma == value
        data = NoData(torch.empty(0, dtype=torch.float64), (int(chosen.sum()), *SHAPE))
        out[chosen] = sample(DDIM(eta=1.0), counted, data, truncate_ladder(ladder, value), noise=noise, start=x[chosen])
    return out, counted.calls / n


def independent(prior: MixturePrior, n: int, seed: int) -> tuple[Tensor, float]:
    """Draws whose modes are random, too; they cost no evaluation."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(prior.weights, n, replacement=True, generator=generator)
    return prior.means[which] + prior.std * torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64), 0.0


def error(
    draw: Callable[..., tuple[Tensor, float]], prior: MixturePrior, n: int, seeds: range
) -> tuple[float, float, float]:
    """Mean distance to exact draws, its standard error, and evaluations a sample."""
    found = [draw(seed=seed) for seed in seeds]
    distances = torch.tensor([
        sliced_wasserstein(x, exact(prior, len(x), 10_000 + seed)) for (x, _), seed in zip(found, seeds, strict=True)
    ])  # fmt: skip
    return float(distances.mean()), float(distances.std() / len(seeds) ** 0.5), found[0][1]


def best_chain(prior: MixturePrior, budget: int, n: int) -> dict:
    """Settings with the smallest error on other seeds, among those that cost at most ``budget`` evaluations a sample."""
    tried = []
    for skip, steps, top, many in itertools.product((1, 2, 4, 8, 14), (2, 4, 8, 16), (1.0, 2.0), (20, 200)):
        if not 0.4 * budget <= skip + steps <= 1.8 * budget:
            continue
        settings = {"skip": skip, "steps": steps, "sigma_max": top, "chains": many}
        found = error(functools.partial(dmcmc, prior, n=n, **settings), prior, n, range(1000, 1002))
        if found[2] <= budget:
            tried.append((found[0], settings))
    return min(tried, key=lambda pair: pair[0])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    began, n, seeds, prior = time.time(), arguments.samples, range(arguments.seeds), toy()
    print(
        "| evaluations | plain: best solver | distance | DMCMC: settings | evaluations a sample | distance |\n|"
        + "---|" * 6
    )
    for budget in BUDGETS:
        tuning = {
            name: error(functools.partial(plain, prior, make(), budget, n), prior, n, range(1000, 1002))[0]
            for name, make in PLAIN.items()
        }
        name = min(tuning, key=lambda key: tuning[key])
        a = error(functools.partial(plain, prior, PLAIN[name](), budget, n), prior, n, seeds)
        settings = best_chain(prior, budget, n)
        b = error(functools.partial(dmcmc, prior, n=n, **settings), prior, n, seeds)
        print(
            f"| {budget} | {name} | {a[0]:.4f} ± {a[1]:.4f} | {settings} | {b[2]:.1f} | {b[0]:.4f} ± {b[1]:.4f} |",
            flush=True,
        )
    floor = error(functools.partial(independent, prior, n), prior, n, seeds)
    print(f"| | exact draws | {floor[0]:.4f} ± {floor[1]:.4f} | | | |")
    print(f"seeds 0 to {arguments.seeds - 1}, {n} samples each, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
