"""Gzipped NIfTI-1: magnitude, magnitude and phase in two files, or complex values."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medrecon.writers.base import MAP_NAMES, Contents, Writer, image_of_part, maps_of

if TYPE_CHECKING:
    import numpy as np

    from medrecon.data.scan import Geometry
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Nifti", "nifti_bytes"]


class Nifti(Writer):
    """``<stem>.nii.gz``, or ``<stem>_part-mag.nii.gz`` and ``<stem>_part-phase.nii.gz``.

    The maps of several samples are ``<stem>_<map>.nii.gz``, with their description in :data:`medrecon.uncertainty.MAPS` and an
    intent in the header; the samples are one file of four axes, ``<stem>_samples.nii.gz``.
    """

    title = "NIfTI"
    endings = (
        r"\.nii\.gz",
        r"_(?:samples|part-mag|part-phase)\.nii\.gz",
        *(rf"_{name}\.nii\.gz" for name in MAP_NAMES),
    )
    parts = ("mag", "mag-phase", "complex")
    takes_frames = True
    takes_bids = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        ends = ("_part-mag", "_part-phase") if part == "mag-phase" else ("",)
        return [f"{stem}{end}.nii.gz" for end in (*ends, *(f"_{name}" for name in maps), *["_samples"] * samples)]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        pair = output.part == "mag-phase"
        images = [reconstruction.image, reconstruction.phase] if pair else [image_of_part(reconstruction, output.part)]
        maps, geometry = maps_of(reconstruction), reconstruction.geometry
        images = [nifti_bytes(one, geometry) for one in images if one is not None]
        samples = [] if reconstruction.samples is None else [nifti_bytes(reconstruction.samples, geometry)]
        files = [*images, *(nifti_bytes(values, geometry, name) for name, values in maps.items()), *samples]
        return Contents(files, maps={name: (len(images) + k,) for k, name in enumerate(maps)})


def nifti_bytes(volume: np.ndarray, geometry: Geometry, map_name: str | None = None) -> bytes:
    """Gzipped NIfTI file of ``((samples,) (frames,) slices, y, x)``, stored as x, y, slices(, frames)(, samples).

    Args:
        volume: real, stored as float32, complex, stored as complex64, or uint8.
        geometry: geometry of the slices. The default voxel size is 1 mm. Without an affine, the codes of qform and sform are 0
            ("unknown"), since most raw formats do not record the orientation.
        map_name: name of the map, if it is one, for the header: its description, and as intent a label or an estimate.
    """
    import nibabel as nib
    import numpy as np

    affine = geometry.affine
    z, y, x = geometry.spacing or (1.0, 1.0, 1.0)
    kept = volume.dtype == np.uint8
    data = np.asarray(volume, dtype=np.uint8 if kept else np.complex64 if np.iscomplexobj(volume) else np.float32)
    data = data.transpose(*range(volume.ndim)[::-1][:3], *range(volume.ndim - 3)[::-1])
    image = nib.Nifti1Image(data, np.diag([x, y, z, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    if map_name is not None:
        from medrecon.uncertainty import MAPS

        image.header["descrip"] = MAPS[map_name].encode()
        image.header.set_intent("label" if map_name == "flags" else "estimate", name=map_name)
    code = 0 if affine is None else 1
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    if code and np.abs(image.get_qform() - image.affine).max() > 1e-3 * max(x, y, z):
        # A quaternion cannot represent a shear, and no position is better than a wrong one.
        image.set_qform(image.affine, 0)
    return gzip.compress(image.to_bytes(), mtime=0)
