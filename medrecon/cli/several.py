"""Several scans, one after another or on several processes: one bad scan costs itself, and a later run goes on."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medrecon.cli import recon
from medrecon.cli.cases import Case, CaseReport, check_names
from medrecon.data.errors import InputError, advised, one_line
from medrecon.workers import Pool, Task, warm_up

__all__ = ["reconstruct_all", "work"]

_LOGGER = logging.getLogger(__name__)
_IMPORTS = (
    "medrecon.cli.recon",
    "medrecon.formats",
    "medrecon.reconstruction",
    "medrecon.writers",
    "nibabel",
    "scipy.linalg",
)
"""What a process needs for a case."""
STATUSES = ("done", "finished before", "planned", "failed")
"""How a case can end."""


def reconstruct_all(arguments: argparse.Namespace, cases: Sequence[Case]) -> int:
    """0: all images are there; 1: some scans failed, and were reported.

    Raises:
        InputError: for options that fit no scan, and for names that two scans would share.
    """
    if arguments.bids is not None:
        raise InputError("--bids is the name of one image; of several scans, give --name instead")
    began = time.perf_counter()
    if arguments.workers is not None:
        warm_up(arguments.workers, _IMPORTS)  # beside the imports here
    names = _checked(arguments, cases)
    rows: list[CaseReport] = []
    for row in _done(arguments, cases, names):
        rows.append(row)
        _LOGGER.log(logging.ERROR if row.status == "failed" else logging.INFO, "%s", _line(row, len(rows), len(cases)))
    counts = {status: n for status in STATUSES if (n := sum(row.status == status for row in rows))}
    summary = _summary(arguments, rows, time.perf_counter() - began)
    if not arguments.dry_run:
        _write(Path(arguments.output), summary)
    said = ", ".join(f"{n} {status}" for status, n in counts.items())
    print(json.dumps(summary, indent=2) if arguments.json else f"{arguments.output}: {said}")
    return 1 if counts.get("failed") else 0


def _checked(arguments: argparse.Namespace, cases: Sequence[Case]) -> list[str]:
    """Names of the cases' images, after what can be known to be wrong for all of them."""
    from medrecon.cli.options import given_settings, set_up
    from medrecon.posterior import as_device
    from medrecon.solvers.settings import make_solver

    set_up(arguments)
    as_device(arguments.device)
    options = given_settings(arguments, recon.SETTINGS)
    make_solver(options.get("solver", "dds"), options.get("settings"))
    recon.output_of(arguments, options)
    names = [recon.name_of_images(arguments, options, case) for case in cases]
    check_names(names, cases)
    return names


def _done(arguments: argparse.Namespace, cases: Sequence[Case], names: Sequence[str]) -> Iterator[CaseReport]:
    """A row for every case, as they end."""
    if arguments.workers is None and not arguments.dask:
        from medrecon.cli.options import Progress

        for case, name in zip(cases, names, strict=True):
            with Progress(name) as progress:
                yield _tried(arguments, case, name=name, progress=progress)
        return
    yield from _spread(arguments, cases, names)


def _tried(arguments: argparse.Namespace, case: Case, name: str, progress: Any = None) -> CaseReport:  # noqa: ANN401
    try:
        facts = recon.reconstruct(arguments, case, stem=name, progress=progress)
    except InputError as error:
        facts = {"status": "failed", "error": str(error)}
    except (OSError, MemoryError) as error:
        advice = advised(error, "") if isinstance(error, OSError) else "reconstruct fewer slices or samples at a time"
        text = one_line(getattr(error, "strerror", None) or error)
        facts = {"status": "failed", "error": f"{case.path}: {text}{f'; {advice}' if advice else ''}"}
    return CaseReport(path=case.path, name=name, status=facts.pop("status"), facts=facts)


def _spread(arguments: argparse.Namespace, cases: Sequence[Case], names: Sequence[str]) -> Iterator[CaseReport]:
    """On child processes, or on a cluster, each of which reads the command line again."""
    tasks, run = [], secrets.token_hex(8)
    for case, name in zip(cases, names, strict=True):
        given = {
            "path": str(case.path.resolve()),
            "stem": case.stem,
            "folder": case.folder,
            "select": dict(case.select),
        }
        tasks.append(
            Task(
                call="medrecon.cli.several:work",
                arguments={"argv": arguments.argv, "case": given, "name": name, "folder": os.getcwd(), "run": run},
                size=0,
                about=(case, name),
            )
        )
    if arguments.dask:
        from medrecon.prep import cluster

        with cluster.connected(arguments.dask) as client:
            for task, answer in cluster.run(client, tasks, float("inf")):
                yield _row(task.about, answer)
        return
    with Pool(arguments.workers, float("inf"), imports=_IMPORTS) as pool:
        for task, answer in pool.run(tasks):
            yield _row(task.about, answer)


_RUNS: list[str] = [""]
"""The run that this child process worked for last; those of a cluster outlive runs."""


def work(argv: list[str], case: dict[str, Any], name: str, folder: str, run: str) -> dict[str, Any]:
    """One case in a child process, whose relative paths start from ``folder``: its row of ``run.json``."""
    from medrecon.cli import parsed
    from medrecon.cli.options import set_up

    if run != _RUNS[0]:
        recon.begin_run()
        _RUNS[0] = run
    os.chdir(folder)
    arguments = parsed(argv)
    set_up(arguments)
    one = Case(path=Path(case["path"]), stem=case["stem"], folder=case["folder"], select=case["select"])
    row = _tried(arguments, one, name)
    return {**row.row(), "peak_memory_mb": _peak()}


def _row(about: tuple[Case, str], answer: dict[str, Any]) -> CaseReport:
    """Of a child's answer, or of its end."""
    case, name = about
    if "status" not in answer:
        why = answer.get("lost") or answer.get("error")
        return CaseReport(
            path=case.path,
            name=name,
            status="failed",
            facts={"error": f"{case.path}: the process that worked on it {why}"},
        )
    facts = {key: value for key, value in answer.items() if key not in ("input", "name", "status")}
    return CaseReport(path=case.path, name=name, status=answer["status"], facts=facts)


def _line(row: CaseReport, number: int, total: int) -> str:
    """What is said of a case as it ends."""
    text = row.facts["error"] if row.status == "failed" else ""
    if row.status == "done":
        text = recon.sentence(row.facts)
    return f"{number} of {total}: {row.name}: {row.status}{f': {text}' if text else ''}"


def _peak() -> float:
    """Largest memory of this process so far, MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _summary(arguments: argparse.Namespace, rows: Sequence[CaseReport], seconds: float) -> dict[str, Any]:
    """What ``run.json`` holds."""
    from medrecon.cli.options import given_settings
    from medrecon.record import versions

    held = [row.row() for row in sorted(rows, key=lambda row: row.name)]
    for row in held:
        row.setdefault("files", [])
    options = given_settings(arguments, recon.SETTINGS)
    return {
        "versions": versions(),
        "options": {name: _shown(value) for name, value in options.items()},
        "seed": options.get("seed", 0),
        "threads": arguments.threads,
        "workers": arguments.workers or 1,
        "seconds": round(seconds, 3),
        "peak_memory_mb": max([_peak(), *(row.get("peak_memory_mb", 0.0) for row in held)]),
        "cases": held,
    }


def _shown(value: Any) -> Any:  # noqa: ANN401 - an option
    """An option as JSON; of a path its name."""
    if isinstance(value, str):
        return value.rpartition("/")[2]
    return value if isinstance(value, int | float | dict) else str(value)


def _write(folder: Path, summary: dict[str, Any]) -> None:
    from medrecon.data.files import write_atomically

    write_atomically({folder / "run.json": (json.dumps(summary, indent=2) + "\n").encode()}, True, folder)
