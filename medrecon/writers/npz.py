"""NumPy's npz, with the array name of fastMRI's reconstructions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medrecon.writers.base import Contents, Writer, maps_of

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Npz"]


class Npz(Writer):
    """``<stem>.npz`` with ``reconstruction`` ``(slices, y, x)``, float32, and the following arrays if they exist.

    ``phase`` (rad, of complex images), ``samples`` ``(n, slices, y, x)``, ``affine`` ``(4, 4)``, ``spacing`` ``(z, y, x)`` in
    mm, and the maps of several samples by name. Frames are an axis before the slices.
    """

    title = "NumPy"
    endings = (r"\.npz",)
    takes_frames = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}.npz"]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        import numpy as np

        geometry, maps = reconstruction.geometry, maps_of(reconstruction)
        values = {
            "reconstruction": np.asarray(reconstruction.image, np.float32),
            "phase": reconstruction.phase,
            "samples": reconstruction.samples,
            "affine": geometry.affine,
            "spacing": geometry.spacing,
            **maps,
        }
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in values.items() if value is not None}
        np.savez(buffer, **arrays)
        return Contents([buffer.getvalue()], maps=dict.fromkeys(maps, (0,)))
