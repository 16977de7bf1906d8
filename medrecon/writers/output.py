"""Output files of a reconstruction: checked before the computation, written atomically after it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.data.errors import InputError
from medrecon.data.files import check_writable, write_atomically
from medrecon.writers.base import maps_of, unit_of_map
from medrecon.writers.bids import bids_files, dataset_description
from medrecon.writers.earlier import earlier_files, other_sidecar
from medrecon.writers.registry import WRITERS, all_parts

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

    from medrecon.data.scan import Geometry, ImageScan
    from medrecon.posterior import Reconstruction

__all__ = ["Output", "check", "write"]


def _names(attribute: str) -> str:
    """Names of the formats for which an attribute of :class:`Writer` is true."""
    return " or ".join(name for name, writer in WRITERS.items() if getattr(writer, attribute))


@dataclass(frozen=True, kw_only=True)
class Output:
    """Names and format of a reconstruction's files.

    Args:
        folder: output folder, created if needed.
        stem: file name without suffix.
        format: a name in ``WRITERS``: ``nifti``, ``h5``, ``dicom`` (a derived series), ``mrd``, ``npz`` or ``png``.
        overwrite: whether to replace existing files, and to remove other unchanged files that the old sidecar lists.
        part: ``mag``, ``mag-phase`` (two files) or ``complex``.
        like: series from :func:`medrecon.writers.like_series`; patient and study of DICOM outputs are copied from it.
        deidentify: whether to copy from ``like`` only what the Basic profile of PS3.15 keeps.
        bids: entities and suffix of a BIDS name, e.g. ``sub-01_acq-mprage_T1w``; replaces ``stem``.
        label: label of BIDS' ``rec-`` entity, if ``bids`` has none.
        request: SHA-256 of options and inputs, so that a later run can skip finished images.
        report: whether a page, ``<stem>.html``, belongs to the files.
        sources: input files, which are never replaced; errors name the first one. Files of ``like`` are inputs as well.

    Raises:
        InputError: for an unknown format or part, or an option that the format does not support.
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
    report: bool = False
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
                f"--deidentify is for --format {_names('takes_like')}, since other formats hold nothing of the patient; "
                "leave it out"
            )
        if self.bids is not None and not writer.takes_bids:
            raise InputError(
                f"BIDS names are for --format {_names('takes_bids')}, not {self.format}; change the format, or leave the BIDS "
                "name (--bids) out"
            )

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """DICOM data sets of ``like``."""
        return () if self.like is None else self.like.headers

    @property
    def name(self) -> str:
        """Name of the input in errors."""
        return str(self.sources[0]) if self.sources else self.stem


def check(
    output: Output,
    *,
    slices: int,
    samples: bool,
    geometry: Geometry,
    phase: bool = True,
    frames: bool = False,
    maps: Sequence[str] = (),
) -> list[Path]:
    """Check, before the computation, that an output can be written; creates nothing.

    Args:
        output: requested output.
        slices: number of slices.
        samples: whether there are several samples.
        geometry: geometry of these slices, see :func:`medrecon.writers.output_geometry`.
        phase: whether the image is complex.
        frames: whether every slice has frames.
        maps: names of the maps of several samples, see :attr:`medrecon.reconstruction.Plan.maps`.

    Returns:
        paths of the files that :func:`write` writes: image first, sidecar last.

    Raises:
        InputError: if the format needs a geometry that is unknown, or a file exists (without ``overwrite``), cannot be written,
            is an input, or belongs to a reconstruction with another name.
    """
    paths = _paths(output, slices=slices, samples=samples, maps=maps)
    _check_geometry(output, geometry)
    if frames and not WRITERS[output.format].takes_frames:
        title = WRITERS[output.format].title
        raise InputError(f"{output.name}: {title} files cannot hold frames; choose {_names('takes_frames')}")
    if output.part != "mag" and not phase:
        raise InputError(f"the phase of {output.stem} is unknown; use part mag")
    _check_inputs(output, paths)
    check_writable(paths, output.overwrite, Path(output.folder))
    return paths


def write(
    reconstruction: Reconstruction, output: Output, page: Callable[[Mapping[str, Any]], bytes] | None = None
) -> list[Path]:
    """Write a reconstruction and its sidecar atomically; the sidecar is written last and holds the images' SHA-256.

    The sidecar is the reconstruction's record. In ``input`` and ``warnings``, paths are replaced by file names, since names of
    folders may be names of patients.

    Args:
        reconstruction: result of the run.
        output: requested output.
        page: makes the page of the report from the sidecar, in which only the page's own checksum is missing; required by
            ``report``.

    Returns:
        the paths: image first, sidecar last.

    Raises:
        InputError: see :func:`check`.
    """
    folder, geometry = Path(output.folder), reconstruction.geometry
    samples, phase = reconstruction.samples is not None, reconstruction.phase is not None
    slices, frames = reconstruction.image.shape[-3], reconstruction.image.ndim == 4
    maps = tuple(maps_of(reconstruction))
    paths = check(output, slices=slices, samples=samples, geometry=geometry, phase=phase, frames=frames, maps=maps)
    files, facts, places = WRITERS[output.format].contents(reconstruction, output)
    files = list(files)
    names = [path.relative_to(folder).as_posix() for path in paths[:-1]]
    sidecar = {
        **_without_folders(reconstruction.record),
        "files": names,
        "affine_known": geometry.affine is not None,
        "affine": _plain(geometry.affine),
        **facts,
        **_maps_entry(places, names, reconstruction.modality),
        **({} if output.request is None else {"request_sha256": output.request}),
        "sha256": {name: hashlib.sha256(one).hexdigest() for name, one in zip(names, files, strict=not output.report)},
    }
    if output.report:
        if page is None:
            raise ValueError("an output with a report needs its page")
        files.append(page(sidecar))
        sidecar["sha256"][names[-1]] = hashlib.sha256(files[-1]).hexdigest()
    contents = [*files, (json.dumps(sidecar, indent=2) + "\n").encode()]
    shared = {} if output.bids is None else {folder / "dataset_description.json": dataset_description()}
    leftovers = (lambda: earlier_files(output, paths)) if output.overwrite else None
    write_atomically(
        dict(zip(paths, contents, strict=True)), output.overwrite, home=folder, shared=shared, leftovers=leftovers
    )
    return paths


def _maps_entry(places: Mapping[str, Sequence[int]], names: Sequence[str], modality: str) -> dict[str, Any]:
    """Entry ``maps`` of the sidecar: files, description and unit of every map; nothing without maps."""
    if not places:
        return {}
    from medrecon.uncertainty import MAPS

    entry = {
        name: {"files": [names[k] for k in at], "description": MAPS[name], "unit": unit_of_map(name, modality)}
        for name, at in places.items()
    }
    return {"maps": entry}


def _paths(output: Output, *, slices: int, samples: bool, maps: Sequence[str]) -> list[Path]:
    """Paths of all files: images first, sidecar last."""
    if output.bids is not None:
        names = bids_files(output.bids, output.label, samples=samples, part=output.part, maps=maps)
    else:
        writer = WRITERS[output.format]
        names = writer.names(output.stem, slices=slices, samples=samples, part=output.part, maps=maps)
        names = [*names, f"{output.stem}.json"]
    if output.report:
        names.insert(-1, f"{names[-1].removesuffix('.json')}.html")
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
    """Refuse to replace inputs, and files of a reconstruction with another name."""
    files = [*output.sources, *(header.filename for header in output.headers)]
    inputs = [path for path in map(Path, files) if path.exists()]
    for path in paths:
        if path.exists() and any(path.samefile(source) for source in inputs):
            raise InputError(f"{path}: would replace its own input; choose another output folder")
        other = other_sidecar(output, path) if output.bids is None and os.path.lexists(path) else None
        if other is not None:
            raise InputError(f"{path}: belongs to {other.name}; choose another output folder")


def _without_folders(record: Any) -> dict[str, Any]:  # noqa: ANN401
    """The record with the file name of ``input`` instead of its path."""
    record = dict(record)
    if record.get("input"):
        path, name = str(record["input"]), Path(str(record["input"])).name
        if "warnings" in record:
            record["warnings"] = [text.replace(path, name) for text in record["warnings"]]
        record["input"] = name
    return record


def _plain(affine: np.ndarray | None) -> list[list[float]] | None:
    return None if affine is None else [[float(value) for value in row] for row in affine]
