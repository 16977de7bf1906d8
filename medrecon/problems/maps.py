"""Coil sensitivities of a problem: given ones, checked, or estimated slice by slice when they are needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import check_count
from medrecon.data.coils import noise_covariance, prewhiten
from medrecon.data.errors import InputError, grouped_texts
from medrecon.data.espirit import CoilMaps
from medrecon.data.passes import magnitude_unit
from medrecon.data.scan import CartesianScan, DynamicScan, NonCartesianScan
from medrecon.formats import load_array
from medrecon.operators.bridge import AsComplex
from medrecon.operators.ct import Projector
from medrecon.problems.base import Fit, Problem
from medrecon.settings import CoilPhysics
from medrecon.solvers.base import Solver
from medrecon.solvers.classical import ZeroFilled
from medrecon.solvers.settings import name_of

__all__ = ["CoilProblem", "Mixed", "given_maps", "loaded", "mixed_coils"]


_C = TypeVar("_C", bound="CoilProblem")


class Mixed(NamedTuple):
    """Samples of virtual coils.

    Args:
        samples: ``(slices, coils, ...)``.
        noise_scan: that of these coils, or ``None``.
        noise_std: known from prewhitening, or ``None``.
        facts: for the record.
    """

    samples: np.ndarray
    noise_scan: np.ndarray | None
    noise_std: float | None
    facts: dict[str, Any]


def mixed_coils(
    samples: np.ndarray,
    noise_scan: np.ndarray | None,
    physics: CoilPhysics,
    name: str,
    compress: Callable[[np.ndarray, int], tuple[np.ndarray, float]],
) -> Mixed:
    """Coils prewhitened and compressed as asked.

    Args:
        samples: ``(slices, coils, ...)``.
        noise_scan: ``(coils, n)``, or ``None``.
        physics: with ``whiten``, ``compress`` and ``maps``.
        name: of the scan.
        compress: from samples and a number to so many virtual coils and the fraction of energy that they keep.

    Raises:
        InputError: where prewhitening lacks a noise scan, or maps are given for the coils as they were.
    """
    if (physics.whiten or physics.compress) and physics.maps is not None:
        raise InputError(
            f"{name}: given maps belong to the coils as they were measured; leave out whitening (--whiten) and compression "
            "(--compress)"
        )
    std, facts = None, {}
    if physics.whiten:
        if noise_scan is None:
            raise InputError(f"{name}: holds no usable noise scan, which --whiten needs; leave --whiten out")
        samples, std = prewhiten(samples, noise_covariance(noise_scan, name), name)
        noise_scan, facts["whitened"] = None, True
    if physics.compress is not None:
        check_count("compress", physics.compress, 1, 100_000)
        samples, energy = compress(samples, physics.compress)
        noise_scan = None
        facts |= {"virtual_coils": samples.shape[1], "coil_energy": round(energy, 6)}
    return Mixed(samples, noise_scan, std, facts)


class CoilProblem(Problem):
    """Slices that several coils see.

    Args:
        scan: of the slices alone.
        numbers: their indices in the file.
        noise_std: per real component.
        believed: noise level that does not exceed what the outermost k-space shows, 0 where unknown.
        maps: given ones, ``(slices, coils, *matrix)``, or ``None``: estimated.
        facts: for the record, with ``noise_source``.
    """

    def __init__(
        self,
        scan: CartesianScan | DynamicScan | NonCartesianScan,
        numbers: Sequence[int],
        noise_std: float,
        believed: float,
        maps: CoilMaps | None,
        facts: dict[str, Any],
    ) -> None:
        super().__init__(str(scan.path), numbers, scan.geometry)
        self.scan = scan
        self.noise_std = float(np.float32(noise_std))
        self.believed = believed
        self.given = maps
        # The data are divided by a power of two: squares of very large or small numbers are not numbers.
        self.unit = magnitude_unit(scan.samples if isinstance(scan, NonCartesianScan) else scan.kspace)
        self.zero_filled = False  # whether the solver asks for nothing more
        self.found: dict[int, CoilMaps] = {}
        self.done: dict[int, CoilMaps] = {}  # without their maps
        self._facts = {"noise_std": self.noise_std, **facts}

    def suited_to(self: _C, solver: Solver) -> _C:
        """Refuse solvers of sinograms; the zero-filled image needs no calibration region, another solver other maps."""
        if issubclass(solver.requires.operator, Projector):
            raise InputError(
                f"solver {name_of(solver)!r} reconstructs sinograms, not k-space; choose cg-sense or another"
            )
        out = copy.copy(self)
        out.zero_filled = isinstance(solver, ZeroFilled)
        out.found, out.done = {}, {}
        return out

    def estimated(self, item: int) -> CoilMaps:
        """Maps of one slice from its own data."""
        raise NotImplementedError(f"{type(self).__name__} must define estimated")

    def maps(self, items: slice) -> Tensor:
        """Maps of some slices, complex64 ``(slices, coils, *matrix)``; estimated ones are kept until the items are done."""
        if self.given is not None:
            return self.given.maps[items]
        for i in range(self.n_items)[items]:
            if i not in self.found:
                self.found[i] = self.estimated(i)
        return torch.stack([self.found[i].maps for i in range(self.n_items)[items]])

    def release(self, items: slice) -> None:
        """Keep where estimated maps come from, but not the maps."""
        for i in range(self.n_items)[items]:
            if i in self.found:
                one = self.found.pop(i)
                self.done[i] = replace(one, maps=one.maps.any()[None])

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Complex ``(samples, slices, y, x)``, 0 where no coil sees anything: there the data say nothing."""
        maps = self.maps(items).to(x.device)
        seen = (maps != 0).any(1) * (scale * self.unit).view(-1, *[1] * (maps.ndim - 2))
        images = AsComplex()(x.flatten(0, 1)).view(len(x), *seen.shape) * seen
        return images.flatten(1, 2) if images.ndim == 5 else images  # a volume: its slices

    def check_source(self) -> None:
        """Of a large file, whose samples are read slice by slice."""
        if self.scan.backing is not None:
            self.scan.backing.check()

    def _signals(self) -> list[tuple[int, CoilMaps]]:
        """Slices that have maps, since they have signal."""
        return [(self.numbers[i], one) for i, one in sorted({**self.done, **self.found}.items()) if one.maps.any()]

    def unexplained(self, fits: Sequence[Fit], noise_std: float, limit: float) -> list[str]:
        """A warning on images that leave more of the data over than a fraction ``limit`` of the signal, beyond the noise."""
        off = [one.unexplained(noise_std, limit) for one in fits]
        if not any(off):
            return []
        where = ", ".join(str(number) for number, one in zip(self.numbers, off, strict=True) if one)
        left = max((f.residual / f.data) ** 0.5 for f, one in zip(fits, off, strict=True) if one)
        return [
            f"the image does not explain the data: {left:.0%} of k-space is left over, far more than noise (slice {where}); "
            "check coil maps, mask and settings"
        ]

    def facts(self) -> dict[str, Any]:
        """What the problem found, and where its maps come from."""
        seen = self._signals()
        sources = grouped_texts([(number, one.source) for number, one in seen], len(seen))
        estimated = "; ".join(sources) or next((one.source for one in {**self.done, **self.found}.values()), "none")
        return {**self._facts, "maps_source": estimated if self.given is None else self.given.source}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the file, and of the maps."""
        if self.given is not None:
            return (*self.scan.warnings, *self.given.warnings)
        seen = self._signals()
        texts = grouped_texts([(number, text) for number, one in seen for text in one.warnings], len(seen))
        return (*self.scan.warnings, *texts)


def loaded(array: np.ndarray | Tensor | str | Path, key: str) -> tuple[np.ndarray, str | None]:
    """An array that may be given as a file, and the file's name."""
    if isinstance(array, str | Path):
        return load_array(array, key), str(array)
    return np.asarray(array), None


def given_maps(
    maps: np.ndarray | Tensor | str | Path,
    samples: np.ndarray,
    matrix: tuple[int, ...],
    slices: Sequence[int],
    total: int,
    name: str,
) -> CoilMaps:
    """Maps of some slices, complex64 ``(slices, coils, *matrix)``, scaled so that the sum of squares is at most 1.

    Args:
        maps: ``(coils, *matrix)`` or ``(slices, coils, *matrix)``, or their file.
        samples: of these slices, ``(slices, coils, ...)``.
        matrix: of the images.
        slices: their indices in the scan.
        total: number of slices of the scan.
        name: of the scan.

    Raises:
        InputError: for maps of another shape, of NaN or Inf, or of zeros.
    """
    array, file = loaded(maps, "maps")
    what, expected = f"the maps given for {name}" if file is None else file, (total, samples.shape[1], *matrix)
    if array.shape not in (expected, expected[1:]):
        raise InputError(
            f"{name if file is None else file}: the maps have shape {array.shape}, but {'k-space' if file is None else name} is "
            f"{expected} (slices, coils, y, x); give one map per coil, of the same matrix"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{what}: NaN or Inf in the maps; estimate them again")
    sets = array[list(slices)] if array.ndim == len(expected) else np.broadcast_to(array, (len(slices), *array.shape))
    largest = float(np.sqrt((np.abs(sets).astype(np.float64) ** 2).sum(axis=1)).max())
    if largest == 0:
        raise InputError(f"{what}: all zeros; estimate the maps again")
    source = "given"
    if abs(largest - 1) > 0.01:  # |A| <= 1 is what weights, steps and the unit of the image rest on
        sets, source = sets / largest, f"given, divided by {largest:.4g}"
    # Zeros of a dead coil are no data, which a map would make of them.
    alive = np.any(samples, axis=tuple(range(2, samples.ndim)))
    dead = ~alive & alive.any(axis=1, keepdims=True) & sets.any(axis=tuple(range(2, sets.ndim)))
    sets = np.where(dead.reshape(*dead.shape, *[1] * len(matrix)), 0, sets)
    said = f"{name}: coil {', '.join(map(str, np.flatnonzero(dead.any(axis=0))))} holds no samples; its map is not used"
    return CoilMaps(torch.from_numpy(np.array(sets, dtype=np.complex64)), source, (said,) if dead.any() else ())
