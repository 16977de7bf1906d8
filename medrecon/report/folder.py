"""Pages of reconstructions that were written earlier, from their files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, SelectionError, one_line, warn
from medrecon.data.files import read_sidecar, sidecar_mismatch, write_atomically
from medrecon.data.scan import Geometry
from medrecon.formats import Companions, load, load_array, load_image
from medrecon.problems import PROBLEMS, Problem, problem
from medrecon.report.case import Case
from medrecon.report.command import command
from medrecon.report.gather import (
    case_of_images,
    entry_of_scores,
    find_beside,
    reference_of,
    with_problem,
    with_reference,
)
from medrecon.report.page import page
from medrecon.settings import PriorSettings, SamplingSettings, given_maps, option_names
from medrecon.uncertainty import MAPS
from medrecon.volumes import load_volume

__all__ = ["case_of_files", "problem_of_record", "sidecars_in", "write_page"]

_ARRAYS = (".h5", ".npz")


def _record(path: Path) -> dict[str, Any] | None:
    """Content of a sidecar that names its solver; ``None`` for any other file."""
    record = read_sidecar(path)
    return record if record is not None and isinstance(record.get("solver"), dict) else None


def sidecars_in(folder: Path) -> list[Path]:
    """Sidecars in a folder and its subfolders, in the order of their names.

    Raises:
        InputError: if there is no such folder, or no sidecar in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of images that 'medrecon recon' wrote")
    found = [path for path in sorted(folder.rglob("*.json")) if _record(path) is not None]
    if not found:
        raise InputError(f"{folder}: has no image with a sidecar; give a folder of images that 'medrecon recon' wrote")
    return found


def _listed(sidecar: Path, record: Mapping[str, Any]) -> list[Path]:
    """Files that a sidecar lists, below its folder; for BIDS names the folder of the data set."""
    names = [name for name in record["files"] if isinstance(name, str)]
    home = sidecar.parent
    for folder in (home, *home.parents):
        if names and (folder / names[0]).exists():
            home = folder
            break
    paths = [home / name for name in names]
    # Whatever folder the names are relative to, a sidecar lies beside its files, or beside their folder.
    outside = [path for path in paths if not path.resolve().is_relative_to(sidecar.parent.resolve())]
    if not paths or outside:
        raise InputError(f"{sidecar}: lists files outside its folder; reconstruct again")
    missing = next((path for path in paths if not path.exists() and path.suffix != ".html"), None)
    if missing is not None:
        raise InputError(f"{missing}: is missing; reconstruct again")
    return paths


def _is_changed(image: Path, sidecar: Path) -> str | None:
    return sidecar_mismatch(image, sidecar) if image.is_file() else None


def _volumes(path: Path, n: int) -> np.ndarray:
    """Volumes of a file with four axes, such as samples or frames, ``(n, slices, y, x)``."""
    arrays = (load_image(path, {"volume": k}).array for k in range(n))
    return np.stack([(np.abs(one) if np.iscomplexobj(one) else one).astype(np.float32) for one in arrays])


def _image(path: Path, record: Mapping[str, Any]) -> tuple[np.ndarray, Geometry]:
    """The image and its geometry."""
    affine = _affine(record)
    if "frames" in record:
        n = int(record["frames"])
        array = (
            _volumes(path, n) if path.suffix == ".gz" else np.asarray(load_array(path, "reconstruction"), np.float32)
        )
        return array, Geometry(_spacing(record, affine), affine)
    volume = load_volume(path if path.suffix != ".dcm" else path.parent)
    affine = volume.affine if affine is None else affine
    return volume.array, Geometry(_spacing(record, affine), affine)


def _affine(record: Mapping[str, Any]) -> np.ndarray | None:
    try:
        affine = np.array(record["affine"], float)
    except (KeyError, TypeError, ValueError):
        return None
    return affine if affine.shape == (4, 4) and np.isfinite(affine).all() else None


def _spacing(record: Mapping[str, Any], affine: np.ndarray | None) -> tuple[float, float, float] | None:
    """Voxel size ``(z, y, x)``; of CT without a position that of the record, for slices of any thickness."""
    if affine is not None:
        x, y, z = (float(one) for one in np.linalg.norm(affine[:3, :3], axis=0))
        return z, y, x
    voxel = record.get("spacing_mm")
    if not isinstance(voxel, int | float):
        return None
    return float(voxel) if record.get("beam") == "cone" else 1.0, float(voxel), float(voxel)


def _map(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """A map, or the samples, of a file; ``None`` if it has another shape, or cannot be read."""
    try:
        if path.suffix in _ARRAYS:
            array = np.asarray(load_array(path, name))
        elif len(shape) == 4:
            array = _volumes(path, shape[0])
        else:
            array = load_image(path).array
    except (InputError, SelectionError, OSError) as error:
        warn(f"{path}: the report lacks {name}; {error}")
        return None
    return np.asarray(array, np.float32) if array.shape == shape else None


def _maps(files: Mapping[str, Path], record: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The maps that a sidecar lists."""
    entries = record.get("maps")
    found = {}
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        names = entry.get("files") if isinstance(entry, Mapping) else None
        if name in MAPS and isinstance(names, list) and len(names) == 1 and names[0] in files:
            array = _map(files[names[0]], name, shape)
            if array is not None:
                found[name] = array
    return found


def case_of_files(sidecar: Path) -> Case:
    """The case of an image and its sidecar, with its maps and samples.

    Raises:
        InputError: if the image cannot be read, or if it, its maps or its samples have changed.
    """
    record = _record(sidecar)
    if record is None:
        raise InputError(f"{sidecar}: is not a sidecar of medrecon; reconstruct again")
    paths = [path for path in _listed(sidecar, record) if path.suffix != ".html"]
    changed = next((text for path in paths if (text := _is_changed(path, sidecar)) is not None), None)
    if changed is not None:
        raise InputError(changed)
    image, geometry = _image(paths[0], record)
    files = dict(zip([str(name) for name in record["files"]], paths, strict=False))
    samples, n = None, record.get("samples", 1)
    # Samples are the last file, or an array of the only one.
    holder = paths[-1] if paths[-1].suffix in _ARRAYS or "samples" in paths[-1].name else None
    if holder is not None and isinstance(n, int) and n > 1 and (image.ndim == 3 or holder.suffix in _ARRAYS):
        samples = _map(holder, "samples", (n, *image.shape))
    return case_of_images(
        sidecar.stem, record, image=image, samples=samples, maps=_maps(files, record, image.shape), geometry=geometry
    )


def _slice(text: str) -> slice:
    return slice(*(int(part) if part else None for part in str(text).split(":")))


def problem_of_record(record: Mapping[str, Any], scan: Path) -> Problem:
    """The problem of a scan with the options that a sidecar records.

    Raises:
        InputError: if the scan cannot be read, is another one, or files that the options name are not beside it.
    """
    options = dict(record.get("options") or {})
    given = {}
    for name in option_names(Companions):
        value = options.pop(name, None)
        given[name] = _file(scan, value) if name in ("trajectory", "phase", "imaginary") and value else value
    if isinstance(given.get("matrix"), str):
        given["matrix"] = [int(one) for one in given["matrix"].split(",")]
    loaded = load(scan, options.get("select") or {}, companions=Companions(**given), frames=record.get("frame_axis"))
    kind = PROBLEMS[type(loaded)].physics
    skipped = {*option_names(PriorSettings), *option_names(SamplingSettings)}
    physics = {name: value for name, value in options.items() if name in option_names(kind) and name not in skipped}
    if "slices" in physics:
        physics["slices"] = _slice(physics["slices"])
    for name in ("maps", "mask", "shots"):
        if given_maps(physics.get(name)) is not None:
            physics[name] = _file(scan, physics[name])
    return problem(loaded, kind(**physics))


def _file(scan: Path, name: str) -> Path:
    """A file beside the scan."""
    path = scan.parent / Path(str(name)).name
    if not path.exists():
        raise InputError(f"{path}: no such file, but the scan was reconstructed with it; put it beside the scan")
    return path


def write_page(
    sidecar: Path, scan: str | Path | None = None, reference: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write the page of an image beside its sidecar, and list it there.

    Args:
        sidecar: sidecar of the image.
        scan: file of the scan, or folder with it; ``None``: the page shows no data.
        reference: file of the reference, or folder with a file of the scan's name; ``None``: there is none.
        overwrite: whether to replace a file of the page's name that the sidecar does not list.

    Raises:
        InputError: if the image, the scan or the reference cannot be used, or another file has the page's name.
    """
    try:
        case, relative = _complete_case(sidecar, scan, reference), _name_in_list(sidecar)
        record, target = dict(case.record), sidecar.with_suffix(".html")
        if target.exists() and relative not in record["files"] and not overwrite:
            raise InputError(f"{target}: exists and is not a page of this image; pass --overwrite to replace it")
        # The page cannot contain its own checksum; it is the last of the files.
        digests = {key: value for key, value in (record.get("sha256") or {}).items() if key != relative}
        files = [*(one for one in record["files"] if one != relative), relative]
        shown = {**record, **entry_of_scores(case.metrics.get("image", {})), "files": files, "sha256": digests}
        content = page(replace(case, record=shown, command=command(shown)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{sidecar}: has entries that medrecon does not write ({one_line(error)}); reconstruct again"
        ) from error
    shown["sha256"] = {**digests, relative: hashlib.sha256(content).hexdigest()}
    write_atomically(
        {target: content, sidecar: (json.dumps(shown, indent=2) + "\n").encode()}, True, home=sidecar.parent
    )
    return target


def _complete_case(sidecar: Path, scan: str | Path | None, reference: str | Path | None) -> Case:
    """The case of an image, with the data of its scan and a reference where they are given."""
    case = case_of_files(sidecar)
    name = str(case.record.get("input") or "")
    if scan is not None:
        path = find_beside(Path(scan), name)
        found = problem_of_record(case.record, path)
        _check_scan(path, found, case)
        case = with_problem(case, found)
    if reference is None:
        return case
    volume = reference_of(
        find_beside(Path(reference), name),
        case.image.shape,
        geometry=case.geometry,
        numbers=case.record.get("slices") or [],
        is_ct=case.modality == "CT",
    )
    return with_reference(case, volume)


def _check_scan(path: Path, found: Problem, case: Case) -> None:
    """Refuse a scan of another matrix, acceleration or noise than that of an image, so that no page shows the data of another.

    Noise is estimated from the data in the same way, so that another scan has another level unless ``--noise-std`` was given.

    Raises:
        InputError: naming the scan, and what differs.
    """
    here, there = found.image_shape[-2:], case.image.shape[-2:]
    texts = [] if here == there else [f"matrix {here} instead of {there}"]
    facts = found.facts()
    for name, title in (("acceleration", "acceleration"), ("noise_std", "noise")):
        one, other = (_number(source.get(name)) for source in (facts, case.record))
        if one is not None and other is not None and not math.isclose(one, other, rel_tol=0.01):
            texts.append(f"{title} {one:.4g} instead of {other:.4g}")
    if texts:
        raise InputError(
            f"{path}: is not the scan of {case.name} ({', '.join(texts)}); give the file that was reconstructed"
        )


def _number(value: object) -> float | None:
    """A number, or the first of several: of the first slice."""
    value = value[0] if isinstance(value, list) and value else value
    return float(value) if isinstance(value, int | float) else None


def _name_in_list(sidecar: Path) -> str:
    """Name of the page as the sidecar lists it: relative to the folder that the names of the images are relative to."""
    record = _record(sidecar) or {"files": [""]}
    first = str(record["files"][0])
    folder = "" if (sidecar.parent / first).exists() else first.rpartition("/")[0]
    return f"{folder}/{sidecar.stem}.html" if folder else f"{sidecar.stem}.html"
