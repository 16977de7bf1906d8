"""HDF5 with the dataset name of fastMRI's reconstructions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medrecon.writers.base import Contents, Writer, maps_of, unit_of_map

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Hdf5"]


class Hdf5(Writer):
    """``<stem>.h5`` with ``reconstruction`` ``(slices, y, x)``, float32; ``samples`` ``(n, slices, y, x)`` if there are several.

    The maps of several samples are datasets of their names, like the image, with the attributes ``description`` and ``unit``.
    Frames are an axis before the slices. fastMRI's own reconstructions are cropped further.
    """

    title = "HDF5"
    endings = (r"\.h5",)
    takes_frames = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}.h5"]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        import h5py
        import numpy as np

        maps = maps_of(reconstruction)
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["reconstruction"] = np.asarray(reconstruction.image, dtype=np.float32)
            if reconstruction.samples is not None:
                file["samples"] = np.asarray(reconstruction.samples, dtype=np.float32)
            for name, values in maps.items():
                from medrecon.uncertainty import MAPS

                file[name] = values
                file[name].attrs["description"] = MAPS[name]
                unit = unit_of_map(name, reconstruction.modality)
                if unit is not None:
                    file[name].attrs["unit"] = unit
        return Contents([buffer.getvalue()], maps=dict.fromkeys(maps, (0,)))
