"""List the solvers, a line each."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--settings and --bundle."""
    parser.add_argument("--settings", action="store_true", help="also show every setting and its default")
    parser.add_argument("--bundle", help="with --settings: show what suits this bundle's prior instead")


def run(arguments: argparse.Namespace) -> None:
    """Print name and first line of every solver."""
    from dataclasses import fields

    from medrecon.bundle import load_prior
    from medrecon.solvers import SOLVERS

    tuned = load_prior(arguments.bundle).tuned if arguments.bundle else {}
    for name, solver in SOLVERS.items():
        print(f"{name:12} {(solver.__doc__ or '').strip().splitlines()[0]}")
        if arguments.settings:
            suited = tuned.get(name, {})
            for field in fields(solver):
                print(f"{'':12}   solver.{field.name}={suited.get(field.name, field.default)}")
            if "sigma_max" in suited:
                print(f"{'':12}   first noise level {suited['sigma_max']}")
