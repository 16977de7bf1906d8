"""Prepared folders as training data."""

import logging
from types import MappingProxyType

import h5py
import numpy as np
import pytest

from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.scan import Geometry
from medrecon.prep import DatasetOptions, load_recipe, prepare
from medrecon.prep.shards import LoadPreparedd, load_manifest
from medrecon.prep.training_data import PreparedSettings, _image_names, prepared_data
from medrecon.prior_file import PriorFile
from medrecon.priors import TrainedNoise
from medrecon.training import measured
from medrecon.training.volumes import filled, unit_of
from medrecon.writers.nifti import nifti_bytes
from tests.make.images import blobs

COMPLEX = PriorFile(network="ResidualUNet", images="complex", labels=("T1", "T2", ""), trained_planes=("axial",))
MAGNITUDE = PriorFile(network="ResidualUNet", images="magnitude")
DENOISER = PriorFile(network="ResidualUNet", images="magnitude", noise=TrainedNoise("gaussian", 0.02, 0.3))
CT = PriorFile(network="ResidualUNet", images="attenuation")
SHAPE = (33, 26)


@pytest.fixture(autouse=True)
def objectives(monkeypatch, tmp_path):
    names = {
        "gsure": "tests.make.measured:Scans",
        "ambient": "tests.make.measured:Scans",
        "sure": "tests.make.measured:Noisy",
        "noise2score": "tests.make.measured:Noisy",
        "ssdu": "tests.make.measured:Scans",
        "noise2noise": "tests.make.measured:Pairs",
    }
    monkeypatch.setattr(measured, "MEASURED", MappingProxyType(names))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def volume(seed, slices=3, shape=SHAPE):
    return np.stack([np.abs(blobs(shape, seed + k)) for k in range(slices)]).astype(np.float32)


def nifti(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(array, Geometry((1.0, 1.0, 1.0), np.eye(4) if affine is None else affine)))


def images(folder, n=4, split=(0.5, 0.5), recipe=None, **arrays):
    """A prepared folder of NIfTI volumes; arrays replace volumes by the name of their case."""
    for k in range(n):
        nifti(folder / "in" / f"s{k}.nii.gz", arrays.get(f"s{k}", 100 * volume(10 * k)))
    prepare(folder / "in", folder / "out", recipe or load_recipe("nifti"), dataset=DatasetOptions(split=split))
    return folder / "out"


def scans(folder, n=4, undersampled=(), split=(0.5, 0.5), same=False, **settings):
    """A prepared folder of k-space; some scans are undersampled by two outside twelve lines."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for k in range(n):
        rng = np.random.default_rng(k)
        maps = loop_coils(SHAPE, 4)
        kspace = np.stack([simulate_kspace(blobs(SHAPE, 10 * k + j), maps, 0.001, rng) for j in range(2)])
        if k in undersampled:
            kept = np.abs(np.arange(SHAPE[1]) - SHAPE[1] // 2) <= 6
            kept[0 if same else k % 2 :: 2] = True
            kspace = kspace * kept
        np.savez(folder / "in" / f"k{k}.npz", kspace=(50 * kspace).astype(np.complex64))
    prepare(folder / "in", folder / "out", load_recipe("kspace", settings), dataset=DatasetOptions(split=split))
    return folder / "out"


# Clean images


def test_volumes_become_slices_at_unit_scale(tmp_path):
    empty = np.concatenate([100 * volume(0), np.zeros((1, *SHAPE), np.float32)])
    data = prepared_data(images(tmp_path, s0=empty), MAGNITUDE)
    assert data.objective == "clean"
    rows = data.train + data.val
    assert len(rows) == 12  # the empty slice is left out
    assert {row["subject"] for row in data.train}.isdisjoint(row["subject"] for row in data.val)
    found = np.stack([row["image"] for row in rows if row["case"] == "s0.nii.gz"]).astype(np.float32)
    assert found.shape == (3, 1, 48, 32)  # padded to multiples of 16
    unit = np.quantile(empty, 0.995)
    expected = np.pad(empty[:3] / unit, [(0, 0), (7, 8), (3, 3)])
    assert np.abs(found[:, 0] - expected).max() < 1e-3 * expected.max()
    assert all(row["image"].dtype == np.float16 and "label" not in row for row in rows)


def test_hounsfield_units_become_attenuation(tmp_path):
    def ct(seed):
        return np.where(volume(seed, 3, (32, 32)) > 0.3, 40, -1000).astype(np.float32)

    cases = {f"s{k}": ct(k) for k in range(4)}
    cases["s0"][:, :4] = -3024  # outside the field of view
    data = prepared_data(images(tmp_path, **cases), CT)
    found = np.concatenate([row["image"] for row in data.train + data.val if row["case"] == "s0.nii.gz"])
    assert np.abs(found - np.where(cases["s0"] > 0, 1.04, 0)).max() < 1e-3
    with pytest.raises(InputError, match=r"s\d\.nii\.gz, image: is CT in HU"):
        prepared_data(tmp_path / "out", MAGNITUDE)


def test_labels_follow_the_names_of_arrays(tmp_path):
    for k in range(4):
        for key in ("t1", "t2", "seg", "pd"):
            nifti(tmp_path / "in" / f"p{k}_{key}.nii.gz", volume(k))
    recipe = load_recipe("nifti", {"pattern": r"(?P<case>(?P<subject>p\d))_(?P<key>\w+)\.nii\.gz"})
    recipe["transform"]["keys"] = ["t1", "t2", "seg", "pd"]
    recipe["write"] = {key: key for key in ("t1", "t2", "seg", "pd")}
    prepare(tmp_path / "in", tmp_path / "out", recipe, dataset=DatasetOptions(split=(0.5, 0.5)))

    def labels(**more):
        return {row["label"] for row in prepared_data(tmp_path / "out", COMPLEX, PreparedSettings(**more)).train}

    assert labels() == {0, 1, 2}  # T1, T2, and none for pd; no image of seg
    assert labels(contrasts={"pd": "T2"}) == {0, 1}
    with pytest.raises(InputError, match=r"contrasts: 'PD' is missing in the labels of prior\.yaml"):
        labels(contrasts={"pd": "PD"})


def test_planes(tmp_path, caplog):
    sagittal = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    for k in range(2):
        nifti(tmp_path / "in" / f"s{k}.nii.gz", volume(k, 24, SHAPE), sagittal)
    prepare(tmp_path / "in", tmp_path / "out", load_recipe("nifti"), dataset=DatasetOptions(split=(1.0,)))
    rows = prepared_data(tmp_path / "out", MAGNITUDE).train
    assert "is stored in sagittal slices, but trained_planes of prior.yaml are axial" in caplog.text
    assert {row["image"].shape for row in rows} == {(1, 48, 32)}
    rows = prepared_data(tmp_path / "out", MAGNITUDE, PreparedSettings(planes=["axial"])).train
    assert {row["image"].shape for row in rows} == {(1, 32, 32)}
    count = sum(filled(np.moveaxis(volume(0, 24, SHAPE), 1, 0) / unit_of(volume(0, 24, SHAPE))))
    assert 20 < count < 33 and len([row for row in rows if row["case"] == "s0.nii.gz"]) in (0, count)
    rows = prepared_data(tmp_path / "out", MAGNITUDE, PreparedSettings(planes=["axial"], side=64, every=3)).train
    assert {row["image"].shape for row in rows} == {(1, 64, 64)} and len(rows) == -(-count // 3)


# Splits


def test_an_empty_val_split_takes_a_subject_of_train(tmp_path, caplog):
    data = prepared_data(images(tmp_path, split=(1.0,)), MAGNITUDE)
    assert {row["subject"] for row in data.val} == {"s3.nii.gz"}
    assert {row["subject"] for row in data.train} == {"s0.nii.gz", "s1.nii.gz", "s2.nii.gz"}
    assert "the split 'val' is empty, so subject s3.nii.gz" in caplog.text


def test_unusable_splits_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds one subject, so none is left to validate with"):
        prepared_data(images(tmp_path / "one", n=1, split=(1.0,)), MAGNITUDE)
    with pytest.raises(InputError, match="has no case of the split 'train'"):
        prepared_data(images(tmp_path / "val", split=(0.0, 1.0)), MAGNITUDE)
    with pytest.raises(InputError, match=r"manifest\.jsonl: no manifest; run 'medrecon prep'"):
        prepared_data(tmp_path / "none", MAGNITUDE)
    zeros = {f"s{k}": np.zeros((2, *SHAPE), np.float32) for k in range(4)}
    with pytest.raises(InputError, match="no slice of the split 'train' can be used: they are empty"):
        prepared_data(images(tmp_path / "zeros", **zeros), MAGNITUDE)


# Scans


def test_fully_sampled_scans_become_clean_complex_images(tmp_path):
    data = prepared_data(scans(tmp_path), COMPLEX)
    assert data.objective == "clean"
    row = load_manifest(tmp_path / "out")[0]
    loaded = LoadPreparedd(["kspace", "maps"])(row)
    kspace, maps = (loaded[name].numpy() for name in ("kspace", "maps"))
    image = (maps.conj() * from_kspace(kspace)).sum(1)
    image = image / np.quantile(np.abs(image), 0.995)
    found = np.stack([r["image"] for r in data.train + data.val if r["case"] == row["case"]]).astype(np.float32)
    cut = found[:, 0, 7:-8, 3:-3] + 1j * found[:, 1, 7:-8, 3:-3]
    assert np.abs(cut - image).max() < 2e-3 * np.abs(image).max()
    magnitudes = prepared_data(tmp_path / "out", MAGNITUDE).train
    assert magnitudes[0]["image"].shape == (1, 48, 32)


def test_scans_without_maps_give_their_combined_images(tmp_path):
    out = scans(tmp_path, maps=False)
    assert "maps" not in load_manifest(out)[0]["arrays"]
    assert prepared_data(out, COMPLEX).train[0]["image"].shape == (2, 48, 32)


def test_undersampled_scans_become_kspace_with_mask_maps_and_noise(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = prepared_data(scans(tmp_path, undersampled=range(4)), COMPLEX)
    assert data.objective == "ambient"
    assert (
        "4 undersampled scans; the network is trained on the measured samples alone (objective: ambient)" in caplog.text
    )
    row = data.train[0]
    source = next(r for r in load_manifest(tmp_path / "out") if r["case"] == row["case"])
    loaded = {
        key: np.asarray(value)
        for key, value in LoadPreparedd(["kspace", "mask", "maps", "noise_std"])(source).items()
        if key not in ("case", "subject", "split")
    }
    zero_filled = np.abs((loaded["maps"].conj() * from_kspace(loaded["kspace"])).sum(1))
    unit = np.quantile(zero_filled, 0.995)
    assert np.abs(row["kspace"] - loaded["kspace"][0] / unit).max() < 1e-6 * np.abs(row["kspace"]).max()
    assert row["noise_std"] == pytest.approx(float(loaded["noise_std"]) / unit)
    assert row["mask"].shape == (1, 1, SHAPE[1]) and 0.4 < row["mask"].mean() < 0.8
    assert not row["kspace"][..., ~row["mask"][0, 0]].any()
    assert data.sampling["acs"] in (13, 15)  # twelve lines and the centre, with their neighbours at one side
    assert data.sampling["accel"] == pytest.approx(
        np.mean([1 / row["mask"].mean() for row in data.train + data.val]), abs=1e-3
    )
    assert "density" not in row  # of four masks
    assert np.array_equal(row["maps"], loaded["maps"][0])


def test_a_few_undersampled_scans_decide(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert prepared_data(scans(tmp_path, undersampled=(1,)), COMPLEX).objective == "ambient"
    assert "3 fully sampled and 1 undersampled scans" in caplog.text


def test_equal_masks_are_warned_about(tmp_path, caplog):
    prepared_data(scans(tmp_path, undersampled=range(4), same=True), COMPLEX)
    assert "all 4 scans have the same mask" in caplog.text


@pytest.mark.parametrize(
    ("undersampled", "objective", "prior", "message"),
    [
        (range(4), "clean", COMPLEX, "the objective 'clean' would learn their aliasing; choose ambient, or auto"),
        (range(4), "sure", COMPLEX, "the objective 'sure' needs images"),
        (range(4), "auto", MAGNITUDE, "prior.yaml describes a prior of magnitude images; train a copy of brain_mri"),
        ((), "ambient", COMPLEX, "4 fully sampled scans; the objective 'ambient' needs undersampled k-space"),
        (
            range(4),
            "ssdu",
            COMPLEX,
            "trains a reconstruction for one kind of scan, which no bundle holds; use it in Python",
        ),
        (range(4), "gsure", COMPLEX, "holds scans of 4 coils, but gsure takes one coil; choose ambient"),
        ((), "auto", CT, "holds k-space, but prior.yaml describes a prior of CT"),
    ],
)
def test_wrong_combinations_are_refused(tmp_path, undersampled, objective, prior, message):
    with pytest.raises(InputError, match=message):
        prepared_data(scans(tmp_path, undersampled=undersampled), prior, PreparedSettings(objective=objective))


def test_many_masks_give_the_probability_of_every_line(tmp_path):
    (tmp_path / "in").mkdir()
    masks = {}
    for k in range(12):
        rng = np.random.default_rng(k)
        kept = (np.abs(np.arange(SHAPE[1]) - SHAPE[1] // 2) <= 6) | (rng.random(SHAPE[1]) < 0.5)
        kspace = simulate_kspace(blobs(SHAPE, k), loop_coils(SHAPE, 1), 0.001, rng)[None] * kept
        np.savez(tmp_path / "in" / f"k{k}.npz", kspace=kspace)
        masks[f"k{k}.npz"] = kept
    prepare(tmp_path / "in", tmp_path / "out", load_recipe("kspace"), dataset=DatasetOptions(split=(1.0,)))
    data = prepared_data(tmp_path / "out", COMPLEX)
    assert data.objective == "gsure" and len(data.train) == 11
    assert all((row["maps"] == 1).all() for row in data.train)  # as GSURE needs them
    expected = (np.sum([masks[row["case"]] for row in data.train], axis=0) + 1) / 13  # of 11 scans; none is impossible
    for row in data.train + data.val:
        assert np.abs(row["density"] - expected).max() < 1e-6


def test_whole_rows_are_entries_of_the_mask(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(2):
        kept = (np.abs(np.arange(SHAPE[0]) - SHAPE[0] // 2) <= 6) | (np.arange(SHAPE[0]) % 2 == k)
        kspace = simulate_kspace(blobs(SHAPE, k), loop_coils(SHAPE, 4), 0.001, np.random.default_rng(k))[None]
        np.savez(tmp_path / "in" / f"k{k}.npz", kspace=kspace * kept[:, None])
    prepare(tmp_path / "in", tmp_path / "out", load_recipe("kspace"), dataset=DatasetOptions(split=(1.0,)))
    data = prepared_data(tmp_path / "out", COMPLEX)
    assert data.train[0]["mask"].shape == (1, SHAPE[0], 1)
    assert data.sampling["rows"] is True and data.sampling["several_coils"] is True
    assert 13 <= data.sampling["acs"] <= 15


def test_images_have_no_kspace(tmp_path):
    with pytest.raises(InputError, match="4 cases of images; the objective 'gsure' needs undersampled k-space"):
        prepared_data(images(tmp_path), COMPLEX, PreparedSettings(objective="gsure"))


def test_undersampled_scans_need_maps(tmp_path):
    with pytest.raises(InputError, match=r"k\d\.npz: lacks maps, which training with undersampled k-space needs"):
        prepared_data(scans(tmp_path, undersampled=range(4), maps=False), COMPLEX)


def test_scans_without_calibration_lines_are_prepared_without_maps(tmp_path):
    (tmp_path / "in").mkdir()
    kept = np.arange(SHAPE[1]) % 3 == 0
    for k in range(2):
        kspace = simulate_kspace(blobs(SHAPE, k), loop_coils(SHAPE, 4), 0.001, np.random.default_rng(k))[None] * kept
        np.savez(tmp_path / "in" / f"k{k}.npz", kspace=kspace)
    report = prepare(tmp_path / "in", tmp_path / "out", load_recipe("kspace"))
    assert report.prepared == 2
    row = load_manifest(tmp_path / "out")[0]
    assert "maps" not in row["arrays"] and any("no maps: " in text for text in row["warnings"])


def test_images_and_scans_are_not_mixed(tmp_path):
    first, second = images(tmp_path / "a"), scans(tmp_path / "b")
    lines = [(folder / "manifest.jsonl").read_text() for folder in (first, second)]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match="4 of 8 cases hold k-space and the others do not; prepare them separately"):
        prepared_data(tmp_path / "c", COMPLEX)


def test_clean_images_beside_noisy_ones_are_taken_alone(tmp_path):
    """Of arrays that a recipe calls image, clean and second, the clean ones train a prior."""
    out = images(tmp_path)
    lines = []
    for row in load_manifest(out):
        about = row["arrays"]["image"]
        row["arrays"] = {"image": about, "clean": about, "second": about}
        lines.append(row)
    assert all(_image_names(row) == ["clean"] for row in lines)


# Noisy images


def test_noisy_images_have_their_noise_level(tmp_path):
    rng = np.random.default_rng(0)
    cases = {
        f"s{k}": np.abs(100 * volume(k, 2, (64, 64)) + 5 * rng.standard_normal((2, 64, 64))).astype(np.float32)
        for k in range(4)
    }
    data = prepared_data(images(tmp_path, **cases), DENOISER, PreparedSettings(objective="sure"))
    assert data.objective == "sure"
    for row in data.train:
        unit = np.quantile(cases[row["case"].removesuffix(".nii.gz")], 0.995)
        assert row["noise_std"] == pytest.approx(
            5 / unit, rel=0.15
        )  # estimated from about 1000 pixels above the background
    with pytest.raises(InputError, match=r"s\d\.nii\.gz: lacks second, which the objective needs; it has image"):
        prepared_data(tmp_path / "out", DENOISER, PreparedSettings(objective="noise2noise"))
    assert prepared_data(tmp_path / "out", DENOISER).objective == "noise2score"
    with pytest.raises(InputError, match=r"'clean' trains a prior for all noise levels.*or choose noise2score"):
        prepared_data(tmp_path / "out", DENOISER, PreparedSettings(objective="clean"))
    # A solver would call a denoiser of one noise level at all of them.
    with pytest.raises(InputError, match="the objective 'sure' gives no prior for all noise levels"):
        prepared_data(tmp_path / "out", MAGNITUDE, PreparedSettings(objective="sure"))


def test_complex_images_do_not_train_a_denoiser_of_magnitudes(tmp_path):
    """A reconstruction would refuse them."""
    cases = {f"s{k}": (volume(k) * np.exp(0.3j)).astype(np.complex64) for k in range(4)}
    with pytest.raises(
        InputError, match=r"s\d\.nii\.gz: is complex, but prior\.yaml describes a denoiser of magnitude images"
    ):
        prepared_data(images(tmp_path, **cases), DENOISER)


def test_noise_that_grows_with_the_image_has_its_own_level(tmp_path):
    """Poisson noise of peak 400: its nominal level is that of half the unit; the dark half does not lower it."""
    rng, x = np.random.default_rng(0), np.ones((1, 64, 64), np.float32)
    x[:, :32] = 0.25
    cases = {f"s{k}": rng.poisson(400 * x).astype(np.float32) for k in range(4)}
    out = images(tmp_path, **cases)
    data = prepared_data(out, DENOISER, PreparedSettings(objective="noise2score", family="poisson"))
    for row in data.train:
        unit = np.quantile(cases[row["case"].removesuffix(".nii.gz")], 0.995)
        assert row["noise_std"] == pytest.approx((0.5 / unit) ** 0.5, rel=0.15)  # counts have the peak ``unit``


# Attacks


def test_not_a_number_is_refused_and_can_be_excluded(tmp_path):
    """The readers refuse such files, but a recipe may divide by zero."""
    bad = volume(0)
    bad[1, 3, 3] = 1e6
    recipe = load_recipe("nifti")
    broken = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x / (x < 1e5)"}
    recipe["transform"] = {"_target_": "Compose", "transforms": [recipe["transform"], broken]}
    out = images(tmp_path, n=6, s1=bad, recipe=recipe)
    with pytest.raises(InputError, match=r"s1\.nii\.gz, image: contains NaN or Inf; exclude the case"):
        prepared_data(out, MAGNITUDE)
    data = prepared_data(out, MAGNITUDE, PreparedSettings(exclude=["s1.nii.gz"]))
    assert {row["case"] for row in data.train + data.val} == {f"s{k}.nii.gz" for k in (0, 2, 3, 4, 5)}
    with pytest.raises(InputError, match=r"has no case 's9\.nii\.gz' to exclude"):
        prepared_data(out, MAGNITUDE, PreparedSettings(exclude=["s9.nii.gz"]))


def test_a_damaged_shard_is_refused(tmp_path):
    out = images(tmp_path)
    shard = sorted((out / "shards").glob("*.h5"))[0]
    with h5py.File(shard, "r+") as file:
        file[next(iter(file))]["image"][0, 0, 0] += 1
    with pytest.raises(InputError, match=r"damaged shard .*the checksum of array 'image' differs"):
        prepared_data(out, MAGNITUDE)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged shard"):
        prepared_data(out, MAGNITUDE)


def test_memory_is_limited_before_anything_is_read(tmp_path):
    out = images(tmp_path)
    for shard in (out / "shards").glob("*.h5"):
        shard.unlink()
    with pytest.raises(InputError, match=r"need up to 2\.06e-05 GB of memory, more than memory_gb = 1e-05"):
        prepared_data(out, MAGNITUDE, PreparedSettings(memory_gb=1e-5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "gsur"}, "no objective 'gsur'; did you mean 'gsure'"),
        ({"planes": ["oblique"]}, "planes must be some of axial, coronal, sagittal, or null"),
        ({"planes": []}, "planes must be"),
        ({"every": 0}, "every must be a whole number of at least 1"),
        ({"every": 1.5}, "every must be"),
        ({"family": "rician"}, "family must be one of gaussian, poisson, gamma; got 'rician'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        PreparedSettings(**settings)
