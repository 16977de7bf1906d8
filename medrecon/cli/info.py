"""Show what a raw k-space file holds."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --select and --json."""
    from medrecon.cli.options import add_select

    parser.add_argument(
        "file", metavar="FILE", help="raw k-space: .h5 or .mrd (fastMRI, ISMRMRD), .cfl/.hdr, .mat, .npz, .npy"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_select(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the summary."""
    import json

    from medrecon.data.kspace import load_kspace

    summary = load_kspace(arguments.file, dict(arguments.select)).summary()
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if key == "attributes":
            for name, attribute in value.items():
                print(f"  {name}: {attribute}")
        else:
            if key in ("matrix", "acs"):
                value = f"{value[0]} x {value[1]} (y x)"
            elif key == "spacing_mm":
                value = "not in the file" if value is None else f"{' x '.join(map(str, value))} (z y x)"
            elif isinstance(value, bool):
                value = "yes" if value else "no"
            print(f"{key.replace('_', ' ')}: {value}")
