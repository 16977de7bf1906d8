"""Acquisitions of a scanner, sorted onto a grid or along their trajectory, with their position in the patient.

The rows are those of the ISMRMRD format's own table, whatever file they come from.
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
from medrecon.formats.epi import REVERSE, Readout, straightened
from medrecon.formats.limits import check_claim
from medrecon.formats.noncartesian import noncartesian_scan, trajectory_array
from medrecon.formats.stored import Stored

__all__ = [
    "COUNTERS",
    "Acquisitions",
    "along_trajectory",
    "calibration_of",
    "chosen",
    "flags_of",
    "on_grid",
    "refuse_multiband",
    "scan_of",
]

COUNTERS = ("contrast", "phase", "repetition", "set")
"""What may be measured several times over, and has to be chosen."""


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
    return numbers[order], lps_to_ras(affine), ""


def chosen(
    heads: np.ndarray,
    select: Mapping[str, int | str],
    path: Path,
    also: tuple[str, ...] = (),
    frames: str | None = None,
) -> np.ndarray:
    """True for acquisitions of the one contrast, phase, repetition and set that is asked for.

    Args:
        heads: of acquisitions.
        select: what is asked for.
        path: of the file.
        also: names of what else could be selected and was, elsewhere.
        frames: axis of which all are kept.

    Raises:
        InputError: if there is none, or one must be selected.
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
    kspace /= np.maximum(count, 1)[:, None, None]
    return kspace, count, read


def calibration_of(imaging: np.ndarray, extra: np.ndarray, frames: str | None = None) -> np.ndarray:
    """Those calibration lines that may fill gaps of the images: of the same encoding, contrast and set.

    Of several phases or repetitions those of the image, where they were measured; of the axis of ``frames`` all.
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

    @property
    def is_cartesian(self) -> bool:
        """Whether lines lie on a grid; those of EPI do once they are resampled, unless each brings a trajectory instead."""
        kind, own = self.kind.lower(), bool((self.imaging["head"]["trajectory_dimensions"] > 0).all())
        return kind == "cartesian" or (kind == "epi" and (self.readout is not None or not own))


def scan_of(
    acquisitions: Acquisitions, path: Path, kind: str, select: Mapping[str, int | str], companions: Companions
) -> CartesianScan | NonCartesianScan:
    """The scan of acquisitions: on the grid if they are Cartesian, otherwise (or with a given trajectory) along it.

    Args:
        acquisitions: of one contrast, phase, repetition and set.
        path: of the file.
        kind: name of its format.
        select: what was selected, for the attributes.
        companions: trajectory and matrix, if given.

    Raises:
        InputError: for what fits neither.
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


def flags_of(heads: np.ndarray) -> np.ndarray:
    """The flags of acquisitions, as 64 bits."""
    return heads["flags"].astype(np.uint64)


def _noise(scan: Acquisitions, averages: int) -> np.ndarray | None:
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


def _straightened(scan: Acquisitions, path: Path) -> Acquisitions:
    """Lines of EPI as if all had been sampled evenly and forward; other scans as they are.

    Raises:
        InputError: for EPI whose gradient is not described, or does not fit the lines.
    """
    described, reverse = scan.readout is not None, (flags_of(scan.imaging["head"]) & np.uint64(REVERSE)) > 0
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
    other = both and len(extra) > 0 and not (flags_of(extra["head"]) & np.uint64(REVERSE)).any()
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
                f"{path}: EPI that cannot be brought onto the grid ({one_line(error)}); reconstruct it with the vendor's or "
                "another EPI pipeline, e.g. Gadgetron"
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


def on_grid(scan: Acquisitions, path: Path, select: Mapping[str, int | str]) -> tuple[np.ndarray, np.ndarray, Stored]:
    """Cartesian k-space ``(slices, coils, y, x)``, its mask, and the rest of a scan.

    Lines are sorted by their counters, averages averaged, reversed ones turned round, and partial ones (Fourier or echo) placed
    where they belong. Lines of EPI are resampled and phase corrected first, see :mod:`medrecon.formats.epi`; other service scans
    are left out, and calibration lines count where nothing else was measured.
    The readout's oversampling is cut off where the readout is whole. Rows are the readout, columns the first phase encoding.
    A 3-D scan is transformed along the readout: its slices are the positions there, rows and columns the two encodings.
    Noise scans are scaled to the dwell time and averages of the data; the affine is RAS, of the axes x, y and slice.

    Raises:
        InputError: for lines that do not fit the matrix, several slabs, and EPI that cannot be brought onto the grid.
    """
    saturated = clipped(scan.imaging, path)
    scan = _straightened(scan, path)
    scan = scan._replace(warnings=scan.warnings + saturated)
    imaging, extra, shape, field = scan.imaging, scan.calibration, scan.shape, scan.field
    pixel = field[0] / shape[0], field[1] / shape[1]
    order, affine, why = _geometry(imaging["head"], pixel, thickness=field[2] / shape[2], signs=_signs(scan))
    kspace, count, read = _on_grid(imaging, shape, centres=scan.centres, order=order, path=path)
    alike = np.isin(extra["head"]["idx"]["slice"], order) & (extra["head"]["active_channels"] == kspace.shape[1])
    if len(extra := extra[alike]):
        more, times, _ = _on_grid(extra, shape, centres=scan.centres, order=order, path=path)
        fill = (count == 0) & (times > 0)
        more *= fill[:, None, None]
        kspace += more
        count += fill
    averages = int(np.median(count[count > 0]))
    columns = np.any(count > 0, axis=0)  # (y, z)
    kept = scan.kept if read.all() and 1 <= scan.kept <= shape[0] else shape[0]
    if shape[2] == 1:
        kspace, mask = _slices(kspace[..., 0], read, columns=columns[:, 0], kept=kept)
        middles = shape[1] // 2, kept // 2, 0
        spacing = (float(np.linalg.norm(affine[:3, 2])) if affine is not None else field[2], *pixel)
    else:
        _check_slab(len(order), read, path)
        scan = scan._replace(warnings=scan.warnings + _readout_warnings(kspace[0], kept, path))
        kspace, mask = _positions(kspace[0], kept), columns
        if affine is not None:  # axes x, y, slice: second encoding, first encoding, readout
            affine = affine[:, [2, 0, 1, 3]]
        middles = shape[2] // 2, shape[1] // 2, kept // 2
        spacing = (pixel[0], pixel[1], field[2] / shape[2])
    return (
        kspace,
        mask,
        _stored(
            scan,
            {"averages": averages, **select},
            place=_Place(spacing=spacing, affine=affine, middles=middles, unknown=why),
            averages=averages,
        ),
    )


class _Place(NamedTuple):
    """Where the image is.

    Args:
        spacing: voxel size ``(z, y, x)`` in mm.
        affine: RAS, of the axes x, y and slice, counted from ``middles``, or ``None``.
        middles: indices (x, y, slice) at the recorded position.
        unknown: why there is no affine, or empty.
    """

    spacing: tuple[float, float, float]
    affine: np.ndarray | None
    middles: tuple[int, int, int]
    unknown: str


def _stored(scan: Acquisitions, facts: Mapping[str, str | float], place: _Place, averages: int) -> Stored:
    """What a scan has besides its samples."""
    affine = place.affine
    if affine is not None:
        affine[:3, 3] -= affine[:3, :3] @ np.array(place.middles)
    attributes: dict[str, str | float] = {**facts, **scan.notes}
    if place.unknown:
        attributes["orientation"] = f"unknown: {place.unknown}"
    return Stored(
        noise=_noise(scan, averages),
        geometry=Geometry(place.spacing, affine),
        header=scan.header,
        attributes=attributes,
        warnings=scan.warnings,
    )


def _slices(kspace: np.ndarray, read: np.ndarray, columns: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """2-D k-space ``(slices, coils, x, y)`` without the readout's oversampling, and its mask."""
    ny = kspace.shape[-1]
    kspace = crop_field_of_view(kspace, read[:, None] & columns, (kept, ny))
    return kspace, columns if read.all() else read[:, None] & columns


def _check_slab(slabs: int, read: np.ndarray, path: Path) -> None:
    """Refuse several slabs, and partial echoes.

    Raises:
        InputError: for these.
    """
    if slabs > 1:
        raise InputError(f"{path}: holds {slabs} 3-D slabs; export one of them alone")
    if not read.all():
        raise InputError(
            f"{path}: holds a 3-D scan with partial echoes, which is not supported; export it with whole readouts"
        )


def _positions(slab: np.ndarray, kept: int) -> np.ndarray:
    """K-space ``(positions, coils, y, z)`` of the ``kept`` positions along the readout of ``(coils, x, y, z)``."""
    first = slab.shape[1] // 2 - kept // 2
    out = np.empty((kept, len(slab), *slab.shape[2:]), np.complex64)
    for coil, one in enumerate(slab):
        # In double precision: what single rounds to exactly 0 would count as not measured.
        out[:, coil] = from_kspace(one.astype(np.complex128), (0,))[first : first + kept]
    return out


def _readout_warnings(kspace: np.ndarray, kept: int, path: Path) -> tuple[str, ...]:
    """A sentence where the energy of ``(coils, x, y, z)`` peaks several samples away from the middle of the readout.

    The other axes are seen to when the file is read, see :func:`medrecon.data.centre.centre_warnings`; the readout of a 3-D scan
    is an image by then. Samples count as those of the ``kept`` ones without oversampling.
    """
    energy = np.asarray(sum((np.abs(coil).astype(np.float64) ** 2).sum(axis=(1, 2)) for coil in kspace))
    n, offset = len(energy), peak_offset(energy)
    if offset is None or abs(offset) * kept < SEVERAL * n:
        return ()
    return (
        f"{path}: the energy of k-space peaks at sample {n // 2 + offset} of {n} of the readout (sample {n // 2} is taken as the "
        "centre); if that is the true centre, correct center_sample of its acquisitions",
    )


def along_trajectory(
    scan: Acquisitions, path: Path, select: Mapping[str, int | str], trajectory: np.ndarray | None = None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, ...], Stored]:
    """Samples and their trajectory, the matrix, and the rest of a scan.

    Rows of the image are the phase direction, columns the read direction. Averages and interleaves are shots alike.

    Args:
        scan: of one contrast, phase, repetition and set.
        path: of the file.
        select: what was selected, for the attributes.
        trajectory: ``(shots, readout, 2 or 3)`` in cycles per field of view, (ky, kx) or (kz, ky, kx), where the file holds none.

    Raises:
        InputError: where trajectories are missing or do not fit.
    """
    heads, shape = scan.imaging["head"], scan.shape
    if trajectory is not None:
        flat = trajectory.ndim > 1 and (trajectory.shape[-1] == 2 or not np.any(trajectory[..., 0]))
        if not flat and shape[2] == 1:
            raise InputError(f"{path}: the trajectory has three coordinates, but the scan is 2-D; give (ky, kx)")
        shape = (*shape[:2], 1) if flat else shape
    axes = 3 if shape[2] > 1 else 2
    pixel = scan.field[0] / shape[0], scan.field[1] / shape[1]
    order, affine, why = _geometry(heads, pixel, thickness=scan.field[2] / shape[2], signs=_signs(scan))
    samples, own = _shots(scan, order, axes=axes, path=path, given=trajectory is not None)
    if trajectory is not None:
        points = np.broadcast_to(trajectory, (len(order), *trajectory.shape))
    elif own is not None:
        points = own[..., ::-1]  # kx is the last axis of an image
        if np.abs(points).max() <= 0.5 * (1 + 1e-3):  # cycles per pixel, as most writers have it
            points = points * np.array(shape[:axes][::-1])
    else:
        raise InputError(
            f"{path}: the trajectory is {scan.kind}, not Cartesian, and the file holds no trajectory; give one "
            f"(shots, readout, {axes}) in cycles per field of view to LoadNonCartesiand"
        )
    thick = scan.field[2] / shape[2]
    if axes == 2:
        thick = float(np.linalg.norm(affine[:3, 2])) if affine is not None else scan.field[2]
    if affine is not None:
        affine = affine[:, [1, 0, 2, 3]]  # x is the read direction
    place = _Place(
        spacing=(thick, pixel[1], pixel[0]),
        affine=affine,
        middles=(shape[0] // 2, shape[1] // 2, shape[2] // 2 if axes == 3 else 0),
        unknown=why,
    )
    scan = scan._replace(warnings=scan.warnings + _uncorrected(scan, path))
    stored = _stored(scan, {"trajectory": scan.kind, **select}, place=place, averages=1)
    return (samples, points), tuple(int(n) for n in shape[:axes][::-1]), stored


def _shots(
    scan: Acquisitions, order: np.ndarray, axes: int, path: Path, given: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples ``(slices, coils, shots, readout)`` and their points ``(slices, shots, readout, axes)``, as the rows hold them.

    The points are ``None`` where a trajectory is ``given`` instead, or where there are none.

    Raises:
        InputError: for readouts, slices or trajectories that do not go together.
    """
    heads = scan.imaging["head"]
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
        if sizes == {0} or given:
            continue
        if len(sizes) > 1 or (size := sizes.pop()) < axes:
            raise InputError(
                f"{path}: trajectories of {sorted(sizes)} coordinates for an image of {axes} axes; convert it again"
            )
        points.append(np.stack([t.reshape(total, size)[readout, :axes] for t in rows["traj"]]))
    if len({part.shape for part in samples}) > 1:
        raise InputError(f"{path}: slices differ in their number of shots; export one scan")
    return np.stack(samples), np.stack(points) if points else None


def _uncorrected(scan: Acquisitions, path: Path) -> tuple[str, ...]:
    """A warning where lines of both readout directions stay without phase correction."""
    backward = (flags_of(scan.imaging["head"]) & np.uint64(REVERSE)) > 0
    if scan.navigators is None or not len(scan.navigators) or not backward.any() or backward.all():
        return ()
    return (
        f"{path}: its lines were measured in both readout directions, and its phase correction scans are not used off the "
        "grid; the image may show ghosts",
    )
