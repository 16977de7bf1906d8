"""``--like``: what a new DICOM series takes from a source series, which one, and what it leaves out without identity."""

import json
import shutil
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

import medrecon
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import load_image, load_like
from medrecon.transforms import DicomOptions, LoadScand, SaveReconstructiond
from tests.make.dicom import LPS, RECORD, magnitudes, numbers, oblique, verified_or_none, write_series
from tests.make.dicom_volumes import enhanced, planted
from tests.make.outputs import write_volume


def write(folder, like, deidentify=False, samples=False, shape=(4, 8, 6)):
    several = np.stack([magnitudes(shape), 1.1 * magnitudes(shape)]) if samples else None
    write_volume(
        folder,
        "x",
        magnitudes(shape),
        RECORD,
        several,
        None,
        "dicom",
        affine=oblique(),
        like=like,
        deidentify=deidentify,
    )
    return [pydicom.dcmread(path) for path in sorted((folder / "x").iterdir())]


# Enhanced objects


def timed(path, echoes=(2.5, 7.25), per_frame=True):
    """An enhanced MR object as PS3.3 has it: timing shared, echo and position of every frame; two echoes of four slices."""
    volumes = planted(2)
    enhanced(path, volumes, EffectiveEchoTime=list(echoes))
    ds = pydicom.dcmread(path)
    timing, modifier, modality = Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = "512.5", "17", 1
    modifier.InversionTimes, modifier.InversionRecovery = [900.0], "YES"
    modality.TransmitterFrequency, modality.PixelBandwidth = 123.25810000000001, "260"
    shared = Dataset()
    shared.MRTimingAndRelatedParametersSequence, shared.MRModifierSequence = [timing], [modifier]
    shared.MRImagingModifierSequence = [modality]
    ds.SharedFunctionalGroupsSequence = [shared]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        content, echo = frame.FrameContentSequence[0], Dataset()
        echo.EffectiveEchoTime = content.EffectiveEchoTime
        del content.EffectiveEchoTime
        frame.MREchoSequence = [echo]
    ds.EchoPulseSequence, ds.EchoPlanarPulseSequence = "GRADIENT", "NO"
    ds.ResonantNucleus, ds.MagneticFieldStrength = "1H", "3"
    del ds.InstanceNumber
    del ds.SliceThickness
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    ds.save_as(path)
    return volumes


@pytest.mark.parametrize("echo", [0, 1])
def test_timing_and_sources_come_from_functional_groups(tmp_path, echo):
    volumes = timed(tmp_path / "e.dcm")
    with pytest.raises(
        InputError, match=r"differ in EffectiveEchoTime \(2\.5, 7\.25\); select one by --like-select, e\.g\. Eff"
    ):
        load_like(tmp_path / "e.dcm")
    like = load_like(tmp_path / "e.dcm", {"EffectiveEchoTime": (2.5, 7.25)[echo]})
    assert np.array_equal(like.array, volumes[echo])
    source = pydicom.dcmread(tmp_path / "e.dcm")
    written = write(tmp_path, like)
    for k, ds in enumerate(written):
        assert (ds.RepetitionTime, ds.EchoTime, ds.FlipAngle) == (512.5, (2.5, 7.25)[echo], 17)
        assert (ds.InversionTime, ds.EchoTrainLength, ds.PixelBandwidth) == (900, 1, 260)
        assert ds.ImagingFrequency == pytest.approx(123.2581)
        assert (ds.MagneticFieldStrength, list(ds.ScanningSequence)) == (3, ["GR", "IR"])
        assert ds.PatientID == "ID-4711"
        item = ds.SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert item.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.4.1"
        # The frame that is referred to lies where the slice lies, and is of the echo that was selected.
        frame = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, (LPS @ oblique() @ [0, 0, k, 1])[:3])
        assert frame.MREchoSequence[0].EffectiveEchoTime == (2.5, 7.25)[echo]
    assert verified_or_none(tmp_path / "x" / "0001.dcm") == []


def test_timing_of_a_converted_object_of_highdicom(tmp_path):
    """Whose classic attributes lie in shared and in unassigned groups."""
    write_series(tmp_path / "s", oblique(), numbers((4, 8, 6)).clip(0), RepetitionTime="600", EchoTime="11", FlipAngle="30",
                 ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], BodyPartExamined="HEAD")  # fmt: skip
    classic = [pydicom.dcmread(path) for path in sorted((tmp_path / "s").iterdir())]
    for ds in classic:
        ds.AcquisitionDate, ds.AcquisitionTime, ds.Manufacturer = "20200102", "101112", "maker"
        ds.ContentDate, ds.ContentTime, ds.PositionReferenceIndicator, ds.Laterality = "20200102", "101112", "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uid = generate_uid()
        made = highdicom.legacy.LegacyConvertedEnhancedMRImage(classic, generate_uid(), 5, uid, 1)
    made.save_as(tmp_path / "e.dcm")
    written = write(tmp_path, load_like(tmp_path / "e.dcm"))
    assert {(ds.RepetitionTime, ds.EchoTime, ds.FlipAngle) for ds in written} == {(600, 11, 30)}
    frames = [ds.SourceImageSequence[0].ReferencedFrameNumber for ds in written]
    assert sorted(frames) == [1, 2, 3, 4]
    assert {ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in written} == {uid}


@pytest.mark.parametrize("sequence", [["SE"], ["SE", "IR"], "IR", "GR"])
def test_inversion_times_are_of_inverted_magnetisation(tmp_path, sequence):
    """PS3.3: the attribute is there where ScanningSequence has IR, and must not be there otherwise."""
    write_series(tmp_path / "s", oblique(), numbers((4, 8, 6)), ScanningSequence=sequence, InversionTime="900")
    (ds, *_) = write(tmp_path, load_like(tmp_path / "s"))
    assert ds.get("InversionTime") == (900 if "IR" in sequence else None)
    assert verified_or_none(tmp_path / "x" / "0001.dcm") == []


def test_values_that_dicom_does_not_have_are_not_copied(data_folder, tmp_path):
    """A scanner's age of ``0Y``."""
    like = load_like(data_folder / "dicom" / "ge_fmri", {"volume": 0})
    assert like.headers[0].PatientAge == "0Y"
    out = write_volume(tmp_path, "x", like.array, RECORD, None, None, "dicom", affine=like.affine, like=like)
    ds = pydicom.dcmread(out[0])
    assert "PatientAge" not in ds and ds.StudyInstanceUID == like.headers[0].StudyInstanceUID
    assert verified_or_none(out[0]) == []


def test_classic_slices_are_referred_to_without_frames(tmp_path):
    source = write_series(
        tmp_path / "s", oblique(), numbers((4, 8, 6)), EchoTime="3.5", RepetitionTime="8", FlipAngle="9"
    )
    written = write(tmp_path, load_like(tmp_path / "s"))
    for ds, theirs in zip(written, source, strict=True):
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == theirs.SOPInstanceUID
        assert "ReferencedFrameNumber" not in ds.SourceImageSequence[0] and "ReferencedFrameNumber" not in ds
        assert (ds.EchoTime, ds.RepetitionTime, ds.FlipAngle) == (3.5, 8, 9)


def test_a_real_series_of_volumes_is_a_source_of_one_of_them(data_folder, tmp_path):
    folder = data_folder / "dicom" / "ge_fmri"
    with pytest.raises(
        InputError,
        match=r"a series of 2 volumes, which differ in InstanceNumber .*; select one by --like-select, e\.g\. volume=0",
    ):
        load_like(folder)
    for volume in (0, 1):
        like = load_like(folder, {"volume": volume})
        out = write_volume(
            tmp_path, f"v{volume}", like.array, RECORD, None, None, "dicom", affine=like.affine, like=like
        )
        sources = {header.SOPInstanceUID for header in like.headers}
        used = {pydicom.dcmread(path).SourceImageSequence[0].ReferencedSOPInstanceUID for path in out[:-1]}
        assert used == sources and len(used) == len(like.array)


# Which one


@pytest.mark.parametrize("way", ["command line", "transform"])
def test_one_of_several_series_is_selected(scan, tmp_path, capsys, way):
    path, _ = scan((40, 36), slices=3)
    for number in (3, 9):
        write_series(
            tmp_path / "like",
            oblique(),
            numbers((3, 40, 36)),
            f"{number}-{{k}}",
            SeriesNumber=number,
            StudyID=str(number),
        )
    options = [path, "-o", tmp_path / "o", "--solver", "zero-filled", "--format", "dicom", "--like", tmp_path / "like"]
    if way == "command line":
        assert main(["recon", *map(str, options)]) == 2
        assert "select one by --like-select, e.g. SeriesNumber=3" in capsys.readouterr().err
        assert main(["recon", *map(str, options), "--like-select", "SeriesNumber=9"]) == 0
        assert main(["recon", *map(str, options[:5]), "--like-select", "SeriesNumber=9"]) == 2
        assert "give --like as well" in capsys.readouterr().err
        folder = tmp_path / "o" / "scan"
        options = json.loads((tmp_path / "o" / "scan.json").read_text())["options"]
        assert options["like"] == "SERIES"  # names of folders may be names of patients
    else:
        data = LoadScand("scan")({"scan": path})
        data["pred"] = medrecon.reconstruct(data["scan"], solver="zero-filled")
        more = {"output_dir": str(tmp_path / "o"), "fmt": "dicom"}
        like = str(tmp_path / "like")
        with pytest.raises(InputError, match="select one"):
            SaveReconstructiond("pred", **more, dicom=DicomOptions(like=like))(data)
        options = DicomOptions(like=like, like_select={"SeriesNumber": 9})
        SaveReconstructiond("pred", **more, dicom=options)(data)
        folder = tmp_path / "o" / "scan"
    assert {pydicom.dcmread(one).StudyID for one in folder.iterdir()} == {"9"}


def test_doubts_about_the_source_are_reported_without_its_folder(scan, tmp_path, caplog):
    path, _ = scan((40, 36), slices=3)
    like = tmp_path / "DOE^JANE"
    write_series(like, oblique(), numbers((3, 40, 36)), SeriesNumber=3, EchoTime=["1", "2", "3"])
    (like / "9.dcm").write_bytes((like / "0").read_bytes()[:300])
    command = ["recon", path, "-o", tmp_path / "o", "--solver", "zero-filled", "--format", "dicom", "--like", like]
    assert main([*map(str, command)]) == 0
    held = [text for text in json.loads((tmp_path / "o" / "scan.json").read_text())["warnings"] if "--like" in text]
    assert any("differ in EchoTime" in text for text in held) and any("9.dcm: damaged" in text for text in held)
    assert not any("DOE" in text for text in held)
    logged = [one.message for one in caplog.records]
    assert all(text in logged for text in held)


def test_a_source_of_another_size_is_named(scan, tmp_path, capsys):
    path, _ = scan((40, 36), slices=3)
    write_series(tmp_path / "like", oblique(), numbers((3, 40, 40)))
    command = ["recon", path, "-o", tmp_path / "o", "--format", "dicom", "--like", tmp_path / "like"]
    assert main([*map(str, command)]) == 2
    assert "(--like has 3 x 40 x 40, the data 3 x 40 x 36)" in capsys.readouterr().err


def test_stacks_name_the_attribute_that_differs(tmp_path):
    uid = generate_uid()

    def refusal(name, **second):
        affine, shape = second.pop("affine", oblique()), second.pop("shape", (3, 8, 8))
        write_series(tmp_path / name, oblique(), numbers((3, 8, 8)), "a{k}", SeriesInstanceUID=uid)
        write_series(tmp_path / name, affine, numbers(shape), "b{k}", [4, 5, 6], SeriesInstanceUID=uid, **second)
        with pytest.raises(InputError) as caught:
            load_image(tmp_path / name)
        return str(caught.value)

    message = refusal("rows", shape=(3, 6, 8))
    assert "different matrix sizes (8 x 8, 6 x 8), which differ in Rows (8, 6); select one, e.g. Rows=8" in message
    assert load_image(tmp_path / "rows", {"Rows": 6}).array.shape == (3, 6, 8)
    assert "PixelSpacing is 1.1/0.9, 1.2/0.9" in refusal("pixels", affine=oblique((0.9, 1.2, 3.3)))
    assert "ImageOrientationPatient is" in refusal("turn", affine=oblique(turn=np.eye(3)))
    above = oblique()
    above[:3, 3] += 10.4 * above[:3, 2]
    message = refusal("slab", affine=above)
    assert (
        "two stacks that differ only in ImagePositionPatient: 3 slices from" in message and "give the files" in message
    )


# Without identity


KEPT = {"MagneticFieldStrength": "3", "EchoTime": "11", "RepetitionTime": "600", "FlipAngle": "30", "BodyPartExamined": "HEAD",
        "PatientPosition": "HFS"}  # fmt: skip
"""Not in table E.1-1 of PS3.15: these stay."""
REMOVED = {
    "PatientName": "SECRET^N", "PatientID": "SECRETID", "IssuerOfPatientID": "SECRETIS", "PatientBirthDate": "19700203",
    "PatientSex": "O", "PatientAge": "049Y", "PatientSize": "1.9191", "PatientWeight": "77.77", "StudyDate": "20190203",
    "StudyTime": "111213", "ReferringPhysicianName": "SECRET^R", "StudyID": "SECRETST", "AccessionNumber": "SECRETAC",
    "StudyDescription": "SECRETSD", "ProtocolName": "SECRETPR", "AcquisitionDate": "20190204", "AcquisitionTime": "121314",
    "SeriesDate": "20190205", "SeriesTime": "131415", "ContentDate": "20190206", "ContentTime": "141516",
    "InstitutionName": "SECRETIN", "StationName": "SECRETSN", "DeviceSerialNumber": "SECRETDS", "OperatorsName": "SECRET^O",
    "ImageComments": "SECRETIC", "SeriesDescription": "SECRETSE", "PatientComments": "SECRETPC", "MilitaryRank": "SECRETMR",
    "OtherPatientIDs": "SECRETOT", "PerformedProcedureStepDescription": "SECRETPP",
}  # fmt: skip
"""In table E.1-1: removed, emptied or replaced by the Basic profile."""


def everything(dataset):
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from everything(item)
        else:
            yield element


def test_the_basic_profile_leaves_nothing_of_the_person_and_no_date(tmp_path):
    """In images and in the maps of the samples, and says so."""
    write_series(tmp_path / "s", oblique(), numbers((4, 8, 6)), **KEPT, **REMOVED)
    source = pydicom.dcmread(tmp_path / "s" / "0")
    written = write(tmp_path, load_like(tmp_path / "s"), deidentify=True, samples=True)
    files = [*(tmp_path / "x").iterdir(), *tmp_path.glob("x_*.dcm")]
    assert len(files) == 4 + 6
    uids = [
        source[name].value
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
    ]
    secrets = [text for key, text in REMOVED.items() if key != "PatientSex"] + uids[1:]
    for path in files:
        ds = pydicom.dcmread(path)
        values = [str(element.value) for element in everything(ds)]
        for secret in secrets:
            assert not any(secret in one for one in values), (path, secret)
        assert ds.StudyInstanceUID != uids[0]
        assert ds.get("PatientSex", "") == ""
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.LongitudinalTemporalInformationModified == "REMOVED"
        assert ds.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        # No date shows when the scan was made, not even the date of its reconstruction.
        times = {e.keyword: str(e.value) for e in everything(ds) if e.VR in ("DA", "TM", "DT") and e.value}
        assert set(times.items()) <= {("ContentDate", "19000101"), ("ContentTime", "000000")}
    for ds in written:
        assert {key: str(ds[key].value) for key in KEPT} == KEPT
    for path in (files[0], *files[4:]):
        assert verified_or_none(path) == []


def test_with_identity_dates_stay_and_nothing_claims_otherwise(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers((4, 8, 6)), **KEPT, **REMOVED)
    (ds, *_) = write(tmp_path, load_like(tmp_path / "s"))
    assert (ds.StudyDate, ds.PatientName) == ("20190203", "SECRET^N")
    assert len(ds.SeriesDate) == 8
    assert "LongitudinalTemporalInformationModified" not in ds and "PatientIdentityRemoved" not in ds


def test_dicom_of_a_deidentified_enhanced_object(tmp_path):
    timed(tmp_path / "e.dcm")
    ds = pydicom.dcmread(tmp_path / "e.dcm")
    (first, *_) = write(tmp_path, load_like(tmp_path / "e.dcm", {"volume": 0}), deidentify=True)
    assert (first.EchoTime, first.RepetitionTime) == (2.5, 512.5)
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID != ds.SOPInstanceUID
    assert first.SourceImageSequence[0].ReferencedFrameNumber >= 1
    assert not any("Doe" in str(element.value) for element in everything(first))
    shutil.rmtree(tmp_path / "x")
