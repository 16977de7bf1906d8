"""List the solvers, a line each."""

from __future__ import annotations

import argparse
from typing import Any

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

    from medrecon.bundle import load_prior
    from medrecon.solvers import SOLVERS
    from medrecon.solvers.settings import setting_fields

    prior = load_prior(arguments.bundle) if arguments.bundle else None
    tuned = {} if prior is None else prior.tuned
    by_images = {} if prior is None else prior.tuned_by_images
    rows = []
    for name, solver in SOLVERS.items():
        suited, own = tuned.get(name, {}), setting_fields(solver)
        rows.append({
            "name": name,
            "about": (solver.__doc__ or "").strip().splitlines()[0],
            "settings": {key: suited.get(key, one.default) for key, one in own.items()},
            "sigma_max": suited.get("sigma_max"),
            "settings_by_images": {kind: dict(of[name]) for kind, of in by_images.items() if name in of},
        })  # fmt: skip
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:12} {row['about']}")
        if arguments.settings:
            _print_settings(row)


def _print_settings(row: dict[str, Any]) -> None:
    for key, value in row["settings"].items():
        print(f"{'':12}   solver.{key}={value}")
    if row["sigma_max"] is not None:
        print(f"{'':12}   first noise level {row['sigma_max']}")
    for kind, settings in row["settings_by_images"].items():
        given = ", ".join(f"solver.{key}={value}" for key, value in settings.items())
        print(f"{'':12}   for {kind} images: {given}")
