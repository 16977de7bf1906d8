"""Geometry of the output: from the scan, or from a DICOM series of the same slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medrecon.data.errors import InputError, warn
from medrecon.writers.registry import WRITERS

if TYPE_CHECKING:
    from medrecon.data.scan import Geometry, ImageScan

__all__ = ["like_series", "output_geometry"]


def like_series(
    path: str | Path | None, select: Mapping[str, str | int | float] | None = None, format: str = "dicom"
) -> ImageScan | None:
    """Read the series of ``--like``, and log its warnings.

    Args:
        path: DICOM file or folder; ``None`` for no series.
        select: selection among several series or volumes (``--like-select``).
        format: output format, checked before the series is read.

    Returns:
        the series, whose warnings belong in the record, or ``None``.

    Raises:
        InputError: if the path is not one DICOM series, ``select`` is given without ``path``, or the format takes no series.
    """
    if path is None:
        if select:
            raise InputError("--like-select selects from --like; give --like as well")
        return None
    if not WRITERS[format].takes_like:
        names = " or ".join(name for name, writer in WRITERS.items() if writer.takes_like)
        raise InputError(f"--like is for --format {names}; give --format {names} as well")
    from medrecon.formats import load_like

    series = load_like(path, dict(select or {}))
    for text in series.warnings:
        warn(text)
    return series


def output_geometry(
    geometry: Geometry, shape: tuple[int, ...], like: ImageScan | None = None, index: slice = slice(None)
) -> Geometry:
    """Geometry of the reconstructed slices.

    Args:
        geometry: geometry of the whole scan; if it has no affine, the affine of ``like`` is used.
        shape: shape of the image of the whole scan, ``(slices, y, x)``.
        like: series of the same slices.
        index: reconstructed slices.

    Raises:
        InputError: if the affine of ``like`` is needed, but ``like`` has other slices, another matrix or no positions.
    """
    if geometry.affine is None and like is not None:
        if like.array.shape != tuple(shape) or like.affine is None:
            sizes = (" x ".join(map(str, one)) for one in (like.array.shape, shape))
            raise InputError(
                "the scan does not record the position of its slices; give --like with a series of the same slices and matrix "
                "that has positions (--like has {}, the data {})".format(*sizes)
            )
        geometry = replace(geometry, affine=like.affine)
    return geometry.slices(index, shape[0])
