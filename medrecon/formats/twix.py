"""Siemens raw data (twix, ``.dat``), parsed by twixtools and sorted like ISMRMRD acquisitions."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medrecon.data.errors import InputError, redacted
from medrecon.data.scan import CartesianScan, DynamicScan, NonCartesianScan
from medrecon.formats.acquisitions import (
    Acquisitions,
    matching_calibration,
    refuse_multiband,
    scan_from_acquisitions,
    select_acquisitions,
)
from medrecon.formats.companions import Companions
from medrecon.formats.epi import REVERSE, Readout
from medrecon.formats.frames import check_axis, frames_of_acquisitions
from medrecon.formats.limits import BoundedReader
from medrecon.formats.probe import never_raises

__all__ = ["KINDS", "SUFFIXES", "read", "read_frames", "sniff"]

SUFFIXES = (".dat",)
KINDS = (CartesianScan, NonCartesianScan)


_LARGEST = 2**15
"""Largest number of samples along an axis."""


@never_raises
def sniff(path: Path) -> bool:
    """Whether the last measurement of a file has the protocol of a Siemens scan."""
    if not path.is_file():
        return False
    with BoundedReader(str(path)) as file:
        _, spans = _measurements(file, path.stat().st_size)
        return "MeasYaps" in _buffers(file, *spans[-1])[1]


def read(
    path: Path, select: Mapping[str, int | str] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan:
    """Read Cartesian k-space, or samples along a given trajectory.

    See :func:`medrecon.formats.acquisitions.on_grid`. The last measurement of a file is the scan; noise scans of all measurements
    are used. Reference lines are used where nothing else was measured, phase correction scans for EPI; feedback and dummy scans
    are ignored.

    Args:
        path: path of the file.
        select: contrast (echo), phase, repetition or set, if there are several.
        companions: trajectory and matrix of a non-Cartesian scan, which the file does not record. The trajectory is in cycles per
            field of view of the protocol, without oversampling; the default matrix is the base resolution.

    Raises:
        InputError: without twixtools (an extra), and if the file cannot be read.
    """
    selection = dict(select or {})
    companions = companions or Companions()
    acquisitions = _acquisitions(path, selection, gridded=companions.trajectory is None)
    return scan_from_acquisitions(acquisitions, path, kind="Siemens twix", select=selection, companions=companions)


def read_frames(path: Path, select: Mapping[str, int | str] | None, axis: str) -> DynamicScan:
    """Read all frames along an axis: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: as :func:`read`, and for frames that differ in size or position.
    """
    selection = dict(select or {})
    check_axis(path, axis, selection)
    return frames_of_acquisitions(
        _acquisitions(path, selection, axis), path, kind="Siemens twix", select=selection, axis=axis
    )


_SERVICE = ("PHASCOR", "RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "SLICE_ACCEL_PHASCOR",
            "RETRO_DUMMYSCAN", "B1_CONTROLLOOP", "PACE")  # fmt: skip


_LONGEST = 2**26
"""Largest header of a measurement in bytes; scanners write 0.1 to 1 MB."""


def _measurements(file: BoundedReader, size: int) -> tuple[bool, list[tuple[int, int]]]:
    """Whether a file was written by software VD or later, and the start and end of its measurements.

    Raises:
        ValueError: if a measurement extends beyond the file.
    """
    first, second = struct.unpack("<II", file.read(8))
    if first >= 10000 or second > 64:
        return False, [(0, size)]
    spans = []
    for _ in range(second):
        _, _, start, length = struct.unpack("<IIQQ", file.read(152)[:24])
        if second == 1 and length == 0:
            length = size - start
        if not 0 < start < start + length <= size:
            raise ValueError("a measurement is cut off")
        spans.append((start, start + length))
    return True, spans


def _buffers(file: BoundedReader, start: int, end: int) -> tuple[int, dict[str, str]]:
    """Start of the data of a measurement, and the text buffers of its header by name.

    Raises:
        ValueError: if the header extends beyond the measurement.
    """
    file.seek(start)
    length, count = struct.unpack("<II", file.read(8))
    if not 8 <= length <= min(end - start, _LONGEST):
        raise ValueError("its header is cut off")
    block, at, buffers = file.read(length - 8), 0, {}
    for _ in range(min(count, 64)):
        match = re.compile(rb"(\w{4,64})\0(.{4})", re.DOTALL).search(block, at, at + 96)
        if match is None:
            break
        n = int.from_bytes(match[2], "little")
        buffers[match[1].decode("latin1")] = block[match.end() : match.end() + n].decode("latin1")
        at = match.end() + n
    return start + length, buffers


def _protocol(text: str) -> dict[str, str]:
    """Settings of a MeasYaps header, which has one ``name = value`` per line, by their full names."""
    _, begin, rest = text.partition("### ASCCONV BEGIN")
    body = rest.partition("### ASCCONV END")[0] if begin else ""
    pairs = (line.partition("=") for line in body.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _number(protocol: Mapping[str, str], name: str, default: float | None = None) -> float:
    """Number of the protocol by its name.

    Raises:
        ValueError: if it is missing (without ``default``) or not a finite number.
    """
    if name not in protocol:
        if default is None:
            raise ValueError(f"its protocol lacks {name}")
        return default
    value = protocol[name]
    number = float(int(value, 16)) if value.lower().startswith("0x") else float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a finite number")
    return number


def _parameter(text: str, name: str, default: float) -> float:
    """First number of an XProtocol parameter."""
    for kind in ("Long", "Double", "String"):
        _, found, rest = text.partition(f'<Param{kind}."{name}">')
        if not found:
            continue
        body = rest[:4096].lstrip()
        words = re.sub(r"<\w+>\s*[0-9]*", "", body[1:].partition("}")[0]).replace('"', " ").split()
        return float(words[0]) if words else default
    return default


def _blocks(file: BoundedReader, start: int, end: int, modern: bool) -> Iterator[Any]:
    """Data blocks of one measurement.

    Raises:
        ValueError: if a block extends beyond the measurement.
    """
    from twixtools.mdb import Mdb

    while start + 128 < end:
        file.seek(start)
        mdb = Mdb(file, modern)
        if mdb.is_flag_set("ACQEND"):
            return
        length = int(mdb.dma_len)
        if not 0 < length <= end - start:
            raise ValueError("a line is cut off")
        if not mdb.is_flag_set("SYNCDATA"):
            yield mdb
        start += length


def _rotation(quaternion: Sequence[float]) -> np.ndarray:
    """Matrix whose columns are the directions of phase encoding, readout and slice in LPS, as recorded by the scanner."""
    from twixtools.geometry import quat_to_rotmat

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the scalar comes first; directions from a quaternion whose norm is not 1 are checked later
        return quat_to_rotmat(*[float(q) for q in quaternion])


def _readout(meas: str, samples: int, path: Path) -> Readout | None:
    """Readout gradient, or ``None`` without ramp sampling.

    Raises:
        InputError: for a gradient with neither linear nor sinusoidal ramps.
    """
    mode = _parameter(meas, "alRegridMode", 1)
    if mode <= 1:
        return None
    if mode not in (2, 4):
        raise InputError(
            f"{path}: ramp-sampled EPI with this shape of the gradient ramps ({mode:g}) is not supported; reconstruct it with "
            "the vendor's or another EPI pipeline, e.g. Gadgetron"
        )
    up, flat, down, delay = (
        _parameter(meas, f"alRegrid{key}Time", 0) for key in ("Rampup", "Flattop", "Rampdown", "DelaySamples")
    )
    return Readout(
        ramp_up=up,
        flat_top=flat,
        ramp_down=down,
        delay=delay,
        dwell=_parameter(meas, "aflRegridADCDuration", 0) / max(samples, 1),
        sinusoidal=mode == 4,
    )


def _row(mdb: Any, dwell: float, dtype: np.dtype, at: int) -> np.ndarray:  # noqa: ANN401
    """Convert a data block to one row of the ISMRMRD table; ``at`` is its position in the file."""
    row = np.zeros(1, dtype)
    head, counter, place = row["head"], mdb.mdh.Counter, mdb.mdh.SliceData
    data = np.atleast_2d(mdb.data)
    head["number_of_samples"], head["active_channels"] = data.shape[1], data.shape[0]
    head["center_sample"], head["sample_time_us"] = mdb.mdh.CenterCol, dwell
    head["discard_pre"], head["discard_post"] = mdb.mdh.CutOff.Pre, mdb.mdh.CutOff.Post
    head["scan_counter"] = at
    head["flags"] = REVERSE if mdb.is_flag_set("REFLECT") else 0
    index = head["idx"]
    for key, value in (
        ("kspace_encode_step_1", counter.Lin), ("kspace_encode_step_2", counter.Par), ("slice", counter.Sli),
        ("contrast", counter.Eco), ("phase", counter.Phs), ("repetition", counter.Rep), ("set", counter.Set),
        ("average", counter.Ave),
    ):  # fmt: skip
        index[key] = value
    head["position"] = place.SlicePos.Sag, place.SlicePos.Cor, place.SlicePos.Tra
    axes = _rotation(place.Quaternion)
    head["phase_dir"], head["read_dir"], head["slice_dir"] = axes[:, 0], axes[:, 1], axes[:, 2]
    row["data"][0] = np.ascontiguousarray(data, np.complex64).view(np.float32).ravel()
    return row


def _table(rows: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *rows])


class _Lines(NamedTuple):
    """Lines of a file by purpose, as tables of one row, and the protocol of its last measurement.

    Args:
        imaging: imaging lines, each with its centre line and centre partition.
        reference: reference lines, used only where nothing else was measured.
        noise: noise scans.
        navigators: phase correction scans.
        protocol: settings by name.
        meas: text of the header buffer ``Meas``.
    """

    imaging: list[tuple[np.ndarray, int, int]]
    reference: list[np.ndarray]
    noise: list[np.ndarray]
    navigators: list[np.ndarray]
    protocol: Mapping[str, str]
    meas: str


def _lines(path: Path, dtype: np.dtype) -> _Lines:
    """Read all lines of a file.

    Raises:
        ValueError: if the file is damaged or cut off.
    """
    imaging, reference, noise, navigators = [], [], [], []
    protocol, meas = {}, ""
    with BoundedReader(str(path)) as file:
        modern, spans = _measurements(file, path.stat().st_size)
        for start, end in spans:
            first, buffers = _buffers(file, start, end)
            protocol, meas = _protocol(buffers.get("MeasYaps", "")), buffers.get("Meas", "")
            dwell = _number(protocol, "sRXSPEC.alDwellTime[0]", default=0.0) / 1000
            last = (start, end) == spans[-1]
            for at, mdb in enumerate(_blocks(file, first, end=end, modern=modern)):
                if mdb.is_flag_set("NOISEADJSCAN"):
                    noise.append(_row(mdb, dwell, dtype=dtype, at=at))
                elif last and mdb.is_flag_set("PHASCOR"):
                    navigators.append(_row(mdb, dwell, dtype=dtype, at=at))
                elif last and not any(mdb.is_flag_set(flag) for flag in _SERVICE):
                    row = _row(mdb, dwell, dtype=dtype, at=at)
                    if mdb.is_flag_set("PATREFSCAN") and not mdb.is_flag_set("PATREFANDIMASCAN"):
                        reference.append(row)
                    else:
                        imaging.append((row, int(mdb.mdh.CenterLin), int(mdb.mdh.CenterPar)))
    return _Lines(
        imaging=imaging, reference=reference, noise=noise, navigators=navigators, protocol=protocol, meas=meas
    )


class _Layout(NamedTuple):
    """Encoded space of a protocol; see :class:`medrecon.formats.acquisitions.Acquisitions`."""

    shape: tuple[int, int, int]
    fov: tuple[float, float, float]
    readout_size: int
    depth: bool
    kind: str
    bands: int


def _layout(lines: _Lines, gridded: bool) -> _Layout:
    """Matrix, field of view and trajectory of the protocol.

    For non-Cartesian scans, matrix and field of view describe the image: the protocol's number of lines counts shots, and
    oversampling depends on the trajectory.

    Raises:
        ValueError: if the protocol lacks them.
    """
    protocol, place = lines.protocol, "sSliceArray.asSlice[0]"
    depth = _number(protocol, "sKSpace.ucDimension") == 4
    base = int(_number(protocol, "sKSpace.lBaseResolution"))
    # Readouts are oversampled twofold, unless none is longer than the base resolution.
    oversampling = 2 if any(row["head"]["number_of_samples"][0] > base for row, *_ in lines.imaging) else 1
    oversampling = oversampling if gridded else 1
    read_fov, phase_fov = (_number(protocol, f"{place}.d{axis}FOV") for axis in ("Readout", "Phase"))
    if not gridded and not read_fov > 0:
        raise ValueError("the field of view is 0 or negative")
    shape = (
        oversampling * base,
        int(_number(protocol, "sKSpace.lPhaseEncodingLines")) if gridded else round(base * phase_fov / read_fov),
        int(_number(protocol, "sKSpace.lPartitions", default=1)) if depth else 1,
    )
    fov = (
        oversampling * read_fov,
        phase_fov * (1 + (_number(protocol, "sKSpace.dPhaseOversamplingForDialog", default=0) if gridded else 0)),
        _number(protocol, f"{place}.dThickness")
        * (1 + (_number(protocol, "sKSpace.dSliceOversamplingForDialog", default=0) if depth else 0)),
    )
    number = int(_number(protocol, "sKSpace.ucTrajectory", default=1))
    kind = {1: "cartesian", 2: "radial", 4: "spiral", 8: "blade"}.get(number, "unknown")
    bands = int(_number(protocol, "sSliceAcceleration.lMultiBandFactor", default=1))
    return _Layout(shape=shape, fov=fov, readout_size=base, depth=depth, kind=kind, bands=bands)


def _acquisitions(
    path: Path, select: Mapping[str, int | str], frames: str | None = None, gridded: bool = True
) -> Acquisitions:
    """Acquisitions of one contrast, phase, repetition and set; all of them along the axis ``frames``."""
    try:
        import twixtools  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path}: twix files need twixtools; install it with: pip install twixtools") from error
    from ismrmrd.hdf5 import acquisition_header_dtype

    dtype = np.dtype([("head", acquisition_header_dtype), ("traj", object), ("data", object)])
    try:
        lines = _lines(path, dtype)
        layout, imaging = _layout(lines, gridded), lines.imaging
        readout = _readout(lines.meas, imaging[0][0]["head"]["number_of_samples"][0], path) if imaging else None
    except InputError:
        raise
    except Exception as error:  # the parser raises many kinds
        raise InputError(
            f"{path}: not a readable twix file ({redacted(error)}); export it again, or convert it to ISMRMRD"
        ) from error
    if not imaging:
        raise InputError(
            f"{path}: holds only noise, reference or service scans, not an image; give the file of the scan itself"
        )
    refuse_multiband(layout.bands, path)
    if min(layout.shape) < 1 or max(layout.shape) > _LARGEST or min(layout.fov) <= 0:
        raise InputError(
            f"{path}: an empty or huge matrix {layout.shape} or field of view {layout.fov}; export it again"
        )
    table = _table([row for row, *_ in imaging], dtype)
    if len(np.unique(table["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between lines; export one scan")
    table = table[select_acquisitions(table["head"], select, path, frames=frames)]
    return Acquisitions(
        imaging=table,
        calibration=matching_calibration(table, _table(lines.reference, dtype), frames),
        noise=_table(lines.noise, dtype),
        shape=layout.shape,
        fov=layout.fov,
        centres=(imaging[0][1], imaging[0][2] if layout.depth else 0),
        readout_size=layout.readout_size,
        kind=layout.kind,
        header=None,
        siemens=True,
        readout=readout,
        navigators=_table(lines.navigators, dtype),
    )
