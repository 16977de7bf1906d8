"""Run all solvers on the real slice A (8 coils, 230 x 180) at R = 4 and 8: PSNR, SSIM, time, network evaluations.

    python benchmarks/slice_a.py [--quality fast]

Masks, reference and metric are those of README.md. The settings are the defaults, which were chosen on other data
(benchmarks/tune.py). The last row of a sampler is the mean of eight samples.
"""

from __future__ import annotations

import argparse
import warnings

warnings.filterwarnings("ignore")

import numpy as np
from problems import prior_of, run, samples_of, slice_a

from medrecon.metrics import scores
from medrecon.operators import MulticoilMRI
from medrecon.settings import QUALITIES
from medrecon.solvers import SOLVERS, is_unconditional


def counts(evaluations: list[int]) -> str:
    """One number, or those of R = 4 and R = 8."""
    return ", ".join(str(n) for n in dict.fromkeys(evaluations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    able = [n for n, s in SOLVERS.items() if issubclass(MulticoilMRI, s.requires.operator) and not is_unconditional(s)]
    able = [n for n in able if not SOLVERS[n].estimates_parameters]  # maps are given here: benchmarks/maps.py
    parser.add_argument("--solvers", nargs="*", default=able)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--weights", help="checkpoint of train.yaml (default: the bundle's weights)")
    parser.add_argument("--quality", choices=QUALITIES, help="number of evaluations (default: standard)")
    parser.add_argument("--condition", help="label that conditions the prior, e.g. T1")
    parser.add_argument("--png", help="also write a montage for R = 4 (needs matplotlib)")
    arguments = parser.parse_args()
    problems = {R: slice_a(R) for R in (4, 8)}
    print("| solver | evaluations | seconds | R = 4: PSNR dB / SSIM | R = 8: PSNR dB / SSIM |")
    print("|---|---|---|---|---|")
    pictures, captions = {}, {}
    for name in arguments.solvers:
        many = SOLVERS[name].requires.prior and arguments.samples > 1
        single, mean, records = {}, {}, []
        for R, case in problems.items():
            more = {"condition": arguments.condition, "quality": arguments.quality}
            prior = prior_of(case, weights=arguments.weights)
            made = run(case, prior, solver=name, samples=arguments.samples if many else 1, **more)
            records.append(made.record)
            size = samples_of(made)
            each = [scores(s, case.reference) for s in size]
            single[R] = tuple(np.mean([e[key] for e in each]) for key in ("psnr", "ssim"))
            mean[R] = tuple(scores(size.mean(0), case.reference)[key] for key in ("psnr", "ssim"))
            if R == 4:
                pictures[name] = size[0, 0]
                captions[name] = "{:.1f} dB, {:.3f}".format(*single[4])
        n = arguments.samples if many else 1
        steps = [r["network_evaluations"] // n for r in records]
        seconds = np.mean([r["seconds"] for r in records]) / n
        cells = [f"{p:.1f} / {s:.3f}" for p, s in single.values()]
        label = f"{name} (one sample)" if many else name
        print(f"| {label} | {counts(steps)} | {seconds:.2f} | {cells[0]} | {cells[1]} |", flush=True)
        if many:
            cells = [f"{p:.1f} / {s:.3f}" for p, s in mean.values()]
            print(
                f"| {name} (mean of {n}) | {counts([n * k for k in steps])} | {n * seconds:.1f} | {cells[0]} | {cells[1]} |",
                flush=True,
            )
    if arguments.png:
        from medrecon.report.montage import montage

        with open(arguments.png, "wb") as file:
            file.write(montage(problems[4].reference[0], pictures, captions))


if __name__ == "__main__":
    main()
