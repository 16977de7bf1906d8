"""Siemens raw data (twix, ``.dat``), parsed by twixtools and sorted like ISMRMRD's acquisitions."""

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
from medrecon.formats.acquisitions import Acquisitions, calibration_of, chosen, refuse_multiband, scan_of
from medrecon.formats.companions import Companions
from medrecon.formats.epi import REVERSE, Readout
from medrecon.formats.frames import check_axis, frames_of_acquisitions
from medrecon.formats.limits import BoundedReader
from medrecon.formats.probe import never_raises

__all__ = ["KINDS", "SUFFIXES", "read", "read_frames", "sniff"]

SUFFIXES = (".dat",)
KINDS = (CartesianScan, NonCartesianScan)


_LARGEST = 2**15
"""Samples of an axis."""


@never_raises
def sniff(path: Path) -> bool:
    """Whether a file holds measurements whose last one has the protocol of a Siemens scan."""
    if not path.is_file():
        return False
    with BoundedReader(str(path)) as file:
        _, spans = _measurements(file, path.stat().st_size)
        return "MeasYaps" in _buffers(file, *spans[-1])[1]


def read(
    path: Path, select: Mapping[str, int | str] | None = None, companions: Companions | None = None
) -> CartesianScan | NonCartesianScan:
    """K-space on the grid, or with a given trajectory along it.

    See :func:`medrecon.formats.acquisitions.on_grid`. The last measurement of a file is the scan; noise scans may stand in any.
    Reference lines count where nothing else was measured; phase correction scans correct EPI; feedback and dummies are left out.

    Args:
        path: of the file.
        select: which contrast (echo), phase, repetition or set, where there are several.
        companions: trajectory and matrix of a scan that is not Cartesian, which the file does not record. The trajectory is in
            cycles per field of view of the protocol, without oversampling; the matrix is by default the base resolution.

    Raises:
        InputError: without twixtools (an extra), and for what cannot be read.
    """
    chosen_by = dict(select or {})
    given = companions or Companions()
    acquisitions = _acquisitions(path, chosen_by, gridded=given.trajectory is None)
    return scan_of(acquisitions, path, kind="Siemens twix", select=chosen_by, companions=given)


def read_frames(path: Path, select: Mapping[str, int | str] | None, axis: str) -> DynamicScan:
    """All frames along an axis: ``contrast``, ``phase``, ``repetition`` or ``set``.

    Raises:
        InputError: as :func:`read`, and for frames that differ in size or position.
    """
    chosen_by = dict(select or {})
    check_axis(path, axis, chosen_by)
    return frames_of_acquisitions(
        _acquisitions(path, chosen_by, axis), path, kind="Siemens twix", select=chosen_by, axis=axis
    )


_SERVICE = ("PHASCOR", "RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "SLICE_ACCEL_PHASCOR",
            "RETRO_DUMMYSCAN", "B1_CONTROLLOOP", "PACE")  # fmt: skip


_LONGEST = 2**26
"""Bytes of a measurement's header; scanners write 0.1 to 1 MB."""


def _measurements(file: BoundedReader, size: int) -> tuple[bool, list[tuple[int, int]]]:
    """Whether a file is of VD or later, and where its measurements begin and end.

    Raises:
        ValueError: if one does not lie in the file.
    """
    first, second = struct.unpack("<II", file.read(8))
    if first >= 10000 or second > 64:
        return False, [(0, size)]
    found = []
    for _ in range(second):
        _, _, start, length = struct.unpack("<IIQQ", file.read(152)[:24])
        if second == 1 and length == 0:
            length = size - start
        if not 0 < start < start + length <= size:
            raise ValueError("a measurement is cut off")
        found.append((start, start + length))
    return True, found


def _buffers(file: BoundedReader, start: int, end: int) -> tuple[int, dict[str, str]]:
    """Where the data of a measurement begin, and the texts of its header by name.

    Raises:
        ValueError: if the header does not lie in the measurement.
    """
    file.seek(start)
    length, count = struct.unpack("<II", file.read(8))
    if not 8 <= length <= min(end - start, _LONGEST):
        raise ValueError("its header is cut off")
    block, at, held = file.read(length - 8), 0, {}
    for _ in range(min(count, 64)):
        match = re.compile(rb"(\w{4,64})\0(.{4})", re.DOTALL).search(block, at, at + 96)
        if match is None:
            break
        n = int.from_bytes(match[2], "little")
        held[match[1].decode("latin1")] = block[match.end() : match.end() + n].decode("latin1")
        at = match.end() + n
    return start + length, held


def _protocol(text: str) -> dict[str, str]:
    """The settings of a MeasYaps header, ``name = value`` a line, by their whole names."""
    _, begin, rest = text.partition("### ASCCONV BEGIN")
    body = rest.partition("### ASCCONV END")[0] if begin else ""
    pairs = (line.partition("=") for line in body.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _number(protocol: Mapping[str, str], name: str, otherwise: float | None = None) -> float:
    """A number of the protocol.

    Raises:
        ValueError: if it is not there (without ``otherwise``) or is no number.
    """
    if name not in protocol:
        if otherwise is None:
            raise ValueError(f"its protocol lacks {name}")
        return otherwise
    value = protocol[name]
    number = float(int(value, 16)) if value.lower().startswith("0x") else float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is no number")
    return number


def _parameter(text: str, name: str, otherwise: float) -> float:
    """The first number of a parameter of an XProtocol."""
    for kind in ("Long", "Double", "String"):
        _, found, rest = text.partition(f'<Param{kind}."{name}">')
        if not found:
            continue
        body = rest[:4096].lstrip()
        words = re.sub(r"<\w+>\s*[0-9]*", "", body[1:].partition("}")[0]).replace('"', " ").split()
        return float(words[0]) if words else otherwise
    return otherwise


def _blocks(file: BoundedReader, start: int, end: int, modern: bool) -> Iterator[Any]:
    """The measurement data blocks of one measurement, each of which lies in it.

    Raises:
        ValueError: if one is cut off.
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
    """Directions of phase encoding, readout and slice in its columns, LPS, as the scanner records them."""
    from twixtools.geometry import quat_to_rotmat

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the scalar first; where it is not of length 1, directions are checked later
        return quat_to_rotmat(*[float(q) for q in quaternion])


def _readout(meas: str, samples: int, path: Path) -> Readout | None:
    """The readout gradient if it was sampled on its ramps.

    Raises:
        InputError: for a gradient that is neither a trapezoid nor has sinusoidal ramps.
    """
    mode = _parameter(meas, "alRegridMode", 1)
    if mode <= 1:
        return None
    if mode not in (2, 4):
        raise InputError(
            f"{path}: was sampled during gradient ramps (EPI) of an unknown shape ({mode:g}); reconstruct it with the vendor's "
            "or another EPI pipeline, e.g. Gadgetron"
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
    """A measurement as a table of one row, as ISMRMRD has them; ``at`` is its place in the file."""
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
    turn = _rotation(place.Quaternion)
    head["phase_dir"], head["read_dir"], head["slice_dir"] = turn[:, 0], turn[:, 1], turn[:, 2]
    row["data"][0] = np.ascontiguousarray(data, np.complex64).view(np.float32).ravel()
    return row


def _table(rows: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *rows])


class _Lines(NamedTuple):
    """Lines of a file by their purpose, as tables of one row, and the protocol of its last measurement.

    Args:
        imaging: with their centre line and centre partition.
        reference: those that count only where nothing else was measured.
        noise: noise scans.
        navigators: phase correction scans.
        protocol: settings by name.
        meas: text of the header ``Meas``.
    """

    imaging: list[tuple[np.ndarray, int, int]]
    reference: list[np.ndarray]
    noise: list[np.ndarray]
    navigators: list[np.ndarray]
    protocol: Mapping[str, str]
    meas: str


def _lines(path: Path, dtype: np.dtype) -> _Lines:
    """All lines of a file.

    Raises:
        ValueError: for what does not lie in the file.
    """
    imaging, reference, noise, navigators = [], [], [], []
    protocol, meas = {}, ""
    with BoundedReader(str(path)) as file:
        modern, spans = _measurements(file, path.stat().st_size)
        for start, end in spans:
            first, buffers = _buffers(file, start, end)
            protocol, meas = _protocol(buffers.get("MeasYaps", "")), buffers.get("Meas", "")
            dwell = _number(protocol, "sRXSPEC.alDwellTime[0]", otherwise=0.0) / 1000
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
    """The encoded space of a protocol; see :class:`medrecon.formats.acquisitions.Acquisitions`."""

    shape: tuple[int, int, int]
    field: tuple[float, float, float]
    kept: int
    depth: bool
    kind: str
    bands: int


def _layout(lines: _Lines, gridded: bool) -> _Layout:
    """What the protocol says of matrix, field of view and trajectory.

    Off the grid these are of the image: the number of lines is that of shots, and oversampling is a matter of the trajectory.

    Raises:
        ValueError: if it lacks them.
    """
    protocol, place = lines.protocol, "sSliceArray.asSlice[0]"
    depth = _number(protocol, "sKSpace.ucDimension") == 4
    base = int(_number(protocol, "sKSpace.lBaseResolution"))
    # Readouts are sampled twice as densely as asked for; where none is longer than the matrix, they were not.
    dense = 2 if any(row["head"]["number_of_samples"][0] > base for row, *_ in lines.imaging) else 1
    dense = dense if gridded else 1
    wide, high = (_number(protocol, f"{place}.d{axis}FOV") for axis in ("Readout", "Phase"))
    if not gridded and not wide > 0:
        raise ValueError("the field of view is empty")
    shape = (
        dense * base,
        int(_number(protocol, "sKSpace.lPhaseEncodingLines")) if gridded else round(base * high / wide),
        int(_number(protocol, "sKSpace.lPartitions", otherwise=1)) if depth else 1,
    )
    field = (
        dense * wide,
        high * (1 + (_number(protocol, "sKSpace.dPhaseOversamplingForDialog", otherwise=0) if gridded else 0)),
        _number(protocol, f"{place}.dThickness")
        * (1 + (_number(protocol, "sKSpace.dSliceOversamplingForDialog", otherwise=0) if depth else 0)),
    )
    number = int(_number(protocol, "sKSpace.ucTrajectory", otherwise=1))
    kind = {1: "cartesian", 2: "radial", 4: "spiral", 8: "blade"}.get(number, "unknown")
    bands = int(_number(protocol, "sSliceAcceleration.lMultiBandFactor", otherwise=1))
    return _Layout(shape=shape, field=field, kept=base, depth=depth, kind=kind, bands=bands)


def _acquisitions(
    path: Path, select: Mapping[str, int | str], frames: str | None = None, gridded: bool = True
) -> Acquisitions:
    """The acquisitions of one contrast, phase, repetition and set; along the axis of ``frames`` all."""
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
    except Exception as error:  # the parser's own errors are of many kinds
        raise InputError(
            f"{path}: not a readable twix file ({redacted(error)}); export it again, or convert it to ISMRMRD"
        ) from error
    if not imaging:
        raise InputError(f"{path}: holds no imaging lines; only noise, reference or service scans")
    refuse_multiband(layout.bands, path)
    if min(layout.shape) < 1 or max(layout.shape) > _LARGEST or min(layout.field) <= 0:
        raise InputError(
            f"{path}: an empty or huge matrix {layout.shape} or field of view {layout.field}; export it again"
        )
    table = _table([row for row, *_ in imaging], dtype)
    if len(np.unique(table["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between lines; export one scan")
    table = table[chosen(table["head"], select, path, frames=frames)]
    return Acquisitions(
        imaging=table,
        calibration=calibration_of(table, _table(lines.reference, dtype), frames),
        noise=_table(lines.noise, dtype),
        shape=layout.shape,
        field=layout.field,
        centres=(imaging[0][1], imaging[0][2] if layout.depth else 0),
        kept=layout.kept,
        kind=layout.kind,
        header=None,
        siemens=True,
        readout=readout,
        navigators=_table(lines.navigators, dtype),
    )
