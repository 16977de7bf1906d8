"""Several volumes in one DICOM series or NIfTI file, and series with damaged, copied or linked files."""

import json
import os
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import load_image
from medrecon.prep.cases import dicom_series
from medrecon.transforms import LoadVolume
from tests.make.dicom import LPS, OBLIQUE, damaged, magnitudes, numbers, oblique, write_series
from tests.make.dicom_volumes import enhanced, planted, write_volumes
from tests.make.nifti import save


def advised(error):
    """The selections that a message proposes, e.g. by an attribute and by number."""
    proposals = str(error).split("e.g. ")[-1].split(", or ")
    return [{k: v for k, v in re.findall(r"(\w+)=([^,;\s]*)", text)} for text in proposals]


def refusal(path):
    with pytest.raises(InputError, match="select one") as caught:
        load_image(path)
    return caught.value


# Volumes of a DICOM series


def test_a_real_series_of_two_volumes(data_folder, tmp_path):
    folder = data_folder / "dicom" / "ge_fmri"
    message = str(refusal(folder))
    assert (
        "a series of 2 volumes, which differ in InstanceNumber (1 to 4, 43 to 46); select one, e.g. volume=0" in message
    )
    for k, first in enumerate((1, 43)):
        image = load_image(folder, {"volume": k})
        stored = {ds.InstanceNumber: ds for ds in map(pydicom.dcmread, folder.glob("*.dcm"))}
        for z in range(4):
            assert np.array_equal(image.array[z], stored[first + z].pixel_array)
            place = image.affine @ [0, 0, z, 1]
            assert np.allclose((LPS @ place)[:3], stored[first + z].ImagePositionPatient, atol=1e-4)
        assert image.attributes["volume"] == k
        assert image.warnings == ()
    with pytest.raises(InputError, match="no volume=2; there are volume=0 to volume=1"):
        load_image(folder, {"volume": 2})
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    subprocess.run(["dcm2niix", "-o", str(tmp_path), "-f", "n", str(folder)], check=True, capture_output=True)
    theirs = nib.load(tmp_path / "n.nii")
    flip = np.array([[1, 0, 0, 0], [0, -1, 0, 63], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # it turns rows round
    for k in range(2):
        image = load_image(folder, {"volume": k})
        assert np.abs(theirs.affine - image.affine @ flip).max() < 1e-4
        assert np.array_equal(np.asarray(theirs.dataobj)[:, ::-1, :, k].transpose(2, 1, 0), image.array)


@pytest.mark.parametrize("numbering", ["volumes", "down", "positions"])
def test_volumes_without_any_attribute_are_told_apart_by_their_numbers(tmp_path, numbering):
    volumes = planted(3)
    write_volumes(tmp_path / "s", volumes, numbering, names="{k}-{v}.dcm")
    assert advised(refusal(tmp_path / "s")) == [{"volume": "0"}]
    for k, volume in enumerate(volumes):
        image = load_image(tmp_path / "s", {"volume": k})
        assert np.array_equal(image.array, volume)
        assert np.abs(image.affine - oblique()).max() < 1e-6
        assert image.warnings == ()


KINDS = {
    "echoes": {"EchoTime": ["2.3", "4.6"]},
    "kinds": {"ImageType": [["ORIGINAL", "PRIMARY", k, "ND"] for k in "MP"]},
    "times": {"TemporalPositionIdentifier": [1, 2, 3]},
    "against the numbers": {"TemporalPositionIdentifier": [3, 2, 1]},
    "acquisitions": {"AcquisitionNumber": [1, 2, 3]},
    "b-values": {"DiffusionBValue": [None, 1000]},
    "echoes and kinds": {"EchoTime": ["2.3", "2.3", "4.6", "4.6"], "ImageType": [["A", "B", k] for k in "MPMP"]},
    "one b-value and several directions": {
        "DiffusionBValue": [0, 1000, 1000, 1000],
        "DiffusionGradientOrientation": [None, [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
    },
    "trace and ADC": {
        "ImageType": [["DERIVED", "PRIMARY", "DIFFUSION", k] for k in ("TRACEW", "TRACEW", "ADC")],
        "DiffusionBValue": [0, 1000, None],
    },
    "cine": {"TriggerTime": ["0", "41.7", "83.3"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_advice_of_a_message_leads_to_a_whole_volume(tmp_path, capsys, kind):
    attributes = KINDS[kind]
    count = len(next(iter(attributes.values())))
    volumes = planted(count)
    write_volumes(tmp_path / "s", volumes, **attributes)
    error = refusal(tmp_path / "s")
    assert f": a series of {count} volumes, which differ in " in str(error)
    assert any(key in str(error) for key in attributes)
    proposals = advised(error)
    assert proposals[-1] == {"volume": "0"}
    for select in proposals:
        image = load_image(tmp_path / "s", select)
        assert any(np.array_equal(image.array, volume) for volume in volumes), select
        assert image.warnings == ()
        flags = [part for key, value in select.items() for part in ("--select", f"{key}={value}")]
        assert main(["info", str(tmp_path / "s"), *flags, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["slices"] == 4
    found = [load_image(tmp_path / "s", {"volume": k}).array for k in range(count)]
    assert sorted(next(k for k, v in enumerate(volumes) if np.array_equal(v, array)) for array in found) == list(
        range(count)
    )


def test_the_attributes_come_before_the_numbers(tmp_path):
    volumes = planted(3)
    write_volumes(tmp_path / "s", volumes, TemporalPositionIdentifier=[3, 1, 2])
    for k, which in enumerate((1, 2, 0)):
        assert np.array_equal(load_image(tmp_path / "s", {"volume": k}).array, volumes[which])


def test_images_without_an_attribute_can_be_selected(tmp_path, capsys):
    volumes = planted(3)
    write_volumes(tmp_path / "s", volumes, DiffusionBValue=[None, 500, 1000])
    assert "or none: DiffusionBValue=)" in str(refusal(tmp_path / "s"))
    for value in ("", None):
        assert np.array_equal(load_image(tmp_path / "s", {"DiffusionBValue": value}).array, volumes[0])
    assert main(["info", str(tmp_path / "s"), "--select", "DiffusionBValue="]) == 0
    assert "slices: 4" in capsys.readouterr().out
    with pytest.raises(InputError, match="no image with EchoTime=3; there are none"):
        load_image(tmp_path / "s", {"EchoTime": 3})
    with pytest.raises(InputError, match="BValue is not a DICOM keyword"):
        load_image(tmp_path / "s", {"BValue": ""})
    with pytest.raises(InputError, match=r"no image with InstanceNumber=; there are 1, 2"):
        load_image(tmp_path / "s", {"InstanceNumber": ""})


def test_an_interrupted_last_volume_leaves_the_others_whole(tmp_path):
    volumes = planted(3)
    write_volumes(tmp_path / "s", volumes)
    (tmp_path / "s" / "2-3").unlink()
    (tmp_path / "s" / "2-2").unlink()
    for k in range(2):
        assert np.array_equal(load_image(tmp_path / "s", {"volume": k}).array, volumes[k])
    last = load_image(tmp_path / "s", {"volume": 2})
    assert np.array_equal(last.array, volumes[2][:2])
    assert "lacks 2 of the slice positions" in last.warnings[0]
    # Where the first slices of one volume and the last of another are missing, two halves must not become a whole one.
    write_volumes(tmp_path / "t", volumes)
    for name in ("0-3", "0-2", "1-0", "1-1"):
        (tmp_path / "t" / name).unlink()
    for k, kept in enumerate((slice(0, 2), slice(2, 4), slice(0, 4))):
        assert np.array_equal(load_image(tmp_path / "t", {"volume": k}).array, volumes[k][kept])


def test_slices_that_cannot_be_assigned_are_refused(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers(), order=[5, 3, 1, 6, 2, 4])
    extra = pydicom.dcmread(tmp_path / "s" / "2")
    extra.SOPInstanceUID, extra.InstanceNumber = generate_uid(), 7
    extra.save_as(tmp_path / "s" / "again")
    with pytest.raises(InputError, match=r"a series with 1 images at most positions but not at all.*cannot be decided"):
        load_image(tmp_path / "s")
    # One slice short, and the attributes decide.
    volumes = planted(2)
    write_volumes(tmp_path / "e", volumes, EchoTime=["2.3", "4.6"])
    (tmp_path / "e" / "1-1").unlink()
    assert np.array_equal(load_image(tmp_path / "e", {"volume": 0}).array, volumes[0])
    with pytest.raises(InputError, match="1 slices are missing"):
        load_image(tmp_path / "e", {"volume": 1})


def test_slices_of_different_volumes_in_one_stack_are_reported(tmp_path):
    """Half of one echo and half of the other make one stack; nothing but the attributes gives them away."""
    write_series(tmp_path / "s", oblique(), numbers((4, 8, 8)), EchoTime=["2.3", "2.3", "4.6", "4.6"])
    assert "differ in EchoTime (2.3, 4.6)" in load_image(tmp_path / "s").warnings[0]
    write_series(tmp_path / "t", oblique(), numbers((4, 8, 8)), order=[1, 2, 45, 46])
    assert "InstanceNumber jumps, e.g. from 2 to 45" in load_image(tmp_path / "t").warnings[0]
    write_series(tmp_path / "n", oblique(), numbers((4, 8, 8)), NumberOfTemporalPositions=2)
    assert "NumberOfTemporalPositions is 2, but the number of volumes is 1" in load_image(tmp_path / "n").warnings[0]
    volumes, uid = planted(2), generate_uid()
    for k, order in enumerate(([1, 2, 3, 4], [5, 7, 6, 12])):
        write_series(tmp_path / "i", oblique(), volumes[k], f"{k}-{{k}}", order, SeriesInstanceUID=uid)
    assert "these are irregular" in load_image(tmp_path / "i", {"volume": 0}).warnings[0]
    write_series(tmp_path / "g", oblique(), numbers((4, 8, 8)), SpacingBetweenSlices="1.65")
    assert "3.30 mm, but SpacingBetweenSlices is 1.65 mm" in load_image(tmp_path / "g").warnings[0]


def test_planes_of_a_localizer_are_selected_by_number(tmp_path):
    uid, volumes = generate_uid(), [numbers((2, 8, 8), k) for k in range(3)]
    turns = (np.eye(3), OBLIQUE, OBLIQUE[:, [2, 0, 1]])
    for k, turn in enumerate(turns):
        order = [2 * k + 1, 2 * k + 2]
        write_series(tmp_path / "s", oblique(turn=turn), volumes[k], f"{2 - k}-{{k}}", order, SeriesInstanceUID=uid)
    error = refusal(tmp_path / "s")
    assert "a series of 3 stacks in different directions, as in a localizer: ImageOrientationPatient is " in str(error)
    for k, turn in enumerate(turns):
        image = load_image(tmp_path / "s", {"volume": k})
        assert np.array_equal(image.array, volumes[k])
        assert np.abs(image.affine - oblique(turn=turn)).max() < 1e-6
    write_series(tmp_path / "z", oblique(), numbers((2, 8, 8)), SeriesInstanceUID=uid)
    write_series(tmp_path / "z", oblique(), numbers((1, 6, 8)), "b{k}", [9], SeriesInstanceUID=uid)
    assert "2 stacks of different matrix sizes (8 x 8, 6 x 8)" in str(refusal(tmp_path / "z"))
    assert load_image(tmp_path / "z", {"volume": 1}).array.shape == (1, 6, 8)


def test_stacks_of_one_direction_are_selected_by_their_name(tmp_path):
    """Two slabs side by side, each evenly spaced."""
    uid, volumes = generate_uid(), planted(2)
    for k in range(2):
        affine = oblique(turn=np.eye(3), origin=(-80, 40, 61.7 * k))
        write_series(tmp_path / "s", affine, volumes[k], f"{k}-{{k}}", SeriesInstanceUID=uid, StackID=str(k + 1))
    with pytest.raises(InputError, match=r"not equally spaced .* which differ in StackID \(1, 2\)") as caught:
        load_image(tmp_path / "s")
    (select,) = advised(caught.value)
    assert np.array_equal(load_image(tmp_path / "s", select).array, volumes[0])


def test_volumes_of_an_enhanced_object(tmp_path):
    volumes = planted(3)
    path = enhanced(tmp_path / "e.dcm", volumes, TemporalPositionIndex=[1, 2, 3])
    error = refusal(path)
    assert "a series of 3 volumes, which differ in TemporalPositionIndex (1, 2, 3)" in str(error)
    for select in advised(error):
        assert np.array_equal(load_image(path, select).array, volumes[0])
    for k in range(3):
        image = load_image(path, {"volume": k})
        assert np.array_equal(image.array, volumes[k])
        assert np.abs(image.affine - oblique()).max() < 1e-6
    plain = enhanced(tmp_path / "p.dcm", volumes)
    for k in range(3):
        assert np.array_equal(load_image(plain, {"volume": k}).array, volumes[k])


def test_volumes_of_mosaics(data_folder, tmp_path):
    truth = load_image(data_folder / "dicom" / "dcm_qa_ts" / "1.dcm").array
    for k in range(3):
        ds = pydicom.dcmread(data_folder / "dicom" / "dcm_qa_ts" / "1.dcm")
        ds.SOPInstanceUID, ds.InstanceNumber, ds.AcquisitionNumber = generate_uid(), k + 1, k + 1
        ds.PixelData = (ds.pixel_array + k).astype("<u2").tobytes()
        ds.save_as(tmp_path / f"{9 - k}.dcm")
    error = refusal(tmp_path)
    assert "a series of 3 mosaics, each a whole volume, which differ in AcquisitionNumber (1, 2, 3)" in str(error)
    for select in advised(error):
        assert np.array_equal(load_image(tmp_path, select).array, truth)
    for k in range(3):
        assert np.array_equal(load_image(tmp_path, {"volume": k}).array, truth + k)


def test_transforms_select_a_volume_and_pass_warnings_on(tmp_path, caplog):
    volumes = planted(2)
    write_volumes(tmp_path / "s", volumes, RescaleSlope=["0", "0"])
    out = LoadVolume({"volume": 1})(tmp_path / "s")
    assert np.array_equal(out.numpy(), volumes[1])
    assert out.meta["warnings"] == ["RescaleSlope is 0, which is not valid; 1 is used instead"]
    assert "RescaleSlope is 0" in caplog.text


# Files


def test_copies_of_an_image_count_once(tmp_path):
    volume = numbers()
    write_series(tmp_path / "s", oblique(), volume, "{k}.dcm", RescaleSlope="2")
    for k in (0, 3, 5):
        shutil.copy(tmp_path / "s" / f"{k}.dcm", tmp_path / "s" / f"copy of {k}.dcm")
    image = load_image(tmp_path / "s")
    assert np.array_equal(image.array, 2 * volume)
    assert (len(image.headers), image.warnings) == (6, ())
    assert [len(c.inputs["image"]) for c in dicom_series(tmp_path, fewest=6)] == [9]
    assert dicom_series(tmp_path, fewest=7) == []
    # A damaged one of two copies is not needed, whichever comes first.
    for name in ("0.dcm", "copy of 3.dcm"):
        whole = (tmp_path / "s" / name).read_bytes()
        (tmp_path / "s" / name).write_bytes(whole[:-100])
        assert np.array_equal(load_image(tmp_path / "s").array, 2 * volume)
        (tmp_path / "s" / name).write_bytes(whole)
    ds = pydicom.dcmread(tmp_path / "s" / "copy of 3.dcm")
    ds.PixelData = (ds.pixel_array + 1).astype("<i2").tobytes()
    ds.save_as(tmp_path / "s" / "copy of 3.dcm")
    with pytest.raises(
        InputError, match=r"copy of 3.dcm and .*3.dcm: have the same SOPInstanceUID but different pixels"
    ):
        load_image(tmp_path / "s")


def test_one_uid_in_all_files_of_a_series_does_not_make_them_copies(tmp_path):
    volumes = planted(2)
    write_volumes(tmp_path / "s", volumes, SOPInstanceUID=["1.2.3", "1.2.3"])
    assert np.array_equal(load_image(tmp_path / "s", {"volume": 1}).array, volumes[1])


@pytest.mark.parametrize("name", ["{k}.dcm", "{k}"])
@pytest.mark.parametrize("damage", ["header", "mark", "pixels", "empty"])
def test_a_damaged_file_is_reported_and_left_out(tmp_path, capsys, name, damage):
    volume = numbers()
    write_series(tmp_path / "s", oblique(), volume, name)
    paths = [tmp_path / "s" / name.format(k=k) for k in range(6)]
    whole = [path.read_bytes() for path in paths]

    def harm(k):
        content = whole[k]
        changed = {
            "header": content[:700],
            "mark": content[:128] + b"XXXX" + content[132:],
            "pixels": content[:-300],
            "empty": b"",
        }
        paths[k].write_bytes(changed[damage])

    harm(5)  # the end of the stack: no gap
    image = load_image(tmp_path / "s")
    assert np.array_equal(image.array, volume[:5])
    assert np.abs(image.affine - oblique()).max() < 1e-6
    assert len(image.warnings) == 1
    assert str(paths[5]) in image.warnings[0]
    assert image.warnings[0].endswith("; skipped")
    assert main(["info", str(tmp_path / "s")]) == 0
    assert f"warning: {paths[5]}: " in capsys.readouterr().out
    assert np.array_equal(load_image(sorted(paths)).array, volume[:5])
    harm(2)
    with pytest.raises(InputError, match=r"1 slices are missing.*2 damaged files were skipped") as caught:
        load_image(tmp_path / "s")
    assert "\n" not in str(caught.value)
    for k in range(6):
        harm(k)
    with pytest.raises(InputError):
        load_image(tmp_path / "s")
    assert main(["info", str(tmp_path / "s")]) == 2


def test_text_and_directories_of_files_are_no_damaged_images(tmp_path):
    write_series(tmp_path / "s", oblique(), numbers())
    for name in ("LICENSE", "read me", "notes.txt"):
        (tmp_path / "s" / name).write_text("Erklärung\n")
    directory = pydicom.dcmread(tmp_path / "s" / "0")
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.save_as(tmp_path / "s" / "DICOMDIR-old")
    (tmp_path / "s" / "dicomdir").write_bytes(b"\0" * 128 + b"DICM")
    assert load_image(tmp_path / "s").warnings == ()


def test_links_are_followed_without_end(tmp_path):
    volume = numbers()
    write_series(tmp_path / "real", oblique(), volume)
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "data").symlink_to(tmp_path / "real")
    (folder / "again").symlink_to(tmp_path / "real")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    image = load_image(folder)
    assert np.array_equal(image.array, volume)
    assert image.warnings == ()
    (tmp_path / "real" / "up").unlink()
    (tmp_path / "real" / "5").unlink()
    (tmp_path / "real" / "5").symlink_to(tmp_path / "gone")
    assert "5: cannot be read" in load_image(folder).warnings[0]
    single = tmp_path / "one"
    single.symlink_to(tmp_path / "real")
    assert len(load_image(single).array) == 5


def test_direction_cosines_of_few_digits_are_normalised(tmp_path):
    lps = (LPS @ oblique())[:3, :2]
    cosines = (lps / np.linalg.norm(lps, axis=0)).T.ravel()
    for digits, tolerance in ((4, 1e-4), (3, 1e-3)):
        rounded = [[f"{v:.{digits}f}" for v in cosines]] * 6
        write_series(tmp_path / str(digits), oblique(), numbers(), ImageOrientationPatient=rounded)
        image = load_image(tmp_path / str(digits))
        sides = np.linalg.norm(image.affine[:3, :2], axis=0)
        assert (
            np.abs(sides - [0.9, 1.1]).max() < 1e-9
        )  # the pixel sizes; cosines 1e-4 too long would make them 1e-4 too large
        assert abs(image.affine[:3, 0] @ image.affine[:3, 1]) < 1e-9
        assert np.abs(image.affine - oblique())[:3, :2].max() < tolerance
    for text, wrong in (
        ("perpendicular", [1, 0, 0, 0.1, 0.995, 0]),
        ("unit vectors", [2, 0, 0, 0, 2, 0]),
        ("unit vectors", [0] * 6),
    ):
        write_series(tmp_path / "x", oblique(), numbers(), ImageOrientationPatient=[wrong] * 6)
        with pytest.raises(InputError, match=f"ImageOrientationPatient is not two {text}"):
            load_image(tmp_path / "x")


def test_a_slope_of_zero_counts_as_one(tmp_path):
    """As in GDCM, ITK, SimpleITK and 3D Slicer; without an intercept as in dcm2niix and DCMTK, too."""
    volume = numbers((2, 8, 8))
    write_series(tmp_path / "s", oblique(), volume, RescaleSlope="0", RescaleIntercept="-1024")
    image = load_image(tmp_path / "s")
    assert np.array_equal(image.array, volume - 1024.0)
    assert "RescaleSlope is 0" in image.warnings[0]
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    write_series(tmp_path / "z", oblique(), volume, RescaleSlope="0", RescaleIntercept="0")
    subprocess.run(["dcm2niix", "-o", str(tmp_path), "-f", "n", str(tmp_path / "z")], check=True, capture_output=True)
    theirs = np.asarray(nib.load(tmp_path / "n.nii").dataobj)[:, ::-1].transpose(2, 1, 0)
    assert np.array_equal(theirs, load_image(tmp_path / "z").array)


def test_a_like_of_several_volumes_says_what_helps(scan, tmp_path, capsys):
    path, _ = scan((40, 36), slices=3)
    uid = generate_uid()
    for k in range(2):
        order = [3 * k + z + 1 for z in range(3)]
        write_series(tmp_path / "like", oblique(), numbers((3, 40, 36)), f"{k}-{{k}}", order, SeriesInstanceUID=uid)
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "tv", "--format", "dicom", "--like"]
    assert main([*command, str(tmp_path / "like")]) == 2
    message = (
        "like: a series of 2 volumes, which differ in InstanceNumber (1 to 3, 4 to 6); select one by --like-select, "
    )
    message += "e.g. volume=0 (numbered from 0 to 1)"
    assert message in capsys.readouterr().err
    (tmp_path / "one").mkdir()
    for z in range(3):
        shutil.copy(tmp_path / "like" / f"1-{z}", tmp_path / "one")
    assert main([*command, str(tmp_path / "one")]) == 0
    assert np.abs(load_image(tmp_path / "o" / "scan").affine - oblique()).max() < 1e-6


@pytest.mark.parametrize("name", ["{k}.dcm", "{k}"])
def test_one_corrupted_file_never_makes_a_wrong_stack_in_silence(tmp_path, name):
    """Either refused, or every other slice is right and in place; what the header announces may not change without a word."""
    affine, volume = oblique(), numbers((6, 10, 8))
    write_series(tmp_path / "s", affine, volume, name, RescaleSlope="2", RescaleIntercept="1", EchoTime="4.6")
    paths = [tmp_path / "s" / name.format(k=k) for k in range(6)]
    whole = [path.read_bytes() for path in paths]
    pixels = whole[0].rfind(volume[0].astype("<i2").tobytes())
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(100):
        k = int(rng.integers(6))
        content = bytearray(whole[k])
        if trial % 2:
            for at in rng.integers(128, pixels, int(rng.integers(1, 4))):
                content[at] ^= int(rng.integers(1, 256))
        else:
            content = damaged(whole[k], rng)
        paths[k].write_bytes(content)
        kept = [z for z in range(6) if z != k]
        try:
            image = load_image(tmp_path / "s")
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            if len(image.array) == 5:
                assert k in (0, 5)
                assert str(paths[k]) in image.warnings[-1]
                assert np.array_equal(image.array, 2 * volume[kept] + 1)
            elif not image.warnings:
                assert np.array_equal(image.array[kept], 2 * volume[kept] + 1)
                assert np.abs(image.affine - affine).max() < 0.1  # positions to the tolerance of even spacing
                same_pixels = bytes(content[pixels:]) == whole[k][pixels:]
                assert not same_pixels or np.array_equal(image.array[k], 2 * volume[k] + 1)
        paths[k].write_bytes(whole[k])
    assert 20 < refused < 90


# NIfTI


def test_volumes_of_a_nifti_file(tmp_path, capsys):
    data = np.random.default_rng(0).normal(size=(8, 6, 5, 3, 2)).astype(np.float32)
    affine = oblique()
    four = save(tmp_path / "four.nii.gz", data[..., 0], affine)
    error = refusal(four)
    assert "a file of 3 volumes (8 x 6 x 5 x 3); select one, e.g. volume=0 (numbered from 0 to 2)" in str(error)
    assert np.array_equal(load_image(four, advised(error)[0]).array, data[..., 0, 0].transpose(2, 1, 0))
    for k in range(3):
        image = load_image(four, {"volume": k})
        assert np.array_equal(image.array, data[..., k, 0].transpose(2, 1, 0))
        assert np.abs(image.affine - affine).max() < 1e-5
        assert image.attributes["volume"] == k
    five = save(tmp_path / "five.nii", data, affine)
    for k in range(6):  # the first of the further axes varies fastest, as in the file
        assert np.array_equal(load_image(five, {"volume": k}).array, data[..., k % 3, k // 3].transpose(2, 1, 0))
    for wrong in (3, -1, 0.5, "x", ""):
        with pytest.raises(InputError, match=r"no volume=.*; there are volume=0 to volume=2"):
            load_image(four, {"volume": wrong})
    one = save(tmp_path / "one.nii", data[..., 0, 0], affine)
    assert len(load_image(one, {"volume": 0}).array) == 5
    with pytest.raises(InputError, match="there is one volume, volume=0"):
        load_image(one, {"volume": 1})
    assert main(["info", str(four), "--select", "volume=2"]) == 0
    assert "volume: 2" in capsys.readouterr().out
    phase = save(tmp_path / "phase.nii", data[..., 1], affine)
    magnitude = save(tmp_path / "mag.nii", np.abs(data[..., 0]), affine)
    expected = np.abs(data[..., 1, 0]) * np.exp(1j * data[..., 1, 1])
    found = load_image(magnitude, {"volume": 1}, phase=phase).array
    assert np.abs(found - expected.transpose(2, 1, 0)).max() < 1e-6


def test_only_the_volume_that_is_asked_for_is_checked(tmp_path):
    data = np.zeros((4, 4, 4, 2), np.float32)
    data[..., 1] = np.nan
    path = save(tmp_path / "n.nii", data, oblique())
    assert load_image(path, {"volume": 0}).array.max() == 0
    with pytest.raises(InputError, match="contains NaN"):
        load_image(path, {"volume": 1})


def test_codes_that_do_not_change_the_image_are_accepted(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    affine = oblique()
    content = save(tmp_path / "a.nii", data, affine).read_bytes()
    for offset, code in (
        (68, 9999), (122, 77), (123, 0x40 | 2), (39, 255), (254, 9), (254, 5), (252, 9), (36, 7), (72, 7), (38, 7),
    ):  # fmt: skip
        changed = bytearray(content)
        changed[offset : offset + (2 if code > 255 or offset in (252, 254) else 1)] = code.to_bytes(
            2 if code > 255 or offset in (252, 254) else 1, "little"
        )
        (tmp_path / "b.nii").write_bytes(changed)
        image = load_image(tmp_path / "b.nii")
        assert np.array_equal(image.array, data.transpose(2, 1, 0)), offset
        assert np.abs(image.affine - affine).max() < 1e-4, offset
        assert image.warnings == ()
    changed = bytearray(content)
    changed[252], changed[254] = 9, 9
    changed[256:268] = np.zeros(3, np.float32).tobytes()  # another qform: the sform goes first
    (tmp_path / "b.nii").write_bytes(changed)
    assert np.abs(load_image(tmp_path / "b.nii").affine - affine).max() < 1e-4
    changed = bytearray(content)
    changed[123] = 7
    (tmp_path / "b.nii").write_bytes(changed)
    image = load_image(tmp_path / "b.nii")
    assert np.abs(image.affine - affine).max() < 1e-4
    assert image.warnings == ("its unit of length has the unknown code 7; mm are assumed",)
    changed = bytearray(content)
    changed[108:112] = np.float32(0).tobytes()  # vox_offset: the header would be read as data
    (tmp_path / "b.nii").write_bytes(changed)
    with pytest.raises(InputError, match="inside its header"):
        load_image(tmp_path / "b.nii")


# Names


def test_suffixes_in_upper_case(scan, tmp_path, capsys):
    from medrecon.formats import load_array, load_kspace, load_noncartesian, load_sinogram

    affine = oblique()
    for name in ("A.NII", "A.NII.GZ", "A.Nii.gz"):
        image = load_image(save(tmp_path / name.lower(), magnitudes().transpose(2, 1, 0), affine))
        os.rename(tmp_path / name.lower(), tmp_path / name)
        (tmp_path / "A.json").write_text('{"EchoTime": 0.003}')
        upper = load_image(tmp_path / name)
        assert np.array_equal(upper.array, image.array)
        assert upper.stem == "A"
        assert upper.attributes["EchoTime"] == 0.003
        assert main(["info", str(tmp_path / name)]) == 0
    write_series(tmp_path / "s", affine, numbers(), "{k}.DCM")
    assert len(load_image(tmp_path / "s").array) == 6
    path, _ = scan((40, 36), slices=2)
    truth = load_kspace(path)
    k = truth.kspace
    np.savez(tmp_path / "k.npz", kspace=k)
    np.save(tmp_path / "k.npy", k)
    import scipy.io

    scipy.io.savemat(tmp_path / "k.mat", {"kspace": k.transpose(2, 3, 1, 0)})
    k[0].transpose(2, 1, 0).astype(np.complex64).ravel(order="F").tofile(tmp_path / "k.cfl")
    (tmp_path / "k.hdr").write_text(f"# Dimensions\n36 40 1 {k.shape[1]} 1\n")
    shutil.copy(path, tmp_path / "k.h5")
    for suffix in ("h5", "npz", "npy", "mat", "cfl"):
        lower = load_kspace(tmp_path / f"k.{suffix}")
        os.rename(tmp_path / f"k.{suffix}", tmp_path / f"K.{suffix.upper()}")
        if suffix == "cfl":
            os.rename(tmp_path / "k.hdr", tmp_path / "K.HDR")
        upper = load_kspace(tmp_path / f"K.{suffix.upper()}")
        assert np.array_equal(upper.kspace, lower.kspace)
        assert upper.stem == "K"
        assert main(["info", str(tmp_path / f"K.{suffix.upper()}")]) == 0
        if suffix in ("npz", "npy", "cfl"):
            assert load_array(tmp_path / f"K.{suffix.upper()}", "kspace").shape[-2:] == (40, 36)
    trajectory = np.random.default_rng(0).uniform(-8, 8, (4, 16, 2)).astype(np.float32)
    with (tmp_path / "N.NPZ").open("wb") as file:
        np.savez(file, kspace=np.ones((2, 4, 16), np.complex64), trajectory=trajectory)
    assert load_noncartesian(tmp_path / "N.NPZ", matrix=(16, 16)).samples.shape == (1, 2, 4, 16)
    assert main(["recon", str(tmp_path / "K.H5"), "-o", str(tmp_path / "o"), "--solver", "cg-sense"]) == 0
    assert (tmp_path / "o" / "K.nii.gz").is_file()
    os.rename(tmp_path / "o" / "K.nii.gz", tmp_path / "o" / "K.NII.GZ")
    capsys.readouterr()
    with (tmp_path / "S.NPZ").open("wb") as file:
        np.savez(file, sino=np.ones((6, 9), np.float32), theta_rad=np.linspace(0, 3, 6), detector_spacing_mm=1.0)
    assert load_sinogram(tmp_path / "S.NPZ").sinogram.shape == (1, 6, 9)


def test_a_twix_suffix_in_upper_case(tmp_path, capsys, data_folder):
    shutil.copy(data_folder / "kspace" / "siemens" / "gre.dat", tmp_path / "G.DAT")
    assert main(["info", str(tmp_path / "G.DAT")]) == 0
    assert "format: Siemens twix" in capsys.readouterr().out
