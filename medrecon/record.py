"""The record of a reconstruction, which the sidecar stores."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from medrecon._version import __version__
from medrecon.calibration_file import INTERVAL, settings_of, settings_sha256
from medrecon.data.errors import grouped_texts
from medrecon.problems.base import Problem
from medrecon.solvers.base import Solver
from medrecon.solvers.settings import name_of
from medrecon.solvers.smc import Particles
from medrecon.uncertainty import NullSpace, effective_number, uncertainty_facts

if TYPE_CHECKING:
    from medrecon.posterior import PriorSpec, Sampling

__all__ = [
    "LEAST_PARTICLES",
    "Outcome",
    "calibrated",
    "particle_warnings",
    "plain_options",
    "planned_settings",
    "record",
    "versions",
]

LEAST_PARTICLES = 2.0
"""Effective sample size below which one particle decides the image."""


class Outcome(NamedTuple):
    """Measurements of a run.

    Args:
        sigmas: noise levels of the last items.
        evaluations: network evaluations of all images and samples together.
        relative_residual: ``|y - A x| / |y|``.
        residual_over_noise: root mean square of the residual of the measured samples, divided by the noise level; ``None`` if
            the noise level is unknown.
        seconds: duration of the run.
        device: device of the run.
        dtype: autocast type of the network.
        warnings: sentences on what may make the image wrong.
        particles: particles of every item, for their weights; empty for solvers without particles.
        unmeasured: what was not measured of every item; empty for one sample.
        levels: residual of the clean estimate over the noise, by noise level; empty if not traced.
    """

    sigmas: torch.Tensor
    evaluations: int
    relative_residual: float
    residual_over_noise: float | None
    seconds: float
    device: torch.device
    dtype: torch.dtype | None
    warnings: list[str]
    particles: Sequence[Particles] = ()
    unmeasured: Sequence[NullSpace] = ()
    levels: Mapping[float, float] = {}


def calibrated(problem: Problem, sampling: Sampling, sigmas: torch.Tensor) -> bool:
    """Whether the spread of samples may be called an uncertainty: by a calibration, or as the solver promises.

    Args:
        problem: the problem to solve.
        sampling: solver, start and calibration.
        sigmas: noise levels of the run.
    """
    return sampling.calibration is not None or _solver_is_calibrated(problem, sampling, sigmas)


def _solver_is_calibrated(problem: Problem, sampling: Sampling, sigmas: torch.Tensor) -> bool:
    """Whether the solver gives samples the spread of the posterior; not after a warm start, nor with estimated parameters."""
    return sampling.start is None and not problem.is_blind and sampling.solver.calibrated(sigmas)


def versions() -> dict[str, str]:
    """Versions of this package and of the packages that results depend on most."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {
        "medrecon": __version__,
        "monai": version("monai"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _settings(solver: Solver) -> dict[str, Any]:
    """Hyper-parameters of a solver, without operators."""
    values = {one.name: getattr(solver, one.name) for one in fields(solver)}
    return {name: value for name, value in values.items() if not isinstance(value, torch.nn.Module)}


def particle_warnings(items: Sequence[tuple[int, Particles]], n_items: int) -> list[str]:
    """Warnings about items, of ``n_items`` and with their indices in the scan, whose particles degenerated."""
    texts = []
    for number, one in items:
        least = float(one.ess.min())
        if not least < LEAST_PARTICLES:  # NaN after a run that diverged, which is an error of its own
            continue
        effect = (
            "their weights were tempered (least_ess), so neither image nor samples are exact"
            if bool(one.tempered.any())
            else "about one particle decides the image, and samples do not show its uncertainty"
        )
        advice = "use more particles, or, for this many measurements, a solver without particles, such as dds"
        n = one.log_weights.shape[1]
        texts.append((number, f"the effective sample size fell to {least:.1f} of {n} particles: {effect}; {advice}"))
    return grouped_texts(texts, n_items)


def _particle_facts(items: Sequence[Particles]) -> dict[str, Any] | None:
    """Weights of the particles of every item, for the record."""
    if not items:
        return None

    def listed(values: torch.Tensor) -> list[float]:
        return [round(value, 4) for value in values.tolist()]

    evidence = [float(one.log_evidence) for one in items]
    return {
        "number": items[0].log_weights.shape[1],
        "log_weights": [listed(one.log_weights[0]) for one in items],
        "ess": [listed(one.ess[:, 0]) for one in items],
        "tempered": [bool(one.tempered.any()) for one in items],
        "smallest_ess": round(min(float(one.ess.min()) for one in items), 4),
        "log_evidence": [round(one, 4) if math.isfinite(one) else None for one in evidence],
    }


def _uncertainty(sampling: Sampling, outcome: Outcome) -> dict[str, Any]:
    """The entry on the maps of several samples; empty for one sample."""
    if not outcome.unmeasured:
        return {}
    ess = [float(effective_number(one.log_weights[0].exp())) for one in outcome.particles]
    facts = uncertainty_facts(outcome.unmeasured, min(ess, default=sampling.n_samples))
    if sampling.calibration is not None:
        facts["interval_coverage"] = INTERVAL
    return {"uncertainty": facts}


def _spread_settings(
    problem: Problem, prior: PriorSpec | None, sampling: Sampling, sigmas: torch.Tensor
) -> dict[str, Any]:
    """Entries of the record that :func:`medrecon.calibration_file.settings_of` takes, without the particles."""
    solver, start = sampling.solver, sampling.start
    own = _solver_is_calibrated(problem, sampling, sigmas)
    return {
        "bundle": None
        if prior is None
        else {"name": prior.name, "version": prior.version, "weights_sha256": prior.weights_sha256},
        **problem.facts(),
        "input": problem.name,
        "modality": problem.modality,
        "solver": {"name": name_of(solver), **_settings(solver), "calibrated": own},
        "settings_block": sampling.block,
        "quality": sampling.quality,
        "steps": int((sigmas.diff() <= 0).sum()),  # a step that raises the noise level needs no evaluation
        "start": None if start is None else name_of(start.solver),
        "sigma_max": round(sigmas[0].item(), 6),
        "sigma_min": round(sigmas[-2].item(), 6),
        "condition": None if prior is None else prior.condition,
        "guidance": prior.guidance if prior is not None and prior.condition else None,
        "symmetries": {} if prior is None else dict(prior.symmetries),
        **_volume_settings(problem, prior, sampling),
        "samples": sampling.n_samples,
    }


def _volume_settings(problem: Problem, prior: PriorSpec | None, sampling: Sampling) -> dict[str, Any]:
    """Correlation of the noise along z, and planes of the prior; empty for slices one by one, and without a prior."""
    if prior is None or len(problem.image_shape) != 4:
        return {}
    return {"z_correlation": sampling.z_correlation_of(problem) or 0.0, "planes": list(prior.planes)}


def planned_settings(problem: Problem, prior: PriorSpec, sampling: Sampling) -> tuple[dict[str, Any], float | None]:
    """Settings that determine the spread of the samples of a run, and the acceleration, before the run.

    They are those of the record after it, except for runs on images, whose noise levels depend on the image; these have no
    calibration.
    """
    solver = sampling.solver
    entries = _spread_settings(problem, prior if solver.requires.prior else None, sampling, sampling.sigmas)
    particles = {"number": sampling.n_particles} if solver.has_particles else None
    return settings_of({**entries, "particles": particles}), entries.get("acceleration")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any option
    """An option as plain data; of a path only the file name, since names of folders may be names of patients."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, slice):
        ends = [value.start, value.stop, *([] if value.step in (None, 1) else [value.step])]
        return ":".join("" if end is None else str(end) for end in ends)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Path):
        return re.split(r"[\\/]", str(value).rstrip("/"))[-1]
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "shape"):
        return f"array {tuple(value.shape)}" if value.shape else value.item()
    return str(getattr(value, "name", type(value).__name__))  # a prior


def plain_options(*settings: Any) -> dict[str, Any]:  # noqa: ANN401 - dataclasses
    """Options that differ from their defaults, as plain data.

    Args:
        *settings: dataclasses of :mod:`medrecon.settings`.
    """
    found = {}
    for one in settings:
        for item in fields(one):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            plain = _plain(getattr(one, item.name))
            if plain != _plain(default) and plain not in ("", {}):  # empty settings and conditions are none
                found[item.name] = plain
    return found


def _levels(outcome: Outcome) -> dict[str, Any]:
    """The entry on the residual by noise level; empty if it was not traced, or the noise level is unknown."""
    pairs = [[float(f"{sigma:.6g}"), float(f"{ratio:.4g}")] for sigma, ratio in outcome.levels.items()]
    pairs = [pair for pair in pairs if math.isfinite(pair[1])]
    return {"residual_by_level": pairs} if pairs else {}


def record(problem: Problem, prior: PriorSpec | None, sampling: Sampling, outcome: Outcome) -> dict[str, Any]:
    """The record of a run, which can be written as JSON.

    Args:
        problem: the problem that was solved.
        prior: prior of the run; ``None`` for a classical solver.
        sampling: solver and noise levels.
        outcome: measurements of the run.
    """
    made = {
        "versions": versions(),
        **_spread_settings(problem, prior if outcome.evaluations else None, sampling, outcome.sigmas),
        "options": dict(sampling.options),
        "network_dtype": str(outcome.dtype or torch.float32).removeprefix("torch."),
        "network_evaluations": outcome.evaluations,
        "particles": _particle_facts(outcome.particles),
    }
    return {
        **made,
        "settings_sha256": settings_sha256(settings_of(made)),
        "calibration": None if sampling.calibration is None else sampling.calibration.record(),
        "seed": sampling.seed,
        "slices": list(problem.numbers),
        "relative_residual": outcome.relative_residual,
        "residual_over_noise": outcome.residual_over_noise,
        **_levels(outcome),
        **_uncertainty(sampling, outcome),
        "warnings": outcome.warnings,
        "seconds": round(outcome.seconds, 3),
        "device": str(outcome.device),
    }
