"""Dynamic MRI: the frames of a slice as one unknown, for low-rank solvers and for a prior frame by frame."""

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
from medrecon.data.sampling import sampling_mask, usable_samples
from medrecon.data.scan import DynamicScan
from medrecon.likelihood import Gaussian
from medrecon.operators.bridge import AsComplex
from medrecon.operators.mri import sense
from medrecon.problems.base import Fit, Scaled, chosen_slices, unit_scale
from medrecon.problems.maps import CoilProblem, given_maps, mixed_coils
from medrecon.settings import DynamicPhysics
from medrecon.solvers.base import Solver

__all__ = ["Dynamic", "dynamic_problem"]


class Dynamic(CoilProblem):
    """Frames of k-space ``(frames, slices, coils, y, x)`` with a mask each; see :func:`dynamic_problem`.

    Frames share the coil maps, which come from their mean. All frames of a slice are divided by the 99th percentile of the
    zero-filled magnitude of their mean.

    Args: as of :class:`CoilProblem`.
    """

    scan: DynamicScan

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Real and imaginary part of every frame."""
        return 2 * len(self.scan.kspace), *self.scan.matrix

    @property
    def has_frames(self) -> bool:
        """Always."""
        return True

    def _mean(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """K-space ``(coils, y, x)`` averaged over the frames that sampled it, and where any did."""
        count = self.scan.mask.sum(axis=0)
        total = (self.scan.kspace[:, item] * self.scan.mask[:, None]).sum(axis=0)
        return (total / np.maximum(count, 1)).astype(np.complex64), count > 0

    def estimated(self, item: int) -> CoilMaps:
        """By ESPIRiT from the mean of the frames."""
        mean, mask = self._mean(item)
        return coil_maps(mean, mask, self.believed, self.name, Espirit(), self.zero_filled)

    def likelihood(self, items: slice, device: torch.device) -> Scaled:
        """SENSE frame by frame."""
        maps = self.maps(items).to(device)
        mask = torch.tensor(self.scan.mask).to(device)[None, :, None]
        kspace = self.scan.kspace[:, items].swapaxes(0, 1).copy()
        y = torch.from_numpy(kspace).to(device) * mask * (1 / self.unit)
        A = sense(maps, mask)
        means = [self._mean(i) for i in range(self.n_items)[items]]
        mean = torch.from_numpy(np.stack([one for one, _ in means])).to(device) * (1 / self.unit)
        whole = sense(maps, torch.from_numpy(means[0][1]).to(device)[None, None])
        scale, unit = unit_scale(whole.adjoint(mean))
        data = Gaussian(A, y / unit.view(-1, 1, 1, 1, 1), self.noise_std / self.unit / unit)
        return Scaled(data, scale, scale)

    def to_image(self, x: Tensor, items: slice, scale: Tensor) -> Tensor:
        """Complex ``(samples, slices, frames, y, x)``, 0 where no coil sees anything."""
        seen = (self.maps(items).to(x.device) != 0).any(1) * (scale * self.unit).view(-1, 1, 1)
        frames = AsComplex()(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return frames * seen[:, None]

    def facts(self) -> dict[str, Any]:
        """Frames as well."""
        return {**super().facts(), "frames": len(self.scan.kspace), "frame_axis": self.scan.axis}

    def review(self, images: Tensor, fits: Sequence[Fit], solver: Solver) -> list[str]:
        """Warnings on images that do not fit the data; frames share maps, so that more is left over than of one frame."""
        limit = 0.5 if self.zero_filled else 0.3
        return self.unexplained(fits, self.believed / self.unit, limit)


def dynamic_problem(scan: DynamicScan, physics: DynamicPhysics) -> Dynamic:
    """The problem of frames.

    Raises:
        InputError: for data or options that cannot be used.
    """
    name = str(scan.path)
    if physics.noise_model != "gaussian":
        raise InputError(f"{name}: k-space has Gaussian noise; leave the noise model at gaussian")
    kspace = usable_samples(scan.kspace, name)
    masks = [
        sampling_mask(one, mask, name, alike=False) for one, mask in zip(kspace, scan.mask, strict=True) if one.any()
    ]
    if len(masks) < len(kspace):
        raise InputError(f"{name}: a {scan.axis} holds zeros alone; leave it out")
    scan = replace(scan, kspace=kspace, mask=np.stack([np.broadcast_to(mask, scan.matrix) for mask in masks]))
    numbers = chosen_slices(physics.slices, scan.n_slices, name)
    flat, near = kspace.reshape(-1, *kspace.shape[2:]), np.repeat(_near_centre(scan), scan.n_slices, axis=0)
    coils = mixed_coils(flat, scan.noise_scan, physics, name, lambda samples, n: compress_samples(samples, near, n))
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
    scan = scan.items(physics.slices)
    maps = physics.maps
    if maps is not None:
        maps = given_maps(maps, np.any(scan.kspace, axis=0), scan.matrix, numbers, total, name)
    facts |= {"acceleration": round(float(scan.mask.size / max(scan.mask.sum(), 1)), 4), "noise_source": source}
    return Dynamic(scan, numbers, std, min(std, outer), maps, facts)


def _near_centre(scan: DynamicScan) -> np.ndarray:
    """Of which samples of every frame, ``(frames, y, x)``: the sampled ones in the middle 24 x 24."""
    y, x = np.ogrid[tuple(slice(0, n) for n in scan.matrix)]
    middle = (np.abs(y - scan.matrix[0] // 2) <= 12) & (np.abs(x - scan.matrix[1] // 2) <= 12)
    return scan.mask & middle
