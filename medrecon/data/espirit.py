"""Coil sensitivities by ESPIRiT, and what to do where it fails: arrays in, tensors out."""

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
from medrecon.data.passes import held_samples, magnitude_unit

__all__ = [
    "CoilMaps",
    "Espirit",
    "choose_sets",
    "coil_maps",
    "combined_reference",
    "espirit_maps",
    "estimate_maps",
    "folded_share",
    "holds_signal",
    "sensitivity_maps",
    "sigpy_maps",
    "trusted_noise",
]


_ENOUGH = 96**2
"""Samples of the calibration region that are read at most."""
_AT_ONCE = 2**18
"""Entries of pixelwise matrices that are computed at once."""
_LEAST = 4
"""Lines of the calibration region that maps need at least: with fewer, images are worse than the root of the sum of squares."""
_COVERED = 0.99
"""Share of the signal that maps must cover. On real heads, maps below it gave images that were up to 20 dB worse."""
_EXPLAINED = 0.8
"""Share of the signal that maps must explain. On real scans right maps had above 0.9, arbitrary ones of 2 coils 0.5."""
_FOLDED = 3e-4
"""Share of the energy outside the first set of maps from which a second set is used; see :func:`choose_sets`."""
_JUDGED = 5
"""Slices that are looked at for it."""
SINGLE_COIL = "none (single coil)"
LOW_RESOLUTION = "low-resolution (ESPIRiT failed)"
COIL_IMAGES = "zero-filled coil images (root of the sum of squares)"


def _lags(projector: np.ndarray) -> Tensor:
    """Sums of a projector's entries with equal differences of k-space positions, ``(2 k - 1, 2 k - 1, coils, coils)``.

    Args:
        projector: on the space of the kernels, conjugate, ``(coils, k, k, coils, k, k)``.
    """
    coils, kernel = projector.shape[:2]
    lags = np.zeros((2 * kernel - 1, 2 * kernel - 1, coils, coils), np.complex64)
    for y in range(kernel):
        for x in range(kernel):
            rows, columns = (slice(kernel - 1 - i, 2 * kernel - 1 - i) for i in (y, x))
            lags[rows, columns] += projector[..., y, x].transpose(1, 2, 0, 3)
    return torch.from_numpy(lags / np.float32(kernel**2))


def _waves(n: int, frequencies: np.ndarray) -> Tensor:
    """``exp(2 pi i f r / n)`` of the ``n`` pixels of a centred axis and k-space positions ``f``, ``(n, frequencies)``."""
    angle = 2 * np.pi * np.outer(np.arange(n) - n // 2, frequencies) / n
    return torch.from_numpy(np.exp(1j * angle).astype(np.complex64))


def _pixelwise(projector: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
    """The matrices of the pixels whose eigenvectors are the maps, ``(rows * x, coils, coils)``, some rows at a time.

    They are ``sum_k v_k(r) v_k(r)^H / kernel^2`` with ``v_k`` the transforms of the kernels; eigenvalues lie in [0, 1]. The sum
    of their products depends on differences of k-space positions alone, so the ``(2 kernel - 1)^2`` of these are transformed
    once for every pair of coils, however many kernels there are. So few rows that the matrices stay in the processor's cache.

    Args:
        projector: see :func:`_lags`.
        shape: of the image.
    """
    coils, kernel = projector.shape[:2]
    lags = _lags(projector)
    down, across = (_waves(n, np.arange(1 - kernel, kernel)) for n in shape)
    lines = (down @ lags.flatten(1)).unflatten(1, (len(lags), coils**2))  # (y, lags of x, pairs of coils)
    rows = max(1, _AT_ONCE // (shape[1] * coils**2))
    for first in range(0, shape[0], rows):
        part = slice(first, first + rows)
        yield part, (across @ lines[part]).reshape(-1, coils, coils)


def _calibration(mask: np.ndarray, shape: tuple[int, ...], least: int) -> tuple[slice, slice]:
    """The calibration region: the largest fully sampled block round the centre, or its middle where it is larger than needed."""
    rows, columns = acs_block(np.broadcast_to(mask, shape), least)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height * width > _ENOUGH:  # a larger region costs much and changes little
        side = int(_ENOUGH**0.5)
        height, width = (min(a, max(side, _ENOUGH // b)) for a, b in ((height, width), (width, height)))
        rows, columns = centred(shape[0], height), centred(shape[1], width)
    return rows, columns


def _taper(rows: slice, columns: slice) -> np.ndarray:
    """Hann's window over the calibration region, against ringing."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]


def _low_resolution(kspace: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Images of the coils from the tapered calibration region alone, ``(coils, y, x)`` complex64."""
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
    """Sensitivity maps from the fully sampled centre, ``(coils, y, x)`` complex64, or ``(sets, coils, y, x)`` of several sets.

    ``sum |S|^2 = 1`` where the signal lives and 0 elsewhere (everywhere, if none is above the noise). The phase is
    that of the low-resolution image, so the combined image is nearly real: the smoothest phase that the calibration
    data allow, and the easiest for a prior.

    Args:
        kspace: ``(coils, y, x)``, zero where not sampled.
        mask: ``(y, x)`` or ``(x,)``, true where sampled; only its largest centred block is read.
        kernel: side of the calibration kernel in samples.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.
        crop: maps are zero where the eigenvalue is below.
        name: what an error should call the data.
        noise_std: of the k-space, per real component: singular values that noise alone could have are noise as well, up
            to the edge ``sqrt(2) noise_std (sqrt(rows) + sqrt(columns))`` of a random matrix's (Marchenko & Pastur, 1967).
        sets: how many; a second one describes what folds over in a small field of view (see
            :class:`medrecon.operators.SoftSense`), and is 0 where nothing does.

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
    unit = magnitude_unit(kspace[:, rows, columns])  # squares of very large or small numbers are no numbers
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
    maps = _turned(maps, low) * (values > crop)[:, None]
    return maps[0] if sets == 1 else maps


def _projector(calibration: np.ndarray, kernel: int, threshold: float, noise_std: float) -> np.ndarray | None:
    """Projector onto the row space of the calibration matrix, ``(coils, kernel, kernel) * 2``; ``None`` where all is noise.

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
    # Eigenvectors of the Gram matrix: the right singular vectors, whatever the number of blocks.
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(matrix.conj().T @ matrix)))
    edge = 2 * noise_std**2 * (len(matrix) ** 0.5 + matrix.shape[1] ** 0.5) ** 2
    signal = values > max(threshold**2 * values.max(), edge)
    if not signal.any():
        return None
    projector = vectors[:, signal].conj() @ vectors[:, signal].T
    return projector.reshape((coils, kernel, kernel) * 2)


def _turned(maps: Tensor, low: Tensor) -> Tensor:
    """Maps ``(sets, coils, y, x)`` with the phase with which the low-resolution image of each set is real."""
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

    sigpy reads the largest square within the calibration region, and takes no noise level.

    Arguments: see :func:`espirit_maps`.

    Raises:
        InputError: if the square is smaller than the kernel.
    """
    shape = kspace.shape[1:]
    rows, columns = _calibration(mask, shape, kernel)
    side = min(rows.stop - rows.start, columns.stop - columns.start)
    if side < kernel:
        raise InputError(
            f"{name}: the fully sampled centre has {side} lines, too few for sigpy's ESPIRiT (at least {kernel}); give coil maps "
            "(medrecon recon --maps)"
        )
    if not kspace[(slice(None), *(centred(n, side) for n in shape))].any():
        return torch.zeros(kspace.shape, dtype=torch.complex64)
    scaled = (kspace * (1 / magnitude_unit(kspace))).astype(np.complex64)
    calibration = sigpy_mri().app.EspiritCalib(
        scaled, calib_width=side, thresh=threshold, kernel_width=kernel, crop=crop, show_pbar=False
    )
    maps = torch.from_numpy(np.nan_to_num(calibration.run()).astype(np.complex64))
    return _turned(maps[None], torch.from_numpy(_low_resolution(scaled, rows, columns)))[0].contiguous()


@dataclass(frozen=True)
class Espirit:
    """Settings of ESPIRiT.

    Args:
        kernel: side of the calibration kernel in samples.
        threshold: fraction of the largest singular value below which others are noise.
        crop: eigenvalue below which maps are zero.
        sets: how many sets of maps.
        method: ``"espirit"``, our own, or ``"sigpy"``: what its ``EspiritCalib`` finds, with one set and nothing in its place
            where it fails.
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
            raise InputError(f"sigpy's ESPIRiT finds one set of maps, not {self.sets}; choose espirit")


@dataclass(frozen=True)
class CoilMaps:
    """Coil maps and where they come from.

    Args:
        maps: complex64 ``(coils, y, x)`` or ``(sets, coils, y, x)``, with an axis of slices in front for several.
        source: the method, for the record.
        warnings: why it is not the method that was asked for, one sentence each.
        sets: how many sets of maps there are.
    """

    maps: Tensor
    source: str
    warnings: tuple[str, ...] = ()
    sets: int = 1


def trusted_noise(noise_std: float, kspace: np.ndarray, mask: np.ndarray) -> float:
    """A noise level that is not larger than what the outermost k-space shows, which is an upper bound.

    0 where too few samples were measured to see any noise.

    Args:
        noise_std: per real component.
        kspace: ``(slices, coils, y, x)``.
        mask: ``(y, x)`` or ``(x,)``.
    """
    if (np.broadcast_to(mask, kspace.shape[-2:]) & held_samples(kspace)).sum() < 30:
        return 0.0
    return min(noise_std, estimate_noise_std(kspace, mask))


def holds_signal(kspace: np.ndarray, noise_std: float) -> bool:
    """Whether the largest sample of ``(coils, y, x)``, summed over the coils, is above four times what noise alone reaches.

    The energy of ``C`` coils of noise exceeds ``C + sqrt(2 C L) + L`` times ``2 noise_std^2`` with a probability of at most
    ``exp(-L)`` (Laurent and Massart, Ann. Statist. 28, 2000); ``L`` allows for the number of samples.
    """
    if noise_std <= 0 or not kspace.any():
        return bool(kspace.any())
    energy = (np.abs(kspace).astype(np.float64) ** 2).sum(axis=0).max() / (2 * noise_std**2)
    coils, log = len(kspace), np.log(kspace[0].size) + 5
    return bool(energy > 4 * (coils + np.sqrt(2 * coils * log) + log))


def _fit(maps: Tensor, low: np.ndarray, floor: float) -> tuple[float, float]:
    """How much of the energy of low-resolution images ``(coils, y, x)`` maps cover, and how much of that they explain.

    Maps cover where they are not 0, and explain the projection onto them. Arbitrary ones, which noise that is taken for signal
    gives, explain one coil's share.
    What is below four times the energy of noise, or below 1 % of the brightest, does not count, nor does noise itself.
    """
    energy = (np.abs(low).astype(np.float64) ** 2).sum(axis=0)
    loud = energy > max(4 * floor, 0.01 * energy.max())
    signal = np.where(loud, energy - floor, 0.0)
    stack = maps.reshape(-1, *low.shape).numpy()
    inside = stack.any(axis=(0, 1))
    if not signal[inside].any():
        return float(not signal.any()), 1.0
    share = len(stack) / len(low)  # of the noise
    projected = (np.abs((stack.conj() * low).sum(axis=1)).astype(np.float64) ** 2).sum(axis=0) - share * floor
    explained = float(projected[inside & loud].sum() / signal[inside].sum())
    return float(signal[inside].sum() / signal.sum()), explained


def _divided(images: np.ndarray) -> Tensor:
    """Coil images over the root of their sum of squares, 0 where all are 0, complex64."""
    size = np.sqrt((np.abs(images).astype(np.float64) ** 2).sum(axis=0))
    return torch.from_numpy((images / np.where(size > 0, size, 1.0)).astype(np.complex64))


def _one_of(maps: Tensor, sets: int) -> Tensor:
    """The first of several sets of maps, of which the others are 0."""
    return maps if sets == 1 else torch.stack([maps, *[torch.zeros_like(maps)] * (sets - 1)])


def coil_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
    rss: bool = False,
) -> CoilMaps:
    """Maps of one slice that cover its signal and explain it: by ESPIRiT, or where that fails by what comes next.

    From few calibration lines, ESPIRiT's eigenvalues reach ``crop`` in a small part of the object only. Smaller kernels need
    fewer lines, so they are tried until the maps cover 99 % of the signal in the low-resolution image; then 2 x 2 kernels without
    crop; then the low-resolution coil images over the root of their sum of squares. With a noise level that is too small, noise
    counts as signal and every eigenvalue is 1, so the maps are arbitrary; these explain too little of the low-resolution images.

    Args:
        kspace: ``(coils, y, x)``, zero where not sampled.
        mask: see :func:`espirit_maps`.
        noise_std: see there; see :func:`trusted_noise`.
        name: of the data, in errors.
        settings: of ESPIRiT.
        rss: whether a calibration region of fewer than 4 lines gives the zero-filled coil images over the root of their sum of
            squares, with which the zero-filled image is that root, instead of an error.

    Raises:
        InputError: if the fully sampled centre has fewer than 4 lines.
    """
    if len(kspace) == 1:
        return CoilMaps(torch.ones(kspace.shape, dtype=torch.complex64), SINGLE_COIL)
    if settings.method == "sigpy":
        return CoilMaps(
            sigpy_maps(kspace, mask, settings.kernel, settings.threshold, settings.crop, name), "ESPIRiT (sigpy)"
        )
    least = min(_LEAST, settings.kernel)
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
    text = f"{what}; the image is the root of the coils' sum of squares"
    return CoilMaps(_one_of(_divided(from_kspace(kspace)), settings.sets), COIL_IMAGES, (text,), settings.sets)


def _covering(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float,
    name: str,
    settings: Espirit,
    region: tuple[slice, slice],
) -> CoilMaps:
    """The first maps that cover and explain the signal, of smaller and smaller kernels; see :func:`coil_maps`."""
    kernel, threshold, crop, sets = settings.kernel, settings.threshold, settings.crop, settings.sets
    height, width = (part.stop - part.start for part in region)
    low = _low_resolution(kspace, *region)
    floor = 2 * noise_std**2 * len(kspace) * float((_taper(*region) ** 2).sum()) / low[0].size
    fault = (
        f"{name}: ESPIRiT with {kernel} x {kernel} kernels finds no maps that fit all of the object in a calibration region "
        f"of {height} x {width}"
    )
    for side, cut in [(side, crop) for side in range(min(kernel, height, width), 1, -1)] + [(2, 0.0)]:
        maps = espirit_maps(kspace, mask, side, threshold, cut, name, noise_std, sets)
        if not maps.any() and not holds_signal(kspace, noise_std):
            return CoilMaps(maps, "ESPIRiT", sets=sets)
        covered, explained = _fit(maps, low, floor)
        if covered < _COVERED or explained < _EXPLAINED or not maps.any():
            continue
        if (side, cut) == (kernel, crop):
            return CoilMaps(maps, "ESPIRiT", sets=sets)
        text = f"{fault}; they come from {side} x {side} kernels and may be less accurate"
        return CoilMaps(maps, f"ESPIRiT ({side} x {side} kernels)", (text,), sets)
    text = f"{fault}; they are low-resolution images of the coils, so aliasing may remain; check the noise level"
    return CoilMaps(_one_of(_divided(low), sets), LOW_RESOLUTION, (text,), sets)


def folded_share(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
) -> float:
    """The share of a slice's energy that a second set of maps explains and the first does not, in [0, 1].

    Where an object larger than the field of view folds over, two positions share a pixel, so one vector cannot hold the coils'
    signals: the second eigenvalue is near 1, and the low-resolution images have a part along its eigenvector. Elsewhere that
    eigenvalue is below ``crop``, or the part is small.

    Args:
        kspace: ``(coils, y, x)``, zero where not sampled.
        mask: see :func:`espirit_maps`.
        noise_std: see there. Noise is subtracted, and pixels that it dominates do not count.
        name: of the data, in errors.
        settings: of ESPIRiT; ``sets`` is not read. The kernel becomes smaller where the calibration region is.
    """
    region = _calibration(mask, kspace.shape[1:], settings.kernel)
    kernel = min(settings.kernel, *(part.stop - part.start for part in region))
    if len(kspace) == 1 or kernel < min(_LEAST, settings.kernel):
        return 0.0
    unit = magnitude_unit(kspace)
    kspace, noise_std = kspace * (1 / unit), noise_std / unit
    second = espirit_maps(kspace, mask, kernel, settings.threshold, settings.crop, name, noise_std, 2)[1].numpy()
    low = _low_resolution(kspace, *region)
    floor = 2 * noise_std**2 * float((_taper(*region) ** 2).sum()) / low[0].size  # of one coil
    energy = (np.abs(low).astype(np.float64) ** 2).sum(axis=0)
    loud = energy > max(4 * floor * len(low), 0.01 * energy.max())
    if not loud.any():
        return 0.0
    folded = np.abs((second.conj() * low).sum(axis=0)).astype(np.float64) ** 2 - floor * second.any(axis=0)
    return float(np.clip(folded[loud].sum() / (energy[loud].sum() - floor * len(low) * loud.sum()), 0, 1))


def choose_sets(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),
) -> tuple[int, str]:
    """How many sets of maps slices ``(slices, coils, y, x)`` need: 1, or 2 where the object is larger than the field of view.

    Two if :func:`folded_share` is above 0.0003 in one of the five slices with most energy. On real heads and simulated knees it
    was at most 0.0001, and on a head whose field of view was cropped to 0.6 to 0.8 of its size at least 0.0006.

    Arguments: see :func:`folded_share`.

    Returns:
        the number, and a warning for who uses one set all the same; empty where one is enough.
    """
    unit = magnitude_unit(kspace)
    strength = np.array([np.linalg.norm(one * (1 / unit)) for one in kspace])
    loudest = np.argsort(-strength, kind="stable")[:_JUDGED]
    share = max(folded_share(kspace[k], mask, noise_std, name, settings) for k in loudest)
    if share < _FOLDED:
        return 1, ""
    return 2, (
        f"{name}: the object is larger than the field of view and folds over ({share:.2g} of its energy fits no single set of "
        "coil maps); with one set a ghost remains there; use two sets"
    )


def combined_reference(kspace: np.ndarray, calibration: int = 24, crop: float = 0.9) -> np.ndarray:
    """The image that reconstructions are judged by: |sum conj(S) F^H y| of fully sampled ``(slices, coils, y, x)``.

    Maps by :func:`coil_maps` from the central ``calibration`` square (or what there is of it), zero outside them; the magnitude
    for a single coil. ``(slices, y, x)`` float32.
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
    """Maps of every slice of ``(slices, coils, y, x)``, the method and warnings.

    Arguments: see :func:`coil_maps`; ``numbers`` are the slices' indices in their volume, for warnings.
    """
    found = [coil_maps(k, mask, noise_std, name, settings, rss) for k in kspace]
    numbers = range(len(kspace)) if numbers is None else numbers
    # Slices without signal have no maps, so nothing was estimated there.
    seen = [(number, one) for number, one in zip(numbers, found, strict=True) if one.maps.any()]
    texts = [(number, text) for number, one in seen for text in one.warnings]
    return CoilMaps(
        torch.stack([one.maps for one in found]),
        "; ".join(grouped_texts([(number, one.source) for number, one in seen], len(seen))) or found[0].source,
        tuple(grouped_texts(texts, len(seen))),
    )


def sensitivity_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    name: str = "k-space",
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    noise_std: float = 0.0,
    sets: int = 1,
) -> Tensor:
    """Maps of every slice of ``(slices, coils, y, x)``, complex64, by ESPIRiT where it works; ones for a single coil.

    ``(slices, sets, coils, y, x)`` for more than one set.

    Arguments: see :func:`espirit_maps`.
    """
    return estimate_maps(kspace, mask, noise_std, name, Espirit(kernel, threshold, crop, sets)).maps
