"""Sequential Monte Carlo: exactness on small problems, images of 64 x 64 pixels, and what is left of the particles.

    python benchmarks/smc.py toy                        # means, evidence and modes against closed forms
    python benchmarks/smc.py heads --store smc.jsonl    # 64 x 64, one coil, R = 4, against DDS and TMPD
    python benchmarks/smc.py gaussian                   # such scans of an exact Gaussian prior: what the levels alone cost
    python benchmarks/smc.py large                      # one slice of 216 x 176 with eight coils: the warning

``toy``: the Gaussian prior, operator and mixture of tests/make, whose chains have closed forms (tests/make/chains.py). P
particles, R runs. Error of the weighted mean: rms over runs, in posterior standard deviations, times the root of P. Evidence:
mean over runs of its estimate over the truth, with its standard error. Modes: error of the weight of the first of two (0.698),
with its standard error.

``heads``: heads of held-out subjects at a quarter of the side (``problems.small``), prior brain_mri, 50 evaluations per
particle or sample, 8 particles. PSNR of the (weighted) mean of magnitudes in dB, range 0 to the largest value; the least ESS of
a run and the median over its steps; seconds with one thread. Results in the store, failures among them, are not computed again.

``gaussian``: complex images with the mean power spectrum of those heads, drawn from the prior that is given to the solver.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import Problem, prior_of, run, small, validation
from torch import Tensor, nn

from medrecon.data.coils import to_kspace
from medrecon.likelihood import Gaussian
from medrecon.metrics import scores
from medrecon.noise import karras
from medrecon.operators.spectral import Dense
from medrecon.sample import sample_particles
from medrecon.solvers import SOLVERS
from medrecon.solvers.smc import Particles
from medrecon.training.objectives import EDM

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.make.chains import bridged_posterior, chain_law, decoupled, gaussian_posterior
from tests.make.posteriors import SHAPE, SharedNoise, dense, mixture, repeated

NAMES = [name for name, solver in SOLVERS.items() if solver.has_particles]
COUNTS = {16: 256, 64: 128, 256: 64, 1024: 32}
"""Runs for every number of particles."""
TEMPERED = {"settings": {"least_ess": 7.0}}
"""Nearly equal weights of eight particles."""
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("dds", {}), ("dds", {"samples": 8}), *((name, {}) for name in NAMES), ("tds", TEMPERED), ("fps", TEMPERED),
    ("tmpd", {"samples": 8}),
]  # fmt: skip


def runs_of(
    name: str, prior: Any, matrix: Tensor, y: Tensor, noise_std: float, sigmas: Tensor, counts: tuple[int, int]
) -> Particles:
    """P particles in each of R runs with the same data."""
    n_particles, n_runs = counts
    data = Gaussian(Dense(matrix, SHAPE), y.expand(n_particles * n_runs, -1).contiguous(), noise_std)
    return sample_particles(SOLVERS[name](), prior, data, sigmas, noise=SharedNoise(0, n_particles))  # type: ignore[arg-type]


def target(name: str, prior: Any, sigmas: Tensor, y: Tensor, noise_std: float) -> tuple[Tensor, Tensor, float]:
    """The law to which the particles converge."""
    if name in ("fps", "mcgdiff"):
        return bridged_posterior(prior, sigmas, dense(), y, noise_std)
    law = chain_law(prior, sigmas, decoupled(1.0, 0.5)) if name == "ddsmc" else chain_law(prior, sigmas)
    return gaussian_posterior(*law, dense(), y, noise_std)


def toy() -> None:
    """Print the tables of exactness."""
    noise_std = 0.1
    prior, data, mean, covariance = repeated(1, noise_std)
    y = data.y[0]
    spread = covariance.trace().sqrt()
    *_, evidence = gaussian_posterior(prior.mean.flatten(), prior.covariance, dense(), y, noise_std)
    print("\nChain against posterior: error of the mean / variance over the true one / error of the log-evidence\n")
    print("| solver | 25 levels | 50 | 100 | 200 | 400 |\n" + "|---" * 6 + "|")
    for name in ("tds", "fps", "ddsmc"):
        cells = []
        for steps in (25, 50, 100, 200, 400):
            m, c, e = target(name, prior, karras(20.0, 0.01, steps), y, noise_std)
            cells.append(
                f"{float((m - mean).norm() / spread):.3f} / {float(c.trace() / covariance.trace()):.2f} / {e - evidence:+.3f}"
            )
        label = {"tds": "tds, tds-isotropic", "fps": "fps, mcgdiff", "ddsmc": "ddsmc"}[name]
        print(f"| {label} | " + " | ".join(cells) + " |")
    for steps in (20, 200):
        sigmas = karras(3.0, 0.05, steps)
        print(
            f"\nTowards the chain, {steps} levels from 3 to 0.05: error of the mean x root P, evidence over its value\n"
        )
        print("| solver | " + " | ".join(f"P = {n}, R = {r}" for n, r in COUNTS.items()) + " | slope |")
        print("|---" * (len(COUNTS) + 2) + "|")
        for name in NAMES:
            m, c, e = target(name, prior, sigmas, y, noise_std)
            cells, errors = [], []
            for counts in COUNTS.items():
                found = runs_of(name, prior, dense(), y, noise_std, sigmas, counts)
                away = (found.mean.flatten(1) - m).square().sum(1).mean().sqrt() / c.trace().sqrt()
                ratio = (found.log_evidence - e).exp()
                errors.append(math.log(float(away)))
                standard = float(ratio.std() / counts[1] ** 0.5)
                cells.append(f"{float(away) * counts[0] ** 0.5:.2f}, {float(ratio.mean()):.3f} ± {standard:.3f}")
            slope = np.polyfit(np.log(list(COUNTS)), errors, 1)[0]
            print(f"| {name} | " + " | ".join(cells) + f" | {slope:.2f} |", flush=True)
    modes()


def modes() -> None:
    """Print the error of the weights of two modes."""
    prior, direction, matrix, y = mixture()
    true = float(prior.posterior_weights(matrix, y, 0.1)[0])
    counts = (250, 40)
    print(f"\nError of the weight of the first of two modes, P = {counts[0]}, R = {counts[1]}\n")
    print("| solver | 60 levels | 200 | 400 |\n|---|---|---|---|")
    for name in NAMES:
        cells = []
        for steps in (60, 200, 400):
            found = runs_of(name, prior, matrix, y, 0.1, karras(20.0, 0.01, steps), counts)
            first = (found.x.flatten(1) @ direction > 0).view(counts[1], counts[0])
            share = (found.log_weights.exp() * first).sum(1)
            cells.append(f"{float(share.mean()) - true:+.3f} ± {float(share.std() / counts[1] ** 0.5):.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def cell(case: Problem, solver: str, options: dict[str, Any], seed: int, steps: int = 50) -> dict[str, Any]:
    """One reconstruction of a head."""
    began = time.perf_counter()
    made = run(case, solver=solver, seed=seed, steps=steps, **options)
    particles = made.record["particles"]
    return {
        "psnr": scores(made.image, case.reference)["psnr"],
        "seconds": time.perf_counter() - began,
        "evaluations": made.record["network_evaluations"],
        "residual": made.record["residual_over_noise"],
        "smallest_ess": None if particles is None else particles["smallest_ess"],
        "median_ess": None if particles is None else float(np.median(particles["ess"][0])),
        "warned": any("effective sample size" in text for text in made.record["warnings"]),
    }


def heads(store: Path, n: int, seeds: int, only: Sequence[str]) -> None:
    """Fill the store, and print its table."""
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []
    done = {(row["case"], row["solver"], json.dumps(row["options"]), row["seed"]) for row in rows}
    for seed in range(seeds):
        for solver, options in JOBS:
            for case in small()[:: 6 // n]:
                if (case.name, solver, json.dumps(options), seed) in done or (only and solver not in only):
                    continue
                row = {"case": case.name, "solver": solver, "options": options, "seed": seed}
                try:
                    rows.append({**row, **cell(case, solver, options, seed)})
                except ValueError as error:  # InputError among them
                    rows.append({**row, "failure": str(error)})
                with store.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    failures = [row for row in rows if "failure" in row]
    rows = [row for row in rows if "failure" not in row]
    print("| solver | runs | PSNR of the mean, dB | against dds | smallest ESS | median ESS | evaluations | seconds |")
    print("|---" * 8 + "|")
    base = {(r["case"], r["seed"]): r["psnr"] for r in rows if r["solver"] == "dds" and not r["options"]}
    for solver, options in JOBS:
        own = [r for r in rows if r["solver"] == solver and r["options"] == options]
        if not own:
            continue
        gain = [r["psnr"] - base[r["case"], r["seed"]] for r in own if (r["case"], r["seed"]) in base]
        least, median = (
            "" if own[0][key] is None else f"{f([r[key] for r in own]):.1f}"
            for key, f in (("smallest_ess", np.min), ("median_ess", np.median))
        )
        label = solver + (
            "" if not options else f", mean of {options['samples']}" if "samples" in options else ", least_ess=7"
        )
        mean = {key: np.mean([r[key] for r in own]) for key in ("psnr", "evaluations", "seconds")}
        print(
            f"| {label} | {len(own)} | {mean['psnr']:.2f} | {np.mean(gain):+.2f} | {least} | {median} | "
            f"{mean['evaluations']:.0f} | {mean['seconds']:.0f} |"
        )
    print(
        f"\n{len({r['case'] for r in rows})} slices, seeds {sorted({r['seed'] for r in rows})}, {len(failures)} failures"
    )
    for row in failures:
        print(f"{row['solver']} {row['options'] or ''}, {row['case']}, seed {row['seed']}: {row['failure']}")


class Stationary(EDM):
    """The objective of a network that is the exact prior of complex Gaussian images with a power spectrum."""

    def __init__(self, power: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "power", power)

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Any:
        """``P / (P + sigma^2)`` in the Fourier domain; real and imaginary part have the variance P each."""

        def mean(x: Tensor, sigma: float | Tensor) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1)
            complex_image = torch.complex(x[:, 0], x[:, 1])
            out = torch.fft.ifft2(
                self.power / (self.power + level**2) * torch.fft.fft2(complex_image, norm="ortho"), norm="ortho"
            )
            return torch.stack([out.real, out.imag], 1)

        return mean


def gaussian(noise_std: float = 0.01) -> None:
    """Print the ESS on scans of an exact Gaussian prior."""
    cases = small()
    power = np.mean([np.abs(np.fft.fft2(c.reference[0], norm="ortho")) ** 2 / 2 for c in cases], axis=0).astype(
        np.float32
    )
    z = np.random.default_rng(0).standard_normal((2, 64, 64))
    image = np.fft.ifft2(np.sqrt(power) * (z[0] + 1j * z[1]), norm="ortho").astype(np.complex64)
    noise = np.random.default_rng(1).standard_normal((2, 64, 64))
    kspace = (to_kspace(image[None]) + noise_std * (noise[0] + 1j * noise[1]))[None] * cases[0].mask
    case = replace_case(cases[0], kspace.astype(np.complex64), image, noise_std)
    # The scale of a problem is the 99th percentile of its zero-filled image: the prior is given at that scale.
    zero_filled = run(case, solver="zero-filled").image
    scale = float(np.quantile(zero_filled, 0.99))
    spec = replace(
        prior_of(case), network=lambda: nn.Linear(1, 1), objective=Stationary(torch.from_numpy(power / scale**2)),
        symmetries={}, tuned={}, labels=(),
    )  # fmt: skip
    print("| solver | settings | levels | smallest ESS of 8 | median ESS |\n|---|---|---|---|---|")
    jobs = [("tds", {"n_cg": n}) for n in (5, 30, 100)] + [("tds-isotropic", {}), ("ddsmc", {}), ("fps", {})]
    for name, settings in jobs:
        for steps in (50, 200):
            ess = run(case, spec, solver=name, settings=settings, steps=steps).record["particles"]["ess"][0]
            print(f"| {name} | {settings or ''} | {steps} | {min(ess):.1f} | {np.median(ess):.1f} |", flush=True)


def replace_case(case: Problem, kspace: np.ndarray, image: np.ndarray, noise_std: float) -> Problem:
    """The same sampling of another image."""
    return case._replace(name="gaussian", kspace=kspace, noise_std=noise_std, reference=np.abs(image)[None])


def large() -> None:
    """Eight coils and 216 x 176 pixels, once: is there a warning?"""
    case = validation(4, per_source=1)[0]
    row = cell(case, "tds", {}, 0, steps=20)
    print(
        f"tds, 216 x 176, 8 coils, R = 4, 20 steps, 8 particles: PSNR {row['psnr']:.1f} dB, smallest ESS "
        f"{row['smallest_ess']:.1f}, median {row['median_ess']:.1f}, warned: {row['warned']}, {row['seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("toy", "heads", "gaussian", "large"))
    parser.add_argument("--store", type=Path, default=Path("smc.jsonl"))
    parser.add_argument("--slices", type=int, default=3, choices=(1, 2, 3, 6))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="solvers of heads")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    with torch.no_grad():
        if arguments.part == "heads":
            heads(arguments.store, arguments.slices, arguments.seeds, arguments.only)
        else:
            {"toy": toy, "gaussian": gaussian, "large": large}[arguments.part]()
    print(f"\n{time.perf_counter() - began:.0f} s, seed 0")


if __name__ == "__main__":
    main()
