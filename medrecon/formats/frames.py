"""Frames of the same slices, put together to one scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan
from medrecon.formats.acquisitions import COUNTERS, Acquisitions, calibration_of, scan_of
from medrecon.formats.cartesian import cartesian_scan
from medrecon.formats.centre import centre_warnings
from medrecon.formats.companions import Companions
from medrecon.formats.stored import Stored

__all__ = ["check_axis", "frames_of_acquisitions", "frames_of_array"]


def check_axis(path: Path, axis: str, select: Mapping[str, object]) -> None:
    """Refuse an axis that no frames lie along, or one that is selected as well.

    Raises:
        InputError: naming the axes.
    """
    if axis not in COUNTERS:
        raise InputError(f"{path}: frames cannot be of {axis!r}; choose {', '.join(COUNTERS[:-1])} or {COUNTERS[-1]}")
    if axis in select:
        raise InputError(f"{path}: {axis} is the axis of the frames; leave it out of the selection (--select)")


def frames_of_acquisitions(
    acquisitions: Acquisitions, path: Path, kind: str, select: Mapping[str, int | str], axis: str
) -> DynamicScan:
    """One frame for every value that acquisitions have of an axis.

    Args:
        acquisitions: of all values of the axis.
        path: of the file.
        kind: name of its format.
        select: what was selected besides.
        axis: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: for fewer than two frames, frames that are not Cartesian, or that differ in size or position.
    """
    numbers = acquisitions.imaging["head"]["idx"][axis]
    scans = []
    for number in np.unique(numbers):
        imaging = acquisitions.imaging[numbers == number]
        one = acquisitions._replace(imaging=imaging, calibration=calibration_of(imaging, acquisitions.calibration))
        scan = scan_of(one, path, kind=kind, select=select, companions=Companions())
        if not isinstance(scan, CartesianScan):
            raise InputError(
                f"{path}: the trajectory is {one.kind}, but frames are read on a Cartesian grid only; select one, e.g. "
                f"{axis}={number}"
            )
        scans.append(scan)
    return _together(path, scans, axis)


def frames_of_array(
    path: Path, kind: str, kspace: np.ndarray, mask: np.ndarray | None, axis: str, noise: object = None
) -> DynamicScan:
    """The frames of an array.

    Args:
        path: of the file.
        kind: name of its format.
        kspace: ``(frames, slices, coils, y, x)``.
        mask: of all frames, ``(x,)`` or ``(y, x)``, or one for each, ``(frames, y, x)``; ``None`` if it is not stored.
        axis: what a frame is.
        noise: noise scan ``(coils, n)`` or ``None``.

    Raises:
        InputError: as :func:`medrecon.formats.cartesian.cartesian_scan`, for other shapes and for a single frame.
    """
    if kspace.ndim != 5 or 0 in kspace.shape:
        raise InputError(f"{path}: k-space has shape {kspace.shape}; frames need (frames, slices, coils, y, x)")
    own = mask is not None and mask.ndim == 3 and len(mask) == len(kspace)
    masks = [mask[k] if own and mask is not None else mask for k in range(len(kspace))]
    stored = Stored(noise=noise)
    scans = [
        cartesian_scan(path, kind, kspace=one, mask=part, stored=stored)
        for one, part in zip(kspace, masks, strict=True)
    ]
    return _together(path, scans, axis)


def _together(path: Path, scans: Sequence[CartesianScan], axis: str) -> DynamicScan:
    """Frames as one scan.

    Raises:
        InputError: for fewer than two frames, or frames that differ in size or position.
    """
    if len(scans) < 2:
        raise InputError(f"{path}: holds one {axis}, so there are no frames; read it without frames")
    first = scans[0]
    for number, scan in enumerate(scans):
        if scan.kspace.shape != first.kspace.shape:
            raise InputError(
                f"{path}: frame {number} is {scan.kspace.shape}, but frame 0 {first.kspace.shape} (slices, coils, y, x); "
                f"select one {axis}"
            )
        if not _same_place(scan, first):
            raise InputError(f"{path}: frame {number} has another position than frame 0; select one {axis}")
    kspace = np.stack([scan.kspace for scan in scans])
    if first.backing is not None:  # of a large file, of which this is a copy
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


def _same_place(one: CartesianScan, other: CartesianScan) -> bool:
    """Whether two frames have the same affine, to a hundredth of a mm."""
    if one.affine is None or other.affine is None:
        return one.affine is None and other.affine is None
    return bool(np.allclose(one.affine, other.affine, atol=1e-2))
