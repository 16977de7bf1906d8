"""Recipes by name: MONAI configs that define the cases, their transforms and what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError, one_line
from medrecon.data.yaml_files import read_yaml
from medrecon.monai_bundle import Config, parsed

__all__ = ["check_recipe", "find_recipe", "load_recipe", "names", "parser_of"]


def _search_path() -> list[Path]:
    package = Path(__file__).parents[1]
    return [package / "data_prep", package.parent / "data_prep"]  # in an installed wheel, in a checkout


def names() -> list[str]:
    """Names of the recipes that come with medrecon."""
    return sorted({path.stem for folder in _search_path() for path in folder.glob("*.yaml")})


def find_recipe(name: str | Path) -> Path:
    """Path of a recipe, given its path or the name of a recipe that comes with medrecon.

    Raises:
        InputError: if there is no such recipe; it suggests the nearest name.
    """
    if Path(name).suffix.lower() in (".yaml", ".yml", ".json"):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such recipe; give the path of a YAML file, or one of {', '.join(names())}")
        return Path(name)
    for folder in _search_path():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    near = get_close_matches(str(name), names(), n=1, cutoff=0.0)
    raise InputError(f"no recipe {str(name)!r}; did you mean {near[0]!r}? The recipes are {', '.join(names())}")


_CODE = ("about", "imports", "cases", "transform", "write", "optional")
"""Keys of a recipe that are not settings."""
_CHANGED = "_changed_"
"""Key with the names of changed settings, whose values are data even if they look like expressions."""


def load_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a recipe as plain data, and replace some of its settings.

    A recipe is code: only use recipes that you trust. The changes are data: ``$``, ``@`` and ``%`` have no special meaning there.

    Args:
        name: name or path of a recipe.
        changes: new values of settings.

    Raises:
        InputError: if the recipe cannot be read, lacks ``cases``, ``transform`` or ``write``, holds anything but plain data, or
            lacks a setting in ``changes``.
    """
    path = find_recipe(name)
    recipe = read_yaml(path, "a recipe")
    for key, value in (changes or {}).items():
        if key not in recipe or key in (*_CODE, _CHANGED):
            free = [k for k in recipe if k not in (*_CODE, _CHANGED)]
            near = get_close_matches(str(key), free, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{path}: has no setting {key!r}; it has {', '.join(free) or 'none'}{hint}")
        recipe[key] = value
    if changes:
        recipe[_CHANGED] = sorted(changes)
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: Mapping[str, Any], name: str = "the recipe") -> None:
    """Refuse a recipe with missing keys, values of the wrong type, or values that cannot be sent to workers.

    Raises:
        InputError: with the name of the key.
    """
    missing = [key for key in ("cases", "transform", "write") if key not in recipe]
    if missing:
        raise InputError(f"{name}: not a recipe; it lacks {', '.join(missing)}")
    for key, value in recipe.items():
        try:
            json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"{type(value).__name__}; {one_line(error)}"
            raise InputError(
                f"{name}: {key!r} is not plain data ({reason}); put values such as dates in quotes"
            ) from error
    for key in ("write", "optional"):
        names = recipe.get(key) or {}
        if not isinstance(names, dict) or not all(isinstance(v, str) for pair in names.items() for v in pair):
            raise InputError(
                f"{name}: {key!r} must map names of arrays to keys of the transform's output, such as "
                f"{{image: image}}; got {str(names)[:100]}"
            )
    if recipe.get("compression") not in (None, "gzip", "lzf"):
        raise InputError(f"compression is gzip, lzf or null; got {recipe['compression']!r}")
    for key in ("cases", "transform"):
        if not isinstance(recipe[key], dict | str) or (isinstance(recipe[key], dict) and "_target_" not in recipe[key]):
            raise InputError(
                f"{name}: {key!r} must have a '_target_', or be a reference or an expression; got {str(recipe[key])[:100]}"
            )


def parser_of(recipe: Mapping[str, Any], source: str | Path, seed: int = 0) -> Config:
    """A parser that builds ``cases`` and ``transform``; the recipe may refer to ``@source`` and ``@seed``."""
    changed = {key: recipe[key] for key in recipe.get(_CHANGED) or ()}
    code = {key: value for key, value in recipe.items() if key != _CHANGED}
    parser = Config({**code, **dict.fromkeys(changed), "source": None, "seed": None}, "the recipe")
    parser.bind(source=str(source), seed=seed, **changed)
    if "imports" in recipe:
        parsed(parser, "imports")
    return parser
