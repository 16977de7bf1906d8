"""Siemens raw data, made of the format's own structures by twixtools."""

import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medrecon.data.coils import to_kspace
from medrecon.data.phantom import loop_coils
from tests.make.images import blobs

twixtools = pytest.importorskip("twixtools")
from twixtools.mdb import Mdb_local  # noqa: E402

TURN = Rotation.from_euler("xyz", [10, 20, -15], degrees=True)
SHAPE = (32, 30)  # readout, phase


def header(base=32, lines=30, partitions=1, dimension=2, dwell=5000, trajectory=1, meas=None, **more):
    """The buffers of a measurement's header; only what is read. ``meas`` has lists of numbers for the first of them."""
    values = {
        "sKSpace.lBaseResolution": base, "sKSpace.lPhaseEncodingLines": lines, "sKSpace.lPartitions": partitions,
        "sKSpace.ucDimension": dimension, "sKSpace.ucTrajectory": trajectory, "sRXSPEC.alDwellTime[0]": dwell,
        "sSliceArray.asSlice[0].dReadoutFOV": 64.0, "sSliceArray.asSlice[0].dPhaseFOV": 90.0,
        "sSliceArray.asSlice[0].dThickness": 5.0, "sSliceArray.lSize": 1, **more,
    }  # fmt: skip
    text = "\n".join(f"{key} = {value}" for key, value in values.items())
    yaps = f"### ASCCONV BEGIN ###\n{text}\n### ASCCONV END ###\n".encode()
    buffers = b""
    lists = "".join(f'<Param{kind}."{key}">\n{{\n{values}\n}}\n' for (kind, key), values in (meas or {}).items())
    for name, content in ((b"Meas", f"<XProtocol>\n{{\n{lists}}}\n".encode()), (b"MeasYaps", yaps)):
        buffers += name + b"\0" + struct.pack("<I", len(content)) + content
    size = 8 + len(buffers)
    padded = -(-size // 32) * 32
    return np.frombuffer(struct.pack("<II", padded, 2) + buffers + b"\0" * (padded - size), np.uint8)


def line(data, flags=(), lin=0, par=0, sli=0, centre=(15, 0), column=32, position=(0, 0, 0), turn=TURN, **counters):
    one = Mdb_local(data)
    for flag in flags:
        one.add_flag(flag)
    counter = one.mdh.Counter
    counter.Lin, counter.Par, counter.Sli = lin, par, sli
    for key, value in counters.items():
        setattr(counter, key, value)
    one.mdh.CenterCol, one.mdh.CenterLin, one.mdh.CenterPar = column, *centre
    place = one.mdh.SliceData.SlicePos
    place.Sag, place.Cor, place.Tra = position
    x, y, z, w = turn.as_quat()
    for k, value in enumerate((w, x, y, z)):  # scalar first
        one.mdh.SliceData.Quaternion[k] = value
    return one


def write(path, lines, hdr=None):
    end = Mdb_local()
    end.add_flag("ACQEND")
    twixtools.write_twix([{"hdr_str": header() if hdr is None else hdr, "mdb": [*lines, end]}], str(path))
    return path


def measured(slices=2, coils=3):
    """k-space with the readout oversampled twice, ``(slices, coils, 64, 30)``, and the images."""
    images = np.stack([blobs(SHAPE, k) for k in range(slices)])
    wide = np.pad(images[:, None] * loop_coils(SHAPE, coils), [(0, 0), (0, 0), (16, 16), (0, 0)])
    return to_kspace(wide).astype(np.complex64), images[:, None] * loop_coils(SHAPE, coils)


def lines_of(kspace, **more):
    normal = TURN.as_matrix()[:, 2]
    return [
        line(kspace[s, :, :, y], lin=y, sli=s, position=6.0 * s * normal + [1, 2, 3], **more)
        for s in range(len(kspace)) for y in range(kspace.shape[-1])
    ]  # fmt: skip
