"""Hostile files for every reader: what may happen is data that make sense, or one InputError. Not collected by pytest.

    python -m tests.fuzz [--count 100000] [--seed 0] [--workers 2] [--only NAME] [--index K]

Every input is a small file by this project's own builders, changed: bits and ranges of bytes, cut or extended, spliced with
another, numbers of headers replaced, re-packed where a checksum would give a change away, renamed. Input ``K`` of a seed is
always the same, whatever the count; ``--index K`` runs it alone, in this process, and shows what it raises.

Inputs run in children forked from a warm parent, under limits of memory and time. Failures are: the death of a child, more than
10 s of processor (or 90 s), an exception that is not InputError, NaN or Inf in what is returned, more than 2.5 GiB of memory,
text on stdout or stderr, names of the patient in a message or summary, and messages of several lines or without the file's name.
Prints a line for each kind; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import itertools
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from scipy.io import savemat

from medrecon.data import trajectories
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load, load_array, load_image, load_kspace, load_noncartesian, load_sinogram
from medrecon.formats.dicom import find_series
from medrecon.training.slices import load_slices
from medrecon.writers.mrd import mrd_bytes
from tests.make import dicom as make_dicom
from tests.make import dicom_volumes as make_dicom_volumes
from tests.make import ismrmrd as make_ismrmrd
from tests.make import noncartesian as make_noncartesian
from tests.make import sinograms as make_sinograms
from tests.make import twix as make_twix
from tests.make.images import blobs

LIMIT_S = 10.0
LIMIT_BYTES = 5 * 2**29
BATCH = 250
MARKERS = ("Doe", "Jane", "ID-4711", "19700101", "20200102", "Ward 7")
SUFFIXES = (
    ".h5",
    ".hdf5",
    ".mrd",
    ".cfl",
    ".hdr",
    ".npz",
    ".npy",
    ".mat",
    ".dat",
    ".nii",
    ".nii.gz",
    ".dcm",
    "",
    ".img",
    ".IMA",
)
INTERESTING = (0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
               2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
WORDS = (b"0", b"-1", b"1", b"3", b"65536", b"2147483648", b"99999999999", b"18446744073709551616", b"1e400", b"-inf", b"nan",
         b"1e-320", b"0x7fffffff", b"", b"9" * 400)  # fmt: skip
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e38, 1e-45, 1e308, 0.5)

Reader = Callable[[Path], object]


# Seeds


def kspace(slices=2, coils=3, shape=(12, 10)):
    rng = np.random.default_rng(0)
    k = rng.normal(size=(slices, coils, *shape)) + 1j * rng.normal(size=(slices, coils, *shape))
    falls = np.hypot(*np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij"))
    return (k / (1 + falls) ** 2).astype(np.complex64)


def fastmri(path, **options):
    k = kspace()
    with h5py.File(path, "w", **options) as file:
        file["kspace"], file["mask"] = k, np.ones(k.shape[-1], bool)
        file["noise"] = np.random.default_rng(1).normal(size=(3, 32, 2)).astype(np.float32).view(np.complex64)[..., 0]
        file["ismrmrd_header"] = make_ismrmrd.header((12, 10, 1), (24, 20, 5)).toXML("utf-8")
        file.attrs.update(acquisition="AXT2", max=1.5, norm=2.0, patient_id="ID-4711", padding_left=0, padding_right=10)
        file.attrs.update(MRN="Doe", birth_date="19700101", operator="Jane")


def compressed(path):
    with h5py.File(path, "w") as file:
        for name, data in (("kspace", kspace()), ("maps", kspace()[0])):
            file.create_dataset(name, data=data, chunks=True, compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("mask", data=np.ones(10, np.uint8), chunks=(5,), compression="lzf")


def calgary(path):
    pairs = np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["kspace"] = pairs


def ismrmrd(path):
    k = kspace(2, 2, (8, 6))
    lines = [
        make_ismrmrd.line(k[s, :, :, y], kspace_encode_step_1=y, slice=s, position=(0, 0, 6.0 * s))
        for s in range(2) for y in range(6)
    ]  # fmt: skip
    noise = make_ismrmrd.line(np.random.default_rng(1).normal(size=(2, 32)) + 1j, flags=[19])
    make_ismrmrd.write(path, make_ismrmrd.header((8, 6, 1), (32, 24, 5), centres=(3, 0)), [noise, *lines])


def radial_mrd(path):
    make_noncartesian.write(path, [blobs((12, 10))], trajectories.radial((12, 10), 4).numpy())


def mrd_images(path):
    path.write_bytes(mrd_bytes(np.abs(kspace()[:, 0]), Geometry((5.0, 1.0, 1.0))))


def twix(path):
    k = kspace(1, 2, (16, 6))
    lines = [
        make_twix.line(k[0, :, :, y], lin=y, centre=(3, 0), column=8, position=(1, 2, 3)) for y in range(6)
    ]  # fmt: skip
    scan = np.random.default_rng(0).normal(size=(2, 32)) + 1j
    lines.insert(0, make_twix.line(scan.astype(np.complex64), ["NOISEADJSCAN"]))
    make_twix.write(path, lines, make_twix.header(base=8, lines=6))


def twix_epi(path):
    k = kspace(1, 2, (24, 6))
    lines = [
        make_twix.line(k[0, :, :, y], ["REFLECT"] * (y % 2), lin=y, centre=(3, 0), column=12) for y in range(6)
    ]  # fmt: skip
    lines = [make_twix.line(k[0, :, :, 3], ["PHASCOR"] + ["REFLECT"] * (n % 2), column=12) for n in range(3)] + lines
    regrid = {("Long", "alRegridMode"): 2, ("Long", "alRegridRampupTime"): 40, ("Long", "alRegridFlattopTime"): 160,
              ("Long", "alRegridRampdownTime"): 40, ("Long", "alRegridDelaySamplesTime"): 5,
              ("Double", "aflRegridADCDuration"): 230.0}  # fmt: skip
    make_twix.write(path, lines, make_twix.header(base=8, lines=6, meas=regrid))


def bart(path):
    k = kspace(1, 2, (8, 6))[0]
    path.with_suffix(".hdr").write_text("# Dimensions\n6 8 1 2 1 1 1 1 1 1 1 1 1 1 1 1\n# Creator\nDoe\n")
    path.with_suffix(".cfl").write_bytes(np.ascontiguousarray(k).tobytes())


def bart_radial(path):
    points = trajectories.radial((12, 10), 4).numpy()[..., ::-1]
    points = np.concatenate([points, np.zeros((*points.shape[:2], 1))], -1).astype(np.complex64)
    shots, readout = points.shape[:2]
    samples = np.random.default_rng(0).normal(size=(2, shots, readout)).astype(np.complex64)
    for stem, data, dims in (("", samples, (1, readout, shots, 2)), ("t", points, (3, readout, shots, 1))):
        one = path.with_name(path.stem + stem + ".cfl")
        one.write_bytes(data.tobytes())
        one.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + " 1\n")


def matlab(path, pack=False, fmt="5"):
    k = kspace().transpose(2, 3, 1, 0)
    held = {"kspace": k if fmt == "5" else k[..., 0, 0].astype(complex), "mask": np.ones((1, 10)), "noise": "text"}
    savemat(
        path, held if fmt == "5" else {k: v for k, v in held.items() if k != "noise"}, do_compression=pack, format=fmt
    )


def matlab_odd(path):
    import scipy.sparse

    savemat(
        path,
        {"kspace": scipy.sparse.csc_matrix(np.eye(6) + 1j), "mask": np.array([{"a": 1}], object), "noise": {"b": 2}},
    )


def matlab73(path):
    k = kspace().transpose(0, 1, 3, 2)
    pairs = np.zeros(k.shape, [("real", "<f4"), ("imag", "<f4")])
    pairs["real"], pairs["imag"] = k.real, k.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file["kspace"] = pairs
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def odd_dtypes(path):
    k = kspace(1, 2, (6, 5))[0]
    np.savez(path, kspace=k.astype(">c16"), mask=np.ones(5, np.float16), noise=np.ones((2, 20), np.clongdouble))


def spokes(path):
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(2, 4, 12)) + 1j).astype(np.complex64)
    np.savez(path, kspace=samples, trajectory=rng.uniform(-6, 6, (4, 12, 2)), matrix=(12, 12))


def sinogram(path):
    np.savez(
        path,
        sino=np.random.default_rng(0).random((4, 9), np.float32),
        theta_rad=np.arange(4) * 0.7,
        detector_spacing_mm=1.0,
        photons=1e4,
    )


def training(path):
    np.savez(
        path, img=np.random.default_rng(0).integers(0, 99, (3, 6, 5)).astype(np.uint16), subject=np.array(list("abc"))
    )


def exchange(path):
    make_sinograms.exchange(
        path, np.random.default_rng(1).uniform(0, 3, (6, 2, 8)), theta_units="rad", x_pixel_size=(5.0, "um")
    )


def nifti(path, second=False, dtype=np.int16, scale=(2.0, 1.0)):
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    data = np.random.default_rng(0).integers(0, 99, (5, 4, 3, 2)[: 3 + (dtype is np.int16)]).astype(dtype)
    image = kind(data, make_dicom.oblique())
    image.header["descrip"] = b"Doe^Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    if dtype is np.int16:
        image.header.set_slope_inter(*scale)
    nib.save(image, path)
    stem = path.name.split(".")[0]
    about = {"EchoTime": 0.01, "Modality": "MR", "PatientName": "Doe", "SeriesDescription": "Jane", "FlipAngle": 9}
    path.with_name(stem + ".json").write_text(json.dumps(about))


def freesurfer(path, dtype=np.float32):
    data = np.random.default_rng(0).integers(0, 99, (5, 4, 3, 2)[: 3 + (dtype is np.uint8)]).astype(dtype)
    nib.save(nib.freesurfer.MGHImage(data, make_dicom.oblique()), path)


def series(path):
    make_dicom.write_series(
        path, make_dicom.oblique(), make_dicom.numbers((3, 6, 5)), "{k}.dcm", SeriesDescription="Doe"
    )


def enhanced(path):
    make_dicom_volumes.enhanced(
        path, [v[:, :4, :4] for v in make_dicom_volumes.planted(2)], TemporalPositionIndex=[1, 2]
    )
    shutil.rmtree(path.parent / "classic")


def stored_dicom(name):
    def build(path):
        path.write_bytes(Path(get_testdata_file(name)).read_bytes())

    return build


def dose_as_ct(name):
    """A small multi-frame file of pydicom's, as if it were CT: doses are refused."""

    def build(path):
        ds = pydicom.dcmread(get_testdata_file(name))
        ds.Modality = "CT"
        ds.save_as(path)

    return build


def transcoded(syntax):
    """A small slice in a compressed transfer syntax."""

    def build(path):
        import warnings

        make_dicom.write_series(path.parent / "plain", make_dicom.oblique(), make_dicom.numbers((1, 16, 12)))
        ds = pydicom.dcmread(path.parent / "plain" / "0")
        if syntax == "deflated":
            ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds.compress(syntax)
        ds.save_as(path)
        shutil.rmtree(path.parent / "plain")

    return build


def lossless(path):
    """JPEG lossless, by gdcm."""
    import gdcm

    make_dicom.write_series(path.parent / "plain", make_dicom.oblique(), make_dicom.numbers((1, 16, 12)))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path.parent / "plain" / "0"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    shutil.rmtree(path.parent / "plain")


def all_arrays(path: Path) -> tuple:
    return load_array(path, "maps"), load_array(path, "mask")


def mask(path: Path) -> np.ndarray:
    return load_array(path, "mask")


def with_trajectory(path: Path) -> object:
    return load_noncartesian(path, path.with_name(path.stem + "t.cfl"))


def any_volume(path: Path) -> object:
    try:
        return load_image(path, {"volume": 1})
    except InputError:
        return load_image(path)


K, N, S = load_kspace, load_noncartesian, load_sinogram
SEEDS: dict[str, tuple[str, Callable[[Path], None], tuple[Reader, ...]]] = {
    "fastmri": ("fast.h5", fastmri, (K, mask)),
    "fastmri latest": ("late.h5", lambda p: fastmri(p, libver="latest"), (K,)),
    "compressed": ("deflated.h5", compressed, (K, all_arrays)),
    "calgary": ("e1s1_P1.h5", calgary, (K,)),
    "ismrmrd": ("lines.mrd", ismrmrd, (K,)),
    "radial": ("radial.mrd", radial_mrd, (N, K)),
    "mrd images": ("images.mrd", mrd_images, (K,)),
    "twix": ("line.dat", twix, (K,)),
    "twix epi": ("epi.dat", twix_epi, (K,)),
    "bart": ("pair.cfl", bart, (K, all_arrays)),
    "bart radial": ("shots.cfl", bart_radial, (with_trajectory,)),
    "mat": ("plain.mat", matlab, (K, mask)),
    "mat packed": ("packed.mat", lambda p: matlab(p, True), (K,)),
    "mat 4": ("four.mat", lambda p: matlab(p, fmt="4"), (K, mask)),
    "mat odd": ("odd.mat", matlab_odd, (K, mask)),
    "mat 7.3": ("seven.mat", matlab73, (K,)),
    "npy": ("one.npy", lambda p: np.save(p, kspace()), (K, mask)),
    "npz": ("many.npz", lambda p: np.savez(p, kspace=kspace(), mask=np.ones(10), maps=kspace()[0]), (K, all_arrays)),
    "npz packed": ("zip.npz", lambda p: np.savez_compressed(p, kspace=kspace()), (K,)),
    "npz dtypes": ("types.npz", odd_dtypes, (K, mask)),
    "spokes": ("spokes.npz", spokes, (N,)),
    "sinogram": ("sino.npz", sinogram, (S,)),
    "slices": ("slices.npz", training, (load_slices,)),
    "exchange": ("exchange.h5", exchange, (S,)),
    "nifti": ("whole.nii", nifti, (any_volume,)),
    "nifti gz": ("gz.nii.gz", nifti, (any_volume,)),
    "nifti 2": ("two.nii", lambda p: nifti(p, True, np.float64), (load_image,)),
    "nifti complex": ("complex.nii.gz", lambda p: nifti(p, dtype=np.complex64), (load_image,)),
    "freesurfer": ("whole.mgh", freesurfer, (load_image,)),
    "freesurfer packed": ("packed.mgz", lambda p: freesurfer(p, np.uint8), (any_volume,)),
    "dicom series": ("series", series, (load_image, find_series)),
    "dicom enhanced": ("enhanced.dcm", enhanced, (any_volume,)),
    "dicom multi": ("multi.dcm", dose_as_ct("rtdose_rle.dcm"), (any_volume,)),
    "dicom rle": ("rle.dcm", transcoded(pydicom.uid.RLELossless), (load_image,)),
    "dicom jpeg 2000": ("j2k.dcm", stored_dicom("MR_small_jp2klossless.dcm"), (load_image,)),
    "dicom jpeg-ls": ("jls.dcm", transcoded(pydicom.uid.JPEGLSLossless), (load_image,)),
    "dicom jpeg": ("jpeg.dcm", stored_dicom("JPGExtended.dcm"), (load_image,)),
    "dicom jpeg lossless": ("lossless.dcm", lossless, (load_image,)),
    "dicom big": ("big.dcm", stored_dicom("MR_small_bigendian.dcm"), (load_image,)),
    "dicom deflated": ("deflate.dcm", transcoded("deflated"), (load_image,)),
    "dicom dose": ("dose.dcm", stored_dicom("rtdose_1frame.dcm"), (load_image,)),
}  # fmt: skip
_HDF5 = {"fastmri", "fastmri latest", "compressed", "calgary", "ismrmrd", "radial", "mrd images", "mat 7.3", "exchange"}


def build(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of every seed: name of the seed, name of the file, its bytes."""
    held, counter = {}, itertools.count(1)
    for module in (make_dicom, make_dicom_volumes):  # the same seeds in every run
        module.generate_uid = lambda: f"1.2.826.0.1.{next(counter)}"
    for number, (name, (target, make, _)) in enumerate(SEEDS.items()):
        own = folder / str(number)
        own.mkdir()
        make(own / target)
        held[name] = {str(p.relative_to(own)): p.read_bytes() for p in sorted(own.rglob("*")) if p.is_file()}
        if target.endswith(".mat") and name not in ("mat 4", "mat 7.3"):  # without the date
            held[name][target] = b"MATLAB 5.0 MAT-file".ljust(116) + held[name][target][116:]
    return held


# Mutations: (bytes, rng, bytes of another seed) -> bytes


def _place(data: bytes, rng: np.random.Generator, width: int = 1) -> int:
    edge = min(len(data), 1500) if rng.random() < 0.5 else len(data)
    return int(rng.integers(0, max(edge - width, 1)))


def _flip(data, rng, other):
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        out[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _bytes(data, rng, other):
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        out[_place(data, rng)] = int(rng.integers(256))
    return bytes(out)


def _range(data, rng, other):
    at, n = _place(data, rng), int(rng.integers(1, 65))
    fill = rng.integers(4)
    block = bytes(n) if fill == 0 else b"\xff" * n if fill == 1 else rng.bytes(n)
    return data[:at] + block + data[at + n :]


def _cut(data, rng, other):
    return data[: int(rng.integers(0, len(data)))] if rng.random() < 0.7 else data[: -int(rng.integers(1, 9))]


def _extend(data, rng, other):
    more = bytes(int(rng.integers(1, 5000))) if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 500)))
    return data + more


def _splice(data, rng, other):
    at, to = _place(data, rng), int(rng.integers(0, max(len(other), 1)))
    n = int(rng.integers(1, 2000))
    return data[:at] + other[to : to + n] + (data[at + n :] if rng.random() < 0.7 else b"")


def _shift(data, rng, other):
    at, n = _place(data, rng), int(rng.integers(1, 200))
    kind = rng.integers(3)
    if kind == 0:
        return data[:at] + data[at + n :]
    return (
        data[:at] + data[at : at + n] * int(rng.integers(2, 5)) + data[at + n :]
        if kind == 1
        else data[:at] + bytes(n) + data[at:]
    )


def _integer(data, rng, other):
    out, width = bytearray(data), int(rng.choice([1, 2, 4, 8]))
    for _ in range(int(rng.integers(1, 4))):
        value = int(INTERESTING[rng.integers(len(INTERESTING))]) % 2 ** (8 * width)
        at = _place(data, rng, width) // width * width if rng.random() < 0.7 else _place(data, rng, width)
        out[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.7 else "big")
    return bytes(out)


def _float(data, rng, other):
    out, code = bytearray(data), str(rng.choice(["<f", ">f", "<d"]))
    with np.errstate(all="ignore"):
        packed = np.array(FLOATS[rng.integers(len(FLOATS))]).astype(code).tobytes()
    at = _place(data, rng, len(packed)) // 4 * 4
    out[at : at + len(packed)] = packed
    return bytes(out)


def _digits(data, rng, other):
    """A number written in text becomes another."""
    import re

    found = [m.span() for m in re.finditer(rb"[0-9][0-9.eE+-]*", data[:200_000])]
    if not found:
        return _bytes(data, rng, other)
    first, last = found[rng.integers(len(found))]
    word = WORDS[rng.integers(len(WORDS))]
    if rng.random() < 0.5:  # of the same length, so that offsets stay
        word = word[: last - first].ljust(last - first)
    return data[:first] + word + data[last:]


def _string(data, rng, other):
    """A word becomes another word of the file, or hostile text."""
    import re

    found = [m.span() for m in re.finditer(rb"[A-Za-z_]{3,}", data[:200_000])]
    if not found:
        return _bytes(data, rng, other)
    first, last = found[rng.integers(len(found))]
    words = (
        b"__import__('os')",
        b"\xff\xfe\x00",
        b"$@%",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
        b"\n",
        b"|O",
        b">c16",
        b"<f2",
    )
    if rng.random() < 0.5:
        a, b = found[rng.integers(len(found))]
        word = data[a:b]
    else:
        word = words[rng.integers(len(words))]
    return data[:first] + word[: last - first].ljust(last - first, b"_") + data[last:]


MUTATIONS = (
    _flip,
    _bytes,
    _range,
    _cut,
    _extend,
    _splice,
    _shift,
    _integer,
    _integer,
    _float,
    _digits,
    _digits,
    _string,
)


def _mutated(data: bytes, rng: np.random.Generator, other: bytes, times: int | None = None) -> bytes:
    for _ in range(times or int(rng.choice([1, 1, 1, 2, 3]))):
        if len(data) > 1:
            data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng, other)
    return data


# Changes under a checksum or in a structure


def _rezipped(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A member of a zip file changed, with its checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        victim = names[rng.integers(len(names))]
        for name in names:
            content = old.read(name)
            if name == victim:
                head = int(rng.random() < 0.6) * 128
                content = (
                    _mutated(content[:head], rng, other) + content[head:] if head else _mutated(content, rng, other)
                )
            kind = int(
                rng.choice(
                    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
                    p=[0.5, 0.4, 0.05, 0.05],
                )
            )
            new.writestr(name, content, kind)
    return out.getvalue()


def _regzipped(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return gzip.compress(_mutated(gzip.decompress(data), rng, other), mtime=0)


def _repacked(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """An element of a packed MATLAB file changed."""
    at, parts = 128, []
    while at + 8 <= len(data):
        _, n = struct.unpack("<II", data[at : at + 8])
        parts.append(zlib.decompress(data[at + 8 : at + 8 + n]))
        at += 8 + n
    victim = int(rng.integers(len(parts)))
    parts[victim] = _mutated(parts[victim], rng, other)
    packed = [zlib.compress(part) for part in parts]
    return data[:128] + b"".join(struct.pack("<II", 15, len(p)) + p for p in packed)


def _tampered(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Elements of a DICOM file set to hostile values."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    for _ in range(int(rng.integers(1, 4))):
        keyword = str(rng.choice(
            ["Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel",
             "PixelRepresentation",
             "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "ImageType",
             "PhotometricInterpretation", "InstanceNumber", "SliceThickness", "PlanarConfiguration", "EchoTime", "PixelData"]
        ))  # fmt: skip
        if keyword in ds and rng.random() < 0.2:
            del ds[keyword]
        elif keyword == "PixelData":
            if "PixelData" in ds:
                ds["PixelData"]._value = _mutated(bytes(ds.PixelData), rng, other)
        elif keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            n = int(rng.choice([1, 2, 3, 6]))
            setattr(ds, keyword, [str(rng.choice(["0", "1", "-1", "1e38", "0.5", "1e-30"])) for _ in range(n)])
        elif keyword in ("RescaleSlope", "RescaleIntercept", "SliceThickness", "EchoTime"):
            setattr(ds, keyword, str(rng.choice(["0", "1e38", "-1e308", "1e-300", "2"])))
        elif keyword == "ImageType":
            ds.ImageType = ["ORIGINAL", "PRIMARY", "MOSAIC"]
        elif keyword == "PhotometricInterpretation":
            ds.PhotometricInterpretation = str(rng.choice(["RGB", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "X"]))
        elif keyword in ("NumberOfFrames", "InstanceNumber"):
            setattr(ds, keyword, str(rng.choice(["0", "-1", "2", "7", "2000000000", "999999999999"])))
        else:
            setattr(ds, keyword, int(rng.choice([0, 1, 2, 7, 8, 12, 16, 31, 32, 64, 100, 4096, 65535])))
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def _rebuilt(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """Datasets of an HDF5 file replaced: other types, shapes, storage and links, those that lead out of the file included."""
    buffer = io.BytesIO(data)
    outside = "/etc/passwd"
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[rng.integers(len(names))]
        kind, n = int(rng.integers(16)), int(rng.choice([1, 3, 12]))
        if kind == 15:
            for key in ("acquisition", "padding_left", "max", "units"):
                file.attrs[key] = np.full(n, np.nan) if rng.random() < 0.5 else h5py.Empty("f4")
            return _flushed(file, buffer)
        old, shape = file[name], file[name].shape
        plain = old.dtype if old.dtype.kind in "biufc" else np.dtype("c8")
        del file[name]
        if kind == 0:
            file.create_dataset(name, shape, plain, external=[(outside, 0, h5py.h5f.UNLIMITED)])
        elif kind == 1:
            file[name] = h5py.ExternalLink(outside, "/x")
        elif kind == 2:
            layout = h5py.VirtualLayout(shape or (2,), plain)
            layout[...] = h5py.VirtualSource(outside, "x", shape or (2,))
            file.create_virtual_dataset(name, layout)
        elif kind == 3:
            file[name] = h5py.SoftLink("/" + name)
        elif kind == 4:
            file["elsewhere"] = h5py.ExternalLink(outside, "/x")
            file[name] = h5py.SoftLink("/elsewhere/y")
        elif kind == 5:
            file.create_dataset(name, (2, 3, 2**20, 2**20), plain, chunks=(1, 1, 64, 64), fillvalue=1)
        elif kind == 6:
            file.create_dataset(name, (2**31, 2**31), plain)
        elif kind == 7:
            file.create_dataset(name, data=np.zeros((2, 3, 12, 0), plain))
        elif kind == 8:
            file.create_dataset(name, data=[b"text"] * n, dtype=h5py.string_dtype())
        elif kind == 9:
            file.create_dataset(
                name, data=np.full(shape or (2,), np.nan, plain) if plain.kind in "fc" else np.ones(shape)
            )
        elif kind == 10:
            file.create_dataset(name, (n,), h5py.ref_dtype)
        elif kind == 11:
            file.create_dataset(name, (n,), [("real", "<f4"), ("imag", "S4"), ("more", "<i8", (3,))])
        elif kind == 12:
            file.create_dataset(name, data=np.zeros((12, 500, 500), "i1"), compression="gzip", compression_opts=9)
        elif kind == 13:
            file.create_group(name)
        elif kind == 14:
            file.create_dataset(name, data=h5py.Empty("f4"))
        return _flushed(file, buffer)


def _flushed(file: h5py.File, buffer: io.BytesIO) -> bytes:
    file.flush()
    file.close()
    return buffer.getvalue()


def make(
    held: dict[str, dict[str, bytes]], seed: int, index: int, only: str | None = None
) -> tuple[str, dict[str, bytes], str, Reader]:
    """Input ``index``: name of its seed, its files, which of them is read, and by what."""
    rng = np.random.default_rng([seed, index])
    names = [name for name in SEEDS if only is None or name == only]
    name = names[index % len(names)]
    target, _, readers = SEEDS[name]
    readers = (*readers, load)
    files, reader = dict(held[name]), readers[rng.integers(len(readers))]
    other = list(held.values())[rng.integers(len(held))]
    other_bytes = next(iter(other.values()))
    victim = list(files)[rng.integers(len(files))]
    structured = {
        "npz": _rezipped, "npz packed": _rezipped, "npz dtypes": _rezipped, "spokes": _rezipped, "slices": _rezipped,
        "sinogram": _rezipped,
        "nifti gz": _regzipped, "nifti complex": _regzipped, "mat packed": _repacked, **dict.fromkeys(_HDF5, _rebuilt),
        **{key: _tampered for key in SEEDS if key.startswith("dicom")},
    }.get(name)  # fmt: skip
    if structured is not None and not victim.endswith(".json") and rng.random() < 0.4:
        try:
            files[victim] = structured(files[victim], rng, other_bytes)
        except Exception:  # what the library itself refuses to write
            files[victim] = _mutated(files[victim], rng, other_bytes)
        if structured is _rebuilt and rng.random() < 0.2:
            files[victim] = _mutated(files[victim], rng, other_bytes, 1)
    else:
        files[victim] = _mutated(files[victim], rng, other_bytes)
    if rng.random() < 0.05 and target in files:
        renamed = f"renamed{SUFFIXES[rng.integers(len(SUFFIXES))]}"
        files[renamed] = files.pop(target)
        target, reader = (
            renamed,
            (load_kspace, load_image, load_sinogram, load_noncartesian, mask, load)[rng.integers(6)],
        )
    return name, files, target, reader


# Judging


def _numbers_of(value: object) -> list[np.ndarray]:
    """All arrays and numbers in what a reader returns."""
    if isinstance(value, np.ndarray):
        return [value] if value.dtype.kind in "fc" else []
    if isinstance(value, float):
        return [np.array(value)]
    if isinstance(value, dict):
        return [a for one in value.values() for a in _numbers_of(one)]
    if isinstance(value, tuple | list):
        return [a for one in value for a in _numbers_of(one)]
    fields = getattr(value, "__dataclass_fields__", None)
    return [a for key in fields if key != "headers" for a in _numbers_of(getattr(value, key))] if fields else []


def judge(path: Path, reader: Reader) -> tuple[str, str]:
    """Outcome (``ok``, ``refused`` or a kind of failure) and what there is to say of it."""
    try:
        result = reader(path)
        if reader is not find_series:
            if any(not np.isfinite(a).all() for a in _numbers_of(result)):
                return "nan", ""
            shown = json.dumps(result.summary(), allow_nan=False) if hasattr(result, "summary") else ""
            found = [m for m in MARKERS if m in shown.replace(str(path.parent), "")]
            if found:
                return "person", f"{found}: {shown[:300]}"
        return "ok", ""
    except InputError as error:
        text = str(error)
        if isinstance(error.__cause__, MemoryError) or "more memory than available" in text:
            return "memory", text
        if any(m in text for m in MARKERS):
            return "person", text
        if "\n" in text or len(text) > 1500:
            return "message", text
        if not any(part in text for part in (path.name, path.stem, path.parent.name)):
            return "message", text
        return "refused", _origin(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "exception", f"{type(error).__name__}: {str(error)[:120]} at {Path(where.filename).name}:{where.lineno}"


def _origin(error: InputError) -> str:
    """Where a refusal was decided: foreign errors by their type."""
    cause = error.__cause__
    if cause is None or isinstance(cause, InputError):
        return ""
    own = [f for f in traceback.extract_tb(cause.__traceback__) if "medrecon" in f.filename]
    last = own[-1] if own else None
    return f"{type(cause).__name__} in {Path(last.filename).name}:{last.lineno}" if last else type(cause).__name__


# Running


def place(folder: Path, files: dict[str, bytes], target: str) -> Path:
    """Write the files of one input into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / target


def child(held, seed: int, indices: list[int], pipe: int, folder: Path, only: str | None) -> None:
    """Run inputs and write a line before and after each; never returns."""
    with open("/proc/self/statm") as file:
        base = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + 4 * LIMIT_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    noise = [os.open(folder.with_suffix(f".{k}"), os.O_RDWR | os.O_CREAT | os.O_TRUNC) for k in (1, 2)]
    for k, one in zip((1, 2), noise, strict=True):
        os.dup2(one, k)
    sizes = [0, 0]
    for index in indices:
        os.write(pipe, f"{index} start\n".encode())
        name, files, target, reader = make(held, seed, index, only)
        path = place(folder, files, target)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, text = judge(path, reader)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.flush()
        sys.stderr.flush()
        if outcome in ("ok", "refused") and after - before > LIMIT_BYTES // 1024:
            outcome, text = "memory", f"{(after - before) // 1024} MiB; {text}"
        for k, (one, what) in enumerate(zip(noise, ("stdout", "stderr"), strict=True)):
            size = os.fstat(one).st_size
            if size > sizes[k]:
                said = os.pread(one, 200, sizes[k]).decode("utf-8", "replace")
                sizes[k] = size
                if outcome in ("ok", "refused"):
                    outcome, text = what, said
        line = json.dumps([name, outcome, " ".join(text.split())[:400]])
        os.write(pipe, f"{index} {line}\n".encode())
        if after - before > 2**19:  # 512 MiB: later peaks would go unseen
            break
    os._exit(0)


def _cpu(pid: int) -> float:
    """Seconds of processor that a child has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def supervise(
    held, seed: int, indices: list[int], folder: Path, only: str | None, report: Callable[[int, list], None]
) -> None:
    """Run inputs in children; a child that dies or hangs costs one input."""
    at = 0
    while at < len(indices):
        batch = indices[at : at + BATCH]
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(held, seed, batch, write, folder, only)
        os.close(write)
        current, rest, hung, since, spent = None, b"", False, time.monotonic(), _cpu(pid)
        while True:
            ready, _, _ = select.select([read], [], [], 1.0)
            if not ready:
                if _cpu(pid) - spent < LIMIT_S and time.monotonic() - since < 9 * LIMIT_S:
                    continue  # the machine is busy with other things
                hung = True
                os.kill(pid, signal.SIGKILL)
                break
            more = os.read(read, 65536)
            if not more:
                break
            *lines, rest = (rest + more).split(b"\n")
            for text in lines:
                number, _, said = text.partition(b" ")
                if said == b"start":
                    current, since, spent = int(number), time.monotonic(), _cpu(pid)
                else:
                    report(int(number), json.loads(said))
                    at, current = at + 1, None
        os.close(read)
        _, status = os.waitpid(pid, 0)
        if current is not None:
            name = make(held, seed, current, only)[0]
            report(current, [name, "hang" if hung else "crash", "" if hung else f"signal {os.WTERMSIG(status)}"])
            at += 1


def run(count: int, seed: int, workers: int, only: str | None = None, first: int = 0) -> tuple[Counter, list]:
    """Outcomes by kind, and failures ``[index, seed's name, kind, text]``."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as temporary:
        folder = Path(temporary)
        (folder / "seeds").mkdir()
        held = build(folder / "seeds")
        pids = []
        for worker in range(workers):
            pid = os.fork()
            if pid == 0:
                with open(folder / f"{worker}.jsonl", "w") as log:
                    supervise(
                        held, seed, list(range(first + worker, first + count, workers)), folder / f"work{worker}", only,
                        lambda index, outcome, log=log: print(json.dumps([index, *outcome]), file=log, flush=True),
                    )  # fmt: skip
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        rows = [json.loads(text) for k in range(workers) for text in (folder / f"{k}.jsonl").read_text().splitlines()]
    outcomes = Counter(row[2] for row in rows)
    origins = Counter(f"{row[1]}: {row[3]}" for row in rows if row[2] == "refused" and row[3])
    run.origins = origins  # type: ignore[attr-defined]
    return outcomes, sorted(row for row in rows if row[2] not in ("ok", "refused"))


def alone(seed: int, index: int, only: str | None) -> None:
    """Run one input in this process and show what it raises."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as temporary:
        folder = Path(temporary)
        (folder / "seeds").mkdir()
        name, files, target, reader = make(build(folder / "seeds"), seed, index, only)
        path = place(folder / "work", files, target)
        print(
            f"{name}: {reader.__name__}({target}), {', '.join(f'{k} ({len(v)} bytes)' for k, v in files.items())}",
            flush=True,
        )
        with contextlib.suppress(OSError):
            shutil.copytree(folder / "work", Path(tempfile.gettempdir()) / f"fuzz-{index}", dirs_exist_ok=True)
        try:
            print(reader(path))
        except Exception:
            traceback.print_exc()
        print(judge(path, reader))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs")
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", help="one of the seeds' names")
    parser.add_argument("--index", type=int, help="run this input alone")
    parser.add_argument("--origins", action="store_true", help="list the foreign errors behind refusals")
    arguments = parser.parse_args()
    if arguments.index is not None:
        alone(arguments.seed, arguments.index, arguments.only)
        return 0
    start = time.monotonic()
    outcomes, failures = run(arguments.count, arguments.seed, arguments.workers, arguments.only, arguments.first)
    seconds = time.monotonic() - start
    print(
        f"seed {arguments.seed}, {outcomes.total()} inputs of {len(SEEDS)} kinds in {seconds:.0f} s on "
        f"{arguments.workers} processes"
    )
    print(", ".join(f"{n} {kind}" for kind, n in outcomes.most_common()))
    if arguments.origins:
        for origin, n in run.origins.most_common(60):  # type: ignore[attr-defined]
            print(f"  {n} {origin}")
    lost = arguments.count - outcomes.total()
    groups: dict[tuple, list] = {}
    for index, name, kind, text in failures:
        groups.setdefault((kind, name, text.rpartition(" at ")[2] if kind == "exception" else text[:60]), []).append(
            (index, text)
        )
    for (kind, name, _), held in sorted(groups.items()):
        print(f"{kind}: {name}, {len(held)} times, e.g. --index {held[0][0]}: {held[0][1]}")
    kinds = ("crash", "hang", "exception", "nan", "memory", "stdout", "stderr", "person", "message")
    print("failures: " + ", ".join(f"{outcomes[kind]} {kind}" for kind in kinds) + (f", {lost} lost" if lost else ""))
    return 1 if failures or lost else 0


if __name__ == "__main__":
    sys.exit(main())
