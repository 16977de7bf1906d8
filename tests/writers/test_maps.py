"""Maps of several samples: in every format, other libraries read what was written, at the image's position."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import h5py
import highdicom
import ismrmrd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image as Picture

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load_like
from medrecon.posterior import Reconstruction
from medrecon.transforms import SaveReconstructiond
from medrecon.uncertainty import MAPS, map_names
from medrecon.volumes import load_volume
from medrecon.writers import WRITERS, Output, check, write
from medrecon.writers.base import MAP_NAMES
from tests.make.dicom import RECORD, numbers, oblique, verified_or_none, write_series
from tests.make.outputs import made_up_maps

GEOMETRY = Geometry((3.3, 1.1, 0.9), oblique())


def made(shape=(3, 7, 6), n=3, calibrated=False, modality="MR", seed=0):
    """A reconstruction of ``n`` samples; HU are negative as well."""
    rng = np.random.default_rng(seed)
    samples = rng.random((n, *shape), np.float32)
    samples = np.round(1500 * samples - 1000) if modality == "CT" else samples
    return Reconstruction(
        image=samples.mean(0),
        samples=samples if n > 1 else None,
        record=RECORD,
        phase=None if modality == "CT" else rng.uniform(-3, 3, shape).astype(np.float32),
        geometry=GEOMETRY,
        modality=modality,
        uncertainty=made_up_maps(samples, calibrated) if n > 1 else None,
    )


def planned(reconstruction, output):
    """Paths that are known before the computation."""
    shape, maps = reconstruction.image.shape, reconstruction.uncertainty
    names = () if maps is None else map_names(maps.calibrated)
    return check(output, slices=shape[-3], samples=reconstruction.samples is not None, geometry=GEOMETRY,
                 frames=len(shape) == 4, maps=names)  # fmt: skip


def entry(paths):
    return json.loads(paths[-1].read_text()).get("maps", {})


# Read by the libraries of the formats


def read_nifti(folder, files, name):
    loaded = nib.load(folder / files[0])
    values = np.asarray(loaded.dataobj)
    assert loaded.header["descrip"].item().decode() == MAPS[name]
    intent = ("label" if name == "flags" else "estimate", (), name)
    assert loaded.header.get_intent() == intent
    assert int(loaded.header["sform_code"]) == 1
    return values.transpose(*range(values.ndim)[::-1][:-3], 2, 1, 0) if values.ndim > 3 else values.T, loaded.affine


def read_h5(folder, files, name):
    with h5py.File(folder / files[0]) as file:
        assert file[name].attrs["description"] == MAPS[name]
        assert file[name].attrs.get("unit") == (None if name == "flags" else "image")
        return file[name][()], None


def read_npz(folder, files, name):
    with np.load(folder / files[0]) as held:
        return held[name], held["affine"]


def read_dicom(folder, files, name):
    """Values and affine from the functional groups, in the order of positions along the slices' normal."""
    assert verified_or_none(folder / files[0]) == []
    dataset = (highdicom.seg.segread if name == "flags" else pydicom.dcmread)(folder / files[0])
    assert dataset.SeriesDescription == f"medrecon {MAPS[name]}"
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    right, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    at = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in dataset.PerFrameFunctionalGroupsSequence],
                  float)  # fmt: skip
    ras = np.diag([-1, -1, 1])
    step = oblique()[:3, 2]
    order = np.argsort((at @ ras) @ step)
    at, frames = at[order], frames[order]
    slope = (at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else ras @ step
    affine = np.eye(4)
    affine[:3] = ras @ np.stack([right * columns, down * rows, slope, at[0]], axis=1)
    return frames, affine


def read_mrd(folder, files, name):
    with ismrmrd.Dataset(str(folder / files[0]), create_if_needed=False) as dataset:
        images = [dataset.read_image(name, k) for k in range(dataset.number_of_images(name))]
        mean = [dataset.read_image("reconstruction", k) for k in range(len(images))]
    for one, other in zip(images, mean, strict=True):
        for key in ("position", "read_dir", "phase_dir", "slice_dir", "field_of_view", "slice"):
            assert np.array_equal(getattr(one, key), getattr(other, key))
        assert ismrmrd.Meta.deserialize(one.attribute_string)["ImageComment"] == MAPS[name]
        assert one.image_series_index == 1 + list(map_names(name == "std" or calibrated_of(folder))).index(name)
        assert other.image_series_index == 0
    return np.stack([one.data[0, 0] for one in images]), None


def calibrated_of(folder):
    return "std" in json.loads((folder / "x.json").read_text())["maps"]


def read_png(folder, files, name):
    low, high = json.loads((folder / "x.json").read_text())["map_windows"][name]
    return low + np.stack([np.asarray(Picture.open(folder / one), np.float64) for one in files]) / 255 * (
        high - low
    ), None


READERS = {"nifti": read_nifti, "h5": read_h5, "npz": read_npz, "dicom": read_dicom, "mrd": read_mrd, "png": read_png}
INTEGER = {"mrd": np.uint16, "png": np.float64}


@pytest.mark.parametrize("shape", [(3, 7, 6), (1, 5, 9), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("format", WRITERS)
def test_values_and_positions_of_maps_come_back(tmp_path, format, calibrated, shape):
    reconstruction = made(shape, calibrated=calibrated)
    for part in WRITERS[format].parts:
        folder = tmp_path / part
        output = Output(folder=folder, stem="x", format=format, part=part)
        expected = planned(reconstruction, output)
        paths = write(reconstruction, output)
        assert paths == expected and all(path.is_file() for path in paths)
        maps = reconstruction.uncertainty.maps()
        listed = entry(paths)
        shown = ("std" if calibrated else "spread", "flags") if format == "png" else map_names(calibrated)
        assert tuple(listed) == shown
        for name, about in listed.items():
            assert (about["description"], about["unit"]) == (MAPS[name], None if name == "flags" else "image")
            values, affine = READERS[format](folder, about["files"], name)
            assert values.shape == shape
            assert values.dtype == (
                INTEGER.get(format, np.uint8) if name == "flags" else np.float64 if format == "png" else np.float32
            )
            whole, tolerance = maps[name], 0
            if format == "png" and name != "flags":  # clipped at the window, and half a step of 255
                high = float(np.percentile(whole, 99.8))
                whole, tolerance = np.clip(whole, None, high), 0.51 / 255 * high
            assert np.abs(values - whole.astype(np.float64)).max() <= tolerance
            if affine is not None:
                assert np.abs(affine - oblique()).max() < 1e-4  # float32 of a hundred mm


@pytest.mark.parametrize("format", [name for name, writer in WRITERS.items() if writer.takes_frames])
def test_maps_of_frames(tmp_path, format):
    reconstruction = made((2, 3, 7, 6))
    output = Output(folder=tmp_path, stem="x", format=format)
    expected = planned(reconstruction, output)
    paths = write(reconstruction, output)
    assert paths == expected
    for name, values in reconstruction.uncertainty.maps().items():
        if format == "nifti":
            found = np.asarray(nib.load(tmp_path / f"x_{name}.nii.gz").dataobj).transpose(3, 2, 1, 0)
        else:
            found, _ = READERS[format](tmp_path, entry(paths)[name]["files"], name)
        assert np.array_equal(found, values) and found.dtype == values.dtype


def test_one_sample_has_no_maps(tmp_path):
    for format in WRITERS:
        paths = write(made(n=1), Output(folder=tmp_path / format, stem="x", format=format))
        record = json.loads(paths[-1].read_text())
        assert not {"maps", "map_windows"} & set(record)
        assert not any(f"_{name}" in path.name for path in paths for name in MAP_NAMES)


def test_the_names_of_maps_are_those_of_the_uncertainty():
    assert tuple(MAPS) == MAP_NAMES
    assert all(len(text.encode()) <= 64 for text in MAPS.values())  # NIfTI has 80 bytes, DICOM's LO 64


# DICOM


def test_dicom_maps_refer_to_their_series(tmp_path):
    write(made(modality="CT", calibrated=True), Output(folder=tmp_path, stem="x", format="dicom"))
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "x").iterdir())]
    instances, numbers, series = {one.SOPInstanceUID for one in slices}, set(), set()
    for name in map_names(True):
        found = pydicom.dcmread(tmp_path / f"x_{name}.dcm")
        for key in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
            assert found[key].value == slices[0][key].value
        referenced = found.ReferencedSeriesSequence[0]
        assert referenced.SeriesInstanceUID == slices[0].SeriesInstanceUID
        assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == instances
        numbers.add(int(found.SeriesNumber))
        series.add(found.SeriesInstanceUID)
        if name != "flags":
            mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
            assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
            values = np.frombuffer(found.FloatPixelData, np.float32)
            assert mapping.DoubleFloatRealWorldValueFirstValueMapped <= values.min()
            assert mapping.DoubleFloatRealWorldValueLastValueMapped >= values.max() * (1 - 1e-7)
    assert len(numbers) == len(series) == 6 and int(slices[0].SeriesNumber) not in numbers
    flags = pydicom.dcmread(tmp_path / "x_flags.dcm")
    assert flags.SOPClassUID == pydicom.uid.SegmentationStorage and flags.BitsAllocated == 1
    assert flags.SegmentSequence[0].SegmentLabel == "samples disagree"
    kind = flags.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("FLAGS", "99MEDRECON")


def test_dicom_maps_name_the_body_part_of_their_series(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers((3, 7, 6)), BodyPartExamined="KNEE", Laterality="L")
    write(made(), Output(folder=tmp_path, stem="x", format="dicom", like=load_like(tmp_path / "s")))
    for name in map_names(False):
        found = pydicom.dcmread(tmp_path / f"x_{name}.dcm")
        assert (found.BodyPartExamined, found.Laterality) == ("KNEE", "L")


def test_a_map_without_flags_still_has_every_slice(tmp_path):
    reconstruction = made()
    reconstruction.uncertainty.flags[:] = 0
    reconstruction.uncertainty.spread[:] = 0
    write(reconstruction, Output(folder=tmp_path, stem="x", format="dicom"))
    for name in ("flags", "spread"):
        values, affine = read_dicom(tmp_path, [f"x_{name}.dcm"], name)
        assert values.shape == (3, 7, 6) and not values.any()
        assert np.abs(affine - oblique()).max() < 1e-4


# Files beside others


def test_bids_names_of_maps_differ_in_desc(tmp_path):
    bids = "sub-01_ses-a_T1w"
    for part in ("mag", "mag-phase"):
        paths = write(made(), Output(folder=tmp_path, stem="x", bids=bids, label="dds", part=part, overwrite=True))
        assert entry(paths)["null_spread"]["files"] == [
            "sub-01/ses-a/anat/sub-01_ses-a_rec-dds_desc-medreconnullspread_T1w.nii.gz"
        ]
    # One sample leaves no maps of several, whatever the part was.
    paths = write(made(n=1), Output(folder=tmp_path, stem="x", bids=bids, label="dds", overwrite=True))
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*paths, tmp_path / "dataset_description.json"}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("before", WRITERS)
def test_overwriting_leaves_no_maps_of_an_earlier_run(tmp_path, before, format):
    write(made(), Output(folder=tmp_path, stem="P[1]", format=before))
    (tmp_path / "P[1]_std.nii.gz").write_text("mine")  # of another run; the sidecar lists spread
    paths = write(made(n=1, shape=(1, 7, 6)), Output(folder=tmp_path, stem="P[1]", format=format, overwrite=True))
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*paths, tmp_path / "P[1]_std.nii.gz"}


@pytest.mark.parametrize(
    ("format", "name"),
    [("nifti", "spread"), ("nifti", "null_spread"), ("nifti", "flags"), ("png", "spread"), ("png", "flags")],
)
def test_a_scan_with_the_name_of_a_map_is_not_replaced(tmp_path, format, name):
    """In either order, with and without permission to overwrite."""
    alike = f"P1_{name}"
    single, several = made(n=1, shape=(1, 7, 6)), made(shape=(1, 7, 6))
    for first, second in (((single, alike), (several, "P1")), ((several, "P1"), (single, alike))):
        folder = tmp_path / first[1]
        write(first[0], Output(folder=folder, stem=first[1], format=format))
        before = {path: path.read_bytes() for path in folder.iterdir()}
        for overwrite in (False, True):
            with pytest.raises(InputError, match=rf"belongs to {first[1]}\.json; choose another output folder"):
                write(second[0], Output(folder=folder, stem=second[1], format=format, overwrite=overwrite))
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_dicom_series_and_a_map_of_its_name_are_a_folder_and_a_file(tmp_path):
    write(made(), Output(folder=tmp_path, stem="P1", format="dicom"))
    paths = write(made(n=1), Output(folder=tmp_path, stem="P1_spread", format="dicom"))
    assert all(path.is_file() for path in paths)
    assert load_volume(tmp_path / "P1_spread").array.shape == (3, 7, 6)
    assert (tmp_path / "P1_spread.dcm").is_file()


def test_nothing_is_written_if_a_map_exists(tmp_path):
    (tmp_path / "x_p95.nii.gz").write_text("mine")
    with pytest.raises(InputError, match=r"x_p95\.nii\.gz.*--overwrite"):
        planned(made(), Output(folder=tmp_path, stem="x"))
    with pytest.raises(InputError, match=r"x_p95\.nii\.gz"):
        write(made(), Output(folder=tmp_path, stem="x"))
    assert [path.name for path in tmp_path.iterdir()] == ["x_p95.nii.gz"]


# Runs


@pytest.mark.parametrize("format", ["nifti", "h5", "npz", "png"])
def test_the_command_line_writes_the_files_it_planned(tmp_path, scan, capsys, format):
    """Maps of the run, and a run without maps removes them."""
    path, _ = scan((40, 36), slices=2)
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--steps", "2", "--format", format, "--json"]
    assert main([*command, "--samples", "3", "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)["files"]
    assert main([*command, "--samples", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == plan
    assert sorted(str(one) for one in (tmp_path / "o").iterdir()) == sorted(plan)
    maps = json.loads((tmp_path / "o" / "scan.json").read_text())["maps"]
    assert list(maps) == (["spread", "flags"] if format == "png" else list(map_names(False)))
    if format == "npz":
        with np.load(tmp_path / "o" / "scan.npz") as held:
            assert np.abs(held["spread"] - held["samples"].std(0, ddof=1)).max() < 1e-6
            assert np.array_equal(held["p95"], held["samples"].max(0))  # of three samples
    assert main([*command, "--overwrite"]) == 0
    assert sorted(str(one) for one in (tmp_path / "o").iterdir()) == sorted(
        json.loads(capsys.readouterr().out)["files"]
    )


def test_transforms_write_the_maps(tmp_path):
    """As a bundle does."""
    path = tmp_path / "scan.h5"
    path.write_bytes(b"")
    scan = SimpleNamespace(stem="scan", path=path)
    reconstruction = replace(made(), record={**RECORD, "solver": {"name": "dds"}, "warnings": []})
    SaveReconstructiond("pred", str(tmp_path / "o"))({"scan": scan, "pred": reconstruction})
    assert np.array_equal(
        np.asarray(nib.load(tmp_path / "o" / "scan_flags.nii.gz").dataobj).T, reconstruction.uncertainty.flags
    )


# Evaluation


@pytest.mark.parametrize("format", ["nifti", "h5", "npz", "mrd", "dicom"])
def test_the_image_is_found_beside_its_maps(tmp_path, format):
    reconstruction = made()
    paths = write(reconstruction, Output(folder=tmp_path, stem="x", format=format))
    volume = load_volume(tmp_path / "x" if format == "dicom" else paths[0])
    step = reconstruction.image.max() / 32767 if format == "dicom" else 0
    assert np.abs(volume.array - reconstruction.image).max() <= 0.51 * step
    assert np.abs(volume.affine - oblique()).max() < 1e-4 and volume.warnings == ()


@pytest.mark.parametrize(("format", "file"), [("nifti", "x_null_spread.nii.gz"), ("dicom", "x_spread.dcm")])
def test_a_map_is_not_evaluated(tmp_path, capsys, format, file):
    paths = write(made(), Output(folder=tmp_path, stem="x", format=format))
    assert main(["evaluate", str(tmp_path / file), "--reference", str(paths[0])]) == 2
    error = capsys.readouterr().err
    assert f"{file}: is a map of the samples (" in error and "give their mean, the image beside it" in error


def test_a_damaged_sidecar_does_not_stop_the_evaluation(tmp_path):
    write(made(), Output(folder=tmp_path, stem="x"))
    shutil.copy(tmp_path / "x.nii.gz", tmp_path / "y_std.nii.gz")
    for maps in (3, {"std": 3}, {"std": {"files": 3}}, {"std": {"files": [["y_std.nii.gz"], None]}}, {}):
        (tmp_path / "y.json").write_text(json.dumps({"files": [], "maps": maps}))
        assert load_volume(tmp_path / "y_std.nii.gz").array.shape == (3, 7, 6)


def test_other_series_beside_an_image_are_still_refused(tmp_path):
    paths = write(made(), Output(folder=tmp_path, stem="x", format="mrd"))
    with h5py.File(paths[0], "a") as file:
        file.copy("dataset/spread", "dataset/second")
    with pytest.raises(InputError, match="several series"):
        load_volume(paths[0])
