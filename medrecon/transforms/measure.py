"""Transforms that simulate a scan from a known image, and keep the image as the reference of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medrecon.data.arguments import as_number, check_count, shown
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.espirit import combined_reference
from medrecon.data.names import case_seed
from medrecon.data.scan import CartesianScan, Geometry, ImageScan, NonCartesianScan, Scan, Sinogram
from medrecon.data.trajectories import GOLDEN_ANGLE, radial
from medrecon.metrics import SSIM_WINDOW
from medrecon.operators import NUFFT
from medrecon.operators.image import DOWNSAMPLING
from medrecon.transforms.kspace import UndersampleKSpace, check_fully_sampled
from medrecon.transforms.simulate import SimulateSinogram

__all__ = ["CoarserImaged", "FewerLinesd", "NoisyImaged", "RadialKSpaced", "SinogramOfImaged"]


class _Measure(MapTransform):
    """Replace a scan by a simulated measurement of it, and add the reference image.

    Args:
        keys: keys of the scans, see :class:`medrecon.transforms.LoadScand`.
        label_key: key for the reference image, ``(slices, y, x)`` float32.
        allow_missing_keys: as in MONAI.
    """

    scan_type: type = ImageScan
    scan_name = "an image"

    def __init__(self, keys: KeysCollection, label_key: str = "label", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure every key.

        Raises:
            medrecon.InputError: for a scan of another kind, or unsuitable values in it, naming the file.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            scan = out[key]
            if not isinstance(scan, self.scan_type):
                raise InputError(f"{scan.path}: is not {self.scan_name}; give {self.scan_name}")
            if min(scan.matrix) < SSIM_WINDOW:
                raise InputError(
                    f"{scan.path}: slices of {scan.matrix[0]} x {scan.matrix[1]} pixels are too small to score; give slices (the "
                    f"last axis of NIfTI) of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels"
                )
            measurement, label, items = self.measure(scan)
            out |= {key: measurement, self.label_key: torch.from_numpy(label.astype(np.float32)), **items}
        return out

    def measure(self, scan: Any) -> tuple[Scan, np.ndarray, dict[str, Any]]:  # noqa: ANN401 - of the type scan_type
        """The measurement, the reference image, and further items of the dictionary."""
        raise NotImplementedError(f"{type(self).__name__} must define measure")


def _checked_seed(seed: int) -> int:
    """The seed, if it is a whole number from 0 to 2^63 - 1.

    Raises:
        InputError: if it is not.
    """
    check_count("seed", seed, 0, 2**63 - 1)
    return seed


def _generator(seed: int, scan: Scan) -> np.random.Generator:
    """Random generator of a case, which depends only on the seed and the name of the scan."""
    return np.random.default_rng(case_seed(seed, scan.stem))


def _image_unit(array: np.ndarray) -> float:
    """The 99.5th percentile of the magnitudes of a volume."""
    return float(np.quantile(np.abs(array), 0.995)) or float(np.abs(array).max())


def _magnitude(scan: ImageScan) -> np.ndarray:
    """The magnitude of an image.

    Raises:
        InputError: for an image that is all zeros, or has negative values, such as HU.
    """
    if not scan.array.any():
        raise InputError(f"{scan.path}: the image is all zeros; give another image")
    if not np.iscomplexobj(scan.array) and (scan.array < 0).any():
        raise InputError(f"{scan.path}: the image has negative values; give a magnitude image")
    return np.abs(scan.array)


class NoisyImaged(_Measure):
    """Add complex Gaussian noise to images; a magnitude image stays a magnitude (Rician noise).

    Args:
        keys: keys of scans with magnitude or complex images.
        noise: standard deviation per real component, as a fraction of the 99.5th percentile of the image.
        label_key: key for the reference image.
        seed: random seed of the noise; a scan's noise depends on it and on the scan's name.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        noise: float = 0.1,
        label_key: str = "label",
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_key, allow_missing_keys)
        self.seed = _checked_seed(seed)
        self.noise = as_number("noise", noise, positive=True)

    def measure(self, scan: ImageScan) -> tuple[Scan, np.ndarray, dict[str, Any]]:
        """See :class:`_Measure`."""
        label, rng = _magnitude(scan), _generator(self.seed, scan)
        std = np.float32(self.noise * _image_unit(scan.array))
        first, second = std * rng.standard_normal((2, *scan.array.shape), np.float32)
        noisy = scan.array + first + 1j * second
        noisy = noisy if np.iscomplexobj(scan.array) else np.abs(noisy)
        return replace(scan, array=noisy.astype(scan.array.dtype)), label, {}


class CoarserImaged(_Measure):
    """Simulate magnitude images with larger pixels, by the model of :class:`medrecon.settings.ImagePhysics`.

    Complex images are replaced by their magnitude first. Gaussian noise is added, and the magnitude taken. Rows and columns
    at the far end that do not fill a larger pixel are cropped, in the reference image as well.

    Args:
        keys: keys of the scans.
        factor: ratio of pixel sizes, one number or ``(y, x)``.
        kernel: ``kspace``, ``mean`` or ``gaussian``.
        noise: standard deviation, as a fraction of the 99.5th percentile of the image.
        label_key: key for the reference image.
        seed: random seed of the noise; a scan's noise depends on it and on the scan's name.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        factor: int | Sequence[int] = 2,
        kernel: str = "kspace",
        noise: float = 0.01,
        label_key: str = "label",
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_key, allow_missing_keys)
        self.seed = _checked_seed(seed)
        factors = list(factor) if isinstance(factor, Sequence) else [factor] * 2
        for one in factors:
            check_count("factor", one, 1, 64)
        if len(factors) != 2:
            raise InputError(f"factor must be one whole number, or two for (y, x); got {shown(factor)}")
        if kernel not in list(DOWNSAMPLING):  # not every argument is hashable
            raise InputError(f"unknown kernel {shown(kernel)}; choose kspace, mean or gaussian")
        self.factors = factors
        self.kernel = kernel
        self.noise = as_number("noise", noise)

    def measure(self, scan: ImageScan) -> tuple[Scan, np.ndarray, dict[str, Any]]:
        """See :class:`_Measure`."""
        label, factors = _magnitude(scan), self.factors
        small = [n // f for n, f in zip(scan.matrix, factors, strict=True)]
        if not all(small):
            raise InputError(
                f"{scan.path}: {scan.matrix[0]} x {scan.matrix[1]} pixels are too few for a factor of {factors[0]} x {factors[1]}"
                "; give a smaller factor"
            )
        label = label[:, : small[0] * factors[0], : small[1] * factors[1]]
        coarsen = DOWNSAMPLING[self.kernel](label.shape[1:], factors)
        coarse = coarsen(torch.from_numpy(label.astype(np.float32))[:, None])[:, 0].numpy()
        noise = self.noise * _image_unit(label) * _generator(self.seed, scan).standard_normal(coarse.shape)
        geometry = _coarse_geometry(scan.geometry, factors, label.shape[1:], self.kernel)
        array = np.abs(coarse + noise).astype(np.float32)
        return replace(scan, array=array, geometry=geometry, headers=()), label, {}


def _coarse_geometry(geometry: Geometry, factors: Sequence[int], matrix: tuple[int, ...], kernel: str) -> Geometry:
    """The geometry of the larger pixels; :mod:`medrecon.problems.images` describes their positions."""
    first = [
        {"kspace": n // 2 - n // f // 2 * f, "gaussian": f // 2, "mean": (f - 1) / 2}[kernel]
        for n, f in zip(matrix, factors, strict=True)
    ]
    return geometry.resampled(list(factors), first)


class SinogramOfImaged(_Measure):
    """Simulate parallel-beam sinograms of CT images in HU, with photon noise. Padding below -1000 HU counts as air.

    Adds ``image_size`` and ``voxel``, options of the physics for a reconstruction on the same pixels, see
    :class:`medrecon.engines.ScanPrepareBatch`.

    Args:
        keys: keys of scans with square CT images of square pixels.
        views: number of views.
        turn: angular range of the views, degrees.
        photons: photons per ray; 0: no noise.
        label_key: key for the reference image.
        seed: random seed of the noise; a scan's noise depends on it and on the scan's name.
        allow_missing_keys: as in MONAI.
    """

    scan_name = "a CT image"

    def __init__(
        self,
        keys: KeysCollection,
        views: int = 180,
        turn: float = 180.0,
        photons: float = 1e5,
        label_key: str = "label",
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_key, allow_missing_keys)
        self.seed = _checked_seed(seed)
        SimulateSinogram(views, turn, photons)  # checks the values
        self.settings = {"views": views, "turn": turn, "photons": photons}

    def measure(self, scan: ImageScan) -> tuple[Scan, np.ndarray, dict[str, Any]]:
        """See :class:`_Measure`."""
        if np.iscomplexobj(scan.array) or scan.array.min() > -500:
            raise InputError(f"{scan.path}: is not a CT image in HU, which has air near -1000; give a CT image")
        if scan.matrix[0] != scan.matrix[1]:
            raise InputError(
                f"{scan.path}: {scan.matrix[0]} x {scan.matrix[1]} pixels are not square; crop or pad the image"
            )
        spacing = scan.spacing
        if spacing is None or not math.isclose(spacing[1], spacing[2], rel_tol=1e-3):
            raise InputError(f"{scan.path}: pixels are not square, or of unknown size; resample the image")
        simulate = SimulateSinogram(**self.settings, spacing=spacing[1])
        simulate.set_random_state(int(_generator(self.seed, scan).integers(2**31)))
        sinogram = simulate(torch.from_numpy(scan.array.astype(np.float32)))
        measurement = Sinogram(
            path=scan.path,
            format=scan.format,
            geometry=scan.geometry,
            attributes=scan.attributes,
            warnings=scan.warnings,
            sinogram=torch.as_tensor(sinogram).numpy().astype(np.float32),
            angles=simulate.angles.numpy(),
            detector_spacing=spacing[1],
            photons=simulate.photons,
        )
        return measurement, scan.array.clip(min=-1000), {"image_size": scan.matrix[0], "voxel": spacing[1]}


class FewerLinesd(_Measure):
    """Undersample fully sampled k-space.

    Args:
        keys: keys of the scans.
        kind: kind of the mask, see :class:`medrecon.transforms.UndersampleKSpace`.
        accel: acceleration, ACS included.
        acs: fully sampled lines at the centre.
        label_key: key for the reference image, see :func:`medrecon.data.espirit.combined_reference`.
        seed: random seed of the masks; a scan's mask depends on it and on the scan's name.
        allow_missing_keys: as in MONAI.
    """

    scan_type = CartesianScan
    scan_name = "fully sampled Cartesian k-space"

    def __init__(
        self,
        keys: KeysCollection,
        kind: str = "gaussian1d",
        accel: float = 4.0,
        acs: int = 24,
        label_key: str = "label",
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_key, allow_missing_keys)
        self.undersample = UndersampleKSpace(kind, accel, acs, _checked_seed(seed))

    def measure(self, scan: CartesianScan) -> tuple[Scan, np.ndarray, dict[str, Any]]:
        """See :class:`_Measure`."""
        kspace = np.asarray(scan.kspace)
        mask = self.undersample.mask_of_case(kspace, scan.mask, case=scan.stem, name=str(scan.path))
        return replace(scan, kspace=kspace * mask, mask=mask), combined_reference(kspace), {}


class RadialKSpaced(_Measure):
    """Simulate golden-angle radial k-space from fully sampled Cartesian k-space; its noise is kept.

    Args:
        keys: keys of the scans.
        spokes: number of spokes.
        label_key: key for the reference image, see :func:`medrecon.data.espirit.combined_reference`.
        allow_missing_keys: as in MONAI.
    """

    scan_type = CartesianScan
    scan_name = "fully sampled Cartesian k-space"

    def __init__(
        self,
        keys: KeysCollection,
        spokes: int = 48,
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_key, allow_missing_keys)
        check_count("spokes", spokes, 1, 100_000)
        self.spokes = spokes

    def measure(self, scan: CartesianScan) -> tuple[Scan, np.ndarray, dict[str, Any]]:
        """See :class:`_Measure`."""
        kspace = np.asarray(scan.kspace)
        check_fully_sampled(kspace, scan.mask, str(scan.path))
        matrix = (scan.matrix[0], scan.matrix[1])
        trajectory = radial(matrix, self.spokes, step=GOLDEN_ANGLE).float()
        transform = NUFFT(trajectory, matrix, toeplitz=False)
        samples = [transform(torch.from_numpy(from_kspace(one).astype(np.complex64))[None])[0] for one in kspace]
        shape = (*kspace.shape[:2], *trajectory.shape[:2])
        measurement = NonCartesianScan(
            path=scan.path,
            format=scan.format,
            geometry=scan.geometry,
            attributes=scan.attributes,
            warnings=scan.warnings,
            noise_scan=scan.noise_scan,
            samples=torch.stack(samples).numpy().reshape(shape).astype(np.complex64),
            trajectory=np.broadcast_to(trajectory.numpy(), (len(kspace), *trajectory.shape)).copy(),
            matrix=matrix,
        )
        return measurement, combined_reference(kspace), {}
