"""Training of small networks for the benchmarks: the schedule of ``train.yaml`` in one loop, by CPU time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medrecon.handlers import averaged
from medrecon.training.objectives import MeasuredObjective


class Fit(NamedTuple):
    """The moving average of the trained network, steps, CPU seconds and the mean loss of the last tenth."""

    network: nn.Module
    steps: int
    seconds: float
    loss: float


def fit(
    network: nn.Module,
    objective: MeasuredObjective,
    batch: Callable[[], Mapping[str, Tensor]],
    *,
    seconds: float,
    rate: float = 8e-4,
    decay: float = 0.999,
) -> Fit:
    """Train for ``seconds`` of CPU time of this process; the learning rate warms up, then decays with the time that is left.

    CPU time does not depend on what else the machine does, so runs on a busy machine are comparable.
    """
    network = network.to(memory_format=torch.channels_last)
    average = averaged(network, decay)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    start, step, losses = time.process_time(), 0, []
    while (part := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, part / 0.03 + 0.01) * (0.02 + 0.98 * (1 + math.cos(math.pi * part)) / 2)
        loss = objective.loss(network, batch()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        losses.append(float(loss.detach()))
        step += 1
    last = losses[-max(1, len(losses) // 10) :]
    return Fit(average.module.eval(), step, time.process_time() - start, sum(last) / len(last))
