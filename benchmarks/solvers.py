"""Compare all solvers at equal numbers of network evaluations: multicoil MRI, single-coil MRI and sparse-view CT.

    python benchmarks/solvers.py --store solvers.jsonl [--only dds tv] [--budgets 50 100] [--png images.png]
    python benchmarks/solvers.py --store solvers.jsonl --table [--figure docs/solvers.png]

Results in the store are not computed again, so an interrupted run can be resumed. Problems: slice A of the data folder
(eight coils) and a complex knee image (one coil), undersampled by columns at R = 4 and 8; 23 and 10 parallel views of a
held-out chest, 23 views also with 350 evaluations. The settings come with the bundles; benchmarks/tune.py chose them on
other data. One sample each: PSNR dB / SSIM, residual over noise (1: the image explains the data as well as the true
image would), seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
from problems import Problem, Tomogram, chest, knee, run, slice_a

from medrecon.data.errors import InputError
from medrecon.metrics import scores
from medrecon.report.montage import sheet
from medrecon.solvers import SOLVERS, is_unconditional

MORE = {"CT 23 views": [350]}
"""Further budgets of a column."""
PROBLEMS = ("slice A R=4", "slice A R=8", "knee R=4", "knee R=8", "CT 23 views", "CT 10 views")


@functools.cache
def problem(name: str) -> Problem | Tomogram:
    """That of a column."""
    if name.startswith("CT"):
        return chest(int(name.split()[1]))
    return (slice_a if name.startswith("slice A") else knee)(int(name[-1]))


def cell(name: str, solver: str, budget: int) -> dict:
    """An entry of the table, and the image."""
    case = problem(name)
    made = run(case, solver=solver, steps=budget)
    image, record = made.image, made.record
    keys = ("network_evaluations", "seconds", "residual_over_noise")
    return {
        **scores(image, case.reference),
        **{key: record[key] for key in keys},
        "image": image[0] / np.percentile(case.reference, 99.8),
    }


def table(rows: list[dict]) -> None:
    """Print the results in the store."""
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


def figure(rows: list[dict], path: Path) -> None:
    """Draw a dot for every result, with the solvers in the order of their mean over the problems that they support."""
    from matplotlib.figure import Figure

    cells = {(r["solver"], r["problem"], r["budget"]): r["psnr"] for r in rows if "psnr" in r}

    def mean(solver: str) -> float:
        # Relative to the best of each problem, since not all solvers support all problems.
        best = {p: max(v for (_, problem, _), v in cells.items() if problem == p) for p in PROBLEMS}
        own = [v - best[p] for (name, p, budget), v in cells.items() if name == solver and budget in (0, 50)]
        return float(np.mean(own)) if own else -np.inf

    order = sorted({name for name, *_ in cells}, key=mean)
    chart = Figure(figsize=(14, 0.24 * len(order) + 1.2), layout="constrained")
    axes = chart.subplots(1, len(PROBLEMS), sharey=True)
    for axis, problem in zip(axes, PROBLEMS, strict=True):
        for budget, style, label in (
            (0, "s", "no prior"),
            (50, "o", "50 evaluations"),
            (100, "D", "100"),
            (350, "^", "350"),
        ):
            found = [
                (cells[name, problem, budget], i) for i, name in enumerate(order) if (name, problem, budget) in cells
            ]
            if found:
                axis.scatter(*zip(*found, strict=True), marker=style, s=16, label=label, alpha=0.8)
        top = max(v for (_, p, _), v in cells.items() if p == problem)
        axis.set(title=problem, xlabel="PSNR, dB", xlim=(top - 14, top + 1))
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(order)), order)
    axes[-2].legend(fontsize=7, loc="lower left")
    chart.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument(
        "--only",
        nargs="*",
        default=[name for name, one in SOLVERS.items() if not (is_unconditional(one) or one.estimates_parameters)],
    )
    parser.add_argument("--problems", nargs="*", default=PROBLEMS, choices=PROBLEMS)
    parser.add_argument("--budgets", nargs="*", type=int, default=[50, 100])
    parser.add_argument("--table", action="store_true", help="print the stored results without running anything")
    parser.add_argument(
        "--figure", type=Path, help="figure of the PSNR of all solvers at the two budgets, one panel per problem"
    )
    parser.add_argument("--png", type=Path, help="figure with the images of this run, one row per problem")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    held = {(row["problem"], row["solver"], row["budget"]) for row in rows}
    images: list[np.ndarray] = []
    for problem in () if arguments.table else arguments.problems:
        for solver in arguments.only:
            budgets = [*arguments.budgets, *MORE.get(problem, [])] if SOLVERS[solver].requires.prior else [0]
            for budget in budgets:
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
    if arguments.figure:
        figure(rows, arguments.figure)
    if arguments.png and images:
        side = max(max(image.shape) for image in images)
        padded = [np.pad(i, [((side - n) // 2, side - n - (side - n) // 2) for n in i.shape]) for i in images]
        arguments.png.write_bytes(sheet(np.stack(padded), 1.0, columns=8))


if __name__ == "__main__":
    main()
