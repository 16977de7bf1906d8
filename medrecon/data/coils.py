"""Receive coils: prewhitening, compression, removal of readout oversampling, combination."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from medrecon.data.adaptive import adaptive_image, iterative_image
from medrecon.data.arguments import check_count
from medrecon.data.errors import InputError
from medrecon.data.masks import acs_block
from medrecon.data.noise import scan_fault
from medrecon.data.passes import largest_part, magnitude_unit

__all__ = [
    "Combination",
    "Compression",
    "combine_coils",
    "compress_coils",
    "compress_samples",
    "crop_field_of_view",
    "from_kspace",
    "noise_covariance",
    "prewhiten",
    "remove_oversampling",
    "to_kspace",
]

Compression = Literal["svd", "geometric"]
Combination = Literal["rss", "mvue", "adaptive", "inati"]


def from_kspace(kspace: np.ndarray, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Images from centred k-space, unitary, in the same precision."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


def to_kspace(image: np.ndarray, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Centred k-space of images, unitary, in the same precision."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho"), axes)


def noise_covariance(scan: np.ndarray, name: str = "k-space") -> np.ndarray:
    """Noise covariance ``E[n n^H]``, ``(coils, coils)`` complex128, from a noise scan ``(coils, ...)``.

    Raises:
        InputError: if the noise scan is unusable, or has fewer samples than coils, so that the covariance would be singular.
    """
    scan = np.asarray(scan)
    flat = scan.reshape(len(scan), -1) if scan.ndim else scan[None, None]
    if scan.ndim and flat.shape[1] <= len(flat):
        raise InputError(
            f"{name}: a noise scan of {flat.shape[1]} samples is too short for the covariance of {len(flat)} coils; "
            "leave whitening out"
        )
    fault = scan_fault(scan, len(flat))
    if fault:
        raise InputError(f"{name}: the noise scan {fault}, so its covariance is unknown; leave whitening out")
    flat = flat.astype(np.complex128)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat @ flat.conj().T / (flat.shape[1] - 1)


def _factor(covariance: np.ndarray, name: str) -> np.ndarray:
    """The Cholesky factor ``L`` of an invertible covariance.

    Raises:
        InputError: if it is not positive definite.
    """
    size = np.sqrt(np.real(np.diag(covariance)))
    try:
        # Copies or mixtures of other coils have eigenvalues at the level of round-off.
        if np.linalg.eigvalsh(covariance / np.outer(size, size))[0] > 1e-9:
            return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        pass
    raise InputError(
        f"{name}: the noise covariance is not positive definite; some coils are copies or mixtures of others, so leave "
        "whitening out"
    )


def prewhiten(kspace: np.ndarray, covariance: np.ndarray, name: str = "k-space") -> tuple[np.ndarray, float]:
    """Prewhiten coils: mix them so that their noise is independent and equally strong.

    ``L^-1 k`` with the Cholesky factor ``L`` of the covariance, times the root mean square of the coil noise, which preserves the
    scale of the data. Dead coils, without signal or noise, stay zero.

    Args:
        kspace: k-space ``(slices, coils, y, x)``.
        covariance: noise covariance ``E[n n^H]``, Hermitian and positive definite except for dead coils.
        name: name of the data, for errors.

    Returns:
        k-space of the same type, and its noise standard deviation per real component.

    Raises:
        InputError: if the covariance has another shape, is not finite, or is not positive definite.

    Reference: Roemer et al., MRM 16 (1990), eq. 21; Pruessmann et al., MRM 46 (2001), section on noise.
    """
    from scipy.linalg import solve_triangular

    coils = kspace.shape[1]
    if covariance.shape != (coils, coils) or not np.isfinite(covariance).all():
        raise InputError(
            f"{name}: the noise covariance of {coils} coils must be {coils} x {coils} and finite; got {covariance.shape}"
        )
    variance = np.real(np.diag(covariance))
    noisy = variance > 1e-12 * variance.max()
    silent = np.flatnonzero(~noisy & kspace.any(axis=(0, 2, 3)))
    if len(silent) or not noisy.any():
        raise InputError(
            f"{name}: the noise covariance is not positive definite: coil {', '.join(map(str, silent)) or 0} has no noise; "
            "leave whitening out"
        )
    factor = _factor(covariance[np.ix_(noisy, noisy)], name)
    rms = float(np.sqrt(variance[noisy].mean()))
    white = np.zeros_like(kspace, order="C")
    # Slice by slice, so that round-off does not depend on other slices.
    for out, one in zip(white, kspace, strict=True):
        flat = rms * solve_triangular(factor, one[noisy].reshape(int(noisy.sum()), -1), lower=True)
        out[noisy] = flat.reshape(-1, *kspace.shape[2:])
    return white, rms / 2**0.5


def compress_coils(
    kspace: np.ndarray, mask: np.ndarray, n: int, method: Compression = "svd", name: str = "k-space"
) -> tuple[np.ndarray, float]:
    """Compress to virtual coils that keep most of the signal; white noise stays white and equally strong.

    ``"svd"`` uses one mixture of coils for all positions. ``"geometric"`` uses a mixture for every position along the readout
    (rows, which must be fully sampled) and aligns neighbouring mixtures: virtual coils vary smoothly and fewer are needed.

    Args:
        kspace: k-space ``(slices, coils, y, x)``, zero where not sampled.
        mask: sampling mask ``(x,)`` or ``(y, x)``; the mixture is estimated from its fully sampled centre.
        n: number of virtual coils; with as many as there are coils or more, nothing changes.
        method: see above.
        name: name of the data, for errors.

    Returns:
        k-space ``(slices, n, y, x)`` and the fraction of the energy of the centre that it keeps.

    Raises:
        InputError: if ``n`` is below 1, or if rows are not fully sampled for ``"geometric"``.

    Reference: Buehrer et al., MRM 57 (2007); Huang et al., MRI 26 (2008); Zhang et al., MRM 69 (2013) (geometric).
    """
    if n < 1:
        raise InputError(f"coils can be compressed to 1 or more virtual coils; got {n}")
    if method not in get_args(Compression):
        raise InputError(f"unknown compression {method!r}; choose one of {', '.join(get_args(Compression))}")
    coils = kspace.shape[1]
    if n >= coils:
        return kspace, 1.0
    unit = magnitude_unit(kspace)
    mixtures, kept = _mixtures(kspace, 1 / unit, np.broadcast_to(mask, kspace.shape[-2:]), n, method, name)
    mixed = np.empty((len(kspace), n, *kspace.shape[2:]), kspace.dtype)
    for out, one in zip(mixed, kspace, strict=True):
        if method == "svd":
            out[...] = np.einsum("nc,cyx->nyx", mixtures, one * (1 / unit)) * unit
        else:
            out[...] = (
                to_kspace(np.einsum("ync,cyx->nyx", mixtures, from_kspace(one * (1 / unit), (-2,))), (-2,)) * unit
            )
    return mixed, kept


def _mixtures(
    kspace: np.ndarray, scale: float, whole: np.ndarray, n: int, method: Compression, name: str
) -> tuple[np.ndarray, float]:
    """Mixtures of coils ``(n, coils)``, or ``(y, n, coils)`` for ``"geometric"``, and the fraction of energy that they keep."""
    coils = kspace.shape[1]
    rows, columns = acs_block(whole)
    geometric = method == "geometric"
    if geometric and (whole.any(axis=0) != whole.all(axis=0)).any():
        raise InputError(f"{name}: geometric coil compression needs fully sampled rows (readout); choose svd")
    part = (slice(None), slice(None) if geometric else rows, columns)
    filled = [one[part] * scale for one in kspace if one.any()]  # empty slices would change the round-off
    centre = np.stack(filled) if filled else np.zeros(0)
    if not centre.any():
        raise InputError(
            f"{name}: coil compression needs a fully sampled centre of k-space, which is missing; leave compression out"
        )
    if not geometric:
        matrix = np.moveaxis(centre, 1, 0).reshape(coils, -1)
        values, vectors = np.linalg.eigh(matrix @ matrix.conj().T)
        return vectors[:, ::-1][:, :n].conj().T, float(values[-n:].sum() / values.sum())
    # (y, coils, slices * columns of the centre)
    local = np.moveaxis(from_kspace(centre, (-2,)), (2, 1), (0, 1)).reshape(kspace.shape[2], coils, -1)
    values, vectors = np.linalg.eigh(local @ np.conj(np.swapaxes(local, 1, 2)))
    mixtures = np.conj(np.swapaxes(vectors[:, :, ::-1][:, :, :n], 1, 2))
    for i in range(1, len(mixtures)):
        left, _, right = np.linalg.svd(mixtures[i - 1] @ np.conj(mixtures[i].T))
        mixtures[i] = left @ right @ mixtures[i]
    return mixtures, float(values[:, -n:].sum() / values.sum())


def compress_samples(samples: np.ndarray, near: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """Compress non-Cartesian samples to virtual coils, by the singular vectors of the samples near the centre.

    Args:
        samples: samples ``(slices, coils, ...)``.
        near: the samples that determine the virtual coils, bool ``(slices, ...)``.
        n: number of virtual coils; with as many as there are coils or more, nothing changes.

    Returns:
        samples ``(slices, n, ...)`` and the fraction of the central energy that they keep.

    Raises:
        InputError: if ``n`` is below 1.
    """
    if n < 1:
        raise InputError(f"coils can be compressed to 1 or more virtual coils; got {n}")
    if n >= samples.shape[1]:
        return samples, 1.0
    unit = magnitude_unit(samples)
    centre = np.moveaxis(samples, 1, 0)[:, near] / unit
    values, vectors = np.linalg.eigh(centre @ centre.conj().T)
    mixed = np.einsum("nc,sc...->sn...", vectors[:, ::-1][:, :n].conj().T, samples)
    return mixed.astype(samples.dtype), float(values[-n:].sum() / max(values.sum(), 1e-30))


def crop_field_of_view(
    kspace: np.ndarray, mask: np.ndarray, shape: tuple[int, int], name: str = "k-space"
) -> np.ndarray:
    """K-space of the central ``shape`` ``(y, x)`` of the image, ``(slices, coils, *shape)``, with the same pixel size.

    Raises:
        InputError: if a cropped axis was not fully sampled (its image would be folded), or ``shape`` is larger than the image.
    """
    sampled = np.broadcast_to(mask, kspace.shape[-2:])
    for axis, (n, kept) in enumerate(zip(kspace.shape[-2:], shape, strict=True)):
        if not 1 <= kept <= n:
            raise InputError(
                f"{name}: its field of view of {kspace.shape[-2]} x {kspace.shape[-1]} pixels cannot be cropped to {shape[0]} x "
                f"{shape[1]}; give a smaller one"
            )
        if kept == n:
            continue
        if (sampled.any(axis=axis) != sampled.all(axis=axis)).any():
            raise InputError(
                f"{name}: its {('rows', 'columns')[axis]} were not fully sampled, so the field of view cannot be cropped along "
                "them; crop the image instead"
            )
        first = n // 2 - kept // 2
        size = [*kspace.shape]
        size[axis - 2] = kept
        small = np.empty(size, kspace.dtype)
        for out, one in zip(small, kspace, strict=True):
            image = from_kspace(one.astype(np.complex128), (axis - 2,)).take(range(first, first + kept), axis=axis - 2)
            out[...] = to_kspace(image, (axis - 2,))
        kspace, sampled = small, sampled.take(range(kept), axis=axis)
    return kspace


def remove_oversampling(kspace: np.ndarray, mask: np.ndarray, factor: float = 2.0, name: str = "k-space") -> np.ndarray:
    """Crop the readout (rows) to its central part, ``(slices, coils, y / factor, x)``; the outer part contains only noise.

    Raises:
        InputError: if rows are not fully sampled, or their number is not a multiple of ``factor``.
    """
    rows = kspace.shape[-2]
    kept = round(rows / factor)
    if factor < 1 or kept < 1 or abs(kept * factor - rows) > 1e-6 * rows:
        raise InputError(
            f"{name}: its {rows} rows are not a multiple of the oversampling factor {factor:g}; give the factor of the scan"
        )
    return crop_field_of_view(kspace, mask, (kept, kspace.shape[-1]), name)


def combine_coils(
    kspace: np.ndarray, method: Combination = "rss", maps: np.ndarray | None = None, window: int = 7
) -> np.ndarray:
    """Combine coils to one image, ``(slices, y, x)``.

    Args:
        kspace: k-space ``(slices, coils, y, x)``; unsampled positions count as zeros.
        method: ``"rss"``: root sum of squares, real; ``"mvue"``: ``sum conj(S) x / sum |S|^2``, the minimum-variance unbiased
            estimate for white noise, 0 where all maps are 0; ``"adaptive"``: matched filter in the neighbourhood of every pixel,
            complex up to a smooth phase; ``"inati"``: nearly the same by iteration, several times as fast.
        maps: sensitivities of the shape of ``kspace``, for ``"mvue"``.
        window: width of the neighbourhood, pixels.

    Raises:
        InputError: for an unknown method, or if maps are missing or have another shape.

    Reference: Roemer et al., MRM 16 (1990); Walsh, Gmitro, Marcellin, MRM 43 (2000) (adaptive); Inati, Hansen,
        Kellman, Proc. ISMRM 22 (2014), 4407.
    """
    if method not in get_args(Combination):
        raise InputError(f"unknown combination {method!r}; choose one of {', '.join(get_args(Combination))}")
    check_count("window", window, least=1, most=1_000)
    if not kspace.size or not np.isfinite(largest_part(kspace)):
        raise InputError(f"k-space of shape {kspace.shape} is empty or holds NaN or Inf; give other data")
    unit = magnitude_unit(kspace)
    images = from_kspace(kspace * (1 / unit))
    if method == "rss":
        return np.sqrt((np.abs(images) ** 2).sum(axis=1)) * unit
    if method == "mvue":
        if maps is None or maps.shape != kspace.shape:
            raise InputError(
                f"mvue needs maps with the shape of k-space, {kspace.shape}; got {None if maps is None else maps.shape}"
            )
        size = (np.abs(maps) ** 2).sum(axis=1)
        return (np.conj(maps) * images).sum(axis=1) / np.where(size > 0, size, 1.0) * unit
    combined = adaptive_image if method == "adaptive" else iterative_image
    return np.stack([combined(coils, window) for coils in images]).astype(images.dtype) * unit
