"""Dynamic scans: frames of the same slices combined into one scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan
from medrecon.formats.acquisitions import COUNTERS, Acquisitions, matching_calibration, scan_from_acquisitions
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.centre import centre_warnings
from medrecon.formats.companions import Companions
from medrecon.formats.stored import Stored

__all__ = ["check_axis", "frames_of_acquisitions", "frames_of_array"]


def check_axis(path: Path, axis: str, select: Mapping[str, object]) -> None:
    """Check that frames may lie along an axis, and that no value of it is selected.

    Raises:
        InputError: if not.
    """
    if axis not in COUNTERS:
        raise InputError(
            f"{path}: {axis!r} is not an axis of frames; choose {', '.join(COUNTERS[:-1])} or {COUNTERS[-1]}"
        )
    if axis in select:
        raise InputError(f"{path}: {axis} is the axis of the frames; leave it out of the selection (--select)")


def frames_of_acquisitions(
    acquisitions: Acquisitions, path: Path, kind: str, select: Mapping[str, int | str], axis: str
) -> DynamicScan:
    """Build a dynamic scan with one frame for every value of a counter.

    Args:
        acquisitions: acquisitions with all values of the counter.
        path: path of the file.
        kind: name of the file's format.
        select: selected values of the other counters.
        axis: counter of the frames: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: for fewer than two frames, and frames that are not Cartesian or differ in size or position.
    """
    numbers = acquisitions.imaging["head"]["idx"][axis]
    scans = []
    for number in np.unique(numbers):
        imaging = acquisitions.imaging[numbers == number]
        frame = acquisitions._replace(
            imaging=imaging, calibration=matching_calibration(imaging, acquisitions.calibration)
        )
        scan = scan_from_acquisitions(frame, path, kind=kind, select=select, companions=Companions())
        if not isinstance(scan, CartesianScan):
            raise InputError(
                f"{path}: the trajectory is {frame.kind}, but frames must be Cartesian; select one, e.g. {axis}={number}"
            )
        scans.append(scan)
    return _combine(path, scans, axis)


def frames_of_array(
    path: Path, kind: str, kspace: np.ndarray, mask: np.ndarray | None, axis: str, noise: object = None
) -> DynamicScan:
    """Build a dynamic scan from an array.

    Args:
        path: path of the file.
        kind: name of the file's format.
        kspace: ``(frames, slices, coils, y, x)``.
        mask: mask of all frames, ``(x,)`` or ``(y, x)``, or of each frame, ``(frames, y, x)``; ``None`` if it is not stored.
        axis: counter that distinguishes the frames.
        noise: noise scan ``(coils, n)`` or ``None``.

    Raises:
        InputError: as :func:`medrecon.formats.cartesian.cartesian_scan`, for other shapes and for a single frame.
    """
    if kspace.ndim != 5 or 0 in kspace.shape:
        raise InputError(f"{path}: k-space has shape {kspace.shape}; frames need (frames, slices, coils, y, x)")
    per_frame = mask is not None and mask.ndim == 3 and len(mask) == len(kspace)
    masks = [mask[k] if per_frame and mask is not None else mask for k in range(len(kspace))]
    stored = Stored(noise=noise)
    scans = [
        cartesian_scan(path, kind, kspace=frame, mask=frame_mask, stored=stored)
        for frame, frame_mask in zip(kspace, masks, strict=True)
    ]
    return _combine(path, scans, axis)


def _combine(path: Path, scans: Sequence[CartesianScan], axis: str) -> DynamicScan:
    """Combine frames into one scan.

    Raises:
        InputError: for fewer than two frames, or frames that differ in size or position.
    """
    if len(scans) < 2:
        raise InputError(f"{path}: holds only one {axis}; read it without frames")
    first = scans[0]
    for number, scan in enumerate(scans):
        if scan.kspace.shape != first.kspace.shape:
            raise InputError(
                f"{path}: frame {number} has shape {scan.kspace.shape}, but frame 0 {first.kspace.shape} (slices, coils, y, x); "
                f"select one {axis}"
            )
        if not _same_position(scan, first):
            raise InputError(f"{path}: frame {number} has a different position than frame 0; select one {axis}")
    kspace = np.stack([scan.kspace for scan in scans])
    if first.backing is not None:  # frames of a memory-mapped file, copied by np.stack
        first.backing.check()
    warnings = [text for scan in scans for text in scan.warnings]
    warnings += centre_warnings(kspace.reshape(-1, *kspace.shape[2:]), str(path), first.format)
    return DynamicScan(
        path=path,
        format=first.format,
        kspace=kspace,
        mask=np.stack([np.broadcast_to(scan.mask, scan.matrix) for scan in scans]),
        axis=axis,
        noise_scan=first.noise_scan,
        geometry=first.geometry,
        attributes=first.attributes,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _same_position(first: CartesianScan, second: CartesianScan) -> bool:
    """Whether two frames have the same affine, to a hundredth of a mm."""
    if first.affine is None or second.affine is None:
        return first.affine is None and second.affine is None
    return bool(np.allclose(first.affine, second.affine, atol=1e-2))
