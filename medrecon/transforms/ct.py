"""Transforms round the reconstruction of sinograms."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.errors import InputError
from medrecon.data.sinogram import load_sinogram
from medrecon.reconstruction import provenance
from medrecon.writers import output_paths, write_reconstruction

__all__ = ["LoadSinogramd", "SaveHounsfieldd"]


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


class SaveHounsfieldd(MapTransform):
    """Write the inferer's HU as NIfTI or HDF5 with a JSON sidecar, whole or not at all.

    Args:
        keys: of the images, ``(samples, slices, y, x)`` from ``TomographyInferer``.
        output_dir: where ``<stem>.nii.gz`` (or ``.h5``) and ``<stem>.json`` go.
        bundle_root: of the bundle, for the record.
        source_key: of the sinogram that :class:`LoadSinogramd` loaded.
        fmt: ``nifti`` or ``h5``.
        overwrite: replace existing files.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        bundle_root: str,
        source_key: str = "image",
        fmt: str = "nifti",
        overwrite: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = output_dir
        self.bundle_root = bundle_root
        self.source_key = source_key
        self.fmt = fmt
        self.overwrite = overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key."""
        for key in self.key_iterator(data):
            source = Path(str(data[self.source_key].meta["filename_or_obj"]))
            samples = np.asarray(data[key].cpu(), dtype=np.float32)
            several = samples if len(samples) > 1 else None
            for path in output_paths(self.output_dir, source.stem, self.fmt, several is not None):
                if path.exists() and path.samefile(source):
                    raise InputError(f"{path}: would replace its own input; choose another output_dir")
            record = json.loads(data[key].meta["record"])
            record = {**provenance(record, self.bundle_root), **record, "input": str(source), "affine_known": False}
            side = record["spacing_mm"]
            write_reconstruction(
                self.output_dir,
                source.stem,
                samples.mean(0),
                record,
                several,
                (1.0, side, side),
                self.fmt,
                self.overwrite,
            )
        return dict(data)
