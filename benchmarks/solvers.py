"""Every solver at equal budgets of network evaluations: multicoil MRI, single-coil MRI and sparse-view CT.

    python benchmarks/solvers.py --store solvers.jsonl [--only dds tv] [--budgets 50 100] [--png solvers.png]
    python benchmarks/solvers.py --store solvers.jsonl --table

Cell by cell: what the store holds is not run again, so a stopped run goes on. Problems: slice A of the data folder (eight
coils) and a complex knee image (one coil), by columns at R = 4 and 8; 23 and 10 parallel views of a held-out chest. Settings
are those that come with the bundles, which benchmarks/tune.py chose on other data. One sample each: PSNR dB / SSIM, residual
over noise (1: the image explains the data as well as the truth would), seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
from problems import Problem, Tomogram, chest, inferer, knee, run, slice_a

from medrecon.data.errors import InputError
from medrecon.metrics import scores
from medrecon.report.montage import sheet
from medrecon.solvers import SOLVERS, is_unconditional

PROBLEMS = ("slice A R=4", "slice A R=8", "knee R=4", "knee R=8", "CT 23 views", "CT 10 views")


@functools.cache
def problem(name: str) -> Problem | Tomogram:
    """That of a column."""
    if name.startswith("CT"):
        return chest(int(name.split()[1]))
    return (slice_a if name.startswith("slice A") else knee)(int(name[-1]))


def cell(name: str, solver: str, budget: int) -> dict:
    """One entry of the table, and the image."""
    case = problem(name)
    changes = {"side": 256, "spacing": case.spacing} if isinstance(case, Tomogram) else {}
    bundle = "chest_ct" if changes else "brain_mri"
    out = run(case, *inferer(bundle, solver=solver, n_steps=budget, **changes))
    image = (out.abs() if out.is_complex() else out).numpy()[0]
    record = json.loads(out.meta["record"])
    keys = ("network_evaluations", "seconds", "residual_over_noise")
    return {
        **scores(image, case.reference),
        **{key: record[key] for key in keys},
        "image": image[0] / np.percentile(case.reference, 99.8),
    }


def table(rows: list[dict]) -> None:
    """Print what the store holds."""
    print("| solver | evaluations | " + " | ".join(PROBLEMS) + " | seconds |")
    print("|" + "---|" * (len(PROBLEMS) + 3))
    for solver in SOLVERS:
        for budget in sorted({row["budget"] for row in rows if row["solver"] == solver}):
            found = {row["problem"]: row for row in rows if (row["solver"], row["budget"]) == (solver, budget)}
            cells, seconds = [], []
            for problem in PROBLEMS:
                row = found.get(problem)
                if row is None or "error" in row:
                    cells.append("")
                else:
                    over = row["residual_over_noise"]
                    cells.append(f"{row['psnr']:.1f} / {row['ssim']:.3f}" + ("" if over is None else f" / {over:.2f}"))
                    seconds.append(row["seconds"])
            if seconds:
                print(f"| {solver} | {budget or ''} | {' | '.join(cells)} | {np.mean(seconds):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[name for name in SOLVERS if not is_unconditional(SOLVERS[name])])
    parser.add_argument("--problems", nargs="*", default=PROBLEMS, choices=PROBLEMS)
    parser.add_argument("--budgets", nargs="*", type=int, default=[50, 100])
    parser.add_argument("--table", action="store_true", help="print, run nothing")
    parser.add_argument("--png", type=Path, help="a sheet of what this run made, a row a problem")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    held = {(row["problem"], row["solver"], row["budget"]) for row in rows}
    images: list[np.ndarray] = []
    for problem in () if arguments.table else arguments.problems:
        for solver in arguments.only:
            for budget in arguments.budgets if SOLVERS[solver].requires.prior else [0]:
                if (problem, solver, budget) in held:
                    continue
                row = {"problem": problem, "solver": solver, "budget": budget}
                try:
                    found = cell(problem, solver, budget or 1)
                    images.append(found.pop("image"))
                    row |= {key: None if value is None else float(value) for key, value in found.items()}
                except InputError as error:  # an operator that the solver cannot work with
                    row["error"] = str(error)
                rows.append(row)
                with open(arguments.store, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    table(rows)
    if arguments.png and images:
        side = max(max(image.shape) for image in images)
        padded = [np.pad(i, [((side - n) // 2, side - n - (side - n) // 2) for n in i.shape]) for i in images]
        arguments.png.write_bytes(sheet(np.stack(padded), 1.0, columns=8))


if __name__ == "__main__":
    main()
