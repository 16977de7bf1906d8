"""Sinograms in Data Exchange HDF5.

De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data", J. Synchrotron Rad. 21
(2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from medrecon.data.errors import InputError, one_line
from medrecon.data.scan import Sinogram
from medrecon.formats.companions import Companions
from medrecon.formats.hdf5 import open_hdf5, read_attribute, read_dataset, text_of
from medrecon.formats.probe import is_hdf5, never_raises
from medrecon.formats.selecting import refuse_selection
from medrecon.formats.sinograms import NEEDS, checked_sinogram

__all__ = ["KINDS", "SUFFIXES", "read", "sniff"]

SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs")
KINDS = (Sinogram,)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 with a group ``exchange`` that holds data, flats or angles."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        group = file.get("exchange")
        return isinstance(group, h5py.Group) and bool({"data", "data_white", "theta"} & set(group))


def read(path: Path, select: Mapping[str, object] | None = None, companions: Companions | None = None) -> Sinogram:
    """Line integrals from the counts of a parallel beam.

    Read from ``exchange/data`` ``(views, slices, detectors)``, counts; ``exchange/data_white`` and ``exchange/data_dark``,
    averaged; ``exchange/theta`` in degrees (or rad, by its ``units``). The detector spacing is ``x_pixel_size`` or
    ``pixel_size_x`` of ``measurement/instrument/detector``, with its ``units``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    refuse_selection(path, select)
    try:
        fields = _line_integrals(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({one_line(error)}); {NEEDS}") from error
    return checked_sinogram(path, "Data Exchange HDF5", fields=fields, companions=companions or Companions())


_LENGTHS = {
    "m": 1e3,
    "meter": 1e3,
    "cm": 10.0,
    "mm": 1.0,
    "um": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "\u00b5m": 1e-3,
    "nm": 1e-6,
}


def _unit(dataset: h5py.HLObject, otherwise: str) -> str:
    """The unit of a dataset, lower case; empty if the text is too long for a unit."""
    text = text_of(read_attribute(dataset, "units")) if "units" in dataset.attrs else otherwise.encode()
    word = (text or b"").decode("utf-8", "replace").strip().lower()
    return word if len(word) <= 16 else ""


def _real(file: h5py.File, key: str, dtype: type = np.float32) -> np.ndarray:
    """A dataset of real numbers."""
    array = np.asarray(read_dataset(file, key))
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"{key} is {array.dtype} {array.shape}, not real numbers")
    return array.astype(dtype)


def _line_integrals(path: Path) -> dict[str, Any]:
    """Line integrals from counts, flats and darks; angles; detector spacing where it is recorded."""
    with open_hdf5(path) as file:
        missing = [f"exchange/{key}" for key in ("data", "data_white", "theta") if f"exchange/{key}" not in file]
        if missing:
            raise ValueError(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
        theta = file["exchange/theta"]
        angles = _real(file, "exchange/theta", float).ravel()
        unit = _unit(theta, "deg")
        if not unit.startswith("rad"):
            angles = np.deg2rad(angles)
        counts = _real(file, "exchange/data")
        white = _real(file, "exchange/data_white")
        dark = _real(file, "exchange/data_dark") if "exchange/data_dark" in file else np.zeros((1, 1, 1))
        if counts.ndim != 3 or len(counts) != len(angles):
            raise ValueError(
                f"exchange/data is {counts.shape}, with {len(angles)} angles; expected (views, slices, detectors)"
            )
        white, dark = (a.reshape(-1, *a.shape[-2:]).mean(axis=0, dtype=np.float64) for a in (white, dark))
        open_beam = white - dark
        if np.broadcast_shapes(open_beam.shape, counts.shape[1:]) != counts.shape[1:]:
            raise ValueError(f"flats of {white.shape} do not match data of {counts.shape[1:]} (slices, detectors)")
        if not (open_beam > 0).all():
            raise ValueError(
                f"{int((open_beam <= 0).sum())} detector pixels count no more in the flats than in the darks"
            )
        # A pixel without a count is taken as half a count, to keep the logarithm finite.
        transmission = np.maximum((counts - dark) / open_beam, 0.5 / open_beam)
        sinogram = -np.log(transmission).swapaxes(0, 1).astype(np.float32)
        fields: dict[str, Any] = {"sino": sinogram, "theta_rad": angles}
        for name in ("x_pixel_size", "pixel_size_x", "actual_pixel_size_x", "pixel_size"):
            key = f"measurement/instrument/detector/{name}"
            if key in file:
                length = _LENGTHS.get(_unit(file[key], ""))
                if length is None:
                    raise ValueError(f"{key} is in {_unit(file[key], 'no unit')!r}; give the detector spacing in mm")
                fields["detector_spacing_mm"] = float(_real(file, key, float).ravel()[0]) * length
                break
    return fields
