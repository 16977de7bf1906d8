"""Coverage of intervals before and after calibration, on reconstructions with references.

    python benchmarks/calibration_cases.py 8 cases --per-source 30     # cases/R8/*.h5 and cases/reference/*.h5
    medrecon recon cases/R8 -o out/R8 --posterior --samples 8 --format h5
    python benchmarks/conformal.py out/R8 out/R4 --reference cases/reference

One table of pixels and one of discs per folder.

* Pixels inside the head, ``mean +- factor * spread``: "before" has the factor of a normal distribution; "after" has that of
  conformal risk control from a random half of the images (``--fraction``), on the others.
* Discs: the mean of a disc at a random place in every image, by split-conformal prediction; "by pixels" uses the factor of the
  pixels for the spread of the mean, which is no interval of a mean.
* "Subjects": a single split in which no subject is in both parts, reported as it is.
* Width: mean width of the interval after calibration, in % of the 99 % quantile of the reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medrecon.calibrate import (
    Case,
    ImageScores,
    Options,
    calibration_of,
    check_by_splits,
    check_by_subjects,
    check_same_settings,
    find_cases,
    scores_before,
    scores_of,
    subjects_of,
    with_subjects,
)
from medrecon.calibration_file import Calibration

LEVELS = (0.5, 0.8, 0.9, 0.95)


def percent(value: float | None) -> str:
    """A fraction in %."""
    return "-" if value is None else f"{100 * value:.1f}"


def split_cells(found: dict | None, number: int) -> str:
    """Mean and standard deviation over splits, range, and failures."""
    if found is None:
        return f"- | - | {number}"
    spread = f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f}"
    return f"{spread} | {percent(found['least'])} to {percent(found['largest'])} | {found['failures']}"


def tables(calibration: Calibration, images: Sequence[ImageScores], number: int, seed: int, fraction: float) -> None:
    """Print the tables of one folder."""
    before, subjects = scores_before(images), check_by_subjects(images, seed)
    splits = check_by_splits(images, number, seed, fraction)
    width = float(np.mean([one.width for one in images]))
    print(
        "| pixels, % | factor | before | after, mean ± std | range | failures | subjects | width |\n" + "|---" * 8 + "|"
    )
    for level in LEVELS:
        key, factor = f"{level:g}", calibration.factors.get(level)
        cells = [
            f"{100 * level:g}",
            "-" if factor is None else f"{factor:.2f}",
            percent(before["pixels"][key]),
            split_cells(splits["pixels"].get(key), number),
            percent(subjects["pixels"].get(key)),
            "-" if factor is None else f"{200 * factor * width:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print(f"\n5 % to 95 % quantile of the samples: {percent(before['p05_to_p95'])} %\n")
    print("| disc, radius | level, % | factor | before | by pixels | after, mean ± std | range | failures | subjects |")
    print("|---" * 9 + "|")
    for radius, factors in calibration.discs.items():
        scores, name = np.array([one.discs[radius] for one in images if radius in one.discs]), f"{radius:g}"
        for level in [one for one in LEVELS if one in factors]:
            key, by_pixels = f"{level:g}", calibration.factors.get(level)
            cells = [
                name,
                f"{100 * level:g}",
                f"{factors[level]:.2f}",
                percent(before["discs"][name][key]),
                percent(None if by_pixels is None else float(np.mean(scores <= by_pixels))),
                split_cells(splits["discs"].get(name, {}).get(key), number),
                percent(subjects["discs"].get(name, {}).get(key)),
            ]
            print(f"| {' | '.join(cells)} |")
    halves, parts = splits["images"], list(zip(subjects["subjects"], subjects["images"], strict=True))
    print(f"\n{number} random splits: {halves[0]} images to calibrate, {halves[1]} to test, seed {seed}")
    print(f"subjects: {parts[0][0]} with {parts[0][1]} images to calibrate, {parts[1][0]} with {parts[1][1]} to test")


def scored(cases: Sequence[Case], reference: Path, seed: int) -> tuple[list[ImageScores], int]:
    """Scores of all images, and the number of cases that failed."""
    check_same_settings(cases)
    options = with_subjects(Options(reference=reference, seed=seed), subjects_of("prefix", cases))
    images, failures = [], 0
    for case in cases:
        found = scores_of(case, options, alone=len(cases) == 1)
        failures += not found
        images += found
    return images, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of reconstructions, one acceleration each")
    parser.add_argument("--reference", type=Path, required=True, help="folder of references with the same names")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--fraction", type=float, default=0.5, help="part of the images that calibrates (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        began, cases = time.perf_counter(), find_cases([folder])
        images, failures = scored(cases, arguments.reference, arguments.seed)
        calibration = calibration_of(cases, images, {})
        settings = calibration.settings
        print(
            f"\n## {settings['bundle']}, {settings['solver']['name']}, {settings['samples']} samples, {settings['steps']} steps, "
            f"R = {calibration.acceleration:g}: {len(cases)} cases, {len(images)} images, {failures} cases without a head\n"
        )
        tables(calibration, images, arguments.splits, arguments.seed, arguments.fraction)
        print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
