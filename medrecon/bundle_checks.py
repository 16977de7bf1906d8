"""Checks of bundles against the requirements of MONAI's model zoo and of medrecon. No code of a bundle is run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
from monai.bundle.properties import InferProperties, TrainProperties

from medrecon.bundle import calibration_path, find_bundle, load_prior, read_prior, read_small_text
from medrecon.calibration_file import read_calibrations
from medrecon.data.arguments import shown
from medrecon.data.errors import InputError, one_line
from medrecon.data.yaml_files import read_plain_yaml

__all__ = ["SCHEMA", "SECTIONS", "Check", "check_bundle"]

SCHEMA = "metadata_schema.json"
"""Schema of ``metadata.json``, a file of the package, for ``python -m monai.bundle verify_metadata --filepath``."""

SECTIONS = ("Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance", "System Configuration")
"""Headings of a model card that the template of the model zoo requires."""

Config = Mapping[str, Any]


class Check(NamedTuple):
    """One check of a bundle.

    Args:
        name: what was checked.
        problem: what is wrong; empty if the check passed.
    """

    name: str
    problem: str

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not self.problem


def check_bundle(bundle: str | Path) -> list[Check]:
    """Check a bundle against the requirements of MONAI's model zoo and of medrecon. No code of the bundle is run.

    Args:
        bundle: bundle name or folder.

    Raises:
        InputError: if there is no such bundle.
    """
    root = find_bundle(bundle)
    checks: dict[str, Callable[[Path], Iterator[str]]] = {
        "metadata.json": _metadata,
        "licence and model card": _documents,
        "prior.yaml and weights": _prior,
        "calibration.json": _calibration,
        "network_data_format": _network,
        "inference config": _inference,
        "training config": _training,
    }
    return [Check(name, "; ".join(_problems(check, root))) for name, check in checks.items()]


_SHOWN = 10
"""Most problems that are listed per check."""


def _problems(check: Callable[[Path], Iterator[str]], root: Path) -> list[str]:
    try:
        found = list(check(root))
    except InputError as error:
        return [str(error)]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [*found[:_SHOWN], *more]


def _content(path: Path) -> dict[str, Any]:
    """A file of the bundle as plain data.

    Raises:
        InputError: if it cannot be read, or is not a mapping.
    """
    if path.suffix != ".json":
        return read_plain_yaml(path, "a bundle's config", limit=2**20)
    try:
        content = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({one_line(error)}); correct the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a mapping of names to values; correct the file")
    return content


def _facts(root: Path) -> dict[str, Any]:
    """Content of ``metadata.json``, not checked."""
    return _content(root / "configs" / "metadata.json")


def _metadata(root: Path) -> Iterator[str]:
    """Violations of the schema, and a version that is missing in the changelog."""
    facts = _facts(root)
    schema = json.loads(resources.files("medrecon").joinpath(SCHEMA).read_text(encoding="utf-8"))
    for error in sorted(
        jsonschema.Draft7Validator(schema).iter_errors(facts), key=lambda one: list(map(str, one.path))
    ):
        where = ".".join(map(str, error.path))
        text = one_line(error.message)[:200]
        yield f"{where}: {text}" if where else text
    version, changelog = facts.get("version"), facts.get("changelog")
    if isinstance(changelog, Mapping) and version not in changelog:
        yield f"the changelog has no entry for the version {shown(version)}"


def _documents(root: Path) -> Iterator[str]:
    """Problems with LICENSE, and headings that the model card lacks."""
    if not (root / "LICENSE").is_file():
        yield "LICENSE is missing"
    try:
        card = read_small_text(root / "docs" / "README.md")
    except (OSError, ValueError) as error:
        yield f"docs/README.md cannot be read ({one_line(error)})"
        return
    headings = {re.sub(r"[*#]", "", line).strip().lower() for line in card.splitlines() if line.startswith("#")}
    missing = [one for one in SECTIONS if one.lower() not in headings]
    if missing:
        yield f"docs/README.md has no section {' and no section '.join(map(repr, missing))}"


def _prior(root: Path) -> Iterator[str]:
    """Build the network and load the weights; problems are raised as ``InputError``."""
    prior = load_prior(root)
    if prior.images is not None:
        prior.network()
    return iter(())


def _calibration(root: Path) -> Iterator[str]:
    """Calibrations of other weights or another bundle, which no run would use; a bundle may have none."""
    path, facts = calibration_path(root), _facts(root)
    for one in read_calibrations(path) if path.exists() else []:
        if one.settings["weights_sha256"] != (facts.get("weights") or {}).get("sha256"):
            yield f"holds a calibration of other weights ({one.settings['solver']['name']}); calibrate the bundle again"
        elif one.settings["bundle"] != facts.get("name"):
            yield f"holds a calibration of the bundle {shown(one.settings['bundle'])}; calibrate this one"


def _network(root: Path) -> Iterator[str]:
    """Differences between the image formats in the metadata and the prior."""
    prior, formats = read_prior(root), _facts(root).get("network_data_format")
    try:
        image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]  # type: ignore[index]
        sides = {str(side) for one in (image, pred) for side in one["spatial_shape"]}
        channels = image["num_channels"], pred["num_channels"]
    except (KeyError, TypeError):
        yield "lacks inputs.image or outputs.pred with num_channels and spatial_shape"
        return
    if channels != (prior.channels, prior.channels):
        yield f"has {shown(channels[0])} channels in and {shown(channels[1])} out; the prior has {prior.channels}"
    expected = "*" if prior.network is None else f"{prior.multiple}*n"
    if sides != {expected}:
        yield f"has sides {', '.join(sorted(sides))[:80]}; the network takes {expected}"


def _has(config: Config, key: str) -> bool:
    """Whether a config has an item such as ``train::trainer``."""
    at: Any = config
    for name in key.split("::"):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True


def _missing(config: Config, properties: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Items that MONAI's tools require and the config lacks."""
    ids = [one["id"] for one in properties.values() if one.get("required")]
    return [key for key in ids if not key.startswith("_meta_") and not _has(config, key)]


def _config_file(root: Path, name: str) -> Path | None:
    """Path of a config, in any of the formats that MONAI reads."""
    return next(
        (path for end in ("yaml", "yml", "json") if (path := root / "configs" / f"{name}.{end}").is_file()), None
    )


def _inference(root: Path) -> Iterator[str]:
    path = _config_file(root, "inference")
    if path is None:
        yield "is missing"
        return
    yield from _config(path, InferProperties)
    name, found = (
        _facts(root).get("name"),
        re.search(r"current_bundle_or\('([^']*)'\)", str(_content(path).get("bundle_root"))),
    )
    if found is not None and found[1] != name:
        yield f"bundle_root names the bundle {shown(found[1])}, but metadata.json {shown(name)}; write the same name in both"


def _training(root: Path) -> Iterator[str]:
    """Problems of ``train``, which bundles that cannot be trained do not have."""
    path = _config_file(root, "train")
    if path is not None:
        yield from _config(path, TrainProperties)


def _config(path: Path, properties: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    config = _content(path)
    missing = _missing(config, properties) + [key for key in ("run",) if not _has(config, key)]
    if missing:
        yield f"lacks {' and '.join(missing)}, which MONAI's tools require"
