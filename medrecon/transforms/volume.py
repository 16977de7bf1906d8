"""Transforms that load images, and that bring them to MONAI's order of axes."""

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
from medrecon.transforms.coils import relabelled
from medrecon.transforms.kspace import placed

__all__ = ["ChannelFirst", "ChannelFirstd", "LoadVolume", "LoadVolumed"]


class LoadVolume(Transform):
    """Load a DICOM series or a NIfTI file; see :func:`medrecon.formats.load_image`.

    Args:
        select: which of several volumes, e.g. ``{"volume": 1}`` (counted from 0), or DICOM series or stacks, e.g.
            ``{"SeriesNumber": 3}``.

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

        ``affine_known`` in the meta is false where the file does not record it. ``phase`` or ``imaginary``: the second file of a
        complex NIfTI image.
        """
        image = load_image(path, self.select, phase, imaginary)
        for text in image.warnings:
            warn(text)
        meta = {"modality": str(image.attributes.get("Modality", "")), "warnings": list(image.warnings)}
        return placed(image.array, image.path, image.spacing, image.affine, **meta)


class LoadVolumed(MapTransform):
    """:class:`LoadVolume` of every key.

    Args:
        keys: of the paths (or lists of the DICOM files of a series).
        select: see :class:`LoadVolume`.
        phase_key: of the path of a NIfTI magnitude's phase, if it is there.
        imaginary_key: of the path of a NIfTI real part's imaginary part, if it is there.
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
        """Load every key; the paths of second files are taken out."""
        out = dict(data)
        phase, imaginary = out.pop(self.phase_key, None), out.pop(self.imaginary_key, None)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key], phase, imaginary)
        return out


class ChannelFirst(Transform):
    """Ours ``(slices, y, x)`` to MONAI's ``(1, x, y, slices)``, of which the affine is: for MONAI's spatial transforms."""

    def __call__(self, image: Tensor) -> Tensor:
        """The same values; a ``MetaTensor`` keeps its meta."""
        if image.ndim != 3:
            raise InputError(f"an image must be (slices, y, x) here; got shape {tuple(image.shape)}")
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        turned = plain.permute(2, 1, 0)[None].contiguous()
        return relabelled(turned, image, image.affine) if isinstance(image, MetaTensor) else turned


class ChannelFirstd(MapTransform):
    """:class:`ChannelFirst` of every key.

    Args:
        keys: of the images.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.turn = ChannelFirst()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.turn(out[key])
        return out
