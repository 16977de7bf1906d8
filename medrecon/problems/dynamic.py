"""Dynamic MRI: all frames of a slice as one unknown, for low-rank solvers or a prior applied to each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import as_number
from medrecon.data.coils import compress_samples
from medrecon.data.errors import InputError
from medrecon.data.espirit import CoilMaps, Espirit, coil_maps
from medrecon.data.noise import noise_level, noise_scan_std
from medrecon.data.sampling import check_samples, sampling_mask
from medrecon.data.scan import DynamicScan
from medrecon.likelihood import Gaussian
from medrecon.operators.bridge import AsComplex
from medrecon.operators.mri import sense
from medrecon.problems.base import Fit, Scaled, chosen_slices, unit_scale
from medrecon.problems.maps import CoilProblem, checked_maps, prepare_coils, refuse_joint
from medrecon.settings import DynamicPhysics, given_maps
from medrecon.solvers.base import Solver

__all__ = ["Dynamic", "dynamic_problem"]


class Dynamic(CoilProblem):
    """Frames of k-space ``(frames, slices, coils, y, x)`` with one mask per frame; see :func:`dynamic_problem`.

    All frames share the coil maps, which are estimated from their mean. All frames of a slice are divided by the 99th percentile
    of the zero-filled magnitude of their mean.

    Args: as for :class:`CoilProblem`.
    """

    scan: DynamicScan

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Real and imaginary part of every frame."""
        return 2 * len(self.scan.kspace), *self.scan.matrix

    @property
    def has_frames(self) -> bool:
        """Always true."""
        return True

    def _mean(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """K-space ``(coils, y, x)`` averaged over the frames that sampled it, and where any frame did."""
        count = self.scan.mask.sum(axis=0)
        total = (self.scan.kspace[:, item] * self.scan.mask[:, None]).sum(axis=0)
        return (total / np.maximum(count, 1)).astype(np.complex64), count > 0

    def estimate(self, item: int) -> CoilMaps:
        """Maps by ESPIRiT from the mean of the frames."""
        mean, mask = self._mean(item)
        return coil_maps(mean, mask, self.trusted_std, name=self.name, settings=Espirit(), rss=self.zero_filled)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """SENSE frame by frame."""
        maps = self.maps(items).to(device)
        mask = torch.tensor(self.scan.mask).to(device)[None, :, None]
        kspace = self.scan.kspace[:, items].swapaxes(0, 1).copy()
        y = torch.from_numpy(kspace).to(device) * mask * (1 / self.unit)
        A = sense(maps, mask)
        means = [self._mean(i) for i in range(self.n_items)[items]]
        mean = torch.from_numpy(np.stack([one for one, _ in means])).to(device) * (1 / self.unit)
        A_mean = sense(maps, torch.from_numpy(means[0][1]).to(device)[None, None])
        scale, unit = unit_scale(A_mean.adjoint(mean))
        data = Gaussian(A, y / unit.view(-1, 1, 1, 1, 1), self.noise_std / self.unit / unit)
        return Scaled(data, scale, scale)

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Complex ``(samples, slices, frames, y, x)``, 0 where all coil maps are 0."""
        support = (self.maps(items).to(x.device) != 0).any(1) * (scale * self.unit).view(-1, 1, 1)
        frames = AsComplex()(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return frames * support[:, None]

    def facts(self) -> dict[str, Any]:
        """As for any coil problem, and the frames."""
        return {**super().facts(), "frames": len(self.scan.kspace), "frame_axis": self.scan.axis}

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings about images that do not fit the data; frames share maps, so residuals are larger than for one frame."""
        limit = 0.5 if self.zero_filled else 0.3
        return self.unexplained(fits, self.trusted_std / self.unit, limit)


def dynamic_problem(scan: DynamicScan, physics: DynamicPhysics) -> Dynamic:
    """The problem of a dynamic scan.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    if physics.noise_model != "gaussian":
        raise InputError(f"{name}: k-space has Gaussian noise; leave the noise model at gaussian")
    refuse_joint(physics, name, "a dynamic series")
    kspace = check_samples(scan.kspace, name)
    masks = [
        sampling_mask(one, mask, name=name, same_sampling=False)
        for one, mask in zip(kspace, scan.mask, strict=True)
        if one.any()
    ]
    if len(masks) < len(kspace):
        raise InputError(f"{name}: a {scan.axis} contains only zeros; leave it out")
    scan = replace(scan, kspace=kspace, mask=np.stack([np.broadcast_to(mask, scan.matrix) for mask in masks]))
    numbers = chosen_slices(physics.slices, scan.n_slices, name)
    flat, near = kspace.reshape(-1, *kspace.shape[2:]), np.repeat(_near_centre(scan), scan.n_slices, axis=0)
    coils = prepare_coils(
        flat, scan.noise_scan, physics, name=name, compress=lambda samples, n: compress_samples(samples, near, n)
    )
    kspace = coils.samples.reshape(*kspace.shape[:2], *coils.samples.shape[1:])
    scan, facts = replace(scan, kspace=kspace, noise_scan=coils.noise_scan), coils.facts
    std, source = coils.noise_std, "noise scan"
    if physics.noise_std is not None:
        std, source = as_number("noise_std", physics.noise_std), physics.noise_source
    outer = float(np.median([noise_level(k, m)[0] for k, m in zip(scan.kspace, scan.mask, strict=True)]))
    if std is None:
        found = None if scan.noise_scan is None else noise_scan_std(scan.noise_scan)
        std, source = (outer, "outermost k-space") if found is None else (found, "noise scan")
    total = scan.n_slices
    scan = scan.select_slices(physics.slices)
    maps = given_maps(physics.maps)
    if maps is not None:
        maps = checked_maps(maps, np.any(scan.kspace, axis=0), scan.matrix, slices=numbers, total=total, name=name)
    facts |= {"acceleration": round(float(scan.mask.size / max(scan.mask.sum(), 1)), 4), "noise_source": source}
    return Dynamic(scan, numbers, noise_std=std, trusted_std=min(std, outer), maps=maps, facts=facts)


def _near_centre(scan: DynamicScan) -> np.ndarray:
    """The sampled positions of every frame in the central 24 x 24, ``(frames, y, x)``; they determine the virtual coils."""
    y, x = np.ogrid[tuple(slice(0, n) for n in scan.matrix)]
    middle = (np.abs(y - scan.matrix[0] // 2) <= 12) & (np.abs(x - scan.matrix[1] // 2) <= 12)
    return scan.mask & middle
