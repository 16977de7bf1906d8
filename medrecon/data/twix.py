"""Siemens raw data (twix, ``.dat``), parsed by twixtools and sorted like ISMRMRD's acquisitions."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.epi import REVERSE, Readout
from medrecon.data.errors import InputError, told
from medrecon.data.ismrmrd import Scan, calibration_of, chosen, on_grid, refuse_multiband

__all__ = ["read_twix"]

_SERVICE = ("PHASCOR", "RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "SLICE_ACCEL_PHASCOR",
            "RETRO_DUMMYSCAN", "B1_CONTROLLOOP", "PACE")  # fmt: skip


def _number(tree: Mapping, *keys: str | int, otherwise: float | None = None) -> float:
    """A leaf of the protocol."""
    held: Any = tree
    for key in keys:
        try:
            held = held[key]
        except (KeyError, IndexError, TypeError):
            if otherwise is None:
                raise ValueError(f"its protocol lacks {'.'.join(map(str, keys))}") from None
            return otherwise
    return float(held)


def _rotation(quaternion: Sequence[float]) -> np.ndarray:
    """Directions of phase encoding, readout and slice in its columns, LPS, as the scanner records them."""
    from twixtools.geometry import quat_to_rotmat

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the scalar first; where it is not of length 1, directions are checked later
        return quat_to_rotmat(*[float(q) for q in quaternion])


def _readout(meas: Mapping, samples: int, path: Path) -> Readout | None:
    """The readout gradient if it was sampled on its ramps.

    Raises:
        InputError: for a gradient that is neither a trapezoid nor has sinusoidal ramps.
    """

    def first(key: str, otherwise: float) -> float:
        values = np.atleast_1d(meas.get(key, otherwise)).ravel()
        words = str(values[0]).split() if len(values) else []
        return float(words[0]) if words else otherwise

    mode = first("alRegridMode", 1)
    if mode <= 1:
        return None
    if mode not in (2, 4):
        raise InputError(
            f"{path}: was sampled during gradient ramps (EPI) of an unknown shape ({mode:g}); reconstruct it with the vendor's "
            "or another EPI pipeline, e.g. Gadgetron"
        )
    up, flat, down, delay = (
        first(f"alRegrid{key}Time", 0) for key in ("Rampup", "Flattop", "Rampdown", "DelaySamples")
    )
    return Readout(up, flat, down, delay, first("aflRegridADCDuration", 0) / max(samples, 1), mode == 4)


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


def read_twix(path: Path, select: Mapping[str, int | str] | None = None) -> dict[str, Any]:
    """Cartesian k-space of a twix file, as :func:`medrecon.data.ismrmrd.read_ismrmrd` returns it; no header.

    The last measurement of a file is the scan; noise scans may stand in any. Reference lines count where nothing else was
    measured; phase correction scans correct EPI, see :mod:`medrecon.data.epi`; feedback and dummies are left out.

    Args:
        path: of the file.
        select: which contrast (echo), phase, repetition or set, where there are several.

    Raises:
        InputError: without twixtools (an extra), for what cannot be read, and for what is not Cartesian.
    """
    try:
        import twixtools
    except ImportError as error:
        raise InputError(f"{path}: twix files need twixtools; install it with: pip install twixtools") from error
    from ismrmrd.hdf5 import acquisition_header_dtype

    dtype = np.dtype([("head", acquisition_header_dtype), ("traj", object), ("data", object)])
    select = dict(select or {})
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scans = twixtools.read_twix(
                str(path), parse_pmu=False, parse_geometry=False, verbose=False, keep_syncdata=False
            )
        imaging, reference, noise, navigators = [], [], [], []
        for scan in scans:
            protocol = scan["hdr"]["MeasYaps"]
            dwell = _number(protocol, "sRXSPEC", "alDwellTime", 0, otherwise=0.0) / 1000
            for at, mdb in enumerate(scan["mdb"]):
                if mdb.is_flag_set("ACQEND") or mdb.is_flag_set("SYNCDATA"):
                    continue
                if mdb.is_flag_set("NOISEADJSCAN"):
                    noise.append(_row(mdb, dwell, dtype, at))
                elif scan is scans[-1] and mdb.is_flag_set("PHASCOR"):
                    navigators.append(_row(mdb, dwell, dtype, at))
                elif scan is scans[-1] and not any(mdb.is_flag_set(flag) for flag in _SERVICE):
                    only = mdb.is_flag_set("PATREFSCAN") and not mdb.is_flag_set("PATREFANDIMASCAN")
                    (reference if only else imaging).append(
                        (_row(mdb, dwell, dtype, at), mdb.mdh.CenterLin, mdb.mdh.CenterPar)
                    )
        protocol, meas = scans[-1]["hdr"]["MeasYaps"], scans[-1]["hdr"].get("Meas", {})
        space, place = ("sKSpace",), ("sSliceArray", "asSlice", 0)
        depth = _number(protocol, *space, "ucDimension") == 4
        base = int(_number(protocol, *space, "lBaseResolution"))
        # Readouts are sampled twice as densely as asked for; where none is longer than the matrix, they were not.
        dense = 2 if any(row["head"]["number_of_samples"][0] > base for row, *_ in imaging) else 1
        shape = (
            dense * base,
            int(_number(protocol, *space, "lPhaseEncodingLines")),
            int(_number(protocol, *space, "lPartitions", otherwise=1)) if depth else 1,
        )
        field = (
            dense * _number(protocol, *place, "dReadoutFOV"),
            _number(protocol, *place, "dPhaseFOV")
            * (1 + _number(protocol, *space, "dPhaseOversamplingForDialog", otherwise=0)),
            _number(protocol, *place, "dThickness")
            * (1 + (_number(protocol, *space, "dSliceOversamplingForDialog", otherwise=0) if depth else 0)),
        )
        kind = {1: "cartesian", 2: "radial", 4: "spiral", 8: "blade"}.get(
            int(_number(protocol, *space, "ucTrajectory", otherwise=1)), "unknown"
        )
        readout = _readout(meas, imaging[0][0]["head"]["number_of_samples"][0], path) if imaging else None
        bands = int(_number(protocol, "sSliceAcceleration", "lMultiBandFactor", otherwise=1))
    except InputError:
        raise
    except Exception as error:  # the parser's own errors are of many kinds
        raise InputError(
            f"{path}: not a readable twix file ({told(error)}); export it again, or convert it to ISMRMRD"
        ) from error
    if not imaging:
        raise InputError(f"{path}: holds no imaging lines; only noise, reference or service scans")
    refuse_multiband(bands, path)
    if min(shape) < 1 or min(field) <= 0:
        raise InputError(f"{path}: an empty matrix {shape} or field of view {field}; export it again")
    table = _table([row for row, *_ in imaging], dtype)
    if len(np.unique(table["head"]["active_channels"])) > 1:
        raise InputError(f"{path}: the number of coils changes between lines; export one scan")
    table = table[chosen(table["head"], select, path)]
    centres = int(imaging[0][1]), int(imaging[0][2]) if depth else 0
    reference_table = calibration_of(table, _table([row for row, *_ in reference], dtype))
    kept = shape[0] // dense
    scan = Scan(
        table, reference_table, _table(noise, dtype), shape, field, centres, kept, kind, None,
        siemens=True, readout=readout, navigators=_table(navigators, dtype),
    )  # fmt: skip
    return on_grid(scan, path, select)
