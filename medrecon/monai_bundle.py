"""Bundle configs, read by MONAI. A config is code: open only bundles that you trust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import get_track_meta, set_track_meta

from medrecon.data.errors import InputError, innermost, one_line
from medrecon.data.yaml_files import read_yaml

__all__ = ["Config", "load_config", "parsed", "restored_meta"]


class Config(ConfigParser):
    """A config, which is code, with values from the user, which are data.

    In every string of a config, at any depth, MONAI evaluates text that begins with ``$``, replaces ``@name`` by the item of that
    name, reads the file after ``%`` and replaces ``#`` by ``::``; it instantiates mappings with a ``_target_``. Bound values are
    exempt: they are stored as results that the parser has resolved already, so ``@name`` in the config gives the value unchanged.

    Args:
        config: see MONAI's ``ConfigParser``.
        about: name of the config, for errors.
    """

    def __init__(self, config: Any = None, about: str = "the config") -> None:  # noqa: ANN401
        self.bound: dict[str, Any] = {}
        self.about = about
        super().__init__(config)

    def bind(self, **values: Any) -> None:  # noqa: ANN401
        """Replace items of the config by values that are not evaluated.

        Raises:
            KeyError: for a name that is not in the config, where the value would have no effect.
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
    """A value and its nested items with MONAI's identifiers: ``settings``, ``settings::gamma``."""
    yield name, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _parts(f"{name}::{key}", part)


def load_config(root: str | Path, **values: Any) -> Config:  # noqa: ANN401
    """The ``inference.yaml`` of a bundle with some of its items replaced, ready for ``get_parsed_content``.

    A config is code: open only bundles that you trust. The values are data, see :class:`Config`.

    Args:
        root: folder of the bundle.
        **values: values of items by name.

    Raises:
        InputError: if the file cannot be read, or has no item of a given name.
    """
    path = Path(root) / "configs" / "inference.yaml"
    config = Config(read_yaml(path, "a bundle's config"), str(path))
    try:
        config.bind(bundle_root=str(root), **values)
    except KeyError as error:
        name = error.args[0]
        raise InputError(f"{path}: has no item {name!r} to set; choose another name, or another bundle") from error
    return config


def parsed(parser: ConfigParser, key: str) -> Any:  # noqa: ANN401
    """An item of a config, evaluated.

    Raises:
        InputError: if it cannot be evaluated: medrecon's own error without MONAI's wrapping, or the innermost
            error with its type.
    """
    about = parser.about if isinstance(parser, Config) else "the config"
    if key not in parser:
        raise InputError(f"{about}: has no item {key!r}; correct it")
    try:
        return parser.get_parsed_content(key)
    except Exception as error:  # MONAI's errors of many types, and any error of the code in a config
        cause = innermost(error)
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(
            f"{about}: {key!r} cannot be built ({type(cause).__name__}: {one_line(cause)}); correct its settings"
        ) from error


@contextmanager
def restored_meta() -> Iterator[None]:
    """Restore MONAI's switch of meta tensors, which a config may change."""
    tracked = get_track_meta()
    try:
        yield
    finally:
        set_track_meta(tracked)
