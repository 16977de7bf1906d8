"""Raw data in the ISMRM's format (ISMRMRD, MRD): acquisitions sorted onto a grid, with their place in the patient.

Inati et al., "ISMRM raw data format: a proposed standard for MRI raw datasets", MRM 77 (2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import h5py
import numpy as np

from medrecon.data.coils import crop_field_of_view, from_kspace
from medrecon.data.errors import InputError, NotCartesianError, told

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
_NOISE, _CALIBRATION, _BOTH, REVERSE = (1 << bit for bit in (18, 19, 20, 21))
PHASE_CORRECTION = 1 << 23
# Navigators, phase correction, feedback, dummies, surface coils, phase stabilisation.
_OTHER = sum(1 << bit for bit in (22, 23, 25, 26, 27, 28, 29, 30))
_PRIVATE = ("subjectInformation", "studyInformation", "measurementInformation", "waveformInformation", "userParameters")


def is_ismrmrd(file: h5py.File) -> str | None:
    """Name of the group that holds acquisitions, or ``None``."""
    for name, item in file.items():
        if isinstance(item, h5py.Group) and "xml" in item and "data" in item:
            return name
    return None


def scrubbed(header: bytes) -> bytes:
    """An XML header without what tells of patient, study, place and time.

    Raises:
        ElementTree.ParseError: if it is no XML.
    """
    root = ElementTree.fromstring(header)
    for child in list(root):
        if child.tag.rpartition("}")[2] in _PRIVATE:
            root.remove(child)
    system = root.find("{*}acquisitionSystemInformation")
    for child in list(system) if system is not None else []:
        if child.tag.rpartition("}")[2] in ("institutionName", "stationName", "deviceID", "deviceSerialNumber"):
            system.remove(child)  # type: ignore[union-attr]
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


def chosen(heads: np.ndarray, select: Mapping[str, int], path: Path) -> np.ndarray:
    """True for acquisitions of the one contrast, phase, repetition and set that is asked for."""
    keep = np.ones(len(heads), bool)
    for name in select:
        if name not in COUNTERS:
            raise InputError(f"{path}: nothing can be selected by {name!r}; choose among {', '.join(COUNTERS)}")
    for name in COUNTERS:
        found = np.unique(heads["idx"][name])
        if name in select:
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
                f"centre {middle}) lies outside the encoded matrix {nx} x {ny} x {nz}; the header does not fit the data"
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
    flags = rows["head"]["flags"].astype(np.uint64)
    noise_rows = rows[(flags & np.uint64(_NOISE)) > 0]
    service = (flags & np.uint64(_NOISE | _OTHER)) > 0
    only_calibration = ((flags & np.uint64(_CALIBRATION)) > 0) & ((flags & np.uint64(_BOTH)) == 0)
    imaging = rows[~service & ~only_calibration]
    if not len(imaging):
        raise InputError(f"{path}: holds no imaging acquisitions; only noise, calibration or navigators")
    return imaging, rows[~service & only_calibration], noise_rows


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
        ramps: whether the readout was sampled while its gradient ramped up or down.
        navigators: the phase correction scans of the images.
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
    ramps: bool = False
    navigators: np.ndarray | None = None


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


def _ramps(encoding: Any) -> bool:  # noqa: ANN401 - of the generated schema
    """Whether an ISMRMRD encoding describes an EPI readout whose gradient has ramps."""
    described = encoding.trajectoryDescription
    if described is None or "epi" not in str(described.identifier).lower():
        return False
    parameters = [*described.userParameterLong, *described.userParameterDouble]
    return any(float(one.value) > 0 for one in parameters if one.name in ("rampUpTime", "rampDownTime"))


def _scan(path: Path, select: Mapping[str, int]) -> Scan:
    """What :func:`read_ismrmrd` and :func:`read_noncartesian` share."""
    import ismrmrd

    try:
        with h5py.File(path, "r") as file:
            group = file[is_ismrmrd(file) or "dataset"]
            xml = group["xml"][0]
            rows = group["data"][()]
        xml = xml if isinstance(xml, bytes) else str(xml).encode()
        header = ismrmrd.xsd.CreateFromDocument(xml)
        imaging, extra, noise_rows = _sorted_out(rows, path)
        encoding = header.encoding[int(imaging["head"]["encoding_space_ref"][0])]
        space = encoding.encodedSpace
        shape = tuple(int(getattr(space.matrixSize, axis)) for axis in "xyz")
        field = tuple(float(getattr(space.fieldOfView_mm, axis)) for axis in "xyz")
        kind = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        ramps, siemens = _ramps(encoding), _siemens(header)
        limits, recon = encoding.encodingLimits, encoding.reconSpace
        centres = tuple(
            int(limit.center)
            if (limit := getattr(limits, f"kspace_encoding_step_{axis}", None)) is not None
            else n // 2
            for axis, n in ((1, shape[1]), (2, shape[2]))
        )
        kept = (
            round(shape[0] * float(recon.fieldOfView_mm.x) / field[0]) if recon is not None and field[0] else shape[0]
        )
    except InputError:
        raise
    except Exception as error:  # the parser's own errors are of many kinds
        raise InputError(f"{path}: damaged ISMRMRD file ({told(error)}); convert it again") from error
    if not len(rows) or min(shape) < 1 or min(field) <= 0:
        raise InputError(
            f"{path}: no acquisitions, or an empty matrix {shape} or field of view {field}; convert it again"
        )
    if len(np.unique(imaging["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between acquisitions; export one scan")
    if len(np.unique(imaging["head"]["encoding_space_ref"])) > 1:
        raise InputError(f"{path}: holds several encoding spaces; export one scan")
    imaging = imaging[chosen(imaging["head"], select, path)]
    navigators = rows[(rows["head"]["flags"].astype(np.uint64) & np.uint64(PHASE_CORRECTION)) > 0]
    return Scan(
        imaging, calibration_of(imaging, extra), noise_rows, shape, field, centres, kept, kind, scrubbed(xml),  # type: ignore[arg-type]
        siemens, ramps, navigators,
    )  # fmt: skip


def _noise(scan: Scan, averages: int) -> np.ndarray | None:
    """The noise scan ``(coils, n)``, as strong as the noise of the data: scaled to their dwell time and averages."""
    coils = int(scan.imaging["head"]["active_channels"][0])
    parts = [
        r.view(np.complex64).reshape(int(h["active_channels"]), -1)
        for h, r in zip(scan.noise["head"], scan.noise["data"], strict=True)
    ]
    if not parts or any(len(part) != coils for part in parts):
        return None
    dwell, own = (float(r["head"]["sample_time_us"][0]) for r in (scan.imaging, scan.noise))
    scale = np.sqrt((own / dwell if dwell > 0 and own > 0 else 1.0) / averages)
    return (np.concatenate(parts, axis=1) * scale).astype(np.complex64)


def read_ismrmrd(path: Path, select: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Cartesian k-space of an ISMRMRD file, as the fields of :class:`medrecon.data.kspace.KSpace` but its path and format.

    Lines are sorted by their counters, averages averaged, reversed ones turned round, and partial ones (Fourier or echo) placed
    where they belong. Navigators and other service scans are left out; calibration lines count where nothing else was measured.
    The readout's oversampling is cut off where the readout is whole. Rows are the readout, columns the first phase encoding.
    A 3-D scan is transformed along the readout: its slices are the positions there, rows and columns the two encodings.

    Args:
        path: of the file.
        select: which contrast, phase, repetition or set, where there are several.

    Returns:
        kspace, mask, noise (scaled to the dwell time and averages of the data), spacing, affine (RAS of the axes x, y and slice,
        or ``None``), header without personal data, and attributes.

    Raises:
        InputError: for what cannot be read or is not Cartesian, and where something must be selected.
    """
    select = dict(select or {})
    return on_grid(_scan(path, select), path, select)


def _refuse_epi(scan: Scan, path: Path) -> None:
    """Refuse echo planar imaging, which is not Cartesian until ramps and readout polarities are corrected.

    Raises:
        InputError: for a trajectory of EPI, sampling on ramps, or lines of both directions with phase correction scans.
    """
    reverse = (scan.imaging["head"]["flags"].astype(np.uint64) & np.uint64(REVERSE)) > 0
    both = reverse.any() and not reverse.all() and scan.navigators is not None and len(scan.navigators) > 0
    if scan.ramps or both or scan.kind.lower() == "epi":
        why = " and ".join(
            [
                *(["the readout was sampled during gradient ramps"] if scan.ramps else []),
                *(["lines of both readout directions need a phase correction"] if both else []),
            ]
        )
        raise InputError(
            f"{path}: echo planar imaging (EPI) is not supported{': ' if why else ''}{why}; reconstruct it with the vendor's or "
            "another EPI pipeline, e.g. Gadgetron"
        )


def on_grid(scan: Scan, path: Path, select: Mapping[str, int]) -> dict[str, Any]:
    """What :func:`read_ismrmrd` returns, of acquisitions of any origin."""
    _refuse_epi(scan, path)
    if scan.kind.lower() != "cartesian":
        raise NotCartesianError(
            f"{path}: the trajectory is {scan.kind}, not Cartesian; load it with LoadNonCartesiand and reconstruct it with "
            "medrecon.operators.nufft_sense"
        )
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
    kept = scan.kept if read.all() and 1 <= scan.kept <= shape[0] else shape[0]
    if shape[2] == 1:
        kspace, mask = kspace[..., 0], read[:, None] & columns[:, 0]
        kspace = crop_field_of_view(kspace, mask, (kept, shape[1]))
        mask = columns[:, 0] if read.all() else mask
        middles = shape[1] // 2, kept // 2, 0
        spacing = (float(np.linalg.norm(affine[:3, 2])) if affine is not None else field[2], *pixel)
    else:
        if len(order) > 1:
            raise InputError(f"{path}: {len(order)} slabs; export one 3-D scan")
        if not read.all():
            raise InputError(f"{path}: a 3-D scan with partial echoes; zero-fill or complete the readout first")
        first = shape[0] // 2 - kept // 2
        kspace = from_kspace(kspace[0], (1,))[:, first : first + kept].swapaxes(0, 1)
        mask = columns
        if affine is not None:  # axes x, y, slice: second encoding, first encoding, readout
            affine = affine[:, [2, 0, 1, 3]]
        middles = shape[2] // 2, shape[1] // 2, kept // 2
        spacing = (pixel[0], pixel[1], field[2] / shape[2])
    if affine is not None:
        affine[:3, 3] -= affine[:3, :3] @ np.array(middles)

    attributes: dict[str, str | float] = {"averages": averages, **select}
    if why:
        attributes["orientation"] = f"unknown: {why}"
    return {
        "kspace": kspace, "mask": mask, "noise": _noise(scan, averages), "spacing": spacing, "affine": affine,
        "header": scan.header,
        "attributes": attributes,
    }  # fmt: skip


def read_noncartesian(
    path: Path, select: Mapping[str, int] | None = None, trajectory: np.ndarray | None = None
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
    attributes: dict[str, str | float] = {"trajectory": scan.kind, **select}
    if why:
        attributes["orientation"] = f"unknown: {why}"
    return {
        "samples": np.stack(samples), "trajectory": path_points, "matrix": tuple(int(n) for n in shape[:axes][::-1]),
        "noise": _noise(scan, 1), "spacing": spacing, "affine": affine, "header": scan.header, "attributes": attributes,
    }  # fmt: skip
