"""Choose the settings of solvers on simulated scans of held-out subjects, never on the data of the reported scores.

    python benchmarks/tune.py dds prior_weight=1,2,4 eta=0.7,0.85 sigma_max=4,8      # every combination
    python benchmarks/tune.py --all --problems mri --store tuned.jsonl               # every solver, one setting after another
    python benchmarks/tune.py dds steps=12 extrapolation=0,1 sigma_scale=1.3,1.6 --accelerations 4 --seeds 2 --store fast.jsonl

Problems: ``mri`` (brains, eight coils, R = 4 and 8, or other ``--accelerations``), ``coil`` (the same with one coil),
``ct`` (chests, 23 and 10 views, other patients than in benchmarks/solvers.py); brains also with another ``--bundle``.
Settings of the inferer (steps, sigma_max, sigma_min, spacing, samples, symmetries) can be varied like those of the
solver. Scores are mean PSNR and SSIM, best last. ``--all`` goes through every list of GRIDS once, with the best value
found so far for each other setting. Results in the store are not computed again, so an interrupted run can be resumed.
At the end of ``--all``, ``tuned`` of a bundle's prior.yaml is printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
from problems import Problem, Tomogram, chest, prior_of, run, validation

from medrecon.bundle import load_prior
from medrecon.metrics import scores
from medrecon.solvers import SOLVERS

INFERER = ("steps", "sigma_max", "sigma_min", "spacing", "samples", "symmetries")
SIGMA_MAX = [0.3, 0.7, 1.5, 4.0]
GRIDS: dict[str, dict[str, list]] = {
    "cg-sense": {"lam": [0.00001, 0.0001, 0.0005, 0.003, 0.01, 0.03, 0.1], "n_iter": [10, 30, 100]},
    "wavelet": {"strength": [0.05, 0.1, 0.15, 0.2, 0.3, 0.5]},
    "tv": {"strength": [0.02, 0.05, 0.1, 0.15, 0.2, 0.3], "n_iter": [30, 150]},
    "low-rank": {"lam": [0.0005, 0.002, 0.005, 0.02]},
    "fbp": {"kind": ["ramp", "shepp-logan", "cosine", "hann"]},
    "sirt": {"n_iter": [20, 50, 100, 200]},
    "dds": {"sigma_max": [0.3, 0.5, 1.5], "prior_weight": [0.1, 0.2, 0.5], "sigma_scale": [1.0, 1.3, 1.6]},
    "ddnm": {"sigma_max": SIGMA_MAX, "n_cg": [1, 2, 5], "eta": [0.7, 0.85, 1.0]},
    "ddnmplus": {"sigma_max": SIGMA_MAX, "n_cg": [1, 2, 5], "eta": [0.7, 0.85, 0.95]},
    "mgdm": {
        "sigma_max": SIGMA_MAX, "prior_weight": [0.2, 0.5, 1.0, 2.0], "zeta": [0.0, 0.1, 0.25, 0.5],
        "rho": [0.0, 0.1, 0.25], "sigma_scale": [1.0, 1.3, 1.6],
    },
    "dps": {"zeta": [0.01, 0.02, 0.04, 0.08, 0.2, 0.4, 0.8], "sigma_max": SIGMA_MAX},
    "diffpir": {"lam": [0.1, 0.3, 1.0, 3.0, 8.0, 20.0], "sigma_max": SIGMA_MAX, "fresh_noise_fraction": [0.1, 0.3, 0.6, 1.0]},
    "reddiff": {
        "prior_weight": [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], "sigma_max": [0.1, *SIGMA_MAX], "lr": [0.02, 0.05, 0.1],
        "schedule": ["linear", "sqrt", "constant"],
    },
    "daps": {"n_ode": [5, 2, 1], "image_std": [0.01, 0.03, 0.1, 0.25, None], "sigma_max": SIGMA_MAX},
    "pnpdm": {"n_inner": [5, 2, 1], "sigma_max": SIGMA_MAX},
    "sitcom": {"n_inner": [5, 3, 1], "lr": [0.02, 0.05, 0.1, 0.2, 0.4], "sigma_max": SIGMA_MAX, "lam": [1e-5, 1e-3, 0.1, 1.0]},
    "ald": {"n_inner": [3, 1], "step_size": [0.2, 0.5, 0.9], "sigma_max": SIGMA_MAX},
    "smrd": {"n_inner": [3, 1], "step_size": [0.2, 0.5, 1.0], "sigma_max": SIGMA_MAX, "lam": [0.1, 1.0]},
    "scoremri": {"sigma_max": SIGMA_MAX, "n_corrector": [3, 1, 0], "snr": [0.16, 0.4, 0.7], "strength": [0.5, 1.0]},
    "scoremed": {"sigma_max": SIGMA_MAX, "n_corrector": [3, 1, 0], "snr": [0.16, 0.4, 0.7], "strength": [0.5, 0.8, 1.0]},
    "ilvr": {"sigma_max": SIGMA_MAX, "n_cg": [1, 2, 5], "until": [0.0, 0.02]},
    "repaint": {"sigma_max": SIGMA_MAX, "repeats": [1, 2, 4, 8]},
    "ddrm": {"sigma_max": SIGMA_MAX, "eta": [0.5, 0.85, 0.95], "eta_b": [0.3, 0.6, 1.0]},
    "mcg": {"zeta": [0.002, 0.008, 0.02, 0.04], "sigma_max": SIGMA_MAX, "strength": [0.5, 0.8, 1.0], "n_cg": [1, 2, 5]},
    "dsg": {"guidance": [0.1, 0.2, 0.4, 0.7, 1.0], "sigma_max": SIGMA_MAX},
    "lgd": {"zeta": [0.004, 0.01, 0.02, 0.04, 0.08], "sigma_max": SIGMA_MAX, "image_std": [0.05, 0.25]},
    "pigdm": {"sigma_max": SIGMA_MAX, "image_std": [0.25, 0.35, 0.5, 1.0], "eta": [0.5, 0.85, 1.0]},
    "tmpd": {"sigma_max": [0.7, 1.5, 4.0], "eta": [0.5, 1.0]},
}  # fmt: skip
"""What ``--all`` tries, the settings that matter most first."""


def grid(solver: str, kind: str) -> dict[str, list]:
    """Lists of settings of a solver; for sparse-view CT, which is ill-conditioned, the iterations of its solves come first."""
    lists = GRIDS[solver]
    settings = asdict(SOLVERS[solver]())
    if kind == "ct" and "n_cg" in settings:
        lists = {"n_cg": [settings["n_cg"], 20], **{k: v for k, v in lists.items() if k != "n_cg"}}
    return lists


def problems(
    kind: str, per_source: int = 1, noise: float = 0.01, few: bool = False, accelerations: Iterable[int] = (4, 8)
) -> dict[str, list]:
    """Validation scans by name; ``few``: one scan each, of different subjects, for searches."""
    if kind == "ct":
        scans = {f"{views} views": [chest(views, index) for index in (4, 9)] for views in (23, 10)}
    else:
        scans = {f"R={R}": validation(R, per_source, noise, coils=1 if kind == "coil" else 8) for R in accelerations}
    return {name: cases[i : i + 1] for i, (name, cases) in enumerate(scans.items())} if few else scans


def score(
    solver: str,
    choice: dict,
    scans: dict[str, list[Problem | Tomogram]],
    brain: str = "brain_mri",
    seeds: int = 1,
    **more: object,
) -> dict[str, tuple[float, float]]:
    """Mean PSNR and SSIM of every group of scans and the seeds, brains by the bundle ``brain``; ``more`` goes to the inferer."""
    outer = {k: v for k, v in choice.items() if k in INFERER}
    settings = {k: v for k, v in choice.items() if k not in INFERER}
    result = {}
    for name, cases in scans.items():
        each = []
        for case in cases:
            prior = prior_of(case, None if isinstance(case, Tomogram) else brain)
            for seed in range(seeds):
                made = run(case, prior, solver=solver, settings=settings, seed=seed, **outer, **more)
                each.append(scores(made.image, case.reference))
        result[name] = float(np.mean([e["psnr"] for e in each])), float(np.mean([e["ssim"] for e in each]))
    return result


def whole(solver: str, choice: dict) -> dict:
    """A choice of settings, completed by the defaults."""
    return {**asdict(SOLVERS[solver]()), **choice}


def one_after_another(
    solver: str, scans: dict, store: Path | None, kind: str, held: list[dict], brain: str, depth: int
) -> dict:
    """Search the first ``depth`` lists of the grid, with the best value found so far for each other setting."""
    lists = dict(list(grid(solver, kind).items())[:depth])
    choice: dict = {"sigma_max": 1.5} if "sigma_max" in GRIDS[solver] else {}
    if brain != "brain_mri":  # another prior of the same images: from what suits that one
        choice |= load_prior("brain_mri").tuned.get(solver, {})
    for name, values in lists.items():
        tried = []
        for value in values:
            one = {**choice, name: value}
            row = next(
                (r for r in held if r["solver"] == solver and whole(solver, r["choice"]) == whole(solver, one)), None
            )
            if row is None:
                result = score(solver, one, scans, brain, tuned={})
                mean = float(np.mean([p for p, _ in result.values()]))
                row = {"problems": kind, "brain": brain, "solver": solver, "choice": one, "psnr": mean, "each": result}
                print(solver, one, {k: f"{p:.2f} {s:.4f}" for k, (p, s) in result.items()}, flush=True)
                held.append(row)
                if store is not None:
                    with open(store, "a") as file:
                        file.write(json.dumps(row) + "\n")
            tried.append((row["psnr"], value))
        choice[name] = best_of(name, tried)
    return choice


def best_of(name: str, tried: list[tuple[float, object]]) -> object:
    """The value with the highest PSNR; of first levels within 0.2 dB the highest.

    A run from a low level keeps what it began with, which on scans unlike these may be far off.
    """
    finite = [(psnr, value) for psnr, value in tried if np.isfinite(psnr)]  # a diverged run has none
    if not finite:
        return tried[0][1]
    top = max(psnr for psnr, _ in finite)
    if name == "sigma_max":
        return max(value for psnr, value in finite if psnr > top - 0.2)  # type: ignore[type-var]
    return max(finite, key=lambda t: t[0])[1]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def combinations(
    solver: str, items: Iterable[str], scans: dict, brain: str, *, seeds: int = 1, store: Path | None = None
) -> None:
    """Evaluate and print all combinations; those in the store are not computed again."""
    lines = store.read_text().splitlines() if store and store.exists() else []
    held = {json.dumps(row["key"], sort_keys=True): row["each"] for row in map(json.loads, lines) if "key" in row}
    split = (item.partition("=") for item in items)
    lists = [(name, [_value(v) for v in values.split(",")]) for name, _, values in split]
    rows = []
    for values in itertools.product(*(v for _, v in lists)):
        choice = dict(zip((name for name, _ in lists), values, strict=True))
        cases = {name: [case.name for case in group] for name, group in scans.items()}
        key = {"solver": solver, "choice": choice, "brain": brain, "seeds": seeds, "scans": cases}
        text = json.dumps(key, sort_keys=True)
        if text not in held:
            held[text] = score(solver, choice, scans, brain, seeds)
            if store is not None:
                with open(store, "a") as file:
                    file.write(json.dumps({"key": key, "each": held[text]}) + "\n")
        result = held[text]
        rows.append((np.mean([p for p, _ in result.values()]), choice, result))
        print(choice, {k: f"{p:.2f} {s:.4f}" for k, (p, s) in result.items()}, flush=True)
    print("\nbest:", *max(rows, key=lambda row: row[0])[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solver", nargs="?")
    parser.add_argument("grid", nargs="*", help="name=value,value,...")
    parser.add_argument("--problems", choices=("mri", "coil", "ct"), default="mri")
    parser.add_argument("--bundle", default="brain_mri", help="prior of the brains")
    parser.add_argument("--depth", type=int, default=99, help="with --all: number of lists per solver")
    parser.add_argument("--per-source", type=int, default=1, help="brains from each of three sources (default: 1)")
    parser.add_argument("--noise", type=float, default=0.01, help="noise of the k-space of brains")
    parser.add_argument("--accelerations", type=int, nargs="+", default=(4, 8), help="of brains (default: 4 8)")
    parser.add_argument("--seeds", type=int, default=1, help="samples of every scan (default: 1)")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(GRIDS), help="with --all: these solvers")
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    lines = arguments.store.read_text().splitlines() if arguments.store and arguments.store.exists() else []
    wanted = arguments.problems, arguments.bundle
    held = [r for r in map(json.loads, lines) if (r.get("problems"), r.get("brain", "brain_mri")) == wanted]
    scans = problems(
        arguments.problems,
        arguments.per_source,
        arguments.noise,
        few=arguments.all,
        accelerations=arguments.accelerations,
    )
    if not arguments.all:
        combinations(
            arguments.solver, arguments.grid, scans, arguments.bundle, seeds=arguments.seeds, store=arguments.store
        )
        return
    chosen = {}
    for solver in arguments.only:
        try:
            chosen[solver] = one_after_another(
                solver, scans, arguments.store, arguments.problems, held, arguments.bundle, arguments.depth
            )
        except ValueError as error:  # an operator that the solver cannot work with
            print(solver, error)
    print("\ntuned:")
    for solver, choice in chosen.items():
        differs = {k: v for k, v in choice.items() if v != asdict(SOLVERS[solver]()).get(k)}
        if differs:
            print(f"  {solver}: {json.dumps(differs)}".replace('"', ""))


if __name__ == "__main__":
    main()
