"""Train a copy of a bundle on a folder that 'medrecon prep' wrote."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_NOT_COPIED = ("models", "checkpoints", "calibration.json", "__pycache__")
"""Parts of a bundle that belong to its weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of the command."""
    from medrecon.cli.options import add_json

    parser.add_argument(
        "bundle", metavar="BUNDLE", help="bundle whose network and train.yaml are used (medrecon bundle list)"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="folder of the new bundle; an existing one is continued"
    )
    parser.add_argument("--data", required=True, metavar="PREPARED", help="folder that medrecon prep wrote")
    parser.add_argument(
        "--objective",
        default="auto",
        metavar="NAME",
        help="clean, or a name in docs/training.md (default: auto, by the data)",
    )
    parser.add_argument(
        "--fine-tune", action="store_true", help="start from the weights of the bundle (default: random weights)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change an item of train.yaml; repeatable"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy the bundle if the folder is new, and train the copy."""
    import json

    from medrecon.cli.options import parse_value, printable, silence_imports
    from medrecon.data.errors import InputError

    silence_imports()
    changes: dict[str, Any] = {}
    for pair in arguments.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected NAME=VALUE")
        changes[name] = parse_value(text)
    for name in ("data", "objective", "bundle_root"):
        if name in changes:
            raise InputError(f"--set {name}: is an option of the command; give it there")
    if not (Path(arguments.data) / "manifest.jsonl").is_file():
        raise InputError(f"{arguments.data}: no manifest; give a folder that 'medrecon prep' wrote")
    is_new = not Path(arguments.output).exists()  # an empty folder stays
    root = _new_bundle(arguments.bundle, Path(arguments.output))
    changes |= {"data": str(Path(arguments.data).resolve()), "objective": arguments.objective, "bundle_root": str(root)}
    if arguments.fine_tune:
        changes["start_from"] = _weights(arguments.bundle)
    try:
        facts = {"output": str(root), **_train(root / "configs" / "train.yaml", changes)}
    except InputError:
        if is_new and not (root / "checkpoints" / "latest.pt").exists():  # nothing was trained
            shutil.rmtree(root, ignore_errors=True)
        raise
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(printable(f"{root}: trained for {facts['steps']} steps (objective: {facts['objective']}, {facts['metric_name']}: "
                    f"{facts['metric']:.4g}); reconstruct with medrecon recon SCAN -o OUT --bundle {root}"))  # fmt: skip
    return 0


def _new_bundle(bundle: str, root: Path) -> Path:
    """The folder of the run, with the files of the bundle that do not belong to its weights.

    Raises:
        InputError: if the folder holds something else, or a copy of another bundle.
    """
    from medrecon.bundle import find_bundle, known_bundles, metadata
    from medrecon.data.errors import InputError
    from medrecon.data.files import write_atomically

    source = find_bundle(bundle)
    if not (source / "configs" / "train.yaml").is_file():
        raise InputError(f"{source}: has no configs/train.yaml, so it cannot be trained; choose another bundle")
    if any(root.exists() and known.samefile(root) for known in known_bundles()):
        raise InputError(f"{root}: comes with medrecon; write to another folder")
    if (root / "configs" / "train.yaml").is_file():
        name = metadata(root)["name"]
        if name != metadata(source)["name"]:
            raise InputError(f"{root}: is a copy of {name}, not of {bundle}; choose another folder")
        return root.resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: exists, but holds no bundle to continue; choose another folder")
    files = (path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file())
    kept = [path for path in files if not set(path.parts) & set(_NOT_COPIED)]
    for path in kept:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically({root / path: (source / path).read_bytes() for path in kept}, overwrite=False)
    return root.resolve()


def _weights(bundle: str) -> str:
    """Path of the weights of a bundle."""
    from medrecon.bundle import find_bundle, metadata

    root = find_bundle(bundle)
    return str(root / metadata(root)["weights"]["file"])


def _train(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Run a ``train.yaml`` with some of its items replaced by values that are not evaluated."""
    import logging
    import sys
    from contextlib import redirect_stdout
    from difflib import get_close_matches

    from medrecon.data.errors import InputError
    from medrecon.data.yaml_files import read_yaml
    from medrecon.monai_bundle import Config, parsed, restored_meta

    content = read_yaml(path, "a bundle's config")
    config = Config(content, str(path))
    try:
        config.bind(**changes)
    except KeyError as error:
        near = get_close_matches(str(error.args[0]), content, n=1, cutoff=0.0)[0]
        raise InputError(f"{path}: has no item {error.args[0]!r} to set; did you mean {near!r}?") from error
    logging.getLogger("ignite").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr), restored_meta():  # MONAI's log; a train.yaml switches meta tensors off
        for key in ("imports", "initialize", "run", "finalize"):
            if key in config:
                parsed(config, key)
    trainer, learner = (config.get_parsed_content(key) for key in ("train::trainer", "learner"))
    data = config.get_parsed_content("prepared")
    metric = config.get_parsed_content("validate::evaluator").state.key_metric_name
    return {
        "steps": int(trainer.state.iteration),
        "objective": data.objective,
        "metric_name": metric,
        "metric": float(learner.best.metric),
    }
