"""Calibrate intervals of posterior samples on reconstructions with references."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrecon.calibrate import Case, ImageScores
    from medrecon.calibration_file import Calibration

__all__ = ["add_arguments", "coverage_table", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of the command."""
    from medrecon.cli.options import add_compute, add_json, seed

    parser.add_argument(
        "cases",
        metavar="CASES",
        nargs="+",
        help="outputs of 'medrecon recon --samples K' as h5, npz or nifti, or folders of them, all with the same settings",
    )
    parser.add_argument(
        "--reference",
        required=True,
        metavar="REF",
        help="folder of fully sampled k-space or volumes with the names of the cases, or the reference of a single case",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="calibration file, usually cal.json")
    parser.add_argument(
        "--mask",
        metavar="MASKS",
        help="masks of the pixels that count, as --reference (default: the head, found in the reference)",
    )
    parser.add_argument(
        "--regions",
        metavar="LABELS",
        help="images of labels, as --reference: also calibrate the mean of every labelled region",
    )
    parser.add_argument(
        "--radii",
        default="3,6,12",
        metavar="R,R,...",
        help="radii of discs whose mean is calibrated, pixels (default: 3,6,12)",
    )
    parser.add_argument(
        "--splits",
        type=int,
        default=20,
        metavar="N",
        help="random splits of the images that test the calibration (default: 20)",
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.5,
        metavar="F",
        help="part of the images that calibrates in a split (default: 0.5)",
    )
    parser.add_argument(
        "--subjects",
        metavar="WHO",
        help="also test on other subjects: 'prefix' (a name is SUBJECT_...), or a CSV file of CASE,SUBJECT",
    )
    parser.add_argument("--seed", type=seed, default=0, help="random seed of splits and discs (default: 0)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace an existing file")
    existing.add_argument(
        "--append", action="store_true", help="add to an existing file, replacing a calibration of the same runs"
    )
    add_compute(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score the cases, print coverage before and after, and write the calibration."""
    import json
    from pathlib import Path

    from medrecon.calibrate import appended, calibration_of, check_different, check_same_settings, find_cases
    from medrecon.calibration_file import encode, read_calibrations
    from medrecon.cli.options import set_threads
    from medrecon.data.files import check_writable, write_atomically

    output = Path(arguments.output)
    options = _options(arguments)
    set_threads(arguments)
    cases = find_cases(arguments.cases)
    check_same_settings(cases)
    check_different(cases)
    check_writable([output], arguments.overwrite or arguments.append)
    if arguments.append and output.exists():
        read_calibrations(output)  # refused before the cases are read
    images = _scores(cases, options, arguments.subjects)
    calibration = calibration_of(cases, images, {})
    calibration = calibration_of(cases, images, _check(images, arguments))
    found = appended(output, calibration) if arguments.append and output.exists() else [calibration]
    write_atomically({output: encode(found)}, arguments.overwrite or arguments.append)
    facts = {
        "output": str(output),
        "cases": len(cases),
        "images": calibration.images,
        "acceleration": calibration.acceleration,
        "factors": {f"{level:g}": factor for level, factor in calibration.factors.items()},
        **calibration.check,
    }
    print(json.dumps(facts, indent=2) if arguments.json else "\n".join(_report(str(output), calibration)))
    return 0


def _options(arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - medrecon.calibrate.Options
    from pathlib import Path

    from medrecon.calibrate import Options
    from medrecon.data.arguments import check_count
    from medrecon.data.errors import InputError

    check_count("--splits", arguments.splits, least=0, most=10_000)
    if not 0.05 <= arguments.fraction <= 0.95:
        raise InputError(f"--fraction must be from 0.05 to 0.95; got {arguments.fraction:g}")
    try:
        radii = [float(part) for part in arguments.radii.split(",")]
    except ValueError:
        radii = []
    if not radii or not all(0.5 <= radius <= 1000 for radius in radii):
        raise InputError(
            f"--radii {arguments.radii}: expected numbers of pixels from 0.5 to 1000 separated by commas, e.g. 3,6,12"
        )
    given = {"mask": arguments.mask, "regions": arguments.regions}
    paths = {name: None if path is None else Path(path) for name, path in given.items()}
    return Options(
        reference=Path(arguments.reference),
        radii=sorted(set(radii)),
        seed=arguments.seed,
        mask=paths["mask"],
        regions=paths["regions"],
    )


def _scores(cases: list[Case], options: Any, subjects: str | None) -> list[ImageScores]:  # noqa: ANN401
    """Scores of all images, with their subjects."""
    from medrecon.calibrate import scores_of, subjects_of, with_subjects
    from medrecon.cli.options import Progress

    if subjects is not None:
        options = with_subjects(options, subjects_of(subjects, cases))
    images = []
    with Progress("calibrate") as progress:
        for k, case in enumerate(cases):
            images += scores_of(case, options, alone=len(cases) == 1)
            progress(k + 1, len(cases))
    return images


def _check(images: list[ImageScores], arguments: argparse.Namespace) -> dict[str, Any]:
    """Coverage before and after."""
    from medrecon.calibrate import check_by_splits, check_by_subjects, scores_before

    check = {"before": scores_before(images)}
    if arguments.splits:
        check["splits"] = check_by_splits(images, arguments.splits, arguments.seed, fraction=arguments.fraction)
    if arguments.subjects is not None:
        check["subjects"] = check_by_subjects(images, arguments.seed)
    return check


# Printing


def _cell(found: Mapping[str, Any] | None, level: str) -> str:
    value = None if found is None else found.get(level)
    if isinstance(value, Mapping):
        failures = f" ({value['failures']} failed)" if value["failures"] else ""
        return f"{100 * value['mean']:.1f} +- {100 * value['std']:.1f}{failures}"
    return "-" if value is None else f"{100 * value:.1f}"


def coverage_table(calibration: Calibration) -> list[str]:
    """Lines of a Markdown table: coverage in % before and after, by level, of pixels and of the means of regions."""
    check = calibration.check
    before, parts = check["before"], {"splits": check.get("splits"), "subjects": check.get("subjects")}
    lines = [
        "| intervals of | level, % | factor | before, % | after, other images, % | after, other subjects, % |",
        "|" + "---|" * 6,
    ]

    def rows(title: str, factors: Mapping[float, float], find: Any) -> None:  # noqa: ANN401 - a function
        for level, factor in factors.items():
            key = f"{level:.9g}"
            cells = [_cell(find(one), key) for one in (before, parts["splits"], parts["subjects"])]
            lines.append(f"| {title} | {100 * level:g} | {factor:.2f} | {' | '.join(cells)} |")

    rows("pixels", calibration.factors, lambda one: one and one["pixels"])
    lines.append(f"| pixels, p05 to p95 of the samples | 90 | - | {100 * before['p05_to_p95']:.1f} | - | - |")
    for kind, title in (("discs", "mean of a disc, radius {:g} pixels"), ("regions", "mean of label {:g}")):
        for name, factors in getattr(calibration, kind).items():
            rows(title.format(name), factors, lambda one, kind=kind, name=name: one and one[kind].get(f"{name:.9g}"))
    return lines


def _report(output: str, calibration: Calibration) -> list[str]:
    """Lines that the command prints."""
    from medrecon.conformal import LEVELS, images_needed

    speed = "" if calibration.acceleration is None else f", acceleration {calibration.acceleration:g}"
    lines = [f"{output}: {calibration.images} images{speed}", "", *coverage_table(calibration), ""]
    split, other = calibration.check.get("splits"), calibration.check.get("subjects")
    lines.append("before: mean +- z spread, as if samples were normal and exact")
    if split is not None:
        lines.append(
            f"other images: mean +- standard deviation over {split['number']} random splits (seed {split['seed']}; "
            f"{split['images'][0]} images to calibrate, {split['images'][1]} to test)"
        )
    if other is not None:
        lines.append(
            f"other subjects: one random split (seed {other['seed']}): {other['subjects'][0]} subjects with {other['images'][0]} "
            f"images to calibrate, {other['subjects'][1]} with {other['images'][1]} to test"
        )
    missing = [level for level in LEVELS if level not in calibration.factors]
    if missing:
        lines.append(f"intervals of {missing[0]:.0%} are left out: they need {images_needed(missing[0])} images")
    return lines
