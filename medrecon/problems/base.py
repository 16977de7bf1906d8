"""A problem: ``y = A x + noise`` for every slice of a scan, at the unit scale that priors expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.likelihood import Gaussian, Likelihood
from medrecon.operators.linalg import dot
from medrecon.solvers.base import Solver

__all__ = ["Beginning", "Fit", "Problem", "Scaled", "chosen_slices", "fit", "unit_scale"]


class Scaled(NamedTuple):
    """The likelihood of some items.

    Args:
        likelihood: of images at unit scale.
        image_scale: ``(B,)``: times this, images have the scale of the scan; 0 for an item without signal.
        data_scale: ``(B,)``: times this, the data of the likelihood have the scale of the scan.
    """

    likelihood: Likelihood
    image_scale: Tensor
    data_scale: Tensor


class Beginning(NamedTuple):
    """Images to start from.

    Args:
        x: ``(B, C, *spatial)`` at unit scale.
        sigma: noise level of the start.
        add_noise: whether noise of this level is added; not if ``x`` is a noisy image already.
    """

    x: Tensor
    sigma: float
    add_noise: bool


class Fit(NamedTuple):
    """How well an image explains the data of its item: squared norms, and the number of real samples."""

    residual: float
    data: float
    n: int

    def unexplained(self, noise_std: float, limit: float) -> bool:
        """Whether the residual exceeds 1.5 times the noise, and its excess over the noise a fraction ``limit`` of the signal."""
        noise = noise_std**2 * self.n
        signal = self.data - noise
        return self.residual > 1.5**2 * noise and signal > 0 and self.residual - noise > limit**2 * signal


class Problem:
    """What :func:`medrecon.posterior.run` needs of a scan and its physics.

    An item is an independent unknown: a slice, the frames of a slice, or a whole volume.

    Args:
        name: of the scan, for messages.
        numbers: indices of the items in the scan, for seeds and messages.
        geometry: of the images.
    """

    images: tuple[str, ...] = ("complex", "magnitude")
    """Kinds of prior (:data:`medrecon.posterior.ImageKind`) that fit."""
    bundle: str = "brain_mri"
    """Default prior."""
    tuned: Mapping[str, Mapping[str, Any]] = {}
    """By name of a solver, settings that suit the operator of this kind of scan; those that a user gives come first."""
    modality: str = "MR"
    """Of DICOM output."""
    real: bool = False
    """Whether images are real numbers (HU) rather than complex ones."""

    def __init__(self, name: str, numbers: Sequence[int], geometry: Geometry) -> None:
        self.name = name
        self.numbers = list(numbers)
        self.geometry = geometry

    @property
    def n_items(self) -> int:
        """Number of independent unknowns."""
        return len(self.numbers)

    @property
    def n_slices(self) -> int:
        """Number of slices of the images."""
        return len(self.numbers) if len(self.image_shape) == 3 else self.image_shape[1]

    @property
    def has_frames(self) -> bool:
        """Whether images are ``(frames, slices, y, x)``."""
        return False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, *spatial)`` as the prior sees an item."""
        raise NotImplementedError(f"{type(self).__name__} must define image_shape")

    def batches(self, size: int) -> list[slice]:
        """Items that may run together, at most ``size``."""
        return [slice(i, min(i + size, self.n_items)) for i in range(0, self.n_items, size)]

    def suited_to(self, solver: Solver) -> Problem:
        """The problem as a solver takes it.

        Raises:
            InputError: if the solver cannot work with this kind of scan.
        """
        return self

    def solver_for(self, items: slice, solver: Solver, device: torch.device) -> Solver:
        """The solver with what it needs of some items; usually itself."""
        return solver

    def start(self, items: slice, device: torch.device) -> Beginning | None:
        """Images to start from, of problems that give them; ``None``: the run starts from noise."""
        return None

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Of some items, on a device."""
        raise NotImplementedError(f"{type(self).__name__} must define likelihood")

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """From samples at unit scale to images in the scan's own units.

        Args:
            x: ``(samples, B, C, *spatial)``.
            items: which.
            scale: ``(B,)``, the ``image_scale`` of :meth:`likelihood`.

        Returns:
            ``(samples, slices, y, x)``, complex for MRI, HU for CT, magnitudes for images.
        """
        raise NotImplementedError(f"{type(self).__name__} must define to_image")

    def release(self, items: slice) -> None:
        """Drop what was worked out for items that are done, so that memory does not grow with their number."""
        return

    def check_source(self) -> None:
        """Refuse images of data that changed while they were read.

        Raises:
            InputError: naming the file.
        """
        return

    def facts(self) -> dict[str, Any]:
        """What the record says of the data: acceleration, noise level, origin of the maps, ..."""
        return {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that came up in preparing the data; complete after the last item."""
        return ()

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings on images that do not explain their data.

        Args:
            images: ``(samples, slices, y, x)``.
            fits: one per item.
            solver: that made them.

        Raises:
            InputError: for images that must not be written.
        """
        return []


def fit(likelihood: Likelihood, x: Tensor, scale: Tensor) -> tuple[list[Fit], float, float]:
    """How images ``(B, C, *spatial)`` fit their data, whose scale is ``scale`` ``(B,)``.

    Returns:
        a :class:`Fit` per item, the squared residual over all samples (also unsampled positions), and the squared residual over
        the noise variance (infinite where that is not known).
    """
    r, y = likelihood.residual(x), likelihood.y
    scale = scale.double()  # squares of very large and very small numbers
    squares = dot(r, r) * scale**2
    if not isinstance(likelihood, Gaussian):
        count = torch.full((len(r),), r[0].numel())
        each = zip(squares.tolist(), (dot(y, y) * scale**2).tolist(), count.tolist(), strict=True)
        return [Fit(*one) for one in each], float(squares.sum()), float("inf")
    std = torch.as_tensor(likelihood.noise_std).to(x).expand(len(r))
    seen = torch.where(y != 0, r, 0.0)
    over = float((dot(seen, seen) / std**2).sum()) if bool((std > 0).all()) else float("inf")
    parts = (dot(seen, seen) * scale**2, dot(y, y) * scale**2, likelihood.n_measured)
    fits = [Fit(float(a), float(b), int(n)) for a, b, n in zip(*parts, strict=True)]
    return fits, float(squares.sum()), over


def unit_scale(images: Tensor, fraction: float = 0.99) -> tuple[Tensor, Tensor]:
    """What images ``(B, C, *spatial)`` are divided by, so that a prior sees unit scale.

    Returns:
        a quantile of the magnitudes of every item ``(B,)``, 0 for an item of zeros, and the same with 1 in its place.
    """
    size = images.norm(dim=1).flatten(1)
    scale = torch.quantile(size, fraction, dim=1)
    # Images of mostly background have that quantile at 0.
    scale = torch.where(scale > 0, scale, size.amax(1))
    return scale, torch.where(scale > 0, scale, 1.0)


def chosen_slices(index: slice, n: int, name: str) -> range:
    """The indices of the slices that are asked for.

    Raises:
        InputError: if there are none, or for anything but a slice of whole numbers.
    """
    try:
        numbers = range(n)[slice(index.start, index.stop, index.step)]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: slices must be a slice such as slice(0, 4); got {shown(index)}") from error
    if not len(numbers):
        first, last = ("" if at is None else at for at in (index.start, index.stop))
        raise InputError(f"{name}: no slices in {first}:{last}; there are {n}")
    return numbers
