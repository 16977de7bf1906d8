"""Objectives of measurements by name, for configs: :class:`medrecon.training.objectives.MeasuredObjective`.

Names are resolved when they are used, so that a config that trains on clean images imports none of these modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError, one_line
from medrecon.training.objectives import MeasuredObjective

__all__ = ["MEASURED", "measured_class", "measured_objective"]

MEASURED: Mapping[str, str] = MappingProxyType(
    {
        "supervised": "medrecon.training.denoising:Supervised",
        "noise2score": "medrecon.training.denoising:Noise2Score",
        "sure": "medrecon.training.denoising:SURELoss",
        "noise2noise": "medrecon.training.denoising:Noise2Noise",
        "noise2self": "medrecon.training.denoising:Noise2Self",
        "ambient": "medrecon.training.undersampled:Ambient",
        "gsure": "medrecon.training.undersampled:GSURE",
        "ssdu": "medrecon.training.undersampled:SSDU",
    }
)
"""Module and class of every objective of measurements, by name."""


def measured_class(name: object) -> type[MeasuredObjective]:
    """The class of an objective of measurements.

    Args:
        name: a name in :data:`MEASURED`.

    Raises:
        InputError: for another name, with the nearest one.
    """
    if not isinstance(name, str) or name not in MEASURED:
        near = get_close_matches(str(name)[:100], MEASURED, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MEASURED)}"
        raise InputError(f"no objective {shown(name)}; {hint}")
    module, _, attribute = MEASURED[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def measured_objective(name: str, **settings: Any) -> MeasuredObjective:  # noqa: ANN401 - numbers and text
    """An objective of measurements, for configs.

    Args:
        name: a name in :data:`MEASURED`.
        **settings: fields of its class.

    Raises:
        InputError: for an unknown name or setting, or a value that the class refuses.
    """
    kind = measured_class(name)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type] - objectives are dataclasses
    for key in settings:
        if key not in known:
            raise InputError(f"{name}: has no setting {key!r}; it has {', '.join(known) or 'none'}")
    try:
        return kind(**settings)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {one_line(error)}") from error
