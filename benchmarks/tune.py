"""Choose a solver's settings on simulated validation scans, never on the real slice that is reported.

    python benchmarks/tune.py dds prior_weight=1,2,4 eta=0.7,0.85 sigma_max=4,8
    python benchmarks/tune.py tv lam=0.001,0.003,0.01

Tries every combination; settings of the inferer (sigma_max, sigma_min, n_steps, samples, symmetries) may be varied like
those of the solver. Prints mean PSNR and SSIM over the scans at R = 4 and 8, best last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings

warnings.filterwarnings("ignore")

import numpy as np
from problems import inferer, run, validation

from medrecon.metrics import scores

INFERER = ("sigma_max", "sigma_min", "n_steps", "samples", "symmetries")


def _value(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solver")
    parser.add_argument("grid", nargs="*", help="name=value,value,...")
    parser.add_argument("--accel", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--per-source", type=int, default=1, help="scans from each of three sources (default: 1)")
    parser.add_argument("--noise", type=float, default=0.01)
    arguments = parser.parse_args()
    problems = {R: validation(R, arguments.per_source, arguments.noise) for R in arguments.accel}
    grid = [
        (name, [_value(v) for v in values.split(",")]) for name, _, values in (i.partition("=") for i in arguments.grid)
    ]
    rows = []
    for values in itertools.product(*(v for _, v in grid)):
        choice = dict(zip((name for name, _ in grid), values, strict=True))
        outer = {k: v for k, v in choice.items() if k in INFERER}
        settings = {k: v for k, v in choice.items() if k not in INFERER}
        solve, network = inferer(solver=arguments.solver, settings=settings, **outer)
        result = {}
        for R, cases in problems.items():
            each = [scores(run(case, solve, network).abs().mean(0).numpy(), case.reference) for case in cases]
            result[R] = np.mean([e["psnr"] for e in each]), np.mean([e["ssim"] for e in each])
        rows.append((np.mean([v[0] for v in result.values()]), choice, result))
        print(choice, {R: f"{p:.2f} {s:.4f}" for R, (p, s) in result.items()}, flush=True)
    print("\nbest:", *max(rows, key=lambda row: row[0])[1:])


if __name__ == "__main__":
    main()
