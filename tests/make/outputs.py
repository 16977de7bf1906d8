"""Reconstructions of given arrays, written."""

import numpy as np

from medrecon.data.scan import Geometry
from medrecon.posterior import Reconstruction
from medrecon.uncertainty import Uncertainty
from medrecon.writers import Output, write

__all__ = ["made_up_maps", "write_volume"]


def made_up_maps(samples, calibrated=False, seed=7):
    """Maps of ``(n, ..., y, x)``: spread, smallest and largest of the samples; the rest are random numbers."""
    rng, shape = np.random.default_rng(seed), samples.shape[1:]
    return Uncertainty(
        spread=samples.std(axis=0, dtype=np.float64).astype(np.float32),
        p05=samples.min(axis=0).astype(np.float32),
        p95=samples.max(axis=0).astype(np.float32),
        null=rng.random(shape, np.float32),
        null_spread=rng.random(shape, np.float32),
        flags=(rng.random(shape) < 0.3).astype(np.uint8),
        calibrated=calibrated,
    )


def write_volume(
    folder, stem, volume, record, samples=None, spacing=None, fmt="nifti", overwrite=False, affine=None, **more
):
    """Write a volume ``(slices, y, x)``; ``more``: ``phase``, ``modality``, and what ``Output`` takes.

    Several samples have made-up maps.
    """
    held = {name: more.pop(name) for name in ("phase", "modality") if name in more}
    maps = None if samples is None else made_up_maps(samples)
    made = Reconstruction(
        image=volume, samples=samples, record=record, geometry=Geometry(spacing, affine), uncertainty=maps, **held
    )
    return write(made, Output(folder=folder, stem=stem, format=fmt, overwrite=overwrite, **more))
