"""List, describe or verify bundles, or export a prior as TorchScript."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions ``list``, ``info``, ``verify`` and ``export``."""
    from medrecon.cli.options import add_json

    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    bundle: dict[str, Any] = {
        "metavar": "BUNDLE",
        "help": "name or folder of a bundle; only its weights and plain data are read",
    }

    listing = actions.add_parser("list", help="list the bundles that come with medrecon")
    info = actions.add_parser("info", help="describe a bundle")
    info.add_argument("bundle", **bundle)
    verify = actions.add_parser(
        "verify", help="check that a bundle is complete, as MONAI's model zoo requires; the exit code is 1 if it is not"
    )
    verify.add_argument("bundle", **bundle)

    export = actions.add_parser(
        "export", help="write the prior as TorchScript; forward(x, sigma) returns the denoised image"
    )
    export.add_argument("bundle", **bundle)
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="output file, usually model.ts")
    export.add_argument("--overwrite", action="store_true", help="replace an existing file")
    for one in (listing, info, verify, export):
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    """Run one of the actions."""
    from medrecon.cli.options import silence_imports

    silence_imports()
    return {"list": _list, "info": _info, "verify": _verify, "export": _export}[arguments.action](arguments)


def _print(facts: Any, as_json: bool, lines: list[str]) -> None:  # noqa: ANN401 - JSON
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def _list(arguments: argparse.Namespace) -> int:
    from medrecon.bundle import known_bundles, metadata

    facts = [{key: metadata(root).get(key, "") for key in ("name", "version", "task")} for root in known_bundles()]
    lines = [f"{one['name']:22} {one['version']:8} {one['task']}" for one in facts]
    _print(facts, arguments.json, lines)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from medrecon.bundle import find_bundle, load_prior, metadata, read_prior
    from medrecon.cli.options import printable

    root = find_bundle(arguments.bundle)
    about, prior, spec = metadata(root), read_prior(root), load_prior(root)
    facts = {
        **{key: about.get(key, "") for key in ("name", "version", "task", "description", "intended_use")},
        "folder": str(root),
        "network": prior.network,
        "images": prior.images,
        "conditions": [label for label in spec.labels if label],
        "weights": about["weights"].get("file"),
        "sha256": about["weights"].get("sha256"),
        "settings_for": sorted({*spec.tuned, *(name for one in spec.tuned_by_images.values() for name in one)}),
        "posterior_settings_for": sorted(spec.posterior),
        "calibrations": [_calibration_text(one) for one in spec.calibrations],
        "configs": sorted(
            path.name for path in (root / "configs").iterdir() if path.suffix in (".yaml", ".yml", ".json")
        ),
    }
    lines = [f"{key.replace('_', ' ')}: {printable(_text(value))}" for key, value in facts.items()]
    _print(facts, arguments.json, lines)
    return 0


def _calibration_text(one: Any) -> str:  # noqa: ANN401 - medrecon.calibration_file.Calibration
    """Solver, samples, acceleration and images of a calibration."""
    speed = "" if one.acceleration is None else f", acceleration {one.acceleration:g}"
    return f"{one.settings['solver']['name']} with {one.settings['samples']} samples{speed} ({one.images} images)"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _verify(arguments: argparse.Namespace) -> int:
    from medrecon.bundle_checks import check_bundle
    from medrecon.cli.options import printable

    checks = check_bundle(arguments.bundle)
    facts = [{"check": one.name, "problem": one.problem or None} for one in checks]
    lines = [printable(f"ok     {one.name}" if one.passed else f"WRONG  {one.name}: {one.problem}") for one in checks]
    _print(facts, arguments.json, lines)
    return 0 if all(one.passed for one in checks) else 1


def _export(arguments: argparse.Namespace) -> int:
    from medrecon.torchscript import export_torchscript

    export_torchscript(arguments.bundle, arguments.output, arguments.overwrite)
    _print({"output": arguments.output}, arguments.json, [arguments.output])
    return 0
