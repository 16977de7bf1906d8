"""What a MONAI trainer needs to train a prior: averages, schedules, checkpoints, sample sheets."""

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
    """A copy of ``network`` for exponential moving averages; the decay ramps up, so early averages follow quickly."""

    def update(average: Sequence[Tensor], current: Sequence[Tensor], n: int | Tensor) -> None:
        keep = min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(list(average), list(current), 1 - keep)

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
        """Take one step of the average."""
        self.average.update_parameters(self.network)


class WarmupCosine:
    """Linear warm-up, then cosine decay to ``floor * peak``, as a function of the engine's iteration alone.

    It keeps no state, so a resumed run continues where it was, and the length of the run may be changed on resuming.

    Args:
        optimizer: whose learning rate is set.
        peak: the highest learning rate.
        total: iterations of the whole run.
        warmup: iterations of the warm-up.
        floor: the last learning rate as a fraction of ``peak``.
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
        """The learning rate at ``iteration`` (from 1)."""
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
        """Clip."""
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


def start_from(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Give ``network`` the weights in ``path`` that fit it by name and shape; the others stay as they were made.

    For fine-tuning, and for giving a new prior the inner layers of another. ``None`` or ``""`` changes nothing.

    Args:
        network: changed in place and returned.
        path: a plain state dict (a bundle's ``model.pt``) or a checkpoint of :func:`checkpoint`, whose average is taken.

    Raises:
        InputError: if the file is missing, is no state dict, or has nothing that fits.
    """
    if not path:
        return network
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("average", state)
        state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        raise InputError(
            f"{path}: holds no weights to start from ({error}); give a state dict or a checkpoint"
        ) from error
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise InputError(
            f"{path}: none of its weights fits the network; correct network_def, or leave these weights out"
        )
    logging.getLogger(__name__).info("%s: %d of %d weights taken", path, len(fitting), len(own))
    network.load_state_dict({**own, **fitting})
    return network


def checkpoint(
    trainer: Engine,
    folder: str | Path,
    state: Mapping[str, Any],
    seed: int = 0,
    max_minutes: float | None = None,
    write: bool = True,
) -> None:
    """Let ``trainer`` continue from ``folder/latest.pt`` if there is one, and write that file every epoch and at the end.

    The file appears whole or not at all, so a run that is killed at any moment continues, and ends with as many steps as
    one that was not.

    Args:
        trainer: of MONAI.
        folder: of the checkpoint.
        state: what to keep besides the trainer's own counters: everything with a ``state_dict``.
        seed: with the iteration it seeds torch at the start, so a continued run does not repeat its random numbers.
        max_minutes: end after so many, with a checkpoint, wherever the run is; ``None`` for no limit.
        write: false in all processes of a distributed run but one.

    Raises:
        InputError: if the checkpoint is damaged or another network's, naming it.
    """
    everything = {**state, "trainer": trainer}
    path = Path(folder) / "latest.pt"
    if path.is_file():
        _continue(trainer, path, everything)

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


def _continue(trainer: Engine, path: Path, everything: Mapping[str, Any]) -> None:
    """Load a checkpoint, and let the trainer start where it ends.

    Raises:
        InputError: if it is damaged or another network's, naming it.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects({k: v for k, v in everything.items() if k != "trainer"}, loaded)
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

    # The length of the run is this run's own affair: only where it stands comes from the checkpoint.
    def position() -> None:
        trainer.state.iteration = reached
        trainer.state.epoch = reached // (trainer.state.epoch_length or 1)

    trainer.add_event_handler(Events.STARTED, position)
    logging.getLogger(__name__).info("%s: continuing after iteration %d", path, reached)


def _stop_after(trainer: Engine, max_minutes: float) -> None:
    """End a run after so many minutes, in all processes at the same iteration."""
    began = time.monotonic()

    def limit() -> None:
        over = time.monotonic() - began > 60 * max_minutes
        if torch.distributed.is_initialized():
            # A process that goes on alone waits for ever.
            votes = torch.tensor(float(over), device=trainer.state.device)  # type: ignore[attr-defined]
            torch.distributed.all_reduce(votes)
            over = votes.item() > 0
        if over:
            trainer.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=10), limit)


class KeepBest:
    """Keep in ``path`` the weights of ``average`` with the best key metric so far.

    Attach it to the evaluator that validates the average, and name it in the state of :func:`checkpoint`: a continued run
    goes on from its best, while a new run replaces what an older one left behind.

    Args:
        average: of the weights.
        path: of the file.
        write: false in all processes of a distributed run but one.
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
        """The best metric so far."""
        return {"metric": self.metric}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue with an earlier run's best."""
        self.metric = state["metric"]

    def __call__(self, engine: Engine) -> None:
        """Compare and keep."""
        metric = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
        if metric > self.metric:
            self.metric = metric
            if self.write:
                buffer = io.BytesIO()
                torch.save({"metric": metric, "average": self.average.state_dict()}, buffer)
                write_atomically({self.path: buffer.getvalue()}, overwrite=True)

    def restore(self) -> nn.Module:
        """The averaged network, with the best weights if this run (or the one that it continued) kept any."""
        if self.metric > -math.inf and self.path.is_file():
            self.average.load_state_dict(torch.load(self.path, map_location="cpu", weights_only=True)["average"])
        return self.average.module


def denoising_metrics(levels: Sequence[float]) -> dict[str, Metric]:
    """PSNR at unit range for every noise level of :class:`medrecon.engines.NoisyPrepareBatch`, by name."""

    def at(index: int) -> Callable[[list], tuple[list, list]]:
        def items(output: list) -> tuple[list, list]:
            chosen = output[index :: len(levels)]
            return [o["pred"] for o in chosen], [o["label"] for o in chosen]

        return items

    return {
        f"psnr_{level:g}": IgniteMetricHandler(metric_fn=PSNRMetric(max_val=1.0), output_transform=at(i))
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
        """Draw and write."""
        images, top = self.draw(), self.settings.top
        png = sheet(images.numpy(), top=top)
        write_atomically({self.path: png}, overwrite=True)
        if self.writer is not None:
            self.writer.add_images("samples", (images[:, None] / top).clamp(0, 1), engine.state.iteration)


def tensorboard(folder: str | Path, wanted: bool = True) -> Any:  # noqa: ANN401 - tensorboard is optional
    """A ``SummaryWriter`` for ``folder``, or ``None`` where TensorBoard is not installed or not wanted."""
    if not wanted or not installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None
