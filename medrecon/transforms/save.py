"""Dictionary transforms that write reconstructions."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.errors import warn
from medrecon.data.scan import Geometry
from medrecon.posterior import Reconstruction
from medrecon.reconstruction import finish_record, magnitudes, mean_phase, provenance
from medrecon.writers import Output, like_series, place, write

__all__ = ["SaveHounsfieldd", "SaveReconstructiond"]


class _Save(MapTransform):
    """What the two have in common: where files go, and that an input is never among them."""

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        bundle_root: str,
        source_key: str = "image",
        fmt: str = "nifti",
        overwrite: bool = False,
        allow_missing_keys: bool = False,
        like: str | None = None,
        deidentify: bool = False,
        like_select: Mapping[str, str | int | float] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like = like
        self.like_select = dict(like_select or {})
        self.deidentify = deidentify
        self.output_dir = output_dir
        self.bundle_root = bundle_root
        self.source_key = source_key
        self.fmt = fmt
        self.overwrite = overwrite

    def _write(self, data: Mapping[Hashable, Any], reconstruction: Reconstruction, part: str = "mag") -> None:
        """Add name, warnings and position of the source, and write; ``geometry`` holds the spacing alone so far."""
        meta = data[self.source_key].meta
        source = Path(str(meta["filename_or_obj"]))
        affine = data[self.source_key].affine.cpu().numpy() if meta.get("affine_known") else None
        like = like_series(self.like, self.like_select)
        doubts = () if like is None else like.warnings
        record = reconstruction.record
        warnings = [*(meta.get("warnings") or []), *doubts, *(record.get("warnings") or [])]
        geometry = Geometry(reconstruction.geometry.spacing, affine)
        output = Output(
            folder=self.output_dir,
            stem=source.stem,
            format=self.fmt,
            overwrite=self.overwrite,
            part=part,
            like=like,
            deidentify=self.deidentify,
            sources=[source],
        )
        write(
            replace(
                reconstruction,
                geometry=place(geometry, reconstruction.image.shape, like),
                record={**record, "input": str(source), "warnings": warnings},
            ),
            output,
        )


class SaveReconstructiond(_Save):
    """Write the inferer's images as NIfTI or HDF5 with a JSON sidecar, whole or not at all.

    Args:
        keys: of the images, complex ``(samples, slices, y, x)`` from ``PosteriorInferer``.
        output_dir: where ``<stem>.nii.gz`` (or the files of ``fmt``) and ``<stem>.json`` go.
        bundle_root: of the bundle, for the record.
        source_key: of the k-space that ``LoadKSpaced`` loaded (name, geometry).
        fmt: see :class:`medrecon.writers.Output`.
        overwrite: replace existing files.
        allow_missing_keys: as in MONAI.
        like: folder of a DICOM series whose patient and study ``dicom`` copies, and its positions where k-space has none.
        deidentify: see :class:`medrecon.writers.Output`.
        like_select: which of several series or volumes, see :func:`medrecon.formats.load_image`.
        mask_key: of the mask.
        part: ``mag``, ``mag-phase`` or ``complex``.
        maps_key: of the coil maps; where their meta name no method, the record says that they were given.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        mask_key: str = "mask",
        part: str = "mag",
        maps_key: str = "maps",
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mask_key = mask_key
        self.part = part
        self.maps_key = maps_key

    def _maps_source(self, data: Mapping[Hashable, Any]) -> str:
        maps = data.get(self.maps_key)
        return str(maps.meta.get("maps_source", "given")) if isinstance(maps, MetaTensor) else "given"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key."""
        for key in self.key_iterator(data):
            meta = data[self.source_key].meta
            z, y, x = (float(s) for s in meta["spacing"])
            spacing = (z, y, x) if meta["spacing_known"] else None
            image, samples = magnitudes(data[key])
            phase = mean_phase(torch.as_tensor(data[key]))
            record = finish_record(
                json.loads(data[key].meta["record"]),
                self.bundle_root,
                np.asarray(data[self.mask_key].cpu()),
                noise_source=meta["noise_source"],
                maps_source=self._maps_source(data),
                spacing_mm=spacing,
            )
            for text in record["warnings"]:
                warn(text)
            made = Reconstruction(image=image, samples=samples, record=record, phase=phase, geometry=Geometry(spacing))
            self._write(data, made, self.part)
        return dict(data)


class SaveHounsfieldd(_Save):
    """Write the inferer's HU as NIfTI or HDF5 with a JSON sidecar, whole or not at all.

    Args:
        keys: of the images, ``(samples, slices, y, x)`` from ``TomographyInferer``.
        output_dir: where ``<stem>.nii.gz`` (or the files of ``fmt``) and ``<stem>.json`` go.
        bundle_root: of the bundle, for the record.
        source_key: of the sinogram that ``LoadSinogramd`` loaded.
        fmt: see :class:`medrecon.writers.Output`.
        overwrite: replace existing files.
        allow_missing_keys: as in MONAI.
        like: folder of a DICOM series of the same slices, whose patient, study and positions are copied.
        deidentify: see :class:`medrecon.writers.Output`.
        like_select: which of several series or volumes, see :func:`medrecon.formats.load_image`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key."""
        for key in self.key_iterator(data):
            samples = np.asarray(data[key].cpu(), dtype=np.float32)
            record = json.loads(data[key].meta["record"])
            side = record["spacing_mm"]
            record = {**provenance(record, self.bundle_root), **record}
            made = Reconstruction(
                image=samples.mean(0),
                samples=samples if len(samples) > 1 else None,
                record=record,
                geometry=Geometry((1.0, side, side)),
                modality="CT",
            )
            self._write(data, made)
        return dict(data)
