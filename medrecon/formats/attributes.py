"""Allow-list of attributes that are read from files, displayed and copied.

Any other attribute may contain patient data (MRN, birth_date, operator, dates, free text under any name), so it is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import h5py

from medrecon.data.errors import DAMAGE
from medrecon.data.masks import KINDS
from medrecon.formats.hdf5 import read_attribute, text_of

__all__ = ["hdf5_attributes", "permitted", "sidecar_attributes"]

_NUMBERS = ("acceleration", "num_low_frequency", "padding_left", "padding_right", "max", "norm", "mask_seed")
"""Numeric attributes of fastMRI files and of files written by ``medrecon undersample``."""
_SIDECAR = ("MagneticFieldStrength", "EchoTime", "RepetitionTime", "FlipAngle")
"""Numeric fields of a BIDS sidecar."""


def _number(value: Any) -> float | None:  # noqa: ANN401
    try:
        number = value.item() if hasattr(value, "item") else value
        return number if isinstance(number, int | float) and math.isfinite(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def permitted(name: str, value: Any) -> str | float | None:  # noqa: ANN401
    """Value of a permitted HDF5 attribute, or ``None``.

    Permitted are the numbers listed above, ``acquisition`` (fastMRI's name of the contrast, e.g. AXT2) if it is a single word,
    and ``mask_kind`` if it is a known kind.
    """
    if name in _NUMBERS:
        return _number(value)
    text = text_of(value)
    if text is None:
        return None
    word = text.decode("utf-8", "replace")
    if name == "acquisition":
        return word if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,31}", word) else None
    return word if name == "mask_kind" and word in KINDS else None


def hdf5_attributes(file: h5py.Group) -> dict[str, str | float]:
    """Read the permitted attributes of a group; damaged ones are skipped, others are not read."""
    out: dict[str, str | float] = {}
    for name in (*_NUMBERS, "acquisition", "mask_kind"):
        try:
            value = permitted(name, read_attribute(file, name))
        except DAMAGE:  # none of them changes the image
            continue
        if value is not None:
            out[name] = value
    return out


def sidecar_attributes(content: Mapping[str, Any]) -> dict[str, str | float]:
    """Permitted attributes of a BIDS sidecar."""
    out: dict[str, str | float] = {}
    for name in _SIDECAR:
        number = None if isinstance(content.get(name), bool) else _number(content.get(name))
        if number is not None:
            out[name] = number
    modality = content.get("Modality")
    if isinstance(modality, str) and re.fullmatch(r"[A-Z]{1,4}", modality):
        out["Modality"] = modality
    return out
