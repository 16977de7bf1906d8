"""DICOM in and out: where voxels lie, what they are worth, and that bad files are refused in one sentence."""

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import load_image
from medrecon.transforms import ChannelFirst, ChannelFirstd, LoadVolume, LoadVolumed
from tests.make.dicom import (
    LPS,
    OBLIQUE,
    RECORD,
    damaged,
    magnitudes,
    numbers,
    oblique,
    verified,
    verified_or_none,
    write_series,
)
from tests.make.outputs import write_volume

# Reading


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE, OBLIQUE[:, [2, 0, 1]]], ids=["axial", "oblique", "turned"])
def test_slices_are_sorted_in_space_whatever_they_are_called_and_numbered(tmp_path, turn):
    affine, volume = oblique(turn=turn), numbers()
    write_series(tmp_path / "s", affine, volume, name="image{k}", order=[4, 2, 6, 1, 5, 3])
    image = load_image(tmp_path / "s")
    assert image.array.dtype == np.float32
    assert np.abs(image.affine - affine).max() < 1e-6  # ten digits of a hundred mm
    assert np.array_equal(image.array, volume)
    assert image.spacing == pytest.approx((3.3, 1.1, 0.9))
    assert [h.InstanceNumber for h in image.headers] == [4, 2, 6, 1, 5, 3]


def test_a_stack_is_read_along_its_normal_whichever_end_was_first(tmp_path):
    affine, volume = oblique(), numbers()
    backwards = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
    write_series(tmp_path / "s", backwards, volume[::-1])
    image = load_image(tmp_path / "s")
    assert np.array_equal(image.array, volume)
    assert np.abs(image.affine - affine).max() < 1e-6


def test_a_tilted_gantry_gives_its_sheared_affine(tmp_path):
    affine = oblique(turn=np.eye(3))
    affine[1, 2] = 0.8  # every slice is shifted by 0.8 mm along y
    write_series(tmp_path / "s", affine, numbers())
    image = load_image(tmp_path / "s")
    assert np.abs(image.affine - affine).max() < 1e-6
    assert "tilt" in image.attributes["sheared"]


def test_values_are_rescaled_per_file(tmp_path):
    volume = numbers()
    slopes = [1.0, 2.0, 0.5, 1.0, 4.0, 1.0]
    write_series(tmp_path / "s", oblique(), volume, RescaleSlope=slopes, RescaleIntercept=-1024)
    assert np.array_equal(load_image(tmp_path / "s").array, volume * np.array(slopes)[:, None, None] - 1024)


def test_several_series_or_echoes_must_be_told_apart(tmp_path):
    volume = numbers()
    write_series(tmp_path / "s" / "a", oblique(), volume, SeriesNumber=3, SeriesDescription="first")
    write_series(tmp_path / "s" / "b", oblique(), volume + 1, SeriesNumber=4)
    with pytest.raises(InputError, match=r"2 series: 3 \(MR, 6 images of 20 x 16\), 4 .* SeriesNumber=3"):
        load_image(tmp_path / "s")
    assert np.array_equal(load_image(tmp_path / "s", {"SeriesNumber": 4}).array, volume + 1)
    with pytest.raises(InputError, match="no image with SeriesNumber=5; there are 3, 4"):
        load_image(tmp_path / "s", {"SeriesNumber": 5})
    one = generate_uid()
    for echo in (2.3, 4.6):
        write_series(
            tmp_path / "e", oblique(), volume + int(echo), f"{echo}-{{k}}", EchoTime=str(echo), SeriesInstanceUID=one
        )
    with pytest.raises(InputError, match=r"differ in EchoTime \(2.3, 4.6\); select one, e.g. EchoTime=2.3"):
        load_image(tmp_path / "e")
    assert np.array_equal(load_image(tmp_path / "e", {"EchoTime": 4.6}).array, volume + 4)
    for kind in ("M", "P"):
        write_series(
            tmp_path / "p",
            oblique(),
            volume,
            kind + "{k}",
            ImageType=["ORIGINAL", "PRIMARY", kind],
            SeriesInstanceUID=one,
        )
    with pytest.raises(InputError, match="ImageType=M"):
        load_image(tmp_path / "p")
    assert len(load_image(tmp_path / "p", {"ImageType": "P"}).array) == 6


def test_image_types_of_scanners_are_told_apart(tmp_path):
    """The letter that differs stands in the middle; a number that selects a single slice would be bad advice."""
    volume, one = numbers(), generate_uid()
    for k, kind in enumerate("MP"):
        write_series(
            tmp_path / "s", oblique(), volume + k, kind + "{k}", order=list(range(6 * k + 1, 6 * k + 7)),
            ImageType=[["ORIGINAL", "PRIMARY", kind, "ND"]] * 6, SeriesInstanceUID=one,
        )  # fmt: skip
    with pytest.raises(InputError, match=r"differ in ImageType \(M, P\); select one, e\.g\. ImageType=M"):
        load_image(tmp_path / "s")
    assert np.array_equal(load_image(tmp_path / "s", {"ImageType": "P"}).array, volume + 1)
    for kind in "MP":
        for echo in ("2.3", "4.6"):
            write_series(
                tmp_path / "t", oblique(), volume, kind + echo + "-{k}", EchoTime=echo, SeriesInstanceUID=one,
                ImageType=[["ORIGINAL", "PRIMARY", kind, "ND"]] * 6,
            )  # fmt: skip
    with pytest.raises(InputError, match=r"differ in EchoTime \(2.3, 4.6\) and ImageType \(M, P\); select one of each"):
        load_image(tmp_path / "t")
    assert len(load_image(tmp_path / "t", {"ImageType": "P", "EchoTime": 2.3}).array) == 6


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_positions_of_few_digits_are_no_gaps(tmp_path, digits):
    affine = oblique(sides=(0.5, 0.5, 0.625))
    for seed in range(6):
        affine[:3, 3] = np.random.default_rng(seed).uniform(-100, 100, 3)
        exact = [(LPS @ affine @ [0, 0, k, 1])[:3] for k in range(20)]
        rounded = [[f"{v:.{digits}f}" for v in place] for place in exact]
        write_series(tmp_path / str(seed), affine, numbers((20, 8, 8)), ImagePositionPatient=rounded)
        image = load_image(tmp_path / str(seed))
        corner = image.affine @ [0, 0, 10, 1]
        assert np.abs(LPS[:3, :3] @ corner[:3] - exact[10]).max() < 10.0**-digits


def test_functional_groups_maps_count_and_private_ones_do_not(tmp_path):
    """Philips repeats the position, and the slope, in a private sequence with other values."""
    affine, volume = oblique(), numbers((4, 8, 8)).clip(0)
    classic = write_series(tmp_path / "s", affine, volume)
    ds = pydicom.dcmread(tmp_path / "s" / "0")
    ds.NumberOfFrames = 4
    ds.PixelData = volume.astype("<i2").tobytes()
    scale = Dataset()
    scale.RealWorldValueSlope, scale.RealWorldValueIntercept = 0.5, 1.0
    frames = []
    for k, one in enumerate(classic):
        place, private = Dataset(), Dataset()
        place.ImagePositionPatient = one.ImagePositionPatient
        private.ImagePositionPatient, private.RescaleSlope = [0, 0, 50 * k], "7"
        frame = Dataset()
        frame.PlanePositionSequence = [place]
        frame.RealWorldValueMappingSequence = [scale]
        frame.private_block(0x2005, "PHILIPS", create=True).add_new(0x0F, "SQ", [private])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "e.dcm")
    image = load_image(tmp_path / "e.dcm")
    assert np.abs(image.affine - affine).max() < 1e-6
    assert np.array_equal(image.array, volume * 0.5 + 1)


def test_missing_and_stray_slices_are_told(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers())
    (tmp_path / "s" / "2").unlink()
    with pytest.raises(InputError, match=r"1 slices are missing, e\.g\. between"):
        load_image(tmp_path / "s")
    (tmp_path / "s" / "3").unlink()
    with pytest.raises(InputError, match="2 slices are missing"):
        load_image(tmp_path / "s")
    crooked = oblique()
    data = write_series(tmp_path / "c", crooked, numbers())
    for k, ds in enumerate(data):
        ds.ImagePositionPatient = [f"{v:.10g}" for v in (LPS @ crooked @ [0, 0, k**1.5, 1])[:3]]
        ds.save_as(tmp_path / "c" / str(k))
    with pytest.raises(InputError, match="not equally spaced"):
        load_image(tmp_path / "c")
    write_series(tmp_path / "l", oblique(), numbers())
    write_series(
        tmp_path / "l", oblique(turn=np.eye(3)), numbers(), "b{k}", SeriesInstanceUID=load_uid(tmp_path / "l" / "0")
    )
    with pytest.raises(InputError, match="different directions, as in a localizer"):
        load_image(tmp_path / "l")


def load_uid(path):
    return pydicom.dcmread(path).SeriesInstanceUID


def test_what_has_no_place_says_so(tmp_path):
    volume = numbers()
    write_series(tmp_path / "s", oblique(), volume, "{k}.dcm", order=[3, 1, 2, 6, 5, 4], ImagePositionPatient=None)
    image = load_image(tmp_path / "s")
    assert image.affine is None
    assert image.attributes["orientation"].startswith("unknown: no ImagePosition")
    assert np.array_equal(image.array, volume[[1, 2, 0, 5, 4, 3]])  # by their numbers
    loaded = LoadVolume()(tmp_path / "s")
    assert not loaded.meta["affine_known"]


def test_others_files_are_passed_over_and_colour_is_refused(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers())
    (tmp_path / "s" / "notes.txt").write_text("hello")
    (tmp_path / "s" / "readme").write_text("hello")
    shutil.copy(get_testdata_file("reportsi.dcm"), tmp_path / "s")  # a structured report
    assert len(load_image(tmp_path / "s").array) == 6
    (tmp_path / "n").mkdir()
    with pytest.raises(InputError, match="holds no DICOM images"):
        load_image(tmp_path / "n")
    with pytest.raises(InputError, match="colour"):
        load_image(get_testdata_file("SC_rgb_small_odd.dcm"))
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "x.dcm")
    with pytest.raises(InputError, match="is supported for NIfTI only"):
        load_image(tmp_path / "s", phase=tmp_path / "p.nii")


def test_one_image_in_seven_transfer_syntaxes(data_folder):
    folder = data_folder / "dicom" / "dcm_qa_ts"
    images = [load_image(folder / f"{k}.dcm") for k in range(1, 10)]
    for image in images:
        assert image.array.astype(np.float64).sum() == 38036663
        assert np.array_equal(image.array, images[0].array)
        assert np.allclose(image.affine, images[0].affine)
    with pytest.raises(InputError, match=r"9 mosaics, .* SeriesNumber=1"):
        load_image(folder)
    assert np.array_equal(load_image(folder, {"SeriesNumber": 7}).array, images[0].array)


def test_a_series_with_hardly_any_tags(data_folder):
    image = load_image(data_folder / "dicom" / "pacsman")
    assert image.array.shape == (128, 128, 128)
    assert image.spacing == (1.0, 1.0, 1.0)
    assert image.affine is not None


SAME = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm"]  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_pydicoms_own_files(name):
    image, first = load_image(get_testdata_file(name)), load_image(get_testdata_file(SAME[0]))
    assert np.array_equal(image.array, first.array)
    assert np.array_equal(image.affine, first.affine)


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"]
)
def test_damaged_files_give_one_error_of_ours(tmp_path, name):
    rng = np.random.default_rng(0)
    content = Path(get_testdata_file(name)).read_bytes()
    refused = 0
    for _ in range(60):
        (tmp_path / "d.dcm").write_bytes(damaged(content, rng))
        try:
            image = load_image(tmp_path / "d.dcm")
        except InputError as error:
            refused += 1
            assert "d.dcm" in str(error)
            assert "\n" not in str(error)
            continue
        assert image.array.ndim == 3
        assert np.isfinite(image.array).all()
        assert image.affine is None or np.isfinite(image.affine).all()
    assert refused > 5


def test_transforms_give_monais_axes(tmp_path):
    affine, volume = oblique(), numbers()
    write_series(tmp_path / "s", affine, volume)
    out = LoadVolumed("image")({"image": str(tmp_path / "s")})["image"]
    assert tuple(out.shape) == (6, 20, 16)
    turned = ChannelFirstd("image")({"image": out})["image"]
    assert np.array_equal(turned, ChannelFirst()(out)) and np.array_equal(turned.affine, ChannelFirst()(out).affine)
    assert tuple(turned.shape) == (1, 16, 20, 6)
    assert turned[0, 3, 7, 2] == volume[2, 7, 3]
    assert np.abs(turned.affine.numpy() - affine).max() < 1e-6
    from monai.transforms import Orientation

    flipped = Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(turned)
    # The same place in space holds the same value, wherever MONAI has turned the axes.
    index = np.linalg.inv(flipped.affine.numpy()) @ turned.affine.numpy() @ [3, 7, 2, 1]
    assert flipped[(0, *np.round(index[:3]).astype(int))] == volume[2, 7, 3]


# Writing


def test_a_written_series_is_where_and_what_it_was(tmp_path):
    affine, volume = oblique(), magnitudes()
    samples = volume * np.array([0.9, 1.0, 1.1], np.float32)[:, None, None, None]
    paths = write_volume(tmp_path, "x", volume, RECORD, samples, (3.3, 1.1, 0.9), "dicom", affine=affine)
    assert [p.name for p in paths] == [
        "0001.dcm",
        "0002.dcm",
        "0003.dcm",
        "0004.dcm",
        "0005.dcm",
        "x_spread.dcm",
        "x_p05.dcm",
        "x_p95.dcm",
        "x_null.dcm",
        "x_null_spread.dcm",
        "x_flags.dcm",
        "x.json",
    ]
    image = load_image(tmp_path / "x")
    assert np.abs(image.affine - affine).max() < 1e-9
    # Half a step of the 32767 that the largest value has.
    assert np.abs(image.array - volume).max() < 0.51 * volume.max() / 32767
    spread = load_image(tmp_path / "x_spread.dcm")  # a multi-frame object
    assert np.array_equal(spread.array, samples.std(axis=0, dtype=np.float64).astype(np.float32))
    assert np.abs(spread.affine - affine).max() < 1e-9
    assert "not calibrated" in spread.headers[0].SeriesDescription
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["input"] == "scan.h5"
    assert "DOE" not in (tmp_path / "x.json").read_text()
    headers = image.headers
    assert len({h.SeriesInstanceUID for h in headers}) == 1
    assert len({h.SOPInstanceUID for h in headers}) == 5
    assert "dds" in headers[0].DerivationDescription
    assert "not for diagnostic use" in headers[0].DerivationDescription


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_the_verifier_of_information_objects_finds_no_errors(tmp_path, modality):
    volume = magnitudes() if modality == "MR" else np.round(1e6 * magnitudes()) - 1000
    samples = np.stack([volume, volume * 1.1])
    write_volume(tmp_path, "x", volume, RECORD, samples, (3.3, 1.1, 0.9), "dicom", affine=oblique(), modality=modality)
    assert verified(tmp_path / "x" / "0001.dcm") == []
    for path in tmp_path.glob("x_*.dcm"):
        assert verified(path) == []


def test_hounsfield_units_come_back_exactly(tmp_path):
    volume = np.round(np.random.default_rng(0).normal(0, 800, (3, 16, 16))).astype(np.float32)
    write_volume(tmp_path, "x", volume, RECORD, None, None, "dicom", affine=oblique(), modality="CT")
    image = load_image(tmp_path / "x")
    assert np.array_equal(image.array, volume)
    assert image.attributes["Modality"] == "CT"


def test_monai_and_dcm2niix_read_the_same_affine(tmp_path):
    affine, volume = oblique(), magnitudes()
    write_volume(tmp_path, "x", volume, RECORD, None, None, "dicom", affine=affine)
    from monai.data import PydicomReader
    from monai.transforms import LoadImage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = LoadImage(reader=PydicomReader(), image_only=True)(str(tmp_path / "x"))
    assert np.abs(loaded.affine.numpy() - affine).max() < 1e-4
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    import nibabel as nib

    subprocess.run(["dcm2niix", "-o", str(tmp_path), "-f", "n", str(tmp_path / "x")], check=True, capture_output=True)
    theirs = nib.load(tmp_path / "n.nii")
    flip = np.array([[1, 0, 0, 0], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # it turns rows round
    assert np.abs(theirs.affine - affine @ flip).max() < 1e-4


def test_mosaics_lie_where_dcm2niix_says(data_folder, tmp_path):
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    import nibabel as nib

    path = data_folder / "dicom" / "dcm_qa_ts" / "1.dcm"
    shutil.copy(path, tmp_path)
    subprocess.run(["dcm2niix", "-o", str(tmp_path), "-f", "n", str(tmp_path)], check=True, capture_output=True)
    theirs, ours = nib.load(tmp_path / "n.nii"), load_image(path)
    flip = np.array([[1, 0, 0, 0], [0, -1, 0, 63], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert np.abs(theirs.affine - ours.affine @ flip).max() < 1e-4
    assert np.array_equal(np.asarray(theirs.dataobj)[:, ::-1].transpose(2, 1, 0), ours.array)


def test_an_enhanced_multi_frame_object_is_read_like_its_slices(tmp_path):
    """Made by highdicom of a classic series."""
    import highdicom

    affine, volume = oblique(), numbers().clip(0)
    write_series(tmp_path / "s", affine, volume, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], BodyPartExamined="HEAD")
    classic = [pydicom.dcmread(p) for p in sorted((tmp_path / "s").iterdir())]
    for ds in classic:
        ds.AcquisitionDate, ds.AcquisitionTime, ds.Manufacturer = "20200102", "101112", "maker"
        ds.ContentDate, ds.ContentTime, ds.PositionReferenceIndicator, ds.Laterality = "20200102", "101112", "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        enhanced = highdicom.legacy.LegacyConvertedEnhancedMRImage(
            classic[::-1],
            series_instance_uid=generate_uid(),
            series_number=5,
            sop_instance_uid=generate_uid(),
            instance_number=1,
        )
    enhanced.save_as(tmp_path / "e.dcm")
    image = load_image(tmp_path / "e.dcm")
    assert np.array_equal(image.array, volume)
    assert np.abs(image.affine - affine).max() < 1e-6


def test_a_source_lends_patient_and_study_and_can_be_deidentified(tmp_path):
    affine = oblique()
    source = write_series(tmp_path / "s", affine, numbers((5, 24, 20)), BodyPartExamined="HEAD")
    like = load_image(tmp_path / "s")
    write_volume(tmp_path, "x", magnitudes(), RECORD, None, None, "dicom", affine=affine, like=like)
    out = load_image(tmp_path / "x").headers
    for k, (ours, theirs) in enumerate(zip(out, source, strict=True)):
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "StudyDate",
        ):
            assert ours.get(keyword) == theirs.get(keyword)
        assert ours.SeriesInstanceUID != theirs.SeriesInstanceUID
        assert ours.SourceImageSequence[0].ReferencedSOPInstanceUID == theirs.SOPInstanceUID, k
    assert verified_or_none(tmp_path / "x" / "0001.dcm") == []
    write_volume(tmp_path, "y", magnitudes(), RECORD, None, None, "dicom", affine=affine, like=like, deidentify=True)
    for path in (tmp_path / "y").iterdir():
        text = path.read_bytes()
        for secret in (b"Doe", b"Jane", b"ID-4711", b"19700101", b"20200102", b"Who^Doctor", b"1.2.3\0"):
            assert secret not in text
        ds = pydicom.dcmread(path)
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert ds.StudyInstanceUID != "1.2.3"
    studies = {pydicom.dcmread(p).StudyInstanceUID for p in (tmp_path / "y").iterdir()}
    assert len(studies) == 1
    assert np.abs(load_image(tmp_path / "y").affine - affine).max() < 1e-9
    assert verified_or_none(tmp_path / "y" / "0001.dcm") == []


def test_a_shorter_series_leaves_nothing_of_a_longer_one(tmp_path):
    for slices in (5, 3):
        write_volume(
            tmp_path, "x", magnitudes()[:slices], RECORD, None, None, "dicom", overwrite=True, affine=oblique()
        )
    assert len(load_image(tmp_path / "x").array) == 3
    with pytest.raises(InputError, match="already exists"):
        write_volume(tmp_path, "x", magnitudes(), RECORD, None, None, "dicom", affine=oblique())
    with pytest.raises(InputError, match="does not record the position"):
        write_volume(tmp_path, "z", magnitudes(), RECORD, None, None, "dicom")
    assert not (tmp_path / "z").exists()


def test_others_files_are_never_removed_nor_replaced(tmp_path, scan, capsys):
    source = tmp_path / "scan"  # where the output goes as well
    write_series(source, oblique(), numbers((3, 40, 36)), "{k:04d}.dcm")
    shutil.copy(source / "0000.dcm", source / "1.2.840.5.dcm")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    path, _ = scan((40, 36), slices=3)
    command = [
        "recon",
        str(path),
        "-o",
        str(tmp_path),
        "--solver",
        "tv",
        "--format",
        "dicom",
        "--like",
        str(source),
        "--overwrite",
    ]
    (source / "1.2.840.5.dcm").unlink()
    assert main(command) == 2
    assert "would replace its own input" in capsys.readouterr().err
    (source / "1.2.840.5.dcm").write_bytes(before["1.2.840.5.dcm"])
    write_volume(tmp_path, "scan", magnitudes()[:1], RECORD, None, None, "dicom", True, oblique())
    after = {p.name: p.read_bytes() for p in source.iterdir()}
    assert after.pop("0001.dcm") != before.pop("0001.dcm")  # the one name that was asked for
    assert after == before


def test_deidentifying_leaves_the_source_as_it_was(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers((5, 24, 20)))
    like = load_image(tmp_path / "s")
    for k, secret in enumerate((True, False)):
        write_volume(
            tmp_path,
            f"x{k}",
            magnitudes(),
            RECORD,
            None,
            None,
            "dicom",
            affine=oblique(),
            like=like,
            deidentify=secret,
        )
    assert load_image(tmp_path / "x1").headers[0].PatientID == like.headers[0].PatientID == "ID-4711"
    assert load_image(tmp_path / "x1").headers[0].StudyInstanceUID == "1.2.3"


def test_from_k_space_to_dicom_by_the_command_line(scan, tmp_path, capsys):
    path, _ = scan((40, 36), slices=3)
    affine = oblique()
    write_series(tmp_path / "like", affine, numbers((3, 40, 36)))
    base = ["recon", str(path), "-o", str(tmp_path / "out"), "--solver", "tv", "--format", "dicom"]
    assert main(base) == 2
    assert "give --like with a series of the same slices" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*base, "--like", str(tmp_path / "like"), "--slices", "1:3"]) == 0
    image = load_image(tmp_path / "out" / "scan")
    expected = affine.copy()
    expected[:3, 3] += affine[:3, 2]
    assert np.abs(image.affine - expected).max() < 1e-6
    assert image.headers[0].PatientID == "ID-4711"
    write_series(tmp_path / "like", affine, numbers((3, 40, 36)), "b{k}", SeriesNumber=9)
    assert main([*base[:3], str(tmp_path / "o2"), *base[4:], "--like", str(tmp_path / "like")]) == 2
    assert "select one by --like-select, e.g. SeriesNumber=3" in capsys.readouterr().err
    assert main(["recon", str(path), "-o", str(tmp_path / "n"), "--like", str(tmp_path / "like")]) == 2
    assert "give --format dicom" in capsys.readouterr().err
