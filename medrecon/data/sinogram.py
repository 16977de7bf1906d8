"""Parallel-beam sinograms from files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from medrecon.data.arrays import numpy_arrays
from medrecon.data.contents import absent
from medrecon.data.errors import InputError, told
from medrecon.data.hdf5 import open_hdf5, read_attribute, read_dataset, text_of
from medrecon.data.limits import reading

__all__ = ["Sinogram", "counted", "load_sinogram"]


def counted(lines: np.ndarray, photons: float, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals as a detector tells them that counts ``photons`` per unattenuated ray, float32.

    ``-log(N / photons)`` with ``N = Poisson(photons exp(-line)) + electronic n``, at least one photon; as they are for
    ``photons = 0``.
    """
    if photons == 0:
        return lines.astype(np.float32)
    counts = rng.poisson(photons * np.exp(-lines.astype(np.float64))) + electronic * rng.standard_normal(lines.shape)
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)


class Sinogram(NamedTuple):
    """Line integrals and their geometry.

    Args:
        lines: ``(slices, views, detectors)`` float32, ``-log(I / I0)``.
        angles: of the views, rad, ``(views,)``.
        pitch: distance of two detector pixels in mm.
        offset: position of the rotation axis on the detector, from its middle, in pixels.
        photons: emitted per ray, 0 if unknown.
        path: of the file.
    """

    lines: np.ndarray
    angles: np.ndarray
    pitch: float
    offset: float
    photons: float
    path: Path


_NEEDS = (
    "give an npz with sino ([slices,] views, detectors), theta_rad (views) and pitch_mm, or a Data Exchange HDF5 file"
)


def load_sinogram(path: str | Path, pitch: float | None = None, centre: float | None = None) -> Sinogram:
    """Read parallel-beam data from ``npz`` or HDF5 in the Data Exchange layout.

    ``npz``: ``sino`` ``(views, detectors)`` or ``(slices, views, detectors)``, line integrals; ``theta_rad``; ``pitch_mm``.
    Optional: ``centre``, the index of the detector pixel on which the rotation axis falls (default: the middle), and ``photons``
    per ray.

    Data Exchange (``.h5``, ``.hdf5``, ``.hdf``, ``.nxs``): ``exchange/data`` ``(views, slices, detectors)``, counts;
    ``exchange/data_white`` and ``exchange/data_dark``, averaged, which make line integrals of them; ``exchange/theta`` in degrees
    (or rad, if its ``units`` say so); the pixel's side from ``x_pixel_size`` or ``pixel_size_x`` of
    ``measurement/instrument/detector``, with its ``units``.

    Args:
        path: of the file.
        pitch: in mm, instead of the file's.
        centre: pixel of the rotation axis, instead of the file's.

    Raises:
        InputError: naming the file, what is wrong and what it should hold.

    Reference: De Carlo et al., "Scientific data exchange", J. Synchrotron Rad. 21 (2014).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {absent(path)}; {_NEEDS}")
    with reading(path, _NEEDS):
        return _checked(path, pitch, centre)


def _checked(path: Path, pitch: float | None, centre: float | None) -> Sinogram:
    """See :func:`load_sinogram`."""
    try:
        held = _data_exchange(path) if path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".nxs") else _archive(path)
        lines = np.asarray(held["sino"], dtype=np.float32)
        angles = np.asarray(held["theta_rad"], dtype=np.float64).ravel()
        numbers = {key: float(held[key]) for key in ("centre", "pitch_mm", "photons") if key in held}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be used as a sinogram ({told(error)}); {_NEEDS}") from error
    if lines.ndim == 2:
        lines = lines[None]
    if lines.ndim != 3 or 0 in lines.shape:
        raise InputError(f"{path}: sino has shape {held['sino'].shape}; {_NEEDS}")
    if lines.shape[1] != len(angles):
        raise InputError(f"{path}: sino has {lines.shape[1]} views, but theta_rad {len(angles)}; {_NEEDS}")
    if not (np.isfinite(lines).all() and np.isfinite(angles).all()):
        raise InputError(f"{path}: holds NaN or Inf; export the data again")
    eighths = bool((8 * angles == np.round(8 * angles)).all())
    if np.ptp(angles) > 8 * np.pi or (np.abs(angles).max() > 2 * np.pi and eighths):
        raise InputError(
            f"{path}: theta_rad reaches {np.abs(angles).max():g}; degrees? Store numpy.deg2rad of it, or, if it is in rad, "
            "the angles within a turn"
        )
    if pitch is None and "pitch_mm" not in numbers:
        raise InputError(
            f"{path}: does not give the spacing of its detector pixels; give the pitch in mm, or store it as pitch_mm (npz) or "
            "x_pixel_size (HDF5)"
        )
    pitch = numbers["pitch_mm"] if pitch is None else pitch
    photons, middle = numbers.get("photons", 0.0), (lines.shape[2] - 1) / 2
    centre = numbers.get("centre", middle) if centre is None else centre
    if not 0 < pitch < np.inf or not 0 <= photons < np.inf:
        raise InputError(f"{path}: pitch_mm must be positive and photons not negative; got {pitch} and {photons}")
    if not 0 <= centre <= lines.shape[2] - 1:
        raise InputError(f"{path}: centre must be a pixel of the detector, 0...{lines.shape[2] - 1}; got {centre}")
    return Sinogram(lines, angles, pitch, centre - middle, photons, path)


def _archive(path: Path) -> dict[str, np.ndarray]:
    """Of an npz file what :func:`load_sinogram` knows."""
    held, _ = numpy_arrays(path, ("sino", "theta_rad", "centre", "pitch_mm", "photons"))
    missing = [key for key in ("sino", "theta_rad") if key not in held]
    if missing:
        raise ValueError(f"holds no {' and no '.join(missing)}")
    if np.iscomplexobj(held["sino"]):
        raise ValueError("sino is complex")
    return held


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


def _unit(dataset: h5py.Dataset, otherwise: str) -> str:
    """The unit of a dataset, one word; other text is no unit."""
    text = text_of(read_attribute(dataset, "units")) if "units" in dataset.attrs else otherwise.encode()
    word = (text or b"").decode("utf-8", "replace").strip().lower()
    return word if len(word) <= 16 else ""


def _real(file: h5py.File, key: str, dtype: type = np.float32) -> np.ndarray:
    """A dataset of real numbers."""
    array = np.asarray(read_dataset(file, key))
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"{key} is {array.dtype} {array.shape}, not real numbers")
    return array.astype(dtype)


def _data_exchange(path: Path) -> dict[str, np.ndarray]:
    """Line integrals of counts, flats and darks; angles; pixel size, where it is told."""
    with open_hdf5(path) as file:
        missing = [f"exchange/{key}" for key in ("data", "data_white", "theta") if f"exchange/{key}" not in file]
        if missing:
            raise ValueError(f"holds no {' and no '.join(missing)}")
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
            raise ValueError(f"flats of {white.shape} do not fit data of {counts.shape[1:]} (slices, detectors)")
        if not (open_beam > 0).all():
            raise ValueError(
                f"{int((open_beam <= 0).sum())} detector pixels see no more in the flats than in the darks"
            )
        # A pixel without a count: as if it had counted half of the smallest step.
        share = np.maximum((counts - dark) / open_beam, 0.5 / open_beam)
        held: dict[str, np.ndarray] = {"sino": -np.log(share).swapaxes(0, 1).astype(np.float32), "theta_rad": angles}
        for name in ("x_pixel_size", "pixel_size_x", "actual_pixel_size_x", "pixel_size"):
            key = f"measurement/instrument/detector/{name}"
            if key in file:
                length = _LENGTHS.get(_unit(file[key], ""))
                if length is None:
                    raise ValueError(f"{key} is in {_unit(file[key], 'no unit')!r}; give the pitch in mm yourself")
                held["pitch_mm"] = float(_real(file, key, float).ravel()[0]) * length
                break
    return held
