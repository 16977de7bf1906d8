"""Data sets prepared: nothing twice, nothing torn, the same whatever the number of workers."""

import json
import os
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from monai.data import CacheDataset

import medrecon.prep.runner as runner
from medrecon import workers
from medrecon.cli import main
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load_image, load_kspace
from medrecon.prep import DatasetOptions, LoadPreparedd, RunOptions, files, load_manifest, load_recipe, prepare
from medrecon.prep.recipes import names
from medrecon.prep.runner import split_of
from medrecon.prep.shards import checksum
from medrecon.transforms import UndersampleKSpaced
from medrecon.writers.nifti import nifti_bytes
from tests.make.dicom import numbers, oblique, write_series
from tests.make.prepared import fastmri, measured, rows, scans


def arrays(folder):
    """All that shards hold, by case and name."""
    held = {}
    for path in sorted((folder / "shards").glob("*.h5")):
        with h5py.File(path) as file:
            for case, group in file.items():
                for name in group:
                    held[case, name] = group[name][()]
    return held


def test_what_is_written_is_what_was_measured(tmp_path):
    source = scans(tmp_path / "in")
    assert main(["prep", str(source), "-o", str(tmp_path / "out"), "--recipe", "kspace"]) == 0
    found = rows(tmp_path / "out")
    assert [row["case"] for row in found] == [f"s{k}.npz" for k in range(6)]
    held = arrays(tmp_path / "out")
    for k, row in enumerate(found):
        assert np.array_equal(held[row["case"], "kspace"], load_kspace(source / f"s{k}.npz").kspace)
        assert held[row["case"], "image"].dtype == np.complex64
        assert row["arrays"]["kspace"] == {
            "shape": [2, 3, 24, 20], "dtype": "complex64", "affine_known": False, "affine": None, "spacing_mm": None,
            "meta": {"noise_source": "outermost k-space"},
            "sha256": checksum(held[row["case"], "kspace"]),
        }  # fmt: skip
        assert row["warnings"] == ["orientation unknown"]
        assert len(row["sha256"]) == 64
        assert row["split"] in ("train", "val", "test")
        assert (tmp_path / "out" / row["shard"]).is_file()
    assert not (tmp_path / "out" / ".staged").exists()


def test_prepared_cases_are_items_of_monais_data_sets(tmp_path):
    folder = tmp_path / "d"
    write_series(folder / "any" / "where", oblique(), numbers())
    prepare(folder, tmp_path / "out", load_recipe("dicom"), dataset=DatasetOptions(split=(1.0,)))
    items = load_manifest(tmp_path / "out", "train")
    case = CacheDataset(items, LoadPreparedd("image"), progress=False)[0]
    assert np.array_equal(case["image"].numpy(), numbers())
    assert np.abs(case["image"].affine.numpy() - oblique()).max() < 1e-6
    assert "Doe" not in (tmp_path / "out" / "manifest.jsonl").read_text()
    assert "ID-4711" not in (tmp_path / "out" / "manifest.jsonl").read_text()
    with pytest.raises(InputError, match="has no array 'kspace'; it has image"):
        LoadPreparedd("kspace")(items[0])
    assert "kspace" not in LoadPreparedd(["image", "kspace"], allow_missing_keys=True)(items[0])
    with pytest.raises(InputError, match="no case of split 'val'"):
        load_manifest(tmp_path / "out", "val")
    with pytest.raises(InputError, match="no manifest"):
        load_manifest(tmp_path)


def test_one_bad_file_is_told_and_the_rest_goes_on(tmp_path, capsys):
    source = scans(tmp_path / "in", 3, bad=True)
    command = ["prep", str(source), "-o", str(tmp_path / "out"), "--recipe", "kspace"]
    assert main(command) == 1
    out = capsys.readouterr()
    assert "3 prepared, 0 skipped (already done), 1 failed" in out.out
    assert out.err.count("\n") == 1
    assert "bad.npz: not a readable NumPy file" in out.err
    assert json.loads((tmp_path / "out" / "failed.jsonl").read_text())["case"] == "bad.npz"
    np.savez(source / "bad.npz", kspace=measured(9))  # mended
    assert main(command) == 0
    assert "1 prepared, 3 skipped (already done), 0 failed" in capsys.readouterr().out
    assert len(rows(tmp_path / "out")) == 4
    assert (tmp_path / "out" / "failed.jsonl").read_text() == ""


def test_the_number_of_workers_changes_nothing(tmp_path):
    source = scans(tmp_path / "in", 5, bad=True)
    recipe = load_recipe("kspace")
    failures = []
    one = prepare(source, tmp_path / "one", recipe, on_failure=failures.append)
    two = prepare(source, tmp_path / "two", recipe, run=RunOptions(workers=2), on_failure=failures.append)
    assert one == two
    assert (one.prepared, one.skipped, len(one.failed)) == (5, 0, 1)
    assert failures[0] == failures[1]
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    a, b = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_a_cluster_that_runs_already(tmp_path):
    from distributed import LocalCluster

    source = scans(tmp_path / "in", 3)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        report = prepare(
            source, tmp_path / "out", load_recipe("kspace"), run=RunOptions(dask=cluster.scheduler_address)
        )
    assert (report.prepared, report.failed) == (3, [])
    with pytest.raises(InputError, match="no dask scheduler answers"):
        prepare(source, tmp_path / "other", load_recipe("kspace"), run=RunOptions(dask="nonsense://here"))


def test_a_run_killed_between_shard_and_tidying_holds_no_case_twice(tmp_path, monkeypatch):
    source = scans(tmp_path / "in", 4)
    out = tmp_path / "out"
    unlink = Path.unlink

    def stop(self, missing_ok=False):
        if self.parent.name == ".staged" and self.suffix == ".h5":
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, load_recipe("kspace"))
    monkeypatch.undo()
    report = prepare(source, out, load_recipe("kspace"))
    cases = [row["case"] for row in rows(out)]
    assert sorted(cases) == sorted(set(cases)) == [f"s{k}.npz" for k in range(4)]
    assert report.skipped == 4
    held = [case for path in (out / "shards").glob("*.h5") for case in h5py.File(path)]
    assert len(held) == 4


def test_splits_are_by_subject_and_stay(tmp_path):
    subjects = [f"p{k}" for k in range(4000)]
    found = [split_of(s, (0.8, 0.1, 0.1), 3) for s in subjects]
    for name, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        # Four standard deviations of a share among 4000.
        assert found.count(name) / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)
    assert [split_of(s, (0.8, 0.1, 0.1), 3) for s in subjects[::-1]] == found[::-1]
    assert split_of("x", (1.0,)) == "train"
    assert {split_of(s, (0.5, 0.0, 0.5)) for s in subjects} == {"train", "test"}
    source = scans(tmp_path / "in", 4)
    prepare(source, tmp_path / "out", load_recipe("kspace"))
    before = {row["case"]: row["split"] for row in rows(tmp_path / "out")}
    scans(source, 12)
    for k in range(4):
        os.utime(source / f"s{k}.npz")  # touched, not changed
    prepare(source, tmp_path / "out", load_recipe("kspace"))
    after = {row["case"]: row["split"] for row in rows(tmp_path / "out")}
    assert before.items() <= after.items()
    assert len(after) == 12


def test_what_does_not_fit_what_is_there_is_refused(tmp_path, capsys):
    source = scans(tmp_path / "in", 2)
    out = tmp_path / "out"
    prepare(source, out, load_recipe("kspace"))
    command = ["prep", str(source), "-o", str(out), "--recipe", "kspace"]
    assert main([*command, "--seed", "1"]) == 2
    assert "prepared with another seed" in capsys.readouterr().err
    assert main([*command, "--split", ".5/.5"]) == 2
    assert "another split" in capsys.readouterr().err
    assert main([*command, "--set", "compression=gzip"]) == 2
    assert "another recipe" in capsys.readouterr().err
    np.savez(source / "s0.npz", kspace=measured(7))
    assert main(command) == 1
    assert "s0.npz: has changed since it was prepared" in capsys.readouterr().err
    for more, message in (
        (["--recipe", "kspaze"], "did you mean 'kspace'"),
        (["--recipe", "kspace", "--set", "cases=1"], "has no setting 'cases'"),
        (["--recipe", "kspace", "--split", ".5/.6"], "fractions whose sum is 1"),
        (["--recipe", "kspace", "--workers", "0"], "number of workers must be at least 1"),
        (["--recipe", "nifti"], "holds no file that the recipe looks for"),
    ):
        assert main(["prep", str(source), "-o", str(tmp_path / "new"), *more]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    assert main(["prep", str(tmp_path / "no"), "-o", str(tmp_path / "new"), "--recipe", "kspace"]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert main(["prep", str(source), "-o", str(tmp_path / "full"), "--recipe", "kspace"]) == 2
    assert "holds other things" in capsys.readouterr().err


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    pytest.importorskip("fcntl", reason="nothing is locked on Windows")
    source = scans(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    with runner._exclusive(tmp_path / "out"), pytest.raises(InputError, match="another run is writing there"):
        prepare(source, tmp_path / "out", load_recipe("kspace"))
    prepare(source, tmp_path / "out", load_recipe("kspace"))


def test_shards_are_as_large_as_asked(tmp_path):
    source = scans(tmp_path / "in", 6)
    size = 2 * (2 * 3 * 24 * 20 * 8)
    prepare(source, tmp_path / "out", load_recipe("kspace"), dataset=DatasetOptions(split=(1.0,), shard_bytes=size))
    shards = sorted(p.name for p in (tmp_path / "out" / "shards").iterdir())
    assert len(shards) >= 2
    assert shards[0] == "train-00000.h5"
    assert len(arrays(tmp_path / "out")) == 30


def test_a_later_file_does_not_hide_the_error_of_a_case(tmp_path):
    for name in ("p4_t1.nii.gz", "p4_t1x.nii.gz", "p4_t2.nii.gz"):
        (tmp_path / name).write_text("")
    (case,) = files(tmp_path, r"(?P<case>p\d)_(?P<key>t\d)x?\.nii\.gz")
    assert "a second t1 of p4" in case.error
    assert sorted(case.inputs) == ["t1", "t2"]


def test_patterns_name_subjects_keys_and_cases(tmp_path):
    for name in ("a/p1_t1.nii.gz", "a/p1_t2.nii.gz", "b/p2_t1.nii.gz", ".hidden/p3_t1.nii.gz", "a/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = files(tmp_path, r"(?:.*/)?(?P<case>(?P<subject>p\d))_(?P<key>t\d)\.nii\.gz")
    assert [(c.name, c.subject, dict(c.inputs)) for c in found] == [
        ("p1", "p1", {"t1": "a/p1_t1.nii.gz", "t2": "a/p1_t2.nii.gz"}),
        ("p2", "p2", {"t1": "b/p2_t1.nii.gz"}),
    ]
    (first, *_) = files(tmp_path, r"(?:.*/)?(?P<case>p\d)_t\d\.nii\.gz")
    assert "a second image of p1" in first.error
    with pytest.raises(InputError, match="not a regular expression"):
        files(tmp_path, "(")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert len(files(tmp_path, r"(?:.*/)?(?P<subject>p\d)_t\d\.nii\.gz")) == 3  # a folder is walked through once


def test_a_worker_that_dies_takes_no_other_case_with_it(tmp_path):
    source = scans(tmp_path / "in", 6)
    recipe = load_recipe("kspace")
    recipe["transform"] = {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Lambdad",
                "keys": "image",
                "func": "$lambda p: __import__('os')._exit(1) if 's3' in p else p",
            },
            {"_target_": "medrecon.transforms.LoadKSpaced", "keys": "image"},
        ],
    }
    recipe["write"] = {"kspace": "image"}
    report = prepare(source, tmp_path / "out", recipe, run=RunOptions(workers=2))
    assert report.prepared == 5
    assert [(row["case"], row["error"]) for row in report.failed] == [
        ("s3.npz", "s3.npz: its reader crashed (exit status 1)")
    ]


def test_relative_folders_on_a_cluster_and_one_that_workers_cannot_see(tmp_path, monkeypatch):
    from distributed import LocalCluster

    source = scans(tmp_path / "in", 2)
    (tmp_path / "elsewhere").mkdir()
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=True,
        dashboard_address=":0",
        local_directory=str(tmp_path / "elsewhere"),
    ) as cluster:
        monkeypatch.chdir(tmp_path)
        assert prepare("in", "out", load_recipe("kspace"), run=RunOptions(dask=cluster.scheduler_address)).prepared == 2
        assert len(rows(tmp_path / "out")) == 2
        monkeypatch.setattr(runner, "read_rows", lambda folder: ({}, {}))  # as if the worker had written somewhere else
        report = prepare(
            source, tmp_path / "other", load_recipe("kspace"), run=RunOptions(dask=cluster.scheduler_address)
        )
        assert len(report.failed) == 2
        assert "does not see" in report.failed[0]["error"]


def test_warnings_of_a_series_are_written_once_without_names(tmp_path, caplog):
    """A damaged file is written by its pseudonym, as the manifest names its files; the owner sees its path."""
    write_series(tmp_path / "in" / "s", oblique(), numbers(), "{k}.dcm")
    last = tmp_path / "in" / "s" / "5.dcm"
    last.write_bytes(last.read_bytes()[:-300])
    assert prepare(tmp_path / "in", tmp_path / "out", load_recipe("dicom")).prepared == 1
    row = load_manifest(tmp_path / "out")[0]
    (text,) = row["warnings"]
    assert text.startswith(f"{row['source']['image'][5]}: its pixels cannot be decoded")
    assert text.endswith("; skipped")
    assert any(record.message.startswith("s/5.dcm: its pixels cannot be decoded") for record in caplog.records)
    assert row["arrays"]["image"]["meta"]["warnings"] == [text]


def test_one_damaged_dicom_file_spoils_nothing_but_its_series(tmp_path, capsys):
    source = tmp_path / "in"
    for k in range(3):
        write_series(source, oblique(), numbers(seed=k), f"{k}-{{k}}.dcm", PatientID=str(k), StudyInstanceUID=f"1.{k}")
    content = (source / "1-5.dcm").read_bytes()
    for damaged in (content[:400], b""):
        (source / "1-5.dcm").write_bytes(damaged)
        report = prepare(source, tmp_path / str(len(damaged)), load_recipe("dicom"))
        assert report.prepared == 3  # the others, and what is left of the one
        (row,) = report.failed
        assert row["case"].startswith("damaged/")
        assert row["error"].startswith(f"{row['case'].removeprefix('damaged/')}: damaged DICOM file")
        assert row["message"].startswith("1-5.dcm: damaged DICOM file")


def test_names_that_would_fall_together_and_odd_ones(tmp_path):
    source = tmp_path / "in"
    for name in ("a/b.npz", "a__b.npz", "a%2Fb.npz", "ü b.npz"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(source / name, kspace=measured(len(name)))
    out = tmp_path / "out"
    assert prepare(source, out, load_recipe("kspace")).prepared == 4
    for item in load_manifest(out):
        found = LoadPreparedd("kspace")(item)["kspace"]
        assert np.array_equal(found.numpy(), measured(len(item["case"])))
    # A folder of results inside the source is not taken for data.
    assert prepare(source, source / "out", load_recipe("kspace")).prepared == 4
    assert prepare(source, source / "out", load_recipe("kspace")).failed == []


def test_masks_and_noise_of_prepared_cases(tmp_path):
    source = scans(tmp_path / "in", 3)
    rng = np.random.default_rng(0)
    scan = 0.01 * (rng.normal(size=(3, 500)) + 1j * rng.normal(size=(3, 500)))
    np.savez(source / "s0.npz", kspace=measured(0), noise=scan)
    prepare(source, tmp_path / "out", load_recipe("kspace"))
    load, few = LoadPreparedd(["kspace", "mask", "noise_std"]), UndersampleKSpaced("kspace", accel=2, acs=6)
    cases = [few(load(item)) for item in load_manifest(tmp_path / "out")]
    masks = {tuple(case["mask"].flatten().tolist()) for case in cases}
    assert len(masks) == 3  # each its own
    assert cases[0]["noise_std"] == pytest.approx(0.01, rel=0.1)  # from the scan, not from what is left of k-space
    assert few(load(load_manifest(tmp_path / "out")[1]))["mask"].equal(cases[1]["mask"])


def test_a_file_that_vanishes_later_stops_nothing(tmp_path):
    source = scans(tmp_path / "in", 2)
    out = tmp_path / "out"
    prepare(source, out, load_recipe("kspace"))
    (source / "s0.npz").unlink()
    (source / "s0.npz").symlink_to(tmp_path / "nowhere")
    scans_more = source / "new.npz"
    np.savez(scans_more, kspace=measured(5))
    report = prepare(source, out, load_recipe("kspace"))
    assert report.prepared == 1
    assert report.failed[0]["error"].startswith("s0.npz: cannot be read (a link to a file that does not exist)")
    assert len(rows(out)) == 3


def test_what_is_wrong_with_a_recipe_is_told_before_anything_is_written(tmp_path, capsys):
    source = scans(tmp_path / "in", 2)
    for more, message in (
        (["--split", "nan/nan/nan"], "fractions whose sum is 1"),
        (["--set", "pattern=("], "not a regular expression"),
        (["--set", "pattern=5"], "not a regular expression"),
        (["--set", "compression=foo"], "compression is gzip"),
        (["--dask", "tcp://127.0.0.1:1"], "no dask scheduler answers"),
    ):
        assert main(["prep", str(source), "-o", str(tmp_path / "out"), "--recipe", "kspace", *more]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out" / "recipe.json").exists()
    recipe = load_recipe("kspace")
    recipe["transform"] = {"_target_": "medrecon.transforms.NoSuchTransform"}
    with pytest.raises(InputError, match="'transform' cannot be built"):
        prepare(source, tmp_path / "out", recipe)


# Every named recipe on small files as the set has them


def volume(path, shape=(12, 10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape).astype(np.float32), oblique()), path)


def chest(folder, description, n=24, **more):
    write_series(
        folder, oblique(), numbers((n, 8, 8)), "1-{k:03d}.dcm", Modality="CT", SeriesDescription=description,
        RescaleSlope="1", RescaleIntercept="-1024", StudyInstanceUID="1.2.4", **more,
    )  # fmt: skip


def make(recipe, folder):
    """A small data set, and the subjects and arrays of its cases."""
    if recipe == "kspace":
        scans(folder, 2)
        return {"s0.npz", "s1.npz"}, {"kspace", "mask", "noise_std", "image"}
    if recipe == "nifti":
        volume(folder / "a" / "x.nii.gz")
        return {"a/x.nii.gz"}, {"image"}
    if recipe == "dicom":
        write_series(folder / "x", oblique(), numbers())
        return {"sub-"}, {"image"}
    if recipe in ("fastmri_knee", "fastmri_brain"):
        name = "file100000{}.h5" if recipe == "fastmri_knee" else "file_brain_AXT2_200_200000{}.h5"
        fastmri(folder / "multicoil_train" / name.format(1), "p1")
        fastmri(folder / "multicoil_val" / name.format(2), "p1")
        if recipe == "fastmri_knee":
            fastmri(folder / "singlecoil_test_v2" / "file1000003_v2.h5", None, coils=1)
            return {"sub-", "file1000003"}, {"kspace", "mask", "noise_std", "image"}
        return {"sub-"}, {"kspace", "mask", "noise_std", "image"}
    if recipe == "m4raw":
        for name in ("2022061003_T101", "2022061003_T102", "2022061003_FLAIR01", "2022061004_T201"):
            fastmri(folder / "multicoil_train" / f"{name}.h5")
        return {"2022061003", "2022061004"}, {"kspace", "mask", "noise_std", "image"}
    if recipe == "calgary_campinas":
        hybrid = np.fft.fft2(from_kspace(measured(0, slices=104)), axes=(-2, -1))  # no shifts
        pairs = np.stack([hybrid.real, hybrid.imag], -1).transpose(0, 2, 3, 1, 4).reshape(104, 24, 20, 6)
        (folder / "Train").mkdir(parents=True)
        with h5py.File(folder / "Train" / "e14089s3_P53248.7.h5", "w") as file:
            file["kspace"] = pairs.astype(np.float32)
        return {"e14089"}, {"kspace", "mask", "noise_std", "image"}
    if recipe == "brats2021":
        for number, keys in (("00000", ("flair", "t1", "t1ce", "t2", "seg")), ("00002", ("flair", "t1", "t1ce", "t2"))):
            for key in keys:
                volume(folder / f"BraTS2021_{number}" / f"BraTS2021_{number}_{key}.nii.gz")
        return {"BraTS2021_00000", "BraTS2021_00002"}, {"flair", "t1", "t1ce", "t2"}
    if recipe == "ixi":
        for name in ("IXI002-Guys-0828-T1", "IXI002-Guys-0828-T2", "IXI012-HH-1211-PD"):
            volume(folder / f"{name}.nii.gz")
        return {"IXI002", "IXI012"}, {"image"}
    if recipe == "lidc_idri":
        chest(folder / "LIDC-IDRI-0001" / "study" / "3000566.000000-NA-03192", "")
        write_series(folder / "LIDC-IDRI-0001" / "s2" / "dx", oblique(), numbers((24, 8, 8)), Modality="DX")
        chest(folder / "LIDC-IDRI-0001" / "s3" / "scout", "scout", n=2, SeriesInstanceUID="1.2.11")
        return {"sub-"}, {"image"}
    if recipe == "ldct":
        base = folder / "C002" / "08-30-2018-NA-NA-62464"
        chest(base / "1.000000-Low Dose Images-39882", "Low Dose Images")
        chest(base / "1.000000-Full dose images-31909", "Full dose images", SeriesInstanceUID="1.2.9")
        chest(base / "1.000000-Full dose projections-1", "Full Dose Projections", SeriesInstanceUID="1.2.10")
        more = {"SeriesInstanceUID": "1.2.12", "PatientID": "L001"}
        chest(folder / "L001" / "x", "Full dose images", **more)  # of GE's scanners there are no low-dose images
        return {"sub-"}, {"full"}
    raise AssertionError(f"a recipe without a test: {recipe}")


@pytest.mark.parametrize("recipe", names())
def test_every_recipe_on_files_as_its_set_has_them(tmp_path, recipe):
    subjects, wanted = make(recipe, tmp_path / "in")
    failures = []
    report = prepare(tmp_path / "in", tmp_path / "out", load_recipe(recipe), on_failure=failures.append)
    assert failures == []
    found = rows(tmp_path / "out")
    assert report.prepared == len(found) > 0
    assert {s if not s.startswith("sub-") else "sub-" for s in (row["subject"] for row in found)} == subjects
    for row in found:
        assert wanted <= set(row["arrays"])
        assert set(row["arrays"]) - wanted <= {"seg", "low", "maps"}
    by_subject = {}
    for row in found:
        by_subject.setdefault(row["subject"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_subject.values())
    if recipe == "calgary_campinas":
        kspace = arrays(tmp_path / "out")[found[0]["case"].replace("/", "%2F"), "kspace"]
        truth = measured(0, slices=104)[50:-50]
        assert np.abs(kspace - truth * (np.abs(kspace).max() / np.abs(truth).max())).max() < 1e-5 * np.abs(kspace).max()
    if recipe == "lidc_idri":
        assert len(found) == 1
        image = arrays(tmp_path / "out")[found[0]["case"].replace("/", "%2F"), "image"]
        assert np.array_equal(image, numbers((24, 8, 8)) - 1024.0)


def test_real_files(data_folder, tmp_path):
    """Each generic recipe on real data."""
    report = prepare(data_folder / "kspace", tmp_path / "k", load_recipe("kspace"))
    assert report.prepared == 8
    others = {"ct_tooth_parallel_sino.npz", "knee_singlecoil_image.npz"}
    assert {r["case"] for r in report.failed} == others
    held = arrays(tmp_path / "k")
    forms = [held[f"brain_t1_8ch_sliceA.{end}", "kspace"] for end in ("npz", "h5", "cfl")]
    assert np.array_equal(forms[0], forms[1])
    assert np.array_equal(forms[0], forms[2])
    report = prepare(data_folder / "dicom" / "pacsman", tmp_path / "d", load_recipe("dicom"))
    assert (report.prepared, report.failed) == (1, [])
    report = prepare(data_folder / "dicom", tmp_path / "e", load_recipe("dicom"))
    assert report.prepared == 1
    for text in ("9 mosaics", "2 volumes"):
        assert sum(f"a series of {text}" in row["error"] for row in report.failed) == 1
    image = load_image(data_folder / "dicom" / "pacsman")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.nii.gz").write_bytes(nifti_bytes(image.array, Geometry(image.spacing, image.affine)))
    prepare(tmp_path / "in", tmp_path / "n", load_recipe("nifti"))
    first, second = (LoadPreparedd("image")(load_manifest(tmp_path / name)[0])["image"] for name in ("d", "n"))
    assert np.array_equal(first.numpy(), second.numpy())
    assert np.abs(first.affine.numpy() - second.affine.numpy()).max() < 1e-4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_flat_as_files_grow_in_number(tmp_path):
    """Peak memory of the child that prepares 8 scans of 12 MB, and of one that prepares 40; its caller reads no scans."""
    data = (np.random.default_rng(0).normal(size=(1, 8, 512, 384)) + 1j).astype(np.complex64)
    recipe = load_recipe("kspace")
    recipe["transform"] = {"_target_": "medrecon.transforms.LoadKSpaced", "keys": "image"}
    recipe["write"] = {"kspace": "image"}
    peaks = []

    def look(done, total):
        if done == total:
            server = workers._server(False).process.pid
            (child,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
            peaks.append(int(Path(f"/proc/{child}/status").read_text().partition("VmHWM:")[2].split()[0]))

    for n in (8, 40):
        folder = tmp_path / str(n)
        folder.mkdir()
        for k in range(n):
            np.save(folder / f"s{k}.npy", data)
        assert prepare(folder, tmp_path / f"o{n}", recipe, progress=look).prepared == n
    assert peaks[1] < peaks[0] + 3 * data.nbytes / 1024  # of 32 scans more, which are 400 MB
