"""Write pages with pictures for reconstructions: one HTML file per image, beside it."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``DIR``, ``--scan``, ``--reference``, ``--overwrite`` and ``--json``."""
    from medrecon.cli.options import add_json

    parser.add_argument(
        "folder", metavar="DIR", help="folder of images that 'medrecon recon' wrote, with their sidecars"
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
    from pathlib import Path

    from medrecon.data.errors import InputError
    from medrecon.report.folder import sidecars_in, write_page

    folder = Path(arguments.folder)
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
