"""``configs/prior.yaml``, the prior of a bundle as plain data, checked when it is read and never evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError, one_line
from medrecon.data.masks import KINDS
from medrecon.data.yaml_files import parse_plain_yaml, read_plain_yaml
from medrecon.networks import NETWORKS
from medrecon.posterior import LAST_LEVELS, PLANES, SPACINGS, ImageKind
from medrecon.priors.denoiser import TrainedNoise
from medrecon.quality import QualityRow
from medrecon.settings import QUALITIES
from medrecon.solvers import SOLVERS, is_unconditional
from medrecon.solvers.settings import setting_fields
from medrecon.training.corruption import FAMILIES
from medrecon.training.measured import MASKED
from medrecon.training.objectives import OBJECTIVES

__all__ = ["PriorFile", "read_prior_file", "replace_values"]

KIND = "a description of a prior"


@dataclass(frozen=True, kw_only=True)
class PriorFile:
    """Content of a ``prior.yaml``.

    Args:
        network: name in :data:`medrecon.networks.NETWORKS`, or ``None`` for a bundle with classical solvers only.
        arguments: arguments of the class: numbers, booleans, null, and lists of them. ``num_class_embeds`` is the number of
            ``labels`` by default.
        images: kind of images that the network was trained on; ``None`` without a network.
        parameterization: what the network was trained to predict: ``edm``, ``ddpm`` or ``flow``; ``ambient``: as ``edm``, with
            the sampling mask as a further channel of the network. ``None``: not in the file.
        sigma_data: standard deviation of the training images per channel. ``None``: not in the file.
        labels: names of the network's class labels, in order; the last is ``''``, no label. Empty: no labels.
        symmetries: symmetries of the images, arguments of :func:`medrecon.priors.equivariant`.
        trained_planes: planes of the training images: ``axial``, ``coronal``, ``sagittal``.
        multiple: multiple to which sides of images are padded for the network.
        steps: default number of network evaluations per sample, of solvers without ``quality``.
        quality: rows of numbers of evaluations and settings by name of the solver; every acceleration has all qualities.
        sigma_min: last noise level before 0.
        tuned: tuned settings by name of the solver, where they differ from its defaults, and of the noise levels: ``sigma_max``
            and ``spacing``.
        tuned_by_images: for a bundle without a network, settings by kind of images, where they differ from ``tuned``.
        posterior: settings for posterior samples by name of the solver, where they differ from its defaults, and ``sigma_max``,
            ``sigma_min``, ``spacing`` and ``steps``.
        noise: ``{family: gaussian, least: ..., most: ...}`` (or poisson, gamma), the noise levels of a network that was trained
            on noisy images alone and can only denoise, and the ``stride`` of Noise2Self; ``None``: it was trained for all levels.
        masks: sampling masks of the training with ``ambient``: ``acs``, ``accel``, ``dropped``, ``kind``, ``rows`` and
            ``several_coils``.
    """

    network: str | None
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    images: ImageKind | None = None
    parameterization: str | None = None
    sigma_data: float | None = None
    labels: tuple[str, ...] = ()
    symmetries: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    trained_planes: tuple[str, ...] = ("axial",)
    multiple: int = 16
    steps: int = 50
    quality: Mapping[str, Sequence[QualityRow]] = field(default_factory=lambda: MappingProxyType({}))
    sigma_min: float = 0.005
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    tuned_by_images: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    posterior: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    noise: TrainedNoise | None = None
    masks: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def channels(self) -> int:
        """Channels of the images; 2 without a network, as for complex images."""
        return 2 if self.images in ("complex", None) else 1

    @property
    def network_channels(self) -> int:
        """Channels of the network: those of the images, and the mask of ``ambient``."""
        return self.channels + (self.parameterization == MASKED)

    @property
    def network_arguments(self) -> dict[str, Any]:
        """``arguments``, whose ``in_channels`` are those of the images, with those of the network."""
        more = {"in_channels": self.network_channels} if self.parameterization == MASKED else {}
        return {**self.arguments, **more}


class _UnusableError(ValueError):
    """Error for a value that cannot be used; its text follows the key in the message."""


def _nearest(name: object, known: tuple[str, ...]) -> str:
    near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


def _choice(known: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise _UnusableError(f"is {shown(value)}; {_nearest(value, known)}")
        return value

    return check


def _number(low: float, high: float) -> Callable[[object], float]:
    """Check for a number in ``[low, high]``."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _UnusableError(f"must be a number from {low:g} to {high:g}; got {shown(value)}{_as_number(value)}")
        return float(value)

    return check


def _as_number(value: object) -> str:
    """Advice for text that looks like a number but is not one in YAML 1.1, such as ``1e-3``."""
    try:
        return f" (text in YAML; write {float(value)!r})" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _count(low: int, high: int) -> Callable[[object], int]:
    """Check for a whole number in ``[low, high]``."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _UnusableError(f"must be a whole number from {low} to {high}; got {shown(value)}")
        return value

    return check


def _mapping(value: object, expected: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _UnusableError(f"must be {expected}; got {shown(value)}")
    return value


def _scalar(value: object) -> bool:
    """Whether a value is a finite number, a boolean or null."""
    if isinstance(value, float):
        return abs(value) <= 1e30  # neither NaN nor infinite
    return value is None or (isinstance(value, int) and abs(value) <= 1_000_000)


def _arguments(value: object) -> dict[str, Any]:
    arguments = _mapping(value, "names and values of arguments")
    for key, one in arguments.items():
        each = one if isinstance(one, list) else [one]
        if len(each) > 32 or not all(map(_scalar, each)):
            raise _UnusableError(
                f"must be numbers up to 1000000, true, false or null, or lists of up to 32 of them; got {shown(one)} for "
                f"{key[:40]!r}"
            )
    return arguments


def _labels(value: object) -> tuple[str, ...]:
    labels: tuple[Any, ...] = tuple(value) if isinstance(value, list) else (None,)
    if len(labels) > 1000 or not all(isinstance(one, str) and len(one) <= 100 and one.isprintable() for one in labels):
        raise _UnusableError(f"must be a list of up to 1000 short texts; got {shown(value)}")
    if labels and (labels[-1] or "" in labels[:-1] or len(set(labels)) < len(labels)):
        raise _UnusableError(f"must be different texts, and the last must be '' (no label); got {shown(value)}")
    return labels


def _symmetries(value: object) -> dict[str, Any]:
    symmetries = _mapping(value, "a mapping of flip, shift and phase")
    for key, one in symmetries.items():
        if key not in ("flip", "shift", "phase"):
            raise _UnusableError(f"has an unknown key {key[:40]!r}; {_nearest(key, ('flip', 'shift', 'phase'))}")
        if key == "flip" and (not isinstance(one, list) or not all(type(a) is int and a in (-2, -1) for a in one)):
            raise _UnusableError(f"must have a list of the axes -2 and -1 as 'flip'; got {shown(one)}")
        if key == "shift" and (type(one) is not int or not 0 <= one <= 4096):
            raise _UnusableError(f"must have a whole number of pixels from 0 to 4096 as 'shift'; got {shown(one)}")
        if key == "phase" and not isinstance(one, bool):
            raise _UnusableError(f"must have true or false as 'phase'; got {shown(one)}")
    return symmetries


def _planes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        raise _UnusableError(f"must be a list of different planes ({', '.join(PLANES)}); got {shown(value)}")
    return tuple(_choice(tuple(PLANES))(one) for one in value)


def _tuned(value: object) -> dict[str, dict[str, Any]]:
    tuned = _mapping(value, "settings by name of a solver")
    for name, settings in tuned.items():
        if name not in SOLVERS:
            raise _UnusableError(f"has settings for an unknown solver {shown(name)}; {_nearest(name, tuple(SOLVERS))}")
        _check_settings(name, settings, LEVELS)
    return tuned


def _quality(value: object) -> dict[str, tuple[QualityRow, ...]]:
    by_solver = _mapping(value, "rows by name of a solver")
    for name, rows in by_solver.items():
        if name not in SOLVERS or not SOLVERS[name].requires.prior:
            known = tuple(key for key, solver in SOLVERS.items() if solver.requires.prior)
            raise _UnusableError(f"has rows for {shown(name)}, not a solver with a prior; {_nearest(name, known)}")
        if not isinstance(rows, list) or not 0 < len(rows) <= 300:
            raise _UnusableError(f"must have a list of 1 to 300 rows for {name}; got {shown(rows)}")
    return {name: _rows(name, [_row(name, one) for one in rows]) for name, rows in by_solver.items()}


def _row(name: str, value: object) -> QualityRow:
    """One row of ``quality``."""
    row = dict(_mapping(value, f"rows of acceleration, quality, steps and settings for {name}"))
    found: dict[str, Any] = {}
    checks = {"acceleration": _number(0.01, 1e4), "quality": _choice(QUALITIES), "steps": _count(1, 1_000_000)}
    for key, check in checks.items():
        if key not in row:
            raise _UnusableError(f"lacks {key!r} in a row of {name}; add it")
        try:
            found[key] = check(row.pop(key))
        except _UnusableError as error:
            raise _UnusableError(f"has a row of {name} whose {key!r} {error}") from None
    _check_settings(name, row, LEVELS)
    return QualityRow(**found, settings=row)


def _rows(name: str, rows: list[QualityRow]) -> tuple[QualityRow, ...]:
    """The rows of a solver, checked to have one row of every quality for every acceleration, with ascending steps."""
    for acceleration in dict.fromkeys(row.acceleration for row in rows):
        steps = {row.quality: row.steps for row in rows if row.acceleration == acceleration}
        count = sum(row.acceleration == acceleration for row in rows)
        if count != len(QUALITIES) or set(steps) != set(QUALITIES):
            raise _UnusableError(
                f"must have one row each of {', '.join(QUALITIES)} for acceleration {acceleration:g} of {name}"
            )
        if [steps[key] for key in QUALITIES] != sorted(steps.values()):
            raise _UnusableError(
                f"must have steps that rise from fast to best for acceleration {acceleration:g} of {name}"
            )
    return tuple(rows)


def _tuned_by_images(value: object) -> dict[str, dict[str, dict[str, Any]]]:
    by_images = _mapping(value, "a mapping by kind of the images")
    for kind in by_images:
        if kind not in get_args(ImageKind):
            raise _UnusableError(
                f"has settings for unknown images {shown(kind)}; {_nearest(kind, get_args(ImageKind))}"
            )
    return {kind: _tuned(one) for kind, one in by_images.items()}


def _posterior(value: object) -> dict[str, dict[str, Any]]:
    posterior = _mapping(value, "settings by name of a solver")
    samplers = tuple(name for name, solver in SOLVERS.items() if solver.requires.prior and not is_unconditional(solver))
    for name, settings in posterior.items():
        if name not in samplers:
            raise _UnusableError(
                f"has settings for {shown(name)}, which draws no posterior samples; {_nearest(name, samplers)}"
            )
        _check_settings(name, settings, LADDER)
        ladder = {key: one for key, one in settings.items() if key in ("sigma_max", "sigma_min")}
        if len(ladder) == 2 and not ladder["sigma_max"] > ladder["sigma_min"]:
            raise _UnusableError(f"has a 'sigma_max' of {name} that is not above its 'sigma_min'; swap them")
    return posterior


def _noise(value: object) -> TrainedNoise:
    noise = _mapping(value, "a mapping of family, least and most")
    checks = {"family": _choice(tuple(FAMILIES)), "least": _number(1e-6, 1e3), "most": _number(1e-6, 1e3)}
    optional = {"stride": _count(2, 64)}
    for key in noise:
        if key not in checks | optional:
            raise _UnusableError(f"has an unknown key {key[:40]!r}; {_nearest(key, tuple(checks | optional))}")
    found: dict[str, Any] = {}
    for key, check in (checks | {key: check for key, check in optional.items() if key in noise}).items():
        if key not in noise:
            raise _UnusableError(f"lacks {key!r}; add it")
        try:
            found[key] = check(noise[key])
        except _UnusableError as error:
            raise _UnusableError(f"has a {key!r} that {error}") from None
    if not found["least"] < found["most"]:
        raise _UnusableError("has a 'least' that is not below its 'most'; swap them")
    return TrainedNoise(**found)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _UnusableError("must be true or false")
    return value


def _masks(value: object) -> dict[str, Any]:
    masks = _mapping(value, "a mapping of acs, accel, dropped, kind, rows and several_coils")
    checks = {
        "acs": _count(0, 10_000),
        "accel": _number(1, 1000),
        "dropped": _number(0, 0.99),
        "kind": _choice(tuple(KINDS)),
        "rows": _boolean,
        "several_coils": _boolean,
    }
    for key, one in masks.items():
        if key not in checks:
            raise _UnusableError(f"has an unknown key {key[:40]!r}; {_nearest(key, tuple(checks))}")
        try:
            masks[key] = checks[key](one)
        except _UnusableError as error:
            raise _UnusableError(f"has {key!r} that {error}") from None
    return masks


def _network(value: object) -> str | None:
    try:
        return None if value is None else _choice(tuple(NETWORKS))(value)
    except _UnusableError as error:
        raise _UnusableError(f"{error} (run a bundle with its own network class with python -m monai.bundle)") from None


def _is_same_type(value: object, default: object) -> bool:
    """Whether a setting has the type of its default: text, a boolean, a whole number, or a number."""
    if isinstance(default, str | bool):
        return type(value) is type(default)
    if isinstance(value, bool) or not _scalar(value):
        return False
    return isinstance(value, int) if isinstance(default, int) else value is not None or default is None


def _check_settings(name: str, settings: object, ladder: Mapping[str, Callable[[object], Any]]) -> None:
    """Raise :class:`_UnusableError` unless the solver accepts the settings, and ``ladder`` those of the noise levels."""
    settings = dict(_mapping(settings, f"names and values of settings for {name}"))
    defaults = {key: one.default for key, one in setting_fields(SOLVERS[name]).items()}
    for key in [key for key in settings if key in ladder]:
        try:
            ladder[key](settings.pop(key))
        except _UnusableError as error:
            raise _UnusableError(f"has a {key!r} of {name} that {error}") from None
    for key, one in settings.items():
        if key not in defaults:
            known = (*defaults, *ladder)
            raise _UnusableError(f"has an unknown setting {shown(key)} of {name}; {_nearest(key, known)}")
        if not _is_same_type(one, defaults[key]):
            raise _UnusableError(f"has a setting {key!r} of {name} that cannot be used; got {shown(one)}")
    try:
        SOLVERS[name](**settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise _UnusableError(f"has settings of {name} that cannot be used ({one_line(error)})") from error


LEVELS = MappingProxyType({"sigma_max": _number(1e-6, 1e6), "spacing": _number(*SPACINGS)})
LADDER = MappingProxyType({**LEVELS, "sigma_min": _number(*LAST_LEVELS), "steps": _count(1, 1_000_000)})
"""Checks of the settings of the noise levels, beside those of a solver: in ``tuned``, and in ``posterior``."""

CHECKS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {
        "network": _network,
        "arguments": _arguments,
        "images": _choice(get_args(ImageKind)),
        "parameterization": _choice((*OBJECTIVES, MASKED)),
        "sigma_data": _number(1e-6, 1e6),
        "labels": _labels,
        "symmetries": _symmetries,
        "trained_planes": _planes,
        "multiple": _count(1, 128),
        "steps": _count(1, 1_000_000),
        "quality": _quality,
        "sigma_min": _number(*LAST_LEVELS),
        "tuned": _tuned,
        "tuned_by_images": _tuned_by_images,
        "posterior": _posterior,
        "noise": _noise,
        "masks": _masks,
    }
)
"""Checks by key of the file: functions that return the value for :class:`PriorFile`, or raise :class:`_UnusableError`."""


def read_prior_file(path: Path) -> PriorFile:
    """Read and check a ``prior.yaml``.

    Raises:
        InputError: if the file is missing, or its content cannot be used.
    """
    return _checked(read_plain_yaml(path, KIND), path)


def _checked(content: Mapping[str, Any], path: Path) -> PriorFile:
    """The content of the file ``path``, checked.

    Raises:
        InputError: if it cannot be used.
    """
    for key in content:
        if key not in CHECKS:
            raise InputError(f"{path}: unknown key {shown(key)}; {_nearest(key, tuple(CHECKS))}")
    needed, without = ("network", "arguments", "images"), ("network", "tuned", "tuned_by_images")
    if content.get("network", "") is None:
        needed = ("network",)
        if more := [key for key in content if key not in without]:
            raise InputError(f"{path}: {more[0]!r} belongs to a network, but 'network' is null; leave it out")
    elif "tuned_by_images" in content:
        raise InputError(f"{path}: 'tuned_by_images' is for 'network: null'; move the settings to 'tuned'")
    for key in needed:
        if key not in content:
            raise InputError(f"{path}: lacks the key {key!r}; add it (docs/priors.md shows an example)")
    values = {}
    for key, value in content.items():
        try:
            values[key] = CHECKS[key](value)
        except _UnusableError as error:
            raise InputError(f"{path}: {key!r} {error}") from None
    prior = PriorFile(**values)
    return prior if prior.network is None else PriorFile(**{**values, "arguments": _complete(prior, path)})


def _complete(prior: PriorFile, path: Path) -> dict[str, Any]:
    """The network's arguments with the number of labels, checked against the rest of the file.

    Raises:
        InputError: if they contradict it.
    """
    arguments = dict(prior.arguments)
    if prior.labels and arguments.setdefault("num_class_embeds", len(prior.labels)) != len(prior.labels):
        raise InputError(
            f"{path}: 'labels' are {len(prior.labels)}, but the argument 'num_class_embeds' is "
            f"{shown(arguments['num_class_embeds'])}; leave the argument out"
        )
    if not prior.labels and arguments.get("num_class_embeds") is not None:
        raise InputError(f"{path}: the network has 'num_class_embeds', but 'labels' are missing; list them")
    if arguments.get("in_channels", prior.channels) != prior.channels:
        raise InputError(
            f"{path}: {prior.images!r} images have {prior.channels} channel{'s' * (prior.channels > 1)}, but the argument "
            f"'in_channels' is {shown(arguments['in_channels'])}; correct one of them"
        )
    if prior.images == "attenuation" and prior.symmetries.get("phase"):
        raise InputError(f"{path}: 'attenuation' images have no phase; leave 'phase' out of 'symmetries'")
    return arguments


def replace_values(path: Path, **values: float | str | Mapping[str, Any]) -> bytes:
    """The content of a ``prior.yaml`` with new values of some keys.

    Comments are preserved if each of these keys is on its own line.

    Raises:
        InputError: if the file cannot be used, before or after the change.
    """
    before = read_plain_yaml(path, KIND)
    _checked({**before, **values}, path)
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        line = f"{key}: {yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]}"
        pattern = re.compile(rf"^{re.escape(key)}:[^#\n]*?(?=\s*(?:#|$))", re.MULTILINE)
        text = pattern.sub(line, text) if pattern.search(text) else f"{text.rstrip()}\n{line}\n"
    try:
        replaced = parse_plain_yaml(text.encode(), path, KIND) == {**before, **values}
    except InputError:
        replaced = False
    return text.encode() if replaced else yaml.safe_dump({**before, **values}, sort_keys=False).encode()
