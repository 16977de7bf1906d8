"""Solvers made from names and settings given by users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from typing import Any

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError, one_line
from medrecon.solvers import SOLVERS, is_unconditional
from medrecon.solvers.base import Solver

__all__ = ["find_solver", "make_solver", "name_of", "setting_fields"]


def name_of(solver: Solver) -> str:
    """Name of a solver in ``SOLVERS``, or else of its class."""
    return next((name for name, kind in SOLVERS.items() if kind is type(solver)), type(solver).__name__)


def find_solver(name: object) -> type[Solver]:
    """The class of a solver by its name in ``SOLVERS``.

    Raises:
        InputError: for an unknown name (naming the nearest), or a solver that takes no data.
    """
    if not isinstance(name, str) or name not in SOLVERS:
        usable = [key for key, solver in SOLVERS.items() if not is_unconditional(solver)]
        near = get_close_matches(str(name)[:100], usable, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown solver {shown(name)}; did you mean {near!r}? ('medrecon solvers' lists all)")
    if is_unconditional(SOLVERS[name]):
        raise InputError(f"solver {name!r} draws images of the prior alone; choose one that takes data, such as 'dds'")
    return SOLVERS[name]


def _fits(value: object, kind: str) -> bool:
    """Whether a value has the annotated type of a setting."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    numeric = whole or isinstance(value, float)
    return {
        "int": whole,
        "float": numeric,
        "float | None": numeric or value is None,
        "bool": isinstance(value, bool),
    }.get(kind, isinstance(value, str))


def setting_fields(solver: type[Solver]) -> dict[str, Field[Any]]:
    """Hyper-parameters of a solver by name, without operators."""
    return {one.name: one for one in fields(solver) if "Operator" not in str(one.type)}


def make_solver(name: str, settings: Mapping[str, Any] | None = None) -> Solver:
    """The solver ``name`` of ``SOLVERS`` with some hyper-parameters changed.

    Raises:
        InputError: for an unknown solver or setting (naming the nearest), or a bad value.
    """
    solver = find_solver(name)
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(
            f"settings of solver {name!r} are names and values, such as {{'gamma': 5.0}}; got {shown(settings)}"
        )
    known = setting_fields(solver)
    for key, value in (settings or {}).items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"solver {name!r} has no setting {key!r}; it has {', '.join(known) or 'none'}{hint}")
        kind = str(known[key].type)
        if not _fits(value, kind):
            raise InputError(f"setting {key!r} of solver {name!r} must be {kind}; got {shown(value)}")
    try:
        return solver(**(settings or {}))
    except (ValueError, OverflowError, TypeError) as error:
        raise InputError(f"solver {name!r}: {one_line(error)}") from error
