"""YAML files as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from medrecon.data.errors import InputError, one_line

__all__ = ["parse_plain_yaml", "read_plain_yaml", "read_yaml"]


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which can expand exponentially, and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:  # type: ignore[override]
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise ConstructorError(None, None, f"{key[:40]!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _reason(error: Exception) -> str:
    """What is wrong, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {one_line(error.problem)[:150]}"
    return one_line(error)[:150]


def _parsed(text: str | bytes, path: Path, what: str, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    try:
        content = yaml.load(text, loader)
    # Constructors of dates and numbers raise ValueError for what only looks like one.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file ({_reason(error)}); give {what}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        found = "a mapping with keys that are not text" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: holds {found}, but {what} is a mapping of names to values; correct the file")
    return content


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping with names as keys.

    Args:
        path: file.
        what: kind of file, for errors, e.g. ``a recipe``.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give {what}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a YAML file ({_reason(error)}); give {what}") from error
    return _parsed(text, path, what, yaml.SafeLoader)


def read_plain_yaml(path: Path, what: str, limit: int = 2**16) -> dict[str, Any]:
    """Like :func:`read_yaml`, for files that come from anywhere: small, without aliases and repeated keys.

    Args:
        path: file.
        what: kind of file, for errors.
        limit: largest size, bytes.

    Raises:
        InputError: if it cannot be read, is larger, or holds something else.
    """
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise InputError(f"{path}: not a regular file; give {what}")
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give {what}") from error
    if len(content) > limit:
        raise InputError(f"{path}: larger than {limit} bytes, which is far more than {what} needs; give another file")
    return parse_plain_yaml(content, path, what)


def parse_plain_yaml(content: bytes, path: Path, what: str) -> dict[str, Any]:
    """The content of a file as :func:`read_plain_yaml` takes it.

    Raises:
        InputError: if it holds something else.
    """
    try:
        text = content.decode("utf-8")
    except ValueError as error:
        raise InputError(f"{path}: not a YAML file ({_reason(error)}); give {what}") from error
    return _parsed(text, path, what, _PlainLoader)
