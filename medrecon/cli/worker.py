"""Reconstruct one of several scans in a child process of ``medrecon recon``, or in a worker of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medrecon.cli.arguments import parse_arguments
from medrecon.cli.cases import Case
from medrecon.cli.reconstruct import clear_caches
from medrecon.cli.several import peak_memory, try_case

__all__ = ["work"]

_RUNS: list[str] = [""]
"""Identifier of the last run; workers of a cluster outlive a run."""


def work(argv: list[str], case: dict[str, Any], name: str, folder: str, run: str) -> dict[str, Any]:
    """Reconstruct one case.

    Args:
        argv: command line.
        case: fields of :class:`medrecon.cli.cases.Case`.
        name: file name of the images without suffix.
        folder: working directory that relative paths of the command line start from.
        run: identifier of the run.

    Returns:
        The entry of the case in ``run.json``.
    """
    from medrecon.cli.options import set_threads

    if run != _RUNS[0]:
        clear_caches()
        _RUNS[0] = run
    os.chdir(folder)
    arguments = parse_arguments(argv)
    set_threads(arguments)
    one = Case(path=Path(case["path"]), stem=case["stem"], folder=case["folder"], select=case["select"])
    report = try_case(arguments, one, name)
    return {**report.entry(), "peak_memory_mb": peak_memory()}
