"""Transforms that simulate measurements of images, and that scale and crop k-space."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable, RandomizableTransform, Transform
from torch import Tensor

from medrecon.data.coils import combine_coils, crop_field_of_view
from medrecon.data.errors import InputError
from medrecon.data.noise import counted
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.phase import smooth_phase
from medrecon.operators import Detector, ParallelBeam
from medrecon.transforms.coils import as_array, cropped_like, mask_of, tensor_like

__all__ = [
    "AddSmoothPhase",
    "AddSmoothPhased",
    "CropKSpace",
    "CropKSpaced",
    "NormalizeKSpace",
    "NormalizeKSpaced",
    "SimulateKSpace",
    "SimulateKSpaced",
    "SimulateSinogram",
    "SimulateSinogramd",
]


class AddSmoothPhase(RandomizableTransform):
    """Multiply images ``(..., y, x)`` by one random smooth phase; see :func:`medrecon.data.phase.smooth_phase`.

    Args:
        linear: standard deviation of the first-order coefficients, rad per 128 pixels.
        quadratic: standard deviation of the second-order coefficients, rad per 128 pixels squared.
        prob: probability that a phase is applied; the result is complex in any case.
    """

    def __init__(self, linear: float = 1.5, quadratic: float = 1.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.linear = linear
        self.quadratic = quadratic

    def __call__(self, image: Tensor) -> Tensor:
        """The complex image."""
        array = as_array(image)
        self.randomize(None)
        out = array.astype(np.result_type(array.dtype, np.complex64), copy=True)
        if self._do_transform:
            out *= np.exp(1j * smooth_phase(array.shape[-2:], self.R, self.linear, self.quadratic))
        return tensor_like(image, out)


class _Seeded(Randomizable, MapTransform):
    """A dictionary transform whose array transform draws from the same random stream."""

    array_transform: Randomizable

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _Seeded:
        """Seed both transforms; called by MONAI's datasets."""
        super().set_random_state(seed, state)
        self.array_transform.set_random_state(state=self.R)
        return self


class AddSmoothPhased(_Seeded):
    """:class:`AddSmoothPhase` of every key, each with its own phase.

    Args:
        keys: keys of the images.
        linear: see :class:`AddSmoothPhase`.
        quadratic: see :class:`AddSmoothPhase`.
        prob: see :class:`AddSmoothPhase`.
        allow_missing_keys: as in MONAI.
    """

    array_transform: AddSmoothPhase

    def __init__(
        self,
        keys: KeysCollection,
        linear: float = 1.5,
        quadratic: float = 1.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.array_transform = AddSmoothPhase(linear, quadratic, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply a phase to every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.array_transform(out[key])
        return out


class SimulateKSpace(Randomizable, Transform):
    """Simulate fully sampled k-space ``(slices, coils, y, x)`` of images ``(slices, y, x)``, with loop coils around the object.

    Args:
        coils: number of loop coils.
        noise_std: noise standard deviation of k-space per real component, in the unit of the image.
    """

    def __init__(self, coils: int = 8, noise_std: float = 0.01) -> None:
        if coils < 1 or not noise_std >= 0:
            raise InputError(f"coils must be at least 1 and noise_std not negative; got {coils} and {noise_std}")
        self.coils = coils
        self.noise_std = noise_std

    def maps(self, shape: tuple[int, int]) -> np.ndarray:
        """Sensitivity maps ``(coils, y, x)``."""
        return loop_coils(shape, self.coils) if self.coils > 1 else np.ones((1, *shape), np.complex64)

    def __call__(self, image: Tensor) -> Tensor:
        """Simulate the k-space."""
        array = as_array(image)
        if array.ndim != 3:
            raise InputError(f"an image must be (slices, y, x); got shape {array.shape}")
        maps = self.maps(array.shape[1:])
        generator = np.random.default_rng(self.R.randint(2**31))
        measured = np.stack([simulate_kspace(one, maps, self.noise_std, generator) for one in array])
        return tensor_like(image, measured, noise_source="given")


class SimulateKSpaced(_Seeded):
    """:class:`SimulateKSpace` of every key; adds the mask (all true), the maps and the noise level.

    :class:`UndersampleKSpaced` undersamples the result.

    Args:
        keys: keys of the images, real or complex.
        coils: see :class:`SimulateKSpace`.
        noise_std: see :class:`SimulateKSpace`.
        mask_key: key for the mask.
        maps_key: key for the sensitivity maps, complex like the k-space; ``None``: maps are not added.
        noise_key: key for the noise standard deviation.
        allow_missing_keys: as in MONAI.
    """

    array_transform: SimulateKSpace

    def __init__(
        self,
        keys: KeysCollection,
        coils: int = 8,
        noise_std: float = 0.01,
        mask_key: str = "mask",
        maps_key: str | None = "maps",
        noise_key: str = "noise_std",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.array_transform = SimulateKSpace(coils, noise_std)
        self.mask_key = mask_key
        self.maps_key = maps_key
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate a measurement of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.array_transform(out[key])
            shape = tuple(out[key].shape)
            out[self.mask_key] = torch.ones(1, shape[-1], dtype=torch.bool)
            out[self.noise_key] = self.array_transform.noise_std
            if self.maps_key is not None:
                maps = self.array_transform.maps((shape[2], shape[3]))
                out[self.maps_key] = torch.from_numpy(np.broadcast_to(maps, shape).copy())
        return out


class SimulateSinogram(Randomizable, Transform):
    """Simulate parallel-beam sinograms ``(slices, views, detectors)`` of CT images ``(slices, y, x)`` in HU, with photon noise.

    The meta of a ``MetaTensor`` records ``detector_spacing``, ``offset`` and ``photons``.

    Args:
        views: number of views.
        turn: angular range of the views, from 0, degrees.
        photons: photons emitted per ray; 0: no noise.
        electronic: standard deviation of the electronic noise, in photons.
        spacing: side of the square pixels, mm; default: from the affine of a ``MetaTensor``.
        water: attenuation of water, 1/mm.
        detectors: number of detector pixels; default: enough for the diagonal of the image.
    """

    def __init__(
        self,
        views: int = 180,
        turn: float = 180.0,
        photons: float = 1e5,
        electronic: float = 0.0,
        spacing: float | None = None,
        water: float = 0.02,
        detectors: int | None = None,
    ) -> None:
        if views < 1 or not 0 < turn <= 360 or not photons >= 0 or not electronic >= 0 or not water > 0:
            raise InputError(
                "views must be at least 1, turn in (0, 360] degrees, photons and electronic not negative and water positive; "
                f"got {views}, {turn}, {photons}, {electronic} and {water}"
            )
        self.views = views
        self.turn = turn
        self.photons = photons
        self.electronic = electronic
        self.spacing = spacing
        self.water = water
        self.detectors = detectors

    @property
    def angles(self) -> Tensor:
        """Angles of the views, rad, float64."""
        return torch.arange(self.views, dtype=torch.float64) * math.radians(self.turn) / self.views

    def pixel_size(self, image: object) -> float:
        """Side of the square pixels, mm.

        Raises:
            InputError: if it is unknown, or pixels are not square.
        """
        if self.spacing is not None:
            return self.spacing
        if not isinstance(image, MetaTensor):
            raise InputError("the pixel size is unknown; give spacing in mm")
        x, y = (float(image.affine[:3, axis].norm()) for axis in (0, 1))
        if not math.isclose(x, y, rel_tol=1e-3):
            raise InputError(f"pixels of {x:g} x {y:g} mm are not square; resample the image")
        return x

    def __call__(self, image: Tensor) -> Tensor:
        """Simulate the sinogram."""
        array, spacing = torch.from_numpy(as_array(image).astype(np.float32)), self.pixel_size(image)
        if array.ndim != 3:
            raise InputError(f"an image must be (slices, y, x); got shape {tuple(array.shape)}")
        project = ParallelBeam(self.angles, (array.shape[1], array.shape[2]), Detector(self.detectors), spacing=spacing)
        sinogram = project(((1 + array / 1000).clamp(min=0) * self.water)[None])[0].numpy()
        generator = np.random.default_rng(self.R.randint(2**31))
        meta = {"detector_spacing": spacing, "offset": 0.0, "photons": self.photons}
        return tensor_like(image, counted(sinogram, self.photons, self.electronic, generator), **meta)


class SimulateSinogramd(_Seeded):
    """:class:`SimulateSinogram` of every key; adds ``angles``, ``detector_spacing``, ``offset`` and ``photons``.

    These are the keys of ``LoadSinogramd``.

    Args:
        keys: keys of the images, with square pixels.
        views: see :class:`SimulateSinogram`.
        turn: see :class:`SimulateSinogram`.
        photons: see :class:`SimulateSinogram`.
        electronic: see :class:`SimulateSinogram`.
        spacing: see :class:`SimulateSinogram`.
        water: see :class:`SimulateSinogram`.
        detectors: see :class:`SimulateSinogram`.
        allow_missing_keys: as in MONAI.
    """

    array_transform: SimulateSinogram

    def __init__(
        self,
        keys: KeysCollection,
        views: int = 180,
        turn: float = 180.0,
        photons: float = 1e5,
        electronic: float = 0.0,
        spacing: float | None = None,
        water: float = 0.02,
        detectors: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.array_transform = SimulateSinogram(views, turn, photons, electronic, spacing, water, detectors)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate a measurement of every key."""
        out = dict(data)
        simulate = self.array_transform
        for key in self.key_iterator(out):
            out["detector_spacing"], out["offset"], out["photons"] = (
                simulate.pixel_size(out[key]),
                0.0,
                simulate.photons,
            )
            out[key] = simulate(out[key])
        out["angles"] = simulate.angles
        return out


class NormalizeKSpace(Transform):
    """Scale k-space ``(slices, coils, y, x)`` so that a percentile of its zero-filled image is 1.

    Args:
        percentile: percentile of the root-sum-of-squares image over the volume.
    """

    def __init__(self, percentile: float = 99.0) -> None:
        self.percentile = percentile

    def scale(self, kspace: Tensor) -> float:
        """The divisor; 1 for k-space that is all zeros."""
        image = combine_coils(as_array(kspace))
        return float(np.percentile(image, self.percentile)) or float(image.max()) or 1.0

    def __call__(self, kspace: Tensor) -> Tensor:
        """Scaled k-space; the meta of a ``MetaTensor`` records the divisor as ``scale``."""
        scale = self.scale(kspace)
        out = kspace / scale
        if isinstance(out, MetaTensor):
            out.meta["scale"] = scale
        return out


class NormalizeKSpaced(MapTransform, InvertibleTransform):
    """Scale k-space, and its noise level, so that a percentile of its zero-filled image is 1; invertible.

    ``inverse`` undoes the scaling, of the k-space or of an image with its trace of transforms.

    Args:
        keys: keys of the k-space ``(slices, coils, y, x)``.
        percentile: percentile of the root-sum-of-squares image over the volume.
        noise_key: key of the noise standard deviation, scaled as well if present.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentile: float = 99.0,
        noise_key: str = "noise_std",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = NormalizeKSpace(percentile)
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            scale = self.normalize.scale(out[key])
            out[key] = out[key] / scale
            if self.noise_key in out:
                out[self.noise_key] = out[self.noise_key] / scale
            self.push_transform(out[key], extra_info={"scale": scale})
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the scaling of every key, and of the noise level."""
        out = dict(data)
        for key in self.key_iterator(out):
            scale = self.pop_transform(out[key])["extra_info"]["scale"]
            out[key] = out[key] * scale
            if self.noise_key in out:
                out[self.noise_key] = out[self.noise_key] * scale
        return out


class CropKSpace(Transform):
    """Crop the field of view around its centre; pixels keep their size and position.

    Args:
        shape: matrix size ``(y, x)`` of the cropped image; -1 keeps an axis unchanged.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space ``(slices, coils, *shape)``."""
        array = as_array(kspace)
        y, x = (old if new == -1 else new for old, new in zip(array.shape[-2:], self.shape, strict=True))
        return cropped_like(kspace, crop_field_of_view(array, mask_of(kspace, mask), (y, x)))


class CropKSpaced(MapTransform):
    """:class:`CropKSpace` of every key, and of a mask of points.

    Args:
        keys: keys of the k-space.
        shape: see :class:`CropKSpace`.
        mask_key: key of the mask; without it, the mask is inferred from zero samples.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, shape: Sequence[int], mask_key: str = "mask", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crop = CropKSpace(shape)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        out = dict(data)
        mask = out.get(self.mask_key)
        for key in self.key_iterator(out):
            out[key] = self.crop(out[key], mask)
            if mask is not None:  # the mask does not vary along a cropped axis
                out[self.mask_key] = mask[..., : out[key].shape[-2], : out[key].shape[-1]]
        return out
