"""Scanner acquisitions sorted onto a grid or along their trajectory, with their position in the patient.

Acquisitions are rows of the table that the ISMRMRD format defines, whichever format they were read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medrecon.data.coils import crop_field_of_view, from_kspace
from medrecon.data.errors import InputError, one_line
from medrecon.data.geometry import lps_to_ras
from medrecon.data.scan import CartesianScan, Geometry, NonCartesianScan
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.centre import SEVERAL, peak_offset
from medrecon.formats.companions import Companions
from medrecon.formats.epi import REVERSE, Readout, correct_epi
from medrecon.formats.limits import check_claim
from medrecon.formats.noncartesian import noncartesian_scan, trajectory_array
from medrecon.formats.stored import Stored

__all__ = [
    "COUNTERS",
    "Acquisitions",
    "along_trajectory",
    "flags_of",
    "matching_calibration",
    "on_grid",
    "refuse_multiband",
    "scan_from_acquisitions",
    "select_acquisitions",
]

COUNTERS = ("contrast", "phase", "repetition", "set")
"""Counters of repeated measurements, of which one value must be selected."""


def _geometry(
    heads: np.ndarray, pixel: tuple[float, float], thickness: float, signs: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Slice order, RAS affine for (phase, readout, slice) indices counted from the middle, and the reason if there is none.

    ``signs`` are the directions of the image along phase, readout and slice; see :func:`_signs`.
    """
    numbers = np.unique(heads["idx"]["slice"])
    first = [heads[heads["idx"]["slice"] == n][0] for n in numbers]
    read, phase, normal = (np.array(first[0][name], float) for name in ("read_dir", "phase_dir", "slice_dir"))
    axes = np.stack([phase, read, normal], axis=1)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        return numbers, None, "directions are missing or not perpendicular"
    if any(
        not np.allclose(head[name], first[0][name], atol=1e-4) for head in first for name in ("read_dir", "phase_dir")
    ):
        return numbers, None, "slices differ in direction"
    positions = np.array([head["position"] for head in first], float)
    if not np.isfinite(positions).all():
        return numbers, None, "positions are not finite"
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
    return numbers[order], lps_to_ras(affine), ""


def select_acquisitions(
    heads: np.ndarray,
    select: Mapping[str, int | str],
    path: Path,
    also: tuple[str, ...] = (),
    frames: str | None = None,
) -> np.ndarray:
    """True for acquisitions of the selected contrast, phase, repetition and set.

    Args:
        heads: headers of the acquisitions.
        select: selected values by name.
        path: path of the file.
        also: further valid names in ``select``, which were evaluated before.
        frames: axis along which all acquisitions are kept.

    Raises:
        InputError: if a selected value does not exist, or one must be selected.
    """
    keep = np.ones(len(heads), bool)
    for name in select:
        if name not in (*also, *COUNTERS):
            raise InputError(
                f"{path}: nothing can be selected by {name!r}; choose among {', '.join((*also, *COUNTERS))}"
            )
    for name in COUNTERS:
        if name == frames:
            continue
        found = np.unique(heads["idx"][name])
        if name in select:
            if select[name] == "":
                raise InputError(f"{path}: {name}= needs a number; choose among {', '.join(map(str, found))}")
            if select[name] not in found:
                raise InputError(
                    f"{path}: there is no {name} {select[name]}; choose among {', '.join(map(str, found))}"
                )
            keep &= heads["idx"][name] == select[name]
        elif len(found) > 1:
            raise InputError(
                f"{path}: holds {len(found)} values of {name} ({', '.join(map(str, found))}); select one, e.g. {name}={found[0]}"
            )
    return keep


def _on_grid(
    rows: np.ndarray, shape: tuple[int, int, int], centres: tuple[int, int], order: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K-space ``(slices, coils, x, y, z)``, measurements per line ``(slices, y, z)``, and measured positions of x."""
    nx, ny, nz = shape
    coils = int(rows["head"]["active_channels"][0])
    measured = sum(data.nbytes for data in rows["data"])
    check_claim(
        8 * len(order) * coils * nx * ny * nz, measured, name=path, what=f"the encoded matrix {nx} x {ny} x {nz}"
    )
    kspace = np.zeros((len(order), coils, nx, ny, nz), np.complex64)
    count = np.zeros((len(order), ny, nz), int)
    read = np.zeros(nx, bool)
    place = {number: i for i, number in enumerate(order)}
    for head, data in zip(rows["head"], rows["data"], strict=True):
        index, total = head["idx"], int(head["number_of_samples"])
        before, n = int(head["discard_pre"]), total - int(head["discard_pre"]) - int(head["discard_post"])
        y, z = (
            int(index[f"kspace_encode_step_{axis}"]) - step + size // 2
            for axis, step, size in ((1, centres[0], ny), (2, centres[1], nz))
        )
        centre = int(head["center_sample"])
        first = (0 if total == nx and centre == 0 else nx // 2 - centre) + before
        if not (0 <= y < ny and 0 <= z < nz and first >= 0 and 0 < n <= nx - first):
            raise InputError(
                f"{path}: an acquisition of {n} samples (step {index['kspace_encode_step_1']}, {index['kspace_encode_step_2']}, "
                f"centre {centre}) lies outside the encoded matrix {nx} x {ny} x {nz}; correct the header, or convert again"
            )
        samples = data.view(np.complex64).reshape(coils, total)[:, before : before + n]
        if int(head["flags"]) & REVERSE:  # measured backwards, so discarded samples are at the other end too
            samples = samples[:, ::-1]
            first += int(head["discard_post"]) - before
        at = place[index["slice"]]
        kspace[at, :, first : first + n, y, z] += samples
        count[at, y, z] += 1
        read[first : first + n] = True
    kspace /= np.maximum(count, 1)[:, None, None]
    return kspace, count, read


def matching_calibration(imaging: np.ndarray, extra: np.ndarray, frames: str | None = None) -> np.ndarray:
    """Calibration lines that may fill gaps of the image: those with the same encoding, contrast and set.

    They must also have the phase and repetition of the image if any do. Along the axis ``frames`` all are kept.
    """
    head = imaging["head"]
    if not len(extra) or not len(imaging):
        return extra[:0]
    extra = extra[extra["head"]["encoding_space_ref"] == head["encoding_space_ref"][0]]
    for name in COUNTERS:
        if name == frames:
            continue
        same = extra["head"]["idx"][name] == head["idx"][name][0]
        if name in ("contrast", "set") or same.any():
            extra = extra[same]
    return extra


class Acquisitions(NamedTuple):
    """Acquisitions as rows of the ISMRMRD table, and their description in the header.

    Args:
        imaging: imaging acquisitions.
        calibration: calibration lines, used only where nothing else was measured.
        noise: noise scans.
        shape: encoded matrix, readout first.
        fov: encoded field of view in mm, readout first.
        centres: counters of the two phase encodings at the centre of k-space.
        readout_size: samples of the readout without oversampling.
        kind: name of the trajectory.
        header: ISMRMRD header without personal data, or ``None``.
        siemens: whether this is a Siemens scanner, whose sign convention differs; see :func:`_signs`.
        readout: readout gradient of EPI with ramp sampling, or ``None``.
        navigators: phase correction scans; their ``scan_counter`` and that of the lines is the position in the file.
        notes: decisions, to be recorded in the attributes.
        warnings: unresolved problems.
    """

    imaging: np.ndarray
    calibration: np.ndarray
    noise: np.ndarray
    shape: tuple[int, int, int]
    fov: tuple[float, float, float]
    centres: tuple[int, int]
    readout_size: int
    kind: str
    header: bytes | None
    siemens: bool = False
    readout: Readout | None = None
    navigators: np.ndarray | None = None
    notes: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def is_cartesian(self) -> bool:
        """Whether lines lie on a grid, if necessary after resampling (EPI without a trajectory in each line)."""
        kind, has_trajectory = self.kind.lower(), bool((self.imaging["head"]["trajectory_dimensions"] > 0).all())
        return kind == "cartesian" or (kind == "epi" and (self.readout is not None or not has_trajectory))


def scan_from_acquisitions(
    acquisitions: Acquisitions, path: Path, kind: str, select: Mapping[str, int | str], companions: Companions
) -> CartesianScan | NonCartesianScan:
    """Build a Cartesian scan, or a non-Cartesian one if the acquisitions are not Cartesian or a trajectory is given.

    Args:
        acquisitions: acquisitions of one contrast, phase, repetition and set.
        path: path of the file.
        kind: name of the file's format.
        select: selected values by name, recorded in the attributes.
        companions: trajectory and matrix, if given.

    Raises:
        InputError: if the acquisitions fit neither.
    """
    if acquisitions.is_cartesian and companions.trajectory is None:
        kspace, mask, stored = on_grid(acquisitions, path, select)
        return cartesian_scan(path, kind, kspace=kspace, mask=mask, stored=stored)
    given = None if companions.trajectory is None else trajectory_array(companions.trajectory)
    arrays, matrix, stored = along_trajectory(acquisitions, path, select=select, trajectory=given)
    scan = noncartesian_scan(
        path, kind, arrays=arrays, matrix=matrix if companions.matrix is None else companions.matrix, stored=stored
    )
    return replace(scan, geometry=scan.geometry.on_matrix(matrix[-len(scan.matrix) :], scan.matrix))


def _signs(scan: Acquisitions) -> tuple[int, int, int]:
    """Direction of the inverse-transformed image along phase, readout and slice: 1, or -1 if reversed.

    By the ISMRMRD convention, a point at r has samples exp(-2 pi i k r). In Siemens data the samples are exp(+2 pi i k r) for the
    directions in the scanner's headers, so a forward transform gives the image (PTB-MR/mrpro, issue 828 and pull request 833;
    ismrmrd_to_nifti also negates the directions). The inverse transform reverses the image along every encoded axis, including
    the partitions of a 3-D scan; the slices of a 2-D scan, whose positions are recorded, are not encoded. The samples are
    unchanged, only the affine is negated: voxel n // 2 lies at the recorded position in either case.
    """
    if not scan.siemens:
        return 1, 1, 1
    return -1, -1, -1 if scan.shape[2] > 1 else 1


def flags_of(heads: np.ndarray) -> np.ndarray:
    """The flags of acquisitions, as 64 bits."""
    return heads["flags"].astype(np.uint64)


def _noise(scan: Acquisitions, averages: int) -> np.ndarray | None:
    """Noise scan ``(coils, n)``, scaled to the dwell time and averages of the data.

    A noise scan with another number of coils is returned unchanged; the common check of noise scans reports it.
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
    dwell, noise_dwell = (float(r["head"]["sample_time_us"][0]) for r in (scan.imaging, scan.noise))
    scale = np.sqrt((noise_dwell / dwell if dwell > 0 and noise_dwell > 0 else 1.0) / averages)
    return (np.concatenate(parts, axis=1) * scale).astype(np.complex64)


def saturation_warnings(rows: np.ndarray, path: Path) -> tuple[str, ...]:
    """Warning if the receiver was saturated: several samples of a coil share its largest real or imaginary part.

    Continuous signals reach their largest value once. At least 4 samples must share it, and at most 5 % of all, since simulated
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
    saturated = np.flatnonzero((count >= 4) & (count <= 0.05 * total) & (top > 100 * least))
    if not len(saturated):
        return ()
    names = ", ".join(map(str, saturated[:8])) + (", ..." if len(saturated) > 8 else "")
    return (
        f"{path}: the receiver seems saturated (coil {names} has {count[saturated].max()} samples of exactly its largest value, "
        f"{top[saturated].max():.4g}), so contrast may be wrong; measure again with less gain",
    )


def refuse_multiband(bands: int, path: Path) -> None:
    """Refuse simultaneously excited slices, which overlap until they are unfolded.

    Raises:
        InputError: for more than one band.
    """
    if bands > 1:
        raise InputError(
            f"{path}: {bands} slices were excited at once (simultaneous multi-slice), which is not supported; reconstruct it "
            "with the vendor's pipeline"
        )


def _correct_epi(scan: Acquisitions, path: Path) -> Acquisitions:
    """Resample EPI lines uniformly and correct their direction and phase; other scans are returned unchanged.

    Raises:
        InputError: for EPI whose gradient is not described or does not fit the lines.
    """
    described, reverse = scan.readout is not None, (flags_of(scan.imaging["head"]) & np.uint64(REVERSE)) > 0
    if scan.kind.lower() == "epi" and not described:
        raise InputError(
            f"{path}: the trajectory is EPI, but the header does not describe the readout gradient, so samples on its ramps "
            "would be misplaced; reconstruct it with the vendor's or another EPI pipeline, e.g. Gadgetron"
        )
    both = bool(reverse.any() and not reverse.all())
    coils = scan.imaging["head"]["active_channels"][0]
    navigators = scan.navigators if both and scan.navigators is not None else scan.imaging[:0]
    navigators = navigators[navigators["head"]["active_channels"] == coils]
    notes, warnings, extra = dict(scan.notes), scan.warnings, scan.calibration
    # Reference lines in one direction only are not EPI.
    one_way_reference = both and len(extra) > 0 and not (flags_of(extra["head"]) & np.uint64(REVERSE)).any()
    if one_way_reference and described:
        warnings += (f"{path}: its reference lines were not acquired with EPI like the image and are ignored",)
    gain, uncorrected = 1.0, len(scan.imaging) if both else 0
    rows = scan.imaging, extra
    if described or len(navigators):
        args = navigators, scan.readout, scan.shape[0], scan.readout_size, scan.fov[0], scan.siemens
        try:
            imaging, n_uncorrected, gain = correct_epi(scan.imaging, *args)
            if not one_way_reference:
                extra = correct_epi(extra, *args).rows
            elif described:
                extra = extra[:0]
        except ValueError as error:
            raise InputError(
                f"{path}: its EPI lines cannot be resampled to the grid ({one_line(error)}); reconstruct it with the vendor's or "
                "another EPI pipeline, e.g. Gadgetron"
            ) from error
        rows, uncorrected = (imaging, extra), n_uncorrected if both else 0
        notes |= {"ramps": "resampled"} if described else {}
        notes |= {"readout directions": "phase corrected"} if both and not uncorrected else {}
    if uncorrected:
        warnings += (
            f"{path}: {uncorrected} lines measured in both readout directions were not phase corrected, since there are no phase "
            "correction scans in both directions; the image may show ghosts half a field of view away",
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


def on_grid(scan: Acquisitions, path: Path, select: Mapping[str, int | str]) -> tuple[np.ndarray, np.ndarray, Stored]:
    """Cartesian k-space ``(slices, coils, y, x)``, its mask, and the other data of the scan.

    Lines are sorted by their counters, averages are averaged, reversed lines flipped, and partial lines (partial Fourier, partial
    echo) put at their position. EPI lines are resampled and phase corrected first, see :mod:`medrecon.formats.epi`; other service
    scans are ignored, and calibration lines are used where nothing else was measured.
    Readout oversampling is removed if readouts are complete. Rows are the readout, columns the first phase encoding.
    A 3-D scan is transformed along the readout: its slices are readout positions, rows and columns the two phase encodings.
    Noise scans are scaled to the dwell time and averages of the data; the affine is RAS for the axes x, y and slice.

    Raises:
        InputError: for lines that do not fit the matrix, several slabs, and EPI that cannot be resampled to the grid.
    """
    saturated = saturation_warnings(scan.imaging, path)
    scan = _correct_epi(scan, path)
    scan = scan._replace(warnings=scan.warnings + saturated)
    imaging, extra, shape, fov = scan.imaging, scan.calibration, scan.shape, scan.fov
    pixel = fov[0] / shape[0], fov[1] / shape[1]
    order, affine, reason = _geometry(imaging["head"], pixel, thickness=fov[2] / shape[2], signs=_signs(scan))
    kspace, count, read = _on_grid(imaging, shape, centres=scan.centres, order=order, path=path)
    alike = np.isin(extra["head"]["idx"]["slice"], order) & (extra["head"]["active_channels"] == kspace.shape[1])
    if len(extra := extra[alike]):
        calibration, times, _ = _on_grid(extra, shape, centres=scan.centres, order=order, path=path)
        fill = (count == 0) & (times > 0)
        calibration *= fill[:, None, None]
        kspace += calibration
        count += fill
    shots = _shot_labels(imaging, extra, shape=shape, centres=scan.centres)
    averages = int(np.median(count[count > 0]))
    columns = np.any(count > 0, axis=0)  # (y, z)
    n_readout = scan.readout_size if read.all() and 1 <= scan.readout_size <= shape[0] else shape[0]
    if shape[2] == 1:
        shots = None if shots is None else shots[:, 0]
        kspace, mask = _slices(kspace[..., 0], read, columns=columns[:, 0], n_readout=n_readout)
        centre = shape[1] // 2, n_readout // 2, 0
        spacing = (float(np.linalg.norm(affine[:3, 2])) if affine is not None else fov[2], *pixel)
    else:
        _check_slab(len(order), read, path)
        scan = scan._replace(warnings=scan.warnings + _readout_warnings(kspace[0], n_readout, path))
        kspace, mask = _positions(kspace[0], n_readout), columns
        if affine is not None:  # axes x, y, slice: second encoding, first encoding, readout
            affine = affine[:, [2, 0, 1, 3]]
        centre = shape[2] // 2, shape[1] // 2, n_readout // 2
        spacing = (pixel[0], pixel[1], fov[2] / shape[2])
    return (
        kspace,
        mask,
        _stored(
            scan,
            {"averages": averages, **select},
            placement=_Placement(spacing=spacing, affine=affine, centre=centre, reason=reason),
            averages=averages,
            shots=shots,
        ),
    )


def _shot_labels(
    imaging: np.ndarray, extra: np.ndarray, shape: tuple[int, int, int], centres: tuple[int, int]
) -> np.ndarray | None:
    """Shot of every line, ``(y, z)``, -1 where not sampled, by the segment counter; calibration lines are a shot of their own.

    ``None`` if there is one segment, if a line was measured in several, or for EPI, whose segment is the readout's direction.
    """
    segments = imaging["head"]["idx"]["segment"].astype(int)
    reverse = (flags_of(imaging["head"]) & np.uint64(REVERSE)) > 0
    if len(np.unique(segments)) < 2 or reverse.any():
        return None
    labels = np.full(shape[1:], -1)
    for rows, shots in ((imaging, segments), (extra, np.full(len(extra), segments.max() + 1))):
        index = rows["head"]["idx"]
        y, z = (
            index[f"kspace_encode_step_{axis}"].astype(int) - centres[axis - 1] + shape[axis] // 2 for axis in (1, 2)
        )
        free = labels[y, z] < 0
        if rows is imaging:
            labels[y, z] = shots
            if (labels[y, z] != shots).any():
                return None
        else:
            labels[y[free], z[free]] = shots[free]
    return labels


class _Placement(NamedTuple):
    """Position of the image in the patient.

    Args:
        spacing: voxel size ``(z, y, x)`` in mm.
        affine: RAS affine for the indices (x, y, slice) counted from ``centre``, or ``None``.
        centre: indices (x, y, slice) of the recorded position.
        reason: reason why there is no affine, or empty.
    """

    spacing: tuple[float, float, float]
    affine: np.ndarray | None
    centre: tuple[int, int, int]
    reason: str


def _stored(
    scan: Acquisitions,
    facts: Mapping[str, str | float],
    placement: _Placement,
    averages: int,
    shots: np.ndarray | None = None,
) -> Stored:
    """Data of a scan other than its samples."""
    affine = placement.affine
    if affine is not None:
        affine[:3, 3] -= affine[:3, :3] @ np.array(placement.centre)
    attributes: dict[str, str | float] = {**facts, **scan.notes}
    if placement.reason:
        attributes["orientation"] = f"unknown: {placement.reason}"
    return Stored(
        noise=_noise(scan, averages),
        shots=shots,
        geometry=Geometry(placement.spacing, affine),
        header=scan.header,
        attributes=attributes,
        warnings=scan.warnings,
    )


def _slices(kspace: np.ndarray, read: np.ndarray, columns: np.ndarray, n_readout: int) -> tuple[np.ndarray, np.ndarray]:
    """2-D k-space ``(slices, coils, x, y)`` without readout oversampling, and its mask."""
    ny = kspace.shape[-1]
    kspace = crop_field_of_view(kspace, read[:, None] & columns, (n_readout, ny))
    return kspace, columns if read.all() else read[:, None] & columns


def _check_slab(slabs: int, read: np.ndarray, path: Path) -> None:
    """Refuse 3-D scans of several slabs or with partial echoes.

    Raises:
        InputError: for either.
    """
    if slabs > 1:
        raise InputError(f"{path}: holds {slabs} 3-D slabs; export one of them alone")
    if not read.all():
        raise InputError(f"{path}: a 3-D scan with partial echoes is not supported; export it with complete readouts")


def _positions(slab: np.ndarray, n_readout: int) -> np.ndarray:
    """K-space ``(positions, coils, y, z)`` at the central ``n_readout`` positions along the readout of ``(coils, x, y, z)``."""
    first = slab.shape[1] // 2 - n_readout // 2
    out = np.empty((n_readout, len(slab), *slab.shape[2:]), np.complex64)
    for coil, kspace in enumerate(slab):
        # In double precision: samples that single precision rounds to exactly 0 would count as not measured.
        out[:, coil] = from_kspace(kspace.astype(np.complex128), (0,))[first : first + n_readout]
    return out


def _readout_warnings(kspace: np.ndarray, n_readout: int, path: Path) -> tuple[str, ...]:
    """Warning if the energy of ``(coils, x, y, z)`` peaks several samples away from the middle of the readout.

    The other axes are checked by :func:`medrecon.formats.centre.centre_warnings` when the file is read, after the readout of a
    3-D scan has been transformed. The distance counts in samples without oversampling, ``n_readout`` per readout.
    """
    energy = np.asarray(sum((np.abs(coil).astype(np.float64) ** 2).sum(axis=(1, 2)) for coil in kspace))
    n, offset = len(energy), peak_offset(energy)
    if offset is None or abs(offset) * n_readout < SEVERAL * n:
        return ()
    return (
        f"{path}: the energy of k-space peaks at sample {n // 2 + offset} of {n} along the readout (sample {n // 2} is used as "
        "the centre); if the peak is the true centre, correct center_sample of the acquisitions",
    )


def along_trajectory(
    scan: Acquisitions, path: Path, select: Mapping[str, int | str], trajectory: np.ndarray | None = None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, ...], Stored]:
    """Samples and their trajectory, the image matrix, and the other data of the scan.

    Image rows are the phase direction, columns the read direction. Averages and interleaves both count as shots.

    Args:
        scan: acquisitions of one contrast, phase, repetition and set.
        path: path of the file.
        select: selected values by name, recorded in the attributes.
        trajectory: ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), if the file has none.

    Raises:
        InputError: if the trajectory is missing or does not fit.
    """
    heads, shape = scan.imaging["head"], scan.shape
    if trajectory is not None:
        flat = trajectory.ndim > 1 and (trajectory.shape[-1] == 2 or not np.any(trajectory[..., 0]))
        if not flat and shape[2] == 1:
            raise InputError(f"{path}: the trajectory has three coordinates, but the scan is 2-D; give (ky, kx)")
        shape = (*shape[:2], 1) if flat else shape
    axes = 3 if shape[2] > 1 else 2
    pixel = scan.fov[0] / shape[0], scan.fov[1] / shape[1]
    order, affine, reason = _geometry(heads, pixel, thickness=scan.fov[2] / shape[2], signs=_signs(scan))
    samples, recorded = _shots(scan, order, axes=axes, path=path, given=trajectory is not None)
    if trajectory is not None:
        points = np.broadcast_to(trajectory, (len(order), *trajectory.shape))
    elif recorded is not None:
        points = recorded[..., ::-1]  # kx is the last axis of an image
        if np.abs(points).max() <= 0.5 * (1 + 1e-3):  # cycles per pixel, as most programs write
            points = points * np.array(shape[:axes][::-1])
    else:
        raise InputError(
            f"{path}: the trajectory is {scan.kind}, not Cartesian, and is not in the file; give one "
            f"(shots, readout, {axes}) in cycles per field of view to LoadNonCartesiand"
        )
    thickness = scan.fov[2] / shape[2]
    if axes == 2:
        thickness = float(np.linalg.norm(affine[:3, 2])) if affine is not None else scan.fov[2]
    if affine is not None:
        affine = affine[:, [1, 0, 2, 3]]  # x is the read direction
    placement = _Placement(
        spacing=(thickness, pixel[1], pixel[0]),
        affine=affine,
        centre=(shape[0] // 2, shape[1] // 2, shape[2] // 2 if axes == 3 else 0),
        reason=reason,
    )
    scan = scan._replace(warnings=scan.warnings + _uncorrected_warnings(scan, path))
    stored = _stored(scan, {"trajectory": scan.kind, **select}, placement=placement, averages=1)
    return (samples, points), tuple(int(n) for n in shape[:axes][::-1]), stored


def _shots(
    scan: Acquisitions, order: np.ndarray, axes: int, path: Path, given: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples ``(slices, coils, shots, readout)`` and their recorded k-space positions ``(slices, shots, readout, axes)``.

    The positions are ``None`` if a trajectory is ``given`` instead, or if none are recorded.

    Raises:
        InputError: if readouts, slices or trajectories do not match.
    """
    heads = scan.imaging["head"]
    coils = int(heads["active_channels"][0])
    lengths = {(int(h["number_of_samples"]), int(h["discard_pre"]), int(h["discard_post"])) for h in heads}
    if len(lengths) > 1:
        raise InputError(f"{path}: readouts differ in length; export one scan")
    total, before, after = next(iter(lengths))
    readout = slice(before, total - after)
    samples, points = [], []
    for number in order:
        rows = scan.imaging[heads["idx"]["slice"] == number]
        steps = rows["head"]["idx"]
        rows = rows[np.lexsort((steps["kspace_encode_step_1"], steps["kspace_encode_step_2"]))]
        samples.append(np.stack([r.view(np.complex64).reshape(coils, total)[:, readout] for r in rows["data"]], axis=1))
        sizes = set(rows["head"]["trajectory_dimensions"].tolist())
        if sizes == {0} or given:
            continue
        if len(sizes) > 1 or (size := sizes.pop()) < axes:
            raise InputError(
                f"{path}: trajectories have {sorted(sizes)} coordinates, but the image {axes} axes; convert it again"
            )
        points.append(np.stack([t.reshape(total, size)[readout, :axes] for t in rows["traj"]]))
    if len({part.shape for part in samples}) > 1:
        raise InputError(f"{path}: slices differ in their number of shots; export one scan")
    return np.stack(samples), np.stack(points) if points else None


def _uncorrected_warnings(scan: Acquisitions, path: Path) -> tuple[str, ...]:
    """Warning if lines in both readout directions are not phase corrected."""
    backward = (flags_of(scan.imaging["head"]) & np.uint64(REVERSE)) > 0
    if scan.navigators is None or not len(scan.navigators) or not backward.any() or backward.all():
        return ()
    return (
        f"{path}: its lines were measured in both readout directions, and phase correction scans are not supported for "
        "non-Cartesian data; the image may show ghosts",
    )
