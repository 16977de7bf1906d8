"""Cartesian multicoil MRI: SENSE with given or estimated coil maps, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import as_number
from medrecon.data.coils import compress_coils
from medrecon.data.errors import InputError
from medrecon.data.espirit import CoilMaps, Espirit, choose_sets, coil_maps, has_signal, trusted_noise
from medrecon.data.masks import achieved_acceleration, acs_block
from medrecon.data.noise import noise_level
from medrecon.data.passes import apply_mask
from medrecon.data.sampling import check_samples, mask_from_zeros, masks_of_slices, rounding_warnings, sampling_mask
from medrecon.data.scan import CartesianScan
from medrecon.likelihood import Gaussian
from medrecon.operators.base import LinearOperator
from medrecon.operators.bridge import AsComplex
from medrecon.operators.mri import sense
from medrecon.problems.base import Fit, Scaled, chosen_slices, unit_scale
from medrecon.problems.maps import CoilProblem, array_or_file, checked_maps, prepare_coils
from medrecon.settings import CartesianPhysics, given_maps
from medrecon.solvers.base import Solver
from medrecon.solvers.nlinv import NLINV

__all__ = ["Cartesian", "calibration_lines", "cartesian_parts"]


_K = TypeVar("_K", bound="Cartesian")
_JOINT_LINES = 2
"""Smallest calibration region for joint estimation: without one, equidistant aliasing looks like coil maps."""
_ESPIRIT_LINES = 12
"""Smallest calibration region for ESPIRiT; with fewer lines joint estimation with a prior is better (docs/maps.md)."""
_CLASSICAL_LINES = 6
"""The same for solvers without a prior, whose maps come from NLINV."""


class Cartesian(CoilProblem):
    """Slices of k-space ``(slices, coils, y, x)``, zero where not sampled; see :func:`cartesian_parts`.

    Every slice is divided by the 99th percentile of its zero-filled magnitude, so that the prior sees images of unit scale; the
    result is multiplied by it again.

    Args: as for :class:`CoilProblem`, and
        mask: sampling mask, bool ``(x,)`` or ``(y, x)``, or one per slice ``(slices, y, x)``; true where sampled.
        sets: number of sets of maps to estimate; 2 where the object is larger than the field of view.
    """

    scan: CartesianScan
    estimates_maps: bool = False
    """Whether maps may be estimated jointly with the image."""

    def __init__(
        self,
        scan: CartesianScan,
        numbers: Sequence[int],
        mask: np.ndarray,
        noise_std: float,
        trusted_std: float,
        maps: CoilMaps | None,
        sets: int,
        facts: dict[str, Any],
    ) -> None:
        super().__init__(scan, numbers, noise_std=noise_std, trusted_std=trusted_std, maps=maps, facts=facts)
        self.kspace = scan.kspace
        self.mask = mask
        self.sets = sets

    def suited_to(self: _K, solver: Solver) -> _K:
        """Refuse NLINV if maps are given, not needed, or for coil images."""
        if isinstance(solver, NLINV) and not self.estimates_maps:
            raise InputError(
                f"{self.name}: solver 'nlinv' estimates the maps of several coils; leave out given maps (--maps) and coil images "
                "(--coil-images), or choose another solver, such as cg-sense"
            )
        return super().suited_to(solver)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Real and imaginary part of the image of every set of maps."""
        return 2 * self.sets, *self.kspace.shape[2:]

    def mask_of(self, item: int) -> np.ndarray:
        """The sampling mask of a slice, ``(x,)`` or ``(y, x)``."""
        return self.mask[item] if self.mask.ndim == 3 else self.mask

    def _measured(self) -> list[np.ndarray]:
        """Measured k-space of every slice."""
        return [k * self.mask_of(i) for i, k in enumerate(self.kspace)]

    def estimate(self, item: int) -> CoilMaps:
        """Maps by ESPIRiT, or its fallbacks; see :func:`medrecon.data.espirit.coil_maps`."""
        mask = self.mask_of(item)
        return coil_maps(
            self.kspace[item] * mask,
            mask,
            self.trusted_std,
            name=self.name,
            settings=Espirit(sets=self.sets),
            rss=self.zero_filled,
        )

    def _operator(self, items: slice, mask: Tensor) -> LinearOperator:
        """SENSE, or a masked Fourier transform for a single coil; ``mask`` is ``(B or 1, 1, y or 1, x)``, on the device."""
        maps = self.maps(items).to(mask.device)
        single = maps.shape[1] == 1 and bool((maps == 1).all())
        return sense(None if single else maps, mask, tuple(self.kspace.shape[2:]))

    def masks(self, items: slice, device: torch.device) -> Tensor:
        """Sampling masks of some slices, or the one of all, ``(B or 1, 1, y or 1, x)``."""
        masks = self.mask[items] if self.mask.ndim == 3 else np.atleast_2d(self.mask)[None]
        return torch.from_numpy(masks[:, None].copy()).to(device)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """Gaussian likelihood of masked k-space."""
        mask = self.masks(items, device)
        kspace = torch.from_numpy(self.kspace[items].copy()).to(device) * mask * (1 / self.unit)
        A = self._operator(items, mask)
        scale, unit = unit_scale(A.adjoint(kspace), self.unit_fraction)
        data = Gaussian(A, kspace / unit.view(-1, 1, 1, 1), self.noise_std / self.unit / unit)
        return Scaled(data, scale, scale)

    def magnitudes(self, scaled: Scaled) -> Tensor:
        """Those of the zero-filled images."""
        unit = torch.where(scaled.image_scale > 0, scaled.image_scale, 1.0)
        zero_filled: Tensor = scaled.likelihood.adjoint_y  # type: ignore[attr-defined]
        return zero_filled.norm(dim=1) * unit.view(-1, 1, 1)

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """For several sets of maps, the root sum of squares of their images, with the phase of the first."""
        if self.sets == 1:
            return super().to_image(x, items, scale)
        maps = self.maps(items).to(x.device)
        images = AsComplex()(x.flatten(0, 1)).unflatten(0, x.shape[:2]) * (maps != 0).any(2)
        magnitude = images.abs().square().sum(2).sqrt() * (scale * self.unit).view(-1, 1, 1)
        return torch.polar(magnitude, images[:, :, 0].angle())

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings about a noise level or images that do not fit the data.

        Raises:
            InputError: if an image is empty although its k-space has signal.
        """
        for number, k, image in zip(self.numbers, self._measured(), images.movedim(1, 0), strict=True):
            if not image.any() and has_signal(k, self.trusted_std):
                raise InputError(
                    f"the image of slice {number} is empty although its k-space has signal; give other coil maps, or a noise "
                    "level that fits the data"
                )
        return [*self._noise_warnings(solver), *self._fit_warnings(fits), *self._signal_warnings(images)]

    def _noise_warnings(self, solver: Solver) -> list[str]:
        """A warning if the noise level exceeds three times the noise in k-space (from a noise scan, the reader checked it)."""
        std, trusted_std = self.noise_std, self.trusted_std
        if self._facts["noise_source"] == "noise scan" or trusted_std <= 0 or std <= 3 * trusted_std:
            return []
        effect = "the image may be too smooth" if solver.requires.prior else "residual_over_noise is too small"
        return [
            f"the noise level {std:.3g} is {std / trusted_std:.3g} times the noise in the outermost k-space ({trusted_std:.3g}), "
            f"so {effect}; check the noise level"
        ]

    def _fit_warnings(self, fits: Sequence[Fit]) -> list[str]:
        # Real heads at accelerations of 4 to 8 had residuals below 0.13 (zero-filled: 0.2); with empty maps they have 0.9.
        return self.unexplained(fits, self.trusted_std / self.unit, 0.5 if self.zero_filled else 0.15)

    def _signal_warnings(self, images: Tensor) -> list[str]:
        """Warnings about contrast or whole slices that are missing because they were not measured."""
        texts, shape = [], self.kspace.shape[-2:]
        middle = tuple(slice(max(n // 2 - 1, 0), n // 2 + 2) for n in shape)
        if not all(np.broadcast_to(self.mask_of(i), shape)[middle].any() for i in range(len(self.kspace))):
            texts.append(
                "the centre of k-space was not measured, so the contrast of large areas is lost; check the mask"
            )
        each = zip(self.numbers, self._measured(), images.movedim(1, 0), strict=True)
        empty = ", ".join(str(number) for number, k, image in each if k.any() and not image.any())
        if not images.any():
            texts.append("k-space has no signal above its noise, so the image is empty; check the input")
        elif empty:
            texts.append(
                f"k-space of slice {empty} has no signal above its noise, so its image is empty; check the input"
            )
        return texts


def _checked(scan: CartesianScan) -> CartesianScan:
    """Check k-space, for scans that were built in Python instead of read.

    Raises:
        InputError: if k-space is not complex with four axes, contains NaN or zeros only, or exceeds single precision.
    """
    kspace, name = scan.kspace, str(scan.path)
    if not np.iscomplexobj(kspace) or kspace.ndim != 4:
        raise InputError(f"{name}: k-space must be complex (slices, coils, y, x); got {kspace.dtype} {kspace.shape}")
    return replace(scan, kspace=check_samples(kspace, name))


def _with_mask(scan: CartesianScan, physics: CartesianPhysics) -> CartesianScan:
    """The scan with the requested mask, checked against its samples, and without samples outside it."""
    name = str(scan.path)
    if physics.mask is None:
        return replace(scan, mask=sampling_mask(scan.kspace, scan.mask, name=name, same_sampling=False))
    array, file = array_or_file(physics.mask, "mask")
    if array.ndim > 2 and array.shape[0] == scan.n_slices > 1 and (array != array[:1]).any():
        return _with_masks(scan, array, file or name)
    # The given mask may exclude the samples that the warning about rounding refers to.
    before = rounding_warnings(scan.path, scan.kspace)
    mask = sampling_mask(scan.kspace, array, name=name, mask_name=file, same_sampling=False)
    kspace = apply_mask(scan.kspace, mask)
    kept = tuple(text for text in scan.warnings if text not in before)
    return replace(scan, kspace=kspace, mask=mask, warnings=kept + rounding_warnings(scan.path, kspace))


def _with_masks(scan: CartesianScan, masks: np.ndarray, file: str) -> CartesianScan:
    """The scan with a given mask per slice ``(slices, y or 1, x)``, each checked against the samples of its slice."""
    kspace = scan.kspace.copy()
    for number, (one, mask) in enumerate(zip(scan.kspace, masks, strict=True)):
        if one.any():
            what = f"{file} (slice {number})"
            kspace[number] *= sampling_mask(one[None], mask, name=str(scan.path), mask_name=what, same_sampling=False)
    return replace(scan, kspace=kspace, mask=mask_from_zeros(kspace))


def _noise(scan: CartesianScan, kspace: np.ndarray, mask: np.ndarray) -> tuple[float, str, float]:
    """Noise level, its source, and the noise in the outermost k-space of the selected slices (0 if unknown)."""
    if mask.ndim < 3:
        # 0 if too few samples were measured
        return *noise_level(scan.kspace, scan.mask, scan.noise_scan), trusted_noise(float("inf"), kspace, mask)
    each = [(one[None], its) for one, its in zip(kspace, mask, strict=True) if one.any()]
    outer = float(np.median([trusted_noise(float("inf"), one, its) for one, its in each]))
    found = [noise_level(one, its, scan.noise_scan) for one, its in each]
    return float(np.median([std for std, _ in found])), found[0][1], outer


def _map_sets(
    scan: CartesianScan, mask: np.ndarray, outer: float, physics: CartesianPhysics
) -> tuple[int, tuple[str, ...]]:
    """Number of sets of maps to estimate, and a warning if one is requested but two are needed."""
    requested = str(physics.map_sets)
    if requested not in ("auto", "1", "2"):
        raise InputError(f"map_sets is auto, 1 or 2; got {physics.map_sets!r}")
    coils = scan.kspace.shape[1]
    if coils == 1 or physics.coil_images != "sense":
        return 1, ()
    if requested == "2":
        return 2, ()
    # Not the given noise level: if it is too small, noise counts as signal, which a single set of maps cannot describe.
    needed, text = choose_sets(scan.kspace, mask, outer, name=str(scan.path))
    if needed == 2 and physics.correct_motion:
        text = (
            f"{scan.path}: the calibration lines do not fit a single set of coil maps, because of motion between them or "
            "because the object is larger than the field of view; poses and image may be wrong; give maps of lines without "
            "motion (--maps)"
        )
    return (needed, ()) if requested == "auto" else (1, (text,) if needed == 2 else ())


def calibration_lines(mask: np.ndarray, matrix: tuple[int, ...]) -> int:
    """Smaller side of the fully sampled centre."""
    rows, columns = acs_block(np.broadcast_to(mask, matrix), _ESPIRIT_LINES)
    return min(rows.stop - rows.start, columns.stop - columns.start)


def _map_method(scan: CartesianScan, mask: np.ndarray, physics: CartesianPhysics) -> str | None:
    """How maps are estimated: ``espirit``, ``joint``, or what ``auto`` chooses: one of these, or ``joint with a prior`` only.

    ``None`` if maps are given, or there is a single coil.

    Raises:
        InputError: if joint estimation is asked for and impossible.
    """
    name, coils, joint = str(scan.path), scan.kspace.shape[1], isinstance(physics.maps, str) and physics.maps == "joint"
    if joint and coils == 1:
        raise InputError(f"{name}: k-space of a single coil has no maps to estimate; leave out --maps joint")
    if joint and str(physics.map_sets) == "2":
        raise InputError(
            f"{name}: joint estimation is of a single set of maps; leave out --map-sets, or choose --maps espirit"
        )
    if joint and physics.coil_images != "sense":
        raise InputError(
            f"{name}: joint estimation is for one image seen by all coils; leave out --coil-images or --maps joint"
        )
    if joint and physics.volume:
        raise InputError(f"{name}: maps are estimated jointly slice by slice; leave out --volume or --maps joint")
    if given_maps(physics.maps) is not None or coils == 1:
        return None
    if joint or physics.maps == "espirit":
        return "joint" if joint else "espirit"
    lines = calibration_lines(mask, scan.matrix)
    if not _JOINT_LINES <= lines < _ESPIRIT_LINES or str(physics.map_sets) == "2" or physics.coil_images != "sense":
        return "auto espirit"
    return "auto joint" if lines < _CLASSICAL_LINES else "auto joint with a prior"


def cartesian_parts(scan: CartesianScan, physics: CartesianPhysics) -> dict[str, Any]:
    """The arguments of :class:`Cartesian`, after all checks of mask, noise, coils and maps.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    if physics.noise_model != "gaussian":
        raise InputError(f"{name}: k-space has Gaussian noise; leave the noise model at gaussian")
    numbers = chosen_slices(physics.slices, scan.n_slices, name)
    given = None if physics.noise_std is None else as_number("noise_std", physics.noise_std)
    scan = _with_mask(_checked(scan), physics)
    mask = masks_of_slices(scan.kspace[physics.slices], scan.mask, name)
    common = np.asarray(mask.all(axis=0)) if mask.ndim == 3 else mask  # measured in every slice
    total = scan.n_slices
    coils = prepare_coils(
        scan.kspace, scan.noise_scan, physics,
        name=name, compress=lambda kspace, n: compress_coils(kspace, common, n, name=name),
    )  # fmt: skip
    scan, white, facts = replace(scan, kspace=coils.samples, noise_scan=coils.noise_scan), coils.noise_std, coils.facts
    measured, measured_source, outer = _noise(
        scan, scan.kspace[physics.slices] if mask.ndim == 3 else scan.kspace, mask
    )
    if given is not None:
        std, source = given, physics.noise_source
    elif white is not None:
        std, source = white, "noise scan"
    else:
        std, source = measured, measured_source
    scan = scan.select_slices(physics.slices)
    maps, method = given_maps(physics.maps), _map_method(scan, common, physics)
    if maps is not None:
        if str(physics.map_sets) == "2":
            raise InputError(f"{name}: given maps are a single set; leave out --map-sets or the maps")
        maps = checked_maps(maps, scan.kspace, scan.matrix, slices=numbers, total=total, name=name)
    sets, more = (1, ()) if method in (None, "joint") else _map_sets(scan, common, outer, physics=physics)
    if sets == 2 and method != "espirit":
        method = "auto espirit"  # joint estimation is of a single set
    scan = replace(scan, warnings=scan.warnings + more)
    sampled = mask[scan.kspace.any(axis=(1, 2, 3))] if mask.ndim == 3 else mask  # an empty slice has no mask of its own
    facts |= {"acceleration": round(achieved_acceleration(sampled), 4), "noise_source": source, "map_sets": sets}
    return {
        "scan": scan,
        "numbers": numbers,
        "mask": mask,
        "noise_std": std,
        "trusted_std": min(std, outer),
        "maps": maps,
        "method": method,
        "sets": sets,
        "facts": facts,
    }
