"""Check of the k-space centre: the energy should peak near the centre that is used."""

from __future__ import annotations

import numpy as np

__all__ = ["SEVERAL", "centre_warnings", "line_energies", "peak_offset"]

SEVERAL = 4
"""Distance in lines between the centre that is used and the peak from which a warning is given."""
_CLEAR, _ABOVE_NOISE, _MIRRORED = 3.0, 4.0, 0.3


def line_energies(kspace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy of every row and of every column of ``(slices, coils, y, x)``, over all coils and slices, ``(y,)`` and ``(x,)``."""
    rows, columns = np.zeros(kspace.shape[-2]), np.zeros(kspace.shape[-1])
    for coils in kspace:  # slice by slice, in double precision: squares of very large and very small numbers
        energy = (np.abs(coils).astype(np.float64) ** 2).sum(axis=0)
        rows += energy.sum(axis=1)
        columns += energy.sum(axis=0)
    return rows, columns


def peak_offset(energy: np.ndarray) -> int | None:
    """Offset in lines of a clear energy peak from the centre ``n // 2``, if it is at least :data:`SEVERAL` lines away.

    The energies ``(n,)``, 0 where nothing was measured, are smoothed over three neighbouring measured lines. A peak is clear if
    it is at least four lines away (echoes that are a few samples early or late, and a linear image phase of a line or two, are
    normal), has three times the energy of the lines around the centre (the nearest measured ones), has four times the energy of
    the median line (so that noise has no peak), and has no counterpart on the other side of the centre, as for objects without a
    mean.

    Returns:
        The offset in lines, at least ``-(n // 2)``, or ``None``.
    """
    n, centre = len(energy), len(energy) // 2
    measured = energy > 0
    if n < 2 * SEVERAL or not measured.any():
        return None
    total = sum(weight * np.roll(energy, step) for weight, step in ((1, -1), (2, 0), (1, 1)))
    count = sum(weight * np.roll(measured.astype(float), step) for weight, step in ((1, -1), (2, 0), (1, 1)))
    smooth = np.where(measured, total / np.maximum(count, 1), 0.0)
    peak = int(smooth.argmax())
    away = np.abs(np.arange(n) - centre)
    before, after = np.flatnonzero(measured[: centre + 1]), np.flatnonzero(measured[centre:])
    near = away <= 1
    near[before[-1:]], near[centre + after[:1]] = True, True
    if away[peak] < SEVERAL or near[peak]:
        return None
    if smooth[peak] < _CLEAR * smooth[near].max() or smooth[peak] < _ABOVE_NOISE * np.median(smooth[measured]):
        return None
    mirror = np.arange(2 * centre - peak - 1, 2 * centre - peak + 2) % n
    if min(peak, n - peak) >= SEVERAL and smooth[mirror].max() > _MIRRORED * smooth[peak]:
        return None  # the two sides meet near the edge, where uncentred data have their centre
    return peak - centre


def _describe_peak(name: str, n: int, offset: int) -> str:
    """Position of the peak and of the centre that is used."""
    return f"{name} {n // 2 + offset} of {n} ({name} {n // 2} is used as the centre)"


def centre_warnings(kspace: np.ndarray, name: str, kind: str) -> tuple[str, ...]:
    """Warning if the energy of ``(slices, coils, y, x)`` peaks several lines away from index ``n // 2``.

    Args:
        kspace: k-space, zero where not measured.
        name: name of the file, with which the warning begins.
        kind: format of the file, which determines the advice.
    """
    lines = zip(("row", "column"), line_energies(kspace), strict=True)
    found = [(axis, len(energy), offset) for axis, energy in lines if (offset := peak_offset(energy)) is not None]
    if not found:
        return ()
    where = " and ".join(_describe_peak(*peak) for peak in found)
    in_corner = all(min(n // 2 + offset, n - n // 2 - offset) <= 2 for _, n, offset in found)
    if kind == "ISMRMRD":
        advice = (
            "if that is the true centre, correct it in the file: center_sample for the readout, for lines 'center' of the "
            "header's encodingLimits, or idx.user[5] and [6] of a Siemens scan"
        )
    elif kind == "Siemens twix":
        advice = (
            "if that is the true centre, convert the file with siemens_to_ismrmrd and correct center_sample (for the readout) or "
            "idx.user[5] and [6] (for lines) there"
        )
    elif in_corner:
        axes = " and ".join({"row": "-2", "column": "-1"}[axis] for axis, *_ in found)
        advice = f"k-space seems to be uncentred; apply numpy.fft.fftshift along axis {axes} and save it again"
    else:
        advice = "if that is the true centre, move it to index n // 2 with numpy.roll and save the file again"
    return (f"{name}: the energy of k-space peaks at {where}; {advice}",)
