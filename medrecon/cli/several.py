"""Reconstruct several scans, one after another or in several processes. A bad scan does not stop the others."""

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

from medrecon.cli.cases import Case, CaseReport, check_names
from medrecon.cli.reconstruct import (
    output_options,
    reconstruct_case,
    stem_of_images,
    summary_of_run,
    summary_of_samples,
)
from medrecon.data.errors import InputError, one_line, os_error_advice
from medrecon.settings import OPTION_GROUPS
from medrecon.workers import Pool, Task, warm_up

__all__ = ["peak_memory", "reconstruct_all", "try_case"]

_LOGGER = logging.getLogger(__name__)
_IMPORTS = (
    "medrecon.cli.worker",
    "medrecon.formats",
    "medrecon.reconstruction",
    "medrecon.writers",
    "nibabel",
    "scipy.linalg",
)
"""Modules that a child process needs for a case."""
STATUSES = {"done": "done", "skipped": "skipped (already done)", "planned": "planned", "failed": "failed"}
"""Statuses of a case, and their words in the summary."""


def reconstruct_all(arguments: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Return 0 if all images are there, and 1 if some scans failed and were reported.

    Raises:
        InputError: for options that fit no scan, and for two scans with the same name of images.
    """
    if arguments.bids is not None:
        raise InputError("--bids is the name of a single image; for several scans give --name instead")
    start = time.perf_counter()
    if arguments.workers is not None:
        warm_up(arguments.workers, _IMPORTS)  # imports in the server during the imports here
    names = _check_options(arguments, cases)
    reports: list[CaseReport] = []
    for report in _run_cases(arguments, cases, names):
        reports.append(report)
        level = logging.ERROR if report.status == "failed" else logging.INFO
        _LOGGER.log(level, "%s", _progress_line(report, len(reports), len(cases)))
    counts = {status: n for status in STATUSES if (n := sum(one.status == status for one in reports))}
    summary = _summary(arguments, reports, time.perf_counter() - start)
    if not arguments.dry_run:
        _write(Path(arguments.output), summary)
    text = ", ".join(f"{n} {STATUSES[status]}" for status, n in counts.items())
    print(json.dumps(summary, indent=2) if arguments.json else f"{arguments.output}: {text}")
    return 1 if counts.get("failed") else 0


def _check_options(arguments: argparse.Namespace, cases: Sequence[Case]) -> list[str]:
    """Names of the images, after a check of the options that concern all cases."""
    from medrecon.bundle import chosen_solver
    from medrecon.cli.options import set_threads, settings_from
    from medrecon.posterior import as_device
    from medrecon.solvers.settings import make_solver

    set_threads(arguments)
    as_device(arguments.device)
    options = settings_from(arguments, OPTION_GROUPS)
    make_solver(chosen_solver(options), options.get("settings"))
    output_options(arguments, options)
    names = [stem_of_images(arguments, options, case) for case in cases]
    check_names(names, cases)
    return names


def _run_cases(arguments: argparse.Namespace, cases: Sequence[Case], names: Sequence[str]) -> Iterator[CaseReport]:
    """Reports in the order in which the cases finish."""
    if arguments.workers is None and not arguments.dask:
        from medrecon.cli.options import Progress

        for case, name in zip(cases, names, strict=True):
            with Progress(name) as progress:
                yield try_case(arguments, case, name=name, progress=progress)
        return
    yield from _run_in_processes(arguments, cases, names)


def try_case(arguments: argparse.Namespace, case: Case, name: str, progress: Any = None) -> CaseReport:  # noqa: ANN401
    """Reconstruct a case, and report an error instead of raising it."""
    try:
        facts = reconstruct_case(arguments, case, stem=name, progress=progress)
    except InputError as error:
        facts = {"status": "failed", "error": str(error)}
    except (OSError, MemoryError) as error:
        advice = (
            os_error_advice(error, "")
            if isinstance(error, OSError)
            else "reconstruct fewer slices or samples at a time"
        )
        text = one_line(getattr(error, "strerror", None) or error)
        facts = {"status": "failed", "error": f"{case.path}: {text}{f'; {advice}' if advice else ''}"}
    return CaseReport(path=case.path, name=name, status=facts.pop("status"), facts=facts)


def _run_in_processes(
    arguments: argparse.Namespace, cases: Sequence[Case], names: Sequence[str]
) -> Iterator[CaseReport]:
    """Reports from child processes or a cluster, in which the command line is parsed again."""
    tasks, run = [], secrets.token_hex(8)
    for case, name in zip(cases, names, strict=True):
        fields = {
            "path": str(case.path.resolve()),
            "stem": case.stem,
            "folder": case.folder,
            "select": dict(case.select),
        }
        tasks.append(
            Task(
                call="medrecon.cli.worker:work",
                arguments={"argv": arguments.argv, "case": fields, "name": name, "folder": os.getcwd(), "run": run},
                size=0,
                about=(case, name),
            )
        )
    if arguments.dask:
        from medrecon.prep import cluster

        with cluster.connected(arguments.dask) as client:
            for task, answer in cluster.run(client, tasks, float("inf")):
                yield _report(task.about, answer)
        return
    with Pool(arguments.workers, float("inf"), imports=_IMPORTS) as pool:
        for task, answer in pool.run(tasks):
            yield _report(task.about, answer)


def _report(task: tuple[Case, str], answer: dict[str, Any]) -> CaseReport:
    """Report from a child's answer, or from the reason why it has not answered."""
    case, name = task
    if "status" not in answer:
        reason = answer.get("lost") or answer.get("error")
        return CaseReport(
            path=case.path,
            name=name,
            status="failed",
            facts={"error": f"{case.path}: the process that worked on it {reason}"},
        )
    facts = {key: value for key, value in answer.items() if key not in ("input", "name", "status")}
    return CaseReport(path=case.path, name=name, status=answer["status"], facts=facts)


def _progress_line(report: CaseReport, number: int, total: int) -> str:
    """Line of the log on a finished case."""
    text = report.facts["error"] if report.status == "failed" else ""
    if report.status == "done":
        text = "; ".join(filter(None, [summary_of_run(report.facts), summary_of_samples(report.facts)]))
    return f"{number} of {total}: {report.name}: {STATUSES[report.status]}{f': {text}' if text else ''}"


def peak_memory() -> float:
    """Peak memory of this process, MB; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _summary(arguments: argparse.Namespace, reports: Sequence[CaseReport], seconds: float) -> dict[str, Any]:
    """Content of ``run.json``."""
    from medrecon.cli.options import settings_from
    from medrecon.record import versions

    entries = [report.entry() for report in sorted(reports, key=lambda one: one.name)]
    for entry in entries:
        entry.setdefault("files", [])
    options = settings_from(arguments, OPTION_GROUPS)
    return {
        "versions": versions(),
        "options": {name: _without_folder(value) for name, value in options.items()},
        "seed": options.get("seed", 0),
        "threads": arguments.threads,
        "workers": arguments.workers or 1,
        "seconds": round(seconds, 3),
        "peak_memory_mb": max([peak_memory(), *(entry.get("peak_memory_mb", 0.0) for entry in entries)]),
        "cases": entries,
    }


def _without_folder(value: Any) -> Any:  # noqa: ANN401 - an option
    """An option as JSON; of a path only the file name."""
    if isinstance(value, str):
        return value.rpartition("/")[2]
    return value if isinstance(value, int | float | dict) else str(value)


def _write(folder: Path, summary: dict[str, Any]) -> None:
    from medrecon.data.files import write_atomically

    write_atomically({folder / "run.json": (json.dumps(summary, indent=2) + "\n").encode()}, True, folder)
