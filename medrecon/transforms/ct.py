"""Dictionary transforms on sinograms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.sinogram import load_sinogram

__all__ = ["LoadSinogramd"]


class LoadSinogramd(MapTransform):
    """Replace a path by line integrals ``(slices, views, detectors)``, and add ``angles, pitch, offset, photons``."""

    def __init__(self, keys: KeysCollection, pitch: float | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pitch = pitch

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Raises ``InputError`` for files that cannot be used."""
        out = dict(data)
        for key in self.key_iterator(out):
            loaded = load_sinogram(out[key], self.pitch)
            out[key] = MetaTensor(torch.from_numpy(loaded.lines), meta={"filename_or_obj": str(loaded.path)})
            out["angles"] = torch.from_numpy(loaded.angles)
            out["pitch"], out["offset"], out["photons"] = loaded.pitch, loaded.offset, loaded.photons
        return out
