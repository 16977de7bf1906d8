"""Bundles by name, and their weights, checked before use."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser
from torch import Tensor, nn

from medrecon.data.errors import DAMAGE, InputError, advised, innermost, told
from medrecon.data.files import write_whole

__all__ = [
    "Config",
    "find_bundle",
    "here_or",
    "load_config",
    "load_weights",
    "metadata",
    "parsed",
    "read_yaml",
    "save_weights",
]


class Config(ConfigParser):
    """A config, which is code, with values of the user, which are data.

    MONAI evaluates text that begins with ``$``, replaces ``@name`` by what is called so, reads the file behind ``%``, builds
    what has a ``_target_`` and turns ``#`` into ``::``, in every string of a config, however deep. Bound values pass by all of
    that: they stand among the results that the parser has worked out already, so ``@name`` in the config is the value as it is.

    Args:
        config: see MONAI's ``ConfigParser``.
        about: what the config is, for errors.
    """

    def __init__(self, config: Any = None, about: str = "the config") -> None:  # noqa: ANN401
        self.bound: dict[str, Any] = {}
        self.about = about
        super().__init__(config)

    def bind(self, **values: Any) -> None:  # noqa: ANN401
        """Give items of the config other values, as data.

        Raises:
            KeyError: for a name that the config does not have, whose value would have no effect.
        """
        for name in values:
            if not isinstance(self.config, dict) or name not in self.config:
                raise KeyError(name)
        self.bound |= values
        self.ref_resolver.reset()

    def parse(self, reset: bool = True) -> None:
        """See MONAI."""
        super().parse(reset)
        for name, value in self.bound.items():
            self.ref_resolver.resolved_content.update(_parts(name, value))


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A value and all that it holds, under the names that MONAI gives them: ``settings``, ``settings::gamma``."""
    yield name, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _parts(f"{name}::{key}", part)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping with names as keys.

    Args:
        path: of the file.
        what: it is, for errors, e.g. ``a recipe``.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give {what}") from error
    # Constructors of dates and numbers raise ValueError for what only looks like one.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file ({told(error)[:150]}); give {what}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        held = "a mapping with keys that are not text" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: holds {held}, but {what} is a mapping of names to values; correct the file")
    return content


def _shelves() -> list[Path]:
    package = Path(__file__).parent
    return [package / "bundles", package.parent / "bundles"]  # an installed wheel, a checkout


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle: a path to one, or the name of one that comes with medrecon.

    Raises:
        InputError: if there is none, naming the nearest.
    """
    # A bare name means ours first: a config is code, and a folder of that name may lie anywhere.
    if not isinstance(name, str | Path):
        raise InputError(f"a bundle is a name or a folder; got {name!r}")
    shelved = [shelf / str(name) for shelf in _shelves()]
    for folder in (*shelved, Path(name)) if Path(name).name == str(name) else (Path(name),):
        try:
            if (folder / "configs" / "metadata.json").is_file():
                return folder.resolve()
        except (OSError, ValueError):  # too long for a path, or with a null character
            continue
    known = sorted(path.parents[1].name for shelf in _shelves() for path in shelf.glob("*/configs/metadata.json"))
    near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else "; give the folder of one"
    raise InputError(f"no bundle {str(name)[:100]!r}{hint}")


def here_or(name: str) -> Path:
    """The bundle in the current folder, if that is one, else the one called ``name``: what a config is run for."""
    return Path.cwd() if Path("configs", "metadata.json").is_file() else find_bundle(name)


def metadata(root: str | Path) -> dict[str, Any]:
    """The bundle's ``metadata.json``.

    Raises:
        InputError: if it cannot be read, or lacks what medrecon needs of it.
    """
    path = Path(root) / "configs" / "metadata.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts = {"name": Path(root).name, "version": "unknown", **facts, "weights": dict(facts["weights"])}
        wrong = [key for key in ("name", "version") if not isinstance(facts[key], str)]
        wrong += [f"weights.{key}" for key in ("file", "sha256") if not isinstance(facts["weights"][key], str)]
        if wrong:
            raise TypeError(f"{' and '.join(wrong)} must be text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else told(error)
        raise InputError(f"{path}: not a bundle's metadata with 'weights' ({lacks}); choose another bundle") from error
    return facts


def _weights_file(root: Path, facts: Mapping[str, Any]) -> Path:
    """Where a bundle's weights lie.

    Raises:
        InputError: for a name that leads out of the bundle.
    """
    name = facts["weights"]["file"]
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name or len(name) > 200:
        raise InputError(
            f"{root / 'configs' / 'metadata.json'}: names the weights {name!r}, which is no file inside the bundle; correct it"
        )
    return root / name


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dictionary, float32.

    Raises:
        InputError: if the content is something else, or its numbers are no weights.
    """
    store = "choose another bundle, or store weights with medrecon.bundle.save_weights"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused anyway
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: not a state dictionary of tensors that can be loaded without running code; {store}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds other things than tensors; {store}")
    for key, value in state.items():
        plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
        if not plain or value.is_complex() or value.dtype is torch.bool:
            raise InputError(f"{path}: {key} is a {value.dtype} tensor, not plain real numbers; {store}")
        if not bool(value.isfinite().all()):
            raise InputError(f"{path}: {key} holds NaN or Inf; train the network again")
    return {str(key): value.float() for key, value in state.items()}


def _difference(state: Mapping[str, Tensor], network: nn.Module) -> str | None:
    """How weights differ from those of a network, or ``None`` if they fit."""
    own = network.state_dict()
    for key in own.keys() | state.keys():
        if key not in state or key not in own:
            return f"{len(state)} tensors, but the network of inference.yaml has {len(own)}, and other names"
    for key, value in state.items():
        if value.shape != own[key].shape:
            return f"{key} is {tuple(value.shape)}, but {tuple(own[key].shape)} in the network of inference.yaml"
    return None


def load_weights(network: nn.Module, root: str | Path) -> nn.Module:
    """Load a bundle's weights into ``network``, ready for inference, after comparing their SHA-256 with the metadata.

    Raises:
        InputError: if the weights are missing, are not those that the metadata name, or do not fit the network.
    """
    facts = metadata(root)
    path, expected = _weights_file(Path(root), facts), facts["weights"]["sha256"]
    if not path.is_file():
        raise InputError(f"{path}: the bundle's weights are missing; install medrecon again or train them (train.yaml)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); {advised(error, 'copy it again')}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise InputError(
            f"{path}: SHA-256 is {found[:12]}..., but metadata.json says {expected[:12]}...; "
            "the weights are damaged or not this bundle's: install medrecon again"
        )
    state = _tensors(content, path)
    difference = _difference(state, network)
    if difference is not None:
        raise InputError(
            f"{path}: the weights are those of another network ({difference}); give 'network_def' the settings of the "
            "train.yaml that they come from, or choose another bundle"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def save_weights(
    network: nn.Module, root: str | Path, filename: str = "models/model.pt", **trained: float | str
) -> None:
    """Store a network in half precision in a bundle, and its SHA-256 and how it was trained in the metadata.

    Args:
        network: whose weights.
        root: of the bundle.
        filename: of the weights, in the bundle.
        **trained: what a user of the weights must know, e.g. ``parameterization="edm", sigma_data=0.25``; the bundle's
            ``inference.yaml`` reads it back.
    """
    buffer = io.BytesIO()
    torch.save({key: value.detach().half().cpu() for key, value in network.state_dict().items()}, buffer)
    facts = metadata(root)
    facts["weights"] = {"file": filename, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), **trained}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    root = Path(root)
    write_whole({root / filename: buffer.getvalue(), root / "configs" / "metadata.json": text.encode()}, overwrite=True)


def load_config(root: str | Path, **values: Any) -> Config:  # noqa: ANN401
    """The bundle's ``inference.yaml`` with some of its items replaced, ready for ``get_parsed_content``.

    A config is code: only open bundles that you trust. The values are data, see :class:`Config`.

    Raises:
        InputError: if the file cannot be read, or has no item of a name.
    """
    path = Path(root) / "configs" / "inference.yaml"
    config = Config(read_yaml(path, "a bundle's config"), str(path))
    try:
        config.bind(bundle_root=str(root), **values)
    except KeyError as error:
        name = error.args[0]
        raise InputError(f"{path}: has no item {name!r}, so {name} cannot be chosen; use another bundle") from error
    return config


def parsed(parser: ConfigParser, key: str) -> Any:  # noqa: ANN401
    """A config item.

    Raises:
        InputError: our own one-sentence errors freed from MONAI's wrapping, and of others the innermost, with its kind.
    """
    about = parser.about if isinstance(parser, Config) else "the config"
    if key not in parser:
        raise InputError(f"{about}: has no item {key!r}; correct it")
    try:
        return parser.get_parsed_content(key)
    except Exception as error:  # MONAI's own, of many kinds, and whatever the code in a config raises
        cause = innermost(error)
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(
            f"{about}: its {key!r} cannot be made ({type(cause).__name__}: {told(cause)}); correct its settings"
        ) from error
