"""Transforms that load sinograms, for paths and for dictionaries (the name that ends in ``d``)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from medrecon.data.scan import Sinogram
from medrecon.formats import load_sinogram

__all__ = ["LoadSinogram", "LoadSinogramd"]


class LoadSinogram(Transform):
    """Load a sinogram; see :func:`medrecon.formats.load_sinogram`.

    Args:
        detector_spacing: distance between detector pixels, mm, instead of the value in the file.
        centre: index of the detector pixel on the rotation axis, instead of the value in the file.
        axis_convention: ``middle`` or ``pixel``, see :func:`medrecon.formats.load_sinogram`.

    Raises:
        medrecon.InputError: for files that cannot be used.
    """

    def __init__(
        self,
        detector_spacing: float | None = None,
        centre: float | None = None,
        axis_convention: str | None = None,
    ) -> None:
        self.detector_spacing = detector_spacing
        self.centre = centre
        self.axis_convention = axis_convention

    def load(self, path: str | Path) -> tuple[MetaTensor, Sinogram]:
        """The tensor, and the whole content of the file."""
        loaded = load_sinogram(path, self.detector_spacing, self.centre, self.axis_convention)
        meta = {
            "filename_or_obj": str(loaded.path),
            "affine_known": False,
            "detector_spacing": loaded.detector_spacing,
            "offset": loaded.offset,
            "photons": loaded.photons,
        }
        return MetaTensor(torch.from_numpy(loaded.sinogram), meta=meta), loaded

    def __call__(self, path: str | Path) -> MetaTensor:
        """Line integrals ``(slices, views, detectors)``; the meta records ``detector_spacing``, ``offset`` and ``photons``."""
        return self.load(path)[0]


class LoadSinogramd(MapTransform):
    """:class:`LoadSinogram` of every key; adds ``angles``, ``detector_spacing``, ``offset`` and ``photons``.

    Args:
        keys: keys of the paths.
        detector_spacing: see :class:`LoadSinogram`.
        centre: see :class:`LoadSinogram`.
        allow_missing_keys: as in MONAI.
        axis_convention: see :class:`LoadSinogram`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        detector_spacing: float | None = None,
        centre: float | None = None,
        allow_missing_keys: bool = False,
        axis_convention: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadSinogram(detector_spacing, centre, axis_convention)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key.

        Raises:
            medrecon.InputError: for files that cannot be used.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            out[key], loaded = self.load.load(out[key])
            out["angles"] = torch.from_numpy(loaded.angles)
            out["detector_spacing"] = loaded.detector_spacing
            out["offset"], out["photons"] = loaded.offset, loaded.photons
        return out
