"""Cartesian k-space whose coil maps are estimated: by ESPIRiT before the image, or jointly with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from medrecon.data.errors import InputError
from medrecon.data.espirit import CoilMaps, has_signal
from medrecon.joint_maps import JointMaps, unknown_maps
from medrecon.likelihood import BlindGaussian
from medrecon.operators.bridge import AsComplex
from medrecon.operators.nlinv import root_sum_of_squares
from medrecon.problems.base import Scaled, unit_scale
from medrecon.problems.cartesian import Cartesian, calibration_lines
from medrecon.solvers.base import Solver
from medrecon.solvers.nlinv import NLINV
from medrecon.solvers.settings import name_of

__all__ = ["EstimatedMaps"]

_SAFE_LINES = 4
"""Calibration lines below which the image may be wrong."""
_NLINV = "joint estimation (NLINV)"
_E = TypeVar("_E", bound="EstimatedMaps")


class EstimatedMaps(Cartesian):
    """Cartesian k-space of several coils, with maps from ESPIRiT or from joint estimation.

    Jointly estimated maps start from NLINV. Solvers with a prior update them between noise levels
    (:class:`medrecon.joint_maps.JointMaps`); classical solvers and particle solvers keep them.
    """

    method: str = "auto espirit"
    """``espirit``, ``joint``, or what ``auto`` chose: ``auto espirit``, ``auto joint`` or ``auto joint with a prior``."""
    by_nlinv: bool = False
    """Whether the solver is NLINV."""
    in_volume: bool = False
    """Whether the slices are one volume, whose maps stay as they are."""
    estimates_maps = True

    def suited_to(self: _E, solver: Solver) -> _E:
        """Decide whether maps are estimated with the image: NLINV always does, particle solvers never.

        Raises:
            InputError: if the solver and the requested maps contradict each other.
        """
        by_nlinv = isinstance(solver, NLINV)
        if by_nlinv and self.method == "espirit":
            raise InputError(f"{self.name}: solver 'nlinv' estimates coil maps itself; leave out --maps espirit")
        if by_nlinv and self.in_volume:
            raise InputError(
                f"{self.name}: solver 'nlinv' works slice by slice; leave out --volume, or choose cg-sense"
            )
        if solver.has_particles and self.method == "joint":
            raise InputError(
                f"{self.name}: solver {name_of(solver)!r} weighs particles by one set of coil maps, which joint estimation "
                "changes; choose the solver dds, or leave out --maps joint"
            )
        out = super().suited_to(solver)
        if by_nlinv:
            out.method, out.sets, out._facts = "joint", 1, {**self._facts, "map_sets": 1}
        out.by_nlinv = by_nlinv
        keeps_maps = self.in_volume or solver.has_particles or not solver.requires.prior
        out.is_blind = by_nlinv or ("joint" in out.method and not keeps_maps)
        return out

    @property
    def _by_joint_estimation(self) -> bool:
        """Whether maps are not from ESPIRiT; the zero-filled image needs no NLINV."""
        if self.zero_filled:
            return self.method == "joint"
        return self.is_blind or self.method in ("joint", "auto joint")

    @property
    def warnings(self) -> tuple[str, ...]:
        """As for any coil problem, and one about few calibration lines."""
        common = np.asarray(self.mask.all(axis=0)) if self.mask.ndim == 3 else self.mask
        lines = calibration_lines(common, tuple(self.kspace.shape[2:]))
        if lines >= _SAFE_LINES or not self._by_joint_estimation:
            return super().warnings
        return (
            *super().warnings,
            f"{self.name}: the fully sampled centre has {lines} lines; coil maps estimated from so few may be wrong, and "
            "aliasing may remain",
        )

    def estimate(self, item: int) -> CoilMaps:
        """Maps by NLINV or ESPIRiT."""
        if not self._by_joint_estimation:
            return super().estimate(item)
        data = self._unknown(slice(item, item + 1), torch.device("cpu"))
        return CoilMaps(self._started(data, slice(item, item + 1)).maps[0], _NLINV)

    def _unknown(self, items: slice, device: torch.device) -> JointMaps:
        """K-space of some items, without maps yet."""
        mask = self.masks(items, device)
        kspace = torch.from_numpy(self.kspace[items].copy()).to(device) * mask * (1 / self.unit)
        return unknown_maps(kspace, mask, self.trusted_std / self.unit)

    def _started(self, data: JointMaps, items: slice) -> JointMaps:
        """The first maps, by NLINV; 0 for items without signal above the noise, which would give maps of noise."""
        started = data.inverted()[1]
        seen = [has_signal(kspace, self.trusted_std) for kspace in self._measured()[items]]
        keep = torch.tensor(seen, device=data.y.device).view(-1, 1, 1, 1)
        return started.with_coefficients(started.coefficients * keep, started.phase)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Gaussian likelihood of masked k-space, with unknown maps if the solver estimates them."""
        if not self.is_blind:
            return super().likelihood(items, device)
        data = self._unknown(items, device)
        if self.by_nlinv:  # which estimates its own first maps
            image = root_sum_of_squares(data.model.sampling.adjoint(data.y)).to(data.y.dtype)
            image = AsComplex().adjoint(image)
        else:
            data = self._started(data, items)
            image = data.adjoint_y
        scale, unit = unit_scale(image)
        noise = self.noise_std / self.unit / unit
        return Scaled(replace(data, y=data.y / unit.view(-1, 1, 1, 1), noise_std=noise), scale, scale)

    def facts(self) -> dict[str, Any]:
        """As for Cartesian scans, and ``joint_maps`` if maps are not from ESPIRiT."""
        return {**super().facts(), **({"joint_maps": True} if self._by_joint_estimation else {})}

    def keep(self, items: slice, data: BlindGaussian) -> None:
        """Keep the final maps."""
        if not isinstance(data, JointMaps):
            return
        source = _NLINV if data.updates == 0 else f"{_NLINV}, updated {data.updates} times with the image"
        for i, maps in zip(range(self.n_items)[items], data.maps.cpu(), strict=True):
            self.estimated[i] = CoilMaps(maps, source)
