"""List the solvers."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

__all__ = ["add_arguments", "run"]

_LADDER = {
    "sigma_max": "first noise level",
    "sigma_min": "last noise level",
    "spacing": "spacing of the noise levels",
    "steps": "network evaluations",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings``, ``--bundle`` and ``--json``."""
    from medrecon.cli.options import add_json

    parser.add_argument(
        "--settings", action="store_true", help="also list the settings of every solver, with their defaults"
    )
    parser.add_argument(
        "--bundle", help="with --settings: list the settings of this bundle, tuned and for posterior samples"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the name and the summary of every solver."""
    import json

    from medrecon.bundle import load_prior
    from medrecon.solvers import SOLVERS
    from medrecon.solvers.settings import setting_fields

    prior = load_prior(arguments.bundle) if arguments.bundle else None
    tuned = {} if prior is None else prior.tuned
    by_images = {} if prior is None else prior.tuned_by_images
    posterior = {} if prior is None else prior.posterior
    rows = []
    for name, solver in SOLVERS.items():
        tuned_settings, defaults = tuned.get(name, {}), setting_fields(solver)
        rows.append({
            "name": name,
            "about": (solver.__doc__ or "").strip().splitlines()[0],
            "settings": {key: tuned_settings.get(key, one.default) for key, one in defaults.items()},
            "sigma_max": tuned_settings.get("sigma_max"),
            "quality": [] if prior is None else [asdict(row) for row in prior.quality.get(name, ())],
            "settings_by_images": {kind: dict(of[name]) for kind, of in by_images.items() if name in of},
            "posterior": dict(posterior[name]) if name in posterior else None,
        })  # fmt: skip
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    width = max(map(len, SOLVERS))
    for row in rows:
        print(f"{row['name']:{width}} {row['about']}")
        if arguments.settings:
            _print_settings(row)


def _print_settings(row: dict[str, Any]) -> None:
    for key, value in row["settings"].items():
        print(f"{'':12}   solver.{key}={value}")
    if row["sigma_max"] is not None:
        print(f"{'':12}   first noise level {row['sigma_max']}")
    for one in row["quality"]:
        changes = ", ".join(f"{key}={value}" for key, value in one["settings"].items())
        print(
            f"{'':12}   --quality {one['quality']}, acceleration {one['acceleration']:g}: {one['steps']} network evaluations"
            f"{', ' * bool(changes)}{changes}"
        )
    for kind, settings in row["settings_by_images"].items():
        text = ", ".join(f"solver.{key}={value}" for key, value in settings.items())
        print(f"{'':12}   for {kind} images: {text}")
    if row["posterior"] is not None:
        ladder = {key: row["posterior"][key] for key in _LADDER if key in row["posterior"]}
        texts = [f"solver.{key}={value}" for key, value in row["posterior"].items() if key not in ladder]
        texts += [f"{_LADDER[key]} {value}" for key, value in ladder.items()]
        print(f"{'':12}   with --posterior: {', '.join(texts)}")
