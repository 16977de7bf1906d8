"""``medrecon calibrate``, and runs with its file: from k-space to calibrated maps."""

import json
import shutil

import numpy as np
import pytest
import torch

import medrecon
from medrecon import posterior, reconstruction
from medrecon.bundle import find_bundle, load_prior
from medrecon.bundle_checks import check_bundle
from medrecon.calibration_file import INTERVAL, SIGMA, Calibration, read_calibrations
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import save_fastmri
from medrecon.monai_bundle import load_config
from medrecon.uncertainty import Uncertainty, calibrated_maps

from ..make.calibration import RECORD, change_h5, write_case, write_cases
from ..make.toys import SHAPE, cartesian, columns

RUN = ["--steps", "2", "--samples", "3", "--format", "h5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Scan and reference of ten slices, the reconstruction and the calibration of it."""
    folder = tmp_path_factory.mktemp("calibration")
    for name, mask in (("s1_scan", columns()), ("half", None)):
        save_fastmri(folder / f"{name}.h5", cartesian(slices=10, mask=mask, noise=0.01 if mask is not None else 0.0)[0])
    (folder / "ref").mkdir()
    (folder / "half.h5").rename(folder / "ref" / "s1_scan.h5")
    assert main(["recon", str(folder / "s1_scan.h5"), "-o", str(folder / "out"), *RUN]) == 0
    assert main(["calibrate", *calibrate(folder), "--radii", "2,4"]) == 0
    return folder


def calibrate(folder, output="cal.json"):
    return [str(folder / "out"), "--reference", str(folder / "ref"), "-o", str(folder / output)]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    return lines[0]


def test_factors_cover_the_images_of_the_calibration(made):
    """Of all images together, at least the level; the file has the settings of the sidecar."""
    (one,) = read_calibrations(made / "cal.json")
    sidecar = json.loads((made / "out" / "s1_scan.json").read_text())
    entry = json.loads((made / "cal.json").read_text())[0]
    assert entry["settings_sha256"] == sidecar["settings_sha256"]
    assert one.acceleration == pytest.approx(sidecar["acceleration"])
    assert one.images == 10
    assert set(one.discs) == {2.0, 4.0}
    from medrecon.calibrate import Options, find_cases, scores_of

    found = scores_of(find_cases([made / "out"])[0], Options(reference=made / "ref"))
    for level, factor in one.factors.items():
        assert np.mean([np.mean(image.errors <= factor) for image in found]) >= level


def test_a_run_with_its_calibration_has_intervals_of_that_factor(made, tmp_path):
    """The same run without a calibration gives the spread, and samples and image are the same."""
    path, factors = made / "s1_scan.h5", read_calibrations(made / "cal.json")[0].factors
    options = {"steps": 2, "samples": 3}
    plain = medrecon.reconstruct(path, **options)
    run = medrecon.reconstruct(path, calibration=made / "cal.json", **options)
    assert np.array_equal(plain.image, run.image)
    assert np.array_equal(plain.samples, run.samples)
    before, after = plain.uncertainty, run.uncertainty
    assert not before.calibrated
    assert after.calibrated
    assert np.allclose(before.spread, plain.samples.std(0, ddof=1), atol=1e-6)
    assert np.allclose(after.spread, factors[SIGMA] * before.spread, rtol=1e-6)
    width = factors[INTERVAL] * before.spread
    assert np.allclose(after.p95, run.image + width, rtol=1e-6)
    assert np.allclose(after.p05, np.maximum(run.image - width, 0), rtol=1e-6, atol=1e-6)
    assert (run.image < width).any()  # limits below 0 were cut
    for name in ("null", "null_spread", "flags"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert run.record["calibration"]["source"] == "cal.json"
    assert run.record["calibration"]["factors"]["0.9"] == factors[0.9]
    assert run.record["uncertainty"]["interval_coverage"] == 0.9
    assert run.record["solver"]["calibrated"] is False  # the solver's own statement
    assert plain.record["uncertainty"]["interval_coverage"] < 0.9
    assert plain.record["calibration"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--samples", "2"], "samples is 3 there and 2 here"),
        (["--steps", "3"], "steps is 2 there and 3 here"),
        (["--solver", "ddnm"], "solver is dds there and ddnm here"),
        (["--set", "solver.n_cg=3"], "solver.n_cg is"),
        (["--bundle", "brain_mri_magnitude"], "bundle is brain_mri there"),
        (["--condition", "T1"], "condition is none there and T1 here"),
        (["--coil-images", "ssos"], "coil images is none there and ssos here"),
        (["--mask", "every"], "acceleration is"),
        (["--samples", "1"], "a calibration is for several samples"),
    ],
)
def test_a_calibration_of_other_runs_is_refused_before_the_computation(
    made, tmp_path, capsys, monkeypatch, change, text
):
    monkeypatch.setattr(posterior, "run", lambda *a, **k: pytest.fail("computed"))
    monkeypatch.setattr(reconstruction, "run", posterior.run)
    if "every" in change:
        np.savez(tmp_path / "mask.npz", mask=columns() & (np.arange(SHAPE[1]) > 9))
        change = ["--mask", tmp_path / "mask.npz"]
    error = refused(
        capsys, "recon", made / "s1_scan.h5", "-o", tmp_path / "out", *RUN, "--calibration", made / "cal.json", *change
    )
    assert text in error
    assert "cal.json" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", '[{"factors": {"0.9": -1}}]'])
def test_files_that_are_no_calibration_are_refused_before_the_computation(made, tmp_path, capsys, content):
    (tmp_path / "cal.json").write_text(content)
    error = refused(
        capsys, "recon", made / "s1_scan.h5", "-o", tmp_path / "out", *RUN, "--calibration", tmp_path / "cal.json"
    )
    assert f"{tmp_path / 'cal.json'}: " in error
    with pytest.raises(InputError, match="must be a file"):
        medrecon.reconstruct(made / "s1_scan.h5", samples=3, calibration=3)


@pytest.fixture
def bundle(made, tmp_path):
    """A copy of brain_mri with the calibration."""
    shutil.copytree(find_bundle("brain_mri"), tmp_path / "brain_mri_copy")
    shutil.copy(made / "cal.json", tmp_path / "brain_mri_copy" / "configs" / "calibration.json")
    return tmp_path / "brain_mri_copy"


def test_the_calibration_of_a_bundle_is_used_where_it_matches_and_nowhere_else(made, bundle):
    path = made / "s1_scan.h5"
    matching = medrecon.reconstruct(path, bundle=bundle, steps=2, samples=3)
    assert matching.record["calibration"]["source"] == "calibration.json"
    assert matching.uncertainty.calibrated
    for options in ({"samples": 2}, {"steps": 3}, {"calibration": "none"}):
        other = medrecon.reconstruct(path, **{"bundle": bundle, "steps": 2, "samples": 3, **options})
        assert other.record["calibration"] is None
        assert not other.uncertainty.calibrated
    assert medrecon.reconstruct(path, bundle=bundle, steps=2).record["calibration"] is None


def test_the_maps_of_a_plan_are_named_by_its_calibration(made, bundle):
    scan = medrecon.formats.load(made / "s1_scan.h5")
    assert "std" in medrecon.reconstruction.plan(scan, bundle=bundle, steps=2, samples=3).maps
    assert "spread" in medrecon.reconstruction.plan(scan, bundle=bundle, steps=2, samples=2).maps
    assert medrecon.reconstruction.plan(scan, bundle=bundle, steps=2).maps == ()


def test_the_config_of_a_bundle_takes_a_calibration(made, tmp_path):
    """As ``--calibration``: the same sidecar."""
    config = load_config(
        find_bundle("brain_mri"), scan=str(made / "s1_scan.h5"), output_dir=str(tmp_path / "monai"), output_format="h5",
        n_steps=2, samples=3, calibration=str(made / "cal.json"), device=torch.device("cpu"),
    )  # fmt: skip
    config.get_parsed_content("run")
    out = ["-o", str(tmp_path / "cli"), *RUN, "--calibration", str(made / "cal.json")]
    assert main(["recon", str(made / "s1_scan.h5"), *out]) == 0
    monai, cli = (json.loads((tmp_path / way / "s1_scan.json").read_text()) for way in ("monai", "cli"))
    assert monai["calibration"] == cli["calibration"]
    assert monai["calibration"]["source"] == "cal.json"
    assert monai["sha256"] == cli["sha256"]


def test_limits_of_hounsfield_units_may_be_below_zero():
    """Water at 0 HU with a spread of 2 and factors 1.5 and 3."""
    image, spread = np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 2.0, np.float32)
    other = np.zeros((1, 2, 2), np.float32)
    maps = Uncertainty(spread=spread, p05=other, p95=other, null=other, null_spread=other, flags=other.astype(np.uint8))
    calibration = Calibration(settings={}, acceleration=None, images=20, factors={SIGMA: 1.5, INTERVAL: 3.0})
    for magnitude, low in ((False, -6.0), (True, 0.0)):
        made = calibrated_maps(maps, image, calibration, magnitude=magnitude)
        assert made.calibrated
        assert (made.spread == 3).all()
        assert (made.p05 == low).all()
        assert (made.p95 == 6).all()
        assert {one.dtype for one in (made.spread, made.p05, made.p95)} == {np.dtype(np.float32)}


def problem_of(bundle):
    return next(one.problem for one in check_bundle(bundle) if one.name == "calibration.json")


def test_a_bundle_is_checked_with_its_calibration(bundle, capsys):
    path = bundle / "configs" / "calibration.json"
    assert not problem_of(bundle)
    assert main(["bundle", "info", str(bundle)]) == 0
    assert "calibrations: dds with 3 samples, acceleration" in capsys.readouterr().out
    facts = json.loads((bundle / "configs" / "metadata.json").read_text())
    facts["weights"]["sha256"] = "0" * 64
    (bundle / "configs" / "metadata.json").write_text(json.dumps(facts))
    assert "of other weights" in problem_of(bundle)
    path.write_text(path.read_text().replace('"images": 10', '"images": -1'))
    assert "number of images" in problem_of(bundle)
    with pytest.raises(InputError, match="number of images"):
        load_prior(bundle)
    path.unlink()
    assert not problem_of(bundle)


# The command


def cases(folder, n=10, **more):
    """``n`` cases of two slices with references that are other draws of the same noise."""
    names = [f"p{k % 3}_{k}" for k in range(n)]
    write_cases(folder / "out", names, **more)
    for k, name in enumerate(names):
        write_case(folder / "ref", name, seed=100 + k)
    return calibrate(folder)


def test_the_command_prints_coverage_before_and_after(tmp_path, capsys):
    assert main(["calibrate", *cases(tmp_path), "--subjects", "prefix", "--radii", "3"]) == 0
    text = capsys.readouterr().out
    assert "20 images, acceleration 8" in text
    for line in (
        "| pixels | 90 | ",
        "| pixels, p05 to p95 of the samples | 90 | - | ",
        "| mean of a disc, radius 3 pixels | 90 | ",
    ):
        assert line in text
    assert "20 random splits (seed 0; 10 images to calibrate, 10 to test)" in text
    assert "one random split (seed 0): " in text
    assert main(["calibrate", *cases(tmp_path / "again"), "--json", "--splits", "0"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 20
    assert "splits" not in facts
    # References are means of six as well: errors of 0.58 standard deviations, of which the samples estimate one.
    assert 0.93 < facts["before"]["pixels"]["0.9"] < 0.995


def test_regions_are_calibrated(tmp_path, capsys):
    arguments, labels = cases(tmp_path), np.zeros((2, 36, 40), int)
    labels[:, 10:14, 15:25], labels[:, 20:24, 15:25] = 1, 2
    for k in range(10):
        write_case(tmp_path / "labels", f"p{k % 3}_{k}", values=labels)
    assert main(["calibrate", *arguments, "--regions", str(tmp_path / "labels")]) == 0
    assert "| mean of label 2 | 90 | " in capsys.readouterr().out
    (one,) = read_calibrations(tmp_path / "cal.json")
    assert set(one.regions) == {1.0, 2.0}
    assert all(factor > 0 for factors in one.regions.values() for factor in factors.values())


def test_an_existing_file_is_kept_replaced_or_extended(tmp_path, capsys):
    arguments = cases(tmp_path)
    assert main(["calibrate", *arguments]) == 0
    content = (tmp_path / "cal.json").read_bytes()
    assert "already exists" in refused(capsys, "calibrate", *arguments)
    (tmp_path / "bad.json").write_text("[]")
    bad = refused(capsys, "calibrate", *arguments[:3], "-o", tmp_path / "bad.json", "--append")
    assert "is not a list of 1 to 1000 calibrations" in bad
    assert (tmp_path / "cal.json").read_bytes() == content
    assert main(["calibrate", *arguments, "--append"]) == 0
    assert (tmp_path / "cal.json").read_bytes() == content
    other = cases(tmp_path / "other", record={**RECORD, "acceleration": 4.0})
    assert main(["calibrate", *other[:3], "-o", str(tmp_path / "cal.json"), "--append"]) == 0
    assert [one.acceleration for one in read_calibrations(tmp_path / "cal.json")] == [8.0, 4.0]
    assert main(["calibrate", *arguments, "--overwrite"]) == 0
    assert (tmp_path / "cal.json").read_bytes() == content


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--radii", "0"], "expected numbers of pixels"),
        (["--radii", "a"], "expected numbers of pixels"),
        (["--radii", "nan"], "expected numbers of pixels"),
        (["--fraction", "1"], "--fraction must be from 0.05 to 0.95"),
        (["--fraction", "nan"], "--fraction must be from 0.05 to 0.95"),
        (["--splits", "-1"], "--splits must be a whole number"),
        (["--mask", "missing"], "missing: does not exist"),
        (["--regions", "missing"], "missing: does not exist"),
        (["--subjects", "missing.csv"], "cannot be read as a CSV file"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(tmp_path, capsys, more, text):
    assert text in refused(capsys, "calibrate", *cases(tmp_path), *more)
    assert not (tmp_path / "cal.json").exists()


def test_too_few_cases_are_refused_with_the_number_that_is_needed(tmp_path, capsys):
    assert "has 8 images with a reference; intervals of 90% need at least 9" in refused(
        capsys, "calibrate", *cases(tmp_path, 4)
    )
    assert "has no reference for" in refused(
        capsys, "calibrate", *cases(tmp_path / "b", 5)[:1], "--reference", tmp_path, "-o", "x"
    )


def test_stored_maps_of_the_spread_are_undone_for_particles(tmp_path):
    """The map of a calibrated run, divided by its factor; samples alone do not have the particles' weights."""
    from medrecon.calibrate import Options, find_cases, scores_of

    record = {**RECORD, "particles": {"number": 8}, "calibration": {"factors": {"0.6827": 2.0}}}
    image, _ = write_case(tmp_path, "a", record=record)
    truth, _ = write_case(tmp_path / "ref", "a", seed=1)
    change_h5(tmp_path, "a", spread=None, std=np.full(image.shape, 0.5, np.float32))
    write_case(tmp_path / "mask", "a", value=1)
    options = Options(reference=tmp_path / "ref" / "a.h5", mask=tmp_path / "mask")
    first = scores_of(find_cases([tmp_path / "a.h5"])[0], options, alone=True)[0]
    assert np.allclose(first.errors, (np.abs(truth - image)[0] / 0.25).ravel(), rtol=1e-5)
