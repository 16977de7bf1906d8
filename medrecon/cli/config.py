"""Options from a YAML file: plain data, whose keys are the names of flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError

__all__ = ["expanded"]

_PAIRS = {"set": "solver.", "select": "", "like-select": ""}
"""Flags of names and values, which a mapping gives; and what stands before the names."""


def expanded(argv: Sequence[str], command: argparse.ArgumentParser) -> list[str]:
    """A command line whose ``--config FILE`` is replaced by the options in the file; what stands on the line itself comes later.

    Args:
        argv: of the command, without its name.
        command: its parser.

    Raises:
        InputError: naming the file and the key, for unknown keys and values that cannot be those of a flag.
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
            hint = f"did you mean {near[0]!r}?" if near else "scans stand on the command line; see --help for options"
            raise InputError(f"{path}: there is no option {key!r}; {hint}")
        out += _tokens(path, name, action=flags[name], value=value)
    return [*out, *rest]


def _tokens(path: Path, name: str, action: argparse.Action, value: Any) -> list[str]:  # noqa: ANN401 - of YAML
    """A flag and its value as on the command line."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {name} is true or false; got {value!r}")
        return [f"--{name}"] if value else []
    if name in _PAIRS:
        if not isinstance(value, dict) or any(isinstance(one, dict) for one in value.values()):
            raise InputError(f"{path}: {name} is a mapping of names to values, e.g. {{gamma: 5}}; got {value!r}")
        return [f"--{name}={_PAIRS[name]}{key}={_text(one)}" for key, one in value.items()]
    if value is None:
        return []
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value)):
        raise InputError(f"{path}: {name} is text or a number as on the command line; got {value!r}")
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name}={value}"]


def _text(value: Any) -> str:  # noqa: ANN401 - of YAML
    """As ``--set`` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
