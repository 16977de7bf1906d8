"""Ignite handlers for training a prior; attach them to a MONAI trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["GradientClip", "MovingAverage", "WarmupCosine", "averaged", "checkpoint"]


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


def checkpoint(trainer: Engine, folder: str | Path, state: Mapping[str, object]) -> None:
    """Let ``trainer`` continue from the newest checkpoint in ``folder``, if there is one, and save one every epoch."""
    everything = {**state, "trainer": trainer}
    saved = sorted(Path(folder).glob("*.pt"), key=lambda path: path.stat().st_mtime)
    if saved:
        CheckpointLoader(load_path=str(saved[-1]), load_dict=everything).attach(trainer)
    CheckpointSaver(save_dir=str(folder), save_dict=everything, save_interval=1, n_saved=1).attach(trainer)
