"""Reconstructions of given arrays, written."""

from medrecon.data.scan import Geometry
from medrecon.posterior import Reconstruction
from medrecon.writers import Output, write

__all__ = ["write_volume"]


def write_volume(
    folder, stem, volume, record, samples=None, spacing=None, fmt="nifti", overwrite=False, affine=None, **more
):
    """Write a volume ``(slices, y, x)``; ``more``: ``phase``, ``modality``, and what ``Output`` takes."""
    held = {name: more.pop(name) for name in ("phase", "modality") if name in more}
    made = Reconstruction(image=volume, samples=samples, record=record, geometry=Geometry(spacing, affine), **held)
    return write(made, Output(folder=folder, stem=stem, format=fmt, overwrite=overwrite, **more))
