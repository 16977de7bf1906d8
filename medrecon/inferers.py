"""MONAI inferers: how a network or a solver is called inside MONAI's engines."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medrecon.data.errors import InputError
from medrecon.likelihood import Gaussian
from medrecon.noise import karras
from medrecon.operators.bridge import AsComplex
from medrecon.operators.linalg import dot
from medrecon.operators.mri import sense
from medrecon.priors.base import Counted
from medrecon.priors.nets import EDMNet
from medrecon.sample import draw
from medrecon.solvers import SOLVERS
from medrecon.solvers.base import Solver

__all__ = ["AutocastInferer", "DenoisingInferer", "PosteriorInferer", "fast_dtype", "make_solver"]


def fast_dtype(device: torch.device | str) -> torch.dtype | None:
    """The autocast type that makes networks faster on ``device``: bfloat16 where the hardware has it, else ``None``."""
    if torch.device(device).type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return torch.bfloat16


class AutocastInferer(Inferer):
    """Call the network in ``dtype`` with channels-last tensors, on any device, and return float32.

    MONAI's engines know autocast for CUDA only, but CPUs with bfloat16 units gain from it as well.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """``network(inputs, *args)`` under autocast; ``kwargs`` is MONAI's and stays unused."""
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, dtype=self.dtype):
            return network(inputs, *args).float()


class DenoisingInferer(Inferer):
    """Call the network as the denoiser that it is inside a prior, to validate it.

    Args:
        sigma_data: what the network is trained with.
        multiple: sides are padded to a multiple of it.
        dtype: autocast type of the network.
    """

    def __init__(self, sigma_data: float, multiple: int = 8, dtype: torch.dtype | None = torch.bfloat16) -> None:
        self.sigma_data = sigma_data
        self.multiple = multiple
        self.dtype = dtype

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The clean estimate of ``inputs`` at the noise level ``args[0]``; ``kwargs`` is MONAI's and stays unused."""
        return EDMNet(network, self.sigma_data, self.multiple, self.dtype)(inputs, args[0])


def make_solver(name: str, settings: Mapping[str, Any] | None = None) -> Solver:
    """The solver ``name`` of ``SOLVERS`` with some hyper-parameters changed.

    Raises:
        InputError: for an unknown solver (naming the nearest) or setting (naming those that exist), or a bad value.
    """
    if name not in SOLVERS:
        near = get_close_matches(name, SOLVERS, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown solver {name!r}; did you mean {near!r}? ('medrecon solvers' lists all)")
    known = {f.name: f for f in fields(SOLVERS[name])}
    for key, value in (settings or {}).items():
        if key not in known:
            raise InputError(f"solver {name!r} has no setting {key!r}; it has {', '.join(known) or 'none'}")
        kind = str(known[key].type)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": numeric,
            "float | None": numeric or value is None,
            "bool": isinstance(value, bool),
        }.get(kind, isinstance(value, str))
        if not fits:
            raise InputError(f"setting {key!r} of solver {name!r} must be {kind}; got {value!r}")
    try:
        return SOLVERS[name](**(settings or {}))
    except ValueError as error:
        raise InputError(str(error)) from error


class PosteriorInferer(Inferer):
    """Reconstruct k-space slice by slice: posterior samples with the network as prior, or a classical estimate.

    Every slice is divided by the 99th percentile of its own zero-filled magnitude, so that the prior sees images of
    unit scale, and multiplied back. A sample depends on (seed, slice, sample) alone.

    Args:
        solver: a name of ``medrecon.solvers.SOLVERS``.
        settings: hyper-parameters of the solver that differ from its defaults.
        n_steps: network evaluations per sample (solvers without a prior take one step).
        sigma_max: first noise level; 1 is the scale of the image.
        sigma_min: last noise level before 0.
        samples: posterior samples per slice.
        seed: of all random numbers.
        sigma_data: what the network was trained with.
        multiple: sides are padded to a multiple of it for the network.
        dtype: autocast type of the network; ``None`` for the type of its weights.
        chunk: slices or samples that run as one batch; default 1 on a CPU, 8 elsewhere.
        progress: called with (steps done, steps in all) after every step.
    """

    def __init__(
        self,
        solver: str = "dds",
        settings: Mapping[str, Any] | None = None,
        n_steps: int = 50,
        sigma_max: float = 8.0,
        sigma_min: float = 0.005,
        samples: int = 1,
        seed: int = 0,
        sigma_data: float = 0.25,
        multiple: int = 8,
        dtype: torch.dtype | None = torch.bfloat16,
        chunk: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if n_steps < 1 or samples < 1:
            raise InputError(f"steps and samples must be at least 1; got {n_steps} and {samples}")
        self.name = solver
        self.solver = make_solver(solver, settings)
        self.samples = samples
        self.seed = seed
        self.sigma_data = sigma_data
        self.multiple = multiple
        self.dtype = dtype
        self.chunk = chunk
        self.progress = progress
        learned = self.solver.requires.prior
        if samples > 1 and not learned:
            raise InputError(f"solver {solver!r} has no random samples; ask for 1, or choose a solver with a prior")
        self.sigmas = karras(sigma_max, sigma_min, n_steps) if learned else torch.tensor([1.0, 0.0])

    def _seeds(self, slices: Sequence[int], sample: int) -> list[int]:
        return [zlib.crc32(f"{self.seed}:{index}:{sample}".encode()) for index in slices]

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
            inputs: k-space ``(1, slices, coils, y, x)`` complex, zero where not sampled.
            network: the prior's network; may be ``None`` for a classical solver.
            mask: ``(1, 1 or y, x)`` bool, true where sampled.
            maps: coil sensitivities ``(1, slices, coils, y, x)``, all ones for single-coil data.
            noise_std: of ``inputs``, per real component.
            slices: their indices in the volume, for the seeds; default: from 0.

        Returns:
            images ``(1, samples, slices, y, x)`` complex64, in the scale of the coil-combined input; a ``MetaTensor``
            whose meta holds ``record``, what was done as JSON text.
        """
        if len(inputs) != 1:
            raise ValueError(f"PosteriorInferer takes one volume at a time (batch_size 1); got {len(inputs)}")
        began = time.perf_counter()
        kspace, maps, mask = (torch.as_tensor(t)[0] for t in (inputs, maps, mask))
        if isinstance(kspace, MetaTensor):
            kspace = kspace.as_tensor()
        maps = maps.as_tensor() if isinstance(maps, MetaTensor) else maps
        mask = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
        std = float(torch.as_tensor(noise_std).flatten()[0])
        prior = None if network is None else Counted(EDMNet(network, self.sigma_data, self.multiple, self.dtype))
        numbers = list(range(len(kspace))) if slices is None else [int(index) for index in slices]
        chunk = self.chunk or (1 if kspace.device.type == "cpu" else 8)
        together = chunk if self.samples == 1 else 1
        groups = [range(i, min(i + together, len(kspace))) for i in range(0, len(kspace), together)]
        runs = len(groups) * (-(-self.samples // chunk) if together == 1 else 1)
        done = 0

        def step(i: int, n: int, sigma_next: float, state: object) -> None:
            nonlocal done
            done += 1
            if self.progress is not None:
                self.progress(done, n * runs)

        images, misfit, energy = [], 0.0, 0.0
        for group in groups:
            part = slice(group.start, group.stop)
            data, scale = self._problem(kspace[part], mask[None, None], maps[part], std)
            seeds = [self._seeds([numbers[index] for index in group], sample) for sample in range(self.samples)]
            x = draw(self.solver, prior, data, self.sigmas, seeds=seeds, chunk=chunk, callback=step)
            r = data.residual(x.mean(0)) * scale.view(-1, 1, 1, 1)
            misfit, energy = misfit + float(dot(r, r).sum()), energy + float(dot(kspace[part], kspace[part]).sum())
            # Where no coil sees anything (and in slices without signal) the data say nothing, and neither do we.
            seen = (maps[part] != 0).any(1) * scale.view(-1, 1, 1)
            images.append(AsComplex()(x.flatten(0, 1)).view(self.samples, *seen.shape) * seen)
        record = {
            "solver": {"name": self.name, **asdict(self.solver), "calibrated": self.solver.calibrated},
            "steps": len(self.sigmas) - 1,
            "sigma_max": round(self.sigmas[0].item(), 6),
            "sigma_min": round(self.sigmas[-2].item(), 6),
            "network_dtype": str(self.dtype or torch.float32).removeprefix("torch."),
            "network_evaluations": 0 if prior is None else prior.calls,
            "samples": self.samples,
            "seed": self.seed,
            "slices": numbers,
            "noise_std": std,
            "relative_residual": (misfit / energy) ** 0.5 if energy > 0 else 0.0,
            "seconds": round(time.perf_counter() - began, 3),
            "device": str(kspace.device),
        }
        return MetaTensor(torch.cat(images, dim=1)[None], meta={"record": json.dumps(record)})
