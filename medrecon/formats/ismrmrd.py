"""Raw data in the ISMRM's format (ISMRMRD, MRD): acquisitions sorted onto a grid, with their place in the patient.

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
from medrecon.data.names import natural
from medrecon.data.scan import CartesianScan, DynamicScan, NonCartesianScan
from medrecon.formats.acquisitions import Acquisitions, calibration_of, chosen, flags_of, refuse_multiband, scan_of
from medrecon.formats.companions import Companions
from medrecon.formats.epi import Readout
from medrecon.formats.frames import check_axis, frames_of_acquisitions
from medrecon.formats.hdf5 import open_hdf5, read_dataset, read_table, text_of
from medrecon.formats.probe import is_hdf5, never_raises
from medrecon.formats.scrub import parsed, scrubbed

__all__ = ["KINDS", "SUFFIXES", "acquisition_groups", "is_ismrmrd", "read", "read_frames", "sniff"]

SUFFIXES = (".h5", ".hdf5", ".mrd")
KINDS = (CartesianScan, NonCartesianScan)


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file is HDF5 with a group that holds a header and acquisitions."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return is_ismrmrd(file)


def read(
    path: Path, select: Mapping[str, int | str] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan:
    """K-space on the grid, or along the trajectory where the header says that it is not Cartesian.

    See :func:`medrecon.formats.acquisitions.on_grid` and :func:`medrecon.formats.acquisitions.along_trajectory`.

    Args:
        path: of the file.
        select: which contrast, phase, repetition, set or dataset (a group's name, or the number at its end), where there are
            several.
        companions: trajectory and matrix, where the file holds none.

    Raises:
        InputError: for what cannot be read, and where something must be selected.
    """
    chosen_by = dict(select or {})
    return scan_of(
        _acquisitions(path, chosen_by), path, kind="ISMRMRD", select=chosen_by, companions=companions or Companions()
    )


def read_frames(path: Path, select: Mapping[str, int | str] | None, axis: str) -> DynamicScan:
    """All frames along an axis: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: as :func:`read`, and for frames that differ in size or position.
    """
    chosen_by = dict(select or {})
    check_axis(path, axis, chosen_by)
    return frames_of_acquisitions(
        _acquisitions(path, chosen_by, axis), path, kind="ISMRMRD", select=chosen_by, axis=axis
    )


_NOISE, _CALIBRATION, _BOTH = (1 << bit for bit in (18, 19, 20))


PHASE_CORRECTION = 1 << 23


# Navigators, phase correction, feedback, dummies, surface coils, phase stabilisation.
_OTHER = sum(1 << bit for bit in (22, 23, 25, 26, 27, 28, 29, 30))


def acquisition_groups(file: h5py.File) -> list[str]:
    """Names of the groups that hold a header and acquisitions, wherever in the file, in the order of their numbers."""
    names: set[str] = set()
    file.id.links.visit(lambda name: names.add(name.decode("utf-8", "surrogateescape")))
    groups = [name.removesuffix("/xml") for name in names if name.endswith("/xml")]
    found = [name for name in groups if f"{name}/data" in names and f"{name}/xml" in file and f"{name}/data" in file]
    if "xml" in file and "data" in file:
        found.append("/")
    return sorted(found, key=natural)


def is_ismrmrd(file: h5py.File) -> bool:
    """Whether an HDF5 file holds acquisitions."""
    return bool(acquisition_groups(file))


def _sorted_out(rows: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imaging, calibration and noise."""
    flags, image = flags_of(rows["head"]), _is_image(rows["head"])
    noise_rows = rows[(flags & np.uint64(_NOISE)) > 0]
    service = (flags & np.uint64(_NOISE | _OTHER)) > 0
    imaging = rows[image]
    if not len(imaging):
        raise InputError(
            f"{path}: holds noise, calibration or navigator lines alone, and none of an image; give the file of the scan itself"
        )
    return imaging, rows[~service & ~image], noise_rows


def _siemens(header: Any) -> bool:  # noqa: ANN401 - of the generated schema
    """Whether an ISMRMRD header names Siemens as the vendor."""
    system = header.acquisitionSystemInformation
    return "siemens" in str(getattr(system, "systemVendor", None) or "").lower()


def _readout(encoding: Any, heads: np.ndarray, path: Path) -> Readout | None:  # noqa: ANN401 - of the generated schema
    """The readout gradient that an ISMRMRD encoding describes, or ``None`` if it has no ramps.

    Names and units are those of siemens_to_ismrmrd and Gadgetron.

    Raises:
        InputError: for ramps whose gradient is not described completely.
    """
    described = encoding.trajectoryDescription
    if described is None or "epi" not in str(described.identifier).lower():
        return None
    held = {one.name: float(one.value) for one in (*described.userParameterLong, *described.userParameterDouble)}
    up, down, flat = (held.get(name, 0.0) for name in ("rampUpTime", "rampDownTime", "flatTopTime"))
    if max(up, down) <= 0:
        return None
    total = heads["number_of_samples"]
    lacks = [name for name in ("acqDelayTime", "dwellTime") if name not in held]
    if lacks or flat <= 0 or (total != held.get("numSamples", total[0])).any():
        why = f"lacks {', '.join(lacks)}" if lacks else "has no flat top" if flat <= 0 else "is of other lines"
        raise InputError(
            f"{path}: its lines were sampled during gradient ramps (EPI), but the header's description of the gradient {why}; "
            "reconstruct it with the vendor's or another EPI pipeline, e.g. Gadgetron"
        )
    return Readout(ramp_up=up, flat_top=flat, ramp_down=down, delay=held["acqDelayTime"], dwell=held["dwellTime"])


def _multiband(encoding: Any) -> int:  # noqa: ANN401 - of the generated schema
    """How many slices were excited at once."""
    parallel = encoding.parallelImaging
    return 1 if parallel is None or parallel.multiband is None else int(parallel.multiband.multiband_factor)


def _table(file: h5py.File, name: str) -> np.ndarray:
    """All acquisitions of a group."""
    data = cast(h5py.Group, file[name])["data"]
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"the acquisitions in {name} are not a table")
    return read_table(data)


def _heads(file: h5py.File, name: str) -> np.ndarray:
    """Of all acquisitions of a group."""
    return _table(file, name)["head"]


def _is_image(heads: np.ndarray) -> np.ndarray:
    """True for acquisitions that are neither service scans nor calibration alone."""
    flags = flags_of(heads)
    only_calibration = ((flags & np.uint64(_CALIBRATION)) > 0) & ((flags & np.uint64(_BOTH)) == 0)
    return ((flags & np.uint64(_NOISE | _OTHER)) == 0) & ~only_calibration


def _content(file: h5py.File, name: str) -> tuple[str, bool]:
    """What a group holds, and whether it may hold an image."""
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
    """What the groups hold, e.g. "it holds dataset_1 (a noise scan), dataset_2 (256 lines of 12 coils)"."""
    held = ", ".join(f"{name} ({_content(file, name)[0]})" for name in names)
    return f"it holds {held or 'no acquisitions'}"


def _selected(file: h5py.File, wanted: int | str | None, path: Path) -> tuple[str, list[str]]:
    """The group to read, and all groups with acquisitions.

    ``wanted`` is a group's name or the number at its end. Without it, the only group is read, or the only one that holds lines
    of an image.

    Raises:
        InputError: if there is no such group, or one must be selected.
    """
    names = acquisition_groups(file)
    if wanted == "":
        raise InputError(f"{path}: dataset= needs a name; {_contents(file, names)}")
    if wanted is not None:
        found = [name for name in names if name.strip("/") == str(wanted).strip("/")]
        if not found and re.fullmatch("[0-9]+", str(wanted)):
            found = [name for name in names if re.search(rf"(^|\D){wanted}$", name)]
        if len(found) != 1:
            what = f"several datasets end in {wanted}" if found else f"there is no dataset {wanted}"
            raise InputError(f"{path}: {what}; {_contents(file, names)}; give one's name")
        return found[0], names
    images = [name for name in names if _content(file, name)[1]] if len(names) > 1 else names
    if len(images) > 1:
        raise InputError(
            f"{path}: holds several datasets; {_contents(file, names)}; select one, e.g. dataset={images[0]}"
        )
    if not names:
        raise InputError(f"{path}: holds no acquisitions; convert it again")
    return (images or names)[0], names


def _labels(xml: bytes) -> list[str]:
    """Names of the coils in the header, in order."""
    return [label.text or "" for label in parsed(xml).iterfind(".//{*}coilLabel/{*}coilName")]


def _xml(file: h5py.File, name: str) -> bytes:
    xml = text_of(read_dataset(cast(h5py.Group, file[name]), "xml"))
    if xml is None:
        raise ValueError(f"the header of {name} is not one text")
    return xml


def _borrowed(file: h5py.File, name: str, names: list[str], coils: int) -> tuple[np.ndarray | None, str]:
    """The noise scan of another group, the nearest before ``name`` or else after it, and what to say of it.

    It must be of as many coils, of the same names where both headers list all.
    """
    at, said, own = names.index(name), "", _labels(_xml(file, name))
    for other in [*names[:at][::-1], *names[at + 1 :]]:
        try:
            heads, labels = _heads(file, other), _labels(_xml(file, other))
            noise = (flags_of(heads) & np.uint64(_NOISE)) > 0
            rows = _table(file, other)[noise] if noise.any() else None
        except (*DAMAGE, ElementTree.ParseError):
            said = said or f"that of {other} is not used: it is damaged"
            continue
        if rows is None:
            continue
        if (heads["active_channels"][noise] != coils).any():
            said = said or f"that of {other} is not used: it has other coils"
        elif len(own) == len(labels) == coils and own != labels:
            said = said or f"that of {other} is not used: its coils have other names or another order"
        else:
            return rows, f"of {other}"
    return None, said


def _centres(
    limits: Any,  # noqa: ANN401 - of the generated schema
    heads: np.ndarray,
    shape: tuple[int, int, int],
    siemens: bool,
    path: Path,
) -> tuple[tuple[int, int], dict[str, str], tuple[str, ...]]:
    """Counters of the two phase encodings at the centre of k-space, what was decided and what could not be.

    The header has them in its limits. siemens_to_ismrmrd writes half the number of lines there, partial Fourier or not, and the
    centre as the scanner's own headers have it to the counters ``user[5]`` (line) and ``user[6]`` (partition) of every
    acquisition. These are used where they are there, the same in all lines, and fit the matrix.
    """
    centres, notes, warnings = [], {}, []
    for axis, what in ((1, "line"), (2, "partition")):
        n, steps = shape[axis], heads["idx"][f"kspace_encode_step_{axis}"].astype(int)
        limit = getattr(limits, f"kspace_encoding_step_{axis}", None)
        centre = n // 2 if limit is None else int(limit.center)
        counters = np.unique(heads["idx"]["user"][:, 4 + axis]) if siemens and n > 1 else np.zeros(1, int)
        own = int(counters[0])
        if len(counters) > 1:
            several = ", ".join(map(str, counters[:5]))
            warnings.append(
                f"{path}: its acquisitions name several centres of k-space ({what}s {several}); {what} {centre} is used, as the "
                "header has it"
            )
        elif own not in (0, centre):
            if steps.min() - own + n // 2 >= 0 and steps.max() - own + n // 2 < n:
                notes[f"centre {what}"] = f"{own}, by the acquisitions; the header has {centre}"
                centre = own
            else:
                warnings.append(
                    f"{path}: its acquisitions name {what} {own} as the centre of k-space, which does not fit the matrix; {what} "
                    f"{centre} is used, as the header has it"
                )
        centres.append(centre)
    return (centres[0], centres[1]), notes, tuple(warnings)


def _is_whole(heads: np.ndarray, n: int) -> np.ndarray:
    """True for lines of ``n`` samples whose centre is not given, or is that of a line twice as long."""
    total, middle = heads["number_of_samples"], heads["center_sample"]
    return (total == n) & ((middle == 0) | (middle >= total)) & (heads["discard_pre"] + heads["discard_post"] == 0)


def _is_stripped(heads: np.ndarray, encoded: tuple[int, float], recon: tuple[int, float]) -> bool:
    """Whether the readout's oversampling was removed, though the header counts it.

    Then the lines are of the recon matrix, which holds as many of the encoded samples as its field of view holds of the encoded
    one, with their centre in the middle; a partial echo ends where such a line ends. Lines of oversampled partial echoes end
    where the encoded matrix ends.

    Args:
        heads: of the image's acquisitions.
        encoded: samples and field of view in mm along the readout.
        recon: the same of the recon space.
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
    """Matrix, field of view and what is kept of the readout, as fields of :class:`Acquisitions`.

    Where the readout's oversampling was removed, the centres of whole lines are set to their middle.

    Args:
        encoding: of the header.
        heads: of the image's acquisitions.
        extra: of the calibration lines.
        gridded: whether lines are sampled evenly along the readout, as many samples as they are long.
        path: of the file.
    """
    space, recon = encoding.encodedSpace, encoding.reconSpace
    shape = [int(getattr(space.matrixSize, axis)) for axis in "xyz"]
    field = [float(getattr(space.fieldOfView_mm, axis)) for axis in "xyz"]
    kept, warnings = shape[0], ()
    if recon is not None and min(shape) > 0 and min(field) > 0:
        n, wide, deep = int(recon.matrixSize.x), float(recon.fieldOfView_mm.x), float(recon.fieldOfView_mm.z)
        if shape[2] == 1 and deep > 0:  # the encoded space of a 2-D scan may hold more than its slice
            field[2] = deep / max(int(recon.matrixSize.z), 1)
        kept = round(shape[0] * wide / field[0])
        if gridded and _is_stripped(heads, (shape[0], field[0]), (n, wide)):
            warnings = (
                f"{path}: its lines of {n} samples are taken as free of the readout's oversampling, so the recon field of view "
                f"of {wide:g} mm is used, though the header says {shape[0]} samples in {field[0]:g} mm; if they are of low "
                "resolution instead, correct the header's matrix sizes",
            )
            for part in (heads, extra):
                part["center_sample"][_is_whole(part, n)] = n // 2
            shape[0], field[0], kept = n, wide, n
    return {"shape": tuple(shape), "field": tuple(field), "kept": kept, "warnings": warnings}


def _acquisitions(path: Path, select: Mapping[str, int | str], frames: str | None = None) -> Acquisitions:
    """The acquisitions of one contrast, phase, repetition and set; along the axis of ``frames`` all."""
    import ismrmrd

    notes = {}
    try:
        with open_hdf5(path) as file:
            name, names = _selected(file, select.get("dataset"), path)
            xml, rows = scrubbed(_xml(file, name)), _table(file, name)
            rows["head"]["scan_counter"] = np.arange(len(rows))
            imaging, extra, noise_rows = _sorted_out(rows, path)
            if not len(noise_rows):
                other, said = _borrowed(file, name, names=names, coils=int(imaging["head"]["active_channels"][0]))
                noise_rows = noise_rows if other is None else other
                notes |= {"noise scan": said} if said else {}
        if len(names) > 1:
            notes["dataset"] = name
        header = ismrmrd.xsd.CreateFromDocument(xml)
        encoding = header.encoding[int(imaging["head"]["encoding_space_ref"][0])]
        kind = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        siemens, bands = _siemens(header), _multiband(encoding)
        readout = _readout(encoding, imaging["head"], path)
        gridded = kind.lower() == "cartesian" and readout is None
        held = _encoded(encoding, imaging["head"], extra=extra["head"], gridded=gridded, path=path)
    except InputError:
        raise
    except Exception as error:  # the parser's own errors are of many kinds
        raise InputError(f"{path}: damaged ISMRMRD file ({redacted(error)}); convert it again") from error
    if not len(rows) or min(held["shape"]) < 1 or min(held["field"]) <= 0:
        raise InputError(
            f"{path}: no acquisitions, or an empty matrix {held['shape']} or field of view {held['field']}; convert it again"
        )
    if len(np.unique(imaging["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between acquisitions; export one scan")
    if len(np.unique(imaging["head"]["encoding_space_ref"])) > 1:
        raise InputError(f"{path}: holds several encoding spaces; export one scan alone")
    refuse_multiband(bands, path)
    imaging = imaging[chosen(imaging["head"], select, path=path, also=("dataset",), frames=frames)]
    private = siemens and kind.lower() in ("cartesian", "epi")
    centres, more, doubts = _centres(
        encoding.encodingLimits, imaging["head"], shape=held["shape"], siemens=private, path=path
    )
    return Acquisitions(
        imaging, calibration_of(imaging, extra, frames), noise_rows,
        shape=held["shape"], field=held["field"], centres=centres, kept=held["kept"], kind=kind, header=xml,
        siemens=siemens, readout=readout, navigators=rows[(flags_of(rows["head"]) & np.uint64(PHASE_CORRECTION)) > 0],
        notes=notes | more, warnings=held["warnings"] + doubts,
    )  # fmt: skip
