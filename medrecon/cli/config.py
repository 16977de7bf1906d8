"""Read options from a YAML file of plain data, in which keys are names of flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError

__all__ = ["expand_config"]

_PAIRS = {"set": "solver.", "select": "", "like-select": ""}
"""Flags that take NAME=VALUE, which the file gives as a mapping, and the prefix of their names."""


def expand_config(argv: Sequence[str], command: argparse.ArgumentParser) -> list[str]:
    """Replace ``--config FILE`` by the options in the file; options on the command line come later and so override them.

    Args:
        argv: arguments of the command, without its name.
        command: parser of the command.

    Raises:
        InputError: for an unknown key or an unsuitable value, naming the file and the key.
    """
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names.add_argument("--config")
    given, rest = names.parse_known_args(list(argv))
    if given.config is None:
        return list(argv)
    from medrecon.data.yaml_files import read_plain_yaml

    path = Path(given.config)
    flags = {flag[2:]: action for action in command._actions for flag in action.option_strings if flag.startswith("--")}
    out: list[str] = []
    for key, value in read_plain_yaml(path, "a file of options").items():
        name = key.replace("_", "-")
        if name not in flags or name in ("help", "config"):
            near = get_close_matches(name, list(flags), n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else "scans go on the command line; see --help"
            raise InputError(f"{path}: unknown option {key!r}; {hint}")
        out += _tokens(path, name, action=flags[name], value=value)
    return [*out, *rest]


def _tokens(path: Path, name: str, action: argparse.Action, value: Any) -> list[str]:  # noqa: ANN401 - of YAML
    """A flag and its value, as on the command line."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {name} must be true or false; got {value!r}")
        return [f"--{name}"] if value else []
    if name in _PAIRS:
        if not isinstance(value, dict) or any(isinstance(one, dict) for one in value.values()):
            raise InputError(f"{path}: {name} must be a mapping of names to values, e.g. {{gamma: 5}}; got {value!r}")
        return [f"--{name}={_PAIRS[name]}{key}={_text(one)}" for key, one in value.items()]
    if value is None:
        return []
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value)):
        raise InputError(f"{path}: {name} must be text or a number, as on the command line; got {value!r}")
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name}={value}"]


def _text(value: Any) -> str:  # noqa: ANN401 - of YAML
    """A value in the form that ``--set`` reads."""
    return value if isinstance(value, str) else json.dumps(value)
