"""Montages of reconstructions with error maps, and sheets of samples."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

__all__ = ["montage", "sheet"]


def montage(
    reference: np.ndarray, images: Mapping[str, np.ndarray], captions: Mapping[str, str], gain: float = 5.0
) -> bytes:
    """A PNG with the reference and the images in the first row, and ``gain`` times their absolute errors in the second.

    Args:
        reference: reference image ``(y, x)``.
        images: images ``(y, x)`` by title.
        captions: second line of the titles, by title.
        gain: factor of the error maps, which have the grey-scale window of the images.
    """
    from matplotlib.figure import Figure

    height, width = reference.shape
    columns = len(images) + 1
    figure = Figure(figsize=(2.4 * columns, 2.4 * 2 * height / width + 0.6), facecolor="black", layout="constrained")
    axes = figure.subplots(2, columns)
    top = float(np.percentile(reference, 99.8)) or 1.0
    for axis in axes.flat:
        axis.axis("off")
    for k, (name, image) in enumerate({"reference": reference, **images}.items()):
        axes[0, k].imshow(image, cmap="gray", vmin=0, vmax=top)
        axes[0, k].set_title(f"{name}\n{captions.get(name, '')}", color="white", fontsize=9)
        if k:
            axes[1, k].imshow(gain * np.abs(image - reference), cmap="inferno", vmin=0, vmax=top)
    axes[1, 0].text(0.5, 0.5, f"errors x {gain:g}", color="white", ha="center", transform=axes[1, 0].transAxes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def sheet(images: np.ndarray, top: float = 1.0, columns: int = 4) -> bytes:
    """A PNG of images ``(n, y, x)`` in rows of ``columns``, black at 0 and white at ``top``."""
    from matplotlib.image import imsave

    n, height, width = images.shape
    rows = -(-n // columns)
    filled = np.zeros((rows * columns, height, width), dtype=np.float32)
    filled[:n] = images
    page = filled.reshape(rows, columns, height, width).transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    buffer = io.BytesIO()
    imsave(buffer, page, cmap="gray", vmin=0, vmax=top, format="png")
    return buffer.getvalue()
