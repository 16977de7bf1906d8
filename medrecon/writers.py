"""Reconstructions to files: NIfTI and HDF5, each with a JSON sidecar of provenance; never resampled, never flipped."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.files import write_whole

__all__ = ["FORMATS", "hdf5_bytes", "nifti_bytes", "output_paths", "write_reconstruction"]

FORMATS = ("nifti", "h5")


def nifti_bytes(
    volume: np.ndarray, spacing: tuple[float, float, float] | None, affine: np.ndarray | None = None
) -> bytes:
    """A gzipped NIfTI-1 image of ``(slices, y, x)`` or ``(n, slices, y, x)``, stored as x, y, slices(, n).

    Args:
        volume: float32.
        spacing: voxel size ``(z, y, x)`` in mm, 1 for ``None``.
        affine: RAS affine of the stored axes; without one, the codes of qform and sform say "unknown", since most raw formats
            do not tell the orientation.
    """
    z, y, x = spacing or (1.0, 1.0, 1.0)
    data = np.asarray(volume, dtype=np.float32).transpose(*range(volume.ndim)[::-1][:3], *range(volume.ndim - 3))
    image = nib.Nifti1Image(data, np.diag([x, y, z, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    code = 0 if affine is None else 1
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    return gzip.compress(image.to_bytes(), mtime=0)


def hdf5_bytes(volume: np.ndarray, samples: np.ndarray | None) -> bytes:
    """An HDF5 file with ``reconstruction`` ``(slices, y, x)`` and, if given, ``samples`` ``(n, slices, y, x)``, float32."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["reconstruction"] = np.asarray(volume, dtype=np.float32)
        if samples is not None:
            file["samples"] = np.asarray(samples, dtype=np.float32)
    return buffer.getvalue()


def output_paths(
    folder: str | Path, stem: str, fmt: str, samples: bool, sources: Iterable[str | Path] = ()
) -> list[Path]:
    """The files that :func:`write_reconstruction` makes, image first, sidecar last.

    Raises:
        InputError: for an unknown format, or if one of the files is one of ``sources``.
    """
    if fmt not in FORMATS:
        raise InputError(f"unknown output format {fmt!r}; choose one of {', '.join(FORMATS)}")
    folder = Path(folder)
    names = [f"{stem}.h5"] if fmt == "h5" else [f"{stem}.nii.gz"] + [f"{stem}_samples.nii.gz"] * samples
    paths = [folder / name for name in (*names, f"{stem}.json")]
    inputs = [source for source in map(Path, sources) if source.exists()]
    for path in paths:
        if path.exists() and any(path.samefile(source) for source in inputs):
            raise InputError(f"{path}: would replace its own input; choose another output folder")
    return paths


def write_reconstruction(
    folder: str | Path,
    stem: str,
    volume: np.ndarray,
    record: Mapping,
    samples: np.ndarray | None = None,
    spacing: tuple[float, float, float] | None = None,
    fmt: str = "nifti",
    overwrite: bool = False,
    affine: np.ndarray | None = None,
) -> list[Path]:
    """Write a reconstruction and its sidecar, all or nothing.

    Args:
        folder: made if it is not there.
        stem: name of the files without suffix.
        volume: magnitude ``(slices, y, x)``.
        record: provenance, JSON-able.
        samples: ``(n, slices, y, x)`` magnitudes, if there are several.
        spacing: voxel size ``(z, y, x)`` in mm.
        fmt: ``nifti`` or ``h5``.
        overwrite: replace existing files.
        affine: from the indices (x, y, slice) to mm in RAS, where it is known; the sidecar repeats it.

    Returns:
        the paths, image first, sidecar last.

    Raises:
        InputError: if a file exists or cannot be written.
    """
    paths = output_paths(folder, stem, fmt, samples is not None)
    record = {
        **record,
        "affine_known": affine is not None,
        "affine": None if affine is None else np.asarray(affine).tolist(),
    }
    if fmt == "h5":
        contents = [hdf5_bytes(volume, samples)]
    else:
        contents = [nifti_bytes(v, spacing, affine) for v in (volume, samples) if v is not None]
    contents.append((json.dumps(record, indent=2) + "\n").encode())
    write_whole(dict(zip(paths, contents, strict=True)), overwrite)
    if overwrite and fmt == "nifti" and samples is None:  # of an earlier run, which the new sidecar would contradict
        (Path(folder) / f"{stem}_samples.nii.gz").unlink(missing_ok=True)
    return paths
