"""NIfTI in, and the other formats out."""

import json
import struct

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load_image
from medrecon.writers import Output
from medrecon.writers.nifti import nifti_bytes
from tests.make.dicom import LPS, RECORD, damaged, magnitudes, oblique
from tests.make.nifti import save
from tests.make.outputs import write_volume


def block(shape=(8, 6, 5)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_nifti_keeps_axes_values_and_place(tmp_path):
    data, affine = block(), oblique()
    image = load_image(save(tmp_path / "a.nii.gz", data, affine))
    assert image.array.shape == (5, 6, 8)
    assert image.array[3, 2, 1] == data[1, 2, 3]
    assert np.abs(image.affine - affine).max() < 1e-5  # stored in single precision
    assert image.stem == "a"
    only_q = load_image(save(tmp_path / "q.nii", data, affine, sform=0))
    assert np.abs(only_q.affine - affine).max() < 1e-4
    none = load_image(save(tmp_path / "n.nii", data, affine, sform=0, qform=0))
    assert none.affine is None
    assert none.spacing == pytest.approx((3.3, 1.1, 0.9), rel=1e-6)
    metres = affine.copy()
    metres[:3] /= 1000
    assert np.abs(load_image(save(tmp_path / "m.nii", data, metres, unit="meter")).affine - affine).max() < 1e-4
    integers = np.arange(240, dtype=np.int16).reshape(8, 6, 5)
    content = bytearray(save(tmp_path / "s.nii", integers, affine).read_bytes())
    struct.pack_into("<2f", content, 112, 0.5, -3.0)  # scl_slope and scl_inter
    (tmp_path / "s.nii").write_bytes(content)
    assert np.array_equal(load_image(tmp_path / "s.nii").array, integers.transpose(2, 1, 0) * 0.5 - 3)


def test_complex_images_in_one_file_or_two(tmp_path):
    z = (block() + 1j * np.roll(block(), 1)).astype(np.complex64)
    affine = oblique()
    expected = z.transpose(2, 1, 0)
    assert np.array_equal(load_image(save(tmp_path / "z.nii", z, affine)).array, expected)
    save(tmp_path / "mag.nii", np.abs(z), affine)
    save(tmp_path / "real.nii", z.real.copy(), affine)
    save(tmp_path / "imag.nii", z.imag.copy(), affine)
    both = load_image(tmp_path / "real.nii", imaginary=tmp_path / "imag.nii")
    assert np.array_equal(both.array, expected)
    steps = np.round(np.angle(z) / np.pi * 4096)
    for name, phase in (
        ("rad", np.angle(z)),
        ("turns", np.angle(z) % (2 * np.pi)),
        ("siemens", np.clip(steps, -4096, 4095)),
        ("milli", np.round(1000 * np.angle(z))),
        ("unsigned", np.clip(np.round(np.angle(z) / np.pi * 2048 + 2048), 0, 4095)),
    ):
        save(tmp_path / f"{name}.nii", phase.astype(np.float32), affine)
        found = load_image(tmp_path / "mag.nii", phase=tmp_path / f"{name}.nii").array
        # A step of 4096 to half a turn, or of 2048.
        assert np.abs(found - expected).max() < np.abs(z).max() * (1e-5 if name in ("rad", "turns") else 1.6e-3), name
    for odd in (1000 * np.angle(z) + 9e4, np.rad2deg(np.angle(z)), 2000 * np.sign(np.angle(z))):
        save(tmp_path / "odd.nii", odd.astype(np.float32), affine)
        with pytest.raises(InputError, match="neither in rad nor"):
            load_image(tmp_path / "mag.nii", phase=tmp_path / "odd.nii")
    save(tmp_path / "far.nii", np.angle(z), oblique(origin=(0, 0, 0)))
    with pytest.raises(InputError, match="a different affine"):
        load_image(tmp_path / "mag.nii", phase=tmp_path / "far.nii")
    save(tmp_path / "small.nii", np.angle(z)[:4], affine)
    with pytest.raises(InputError, match="matching pair"):
        load_image(tmp_path / "mag.nii", phase=tmp_path / "small.nii")
    with pytest.raises(InputError, match="two real files"):
        load_image(tmp_path / "z.nii", phase=tmp_path / "rad.nii")


def test_bad_nifti_is_told(tmp_path):
    with pytest.raises(InputError, match="8 x 6 x 5 x 2"):
        load_image(save(tmp_path / "t.nii", np.zeros((8, 6, 5, 2), np.float32), oblique()))
    with pytest.raises(InputError, match="NaN or Inf"):
        load_image(save(tmp_path / "i.nii", np.full((2, 2, 2), np.nan, np.float32), oblique()))
    (tmp_path / "x.nii").write_text("no")
    with pytest.raises(InputError, match="not a readable NIfTI"):
        load_image(tmp_path / "x.nii")
    with pytest.raises(InputError, match="NIfTI supports selection by volume only, not by EchoTime"):
        load_image(save(tmp_path / "s.nii", block(), oblique()), {"EchoTime": 1})


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_nifti_gives_one_error_of_ours(tmp_path, suffix):
    rng = np.random.default_rng(0)
    content = save(tmp_path / f"a{suffix}", block(), oblique()).read_bytes()
    refused = 0
    for _ in range(80):
        path = tmp_path / f"d{suffix}"
        path.write_bytes(damaged(content, rng))
        try:
            image = load_image(path)
        except InputError as error:
            refused += 1
            assert path.name in str(error)
            assert "\n" not in str(error)
            continue
        assert np.isfinite(image.array).all()
        assert image.affine is None or np.isfinite(image.affine).all()
    assert refused > 5


# Writing


def write(tmp_path, fmt="nifti", **more):
    return write_volume(tmp_path, "x", magnitudes(), RECORD, None, (3.3, 1.1, 0.9), fmt, affine=oblique(), **more)


def test_nifti_of_magnitude_phase_and_complex_numbers(tmp_path):
    phase = np.random.default_rng(2).uniform(-3, 3, magnitudes().shape).astype(np.float32)
    mag, ang, _ = write(tmp_path, phase=phase, part="mag-phase")
    assert (mag.name, ang.name) == ("x_part-mag.nii.gz", "x_part-phase.nii.gz")
    whole = load_image(mag, phase=ang)
    expected = magnitudes() * np.exp(1j * phase)
    assert np.abs(whole.array - expected).max() < 1e-9
    path, _ = write(tmp_path, phase=phase, part="complex", overwrite=True)
    stored = nib.load(path)
    assert stored.get_data_dtype() == np.complex64
    assert np.abs(load_image(path).array - expected).max() < 1e-9
    assert int(stored.header["sform_code"]) == int(stored.header["qform_code"]) == 1
    assert np.abs(stored.get_qform() - oblique()).max() < 1e-4
    assert not mag.exists()  # the sidecar speaks of one file now
    with pytest.raises(InputError, match="phase of x is unknown"):
        write(tmp_path, part="complex", overwrite=True)
    with pytest.raises(InputError, match="choose nifti"):
        write(tmp_path, "dicom", part="complex")


def test_a_shear_has_no_quaternion(tmp_path):
    sheared = oblique()
    sheared[:3, 2] += 0.25 * sheared[:3, 1]
    path, _ = write_volume(tmp_path, "x", magnitudes(), RECORD, spacing=(3.3, 1.1, 0.9), affine=sheared)
    stored = nib.load(path)
    assert np.abs(stored.affine - sheared).max() < 1e-5
    assert (int(stored.header["sform_code"]), int(stored.header["qform_code"])) == (1, 0)


def test_a_mask_and_a_noise_level_together(scan, tmp_path):
    path, _ = scan((40, 36))
    with h5py.File(path) as file:
        np.save(tmp_path / "m.npy", file["mask"][()])
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "cg-sense", "--mask", str(tmp_path / "m.npy")]
    assert main([*command, "--noise-std", "0.01"]) == 0
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["noise_source"] == "given"


def test_mrd_images_are_read_by_the_formats_library(tmp_path):
    path, _ = write(tmp_path, "mrd")
    with ismrmrd.Dataset(str(path), create_if_needed=False) as dataset:
        assert dataset.number_of_images("reconstruction") == 5
        for k in range(5):
            image = dataset.read_image("reconstruction", k)
            assert np.array_equal(image.data[0, 0], magnitudes()[k])
            head = image.getHead()
            # The middle of the image, in the patient's coordinates.
            assert np.allclose(list(head.position), (LPS @ oblique() @ [10, 12, k, 1])[:3], atol=1e-4)
            assert np.allclose(list(head.field_of_view), [18, 26.4, 3.3], rtol=1e-5)
            assert np.allclose(list(head.read_dir), (LPS @ oblique())[:3, 0] / 0.9, atol=1e-6)
    with pytest.raises(InputError, match="does not record the voxel size"):
        write_volume(tmp_path, "y", magnitudes(), RECORD, fmt="mrd")


def test_pictures_and_fastmris_layout(tmp_path):
    *pictures, sidecar = write(tmp_path, "png")
    assert [p.name for p in pictures] == [f"x_{k:03d}.png" for k in range(5)]
    low, high = json.loads(sidecar.read_text())["window"]
    grey = np.asarray(Picture.open(pictures[2]))
    expected = np.clip((magnitudes()[2] - low) / (high - low), 0, 1) * 255
    assert np.abs(grey - expected).max() <= 0.5001
    path, _ = write(tmp_path, "h5", overwrite=True)
    with h5py.File(path) as file:
        assert np.array_equal(file["reconstruction"][()], magnitudes())


def test_bids_names_and_description(tmp_path):
    paths = write(tmp_path, bids="sub-01_ses-a_acq-mprage_T1w", label="cg-sense")
    stem = "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_rec-cgsense_desc-medrecon_T1w"
    assert [str(p.relative_to(tmp_path)) for p in paths] == [f"{stem}.nii.gz", f"{stem}.json"]
    about = json.loads((tmp_path / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "medrecon"
    write(tmp_path, bids="sub-02_T1w")  # the description is there already
    phase = np.zeros_like(magnitudes())
    samples = np.stack([magnitudes()] * 2)
    several = write_volume(tmp_path, "x", magnitudes(), RECORD, samples, bids="sub-04_T1w")
    assert several[-2].name.endswith("desc-medreconsamples_T1w.nii.gz")
    write(tmp_path, bids="sub-04_T1w", overwrite=True)
    assert not several[1].exists()  # of the earlier run
    parts = write(tmp_path, bids="sub-03_T1w", part="mag-phase", phase=phase)
    assert "_rec-medrecon_part-mag_desc-medrecon_T1w.nii.gz" in parts[0].name
    for bad, message in (
        ("sub-01_XYZ", "not a suffix of MR images"),
        ("acq-a_T1w", "lacks sub-"),
        ("sub-0/1_T1w", "not a BIDS entity"),
        ("sub-01_sub-02_T1w", "not a BIDS entity"),
        ("sub-01_what-2_T1w", "not a BIDS entity"),
    ):
        with pytest.raises(InputError, match=message):
            write(tmp_path, bids=bad)
    with pytest.raises(InputError, match="are for --format nifti"):
        write(tmp_path, "h5", bids="sub-09_T1w")
    with pytest.raises(InputError, match="unknown output format"):
        Output(folder=tmp_path, stem="x", format="tiff")


def test_whitened_and_compressed_coils_on_the_command_line(scan, tmp_path, capsys):
    path, truth = scan((40, 36), coils=6, noise=0.005)
    rng = np.random.default_rng(0)
    mix = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    noise = mix @ (rng.normal(size=(6, 4000)) + 1j * rng.normal(size=(6, 4000))) * 0.005
    with h5py.File(path, "r+") as file:
        file["noise"] = noise.astype(np.complex64)
    out = ["-o", str(tmp_path / "o"), "--solver", "cg-sense", "--whiten", "--compress", "5", "--overwrite"]
    assert main(["recon", str(path), *out]) == 0
    record = json.loads((tmp_path / "o" / "scan.json").read_text())
    assert record["whitened"] is True
    assert record["virtual_coils"] == 5
    assert 0.9 < record["coil_energy"] <= 1
    assert record["noise_source"] == "noise scan"
    image = load_image(tmp_path / "o" / "scan.nii.gz").array
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.9
    assert main(["recon", str(path), "-o", str(tmp_path / "p"), "--whiten", "--maps", str(path)]) == 2
    assert "leave out prewhitening" in capsys.readouterr().err
    with h5py.File(path, "r+") as file:
        del file["noise"]
    assert main(["recon", str(path), *out]) == 2
    assert "needs a usable noise scan" in capsys.readouterr().err


def test_nifti_keeps_voxels_and_spacing(tmp_path):
    volume = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)
    affine = np.array([[-1.25, 0, 0, 90], [0, -1.5, 0, 80], [0, 0, 3, -20], [0, 0, 0, 1]])
    for spacing, given, code in (((3.0, 1.5, 1.25), None, 0), (None, None, 0), ((3.0, 1.5, 1.25), affine, 1)):
        (tmp_path / "a.nii.gz").write_bytes(nifti_bytes(volume, Geometry(spacing, given)))
        image = nib.load(tmp_path / "a.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), volume)
        assert np.allclose(image.header.get_zooms(), (spacing or (1, 1, 1))[::-1])
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (code, code)
        assert image.header.get_xyzt_units()[0] == "mm"
        if given is not None:
            assert np.allclose(image.affine, affine)
    samples = np.stack([volume, volume + 1, volume + 2])
    (tmp_path / "b.nii.gz").write_bytes(nifti_bytes(samples, Geometry()))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)[..., 2], volume.transpose(2, 1, 0) + 2)
