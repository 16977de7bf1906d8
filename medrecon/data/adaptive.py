"""The adaptive combination of coil images: the matched filter of every pixel's neighbourhood."""

from __future__ import annotations

import numpy as np
import torch

from medrecon.data.eigen import largest_eigenpairs

__all__ = ["adaptive_image"]

_AT_ONCE = 2**19
"""Entries of the correlation matrices that are computed at once, so that they stay in the processor's cache."""
_NOTHING = 1e-30
"""Energy of a pixel, of a brightest one of 1 or so, below which it is 0."""


def adaptive_image(images: np.ndarray, window: int = 7) -> np.ndarray:
    """The image whose coil weights are the first eigenvector of the correlation of the coils round every pixel, ``(y, x)``.

    The phase of the weights is 0 for the coil with most signal. Images go on beyond their edges as in a mirror.

    Args:
        images: of the coils, ``(coils, y, x)``, of a size of 1 or so.
        window: side of the neighbourhood.

    Reference: Walsh, Gmitro, Marcellin, MRM 43 (2000).
    """
    coils, height, width = images.shape
    strongest = int((np.abs(images) ** 2).sum(axis=(1, 2)).argmax())
    before, after = window // 2, (window - 1) // 2
    padded = np.pad(np.moveaxis(images, 0, -1), ((before, after), (before, after), (0, 0)), mode="symmetric")
    lines = torch.from_numpy(padded).unfold(1, window, 1)  # (y, x, coils, window)
    out = np.empty((height, width), images.dtype)
    rows = max(1, _AT_ONCE // (width * coils**2))
    for first in range(0, height, rows):
        count = min(rows, height - first)
        part = lines[first : first + count + window - 1].contiguous()
        correlations = torch.view_as_real(part @ part.mH)  # sums over the neighbours in the line
        band = torch.ones((count, len(part)), dtype=correlations.dtype).triu().tril(window - 1)
        correlations = (band / window**2 @ correlations.flatten(1)).view(-1, coils, coils, 2)
        here = padded[first + before : first + before + count, before : before + width].reshape(-1, coils)
        start = torch.from_numpy(here)
        weights = largest_eigenpairs(torch.view_as_complex(correlations), start, least=_NOTHING)[1][:, 0].numpy()
        weights = weights * np.exp(-1j * np.angle(weights[:, strongest]))[:, None]
        out[first : first + count] = (weights.conj() * here).sum(axis=1).reshape(count, width)
    return out
