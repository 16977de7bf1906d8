"""Transforms that load images, and that permute axes to MONAI's order."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medrecon.data.errors import InputError, warn
from medrecon.formats import load_image
from medrecon.transforms.coils import copy_meta
from medrecon.transforms.kspace import to_metatensor

__all__ = ["ChannelFirst", "ChannelFirstd", "LoadVolume", "LoadVolumed"]


class LoadVolume(Transform):
    """Load a DICOM series or a NIfTI file; see :func:`medrecon.formats.load_image`.

    Args:
        select: choice among several volumes, e.g. ``{"volume": 1}`` (counted from 0), or among DICOM series or stacks,
            e.g. ``{"SeriesNumber": 3}``.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(self, select: Mapping[str, Any] | None = None) -> None:
        self.select = select

    def __call__(
        self,
        path: str | Path | Sequence[str | Path],
        phase: str | Path | None = None,
        imaginary: str | Path | None = None,
    ) -> MetaTensor:
        """``(slices, y, x)`` float32 or complex64 (CT in HU), with the RAS affine of (x, y, slice).

        ``affine_known`` in the meta is false where the file does not record the affine.

        Args:
            path: DICOM file or folder, the DICOM files of a series, or a NIfTI file.
            phase: second file of a complex NIfTI image, with the phase.
            imaginary: second file of a complex NIfTI image, with the imaginary part.
        """
        image = load_image(path, self.select, phase, imaginary)
        for text in image.warnings:
            warn(text)
        meta = {"modality": str(image.attributes.get("Modality", "")), "warnings": list(image.warnings)}
        return to_metatensor(image.array, image.path, image.spacing, image.affine, **meta)


class LoadVolumed(MapTransform):
    """:class:`LoadVolume` of every key.

    Args:
        keys: keys of the paths (or lists of the DICOM files of a series).
        select: see :class:`LoadVolume`.
        phase_key: key of an optional path, the phase of a NIfTI magnitude.
        imaginary_key: key of an optional path, the imaginary part of a NIfTI real part.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        select: Mapping[str, Any] | None = None,
        phase_key: str = "phase",
        imaginary_key: str = "imaginary",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadVolume(select)
        self.phase_key = phase_key
        self.imaginary_key = imaginary_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key; the paths of second files are removed."""
        out = dict(data)
        phase, imaginary = out.pop(self.phase_key, None), out.pop(self.imaginary_key, None)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key], phase, imaginary)
        return out


class ChannelFirst(Transform):
    """Permute images ``(slices, y, x)`` to MONAI's ``(1, x, y, slices)``, the axes of the affine, for its spatial transforms."""

    def __call__(self, image: Tensor) -> Tensor:
        """The same values; a ``MetaTensor`` keeps its meta."""
        if image.ndim != 3:
            raise InputError(f"an image must be (slices, y, x); got shape {tuple(image.shape)}")
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        permuted = plain.permute(2, 1, 0)[None].contiguous()
        return copy_meta(permuted, image, image.affine) if isinstance(image, MetaTensor) else permuted


class ChannelFirstd(MapTransform):
    """:class:`ChannelFirst` of every key.

    Args:
        keys: keys of the images.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channel_first = ChannelFirst()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Permute every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.channel_first(out[key])
        return out
