"""Transforms on raw k-space: arrays, and dictionaries (the names that end in ``d``)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medrecon.data.errors import InputError, warn
from medrecon.data.espirit import Espirit, combined_reference, estimate_maps, trusted_noise
from medrecon.data.geometry import affine_of_slices
from medrecon.data.masks import achieved_acceleration, undersampling_mask
from medrecon.data.names import case_seed
from medrecon.data.noise import noise_level, noise_scan_std, outer_noise_std
from medrecon.data.sampling import one_sided, sampled, undersampled, unlike
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.posterior import Reconstruction
from medrecon.transforms.coils import as_array, mask_of, relabelled

__all__ = [
    "EstimateSensitivityMaps",
    "EstimateSensitivityMapsd",
    "LoadKSpace",
    "LoadKSpaced",
    "LoadNonCartesiand",
    "MagnitudeMeand",
    "ReferenceImaged",
    "SelectSlices",
    "SelectSlicesd",
    "UndersampleKSpace",
    "UndersampleKSpaced",
    "check_fully_sampled",
    "placed",
]


def placed(
    array: np.ndarray,
    path: object,
    spacing: tuple[float, float, float] | None,
    affine: np.ndarray | None,
    **meta: object,
) -> MetaTensor:
    """An array with the RAS affine of its indices (x, y, slice), and whether the file records it (or the voxel size alone)."""
    z, y, x = spacing or (1.0, 1.0, 1.0)
    known = {"affine_known": affine is not None, "spacing_known": spacing is not None, "spacing": np.array([z, y, x])}
    matrix = torch.from_numpy(np.diag([x, y, z, 1.0]) if affine is None else np.asarray(affine, float))
    return MetaTensor(torch.from_numpy(array), affine=matrix, meta={"filename_or_obj": str(path), **known, **meta})


class LoadKSpace(Transform):
    """Load raw k-space of any format that :func:`medrecon.formats.load_kspace` knows.

    Args:
        select: of ISMRMRD files, which contrast, phase, repetition, set or dataset, e.g. ``{"contrast": 0}``.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(self, select: Mapping[str, int | str] | None = None) -> None:
        self.select = select

    def load(self, path: str | Path) -> tuple[MetaTensor, CartesianScan]:
        """The tensor, and all that the file holds."""
        loaded = load_kspace(path, self.select)
        for text in loaded.warnings:
            warn(text)
        std, source = noise_level(loaded.kspace, loaded.mask, loaded.noise_scan)
        meta = {"noise_source": source, "noise_std": std, "warnings": list(loaded.warnings)}
        return placed(loaded.kspace, loaded.path, loaded.spacing, loaded.affine, **meta), loaded

    def __call__(self, path: str | Path) -> MetaTensor:
        """Complex64 ``(slices, coils, y, x)``, zero where not sampled; ``noise_std`` stands in the meta."""
        return self.load(path)[0]


class LoadKSpaced(MapTransform):
    """:class:`LoadKSpace` of every key, with its companions.

    Replaces the path by a complex64 ``MetaTensor`` ``(slices, coils, y, x)``. Its RAS affine is of the indices (x, y, slice); of
    formats that do not record the orientation it holds the voxel size alone (``affine_known`` false), or not even that
    (``spacing_known`` false); adds the mask, bool
    ``(1 or y, x)``, and the noise standard deviation per real component, from a noise scan or else from the outermost
    sampled k-space.

    Args:
        keys: of the paths.
        mask_key: where the mask goes.
        noise_key: where the noise standard deviation goes.
        scan_key: where a noise scan ``(coils, n)`` goes, of files that hold one.
        select: of ISMRMRD files, which contrast, phase, repetition, set or dataset, e.g. ``{"contrast": 0}``.
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
        select: Mapping[str, int | str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadKSpace(select)
        self.mask_key = mask_key
        self.noise_key = noise_key
        self.scan_key = scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key], loaded = self.load.load(out[key])
            differs = unlike(loaded.kspace, loaded.mask)
            if differs:
                raise InputError(f"{loaded.path}: {differs}")
            out[self.mask_key] = torch.from_numpy(np.atleast_2d(loaded.mask))
            out[self.noise_key] = out[key].meta["noise_std"]
            if loaded.noise_scan is not None:
                out[self.scan_key] = torch.from_numpy(loaded.noise_scan)
        return out


class LoadNonCartesiand(MapTransform):
    """Load raw k-space off the grid; see :func:`medrecon.formats.load_noncartesian`.

    Replaces the path by a complex64 ``MetaTensor`` ``(slices, coils, shots, readout)`` with the affine of the image; adds the
    trajectory ``(slices, shots, readout, 2 or 3)``, which :func:`medrecon.operators.nufft_sense` takes, the image's matrix, and
    the noise standard deviation per real component, from a noise scan or else from the outermost samples.

    Args:
        keys: of the paths.
        trajectory_key: of a trajectory's path, where the file holds none; and where the trajectory goes.
        matrix: of the image; default: the file's.
        select: of ISMRMRD files, which contrast, phase, repetition, set or dataset.
        noise_key: where the noise standard deviation goes.
        allow_missing_keys: as in MONAI.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        trajectory_key: str = "trajectory",
        matrix: Sequence[int] | None = None,
        select: Mapping[str, int | str] | None = None,
        noise_key: str = "noise_std",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.trajectory_key = trajectory_key
        self.matrix = matrix
        self.select = select
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key."""
        out = dict(data)
        given = out.get(self.trajectory_key)
        for key in self.key_iterator(out):
            loaded = load_noncartesian(out[key], given, self.matrix, self.select)
            scan = loaded.noise_scan
            std = outer_noise_std(loaded) if scan is None else noise_scan_std(scan)
            for text in loaded.warnings:
                warn(text)
            source = "outermost k-space" if scan is None else "noise scan"
            meta = {"noise_source": source, "noise_std": std, "warnings": list(loaded.warnings)}
            out[key] = placed(loaded.samples, loaded.path, loaded.spacing, loaded.affine, **meta)
            out[self.trajectory_key] = torch.from_numpy(loaded.trajectory)
            out["matrix"] = loaded.matrix
            out[self.noise_key] = std
        return out


def check_fully_sampled(kspace: np.ndarray, measured: np.ndarray, name: str) -> None:
    """Refuse undersampled k-space, and warn of partial Fourier and partial echoes.

    Args:
        kspace: ``(slices, coils, y, x)``.
        measured: samples that were measured, bool ``(x,)`` or ``(y, x)``.
        name: name of the k-space, for messages.

    Raises:
        InputError: for undersampled k-space.
    """
    if undersampled(kspace, measured):
        raise InputError(f"{name}: is undersampled already; give fully sampled k-space")
    for text in one_sided(kspace, measured, name):
        warn(text)


class UndersampleKSpace(Transform):
    """Sample k-space ``(slices, coils, y, x)`` with a mask of its own for every case, the same in every epoch and process.

    The seed of a case is made of ``seed`` and its name: ``case`` in the dictionary form, else that of its file. The meta records
    the achieved ``acceleration``, ACS included.

    Args:
        kind: one of :data:`medrecon.data.masks.KINDS`: ``equispaced``, ``random``, ``gaussian1d``, ``gaussian2d``, ``poisson``,
            ``radial`` or ``spiral``.
        accel: acceleration, ACS included.
        acs: fully sampled columns, or side of the fully sampled square.
        seed: of the data set.

    Raises:
        medrecon.InputError: if the k-space is undersampled already, or for a mask that cannot be made.
    """

    def __init__(self, kind: str = "gaussian1d", accel: float = 4.0, acs: int = 24, seed: int = 0) -> None:
        self.kind = kind
        self.accel = accel
        self.acs = acs
        self.seed = seed

    def mask(self, kspace: Tensor, case: str | None = None, measured: np.ndarray | None = None) -> Tensor:
        """The mask of a case, bool ``(1 or y, x)``.

        Args:
            kspace: fully sampled k-space ``(slices, coils, y, x)``.
            case: name of the case; default: that of the file.
            measured: samples that were measured, bool ``(x,)`` or ``(y, x)``; default: those that are not zero.
        """
        meta = kspace.meta if isinstance(kspace, MetaTensor) else {}
        name = meta.get("filename_or_obj", "")
        array = as_array(kspace)
        measured = sampled(array) if measured is None else measured
        check_fully_sampled(array, measured, name or "k-space")
        seed = case_seed(self.seed, case or Path(name).stem)
        try:
            mask = undersampling_mask(kspace.shape[-2:], self.kind, self.accel, self.acs, seed)
        except ValueError as error:
            raise InputError(f"{name or 'k-space'}: {error}") from error
        return torch.from_numpy(np.atleast_2d(mask & measured))  # zero padding is not sampled

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space, zero where not sampled."""
        mask = self.mask(kspace) if mask is None else torch.from_numpy(np.atleast_2d(mask_of(kspace, mask)))
        out = kspace * mask
        if isinstance(out, MetaTensor):
            out.meta["acceleration"] = achieved_acceleration(mask.numpy())
        return out


class UndersampleKSpaced(MapTransform):
    """:class:`UndersampleKSpace` of every key.

    Replaces the mask ``(1 or y, x)`` as well, and a noise level that was estimated from samples which are now gone.

    Args:
        keys: of the k-space.
        kind: see :class:`UndersampleKSpace`.
        accel: see there.
        acs: see there.
        seed: see there.
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
        self.undersample = UndersampleKSpace(kind, accel, acs, seed)
        self.noise_key = noise_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undersample every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            meta = out[key].meta if isinstance(out[key], MetaTensor) else {}
            mask = self.undersample.mask(out[key], out.get("case"))
            out[key] = self.undersample(out[key], mask)
            out[self.mask_key] = mask
            if self.noise_key in out and meta.get("noise_source", "outermost k-space") == "outermost k-space":
                out[self.noise_key] = noise_level(torch.as_tensor(out[key]).cpu().numpy(), mask.numpy())[0]
        return out


class EstimateSensitivityMaps(Transform):
    """Coil maps of k-space ``(slices, coils, y, x)``; see :class:`EstimateSensitivityMapsd` for the arguments."""

    def __init__(self, settings: Espirit = Espirit(), rss: bool = False) -> None:
        self.settings = settings
        self.rss = rss

    def __call__(
        self, kspace: Tensor, mask: Tensor | None = None, noise_std: float = 0.0, name: str = "k-space"
    ) -> MetaTensor:
        """Complex64 maps like k-space, ones for a single coil; ``(slices, sets, coils, y, x)`` for several sets.

        The meta hold ``maps_source``, the method, and ``warnings``, why it is not ESPIRiT with the kernel that was asked for.
        """
        array = torch.as_tensor(kspace).cpu().numpy()
        name = str(kspace.meta.get("filename_or_obj", name)) if isinstance(kspace, MetaTensor) else name
        mask_array = mask_of(kspace, mask)
        believed = trusted_noise(noise_std, array, mask_array)
        found = estimate_maps(array, mask_array, believed, name, self.settings, self.rss)
        return MetaTensor(found.maps, meta={"maps_source": found.source, "warnings": list(found.warnings)})


class EstimateSensitivityMapsd(MapTransform):
    """Coil maps from the fully sampled centre of *undersampled* k-space ``(slices, coils, y, x)``.

    The calibration block is the largest fully sampled rectangle round the centre. Maps are those of ESPIRiT, or where these miss
    signal what :func:`medrecon.data.espirit.coil_maps` tries next; the maps' meta hold ``maps_source``, and warnings are added to
    those of k-space. Single-coil data get ones.

    Args:
        keys: of the k-space.
        mask_key: of the mask ``(1 or y, x)``; if it is not there, the mask is read off the zeros.
        maps_key: where the maps go, complex64 like k-space.
        noise_key: of the noise standard deviation; if it is not there, only the threshold of ``settings`` parts signal from
            noise.
        settings: settings of ESPIRiT, see :class:`medrecon.data.espirit.Espirit`; several ``sets`` of maps give
            ``(slices, sets, coils, y, x)``.
        rss: for the solver ``zero-filled``, whose image is then the root of the sum of squares of data without a fully sampled
            centre; other solvers need maps, so these data are refused.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        maps_key: str = "maps",
        noise_key: str = "noise_std",
        settings: Espirit = Espirit(),
        rss: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.maps_key = maps_key
        self.noise_key = noise_key
        self.estimate = EstimateSensitivityMaps(settings, rss)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Estimate the maps of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            std = float(torch.as_tensor(out.get(self.noise_key, 0.0)))
            maps = self.estimate(out[key], out.get(self.mask_key), std, str(key))
            for text in maps.meta["warnings"]:
                warn(text)
            if isinstance(out[key], MetaTensor) and maps.meta["warnings"]:
                texts = [*(out[key].meta.get("warnings") or []), *maps.meta["warnings"]]
                out[key] = relabelled(out[key].as_tensor(), out[key], out[key].affine, warnings=texts)
            out[self.maps_key] = maps
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


class SelectSlices(Transform):
    """Some of the slices; a ``MetaTensor``'s affine follows.

    Args:
        first: the first one, from the end if negative.
        last: the one after the last, from the end if negative; ``None``: to the end.
    """

    def __init__(self, first: int = 0, last: int | None = None) -> None:
        self.slices = slice(first, last)

    def __call__(self, data: Tensor) -> Tensor:
        """``(slices, ...)``."""
        if not len(range(len(data))[self.slices]):
            raise InputError(f"no slices in {self.slices.start}:{self.slices.stop}; there are {len(data)}")
        if not isinstance(data, MetaTensor):
            return data[self.slices]
        affine = affine_of_slices(data.affine.cpu().numpy(), self.slices, len(data))
        return relabelled(data.as_tensor()[self.slices], data, affine)  # type: ignore[arg-type]


class SelectSlicesd(MapTransform):
    """:class:`SelectSlices` of every key.

    Args:
        keys: of k-space or images.
        first: see :class:`SelectSlices`.
        last: see there.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, first: int = 0, last: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.select = SelectSlices(first, last)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select in every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.select(out[key])
        return out


class MagnitudeMeand(MapTransform):
    """Samples ``(samples, slices, y, x)`` complex, or a reconstruction, to the image to show, ``(slices, y, x)`` float32."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            if isinstance(out[key], Reconstruction):
                out[key] = torch.from_numpy(out[key].image)
            else:
                out[key] = torch.as_tensor(out[key]).abs().float().cpu().mean(0)
        return out
