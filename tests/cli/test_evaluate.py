"""``medrecon evaluate`` with volumes as reference: magnitudes and HU, in every format, where they are."""

import json

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.volumes import load_reference, load_volume
from medrecon.writers import WRITERS
from tests.make.dicom import RECORD, oblique, write_series
from tests.make.outputs import write_volume

SHAPE = (3, 24, 20)
CT = {**RECORD, "water_per_mm": 0.02}
"""What the sidecar of a reconstructed sinogram records."""


def pair(seed=0):
    """A smooth reference within 0...1, and an image that is near."""
    rng = np.random.default_rng(seed)
    reference = gaussian_filter(rng.random(SHAPE), (0, 2, 2))
    reference = (reference - reference.min()) / np.ptp(reference)
    return np.clip(reference + 0.03 * rng.normal(size=SHAPE), 0, None).astype(np.float32), reference.astype(np.float32)


def hounsfield():
    """Whole numbers, which DICOM stores exactly."""
    image, reference = pair()
    return np.round(1800 * image - 1000), np.round(1800 * reference - 1000)


def expected(image, reference, data_range):
    """By scikit-image (SSIM) and by hand."""
    ssim = [
        structural_similarity(a, b, win_size=7, use_sample_covariance=False, data_range=data_range)
        for a, b in zip(image.astype(np.float64), reference.astype(np.float64), strict=True)
    ]
    square = np.mean((image.astype(np.float64) - reference) ** 2)
    return {"psnr": 10 * np.log10(data_range**2 / square), "ssim": np.mean(ssim), "rmse": np.sqrt(square),
            "nmse": square / np.mean(reference.astype(np.float64) ** 2), "data_range": data_range}  # fmt: skip


def scored(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments)]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in err if "error" in line]) == 1, err
    return err[-1]


def saved(folder, volume, format, record=RECORD, affine=None, **more):
    """A written volume: the folder of DICOM slices, else the file."""
    affine = oblique() if affine is None else affine
    first, *_ = write_volume(folder, "x", volume, record, None, (3.3, 1.1, 0.9), format, affine=affine, **more)
    return first.parent if format == "dicom" else first


FORMATS = [name for name in WRITERS if name != "png"]


@pytest.mark.parametrize("format", FORMATS)
def test_magnitudes_in_every_format(tmp_path, capsys, format):
    image, reference = pair()
    truth = expected(image, reference, float(reference.max()))
    made = saved(tmp_path / "r", image, format)
    for other in FORMATS:
        found = scored(capsys, made, "--reference", saved(tmp_path / other, reference, other))
        assert found.pop("hounsfield") is False
        # DICOM rounds to steps of the largest value over 32767; SSIM is computed in float32.
        assert found == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "mrd"])
def test_hounsfield_units_have_the_range_of_the_benchmark(tmp_path, capsys, format):
    image, reference = hounsfield()
    truth = expected(image + 1000, reference + 1000, 2000.0)
    made = saved(tmp_path / "r", image, format, CT, modality="CT")
    for other in ("nifti", "dicom", "h5"):
        where = saved(tmp_path / other, reference, other, modality="CT")
        found = scored(capsys, made, "--reference", where)
        assert found.pop("hounsfield") is True
        assert found == pytest.approx(truth, rel=1e-5)
    assert main(["evaluate", str(made), "--reference", str(where)]) == 0
    printed = capsys.readouterr().out
    assert "range -1000 to 1000 HU" in printed
    assert f"RMSE {truth['rmse']:.4g} HU" in printed
    assert "--fit-scale is for magnitude images" in refused(capsys, made, "--reference", where, "--fit-scale")


def test_a_scanners_series_is_a_reference(tmp_path, capsys):
    """Not written by this package: with a rescaling, in any order."""
    image, reference = hounsfield()
    stored = (reference + 1024).astype(np.int16)
    write_series(
        tmp_path / "s", oblique(), stored, order=[2, 3, 1], Modality="CT", RescaleSlope="1", RescaleIntercept="-1024"
    )
    found = scored(capsys, saved(tmp_path / "r", image, "nifti"), "--reference", tmp_path / "s")
    assert found["psnr"] == pytest.approx(expected(image, reference, 2000.0)["psnr"], rel=1e-5)


def test_ct_without_negative_values_is_recognised_by_its_sidecar(tmp_path, capsys):
    image, reference = (np.abs(one) for one in hounsfield())
    where = saved(tmp_path / "t", reference, "nifti")
    assert scored(capsys, saved(tmp_path / "a", image, "h5", CT), "--reference", where)["hounsfield"] is True
    assert scored(capsys, saved(tmp_path / "b", image, "h5"), "--reference", where)["hounsfield"] is False


def test_one_image_with_negative_values_is_no_pair_of_magnitudes(tmp_path, capsys):
    image, reference = pair()
    where = saved(tmp_path / "t", reference, "nifti")
    said = refused(capsys, saved(tmp_path / "n", image - 0.5, "nifti"), "--reference", where)
    assert "x.nii.gz: holds negative numbers, so it is not a magnitude image" in said


@pytest.mark.parametrize("format", FORMATS)
def test_images_elsewhere_are_not_compared(tmp_path, capsys, format):
    """HDF5 has the affine in its sidecar; half a voxel, and other axes, are another place; rounding is not."""
    image, reference = pair()
    made = saved(tmp_path / "r", image, format)
    near, shifted, flipped = oblique(), oblique(), oblique()
    near[:3, 3] += 0.01
    shifted[:3, 3] += 0.5 * shifted[:3, 0]
    flipped[:3, 0] *= -1
    flipped[:3, 3] -= (SHAPE[2] - 1) * flipped[:3, 0]
    for k, affine in enumerate((shifted, flipped)):
        said = refused(capsys, made, "--reference", saved(tmp_path / f"t{k}", reference, "nifti", affine=affine))
        assert "has a different affine than" in said
        assert "x.nii.gz" in said
    scored(capsys, made, "--reference", saved(tmp_path / "n", reference, "nifti", affine=near))
    # Nothing is known of a bare array.
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["reconstruction"] = reference
    scored(capsys, made, "--reference", tmp_path / "bare.h5")


def test_mrd_without_a_known_place_is_compared_with_any(tmp_path, capsys):
    image, reference = pair()
    write_volume(tmp_path, "x", image, RECORD, None, (3.3, 1.1, 0.9), "mrd")
    assert load_volume(tmp_path / "x.mrd").affine is None
    scored(capsys, tmp_path / "x.mrd", "--reference", saved(tmp_path / "t", reference, "nifti"))


@pytest.mark.parametrize("shape", [(3, 24, 20), (1, 7, 9)])
def test_mrd_is_read_where_it_was_written(tmp_path, shape):
    rng = np.random.default_rng(0)
    image, phase = rng.random(shape, np.float32), rng.uniform(-3, 3, shape).astype(np.float32)
    for part in ("mag", "complex"):
        made = saved(tmp_path / part, image, "mrd", phase=phase, part=part)
        volume = load_volume(made)
        assert np.abs(volume.array - image).max() <= (1e-6 if part == "complex" else 0)
        assert np.abs(volume.affine - oblique()).max() < 1e-4  # float32 of a hundred mm


def test_what_cannot_be_compared_is_refused_in_one_sentence(tmp_path, capsys):
    image, reference = pair()
    made = saved(tmp_path / "r", image, "nifti")
    assert "shape (3, 24, 20), but" in refused(
        capsys, made, "--reference", saved(tmp_path / "t", reference[:, :-1], "nifti")
    )
    write_volume(tmp_path / "s", "x", image, RECORD, np.stack([image, image]), fmt="nifti")
    said = refused(capsys, tmp_path / "s" / "x_samples.nii.gz", "--reference", made)
    assert "x_samples.nii.gz: contains several volumes or series" in said
    for number in (3, 9):
        write_series(tmp_path / "d", oblique(), np.ones(SHAPE, np.int16), f"{number}-{{k}}", SeriesNumber=number)
    assert "select one, e.g. SeriesNumber=3" in refused(capsys, made, "--reference", tmp_path / "d")
    assert "no such file" in refused(capsys, made, "--reference", tmp_path / "none.nii.gz")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for name in "ab":
            file[f"dataset/{name}/data"], file[f"dataset/{name}/header"] = np.ones((1, 1, 1, 4, 4)), np.ones(1)
    with pytest.raises(InputError, match=r"several series of images \(dataset/a, dataset/b\)"):
        load_volume(tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "a") as file:
        del file["dataset/b"]
    with pytest.raises(InputError, match="lack positions"):
        load_volume(tmp_path / "two.h5")


def test_slices_of_another_run_are_noticed(tmp_path, capsys):
    """A DICOM folder whose sidecar describes other slices."""
    image, reference = pair()
    where = saved(tmp_path / "t", reference, "nifti")
    made = saved(tmp_path / "r", image, "dicom")
    old = (tmp_path / "r" / "x.json").read_bytes()
    saved(tmp_path / "r", reference, "dicom", overwrite=True)
    (tmp_path / "r" / "x.json").write_bytes(old)
    assert main(["evaluate", str(made), "--reference", str(where)]) == 0
    assert "0001.dcm: is not the image that x.json describes" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["mrd", "h5"])
def test_damaged_volumes_are_refused_in_one_sentence(tmp_path, format):
    """Whatever the HDF5 library raises: as an image and as a reference."""
    rng = np.random.default_rng(0)
    content = saved(tmp_path, pair()[0][:, :5, :4], format).read_bytes()
    path, refusals = tmp_path / f"d.{format}", 0
    for _ in range(40):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        for read in (load_volume, load_reference):
            try:
                assert np.isfinite(read(path).array).all()
            except InputError as error:
                refusals += 1
                assert path.name in str(error)
                assert "\n" not in str(error)
    assert refusals > 5


def test_an_npz_has_an_affine_of_its_own(tmp_path, capsys):
    image, reference = pair()
    made = saved(tmp_path / "r", image, "npz")
    made.with_suffix(".json").unlink()
    flipped = oblique() @ np.diag([-1.0, 1, 1, 1])
    said = refused(capsys, made, "--reference", saved(tmp_path / "f", reference, "nifti", affine=flipped))
    assert "has a different affine" in said
    np.savez(tmp_path / "big.npz", reconstruction=np.full((3, 6, 5), 1e200))
    assert "beyond single precision" in refused(capsys, tmp_path / "big.npz", "--reference", made)
