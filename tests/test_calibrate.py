"""Cases with references: which are used, what is counted, and the coverage that is reported."""

import json
import shutil

import numpy as np
import pytest

from medrecon.bundle import known_bundles, load_prior
from medrecon.calibrate import (
    ImageScores,
    Options,
    appended,
    calibration_of,
    check_by_splits,
    check_by_subjects,
    check_different,
    check_same_settings,
    find_cases,
    head_mask,
    scores_before,
    scores_of,
    subjects_of,
)
from medrecon.calibration_file import encode, same_settings
from medrecon.data.errors import InputError
from medrecon.reconstruction import plan
from medrecon.record import planned_settings

from .make.calibration import RECORD, change_h5, write_case, write_cases
from .make.toys import cartesian, columns


def images(n, seed=0, subjects=4, spread=1 / 3, pixels=300):
    """Scores of exchangeable images with normal errors, a scale of their own, and a spread that is too small."""
    rng = np.random.default_rng(seed)
    scales = np.exp(0.3 * rng.standard_normal(n)) / spread
    return [
        ImageScores(
            case=f"s{k % subjects}_{k}",
            subject=f"s{k % subjects}",
            errors=(scale * np.abs(rng.standard_normal(pixels))).astype(np.float32),
            in_quantiles=0.5,
            width=0.1,
            discs={3.0: float(scale * abs(rng.standard_normal()))},
            regions={},
        )
        for k, scale in enumerate(scales)
    ]


# Cases


@pytest.mark.parametrize("format", ["h5", "npz", "nifti"])
def test_cases_are_found_by_image_map_sidecar_and_folder(tmp_path, format):
    write_cases(tmp_path, ["a_1", "b_1"], format)
    (tmp_path / "run.json").write_text(json.dumps({"cases": []}))
    found = find_cases([tmp_path])
    assert [one.name for one in found] == ["a_1", "b_1"]
    assert [one.name for one in find_cases(sorted(tmp_path.iterdir())[:-1])] == ["a_1", "b_1"]  # without run.json
    assert [one.name for one in find_cases([tmp_path / "b_1.json", tmp_path])] == ["a_1", "b_1"]
    # Every format holds the same samples.
    reference = tmp_path / "ref"
    write_case(reference, "a_1", "h5", seed=9)
    score = scores_of(found[0], Options(reference=reference), alone=False)
    assert len(score) == 2
    write_case(tmp_path / "again", "a_1", "h5")
    again = scores_of(find_cases([tmp_path / "again"])[0], Options(reference=reference))
    assert all(
        np.allclose(one.errors, other.errors, rtol=1e-5, atol=1e-5) for one, other in zip(score, again, strict=True)
    )


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"samples": 1}, "with one sample"),
        ({"frames": 4, "frame_axis": "phase"}, "frames of a dynamic series"),
        ({"task": "denoise"}, "a run on images"),
        ({"steps": float("nan")}, "entries that medrecon does not write"),
        ({"samples": "6"}, "entries that medrecon does not write"),
        ({"solver": {}}, "entries that medrecon does not write"),
    ],
)
def test_runs_that_cannot_be_calibrated_are_refused(tmp_path, record, text):
    write_case(tmp_path, "a", record={**RECORD, **record})
    with pytest.raises(InputError, match=text) as error:
        check_same_settings(find_cases([tmp_path]))
    assert str(tmp_path / "a.json") in str(error.value)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"acceleration": 4.0}, "acceleration is 8 there and 4 here"),
        ({"steps": 3}, "steps is 2 there and 3 here"),
        ({"solver": {"name": "daps"}}, "solver is dds there and daps here"),
    ],
)
def test_cases_of_other_settings_are_refused_with_both_files(tmp_path, record, text):
    write_case(tmp_path, "a")
    write_case(tmp_path, "b", record={**RECORD, **record})
    with pytest.raises(InputError, match=text) as error:
        check_same_settings(find_cases([tmp_path]))
    assert str(tmp_path / "a.json") in str(error.value)
    assert str(tmp_path / "b.json") in str(error.value)
    write_case(tmp_path, "b", record={**RECORD, "acceleration": 8.2, "seed": 7}, overwrite=True)
    check_same_settings(find_cases([tmp_path]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: f / "missing", "does not exist"),
        (lambda f: (f / "x.h5").write_bytes(b"1") and f / "x.h5", "has no sidecar"),
        (lambda f: (f / "x.json").write_text("[1]") and f / "x.json", "is not a sidecar"),
        (lambda f: (f / "x.json").write_text("{") and f / "x.json", "is not a sidecar"),
        (lambda f: f, "holds no sidecars"),
    ],
    ids=["missing", "no sidecar", "list", "not JSON", "empty folder"],
)
def test_other_files_are_refused(tmp_path, make, text):
    path = make(tmp_path)
    with pytest.raises(InputError, match=text) as error:
        find_cases([path])
    assert "medrecon recon --samples K" in str(error.value)


def refused(folder, text, **options):
    with pytest.raises(InputError, match=text):
        scores_of(find_cases([folder / "a.json"])[0], Options(**{"reference": folder / "ref", **options}), alone=False)


def test_what_does_not_belong_to_a_case_is_refused(tmp_path):
    ref, _ = tmp_path / "ref", write_case(tmp_path, "a")
    refused(tmp_path, "does not exist")
    ref.mkdir()
    refused(tmp_path, "has no reference for")
    write_case(ref, "a", shape=(2, 40, 44))
    refused(tmp_path, "shape")
    write_case(ref, "a", overwrite=True)
    refused(tmp_path, "is one reference of several cases", reference=ref / "a.h5")
    labels = tmp_path / "labels"
    write_case(labels, "a", value=0.5)
    refused(tmp_path, "holds numbers other than", regions=labels)
    write_case(ref, "a", "npz", overwrite=True)
    (ref / "a.h5").write_bytes(b"an older format")
    refused(tmp_path, "has a.h5 and a.npz")
    (ref / "a.npz").unlink()
    write_case(tmp_path, "b", seed=1)
    (tmp_path / "a.h5").write_bytes((tmp_path / "b.h5").read_bytes())
    refused(tmp_path, "its SHA-256 differs")


def test_an_image_is_neither_its_own_reference_nor_counted_twice(tmp_path):
    """The factor of the spread would be 0, and splits would test on images that they calibrated with."""
    cases, copies = tmp_path / "cases", tmp_path / "copies"
    write_cases(cases, ["a", "b"])
    with pytest.raises(InputError, match=r"a\.h5: is the image .* itself"):
        scores_of(find_cases([cases])[0], Options(reference=cases))
    shutil.copytree(cases, copies)
    with pytest.raises(InputError, match=r"copies.a\.json: holds the same image as .*cases.a\.json"):
        check_different(find_cases([cases, copies]))
    check_different(find_cases([cases]))


@pytest.mark.parametrize(
    ("change", "text"), [(lambda a: 10 * a, "10 times as bright"), (lambda a: np.roll(a, 15, -1), "hardly resembles")]
)
def test_references_of_another_unit_or_place_are_named(tmp_path, caplog, change, text):
    image, _ = write_case(tmp_path / "cases", "a")
    for k, values in enumerate((change(image), image + 0.01)):
        write_case(tmp_path / f"full{k}", "a", values=values)
    (case,) = find_cases([tmp_path / "cases"])
    scores_of(case, Options(reference=tmp_path / "full1"))
    assert not caplog.records
    scores_of(case, Options(reference=tmp_path / "full0"))
    assert text in caplog.text


def test_formats_without_samples_and_particles_without_maps_are_refused(tmp_path):
    write_case(tmp_path / "ref", "a")
    write_case(tmp_path / "mrd", "a", "mrd")
    with pytest.raises(InputError, match="holds no samples"):
        scores_of(find_cases([tmp_path / "mrd"])[0], Options(reference=tmp_path / "ref"))
    write_case(tmp_path / "p", "a", record={**RECORD, "particles": {"number": 8}})
    change_h5(tmp_path / "p", "a", spread=None, std=None)
    with pytest.raises(InputError, match="particles have weights"):
        scores_of(find_cases([tmp_path / "p"])[0], Options(reference=tmp_path / "ref"))


# Scores


def test_scores_are_those_of_the_arrays(tmp_path):
    """Errors over the standard deviation of the samples, inside a given mask; regions by label; discs repeat."""
    image, samples = write_case(tmp_path, "a")
    truth, _ = write_case(tmp_path / "ref", "a", seed=1)
    mask = np.zeros(image.shape, int)
    mask[0, 10:20, 8:30], mask[1, 5, 5] = 1, 2
    write_case(tmp_path / "mask", "a", values=mask)
    options = Options(
        reference=tmp_path / "ref" / "a.h5", mask=tmp_path / "mask", regions=tmp_path / "mask", radii=(2.0,)
    )
    first, second = scores_of(find_cases([tmp_path / "a.h5"])[0], options, alone=True)
    inside = mask[0] > 0
    spread = samples[:, 0].std(0, ddof=1)
    assert np.allclose(first.errors, np.abs(truth - image)[0][inside] / spread[inside], rtol=1e-5)
    low, high = samples[:, 0].min(0), samples[:, 0].max(0)  # of 6 samples, the quantiles are the extremes
    assert first.in_quantiles == np.mean((low <= truth[0])[inside] & (truth[0] <= high)[inside])
    assert set(first.regions) == {1.0}
    assert set(second.regions) == {2.0}
    assert set(first.discs) == {2.0}
    assert not second.discs  # a disc does not fit into one pixel
    assert second.errors.shape == (1,)
    again, _ = scores_of(find_cases([tmp_path / "a.h5"])[0], options, alone=True)
    assert again.discs == first.discs


def test_the_head_is_found_without_air_and_with_its_ventricles():
    y, x = np.ogrid[:64, :60]
    distance = np.hypot(y - 32, x - 30)
    head = (distance < 24).astype(float)
    head[(np.hypot(y - 30, x - 28) < 5)] = 0.0  # a hole
    head[2:5, 2:5] = 1.0  # a small part beside it
    noise = 0.02 * np.random.default_rng(0).random((64, 60))
    mask = head_mask(np.stack([head + noise, noise]))
    assert not mask[0][distance > 25].any()  # smoothing and erosion balance to a pixel
    assert mask[0][distance < 19].all()
    assert not mask[1].any()
    hu = np.where(distance < 24, 40.0, -1000.0)
    assert head_mask(hu[None], in_hu=True)[0][distance < 19].all()
    assert not head_mask(hu[None], in_hu=True)[0][distance > 25].any()
    assert not head_mask(np.zeros((1, 20, 20))).any()


# Coverage


def test_halves_of_exchangeable_images_are_covered_as_claimed():
    """The spread is too small by three: intervals of 90 % cover about 40 %; after, 0.9 to 0.9 + 1 / 31, and three errors."""
    found = images(60)
    before = scores_before(found)
    assert before["pixels"]["0.9"] < 0.5
    assert before["discs"]["3"]["0.9"] < 0.6
    assert before["p05_to_p95"] == 0.5
    check = check_by_splits(found, 20)
    assert check["images"] == [30, 30]
    for level in (0.5, 0.6827, 0.8, 0.9, 0.95):
        one = check["pixels"][f"{level:g}"]
        error = 3 * one["std"] / np.sqrt(20)
        assert level - error - 0.01 <= one["mean"] <= level + 1 / 31 + error + 0.01
        assert one["failures"] == 0
        assert one["least"] <= one["mean"] <= one["largest"]
    assert check["discs"]["3"]["0.9"]["mean"] == pytest.approx(0.9, abs=0.06)
    assert check_by_splits(found, 20) == check
    assert check_by_splits(found, 20, seed=1) != check
    for part in (0.001, 0.999):  # no split without images on one side
        assert 1 in check_by_splits(found, 2, fraction=part)["images"]
    more = check_by_splits(found, 20, fraction=0.8)
    assert more["images"] == [48, 12]
    assert more["pixels"]["0.9"]["mean"] < check["pixels"]["0.9"]["mean"]  # more images, so less beyond the level


def test_halves_that_are_too_small_count_as_failures():
    check = check_by_splits(images(20), 5)
    assert "0.95" not in check["pixels"]  # 10 images, 19 are needed
    assert check["pixels"]["0.9"]["failures"] == 0


def test_subjects_are_not_split():
    found = images(40, subjects=5)
    check = check_by_subjects(found)
    assert sum(check["subjects"]) == 5
    assert sum(check["images"]) == 40
    assert all(n % 8 == 0 for n in check["images"])
    assert check["images"][0] in (16, 24)  # nearest to a half
    assert 0.8 < check["pixels"]["0.9"] < 1
    assert 0.6 < check["discs"]["3"]["0.9"] <= 1
    with pytest.raises(InputError, match="one subject"):
        check_by_subjects(images(10, subjects=1))


def test_subjects_come_from_names_or_a_table(tmp_path):
    write_cases(tmp_path, ["p1_3", "p2_4"])
    cases = find_cases([tmp_path])
    assert subjects_of("prefix", cases) == {"p1_3": "p1", "p2_4": "p2"}
    (tmp_path / "who.csv").write_text("p1_3,anna\np2_4, ben\n")
    assert subjects_of(str(tmp_path / "who.csv"), cases) == {"p1_3": "anna", "p2_4": "ben"}
    (tmp_path / "who.csv").write_text("p1_3,anna\n")
    with pytest.raises(InputError, match="no line for the case p2_4"):
        subjects_of(str(tmp_path / "who.csv"), cases)
    with pytest.raises(InputError, match="give 'prefix'"):
        subjects_of("missing.csv", cases)


def test_a_calibration_needs_images_and_spread(tmp_path):
    write_cases(tmp_path, ["a"])
    cases = find_cases([tmp_path])
    with pytest.raises(
        InputError, match="has 8 images with a reference; intervals of 90% need at least 9, those of 95% need 19"
    ):
        calibration_of(cases, images(8), {})
    made = calibration_of(cases, images(9), {})
    assert list(made.factors) == [0.5, 0.6827, 0.8, 0.9]  # 0.95 needs 19
    assert list(made.discs[3.0]) == [0.5, 0.6827, 0.8, 0.9]
    assert made.acceleration == 8.0
    equal = images(30)
    for one in equal:
        one.errors[:60] = np.inf
    with pytest.raises(InputError, match=r"at 20.0% of the pixels all samples are equal"):
        calibration_of(cases, equal, {})
    for one in equal:
        one.errors[:60] = 1e7  # more than a file may hold, so that it could not be read
    with pytest.raises(InputError, match=r"at 20.0% of the pixels all samples are equal"):
        calibration_of(cases, equal, {})


def test_a_new_calibration_replaces_that_of_the_same_runs(tmp_path):
    write_cases(tmp_path, ["a"])
    cases = find_cases([tmp_path])
    first = calibration_of(cases, images(9), {})
    (tmp_path / "cal.json").write_bytes(encode([first]))
    write_case(tmp_path / "b", "b", record={**RECORD, "acceleration": 4.0})
    other = calibration_of(find_cases([tmp_path / "b"]), images(9), {})
    assert [one.acceleration for one in appended(tmp_path / "cal.json", other)] == [8.0, 4.0]
    again = appended(tmp_path / "cal.json", calibration_of(cases, images(30), {}))
    assert [one.images for one in again] == [30]


# Calibrations of the bundles


@pytest.mark.parametrize("root", known_bundles(), ids=lambda root: root.name)
def test_calibrations_that_come_with_a_bundle_are_those_of_runs_of_today(root):
    """A new setting of a solver, or other settings in prior.yaml, would leave them unused."""
    calibrations = load_prior(root).calibrations
    if not calibrations:
        pytest.skip(f"{root.name} has no calibration.json")
    scan, *_ = cartesian(mask=columns(), noise=0.01)
    for one in calibrations:
        options = {"solver": one.settings["solver"]["name"], "samples": one.settings["samples"]}
        found = [plan(scan, bundle=root, posterior=block, **options) for block in (True, False)]
        assert any(same_settings(one.settings, planned_settings(p.problem, p.prior, p.sampling)[0]) for p in found)
