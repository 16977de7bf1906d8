"""Handlers for MONAI's trainers of priors: moving averages, schedules, checkpoints, sheets of samples."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from ignite.metrics import Metric
from monai.engines.utils import IterationEvents
from monai.handlers import IgniteMetricHandler
from monai.metrics import PSNRMetric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medrecon.data.errors import InputError
from medrecon.data.files import write_atomically
from medrecon.inferers import fast_dtype
from medrecon.noise import karras
from medrecon.priors.combine import multiscale
from medrecon.report.montage import sheet
from medrecon.sample import generate
from medrecon.solvers.ddim import DDIM
from medrecon.training.objectives import Objective

__all__ = [
    "GradientClip",
    "KeepBest",
    "MovingAverage",
    "Purpose",
    "SampleSheet",
    "SheetSettings",
    "WarmupCosine",
    "averaged",
    "checkpoint",
    "denoising_metrics",
    "installed",
    "start_from",
    "tensorboard",
]


def averaged(network: nn.Module, decay: float = 0.9995) -> AveragedModel:
    """A copy of ``network`` for an exponential moving average, whose decay ramps up so that early averages follow quickly."""

    def update(average: Sequence[Tensor], current: Sequence[Tensor], n: int | Tensor) -> None:
        current_decay = min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(list(average), list(current), 1 - current_decay)

    return AveragedModel(network, multi_avg_fn=update)


class MovingAverage:
    """Update ``average`` from ``network`` after every iteration."""

    def __init__(self, average: AveragedModel, network: nn.Module) -> None:
        self.average = average
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register on ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Update the average."""
        self.average.update_parameters(self.network)


class WarmupCosine:
    """Linear warm-up, then cosine decay to ``floor * peak``, as a function of the engine's iteration only.

    There is no state, so a resumed run continues the schedule, and the length of the run may change on resuming.

    Args:
        optimizer: optimizer whose learning rate is set.
        peak: highest learning rate.
        total: number of iterations of the whole run.
        warmup: number of iterations of the warm-up.
        floor: last learning rate as a fraction of ``peak``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, peak: float, total: int, warmup: int = 200, floor: float = 0.02
    ) -> None:
        self.optimizer = optimizer
        self.peak = peak
        self.total = total
        self.warmup = warmup
        self.floor = floor

    def attach(self, engine: Engine) -> None:
        """Register on ``engine``."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def rate(self, iteration: int) -> float:
        """Learning rate at ``iteration`` (counted from 1)."""
        done = min(1.0, iteration / self.total)
        decay = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * min(1.0, iteration / self.warmup) * decay

    def __call__(self, engine: Engine) -> None:
        """Set the learning rate of every parameter group."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(engine.state.iteration)


class GradientClip:
    """Scale the gradient of ``network`` to a norm of at most ``max_norm`` between backward pass and optimiser step."""

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register on ``engine``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip the gradient."""
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


def start_from(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Load those weights of a file that match ``network`` in name and shape; the others stay as initialised.

    For fine-tuning, and to start a new prior from the inner layers of another. ``None`` or ``""`` changes nothing.

    Args:
        network: network, changed in place and returned.
        path: a plain state dict (a bundle's ``model.pt``) or a checkpoint of :func:`checkpoint`, whose average is used.

    Raises:
        InputError: if the file is missing, is not a state dict, or has no matching weights.
    """
    if not path:
        return network
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("average", state)
        state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        raise InputError(
            f"{path}: has no weights to start from ({error}); give a state dict or a checkpoint"
        ) from error
    initial = network.state_dict()
    matching = {key: value for key, value in state.items() if key in initial and initial[key].shape == value.shape}
    if not matching:
        raise InputError(
            f"{path}: none of its weights matches the network; correct network_def, or leave start_from empty"
        )
    logging.getLogger(__name__).info("%s: %d of %d weights loaded", path, len(matching), len(initial))
    network.load_state_dict({**initial, **matching})
    return network


def checkpoint(
    trainer: Engine,
    folder: str | Path,
    state: Mapping[str, Any],
    seed: int = 0,
    max_minutes: float | None = None,
    write: bool = True,
) -> None:
    """Continue ``trainer`` from ``folder/latest.pt`` if that file exists, and write it every epoch and at the end.

    The file is written atomically, so a run that is killed at any moment continues, and ends with the same number of steps as a
    run that is not.

    Args:
        trainer: MONAI trainer.
        folder: folder of the checkpoint.
        state: objects with a ``state_dict`` to save besides the counters of the trainer.
        seed: random seed; torch is seeded with it and the iteration at the start, so a continued run draws new random numbers.
        max_minutes: time limit after which the run ends with a checkpoint, even within an epoch; ``None``: no limit.
        write: whether this process writes; false in all but one process of a distributed run.

    Raises:
        InputError: if the checkpoint is damaged or belongs to another network, naming the file.
    """
    everything = {**state, "trainer": trainer}
    path = Path(folder) / "latest.pt"
    if path.is_file():
        _load_checkpoint(trainer, path, everything)

    def reseed() -> None:
        torch.manual_seed(seed * 1_000_003 + trainer.state.iteration)

    def save() -> None:
        buffer = io.BytesIO()
        torch.save({key: value.state_dict() for key, value in everything.items()}, buffer)
        write_atomically({path: buffer.getvalue()}, overwrite=True)

    trainer.add_event_handler(Events.STARTED, reseed)
    if write:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, save)
        trainer.add_event_handler(Events.COMPLETED, save)
    if max_minutes is not None:
        _stop_after(trainer, max_minutes)


def _load_checkpoint(trainer: Engine, path: Path, everything: Mapping[str, Any]) -> None:
    """Load a checkpoint, and start the trainer at its iteration.

    Raises:
        InputError: if the checkpoint is damaged or belongs to another network, naming the file.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        # Checkpoints of former versions have no purpose.
        absent = {"trainer"} | ({"purpose"} - set(loaded))
        Checkpoint.load_objects({k: v for k, v in everything.items() if k not in absent}, loaded)
        reached = int(loaded["trainer"]["iteration"])
    except (
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be continued ({reason}); move it away to start again") from error

    # Only the position comes from the checkpoint: the length of the run is set anew, and may differ.
    def position() -> None:
        trainer.state.iteration = reached
        trainer.state.epoch = reached // (trainer.state.epoch_length or 1)

    trainer.add_event_handler(Events.STARTED, position)
    logging.getLogger(__name__).info("%s: continuing after iteration %d", path, reached)


def _stop_after(trainer: Engine, max_minutes: float) -> None:
    """End a run after a number of minutes, in all processes at the same iteration."""
    began = time.monotonic()

    def limit() -> None:
        over = time.monotonic() - began > 60 * max_minutes
        if torch.distributed.is_initialized():
            # All processes stop together: one that went on alone would wait forever.
            votes = torch.tensor(float(over), device=trainer.state.device)  # type: ignore[attr-defined]
            torch.distributed.all_reduce(votes)
            over = votes.item() > 0
        if over:
            trainer.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=10), limit)


class Purpose:
    """Part of a checkpoint: what a network is trained for. A run for another purpose does not continue it.

    Args:
        name: name of the objective.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def state_dict(self) -> dict[str, str]:
        """The name."""
        return {"name": self.name}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Compare with an earlier run, whose validation was another one.

        Raises:
            ValueError: if it had another objective.
        """
        if state["name"] != self.name:
            raise ValueError(f"it was trained for {state['name']}, and this run is for {self.name}")


class KeepBest:
    """Save the weights of ``average`` with the best key metric so far.

    Attach it to the evaluator that validates the average, and include it in the state of :func:`checkpoint`: a continued run
    then compares with its own best, while a new run replaces the file of an older one.

    Args:
        average: moving average of the weights.
        path: file of the best weights.
        write: whether this process writes; false in all but one process of a distributed run.
    """

    def __init__(self, average: AveragedModel, path: str | Path, write: bool = True) -> None:
        self.average = average
        self.path = Path(path)
        self.write = write
        self.metric = -math.inf

    def attach(self, engine: Engine) -> None:
        """Register on ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self)

    def state_dict(self) -> dict[str, float]:
        """Best metric so far."""
        return {"metric": self.metric}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from the best metric of an earlier run."""
        self.metric = state["metric"]

    def __call__(self, engine: Engine) -> None:
        """Save the average if its metric is the best."""
        metric = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
        if metric > self.metric:
            self.metric = metric
            if self.write:
                buffer = io.BytesIO()
                torch.save({"metric": metric, "average": self.average.state_dict()}, buffer)
                write_atomically({self.path: buffer.getvalue()}, overwrite=True)

    def restore(self) -> nn.Module:
        """The averaged network, with the best weights if this run (or the run that it continues) saved any."""
        if self.metric > -math.inf and self.path.is_file():
            self.average.load_state_dict(torch.load(self.path, map_location="cpu", weights_only=True)["average"])
        return self.average.module


def denoising_metrics(levels: Sequence[float]) -> dict[str, Metric]:
    """PSNR at unit range by name, one per noise level of :class:`medrecon.engines.NoisyPrepareBatch`."""

    def items_of_level(index: int) -> Callable[[list], tuple[list, list]]:
        def items(output: list) -> tuple[list, list]:
            chosen = output[index :: len(levels)]
            return [o["pred"] for o in chosen], [o["label"] for o in chosen]

        return items

    return {
        f"psnr_{level:g}": IgniteMetricHandler(metric_fn=PSNRMetric(max_val=1.0), output_transform=items_of_level(i))
        for i, level in enumerate(levels)
    }


@dataclass(frozen=True, kw_only=True)
class SheetSettings:
    """What a sheet of samples shows, and how often it is made.

    Args:
        shape: shape of one image, ``(C, y, x)``.
        every: epochs between sheets.
        n_steps: network evaluations per image, by DDIM with eta = 0.5.
        n_images: images on a sheet, always from the same noise, so that sheets show what training changes.
        sigma_max: first noise level.
        factor: factor of the pixels at high noise levels, see :func:`medrecon.priors.multiscale`; 1 for a network trained
            without overviews.
        top: image value shown as white.
    """

    shape: Sequence[int]
    every: int = 1
    n_steps: int = 80
    n_images: int = 8
    sigma_max: float = 40.0
    factor: int = 1
    top: float = 1.2


class SampleSheet:
    """Draw unconditional samples every few epochs, as a PNG that replaces the last one, and for TensorBoard.

    Args:
        network: usually the moving average.
        objective: what the network is trained for, see :mod:`medrecon.training.objectives`.
        path: file of the PNG.
        settings: settings of the sheet.
        writer: a TensorBoard ``SummaryWriter``, or ``None``.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        path: str | Path,
        settings: SheetSettings,
        writer: Any = None,  # noqa: ANN401 - tensorboard is optional
    ) -> None:
        self.network = network
        self.objective = objective
        self.path = Path(path)
        self.settings = settings
        self.sigmas = karras(settings.sigma_max, 0.005, settings.n_steps)
        self.solver = DDIM(eta=0.5)  # fresh noise corrects some errors of a network that is still learning
        self.writer = writer

    def attach(self, engine: Engine) -> None:
        """Register on ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.settings.every), self)

    def draw(self) -> Tensor:
        """Magnitudes ``(n, y, x)``."""
        device = next(self.network.parameters()).device
        training = self.network.training
        self.network.eval()
        prior = self.objective.prior(self.network, dtype=fast_dtype(device))
        if self.settings.factor > 1:
            prior = multiscale(prior, self.settings.factor)
        shape = tuple(self.settings.shape)
        images = torch.cat([
            generate(prior, shape, self.sigmas, seeds=[seed], solver=self.solver, device=device)
            for seed in range(self.settings.n_images)
        ])  # fmt: skip
        self.network.train(training)
        return images.norm(dim=1).cpu()

    def __call__(self, engine: Engine) -> None:
        """Draw the samples and write the sheet."""
        images, top = self.draw(), self.settings.top
        png = sheet(images.numpy(), top=top)
        write_atomically({self.path: png}, overwrite=True)
        if self.writer is not None:
            self.writer.add_images("samples", (images[:, None] / top).clamp(0, 1), engine.state.iteration)


def tensorboard(folder: str | Path, enabled: bool = True) -> Any:  # noqa: ANN401 - tensorboard is optional
    """A ``SummaryWriter`` for ``folder``, or ``None`` where TensorBoard is not installed or ``enabled`` is false."""
    if not enabled or not installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None
