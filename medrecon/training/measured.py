"""Objectives of measurements by name, for configs: :class:`medrecon.training.objectives.MeasuredObjective`.

Modules are imported when their names are used.
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
from medrecon.training.corruption import noise_family
from medrecon.training.objectives import MeasuredObjective, Objective, objective

__all__ = ["MASKED", "MASK_FIELDS", "MEASURED", "PRIORS", "measured_class", "measured_objective", "trained_objective"]

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

PRIORS = frozenset({"ambient", "gsure"})
"""Names whose networks are priors at all noise levels; the others denoise, or reconstruct, data as in their training."""

MASK_FIELDS = ("acs", "accel", "dropped", "kind", "rows", "several_coils")
"""Settings of ``ambient`` that describe the scans of the training, which prior.yaml records."""
MASKED = "ambient"
"""The parameterization of prior.yaml whose network takes a sampling mask as a further channel."""


def trained_objective(
    parameterization: str, sigma_data: float = 0.25, masks: Mapping[str, Any] | None = None, stride: int | None = None
) -> Objective | MeasuredObjective:
    """What a network was trained for, by the parameterization of prior.yaml.

    Args:
        parameterization: ``ambient``, or one of :func:`medrecon.training.objectives.objective`.
        sigma_data: standard deviation of the images per channel.
        masks: sampling masks of the training with ``ambient``, fields of its class.
        stride: that of ``noise2self``, whose network is evaluated on masked images; ``None``: another objective.

    Raises:
        ValueError: as there.
    """
    if parameterization == MASKED:
        return measured_objective(MASKED, sigma_data=sigma_data, **(masks or {}))
    if stride is not None:
        return measured_objective("noise2self", sigma_data=sigma_data, stride=stride)
    return objective(parameterization, sigma_data)


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
        **settings: fields of its class; ``family`` may be a name, since the training takes noise levels from the data.

    Raises:
        InputError: for an unknown name or setting, or a value that the class refuses.
    """
    kind = measured_class(name)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type] - objectives are dataclasses
    for key in settings:
        if key not in known:
            raise InputError(f"{name}: has no setting {key!r}; it has {', '.join(known) or 'none'}")
    try:
        if isinstance(family := settings.get("family"), str):
            settings["family"] = noise_family(family, 2.0)  # a level that no loss uses
        return kind(**settings)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {one_line(error)}") from error
