"""A problem: ``y = A x + noise`` for every slice of a scan, at the unit scale that priors expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.likelihood import BlindGaussian, Gaussian, Likelihood
from medrecon.operators.linalg import dot
from medrecon.solvers.base import Solver

__all__ = ["Fit", "InitialImages", "Problem", "Scaled", "chosen_slices", "fit", "unit_scale", "volume_scale"]


class Scaled(NamedTuple):
    """The likelihood of some items, at unit scale.

    Args:
        likelihood: likelihood of images at unit scale.
        image_scale: factor ``(B,)`` from unit scale to the images of the scan; 0 for an item without signal.
        data_scale: factor ``(B,)`` from the data of the likelihood to the data of the scan.
    """

    likelihood: Likelihood
    image_scale: Tensor
    data_scale: Tensor


class InitialImages(NamedTuple):
    """Images that a run starts from.

    Args:
        x: images ``(B, C, *spatial)`` at unit scale.
        sigma: noise level of the start.
        add_noise: whether to add noise of this level; false if ``x`` is a noisy image already.
    """

    x: Tensor
    sigma: float
    add_noise: bool


class Fit(NamedTuple):
    """How well an image fits the data of its item.

    Args:
        residual: squared norm of the residual.
        data: squared norm of the data.
        n: number of measured real values.
    """

    residual: float
    data: float
    n: int

    def unexplained(self, noise_std: float, limit: float) -> bool:
        """Whether the residual exceeds 1.5 times the noise, and its excess over the noise a fraction ``limit`` of the signal."""
        noise = noise_std**2 * self.n
        signal = self.data - noise
        return self.residual > 1.5**2 * noise and signal > 0 and self.residual - noise > limit**2 * signal


class Problem:
    """A scan and its physics, as :func:`medrecon.posterior.run` needs them.

    An item is an independent unknown: a slice, the frames of a slice, or a whole volume.

    Args:
        name: name of the scan, for messages.
        numbers: indices of the items in the scan, for seeds and messages.
        geometry: geometry of the images.
    """

    images: tuple[str, ...] = ("complex", "magnitude")
    """Kinds of prior (:data:`medrecon.posterior.ImageKind`) that this problem can use."""
    bundle: str = "brain_mri"
    """Name of the default prior."""
    tuned: Mapping[str, Mapping[str, Any]] = {}
    """Settings for this kind of scan, by the name of the solver; a user's settings override them."""
    modality: str = "MR"
    """Modality of DICOM output."""
    real: bool = False
    """Whether images are real (HU, magnitudes), not complex."""
    unit_fraction: float = 0.99
    """Quantile of the magnitudes that is 1 at unit scale."""
    z_correlation: float | None = None
    """Default correlation of the noise between slices; ``None``: items have one stream of numbers."""
    needs_related_slices: bool = False
    """Whether the data of a volume determine means of its slices alone, so that a prior of slices is not enough."""
    is_blind: bool = False
    """Whether :meth:`likelihood` returns a :class:`medrecon.likelihood.BlindGaussian`, whose parameters are estimated."""

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
    def acceleration(self) -> float | None:
        """Measurements that the image needs without a prior, over those that were made; ``None`` where that has no meaning.

        Numbers of network evaluations, and settings that suit them, depend on it.
        """
        return None

    @property
    def has_frames(self) -> bool:
        """Whether images are ``(frames, slices, y, x)``."""
        return False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, *spatial)`` as the prior sees an item."""
        raise NotImplementedError(f"{type(self).__name__} must define image_shape")

    @property
    def slicewise(self) -> Problem:
        """The problem with slices as items, where the slices of a volume have measurements of their own."""
        return self

    def slices_of(self, items: slice) -> list[int] | None:
        """Indices of the slices of an item that is a volume; ``None`` for other items."""
        return list(range(self.image_shape[1])) if len(self.image_shape) == 4 else None

    def seed_numbers(self, items: slice) -> list[int]:
        """Numbers of some items from which their seeds are made."""
        return self.numbers[items]

    def magnitudes(self, scaled: Scaled) -> Tensor | None:
        """Magnitudes in units of the scan that determine the unit scale of some items; ``None`` if the scale is fixed."""
        return None

    def batches(self, size: int) -> list[slice]:
        """Slices of items that run as one batch, of at most ``size`` items."""
        return [slice(i, min(i + size, self.n_items)) for i in range(0, self.n_items, size)]

    def suited_to(self, solver: Solver) -> Problem:
        """A copy of the problem, adapted to a solver.

        Raises:
            InputError: if the solver cannot work with this kind of scan.
        """
        return self

    def prepare(self, device: torch.device) -> None:
        """Compute what all items need, before the first one."""
        return

    def solver_for(self, items: slice, solver: Solver, device: torch.device) -> Solver:
        """The solver adapted to some items; by default unchanged."""
        return solver

    def start(self, items: slice, device: torch.device) -> InitialImages | None:
        """Images that the run starts from; ``None``: start from noise."""
        return None

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """The likelihood of some items, on a device."""
        raise NotImplementedError(f"{type(self).__name__} must define likelihood")

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Convert samples at unit scale to images in the units of the scan.

        Args:
            x: samples ``(samples, B, C, *spatial)``.
            items: the items that ``x`` holds.
            scale: the ``image_scale`` of :meth:`likelihood`, ``(B,)``.

        Returns:
            ``(samples, slices, y, x)``, complex for MRI, HU for CT, magnitudes for images.
        """
        raise NotImplementedError(f"{type(self).__name__} must define to_image")

    def difference_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Magnitude of a difference of samples, in the units of the scan; 0 where :meth:`to_image` does not show the sample.

        Args: as for :meth:`to_image`.

        Returns:
            real, of the shape of :meth:`to_image`.
        """
        return (self.to_image(x, items, scale) - self.to_image(torch.zeros_like(x[:1]), items, scale)).abs()

    def fits(self, scaled: Scaled, x: Tensor, items: slice) -> tuple[list[Fit], float, float]:
        """How images ``(B, C, *spatial)`` fit the data of some items; see :func:`fit`."""
        return fit(scaled.likelihood, x, scaled.data_scale)

    def own(self, items: slice) -> slice:
        """The slices of the images of some items that belong to no other items as well."""
        return slice(None)

    def join(self, images: Sequence[Tensor]) -> Tensor:
        """Images ``(samples, slices, ...)`` of all items, from those of batches of items."""
        return torch.cat(list(images), dim=1)

    def keep(self, items: slice, data: BlindGaussian) -> None:
        """Keep the estimated parameters of some items, for :meth:`to_image` and :meth:`facts`.

        Args:
            items: the items.
            data: likelihood with their final parameters; of several samples the mean.
        """
        return

    def release(self, items: slice) -> None:
        """Free intermediate results of finished items, so that memory does not grow with their number."""
        return

    def check_source(self) -> None:
        """Refuse data that changed on disk while they were read.

        Raises:
            InputError: naming the file.
        """
        return

    def facts(self) -> dict[str, Any]:
        """Entries of the record on the data: acceleration, noise level, source of the maps, ..."""
        return {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings from preparing the data; complete after the last item."""
        return ()

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings about images that do not fit their data.

        Args:
            images: images ``(samples, slices, y, x)``.
            fits: one fit per item.
            solver: the solver that reconstructed them.

        Raises:
            InputError: for images that must not be written.
        """
        return []


def fit(likelihood: Likelihood, x: Tensor, scale: Tensor, items: slice = slice(None)) -> tuple[list[Fit], float, float]:
    """How images ``(B, C, *spatial)`` fit their data, whose scale is ``scale`` ``(B,)``; of ``items`` only.

    Returns:
        a :class:`Fit` per item, the squared residual over all positions (unsampled ones included), and the squared residual
        divided by the noise variance (infinite if the variance is unknown).
    """
    r, y = likelihood.residual(x)[items], likelihood.y[items]
    scale = scale.double()[items]  # squares of very large or small numbers overflow single precision
    squares = dot(r, r) * scale**2
    if not isinstance(likelihood, Gaussian):
        count = torch.full((len(r),), r[0].numel())
        each = zip(squares.tolist(), (dot(y, y) * scale**2).tolist(), count.tolist(), strict=True)
        return [Fit(*one) for one in each], float(squares.sum()), float("inf")
    std = torch.as_tensor(likelihood.noise_std).to(x).expand(len(x))[items]
    measured = torch.where(y != 0, r, 0.0)
    over = float((dot(measured, measured) / std**2).sum()) if bool((std > 0).all()) else float("inf")
    parts = (dot(measured, measured) * scale**2, dot(y, y) * scale**2, likelihood.n_measured[items])
    fits = [Fit(float(a), float(b), int(n)) for a, b, n in zip(*parts, strict=True)]
    return fits, float(squares.sum()), over


def unit_scale(images: Tensor, fraction: float = 0.99) -> tuple[Tensor, Tensor]:
    """The divisors that bring images ``(B, C, *spatial)`` to unit scale.

    Returns:
        a quantile of the magnitudes of every item ``(B,)``, 0 for an item of zeros; and the same with 1 instead of 0.
    """
    magnitude = images.norm(dim=1).flatten(1)
    scale = torch.quantile(magnitude, fraction, dim=1)
    # In images that are mostly background this quantile is 0.
    scale = torch.where(scale > 0, scale, magnitude.amax(1))
    return scale, torch.where(scale > 0, scale, 1.0)


def volume_scale(magnitudes: Sequence[np.ndarray], fraction: float) -> float:
    """One divisor for all slices of a volume: a quantile of their magnitudes (flat arrays), or the maximum if that is 0.

    torch.quantile, which :func:`unit_scale` takes, is limited to 16 million values.
    """
    every = np.concatenate(magnitudes)
    return float(np.quantile(every, fraction)) or float(every.max())


def chosen_slices(index: slice, n: int, name: str) -> range:
    """The indices of the selected slices.

    Raises:
        InputError: if no slice is selected, or ``index`` is not a slice of whole numbers.
    """
    try:
        numbers = range(n)[slice(index.start, index.stop, index.step)]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: slices must be a slice such as slice(0, 4); got {shown(index)}") from error
    if not len(numbers):
        first, last = ("" if at is None else at for at in (index.start, index.stop))
        raise InputError(f"{name}: no slices in {first}:{last}; there are {n}")
    return numbers
