"""Coil sensitivities by ESPIRiT, and fallbacks where it fails. Input are arrays, output are tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medrecon.data.coils import from_kspace
from medrecon.data.eigen import largest_eigenpairs
from medrecon.data.errors import InputError, grouped_texts
from medrecon.data.masks import acs_block, centred, sigpy_mri
from medrecon.data.noise import estimate_noise_std
from medrecon.data.passes import magnitude_unit, nonzero_positions

__all__ = [
    "CoilMaps",
    "Espirit",
    "choose_sets",
    "coil_maps",
    "combined_reference",
    "espirit_maps",
    "estimate_maps",
    "folded_fraction",
    "has_signal",
    "sigpy_maps",
    "trusted_noise",
]


_MAX_CALIBRATION = 96**2
"""Largest number of samples of the calibration region that are used."""
_AT_ONCE = 2**18
"""Entries of the matrices of the pixels that are computed at once."""
_MIN_LINES = 4
"""Smallest calibration region: with fewer lines, images are worse than the root sum of squares."""
_MIN_COVERED = 0.99
"""Fraction of the signal that maps must cover. On real heads, maps that cover less gave images up to 20 dB worse."""
_MIN_EXPLAINED = 0.8
"""Fraction of the signal that maps must explain. On real scans correct maps had above 0.9, arbitrary maps of 2 coils 0.5."""
_MAX_FOLDED = 3e-4
"""Fraction of the energy outside the first set of maps above which a second set is used; see :func:`choose_sets`."""
_TESTED_SLICES = 5
"""Number of slices for which this fraction is computed."""
SINGLE_COIL = "none (single coil)"
LOW_RESOLUTION = "low-resolution (ESPIRiT failed)"
COIL_IMAGES = "zero-filled coil images (root of the sum of squares)"


def _lags(projector: np.ndarray) -> Tensor:
    """Sums of a projector's entries with equal differences of k-space positions, ``(2 k - 1, 2 k - 1, coils, coils)``.

    Args:
        projector: projector on the space of the kernels, conjugate, ``(coils, k, k, coils, k, k)``.
    """
    coils, kernel = projector.shape[:2]
    lags = np.zeros((2 * kernel - 1, 2 * kernel - 1, coils, coils), np.complex64)
    for y in range(kernel):
        for x in range(kernel):
            rows, columns = (slice(kernel - 1 - i, 2 * kernel - 1 - i) for i in (y, x))
            lags[rows, columns] += projector[..., y, x].transpose(1, 2, 0, 3)
    return torch.from_numpy(lags / np.float32(kernel**2))


def _fourier_matrix(n: int, frequencies: np.ndarray) -> Tensor:
    """``exp(2 pi i f r / n)`` for the ``n`` pixels of a centred axis and k-space positions ``f``, ``(n, frequencies)``."""
    angle = 2 * np.pi * np.outer(np.arange(n) - n // 2, frequencies) / n
    return torch.from_numpy(np.exp(1j * angle).astype(np.complex64))


def _pixelwise(projector: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
    """The matrices of all pixels, whose eigenvectors are the maps, ``(rows * x, coils, coils)``, some rows at a time.

    They are ``sum_k v_k(r) v_k(r)^H / kernel^2`` with ``v_k`` the transforms of the kernels; eigenvalues lie in [0, 1]. The sum
    depends only on differences of k-space positions, so these ``(2 kernel - 1)^2`` values are transformed once for every pair of
    coils, independent of the number of kernels. The number of rows is limited so that the matrices stay in the processor's cache.

    Args:
        projector: see :func:`_lags`.
        shape: shape of the image.
    """
    coils, kernel = projector.shape[:2]
    lags = _lags(projector)
    down, across = (_fourier_matrix(n, np.arange(1 - kernel, kernel)) for n in shape)
    lines = (down @ lags.flatten(1)).unflatten(1, (len(lags), coils**2))  # (y, lags of x, pairs of coils)
    rows = max(1, _AT_ONCE // (shape[1] * coils**2))
    for first in range(0, shape[0], rows):
        part = slice(first, first + rows)
        yield part, (across @ lines[part]).reshape(-1, coils, coils)


def _calibration(mask: np.ndarray, shape: tuple[int, ...], least: int) -> tuple[slice, slice]:
    """The calibration region: the largest fully sampled central block, cropped if it is larger than needed."""
    rows, columns = acs_block(np.broadcast_to(mask, shape), least)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height * width > _MAX_CALIBRATION:  # a larger region costs much and changes little
        width_of_square = int(_MAX_CALIBRATION**0.5)
        height, width = (
            min(a, max(width_of_square, _MAX_CALIBRATION // b)) for a, b in ((height, width), (width, height))
        )
        rows, columns = centred(shape[0], height), centred(shape[1], width)
    return rows, columns


def _taper(rows: slice, columns: slice) -> np.ndarray:
    """Hann window over the calibration region, against ringing."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]


def _low_resolution(kspace: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Coil images from the tapered calibration region only, ``(coils, y, x)`` complex64."""
    low = np.zeros(kspace.shape, dtype=np.complex64)
    low[:, rows, columns] = kspace[:, rows, columns] * _taper(rows, columns)
    return from_kspace(low).astype(np.complex64)


def espirit_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    name: str = "k-space",
    noise_std: float = 0.0,
    sets: int = 1,
) -> Tensor:
    """Sensitivity maps from the fully sampled centre, ``(coils, y, x)`` complex64, or ``(sets, coils, y, x)`` for several sets.

    ``sum |S|^2 = 1`` where there is signal and 0 elsewhere (everywhere, if no signal is above the noise). The maps have the phase
    of the low-resolution image, so the combined image is nearly real: this is the smoothest phase that the calibration data
    allow, and the easiest for a prior.

    Args:
        kspace: k-space ``(coils, y, x)``, zero where not sampled.
        mask: sampling mask ``(y, x)`` or ``(x,)``, true where sampled; only its largest centred block is used.
        kernel: width of the calibration kernel, samples.
        threshold: fraction of the largest singular value of the calibration matrix below which singular values are noise.
        crop: eigenvalue below which maps are set to 0.
        name: name of the data, for errors.
        noise_std: noise of k-space per real component. Singular values are noise up to the edge for a random matrix,
            ``sqrt(2) noise_std (sqrt(rows) + sqrt(columns))`` (Marchenko & Pastur, 1967).
        sets: number of sets of maps; a second set describes signal that folds over in a small field of view (see
            :class:`medrecon.operators.SoftSense`), and is 0 where there is none.

    Raises:
        InputError: if the fully sampled centre is smaller than the kernel.

    Reference: Uecker et al., ESPIRiT, MRM 71 (2014); steps as in ``sigpy.mri.app.EspiritCalib``, which takes square
        calibration regions only.
    """
    shape = kspace.shape[1:]
    rows, columns = _calibration(mask, shape, kernel)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    coils = len(kspace)
    if not 1 <= sets <= coils:
        raise InputError(f"{name}: {coils} coils have 1 to {coils} sets of maps; got {sets}")
    empty = torch.zeros((coils, *shape) if sets == 1 else (sets, coils, *shape), dtype=torch.complex64)
    if min(height, width) < kernel:
        raise InputError(
            f"{name}: the fully sampled centre is {height} x {width}, too small to estimate coil sensitivities "
            f"(at least {kernel} x {kernel}); give coil maps (medrecon recon --maps)"
        )
    unit = magnitude_unit(kspace[:, rows, columns])  # squares of very large or small numbers overflow
    kspace, noise_std = kspace * (1 / unit), noise_std / unit
    projector = _projector(kspace[:, rows, columns], kernel, threshold, noise_std)
    if projector is None:
        return empty
    low = torch.from_numpy(_low_resolution(kspace, rows, columns))
    maps, values = torch.zeros((sets, *low.shape), dtype=low.dtype), torch.zeros((sets, *shape))
    for part, matrices in _pixelwise(projector, shape):
        start = low[:, part].flatten(1).T.contiguous()
        found, vectors = largest_eigenpairs(matrices, start, sets, crop)
        maps[:, :, part] = vectors.movedim(0, -1).unflatten(-1, (-1, shape[1]))
        values[:, part] = found.T.unflatten(-1, (-1, shape[1]))
    maps = _with_image_phase(maps, low) * (values > crop)[:, None]
    return maps[0] if sets == 1 else maps


def _projector(calibration: np.ndarray, kernel: int, threshold: float, noise_std: float) -> np.ndarray | None:
    """Projector onto the row space of the calibration matrix, ``(coils, kernel, kernel) * 2``; ``None`` if it is only noise.

    Args:
        calibration: ``(coils, y, x)``.
        kernel: see :func:`espirit_maps`.
        threshold: see there.
        noise_std: see there.
    """
    coils = len(calibration)
    if not calibration.any():
        return None
    blocks = np.lib.stride_tricks.sliding_window_view(calibration, (kernel, kernel), axis=(1, 2))
    matrix = blocks.reshape(coils, -1, kernel**2).transpose(1, 0, 2).reshape(-1, coils * kernel**2)
    # Eigenvectors of the Gram matrix are the right singular vectors, and its size does not depend on the number of blocks.
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(matrix.conj().T @ matrix)))
    edge = 2 * noise_std**2 * (len(matrix) ** 0.5 + matrix.shape[1] ** 0.5) ** 2
    signal = values > max(threshold**2 * values.max(), edge)
    if not signal.any():
        return None
    projector = vectors[:, signal].conj() @ vectors[:, signal].T
    return projector.reshape((coils, kernel, kernel) * 2)


def _with_image_phase(maps: Tensor, low: Tensor) -> Tensor:
    """Maps ``(sets, coils, y, x)`` with a phase that makes the low-resolution image of each set real."""
    image = (maps.conj() * low).sum(1, keepdim=True)
    return maps * torch.polar(torch.ones_like(image.real), image.angle())


def sigpy_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    name: str = "k-space",
) -> Tensor:
    """One set of maps from ``sigpy.mri.app.EspiritCalib``, ``(coils, y, x)`` complex64, with the phase of :func:`espirit_maps`.

    sigpy uses the largest square within the calibration region, and no noise level.

    Arguments: see :func:`espirit_maps`.

    Raises:
        InputError: if the square is smaller than the kernel.
    """
    shape = kspace.shape[1:]
    rows, columns = _calibration(mask, shape, kernel)
    width = min(rows.stop - rows.start, columns.stop - columns.start)
    if width < kernel:
        raise InputError(
            f"{name}: the fully sampled centre has {width} lines, too few for sigpy's ESPIRiT (at least {kernel}); give coil "
            "maps (medrecon recon --maps)"
        )
    if not kspace[(slice(None), *(centred(n, width) for n in shape))].any():
        return torch.zeros(kspace.shape, dtype=torch.complex64)
    scaled = (kspace * (1 / magnitude_unit(kspace))).astype(np.complex64)
    calibration = sigpy_mri().app.EspiritCalib(
        scaled, calib_width=width, thresh=threshold, kernel_width=kernel, crop=crop, show_pbar=False
    )
    maps = torch.from_numpy(np.nan_to_num(calibration.run()).astype(np.complex64))
    return _with_image_phase(maps[None], torch.from_numpy(_low_resolution(scaled, rows, columns)))[0].contiguous()


@dataclass(frozen=True)
class Espirit:
    """Settings of ESPIRiT.

    Args:
        kernel: width of the calibration kernel, samples.
        threshold: fraction of the largest singular value below which singular values are noise.
        crop: eigenvalue below which maps are set to 0.
        sets: number of sets of maps.
        method: ``"espirit"``, this package's implementation with its fallbacks, or ``"sigpy"``, the result of its
            ``EspiritCalib``: one set, without fallbacks.
    """

    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.8
    sets: int = 1
    method: Literal["espirit", "sigpy"] = "espirit"

    def __post_init__(self) -> None:
        if self.method not in ("espirit", "sigpy"):
            raise InputError(f"unknown method of coil maps {self.method!r}; choose espirit or sigpy")
        if self.method == "sigpy" and self.sets != 1:
            raise InputError(f"sigpy's ESPIRiT estimates one set of maps, not {self.sets}; choose espirit")


@dataclass(frozen=True)
class CoilMaps:
    """Coil maps and their source.

    Args:
        maps: complex64 ``(coils, y, x)`` or ``(sets, coils, y, x)``; for several slices with a leading axis of slices.
        source: method, for the record.
        warnings: sentences that explain why another method than the requested one was used.
        sets: number of sets of maps.
    """

    maps: Tensor
    source: str
    warnings: tuple[str, ...] = ()
    sets: int = 1


def trusted_noise(noise_std: float, kspace: np.ndarray, mask: np.ndarray) -> float:
    """A noise level, limited to the estimate from the outermost k-space, which is an upper bound.

    0 if too few samples were measured to estimate noise.

    Args:
        noise_std: noise per real component.
        kspace: k-space ``(slices, coils, y, x)``.
        mask: sampling mask ``(y, x)`` or ``(x,)``.
    """
    if (np.broadcast_to(mask, kspace.shape[-2:]) & nonzero_positions(kspace)).sum() < 30:
        return 0.0
    return min(noise_std, estimate_noise_std(kspace, mask))


def has_signal(kspace: np.ndarray, noise_std: float) -> bool:
    """Whether the largest energy of a sample of ``(coils, y, x)``, summed over the coils, is above four times that of noise.

    The energy of ``C`` coils of noise exceeds ``C + sqrt(2 C L) + L`` times ``2 noise_std^2`` with a probability of at most
    ``exp(-L)`` (Laurent and Massart, Ann. Statist. 28, 2000); ``L`` is chosen by the number of samples.
    """
    if noise_std <= 0 or not kspace.any():
        return bool(kspace.any())
    energy = (np.abs(kspace).astype(np.float64) ** 2).sum(axis=0).max() / (2 * noise_std**2)
    coils, L = len(kspace), np.log(kspace[0].size) + 5
    return bool(energy > 4 * (coils + np.sqrt(2 * coils * L) + L))


def _fit(maps: Tensor, low: np.ndarray, floor: float) -> tuple[float, float]:
    """The fraction of the energy of low-resolution images ``(coils, y, x)`` that maps cover, and the fraction they explain.

    Maps cover pixels where they are not 0, and explain the projection onto them. Arbitrary maps, which result from noise taken
    for signal, explain the fraction of one coil. Pixels below four times the energy of noise, or below 1 % of the brightest, are
    ignored, and noise is subtracted.
    """
    energy = (np.abs(low).astype(np.float64) ** 2).sum(axis=0)
    bright = energy > max(4 * floor, 0.01 * energy.max())
    signal = np.where(bright, energy - floor, 0.0)
    stack = maps.reshape(-1, *low.shape).numpy()
    inside = stack.any(axis=(0, 1))
    if not signal[inside].any():
        return float(not signal.any()), 1.0
    noise_fraction = len(stack) / len(low)
    projected = (np.abs((stack.conj() * low).sum(axis=1)).astype(np.float64) ** 2).sum(axis=0) - noise_fraction * floor
    explained = float(projected[inside & bright].sum() / signal[inside].sum())
    return float(signal[inside].sum() / signal.sum()), explained


def _normalised(images: np.ndarray) -> Tensor:
    """Coil images divided by their root sum of squares, 0 where all are 0, complex64."""
    rss = np.sqrt((np.abs(images).astype(np.float64) ** 2).sum(axis=0))
    return torch.from_numpy((images / np.where(rss > 0, rss, 1.0)).astype(np.complex64))


def _pad_sets(maps: Tensor, sets: int) -> Tensor:
    """Maps as the first of several sets, the others being 0."""
    return maps if sets == 1 else torch.stack([maps, *[torch.zeros_like(maps)] * (sets - 1)])


def coil_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
    rss: bool = False,
) -> CoilMaps:
    """Maps of one slice that cover and explain its signal: by ESPIRiT, or by fallbacks where it fails.

    With few calibration lines, ESPIRiT's eigenvalues reach ``crop`` only in a small part of the object. Smaller kernels need
    fewer lines, so they are tried until the maps cover 99 % of the signal in the low-resolution image; then 2 x 2 kernels without
    crop; then the low-resolution coil images divided by their root sum of squares. If the noise level is too small, noise counts
    as signal and every eigenvalue is 1, so the maps are arbitrary; such maps explain too little of the low-resolution images.

    Args:
        kspace: k-space ``(coils, y, x)``, zero where not sampled.
        mask: see :func:`espirit_maps`.
        noise_std: see :func:`espirit_maps`; pass it through :func:`trusted_noise`.
        name: name of the data, for errors.
        settings: settings of ESPIRiT.
        rss: whether to return, for a calibration region of fewer than 4 lines, the zero-filled coil images divided by their root
            sum of squares, instead of raising an error. The zero-filled image is then the root sum of squares.

    Raises:
        InputError: if the fully sampled centre has fewer than 4 lines.
    """
    if len(kspace) == 1:
        return CoilMaps(torch.ones(kspace.shape, dtype=torch.complex64), SINGLE_COIL)
    if settings.method == "sigpy":
        return CoilMaps(
            sigpy_maps(kspace, mask, settings.kernel, settings.threshold, settings.crop, name), "ESPIRiT (sigpy)"
        )
    least = min(_MIN_LINES, settings.kernel)
    rows, columns = _calibration(mask, kspace.shape[1:], settings.kernel)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    unit = magnitude_unit(kspace)
    kspace, noise_std = kspace * (1 / unit), noise_std / unit
    if min(height, width) >= least:
        return _covering(kspace, mask, noise_std, name, settings, (rows, columns))
    what = f"{name}: the fully sampled centre is {height} x {width}, too small to estimate coil sensitivities"
    if not rss:
        raise InputError(
            f"{what} (at least {least} x {least}); give coil maps (medrecon recon --maps), or choose the solver zero-filled"
        )
    text = f"{what}; the image is the root sum of squares of the coils"
    return CoilMaps(_pad_sets(_normalised(from_kspace(kspace)), settings.sets), COIL_IMAGES, (text,), settings.sets)


def _covering(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float,
    name: str,
    settings: Espirit,
    region: tuple[slice, slice],
) -> CoilMaps:
    """The first maps that cover and explain the signal, with kernels of decreasing size; see :func:`coil_maps`."""
    kernel, threshold, crop, sets = settings.kernel, settings.threshold, settings.crop, settings.sets
    height, width = (part.stop - part.start for part in region)
    low = _low_resolution(kspace, *region)
    floor = 2 * noise_std**2 * len(kspace) * float((_taper(*region) ** 2).sum()) / low[0].size
    fault = (
        f"{name}: ESPIRiT with {kernel} x {kernel} kernels found no maps for the whole object from a calibration region "
        f"of {height} x {width}"
    )
    for size, cut in [(size, crop) for size in range(min(kernel, height, width), 1, -1)] + [(2, 0.0)]:
        maps = espirit_maps(kspace, mask, size, threshold, cut, name, noise_std, sets)
        if not maps.any() and not has_signal(kspace, noise_std):
            return CoilMaps(maps, "ESPIRiT", sets=sets)
        covered, explained = _fit(maps, low, floor)
        if covered < _MIN_COVERED or explained < _MIN_EXPLAINED or not maps.any():
            continue
        if (size, cut) == (kernel, crop):
            return CoilMaps(maps, "ESPIRiT", sets=sets)
        text = f"{fault}; {size} x {size} kernels are used, and maps may be less accurate"
        return CoilMaps(maps, f"ESPIRiT ({size} x {size} kernels)", (text,), sets)
    text = f"{fault}; low-resolution coil images are used instead, so aliasing may remain; check the noise level"
    return CoilMaps(_pad_sets(_normalised(low), sets), LOW_RESOLUTION, (text,), sets)


def folded_fraction(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
) -> float:
    """The fraction of the energy of a slice that a second set of maps explains and the first does not, in [0, 1].

    Where an object larger than the field of view folds over, two positions share a pixel, so a single vector cannot describe the
    coil signals: the second eigenvalue is near 1, and the low-resolution images have a component along its eigenvector. Elsewhere
    this eigenvalue is below ``crop``, or the component is small.

    Args:
        kspace: k-space ``(coils, y, x)``, zero where not sampled.
        mask: see :func:`espirit_maps`.
        noise_std: see :func:`espirit_maps`. Noise is subtracted, and pixels dominated by noise are ignored.
        name: name of the data, for errors.
        settings: settings of ESPIRiT; ``sets`` is ignored. The kernel is reduced if the calibration region is smaller.
    """
    region = _calibration(mask, kspace.shape[1:], settings.kernel)
    kernel = min(settings.kernel, *(part.stop - part.start for part in region))
    if len(kspace) == 1 or kernel < min(_MIN_LINES, settings.kernel):
        return 0.0
    unit = magnitude_unit(kspace)
    kspace, noise_std = kspace * (1 / unit), noise_std / unit
    second = espirit_maps(kspace, mask, kernel, settings.threshold, settings.crop, name, noise_std, 2)[1].numpy()
    low = _low_resolution(kspace, *region)
    floor = 2 * noise_std**2 * float((_taper(*region) ** 2).sum()) / low[0].size  # per coil
    energy = (np.abs(low).astype(np.float64) ** 2).sum(axis=0)
    bright = energy > max(4 * floor * len(low), 0.01 * energy.max())
    if not bright.any():
        return 0.0
    folded = np.abs((second.conj() * low).sum(axis=0)).astype(np.float64) ** 2 - floor * second.any(axis=0)
    return float(np.clip(folded[bright].sum() / (energy[bright].sum() - floor * len(low) * bright.sum()), 0, 1))


def choose_sets(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
) -> tuple[int, str]:
    """The number of sets of maps that slices ``(slices, coils, y, x)`` need: 2 if the object exceeds the field of view.

    The number is 2 if :func:`folded_fraction` is above 0.0003 in one of the five slices with the most energy. On real heads and
    simulated knees it was at most 0.0001; on a head whose field of view was cropped to 0.6 to 0.8 of its size, at least 0.0006.

    Arguments: see :func:`folded_fraction`.

    Returns:
        the number, and a warning to show if only one set is used; empty if one set is enough.
    """
    unit = magnitude_unit(kspace)
    strength = np.array([np.linalg.norm(one * (1 / unit)) for one in kspace])
    strongest = np.argsort(-strength, kind="stable")[:_TESTED_SLICES]
    folded = max(folded_fraction(kspace[k], mask, noise_std, name, settings) for k in strongest)
    if folded < _MAX_FOLDED:
        return 1, ""
    return 2, (
        f"{name}: the object is larger than the field of view and folds over (a single set of coil maps does not "
        f"explain {folded:.2g} of its energy); with one set a ghost remains there; use two sets"
    )


def combined_reference(kspace: np.ndarray, calibration: int = 24, crop: float = 0.9) -> np.ndarray:
    """Reference images ``(slices, y, x)`` float32: |sum conj(S) F^H y| of fully sampled k-space ``(slices, coils, y, x)``.

    Maps ``S`` are estimated by :func:`coil_maps` from the central ``calibration`` x ``calibration`` samples (or all, if fewer).
    The image is 0 where the maps are 0. For a single coil it is the magnitude.
    """
    images = []
    for k in kspace:
        coils = from_kspace(k, (-2, -1))
        if len(k) == 1:
            images.append(np.abs(coils[0]))
            continue
        mask = np.zeros(k.shape[1:], dtype=bool)
        mask[tuple(centred(n, min(calibration, n)) for n in k.shape[1:])] = True
        noise_std = estimate_noise_std(k[None], np.ones(k.shape[1:], dtype=bool))
        maps = coil_maps(k * mask, mask, noise_std, settings=Espirit(crop=crop), rss=True).maps.numpy()
        images.append(np.abs((maps.conj() * coils).sum(0)))
    return np.stack(images).astype(np.float32)


def estimate_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
    rss: bool = False,
    numbers: Sequence[int] | None = None,
) -> CoilMaps:
    """Maps of every slice of ``(slices, coils, y, x)``, with their source and warnings.

    Arguments: see :func:`coil_maps`; ``numbers`` are the indices of the slices in their volume, for warnings.
    """
    found = [coil_maps(k, mask, noise_std, name, settings, rss) for k in kspace]
    numbers = range(len(kspace)) if numbers is None else numbers
    # Slices without signal have maps of 0, whose source is not reported.
    estimated = [(number, one) for number, one in zip(numbers, found, strict=True) if one.maps.any()]
    texts = [(number, text) for number, one in estimated for text in one.warnings]
    return CoilMaps(
        torch.stack([one.maps for one in found]),
        "; ".join(grouped_texts([(number, one.source) for number, one in estimated], len(estimated)))
        or found[0].source,
        tuple(grouped_texts(texts, len(estimated))),
    )
