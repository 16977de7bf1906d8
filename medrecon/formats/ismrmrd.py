"""ISMRMRD (MRD) raw data: acquisitions sorted onto a grid or along a trajectory, with their position in the patient.

Inati et al., "ISMRM raw data format: a proposed standard for MRI raw datasets", MRM 77 (2017).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import h5py
import numpy as np

from medrecon.data.errors import DAMAGE, InputError, redacted
from medrecon.data.names import natural_key
from medrecon.data.scan import CartesianScan, DynamicScan, NonCartesianScan
from medrecon.formats.acquisitions import (
    Acquisitions,
    flags_of,
    matching_calibration,
    refuse_multiband,
    scan_from_acquisitions,
    select_acquisitions,
)
from medrecon.formats.companions import Companions
from medrecon.formats.epi import Readout
from medrecon.formats.frames import check_axis, frames_of_acquisitions
from medrecon.formats.hdf5 import open_hdf5, read_dataset, read_table, text_of
from medrecon.formats.probe import is_hdf5, never_raises
from medrecon.formats.scrub import parse_header, scrub_header

__all__ = ["KINDS", "SUFFIXES", "acquisition_groups", "is_ismrmrd", "read", "read_frames", "sniff"]

SUFFIXES = (".h5", ".hdf5", ".mrd")
KINDS = (CartesianScan, NonCartesianScan)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 with a group that contains a header and acquisitions."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return is_ismrmrd(file)


def read(
    path: Path, select: Mapping[str, int | str] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan:
    """Read Cartesian k-space, or samples along a trajectory if the header's trajectory is not Cartesian.

    See :func:`medrecon.formats.acquisitions.on_grid` and :func:`medrecon.formats.acquisitions.along_trajectory`.

    Args:
        path: path of the file.
        select: contrast, phase, repetition, set or dataset (name of a group, or the number at its end), if there are several.
        companions: trajectory and matrix, if the file has none.

    Raises:
        InputError: if the file cannot be read, or something must be selected.
    """
    selection = dict(select or {})
    return scan_from_acquisitions(
        _acquisitions(path, selection), path, kind="ISMRMRD", select=selection, companions=companions or Companions()
    )


def read_frames(path: Path, select: Mapping[str, int | str] | None, axis: str) -> DynamicScan:
    """Read all frames along an axis: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: as :func:`read`, and for frames that differ in size or position.
    """
    selection = dict(select or {})
    check_axis(path, axis, selection)
    return frames_of_acquisitions(
        _acquisitions(path, selection, axis), path, kind="ISMRMRD", select=selection, axis=axis
    )


_NOISE, _CALIBRATION, _BOTH = (1 << bit for bit in (18, 19, 20))


PHASE_CORRECTION = 1 << 23


# Navigators, phase correction, feedback, dummies, surface coils, phase stabilisation.
_SERVICE = sum(1 << bit for bit in (22, 23, 25, 26, 27, 28, 29, 30))


def acquisition_groups(file: h5py.File) -> list[str]:
    """Names of all groups with a header and acquisitions, at any depth, in natural order."""
    names: set[str] = set()
    file.id.links.visit(lambda name: names.add(name.decode("utf-8", "surrogateescape")))
    groups = [name.removesuffix("/xml") for name in names if name.endswith("/xml")]
    found = [name for name in groups if f"{name}/data" in names and f"{name}/xml" in file and f"{name}/data" in file]
    if "xml" in file and "data" in file:
        found.append("/")
    return sorted(found, key=natural_key)


def is_ismrmrd(file: h5py.File) -> bool:
    """Whether an HDF5 file contains acquisitions."""
    return bool(acquisition_groups(file))


def _split_by_purpose(rows: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split acquisitions into imaging, calibration and noise."""
    flags, image = flags_of(rows["head"]), _is_image(rows["head"])
    noise_rows = rows[(flags & np.uint64(_NOISE)) > 0]
    service = (flags & np.uint64(_NOISE | _SERVICE)) > 0
    imaging = rows[image]
    if not len(imaging):
        raise InputError(
            f"{path}: holds only noise, calibration or navigator lines, not an image; give the file of the scan itself"
        )
    return imaging, rows[~service & ~image], noise_rows


def _siemens(header: Any) -> bool:  # noqa: ANN401 - of the generated schema
    """Whether an ISMRMRD header names Siemens as the vendor."""
    system = header.acquisitionSystemInformation
    return "siemens" in str(getattr(system, "systemVendor", None) or "").lower()


def _readout(encoding: Any, heads: np.ndarray, path: Path) -> Readout | None:  # noqa: ANN401 - of the generated schema
    """Readout gradient described by an ISMRMRD encoding, or ``None`` if samples do not lie on ramps.

    Names and units follow siemens_to_ismrmrd and Gadgetron.

    Raises:
        InputError: for ramp sampling with an incomplete description of the gradient.
    """
    description = encoding.trajectoryDescription
    if description is None or "epi" not in str(description.identifier).lower():
        return None
    parameters = {p.name: float(p.value) for p in (*description.userParameterLong, *description.userParameterDouble)}
    up, down, flat = (parameters.get(name, 0.0) for name in ("rampUpTime", "rampDownTime", "flatTopTime"))
    if max(up, down) <= 0:
        return None
    total = heads["number_of_samples"]
    missing = [name for name in ("acqDelayTime", "dwellTime") if name not in parameters]
    if missing or flat <= 0 or (total != parameters.get("numSamples", total[0])).any():
        reason = (
            f"lacks {', '.join(missing)}"
            if missing
            else "has no flat top"
            if flat <= 0
            else "does not match the number of samples"
        )
        raise InputError(
            f"{path}: lines were sampled during gradient ramps (EPI), but the header's description of the gradient {reason}; "
            "reconstruct it with the vendor's or another EPI pipeline, e.g. Gadgetron"
        )
    return Readout(
        ramp_up=up,
        flat_top=flat,
        ramp_down=down,
        delay=parameters["acqDelayTime"],
        dwell=parameters["dwellTime"],
    )


def _multiband(encoding: Any) -> int:  # noqa: ANN401 - of the generated schema
    """Number of slices excited at once."""
    parallel = encoding.parallelImaging
    return 1 if parallel is None or parallel.multiband is None else int(parallel.multiband.multiband_factor)


def _table(file: h5py.File, name: str) -> np.ndarray:
    """All acquisitions of a group."""
    data = cast(h5py.Group, file[name])["data"]
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"the acquisitions in {name} are not a table")
    return read_table(data)


def _heads(file: h5py.File, name: str) -> np.ndarray:
    """Headers of all acquisitions of a group."""
    return _table(file, name)["head"]


def _is_image(heads: np.ndarray) -> np.ndarray:
    """True for acquisitions that are neither service scans nor calibration only."""
    flags = flags_of(heads)
    only_calibration = ((flags & np.uint64(_CALIBRATION)) > 0) & ((flags & np.uint64(_BOTH)) == 0)
    return ((flags & np.uint64(_NOISE | _SERVICE)) == 0) & ~only_calibration


def _content(file: h5py.File, name: str) -> tuple[str, bool]:
    """Description of the content of a group, and whether it may contain an image."""
    try:
        heads = _heads(file, name)
        image, noise = _is_image(heads), (flags_of(heads) & np.uint64(_NOISE)) > 0
    except DAMAGE:
        return "damaged", True
    if image.any():
        coils = ", ".join(map(str, np.unique(heads["active_channels"][image])))
        return f"{image.sum()} lines of {coils} coils", True
    return "a noise scan" if noise.any() else "no lines of an image", False


def _contents(file: h5py.File, names: list[str]) -> str:
    """Content of all groups, e.g. "it holds dataset_1 (a noise scan), dataset_2 (256 lines of 12 coils)"."""
    content = ", ".join(f"{name} ({_content(file, name)[0]})" for name in names)
    return f"it holds {content or 'no acquisitions'}"


def _select_group(file: h5py.File, dataset: int | str | None, path: Path) -> tuple[str, list[str]]:
    """Name of the group to read, and names of all groups with acquisitions.

    ``dataset`` is the name of a group or the number at its end. Without it, the only group is read, or the only one with lines
    of an image.

    Raises:
        InputError: if there is no such group, or one must be selected.
    """
    names = acquisition_groups(file)
    if dataset == "":
        raise InputError(f"{path}: dataset= needs a name; {_contents(file, names)}")
    if dataset is not None:
        matches = [name for name in names if name.strip("/") == str(dataset).strip("/")]
        if not matches and re.fullmatch("[0-9]+", str(dataset)):
            matches = [name for name in names if re.search(rf"(^|\D){dataset}$", name)]
        if len(matches) != 1:
            problem = f"several datasets end in {dataset}" if matches else f"there is no dataset {dataset}"
            raise InputError(f"{path}: {problem}; {_contents(file, names)}; give the name of one")
        return matches[0], names
    images = [name for name in names if _content(file, name)[1]] if len(names) > 1 else names
    if len(images) > 1:
        raise InputError(
            f"{path}: holds several datasets; {_contents(file, names)}; select one, e.g. dataset={images[0]}"
        )
    if not names:
        raise InputError(f"{path}: holds no acquisitions; convert it again")
    return (images or names)[0], names


def _labels(xml: bytes) -> list[str]:
    """Coil names in the header, in order."""
    return [label.text or "" for label in parse_header(xml).iterfind(".//{*}coilLabel/{*}coilName")]


def _xml(file: h5py.File, name: str) -> bytes:
    xml = text_of(read_dataset(cast(h5py.Group, file[name]), "xml"))
    if xml is None:
        raise ValueError(f"the header of {name} is not a single text")
    return xml


def _noise_from_other_group(file: h5py.File, name: str, names: list[str], coils: int) -> tuple[np.ndarray | None, str]:
    """Noise scan of the nearest group before ``name``, or otherwise after it, and a note for the attributes.

    It must have the same number of coils, and the same coil names if both headers list all of them.
    """
    at, note, coil_names = names.index(name), "", _labels(_xml(file, name))
    for group in [*names[:at][::-1], *names[at + 1 :]]:
        try:
            heads, labels = _heads(file, group), _labels(_xml(file, group))
            noise = (flags_of(heads) & np.uint64(_NOISE)) > 0
            rows = _table(file, group)[noise] if noise.any() else None
        except (*DAMAGE, ElementTree.ParseError):
            note = note or f"of {group} not used: it is damaged"
            continue
        if rows is None:
            continue
        if (heads["active_channels"][noise] != coils).any():
            note = note or f"of {group} not used: it has other coils"
        elif len(coil_names) == len(labels) == coils and coil_names != labels:
            note = note or f"of {group} not used: its coils have other names or another order"
        else:
            return rows, f"of {group}"
    return None, note


def _centres(
    limits: Any,  # noqa: ANN401 - of the generated schema
    heads: np.ndarray,
    shape: tuple[int, int, int],
    siemens: bool,
    path: Path,
) -> tuple[tuple[int, int], dict[str, str], tuple[str, ...]]:
    """Counters of the two phase encodings at the centre of k-space, notes on decisions, and warnings.

    The header has them in its encoding limits. siemens_to_ismrmrd always writes half the number of lines there, even with partial
    Fourier, and the centre recorded by the scanner to the counters ``user[5]`` (line) and ``user[6]`` (partition) of every
    acquisition. These counters are used if they are present, the same in all lines, and fit the matrix.
    """
    centres, notes, warnings = [], {}, []
    for axis, what in ((1, "line"), (2, "partition")):
        n, steps = shape[axis], heads["idx"][f"kspace_encode_step_{axis}"].astype(int)
        limit = getattr(limits, f"kspace_encoding_step_{axis}", None)
        centre = n // 2 if limit is None else int(limit.center)
        counters = np.unique(heads["idx"]["user"][:, 4 + axis]) if siemens and n > 1 else np.zeros(1, int)
        recorded = int(counters[0])
        if len(counters) > 1:
            several = ", ".join(map(str, counters[:5]))
            warnings.append(
                f"{path}: its acquisitions record several centres of k-space ({what}s {several}); {what} {centre} of the header "
                "is used"
            )
        elif recorded not in (0, centre):
            if steps.min() - recorded + n // 2 >= 0 and steps.max() - recorded + n // 2 < n:
                notes[f"centre {what}"] = f"{recorded}, by the acquisitions; the header has {centre}"
                centre = recorded
            else:
                warnings.append(
                    f"{path}: its acquisitions record {what} {recorded} as the centre of k-space, which does not fit the matrix; "
                    f"{what} {centre} of the header is used"
                )
        centres.append(centre)
    return (centres[0], centres[1]), notes, tuple(warnings)


def _is_whole(heads: np.ndarray, n: int) -> np.ndarray:
    """True for lines of ``n`` samples whose centre is not recorded, or is the centre of a line twice as long."""
    total, middle = heads["number_of_samples"], heads["center_sample"]
    return (total == n) & ((middle == 0) | (middle >= total)) & (heads["discard_pre"] + heads["discard_post"] == 0)


def _is_stripped(heads: np.ndarray, encoded: tuple[int, float], recon: tuple[int, float]) -> bool:
    """Whether readout oversampling was already removed although the header still includes it.

    In that case lines have the length of the recon matrix, whose ratio to the encoded matrix equals the ratio of the fields of
    view, with their centre in the middle; a partial echo ends where such a line ends. Lines of oversampled partial echoes end
    where the encoded matrix ends.

    Args:
        heads: headers of the imaging acquisitions.
        encoded: samples and field of view in mm of the encoded space along the readout.
        recon: samples and field of view in mm of the recon space along the readout.
    """
    (nx, wide), (n, narrow) = encoded, recon
    if not 1 <= n < nx or not narrow > 0 or abs(wide / narrow * n / nx - 1) > 0.01:
        return False
    total, middle = heads["number_of_samples"].astype(int), heads["center_sample"].astype(int)
    before = middle - heads["discard_pre"]
    after = total - heads["discard_post"] - middle
    ends = (before <= n // 2) & (after <= n - n // 2) & ((before == n // 2) | (after == n - n // 2))
    return bool((_is_whole(heads, n) | ends).all())


def _encoded(
    encoding: Any,  # noqa: ANN401 - of the generated schema
    heads: np.ndarray,
    extra: np.ndarray,
    gridded: bool,
    path: Path,
) -> dict[str, Any]:
    """Matrix, field of view and readout size, as fields of :class:`Acquisitions`.

    If readout oversampling was already removed, the centres of whole lines are set to their middle.

    Args:
        encoding: encoding section of the header.
        heads: headers of the imaging acquisitions.
        extra: headers of the calibration lines.
        gridded: whether lines are sampled uniformly along the readout.
        path: path of the file.
    """
    space, recon = encoding.encodedSpace, encoding.reconSpace
    shape = [int(getattr(space.matrixSize, axis)) for axis in "xyz"]
    fov = [float(getattr(space.fieldOfView_mm, axis)) for axis in "xyz"]
    readout_size, warnings = shape[0], ()
    if recon is not None and min(shape) > 0 and min(fov) > 0:
        n, wide, deep = int(recon.matrixSize.x), float(recon.fieldOfView_mm.x), float(recon.fieldOfView_mm.z)
        if shape[2] == 1 and deep > 0:  # the encoded space of a 2-D scan may hold more than its slice
            fov[2] = deep / max(int(recon.matrixSize.z), 1)
        readout_size = round(shape[0] * wide / fov[0])
        if gridded and _is_stripped(heads, (shape[0], fov[0]), (n, wide)):
            warnings = (
                f"{path}: readout oversampling seems to be removed from its lines of {n} samples, so the recon field of view of "
                f"{wide:g} mm is used, although the header has {shape[0]} samples in {fov[0]:g} mm; if the lines have low "
                "resolution instead, correct the header's matrix sizes",
            )
            for part in (heads, extra):
                part["center_sample"][_is_whole(part, n)] = n // 2
            shape[0], fov[0], readout_size = n, wide, n
    return {"shape": tuple(shape), "fov": tuple(fov), "readout_size": readout_size, "warnings": warnings}


def _acquisitions(path: Path, select: Mapping[str, int | str], frames: str | None = None) -> Acquisitions:
    """Acquisitions of one contrast, phase, repetition and set; all of them along the axis ``frames``."""
    import ismrmrd

    notes = {}
    try:
        with open_hdf5(path) as file:
            name, names = _select_group(file, select.get("dataset"), path)
            xml, rows = scrub_header(_xml(file, name)), _table(file, name)
            rows["head"]["scan_counter"] = np.arange(len(rows))
            imaging, extra, noise_rows = _split_by_purpose(rows, path)
            if not len(noise_rows):
                found, note = _noise_from_other_group(
                    file, name, names=names, coils=int(imaging["head"]["active_channels"][0])
                )
                noise_rows = noise_rows if found is None else found
                notes |= {"noise scan": note} if note else {}
        if len(names) > 1:
            notes["dataset"] = name
        header = ismrmrd.xsd.CreateFromDocument(xml)
        encoding = header.encoding[int(imaging["head"]["encoding_space_ref"][0])]
        kind = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        siemens, bands = _siemens(header), _multiband(encoding)
        readout = _readout(encoding, imaging["head"], path)
        gridded = kind.lower() == "cartesian" and readout is None
        layout = _encoded(encoding, imaging["head"], extra=extra["head"], gridded=gridded, path=path)
    except InputError:
        raise
    except Exception as error:  # the parser raises many kinds
        raise InputError(f"{path}: damaged ISMRMRD file ({redacted(error)}); convert it again") from error
    if not len(rows) or min(layout["shape"]) < 1 or min(layout["fov"]) <= 0:
        raise InputError(
            f"{path}: has no acquisitions, or an empty matrix {layout['shape']} or field of view {layout['fov']}; convert it "
            "again"
        )
    if len(np.unique(imaging["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between acquisitions; export one scan")
    if len(np.unique(imaging["head"]["encoding_space_ref"])) > 1:
        raise InputError(f"{path}: holds several encoding spaces; export one scan alone")
    refuse_multiband(bands, path)
    imaging = imaging[select_acquisitions(imaging["head"], select, path=path, also=("dataset",), frames=frames)]
    private = siemens and kind.lower() in ("cartesian", "epi")
    centres, centre_notes, centre_warnings = _centres(
        encoding.encodingLimits, imaging["head"], shape=layout["shape"], siemens=private, path=path
    )
    return Acquisitions(
        imaging, matching_calibration(imaging, extra, frames), noise_rows,
        shape=layout["shape"], fov=layout["fov"], centres=centres, readout_size=layout["readout_size"], kind=kind, header=xml,
        siemens=siemens, readout=readout, navigators=rows[(flags_of(rows["head"]) & np.uint64(PHASE_CORRECTION)) > 0],
        notes=notes | centre_notes, warnings=layout["warnings"] + centre_warnings,
    )  # fmt: skip
