"""``PrepareBatch`` classes for MONAI's engines: to train a prior, to validate it, and to reconstruct scans."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.operators.linalg import batch_broadcast
from medrecon.training.augment import Augment
from medrecon.training.objectives import EDM, Objective, stratified

__all__ = ["DenoisingPrepareBatch", "MeasuredPrepareBatch", "NoisyPrepareBatch", "Overviews", "ScanPrepareBatch"]


class ScanPrepareBatch(PrepareBatch):
    """Scan, reference image and physics options from a batch of one scan.

    Args:
        key: key of the scan.
        label_key: key of the reference image, which may be missing.
        options: physics options of :class:`medrecon.inferers.PosteriorInferer` by name, with the keys of their values, e.g.
            ``{"maps": "maps"}``.
    """

    def __init__(self, key: str = "scan", label_key: str = "label", options: Mapping[str, str] | None = None) -> None:
        self.key = key
        self.label_key = label_key
        self.options = dict(options or {})

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Any, Any, tuple, dict[str, Any]]:
        """The scan, the reference image or ``None``, and the options; arrays move to the device later, slice by slice."""
        options = {name: batchdata[key] for name, key in self.options.items()}
        return batchdata[self.key], batchdata.get(self.label_key), (), options


@dataclass(frozen=True, kw_only=True)
class Overviews:
    """Batches of whole slices with coarse pixels, which train the layout of a slice at a fraction of the cost.

    Their noise levels are high, since those decide the layout. :func:`medrecon.priors.multiscale` uses such a network.

    Args:
        augment: augmentation from stored images to overviews.
        probability: probability that a batch consists of overviews.
        log_mean: mean of ln(sigma), where the network is trained as :class:`medrecon.training.objectives.EDM`.
        log_std: standard deviation of ln(sigma); likewise.
    """

    augment: Augment
    probability: float
    log_mean: float = 0.3
    log_std: float = 1.2

    def objective(self, objective: Objective) -> Objective:
        """An objective with the noise levels of the overviews."""
        if not isinstance(objective, EDM):
            return objective
        return replace(objective, log_mean=self.log_mean, log_std=self.log_std)


class DenoisingPrepareBatch(PrepareBatch):
    """Augment images and add noise, so that ``MSELoss`` on the plain network trains it for an objective.

    Everything happens in batches on the training device; a GPU would wait for work on the CPU.

    Args:
        objective: noise levels and targets, see :mod:`medrecon.training.objectives`.
        augment: augmentation from stored images to clean training images; ``None``: images stay unchanged.
        key: key of the images ``(B, C, *spatial)``.
        label: key of the integer labels ``(B,)``, passed to the network as ``class_labels``; ``None``: no labels.
        null: label that means no label.
        dropped: probability that ``null`` replaces a label (classifier-free guidance, Ho & Salimans, 2022).
        overviews: batches of whole slices with coarse pixels; ``None``: none.
    """

    def __init__(
        self,
        objective: Objective,
        augment: Augment | None = None,
        key: str = "image",
        label: str | None = None,
        null: int = 0,
        dropped: float = 0.1,
        overviews: Overviews | None = None,
    ) -> None:
        self.objective = objective
        self.augment = augment
        self.key = key
        self.label = label
        self.null = null
        self.dropped = dropped
        self.overviews = overviews

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Tensor]]:
        """Network input, regression target, timesteps and, if there are labels, the labels."""
        x0 = batchdata[self.key].to(device, non_blocking=non_blocking, **kwargs)
        objective, augment, overviews = self.objective, self.augment, self.overviews
        if overviews is not None and overviews.probability > 0 and float(torch.rand(())) < overviews.probability:
            objective, augment = overviews.objective(objective), overviews.augment
        if augment is not None:
            x0 = augment(x0)
        pair = objective.pair(x0, stratified(len(x0), x0.device), torch.randn_like(x0))
        named = {}
        if self.label is not None:
            labels = torch.as_tensor(batchdata[self.label], device=x0.device)
            # A batch of large crops uses only some of the images, a batch of small crops several crops of each.
            copies = 1 if augment is None else augment.copies
            labels = labels[: len(x0) // copies].repeat(copies)
            drop = torch.rand(len(x0), device=x0.device) < self.dropped
            named["class_labels"] = torch.where(drop, self.null, labels)
        return pair.inputs, pair.target, (pair.timesteps,), named


class NoisyPrepareBatch(PrepareBatch):
    """Add noise of every given level to every image, for validation.

    Augmentation and noise of an image depend only on the image and the seed, so results do not depend on the batch size, the
    number of processes or the device.

    Args:
        levels: noise levels sigma; image ``i`` becomes the items ``i * len(levels) ...``, one per level.
        augment: augmentation from stored images to clean ones, as in training; ``None``: images stay unchanged.
        seed: random seed of noise and augmentation.
        key: key of the images ``(B, C, *spatial)``.
    """

    def __init__(
        self, levels: Sequence[float], augment: Augment | None = None, seed: int = 0, key: str = "image"
    ) -> None:
        self.levels = levels
        self.augment = augment
        self.seed = seed
        self.key = key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict]:
        """Noisy images, clean images and the noise levels."""
        pairs = []
        with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same on every device
            for image in torch.as_tensor(batchdata[self.key]).cpu().split(1):
                image_seed = zlib.crc32(image.contiguous().numpy().tobytes(), self.seed)
                torch.default_generator.manual_seed(image_seed)  # torch.manual_seed would reset the GPU's as well
                clean = image if self.augment is None else self.augment(image)
                pairs.append((clean, torch.randn(clean.shape)))
        x0, noise = (torch.cat(t).to(device, non_blocking=non_blocking, **kwargs) for t in zip(*pairs, strict=True))
        sigma = x0.new_tensor(list(self.levels)).repeat(len(x0))
        x0, noise = (t.repeat_interleave(len(self.levels), dim=0) for t in (x0, noise))
        return x0 + batch_broadcast(sigma, x0) * noise, x0, (sigma,), {}


class MeasuredPrepareBatch(PrepareBatch):
    """Measurements of a batch by name, in single precision, for :class:`medrecon.inferers.MeasuredInferer`.

    Args:
        needs: names of the data, see :class:`medrecon.training.objectives.MeasuredObjective`. ``density``, the probability that
            the entries of a mask are measured, is added if the data have it.
        augment: augmentation of the named data on the training device; ``None``: data stay unchanged.
        pair: names of the measured image, the true image and the noise level, for validation against the true image; ``None``:
            the data by name.
    """

    def __init__(
        self,
        needs: Iterable[str],
        augment: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        pair: tuple[str, str, str] | None = None,
    ) -> None:
        self.needs = sorted(needs) if pair is None else list(pair)
        self.augment = augment
        self.pair = pair

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # noqa: ANN401 - MONAI's signature
    ) -> tuple[Any, Tensor, tuple[Tensor, ...], dict]:
        """Data by name and zeros, the target of losses; or measured image, true image and noise level.

        Raises:
            InputError: if the data lack a name.
        """
        missing = [name for name in self.needs if name not in batchdata]
        if missing:
            raise InputError(
                f"the objective needs {', '.join(missing)}, which the data lack; they have "
                f"{', '.join(map(str, batchdata))}; choose another objective, or prepare other data (docs/training.md)"
            )
        data = {
            name: _single(torch.as_tensor(batchdata[name]).to(device, non_blocking=non_blocking, **kwargs))
            for name in (*self.needs, *(name for name in ("density",) if "mask" in self.needs and name in batchdata))
        }
        if self.augment is not None:
            data = self.augment(data)
        if self.pair is None:
            first = next(iter(data.values()))
            return data, torch.zeros(len(first), device=first.device), (), {}
        image, clean, noise_std = (data[name] for name in self.pair)
        return image, clean, (noise_std,), {}


def _single(x: Tensor) -> Tensor:
    """A tensor in single precision, real or complex; masks become 0 and 1."""
    return x.to(torch.complex64 if x.is_complex() else torch.float32)
