"""Problems with coils: prewhitening and compression, and coil maps that are given or estimated slice by slice on demand."""

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
from medrecon.operators.projector import Projector
from medrecon.problems.base import Fit, Problem
from medrecon.settings import CoilPhysics, given_maps
from medrecon.solvers.base import Solver
from medrecon.solvers.classical import ZeroFilled
from medrecon.solvers.settings import name_of

__all__ = ["CoilProblem", "PreparedCoils", "array_or_file", "checked_maps", "prepare_coils", "refuse_joint"]


_C = TypeVar("_C", bound="CoilProblem")


class PreparedCoils(NamedTuple):
    """Samples after prewhitening and compression.

    Args:
        samples: samples ``(slices, coils, ...)`` of these (virtual) coils.
        noise_scan: noise scan of these coils, or ``None``.
        noise_std: noise per real component, known from prewhitening, or ``None``.
        facts: entries of the record.
    """

    samples: np.ndarray
    noise_scan: np.ndarray | None
    noise_std: float | None
    facts: dict[str, Any]


def prepare_coils(
    samples: np.ndarray,
    noise_scan: np.ndarray | None,
    physics: CoilPhysics,
    name: str,
    compress: Callable[[np.ndarray, int], tuple[np.ndarray, float]],
) -> PreparedCoils:
    """Prewhiten and compress coils as ``physics`` asks.

    Args:
        samples: samples ``(slices, coils, ...)``.
        noise_scan: noise scan ``(coils, n)``, or ``None``.
        physics: options ``whiten``, ``compress`` and ``maps``.
        name: name of the scan, for errors.
        compress: function of samples and a number of virtual coils; returns their samples and the fraction of energy kept.

    Raises:
        InputError: if prewhitening lacks a noise scan, or maps are given for the original coils.
    """
    if (physics.whiten or physics.compress) and given_maps(physics.maps) is not None:
        raise InputError(
            f"{name}: given maps belong to the original coils; leave out prewhitening (--whiten) and compression (--compress)"
        )
    std, facts = None, {}
    if physics.whiten:
        if noise_scan is None:
            raise InputError(f"{name}: --whiten needs a usable noise scan, which the file lacks; leave --whiten out")
        samples, std = prewhiten(samples, noise_covariance(noise_scan, name), name)
        noise_scan, facts["whitened"] = None, True
    if physics.compress is not None:
        check_count("compress", physics.compress, least=1, most=100_000)
        samples, energy = compress(samples, physics.compress)
        noise_scan = None
        facts |= {"virtual_coils": samples.shape[1], "coil_energy": round(energy, 6)}
    return PreparedCoils(samples, noise_scan=noise_scan, noise_std=std, facts=facts)


class CoilProblem(Problem):
    """Slices measured by several coils.

    Args:
        scan: the scan, with the selected slices only.
        numbers: their indices in the file.
        noise_std: noise per real component.
        trusted_std: ``noise_std``, but at most the noise seen in the outermost k-space; 0 if that is unknown.
        maps: given coil maps, ``(slices, coils, *matrix)``; ``None``: estimate them.
        facts: entries of the record, with ``noise_source``.
    """

    def __init__(
        self,
        scan: CartesianScan | DynamicScan | NonCartesianScan,
        numbers: Sequence[int],
        noise_std: float,
        trusted_std: float,
        maps: CoilMaps | None,
        facts: dict[str, Any],
    ) -> None:
        super().__init__(str(scan.path), numbers, scan.geometry)
        self.scan = scan
        self.noise_std = float(np.float32(noise_std))
        self.trusted_std = trusted_std
        self.given = maps
        # The data are divided by a power of two, because squares of very large or small numbers overflow.
        self.unit = magnitude_unit(scan.samples if isinstance(scan, NonCartesianScan) else scan.kspace)
        self.zero_filled = False  # whether the solver is zero-filled
        self.estimated: dict[int, CoilMaps] = {}
        self.released: dict[int, CoilMaps] = {}  # of finished items, without the maps themselves
        self._facts = {"noise_std": self.noise_std, **facts}

    def suited_to(self: _C, solver: Solver) -> _C:
        """Refuse solvers for sinograms; drop estimated maps, because the zero-filled solver estimates them differently."""
        if issubclass(solver.requires.operator, Projector):
            raise InputError(
                f"solver {name_of(solver)!r} reconstructs sinograms, not k-space; choose cg-sense or another"
            )
        out = copy.copy(self)
        out.zero_filled = isinstance(solver, ZeroFilled)
        out.estimated, out.released = {}, {}
        return out

    @property
    def acceleration(self) -> float | None:
        """Positions of k-space over sampled positions."""
        return self._facts.get("acceleration")

    def estimate(self, item: int) -> CoilMaps:
        """Maps of one slice, from its data."""
        raise NotImplementedError(f"{type(self).__name__} must define estimate")

    def maps(self, items: slice) -> Tensor:
        """Maps of some slices, complex64 ``(slices, coils, *matrix)``; estimated maps are kept until the items are released."""
        if self.given is not None:
            return self.given.maps[items]
        for i in range(self.n_items)[items]:
            if i not in self.estimated:
                self.estimated[i] = self.estimate(i)
        return torch.stack([self.estimated[i].maps for i in range(self.n_items)[items]])

    def masks(self, items: slice, device: torch.device) -> Tensor | None:
        """Sampling masks of some slices on a Cartesian grid, ``(B or 1, 1, y or 1, x)``; ``None``: no grid."""
        return None

    def release(self, items: slice) -> None:
        """Free estimated maps; keep their source and warnings."""
        for i in range(self.n_items)[items]:
            if i in self.estimated:
                one = self.estimated.pop(i)
                self.released[i] = replace(one, maps=one.maps.any()[None])

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Complex ``(samples, slices, y, x)``, 0 where all coil maps are 0: the data do not determine the image there."""
        maps = self.maps(items).to(x.device)
        support = (maps != 0).any(1) * (scale * self.unit).view(-1, *[1] * (maps.ndim - 2))
        images = AsComplex()(x.flatten(0, 1)).view(len(x), *support.shape) * support
        return images.flatten(1, 2) if images.ndim == 5 else images  # a volume: its slices

    def check_source(self) -> None:
        """Refuse a large file, whose samples are read slice by slice, if it changed."""
        if self.scan.backing is not None:
            self.scan.backing.check()

    def _slices_with_maps(self) -> list[tuple[int, CoilMaps]]:
        """Indices and maps of the slices with signal; without signal, estimated maps are 0."""
        return [
            (self.numbers[i], one) for i, one in sorted({**self.released, **self.estimated}.items()) if one.maps.any()
        ]

    def unexplained(self, fits: Sequence[Fit], noise_std: float, limit: float) -> list[str]:
        """A warning if residuals exceed the noise, and a fraction ``limit`` of the signal; see :meth:`Fit.unexplained`."""
        poor = [one.unexplained(noise_std, limit) for one in fits]
        if not any(poor):
            return []
        where = ", ".join(str(number) for number, one in zip(self.numbers, poor, strict=True) if one)
        residual = max((f.residual / f.data) ** 0.5 for f, one in zip(fits, poor, strict=True) if one)
        return [
            f"the image does not explain the data: the residual is {residual:.0%} of k-space, far more than noise (slice "
            f"{where}); check coil maps, mask and settings"
        ]

    def facts(self) -> dict[str, Any]:
        """As given, and the source of the maps."""
        found = self._slices_with_maps()
        sources = grouped_texts([(number, one.source) for number, one in found], len(found))
        estimated = "; ".join(sources) or next(
            (one.source for one in {**self.released, **self.estimated}.values()), "none"
        )
        return {**self._facts, "maps_source": estimated if self.given is None else self.given.source}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the file and the maps."""
        if self.given is not None:
            return (*self.scan.warnings, *self.given.warnings)
        found = self._slices_with_maps()
        texts = grouped_texts([(number, text) for number, one in found for text in one.warnings], len(found))
        return (*self.scan.warnings, *texts)


def refuse_joint(physics: CoilPhysics, name: str, kind: str) -> None:
    """Refuse joint estimation of maps, where only ESPIRiT is available.

    Raises:
        InputError: if ``physics`` asks for it.
    """
    if isinstance(physics.maps, str) and physics.maps == "joint":
        raise InputError(
            f"{name}: coil maps are estimated jointly for Cartesian k-space only, not for {kind}; leave out --maps joint"
        )


def array_or_file(array: np.ndarray | Tensor | str | Path, key: str) -> tuple[np.ndarray, str | None]:
    """An array, read from a file if a path is given, and the path."""
    if isinstance(array, str | Path):
        return load_array(array, key), str(array)
    return np.asarray(array), None


def checked_maps(
    maps: np.ndarray | Tensor | str | Path,
    samples: np.ndarray,
    matrix: tuple[int, ...],
    slices: Sequence[int],
    total: int,
    name: str,
) -> CoilMaps:
    """Given maps of some slices, complex64 ``(slices, coils, *matrix)``, scaled so that the sum of squares is at most 1.

    Args:
        maps: maps ``(coils, *matrix)`` or ``(slices, coils, *matrix)``, or their file.
        samples: samples of these slices, ``(slices, coils, ...)``.
        matrix: shape of the images.
        slices: indices of the slices in the scan.
        total: number of slices in the scan.
        name: name of the scan, for errors.

    Raises:
        InputError: if the maps have another shape, contain NaN or Inf, or are all zero.
    """
    array, file = array_or_file(maps, "maps")
    what, expected = f"the maps given for {name}" if file is None else file, (total, samples.shape[1], *matrix)
    if array.shape not in (expected, expected[1:]):
        raise InputError(
            f"{name if file is None else file}: the maps have shape {array.shape}, but {'k-space' if file is None else name} is "
            f"{expected} (slices, coils, y, x); give one map per coil, of the same matrix"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{what}: the maps contain NaN or Inf; estimate them again")
    sets = array[list(slices)] if array.ndim == len(expected) else np.broadcast_to(array, (len(slices), *array.shape))
    largest = float(np.sqrt((np.abs(sets).astype(np.float64) ** 2).sum(axis=1)).max())
    if largest == 0:
        raise InputError(f"{what}: the maps are all zero; estimate them again")
    source = "given"
    if abs(largest - 1) > 0.01:  # weights, step sizes and the unit of the image assume |A| <= 1
        sets, source = sets / largest, f"given, divided by {largest:.4g}"
    # The zeros of a dead coil are not measurements, but with a map they would count as such.
    alive = np.any(samples, axis=tuple(range(2, samples.ndim)))
    dead = ~alive & alive.any(axis=1, keepdims=True) & sets.any(axis=tuple(range(2, sets.ndim)))
    sets = np.where(dead.reshape(*dead.shape, *[1] * len(matrix)), 0, sets)
    warnings = ()
    if dead.any():
        coils = ", ".join(map(str, np.flatnonzero(dead.any(axis=0))))
        warnings = (f"{name}: coil {coils} has no samples; its map is not used",)
    return CoilMaps(torch.from_numpy(np.array(sets, dtype=np.complex64)), source, warnings)
