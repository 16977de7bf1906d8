"""Transforms of raw k-space, for arrays and for dictionaries (names that end in ``d``)."""

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
from medrecon.data.sampling import mask_from_zeros, one_sided_warnings, sampling_difference, undersampled
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.posterior import Reconstruction
from medrecon.transforms.coils import as_array, copy_meta, mask_of

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
    "to_metatensor",
]


def to_metatensor(
    array: np.ndarray,
    path: object,
    spacing: tuple[float, float, float] | None,
    affine: np.ndarray | None,
    **meta: object,
) -> MetaTensor:
    """An array ``(slices, y, x)``, or with coils, as a ``MetaTensor`` with the RAS affine for indices (x, y, slice).

    Args:
        array: image or k-space.
        path: file of the array.
        spacing: voxel size ``(z, y, x)``, mm; ``None``: unknown.
        affine: RAS affine; ``None``: unknown, and replaced by the voxel size.
        **meta: further meta; ``affine_known`` and ``spacing_known`` are added.
    """
    z, y, x = spacing or (1.0, 1.0, 1.0)
    known = {"affine_known": affine is not None, "spacing_known": spacing is not None, "spacing": np.array([z, y, x])}
    matrix = torch.from_numpy(np.diag([x, y, z, 1.0]) if affine is None else np.asarray(affine, float))
    return MetaTensor(torch.from_numpy(array), affine=matrix, meta={"filename_or_obj": str(path), **known, **meta})


class LoadKSpace(Transform):
    """Load raw k-space in any format of :func:`medrecon.formats.load_kspace`.

    Args:
        select: contrast, phase, repetition, set or dataset of an ISMRMRD file, e.g. ``{"contrast": 0}``.

    Raises:
        medrecon.InputError: naming the file and what is wrong with it.
    """

    def __init__(self, select: Mapping[str, int | str] | None = None) -> None:
        self.select = select

    def load(self, path: str | Path) -> tuple[MetaTensor, CartesianScan]:
        """The tensor, and the whole content of the file."""
        loaded = load_kspace(path, self.select)
        for text in loaded.warnings:
            warn(text)
        std, source = noise_level(loaded.kspace, loaded.mask, loaded.noise_scan)
        meta = {"noise_source": source, "noise_std": std, "warnings": list(loaded.warnings)}
        return to_metatensor(loaded.kspace, loaded.path, loaded.spacing, loaded.affine, **meta), loaded

    def __call__(self, path: str | Path) -> MetaTensor:
        """Complex64 ``(slices, coils, y, x)``, zero where not sampled; the meta records ``noise_std``."""
        return self.load(path)[0]


class LoadKSpaced(MapTransform):
    """:class:`LoadKSpace` of every key, with mask, noise level and noise scan.

    Replaces the path by a complex64 ``MetaTensor`` ``(slices, coils, y, x)`` with the RAS affine for indices (x, y, slice). For
    formats that do not record the orientation, the affine holds only the voxel size (``affine_known`` is false), or not even that
    (``spacing_known`` is false). Adds the mask, bool ``(1 or y, x)``, and the noise standard deviation per real component, from a
    noise scan or else from the outermost sampled k-space.

    Args:
        keys: keys of the paths.
        mask_key: key for the mask.
        noise_key: key for the noise standard deviation.
        scan_key: key for the noise scan ``(coils, n)``, if the file has one.
        select: contrast, phase, repetition, set or dataset of an ISMRMRD file, e.g. ``{"contrast": 0}``.
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
            differs = sampling_difference(loaded.kspace, loaded.mask)
            if differs:
                raise InputError(f"{loaded.path}: {differs}")
            out[self.mask_key] = torch.from_numpy(np.atleast_2d(loaded.mask))
            out[self.noise_key] = out[key].meta["noise_std"]
            if loaded.noise_scan is not None:
                out[self.scan_key] = torch.from_numpy(loaded.noise_scan)
        return out


class LoadNonCartesiand(MapTransform):
    """Load non-Cartesian k-space; see :func:`medrecon.formats.load_noncartesian`.

    Replaces the path by a complex64 ``MetaTensor`` ``(slices, coils, shots, readout)`` with the affine of the image. Adds the
    trajectory ``(slices, shots, readout, 2 or 3)``, as :func:`medrecon.operators.nufft_sense` takes it, the matrix size of the
    image under ``matrix``, and the noise standard deviation per real component, from a noise scan or else from the outermost
    samples.

    Args:
        keys: keys of the paths.
        trajectory_key: key of the path of a trajectory, if the file has none, and key for the trajectory.
        matrix: matrix size of the image; default: as in the file.
        select: contrast, phase, repetition, set or dataset of an ISMRMRD file.
        noise_key: key for the noise standard deviation.
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
            out[key] = to_metatensor(loaded.samples, loaded.path, loaded.spacing, loaded.affine, **meta)
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
    for text in one_sided_warnings(kspace, measured, name):
        warn(text)


class UndersampleKSpace(Transform):
    """Undersample k-space ``(slices, coils, y, x)`` with one mask per case, the same in every epoch and process.

    The seed of a mask depends on ``seed`` and on the name of the case: ``case`` in the dictionary form, otherwise the name of the
    file. The meta records the achieved ``acceleration``, ACS included.

    Args:
        kind: kind of mask, one of :data:`medrecon.data.masks.KINDS`: ``equispaced``, ``random``, ``gaussian1d``, ``gaussian2d``,
            ``poisson``, ``radial`` or ``spiral``.
        accel: acceleration, ACS included.
        acs: number of fully sampled columns, or side of the fully sampled square.
        seed: random seed of the data set.

    Raises:
        medrecon.InputError: if the k-space is undersampled already, or the mask cannot be made.
    """

    def __init__(self, kind: str = "gaussian1d", accel: float = 4.0, acs: int = 24, seed: int = 0) -> None:
        self.kind = kind
        self.accel = accel
        self.acs = acs
        self.seed = seed

    def mask(self, kspace: Tensor, case: str | None = None) -> Tensor:
        """The mask of a case, bool ``(1 or y, x)``.

        Args:
            kspace: fully sampled k-space ``(slices, coils, y, x)``, zero where nothing was measured.
            case: name of the case; default: name of the file.
        """
        meta = kspace.meta if isinstance(kspace, MetaTensor) else {}
        file = meta.get("filename_or_obj", "")
        array = as_array(kspace)
        name, measured = file or "k-space", mask_from_zeros(array)
        return torch.from_numpy(
            np.atleast_2d(self.mask_of_case(array, measured, case=case or Path(file).stem, name=name))
        )

    def mask_of_case(self, kspace: np.ndarray, measured: np.ndarray, *, case: str, name: str) -> np.ndarray:
        """The mask of a case, bool ``(x,)`` or ``(y, x)``.

        Args:
            kspace: fully sampled k-space ``(slices, coils, y, x)``.
            measured: samples that were measured, bool ``(x,)`` or ``(y, x)``.
            case: name of the case.
            name: name of the k-space, for messages.
        """
        check_fully_sampled(kspace, measured, name)
        try:
            mask = undersampling_mask(kspace.shape[-2:], self.kind, self.accel, self.acs, case_seed(self.seed, case))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        return mask & measured  # zero padding is not sampled

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space, zero where not sampled."""
        mask = self.mask(kspace) if mask is None else torch.from_numpy(np.atleast_2d(mask_of(kspace, mask)))
        out = kspace * mask
        if isinstance(out, MetaTensor):
            out.meta["acceleration"] = achieved_acceleration(mask.numpy())
        return out


class UndersampleKSpaced(MapTransform):
    """:class:`UndersampleKSpace` of every key.

    Replaces the mask ``(1 or y, x)`` as well, and a noise level that was estimated from the outermost k-space.

    Args:
        keys: keys of the k-space.
        kind: see :class:`UndersampleKSpace`.
        accel: see :class:`UndersampleKSpace`.
        acs: see :class:`UndersampleKSpace`.
        seed: see :class:`UndersampleKSpace`.
        mask_key: key of the mask, which is replaced.
        noise_key: key of the noise standard deviation, which is replaced.
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
        """Complex64 maps of the shape of k-space, or ``(slices, sets, coils, y, x)`` for several sets; ones for a single coil.

        The meta records the method as ``maps_source`` and, as ``warnings``, why it is not ESPIRiT with the requested kernel.
        """
        array = torch.as_tensor(kspace).cpu().numpy()
        name = str(kspace.meta.get("filename_or_obj", name)) if isinstance(kspace, MetaTensor) else name
        mask_array = mask_of(kspace, mask)
        trusted_std = trusted_noise(noise_std, array, mask_array)
        found = estimate_maps(array, mask_array, trusted_std, name, self.settings, self.rss)
        return MetaTensor(found.maps, meta={"maps_source": found.source, "warnings": list(found.warnings)})


class EstimateSensitivityMapsd(MapTransform):
    """Coil maps from the fully sampled centre of *undersampled* k-space ``(slices, coils, y, x)``.

    The calibration block is the largest fully sampled rectangle around the centre. Maps come from ESPIRiT, or, where these miss
    signal, from the methods that :func:`medrecon.data.espirit.coil_maps` tries next. The meta of the maps has
    ``maps_source``; warnings are added to the meta of k-space. Single-coil data get maps of ones.

    Args:
        keys: keys of the k-space.
        mask_key: key of the mask ``(1 or y, x)``; without it, the mask is inferred from zero samples.
        maps_key: key for the maps, complex64 like k-space.
        noise_key: key of the noise standard deviation; without it, only the threshold of ``settings`` separates signal from
            noise.
        settings: settings of ESPIRiT, see :class:`medrecon.data.espirit.Espirit`; several ``sets`` of maps give
            ``(slices, sets, coils, y, x)``.
        required: whether data without a calibration region are refused; otherwise they get no maps, and a warning.
        rss: accept data without a fully sampled centre, for the solver ``zero-filled``, whose image is then the root sum of
            squares; other solvers need maps, so such data are refused by default.
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
        required: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.required = required
        self.mask_key = mask_key
        self.maps_key = maps_key
        self.noise_key = noise_key
        self.estimate = EstimateSensitivityMaps(settings, rss)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Estimate the maps of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            std = float(torch.as_tensor(out.get(self.noise_key, 0.0)))
            try:
                maps = self.estimate(out[key], out.get(self.mask_key), std, str(key))
            except InputError as error:
                if self.required:
                    raise
                warn(str(error))
                out[key] = _warned(out[key], [f"no maps: {error}"])
                continue
            for text in maps.meta["warnings"]:
                warn(text)
            out[key] = _warned(out[key], maps.meta["warnings"])
            out[self.maps_key] = maps
        return out


def _warned(x: Tensor, texts: Sequence[str]) -> Tensor:
    """A tensor with more warnings in its meta."""
    if not isinstance(x, MetaTensor) or not texts:
        return x
    return copy_meta(x.as_tensor(), x, x.affine, warnings=[*(x.meta.get("warnings") or []), *texts])


class ReferenceImaged(MapTransform):
    """Reference image from *fully sampled* k-space; see :func:`medrecon.data.espirit.combined_reference`.

    Args:
        keys: keys of the k-space ``(slices, coils, y, x)``.
        label_key: key for the magnitude image ``(slices, y, x)``.
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
    """Select a range of slices; the affine of a ``MetaTensor`` follows.

    Args:
        first: index of the first slice, from the end if negative.
        last: index after the last slice, from the end if negative; ``None``: to the end.
    """

    def __init__(self, first: int = 0, last: int | None = None) -> None:
        self.slices = slice(first, last)

    def __call__(self, data: Tensor) -> Tensor:
        """The selected slices of data ``(slices, ...)``."""
        if not len(range(len(data))[self.slices]):
            raise InputError(
                f"{self.slices.start}:{self.slices.stop} selects none of the {len(data)} slices; choose another range"
            )
        if not isinstance(data, MetaTensor):
            return data[self.slices]
        affine = affine_of_slices(data.affine.cpu().numpy(), self.slices, len(data))
        return copy_meta(data.as_tensor()[self.slices], data, affine)  # type: ignore[arg-type]


class SelectSlicesd(MapTransform):
    """:class:`SelectSlices` of every key.

    Args:
        keys: keys of k-space or images.
        first: see :class:`SelectSlices`.
        last: see :class:`SelectSlices`.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, first: int = 0, last: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.select = SelectSlices(first, last)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select slices of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.select(out[key])
        return out


class MagnitudeMeand(MapTransform):
    """Mean magnitude ``(slices, y, x)`` float32 of complex samples ``(samples, slices, y, x)``, or a reconstruction's image."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            if isinstance(out[key], Reconstruction):
                out[key] = torch.from_numpy(out[key].image)
            else:
                out[key] = torch.as_tensor(out[key]).abs().float().cpu().mean(0)
        return out
