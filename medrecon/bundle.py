"""Bundles by name: metadata, prior and weights, read without MONAI and without evaluating code."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn

from medrecon.calibration_file import read_calibrations
from medrecon.data.errors import InputError, one_line, warn
from medrecon.data.files import write_atomically
from medrecon.networks import check_images, network_class, network_on_meta_device
from medrecon.posterior import PriorSpec
from medrecon.prior_file import PriorFile, read_prior_file, replace_values
from medrecon.settings import default_solver
from medrecon.training.measured import trained_objective
from medrecon.training.objectives import EDM
from medrecon.weights import difference, encode_weights, read_weights

__all__ = [
    "build_network",
    "bundle_to_train",
    "calibration_path",
    "chosen_solver",
    "current_bundle_or",
    "find_bundle",
    "known_bundles",
    "load_prior",
    "load_weights",
    "metadata",
    "read_prior",
    "read_small_text",
    "save_weights",
]


_METADATA = "*/configs/metadata.json"


def _search_path() -> list[Path]:
    package = Path(__file__).parent
    return [package / "bundles", package.parent / "bundles"]  # an installed wheel, a checkout


def known_bundles() -> list[Path]:
    """Folders of the bundles that come with medrecon, sorted by name."""
    found = {
        path.parents[1].name: path.parents[1] for folder in _search_path()[::-1] for path in folder.glob(_METADATA)
    }
    return [found[name] for name in sorted(found)]


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle.

    Args:
        name: name of a bundle that comes with medrecon, or folder of a bundle.

    Raises:
        InputError: if there is no such bundle, naming the most similar one.
    """
    # Bundles of medrecon take precedence: a folder of the same name may come from anybody, and its MONAI configs are code.
    if not isinstance(name, str | Path):
        raise InputError(f"a bundle is a name or a folder; got {name!r}")
    shipped = [folder / str(name) for folder in _search_path()]
    for folder in (*shipped, Path(name)) if Path(name).name == str(name) else (Path(name),):
        try:
            if (folder / "configs" / "metadata.json").is_file():
                return folder.resolve()
        except (OSError, ValueError):  # too long for a path, or with a null character
            continue
    known = [root.name for root in known_bundles()]
    near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else "; give the folder of a bundle"
    raise InputError(f"no bundle {str(name)[:100]!r}{hint}")


def current_bundle_or(name: str) -> Path:
    """The bundle of the config that is being run.

    The folder from which MONAI reads the config comes first, so that a copy of a bundle uses its own weights from any working
    folder; then the current folder; then the bundle called ``name``. A config that a program reads with MONAI's ``ConfigParser``
    has no known folder: set its ``bundle_root``.
    """
    for root in (_bundle_of_config(), Path.cwd()):
        if root is not None and (root / "configs" / "metadata.json").is_file():
            return root
    return find_bundle(name)


def bundle_to_train() -> Path:
    """The bundle of the ``train.yaml`` that is being run, whose weights the training replaces.

    Raises:
        InputError: if there is no bundle, or it comes with medrecon.
    """
    root = _bundle_of_config() or Path.cwd()
    if not (root / "configs" / "metadata.json").is_file():
        raise InputError(f"{root}: is not a bundle; run train.yaml in a copy of a bundle, or give --bundle_root")
    if any(known.samefile(root) for known in known_bundles()):
        raise InputError(f"{root}: comes with medrecon; copy it, and train the copy, or give --bundle_root")
    return root


def _bundle_of_config() -> Path | None:
    """Parent of the folder of the config that MONAI is evaluating, found in the call stack.

    MONAI evaluates a config without its path. A ``ConfigWorkflow`` has the folder as an attribute; functions such as
    ``ckpt_export`` have the files in a local variable.
    """
    frame = inspect.currentframe()
    while frame is not None:
        variables = frame.f_locals
        # Not getattr: a ConfigParser looks up unknown attributes in its config.
        folder = getattr(variables.get("self"), "__dict__", {}).get("config_root_path")
        if folder is None and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            files = variables.get("config_file_")
            first = files[0] if isinstance(files, list | tuple) and files else files
            folder = Path(first).parent if isinstance(first, str | Path) else None
        if folder is not None:
            return Path(os.path.abspath(folder)).parent  # links are not resolved: the bundle is where the link is
        frame = frame.f_back
    return None


def read_small_text(path: Path, limit: int = 2**20) -> str:
    """The text of a small file.

    Raises:
        ValueError: if it is not a regular file, larger, or not text.
        OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return content.decode("utf-8")


def metadata(root: str | Path) -> dict[str, Any]:
    """Content of the bundle's ``metadata.json``; ``weights`` is empty for a bundle without a network.

    Raises:
        InputError: if the file cannot be read, or lacks keys that medrecon needs.
    """
    path = Path(root) / "configs" / "metadata.json"
    try:
        facts = json.loads(read_small_text(path))
        weightless = "weights" not in facts and _without_network(Path(root))
        facts = {
            "name": Path(root).name,
            "version": "unknown",
            **facts,
            "weights": {} if weightless else dict(facts["weights"]),
        }
        wrong = [key for key in ("name", "version") if not isinstance(facts[key], str)]
        needed = () if weightless else ("file", "sha256")
        wrong += [f"weights.{key}" for key in needed if not isinstance(facts["weights"][key], str)]
        if wrong:
            raise TypeError(f"{' and '.join(wrong)} must be text")
    except InputError:  # of prior.yaml
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, KeyError) and not _prior_path(root).exists():
            raise InputError(
                f"{path}: has no 'weights', and there is no prior.yaml, so this bundle needs its own code; run its inference "
                "config with python -m monai.bundle, or choose another bundle"
            ) from error
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path}: not a bundle's metadata with 'weights' ({lacks}); choose another bundle") from error
    return facts


def calibration_path(root: str | Path) -> Path:
    """The calibrations of a bundle, which it may lack."""
    return Path(root) / "configs" / "calibration.json"


def _prior_path(root: str | Path) -> Path:
    return Path(root) / "configs" / "prior.yaml"


def _without_network(root: Path) -> bool:
    """Whether the bundle has a ``prior.yaml`` with ``network: null``."""
    return _prior_path(root).exists() and read_prior_file(_prior_path(root)).network is None


def read_prior(root: str | Path) -> PriorFile:
    """Content of the bundle's ``configs/prior.yaml``, with ``parameterization`` and ``sigma_data``.

    Bundles trained with medrecon 0.3 record these two values in ``metadata.json``; they are read there if ``prior.yaml`` lacks
    them.

    Raises:
        InputError: if the file cannot be used, lacks one of the two values, or contradicts ``metadata.json``.
    """
    path, facts = _prior_path(root), metadata(root)
    if not path.exists():
        raise InputError(
            f"{path}: missing; copy prior.yaml from the bundle that this one was copied from, and enter the arguments of your "
            "network (docs/priors.md), or run the bundle's inference.yaml with python -m monai.bundle"
        )
    prior, recorded = read_prior_file(path), facts["weights"]
    if prior.network is None:
        return prior
    values = {}
    for key in ("parameterization", "sigma_data"):
        values[key] = getattr(prior, key) if getattr(prior, key) is not None else recorded.get(key)
        if values[key] is None:
            raise InputError(f"{path}: lacks the key {key!r}; enter the value that the network was trained with")
        if recorded.get(key, values[key]) != values[key]:
            raise InputError(
                f"{path}: {key!r} is {values[key]!r}, but metadata.json records that the weights were trained with "
                f"{str(recorded[key])[:40]!r}; correct prior.yaml, and delete the key from metadata.json"
            )
    try:
        trained_objective(**values, masks=prior.masks, stride=prior.noise.stride if prior.noise else None)
    except ValueError as error:  # in metadata.json
        raise InputError(f"{path.with_name('metadata.json')}: {one_line(error)}; correct it") from error
    return replace(prior, **values)


def load_prior(bundle: str | Path) -> PriorSpec:
    """The prior of a bundle; every call of ``PriorSpec.network`` loads the network.

    Args:
        bundle: name or folder of the bundle.

    Raises:
        InputError: if the bundle does not exist or its files cannot be used. ``PriorSpec.network`` raises it if the network
            cannot be built, or the weights are missing, differ from the checksum in the metadata, or do not fit the network.
    """
    root = find_bundle(bundle)
    facts, prior = metadata(root), read_prior(root)
    return PriorSpec(
        name=facts["name"],
        version=facts["version"],
        weights_sha256=facts["weights"].get("sha256", ""),
        network=partial(_trained_network, root),
        objective=EDM()
        if prior.network is None
        else trained_objective(
            str(prior.parameterization),
            float(prior.sigma_data or 0),
            prior.masks,
            prior.noise.stride if prior.noise else None,
        ),
        images=prior.images,
        channels=prior.channels,
        labels=prior.labels,
        multiple=prior.multiple,
        symmetries=prior.symmetries,
        trained_planes=prior.trained_planes,
        tuned=prior.tuned,
        tuned_by_images=prior.tuned_by_images,
        posterior=prior.posterior,
        calibrations=read_calibrations(calibrations) if (calibrations := calibration_path(root)).exists() else (),
        n_steps=prior.steps,
        quality=prior.quality,
        sigma_min=prior.sigma_min,
        noise=prior.noise,
    )


def chosen_solver(options: Mapping[str, Any]) -> str:
    """Name of the solver that the user names, or else of the one that suits the options and the bundle.

    Args:
        options: options by name, as of :func:`medrecon.reconstruction.plan`; ``bundle`` may be a prior.

    Raises:
        InputError: if there is no such bundle, or its files cannot be used.
    """
    if options.get("solver"):
        return options["solver"]
    bundle = options.get("bundle")
    if bundle is not None and (bundle if isinstance(bundle, PriorSpec) else load_prior(bundle)).noise is not None:
        return "tweedie"
    return default_solver(options)


def _build(prior: PriorFile) -> nn.Module:
    return network_class(str(prior.network))(**prior.network_arguments).float()


def build_network(root: str | Path, parameterization: str | None = None) -> nn.Module:
    """The network of the bundle's ``prior.yaml`` with random weights, in float32.

    For a bundle without a network it is the identity, since MONAI's engines need a network; no solver calls it.

    Args:
        root: folder of the bundle.
        parameterization: what the network will predict; default: as in ``prior.yaml``.

    Raises:
        InputError: if the file cannot be used, or the network cannot be built, is too large, or does not accept the images
            named in the file.
    """
    prior, path = read_prior(root), str(_prior_path(root))
    if prior.network is None:
        return nn.Identity()
    prior = replace(prior, parameterization=parameterization or prior.parameterization)
    network_on_meta_device(str(prior.network), prior.network_arguments, path)
    network = _build(prior)
    check_images(network, prior.network_channels, prior.multiple, path, variances=prior.parameterization == "ddpm")
    return network


def _trained_network(root: Path) -> nn.Module:
    """The bundle's network with trained weights, in float32, for inference."""
    prior, path = read_prior(root), str(_prior_path(root))
    if prior.network is None:
        raise InputError(f"{path}: the bundle holds no network; choose another bundle")
    # Memory is allocated only after the weights have been compared with the network.
    state = _state(network_on_meta_device(prior.network, prior.network_arguments, path), root)
    with torch.random.fork_rng(devices=[]):
        network = _build(prior)
    network.load_state_dict(state)
    check_images(
        network.eval(), prior.network_channels, prior.multiple, path, variances=prior.parameterization == "ddpm"
    )
    return network.requires_grad_(False)


def load_weights(network: nn.Module, root: str | Path) -> nn.Module:
    """Load a bundle's weights into ``network`` for inference, after comparing their SHA-256 with the metadata.

    For a bundle without a network nothing is loaded.

    Raises:
        InputError: if the weights are missing, differ from the checksum in the metadata, or do not fit the network.
    """
    if metadata(root)["weights"]:
        network.load_state_dict(_state(network, root))
    return network.eval().requires_grad_(False)


def _weights_file(root: Path, facts: Mapping[str, Any]) -> Path:
    """Path of a bundle's weights.

    Raises:
        InputError: for a path outside the bundle.
    """
    name = facts["weights"]["file"]
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name or len(name) > 200:
        raise InputError(
            f"{root / 'configs' / 'metadata.json'}: the weights {name!r} are not a file inside the bundle; correct the name"
        )
    return root / name


def _state(network: nn.Module, root: str | Path) -> dict[str, Tensor]:
    """Weights of a bundle, checked against ``network``.

    Raises:
        InputError: see :func:`load_weights`.
    """
    facts = metadata(root)
    path = _weights_file(Path(root), facts)
    n_weights = sum(tensor.numel() for tensor in network.state_dict().values())
    state = read_weights(path, facts["weights"]["sha256"], limit=8 * n_weights + 2**24)
    differs = difference(state, network)
    if differs is not None:
        raise InputError(
            f"{path}: the weights belong to another network ({differs}); correct 'arguments' and 'labels' in prior.yaml (or "
            "'network_def' in your own config), or choose another bundle"
        )
    return state


def save_weights(
    network: nn.Module,
    root: str | Path,
    filename: str = "models/model.pt",
    *,
    parameterization: str | None = None,
    sigma_data: float | None = None,
    described: Mapping[str, Any] | None = None,
) -> None:
    """Store the weights of a network in a bundle in half precision, and their SHA-256 in the metadata.

    Args:
        network: network whose weights are stored.
        root: folder of the bundle.
        filename: file of the weights, relative to the bundle.
        parameterization: what the network was trained to predict, ``edm``, ``ddpm``, ``flow`` or ``ambient``; stored in
            ``prior.yaml``, or in the metadata of a bundle without that file. Default: unchanged.
        sigma_data: standard deviation of the training images per channel; likewise.
        described: more facts of the training for ``prior.yaml``: ``masks``, ``noise``.

    Raises:
        InputError: if the bundle's files cannot be used, or the bundle has no network.
    """
    root, facts = Path(root), metadata(root)
    if not facts["weights"]:
        raise InputError(f"{root}: the bundle has no network, so weights cannot be stored; choose another folder")
    content, sha256 = encode_weights(network)
    given = {"parameterization": parameterization, "sigma_data": sigma_data}
    trained = {key: value for key, value in given.items() if value is not None}
    files = {root / filename: content}
    path, kept = _prior_path(root), {key: facts["weights"][key] for key in given if key in facts["weights"]}
    if path.exists():
        files[path] = replace_values(
            path, **kept | trained | {key: dict(value) for key, value in (described or {}).items()}
        )
        facts["weights"] = {"file": filename, "sha256": sha256}
    else:
        facts["weights"] = {"file": filename, "sha256": sha256, **kept, **trained}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_atomically({**files, root / "configs" / "metadata.json": text.encode()}, overwrite=True)
    _warn_if_different(network, root)


def _warn_if_different(network: nn.Module, root: Path) -> None:
    """Warn if ``prior.yaml`` describes another network than the stored one."""
    if not _prior_path(root).exists():
        return
    prior, path = read_prior(root), _prior_path(root)
    differs = difference(
        network.state_dict(), network_on_meta_device(str(prior.network), prior.network_arguments, str(path))
    )
    if differs is not None:
        warn(f"{path} describes another network than the stored one ({differs}); correct 'arguments'")
