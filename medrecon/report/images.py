"""Arrays to images inside a page: 8 bits, without loss unless said otherwise."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

__all__ = ["encoded", "faded", "grey", "marked", "mosaic", "thumbnail"]


def grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values, uint8: black at ``low`` and below, white at ``high`` and above."""
    span = high - low
    unit = (np.asarray(image, np.float64) - low) / (span if span > 0 else 1.0)
    return np.rint(255 * np.clip(np.nan_to_num(unit), 0, 1)).astype(np.uint8)


def faded(image: np.ndarray, spread: np.ndarray, limit: float) -> np.ndarray:
    """A grey image ``(y, x)`` with an opacity, ``(y, x, 2)`` uint8: opaque where ``spread`` is 0, transparent from ``limit``."""
    return np.stack([image, 255 - grey(spread, 0.0, limit)], axis=-1)


def marked(flags: np.ndarray) -> np.ndarray:
    """Flags ``(y, x)`` as an image, uint8: white where flagged."""
    return np.where(flags > 0, 255, 0).astype(np.uint8)


def encoded(image: np.ndarray, quality: int | None = None) -> str:
    """A data URI of an image ``(y, x)``, or ``(y, x, 2)`` with an opacity, uint8.

    Args:
        image: grey values.
        quality: of WebP with loss, 0 to 100; ``None``: without loss (WebP).
    """
    from PIL import Image

    if image.ndim == 3:
        level = image[..., 0]
        array = np.stack([level, level, level, image[..., 1]], axis=-1)
    else:
        array = np.repeat(image[..., None], 3, axis=2)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(array))
    if quality is None:  # exact: also the grey values under transparent pixels
        picture.save(buffer, format="WEBP", lossless=True, quality=60, method=4, exact=True)
    else:
        picture.save(buffer, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail(image: np.ndarray, size: int) -> np.ndarray:
    """An image ``(y, x)`` or ``(y, x, 2)`` whose longer side is at most ``size``: means of blocks."""
    factor = -(-max(image.shape[:2]) // size)
    if factor <= 1:
        return image
    rows, columns = (n // factor for n in image.shape[:2])
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, *image.shape[2:])
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def mosaic(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one shape in rows of ``columns``, on black."""
    height, width = images[0].shape
    rows = -(-len(images) // columns)
    page = np.zeros((rows * height, columns * width), np.uint8)
    for k, image in enumerate(images):
        y, x = k // columns * height, k % columns * width
        page[y : y + height, x : x + width] = image
    return page
