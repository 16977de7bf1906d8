"""The likelihood of k-space whose coil maps are unknown: a start by NLINV, and a Gauss-Newton step between noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian
from medrecon.operators.base import Composed
from medrecon.operators.bridge import AsComplex
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.mri import sense
from medrecon.operators.nlinv import (
    JointMRI,
    SmoothMaps,
    invert,
    low_resolution_phase,
    root_sum_of_squares,
    safe_divide,
)

__all__ = ["FIRST_LEVEL", "JointMaps", "normalised_maps", "unknown_maps"]

FIRST_LEVEL = 1.0
"""Noise level (of images of unit scale) above which maps are not updated: the clean estimate shows no structure yet."""
_MAP_SPREAD = 10.0
"""Noise level over the change of the map coefficients that a step at that level allows."""
_STEPS = 20
"""Conjugate-gradient iterations of an update."""


def normalised_maps(model: JointMRI, coefficients: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Maps with ``sum |S|^2 = 1`` and the phase factors ``phase``, 0 where all are 0, and their root sum of squares before."""
    maps = model.maps(coefficients)
    size = root_sum_of_squares(maps)
    return safe_divide(maps, size) * phase, size


@dataclass(frozen=True, eq=False, kw_only=True)
class JointMaps(BlindGaussian):
    """SENSE with unknown coil maps: ``y = M F S x + noise``, ``S = F^-1 W c`` smooth, divided by their root sum of squares.

    Between noise levels, one Gauss-Newton step on image and maps, from the prior's estimate ``x0`` and the last ``c``, minimises

        ``|y - M F S x|^2 + noise_std^2 / sigma^2 |x - x0|^2 + alpha |c' - c|^2``

    with ``alpha = max(noise_std^2, (sigma / 10)^2)``; ``c'`` is kept, and ``x`` is left to the solver. With the image fixed at
    ``x0`` instead, its errors become errors of the maps, and the images are useless. A penalty on ``c' - c`` instead of ``c'``
    keeps the scale of the maps, which the data do not determine.

    Args:
        coefficients: map coefficients ``c``, ``(B, coils, ky, kx)``.
        phase: factors of magnitude 1 that give the maps the phase of the low-resolution image, ``(B, 1, y, x)``; constant during
            a run, so that an image keeps its phase when the maps change.
        model: bilinear model.
        updates: number of updates so far.
    """

    coefficients: Tensor
    phase: Tensor
    model: JointMRI
    updates: int = 0

    @property
    def maps(self) -> Tensor:
        """Current maps ``(B, coils, y, x)``."""
        return normalised_maps(self.model, self.coefficients, self.phase)[0]

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """``map_coefficients``, which determine the maps and are far fewer."""
        return {"map_coefficients": self.coefficients}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> JointMaps:
        """The likelihood with other ``map_coefficients``."""
        return self.with_coefficients(parameters["map_coefficients"], self.phase)

    def with_coefficients(self, coefficients: Tensor, phase: Tensor) -> JointMaps:
        """The likelihood with other coefficients and phase factors."""
        maps = normalised_maps(self.model, coefficients, phase)[0]
        return replace(self, A=_operator(self.model, maps), coefficients=coefficients, phase=phase)

    def repeated(self, n: int) -> JointMaps:
        """The likelihood of a single item as a batch of ``n`` copies, with the same parameters."""
        first = (part.expand(n, *part.shape[1:]) for part in (self.coefficients, self.phase))
        return super().repeated(n).with_coefficients(*first)

    def updated(self, x0: Tensor, sigma: float) -> JointMaps:
        """One Gauss-Newton step on image and maps; above :data:`FIRST_LEVEL` nothing changes."""
        if sigma > FIRST_LEVEL:
            return self
        size = root_sum_of_squares(self.model.maps(self.coefficients))
        image = safe_divide(AsComplex()(x0) * self.phase, size)
        noise = batch_broadcast(torch.as_tensor(self.noise_std).to(size), size) ** 2
        weights = noise / sigma**2 * size**2, noise.clamp(min=(sigma / _MAP_SPREAD) ** 2)
        _, coefficients = self.model.step(
            image,
            self.coefficients,
            self.model.sampling.adjoint(self.y),
            weights=weights,
            centre=(image, self.coefficients),
            n_cg=_STEPS,
        )
        return replace(self.with_coefficients(coefficients, self.phase), updates=self.updates + 1)

    def inverted(self, n_newton: int = 12, n_cg: int = 30, discrepancy: float = 0.9) -> tuple[Tensor, JointMaps]:
        """Image ``(B, 2, *spatial)`` and maps from the data alone, by NLINV.

        Args:
            n_newton: largest number of Newton steps.
            n_cg: conjugate-gradient iterations per Newton step.
            discrepancy: residual over the noise at which an item stops.
        """
        noise = torch.as_tensor(self.noise_std).to(self.y.real).expand(len(self.y))
        target = discrepancy * noise * self.n_measured.to(noise).sqrt()
        found = invert(self.model, self.y, target=target, n_steps=n_newton, n_cg=n_cg)
        maps = self.model.maps(found.coefficients)
        phase = low_resolution_phase(maps * found.image, maps)
        image = found.image * root_sum_of_squares(maps) * phase.conj()
        return AsComplex().adjoint(image), self.with_coefficients(found.coefficients, phase)


def _operator(model: JointMRI, maps: Tensor) -> Composed:
    return sense(maps, model.mask)


def unknown_maps(y: Tensor, mask: Tensor, noise_std: float | Tensor) -> JointMaps:
    """The likelihood of k-space with maps of 0; :meth:`JointMaps.inverted` estimates the first maps.

    Args:
        y: k-space ``(B, coils, y, x)``, 0 where not sampled.
        mask: sampling mask ``(B or 1, 1, y or 1, x)``.
        noise_std: noise per real component, a number or one per item; 0: unknown.
    """
    shape = tuple(y.shape[2:])
    model = JointMRI(mask, SmoothMaps(shape, y.dtype).to(y.device))
    A = _operator(model, torch.zeros_like(y))
    nothing, phase = model.maps.adjoint(torch.zeros_like(y)), torch.ones_like(y[:, :1])
    return JointMaps(A, y, noise_std, coefficients=nothing, phase=phase, model=model)
