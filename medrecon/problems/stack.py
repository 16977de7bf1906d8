"""A stack of slices as one unknown: the slices keep their measurements, and the prior and the noise may couple them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.likelihood import BlindGaussian, Gaussian, Transmission
from medrecon.operators.base import LinearOperator
from medrecon.operators.blocks import Slices
from medrecon.operators.projector import Projector
from medrecon.operators.weights import Multiple
from medrecon.problems.base import Fit, Problem, Scaled, fit, volume_scale
from medrecon.solvers.base import Solver
from medrecon.solvers.r2d2 import R2D2
from medrecon.solvers.settings import name_of

__all__ = ["Stack"]


class _Units(NamedTuple):
    """Scales of a volume, from those of its slices.

    Args:
        scale: factor from unit scale to the images of the scan, the same for all slices; 0 without signal.
        data_scale: factor from the data of the volume to those of the scan.
        factors: factor of the operator of every slice, at most 1, ``(z,)``.
        data: factor from the data of the slice's own likelihood to those of the volume, ``(z,)``.
        noise_std: noise of the volume's data.
        filled: whether a slice has signal, ``(z,)``.
    """

    scale: float
    data_scale: float
    factors: Tensor
    data: Tensor
    noise_std: float
    filled: Tensor


class Stack(Problem):
    """All slices of a problem as one unknown ``(C, z, y, x)`` with one scale and one noise level.

    A volume that does not fit into memory is cut into slabs of slices that overlap. An item is a slab (one slab: the whole
    volume). Scale, noise level and random numbers are those of the whole volume, whatever the slabs.

    Args:
        inner: problem of the slices, one by one.
    """

    z_correlation: float | None = 0.0

    def __init__(self, inner: Problem) -> None:
        super().__init__(inner.name, inner.numbers, inner.geometry)
        self.inner = inner
        self.images, self.bundle, self.tuned = inner.images, inner.bundle, inner.tuned
        self.modality, self.real = inner.modality, inner.real
        self.slabs = [range(len(inner.numbers))]
        self._units: _Units | None = None

    def with_slabs(self, slabs: Sequence[range]) -> Stack:
        """A copy that is cut into slabs, in ascending order, which together contain all slices."""
        out = copy.copy(self)
        out.slabs = list(slabs)
        return out

    @property
    def n_items(self) -> int:
        """Number of slabs."""
        return len(self.slabs)

    @property
    def acceleration(self) -> float | None:
        """That of the slices."""
        return self.inner.acceleration

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, z, y, x)``."""
        channels, *plane = self.inner.image_shape
        return channels, len(self.inner.numbers), *plane

    @property
    def slicewise(self) -> Problem:
        """The problem of the slices, one by one."""
        return self.inner

    def batches(self, size: int) -> list[slice]:
        """Slabs one by one."""
        return super().batches(1)

    def suited_to(self, solver: Solver) -> Stack:
        """A copy whose slices suit the solver.

        Raises:
            InputError: if the solver cannot work with volumes.
        """
        name = name_of(solver)
        if solver.has_particles or isinstance(solver, R2D2):
            raise InputError(f"{self.name}: solver {name!r} works on single slices; leave volume out, or choose dds")
        if issubclass(solver.requires.operator, Projector):
            raise InputError(f"{self.name}: solver {name!r} works slice by slice; leave volume out")
        out = copy.copy(self)
        out.inner, out._units = self.inner.suited_to(solver), None
        return out

    def solver_for(self, items: slice, solver: Solver, device: torch.device) -> Solver:
        """The solver itself.

        Raises:
            InputError: if it needs the coil maps of every slice.
        """
        if self.inner.solver_for(slice(0, 1), solver, device) is not solver:
            raise InputError(f"{self.name}: hybrid coil images are reconstructed slice by slice; leave volume out")
        return solver

    def slices_of(self, items: slice) -> list[int]:
        """Indices in the scan of the slices of a slab."""
        slab = self._slab(items)
        return self.numbers[slab.start : slab.stop]

    def seed_numbers(self, items: slice) -> list[int]:
        """The same for all slabs; the noise of a slice depends on its index."""
        return [-1]

    def _slab(self, items: slice) -> range:
        (slab,) = self.slabs[items]
        return slab

    def own(self, items: slice) -> slice:
        """The slices of a slab, counted from its first, that are not nearer to the middle of another slab."""
        index = range(self.n_items)[items].start
        slab = self.slabs[index]
        first = 0 if index == 0 else _cut(self.slabs[index - 1], slab) - slab.start
        last = len(slab) if index == self.n_items - 1 else _cut(slab, self.slabs[index + 1]) - slab.start
        return slice(first, last)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """The likelihood of a slab.

        Raises:
            InputError: for noise models that volumes do not have.
        """
        units, slab = self._prepared(device), self._slab(items)
        at = slice(slab.start, slab.stop)
        one = self.inner.likelihood(at, device).likelihood
        like = torch.ones(1, device=device)
        scaled = Scaled(one, units.scale * like, units.data_scale * like)
        if isinstance(one, Transmission):
            return scaled._replace(likelihood=replace(one, A=Slices(one.A, len(slab)), y=one.y[None]))
        if not isinstance(one, Gaussian) or isinstance(one, BlindGaussian):
            raise InputError(
                f"{self.name}: {type(one).__name__} data are reconstructed slice by slice; leave volume out"
            )
        factors, data = (each[at].to(device) for each in (units.factors, units.data))
        A: LinearOperator = one.A if torch.allclose(factors, factors.new_ones(())) else Multiple(one.A, factors)
        y = one.y * data.to(one.y.real.dtype).view(-1, *[1] * (one.y.ndim - 1))
        return scaled._replace(likelihood=Gaussian(Slices(A, len(slab)), y[None], units.noise_std * like))

    def prepare(self, device: torch.device) -> None:
        """Find scale and noise level of the whole volume, and its coil maps."""
        self._prepared(device)

    def _prepared(self, device: torch.device) -> _Units:
        """Scales of the whole volume, from all slices; coil maps that are estimated for them are kept."""
        if self._units is None:
            n = len(self.numbers)
            parts, magnitudes = [], []
            for i in range(0, n, 4):
                scaled = self.inner.likelihood(slice(i, min(i + 4, n)), device)
                parts.append(_scales_of_slices(scaled))
                found = self.inner.magnitudes(scaled)
                if found is not None:
                    magnitudes.append(found.flatten().cpu().numpy())
            unit, data, std = (torch.cat(each) for each in zip(*parts, strict=True))
            scale = volume_scale(magnitudes, self.inner.unit_fraction) if magnitudes else 1.0
            self._units = _units_of_volume(unit, data, std, scale=scale)
        return self._units

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Images of the slices of a slab, ``(samples, z, y, x)``; 0 for slices without signal."""
        slab = self._slab(items)
        filled = self._prepared(x.device).filled[slab.start : slab.stop].to(x.device)
        return self.inner.to_image(x[:, 0].movedim(2, 1), slice(slab.start, slab.stop), scale * filled)

    def fits(self, scaled: Scaled, x: Tensor, items: slice) -> tuple[list[Fit], float, float]:
        """A fit per slice, for the slices that belong to the slab."""
        own = self.own(items)
        slices = replace(scaled.likelihood, A=scaled.likelihood.A.A, y=scaled.likelihood.y[0])  # type: ignore[type-var, union-attr]
        return fit(slices, x[0].movedim(1, 0), scaled.data_scale.expand(len(self._slab(items))), items=own)

    def join(self, images: Sequence[Tensor]) -> Tensor:
        """The volume of its slabs ``(samples, z, ...)``; where two overlap, one fades linearly into the other."""
        if len(images) == 1:
            return images[0]
        whole = images[0].new_zeros(len(images[0]), len(self.numbers), *images[0].shape[2:])
        for slab, image, weight in zip(self.slabs, images, self._weights(), strict=True):
            whole[:, slab.start : slab.stop] += image * weight.view(-1, *[1] * (image.ndim - 2))
        return whole

    def _weights(self) -> list[Tensor]:
        """Weights of the slices of every slab, which sum to 1 over the slabs: linear ramps where they overlap."""
        n = len(self.numbers)
        raw = torch.zeros(self.n_items, n)
        for k, slab in enumerate(self.slabs):
            at = torch.arange(slab.start, slab.stop)
            below = at - slab.start + 1 if slab.start else torch.full_like(at, n)
            above = slab.stop - at if slab.stop < n else torch.full_like(at, n)
            raw[k, slab.start : slab.stop] = torch.minimum(below, above).float()
        weights = raw / raw.sum(0)
        return [weights[k, slab.start : slab.stop] for k, slab in enumerate(self.slabs)]

    def release(self, items: slice) -> None:
        """Free what no further slab needs."""
        index, slab = range(self.n_items)[items].start, self._slab(items)
        end = self.slabs[index + 1].start if index + 1 < self.n_items else slab.stop
        self.inner.release(slice(slab.start, end))

    def check_source(self) -> None:
        """See :meth:`Problem.check_source`."""
        self.inner.check_source()

    def facts(self) -> dict[str, Any]:
        """Those of the slices, and the slabs."""
        facts = self.inner.facts()
        if isinstance(facts.get("noise_std"), list):
            facts["noise_std"] = float(np.median(facts["noise_std"]))
        facts["volume"] = True
        if self.n_items > 1:
            facts["slabs"] = [[self.numbers[one.start], self.numbers[one.stop - 1]] for one in self.slabs]
        return facts

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the slices."""
        return self.inner.warnings

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """See :meth:`Problem.review`."""
        return self.inner.review(images, fits, solver)


def _cut(one: range, after: range) -> int:
    """The slice in the middle of the overlap of two slabs, the first that belongs to the second."""
    return (after.start + one.stop) // 2


def _scales_of_slices(scaled: Scaled) -> tuple[Tensor, Tensor, Tensor]:
    """Image scale, data scale and noise of the data of every slice, in float64; an image scale of 0 has no signal."""
    like = scaled.image_scale.double().cpu()
    std = torch.as_tensor(scaled.likelihood.noise_std).double().cpu()
    return like, scaled.data_scale.double().cpu(), std.expand(len(like))


def _units_of_volume(unit: Tensor, data: Tensor, std: Tensor, scale: float) -> _Units:
    """Scales of a volume, from those of its slices ``(z,)``.

    In units of the scan the data of slice i are ``d_i y_i = (d_i s / u_i) A_i x + d_i std_i n`` with x at the scale s of the
    volume. All slices are divided by one number, so that the largest factor of an operator is 1.
    """
    filled = unit > 0
    size = scale or 1.0
    d, u = (torch.where(filled, each, 1.0) for each in (data, unit))
    gains = d * size / u
    largest = float(gains[filled].max() if filled.any() else gains.max())
    noise = (d * std / largest)[filled] if filled.any() else d * std / largest
    return _Units(
        scale=scale,
        data_scale=largest,
        factors=(gains / largest).clamp(max=1.0).float(),
        data=(d / largest).float(),
        noise_std=float(noise.median()),
        filled=filled.float(),
    )
