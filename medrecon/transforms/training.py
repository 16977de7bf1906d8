"""Transforms that prepare training images for a prior."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform

from medrecon.data.phase import smooth_phase

__all__ = ["AddSmoothPhase", "AddSmoothPhased"]


class AddSmoothPhase(RandomizableTransform):
    """Turn a real image ``(1, *spatial)`` into two channels (real, imaginary) of the same magnitude and a smooth phase.

    Args:
        linear: standard deviation of the linear phase, rad per 128 pixels.
        quadratic: standard deviation of the quadratic phase, rad per 128 pixels squared.
    """

    def __init__(self, linear: float = 1.5, quadratic: float = 1.0) -> None:
        super().__init__(prob=1.0)
        self.linear = linear
        self.quadratic = quadratic

    def __call__(self, img: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Raises ``ValueError`` if ``img`` has not exactly one channel."""
        magnitude = torch.as_tensor(img, dtype=torch.float32)
        if len(magnitude) != 1:
            raise ValueError(f"AddSmoothPhase needs one channel; got shape {tuple(magnitude.shape)}")
        phase = torch.from_numpy(smooth_phase(magnitude.shape[1:], self.R, self.linear, self.quadratic))
        out = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()])
        return MetaTensor(out).copy_meta_from(img) if isinstance(img, MetaTensor) else out


class AddSmoothPhased(Randomizable, MapTransform):
    """Dictionary form of :class:`AddSmoothPhase`; every key gets a phase of its own."""

    def __init__(
        self, keys: KeysCollection, linear: float = 1.5, quadratic: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = AddSmoothPhase(linear, quadratic)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> AddSmoothPhased:
        """Seed the transform that this one wraps."""
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace every key's image."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out
