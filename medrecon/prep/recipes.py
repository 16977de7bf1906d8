"""Recipes by name: MONAI configs that say where cases are, what is done to them, and what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medrecon.bundle import parsed
from medrecon.data.errors import InputError

__all__ = ["find_recipe", "load_recipe", "names", "parser_of"]


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
            raise InputError(f"{name}: no such recipe")
        return Path(name)
    for shelf in _shelves():
        if (shelf / f"{name}.yaml").is_file():
            return shelf / f"{name}.yaml"
    near = get_close_matches(str(name), names(), n=1, cutoff=0.0)
    raise InputError(f"no recipe {str(name)!r}; did you mean {near[0]!r}? There are {', '.join(names())}")


def load_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe as plain data, with some of its items replaced.

    A recipe is code: only use those that you trust.

    Raises:
        InputError: if it cannot be read, lacks ``cases``, ``transform`` or ``write``, or has no item to replace.
    """
    path = find_recipe(name)
    try:
        recipe = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())[:150]})") from error
    missing = [key for key in ("cases", "transform", "write") if not isinstance(recipe, dict) or key not in recipe]
    if missing:
        raise InputError(f"{path}: not a recipe; it lacks {', '.join(missing)}")
    for key, value in (changes or {}).items():
        if key not in recipe or key in ("cases", "transform", "write"):
            free = [k for k in recipe if k not in ("about", "imports", "cases", "transform", "write")]
            raise InputError(f"{path}: has no setting {key!r}; it has {', '.join(free) or 'none'}")
        recipe[key] = value
    json.dumps(recipe)  # nothing but plain data, which travels to workers
    return recipe


def parser_of(recipe: Mapping[str, Any], source: str | Path, seed: int = 0) -> ConfigParser:
    """Ready to make ``cases`` and ``transform``; a recipe may refer to ``@source`` and ``@seed``."""
    parser = ConfigParser({**recipe, "source": str(source), "seed": seed})
    if "imports" in recipe:
        parsed(parser, "imports")
    return parser
