"""List the solvers, a line each."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--settings, --bundle and --json."""
    from medrecon.cli.options import add_json

    parser.add_argument("--settings", action="store_true", help="also show every setting and its default")
    parser.add_argument("--bundle", help="with --settings: show what suits this bundle's prior instead")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print name and first line of every solver."""
    import json
    from dataclasses import fields

    from medrecon.bundle import load_prior
    from medrecon.solvers import SOLVERS

    tuned = load_prior(arguments.bundle).tuned if arguments.bundle else {}
    rows = []
    for name, solver in SOLVERS.items():
        suited = tuned.get(name, {})
        settings = {
            one.name: suited.get(one.name, one.default) for one in fields(solver) if "Operator" not in str(one.type)
        }
        about = (solver.__doc__ or "").strip().splitlines()[0]
        rows.append({"name": name, "about": about, "settings": settings, "sigma_max": suited.get("sigma_max")})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:12} {row['about']}")
        if arguments.settings:
            for key, value in row["settings"].items():
                print(f"{'':12}   solver.{key}={value}")
            if row["sigma_max"] is not None:
                print(f"{'':12}   first noise level {row['sigma_max']}")
