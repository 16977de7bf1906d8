"""Calibration files: factors of the spread, and the settings that they hold for. Checked when read, never evaluated."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrecon.conformal import LEVELS
from medrecon.data.arguments import shown
from medrecon.data.errors import InputError, one_line

__all__ = [
    "ACCELERATION_TOLERANCE",
    "INTERVAL",
    "LARGEST_FACTOR",
    "SIGMA",
    "Calibration",
    "choose",
    "differences",
    "encode",
    "matching",
    "read_calibrations",
    "same_acceleration",
    "same_settings",
    "settings_of",
    "settings_sha256",
]

SIGMA, INTERVAL = 0.6827, 0.9
"""Coverages of the standard deviation and of the interval from the 5 % to the 95 % quantile that a run writes."""
ACCELERATION_TOLERANCE = 0.05
"""Largest relative difference of accelerations that a calibration holds for."""
_LIMIT = 2**20
LARGEST_FACTOR = 1e6
"""Largest factor of a calibration."""
_PLAIN = (
    "steps", "sigma_max", "sigma_min", "start", "condition", "guidance", "symmetries", "samples", "coil_images", "noise_model",
    "modality", "beam", "task", "frame_axis",
)  # fmt: skip
"""Fields of the record that are compared as they are."""
_RARE = {"volume": False, "z_correlation": 0, "planes": ["axial"], "joint_maps": False}
"""Such fields of some records only, and the values that all others and older records have."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Factors of the spread that make intervals cover what they claim, for runs with the same settings.

    Args:
        settings: settings of the runs, see :func:`settings_of`.
        acceleration: their acceleration; ``None``: it has no meaning for the kind of scan.
        images: number of images of the calibration.
        factors: factor of the spread by level, for pixels.
        discs: for the mean of a disc of pixels at a random place, such factors by radius in pixels.
        regions: for the mean of a labelled region, such factors by label.
        check: coverage before and after, as ``medrecon calibrate`` measured it; for readers, not used by runs.
        source: file that it was read from.
        sha256: SHA-256 of that file.
    """

    settings: Mapping[str, Any]
    acceleration: float | None
    images: int
    factors: Mapping[float, float]
    discs: Mapping[float, Mapping[float, float]] = field(default_factory=dict)
    regions: Mapping[float, Mapping[float, float]] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    sha256: str = ""

    def record(self) -> dict[str, Any]:
        """Entry of the sidecar of a run with this calibration."""
        return {
            "source": self.source,
            "factors": {f"{level:g}": factor for level, factor in self.factors.items()},
            "images": self.images,
            "acceleration": self.acceleration,
            "sha256": self.sha256,
        }


# Settings


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that determine the spread of the samples, from the record of a run (its sidecar, of any version with samples).

    Seed, device and number format are not among them, nor is the acceleration, which is compared with a tolerance.
    """

    def inner(name: str) -> Mapping[str, Any]:
        value = record.get(name)
        return value if isinstance(value, Mapping) else {}

    return {
        "solver": {key: value for key, value in inner("solver").items() if key != "calibrated"},
        "bundle": inner("bundle").get("name"),
        "weights_sha256": inner("bundle").get("weights_sha256"),
        "particles": inner("particles").get("number"),
        "non_cartesian": "shots" in record,
        **({"motion": True} if "motion" in record else {}),
        **{name: record.get(name) for name in _PLAIN},
        **{name: record[name] for name, default in _RARE.items() if record.get(name, default) != default},
    }


def _canonical(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A value whose JSON does not depend on its origin: whole numbers (that are exact) as numbers, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(one) for one in value]
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if whole else value


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings."""
    return hashlib.sha256(json.dumps(_canonical(settings), sort_keys=True).encode()).hexdigest()


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings are equal, whatever their number types."""
    return settings_sha256(one) == settings_sha256(other)


def same_acceleration(one: float | None, other: float | None) -> bool:
    """Whether accelerations agree within :data:`ACCELERATION_TOLERANCE`."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ACCELERATION_TOLERANCE * min(one, other)


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)[:60]


def _differences(
    calibration: Calibration, settings: Mapping[str, Any], acceleration: float | None
) -> list[tuple[str, object, object]]:
    """Names and values of what differs: in the calibration, in the run."""
    pairs = []
    known, here = dict(calibration.settings), dict(settings)
    solver, solver_here = known.pop("solver"), here.pop("solver")
    if solver.get("name") != solver_here.get("name"):
        pairs.append(("solver", solver.get("name"), solver_here.get("name")))
    else:
        names = dict.fromkeys([*solver, *solver_here])
        pairs += [(f"solver.{name}", solver.get(name), solver_here.get(name)) for name in names]
    pairs += [(name.replace("_", " "), known.get(name), here.get(name)) for name in dict.fromkeys([*known, *here])]
    found = [one for one in pairs if _canonical(one[1]) != _canonical(one[2])]
    if not same_acceleration(calibration.acceleration, acceleration):
        found.append(("acceleration", calibration.acceleration, acceleration))
    return found


def differences(calibration: Calibration, settings: Mapping[str, Any], acceleration: float | None) -> str:
    """What differs between a calibration and a run, for a message."""
    texts = [
        f"{name} is {_as_text(a)} there and {_as_text(b)} here"
        for name, a, b in _differences(calibration, settings, acceleration)
    ]
    return ", ".join(texts[:4]) + (f", and {len(texts) - 4} more" if len(texts) > 4 else "")


def matching(
    calibrations: Sequence[Calibration], settings: Mapping[str, Any], acceleration: float | None
) -> Calibration | None:
    """The calibration of exactly these settings, with the nearest acceleration within the tolerance; ``None``: there is none."""
    found = [
        one
        for one in calibrations
        if same_settings(one.settings, settings) and same_acceleration(one.acceleration, acceleration)
    ]
    return min(found, key=lambda one: abs((one.acceleration or 0) - (acceleration or 0)), default=None)


def choose(path: str | Path, settings: Mapping[str, Any], acceleration: float | None) -> Calibration:
    """The calibration of a file for a run with these settings.

    Raises:
        InputError: if the file cannot be used, or holds none for the run, naming what differs from the nearest.
    """
    calibrations = read_calibrations(path)
    found = matching(calibrations, settings, acceleration)
    if found is not None:
        return found
    nearest = min(calibrations, key=lambda one: len(_differences(one, settings, acceleration)))
    raise InputError(
        f"{path}: is a calibration of other runs ({differences(nearest, settings, acceleration)}); change the options, calibrate "
        "these settings with 'medrecon calibrate', or leave the calibration out"
    )


# Files


class _UnusableError(ValueError):
    """Error for content that cannot be used; its text follows the name of the file."""


def _number(value: object, what: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _UnusableError(f"has {what} {shown(value)}, which must be a number from {low:g} to {high:g}")
    return float(value)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _UnusableError(f"has {shown(value)} as {what}, which must be names and values")
    return value


def _key(text: str, what: str) -> float:
    """A number that is the key of a mapping."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise _UnusableError(f"has {shown(text)} as {what}, which must be a number")
    return float(text)


def _factors(value: object, what: str, needed: Sequence[float] = ()) -> dict[float, float]:
    """Factors by level, which rise with the level."""
    content = _mapping(value, f"factors of {what}")
    found = {}
    for key, factor in content.items():
        if (level := _key(key, f"a level of {what}")) not in LEVELS:
            raise _UnusableError(f"has the level {shown(key)} of {what}; levels are {', '.join(map(str, LEVELS))}")
        if level in found:
            raise _UnusableError(f"has the level {level:g} of {what} twice")
        found[level] = _number(factor, f"a factor of {what} at level {key} of", 0, LARGEST_FACTOR)
    missing = [f"{level:g}" for level in needed if level not in found]
    if missing:
        raise _UnusableError(f"lacks the level {' and '.join(missing)} of {what}")
    if any(not found[level] for level in needed):
        raise _UnusableError(f"has a factor of {what} of 0, so that intervals would be empty")
    found = {level: found[level] for level in sorted(found)}
    if list(found.values()) != sorted(found.values()):
        raise _UnusableError(f"has factors of {what} that fall with the level")
    return found


def _by_key(name: str) -> Callable[[object], dict[float, dict[float, float]]]:
    def check(value: object) -> dict[float, dict[float, float]]:
        content = _mapping(value, name)
        if len(content) > 10_000:
            raise _UnusableError(f"has {len(content)} {name}; at most 10000 are read")
        return {_key(key, f"one of {name}"): _factors(one, f"{name} {key}") for key, one in content.items()}

    return check


def _settings(value: object) -> dict[str, Any]:
    settings = dict(_mapping(value, "settings"))
    expected = set(settings_of({}))
    others = set(settings) - {*_RARE, "motion"}
    if others != expected:
        wrong = sorted(expected ^ others)[0]
        raise _UnusableError(f"has settings {'without' if wrong in expected else 'with the unknown'} {shown(wrong)}")
    solver = _mapping(settings["solver"], "the solver")
    if not isinstance(solver.get("name"), str):
        raise _UnusableError("has a solver without a name")
    return settings


def _images(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
        raise _UnusableError(f"has {shown(value)} as number of images, which must be a whole number above 0")
    return value


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "settings": _settings,
    "acceleration": lambda value: None if value is None else _number(value, "the acceleration", 0.01, 1e4),
    "images": _images,
    "factors": lambda value: _factors(value, "pixels", (SIGMA, INTERVAL)),
    "discs": _by_key("discs"),
    "regions": _by_key("regions"),
    "check": lambda value: dict(_mapping(value, "check")),
}
_OPTIONAL = "check", "versions"


def _calibration(value: object, source: str, sha256: str) -> Calibration:
    """One entry of a file, checked."""
    content = dict(_mapping(value, "an entry"))
    digest = content.pop("settings_sha256", None)
    content.pop("versions", None)
    missing = [name for name in _CHECKS if name not in content and name not in _OPTIONAL]
    unknown = [name for name in content if name not in _CHECKS]
    if missing or unknown:
        raise _UnusableError(f"lacks {missing[0]!r}" if missing else f"has the unknown key {shown(unknown[0])}")
    values = {name: _CHECKS[name](one) for name, one in content.items()}
    if digest != settings_sha256(values["settings"]):
        raise _UnusableError("has settings that differ from their SHA-256, so they were changed by hand")
    return Calibration(**values, source=source, sha256=sha256)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def read_calibrations(path: str | Path) -> list[Calibration]:
    """Read and check a calibration file, a list of calibrations.

    Raises:
        InputError: if the file cannot be read or used.
    """
    path = Path(path)
    advice = "give a file of 'medrecon calibrate'"
    try:
        if path.exists() and not path.is_file():  # a pipe may never end
            raise _UnusableError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise _UnusableError(f"is larger than {_LIMIT} bytes")
        entries = json.loads(
            content.decode(), parse_constant=_no_constant, parse_float=_parse_float, object_pairs_hook=_unique
        )
        if not isinstance(entries, list) or not 1 <= len(entries) <= 1000:
            raise _UnusableError("is not a list of 1 to 1000 calibrations")
        sha256 = hashlib.sha256(content).hexdigest()
        return [_calibration(one, path.name, sha256) for one in entries]
    except _UnusableError as error:
        raise InputError(f"{path}: {error}; {advice}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a calibration file ({one_line(error)[:150]}); {advice}") from error


def encode(calibrations: Sequence[Calibration]) -> bytes:
    """Content of a calibration file."""

    def keyed(values: Mapping[float, Any]) -> dict[str, Any]:
        return {f"{key:.9g}": keyed(one) if isinstance(one, Mapping) else one for key, one in values.items()}

    entries = [
        {
            "settings_sha256": settings_sha256(one.settings),
            "settings": dict(one.settings),
            "acceleration": one.acceleration,
            "images": one.images,
            "factors": keyed(one.factors),
            "discs": keyed(one.discs),
            "regions": keyed(one.regions),
            "check": dict(one.check),
        }
        for one in calibrations
    ]
    return (json.dumps(entries, indent=1, allow_nan=False) + "\n").encode()
