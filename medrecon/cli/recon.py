"""Reconstruct k-space, sinograms or images with a diffusion prior or a classical solver."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medrecon.cli.cases import Case, several_cases
from medrecon.cli.reconstruct import (
    COMPANIONS,
    clear_caches,
    reconstruct_case,
    summary_of_run,
    summary_of_samples,
)
from medrecon.cli.several import reconstruct_all
from medrecon.data.errors import InputError
from medrecon.settings import OPTION_GROUPS

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of the command."""
    from medrecon.cli.options import add_compute, add_select, add_settings, count

    parser.add_argument(
        "input",
        metavar="IN",
        nargs="+",
        help="scans (k-space, sinograms or images; see 'medrecon info IN') or folders of scans; with several scans, those "
        "that are already reconstructed are skipped",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the images and their sidecars")
    parser.add_argument("--config", metavar="FILE", help="YAML file with these options as keys, e.g. steps: 50")
    add_settings(parser, OPTION_GROUPS)
    reading = parser.add_argument_group("reading")
    add_select(reading)
    reading.add_argument(
        "--dynamic", metavar="AXIS", help="reconstruct frames together; AXIS is phase, repetition, set or contrast"
    )
    for name, (metavar, kind, about) in COMPANIONS.items():
        reading.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=about)
    _add_output(parser.add_argument_group("output"))
    several = parser.add_argument_group("several scans")
    several.add_argument(
        "--workers", type=count, metavar="N", help="number of processes, each with --threads threads (default: 1)"
    )
    several.add_argument(
        "--dask", metavar="ADDRESS", help="address of a dask scheduler, e.g. tcp://host:8786 (default: none)"
    )
    add_compute(parser)


def _add_output(group: argparse._ArgumentGroup) -> None:
    from medrecon.cli.options import add_json, name_and_value
    from medrecon.writers import WRITERS, all_parts

    group.add_argument("--format", default="nifti", choices=tuple(WRITERS), help="image format (default: nifti)")
    group.add_argument("--part", default="mag", choices=all_parts(), help="content of NIfTI files (default: mag)")
    group.add_argument(
        "--name", default="{stem}", metavar="NAME",
        help="file name of the images; may contain {stem} (of the scan), {folder}, {solver}, {bundle}, {format} "
        "(default: {stem})",
    )  # fmt: skip
    group.add_argument("--bids", metavar="NAME", help="BIDS name of the derivatives, e.g. sub-01_acq-mprage_T1w")
    group.add_argument(
        "--like",
        metavar="SERIES",
        help="DICOM series from which --format dicom copies patient, study and, if the scan has none, positions",
    )
    group.add_argument(
        "--like-select", type=name_and_value, action="append", default=[], metavar="NAME=VALUE",
        help="choose among several series or volumes of --like, as --select does; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--deidentify",
        action="store_true",
        help="copy from --like only what the Basic profile of DICOM PS3.15 keeps",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs and the files listed in their sidecar"
    )
    group.add_argument("--dry-run", action="store_true", help="check everything and print the plan, but write nothing")
    group.add_argument("--report", action="store_true", help="also write a page with pictures, NAME.html")
    group.add_argument(
        "--reference", metavar="REF",
        help="for --report: fully sampled k-space or a volume of the same slices, or a folder with files of the scans' names",
    )  # fmt: skip
    add_json(group)


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct one scan or several; scans that fail are reported, and the others are still reconstructed."""
    from medrecon.cli.options import Progress, set_threads

    clear_caches()
    select = dict(arguments.select)
    cases = several_cases(arguments.input, select, Path(arguments.output))
    if cases is not None:
        return reconstruct_all(arguments, cases)
    if arguments.workers is not None or arguments.dask:
        raise InputError("--workers and --dask are for several scans; leave them out")
    set_threads(arguments)
    path = Path(arguments.input[0])
    case = Case(path=path, stem="", folder=path.resolve().parent.name, select=select)
    with Progress(path.stem) as progress:
        entry = reconstruct_case(arguments, case, progress=progress)
    if arguments.json:
        print(json.dumps(entry, indent=2))
    elif entry["status"] == "planned":
        print(f"{entry['files'][0]}: would be reconstructed by {entry['solver']}")
    else:
        print(f"{entry['files'][0]}: {summary_of_run(entry)}")
        samples = summary_of_samples(entry)
        if samples and not arguments.quiet:
            print(samples)
    return 0
