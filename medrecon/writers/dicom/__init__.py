"""DICOM: a derived series of classic MR or CT images, and the standard deviation of samples as a parametric map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medrecon.writers.base import Contents, Writer

if TYPE_CHECKING:
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Dicom"]


class Dicom(Writer):
    """``<stem>/0001.dcm`` and so on, one slice per file, and ``<stem>_spread.dcm`` if there are several samples."""

    title = "DICOM"
    endings = (r"_spread\.dcm", r"/\d{4,}\.dcm")
    needs_position = True
    takes_like = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}/{k + 1:04d}.dcm" for k in range(slices)] + [f"{stem}_spread.dcm"] * samples

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        from medrecon.writers.dicom.series import derived_series
        from medrecon.writers.dicom.spread import spread_map

        series = derived_series(reconstruction, output.headers, output.deidentify)
        files = [one.content for one in series]
        if reconstruction.samples is not None:
            files.append(spread_map(reconstruction.samples, series, reconstruction.record))
        return Contents(files)
