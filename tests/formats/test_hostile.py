"""Files that lie: data outside the file, sizes that are not there, names of patients, values of the wrong kind."""

import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import scipy.sparse
from scipy.io import loadmat, savemat

from medrecon.cli import main
from medrecon.data.errors import InputError, redacted
from medrecon.data.names import natural_key
from medrecon.formats import load_array, load_image, load_kspace, load_sinogram
from medrecon.formats.arrays import matlab_arrays
from medrecon.formats.bart import read_array
from medrecon.formats.hdf5 import open_hdf5, read_attribute, read_table
from medrecon.formats.scrub import scrub_header
from tests.make.dicom import numbers, oblique, write_series
from tests.make.ismrmrd import header, line
from tests.make.ismrmrd import write as write_lines
from tests.make.prepared import measured
from tests.make.sinograms import exchange

ROOT = Path(__file__).parents[2]
SECRET = np.arange(1, 2001, dtype=np.uint8)


# Data outside the file


def stored_externally(file, name, shape, dtype, outside):
    file.create_dataset(name, shape, dtype, external=[(str(outside), 0, h5py.h5f.UNLIMITED)])


def linked(file, name, shape, dtype, outside):
    file[name] = h5py.ExternalLink(str(outside), "/secret")


def softly_linked(file, name, shape, dtype, outside):
    """A soft link that leads through an external one."""
    file["elsewhere"] = h5py.ExternalLink(str(outside), "/")
    file[name] = h5py.SoftLink(f"{file.name}/elsewhere/secret")


def virtual(file, name, shape, dtype, outside):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(outside), "secret", shape)
    file.create_virtual_dataset(name, layout)


def nested(file, name, shape, dtype, outside):
    """A virtual dataset of a virtual dataset of the same file."""
    virtual(file, "inner", shape, dtype, outside)
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(".", "inner", shape)
    file.create_virtual_dataset(name, layout)


def deep(file, name, shape, dtype, outside):
    """Behind a header with so many attributes that it goes on elsewhere in the file."""
    for k in range(40):
        file.attrs[f"a{k}"] = np.arange(20)
    stored_externally(file, name, shape, dtype, outside)


WAYS = (stored_externally, linked, softly_linked, virtual, nested, deep)
PAIR = np.dtype([("real", "<f4"), ("imag", "<f4")])
DOORS = {
    "fastmri": ("a.h5", "kspace", (2, 3, 8, 6), "c8", load_kspace),
    "mask": ("a.h5", "mask", (6,), "u1", lambda path: load_array(path, "mask")),
    "maps": ("a.h5", "maps", (3, 8, 6), "c8", lambda path: load_array(path, "maps")),
    "ismrmrd": ("a.mrd", "dataset/data", (4,), "u1", load_kspace),
    "matlab": ("a.mat", "kspace", (2, 3, 8, 6), PAIR, load_kspace),
    "exchange": ("a.h5", "exchange/data", (4, 1, 8), "f4", lambda path: load_sinogram(path, 1.0)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_data_outside_an_hdf5_file_are_refused_at_every_door(tmp_path, door, way, libver):
    name, key, shape, dtype, load = DOORS[door]
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.ones(shape, dtype) if dtype != PAIR else np.ones(shape, "c8").view(PAIR)
    path = tmp_path / name
    if door == "exchange":
        exchange(path, np.ones((4, 1, 8)))
        with h5py.File(path, "r+") as file:
            del file[key]
    with h5py.File(path, "r+" if door == "exchange" else "w", libver=libver) as file:
        way(file, key, shape, dtype, outside)
        if door == "ismrmrd":
            file.create_dataset("dataset/xml", data=[b"<x/>"], dtype=h5py.string_dtype())
    with pytest.raises(
        InputError, match=r"(elsewhere|inner|kspace|mask|maps|data)' is .*are outside the file"
    ) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_link_to_a_pipe_blocks_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
    with pytest.raises(InputError, match="'kspace' is an external link"):
        load_kspace(tmp_path / "a.h5")
    with pytest.raises(InputError, match="is a pipe or device"), open_hdf5(tmp_path / "pipe"):
        pass


def test_soft_and_hard_links_that_stay_in_the_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/data"] = measured(0)
        file["kspace"] = h5py.SoftLink("/group/data")
        file["again"] = file["group"]
    assert np.array_equal(load_kspace(tmp_path / "a.h5").kspace, measured(0))


@pytest.mark.parametrize("way", WAYS)
def test_one_group_of_many_is_looked_through_alone(tmp_path, way):
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["secret"] = np.ones(4, "f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["good/data"] = np.ones(4)
        way(file.create_group("bad"), "data", (4,), "f4", tmp_path / "outside.h5")
        file["ugly"] = h5py.SoftLink("/bad")
        file["worse"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "/")
    with open_hdf5(tmp_path / "a.h5", "good") as file:
        assert np.array_equal(file["good/data"], np.ones(4))
    for below in ("bad", "worse", "bad/data", "worse/secret"):
        with pytest.raises(InputError, match="are outside"), open_hdf5(tmp_path / "a.h5", below):
            pass


def test_filters_that_would_be_loaded_are_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        held = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        held.set_chunk((1, 3, 8, 6))
        held.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((1, 3, 8, 6))
        made = h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype("c8")), space, held)
        made.write_direct_chunk((0, 0, 0, 0), bytes(8 * 3 * 48))
    with pytest.raises(InputError, match=r"filter 32001.*h5repack -f GZIP=4"):
        load_kspace(tmp_path / "a.h5")


# Sizes that are not there


def zeros_npy(shape, dtype="<c8"):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def long_list(path):
    """An acquisition that claims 4 G samples: the length of its list is changed where it lies in the file."""
    k = measured(0, slices=1)[0]
    write_lines(path, header((24, 20, 1), (24, 20, 5)), [line(k[:, :, y], kspace_encode_step_1=y) for y in range(20)])
    with h5py.File(path) as file:
        data = file["dataset/data"].id
        at = data.get_chunk_info(3).byte_offset + data.get_type().get_member_offset(2)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", 2**32 - 8))


def long_text(path):
    """A header that claims 4 GB of text."""
    with h5py.File(path, "w") as file:
        file["kspace"] = measured(0)
        file.create_dataset("ismrmrd_header", data="<x/>", dtype=h5py.string_dtype())
        at = file["ismrmrd_header"].id.get_offset()
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", 2**32 - 8))


def bombs(folder):
    """Files of a few kB that claim gigabytes."""
    with h5py.File(folder / "fill.h5", "w") as file:
        file.create_dataset("kspace", (2, 8, 40000, 40000), "c8", chunks=(1, 1, 64, 64))
    with h5py.File(folder / "late.h5", "w") as file:
        file.create_dataset("kspace", (2, 8, 40000, 40000), "c8")
    with h5py.File(folder / "chunk.h5", "w") as file:
        file.create_dataset(
            "kspace", (1, 1, 8, 8), "c8", chunks=(1, 1, 2**14, 2**14), maxshape=(None,) * 4, compression="gzip"
        )
    with h5py.File(folder / "deflate.h5", "w") as file:
        made = file.create_dataset("kspace", (1, 1, 8, 8), "c8", chunks=(1, 1, 8, 8), compression="gzip")
        made.id.write_direct_chunk((0, 0, 0, 0), __import__("zlib").compress(bytes(2**30), 1))
    long_list(folder / "list.mrd")
    long_text(folder / "text.h5")
    (folder / "a.npy").write_bytes(zeros_npy((2, 8, 40000, 40000)))
    with (
        zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("kspace.npy", "w", force_zip64=True) as one,
    ):
        one.write(zeros_npy((2, 8, 2**13, 2**10)))
        for _ in range(64):
            one.write(bytes(2**24))
    (folder / "a.hdr").write_text("# Dimensions\n99999999999 99999999999 1 8\n")
    (folder / "a.cfl").write_bytes(bytes(64))
    for name in ("a.nii", "b.nii.gz"):
        image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
        raw = bytearray(image.to_bytes())
        raw[40:56] = struct.pack("<8h", 4, 30000, 30000, 30000, 100, 1, 1, 1)
        (folder / name).write_bytes(__import__("gzip").compress(raw) if name.endswith("gz") else bytes(raw))
    far = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)).to_bytes())
    far[108:112] = struct.pack("<f", 3e9)  # the data begin far behind an extension
    (folder / "c.nii.gz").write_bytes(__import__("gzip").compress(far))
    for name, change in (("frames", {"NumberOfFrames": "2000000000"}), ("rows", {"Rows": 65535, "Columns": 65535})):
        write_series(folder / name, oblique(), numbers((1, 8, 8)), name + ".dcm", **change)
    write_series(folder / "packed", oblique(), numbers((1, 8, 8)), "0.dcm")
    ds = pydicom.dcmread(folder / "packed" / "0.dcm")
    ds.compress(pydicom.uid.JPEGLSLossless)
    at = bytes(ds.PixelData).index(b"\xff\xf7")
    ds["PixelData"]._value = ds.PixelData[: at + 5] + b"\xff\xff\xff\xff" + ds.PixelData[at + 9 :]
    ds.save_as(folder / "packed" / "0.dcm")
    return [p for p in sorted(folder.iterdir()) if p.suffix != ".cfl"]


LOADER = """
import json, resource, sys
from medrecon.formats.arrays import matlab_arrays
from medrecon.data.errors import InputError, redacted
from medrecon.formats import load_image
from medrecon.formats import load_kspace
from scipy.io import loadmat
import pydicom, nibabel, ismrmrd
base = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + 2**30,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    load = load_image if path.endswith((".nii", ".gz", "frames", "rows", "packed")) else load_kspace
    try:
        load(path)
        said = "read"
    except InputError as error:
        said = str(error)
    print(json.dumps([path, said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


OURS = " claims | says |a compressed image is|is missing or has another length|too long|unpack to more"


def test_no_memory_is_taken_for_sizes_that_are_not_in_the_file(tmp_path):
    paths = bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *map(str, paths)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    rows = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(rows) == len(paths), done.stderr
    for path, said, taken in rows:
        assert said.startswith(path.removesuffix(".hdr")), (path, said)
        assert re.search(OURS, said), said  # before a library meets it
        assert "more memory" not in said, said  # refused for what it claims, not by the limit of memory
        assert taken < 300_000, (path, said, taken)  # kB: libraries are still being loaded, and 2**28 bytes are allowed


def test_real_sizes_pass(tmp_path):
    """A blank volume of 200 MB packs a thousandfold, and eightfold undersampled k-space tenfold: both are files that exist."""
    blank = nib.Nifti1Image(np.zeros((512, 512, 200), np.int8), np.eye(4))
    nib.save(blank, tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").stat().st_size < 250_000
    assert load_image(tmp_path / "a.nii.gz").array.shape == (200, 512, 512)


# People

PRIVATE = {
    "MRN": "MRN-77", "birth_date": "1970-01-01", "operator": "Op Smith", "study_date": "2020-01-02", "patient_id": "ID-4711",
    "institution": "Ward 7", "device_serial": "SN-123", "protocol": "jane head", "acquisition": "Jane Doe^T2", "comment": "Doe",
}  # fmt: skip


def private(text):
    return [value for value in PRIVATE.values() if value in text]


def test_attributes_pass_by_a_list(tmp_path, capsys):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = measured(0)
        file.attrs.update(
            **PRIVATE, acceleration=1.0, padding_left=0, padding_right=20, num_low_frequency=np.array([4])
        )
        file["kspace"].attrs.update(PRIVATE)
    data = load_kspace(path)
    assert data.attributes == {"acceleration": 1.0, "padding_left": 0, "padding_right": 20, "num_low_frequency": 4}
    assert main(["info", str(path)]) == 0
    assert main(["info", "--json", str(path)]) == 0
    assert main(["undersample", str(path), "-o", str(tmp_path / "u.h5"), "--acs", "4"]) == 0
    said = capsys.readouterr()
    assert not private(said.out + said.err)
    with h5py.File(tmp_path / "u.h5") as file:
        assert set(file.attrs) == {
            "acceleration",
            "padding_left",
            "padding_right",
            "num_low_frequency",
            "mask_kind",
            "mask_seed",
        }
    assert not private((tmp_path / "u.h5").read_bytes().decode("latin1"))
    assert load_kspace(tmp_path / "u.h5").attributes["mask_kind"] == "gaussian1d"
    with h5py.File(path, "r+") as file:
        file.attrs["acquisition"] = "AXT2"
    assert load_kspace(path).attributes["acquisition"] == "AXT2"


def test_sidecars_and_series_pass_by_a_list(tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    held = {
        **PRIVATE,
        "SeriesDescription": "jane head",
        "PatientName": "Doe",
        "EchoTime": 0.01,
        "Modality": "MR",
        "FlipAngle": "Doe",
    }
    (tmp_path / "a.json").write_text(json.dumps(held))
    assert load_image(tmp_path / "a.nii.gz").attributes == {"EchoTime": 0.01, "Modality": "MR"}
    write_series(
        tmp_path / "s", oblique(), numbers(), SeriesDescription="jane head", ProtocolName="Doe", EchoTime="2.5"
    )
    assert load_image(tmp_path / "s").attributes == {"Modality": "MR", "SeriesNumber": 3.0, "EchoTime": 2.5}
    assert main(["info", str(tmp_path / "s")]) == 0
    # What is asked for and is not there is answered with values of the list alone.
    assert main(["info", str(tmp_path / "s"), "--select", "PatientName=x"]) == 2
    assert main(["info", str(tmp_path / "s"), "--select", "EchoTime=7"]) == 2
    write_series(tmp_path / "s" / "two", oblique(), numbers(), SeriesNumber=4, SeriesDescription="jane head")
    assert main(["info", str(tmp_path / "s")]) == 2
    said = capsys.readouterr()
    assert "there are 2.5" in said.err
    assert not [word for word in ("Doe", "Jane", "jane", "ID-4711", "19700101") if word in said.out + said.err]


def test_errors_do_not_quote_a_damaged_header(tmp_path):
    """What libraries raise quotes what they could not use."""
    write_series(
        tmp_path / "s", oblique(), numbers((2, 8, 8)), "{k}.dcm", RescaleSlope="1.0000000000", RescaleIntercept="0"
    )
    for k in range(2):
        path = tmp_path / "s" / f"{k}.dcm"
        content = path.read_bytes()
        at = content.index(b"\x28\x00\x53\x10DS")  # RescaleSlope
        n = int.from_bytes(content[at + 6 : at + 8], "little")
        path.write_bytes(content[: at + 8] + b"Doe^Jane 4711".ljust(n)[:n] + content[at + 8 + n :])
    with pytest.raises(InputError) as caught:
        load_image(tmp_path / "s")
    assert "Doe" not in str(caught.value)
    assert redacted(ValueError("could not convert string to float: 'O'Neill 4711'")).endswith("float: ...")
    assert redacted(KeyError("Doe")) == "..."
    assert redacted(ValueError("value Doe^Jane is invalid")) == "value ... is invalid"


def test_an_ismrmrd_header_keeps_what_reconstruction_needs(tmp_path):
    full = header((24, 20, 1), (24, 20, 5))
    full.acquisitionSystemInformation.stationName = "Doe"
    full.acquisitionSystemInformation.deviceSerialNumber = "SN-123"
    full.measurementInformation = ismrmrd.xsd.measurementInformationType(protocolName="Doe", patientPosition="HFS")
    full.encoding[0].trajectoryDescription = ismrmrd.xsd.trajectoryDescriptionType(
        identifier="EPI", comment="Doe", userParameterString=[ismrmrd.xsd.userParameterStringType(name="who", value="Doe")],
        userParameterLong=[
            ismrmrd.xsd.userParameterLongType(name="flatTopTime", value=100),
            ismrmrd.xsd.userParameterLongType(name="Doe", value=1)
        ],
    )  # fmt: skip
    xml = full.toXML("utf-8").replace("<version>", "<!-- Doe --><version>")
    xml = xml.replace("<encoding>", '<studyOfDoe>Doe</studyOfDoe><encoding who="Doe">')
    out = scrub_header(xml.encode())
    assert not [word for word in (b"Doe", b"Jane", b"SN-123", b"Ward", b"HFS", b"who") if word in out]
    root = ElementTree.fromstring(out)
    for tag in ("matrixSize/{*}x", "fieldOfView_mm/{*}z", "trajectory", "kspace_encoding_step_1/{*}center", "systemVendor",
                "systemFieldStrength_T", "H1resonanceFrequency_Hz", "userParameterLong/{*}value"):  # fmt: skip
        assert root.find(f".//{{*}}{tag}").text
    ismrmrd.xsd.CreateFromDocument(out)  # still a header by the schema
    assert scrub_header(out) == out


@pytest.mark.parametrize("entity", ['SYSTEM "/etc/hostname"', '"' + 10 * "x" + '"'], ids=["a file", "a text"])
def test_headers_with_entities_are_refused(tmp_path, entity):
    k = measured(0, slices=1)[0]
    xml = header((24, 20, 1), (24, 20, 5)).toXML("utf-8")
    xml = xml.replace("?>", f"?><!DOCTYPE a [<!ENTITY b {entity}>]>", 1).replace("maker", "&b;")
    with ismrmrd.Dataset(str(tmp_path / "a.mrd"), "dataset", create_if_needed=True) as dataset:
        dataset.write_xml_header(xml)
        for y in range(20):
            dataset.append_acquisition(line(k[:, :, y], kspace_encode_step_1=y))
    with pytest.raises(InputError, match="an XML header with a document type"):
        load_kspace(tmp_path / "a.mrd")


# Values of the wrong kind


def test_matlab_files_of_other_things(tmp_path):
    k = measured(0).transpose(2, 3, 1, 0)
    savemat(tmp_path / "sparse.mat", {"kspace": scipy.sparse.csc_matrix(np.eye(6) + 1j)})
    with pytest.raises(InputError, match=r"'kspace' is a sparse matrix; save full\(kspace\)"):
        load_kspace(tmp_path / "sparse.mat")
    for name, value in (("cell", np.array([1, "a"], object)), ("text", "text"), ("struct", {"a": 1})):
        savemat(tmp_path / f"{name}.mat", {"kspace": value})
        with pytest.raises(InputError, match="'kspace' is not numeric"):
            load_kspace(tmp_path / f"{name}.mat")
    for packed in (False, True):
        savemat(tmp_path / "whole.mat", {"kspace": k}, do_compression=packed)
        assert np.array_equal(load_kspace(tmp_path / "whole.mat").kspace, measured(0))
        content = (tmp_path / "whole.mat").read_bytes()
        for n in (10, 130, 1000, len(content) - 3):
            (tmp_path / "cut.mat").write_bytes(content[:n])
            with pytest.raises(InputError, match=r"cut.mat: (not a readable MATLAB file|no array .kspace.)"):
                load_kspace(tmp_path / "cut.mat")


@pytest.mark.parametrize("fmt", ["4", "5"])
@pytest.mark.parametrize("packed", [False, True])
def test_matlab_numbers_of_every_kind_are_scipys(tmp_path, fmt, packed):
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    kinds = (
        ("f8", "f4", "i4", "i2", "u2", "u1")
        if fmt == "4"
        else ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    )
    held = {
        f"v{k}": rng.integers(0, 100, (3, 4) if fmt == "4" else (3, 4, 2)).astype(kind) for k, kind in enumerate(kinds)
    }
    held |= {
        "complex": rng.normal(size=(5, 2)) + 1j,
        "one": np.float64(3),
        "single": (rng.normal(size=(2, 2)) + 2j).astype("c8"),
    }
    held |= {"flags": np.array([[True, False]]), "small": np.array([[1, 2]], "u1"), "empty": np.zeros((0, 3))}
    savemat(path, held, format=fmt, do_compression=packed and fmt == "5")
    other = loadmat(path)
    for key in held:
        array = load_array(path, key) if key != "empty" else matlab_arrays(path, (key,))[0][key]
        array = array if array.ndim < 3 else array.transpose(1, 2, 0)
        assert np.array_equal(array, other[key]), key
        assert array.dtype.kind == other[key].dtype.kind
    assert set(matlab_arrays(path, ())[1]) == set(held)


def test_matlab_files_of_other_machines(tmp_path):
    """Big-endian files, as scipy's own tests have them, made here byte by byte."""

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    k = (np.arange(6).reshape(3, 2) + 1j * np.arange(6, 12).reshape(3, 2)).astype("c16")
    parts = element(6, struct.pack(">II", 0x806, 0)) + element(5, struct.pack(">ii", 3, 2)) + element(1, b"kspace")
    parts += element(9, k.real.T.astype(">f8").tobytes()) + element(2, k.imag.T.astype("u1").tobytes())
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, parts))
    assert np.array_equal(load_array(tmp_path / "a.mat", "kspace"), k)
    assert np.array_equal(loadmat(tmp_path / "a.mat")["kspace"], k)
    head = struct.pack(">5i", 1000, 3, 2, 1, 7) + b"kspace\0"
    (tmp_path / "b.mat").write_bytes(head + k.real.T.astype(">f8").tobytes() + k.imag.T.astype(">f8").tobytes())
    assert np.array_equal(load_array(tmp_path / "b.mat", "kspace"), k)


def test_text_is_no_noise_scan(tmp_path):
    savemat(tmp_path / "a.mat", {"kspace": measured(0).transpose(2, 3, 1, 0), "mask": np.ones((1, 20))})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["noise"] = measured(0), "a text"
    data = load_kspace(tmp_path / "a.h5")
    assert data.noise_scan is None
    assert "the noise scan is" in data.warnings[0]
    savemat(tmp_path / "b.mat", {"kspace": measured(0).transpose(2, 3, 1, 0), "noise": "a text"})
    with pytest.raises(InputError, match="'noise' is not numeric"):
        load_kspace(tmp_path / "b.mat")


def test_types_of_other_machines_have_the_same_values(tmp_path):
    k = measured(0)
    for name, dtype in (("big", ">c8"), ("double", ">c16"), ("long", np.clongdouble)):
        np.save(tmp_path / f"{name}.npy", k.astype(dtype))
        assert np.array_equal(load_kspace(tmp_path / f"{name}.npy").kspace, k)
    np.savez(tmp_path / "half.npz", kspace=k, mask=np.ones(20, np.float16))
    assert load_kspace(tmp_path / "half.npz").mask.all()
    np.save(tmp_path / "fortran.npy", np.asfortranarray(k))
    assert np.array_equal(load_kspace(tmp_path / "fortran.npy").kspace, k)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([{"a": 1}], object), "Python objects, which are never loaded"),
        (np.zeros(3, [("a", "f4"), ("b", "i4")]), "not numbers"),
        (np.array(["a"]), "not numbers"),
        (np.zeros((2, 3, 0, 5), complex), "k-space has shape"),
        (np.array(["2020-01-01"], "datetime64[D]"), "not numbers"),
    ],
    ids=["objects", "compound", "text", "empty", "dates"],
)  # fmt: skip
def test_arrays_that_are_no_kspace(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", allow_pickle=True, kspace=array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match=words):
            load_kspace(tmp_path / name)


def test_negative_and_overflowing_sizes(tmp_path):
    (tmp_path / "a.npy").write_bytes(zeros_npy((-1, 4)) + bytes(64))
    with pytest.raises(InputError, match=r"its shape \(-1, 4\) is impossible"):
        load_kspace(tmp_path / "a.npy")
    (tmp_path / "b.cfl").write_bytes(bytes(64))
    for sizes, words in (("4294967296 4294967296 1 1", "the header says"), ("0 8", "an axis of length 0"),
                         ("9" * 40, "no line of dimensions"), ("\u0663 \u0664", "no line of dimensions"),
                         ("-2 -4", "no line of dimensions"), ("8 " + "1 " * 60, ""),
                         ("2 2 2" + " 2" * 17, "20 axes")):  # fmt: skip
        (tmp_path / "b.hdr").write_text(f"# Dimensions\n{sizes}\n")
        if not words:
            assert read_array(tmp_path / "b.hdr").shape == (8,)
            continue
        with pytest.raises(InputError, match=words):
            load_kspace(tmp_path / "b.cfl")


def test_nan_in_maps_and_masks_is_refused(tmp_path):
    for name, save in (("a.npy", np.save), ("a.npz", lambda p, a: np.savez(p, maps=a))):
        save(tmp_path / name, np.full((2, 4, 4), np.nan + 1j))
        with pytest.raises(InputError, match="'maps' contains NaN or Inf"):
            load_array(tmp_path / name, "maps")


def test_numbers_of_odd_formats_are_not_written_beyond_their_array(tmp_path):
    """For h5py such a float of four bytes is one of eight, and the members of a pair overlap."""
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(123)
    pair = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    pair.insert(b"real", 0, odd)
    pair.insert(b"imag", 4, h5py.h5t.IEEE_F32LE)
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        h5py.h5d.create(file.id, b"kspace", pair, h5py.h5s.create_simple((2, 3, 10, 12)))
        file["kspace"].id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((2, 3, 10, 12), PAIR), pair)
    with pytest.raises(InputError, match="'/kspace' has an unsupported number format"):
        load_kspace(tmp_path / "a.mat")


def test_places_that_are_nowhere(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers((1, 8, 8)), ImagePositionPatient=["1e300", "0", "0"])
    with pytest.raises(InputError, match="positions or pixel sizes are impossible"):
        load_image(tmp_path / "s")
    affine = np.eye(4)
    affine[0, 0] = 1e30
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), affine), tmp_path / "a.nii")
    with pytest.raises(InputError, match="affine cannot be inverted"):
        load_image(tmp_path / "a.nii")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("others", [0, 40])
def test_texts_of_attributes_wherever_they_lie(tmp_path, libver, others):
    """Many attributes are not in the header of their object, but in a heap of their own."""
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        for k in range(others):
            file.attrs[f"other{k}"] = "x" * k
        file.attrs.update(acquisition="AXT2", fixed=np.bytes_(b"abc"), number=3, several=[1, 2])
    with open_hdf5(tmp_path / "a.h5") as file:
        assert read_attribute(file, "acquisition") == b"AXT2"
        assert read_attribute(file, "fixed") == b"abc"
        assert read_attribute(file, "number") == 3
        assert read_attribute(file, "several") is read_attribute(file, "none") is None
    content = (tmp_path / "a.h5").read_bytes()
    at = content.index(struct.pack("<I", 4), content.index(b"acquisition\0") + 12)
    while content[at + 4 : at + 12] == bytes(8):  # an address follows the length
        at = content.index(struct.pack("<I", 4), at + 1)
    (tmp_path / "a.h5").write_bytes(content[:at] + struct.pack("<I", 2**32 - 8) + content[at + 4 :])
    if libver == "latest":  # whose checksums see it
        return
    with (
        open_hdf5(tmp_path / "a.h5") as file,
        pytest.raises(ValueError, match="a text or list is missing or has another length"),
    ):
        read_attribute(file, "acquisition")


def test_an_attribute_that_claims_4_gb(tmp_path):
    path = exchange(tmp_path / "a.h5", np.ones((4, 1, 8)), theta_units="rad")
    with h5py.File(path) as file:
        assert read_attribute(file["exchange/theta"], "units") == b"rad"
    content = path.read_bytes()
    at = content.index(struct.pack("<I", 3), content.index(b"units\0"))  # the length of "rad"
    path.write_bytes(content[:at] + struct.pack("<I", 2**32 - 8) + content[at + 4 :])
    with pytest.raises(InputError, match="a text or list is missing or has another length"):
        load_sinogram(path, 1.0)


HEADER = (
    b'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize><x>6</x><y>4</y><z>1</z>'
    b"</matrixSize><fieldOfView_mm><x>12</x><y>12</y><z>5</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize><x>6</x>"
    b"<y>4</y><z>1</z></matrixSize><fieldOfView_mm><x>12</x><y>12</y><z>5</z></fieldOfView_mm></reconSpace></encoding>"
    b"</ismrmrdHeader>"
)


def with_header(path, how, **more):
    """A file in fastMRI's layout whose header is stored in one of HDF5's ways."""
    text = h5py.string_dtype()
    with h5py.File(path, "w", **more) as file:
        file["kspace"] = (1 + np.arange(2 * 3 * 6 * 4).reshape(2, 3, 6, 4) % 7).astype(np.complex64)
        if how == "compact":
            held = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            held.set_layout(h5py.h5d.COMPACT)
            kind, space = h5py.h5t.py_create(text, logical=True), h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.Dataset(h5py.h5d.create(file.id, b"ismrmrd_header", kind, space, held))[()] = HEADER
        elif how in ("lzf", "gzip"):
            file.create_dataset("ismrmrd_header", data=[HEADER] * 3, dtype=text, chunks=(3,), compression=how)
            del file["ismrmrd_header"]
            file.create_dataset(
                "ismrmrd_header", data=[HEADER], dtype=text, chunks=(40,), maxshape=(None,), compression=how
            )
        else:
            file["ismrmrd_header"] = {"plain": HEADER, "opaque": np.void(HEADER), "bytes": np.frombuffer(HEADER, "u1")}[
                how
            ]
    return path


@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("how", ["plain", "compact", "lzf", "gzip", "opaque", "bytes"])
def test_a_header_stored_in_any_way_is_read(tmp_path, how, libver, user_block):
    data = load_kspace(with_header(tmp_path / "a.h5", how, libver=libver, userblock_size=user_block))
    assert data.spacing == (5.0, 2.0, 3.0)
    assert data.warnings == ()


def test_tables_compressed_by_lzf_are_those_that_the_library_reads(tmp_path):
    rng = np.random.default_rng(0)
    kind = np.dtype([("head", [("a", "<u2"), ("b", "<f4", 3)]), ("data", h5py.vlen_dtype("<f4"))])
    rows = np.zeros(300, kind)
    rows["head"]["a"], rows["head"]["b"] = rng.integers(0, 9, 300), rng.normal(size=(300, 3)).round()
    for k in range(300):
        rows["data"][k] = np.arange(k % 5, dtype="<f4")
    for shuffle in (False, True):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data", data=rows, chunks=(150,), compression="lzf", shuffle=shuffle)
        with h5py.File(tmp_path / "a.h5") as file:
            held, expected = read_table(file["data"]), file["data"][()]
        assert (held["head"] == expected["head"]).all()
        assert all(np.array_equal(a, b) for a, b in zip(held["data"], expected["data"], strict=True))


def test_a_header_that_cannot_be_read_costs_the_voxel_size_alone(tmp_path):
    path = with_header(tmp_path / "a.h5", "plain")
    with h5py.File(path, "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = h5py.Empty("S4")
    data = load_kspace(path)
    assert data.spacing is None
    assert "ismrmrd_header cannot be read" in data.warnings[0]


def test_two_groups_with_one_attribute_of_many(tmp_path):
    """Which text is whose cannot be decided outside the header; the file is read without it."""
    path = with_header(tmp_path / "a.h5", "plain", track_order=True)
    with h5py.File(path, "a") as file:
        for group, word in ((file, "AXT2"), (file.create_group("other", track_order=True), "SAGT1")):
            group.attrs.update({f"other{k}": "x" * k for k in range(30)} | {"acquisition": word, "max": 3.0})
    assert load_kspace(path).attributes == {"max": 3.0}


def test_infinite_parts_of_complex_numbers_stay_what_they_are(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"kspace": np.array([[complex(-0.0, np.inf), 1j]])})
    held, _ = matlab_arrays(tmp_path / "a.mat", ["kspace"])
    assert held["kspace"].view(float).tolist() == [[0.0, np.inf, 0.0, 1.0]]
    assert np.signbit(held["kspace"].real[0, 0])


def test_files_that_cost_the_library_more_than_they_hold(tmp_path):
    """The library takes 4 kB for every chunk, 0.4 s for the extensions of 1 MB, and the square of the depth for groups."""
    kspace = np.ones((1, 1, 8, 8), np.complex64)
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        file.create_dataset("kspace", (1, 1, 2000, 2000), np.complex64, chunks=(1, 1, 2, 2))[0, 0, 0, 0] = 1
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["kspace"], at = kspace, file.id
        for _ in range(3000):
            at = h5py.h5g.create(at, b"g")
    for name, words in (("chunks", "divided into 1000000 chunks"), ("deep", "groups nested deeper than 64")):
        with pytest.raises(InputError, match=words):
            load_kspace(tmp_path / f"{name}.h5")

    image = nib.Nifti1Image(np.full((4, 4, 4), 7, np.int16), np.diag([2, 3, 4, 1]))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"nobody reads this"))
    image.to_filename(tmp_path / "one.nii")
    content = bytearray((tmp_path / "one.nii").read_bytes())
    held = load_image(tmp_path / "one.nii")
    assert (held.array == 7).all()
    assert held.spacing == (4.0, 3.0, 2.0)
    struct.pack_into("<f", content, 108, 2.0**25)
    extensions = (struct.pack("<ii", 16, 6) + bytes(8)) * (2**21 - 22)
    (tmp_path / "many.nii").write_bytes(content[:352] + extensions + content[-128:])
    begun = time.monotonic()
    assert (load_image(tmp_path / "many.nii").array == 7).all()
    assert time.monotonic() - begun < 5


def test_dicom_that_ends_within_a_sequence_is_damaged(tmp_path):
    """The library raises an OSError that is none of the system's."""
    inner = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + inner * 30)
    with pytest.raises(InputError, match="damaged DICOM file") as caught:
        load_image(tmp_path / "a.dcm")
    assert "permissions" not in str(caught.value)


def test_names_of_arrays_stay_out_of_what_prep_writes(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", Meier=np.ones(3))
    np.savez(tmp_path / "in" / "c.npz", Meier=np.ones((2, 8, 8), complex))
    np.savez(tmp_path / "in" / "d.npz", Meier=np.ones(3), sino=np.ones((9, 9)), theta=np.ones(9))
    np.savez(tmp_path / "in" / "b.npz", kspace=np.ones((2, 8, 8), complex))
    code = main(
        [
            "prep",
            str(tmp_path / "in"),
            "-o",
            str(tmp_path / "out"),
            "--recipe",
            "kspace",
            "--key",
            str(tmp_path / "key"),
        ]
    )
    assert code == 1
    assert "Meier" in capsys.readouterr().err  # for the owner
    said = (tmp_path / "out" / "failed.jsonl").read_text()
    assert len(said.splitlines()) == 3
    assert all(b"Meier" not in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())


def test_modules_that_lie_beside_the_data_are_not_run(tmp_path):
    """Python looks for modules in the current folder if it is started by ``-c``, as the children of prep are."""
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "b.npz", kspace=np.ones((2, 8, 8), complex))
    for name in ("json", "numpy", "h5py", "torch", "yaml", "monai", "pydicom", "nibabel", "select", "zlib"):
        (tmp_path / f"{name}.py").write_text("open('run', 'a').close()\nraise SystemExit(1)\n")
    start = f"import sys; sys.path[0] = {str(ROOT)!r}; from medrecon.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", start, "prep", "in", "-o", "out", "--recipe", "kspace", "--key", "key"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()


def test_numbers_in_names_of_any_script():
    names = ["s10", "s2", "s²", "s٣", "s" + "9" * 5000, "s02"]
    assert sorted(names, key=natural_key) == ["s02", "s2", "s10", "s" + "9" * 5000, "s²", "s٣"]


def test_a_short_fuzz_of_all_readers():
    """The first inputs of the long run, see tests/fuzz.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", "78", "--workers", "1"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "78 inputs" in done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_decoder_that_hangs_is_given_up_and_does_not_outlive_its_caller(tmp_path):
    """A pipe into which nobody writes stands for an image that is decoded forever."""
    os.mkfifo(tmp_path / "pipe")
    script = (
        "import sys; from medrecon.formats.dicom import decoding; decoding.SECONDS = float(sys.argv[2]);"
        "print(decoding._decoder._started().pid, flush=True); decoding.decode_file(sys.argv[1], '1.2', 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "pipe")]
    late = subprocess.run([*command, "0.2"], capture_output=True, text=True, timeout=60, check=False)
    assert "ValueError: the decoder did not finish within 0.2 s" in late.stderr
    with subprocess.Popen([*command, "1.5"], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        decoder = Path(f"/proc/{int(caller.stdout.readline())}/stat")
        time.sleep(0.7)
        caller.kill()
    until = time.monotonic() + 20
    while decoder.exists() and ") Z " not in decoder.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
