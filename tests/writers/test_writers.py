"""Every writer: files are those of version 0.3, and what libraries of their formats read is what was written."""

import gzip
import hashlib
import json
import subprocess
import sys
import warnings

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.data import PydicomReader
from monai.transforms import LoadImage
from PIL import Image as Picture
from pydicom import Dataset

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load_like
from medrecon.posterior import Reconstruction
from medrecon.writers import WRITERS, Contents, Output, Writer, check, like_series, output_geometry, write
from tests.make.dicom import RECORD, numbers, oblique, write_series

SHAPE = (3, 7, 6)
# Numbers without rounding, so that the text of headers is the same on every machine.
AFFINE = np.array([[0, 0, 3.5, -80.25], [-0.75, 0, 0, 40.5], [0, 1.25, 0, 12.25], [0, 0, 0, 1]])
SPACING = (3.5, 1.25, 0.75)


# The files of version 0.3


def _dicom(path):
    """Every element of an image but new UIDs, the time of writing and the version."""
    dataset = pydicom.dcmread(path)
    anew = STAMPED if dataset.get("PatientIdentityRemoved") is None else (*STAMPED, *REPLACED)
    scale = [mapping.RealWorldValueSlope for mapping in dataset.get("RealWorldValueMappingSequence", [])]
    return [Dataset({e.tag: e for e in dataset if e.keyword not in anew}).to_json_dict(), scale]


STAMPED = ("SOPInstanceUID", "SeriesInstanceUID", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime",
           "InstanceCreationDate", "InstanceCreationTime", "SoftwareVersions", "RealWorldValueMappingSequence")  # fmt: skip
REPLACED = ("StudyInstanceUID", "FrameOfReferenceUID", "SourceImageSequence")


def content(path):
    """What a file holds: short SHA-256 without what libraries stamp on it (times, versions, the compressor's choices)."""
    name = path.name
    if name.endswith(".nii.gz"):
        raw = gzip.decompress(path.read_bytes())
        if (
            nib.Nifti1Image.from_bytes(raw).get_data_dtype().kind == "c"
        ):  # exp() differs in the last digit between libraries
            values = np.asarray(nib.Nifti1Image.from_bytes(raw).dataobj)
            raw = raw[:352] + (np.round(np.stack([values.real, values.imag]), 2) + 0.0).tobytes()
    elif name.endswith(".h5"):
        with h5py.File(path) as file:
            raw = repr([(key, file[key].dtype.str, file[key].shape, file[key][()].tobytes()) for key in file]).encode()
    elif name.endswith(".mrd"):
        with ismrmrd.Dataset(str(path), create_if_needed=False) as dataset:
            images = [
                dataset.read_image("reconstruction", k) for k in range(dataset.number_of_images("reconstruction"))
            ]
            held = [(bytes(one.getHead()), np.round(one.data, 2).tobytes()) for one in images]
            raw = repr((dataset.read_xml_header(), held)).encode()
    elif name.endswith(".png"):
        raw = np.asarray(Picture.open(path)).tobytes()
    elif name.endswith(".dcm"):
        raw = json.dumps(_dicom(path)).encode()
    else:
        held = json.loads(path.read_text())
        for one, digest in held.get("sha256", {}).items():
            assert digest == hashlib.sha256((_root(path, held) / one).read_bytes()).hexdigest()
        held["sha256"] = list(held.get("sha256", {}))
        raw = json.dumps(held).encode()
    return hashlib.sha256(raw).hexdigest()[:8]


def _root(sidecar, held):
    """The folder that the names in a sidecar start from."""
    return next(folder for folder in sidecar.parents if (folder / held["files"][0]).exists())


def fixed(samples=False, affine=False, phase=False, modality="MR", slices=3):
    """The reconstruction whose files version 0.3 was asked for."""
    rng = np.random.default_rng(5)
    image = rng.random(SHAPE).astype(np.float32)
    angle = rng.uniform(-3, 3, SHAPE).astype(np.float32)
    return Reconstruction(
        image=np.round(2000 * image - 1000) if modality == "CT" else image[:slices],
        samples=np.stack([image * np.float32(0.5), image * np.float32(1.5)]) if samples else None,
        record={**RECORD, "warnings": ["/data/DOE_JANE/scan.h5: odd"]},
        phase=angle if phase else None,
        geometry=Geometry(SPACING, AFFINE if affine else None),
        modality=modality,
    )


HASHES = {
    "nifti": (
        {"format": "nifti"},
        {
            "x.json": "8f93d6fc",
            "x.nii.gz": "1063fdab",
        },
    ),
    "nifti-place-samples": (
        {"format": "nifti", "affine": True, "samples": True},
        {
            "x.json": "608e0437",
            "x.nii.gz": "62c3baa2",
            "x_samples.nii.gz": "c12ecb1a",
        },
    ),
    "nifti-mag-phase": (
        {"format": "nifti", "affine": True, "part": "mag-phase"},
        {
            "x.json": "e3098a67",
            "x_part-mag.nii.gz": "62c3baa2",
            "x_part-phase.nii.gz": "94575fea",
        },
    ),
    "nifti-complex": (
        {"format": "nifti", "affine": True, "part": "complex"},
        {
            "x.json": "f5a5ca87",
            "x.nii.gz": "6b0803fd",
        },
    ),
    "bids": (
        {
            "format": "nifti",
            "affine": True,
            "samples": True,
            "bids": "sub-01_ses-a_acq-mprage_T1w",
            "label": "cg-sense",
        },
        {
            "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-cgsense_desc-medrecon_T1w.json": "6e7ffb4c",
            "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-cgsense_desc-medrecon_T1w.nii.gz": "62c3baa2",
            "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-cgsense_desc-medreconsamples_T1w.nii.gz": "c12ecb1a",
        },
    ),
    "bids-mag-phase": (
        {"format": "nifti", "part": "mag-phase", "bids": "sub-01_T1w"},
        {
            "sub-01/anat/sub-01_rec-medrecon_part-mag_desc-medrecon_T1w.json": "e00cd72b",
            "sub-01/anat/sub-01_rec-medrecon_part-mag_desc-medrecon_T1w.nii.gz": "1063fdab",
            "sub-01/anat/sub-01_rec-medrecon_part-phase_desc-medrecon_T1w.nii.gz": "cf888899",
        },
    ),
    "h5": (
        {"format": "h5"},
        {
            "x.h5": "22a082f6",
            "x.json": "f4423d41",
        },
    ),
    "h5-samples": (
        {"format": "h5", "affine": True, "samples": True},
        {
            "x.h5": "02127b4f",
            "x.json": "a48e850e",
        },
    ),
    "mrd": (
        {"format": "mrd"},
        {
            "x.json": "0f1b5f46",
            "x.mrd": "38f996ac",
        },
    ),
    "mrd-complex": (
        {"format": "mrd", "affine": True, "part": "complex"},
        {
            "x.json": "f8ff6a32",
            "x.mrd": "55c40d94",
        },
    ),
    "png": (
        {"format": "png", "affine": True},
        {
            "x.json": "f7b70387",
            "x_000.png": "26e1e966",
            "x_001.png": "ada39e29",
            "x_002.png": "1e796cfc",
        },
    ),
    "png-one": (
        {"format": "png", "slices": 1},
        {
            "x.json": "5ffb9bc3",
            "x.png": "67c1bf90",
        },
    ),
    "dicom-like": (
        {"format": "dicom", "affine": True, "like": True},
        {
            "x.json": "7b3ecc79",
            "x/0001.dcm": "26a94f46",
            "x/0002.dcm": "0d8474fa",
            "x/0003.dcm": "6bf92be9",
        },
    ),
    "dicom-deidentified": (
        {"format": "dicom", "affine": True, "like": True, "deidentify": True},
        {
            "x.json": "7b3ecc79",
            "x/0001.dcm": "525a3077",
            "x/0002.dcm": "b9a19e12",
            "x/0003.dcm": "367d04c5",
        },
    ),
    "dicom-ct": (
        {"format": "dicom", "affine": True, "like": True, "modality": "CT"},
        {
            "x.json": "7b3ecc79",
            "x/0001.dcm": "3d34cc8f",
            "x/0002.dcm": "6cf160e2",
            "x/0003.dcm": "c0ad8c17",
        },
    ),
}
"""By case: what was asked for, and the content of each file that version 0.3 made of it."""


@pytest.mark.parametrize("case", HASHES)
def test_files_and_sidecars_are_those_of_version_03(tmp_path, case):
    asked, hashes = dict(HASHES[case][0]), HASHES[case][1]
    made = {name: asked.pop(name) for name in ("samples", "affine", "modality", "slices") if name in asked}
    if asked.pop("like", False):
        uids = {
            "SeriesInstanceUID": "1.2.4",
            "FrameOfReferenceUID": "1.2.5",
            "SOPInstanceUID": ["1.2.6.1", "1.2.6.2", "1.2.6.3"],
        }
        write_series(tmp_path / "like", AFFINE, numbers(SHAPE), **uids, BodyPartExamined="HEAD", EchoTime="3.5")
        asked["like"] = load_like(tmp_path / "like")
    folder = tmp_path / "o"
    paths = write(fixed(**made, phase="part" in asked), Output(folder=folder, stem="x", **asked))
    assert {path.relative_to(folder).as_posix(): content(path) for path in paths} == hashes
    others = {path.name for path in folder.rglob("*") if path.is_file()} - {path.name for path in paths}
    assert others == ({"dataset_description.json"} if "bids" in asked else set())


def test_every_format_of_version_03_has_its_files():
    since = {"npz"}  # formats without files of version 0.3; add the name of a new format
    assert {asked["format"] for asked, _ in HASHES.values()} == set(WRITERS) - since


# Read by the libraries of the formats


def read_nifti(paths, phase):
    first = nib.load(paths[0])
    image = np.asarray(first.dataobj).transpose(2, 1, 0)
    if len([path for path in paths if "part-" in path.name]) == 2:
        image = image * np.exp(1j * np.asarray(nib.load(paths[1]).dataobj).transpose(2, 1, 0))
    samples = [np.asarray(nib.load(path).dataobj).transpose(3, 2, 1, 0) for path in paths if "samples" in path.name]
    return image, first.affine if first.header["sform_code"] else None, samples[0] if samples else None


def read_h5(paths, phase):
    with h5py.File(paths[0]) as file:
        return file["reconstruction"][()], None, file["samples"][()] if "samples" in file else None


def read_npz(paths, phase):
    with np.load(paths[0]) as held:
        assert np.allclose(held["spacing"], (3.3, 1.1, 0.9)) and np.array_equal(held["phase"], phase)
        return held["reconstruction"], held["affine"], held.get("samples")


def read_dicom(paths, phase):
    slices = [path for path in paths if path.parent.name == "x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = LoadImage(reader=PydicomReader(), image_only=True)(
            str(slices[0].parent) if len(slices) > 1 else str(slices[0])
        )
    scale = float(pydicom.dcmread(slices[0]).RealWorldValueMappingSequence[0].RealWorldValueSlope)
    volume = scale * found.numpy().reshape(*found.shape[:2], -1).transpose(2, 1, 0)
    if len(slices) > 1:
        return volume, found.affine.numpy(), None
    dataset = pydicom.dcmread(slices[0])  # whose affine alone does not hold the distance of slices
    right, down = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = map(float, dataset.PixelSpacing)
    lps = np.eye(4)
    lps[:3] = np.stack([right * columns, down * rows, np.cross(right, down) * float(dataset.SpacingBetweenSlices),
                        np.array(dataset.ImagePositionPatient, float)], axis=1)  # fmt: skip
    return volume, np.diag([-1, -1, 1, 1]) @ lps, None


def read_mrd(paths, phase):
    with ismrmrd.Dataset(str(paths[0]), create_if_needed=False) as dataset:
        images = [dataset.read_image("reconstruction", k) for k in range(dataset.number_of_images("reconstruction"))]
    heads = [one.getHead() for one in images]
    ny, nx = images[0].data.shape[-2:]
    sides = np.array(heads[0].field_of_view) / [nx, ny, 1]
    lps = np.eye(4)
    lps[:3, :3] = np.stack([heads[0].read_dir, heads[0].phase_dir, heads[0].slice_dir], axis=1) * sides
    # The middle of a slice is pixel n // 2.
    lps[:3, 3] = np.array(heads[0].position) - lps[:3, :2] @ [nx // 2, ny // 2]
    for k, head in enumerate(heads):
        assert np.allclose(np.array(head.position), np.array(heads[0].position) + k * lps[:3, 2], atol=1e-4)
    return np.stack([one.data[0, 0] for one in images]), np.diag([-1, -1, 1, 1]) @ lps, None


def read_png(paths, phase):
    low, high = json.loads((paths[0].parent / "x.json").read_text())["window"]
    grey = np.stack([np.asarray(Picture.open(path), np.float64) for path in paths])
    return low + grey / 255 * (high - low), None, None


READERS = {"nifti": read_nifti, "h5": read_h5, "dicom": read_dicom, "mrd": read_mrd, "npz": read_npz, "png": read_png}
STEP = {"dicom": 0.51 / 32767, "png": 0.51 / 255}
"""Half a step of the integers that a format stores, of the largest value; float32 is exact."""


@pytest.mark.parametrize("shape", [(3, 7, 6), (1, 5, 9), (4, 1, 3)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("format", WRITERS)
def test_values_and_place_come_back(tmp_path, format, shape, n):
    """In every part that a format can hold."""
    rng = np.random.default_rng(0)
    samples = rng.random((n, *shape), np.float32)
    image, phase = samples.mean(0), rng.uniform(-3, 3, shape).astype(np.float32)
    geometry = Geometry((3.3, 1.1, 0.9), oblique())
    for part in WRITERS[format].parts:
        folder = tmp_path / part
        made = Reconstruction(
            image=image, samples=samples if n > 1 else None, record=RECORD, phase=phase, geometry=geometry
        )
        output = Output(folder=folder, stem="x", format=format, part=part)
        expected = check(output, slices=shape[0], samples=n > 1, geometry=geometry)
        assert not folder.exists()
        paths = write(made, output)
        assert paths == expected
        assert all(path.is_file() for path in paths)
        assert format in READERS, f"write a function that reads {format} files, and add it to READERS"
        values, affine, several = READERS[format](paths[:-1], phase)
        truth = image if part == "mag" else image * np.exp(1j * phase)
        whole = np.clip(truth, None, json.loads(paths[-1].read_text())["window"][1]) if format == "png" else truth
        assert values.shape == shape
        # Products with the phase are rounded to complex64.
        tolerance = STEP.get(format, 0 if part == "mag" else 1e-6) * np.abs(whole).max()
        assert np.abs(values - whole).max() <= tolerance
        if affine is not None:
            assert np.abs(affine - oblique()).max() < 1e-4  # float32 of a hundred mm
        if several is not None:
            assert np.array_equal(several, samples)
        record = json.loads(paths[-1].read_text())
        assert np.array_equal(record["affine"], oblique())
        assert record["sha256"] == {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths[:-1]
        }


def test_every_writer_is_read():
    assert set(READERS) == set(WRITERS), "a format needs a function in READERS that reads its files"


def test_a_tilted_stack_has_the_distance_along_its_normal(tmp_path):
    tilted = oblique()
    normal = tilted[:3, 2] / 3.3
    tilted[:3, 2] += 0.8 * tilted[:3, 1]
    made = Reconstruction(
        image=np.ones(SHAPE, np.float32), samples=None, record=RECORD, geometry=Geometry(SPACING, tilted)
    )
    *files, _ = write(made, Output(folder=tmp_path, stem="x", format="dicom"))
    slices = [pydicom.dcmread(path) for path in files]
    assert [float(one.SpacingBetweenSlices) for one in slices] == pytest.approx([3.3] * 3)
    where = [float(one.SliceLocation) for one in slices]
    assert np.allclose(np.abs(np.diff(where)), 3.3, atol=1e-9)
    first = np.array(slices[0].ImagePositionPatient, float)
    steps = np.array([np.array(one.ImagePositionPatient, float) - first for one in slices]) @ np.diag([-1, -1, 1])
    assert np.allclose(steps @ normal, [0, 3.3, 6.6], atol=1e-9)
    assert np.allclose(steps[1], tilted[:3, 2], atol=1e-9)


# What is asked for


@pytest.mark.parametrize("format", WRITERS)
def test_what_a_format_needs_is_asked_for_before_the_work(tmp_path, format):
    writer = WRITERS[format]

    def refusal(geometry=Geometry(SPACING, AFFINE), phase=True, **more):
        output = {"folder": tmp_path / "o", "stem": "x", "format": format, "sources": ["k.h5"], **more}
        try:
            check(Output(**output), slices=1, samples=False, geometry=geometry, phase=phase)
        except InputError as error:
            return str(error)

    assert refusal() is None
    assert (refusal(Geometry(SPACING)) is not None) == writer.needs_position
    assert (refusal(Geometry(None, AFFINE)) is not None) == writer.needs_spacing
    assert (refusal(deidentify=True) is not None) == (not writer.takes_like)
    assert (refusal(bids="sub-01_T1w") is not None) == (not writer.takes_bids)
    for part in ("mag", "mag-phase", "complex"):
        assert (refusal(part=part) is not None) == (part not in writer.parts)
        if part in writer.parts and part != "mag":
            assert "the phase of x is unknown" in refusal(part=part, phase=False)
    if writer.needs_position:
        assert refusal(Geometry(SPACING)).startswith(
            "k.h5: does not record the position of its slices, which DICOM needs"
        )
    with pytest.raises(InputError, match="unknown part"):
        Output(folder=tmp_path, stem="x", format=format, part="phase")
    assert not list(tmp_path.iterdir())


def test_inputs_are_never_replaced(tmp_path):
    """Neither the scan nor files of the series that is given as like."""
    (tmp_path / "x.h5").write_bytes(b"mine")
    output = Output(folder=tmp_path, stem="x", format="h5", overwrite=True, sources=[tmp_path / "x.h5"])
    with pytest.raises(InputError, match="would replace its own input"):
        check(output, slices=3, samples=False, geometry=Geometry())
    with pytest.raises(InputError, match="would replace its own input"):
        write(fixed(), output)
    assert (tmp_path / "x.h5").read_bytes() == b"mine"
    write_series(tmp_path / "s", AFFINE, numbers(SHAPE), "000{k}.dcm")
    output = Output(folder=tmp_path, stem="s", format="dicom", overwrite=True, like=load_like(tmp_path / "s"))
    with pytest.raises(InputError, match="would replace its own input"):
        write(fixed(affine=True), output)


def test_the_place_is_the_scans_own_or_that_of_like(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers(SHAPE))
    like = like_series(tmp_path / "s")
    third = oblique()
    third[:3, 3] += 2 * third[:3, 2]
    assert np.abs(output_geometry(Geometry(SPACING), SHAPE, like, slice(2, 3)).affine - third).max() < 1e-6
    own = output_geometry(Geometry(SPACING, AFFINE), SHAPE, like, slice(1, 3))
    assert np.array_equal(own.affine[:3, 3], AFFINE[:3, 3] + AFFINE[:3, 2])
    assert own.spacing == SPACING
    assert output_geometry(Geometry(SPACING), SHAPE).affine is None
    with pytest.raises(InputError, match=r"--like has 3 x 7 x 6, the data 3 x 6 x 7"):
        output_geometry(Geometry(SPACING), (3, 6, 7), like)
    assert np.array_equal(
        output_geometry(Geometry(None, AFFINE), (3, 6, 7), like).affine, AFFINE
    )  # patient and study alone
    with pytest.raises(InputError, match="give --like as well"):
        like_series(None, {"SeriesNumber": 3})
    with pytest.raises(InputError, match="--like is for --format dicom"):
        like_series(tmp_path / "nothing", None, "nifti")


# A new format


class Dummy(Writer):
    """A class and its line in the registry are all that a format is."""

    title = "Dummy"
    endings = (r"\.dummy", r"_\d+\.dummy")
    parts = ("mag", "argument")

    def names(self, stem, *, slices, samples, part, maps=()):
        return [f"{stem}_{k}.dummy" for k in range(slices)]

    def contents(self, reconstruction, output):
        return Contents([plane.tobytes() for plane in reconstruction.image], {"part": output.part})


def test_a_class_and_a_line_make_a_format_of_the_command_line(tmp_path, scan, monkeypatch, capsys):
    path, _ = scan((40, 36), slices=2)
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled", "--format"]
    with pytest.raises(SystemExit):
        main([*command, "dummy"])
    assert "'nifti', 'h5', 'dicom', 'mrd', 'npz', 'png'" in capsys.readouterr().err
    assert main([*command, "h5"]) == 0
    with h5py.File(tmp_path / "o" / "scan.h5") as file:
        image = file["reconstruction"][()]
    monkeypatch.setitem(WRITERS, "dummy", Dummy())
    assert main([*command, "dummy", "--part", "argument", "--overwrite"]) == 0
    found = np.stack([np.frombuffer((tmp_path / "o" / f"scan_{k}.dummy").read_bytes(), np.float32) for k in range(2)])
    assert np.array_equal(found.reshape(image.shape), image)
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["part"] == "argument"
    assert main([*command, "h5", "--overwrite"]) == 0
    assert sorted(one.name for one in (tmp_path / "o").iterdir() if not one.name.startswith(".")) == [
        "scan.h5",
        "scan.json",
    ]


def test_writers_are_listed_without_numpy_and_written_without_monai(tmp_path):
    """Nor do other formats load the libraries of DICOM and MRD."""
    code = f"""
import sys, pathlib
import medrecon.writers as writers
assert not {{"numpy", "torch", "pydicom", "h5py", "nibabel"}} & set(sys.modules), sorted(sys.modules)
import numpy as np
from medrecon.data.scan import Geometry
from types import SimpleNamespace as R
made = R(image=np.ones((2, 3, 4), np.float32), samples=None, record={{}}, phase=None, geometry=Geometry(), modality="MR",
    uncertainty=None)
for format in ("h5", "png", "nifti"):
    assert not {{"pydicom", "nibabel"}} & set(sys.modules)  # nibabel imports pydicom itself
    writers.write(made, writers.Output(folder=r"{tmp_path}", stem=format, format=format))
assert not {{"monai", "torch", "highdicom", "ismrmrd"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
