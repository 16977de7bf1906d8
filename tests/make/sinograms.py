"""Files of sinograms."""

import h5py
import numpy as np


def exchange(path, lines, flats=3, dark=100.0, white=5000.0, theta_units=None, **extra):
    """A Data Exchange file of line integrals ``(views, slices, detectors)`` whose pixels differ in their gain."""
    rng = np.random.default_rng(0)
    gain = rng.uniform(0.8, 1.2, lines.shape[1:])
    angles = np.arange(len(lines)) * 180 / len(lines)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = (dark + (white - dark) * gain * np.exp(-lines)).astype(np.float32)
        file["exchange/data_white"] = np.broadcast_to(dark + (white - dark) * gain, (flats, *gain.shape))
        file["exchange/data_dark"] = np.full((2, *gain.shape), dark)
        file["exchange/theta"] = np.deg2rad(angles) if theta_units == "rad" else angles
        if theta_units:
            file["exchange/theta"].attrs["units"] = theta_units
        for key, (value, unit) in extra.items():
            file[f"measurement/instrument/detector/{key}"] = value
            file[f"measurement/instrument/detector/{key}"].attrs["units"] = unit
    return path
