"""Reconstructions to files, each with a JSON sidecar of provenance; never resampled, never flipped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.files import write_whole
from medrecon.writers.bids import bids_files, dataset_description
from medrecon.writers.earlier import earlier_files, owner
from medrecon.writers.formats import hdf5_bytes, mrd_bytes, nifti_bytes, png_bytes, with_signal

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "FORMATS",
    "PARTS",
    "hdf5_bytes",
    "mrd_bytes",
    "nifti_bytes",
    "output_paths",
    "png_bytes",
    "write_reconstruction",
]

FORMATS = ("nifti", "h5", "dicom", "mrd", "png")
PARTS = ("mag", "mag-phase", "complex")


def _names(stem: str, fmt: str, samples: bool, slices: int, part: str) -> list[str]:
    """Images first: the one to show, what else there is, then samples."""
    if fmt == "h5":
        return [f"{stem}.h5"]
    if fmt == "mrd":
        return [f"{stem}.mrd"]
    if fmt == "dicom":
        return [f"{stem}/{k + 1:04d}.dcm" for k in range(slices)] + [f"{stem}_spread.dcm"] * samples
    if fmt == "png":
        return [f"{stem}.png"] if slices == 1 else [f"{stem}_{k:03d}.png" for k in range(slices)]
    images = [f"{stem}.nii.gz"] if part != "mag-phase" else [f"{stem}_part-mag.nii.gz", f"{stem}_part-phase.nii.gz"]
    return images + [f"{stem}_samples.nii.gz"] * samples


def output_paths(
    folder: str | Path,
    stem: str,
    fmt: str,
    samples: bool,
    sources: Iterable[str | Path] = (),
    slices: int = 1,
    part: str = "mag",
    bids: str | None = None,
    label: str = "medrecon",
) -> list[Path]:
    """The files that :func:`write_reconstruction` makes, image first, sidecar last.

    Raises:
        InputError: for an unknown format, one that cannot hold what is asked for, or if a file is one of ``sources``, or
            of another name's reconstruction.
    """
    if fmt not in FORMATS:
        raise InputError(f"unknown output format {fmt!r}; choose one of {', '.join(FORMATS)}")
    if part not in PARTS:
        raise InputError(f"unknown part {part!r}; choose one of {', '.join(PARTS)}")
    if part != "mag" and fmt != "nifti" and (part, fmt) != ("complex", "mrd"):
        raise InputError(f"{fmt} files hold the magnitude alone here; choose nifti for {part}")
    folder = Path(folder)
    if bids is not None:
        if fmt != "nifti":
            raise InputError(
                f"BIDS names go with NIfTI; leave the BIDS name (--bids) out, or choose nifti instead of {fmt}"
            )
        paths = [folder / name for name in bids_files(bids, label, samples, part)]
    else:
        paths = [folder / name for name in (*_names(stem, fmt, samples, slices, part), f"{stem}.json")]
    inputs = [source for source in map(Path, sources) if source.exists()]
    for path in paths:
        if path.exists() and any(path.samefile(source) for source in inputs):
            raise InputError(f"{path}: would replace its own input; choose another output folder")
        other = owner(folder, stem, path) if bids is None and os.path.lexists(path) else None
        if other is not None:
            raise InputError(f"{path}: belongs to {other.name}; choose another output folder")
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
    phase: np.ndarray | None = None,
    part: str = "mag",
    like: Sequence[Dataset] = (),
    deidentify: bool = False,
    bids: str | None = None,
    label: str = "medrecon",
    modality: str = "MR",
) -> list[Path]:
    """Write a reconstruction and its sidecar, all or nothing; the sidecar appears last and holds the images' SHA-256.

    Args:
        folder: made if it is not there.
        stem: name of the files without suffix.
        volume: ``(slices, y, x)``, magnitudes or HU.
        record: provenance, JSON-able; of ``input``, in ``warnings`` too, only the file's name is kept, since folders may name
            patients.
        samples: ``(n, slices, y, x)`` of the same kind, if there are several.
        spacing: voxel size ``(z, y, x)`` in mm.
        fmt: ``nifti``, ``h5`` (as in fastMRI's files), ``dicom`` (a derived series), ``mrd`` or ``png`` (8 bits).
        overwrite: replace existing files, and remove what the old sidecar lists besides, in whatever format, if it is unchanged.
        affine: from the indices (x, y, slice) to mm in RAS, where it is known; the sidecar repeats it.
        phase: ``(slices, y, x)`` in rad, for the other parts.
        part: ``mag``, ``mag-phase`` (two files) or ``complex`` (NIfTI's complex64).
        like: of DICOM, the source series' data sets, see :func:`medrecon.writers.dicom.derived_series`.
        deidentify: of DICOM, take that from ``like`` only as the Basic profile of PS3.15 leaves it.
        bids: entities and suffix, e.g. ``sub-01_acq-mprage_T1w``: names of BIDS derivatives instead of ``stem``.
        label: BIDS' ``rec-`` entity.
        modality: of DICOM, ``MR`` or ``CT``.

    Returns:
        the paths, image first, sidecar last.

    Raises:
        InputError: if a file exists or cannot be written, or the format cannot hold what is asked for.
    """
    folder = Path(folder)
    paths = output_paths(folder, stem, fmt, samples is not None, (), len(volume), part, bids, label)
    record = {
        **record,
        "files": [path.relative_to(folder).as_posix() for path in paths[:-1]],
        "affine_known": affine is not None,
        "affine": None if affine is None else np.asarray(affine).tolist(),
    }
    if record.get("input"):
        name = Path(str(record["input"])).name
        if "warnings" in record:
            record["warnings"] = [text.replace(str(record["input"]), name) for text in record["warnings"]]
        record["input"] = name
    if part != "mag" and phase is None:
        raise InputError(f"the phase of {stem} is not known; leave part at mag")
    whole = volume * np.exp(1j * phase) if part == "complex" and phase is not None else volume
    if fmt == "h5":
        contents = [hdf5_bytes(volume, samples)]
    elif fmt == "mrd":
        contents = [mrd_bytes(whole, spacing, affine)]
    elif fmt == "png":
        low, high = (min(float(volume.min()), 0.0), float(np.percentile(with_signal(volume), 99.8)))
        record["window"] = [low, high]
        contents = [png_bytes(plane, low, high) for plane in volume]
    elif fmt == "dicom":
        from medrecon.writers.dicom import derived_series, spread_map

        series = derived_series(volume, affine, record, like, deidentify, stem, modality)
        contents = [one.content for one in series]
        if samples is not None:
            contents.append(spread_map(samples.std(axis=0, dtype=np.float64), series, record))
    else:
        images = [whole] if part != "mag-phase" else [volume, phase]
        contents = [nifti_bytes(v, spacing, affine) for v in (*images, samples) if v is not None]
    names = record["files"]
    record["sha256"] = {name: hashlib.sha256(one).hexdigest() for name, one in zip(names, contents, strict=True)}
    contents.append((json.dumps(record, indent=2) + "\n").encode())
    shared = {} if bids is None else {folder / "dataset_description.json": dataset_description()}

    def leftovers() -> dict[Path, str]:
        return earlier_files(folder, stem, paths, bids, label, PARTS)

    write_whole(dict(zip(paths, contents, strict=True)), overwrite, folder, shared, leftovers if overwrite else None)
    return paths
