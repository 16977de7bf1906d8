"""Transforms of the coils of k-space ``(slices, coils, y, x)``, for arrays and for dictionaries (names that end in ``d``)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medrecon.data.coils import (
    Combination,
    Compression,
    combine_coils,
    compress_coils,
    noise_covariance,
    prewhiten,
    remove_oversampling,
)
from medrecon.data.errors import InputError
from medrecon.data.sampling import sampling_mask

__all__ = [
    "CombineCoils",
    "CombineCoilsd",
    "CompressCoils",
    "CompressCoilsd",
    "PrewhitenCoils",
    "PrewhitenCoilsd",
    "RemoveOversampling",
    "RemoveOversamplingd",
    "as_array",
    "copy_meta",
    "cropped_like",
    "mask_of",
    "tensor_like",
]


def as_array(x: object) -> np.ndarray:
    """A tensor of any kind, or an array, as a numpy array."""
    return x.as_tensor().cpu().numpy() if isinstance(x, MetaTensor) else np.asarray(torch.as_tensor(x).cpu())


def _name(kspace: object) -> str:
    """Name of the file, or ``k-space`` where it is unknown; for messages."""
    return str(kspace.meta.get("filename_or_obj", "k-space")) if isinstance(kspace, MetaTensor) else "k-space"


def mask_of(kspace: object, mask: object = None) -> np.ndarray:
    """The sampling mask of k-space ``(slices, coils, y, x)``; see :func:`medrecon.data.sampling.sampling_mask`."""
    return sampling_mask(as_array(kspace), None if mask is None else as_array(mask), _name(kspace))


def tensor_like(x: object, array: np.ndarray, **meta: object) -> Tensor:
    """An array as the type of ``x``: a ``MetaTensor`` with its affine and meta, and further ``meta``, or a plain tensor."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return copy_meta(tensor, x, x.affine, **meta) if isinstance(x, MetaTensor) else tensor


def copy_meta(tensor: Tensor, source: MetaTensor, affine: Tensor | np.ndarray, **meta: object) -> MetaTensor:
    """A tensor with the meta of ``source``, further ``meta``, and another affine."""
    copied = {key: value for key, value in source.meta.items() if key != "affine"}
    return MetaTensor(tensor, affine=torch.as_tensor(affine), meta={**copied, **meta})


def cropped_like(x: Tensor, middle: np.ndarray) -> Tensor:
    """The middle of the field of view of ``x`` as :func:`tensor_like`, with the origin of the affine moved accordingly."""
    out = tensor_like(x, middle)
    if isinstance(out, MetaTensor):
        affine = out.affine.clone()  # for indices (x, y, slice)
        for column, axis in ((1, -2), (0, -1)):
            affine[:3, 3] += affine[:3, column] * (x.shape[axis] // 2 - middle.shape[axis] // 2)
        out.affine = affine
    return out


class PrewhitenCoils(Transform):
    """Prewhiten the coils: independent noise of equal variance; see :func:`medrecon.data.coils.prewhiten`.

    Args:
        covariance: noise covariance, ``(coils, coils)`` complex.
    """

    def __init__(self, covariance: np.ndarray | Tensor) -> None:
        self.covariance = as_array(covariance)

    def __call__(self, kspace: Tensor) -> Tensor:
        """K-space of the same shape and scale."""
        return tensor_like(kspace, prewhiten(as_array(kspace), self.covariance, _name(kspace))[0])


class CompressCoils(Transform):
    """Compress to fewer virtual coils; see :func:`medrecon.data.coils.compress_coils`.

    Args:
        n: number of virtual coils.
        method: ``svd`` or ``geometric`` (along a fully sampled readout).
    """

    def __init__(self, n: int, method: Compression = "svd") -> None:
        self.n = n
        self.method: Compression = method

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space ``(slices, n, y, x)``; ``coil_energy`` in the meta of a ``MetaTensor`` is the fraction of energy kept."""
        array = as_array(kspace)
        small, energy = compress_coils(array, mask_of(kspace, mask), self.n, self.method, _name(kspace))
        return tensor_like(kspace, small, coil_energy=energy)


class RemoveOversampling(Transform):
    """Crop the field of view of an oversampled readout, and move the origin of the affine accordingly.

    Args:
        factor: oversampling factor.
    """

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space ``(slices, coils, y / factor, x)``."""
        array = as_array(kspace)
        small = remove_oversampling(array, mask_of(kspace, mask), self.factor, _name(kspace))
        return cropped_like(kspace, small)


class CombineCoils(Transform):
    """Combine the coils of k-space into one image ``(slices, y, x)``; see :func:`medrecon.data.coils.combine_coils`.

    Args:
        method: ``rss`` (real), ``mvue`` (needs maps), ``adaptive`` or ``inati``.
        window: side of the neighbourhood for ``adaptive`` and ``inati``, pixels.
    """

    def __init__(self, method: Combination = "rss", window: int = 7) -> None:
        self.method: Combination = method
        self.window = window

    def __call__(self, kspace: Tensor, maps: Tensor | None = None) -> Tensor:
        """The zero-filled image."""
        image = combine_coils(as_array(kspace), self.method, None if maps is None else as_array(maps), self.window)
        return tensor_like(kspace, image)


class PrewhitenCoilsd(MapTransform):
    """:class:`PrewhitenCoils` with the covariance of a noise scan; adds the noise level.

    Args:
        keys: keys of the k-space.
        scan_key: key of the noise scan ``(coils, n)``; see :class:`LoadKSpaced`.
        noise_key: key for the noise standard deviation per real component.
        allow_missing_keys: as in MONAI.

    Raises:
        medrecon.InputError: without a noise scan.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scan_key: str = "noise_scan",
        noise_key: str = "noise_std",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scan_key = scan_key
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Whiten every key, and the noise scan."""
        out = dict(data)
        if self.scan_key not in out:
            raise InputError(
                f"whitening needs a noise scan, but the key {self.scan_key!r} is missing; leave the transform out"
            )
        scan = as_array(out[self.scan_key])
        covariance = noise_covariance(scan, next((_name(out[key]) for key in self.key_iterator(out)), "k-space"))
        for key in self.key_iterator(out):
            white, out[self.noise_key] = prewhiten(as_array(out[key]), covariance, _name(out[key]))
            out[key] = tensor_like(out[key], white, noise_source="noise scan")
        flat = scan.reshape(1, len(scan), -1, 1)
        out[self.scan_key] = tensor_like(out[self.scan_key], prewhiten(flat, covariance)[0].reshape(scan.shape))
        return out


class CompressCoilsd(MapTransform):
    """:class:`CompressCoils` of every key.

    Args:
        keys: keys of the k-space.
        n: number of virtual coils.
        method: ``svd`` or ``geometric``.
        mask_key: key of the mask; without it, the mask is inferred from zero samples.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        n: int,
        method: Compression = "svd",
        mask_key: str = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.compress = CompressCoils(n, method)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Compress every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.compress(out[key], out.get(self.mask_key))
        return out


class RemoveOversamplingd(MapTransform):
    """:class:`RemoveOversampling` of every key, and of a mask of points.

    Args:
        keys: keys of the k-space.
        factor: oversampling factor.
        mask_key: key of the mask; without it, the mask is inferred from zero samples.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, factor: float = 2.0, mask_key: str = "mask", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.remove = RemoveOversampling(factor)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        out = dict(data)
        mask = out.get(self.mask_key)
        for key in self.key_iterator(out):
            out[key] = self.remove(out[key], mask)
            if mask is not None:  # columns were sampled whole, so all rows of the mask are equal
                out[self.mask_key] = mask[..., : out[key].shape[-2], :]
        return out


class CombineCoilsd(MapTransform):
    """:class:`CombineCoils` of every key.

    Args:
        keys: keys of the k-space.
        method: ``rss``, ``mvue``, ``adaptive`` or ``inati``.
        maps_key: key of the sensitivity maps, for ``mvue``.
        window: side of the neighbourhood for ``adaptive`` and ``inati``, pixels.
        image_key: key for the image; default: the key of the k-space, which is replaced.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        method: Combination = "rss",
        maps_key: str = "maps",
        window: int = 7,
        image_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.combine = CombineCoils(method, window)
        self.maps_key = maps_key
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Combine every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            maps = out.get(self.maps_key) if self.combine.method == "mvue" else None
            out[self.image_key or key] = self.combine(out[key], maps)
        return out
