"""Bundle configs as MONAI reads them. A config is code: open only bundles that you trust."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medrecon.data.errors import InputError, innermost, one_line
from medrecon.data.yaml_files import read_yaml

__all__ = ["Config", "load_config", "parsed"]


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
            f"{about}: its {key!r} cannot be made ({type(cause).__name__}: {one_line(cause)}); correct its settings"
        ) from error
