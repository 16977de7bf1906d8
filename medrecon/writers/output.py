"""Where a reconstruction goes, checked before the long work and written after it, all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.data.errors import InputError
from medrecon.data.files import check_writable, write_atomically
from medrecon.writers.bids import bids_files, dataset_description
from medrecon.writers.earlier import earlier_files, owner
from medrecon.writers.registry import WRITERS, all_parts

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

    from medrecon.data.scan import Geometry, ImageScan
    from medrecon.posterior import Reconstruction

__all__ = ["Output", "check", "write"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Names and format of a reconstruction's files.

    Args:
        folder: made if it does not exist.
        stem: name of the files without suffix.
        format: a name in ``WRITERS``: ``nifti``, ``h5``, ``dicom`` (a derived series), ``mrd``, ``npz`` or ``png``.
        overwrite: replace existing files, and remove other unchanged files that the old sidecar lists, in whatever format.
        part: ``mag``, ``mag-phase`` (two files) or ``complex``.
        like: the series of :func:`medrecon.writers.like_series`; of DICOM, patient and study are copied from it.
        deidentify: of DICOM, copy from ``like`` only what the Basic profile of PS3.15 keeps.
        bids: entities and suffix, e.g. ``sub-01_acq-mprage_T1w``: names of BIDS derivatives instead of ``stem``.
        label: BIDS' ``rec-`` entity, where ``bids`` has none.
        request: SHA-256 of all that the images are made of, by which a later run finds that they are there already.
        sources: inputs, which are never replaced; the first one is named in errors. Files of ``like`` are inputs as well.

    Raises:
        InputError: for an unknown format or part, or a format that cannot take what is asked for.
    """

    folder: str | Path
    stem: str
    format: str = "nifti"
    overwrite: bool = False
    part: str = "mag"
    like: ImageScan | None = None
    deidentify: bool = False
    bids: str | None = None
    label: str = "medrecon"
    request: str | None = None
    sources: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        if self.format not in WRITERS:
            raise InputError(f"unknown output format {self.format!r}; choose one of {', '.join(WRITERS)}")
        writer = WRITERS[self.format]
        if self.part not in all_parts():
            raise InputError(f"unknown part {self.part!r}; choose one of {', '.join(all_parts())}")
        if self.part not in writer.parts:
            others = " or ".join(name for name, other in WRITERS.items() if self.part in other.parts)
            raise InputError(f"{writer.title} files cannot hold part {self.part}; choose {others} for it")
        if self.deidentify and not writer.takes_like:
            raise InputError(
                "--deidentify is for --format dicom, since other formats hold nothing of the patient; leave it out"
            )
        if self.bids is not None and not writer.takes_bids:
            raise InputError(
                f"BIDS names go with NIfTI; leave the BIDS name (--bids) out, or choose nifti instead of {self.format}"
            )

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """Data sets of ``like``."""
        return () if self.like is None else self.like.headers

    @property
    def name(self) -> str:
        """The input's name in errors."""
        return str(self.sources[0]) if self.sources else self.stem


def check(
    output: Output, *, slices: int, samples: bool, geometry: Geometry, phase: bool = True, frames: bool = False
) -> list[Path]:
    """Find what prevents the output before the long work. Makes nothing.

    Args:
        output: what is asked for.
        slices: number of slices that are going to be written.
        samples: whether there are going to be several samples.
        geometry: of these slices, see :func:`medrecon.writers.place`.
        phase: whether the image is complex.
        frames: whether there are frames of every slice.

    Returns:
        the files that :func:`write` makes, image first, sidecar last.

    Raises:
        InputError: if the format needs what is not known, or a file exists (without ``overwrite``), cannot be written, is an
            input, or belongs to the reconstruction of another name.
    """
    paths = _paths(output, slices, samples)
    _check_geometry(output, geometry)
    if frames and not WRITERS[output.format].takes_frames:
        names = " or ".join(name for name, writer in WRITERS.items() if writer.takes_frames)
        raise InputError(f"{output.name}: {WRITERS[output.format].title} files hold no frames here; choose {names}")
    if output.part != "mag" and not phase:
        raise InputError(f"the phase of {output.stem} is not known; leave part at mag")
    _check_inputs(output, paths)
    check_writable(paths, output.overwrite, Path(output.folder))
    return paths


def write(reconstruction: Reconstruction, output: Output) -> list[Path]:
    """Write a reconstruction and its sidecar, all or nothing; the sidecar appears last and holds the images' SHA-256.

    The sidecar is the reconstruction's record; of ``input``, in ``warnings`` too, only the file's name is kept, since folders
    may name patients.

    Returns:
        the paths, image first, sidecar last.

    Raises:
        InputError: see :func:`check`.
    """
    folder, geometry = Path(output.folder), reconstruction.geometry
    samples, phase = reconstruction.samples is not None, reconstruction.phase is not None
    held = {"slices": reconstruction.image.shape[-3], "frames": reconstruction.image.ndim == 4}
    paths = check(output, samples=samples, geometry=geometry, phase=phase, **held)
    files, facts = WRITERS[output.format].contents(reconstruction, output)
    names = [path.relative_to(folder).as_posix() for path in paths[:-1]]
    sidecar = {
        **_without_folders(reconstruction.record),
        "files": names,
        "affine_known": geometry.affine is not None,
        "affine": _plain(geometry.affine),
        **facts,
        **({} if output.request is None else {"request_sha256": output.request}),
        "sha256": {name: hashlib.sha256(one).hexdigest() for name, one in zip(names, files, strict=True)},
    }
    contents = [*files, (json.dumps(sidecar, indent=2) + "\n").encode()]
    shared = {} if output.bids is None else {folder / "dataset_description.json": dataset_description()}
    leftovers = (lambda: earlier_files(output, paths)) if output.overwrite else None
    write_atomically(dict(zip(paths, contents, strict=True)), output.overwrite, folder, shared, leftovers)
    return paths


def _paths(output: Output, slices: int, samples: bool) -> list[Path]:
    """Images first, sidecar last."""
    if output.bids is not None:
        names = bids_files(output.bids, output.label, samples, output.part)
    else:
        writer = WRITERS[output.format]
        names = writer.names(output.stem, slices=slices, samples=samples, part=output.part)
        names = [*names, f"{output.stem}.json"]
    return [Path(output.folder) / name for name in names]


def _check_geometry(output: Output, geometry: Geometry) -> None:
    writer = WRITERS[output.format]
    if writer.needs_position and geometry.affine is None:
        raise InputError(
            f"{output.name}: does not record the position of its slices, which {writer.title} needs; give --like with a series "
            "of the same slices and matrix that has positions, or write NIfTI"
        )
    if writer.needs_spacing and geometry.spacing is None:
        raise InputError(
            f"{output.name}: does not record the voxel size, which {writer.title} images need; write NIfTI"
        )


def _check_inputs(output: Output, paths: Sequence[Path]) -> None:
    """Refuse to replace inputs, or files of the reconstruction of another name."""
    files = [*output.sources, *(header.filename for header in output.headers)]
    inputs = [path for path in map(Path, files) if path.exists()]
    for path in paths:
        if path.exists() and any(path.samefile(source) for source in inputs):
            raise InputError(f"{path}: would replace its own input; choose another output folder")
        other = owner(output, path) if output.bids is None and os.path.lexists(path) else None
        if other is not None:
            raise InputError(f"{path}: belongs to {other.name}; choose another output folder")


def _without_folders(record: Any) -> dict[str, Any]:  # noqa: ANN401
    """The record with the name of its ``input`` instead of the path."""
    record = dict(record)
    if record.get("input"):
        path, name = str(record["input"]), Path(str(record["input"])).name
        if "warnings" in record:
            record["warnings"] = [text.replace(path, name) for text in record["warnings"]]
        record["input"] = name
    return record


def _plain(affine: np.ndarray | None) -> list[list[float]] | None:
    return None if affine is None else [[float(value) for value in row] for row in affine]
