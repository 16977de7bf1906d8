"""The command line of a reconstruction, from the options that its record contains."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from medrecon.settings import OPTION_GROUPS

__all__ = ["command"]

_ALSO = (
    "dynamic", "trajectory", "matrix", "phase", "imaginary", "detector_spacing", "centre", "axis_convention", "format", "part",
    "bids", "report", "like", "name",
)  # fmt: skip
"""Options that belong to reading and writing."""


def _flags() -> dict[str, str | None]:
    """Flags by the name of the option; ``None``: an option of Python alone."""
    found: dict[str, str | None] = {name: f"--{name.replace('_', '-')}" for name in _ALSO}
    for kind in OPTION_GROUPS.values():
        for one in fields(kind):
            found[one.name] = one.metadata.get("flag", f"--{one.name.replace('_', '-')}")
    return found


def _value(name: str, value: Any) -> str:  # noqa: ANN401 - of JSON
    """The text of an option on the command line."""
    if name == "region":
        y0, y1, x0, x1 = value
        return f"{y0}:{y1},{x0}:{x1}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


def _words(name: str, flag: str, value: Any) -> Iterator[str]:  # noqa: ANN401 - of JSON
    if isinstance(value, bool):
        if value:
            yield flag
    elif isinstance(value, Mapping):
        prefix = "solver." if name == "settings" else ""
        for key, one in value.items():
            yield f"{flag}={prefix}{key}={one if isinstance(one, str) else json.dumps(one)}"
    else:
        yield f"{flag}={_value(name, value)}"


def command(record: Mapping[str, Any]) -> str | None:
    """The command that makes a reconstruction again, with names of files but not of folders.

    ``None`` where the record has no options, or options that only Python takes.

    Args:
        record: content of the sidecar.
    """
    options, scan = record.get("options"), record.get("input")
    if not isinstance(options, Mapping) or not isinstance(scan, str):
        return None
    known = {**_flags(), "select": "--select", "like_select": "--like-select", "deidentify": "--deidentify"}
    words = ["medrecon", "recon", f"./{scan}" if scan.startswith("-") else scan, "-o", "out"]
    for name, value in {**options, **_from_files(record)}.items():
        flag = known.get(name)
        if flag is None or (isinstance(value, str) and value.startswith("array ")):
            return None
        words += _words(name, flag, value)
    return shlex.join(words)


def _from_files(record: Mapping[str, Any]) -> dict[str, Any]:
    """Options that follow from other entries: the axis of frames, the format, and whether there is a page."""
    files = [name for name in record.get("files") or [] if isinstance(name, str)]
    suffix = files[0].rpartition(".")[2] if files else "gz"
    formats = {"h5": "h5", "dcm": "dicom", "mrd": "mrd", "npz": "npz", "png": "png"}
    found = {"dynamic": record.get("frame_axis"), "format": formats.get(suffix)}
    found["report"] = True if any(name.endswith(".html") for name in files) else None
    return {name: value for name, value in found.items() if value is not None}
