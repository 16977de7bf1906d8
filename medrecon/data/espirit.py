"""Coil sensitivities by ESPIRiT with sigpy: arrays in, tensors out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medrecon.data.errors import InputError
from medrecon.data.masks import acs_block, centred
from medrecon.data.noise import estimate_noise_std

__all__ = ["combined_reference", "espirit_maps"]


_ENOUGH = 96**2
"""Samples of the calibration region that are read at most."""


def _pixelwise(projector: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The matrix of every pixel whose eigenvectors are the maps, ``(y, x, coils, coils)``, its eigenvalues in [0, 1].

    It is ``sum_k v_k(r) v_k(r)^H / kernel^2`` with ``v_k`` the transforms of the kernels. The sum of their products depends on
    differences of k-space positions alone, so the ``(2 kernel - 1)^2`` of these are transformed once for every pair of coils,
    however many kernels there are.

    Args:
        projector: on the space of the kernels, conjugate, ``(coils, k, k, coils, k, k)``.
        shape: of the image.
    """
    coils, kernel = projector.shape[:2]
    lags = np.zeros((coils, coils, 2 * kernel - 1, 2 * kernel - 1), np.complex64)
    for y in range(kernel):
        for x in range(kernel):
            rows, columns = (slice(kernel - 1 - i, 2 * kernel - 1 - i) for i in (y, x))
            lags[:, :, rows, columns] += projector[..., y, x].transpose(0, 3, 1, 2)
    first, second = np.triu_indices(coils)
    # Difference 0 at index 0, and the middle of the image at n // 2.
    padded = torch.zeros((len(first), *shape), dtype=torch.complex64)
    where = [(np.arange(1 - kernel, kernel)) % n for n in shape]
    signs = np.exp(-2j * np.pi * sum(np.ix_(*[np.arange(1 - kernel, kernel) * (n // 2) / n for n in shape])))
    padded[:, where[0][:, None], where[1]] = torch.from_numpy((lags[first, second] * signs).astype(np.complex64))
    upper = torch.fft.ifft2(padded, norm="forward") / kernel**2
    matrix = torch.zeros((*shape, coils, coils), dtype=torch.complex64)
    matrix[..., second, first] = upper.movedim(0, -1).conj()  # eigh reads the lower triangle
    return matrix


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
    import sigpy as sp

    shape = kspace.shape[1:]
    rows, columns = acs_block(np.broadcast_to(mask, shape), kernel)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height * width > _ENOUGH:  # a larger region costs much and tells no more
        side = int(_ENOUGH**0.5)
        height, width = (min(a, max(side, _ENOUGH // b)) for a, b in ((height, width), (width, height)))
        rows, columns = centred(shape[0], height), centred(shape[1], width)
    calibration = kspace[:, rows, columns]
    coils = len(calibration)
    if not 1 <= sets <= coils:
        raise InputError(f"{name}: {coils} coils have 1 to {coils} sets of maps; got {sets}")
    empty = torch.zeros((coils, *shape) if sets == 1 else (sets, coils, *shape), dtype=torch.complex64)
    if min(height, width) < kernel:
        raise InputError(
            f"{name}: the fully sampled centre is {height} x {width}, too small to estimate coil sensitivities "
            f"(at least {kernel} x {kernel}); give the maps with --maps"
        )
    if not calibration.any():
        return empty
    blocks = sp.array_to_blocks(calibration, [kernel, kernel], [1, 1])
    matrix = blocks.reshape(coils, -1, kernel**2).transpose(1, 0, 2).reshape(-1, coils * kernel**2)
    # Eigenvectors of the Gram matrix: the right singular vectors, whatever the number of blocks.
    values, vectors = np.linalg.eigh(matrix.conj().T @ matrix)
    edge = 2 * noise_std**2 * (len(matrix) ** 0.5 + matrix.shape[1] ** 0.5) ** 2
    signal = values > max(threshold**2 * values.max(), edge)
    if not signal.any():
        return empty
    projector = vectors[:, signal].conj() @ vectors[:, signal].T
    values, vectors = torch.linalg.eigh(_pixelwise(projector.reshape((coils, kernel, kernel) * 2), shape))
    # (sets, coils, y, x) and (sets, 1, y, x), largest eigenvalue first
    maps, values = (
        vectors[..., -sets:].flip(-1).permute(3, 2, 0, 1),
        values[..., -sets:].flip(-1).movedim(-1, 0)[:, None],
    )

    # Phase of the low-resolution image, tapered against ringing.
    low = np.zeros(kspace.shape, dtype=np.complex64)
    low[:, rows, columns] = calibration * np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    image = (maps.conj() * torch.from_numpy(sp.ifft(low, axes=(-2, -1)))).sum(1, keepdim=True)
    maps = (maps * torch.polar(torch.ones_like(image.real), image.angle()) * (values > crop)).contiguous()
    return maps[0] if sets == 1 else maps


def combined_reference(kspace: np.ndarray, calibration: int = 24, crop: float = 0.9) -> np.ndarray:
    """The image that reconstructions are judged by: |sum conj(S) F^H y| of fully sampled ``(slices, coils, y, x)``.

    ESPIRiT maps from the central ``calibration`` square (or what there is of it), zero outside them; the magnitude
    for a single coil. ``(slices, y, x)`` float32.
    """
    import sigpy as sp

    images = []
    for k in kspace:
        coils = sp.ifft(k, axes=(-2, -1))
        if len(k) == 1:
            images.append(np.abs(coils[0]))
            continue
        mask = np.zeros(k.shape[1:], dtype=bool)
        mask[tuple(centred(n, min(calibration, n)) for n in k.shape[1:])] = True
        noise_std = estimate_noise_std(k[None], np.ones(k.shape[1:], dtype=bool))
        maps = espirit_maps(k * mask, mask, crop=crop, noise_std=noise_std).numpy()
        images.append(np.abs((maps.conj() * coils).sum(0)))
    return np.stack(images).astype(np.float32)
