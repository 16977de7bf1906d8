"""Recipes by name: MONAI configs that say where cases are, what is done to them, and what is written."""

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


def _shelves() -> list[Path]:
    package = Path(__file__).parents[1]
    return [package / "data_prep", package.parent / "data_prep"]  # an installed wheel, a checkout


def names() -> list[str]:
    """Of the recipes that come with medrecon."""
    return sorted({path.stem for shelf in _shelves() for path in shelf.glob("*.yaml")})


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path to one, or the name of one that comes with medrecon.

    Raises:
        InputError: if there is none, naming the nearest.
    """
    if Path(name).suffix.lower() in (".yaml", ".yml", ".json"):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such recipe; give the path of a YAML file, or one of {', '.join(names())}")
        return Path(name)
    for shelf in _shelves():
        if (shelf / f"{name}.yaml").is_file():
            return shelf / f"{name}.yaml"
    near = get_close_matches(str(name), names(), n=1, cutoff=0.0)
    raise InputError(f"no recipe {str(name)!r}; did you mean {near[0]!r}? There are {', '.join(names())}")


_CODE = ("about", "imports", "cases", "transform", "write", "optional")
"""Items of a recipe that are not settings."""
_CHANGED = "_changed_"
"""Item with the names of those whose values are the user's: data, whatever they look like."""


def load_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe as plain data, with some of its settings replaced.

    A recipe is code: only use those that you trust. The changes are data: ``$``, ``@`` and ``%`` are characters in them.

    Raises:
        InputError: if it cannot be read, lacks ``cases``, ``transform`` or ``write``, holds other things than plain data, or
            has no setting to replace.
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
    """Refuse a recipe that lacks items, has some of the wrong kind, or cannot travel to workers.

    Raises:
        InputError: naming the item.
    """
    missing = [key for key in ("cases", "transform", "write") if key not in recipe]
    if missing:
        raise InputError(f"{name}: not a recipe; it lacks {', '.join(missing)}")
    for key, value in recipe.items():
        try:
            json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"{type(value).__name__}; {one_line(error)}"
            raise InputError(f"{name}: {key!r} is not plain data ({reason}); quote dates and the like") from error
    for key in ("write", "optional"):
        names = recipe.get(key) or {}
        if not isinstance(names, dict) or not all(isinstance(v, str) for pair in names.items() for v in pair):
            raise InputError(
                f"{name}: {key!r} must be names of what is written and keys of the transform's output, such as "
                f"{{image: image}}; got {str(names)[:100]}"
            )
    for key in ("cases", "transform"):
        if not isinstance(recipe[key], dict | str) or (isinstance(recipe[key], dict) and "_target_" not in recipe[key]):
            raise InputError(
                f"{name}: {key!r} must have a '_target_', or be a reference or expression; got {str(recipe[key])[:100]}"
            )


def parser_of(recipe: Mapping[str, Any], source: str | Path, seed: int = 0) -> Config:
    """Ready to make ``cases`` and ``transform``; a recipe may refer to ``@source`` and ``@seed``."""
    changed = {key: recipe[key] for key in recipe.get(_CHANGED) or ()}
    code = {key: value for key, value in recipe.items() if key != _CHANGED}
    parser = Config({**code, **dict.fromkeys(changed), "source": None, "seed": None}, "the recipe")
    parser.bind(source=str(source), seed=seed, **changed)
    if "imports" in recipe:
        parsed(parser, "imports")
    return parser
