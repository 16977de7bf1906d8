"""Whether a bundle is complete: what MONAI's model zoo asks of one, and what medrecon reads. Nothing in it is evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import torch
from monai.bundle.properties import InferProperties, TrainProperties

from medrecon.bundle import find_bundle, load_prior, metadata, read_prior
from medrecon.data.errors import InputError, one_line
from medrecon.data.yaml_files import read_plain_yaml

__all__ = ["SCHEMA", "SECTIONS", "Finding", "check_bundle"]

SCHEMA = "metadata_schema.json"
"""File of the package: a schema of ``metadata.json``, as ``python -m monai.bundle verify_metadata --filepath`` takes it."""

SECTIONS = ("Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance", "System Configuration")
"""Headings of a model card that the model zoo's template does not call optional."""

Config = Mapping[str, Any]


class Finding(NamedTuple):
    """What was looked at, and what is wrong with it; empty: nothing."""

    what: str
    wrong: str

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong


def check_bundle(bundle: str | Path) -> list[Finding]:
    """Look at every part of a bundle.

    Args:
        bundle: name or folder.

    Raises:
        InputError: if there is no such bundle.
    """
    root = find_bundle(bundle)
    checks: dict[str, Callable[[Path], Iterator[str]]] = {
        "metadata.json follows the specification": _metadata,
        "licence and model card": _documents,
        "prior.yaml and weights": _prior,
        "network and data format": _network,
        "inference.yaml": _inference,
        "train.yaml": _training,
    }
    return [Finding(what, "; ".join(_found(check, root))) for what, check in checks.items()]


def _found(check: Callable[[Path], Iterator[str]], root: Path) -> list[str]:
    try:
        return list(check(root))
    except InputError as error:
        return [str(error)]


def _metadata(root: Path) -> Iterator[str]:
    """By the schema; and the version must be in the changelog."""
    facts = metadata(root)
    schema = json.loads(resources.files("medrecon").joinpath(SCHEMA).read_text(encoding="utf-8"))
    given = {key: value for key, value in facts.items() if key != "weights" or value}
    for error in sorted(
        jsonschema.Draft7Validator(schema).iter_errors(given), key=lambda one: list(map(str, one.path))
    ):
        where = ".".join(map(str, error.path))
        yield f"{where}: {one_line(error.message)}" if where else one_line(error.message)
    changelog = facts.get("changelog")
    if isinstance(changelog, Mapping) and facts["version"] not in changelog:
        yield f"the changelog does not name the version {facts['version']}"


def _documents(root: Path) -> Iterator[str]:
    """LICENSE, and a model card with the headings of the zoo's template."""
    if not (root / "LICENSE").is_file():
        yield "LICENSE is missing"
    card = root / "docs" / "README.md"
    if not card.is_file():
        yield "docs/README.md is missing"
        return
    headings = {
        re.sub(r"[*#]", "", line).strip().lower()
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("#")
    }
    missing = [one for one in SECTIONS if one.lower() not in headings]
    if missing:
        yield f"docs/README.md has no section {' and no section '.join(map(repr, missing))}"


def _prior(root: Path) -> Iterator[str]:
    """The network is built, and gets the weights that the metadata name."""
    if read_prior(root).network is not None:
        load_prior(root).network()
    yield from ()


def _network(root: Path) -> Iterator[str]:
    """What the metadata say of the network's images is so, as ``verify_net_in_out`` looks at it."""
    prior, formats = read_prior(root), metadata(root).get("network_data_format")
    try:
        image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]  # type: ignore[index]
        sides = [str(side) for one in (image, pred) for side in one["spatial_shape"]]
        channels = image["num_channels"], pred["num_channels"]
    except (KeyError, TypeError) as error:
        yield f"network_data_format lacks {one_line(error)}"
        return
    if channels != (prior.channels, prior.channels):
        yield f"network_data_format has {channels[0]} channels in and {channels[1]} out; the prior has {prior.channels}"
    wanted = "*" if prior.network is None else f"{prior.multiple}*n"
    if set(sides) - {wanted}:
        yield f"network_data_format has sides {', '.join(sorted(set(sides)))}; those of the network are {wanted}"
    if prior.network is None:
        return
    network = load_prior(root).network()
    with torch.no_grad():
        out = network(torch.rand(1, prior.channels, 2 * prior.multiple, prior.multiple), torch.zeros(1))
    if out.shape[2:] != (2 * prior.multiple, prior.multiple) or out.dtype != torch.float32:
        yield f"the network answers with {tuple(out.shape)} {out.dtype}"


def _has(config: Config, key: str) -> bool:
    """Whether a config has an item, ``train::trainer``."""
    at: Any = config
    for name in key.split("::"):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True


def _lacking(config: Config, properties: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Items that MONAI's tools need, and that the config lacks."""
    ids = [one["id"] for one in properties.values() if one.get("required")]
    return [key for key in ids if not key.startswith("_meta_") and not _has(config, key)]


def _config_file(root: Path, name: str) -> Path | None:
    """A config in one of the formats that MONAI reads."""
    return next(
        (path for end in ("yaml", "yml", "json") if (path := root / "configs" / f"{name}.{end}").is_file()), None
    )


def _inference(root: Path) -> Iterator[str]:
    path = _config_file(root, "inference")
    if path is None:
        yield "is missing"
    else:
        yield from _config(path, InferProperties)


def _training(root: Path) -> Iterator[str]:
    """Bundles that cannot be trained have none."""
    path = _config_file(root, "train")
    if path is not None:
        yield from _config(path, TrainProperties)


def _config(path: Path, properties: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    config = read_plain_yaml(path, "a bundle's config", limit=2**20)
    missing = _lacking(config, properties) + [key for key in ("run",) if not _has(config, key)]
    if missing:
        yield f"lacks {' and '.join(missing)}, which MONAI's tools look for"
