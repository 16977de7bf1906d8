"""MONAI's engines put together: what the configs of the bundles share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import monai
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import (
    IgniteMetricHandler,
    MetricsSaver,
    StatsHandler,
    TensorBoardStatsHandler,
    ValidationHandler,
    from_engine,
)
from monai.inferers import Inferer
from monai.metrics import PSNRMetric
from monai.transforms import Compose, Transform
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import WeightedRandomSampler

from medrecon.bundle import save_weights
from medrecon.data.errors import InputError
from medrecon.engines import DenoisingPrepareBatch, NoisyPrepareBatch, ScanPrepareBatch
from medrecon.handlers import (
    GradientClip,
    KeepBest,
    MovingAverage,
    SampleSheet,
    WarmupCosine,
    averaged,
    checkpoint,
    denoising_metrics,
    installed,
    start_from,
    tensorboard,
)
from medrecon.inferers import AutocastInferer, DenoisingInferer
from medrecon.metrics import NMSE, PSNR, SSIM
from medrecon.training.augment import Augment
from medrecon.training.objectives import EDM, Objective
from medrecon.training.slices import share
from medrecon.transforms import MagnitudeMeand, SaveReconstructiond, only_item

__all__ = [
    "Learner",
    "Overviews",
    "cases",
    "distributed",
    "join",
    "judged",
    "labelled",
    "leave",
    "local_device",
    "metrics",
    "part",
    "reconstructor",
    "resume",
    "score_handlers",
    "seeded",
    "train",
    "trainer",
    "validator",
]

# Reconstruction


def local_device() -> torch.device:
    """The device of this process of torchrun: a GPU of its own, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def _place() -> tuple[int, int]:
    """Number of this process, and how many there are after :func:`join`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join(device: torch.device) -> None:
    """Join the processes that torchrun started."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)


def leave() -> None:
    """Wait for the other processes, and leave: one that leaves early tears the connection down for the others."""
    dist.barrier()
    dist.destroy_process_group()


def cases(files: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """The scans to reconstruct, ``{"scan": file}`` each; after :func:`join` the part of this process.

    Args:
        files: one file, or several.

    Raises:
        InputError: if there are fewer scans than processes: one without work would leave the others waiting.
    """
    files = [files] if isinstance(files, str | Path) else list(files)
    rank, processes = _place()
    if len(files) < processes:
        raise InputError(f"{len(files)} scans are too few for {processes} processes; start fewer (--nproc_per_node)")
    return [{"scan": str(file)} for file in files[rank::processes]]


def reconstructor(
    device: torch.device,
    dataset: Dataset,
    network: nn.Module,
    inferer: Inferer,
    postprocessing: Transform,
    val_handlers: Sequence[Any] = (),
    key_val_metric: Mapping[str, Any] | None = None,
    additional_metrics: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> SupervisedEvaluator:
    """MONAI's evaluator for scans, which come one at a time.

    Args:
        device: to work on.
        dataset: of dictionaries with a ``scan``, and a ``label`` where it is judged.
        network: of the prior.
        inferer: usually a :class:`medrecon.inferers.PosteriorInferer`.
        postprocessing: see MONAI.
        val_handlers: see MONAI.
        key_val_metric: see MONAI.
        additional_metrics: see MONAI.
        options: see :class:`medrecon.engines.ScanPrepareBatch`.
    """
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=0, collate_fn=only_item),
        network=network,
        inferer=inferer,
        prepare_batch=ScanPrepareBatch(options=options),
        postprocessing=postprocessing,
        val_handlers=list(val_handlers),
        key_val_metric=key_val_metric,
        additional_metrics=additional_metrics,
        decollate=False,
    )


def judged(output_dir: str, fmt: str = "nifti", overwrite: bool = False) -> Compose:
    """Write a reconstruction (:class:`medrecon.transforms.SaveReconstructiond`), then give it and its label to the metrics."""

    def as_item(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, **{key: torch.as_tensor(data[key])[None] for key in ("pred", "label")}}

    return Compose(
        [SaveReconstructiond("pred", output_dir, fmt=fmt, overwrite=overwrite), MagnitudeMeand("pred"), as_item]
    )


def metrics(*names: str, hounsfield: bool = False) -> dict[str, IgniteMetricHandler]:
    """Handlers of ``psnr``, ``ssim`` and ``nmse`` (:mod:`medrecon.metrics`), by name.

    Args:
        *names: which of them.
        hounsfield: whether images hold HU, whose range is fixed; else magnitudes.
    """
    kinds = {"psnr": PSNR, "ssim": SSIM, "nmse": NMSE}
    transform = from_engine(["pred", "label"])
    return {
        name: IgniteMetricHandler(metric_fn=kinds[name](hounsfield=hounsfield), output_transform=transform)
        for name in names
    }


def score_handlers(output_dir: str, names: Sequence[str] = ("psnr", "ssim", "nmse")) -> list[Any]:
    """Handlers that log the metrics and write them to ``metrics.csv``."""
    return [StatsHandler(iteration_log=False), MetricsSaver(save_dir=output_dir, metrics=list(names))]


# Training


class Learner:
    """A network that is trained, its moving average, optimizer and best average: what a checkpoint holds.

    Args:
        network: with random weights.
        device: to train on.
        folder: of the checkpoints.
        weights: file to begin with, see :func:`medrecon.handlers.start_from`.
        learning_rate: peak of the schedule.
        average_decay: see :func:`medrecon.handlers.averaged`.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        folder: str | Path,
        weights: str | Path | None = None,
        learning_rate: float = 8e-4,
        average_decay: float = 0.9995,
    ) -> None:
        self.model = start_from(network, weights).to(device, memory_format=torch.channels_last)
        self.average = averaged(self.model, average_decay)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )
        self.folder = Path(folder)
        self.write = _place()[0] == 0  # of several processes the first
        self.best = KeepBest(self.average, self.folder / "best.pt", self.write)
        self.writer = tensorboard(self.folder, self.write)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the trainer's counters."""
        return {"network": self.model, "average": self.average, "optimizer": self.optimizer, "best": self.best}

    def steps(self) -> int:
        """Steps of the optimizer so far."""
        first = self.optimizer.param_groups[0]["params"][0]
        return int(self.optimizer.state[first]["step"].item())


class Overviews(TypedDict):
    """Batches of whole slices with coarse pixels, see :class:`medrecon.engines.DenoisingPrepareBatch`."""

    augment: Augment
    share: float


def _coarse(objective: Objective, overviews: Overviews | None) -> dict[str, Any]:
    """Arguments of ``DenoisingPrepareBatch``: an overview is learnt at high noise levels, which decide the plan of a slice."""
    if overviews is None:
        return {}
    law = {"log_mean": 0.3, "log_std": 1.2}
    higher = replace(objective, **law) if isinstance(objective, EDM) else objective
    return {"coarse_objective": higher, "coarse_augment": overviews["augment"], "coarse_share": overviews["share"]}


def labelled(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], key: str = "contrast") -> list[dict[str, Any]]:
    """Rows with the ``label`` that the network is given, the place of ``row[key]`` among ``labels``.

    Raises:
        InputError: for a row with another.
    """
    unknown = sorted({str(row[key]) for row in rows} - set(labels))
    if unknown:
        raise InputError(
            f"the data have the {key} {unknown[0]!r}, which is not among the labels of prior.yaml; add it there"
        )
    return [{**row, "label": labels.index(row[key])} for row in rows]


def part(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of this process, see :func:`medrecon.training.slices.share`."""
    return share(rows, *_place())


def distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """A model that several processes train together."""
    return DistributedDataParallel(model, [device] if device.type == "cuda" else None, broadcast_buffers=False)


def seeded(seed: int) -> None:
    """Begin a run: the same random numbers each time, others in every process, and no meta in training data."""
    monai.data.set_track_meta(False)
    monai.utils.set_determinism(seed + _place()[0])


def validator(
    learner: Learner,
    dataset: Dataset,
    objective: Objective,
    augment: Augment,
    levels: Sequence[float],
    device: torch.device,
    multiple: int = 16,
    val_handlers: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """MONAI's evaluator that denoises held-out images by the moving average: PSNR at unit range for every noise level.

    Args:
        learner: whose average is judged, and kept if it is the best.
        dataset: of dictionaries with an ``image``.
        objective: what the network is trained for.
        augment: see :class:`medrecon.engines.NoisyPrepareBatch`.
        levels: noise levels.
        device: to work on.
        multiple: see :class:`medrecon.inferers.DenoisingInferer`.
        val_handlers: more of them.
    """
    board = {"iteration_log": False, "global_epoch_transform": lambda _: learner.steps()}
    handlers = [StatsHandler(iteration_log=False)] if learner.write else []
    handlers += [TensorBoardStatsHandler(summary_writer=learner.writer, **board)] if learner.writer is not None else []
    psnr = IgniteMetricHandler(metric_fn=PSNRMetric(max_val=1.0), output_transform=from_engine(["pred", "label"]))
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=10),
        network=learner.average,
        inferer=DenoisingInferer(objective, multiple),
        prepare_batch=NoisyPrepareBatch(levels, augment),
        key_val_metric={"psnr": psnr},
        additional_metrics=denoising_metrics(levels),
        val_handlers=[*handlers, learner.best, *val_handlers],
    )


def trainer(
    learner: Learner,
    network: nn.Module,
    dataset: Dataset,
    objective: Objective,
    augment: Augment,
    validator: SupervisedEvaluator,
    *,
    device: torch.device,
    max_epochs: int,
    iterations_per_epoch: int = 250,
    batch_size: int = 8,
    weights: Sequence[float] | None = None,
    labels: Sequence[str] = (),
    overviews: Overviews | None = None,
    inferer: Inferer | None = None,
    val_interval: int = 4,
    sheet: Mapping[str, Any] | None = None,
    train_handlers: Sequence[Any] = (),
) -> SupervisedTrainer:
    """MONAI's trainer of a prior: warm-up and cosine decay, gradients clipped, moving average, validation, sheets of samples.

    Args:
        learner: what is trained.
        network: its model, or that model in ``DistributedDataParallel``.
        dataset: of dictionaries with an ``image``, which lie in memory, and with a ``label`` if there are ``labels``.
        objective: noise levels and targets.
        augment: from stored images to crops.
        validator: see :func:`validator`.
        device: to work on.
        max_epochs: of the whole run.
        iterations_per_epoch: batches of an epoch.
        batch_size: images of a batch of the smallest crops.
        weights: how often an image is drawn, relative to others; ``None``: all alike.
        labels: of the network; the last says nothing, and replaces one label in ten.
        overviews: batches of whole slices with coarse pixels, or ``None``.
        inferer: default: :class:`medrecon.inferers.AutocastInferer`.
        val_interval: epochs between validations.
        sheet: arguments of :class:`medrecon.handlers.SampleSheet`: ``shape``, ``every``, ``factor``, ``top``; ``None``: none.
        train_handlers: more of them.
    """
    sampler = WeightedRandomSampler(weights or [1.0] * len(dataset), batch_size * iterations_per_epoch)
    told = {"label": "label", "null": len(labels) - 1, "dropped": 0.1} if labels else {}
    handlers = [
        WarmupCosine(learner.optimizer, learner.learning_rate, max_epochs * iterations_per_epoch),
        GradientClip(learner.model),
        MovingAverage(learner.average, learner.model),
        ValidationHandler(val_interval, validator, epoch_level=True),
    ]
    return SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        # Slices lie in memory; crops, resampling, phase and noise are made on the device.
        train_data_loader=DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=0),
        network=network,
        optimizer=learner.optimizer,
        loss_function=nn.MSELoss(),
        inferer=inferer or AutocastInferer(),
        prepare_batch=DenoisingPrepareBatch(objective, augment, **told, **_coarse(objective, overviews)),
        optim_set_to_none=True,
        train_handlers=[*handlers, *_reports(learner, objective, sheet), *train_handlers],
    )


def _reports(learner: Learner, objective: Objective, sheet: Mapping[str, Any] | None) -> list[Any]:
    """Handlers of one process: the loss every 50 steps, and sheets of samples."""
    loss = {
        "tag_name": "train_loss",
        "output_transform": from_engine("loss", first=True),
        "iteration_log": lambda engine, iteration: iteration % 50 == 0,
    }
    out: list[Any] = [StatsHandler(**loss)] if learner.write else []
    out += [TensorBoardStatsHandler(summary_writer=learner.writer, **loss)] if learner.writer is not None else []
    if learner.write and sheet is not None and installed("matplotlib"):
        path = learner.folder / "samples.png"
        out.append(SampleSheet(learner.average, objective, path=path, writer=learner.writer, **sheet))
    return out


def resume(engine: Engine, learner: Learner, seed: int = 0, max_minutes: float | None = None) -> None:
    """Let a trainer continue from its checkpoint, and write it; see :func:`medrecon.handlers.checkpoint`."""
    checkpoint(engine, learner.folder, learner.state, seed + _place()[0], max_minutes, learner.write)


def train(
    engine: SupervisedTrainer,
    validator: SupervisedEvaluator,
    learner: Learner,
    root: str | Path,
    *,
    val_interval: int = 4,
    parameterization: str | None = None,
    sigma_data: float | None = None,
) -> None:
    """Train, validate the end, where the learning rate is lowest, and store the best average in the bundle.

    Args:
        engine: see :func:`trainer`.
        validator: see :func:`validator`.
        learner: what is trained.
        root: folder of the bundle.
        val_interval: epochs between validations.
        parameterization: see :func:`medrecon.bundle.save_weights`.
        sigma_data: see there.
    """
    engine.run()
    if engine.state.epoch % val_interval:
        validator.run(engine.state.epoch)
    if learner.write:
        save_weights(learner.best.restore(), root, parameterization=parameterization, sigma_data=sigma_data)
