"""From a problem and a prior to images, for command line, bundles and Python."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.calibration_file import Calibration
from medrecon.data.arguments import as_number, check_count, shown
from medrecon.data.errors import InputError, warn
from medrecon.data.scan import Geometry
from medrecon.likelihood import BlindGaussian, Gaussian, Likelihood
from medrecon.noise import Noise, VolumeSeeds
from medrecon.operators.projector import Projector
from medrecon.priors.base import Counted, Observed, Prior, as_levels
from medrecon.priors.combine import channelwise, equivariant, guided, perpendicular, slicewise
from medrecon.priors.denoiser import TrainedNoise, dimmed
from medrecon.priors.nets import Labelled
from medrecon.problems.base import Fit, Problem, Scaled, fit
from medrecon.problems.maps import CoilProblem
from medrecon.quality import QualityRow, choose_row, default_steps, overridden
from medrecon.record import Outcome, particle_warnings, record
from medrecon.sample import StartImage, draw, draw_blind, draw_particles, sample
from medrecon.settings import QUALITIES, SamplingSettings
from medrecon.slabs import Part, Parts
from medrecon.solvers import SOLVERS
from medrecon.solvers.base import Solver
from medrecon.solvers.settings import find_solver, make_solver, name_of
from medrecon.solvers.smc import Particles, ParticleSolver
from medrecon.training.objectives import EDM, MeasuredObjective, Objective
from medrecon.training.undersampled import Ambient
from medrecon.uncertainty import NullSpace, Uncertainty, calibrated_maps, null_space, pixel_statistics

__all__ = [
    "LADDER_KEYS",
    "LAST_LEVELS",
    "PLANES",
    "SPACINGS",
    "ImageKind",
    "PriorSpec",
    "Reconstruction",
    "Sampling",
    "Start",
    "as_device",
    "batch_size",
    "check_volume",
    "fast_dtype",
    "network_prior",
    "run",
    "sampling",
]

LADDER_KEYS = "sigma_max", "spacing"
"""Tuned settings that belong to the noise levels, not to the solver."""
LAST_LEVELS = 1e-6, 1e3
"""Range of the last noise level, which single precision and images of unit scale allow."""
SPACINGS = 0.1, 1000.0
"""Range of the spacing of the noise levels; the levels of 1000 are those of a geometric series to three digits."""
MAX_Z_CORRELATION = 100.0
"""Largest correlation length of the noise between slices, in slices."""
PLANES = {"axial": 2, "coronal": 3, "sagittal": 4}
"""Planes of a volume ``(B, C, z, y, x)``, and the axis across which they cut it."""
LARGEST_ANISOTROPY = 1.5
"""Largest ratio of the sides of voxels for which planes across the slices are like the training images."""
ImageKind = Literal["complex", "magnitude", "attenuation"]
"""Images that a network was trained on: real and imaginary part, magnitude (both of unit scale), or HU / 1000 + 1."""


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """A trained network, and the settings that suit it.

    Args:
        name: name of the bundle, for the record.
        version: version of the bundle.
        weights_sha256: SHA-256 of the weights.
        network: loads the weights, after checking them; called only by solvers with a prior.
        objective: training objective of the network.
        images: kind of the training images; ``None``: no network, so that only classical solvers can be used.
        channels: channels of the network.
        labels: meaning of the network's class labels, in their order; empty: it takes none.
        multiple: sides are padded to a multiple of it for the network.
        symmetries: symmetries of the training images, as arguments of :func:`medrecon.priors.equivariant`; empty: none.
        tuned: by name of a solver, settings that differ from its defaults, and ``sigma_max`` and ``spacing`` of the noise levels.
        n_steps: default number of network evaluations per sample, for solvers without ``quality``.
        quality: by name of a solver, numbers of evaluations and settings by acceleration, which come before ``tuned``.
        acceleration: acceleration of the problem that the prior is used for; ``None``: it has none, and ``quality`` is not used.
        sigma_min: last noise level before 0.
        tuned_by_images: without a network, such settings by kind of the images, where they differ from ``tuned``.
        posterior: by name of a solver, settings for posterior samples that differ from its defaults, and ``sigma_max``,
            ``sigma_min``, ``spacing`` and ``steps``.
        calibrations: factors of the spread of samples, for the settings that they were measured with.
        condition: one of ``labels``, given to the network; ``None``: the unconditional prior.
        guidance: scale of the condition: 1 follows it, more exaggerates it (two evaluations a step), 0 ignores it.
        trained_planes: planes of the training images.
        planes: planes in which volumes go through the network, one at every noise level.
        noise: noise that the network was trained to remove, where it knows no other levels, so that it can only denoise;
            ``None``: it was trained for all levels.
    """

    name: str
    version: str
    weights_sha256: str
    network: Callable[[], nn.Module]
    objective: Objective | MeasuredObjective = EDM()
    images: ImageKind | None = "complex"
    channels: int = 2
    labels: Sequence[str] = ()
    multiple: int = 16
    symmetries: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_steps: int = 50
    quality: Mapping[str, Sequence[QualityRow]] = field(default_factory=dict)
    acceleration: float | None = None
    sigma_min: float = 0.005
    tuned_by_images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    posterior: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibrations: Sequence[Calibration] = ()
    condition: str | None = None
    guidance: float = 1.0
    trained_planes: Sequence[str] = ("axial",)
    planes: Sequence[str] = ("axial",)
    noise: TrainedNoise | None = None

    def suited_to(self, problem: Problem) -> PriorSpec:
        """The prior with the settings for the images and acceleration of a problem; those that suit its operator come first.

        Those for posterior samples stay as they are: the others were tuned for the best image.
        """
        tuned = {**self.tuned, **self.tuned_by_images.get(problem.images[0], {})}
        suited = {name: {**tuned.get(name, {}), **settings} for name, settings in problem.tuned.items()}
        quality = overridden(self.quality, problem.tuned)
        return replace(self, tuned={**tuned, **suited}, quality=quality, acceleration=problem.acceleration)

    def conditioned(self, condition: str | None, guidance: float = 1.0) -> PriorSpec:
        """The prior with a condition.

        Raises:
            InputError: for a label that the network does not have, naming the nearest.
        """
        as_number("guidance", guidance)
        if not condition:
            if guidance != 1:
                raise InputError("guidance weighs a condition; give a condition as well")
            return self
        known = [label for label in self.labels if label]
        if not known:
            raise InputError(f"the prior of bundle {self.name} takes no condition; omit it")
        if condition not in known:
            near = get_close_matches(str(condition), known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"this prior takes the conditions {', '.join(known)}; got {shown(condition)}{hint}")
        return replace(self, condition=condition, guidance=guidance)

    def in_planes(self, names: str) -> PriorSpec:
        """The prior with planes, of which a noise level takes one, for volumes.

        Args:
            names: planes, separated by commas.

        Raises:
            InputError: for a plane that is unknown, named twice, or not among the training images.
        """
        planes = [one.strip() for one in names.split(",")] if isinstance(names, str) else []
        if not planes or not set(planes) <= set(PLANES) or len(set(planes)) < len(planes):
            raise InputError(f"planes must be some of {', '.join(PLANES)}, separated by commas; got {shown(names)}")
        unknown = [one for one in planes if one not in self.trained_planes]
        if unknown and self.images is not None:
            raise InputError(
                f"the prior of bundle {self.name} was trained on {' and '.join(self.trained_planes)} images, not on {unknown[0]} "
                f"ones; use the planes {','.join(self.trained_planes)}"
            )
        return replace(self, planes=planes)


@dataclass(frozen=True, kw_only=True)
class Start:
    """An estimate to start from (CCDF; Chung et al., CVPR 2022).

    Args:
        solver: without a prior.
        sigma: noise level that its estimate is given, for images of unit scale.
    """

    solver: Solver
    sigma: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A solver and how it runs. A sample depends on (seed, slice, sample) alone.

    Args:
        solver: the method.
        sigmas: noise levels, 1-D, the last one 0; any two for a solver without a prior.
        steps: network evaluations per sample that the levels are for.
        spacing: the levels are evenly spaced in ``sigma^(1 / spacing)``.
        quality: ``fast``, ``standard`` or ``best``, where it determines the number of evaluations or the settings.
        n_samples: posterior samples per item.
        n_particles: particles per item of a particle solver, at least ``n_samples``; they run as one batch.
        seed: random seed.
        z_correlation: correlation of the noise between slices of a volume, in slices; ``None``: the default of the problem.
        start: an estimate to start from; ``None``: noise.
        chunk: items or samples that run as one batch; ``None``: see :func:`batch_size`.
        dtype: autocast type of the network; ``"auto"``: see :func:`fast_dtype`; ``None``: that of its weights.
        block: source of the settings, for the record: ``"tuned"`` or ``"posterior"`` of the prior, or ``None`` for the solver's
            defaults.
        calibration: factors of the spread of samples, measured with these settings; ``None``: the spread stays as it is.
        options: options that the user gave, as plain data for the record.
        trace: whether to measure the residual of the clean estimates at every noise level, for the record.
    """

    solver: Solver
    sigmas: Tensor
    steps: int = 50
    spacing: float = 7.0
    quality: str | None = None
    n_samples: int = 1
    n_particles: int = 1
    seed: int = 0
    z_correlation: float | None = None
    start: Start | None = None
    chunk: int | None = None
    dtype: torch.dtype | Literal["auto"] | None = "auto"
    block: Literal["tuned", "posterior"] | None = None
    calibration: Calibration | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trace: bool = False

    def z_correlation_of(self, problem: Problem) -> float | None:
        """Correlation length of the noise of a problem, slices; ``None``: items have one stream of numbers."""
        return problem.z_correlation if self.z_correlation is None else self.z_correlation


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Images and how they were made.

    Args:
        image: ``(slices, y, x)`` or ``(frames, slices, y, x)`` float32: magnitudes in the scale of the coil-combined data, or HU;
            the mean of the samples, or the weighted mean of the particles.
        samples: ``(n, ...)`` float32 of the same kind, or ``None`` for one sample.
        phase: phase of the mean of the complex samples, rad, float32 like ``image``, or ``None`` for real images.
        geometry: geometry of these slices.
        modality: DICOM modality, ``MR`` or ``CT``.
        record: processing record, as stored in the sidecar.
        uncertainty: maps of several samples; ``None`` for one sample.
        parameters: estimated parameters of the physics by name, ``(items, ...)``, such as coil maps; empty if all were known.
    """

    image: np.ndarray
    samples: np.ndarray | None
    record: Mapping[str, Any]
    phase: np.ndarray | None = None
    geometry: Geometry = Geometry()
    modality: str = "MR"
    uncertainty: Uncertainty | None = None
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


def fast_dtype(device: torch.device | str) -> torch.dtype | None:
    """The autocast type that makes networks faster on ``device``: bfloat16 where the hardware has it, otherwise ``None``."""
    kind = torch.device(device).type
    if kind == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = kind == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if supported else None


def as_device(name: str | torch.device) -> torch.device:
    """The device that a user names: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: for another name, or one that cannot be used.
    """
    if isinstance(name, torch.device):
        return name
    if not isinstance(name, str) or (name not in ("auto", "cpu") and not name.startswith("cuda")):
        raise InputError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; choose the device cpu")
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); choose auto or cpu"
        ) from error
    return device


def _start(settings: SamplingSettings, solver: Solver, prior: PriorSpec) -> Start | None:
    """The estimate to start from, checked against the solver."""
    if (settings.start is None) != (settings.start_sigma is None):
        raise InputError("start and start_sigma belong together: an estimate, and the noise level it is given")
    if settings.start is None or settings.start_sigma is None:
        return None
    as_number("start_sigma", settings.start_sigma, positive=True)
    find_solver(settings.start)
    tuned = {key: value for key, value in prior.tuned.get(settings.start, {}).items() if key not in LADDER_KEYS}
    start = make_solver(settings.start, tuned)
    if not solver.takes_start:
        raise InputError(f"solver {settings.solver!r} computes its own initial estimate; omit start")
    if solver.has_particles:
        raise InputError(
            f"solver {settings.solver!r} weighs particles by the data, which a start from an estimate would count twice; omit it"
        )
    if not solver.requires.prior or start.requires.prior:
        raise InputError(
            f"a run with a prior starts from a solver without one; got {settings.solver!r} from {settings.start!r}"
        )
    if not settings.start_sigma > prior.sigma_min:
        raise InputError(f"start_sigma must be above the last level, {prior.sigma_min}; got {settings.start_sigma}")
    return Start(solver=start, sigma=settings.start_sigma)


def _block(settings: SamplingSettings, prior: PriorSpec) -> tuple[Literal["tuned", "posterior"] | None, dict[str, Any]]:
    """Name of the block of the prior's settings that a run uses, and its content for the solver, ``steps`` included.

    Raises:
        InputError: if settings for posterior samples are asked for, but the prior has none for the solver, or the run would start
            from an estimate.
    """
    if not isinstance(settings.posterior, bool):
        text = ", not text (python -m monai.bundle: --posterior True)" if isinstance(settings.posterior, str) else ""
        raise InputError(f"posterior must be true or false{text}; got {shown(settings.posterior)}")
    if not settings.posterior:
        row = choose_row(prior.quality.get(settings.solver, ()), prior.acceleration, settings.quality, settings.steps)
        tuned = {**prior.tuned.get(settings.solver, {}), **({} if row is None else row.settings)}
        steps = default_steps(prior.n_steps, settings.quality) if row is None else row.steps
        return "tuned" if tuned else None, {**tuned, "steps": steps}
    if settings.solver not in prior.posterior:
        known = ", ".join(prior.posterior)
        advice = f"choose one of {known}" if known else "leave posterior out, or choose another bundle"
        raise InputError(
            f"bundle {prior.name} has no settings for posterior samples of solver {settings.solver!r}; {advice}"
        )
    if settings.quality is not None:
        raise InputError(
            "settings for posterior samples have their own number of evaluations; leave out quality, or posterior"
        )
    if settings.start is not None:
        raise InputError("a warm start draws no samples of the posterior; leave out start, or posterior")
    return "posterior", {"steps": prior.n_steps, **prior.posterior[settings.solver]}


def _quality(settings: SamplingSettings, prior: PriorSpec) -> str | None:
    """The quality that determined the number of evaluations or, given that number, the settings; ``None``: none did."""
    if settings.steps is None:
        return None if settings.posterior else settings.quality or "standard"
    has_row = choose_row(prior.quality.get(settings.solver, ()), prior.acceleration, None, settings.steps) is not None
    return settings.quality if has_row else None


def _check_counts(settings: SamplingSettings) -> None:
    """Refuse numbers that are not counts, and an unknown quality."""
    if settings.steps is not None:
        check_count("steps", settings.steps, 1, 1_000_000)
    check_count("samples", settings.samples, 1, 1_000_000)
    check_count("seed", settings.seed, 0, 2**63 - 1)
    if settings.chunk is not None:
        check_count("chunk", settings.chunk, 1, 1_000_000)
    if settings.quality is not None and settings.quality not in QUALITIES:
        raise InputError(
            f"quality must be {', '.join(QUALITIES[:-1])} or {QUALITIES[-1]}; got {shown(settings.quality)}"
        )


def _last_level(settings: SamplingSettings, default: float) -> float:
    """The last noise level that is not 0."""
    if settings.sigma_min is None:
        return default
    last = as_number("sigma_min", settings.sigma_min, positive=True)
    if not LAST_LEVELS[0] <= last <= LAST_LEVELS[1]:
        raise InputError(f"sigma_min must be from {LAST_LEVELS[0]:g} to {LAST_LEVELS[1]:g}; got {last:g}")
    return last


def _check_planes(problem: Problem, prior: PriorSpec) -> None:
    """Refuse planes across slices that are not there, or too thick to look like training images.

    Raises:
        InputError: for slices one by one, or voxels that are far from cubes.
    """
    if list(prior.planes) == ["axial"]:
        return
    if len(problem.image_shape) != 4:
        raise InputError(
            f"{problem.name}: the planes {','.join(prior.planes)} are those of a volume, but slices are reconstructed one by "
            "one; leave planes out, or reconstruct a volume (--volume)"
        )
    spacing = problem.geometry.spacing
    if spacing is not None and max(spacing) > LARGEST_ANISOTROPY * min(spacing):
        size = " x ".join(f"{one:.3g}" for one in spacing)
        raise InputError(
            f"{problem.name}: voxels of {size} mm (z, y, x) make planes across the slices unlike the training images, whose "
            "pixels are square; leave planes out, or choose the solver dds-3d"
        )


def _particles(settings: SamplingSettings, solver: Solver) -> int:
    """The number of particles, checked against the solver and the number of samples."""
    if not solver.has_particles:
        if settings.particles is not None:
            known = ", ".join(name for name, one in SOLVERS.items() if one.has_particles)
            raise InputError(f"solver {settings.solver!r} has no particles; omit particles, or choose one of {known}")
        return 1
    if settings.particles is None:
        return max(8, settings.samples)
    check_count("particles", settings.particles, 1, 1_000_000)
    if settings.samples > settings.particles:
        raise InputError(
            f"{settings.samples} samples are chosen from as many particles or more; got {settings.particles} particles"
        )
    return settings.particles


def _z_correlation(settings: SamplingSettings) -> float | None:
    """The correlation length of the noise between slices, checked."""
    if settings.z_correlation is None:
        return None
    length = as_number("z_correlation", settings.z_correlation)
    if length > MAX_Z_CORRELATION:
        raise InputError(f"z_correlation must be from 0 to {MAX_Z_CORRELATION:g} slices; got {length:g}")
    return length


def check_volume(problem: Problem, prior: PriorSpec, sampling: Sampling) -> None:
    """Refuse options of volumes for other problems, and planes that do not suit a volume.

    Raises:
        InputError: for a correlation between slices that are reconstructed one by one, a solver that relates them, or planes
            across them; for planes of voxels that are far from cubes.
    """
    _check_planes(problem, prior)
    if sampling.solver.needs_volume and len(problem.image_shape) != 4:
        raise InputError(
            f"{problem.name}: solver {name_of(sampling.solver)!r} relates neighbouring slices; reconstruct a volume "
            "(--volume), or choose another solver, e.g. dds"
        )
    if sampling.z_correlation is not None and len(problem.image_shape) != 4:
        raise InputError(
            f"{problem.name}: z_correlation couples the slices of a volume, but slices are reconstructed one by one; leave it "
            "out, or reconstruct a volume (--volume)"
        )


def sampling(settings: SamplingSettings, prior: PriorSpec) -> Sampling:
    """The sampling that a user asks for, with the prior's settings (``tuned`` or ``posterior``) as defaults.

    ``steps`` is the number of evaluations, whatever the quality; ``quality`` then determines the other settings.

    Raises:
        InputError: for an unknown solver or setting, or a value out of range.
    """
    _check_counts(settings)
    find_solver(settings.solver)
    block, values = _block(settings, prior)
    default = values.pop("steps")
    steps = default if settings.steps is None else settings.steps
    prior = replace(prior, sigma_min=_last_level(settings, values.pop("sigma_min", prior.sigma_min)))
    sigma_max, spacing = values.pop("sigma_max", 8.0), values.pop("spacing", 7.0)
    if settings.sigma_max is not None:
        sigma_max = as_number("sigma_max", settings.sigma_max, positive=True)
    if settings.spacing is not None:
        spacing = as_number("spacing", settings.spacing, positive=True)
        if not SPACINGS[0] <= spacing <= SPACINGS[1]:
            raise InputError(f"spacing must be from {SPACINGS[0]:g} to {SPACINGS[1]:g}; got {spacing:g}")
    make_solver(settings.solver, settings.settings)  # an error names the setting as it was given
    solver = make_solver(settings.solver, values | dict(settings.settings or {}))
    learned = solver.requires.prior
    if settings.samples > 1 and (not learned or solver.is_estimate):
        other = "with a prior" if not learned else "that draws samples, such as dds"
        raise InputError(f"solver {settings.solver!r} has no random samples; ask for 1, or choose a solver {other}")
    if learned and prior.noise is not None and not solver.is_estimate:
        raise InputError(
            f"the prior of bundle {prior.name} was trained on noisy images alone and can only denoise, which solver "
            f"{settings.solver!r} does not; choose the solver tweedie, or another bundle"
        )
    if learned and prior.noise is not None and prior.noise.family != "gaussian":
        raise InputError(
            f"bundle {prior.name} was trained for {prior.noise.family} noise, but reconstructions assume Gaussian noise; denoise "
            "in Python (medrecon.training.denoising), or choose another bundle"
        )
    start = _start(settings, solver, prior)
    sigma_max = sigma_max if start is None else start.sigma
    if learned and sigma_max < prior.sigma_min:
        raise InputError(f"sigma_max must be at least the last level, {prior.sigma_min}; got {sigma_max}")
    ladder = solver.ladder(sigma_max, prior.sigma_min, steps, spacing) if learned else torch.tensor([1.0, 0.0])
    return Sampling(
        solver=solver,
        sigmas=ladder,
        steps=steps,
        spacing=spacing,
        quality=_quality(settings, prior) if learned else None,
        n_samples=settings.samples,
        n_particles=_particles(settings, solver),
        seed=settings.seed,
        z_correlation=_z_correlation(settings),
        start=start,
        chunk=settings.chunk,
        block=block,
    )


def network_prior(
    spec: PriorSpec, network: nn.Module, shape: Sequence[int], dtype: torch.dtype | None
) -> tuple[Prior, list[Counted]]:
    """A network as a prior of items ``(C, *spatial)``: conditioned, guided, under its symmetries, for all channels and slices.

    A network of magnitudes processes real and imaginary parts separately (Score-MRI); several complex images (sets of
    maps, frames, coil images) go through it as a batch, and so do the slices of a volume.

    Args:
        spec: description of the network.
        network: network of the prior.
        shape: ``(C, *spatial)`` of an item.
        dtype: autocast type of the network.

    Returns:
        the prior, and the counters of network evaluations in it.
    """
    counters = [Counted(spec.objective.prior(network, spec.multiple, dtype))]
    prior: Prior = counters[0] if spec.noise is None else dimmed(counters[0], spec.noise.most)
    if spec.condition:
        labelled = Labelled(network, list(spec.labels).index(spec.condition))
        counters.append(Counted(spec.objective.prior(labelled, spec.multiple, dtype)))
        prior = guided(counters[1], counters[0], spec.guidance)
    channels = 1 if shape[0] == 1 else 2
    if spec.channels < channels:
        prior = channelwise(prior)
    symmetries = {key: value for key, value in spec.symmetries.items() if key != "phase" or channels == 2}
    if symmetries:
        prior = equivariant(prior, **symmetries)
    if shape[0] > channels:
        prior = channelwise(prior, channels)
    if len(shape) == 4:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        prior = perpendicular(*(_plane(prior, PLANES[name], shape, device) for name in spec.planes))
    return prior, counters


class _OfCoils(NamedTuple):
    """An objective whose prior sees images as the coils of a scan measure them, with their maps."""

    objective: Ambient
    maps: Tensor
    mask: Tensor | None

    def prior(self, network: nn.Module, multiple: int = 16, dtype: torch.dtype | None = None) -> Prior:
        """The objective's, for these maps and masks."""
        return self.objective.prior(network, multiple, dtype, maps=self.maps, mask=self.mask)


def _of_coils(spec: PriorSpec, problem: CoilProblem, items: slice, *, device: torch.device) -> PriorSpec:
    """The prior of some slices, for their maps and masks; mirrored and shifted images would not fit the maps."""
    objective, maps = cast(Ambient, spec.objective), problem.maps(items).to(device)
    several = maps.shape[1] > 1
    if objective.several_coils is not None and objective.several_coils != several:
        raise InputError(
            f"{problem.name}: has {'several coils' if several else 'one coil'}, but the prior of bundle {spec.name} was trained "
            f"on scans of {'one coil' if several else 'several coils'}, whose aliasing differs; choose another bundle"
        )
    seen = _OfCoils(objective, maps, problem.masks(items, device))
    symmetries = {key: value for key, value in spec.symmetries.items() if key == "phase"}
    return replace(spec, objective=cast(Objective, seen), symmetries=symmetries)


def _plane(prior: Prior, axis: int, shape: Sequence[int], device: torch.device) -> Prior:
    """A prior of images for the planes of volumes ``shape`` ``(C, z, y, x)`` across an axis."""
    one = [n for k, n in enumerate(shape) if k != axis - 1]
    return slicewise(prior, batch_size(one, device), axis)


def _seeds(seed: int, numbers: Sequence[int], n_samples: int) -> list[list[int]]:
    """One row per sample, one seed per item."""
    return [[zlib.crc32(f"{seed}:{index}:{k}".encode()) for index in numbers] for k in range(n_samples)]


def _check_prior(problem: Problem, prior: PriorSpec, solver: Solver) -> None:
    """Refuse a missing prior, or one of other images than the problem's.

    Raises:
        InputError: if the prior is missing or does not fit.
    """
    if prior.images is None:
        raise InputError(
            f"bundle {prior.name} holds no network, which solver {name_of(solver)!r} needs; choose one without a prior, e.g. tv, "
            f"or the bundle {problem.bundle}"
        )
    if prior.images not in problem.images:
        raise InputError(
            f"{problem.name}: the prior of bundle {prior.name} is of {prior.images} images, which do not fit this kind of scan; "
            f"choose the bundle {problem.bundle}"
        )
    if prior.noise is not None and prior.images != problem.images[0]:
        raise InputError(
            f"{problem.name}: the prior of bundle {prior.name} denoises {prior.images} images only, and these are "
            f"{problem.images[0]}; choose the bundle {problem.bundle}"
        )

    if isinstance(prior.objective, Ambient):
        _check_coils(problem, prior)


def _check_coils(problem: Problem, prior: PriorSpec) -> None:
    """Refuse scans without known maps of the coils for a prior that sees images as they do.

    Raises:
        InputError: naming the scan and the bundle.
    """
    one_set = isinstance(problem, CoilProblem) and len(problem.image_shape) == 3 and problem.image_shape[0] == 2
    if not one_set or problem.is_blind:
        raise InputError(
            f"{problem.name}: the prior of bundle {prior.name} was trained on undersampled k-space (ambient), so it needs slices "
            "of k-space and one known set of coil maps; reconstruct slices with --maps espirit or given maps, or choose a bundle "
            "that was trained on images"
        )


def _check_noise(problem: Problem, prior: PriorSpec, data: Likelihood, items: slice) -> None:
    """Refuse images with less noise than the network was trained for, which it would change for the worse.

    Raises:
        InputError: naming the slice and its noise.
    """
    if prior.noise is None or not isinstance(data, Gaussian):
        return
    levels = as_levels(data.noise_std, data.y).tolist()
    filled = data.y.flatten(1).any(1).tolist()
    for number, level, has_signal in zip(problem.numbers[items], levels, filled, strict=True):
        if has_signal and level < prior.noise.least:
            raise InputError(
                f"{problem.name}: slice {number} has noise of {level:.2g} of its brightest pixels, less than the prior of "
                f"bundle {prior.name} was trained for ({prior.noise.least:g} to {prior.noise.most:g}); choose the bundle "
                f"{problem.bundle}, or correct the noise level (--noise-std)"
            )


def batch_size(shape: Sequence[int], device: torch.device | str) -> int:
    """Default number of items per batch: as many as have 256 x 256 pixels on a CPU, eight times that elsewhere; at most 64.

    Single small images leave a processor idle; batches of large images are not faster, and memory grows with the batch.

    Args:
        shape: ``(C, *spatial)`` of an item; several complex images count one by one.
        device: device the run uses.
    """
    pixels = math.prod(shape) // (1 if shape[0] == 1 else 2)
    room = 2**16 * (1 if torch.device(device).type == "cpu" else 8)
    return max(1, min(64, room // pixels))


class _Drawn(NamedTuple):
    """Samples of some items, or the particles of one.

    Args:
        x: samples or particles ``(n, B, C, *spatial)`` at unit scale.
        scaled: likelihood of the items.
        particles: weights of the particles.
        chosen: indices of the particles that are the samples, ``(samples,)``.
    """

    x: Tensor
    scaled: Scaled
    particles: Particles | None = None
    chosen: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, or weighted mean of the particles, ``(B, C, *spatial)``."""
        return self.x.mean(0) if self.particles is None else self.particles.mean


class _Run:
    """The parts of a run that stay the same for all items."""

    def __init__(self, problem: Problem, prior: PriorSpec, sampling: Sampling, device: torch.device) -> None:
        self.problem = problem
        self.prior = prior
        self.sampling = sampling
        self.device = device
        self.dtype = fast_dtype(device) if sampling.dtype == "auto" else sampling.dtype
        self.chunk = sampling.chunk or batch_size(problem.image_shape, device)
        self.network: nn.Module | None = None
        if sampling.solver.requires.prior:
            _check_prior(problem, prior, sampling.solver)
            self.network = prior.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.priors: dict[tuple[int, ...], Prior] = {}
        self.counters: list[Counted] = []
        self.levels: dict[float, float] = {}
        self.sigmas = sampling.sigmas

    @property
    def evaluations(self) -> int:
        """Network evaluations so far."""
        return sum(counter.calls for counter in self.counters)

    def batches(self) -> list[slice]:
        """Items that run together: several of one sample, or one with several samples or particles."""
        alone = self.sampling.n_samples > 1 or self.sampling.solver.has_particles
        return self.problem.batches(1 if alone else self.chunk)

    @property
    def runs(self) -> int:
        """Number of runs down the ladder."""
        several = self.sampling.n_samples > 1 and not self.sampling.solver.has_particles
        each = 1 if self.problem.is_blind else self.chunk
        return len(self.batches()) * (-(-self.sampling.n_samples // each) if several else 1)

    def _prior(self, shape: tuple[int, ...], items: slice) -> Prior | None:
        if self.network is None:
            return None
        if isinstance(self.prior.objective, Ambient):
            spec = _of_coils(self.prior, cast(CoilProblem, self.problem), items, device=self.device)
            prior, counters = network_prior(spec, self.network, shape, self.dtype)
            self.counters += counters
            return prior
        if shape not in self.priors:
            self.priors[shape], counters = network_prior(self.prior, self.network, shape, self.dtype)
            self.counters += counters
        return self.priors[shape]

    def draw(self, items: slice, step: Callable[..., None]) -> _Drawn:
        """Samples of some items, or the particles of one."""
        problem, plan = self.problem, self.sampling
        scaled = problem.likelihood(items, self.device)
        data = scaled.likelihood
        solver = problem.solver_for(items, plan.solver, self.device)
        try:
            solver.check(data)
            if plan.start is not None:
                plan.start.solver.check(data)
        except TypeError as error:
            raise InputError(f"{problem.name}: {error}" if solver.is_estimate else str(error)) from error
        if solver.requires.prior:
            _check_noise(problem, self.prior, data, items)
        numbers = problem.seed_numbers(items)
        sigmas, start, begin = plan.sigmas, None, problem.start(items, self.device)
        if plan.start is not None:
            estimate = sample(plan.start.solver, None, data, torch.tensor([1.0, 0.0]), noise=Noise([0] * len(numbers)))
            start = StartImage(estimate)
        elif begin is not None and solver.requires.prior and solver.takes_start:
            if plan.block == "posterior":
                raise InputError(
                    f"{problem.name}: runs on such data start from the image, so they draw no samples of the posterior; "
                    "leave out posterior"
                )
            start = StartImage(begin.x, begin.add_noise)
            sigmas = solver.ladder(begin.sigma, min(float(plan.sigmas[-2]), begin.sigma / 2), plan.steps, plan.spacing)
        if bool((scaled.image_scale > 0).any()):  # the ladder of an empty image is not recorded
            self.sigmas = sigmas
        prior = self._traced(self._prior(tuple(data.shape[1:]), items), data)
        if isinstance(solver, ParticleSolver):
            seed, last = (row[0] for row in _seeds(plan.seed, numbers, 2))
            particles = draw_particles(
                solver,
                cast(Prior, prior),
                cast(Gaussian, data),
                sigmas,
                seed=seed,
                n_particles=plan.n_particles,
                callback=step,
            )
            chosen = particles.choose(plan.n_samples, Noise([last]))[0]  # by a number that the run has not used
            return _Drawn(particles.x[:, None], scaled, particles, chosen)
        seeds = self._sample_seeds(items)
        if isinstance(data, BlindGaussian):
            made = draw_blind(solver, prior, data, sigmas, seeds=seeds, start=start, callback=step)
            problem.keep(items, made.data)
            return _Drawn(made.x, scaled._replace(likelihood=made.data))
        return _Drawn(
            draw(solver, prior, data, sigmas, seeds=seeds, chunk=self.chunk, start=start, callback=step), scaled
        )

    def _sample_seeds(self, items: slice) -> list[list[int]] | VolumeSeeds:
        """Seeds of the samples of some items; of a volume with coupled slices, or with slabs, the seeds of its slices."""
        problem, plan = self.problem, self.sampling
        rows = _seeds(plan.seed, problem.seed_numbers(items), plan.n_samples)
        slices = problem.slices_of(items)
        length = plan.z_correlation_of(problem)
        return rows if slices is None or length is None else VolumeSeeds(rows, length, slices)

    def _traced(self, prior: Prior | None, data: Likelihood) -> Prior | None:
        """The prior; with ``trace``, it measures the residual of the first sample of the first items with signal.

        Not with estimated parameters: ``data`` has those of the start, which the run changes.
        """
        if not self.sampling.trace or prior is None or self.levels or not bool((data.y != 0).any()):
            return prior
        if isinstance(data, BlindGaussian):
            return prior

        @torch.no_grad()
        def observe(x0: Tensor, sigma: float | Tensor) -> None:
            level = float(torch.as_tensor(sigma).max())
            if level not in self.levels:  # the first estimate at every level
                one = x0[: data.shape[0]]
                each, _, over = fit(data, one, torch.ones(len(one), device=one.device))
                self.levels[level] = (over / max(sum(part.n for part in each), 1)) ** 0.5

        return Observed(prior, observe)

    def unmeasured(self, items: slice, drawn: _Drawn) -> list[NullSpace]:
        """What was not measured of the item; empty for runs of one sample."""
        if self.sampling.n_samples == 1:
            return []
        weights = None if drawn.particles is None else drawn.particles.log_weights[0].exp()
        found = null_space(self.problem, drawn.scaled, items, drawn.x, weights, self.chunk)
        return [found.of_slices(self.problem.own(items))]


@dataclass
class _Items:
    """Results of the items so far.

    Args:
        images: images of the scan, by batch of items.
        parameters: estimated parameters, by batch of items; empty if all are known.
        fits: fit of every item.
        weighted: weights of the particles of every item, if any.
        unmeasured: what was not measured of every item, for several samples.
        residual: squared norm of the residual.
        energy: squared norm of the data.
        over_noise: squared norm of the residual, divided by the variance of the noise.
        earlier: network evaluations of parts of an earlier run.
        seconds: duration of these parts.
    """

    images: list[Tensor] = field(default_factory=list)
    parameters: list[Mapping[str, Tensor]] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    weighted: list[_Weighted] = field(default_factory=list)
    unmeasured: list[NullSpace] = field(default_factory=list)
    residual: float = 0.0
    energy: float = 0.0
    over_noise: float = 0.0
    earlier: int = 0
    seconds: float = 0.0

    def part(self, evaluations: int, seconds: float, levels: Mapping[float, float]) -> Part:
        """The results as a part that can be kept."""
        sums = self.residual, self.energy, self.over_noise
        return Part(torch.cat(self.images, 1), self.fits, self.unmeasured, sums, evaluations, seconds, levels)

    @classmethod
    def of(cls, part: Part) -> _Items:
        """The results of a part of an earlier run."""
        made = cls([part.images], fits=part.fits, unmeasured=part.unmeasured)
        made.residual, made.energy, made.over_noise = part.sums
        made.earlier, made.seconds = part.evaluations, part.seconds
        return made

    def extend(self, other: _Items) -> None:
        """Add the results of further items."""
        for name in ("images", "parameters", "fits", "weighted", "unmeasured"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("residual", "energy", "over_noise", "earlier", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add(self, state: _Run, items: slice, drawn: _Drawn) -> None:
        """Add the samples of some items."""
        scaled = drawn.scaled
        each, squares, over = state.problem.fits(scaled, drawn.mean, items)
        self.fits += each
        self.residual += squares
        self.over_noise += over
        self.energy += sum(one.data for one in each)
        self.images.append(state.problem.to_image(drawn.x, items, scaled.image_scale).cpu())
        if isinstance(scaled.likelihood, BlindGaussian):
            self.parameters.append({name: value.cpu() for name, value in scaled.likelihood.parameters.items()})
        self.weighted += _Weighted.of(drawn, self.images[-1].shape[1])
        self.unmeasured += state.unmeasured(items, drawn)


def _ratio(over_noise: float, measured: int, solver: Solver) -> float | None:
    """Root of the squared residual over the noise; ``None`` without noise, and for a solver that does not use the noise level."""
    known = measured and np.isfinite(over_noise) and not issubclass(solver.requires.operator, Projector)
    return (over_noise / measured) ** 0.5 if known else None


@torch.no_grad()
def run(
    problem: Problem,
    prior: PriorSpec,
    sampling: Sampling,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    parts: Parts | None = None,
) -> Reconstruction:
    """Draw posterior samples, or a classical estimate, of every item of a problem.

    Args:
        problem: problem of a scan, see :func:`medrecon.problems.problem`.
        prior: the network, loaded only if the solver needs it.
        sampling: solver, noise levels, samples.
        device: device of the computation.
        progress: called with (steps done, steps in all) after every step.
        parts: where finished slabs of a volume are kept, and found after a run that was stopped.

    Raises:
        InputError: if the solver cannot work with the problem or the prior, or the images cannot be used.
    """
    began = time.perf_counter()
    problem = problem.suited_to(sampling.solver)
    check_volume(problem, prior, sampling)
    state = _Run(problem, prior, sampling, torch.device(device))
    early = problem.warnings
    for text in early:
        warn(text)
    made = _all_items(state, _Steps(progress, state.runs), parts)
    problem.check_source()
    whole = problem.join(made.images)
    texts = [*problem.review(whole, made.fits, sampling.solver), *_particle_warnings(made.weighted, problem.numbers)]
    texts += _unrelated_warnings(problem, prior, sampling.solver)
    outcome = Outcome(
        sigmas=state.sigmas,
        evaluations=state.evaluations + made.earlier,
        relative_residual=(made.residual / made.energy) ** 0.5 if made.energy > 0 else 0.0,
        residual_over_noise=_ratio(made.over_noise, sum(one.n for one in made.fits), sampling.solver),
        seconds=time.perf_counter() - began + made.seconds,
        device=state.device,
        dtype=state.dtype,
        warnings=[*problem.warnings, *texts],
        particles=[one.particles for one in made.weighted],
        unmeasured=made.unmeasured,
        levels=state.levels,
    )
    for text in outcome.warnings:
        if text not in early:
            warn(text)
    facts = record(problem, prior, sampling, outcome)
    found = _reconstruction(problem, whole, made.weighted, made.unmeasured, facts)
    names = made.parameters[0] if made.parameters else ()
    found = replace(
        found, parameters={name: torch.cat([one[name] for one in made.parameters]).numpy() for name in names}
    )
    return _with_calibration(found, sampling.calibration, magnitude=not problem.real)


def _unrelated_warnings(problem: Problem, prior: PriorSpec, solver: Solver) -> list[str]:
    """A warning if thin slices are made of thick ones, and nothing relates them: the data determine only their mean."""
    is_related = not solver.requires.prior or solver.needs_volume or list(prior.planes) != ["axial"]
    if is_related or not problem.needs_related_slices:
        return []
    return [
        f"solver {name_of(solver)!r} does not relate neighbouring slices, of which only the mean was measured, so the volume may "
        "be worse than an interpolation; choose the solver dds-3d"
    ]


def _with_calibration(made: Reconstruction, calibration: Calibration | None, magnitude: bool) -> Reconstruction:
    """The reconstruction with the maps of a calibration, if there is one."""
    if calibration is None or made.uncertainty is None:
        return made
    return replace(made, uncertainty=calibrated_maps(made.uncertainty, made.image, calibration, magnitude))


class _Steps:
    """A callback of :func:`medrecon.sample.sample` that counts the steps of all runs down the ladder.

    Args:
        progress: called with (steps done, steps in all).
        runs: number of runs.
    """

    def __init__(self, progress: Callable[[int, int], None] | None, runs: int) -> None:
        self.progress = progress
        self.runs = runs
        self.done = self.skipped = 0

    def __call__(self, i: int, n: int, sigma_next: float, state: object) -> None:
        """Count a step of a run of ``n``."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done + self.skipped * n, n * self.runs)

    def skip(self, runs: int) -> None:
        """Count whole runs that were done earlier."""
        self.skipped += runs


def _all_items(state: _Run, step: _Steps, parts: Parts | None) -> _Items:
    """The results of all items; slabs that are kept from an earlier run are not computed again."""
    problem, made, batches = state.problem, _Items(), state.batches()
    parts = parts if problem.n_items > 1 and len(problem.image_shape) == 4 else None  # only slabs
    problem.prepare(state.device)
    for index, items in enumerate(batches):
        kept = None if parts is None else parts.load(index)
        stored = None if kept is None else Part.from_bytes(kept)
        if stored is not None:
            step.skip(state.runs // len(batches))
            state.levels = {**stored.levels, **state.levels}
            made.extend(_Items.of(stored))
        else:
            began, before, one = time.perf_counter(), state.evaluations, _Items()
            problem.check_source()
            one.add(state, items, state.draw(items, step))
            if parts is not None:
                seconds = time.perf_counter() - began
                parts.save(index, one.part(state.evaluations - before, seconds, state.levels).to_bytes())
            made.extend(one)
        problem.release(items)
    return made


class _Weighted(NamedTuple):
    """Weights of the particles of an item, without their images.

    Args:
        particles: particles of one item.
        weights: weights of the particles for every slice of the item, ``(P, slices)``.
        chosen: indices of the particles that are the samples, ``(samples, slices)``.
        has_signal: whether the item has data other than 0.
    """

    particles: Particles
    weights: Tensor
    chosen: Tensor
    has_signal: bool

    @staticmethod
    def of(drawn: _Drawn, slices: int) -> list[_Weighted]:
        """The weights of an item with a number of slices; empty for a solver without particles."""
        if drawn.particles is None or drawn.chosen is None:
            return []
        each = drawn.particles.log_weights[0].exp(), drawn.chosen
        weights, chosen = (values.cpu()[:, None].expand(-1, slices) for values in each)
        has_signal = bool((drawn.scaled.image_scale > 0).any())
        return [_Weighted(drawn.particles._replace(x=drawn.x[:0]), weights, chosen, has_signal)]


def _particle_warnings(weighted: Sequence[_Weighted], numbers: Sequence[int]) -> list[str]:
    """Warnings about degenerated particles; the image of an empty item is empty, whatever its particles."""
    both = zip(numbers, weighted, strict=False)
    return particle_warnings([(number, one.particles) for number, one in both if one.has_signal], len(weighted))


def _mean_and_samples(images: Tensor, weighted: Sequence[_Weighted]) -> tuple[Tensor, Tensor]:
    """Mean ``(slices, ...)`` and samples of images ``(samples, slices, ...)``, or of weighted particles ``(P, slices, ...)``."""
    if not weighted:
        return images.mean(0), images
    weights, chosen = (torch.cat(each, dim=1) for each in ([o.weights for o in weighted], [o.chosen for o in weighted]))
    shape = [*weights.shape, *[1] * (images.ndim - 2)]
    return (weights.view(shape) * images).sum(0), images[chosen, torch.arange(images.shape[1])]


def _reconstruction(
    problem: Problem,
    images: Tensor,
    weighted: Sequence[_Weighted],
    unmeasured: Sequence[NullSpace],
    facts: Mapping[str, Any],
) -> Reconstruction:
    """Images to show of ``(samples, slices, y, x)``, or of ``(samples, slices, frames, y, x)``."""
    values = _values(problem, images)
    if not values.isfinite().all():
        raise InputError(
            f"{problem.name}: the reconstruction diverged (NaN or Inf); change the settings of solver "
            f"{facts['solver']['name']!r}, or choose another"
        )
    image, samples = _mean_and_samples(values, weighted)
    phase = None if problem.real else _mean_and_samples(images, weighted)[0].angle()
    if images.ndim == 5:
        image, samples, phase = (
            image.movedim(1, 0),
            samples.movedim(2, 1),
            None if phase is None else phase.movedim(1, 0),
        )
    return Reconstruction(
        image=image.float().numpy(),
        samples=samples.numpy() if len(samples) > 1 else None,
        record=facts,
        phase=None if phase is None else phase.float().numpy(),
        geometry=problem.geometry,
        modality=problem.modality,
        uncertainty=_uncertainty(problem, images, weighted, unmeasured, facts["solver"]["calibrated"])
        if unmeasured
        else None,
    )


def _values(problem: Problem, images: Tensor) -> Tensor:
    """Magnitudes, or HU, float32."""
    return (images if problem.real else images.abs()).float()


def _uncertainty(
    problem: Problem, images: Tensor, weighted: Sequence[_Weighted], unmeasured: Sequence[NullSpace], calibrated: bool
) -> Uncertainty:
    """Maps of images ``(samples, slices, y, x)`` or ``(samples, slices, frames, y, x)``, or of weighted particles."""
    weights = torch.cat([one.weights for one in weighted], dim=1) if weighted else None
    each = []
    for i, values in enumerate(_values(problem, images).unbind(1)):  # slice by slice: sorting takes memory
        one = None if weights is None else weights[:, i].view(-1, *[1] * (values.ndim - 1))
        each.append(torch.stack(pixel_statistics(values, one)))
    parts = [torch.cat([getattr(one, name) for one in unmeasured]) for name in ("null", "spread", "flags")]
    maps = [*torch.stack(each, dim=1), *parts]
    names = ("spread", "p05", "p95", "null", "null_spread", "flags")
    if images.ndim == 5:
        maps = [one.movedim(1, 0) for one in maps]
    arrays = {
        name: one.numpy().astype(np.uint8 if name == "flags" else np.float32)
        for name, one in zip(names, maps, strict=True)
    }
    return Uncertainty(**arrays, calibrated=calibrated)
