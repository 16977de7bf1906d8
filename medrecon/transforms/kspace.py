"""Dictionary transforms on raw k-space."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.errors import InputError
from medrecon.data.espirit import combined_reference
from medrecon.data.kspace import bounding_box, load_kspace, sampled
from medrecon.data.masks import achieved_acceleration, undersampling_mask
from medrecon.data.noise import noise_level
from medrecon.reconstruction import magnitudes, sensitivity_maps

__all__ = [
    "EstimateSensitivityMapsd",
    "LoadKSpaced",
    "MagnitudeMeand",
    "ReferenceImaged",
    "UndersampleKSpaced",
]


class LoadKSpaced(MapTransform):
    """Load raw k-space: ISMRMRD, fastMRI HDF5, BART cfl, npz or npy (see :func:`medrecon.data.kspace.load_kspace`).

    Replaces the path by a complex64 ``MetaTensor`` ``(slices, coils, y, x)``. Its RAS affine is of the indices (x, y, slice); of
    formats that do not tell the orientation it holds the voxel size alone (``affine_known`` false), or not even that
    (``spacing_known`` false); adds the mask, bool
    ``(1 or y, x)``, and the noise standard deviation per real component, from a noise scan or else from the outermost
    sampled k-space.

    Args:
        keys: of the paths.
        mask_key: where the mask goes.
        noise_key: where the noise standard deviation goes.
        scan_key: where a noise scan ``(coils, n)`` goes, of files that hold one.
        select: of ISMRMRD files, which contrast, phase, repetition or set, e.g. ``{"contrast": 0}``.
        allow_missing_keys: as in MONAI.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        noise_key: str = "noise_std",
        scan_key: str = "noise_scan",
        select: Mapping[str, int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.select = select
        self.mask_key = mask_key
        self.noise_key = noise_key
        self.scan_key = scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            loaded = load_kspace(out[key], self.select)
            z, y, x = loaded.spacing or (1.0, 1.0, 1.0)
            std, source = noise_level(loaded.kspace, loaded.mask, loaded.noise)
            meta = {
                "filename_or_obj": str(loaded.path),
                "affine_known": loaded.affine is not None,
                "spacing_known": loaded.spacing is not None,
                "spacing": np.array([z, y, x]),
                "noise_source": source,
            }
            affine = torch.from_numpy(np.diag([x, y, z, 1.0]) if loaded.affine is None else loaded.affine)
            out[key] = MetaTensor(torch.from_numpy(loaded.kspace), affine=affine, meta=meta)
            out[self.mask_key] = torch.from_numpy(np.atleast_2d(loaded.mask))
            out[self.noise_key] = std
            if loaded.noise is not None:
                out[self.scan_key] = torch.from_numpy(loaded.noise)
        return out


class UndersampleKSpaced(MapTransform):
    """Sample k-space with a mask of its own for every case, the same in every epoch and process.

    The seed of a case is made of ``seed`` and its file's name. Replaces k-space ``(slices, coils, y, x)``, the mask
    ``(1 or y, x)`` and a noise level that was estimated from samples which are now gone; records ``acceleration``
    (achieved, ACS included) in the meta.

    Args:
        keys: of the k-space.
        kind: ``equispaced``, ``random``, ``gaussian1d``, ``gaussian2d`` or ``poisson``.
        accel: acceleration, ACS included.
        acs: fully sampled columns, or side of the fully sampled square.
        seed: of the data set.
        mask_key: where the mask is and goes.
        noise_key: where the noise standard deviation is and goes.
        allow_missing_keys: as in MONAI.

    Raises:
        medrecon.InputError: if the k-space is undersampled already.
    """

    def __init__(
        self,
        keys: KeysCollection,
        kind: str = "gaussian1d",
        accel: float = 4.0,
        acs: int = 24,
        seed: int = 0,
        mask_key: str = "mask",
        noise_key: str = "noise_std",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.noise_key = noise_key
        self.kind = kind
        self.accel = accel
        self.acs = acs
        self.seed = seed
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undersample every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            kspace = out[key]
            meta = kspace.meta if isinstance(kspace, MetaTensor) else {}
            case = Path(meta.get("filename_or_obj", "")).stem
            measured = (torch.as_tensor(kspace) != 0).flatten(0, 1).any(0).cpu().numpy()
            if (bounding_box(measured) & ~measured).any():
                raise InputError(
                    f"{meta.get('filename_or_obj', key)}: is undersampled already; give fully sampled data"
                )
            seed = zlib.crc32(f"{self.seed}:{case}".encode())
            mask = torch.from_numpy(
                np.atleast_2d(undersampling_mask(kspace.shape[-2:], self.kind, self.accel, self.acs, seed))
            )
            out[key] = kspace * mask
            out[self.mask_key] = mask
            if self.noise_key in out and meta.get("noise_source") != "noise scan":
                out[self.noise_key] = noise_level(torch.as_tensor(out[key]).cpu().numpy(), mask.numpy())[0]
            if isinstance(out[key], MetaTensor):
                out[key].meta["acceleration"] = achieved_acceleration(mask.numpy())
        return out


class EstimateSensitivityMapsd(MapTransform):
    """ESPIRiT maps from the fully sampled centre of *undersampled* k-space ``(slices, coils, y, x)``.

    The calibration block is the largest fully sampled rectangle round the centre. Single-coil data get ones.

    Args:
        keys: of the k-space.
        mask_key: of the mask ``(1 or y, x)``; if it is not there, the mask is read off the zeros.
        maps_key: where the maps go, complex64 like k-space.
        noise_key: of the noise standard deviation; if it is not there, only ``threshold`` parts signal from noise.
        kernel: side of the calibration kernel.
        threshold: of the calibration matrix's singular values.
        crop: of the maps' eigenvalues.
        sets: of maps; more than one give ``(slices, sets, coils, y, x)``.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        maps_key: str = "maps",
        noise_key: str = "noise_std",
        kernel: int = 6,
        threshold: float = 0.02,
        crop: float = 0.8,
        sets: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.maps_key = maps_key
        self.noise_key = noise_key
        self.settings = {"kernel": kernel, "threshold": threshold, "crop": crop, "sets": sets}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Estimate the maps of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            kspace = torch.as_tensor(out[key]).cpu().numpy()
            mask = np.asarray(out[self.mask_key]) if self.mask_key in out else sampled(kspace)
            name = str(out[key].meta.get("filename_or_obj", key)) if isinstance(out[key], MetaTensor) else str(key)
            std = float(torch.as_tensor(out.get(self.noise_key, 0.0)))
            out[self.maps_key] = sensitivity_maps(kspace, mask, name, noise_std=std, **self.settings)
        return out


class ReferenceImaged(MapTransform):
    """The image to be judged by, from *fully sampled* k-space; see :func:`medrecon.data.espirit.combined_reference`.

    Args:
        keys: of the k-space ``(slices, coils, y, x)``.
        label_key: where the magnitude ``(slices, y, x)`` goes.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the reference of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[self.label_key] = torch.from_numpy(combined_reference(torch.as_tensor(out[key]).cpu().numpy()))
        return out


class MagnitudeMeand(MapTransform):
    """Samples ``(samples, slices, y, x)`` complex to the image to show, ``(slices, y, x)`` float32."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = torch.from_numpy(magnitudes(torch.as_tensor(out[key]))[0])
        return out
