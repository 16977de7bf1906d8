"""Prepare a data set with a recipe: shards, a manifest, and a split by subject."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SRC, -o and everything else."""
    from medrecon.cli.options import add_json

    add_json(parser)
    parser.add_argument("source", metavar="SRC", help="folder of the data set")
    parser.add_argument("-o", "--output", required=True, metavar="DST", help="folder of shards and manifest")
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help="name of a recipe (see data_prep), or path of a YAML file"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    parser.add_argument(
        "--split",
        type=_fractions,
        default=(0.8, 0.1, 0.1),
        metavar="A/B/C",
        help="fractions of train/val/test (default: .8/.1/.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the split and of the recipe (default: 0)")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="address of a dask scheduler, e.g. tcp://host:8786 (default: none)"
    )
    parser.add_argument(
        "--shard-mb", type=int, default=1024, metavar="MB", help="approximate size of a shard (default: 1024)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the recipe; repeatable"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="S",
        help="time limit of a case, plus the same for each 16 MB of its files (default: 60)",
    )
    parser.add_argument("--retry", action="store_true", help="try again files whose reader crashed or hung")
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="key of the pseudonyms (default: medrecon/prep.key in the user's settings folder)",
    )


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like .8/.1/.1") from None


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if all cases are prepared, and 1 if some failed."""
    import json
    import sys

    from medrecon.cli.options import Progress, parse_value, printable, silence_imports
    from medrecon.data.errors import InputError
    from medrecon.workers import warm_up

    warm_up(arguments.workers)  # imports in the server during the imports here
    silence_imports()
    from medrecon.prep import DatasetOptions, RunOptions, load_recipe, prepare

    changes = {}
    for pair in arguments.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected NAME=VALUE")
        changes[name] = parse_value(text)
    if arguments.shard_mb < 1:
        raise InputError(f"--shard-mb must be at least 1; got {arguments.shard_mb}")
    dataset = DatasetOptions(
        split=arguments.split, seed=arguments.seed, shard_bytes=arguments.shard_mb << 20, key=arguments.key
    )
    run_options = RunOptions(
        workers=arguments.workers, dask=arguments.dask, timeout=arguments.timeout, retry=arguments.retry
    )

    def report_failure(row: dict) -> None:
        print(printable(f"medrecon: skipped {row['case']}: {row.get('message', row['error'])}"), file=sys.stderr)

    with Progress("prep") as progress:
        report = prepare(
            arguments.source,
            arguments.output,
            load_recipe(arguments.recipe, changes),
            dataset=dataset,
            run=run_options,
            progress=progress,
            on_failure=report_failure,
        )
    if arguments.json:
        sources = None if report.sources is None else str(report.sources)
        counts = {"prepared": report.prepared, "skipped": report.skipped, "failed": report.failed}
        print(json.dumps({"output": arguments.output, **counts, "sources": sources}, indent=2, default=str))
        return 1 if report.failed else 0
    counts = f"{report.prepared} prepared, {report.skipped} skipped (already done), {len(report.failed)} failed"
    print(printable(f"{arguments.output}: {counts}"))
    if report.sources is not None:
        print(
            printable(
                f"the source files of the cases are listed in {report.sources}; keep that file and the key to yourself"
            )
        )
    return 1 if report.failed else 0
