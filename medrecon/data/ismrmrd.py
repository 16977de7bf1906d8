"""Raw data in the ISMRM's format (ISMRMRD, MRD): acquisitions sorted onto a grid, with their place in the patient.

Inati et al., "ISMRM raw data format: a proposed standard for MRI raw datasets", MRM 77 (2017).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import h5py
import numpy as np

from medrecon.data.centre import SEVERAL, peak_offset
from medrecon.data.coils import crop_field_of_view, from_kspace
from medrecon.data.epi import REVERSE, Readout, straightened
from medrecon.data.errors import DAMAGE, InputError, NotCartesianError, redacted, told
from medrecon.data.hdf5 import open_hdf5, read_dataset, read_table, text_of
from medrecon.data.limits import check_claim
from medrecon.data.names import natural

__all__ = [
    "COUNTERS",
    "REVERSE",
    "Scan",
    "chosen",
    "is_ismrmrd",
    "on_grid",
    "read_ismrmrd",
    "read_noncartesian",
    "scrubbed",
]

COUNTERS = ("contrast", "phase", "repetition", "set")
"""What may be measured several times over, and has to be chosen."""
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


_SPACE = {"matrixSize": dict.fromkeys("xyz", "number"), "fieldOfView_mm": dict.fromkeys("xyz", "number")}
_LIMIT = dict.fromkeys(("minimum", "maximum", "center"), "number")
_FACTOR = dict.fromkeys(("kspace_encoding_step_1", "kspace_encoding_step_2"), "number")
_PARAMETER = {"name": "gradient", "value": "number"}
_KEPT: dict[str, Any] = {
    "version": "number",
    "experimentalConditions": {"H1resonanceFrequency_Hz": "number"},
    "acquisitionSystemInformation": {
        "systemVendor": "text", "systemModel": "text", "systemFieldStrength_T": "number",
        "relativeReceiverNoiseBandwidth": "number", "receiverChannels": "number",
        "coilLabel": {"coilNumber": "number", "coilName": "text"},
    },
    "encoding": {
        "encodedSpace": _SPACE, "reconSpace": _SPACE,
        "encodingLimits": dict.fromkeys(
            ("kspace_encoding_step_0", "kspace_encoding_step_1", "kspace_encoding_step_2", "average", "slice", "contrast",
             "phase", "repetition", "set", "segment", *(f"user_{k}" for k in range(8))),
            _LIMIT,
        ),
        "trajectory": "kind",
        "trajectoryDescription": {
            "identifier": "text", "userParameterLong": _PARAMETER, "userParameterDouble": _PARAMETER,
        },
        "parallelImaging": {
            "accelerationFactor": _FACTOR, "calibrationMode": "kind", "interleavingDimension": "kind",
            "multiband": {"spacing": {"dZ": "number"}, "deltaKz": "number", "multiband_factor": "number",
                          "calibration": "kind", "calibration_encoding": "number"},
        },
        "echoTrainLength": "number",
    },
    "sequenceParameters": dict.fromkeys(("TR", "TE", "TI", "flipAngle_deg", "echo_spacing"), "number"),
}  # fmt: skip
"""Elements of an ISMRMRD header that are kept, and what may stand in them. Subject, study, measurement, institution, station,
serial number, user parameters, comments and attributes are not among them."""
_GRADIENT = ("rampUpTime", "rampDownTime", "flatTopTime", "acqDelayTime", "dwellTime", "numSamples", "numberOfNavigators", "etl",
             "echoSpacing")  # fmt: skip
"""Parameters of an EPI readout by siemens_to_ismrmrd."""
_WORDS = {
    "number": r"[-+0-9.eE]{1,40}",
    "kind": r"[A-Za-z][A-Za-z0-9_-]{0,31}",
    "text": r"[^\x00-\x1f<>]{0,64}",
    "gradient": "|".join(_GRADIENT),
}


def _kept(element: ElementTree.Element, rule: Mapping[str, Any]) -> None:
    """Remove from an element what ``rule`` does not list."""
    element.attrib.clear()
    for child in list(element):
        inner = rule.get(child.tag.rpartition("}")[2]) if isinstance(child.tag, str) else None
        if isinstance(inner, str):
            child.attrib.clear()
            if len(child) or not re.fullmatch(_WORDS[inner], (child.text or "").strip()):
                inner = None
        elif inner is not None:
            _kept(child, inner)
            child.text = None
            if inner is _PARAMETER and len(child) != 2:  # of a name that is not known
                inner = None
        if inner is None:
            element.remove(child)
        else:
            child.tail = None


def _parsed(header: bytes) -> ElementTree.Element:
    """An XML header without a document type, whose entities could name files or unpack without end.

    Raises:
        ElementTree.ParseError: if it is no XML.
        ValueError: for a document type, or a header of more than 16 MiB.
    """
    if len(header) > 2**24:
        raise ValueError("an XML header of more than 16 MiB")
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    parser.feed(header)
    return parser.close()


class _WithoutDoctype(ElementTree.TreeBuilder):
    """A tree of XML that declares no entities."""

    def doctype(self, *_: object) -> None:
        """Refuse it."""
        raise ValueError("an XML header with a document type")


def scrubbed(header: bytes) -> bytes:
    """An XML header with what reconstruction needs (:data:`_KEPT`), and nothing else.

    Raises:
        ElementTree.ParseError: if it is no XML.
        ValueError: if it has a document type.
    """
    root = _parsed(header)
    _kept(root, _KEPT)
    root.text = None
    return ElementTree.tostring(root)


def _geometry(
    heads: np.ndarray, pixel: tuple[float, float], thickness: float, signs: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Order of the slices, their RAS affine for (phase, readout, slice) indices from the middle, and why there is none.

    ``signs`` of phase, readout and slice say which way the image by the inverse transform runs along the header's directions:
    see :func:`_signs`.
    """
    numbers = np.unique(heads["idx"]["slice"])
    first = [heads[heads["idx"]["slice"] == n][0] for n in numbers]
    read, phase, normal = (np.array(first[0][name], float) for name in ("read_dir", "phase_dir", "slice_dir"))
    axes = np.stack([phase, read, normal], axis=1)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        return numbers, None, "directions are missing or not perpendicular"
    if any(
        not np.allclose(one[name], first[0][name], atol=1e-4) for one in first for name in ("read_dir", "phase_dir")
    ):
        return numbers, None, "slices differ in direction"
    positions = np.array([one["position"] for one in first], float)
    if not np.isfinite(positions).all():
        return numbers, None, "positions are no numbers"
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step = signs[2] * normal * thickness
    if len(positions) > 1:
        steps = np.diff(positions, axis=0)
        step = steps.mean(axis=0)
        if np.abs(steps - step).max() > 0.01 * np.linalg.norm(step) or not np.linalg.norm(step) > 0:
            return numbers[order], None, "slices are not equally spaced"
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = signs[0] * phase * pixel[1], signs[1] * read * pixel[0], step
    affine[:3, 3] = positions[0]
    return numbers[order], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, ""


def chosen(heads: np.ndarray, select: Mapping[str, int | str], path: Path, also: tuple[str, ...] = ()) -> np.ndarray:
    """True for acquisitions of the one contrast, phase, repetition and set that is asked for.

    ``also`` names what else could be selected and was, elsewhere.
    """
    keep = np.ones(len(heads), bool)
    for name in select:
        if name not in (*also, *COUNTERS):
            raise InputError(
                f"{path}: nothing can be selected by {name!r}; choose among {', '.join((*also, *COUNTERS))}"
            )
    for name in COUNTERS:
        found = np.unique(heads["idx"][name])
        if name in select:
            if select[name] == "":
                raise InputError(f"{path}: {name}= needs a number; it holds {', '.join(map(str, found))}")
            if select[name] not in found:
                raise InputError(f"{path}: there is no {name} {select[name]}; it holds {', '.join(map(str, found))}")
            keep &= heads["idx"][name] == select[name]
        elif len(found) > 1:
            raise InputError(
                f"{path}: holds {len(found)} of {name} ({', '.join(map(str, found))}); select one, e.g. {name}={found[0]}"
            )
    return keep


def _on_grid(
    rows: np.ndarray, shape: tuple[int, int, int], centres: tuple[int, int], order: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k-space ``(slices, coils, x, y, z)``, how often each line was measured ``(slices, y, z)``, and the rows that were, of x."""
    nx, ny, nz = shape
    coils = int(rows["head"]["active_channels"][0])
    measured = sum(one.nbytes for one in rows["data"])
    check_claim(8 * len(order) * coils * nx * ny * nz, measured, path, f"the encoded matrix {nx} x {ny} x {nz}")
    kspace = np.zeros((len(order), coils, nx, ny, nz), np.complex64)
    count = np.zeros((len(order), ny, nz), int)
    read = np.zeros(nx, bool)
    place = {number: i for i, number in enumerate(order)}
    for head, data in zip(rows["head"], rows["data"], strict=True):
        index, total = head["idx"], int(head["number_of_samples"])
        before, n = int(head["discard_pre"]), total - int(head["discard_pre"]) - int(head["discard_post"])
        y, z = (
            int(index[f"kspace_encode_step_{axis}"]) - centre + size // 2
            for axis, centre, size in ((1, centres[0], ny), (2, centres[1], nz))
        )
        middle = int(head["center_sample"])
        first = (0 if total == nx and middle == 0 else nx // 2 - middle) + before
        if not (0 <= y < ny and 0 <= z < nz and first >= 0 and 0 < n <= nx - first):
            raise InputError(
                f"{path}: an acquisition of {n} samples (step {index['kspace_encode_step_1']}, {index['kspace_encode_step_2']}, "
                f"centre {middle}) lies outside the encoded matrix {nx} x {ny} x {nz}; correct the header, or convert again"
            )
        samples = data.view(np.complex64).reshape(coils, total)[:, before : before + n]
        if int(head["flags"]) & REVERSE:  # measured from the other end, so the discarded ones lie there too
            samples = samples[:, ::-1]
            first += int(head["discard_post"]) - before
        at = place[index["slice"]]
        kspace[at, :, first : first + n, y, z] += samples
        count[at, y, z] += 1
        read[first : first + n] = True
    return kspace / np.maximum(count, 1)[:, None, None], count, read


def _sorted_out(rows: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imaging, calibration and noise."""
    flags, image = _flags(rows["head"]), _is_image(rows["head"])
    noise_rows = rows[(flags & np.uint64(_NOISE)) > 0]
    service = (flags & np.uint64(_NOISE | _OTHER)) > 0
    imaging = rows[image]
    if not len(imaging):
        raise InputError(
            f"{path}: holds noise, calibration or navigator lines alone, and none of an image; give the file of the scan itself"
        )
    return imaging, rows[~service & ~image], noise_rows


def calibration_of(imaging: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """Those calibration lines that may fill gaps of the images: of the same encoding, contrast and set.

    Of several phases or repetitions those of the image, where they were measured.
    """
    head = imaging["head"]
    if not len(extra) or not len(imaging):
        return extra[:0]
    extra = extra[extra["head"]["encoding_space_ref"] == head["encoding_space_ref"][0]]
    for name in COUNTERS:
        same = extra["head"]["idx"][name] == head["idx"][name][0]
        if name in ("contrast", "set") or same.any():
            extra = extra[same]
    return extra


class Scan(NamedTuple):
    """Acquisitions, as rows of the format's own table, and what the header says of them.

    Args:
        imaging: those to make images of.
        calibration: those that count only where nothing else was measured.
        noise: noise scans.
        shape: encoded matrix, readout first.
        field: encoded field of view in mm.
        centres: counters of the two phase encodings at the centre of k-space.
        kept: samples of the readout without its oversampling.
        kind: of the trajectory.
        header: without personal data, or ``None``.
        siemens: whether the scanner is Siemens', whose sign convention differs; see :func:`_signs`.
        readout: the gradient of EPI whose samples lie on its ramps too, or ``None``.
        navigators: phase correction scans; ``scan_counter`` of them and of the lines is their place in the file.
        notes: what was decided, for the attributes.
        warnings: what could not be.
    """

    imaging: np.ndarray
    calibration: np.ndarray
    noise: np.ndarray
    shape: tuple[int, int, int]
    field: tuple[float, float, float]
    centres: tuple[int, int]
    kept: int
    kind: str
    header: bytes | None
    siemens: bool = False
    readout: Readout | None = None
    navigators: np.ndarray | None = None
    notes: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()


def _siemens(header: Any) -> bool:  # noqa: ANN401 - of the generated schema
    """Whether an ISMRMRD header names Siemens as the vendor."""
    system = header.acquisitionSystemInformation
    return "siemens" in str(getattr(system, "systemVendor", None) or "").lower()


def _signs(scan: Scan) -> tuple[int, int, int]:
    """Which way the image by the inverse transform runs along the directions of phase, readout and slice.

    A point at r has samples exp(-2 pi i k r) by the ISMRMRD convention. In Siemens data they are exp(+2 pi i k r), with the
    directions that the scanner's headers hold: a forward transform gives the image (PTB-MR/mrpro, issue 828 and pull request
    833; ismrmrd_to_nifti negates the directions alike). The image by the inverse transform runs backwards along every encoded
    axis, the partitions of a 3-D scan included; the slices of a 2-D scan, whose positions are recorded, are not encoded. The
    samples stay as they are, only the affine is negated: a voxel n // 2 lies at the recorded position either way.
    """
    if not scan.siemens:
        return 1, 1, 1
    return -1, -1, -1 if scan.shape[2] > 1 else 1


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
    return Readout(up, flat, down, held["acqDelayTime"], held["dwellTime"])


def _multiband(encoding: Any) -> int:  # noqa: ANN401 - of the generated schema
    """How many slices were excited at once."""
    parallel = encoding.parallelImaging
    return 1 if parallel is None or parallel.multiband is None else int(parallel.multiband.multiband_factor)


def _flags(heads: np.ndarray) -> np.ndarray:
    return heads["flags"].astype(np.uint64)


def _table(file: h5py.File, name: str) -> np.ndarray:
    """All acquisitions of a group."""
    if not isinstance(file[name]["data"], h5py.Dataset):
        raise ValueError(f"the acquisitions in {name} are not a table")
    return read_table(file[name]["data"])


def _heads(file: h5py.File, name: str) -> np.ndarray:
    """Of all acquisitions of a group."""
    return _table(file, name)["head"]


def _is_image(heads: np.ndarray) -> np.ndarray:
    """True for acquisitions that are neither service scans nor calibration alone."""
    flags = _flags(heads)
    only_calibration = ((flags & np.uint64(_CALIBRATION)) > 0) & ((flags & np.uint64(_BOTH)) == 0)
    return ((flags & np.uint64(_NOISE | _OTHER)) == 0) & ~only_calibration


def _content(file: h5py.File, name: str) -> tuple[str, bool]:
    """What a group holds, and whether it may hold an image."""
    try:
        heads = _heads(file, name)
        image, noise = _is_image(heads), (_flags(heads) & np.uint64(_NOISE)) > 0
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
    return [label.text or "" for label in _parsed(xml).iterfind(".//{*}coilLabel/{*}coilName")]


def _xml(file: h5py.File, name: str) -> bytes:
    xml = text_of(read_dataset(file[name], "xml"))
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
            noise = (_flags(heads) & np.uint64(_NOISE)) > 0
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
    """Matrix, field of view and what is kept of the readout, as fields of :class:`Scan`.

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


def _scan(path: Path, select: Mapping[str, int | str]) -> Scan:
    """What :func:`read_ismrmrd` and :func:`read_noncartesian` share."""
    import ismrmrd

    notes = {}
    try:
        with open_hdf5(path) as file:
            name, names = _selected(file, select.get("dataset"), path)
            xml, rows = scrubbed(_xml(file, name)), _table(file, name)
            rows["head"]["scan_counter"] = np.arange(len(rows))
            imaging, extra, noise_rows = _sorted_out(rows, path)
            if not len(noise_rows):
                other, said = _borrowed(file, name, names, int(imaging["head"]["active_channels"][0]))
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
        held = _encoded(encoding, imaging["head"], extra["head"], gridded, path)
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
    imaging = imaging[chosen(imaging["head"], select, path, ("dataset",))]
    private = siemens and kind.lower() in ("cartesian", "epi")
    centres, more, doubts = _centres(encoding.encodingLimits, imaging["head"], held["shape"], private, path)
    return Scan(
        imaging, calibration_of(imaging, extra), noise_rows,
        shape=held["shape"], field=held["field"], centres=centres, kept=held["kept"], kind=kind, header=xml,
        siemens=siemens, readout=readout, navigators=rows[(_flags(rows["head"]) & np.uint64(PHASE_CORRECTION)) > 0],
        notes=notes | more, warnings=held["warnings"] + doubts,
    )  # fmt: skip


def _noise(scan: Scan, averages: int) -> np.ndarray | None:
    """The noise scan ``(coils, n)``, as strong as the noise of the data: scaled to their dwell time and averages.

    One of another number of coils is returned as it is, for the check of all noise scans to find.
    """
    coils = int(scan.imaging["head"]["active_channels"][0])
    parts = [
        r.view(np.complex64).reshape(int(h["active_channels"]), -1)
        for h, r in zip(scan.noise["head"], scan.noise["data"], strict=True)
    ]
    if not parts:
        return None
    odd = [part for part in parts if len(part) != coils]
    if odd:
        return odd[0]
    dwell, own = (float(r["head"]["sample_time_us"][0]) for r in (scan.imaging, scan.noise))
    scale = np.sqrt((own / dwell if dwell > 0 and own > 0 else 1.0) / averages)
    return (np.concatenate(parts, axis=1) * scale).astype(np.complex64)


def read_ismrmrd(path: Path, select: Mapping[str, int | str] | None = None) -> dict[str, Any]:
    """Cartesian k-space of an ISMRMRD file, as the fields of :class:`medrecon.data.kspace.KSpace` but its path and format.

    Lines are sorted by their counters, averages averaged, reversed ones turned round, and partial ones (Fourier or echo) placed
    where they belong. Lines of EPI are resampled and phase corrected first, see :mod:`medrecon.data.epi`; other service scans are
    left out, and calibration lines count where nothing else was measured.
    The readout's oversampling is cut off where the readout is whole. Rows are the readout, columns the first phase encoding.
    A 3-D scan is transformed along the readout: its slices are the positions there, rows and columns the two encodings.

    Args:
        path: of the file.
        select: which contrast, phase, repetition, set or dataset (a group's name, or the number at its end), where there are
            several.

    Returns:
        kspace, mask, noise (scaled to the dwell time and averages of the data), spacing, affine (RAS of the axes x, y and slice,
        or ``None``), header without personal data, and attributes.

    Raises:
        InputError: for what cannot be read or is not Cartesian, and where something must be selected.
    """
    select = dict(select or {})
    return on_grid(_scan(path, select), path, select)


def clipped(rows: np.ndarray, path: Path) -> tuple[str, ...]:
    """A warning where the receiver was saturated: samples of a coil that all have its largest real or imaginary part.

    Continuous signals reach their largest value once. At least 4 samples must agree, and at most 5 % of all, since simulated
    points have constant magnitude; the largest value must be 100 times the smallest, since weak integers agree by chance.
    """
    total, coils = 0, int(rows["head"]["active_channels"][0])
    top, count, least = np.zeros(coils), np.zeros(coils, int), np.inf
    for head, data in zip(rows["head"], rows["data"], strict=True):
        if int(head["active_channels"]) != coils:
            return ()
        size = np.abs(np.asarray(data)).reshape(coils, -1)
        largest = size.max(axis=1, initial=0)
        times = (size == largest[:, None]).sum(axis=1)
        count = np.where(largest > top, times, count + np.where(largest == top, times, 0))
        top = np.maximum(top, largest)
        least = min(least, float(size[size > 0].min(initial=np.inf)))
        total += size.shape[1]
    held = np.flatnonzero((count >= 4) & (count <= 0.05 * total) & (top > 100 * least))
    if not len(held):
        return ()
    names = ", ".join(map(str, held[:8])) + (", ..." if len(held) > 8 else "")
    return (
        f"{path}: coil {names} has {count[held].max()} samples of exactly its largest value "
        f"({top[held].max():.4g}), as a saturated receiver gives, so contrast may be wrong; measure again with less gain",
    )


def refuse_multiband(bands: int, path: Path) -> None:
    """Refuse slices that were excited together, which lie on top of each other until they are unfolded.

    Raises:
        InputError: for more than one.
    """
    if bands > 1:
        raise InputError(
            f"{path}: {bands} slices were excited at once (simultaneous multi-slice), which is not supported; reconstruct it "
            "with the vendor's pipeline"
        )


def _straightened(scan: Scan, path: Path) -> Scan:
    """Lines of EPI as if all had been sampled evenly and forward; other scans as they are.

    Raises:
        InputError: for EPI whose gradient is not described, or does not fit the lines.
    """
    described, reverse = scan.readout is not None, (_flags(scan.imaging["head"]) & np.uint64(REVERSE)) > 0
    if scan.kind.lower() == "epi" and not described:
        raise InputError(
            f"{path}: the trajectory is EPI, but the header does not describe the readout's gradient, so samples on its ramps "
            "would be misplaced; reconstruct it with the vendor's or another EPI pipeline, e.g. Gadgetron"
        )
    both = bool(reverse.any() and not reverse.all())
    coils = scan.imaging["head"]["active_channels"][0]
    navigators = scan.navigators if both and scan.navigators is not None else scan.imaging[:0]
    navigators = navigators[navigators["head"]["active_channels"] == coils]
    notes, warnings, extra = dict(scan.notes), scan.warnings, scan.calibration
    # Reference lines of one direction are no EPI.
    other = both and len(extra) > 0 and not (_flags(extra["head"]) & np.uint64(REVERSE)).any()
    if other and described:
        warnings += (f"{path}: its reference lines were not measured like the lines of the image and are left out",)
    gain, uncorrected = 1.0, len(scan.imaging) if both else 0
    rows = scan.imaging, extra
    if described or len(navigators):
        args = navigators, scan.readout, scan.shape[0], scan.kept, scan.field[0], scan.siemens
        try:
            imaging, lacking, gain = straightened(scan.imaging, *args)
            if not other:
                extra = straightened(extra, *args).rows
            elif described:
                extra = extra[:0]
        except ValueError as error:
            raise InputError(
                f"{path}: EPI that cannot be brought onto the grid ({told(error)}); reconstruct it with the vendor's or another "
                "EPI pipeline, e.g. Gadgetron"
            ) from error
        rows, uncorrected = (imaging, extra), lacking if both else 0
        notes |= {"ramps": "resampled"} if described else {}
        notes |= {"readout directions": "phase corrected"} if both and not uncorrected else {}
    if uncorrected:
        warnings += (
            f"{path}: {uncorrected} of its lines, which were measured in both readout directions, were not phase corrected, "
            "since there are no phase correction scans of both directions; the image may show ghosts half a field of view away",
        )
    noise = scan.noise.copy()
    for k, data in enumerate(scan.noise["data"]):
        noise["data"][k] = data * np.float32(gain)
    return scan._replace(
        imaging=rows[0],
        calibration=rows[1],
        noise=noise,
        kind="cartesian",
        readout=None,
        notes=notes,
        warnings=warnings,
    )


def on_grid(scan: Scan, path: Path, select: Mapping[str, int | str]) -> dict[str, Any]:
    """What :func:`read_ismrmrd` returns, of acquisitions of any origin."""
    kind, own = scan.kind.lower(), (scan.imaging["head"]["trajectory_dimensions"] > 0).all()
    if kind not in ("cartesian", "epi") or (kind == "epi" and scan.readout is None and own):
        convert = "convert it to ISMRMRD, " if scan.header is None else ""
        raise NotCartesianError(
            f"{path}: the trajectory is {scan.kind}, not Cartesian; {convert}load it with LoadNonCartesiand (with a trajectory "
            "where the file holds none) and reconstruct it with medrecon.operators.nufft_sense"
        )
    saturated = clipped(scan.imaging, path)
    scan = _straightened(scan, path)
    scan = scan._replace(warnings=scan.warnings + saturated)
    imaging, extra, shape, field = scan.imaging, scan.calibration, scan.shape, scan.field
    pixel = field[0] / shape[0], field[1] / shape[1]
    order, affine, why = _geometry(imaging["head"], pixel, field[2] / shape[2], _signs(scan))
    kspace, count, read = _on_grid(imaging, shape, scan.centres, order, path)
    alike = np.isin(extra["head"]["idx"]["slice"], order) & (extra["head"]["active_channels"] == kspace.shape[1])
    if len(extra := extra[alike]):
        more, times, _ = _on_grid(extra, shape, scan.centres, order, path)
        fill = (count == 0) & (times > 0)
        kspace += more * fill[:, None, None]
        count += fill
    averages = int(np.median(count[count > 0]))

    columns = (count > 0).any(axis=0)  # (y, z)
    warnings = scan.warnings
    kept = scan.kept if read.all() and 1 <= scan.kept <= shape[0] else shape[0]
    if shape[2] == 1:
        kspace, mask = kspace[..., 0], read[:, None] & columns[:, 0]
        kspace = crop_field_of_view(kspace, mask, (kept, shape[1]))
        mask = columns[:, 0] if read.all() else mask
        middles = shape[1] // 2, kept // 2, 0
        spacing = (float(np.linalg.norm(affine[:3, 2])) if affine is not None else field[2], *pixel)
    else:
        if len(order) > 1:
            raise InputError(f"{path}: holds {len(order)} 3-D slabs; export one of them alone")
        if not read.all():
            raise InputError(
                f"{path}: holds a 3-D scan with partial echoes, which is not supported; export it with whole readouts"
            )
        warnings += _readout_warnings(kspace[0], kept, path)
        first = shape[0] // 2 - kept // 2
        kspace = from_kspace(kspace[0], (1,))[:, first : first + kept].swapaxes(0, 1)
        mask = columns
        if affine is not None:  # axes x, y, slice: second encoding, first encoding, readout
            affine = affine[:, [2, 0, 1, 3]]
        middles = shape[2] // 2, shape[1] // 2, kept // 2
        spacing = (pixel[0], pixel[1], field[2] / shape[2])
    if affine is not None:
        affine[:3, 3] -= affine[:3, :3] @ np.array(middles)

    attributes: dict[str, str | float] = {"averages": averages, **select, **scan.notes}
    if why:
        attributes["orientation"] = f"unknown: {why}"
    return {
        "kspace": kspace, "mask": mask, "noise": _noise(scan, averages), "spacing": spacing, "affine": affine,
        "header": scan.header,
        "attributes": attributes, "warnings": warnings,
    }  # fmt: skip


def _readout_warnings(kspace: np.ndarray, kept: int, path: Path) -> tuple[str, ...]:
    """A sentence where the energy of ``(coils, x, y, z)`` peaks several samples away from the middle of the readout.

    The other axes are seen to when the file is read, see :func:`medrecon.data.centre.centre_warnings`; the readout of a 3-D scan
    is an image by then. Samples count as those of the ``kept`` ones without oversampling.
    """
    energy = sum((np.abs(coil).astype(np.float64) ** 2).sum(axis=(1, 2)) for coil in kspace)
    n, offset = len(energy), peak_offset(np.asarray(energy))
    if offset is None or abs(offset) * kept < SEVERAL * n:
        return ()
    return (
        f"{path}: the energy of k-space peaks at sample {n // 2 + offset} of {n} of the readout (sample {n // 2} is taken as the "
        "centre); if that is the true centre, correct center_sample of its acquisitions",
    )


def read_noncartesian(
    path: Path, select: Mapping[str, int | str] | None = None, trajectory: np.ndarray | None = None
) -> dict[str, Any]:
    """Samples along any trajectory, as the fields of :class:`medrecon.data.noncartesian.NonCartesian` but its path and format.

    Rows of the image are the phase direction, columns the read direction. Averages and interleaves are shots alike.

    Args:
        path: of the file.
        select: as for :func:`read_ismrmrd`.
        trajectory: ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), where the file holds none.

    Raises:
        InputError: for what cannot be read, and where trajectories are missing or do not fit.
    """
    select = dict(select or {})
    scan = _scan(path, select)
    heads, shape = scan.imaging["head"], scan.shape
    axes = 3 if shape[2] > 1 else 2
    pixel = scan.field[0] / shape[0], scan.field[1] / shape[1]
    order, affine, why = _geometry(heads, pixel, scan.field[2] / shape[2], _signs(scan))
    coils = int(heads["active_channels"][0])
    kept = {(int(h["number_of_samples"]), int(h["discard_pre"]), int(h["discard_post"])) for h in heads}
    if len(kept) > 1:
        raise InputError(f"{path}: readouts differ in length; export one scan")
    total, before, after = next(iter(kept))
    readout = slice(before, total - after)
    samples, points = [], []
    for number in order:
        rows = scan.imaging[heads["idx"]["slice"] == number]
        steps = rows["head"]["idx"]
        rows = rows[np.lexsort((steps["kspace_encode_step_1"], steps["kspace_encode_step_2"]))]
        samples.append(np.stack([r.view(np.complex64).reshape(coils, total)[:, readout] for r in rows["data"]], axis=1))
        sizes = set(rows["head"]["trajectory_dimensions"].tolist())
        if sizes == {0} or trajectory is not None:
            continue
        if len(sizes) > 1 or (size := sizes.pop()) < axes:
            raise InputError(
                f"{path}: trajectories of {sorted(sizes)} coordinates for an image of {axes} axes; convert it again"
            )
        points.append(np.stack([t.reshape(total, size)[readout, :axes] for t in rows["traj"]]))
    if len({part.shape for part in samples}) > 1:
        raise InputError(f"{path}: slices differ in their number of shots; export one scan")
    if trajectory is None and not points:
        raise InputError(f"{path}: holds no trajectory; give one (shots, readout, {axes}) in cycles per field of view")
    if trajectory is not None:
        path_points = np.broadcast_to(trajectory, (len(order), *trajectory.shape))
    else:
        path_points = np.stack(points)[..., ::-1]  # kx is the last axis of an image
        reach, matrix = np.abs(path_points).max(), np.array(shape[:axes][::-1])
        if reach <= 0.5 * (1 + 1e-3):  # cycles per pixel, as most writers have it
            path_points = path_points * matrix
    spacing: tuple[float, float, float]
    if axes == 3:
        spacing = (scan.field[2] / shape[2], pixel[1], pixel[0])
    else:
        spacing = (float(np.linalg.norm(affine[:3, 2])) if affine is not None else scan.field[2], pixel[1], pixel[0])
    if affine is not None:
        affine = affine[:, [1, 0, 2, 3]]  # x is the read direction
        affine[:3, 3] -= affine[:3, :3] @ np.array((shape[0] // 2, shape[1] // 2, shape[2] // 2 if axes == 3 else 0))
    backward = (_flags(heads) & np.uint64(REVERSE)) > 0
    warnings = scan.warnings
    if scan.navigators is not None and len(scan.navigators) and backward.any() and not backward.all():
        warnings += (
            f"{path}: its lines were measured in both readout directions, and its phase correction scans are not used off the "
            "grid; the image may show ghosts",
        )
    attributes: dict[str, str | float] = {"trajectory": scan.kind, **select, **scan.notes}
    if why:
        attributes["orientation"] = f"unknown: {why}"
    return {
        "samples": np.stack(samples), "trajectory": path_points, "matrix": tuple(int(n) for n in shape[:axes][::-1]),
        "noise": _noise(scan, 1), "spacing": spacing, "affine": affine, "header": scan.header, "attributes": attributes,
        "warnings": warnings,
    }  # fmt: skip
