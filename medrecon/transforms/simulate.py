"""Transforms that make measurements of images, and that scale and crop measurements."""

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
from medrecon.transforms.coils import as_array, as_before, cropped, mask_of

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
        quadratic: of the second-order ones, rad per 128 pixels squared.
        prob: probability that there is a phase at all; the result is complex either way.
    """

    def __init__(self, linear: float = 1.5, quadratic: float = 1.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.linear = linear
        self.quadratic = quadratic

    def __call__(self, image: Tensor) -> Tensor:
        """The complex image."""
        array = as_array(image)
        self.randomize(None)
        turned = array.astype(np.result_type(array.dtype, np.complex64), copy=True)
        if self._do_transform:
            turned *= np.exp(1j * smooth_phase(array.shape[-2:], self.R, self.linear, self.quadratic))
        return as_before(image, turned)


class _Seeded(Randomizable, MapTransform):
    """A dictionary form whose array form, ``one``, draws from the same stream."""

    one: Randomizable

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _Seeded:
        """Seed it, as MONAI's datasets do."""
        super().set_random_state(seed, state)
        self.one.set_random_state(state=self.R)
        return self


class AddSmoothPhased(_Seeded):
    """:class:`AddSmoothPhase` of every key, each with its own phase.

    Args:
        keys: of the images.
        linear: see :class:`AddSmoothPhase`.
        quadratic: see there.
        prob: see there.
        allow_missing_keys: as in MONAI.
    """

    one: AddSmoothPhase

    def __init__(
        self,
        keys: KeysCollection,
        linear: float = 1.5,
        quadratic: float = 1.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.one = AddSmoothPhase(linear, quadratic, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.one(out[key])
        return out


class SimulateKSpace(Randomizable, Transform):
    """Fully sampled k-space ``(slices, coils, y, x)`` of images ``(slices, y, x)``, as loops round the object would measure it.

    Args:
        coils: number of loops.
        noise_std: of the k-space per real component, in units of the image.
    """

    def __init__(self, coils: int = 8, noise_std: float = 0.01) -> None:
        if coils < 1 or not noise_std >= 0:
            raise InputError(
                f"there must be at least one coil, and noise cannot be negative; got {coils} and {noise_std}"
            )
        self.coils = coils
        self.noise_std = noise_std

    def maps(self, shape: tuple[int, int]) -> np.ndarray:
        """Sensitivities ``(coils, y, x)``."""
        return loop_coils(shape, self.coils) if self.coils > 1 else np.ones((1, *shape), np.complex64)

    def __call__(self, image: Tensor) -> Tensor:
        """Measure."""
        array = as_array(image)
        if array.ndim != 3:
            raise InputError(f"images must be (slices, y, x) to be measured; got shape {array.shape}")
        maps = self.maps(array.shape[1:])
        generator = np.random.default_rng(self.R.randint(2**31))
        measured = np.stack([simulate_kspace(one, maps, self.noise_std, generator) for one in array])
        return as_before(image, measured, noise_source="given")


class SimulateKSpaced(_Seeded):
    """:class:`SimulateKSpace` of every key; adds the mask (all true), the maps and the noise level.

    Undersample it by :class:`UndersampleKSpaced`.

    Args:
        keys: of the images, real or complex.
        coils: number of loops.
        noise_std: of the k-space per real component, in units of the image.
        mask_key: where the mask goes.
        maps_key: where the sensitivities go, complex like the k-space; ``None``: nowhere.
        noise_key: where the noise level goes.
        allow_missing_keys: as in MONAI.
    """

    one: SimulateKSpace

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
        self.one = SimulateKSpace(coils, noise_std)
        self.mask_key = mask_key
        self.maps_key = maps_key
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.one(out[key])
            shape = tuple(out[key].shape)
            out[self.mask_key] = torch.ones(1, shape[-1], dtype=torch.bool)
            out[self.noise_key] = self.one.noise_std
            if self.maps_key is not None:
                maps = self.one.maps((shape[2], shape[3]))
                out[self.maps_key] = torch.from_numpy(np.broadcast_to(maps, shape).copy())
        return out


class SimulateSinogram(Randomizable, Transform):
    """Line integrals ``(slices, views, detectors)`` of Hounsfield units ``(slices, y, x)``, with the noise of counting.

    The meta of a ``MetaTensor`` records ``detector_spacing``, ``offset`` and ``photons``.

    Args:
        views: number of views.
        turn: degrees that they cover, from 0.
        photons: emitted per ray; 0: no noise.
        electronic: standard deviation of the electronic noise, in photons.
        spacing: side of a (square) pixel in mm; default: that of the ``MetaTensor``'s affine.
        water: attenuation of water per mm.
        detectors: default: enough for the diagonal.
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
                "views must be at least 1, the turn within (0, 360] degrees, photons and electronic noise not negative and "
                f"water positive; got {views}, {turn}, {photons}, {electronic}, {water}"
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
        """Of the views, rad, float64."""
        return torch.arange(self.views, dtype=torch.float64) * math.radians(self.turn) / self.views

    def pixel_size(self, image: object) -> float:
        """Side of a pixel, mm."""
        if self.spacing is not None:
            return self.spacing
        if not isinstance(image, MetaTensor):
            raise InputError("the pixel size is unknown; give spacing in mm")
        x, y = (float(image.affine[:3, axis].norm()) for axis in (0, 1))
        if not math.isclose(x, y, rel_tol=1e-3):
            raise InputError(f"pixels of {x:g} x {y:g} mm are not square; resample them")
        return x

    def __call__(self, image: Tensor) -> Tensor:
        """Measure."""
        array, spacing = torch.from_numpy(as_array(image).astype(np.float32)), self.pixel_size(image)
        if array.ndim != 3:
            raise InputError(f"images must be (slices, y, x) to be measured; got shape {tuple(array.shape)}")
        shape = (array.shape[1], array.shape[2])
        project = ParallelBeam(self.angles, shape, Detector(self.detectors), spacing=spacing)
        sinogram = project(((1 + array / 1000).clamp(min=0) * self.water)[None])[0].numpy()
        generator = np.random.default_rng(self.R.randint(2**31))
        scan = {"detector_spacing": spacing, "offset": 0.0, "photons": self.photons}
        return as_before(image, counted(sinogram, self.photons, self.electronic, generator), **scan)


class SimulateSinogramd(_Seeded):
    """:class:`SimulateSinogram` of every key; adds ``angles, detector_spacing, offset, photons``, as LoadSinogramd does.

    Args:
        keys: of the images, square pixels.
        views: see :class:`SimulateSinogram`.
        turn: see there.
        photons: see there.
        electronic: see there.
        spacing: see there.
        water: see there.
        detectors: see there.
        allow_missing_keys: as in MONAI.
    """

    one: SimulateSinogram

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
        self.one = SimulateSinogram(views, turn, photons, electronic, spacing, water, detectors)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out["detector_spacing"] = self.one.pixel_size(out[key])
            out["offset"], out["photons"] = 0.0, self.one.photons
            out[key] = self.one(out[key])
        out["angles"] = self.one.angles
        return out


class NormalizeKSpace(Transform):
    """Divide k-space ``(slices, coils, y, x)`` so that a percentile of its zero-filled image is 1.

    Args:
        percentile: of the root of the sum of squares over the volume.
    """

    def __init__(self, percentile: float = 99.0) -> None:
        self.percentile = percentile

    def scale(self, kspace: Tensor) -> float:
        """What to divide by; 1 for k-space that is all zeros."""
        image = combine_coils(as_array(kspace))
        return float(np.percentile(image, self.percentile)) or float(image.max()) or 1.0

    def __call__(self, kspace: Tensor) -> Tensor:
        """Scaled; the meta of a ``MetaTensor`` records the ``scale``."""
        scale = self.scale(kspace)
        out = kspace / scale
        if isinstance(out, MetaTensor):
            out.meta["scale"] = scale
        return out


class NormalizeKSpaced(MapTransform, InvertibleTransform):
    """Divide k-space, and its noise level, so that a percentile of its zero-filled image is 1; invertible.

    ``inverse`` gives back the scale, to the k-space or to an image that carries its trace.

    Args:
        keys: of the k-space ``(slices, coils, y, x)``.
        percentile: of the root of the sum of squares over the volume.
        noise_key: of the noise standard deviation, if it is there.
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
        """Give every key its scale back, and the noise level."""
        out = dict(data)
        for key in self.key_iterator(out):
            scale = self.pop_transform(out[key])["extra_info"]["scale"]
            out[key] = out[key] * scale
            if self.noise_key in out:
                out[self.noise_key] = out[self.noise_key] * scale
        return out


class CropKSpace(Transform):
    """K-space of the middle of the image; pixels keep their size and place.

    Args:
        shape: ``(y, x)`` of the image that is left; -1 leaves an axis as it is.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __call__(self, kspace: Tensor, mask: Tensor | None = None) -> Tensor:
        """K-space ``(slices, coils, *shape)``."""
        array = as_array(kspace)
        old = array.shape[-2:]
        y, x = (n if kept == -1 else kept for n, kept in zip(old, self.shape, strict=True))
        return cropped(kspace, crop_field_of_view(array, mask_of(kspace, mask), (y, x)))


class CropKSpaced(MapTransform):
    """:class:`CropKSpace` of every key, and of a mask of points.

    Args:
        keys: of the k-space.
        shape: see :class:`CropKSpace`.
        mask_key: of the mask; if it is not there, the mask is read off the zeros.
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
            if mask is not None:  # along an axis that is cropped all lines of the mask are alike
                out[self.mask_key] = mask[..., : out[key].shape[-2], : out[key].shape[-1]]
        return out
