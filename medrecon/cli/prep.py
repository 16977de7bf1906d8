"""Prepare a data set by a recipe: shards, a manifest and splits by subject."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SRC, -o and everything else."""
    from medrecon.cli.options import add_json

    add_json(parser)
    parser.add_argument("source", metavar="SRC", help="folder of the data set")
    parser.add_argument("-o", "--output", required=True, metavar="DST", help="folder of shards and manifest, its own")
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help="name of a recipe (see data_prep), or a YAML file"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--split", type=_shares, default=(0.8, 0.1, 0.1), metavar="A/B/C", help="train/val/test (default: .8/.1/.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of splits, and of what a recipe draws (default: 0)")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="scheduler of a cluster, e.g. tcp://host:8786 (default: none)"
    )
    parser.add_argument(
        "--shard-mb", type=int, default=1024, metavar="MB", help="about how large shards are (default: 1024)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the recipe; repeatable"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="S",
        help="seconds a case may take, and again for each 16 MB (default: 60)",
    )
    parser.add_argument("--retry", action="store_true", help="try files again whose reader crashed or hung")
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="key of the pseudonyms of people and DICOM files (default: medrecon/prep.key among the user's settings)",
    )


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like .8/.1/.1") from None


def run(arguments: argparse.Namespace) -> int:
    """0: all cases are prepared; 1: some failed, and were reported."""
    import json
    import sys

    from medrecon.cli.options import Progress, quiet, value, visible
    from medrecon.data.errors import InputError
    from medrecon.workers import warm_up

    warm_up(arguments.workers)  # beside the imports here
    quiet()
    from medrecon.prep import load_recipe, prepare

    changes = {}
    for pair in arguments.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected NAME=VALUE")
        changes[name] = value(text)
    if arguments.shard_mb < 1:
        raise InputError(f"--shard-mb must be at least 1; got {arguments.shard_mb}")

    def report_failure(row: dict) -> None:
        print(visible(f"medrecon: skipped {row['case']}: {row.get('said', row['error'])}"), file=sys.stderr)

    with Progress("prep") as progress:
        report = prepare(
            arguments.source,
            arguments.output,
            load_recipe(arguments.recipe, changes),
            arguments.workers,
            arguments.split,
            arguments.seed,
            arguments.dask,
            arguments.shard_mb << 20,
            progress,
            report_failure,
            arguments.timeout,
            arguments.retry,
            arguments.key,
        )
    if arguments.json:
        sources = None if report.sources is None else str(report.sources)
        facts = {"output": arguments.output, "made": report.made, "kept": report.kept, "failed": report.failed}
        print(json.dumps({**facts, "sources": sources}, indent=2, default=str))
        return 1 if report.failed else 0
    counts = f"{report.made} cases prepared, {report.kept} were there, {len(report.failed)} failed"
    print(visible(f"{arguments.output}: {counts}"))
    if report.sources is not None:
        print(
            visible(
                f"which files the cases are made of stands in {report.sources}; do not give that file or the key away"
            )
        )
    return 1 if report.failed else 0
