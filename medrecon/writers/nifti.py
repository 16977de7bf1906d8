"""Gzipped NIfTI-1: magnitude, magnitude and phase in two files, or complex values."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from medrecon.writers.base import Contents, Writer, image_of_part

if TYPE_CHECKING:
    import numpy as np

    from medrecon.data.scan import Geometry
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Nifti", "nifti_bytes"]


class Nifti(Writer):
    """``<stem>.nii.gz``, or ``<stem>_part-mag.nii.gz`` and ``<stem>_part-phase.nii.gz``; samples in one file of four axes."""

    title = "NIfTI"
    endings = (r"\.nii\.gz", r"_(?:samples|part-mag|part-phase)\.nii\.gz")
    parts = ("mag", "mag-phase", "complex")
    takes_frames = True
    takes_bids = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """See :meth:`Writer.names`."""
        ends = ("_part-mag", "_part-phase") if part == "mag-phase" else ("",)
        return [f"{stem}{end}.nii.gz" for end in (*ends, *["_samples"] * samples)]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        pair = output.part == "mag-phase"
        images = [reconstruction.image, reconstruction.phase] if pair else [image_of_part(reconstruction, output.part)]
        volumes = [*images, reconstruction.samples]
        return Contents([nifti_bytes(one, reconstruction.geometry) for one in volumes if one is not None])


def nifti_bytes(volume: np.ndarray, geometry: Geometry) -> bytes:
    """Gzipped NIfTI file of ``((samples,) (frames,) slices, y, x)``, stored as x, y, slices(, frames)(, samples).

    Args:
        volume: real, stored as float32, or complex, stored as complex64.
        geometry: geometry of the slices. The default voxel size is 1 mm. Without an affine, the codes of qform and sform are 0
            ("unknown"), since most raw formats do not record the orientation.
    """
    import nibabel as nib
    import numpy as np

    affine = geometry.affine
    z, y, x = geometry.spacing or (1.0, 1.0, 1.0)
    data = np.asarray(volume, dtype=np.complex64 if np.iscomplexobj(volume) else np.float32)
    data = data.transpose(*range(volume.ndim)[::-1][:3], *range(volume.ndim - 3)[::-1])
    image = nib.Nifti1Image(data, np.diag([x, y, z, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    code = 0 if affine is None else 1
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    if code and np.abs(image.get_qform() - image.affine).max() > 1e-3 * max(x, y, z):
        # A quaternion cannot represent a shear, and no position is better than a wrong one.
        image.set_qform(image.affine, 0)
    return gzip.compress(image.to_bytes(), mtime=0)
