"""Write pages with pictures for reconstructions: one HTML file per image, beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``DIR``, ``--index``, ``--scan``, ``--reference``, ``--overwrite`` and ``--json``."""
    from medrecon.cli.options import add_json

    parser.add_argument(
        "folder", metavar="DIR", help="folder of images that 'medrecon recon' wrote, with their sidecars"
    )
    parser.add_argument(
        "--index",
        action="store_true",
        help="write one table of all images instead, DIR/index.html, which sorts and filters and links to their pages",
    )
    parser.add_argument(
        "--scan",
        metavar="SCAN",
        help="file of the scan, or folder with the scans, to show the data, and zero-filled and classical images",
    )
    parser.add_argument(
        "--reference",
        metavar="REF",
        help="fully sampled k-space or a volume of the same slices, or a folder with files of the scans' names, for errors",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are not pages of these images")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the pages; images that cannot be shown are reported, and the others are still shown."""
    import json
    import logging

    from medrecon.data.errors import InputError
    from medrecon.report.folder import sidecars_in, write_page

    folder = Path(arguments.folder)
    if arguments.index:
        return _index(arguments, folder)
    entries = []
    for sidecar in sidecars_in(folder):
        name = sidecar.relative_to(folder).as_posix().removesuffix(".json")
        try:
            page = write_page(
                sidecar, scan=arguments.scan, reference=arguments.reference, overwrite=arguments.overwrite
            )
            entries.append({"name": name, "status": "done", "file": page.relative_to(folder).as_posix()})
        except InputError as error:
            entries.append({"name": name, "status": "failed", "error": str(error)})
            logging.getLogger(__name__).error("%s", error)
    done = sum(one["status"] == "done" for one in entries)
    failed = f", {len(entries) - done} failed" if done < len(entries) else ""
    print(json.dumps(entries, indent=2) if arguments.json else f"{folder}: {done} written{failed}")
    return 0 if done == len(entries) else 1


def _index(arguments: argparse.Namespace, folder: Path) -> int:
    """Write the overview.

    Raises:
        InputError: for options of pages, see also :func:`medrecon.report.index.write_index`.
    """
    import json

    from medrecon.data.errors import InputError
    from medrecon.report.index import write_index

    given = [f"--{name}" for name in ("scan", "reference") if getattr(arguments, name) is not None]
    if given:
        raise InputError(f"{given[0]} is for pages, not for --index; run medrecon report twice")
    path = write_index(folder, arguments.overwrite)
    entry = {"name": path.stem, "status": "done", "file": path.name}
    print(json.dumps([entry], indent=2) if arguments.json else f"{path}: written")
    return 0
