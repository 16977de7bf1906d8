"""Quality against the number of network evaluations, and what ``--quality`` gives, on validation scans and on slice A.

    python benchmarks/evaluations.py --store evaluations.jsonl
    python benchmarks/evaluations.py --groups "R=8" "10 views" --solvers dds --evaluations 12 20 50

Groups: ``R=4``, ``R=6``, ``R=8`` (simulated brains of held-out subjects, eight coils), ``23 views`` and ``10 views`` (chests
of two held-out patients), ``slice A, R=4`` and ``slice A, R=8`` (real); on request ``one coil, R=4``, ``noisy, R=4`` (three
times the noise) and the same at R = 8, for which nothing was chosen. Every solver runs with the settings of its
bundle; ``dds, order 1`` is dds as it was before 0.4: without extrapolation, at the first level 0.3 for brains and 0.5 for chests.
PSNR in dB of one sample, mean over scans and seeds. Settings and numbers of evaluations were chosen on the
validation scans alone (benchmarks/tune.py). Results in the store are not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
from problems import Problem, Tomogram, chest, run, slice_a, validation

from medrecon.metrics import scores
from medrecon.settings import QUALITIES

GROUPS = ("R=4", "R=6", "R=8", "23 views", "10 views", "slice A, R=4", "slice A, R=8")
MORE = ("one coil, R=4", "one coil, R=8", "noisy, R=4", "noisy, R=8")
EVALUATIONS = (8, 12, 20, 35, 50, 100)
FIRST_ORDER = {
    "brain": {
        "settings": {"extrapolation": 0.0, "prior_weight": 0.2, "sigma_scale": 1.3},
        "sigma_max": 0.3,
        "spacing": 7.0,
    },
    "chest": {
        "settings": {"extrapolation": 0.0, "prior_weight": 0.1, "sigma_scale": 1.2, "n_cg": 30},
        "sigma_max": 0.5,
        "spacing": 7.0,
    },
}
"""Settings of dds before 0.4."""


@cache
def cases(group: str, per_source: int) -> list[Problem | Tomogram]:
    """The scans of a group."""
    if group.endswith("views"):
        return [chest(int(group.split()[0]), index) for index in (4, 9)]
    accel = int(group[-1])
    if group.startswith("slice A"):
        return [slice_a(accel)]
    noise = 0.03 if group.startswith("noisy") else 0.01
    return list(validation(accel, per_source, noise, coils=1 if group.startswith("one coil") else 8))


def options(solver: str, group: str, count: int | str) -> dict:
    """What a user would ask for: a number of evaluations, or a quality."""
    given: dict = {"steps": count} if isinstance(count, int) else {"quality": count}
    if solver == "dds, order 1":
        return {"solver": "dds", **given, **FIRST_ORDER["chest" if group.endswith("views") else "brain"]}
    return {"solver": solver, **given}


class Results:
    """Rows of a file, and new ones.

    Args:
        store: file of results, or ``None``.
        per_source: brains from each of three sources.
    """

    def __init__(self, store: Path | None, per_source: int) -> None:
        self.store = store
        self.per_source = per_source
        lines = store.read_text().splitlines() if store and store.exists() else []
        self.held = {json.dumps(row["key"]): row for row in map(json.loads, lines)}

    def one(self, solver: str, group: str, count: int | str, seed: int) -> dict:
        """Mean PSNR and SSIM of the scans of a group, evaluations and seconds per sample."""
        key = [solver, group, count, seed, self.per_source]
        text = json.dumps(key)
        if text not in self.held:
            rows, began = [], time.perf_counter()
            for case in cases(group, self.per_source):
                made = run(case, seed=seed, **options(solver, group, count))
                found = scores(made.image, case.reference)
                rows.append((found["psnr"], found["ssim"], made.record["network_evaluations"], made.record["seconds"]))
            psnr, ssim, evaluations, seconds = np.mean(rows, axis=0).tolist()
            row = {
                "key": key, "psnr": psnr, "ssim": ssim, "evaluations": evaluations, "seconds": seconds, "scans": len(rows),
                "took": time.perf_counter() - began,
            }  # fmt: skip
            self.held[text] = row
            if self.store is not None:
                with open(self.store, "a") as file:
                    file.write(json.dumps(row) + "\n")
        return self.held[text]

    def mean(self, solver: str, group: str, count: int | str, seeds: range) -> dict[str, float]:
        """The mean over seeds."""
        rows = [self.one(solver, group, count, seed) for seed in seeds]
        return {key: float(np.mean([row[key] for row in rows])) for key in ("psnr", "ssim", "evaluations", "seconds")}


def curves(results: Results, arguments: argparse.Namespace) -> Iterator[str]:
    """A table of PSNR by group, solver and number of evaluations."""
    yield "| scans | solver | " + " | ".join(map(str, arguments.evaluations)) + " | seconds |"
    yield "|---|---|" + "---|" * (len(arguments.evaluations) + 1)
    for group, solver in product(arguments.groups, arguments.solvers):
        found = [results.mean(solver, group, n, range(arguments.seeds)) for n in arguments.evaluations]
        cells = " | ".join(f"{one['psnr']:.1f}" for one in found)
        yield f"| {group} | {solver} | {cells} | {found[-1]['seconds']:.1f} |"


def qualities(results: Results, arguments: argparse.Namespace) -> Iterator[str]:
    """A table of what ``--quality`` gives for dds."""
    yield "| scans | " + " | ".join(QUALITIES) + " | seconds |"
    yield "|---|" + "---|" * (len(QUALITIES) + 1)
    for group in arguments.groups:
        found = [results.mean("dds", group, one, range(arguments.seeds)) for one in QUALITIES]
        cells = " | ".join(f"{one['psnr']:.1f} / {one['ssim']:.3f} ({one['evaluations']:.0f})" for one in found)
        seconds = ", ".join(f"{one['seconds']:.1f}" for one in found)
        yield f"| {group} | {cells} | {seconds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=(*GROUPS, *MORE), default=GROUPS)
    parser.add_argument("--solvers", nargs="*", default=["dds", "dds, order 1", "mgdm", "diffpir"])
    parser.add_argument("--evaluations", nargs="*", type=int, default=EVALUATIONS)
    parser.add_argument("--per-source", type=int, default=1, help="brains from each of three sources (default: 1)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", nargs="+", choices=("qualities", "curves"), default=("qualities", "curves"))
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    results = Results(arguments.store, arguments.per_source)
    for table in arguments.tables:
        for line in {"qualities": qualities, "curves": curves}[table](results, arguments):
            print(line, flush=True)
        print()
    took = sum(row["took"] for row in results.held.values())  # also of earlier runs
    print(f"seeds 0 to {arguments.seeds - 1}; {len(results.held)} rows in {took:.0f} s")


if __name__ == "__main__":
    main()
