"""Simulation-based calibration: whether the truth ranks among posterior samples as one of them would.

    python benchmarks/sbc.py [--quick] [--only tmpd ddnm] [--histograms] [--draws 200] [--seed 0]

Every simulation draws an image from the prior and data from the image, and K = 19 samples given the data. For a sampler of the
posterior the rank of the truth among its samples is uniform, for every function of image and data (Talts et al. 2018; for
functions that use the data Modrak et al. 2023). Per problem and sampler: seven functions, three tests of each
(medrecon.coverage.uniformity: chi-square over 20 bins, mean rank, spread of the ranks), adjusted by Holm. A sampler passes if
the smallest adjusted p-value is at least 0.01. The worst function and test are named: `narrow` if the truth is outside
too often, `wide` if it is inside too often, `bias` for the mean rank, `shape` for chi-square.

Problems: `gaussian`, 16 unknowns of standard deviations 0.05 to 0.5 in rotated directions, 8 measurements of singular values 1
to 0.5; `white`, the same with standard deviation 0.5 everywhere; `mixture`, 6 unknowns, two modes ten standard deviations apart,
2 measurements. Noise 0.05 and 0.1.

Controls: the closed-form posterior, which passes; its samples drawn together to 0.7 of their spread, and the prior, which
ignores the data: both fail. Particle solvers run once per sample, and one particle is chosen by weight, so that the samples of
a simulation are independent.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medrecon.coverage import Uniformity, holm, truth_ranks, uniformity
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.spectral import Dense
from medrecon.priors import GaussianPrior, MixturePrior
from medrecon.sample import sample, sample_particles
from medrecon.solvers import DAPS, DDNM, DDRM, DDS, SOLVERS, TDS, TMPD, DiffPIR, PiGDM, PnPDM, Solver, is_unconditional

DOUBLE = torch.float64
N_SAMPLES = 19
LEVEL = 0.01


class Toy(NamedTuple):
    """A prior and an operator; the posterior is known for all data."""

    prior: GaussianPrior | MixturePrior
    matrix: Tensor
    noise_std: float
    shape: tuple[int, ...]

    def truth(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` images of the prior, ``(n, unknowns)``."""
        if isinstance(self.prior, GaussianPrior):
            root = self.prior.modes * self.prior.variances.clamp(min=0).sqrt()
            return self.prior.mean.flatten() + normal(n, len(root), generator) @ root.T
        means = self.prior.means.flatten(1)
        chosen = torch.multinomial(self.prior.weights, n, replacement=True, generator=generator)
        return means[chosen] + self.prior.std * normal(n, means.shape[1], generator)

    def posterior(self, y: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``n`` exact samples given each of the data ``y``, ``(n, len(y), unknowns)``."""
        if isinstance(self.prior, GaussianPrior):
            return torch.stack([given(self.prior, self, one, n, generator) for one in y], dim=1)
        parts = [
            GaussianPrior(mean, self.prior.std**2 * torch.eye(mean.numel(), dtype=DOUBLE)) for mean in self.prior.means
        ]
        out = []
        for one in y:
            weights = self.prior.posterior_weights(self.matrix, one, self.noise_std)
            chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
            each = torch.stack([given(part, self, one, n, generator) for part in parts])
            out.append(each[chosen, torch.arange(n)])
        return torch.stack(out, dim=1)

    def log_prior(self, x: Tensor) -> Tensor:
        """Log-density of images ``(n, unknowns)``, up to a constant."""
        if isinstance(self.prior, MixturePrior):
            return self.prior.log_prob(x.view(-1, *self.shape), 0.0)
        along = (x - self.prior.mean.flatten()) @ self.prior.modes
        return -(along**2 / self.prior.variances).sum(1) / 2

    def quantities(self, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
        """Functions of images ``(n, unknowns)`` and their data ``(n, m)``, each ``(n,)``."""
        measured = torch.linalg.pinv(self.matrix) @ self.matrix
        residual = y - x @ self.matrix.T
        found = {
            "first pixel": x[:, 0],
            "middle pixel": x[:, x.shape[1] // 2],
            "mean of half": x[:, : x.shape[1] // 2].mean(1),
            "norm": x.square().sum(1),
            "log-likelihood": -residual.square().sum(1) / (2 * self.noise_std**2),
            "log prior": self.log_prior(x),
            "null energy": (x - x @ measured.T).square().sum(1),
        }
        return {name: values.numpy() for name, values in found.items()}


def normal(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, generator=generator, dtype=DOUBLE)


def given(prior: GaussianPrior, toy: Toy, y: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """``n`` samples of the posterior of a Gaussian prior."""
    mean, covariance = prior.posterior(toy.matrix, y, toy.noise_std)
    variances, modes = torch.linalg.eigh(covariance)
    return mean + normal(n, len(mean), generator) @ (modes * variances.clamp(min=0).sqrt()).T


def operator(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """A matrix of singular values 1 to 0.5."""
    u, _, vh = torch.linalg.svd(normal(rows, n, generator), full_matrices=False)
    return u @ torch.diag(torch.linspace(1.0, 0.5, rows, dtype=DOUBLE)) @ vh


def problems() -> dict[str, Toy]:
    generator = torch.Generator().manual_seed(0)
    shape, n = (1, 4, 4), 16
    modes, _ = torch.linalg.qr(normal(n, n, generator))
    stds = torch.logspace(math.log10(0.05), math.log10(0.5), n, dtype=DOUBLE)
    rotated = GaussianPrior(0.2 * normal(1, n, generator).view(shape), modes @ torch.diag(stds**2) @ modes.T)
    white = GaussianPrior(torch.zeros(shape, dtype=DOUBLE), 0.25 * torch.eye(n, dtype=DOUBLE))
    matrix = operator(8, n, generator)
    direction = torch.full((6,), 6**-0.5, dtype=DOUBLE)
    basis, _ = torch.linalg.qr(torch.cat([direction[:, None], normal(6, 5, generator)], dim=1))
    mode = direction.view(2, 3)
    mixture = MixturePrior(torch.tensor([0.5, 0.5], dtype=DOUBLE), torch.stack([mode, -mode]), 0.2)
    weak = torch.stack([0.3 * direction + 0.91**0.5 * basis[:, 1], 0.7 * basis[:, 2]])
    return {
        "gaussian": Toy(rotated, matrix, 0.05, shape),
        "white": Toy(white, matrix, 0.05, shape),
        "mixture": Toy(mixture, weak, 0.1, (2, 3)),
    }


class Shared(Noise):
    """One random stream for a whole batch: many independent samples without as many generators."""

    def __init__(self, seed: int, n_particles: int = 1) -> None:
        super().__init__(seed)
        self.n_particles = n_particles

    def __call__(self, shape, dtype, device=None):
        """See the base class."""
        return torch.randn(tuple(shape), generator=self._streams[0], dtype=dtype)

    @property
    def groups(self):
        """See the base class."""
        return self

    def uniform(self, n):
        """See the base class."""
        return torch.rand(n, generator=self._streams[0], dtype=DOUBLE)


class Sampler(NamedTuple):
    """A row of the table.

    Args:
        draw: ``draw(toy, y, seed) -> samples (K, len(y), unknowns)``.
        calibrated: what the solver says of itself; ``None`` for controls.
    """

    draw: Callable[[Toy, Tensor, int], Tensor]
    calibrated: bool | None = None


def exact(factor: float = 1.0) -> Sampler:
    """The closed-form posterior, its samples scaled about their mean."""

    def draw(toy: Toy, y: Tensor, seed: int) -> Tensor:
        x = toy.posterior(y, N_SAMPLES, torch.Generator().manual_seed(seed))
        return x if factor == 1 else x.mean(0) + factor * (x - x.mean(0)) * (1 + 1 / N_SAMPLES) ** 0.5

    return Sampler(draw)


def of_prior(toy: Toy, y: Tensor, seed: int) -> Tensor:
    """Samples of the prior."""
    return toy.truth(N_SAMPLES * len(y), torch.Generator().manual_seed(seed)).view(N_SAMPLES, len(y), -1)


def of_solver(solver: Solver, sigmas: Tensor, n_particles: int = 1) -> Sampler:
    """Samples of a solver down a ladder."""

    def draw(toy: Toy, y: Tensor, seed: int) -> Tensor:
        repeated = y.repeat(N_SAMPLES, 1)
        if not solver.has_particles:
            data = Gaussian(Dense(toy.matrix, toy.shape), repeated, toy.noise_std)
            x = sample(solver, toy.prior, data, sigmas, noise=Shared(seed))
            return x.reshape(N_SAMPLES, len(y), -1)
        data = Gaussian(Dense(toy.matrix, toy.shape), repeated.repeat_interleave(n_particles, 0), toy.noise_std)
        noise = Shared(seed, n_particles)
        made = sample_particles(solver, toy.prior, data, sigmas, noise=noise)
        cumulated = made.log_weights.view(-1, n_particles).exp().cumsum(1)
        chosen = (cumulated < noise.uniform(len(repeated))[:, None] * cumulated[:, -1:]).sum(1)
        at = n_particles * torch.arange(len(repeated)) + chosen.clamp(max=n_particles - 1)
        return made.x[at].reshape(N_SAMPLES, len(y), -1)

    return Sampler(draw, solver.calibrated(sigmas))


def samplers() -> dict[str, Sampler]:
    """All rows: controls, solvers that say they are calibrated, and others; `posterior` are the settings of brain_mri."""

    def row(solver: Solver, steps: int, sigma_max: float = 8.0, n_particles: int = 1) -> Sampler:
        return of_solver(solver, solver.ladder(sigma_max, 0.005, steps * solver.evaluations), n_particles)

    rows = {
        "exact posterior": exact(),
        "exact, spread x 0.7": exact(0.7),
        "prior (ignores the data)": Sampler(of_prior),
        "tmpd, n_cg 20, 50 steps": row(TMPD(n_cg=20), 50),
        "tmpd, n_cg 20, 110 steps": row(TMPD(n_cg=20), 110),
        "tmpd, n_cg 20, 200 steps": row(TMPD(n_cg=20), 200),
        "tmpd, n_cg 20, 400 steps": row(TMPD(n_cg=20), 400),
        "tmpd, n_cg 5, 110 steps": row(TMPD(), 110),
        "pigdm, 110 steps": row(PiGDM(), 110),
        "pigdm, 400 steps": row(PiGDM(), 400),
        "tds, 4 particles, 50 steps": row(TDS(n_cg=20), 50, n_particles=4),
        "tds, 4 particles, 200 steps": row(TDS(n_cg=20), 200, n_particles=4),
        "dds posterior, 50 steps": row(DDS(kernel="ddim", sigma_scale=1.0, prior_weight=7.0), 50, 4.0),
        "pnpdm posterior, 20 steps of 10": row(PnPDM(n_inner=10), 20, 1.5),
        "pnpdm, 100 steps of 40": row(PnPDM(n_inner=40), 100, 8.0),
        "daps posterior, 100 steps": row(DAPS(n_ode=1, image_std=0.1), 100, 4.0),
        "diffpir posterior, 100 steps": row(DiffPIR(lam=1.0, fresh_noise_fraction=0.3), 100, 4.0),
        "dds, 50 steps": row(DDS(), 50),
        "ddnm, eta 0.85, 110 steps": row(DDNM(eta=0.85), 110),
        "ddnm, eta 1, 110 steps": row(DDNM(), 110),
        "ddrm, 110 steps": row(DDRM(), 110),
    }
    for name, kind in SOLVERS.items():  # whatever else says that it is calibrated
        if kind.requires.prior and not is_unconditional(kind) and not kind.has_particles:
            one = of_solver(kind(), kind().ladder(8.0, 0.005, 400))
            if one.calibrated:
                rows[f"{name}, 400 evaluations"] = one
    return rows


class Verdict(NamedTuple):
    """Result of a sampler on a problem."""

    tests: dict[str, Uniformity]
    p: float
    worst: str
    seconds: float

    @property
    def word(self) -> str:
        """The verdict in one word."""
        return "pass" if self.p >= LEVEL else "fail"


def verdict(sampler: Sampler, toy: Toy, n_draws: int, seed: int) -> Verdict:
    """Test a sampler on ``n_draws`` simulations."""
    began = time.time()
    generator = torch.Generator().manual_seed(seed)
    truth = toy.truth(n_draws, generator)
    y = truth @ toy.matrix.T + toy.noise_std * normal(n_draws, len(toy.matrix), generator)
    x = sampler.draw(toy, y, seed + 1)
    if not x.isfinite().all():
        raise ValueError("values that are not finite")
    right = toy.quantities(truth, y)
    many = toy.quantities(x.flatten(0, 1), y.repeat(N_SAMPLES, 1))
    ranks = {k: truth_ranks(right[k], many[k].reshape(N_SAMPLES, -1)) for k in right}
    tests = {k: uniformity(one, N_SAMPLES) for k, one in ranks.items()}
    names = [(k, kind) for k in tests for kind in ("chi_square", "mean", "spread")]
    adjusted = holm([getattr(tests[k], kind) for k, kind in names])
    k, kind = names[int(adjusted.argmin())]
    away = np.square(ranks[k] - N_SAMPLES / 2).mean() - (N_SAMPLES + 1) ** 2 / 12
    word = {"chi_square": "shape", "mean": "bias", "spread": "narrow" if away > 0 else "wide"}[kind]
    return Verdict(tests, float(adjusted.min()), f"{k}: {word}", time.time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="simulations per problem")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="begin of the rows' names")
    parser.add_argument("--quick", action="store_true", help="100 simulations, no row of 400 steps or particles")
    parser.add_argument("--histograms", action="store_true", help="print the rank histogram of every function")
    arguments = parser.parse_args()
    n_draws = min(arguments.draws, 100) if arguments.quick else arguments.draws
    torch.set_num_threads(1)
    began, failures, count = time.time(), 0, 0
    print(
        "| sampler | says calibrated | problem | verdict | smallest adjusted p | worst function | seconds |\n"
        + "|---" * 7
        + "|"
    )
    for name, sampler in samplers().items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        if arguments.quick and any(word in name for word in ("200", "400", "particles", "of 40")):
            continue
        says = {None: "-", True: "yes", False: "no"}[sampler.calibrated]
        for label, toy in problems().items():
            count += 1
            try:
                found = verdict(sampler, toy, n_draws, arguments.seed)
            except (ValueError, TypeError, RuntimeError) as error:
                failures += 1
                print(f"| {name} | {says} | {label} | error: {error} | | | |", flush=True)
                continue
            print(
                f"| {name} | {says} | {label} | {found.word} | {found.p:.2g} | {found.worst} | {found.seconds:.0f} |",
                flush=True,
            )
            if arguments.histograms:
                for k, one in found.tests.items():
                    print(f"    {k:15s} {' '.join(f'{c:3d}' for c in one.counts)}")
    print(f"seed {arguments.seed}, {n_draws} simulations of {N_SAMPLES} samples, {count} rows, {failures} errors, "
          f"{time.time() - began:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
