"""List the solvers, a line each."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--settings."""
    parser.add_argument("--settings", action="store_true", help="also show every setting and its default")


def run(arguments: argparse.Namespace) -> None:
    """Print name and first line of every solver."""
    from dataclasses import fields

    from medrecon.solvers import SOLVERS

    for name, solver in SOLVERS.items():
        print(f"{name:12} {(solver.__doc__ or '').strip().splitlines()[0]}")
        if arguments.settings:
            for field in fields(solver):
                print(f"{'':12}   solver.{field.name}={field.default}")
