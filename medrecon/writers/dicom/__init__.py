"""DICOM: a derived series of classic MR or CT images, and the maps of several samples, one file per map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medrecon.writers.base import MAP_NAMES, Contents, Writer, maps_of

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Dicom"]


class Dicom(Writer):
    """``<stem>/0001.dcm`` and so on, one slice per file, and ``<stem>_<map>.dcm`` for the maps of several samples.

    Maps are parametric maps of floats, the flags are a binary segmentation. Samples themselves are not written.
    """

    title = "DICOM"
    endings = (r"/\d{4,}\.dcm", *(rf"_{name}\.dcm" for name in MAP_NAMES))
    needs_position = True
    takes_like = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        return [*(f"{stem}/{k + 1:04d}.dcm" for k in range(slices)), *(f"{stem}_{name}.dcm" for name in maps)]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        from medrecon.writers.dicom.maps import dicom_map
        from medrecon.writers.dicom.series import derived_series

        series = derived_series(reconstruction, output.headers, output.deidentify)
        maps = maps_of(reconstruction)
        files = [
            dicom_map(name, values, series, number=number) for number, (name, values) in enumerate(maps.items(), 1)
        ]
        places = {name: (len(series) + k,) for k, name in enumerate(maps)}
        return Contents([*(one.content for one in series), *files], maps=places)
