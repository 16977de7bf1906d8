"""Transforms that load a scan of any kind, as one value of the dictionary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, Geometry, Scan
from medrecon.formats import Companions, load
from medrecon.transforms.coils import as_array, mask_of

__all__ = ["LoadScan", "LoadScand", "ToCartesianScand", "only_item"]


class LoadScan(Transform):
    """Load a scan of any kind that :func:`medrecon.formats.load` reads.

    Args:
        select: choice among several scans in the file, e.g. ``{"contrast": 0}``.
        companions: data that complete the file, e.g. ``{"trajectory": "traj.npy"}``: fields of
            :class:`medrecon.formats.Companions`.
        frames: axis whose frames become one scan: ``phase``, ``repetition``, ``set`` or ``contrast``.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(
        self,
        select: Mapping[str, int | str] | None = None,
        companions: Mapping[str, Any] | None = None,
        frames: str | None = None,
    ) -> None:
        self.select = dict(select or {})
        known = [one.name for one in fields(Companions)]
        wrong = [name for name in companions or {} if name not in known]
        if wrong:
            raise InputError(f"unknown companion {shown(wrong[0])}; choose one of {', '.join(known)}")
        self.companions = Companions(**(companions or {}))
        self.frames = frames

    def __call__(self, path: str | Path) -> Scan:
        """The scan, an object of one of the classes in :mod:`medrecon.data.scan`."""
        return load(path, self.select, companions=self.companions, frames=self.frames)


class LoadScand(MapTransform):
    """:class:`LoadScan` of every key. Use :func:`only_item` to collate, with batches of one scan.

    Args:
        keys: keys of the paths.
        select: see :class:`LoadScan`.
        companions: see :class:`LoadScan`.
        frames: see :class:`LoadScan`.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        select: Mapping[str, int | str] | None = None,
        companions: Mapping[str, Any] | None = None,
        frames: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadScan(select, companions, frames)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key])
        return out


class ToCartesianScand(MapTransform):
    """Make a scan for :class:`medrecon.inferers.PosteriorInferer` from a k-space tensor, e.g. after other transforms.

    Name, voxel size, affine and warnings come from the meta of the tensor.

    Args:
        keys: keys of the k-space ``(slices, coils, y, x)``, which the scan replaces.
        mask_key: key of the mask; without it, the mask is inferred from zero samples.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "mask", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self._scan(out[key], out.get(self.mask_key))
        return out

    @staticmethod
    def _scan(kspace: Any, mask: Any) -> CartesianScan:  # noqa: ANN401 - tensors or arrays
        meta = kspace.meta if isinstance(kspace, MetaTensor) else {}
        spacing = tuple(float(side) for side in meta["spacing"]) if meta.get("spacing_known") else None
        affine = kspace.affine.cpu().numpy() if meta.get("affine_known") else None
        return CartesianScan(
            path=Path(str(meta.get("filename_or_obj", "k-space"))),
            format="tensor",
            kspace=as_array(kspace),
            mask=np.squeeze(mask_of(kspace, mask)),
            geometry=Geometry(spacing, affine),  # type: ignore[arg-type]
            warnings=tuple(meta.get("warnings") or ()),
        )


def only_item(items: Sequence[Any]) -> Any:  # noqa: ANN401
    """Collate function for scans: a batch is one item, unchanged.

    Raises:
        ValueError: for several items, since shapes of scans differ in general.
    """
    if len(items) != 1:
        raise ValueError(f"a batch of scans must hold one item; got {len(items)}; set batch_size to 1")
    return items[0]
