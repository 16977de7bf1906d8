"""HDF5 with the dataset name of fastMRI's reconstructions."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medrecon.writers.base import Contents, Writer

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Hdf5"]


class Hdf5(Writer):
    """``<stem>.h5`` with ``reconstruction`` ``(slices, y, x)``, float32; ``samples`` ``(n, slices, y, x)`` if there are several.

    Frames are an axis before the slices. fastMRI's own reconstructions are cropped further.
    """

    title = "HDF5"
    endings = (r"\.h5",)
    takes_frames = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}.h5"]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        import h5py
        import numpy as np

        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["reconstruction"] = np.asarray(reconstruction.image, dtype=np.float32)
            if reconstruction.samples is not None:
                file["samples"] = np.asarray(reconstruction.samples, dtype=np.float32)
        return Contents([buffer.getvalue()])
