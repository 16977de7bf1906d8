"""Reconstruct a scan in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medrecon.bundle import chosen_solver, load_prior
from medrecon.calibration_file import Calibration, choose, matching
from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.sampling import mask_from_zeros
from medrecon.data.scan import CartesianScan, Scan
from medrecon.formats import load as load_scan
from medrecon.posterior import PriorSpec, Reconstruction, Sampling, as_device, check_volume, run, sampling
from medrecon.problems import Problem, physics_of, problem
from medrecon.record import calibrated, plain_options, planned_settings
from medrecon.settings import Physics, PriorSettings, SamplingSettings, option_names
from medrecon.slabs import Parts, cut
from medrecon.solvers.settings import name_of
from medrecon.uncertainty import map_names

__all__ = ["Plan", "Reconstruction", "plan", "reconstruct"]


class Plan:
    """A problem, a prior and a solver, checked before the long computation.

    Args:
        problem: inverse problem of the scan.
        prior: prior with its condition.
        sampling: solver and noise levels.
    """

    def __init__(self, problem: Problem, prior: PriorSpec, sampling: Sampling) -> None:
        self.problem = problem.suited_to(sampling.solver)
        check_volume(self.problem, prior, sampling)
        self.prior = prior
        self.sampling = sampling

    @property
    def solver(self) -> str:
        """Name of the solver."""
        return name_of(self.sampling.solver)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps of a run with several samples, see :data:`medrecon.uncertainty.MAPS`; empty for one sample."""
        sampling = self.sampling
        if sampling.n_samples == 1:
            return ()
        return map_names(calibrated(self.problem, sampling, sampling.sigmas))

    def run(
        self,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
        trace: bool = False,
        parts: Parts | None = None,
    ) -> Reconstruction:
        """See :func:`medrecon.posterior.run`; with ``trace``, the record has the residual at every noise level."""
        sampling = replace(self.sampling, trace=trace)
        return run(self.problem, self.prior, sampling, device=device, progress=progress, parts=parts)


def _split(scan: Scan, options: Mapping[str, Any]) -> tuple[PriorSettings, SamplingSettings, Physics]:
    """Options by the dataclass that defines them; the remaining options are physics."""
    rest = {name: value for name, value in options.items() if value is not None}
    parts, other_names = [], []
    for kind in (PriorSettings, SamplingSettings):
        names = option_names(kind)
        parts.append(kind(**{name: rest.pop(name) for name in names if name in rest}))
        other_names += names
    return parts[0], parts[1], physics_of(scan, other_names, **rest)


def plan(
    scan: Scan,
    *,
    load: Callable[[str | Path], PriorSpec] = load_prior,
    reading: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401
) -> Plan:
    """Plan the reconstruction of a scan: its problem, its prior and the sampling.

    Args:
        scan: scan of any kind that :func:`medrecon.formats.load` reads.
        load: function that loads the prior of a bundle.
        reading: options with which the scan was read, as plain data for the record.
        **options: fields of :class:`medrecon.settings.PriorSettings`, :class:`medrecon.settings.SamplingSettings` and the
            physics of the kind of scan (:mod:`medrecon.settings`); ``None`` is the default.

    Raises:
        InputError: for data or options that cannot be used.
    """
    prior_settings, sampling_settings, physics = _split(scan, options)
    solved = problem(scan, physics)
    bundle = prior_settings.bundle or solved.bundle
    prior = bundle if isinstance(bundle, PriorSpec) else load(bundle)
    if options.get("solver") is None:
        sampling_settings = replace(sampling_settings, solver=chosen_solver({**options, "bundle": prior}))
    prior = prior.conditioned(prior_settings.condition, prior_settings.guidance)
    prior = prior.in_planes(prior_settings.planes).suited_to(solved)
    given = {**plain_options(prior_settings, sampling_settings, physics), **(reading or {})}
    chosen = replace(sampling(sampling_settings, prior), options=given)
    if sampling_settings.max_memory is not None:
        length, chosen = chosen.z_correlation or 0.0, replace(chosen, chunk=1)  # samples one after the other
        solved = cut(solved, sampling_settings.max_memory, chosen.n_samples, length)
    made = Plan(solved, prior, chosen)
    made.sampling = replace(made.sampling, calibration=_calibration(made, sampling_settings.calibration))
    return made


def _calibration(plan: Plan, given: object) -> Calibration | None:
    """The calibration of a run: that of a given file, or else that of the prior for the same settings.

    Raises:
        InputError: if a given file cannot be used, or is not for this run.
    """
    if given == "none":
        return None
    if not isinstance(given, str | Path | None):
        raise InputError(f"calibration must be a file of 'medrecon calibrate' or none; got {shown(given)}")
    several = plan.sampling.n_samples > 1
    if given is None:
        calibrations = plan.prior.calibrations if several else ()
        return (
            matching(calibrations, *planned_settings(plan.problem, plan.prior, plan.sampling)) if calibrations else None
        )
    if not several:
        raise InputError(f"{given}: a calibration is for several samples; ask for them (--samples K), or leave it out")
    return choose(given, *planned_settings(plan.problem, plan.prior, plan.sampling))


def _as_scan(scan: np.ndarray | str | Path | Scan, mask: object, name: str) -> Scan:
    if isinstance(scan, str | Path):
        return load_scan(scan)
    if hasattr(scan, "geometry"):
        return scan  # type: ignore[return-value]
    kspace = np.asarray(scan)
    if not np.iscomplexobj(kspace) or kspace.ndim not in (3, 4):
        raise InputError(f"{name}: k-space must be complex (slices, coils, y, x); got {kspace.dtype} {kspace.shape}")
    if not kspace.size:
        raise InputError(f"{name}: k-space of shape {kspace.shape} contains no samples; give other data")
    kspace = kspace.reshape(-1, *kspace.shape[-3:])
    # The problem checks a given mask against the samples.
    sampling_mask = np.ones(kspace.shape[-2:], bool) if mask is not None else mask_from_zeros(kspace)
    return CartesianScan(path=Path(name), format="array", kspace=kspace, mask=sampling_mask)


def reconstruct(
    scan: np.ndarray | str | Path | Scan,
    mask: np.ndarray | None = None,
    maps: np.ndarray | None = None,
    bundle: str | Path | PriorSpec | None = None,
    solver: str | None = None,
    *,
    device: str = "auto",
    name: str = "k-space",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,  # noqa: ANN401
) -> Reconstruction:
    """Reconstruct a scan: Cartesian or non-Cartesian k-space, a sinogram, images, or a dynamic series.

    Args:
        scan: complex k-space, centred, ``(slices, coils, y, x)`` or ``(coils, y, x)``, zero where not sampled; or a scan read by
            :func:`medrecon.formats.load`, or its file.
        mask: sampling mask of Cartesian k-space, true where sampled, ``(x,)`` or ``(y, x)``; default: true where ``scan`` is not
            zero.
        maps: coil sensitivities, ``(coils, y, x)`` or ``(slices, coils, y, x)``; default: estimated from the fully sampled
            centre, see :func:`medrecon.data.espirit.coil_maps`.
        bundle: name or folder of the prior's bundle, or a prior; default: the bundle for the kind of scan.
        solver: name of a solver, as listed by ``medrecon solvers``; ``None``: see :func:`medrecon.settings.default_solver`.
        device: ``auto``, ``cpu`` or ``cuda``.
        name: name of an array in messages.
        progress: called with (steps done, total steps).
        **options: any other field of :class:`medrecon.settings.PriorSettings` (``condition``, ``guidance``),
            :class:`medrecon.settings.SamplingSettings` (``quality``, ``steps``, ``samples``, ``posterior``, ``particles``,
            ``seed``, ``settings``, ``start``, ``start_sigma``) and of the physics of the scan (``slices``, ``noise_std``,
            and for k-space see :class:`medrecon.settings.CartesianPhysics`).

    Returns:
        Images, samples and the record.

    Raises:
        InputError: for any input that cannot be used, in one sentence.
    """
    chosen_device = as_device(device)
    loaded = _as_scan(scan, mask, name)
    given = {"mask": mask, "maps": maps, "bundle": bundle, "solver": solver, **options}
    return plan(loaded, **given).run(chosen_device, progress)
