"""MONAI inferers: how a network or a solver is called inside MONAI's engines."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medrecon.data.coils import magnitude_unit
from medrecon.data.errors import InputError, told
from medrecon.data.espirit import holds_signal, trusted_noise
from medrecon.data.sampling import check_scale, sampling_mask
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import Composed
from medrecon.operators.bridge import AsComplex
from medrecon.operators.ct import ParallelBeam, Projector
from medrecon.operators.linalg import dot, operator_norm
from medrecon.operators.mri import sense
from medrecon.operators.weights import Weights
from medrecon.priors.base import Counted, Prior
from medrecon.priors.combine import channelwise, equivariant, guided
from medrecon.priors.nets import Labelled
from medrecon.sample import draw, sample
from medrecon.solvers import SOLVERS, is_unconditional
from medrecon.solvers.base import Solver
from medrecon.solvers.classical import ZeroFilled
from medrecon.training.objectives import EDM, Objective

__all__ = [
    "AutocastInferer",
    "DenoisingInferer",
    "PosteriorInferer",
    "SliceInferer",
    "TomographyInferer",
    "as_number",
    "fast_dtype",
    "find_solver",
    "make_solver",
]


def fast_dtype(device: torch.device | str) -> torch.dtype | None:
    """The autocast type that makes networks faster on ``device``: bfloat16 where the hardware has it, else ``None``."""
    kind = torch.device(device).type
    if kind == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = kind == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if supported else None


class AutocastInferer(Inferer):
    """Call the network under autocast with channels-last tensors, on any device, and return float32.

    MONAI's engines know autocast for CUDA only, but CPUs with bfloat16 units gain from it as well.

    Args:
        dtype: autocast type; ``"auto"`` is :func:`fast_dtype` of the device, ``None`` no autocast.
    """

    def __init__(self, dtype: torch.dtype | Literal["auto"] | None = "auto") -> None:
        self.dtype = dtype

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """``network(inputs, *args, **kwargs)``."""
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        dtype = fast_dtype(inputs.device) if self.dtype == "auto" else self.dtype
        with torch.autocast(inputs.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return network(inputs, *args, **kwargs).float()


class DenoisingInferer(Inferer):
    """Call the network as the denoiser that it is inside a prior, to validate it.

    Args:
        objective: what the network is trained for.
        multiple: sides are padded to a multiple of it.
    """

    def __init__(self, objective: Objective, multiple: int = 16) -> None:
        self.objective = objective
        self.multiple = multiple

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The clean estimate of ``inputs`` at the noise level ``args[0]``; ``kwargs`` is MONAI's and stays unused."""
        return self.objective.prior(network, self.multiple, fast_dtype(inputs.device))(inputs, args[0])


def find_solver(name: object) -> type[Solver]:
    """The class of a solver by its name in ``SOLVERS``.

    Raises:
        InputError: for an unknown name, naming the nearest, or one that takes no data.
    """
    if not isinstance(name, str) or name not in SOLVERS:
        usable = [key for key, solver in SOLVERS.items() if not is_unconditional(solver)]
        near = get_close_matches(str(name)[:100], usable, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown solver {_short(name)}; did you mean {near!r}? ('medrecon solvers' lists all)")
    if is_unconditional(SOLVERS[name]):
        raise InputError(f"solver {name!r} draws images of the prior alone; choose one that takes data, such as 'dds'")
    return SOLVERS[name]


def _fits(value: object, kind: str) -> bool:
    """Whether a value is of the type that a setting is annotated with."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    numeric = whole or isinstance(value, float)
    return {
        "int": whole,
        "float": numeric,
        "float | None": numeric or value is None,
        "bool": isinstance(value, bool),
    }.get(kind, isinstance(value, str))


def make_solver(name: str, settings: Mapping[str, Any] | None = None) -> Solver:
    """The solver ``name`` of ``SOLVERS`` with some hyper-parameters changed.

    Raises:
        InputError: for an unknown solver or setting (naming the nearest), or a bad value.
    """
    solver = find_solver(name)
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(
            f"settings of solver {name!r} are names and values, such as {{'gamma': 5.0}}; got {_short(settings)}"
        )
    known = {f.name: f for f in fields(solver) if "Operator" not in str(f.type)}
    for key, value in (settings or {}).items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"solver {name!r} has no setting {key!r}; it has {', '.join(known) or 'none'}{hint}")
        kind = str(known[key].type)
        if not _fits(value, kind):
            raise InputError(f"setting {key!r} of solver {name!r} must be {kind}; got {_short(value)}")
    try:
        return solver(**(settings or {}))
    except (ValueError, OverflowError, TypeError) as error:
        raise InputError(f"solver {name!r}: {told(error)}") from error


def _short(value: object) -> str:
    """A value in a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, values that hold themselves
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}; got {_short(value)}")


def as_number(name: str, value: object, positive: bool = False) -> float:
    """A number that single precision can hold and that is not negative (or, with ``positive``, not 0 either).

    Raises:
        InputError: for anything else, naming the argument.
    """
    value = value.item() if isinstance(value, np.ndarray | Tensor) and value.ndim == 0 else value
    fits = isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= float(np.finfo(np.float32).max)
    if not fits or (positive and not value):
        kind = "above 0" if positive else "not negative"
        raise InputError(f"{name} must be a number that is finite (at most 3.4e38) and {kind}; got {_short(value)}")
    return float(value)  # type: ignore[arg-type]


def _check_symmetries(symmetries: Mapping[str, Any]) -> None:
    """Refuse other arguments than those of :func:`medrecon.priors.equivariant`."""
    wrong = set(symmetries) - {"flip", "shift", "phase"}
    if wrong:
        raise InputError(f"symmetries are flip, shift and phase; got {', '.join(map(_short, wrong))}")
    flip = symmetries.get("flip", ())
    if not isinstance(flip, list | tuple) or any(axis not in (-2, -1, 2, 3) for axis in flip):
        raise InputError(f"flip of symmetries is a list of the axes -2 and -1; got {_short(flip)}")
    _check_count("shift of symmetries", symmetries.get("shift", 0), 0, 1_000_000)


class SliceInferer(Inferer):
    """Posterior samples (or a classical estimate) slice by slice: what MRI and CT share.

    A sample depends on (seed, slice, sample) alone.

    Args:
        solver: a name of ``medrecon.solvers.SOLVERS``.
        settings: hyper-parameters of the solver that differ from ``tuned`` and its defaults.
        tuned: what suits the prior, by the solver's name: hyper-parameters that differ from the solver's defaults, and
            ``sigma_max``.
        n_steps: evaluations of the prior per sample (guided or channel by channel, each is two of the network); a method
            with several a step takes fewer steps, one without a prior takes one.
        sigma_max: first noise level; 1 is the scale of the image. Default: that of ``tuned``, or 8.
        sigma_min: last noise level before 0.
        samples: posterior samples per slice.
        seed: of all random numbers.
        objective: what the network was trained for.
        multiple: sides are padded to a multiple of it for the network.
        dtype: autocast type of the network; ``None`` for the type of its weights.
        condition: one of ``labels``, told to the network; ``None`` for the unconditional prior.
        guidance: scale of the condition: 1 follows it, more exaggerates it (two evaluations a step), 0 ignores it.
        labels: what the network's class labels mean, in their order.
        by_channel: the network takes one channel: real and imaginary parts go through it one by one (Score-MRI).
        symmetries: of what the network was trained on, arguments of :func:`medrecon.priors.equivariant`; empty: none.
        chunk: slices or samples that run as one batch; default 1 on a CPU, 8 elsewhere.
        start: a solver without a prior, from whose estimate the run starts (CCDF); default: pure noise.
        start_sigma: the noise level that the estimate is given, and the first of the ladder.
        progress: called with (steps done, steps in all) after every step.
    """

    def __init__(
        self,
        solver: str = "dds",
        settings: Mapping[str, Any] | None = None,
        tuned: Mapping[str, Mapping[str, Any]] | None = None,
        n_steps: int = 50,
        sigma_max: float | None = None,
        sigma_min: float = 0.005,
        samples: int = 1,
        seed: int = 0,
        objective: Objective = EDM(),  # noqa: B008 - frozen
        multiple: int = 16,
        dtype: torch.dtype | None = torch.bfloat16,
        condition: str | None = None,
        guidance: float = 1.0,
        labels: Sequence[str] = (),
        by_channel: bool = False,
        symmetries: Mapping[str, Any] | None = None,
        chunk: int | None = None,
        start: str | None = None,
        start_sigma: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        _check_count("n_steps", n_steps, 1, 1_000_000)
        _check_count("samples", samples, 1, 1_000_000)
        _check_count("seed", seed, 0, 2**63 - 1)
        as_number("guidance", guidance)
        for name, level in (("sigma_max", sigma_max), ("sigma_min", sigma_min), ("start_sigma", start_sigma)):
            if level is not None:
                as_number(name, level, positive=True)
        find_solver(solver)
        self.name = solver
        suited = dict((tuned or {}).get(solver, {}))
        first = suited.pop("sigma_max", 8.0)
        sigma_max = first if sigma_max is None else sigma_max
        make_solver(solver, settings)  # names the setting as it was given
        self.solver = make_solver(solver, suited | dict(settings or {}))
        self.samples = samples
        self.seed = seed
        self.objective = objective
        self.multiple = multiple
        self.dtype = dtype
        known = [label for label in labels if label]
        if condition and condition not in known:
            near = get_close_matches(str(condition), known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            held = ", ".join(known) or "none"
            raise InputError(f"this prior takes the conditions {held}; got {_short(condition)}{hint}")
        self.condition = condition or None
        self.guidance = guidance
        self.label = list(labels).index(condition) if condition else None
        self.by_channel = by_channel
        self.symmetries = dict(symmetries or {})
        _check_symmetries(self.symmetries)
        _check_count("multiple", multiple, 1, 1_000_000)
        self.chunk = chunk
        self.progress = progress
        learned = self.solver.requires.prior
        if samples > 1 and not learned:
            raise InputError(f"solver {solver!r} has no random samples; ask for 1, or choose a solver with a prior")
        classical = {k: v for k, v in (tuned or {}).get(start or "", {}).items() if k != "sigma_max"}
        self.start = make_solver(start, classical) if start else None
        if (start is None) != (start_sigma is None):
            raise InputError("start and start_sigma belong together: an estimate, and the noise level it is given")
        if self.start is not None and start_sigma is not None:
            if not self.solver.takes_start:
                raise InputError(f"solver {solver!r} begins with an estimate of its own; leave start out")
            if not learned or self.start.requires.prior:
                raise InputError(f"a run with a prior starts from a solver without one; got {solver!r} from {start!r}")
            if not start_sigma > sigma_min:
                raise InputError(f"start_sigma must be above the last level, {sigma_min}; got {start_sigma}")
            sigma_max = start_sigma
        self.start_name = start
        self.sigmas = self.solver.ladder(sigma_max, sigma_min, n_steps) if learned else torch.tensor([1.0, 0.0])

    def prior(self, network: nn.Module) -> Prior:
        """The network as a prior of complex images: wrapped, told its condition, guided, under its symmetries."""
        prior: Prior = self.objective.prior(network, self.multiple, self.dtype)
        if self.label is not None:
            told = self.objective.prior(Labelled(network, self.label), self.multiple, self.dtype)
            prior = guided(told, prior, self.guidance)
        prior = channelwise(prior) if self.by_channel else prior
        return equivariant(prior, **self.symmetries) if self.symmetries else prior

    @property
    def evaluations(self) -> int:
        """Network evaluations for one clean estimate of one image."""
        return (2 if self.label is not None and self.guidance not in (0, 1) else 1) * (2 if self.by_channel else 1)

    def _seeds(self, slices: Sequence[int], sample: int) -> list[int]:
        return [zlib.crc32(f"{self.seed}:{index}:{sample}".encode()) for index in slices]

    def _run(
        self,
        network: nn.Module | None,
        numbers: Sequence[int],
        device: torch.device,
        problem: Callable[[slice], tuple[Gaussian, Tensor]],
        finish: Callable[[slice, Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, dict[str, Any], list[Fit]]:
        """Draw every slice.

        Args:
            network: of the prior, or ``None``.
            numbers: indices of the slices in their volume, for the seeds.
            device: of the data.
            problem: the likelihood of some slices at unit scale, and the scale of each, ``(B,)``.
            finish: from samples ``(samples * B, C, y, x)`` of some slices, and the scale of these, to images
                ``(samples, B, y, x)``.

        Returns:
            images ``(samples, slices, y, x)``, what was done, and how well every slice fits its data.
        """
        began = time.perf_counter()
        prior = None if network is None else Counted(self.prior(network))
        chunk = self.chunk or (1 if device.type == "cpu" else 8)
        together = chunk if self.samples == 1 else 1
        groups = [range(i, min(i + together, len(numbers))) for i in range(0, len(numbers), together)]
        runs = len(groups) * (-(-self.samples // chunk) if together == 1 else 1)
        done = 0

        def step(i: int, n: int, sigma_next: float, state: object) -> None:
            nonlocal done
            done += 1
            if self.progress is not None:
                self.progress(done, n * runs)

        images, fits, misfit, energy, over_noise, measured = [], [], 0.0, 0.0, 0.0, 0
        for group in groups:
            part = slice(group.start, group.stop)
            data, scale = problem(part)
            try:
                self.solver.check(data)
                if self.start is not None:
                    self.start.check(data)
            except TypeError as error:
                raise InputError(str(error)) from error
            seeds = [self._seeds([numbers[index] for index in group], sample) for sample in range(self.samples)]
            first = None
            if self.start is not None:
                first = sample(self.start, None, data, torch.tensor([1.0, 0.0]), noise=Noise([0] * len(group)))
            x = draw(self.solver, prior, data, self.sigmas, seeds=seeds, chunk=chunk, start=first, callback=step)
            r = data.residual(x.mean(0))
            misfit += float((dot(r, r) * scale**2).sum())
            energy += float((dot(data.y, data.y) * scale**2).sum())
            std = torch.as_tensor(data.noise_std).to(x).expand(len(r))
            seen = torch.where(data.y != 0, r, 0.0)
            over_noise += float((dot(seen, seen) / std**2).sum()) if bool((std > 0).all()) else math.inf
            measured += int(data.measured.sum())
            fits += [
                Fit(float(a), float(b), int(n))
                for a, b, n in zip(
                    dot(seen, seen) * scale**2, dot(data.y, data.y) * scale**2, data.measured, strict=True
                )
            ]
            images.append(finish(part, x.flatten(0, 1), scale))
        # A start that is not noise has no spread of its own.
        calibrated = self.start is None and self.solver.calibrated(self.sigmas)
        record = {
            "solver": {"name": self.name, **asdict(self.solver), "calibrated": calibrated},
            "steps": int((self.sigmas.diff() <= 0).sum()),  # of those that rise none costs an evaluation
            "start": self.start_name,
            "sigma_max": round(self.sigmas[0].item(), 6),
            "sigma_min": round(self.sigmas[-2].item(), 6),
            "network_dtype": str(self.dtype or torch.float32).removeprefix("torch."),
            "condition": self.condition,
            "guidance": self.guidance if self.condition else None,
            "symmetries": self.symmetries,
            "network_evaluations": 0 if prior is None else prior.calls * self.evaluations,
            "samples": self.samples,
            "seed": self.seed,
            "slices": list(numbers),
            "relative_residual": (misfit / energy) ** 0.5 if energy > 0 else 0.0,
            # 1: as far off as the noise. Unknown without noise, and for what does not weigh the data by it.
            "residual_over_noise": (over_noise / measured) ** 0.5
            if measured and math.isfinite(over_noise) and not issubclass(self.solver.requires.operator, Projector)
            else None,
            "warnings": [],
            "seconds": round(time.perf_counter() - began, 3),
            "device": str(device),
        }
        return torch.cat(images, dim=1), record, fits


class Fit(NamedTuple):
    """How well an image explains the data of its slice: squared norms of the residual and of the data, and real samples."""

    misfit: float
    energy: float
    n: int

    def unexplained(self, noise_std: float, limit: float) -> bool:
        """Whether the residual is over 1.5 times the noise, and what exceeds the noise over a share ``limit`` of the signal."""
        noise = noise_std**2 * self.n
        signal = self.energy - noise
        return self.misfit > 1.5**2 * noise and signal > 0 and self.misfit - noise > limit**2 * signal


class PosteriorInferer(SliceInferer):
    """Reconstruct k-space slice by slice: posterior samples with the network as prior, or a classical estimate.

    Every slice is divided by the 99th percentile of its own zero-filled magnitude, so that the prior sees images of
    unit scale, and multiplied back.

    Args:
        **shared: those of :class:`SliceInferer`.
    """

    def __init__(self, **shared: Any) -> None:  # noqa: ANN401
        super().__init__(**shared)
        if issubclass(self.solver.requires.operator, Projector):
            raise InputError(f"solver {self.name!r} reconstructs sinograms, not k-space; choose cg-sense or another")

    def _problem(self, kspace: Tensor, mask: Tensor, maps: Tensor, noise_std: float) -> tuple[Gaussian, Tensor]:
        """The likelihood of some slices at unit scale, and the scale of each, ``(B,)``."""
        single = maps.shape[1] == 1 and bool((maps == 1).all())
        A = sense(None if single else maps, mask, tuple(maps.shape[2:]))
        zero_filled = A.adjoint(kspace).norm(dim=1).flatten(1)
        scale = torch.quantile(zero_filled, 0.99, dim=1)
        # A slice of mostly background has its 99th percentile at 0.
        scale = torch.where(scale > 0, scale, zero_filled.amax(1))
        unit = torch.where(scale > 0, scale, 1.0)
        return Gaussian(A, kspace / unit.view(-1, 1, 1, 1), noise_std / unit), scale

    def _doubts(
        self, numbers: Sequence[int], fits: Sequence[Fit], std: float, believed: float, unit: float, compared: bool
    ) -> list[str]:
        """Warnings on images that do not explain their data, and on a noise level that is not that of the data.

        ``compared`` leaves the latter out.
        """
        texts = []
        if not compared and believed > 0 and std > 3 * believed:
            texts.append(
                f"the noise level {std:.3g} is {std / believed:.3g} times what the outermost k-space shows ({believed:.3g}), so "
                f"{'the image may be too smooth' if self.solver.requires.prior else 'residual_over_noise is too small'}; check "
                "the noise level"
            )
        # On real heads at accelerations of 4 to 8 it was below 0.13, or 0.2 where nothing is fitted; with empty maps it is 0.9.
        limit = 0.5 if isinstance(self.solver, ZeroFilled) else 0.15
        off = [fit.unexplained(believed / unit, limit) for fit in fits]
        if any(off):
            where = ", ".join(str(number) for number, one in zip(numbers, off, strict=True) if one)
            share = max((f.misfit / f.energy) ** 0.5 for f, one in zip(fits, off, strict=True) if one)
            texts.append(
                f"the image does not explain the data: {share:.0%} of k-space is left over, far more than noise (slice "
                f"{where}); check coil maps, mask and settings"
            )
        return texts

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: nn.Module | None,
        mask: Tensor,
        maps: Tensor,
        noise_std: float | Tensor,
        slices: Sequence[int] | None = None,
    ) -> Tensor:
        """Reconstruct one volume.

        Args:
            inputs: k-space ``(1, slices, coils, y, x)`` complex, zero where not sampled. The noise level is compared with it,
                unless its meta say that ``noise_source`` is a noise scan, which was compared when the file was read.
            network: the prior's network; may be ``None`` for a classical solver.
            mask: ``(1, 1 or y, x)`` bool, true where sampled; checked against ``inputs``.
            maps: coil sensitivities ``(1, slices, coils, y, x)``, all ones for single-coil data.
            noise_std: of ``inputs``, per real component.
            slices: their indices in the volume, for the seeds; default: from 0.

        Returns:
            images ``(1, samples, slices, y, x)`` complex64, in the scale of the coil-combined input; a ``MetaTensor``
            whose meta holds ``record``, what was done as JSON text.
        """
        if len(inputs) != 1:
            raise ValueError(f"PosteriorInferer takes one volume at a time (batch_size 1); got {len(inputs)}")
        # Collating makes a list of it.
        source = inputs.meta.get("noise_source") if isinstance(inputs, MetaTensor) else None
        compared = source in ("noise scan", ["noise scan"])
        kspace, maps, mask = (_plain(t)[0] for t in (inputs, maps, mask))
        array = kspace.cpu().numpy()
        check_scale(array, "k-space")
        sampling = np.atleast_2d(sampling_mask(array, mask.cpu().numpy()))
        array, mask = array * sampling, torch.from_numpy(sampling).to(kspace.device)
        unit = magnitude_unit(array)  # squares of very large or small numbers are no numbers
        kspace = kspace * mask * (1 / unit)
        # Single precision on every way: collating makes it a float32 tensor or leaves a Python float.
        given = noise_std.flatten()[0] if isinstance(noise_std, Tensor) else noise_std
        std = float(np.float32(as_number("noise_std", given)))
        numbers = list(range(len(kspace))) if slices is None else [int(index) for index in slices]

        def problem(part: slice) -> tuple[Gaussian, Tensor]:
            return self._problem(kspace[part], mask[None, None], maps[part], std / unit)

        def finish(part: slice, x: Tensor, scale: Tensor) -> Tensor:
            # Where no coil sees anything (and in slices without signal) the data say nothing, and neither do we.
            seen = (maps[part] != 0).any(1) * scale.view(-1, 1, 1) * unit
            return AsComplex()(x).view(self.samples, *seen.shape) * seen

        images, record, fits = self._run(network, numbers, kspace.device, problem, finish)
        record["noise_std"] = std
        believed = trusted_noise(std, array, sampling)
        for number, k, image in zip(numbers, array, images.movedim(1, 0), strict=True):
            if not image.any() and holds_signal(k, believed):
                raise InputError(
                    f"the image of slice {number} is empty though its k-space holds signal; give other coil maps, or a noise "
                    "level that fits the data"
                )
        record["warnings"] += self._doubts(numbers, fits, std, believed, unit, compared)
        record["warnings"] += _lost(array, sampling, images, numbers)
        return MetaTensor(images[None], meta={"record": json.dumps(record)})


class TomographyInferer(SliceInferer):
    """Reconstruct parallel-beam sinograms slice by slice, in Hounsfield units.

    Image unit 1 is water, so no scale has to be guessed. Rays are weighted by their counts where the number of photons is
    known, and the operator is divided by its norm, so that settings mean what they mean in MRI.

    Args:
        side: pixels of the square images.
        spacing: side of a pixel in mm; default: the image is as wide as the detector, which then sees nothing else.
        water: attenuation of water per mm (0.02 at about 65 keV).
        **shared: those of :class:`SliceInferer`.
    """

    def __init__(
        self,
        side: int = 256,
        spacing: float | None = None,
        water: float = 0.02,
        **shared: Any,  # noqa: ANN401
    ) -> None:
        if side < 1 or not water > 0 or (spacing is not None and not spacing > 0):
            raise InputError(f"side, spacing and water must be positive; got {side}, {spacing} and {water}")
        super().__init__(**shared)
        if "zero-filled" in (self.name, self.start_name):
            raise InputError(
                "a back-projection without filter is no image; choose fbp, sirt, tv or a solver with a prior"
            )
        self.side = side
        self.spacing = spacing
        self.water = water

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: nn.Module | None,
        angles: Tensor,
        pitch: float | Tensor,
        offset: float | Tensor,
        photons: float | Tensor,
        slices: Sequence[int] | None = None,
    ) -> Tensor:
        """Reconstruct one volume.

        Args:
            inputs: line integrals ``(1, slices, views, detectors)``.
            network: the prior's network; may be ``None`` for a classical solver.
            angles: of the views in rad, ``(1, views)``.
            pitch: distance of two detector pixels in mm.
            offset: position of the rotation axis on the detector, from its middle, in pixels.
            photons: emitted per ray; 0 if unknown, then all rays count alike and their noise is estimated.
            slices: their indices in the volume, for the seeds; default: from 0.

        Returns:
            HU ``(1, samples, slices, side, side)`` float32; a ``MetaTensor`` whose meta holds ``record``, what was done
            as JSON text.
        """
        if len(inputs) != 1:
            raise ValueError(f"TomographyInferer takes one volume at a time (batch_size 1); got {len(inputs)}")
        lines = _plain(inputs)[0].float()
        pitch, offset, photons = (float(torch.as_tensor(t).flatten()[0]) for t in (pitch, offset, photons))
        spacing = self.spacing or pitch * lines.shape[-1] / self.side
        project = ParallelBeam(
            _plain(angles)[0].cpu(), (self.side, self.side), lines.shape[-1], spacing * self.water, pitch * self.water,
            offset * pitch * self.water,
        ).to(lines.device)  # fmt: skip
        numbers = list(range(len(lines))) if slices is None else [int(index) for index in slices]

        def problem(part: slice) -> tuple[Gaussian, Tensor]:
            y = lines[part][:, None]
            if issubclass(self.solver.requires.operator, Projector):  # takes all rays alike, whatever their noise
                return Gaussian(project, y, 1.0), torch.ones(len(y), device=y.device)
            # The variance of the log of a count is one over the count.
            root = (photons * (-y).exp()).clamp(min=1).sqrt() if photons > 0 else torch.ones_like(y)
            A = Composed(Weights(root), project)
            start = torch.ones(len(y), 1, self.side, self.side, device=y.device)
            size = operator_norm(A.normal, start, 20).view(-1, 1, 1, 1)
            if not (size > 0).all():
                raise InputError("no ray meets the image; check centre, pitch and spacing")
            std = torch.ones(len(y), device=y.device) if photons > 0 else _white_noise(y)
            unit = Composed(Weights(root / size), project)
            return Gaussian(unit, root * y / size, std / size.flatten()), size.flatten()

        def finish(part: slice, x: Tensor, scale: Tensor) -> Tensor:
            return 1000 * (x.view(self.samples, -1, self.side, self.side) - 1)

        images, record, _ = self._run(network, numbers, lines.device, problem, finish)
        if not images.isfinite().all():
            raise InputError("the reconstruction diverged; choose other settings or another solver")
        record |= {"views": lines.shape[1], "detectors": lines.shape[2], "pitch_mm": pitch, "offset_pixels": offset,
                   "photons": photons or None, "spacing_mm": spacing, "water_per_mm": self.water}  # fmt: skip
        return MetaTensor(images[None], meta={"record": json.dumps(record)})


def _lost(kspace: np.ndarray, sampling: np.ndarray, images: Tensor, numbers: Sequence[int]) -> list[str]:
    """Sentences on what images lack because it was not measured: contrast, or whole slices.

    Args:
        kspace: ``(slices, coils, y, x)``.
        sampling: ``(1 or y, x)`` bool.
        images: ``(samples, slices, y, x)``.
        numbers: of the slices.
    """
    texts = []
    middle = tuple(slice(max(n // 2 - 1, 0), n // 2 + 2) for n in kspace.shape[-2:])
    if not np.broadcast_to(sampling, kspace.shape[-2:])[middle].any():
        texts.append("the centre of k-space was not measured, so the contrast of large areas is lost; check the mask")
    each = zip(numbers, kspace, images.movedim(1, 0), strict=True)
    empty = ", ".join(str(number) for number, k, image in each if k.any() and not image.any())
    if not images.any():
        texts.append("k-space holds no signal above its noise, so the image is empty; check the input")
    elif empty:
        texts.append(
            f"k-space of slice {empty} holds no signal above its noise, so its image is empty; check the input"
        )
    return texts


def _plain(x: Tensor) -> Tensor:
    x = torch.as_tensor(x)
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _white_noise(y: Tensor) -> Tensor:
    """Standard deviation of the noise of every sinogram: second differences along the detector see little else.

    Rays through air, which some scanners set to exactly 0, say nothing.
    """
    out = []
    for lines in y.flatten(1, 2):
        three = lines.unfold(-1, 3, 1)
        three = three[(three > 0).all(-1)]
        second = three[:, 0] - 2 * three[:, 1] + three[:, 2]
        std = second.abs().median() / (0.6745 * 6**0.5) if second.numel() else lines.new_zeros(())
        out.append(torch.maximum(std, 1e-4 * lines.abs().amax()))
    return torch.stack(out).clamp(min=1e-12)
