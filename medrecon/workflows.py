"""Factories of MONAI's engines, shared by the configs of the bundles."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import monai.data
import monai.utils
import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.metrics import Average, Metric
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
from monai.transforms import Compose
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medrecon.bundle import save_weights
from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.files import check_writable
from medrecon.engines import (
    DenoisingPrepareBatch,
    MeasuredPrepareBatch,
    NoisyPrepareBatch,
    Overviews,
    ScanPrepareBatch,
)
from medrecon.handlers import (
    GradientClip,
    KeepBest,
    MovingAverage,
    Purpose,
    SampleSheet,
    SheetSettings,
    WarmupCosine,
    averaged,
    checkpoint,
    denoising_metrics,
    installed,
    start_from,
    tensorboard,
)
from medrecon.inferers import AutocastInferer, DenoisingInferer, MeasuredInferer, PosteriorInferer
from medrecon.metrics import HU_RANGE, NMSE, PSNR, SSIM
from medrecon.prep.training_data import SELF_SUPERVISED, PreparedData, PreparedSettings, prepared_data
from medrecon.prior_file import PriorFile
from medrecon.training.augment import Augment, Crops
from medrecon.training.batches import ShapeBatches, batches_in_order
from medrecon.training.denoising import Noise2Self
from medrecon.training.measured import MASK_FIELDS, MASKED, measured_class, measured_objective
from medrecon.training.noisy import noise_range, noisy_rows
from medrecon.training.objectives import MeasuredObjective, Objective, objective
from medrecon.training.slices import rows_of_process
from medrecon.transforms import MagnitudeMeand, only_item

__all__ = [
    "Batches",
    "Learner",
    "Scoring",
    "add_labels",
    "as_ddp",
    "cases",
    "destroy_process_group",
    "init_process_group",
    "learned_parameterization",
    "local_device",
    "noise_levels",
    "prepared",
    "reconstructor",
    "resume",
    "rows_of_rank",
    "set_seed",
    "simulated",
    "train",
    "trainer",
    "training_objective",
    "validator",
]

# Reconstruction


def local_device() -> torch.device:
    """Device of this torchrun process: the GPU of its local rank, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def _rank_and_size() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) before :func:`init_process_group`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def init_process_group(device: torch.device) -> None:
    """Join the processes that torchrun started."""
    if not dist.is_initialized():
        # A process that has finished waits for the others, and a scan may take long.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30))
    if device.type == "cuda":
        torch.cuda.set_device(device)


def destroy_process_group() -> None:
    """Wait for the other processes, then leave; a process that leaves early breaks the connection of the others."""
    dist.barrier()
    dist.destroy_process_group()


def cases(files: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """Dictionaries ``{"scan": file}`` of the scans to reconstruct; after :func:`init_process_group` those of this process.

    Args:
        files: one file, or several.

    Raises:
        InputError: if there are no files, two have the same name, or there are fewer files than processes: a process without work
            would leave the others waiting.
    """
    files = [files] if isinstance(files, str | Path) else list(files)
    if not files or not all(map(str, files)):
        raise InputError("no scan is given; give a file, or a list of files (--scan FILE)")
    name, count = Counter(Path(str(file).removesuffix(".gz")).stem for file in files).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{count} scans are called {name}, so their images would have the same name; write them to different folders"
        )
    rank, processes = _rank_and_size()
    if len(files) < processes:
        raise InputError(f"{len(files)} scans are too few for {processes} processes; start fewer (--nproc_per_node)")
    return [{"scan": str(file)} for file in files[rank::processes]]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scores of an evaluation: PSNR, SSIM and NMSE (:mod:`medrecon.metrics`), logged and written to ``metrics.csv``.

    Args:
        images: values of the images, ``magnitude`` or ``hounsfield``.
        output_dir: folder of ``metrics.csv``.
        overwrite: replace an existing ``metrics.csv``.

    Raises:
        InputError: for another value of ``images``, or an existing ``metrics.csv``.
    """

    images: str
    output_dir: str = "."
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.images not in ("magnitude", "hounsfield"):
            raise InputError(f"images must be magnitude or hounsfield; got {shown(self.images)}")
        check_writable([Path(self.output_dir) / "metrics.csv"], self.overwrite)

    def metrics(self) -> dict[str, Metric]:
        """Handlers of the metrics, by name."""
        low, high = HU_RANGE
        values = {"low": low, "data_range": high - low} if self.images == "hounsfield" else {}
        kinds = {"psnr": PSNR, "ssim": SSIM, "nmse": NMSE}
        transform = from_engine(["pred", "label"])
        return {
            name: IgniteMetricHandler(metric_fn=kind(**values), output_transform=transform)
            for name, kind in kinds.items()
        }


def reconstructor(
    device: torch.device,
    dataset: Dataset,
    network: nn.Module,
    inferer: Inferer,
    postprocessing: Callable[[dict[str, Any]], dict[str, Any]],
    val_handlers: Sequence[Any] = (),
    *,
    scoring: Scoring | None = None,
    options: Mapping[str, str] | None = None,
) -> SupervisedEvaluator:
    """MONAI's evaluator for scans, one at a time.

    Args:
        device: device of the reconstruction.
        dataset: dictionaries with a ``scan``, and for ``scoring`` with a ``label`` ``(slices, y, x)``.
        network: network of the prior.
        inferer: usually a :class:`medrecon.inferers.PosteriorInferer`.
        postprocessing: transform of dictionaries whose ``pred`` is the reconstruction; usually writes files.
        val_handlers: handlers of the evaluator.
        scoring: scores against the ``label``; ``None``: no scores.
        options: options of the physics by name, with the keys of their values, see :class:`medrecon.engines.ScanPrepareBatch`.

    Raises:
        InputError: for ``scoring`` with physics that select slices, since the label has all slices.
    """
    metrics: dict[str, Metric] = {}
    handlers: list[Any] = []
    if scoring is not None:
        if isinstance(inferer, PosteriorInferer) and inferer.options.get("slices") is not None:
            raise InputError("an evaluation scores all slices of a scan; leave slices out of physics")
        metrics = scoring.metrics()
        handlers = [StatsHandler(iteration_log=False), MetricsSaver(scoring.output_dir, list(metrics))]
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=0, collate_fn=only_item),
        network=network,
        inferer=inferer,
        prepare_batch=ScanPrepareBatch(options=options),
        postprocessing=Compose([postprocessing, MagnitudeMeand("pred"), _with_batch_axis])
        if metrics
        else postprocessing,  # type: ignore[arg-type]
        val_handlers=[*handlers, *val_handlers],
        key_val_metric={"psnr": metrics.pop("psnr")} if metrics else None,
        additional_metrics=metrics or None,
        decollate=False,
    )


def _with_batch_axis(data: dict[str, Any]) -> dict[str, Any]:
    """Image and label with a batch axis, for metrics."""
    return {**data, **{key: torch.as_tensor(data[key])[None] for key in ("pred", "label")}}


# Training


class Learner:
    """A network in training, with its moving average, optimizer and best average: the content of a checkpoint.

    Args:
        network: network with random weights.
        objective: what the network is trained for, with clean images or with measurements.
        device: device of the training.
        folder: folder of the checkpoints.
        weights: file of initial weights, see :func:`medrecon.handlers.start_from`; ``None`` or empty: random weights.
        learning_rate: peak learning rate of the schedule.
        average_decay: decay of the moving average, see :func:`medrecon.handlers.averaged`.
        multiple: multiple to which sides of measurements are padded for the network.

    Raises:
        InputError: if the initial weights cannot be used.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective | MeasuredObjective,
        device: torch.device,
        folder: str | Path,
        weights: str | Path | None = None,
        learning_rate: float = 8e-4,
        average_decay: float = 0.9995,
        multiple: int = 16,
    ) -> None:
        self.model = start_from(network, weights).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective
        self.device = device
        self.average = averaged(self.model, average_decay)
        self.learning_rate = learning_rate
        self.multiple = multiple
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )
        self.folder = Path(folder)
        self.write = _rank_and_size()[0] == 0  # only the first process writes
        self.best = KeepBest(self.average, self.folder / "best.pt", self.write)
        self.writer = tensorboard(self.folder, self.write)

    @property
    def state(self) -> dict[str, Any]:
        """Content of a checkpoint besides the counters of the trainer."""
        purpose = Purpose(type(self.objective).__name__)
        return {
            "purpose": purpose, "network": self.model, "average": self.average, "optimizer": self.optimizer, "best": self.best
        }  # fmt: skip

    def steps(self) -> int:
        """Number of steps of the optimizer so far."""
        first = self.optimizer.param_groups[0]["params"][0]
        return int(self.optimizer.state[first].get("step", 0))


def _check_count(name: str, value: object) -> None:
    """Refuse an item of train.yaml that is not a whole number of at least 1; without a step, random weights would be stored.

    Raises:
        InputError: naming the item.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1; got {shown(value)}")


MeasuredAugment = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Augmentation of measurements by name."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches to train with: clean images, or measurements for an objective of measurements.

    Args:
        dataset: dictionaries with an ``image``, and with a ``label`` if there are ``labels``; or with the data that the objective
            needs. They are held in memory; a batch has rows of equal shapes.
        augment: augmentation from stored images to crops, or of the measurements, for which an
            :class:`medrecon.training.augment.Augment` becomes :class:`medrecon.training.augment.Crops` of images; ``None``: data
            stay unchanged.
        size: rows in a batch; for crops, of the smallest.
        per_epoch: batches in an epoch.
        weights: sampling weights of the rows; ``None``: uniform.
        labels: labels of the network; the last means no label, and replaces one label in ten. Only for clean images.
        overviews: batches of whole slices with coarse pixels, only for clean images; ``None``: none.
    """

    dataset: Dataset
    augment: Augment | MeasuredAugment | None
    size: int = 8
    per_epoch: int = 250
    weights: Sequence[float] | None = None
    labels: Sequence[str] = ()
    overviews: Overviews | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.size), ("iterations_per_epoch", self.per_epoch)):
            _check_count(name, value)

    def loader(self) -> DataLoader:
        """Stored rows of an epoch, drawn by their weights."""
        sampler = ShapeBatches(self.dataset.data, self.size, self.per_epoch, self.weights)  # type: ignore[arg-type]
        # Slices are in memory; crops, resampling, phase and noise are made on the device.
        return DataLoader(self.dataset, batch_sampler=sampler, num_workers=0)

    def prepare(self, objective: Objective | MeasuredObjective) -> DenoisingPrepareBatch | MeasuredPrepareBatch:
        """Augmentation of the batches, and noise for an objective of clean images."""
        if isinstance(objective, MeasuredObjective):
            augment = self.augment
            if isinstance(augment, Augment):  # of clean images; it would change the noise, and k-space has no crops
                augment = None if "kspace" in objective.needs else Crops(crop=augment.crop)
            return MeasuredPrepareBatch(objective.needs, augment)
        labels = {"label": "label", "null": len(self.labels) - 1, "dropped": 0.1} if self.labels else {}
        return DenoisingPrepareBatch(objective, self.augment, **labels, overviews=self.overviews)  # type: ignore[arg-type]


def prepared(folder: str | Path, prior: PriorFile, **settings: Any) -> PreparedData | None:  # noqa: ANN401 - see below
    """Training data of a folder that ``medrecon prep`` wrote; ``None`` for no folder, so that a config reads its archives.

    Args:
        folder: the folder; empty: none.
        prior: description of the prior that is trained, see :func:`medrecon.bundle.read_prior`.
        **settings: fields of :class:`medrecon.prep.training_data.PreparedSettings`.

    Raises:
        InputError: if the folder cannot be used, or an objective of measurements is named without a folder.
    """
    chosen = PreparedSettings(**settings)
    if folder:
        return prepared_data(folder, prior, chosen)
    if chosen.objective not in ("auto", "clean"):
        raise InputError(
            f"the objective {chosen.objective!r} needs measurements; give the folder that medrecon prep wrote (--data FOLDER)"
        )
    return None


def simulated(
    train: Sequence[Mapping[str, Any]],
    val: Sequence[Mapping[str, Any]],
    *,
    objective: str = "auto",
    family: str = "gaussian",
    level: float | Sequence[float] = 0.1,
    seed: int = 0,
) -> PreparedData:
    """Training data of clean slices to which noise is added once.

    Args:
        train: slices to train with, see :func:`medrecon.training.slices.load_slices`.
        val: slices to validate with, which are kept as they are beside the noisy ones.
        objective: ``auto`` is ``noise2score``.
        family: kind of noise.
        level: its parameter, or the range of it, see :func:`medrecon.training.noisy.noisy_rows`.
        seed: of the noise.

    Raises:
        InputError: if the family or the level cannot be used, or the objective needs other data.
    """
    objective = SELF_SUPERVISED if objective == "auto" else objective
    if missing := measured_class(objective)().needs - {"image", "noise_std"}:  # type: ignore[call-arg]
        raise InputError(
            f"the objective {objective!r} needs {', '.join(sorted(missing))}, which noisy images do not have; give data that "
            f"medrecon prep wrote (--data FOLDER), or choose {SELF_SUPERVISED}"
        )
    return PreparedData(
        noisy_rows(train, family, level, seed=seed),
        noisy_rows(val, family, level, seed=seed + 1, truth=True),
        objective,
    )


def learned_parameterization(data: PreparedData | None, parameterization: str) -> str:
    """What the network will predict, for ``prior.yaml``: ``ambient``, or as the config says; ``edm`` for other measurements.

    Args:
        data: training data, see :func:`prepared`.
        parameterization: that of the config.

    Raises:
        InputError: for clean images and a network that takes masks.
    """
    if data is not None and data.objective == MASKED:
        return MASKED
    if parameterization == MASKED:
        raise InputError(
            "prior.yaml describes a network that takes sampling masks (parameterization: ambient), which only undersampled "
            "k-space of several coils trains; set parameterization to edm in a new copy of the bundle"
        )
    return parameterization if data is None or data.objective == "clean" else "edm"


def noise_levels(
    data: PreparedData, family: str, scale: Sequence[float], objective: Objective | MeasuredObjective | None = None
) -> dict[str, str | float]:
    """What a denoiser will know, for the key ``noise`` of ``prior.yaml``; see :func:`medrecon.training.noisy.noise_range`.

    Args:
        data: training data.
        family: kind of noise.
        scale: least and largest factor of brightness in the training.
        objective: of the training; the stride of Noise2Self is recorded, since its network is evaluated on masked images.
    """
    least, most = noise_range(data.train, scale)
    stride = {"stride": objective.stride} if isinstance(objective, Noise2Self) else {}
    return {"family": family, "least": least, "most": most, **stride}


def training_objective(
    data: PreparedData | None,
    parameterization: str,
    sigma_data: float,
    law: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Objective | MeasuredObjective:
    """The objective of a training run.

    Args:
        data: training data, see :func:`prepared`.
        parameterization: what the network predicts, for clean images.
        sigma_data: standard deviation of the images per channel.
        law: distribution of the noise levels, for clean images.
        settings: fields of an objective of measurements; ``acs`` and ``accel`` are those of the data by default.
        family: kind of noise of noisy images.

    Raises:
        InputError: for settings that the objective does not have, that are items of their own, or of clean images.
    """
    settings = dict(settings or {})
    for key in {"sigma_data", "family"} & set(settings):
        raise InputError(f"objective_settings: {key!r} is an item of train.yaml; change it there (--set {key}=...)")
    if data is None or data.objective == "clean":
        if settings:
            raise InputError(
                f"objective_settings ({', '.join(settings)}) belong to an objective of measurements, but the network is trained "
                "on clean images; leave them out, or change noise_law"
            )
        return objective(parameterization, sigma_data, **(law or {}))
    known = {one.name for one in fields(measured_class(data.objective))}  # type: ignore[arg-type] - objectives are dataclasses
    defaults = {"sigma_data": sigma_data, **data.sampling, **({"family": family} if family else {})}
    return measured_objective(
        data.objective, **{key: value for key, value in defaults.items() if key in known} | settings
    )


def add_labels(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], key: str = "contrast") -> list[dict[str, Any]]:
    """Rows with the network's class ``label``: the index of ``row[key]`` in ``labels``.

    Raises:
        InputError: for a value that is not among ``labels``.
    """
    unknown = sorted({str(row[key]) for row in rows} - set(labels))
    if unknown:
        raise InputError(
            f"the data have the {key} {unknown[0]!r}, which is missing in the labels of prior.yaml; add it there"
        )
    return [{**row, "label": labels.index(row[key])} for row in rows]


def rows_of_rank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of this process, see :func:`medrecon.training.slices.rows_of_process`."""
    return rows_of_process(rows, *_rank_and_size())


def as_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """A model for distributed training."""
    return DistributedDataParallel(model, [device] if device.type == "cuda" else None, broadcast_buffers=False)


def set_seed(seed: int) -> None:
    """Seed a run, with different random numbers in every process, and switch off meta tensors, which training does not need."""
    monai.data.set_track_meta(False)
    monai.utils.set_determinism(seed + _rank_and_size()[0])


@dataclass(frozen=True)
class _Validation:
    """The parts of an evaluator that depend on the objective; the key metric is the first."""

    inferer: Inferer
    prepare: Any
    metrics: dict[str, Metric]


def _psnr() -> Metric:
    return IgniteMetricHandler(metric_fn=PSNRMetric(max_val=1.0), output_transform=from_engine(["pred", "label"]))


def _negative_losses(output: list[dict[str, Any]]) -> Tensor:
    """Negative losses of a batch ``(B, 1)``: of metrics, the largest is the best."""
    return -torch.tensor([[float(one["pred"])] for one in output])


def _measured_validation(objective: MeasuredObjective, dataset: Dataset, multiple: int) -> _Validation:
    """PSNR of denoising for images with a known truth; otherwise the held-out loss."""
    pair = ("image", "clean", "noise_std")
    if all(name in row for row in dataset.data for name in pair):  # type: ignore[union-attr]
        prepare = MeasuredPrepareBatch(objective.needs, pair=pair)
        return _Validation(DenoisingInferer(objective, multiple), prepare, {"psnr": _psnr()})
    prepare = MeasuredPrepareBatch(objective.needs)
    return _Validation(
        MeasuredInferer(objective, seed=0, multiple=multiple), prepare, {"negative_loss": Average(_negative_losses)[0]}
    )


def validator(
    learner: Learner,
    dataset: Dataset,
    augment: Augment | None = None,
    levels: Sequence[float] = (),
    multiple: int = 16,
) -> SupervisedEvaluator:
    """MONAI's evaluator of the moving average on held-out data.

    For an objective of clean images: PSNR of denoising at unit range for every noise level. For an objective of measurements:
    PSNR of denoising at the noise level of the data if they have the true images (``clean``) as well, otherwise the loss with the
    same random numbers in every validation, as ``negative_loss``.

    Args:
        learner: learner whose moving average is validated, and kept if it is the best.
        dataset: dictionaries with an ``image``, or with the data that the objective needs.
        augment: augmentation from stored images to clean ones, as in training; not used for measurements.
        levels: noise levels, in the unit of the images; not used for measurements.
        multiple: multiple to which sides are padded for the network.
    """
    board = {"iteration_log": False, "global_epoch_transform": lambda _: learner.steps()}
    handlers = [StatsHandler(iteration_log=False)] if learner.write else []
    handlers += [TensorBoardStatsHandler(summary_writer=learner.writer, **board)] if learner.writer is not None else []
    trained_for = learner.objective
    if isinstance(trained_for, MeasuredObjective):
        parts = _measured_validation(trained_for, dataset, multiple)
    else:
        metrics = {"psnr": _psnr(), **denoising_metrics(levels)}
        parts = _Validation(DenoisingInferer(trained_for, multiple), NoisyPrepareBatch(levels, augment), metrics)
    key, *others = parts.metrics
    batches = batches_in_order(dataset.data, 10)  # type: ignore[arg-type]
    return SupervisedEvaluator(
        device=learner.device,
        val_data_loader=DataLoader(dataset, batch_sampler=batches),
        network=learner.average,
        inferer=parts.inferer,
        prepare_batch=parts.prepare,
        key_val_metric={key: parts.metrics[key]},
        additional_metrics={name: parts.metrics[name] for name in others} or None,
        val_handlers=[*handlers, learner.best],
    )


def trainer(
    learner: Learner,
    network: nn.Module,
    batches: Batches,
    validator: SupervisedEvaluator,
    *,
    max_epochs: int,
    val_interval: int = 4,
    inferer: Inferer | None = None,
    sheet: SheetSettings | None = None,
) -> SupervisedTrainer:
    """MONAI's trainer of a prior: warm-up and cosine decay, gradients clipped, moving average, validation, sheets of samples.

    Args:
        learner: learner that is trained.
        network: model of the learner, or that model in ``DistributedDataParallel``.
        batches: training data.
        validator: evaluator, see :func:`validator`.
        max_epochs: epochs of the whole run.
        val_interval: epochs between validations.
        inferer: inferer of the training; default: :class:`medrecon.inferers.AutocastInferer`. An objective of measurements calls
            the network through it.
        sheet: settings of the sheets of samples; ``None``: no sheets.
    """
    _check_count("max_epochs", max_epochs)
    trained_for, inferer = learner.objective, inferer or AutocastInferer()
    measured = isinstance(trained_for, MeasuredObjective)
    if isinstance(trained_for, MeasuredObjective) and isinstance(inferer, AutocastInferer):
        inferer = MeasuredInferer(trained_for, inferer.dtype, multiple=learner.multiple)
    handlers = [
        WarmupCosine(learner.optimizer, learner.learning_rate, max_epochs * batches.per_epoch),
        GradientClip(learner.model),
        MovingAverage(learner.average, learner.model),
        ValidationHandler(val_interval, validator, epoch_level=True),
    ]
    return SupervisedTrainer(
        device=learner.device,
        max_epochs=max_epochs,
        train_data_loader=batches.loader(),
        network=network,
        optimizer=learner.optimizer,
        loss_function=_mean if measured else nn.MSELoss(),
        inferer=inferer,
        prepare_batch=batches.prepare(trained_for),
        optim_set_to_none=True,
        train_handlers=[*handlers, *_reports(learner, sheet)],
    )


def _mean(losses: Tensor, _: Tensor) -> Tensor:
    """The mean of the losses of a batch, which an objective of measurements gives."""
    return losses.mean()


def _reports(learner: Learner, sheet: SheetSettings | None) -> list[Any]:
    """Reporting handlers of this process: the loss every 50 steps, and sheets of samples."""
    loss = {
        "tag_name": "train_loss",
        "output_transform": from_engine("loss", first=True),
        "iteration_log": lambda engine, iteration: iteration % 50 == 0,
    }
    out: list[Any] = [StatsHandler(**loss)] if learner.write else []
    out += [TensorBoardStatsHandler(summary_writer=learner.writer, **loss)] if learner.writer is not None else []
    # A network that is trained for one noise level draws no samples.
    measured = isinstance(learner.objective, MeasuredObjective)
    if learner.write and sheet is not None and not measured and installed("matplotlib"):
        path = learner.folder / "samples.png"
        out.append(SampleSheet(learner.average, learner.objective, path, sheet, learner.writer))  # type: ignore[arg-type]
    return out


def resume(engine: Engine, learner: Learner, seed: int = 0, max_minutes: float | None = None) -> None:
    """Continue a trainer from its checkpoint, and write checkpoints; see :func:`medrecon.handlers.checkpoint`.

    Raises:
        InputError: if the checkpoint is damaged or belongs to another network.
    """
    checkpoint(engine, learner.folder, learner.state, seed + _rank_and_size()[0], max_minutes, learner.write)


def train(
    engine: SupervisedTrainer,
    validator: SupervisedEvaluator,
    learner: Learner,
    root: str | Path,
    *,
    val_interval: int = 4,
    parameterization: str | None = None,
    sigma_data: float | None = None,
    noise: Mapping[str, Any] | None = None,
) -> None:
    """Train, validate at the end, where the learning rate is lowest, and store the best average in the bundle.

    Args:
        engine: trainer, see :func:`trainer`.
        validator: evaluator, see :func:`validator`.
        learner: learner that is trained.
        root: folder of the bundle.
        val_interval: epochs between validations.
        parameterization: what the network predicts, for ``prior.yaml``: ``edm``, ``ddpm``, ``flow`` or ``ambient``.
        sigma_data: standard deviation of the training images per channel, for ``prior.yaml``.
        noise: noise levels of a network that can only denoise, for ``prior.yaml``, see :func:`noise_levels`.

    Raises:
        InputError: if the trained weights are not finite.
    """
    engine.run()
    if engine.state.epoch % val_interval:
        validator.run(engine.state.epoch)
    if learner.write:
        network = learner.best.restore()
        if not all(weight.isfinite().all() for weight in network.parameters()):
            raise InputError(
                f"{learner.folder}: the weights are not finite, so nothing was stored in the bundle; check the data, lower "
                "learning_rate, and start again with another checkpoint_dir"
            )
        named = {key: getattr(learner.objective, key) for key in MASK_FIELDS} if parameterization == MASKED else {}
        described = {key: value for key, value in {"masks": named, "noise": noise}.items() if value}
        save_weights(network, root, parameterization=parameterization, sigma_data=sigma_data, described=described)
