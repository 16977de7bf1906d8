"""Several scans by one command: bad ones are reported, finished ones skipped, and processes change nothing."""

import json
import os
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pydicom
import pytest
import torch
from threadpoolctl import threadpool_info

from medrecon.bundle import find_bundle
from medrecon.cli import main
from medrecon.cli.cases import Case, find_cases, image_stem
from medrecon.data.errors import InputError
from medrecon.data.files import sha256
from tests.make import dicom as make_dicom
from tests.make.cluster import cluster


@pytest.fixture
def folder(scan, tmp_path):
    """Eight good scans and two bad ones, some in a folder below; and things that are no scans."""
    root = tmp_path / "in"
    (root / "more").mkdir(parents=True)
    for k in range(8):
        path, _ = scan((40, 36), noise=0.002 * (1 + k))
        shutil.copy(path, root / ("more" if k > 4 else "") / f"s{k}.h5")
    (root / "bad.h5").write_bytes((root / "s0.h5").read_bytes()[:3000])
    np.savez(root / "zeros.npz", kspace=np.zeros((2, 8, 8), np.complex64))
    (root / "notes.txt").write_text("hello")
    (root / ".hidden.h5").write_bytes(b"x")
    return root


def recon(*arguments):
    return main(["recon", *map(str, arguments), "--solver", "cg-sense", "--threads", "1"])


def mask_of(path):
    with h5py.File(path) as file:
        return file["mask"][()].astype(bool)


def held(out):
    return {path.name: sha256(path) for path in out.iterdir() if path.suffix == ".gz"}


def test_bad_scans_cost_themselves_and_a_later_run_goes_on(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert recon(folder, "-o", out) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 8 done, 2 failed\n"
    lines = printed.err.splitlines()
    assert len(lines) == 10 and sum("failed" in line for line in lines) == 2
    assert "bad.h5: not a readable HDF5 file" in printed.err and "zeros.npz: k-space is all zeros" in printed.err
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [f"s{k}.{end}" for k in range(8) for end in ("json", "nii.gz")] + ["run.json"]
    )
    first = held(out)
    run = json.loads((out / "run.json").read_text())
    assert [row["name"] for row in run["cases"]] == ["bad", *[f"s{k}" for k in range(8)], "zeros"]
    assert {row["name"]: row["status"] for row in run["cases"]}["s3"] == "done" and run["peak_memory_mb"] > 0
    assert str(folder) not in (out / "run.json").read_text()  # folders may name patients
    (out / "s2.nii.gz").unlink()
    (out / "s2.json").unlink()
    assert recon(folder, "-o", out) == 1
    again = capsys.readouterr().out
    assert "2 failed" in again and "7 skipped (already done)" in again and "1 done" in again
    assert held(out) == first
    (out / "s4.nii.gz").write_bytes(b"mine")  # changed by somebody: neither taken for ours nor replaced
    assert recon(folder, "-o", out) == 1
    assert (
        "7 skipped (already done), 3 failed" in capsys.readouterr().out and (out / "s4.nii.gz").read_bytes() == b"mine"
    )


def test_another_request_is_not_taken_for_the_same(folder, tmp_path, capsys):
    out = tmp_path / "out"
    two = folder / "s0.h5", folder / "s1.h5"
    assert recon(*two, "-o", out) == 0
    capsys.readouterr()
    assert recon(*two, "-o", out, "--noise-std", "0.5") == 1
    assert "exists" in capsys.readouterr().err
    assert recon(*two, "-o", out, "--noise-std", "0.5", "--overwrite") == 0
    assert recon(*two, "-o", out, "--noise-std", "0.5") == 0
    assert "2 skipped (already done)" in capsys.readouterr().out
    np.save(tmp_path / "m.npy", mask_of(two[0]))
    masked = ["--mask", tmp_path / "m.npy", "--overwrite"]
    assert recon(*two, "-o", out, *masked) == 0
    assert recon(*two, "-o", out, *masked[:2]) == 0
    fewer = mask_of(two[0])
    fewer[np.flatnonzero(fewer)[-1]] = False
    np.save(tmp_path / "m.npy", fewer)
    assert recon(*two, "-o", out, *masked[:2]) == 1  # another content of the file that an option names
    assert recon(*two, "-o", out, "--noise-std", "0.5", "--overwrite") == 0
    shutil.copy(folder / "s2.h5", folder / "s1.h5")  # another content of the same name
    assert recon(*two, "-o", out, "--noise-std", "0.5") == 1


def test_a_changed_bundle_is_another_request(folder, tmp_path, capsys):
    bundle = tmp_path / "b"
    shutil.copytree(find_bundle("brain_mri"), bundle, ignore=shutil.ignore_patterns("checkpoints"))
    arguments = (folder / "s0.h5", folder / "s1.h5", "-o", tmp_path / "out", "--bundle", bundle)
    assert recon(*arguments) == 0
    assert recon(*arguments) == 0
    assert "2 skipped (already done)" in capsys.readouterr().out
    with (bundle / "configs" / "prior.yaml").open("a") as file:
        file.write("# changed\n")
    assert recon(*arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_processes_change_no_byte(folder, tmp_path, capsys):
    assert recon(folder, "-o", tmp_path / "one") == 1
    assert recon(folder, "-o", tmp_path / "two", "--workers", "2") == 1
    assert held(tmp_path / "one") == held(tmp_path / "two") != {}
    assert recon(folder, "-o", tmp_path / "two", "--workers", "2") == 1
    assert "8 skipped (already done)" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on(folder, tmp_path):
    for k in range(6):
        shutil.copytree(folder / "more", folder / f"copy{k}")
    command = [sys.executable, "-m", "medrecon", "recon", str(folder), "-o", str(tmp_path / "out"), "--solver", "tv"]
    command += ["--threads", "1", "--name", "{folder}_{stem}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            if len(list((tmp_path / "out").glob("*.json"))) > 1:
                break
            time.sleep(0.05)
        process.kill()
    done = held(tmp_path / "out")
    assert 0 < len(done) < 26
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 1 and "2 failed" in out.stdout and "skipped (already done)" in out.stdout
    assert len(held(tmp_path / "out")) == 26 and done.items() <= held(tmp_path / "out").items()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_names(folder, tmp_path, capsys):
    case = Case(folder / "s0.h5", "s0", "in")
    assert image_stem("{folder}_{stem}-{solver}", case, solver="tv") == "in_s0-tv"
    for bad in ("{stem.__class__}", "{0}", "{stem!r}", "{solver}/{stem}", "{}", ".{stem}", ""):
        with pytest.raises(InputError, match="--name"):
            image_stem(bad, case, solver="tv")
    shutil.copy(folder / "s0.h5", folder / "more" / "S0.h5")
    assert recon(folder, "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "same name, s0; give --name with {folder}" in said and not (tmp_path / "out").exists()
    assert recon(folder, "-o", tmp_path / "out", "--name", "{folder}_{stem}_{solver}") == 1
    assert (tmp_path / "out" / "more_s5_cg-sense.nii.gz").is_file()
    assert recon(folder / "s0.h5", "-o", tmp_path / "out", "--name", "{stem}_{solver}") == 0
    assert (tmp_path / "out" / "s0_cg-sense.json").is_file()


def test_what_is_wrong_for_all_stops_at_once(folder, tmp_path, capsys):
    out = tmp_path / "out"
    for more in (["--set", "solver.x=1"], ["--device", "tpu"], ["--bids", "sub-01_T1w"], ["--like", folder]):
        assert recon(folder, "-o", out, *more) == 2
    assert main(["recon", str(folder), "-o", str(out), "--solver", "nothing"]) == 2
    assert recon(folder / "s0.h5", tmp_path / "missing.h5", "-o", out) == 2
    (tmp_path / "empty").mkdir()
    assert recon(tmp_path / "empty", folder / "s0.h5", "-o", out) == 2
    assert recon(folder / "s0.h5", "-o", out, "--workers", "2") == 2
    assert not out.exists()


def test_a_dry_run_makes_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert recon(folder, "-o", out, "--dry-run", "--json") == 1
    run = json.loads(capsys.readouterr().out)
    assert {row["status"] for row in run["cases"]} == {"planned", "failed"} and not out.exists()
    assert recon(folder / "s0.h5", "-o", out, "--dry-run") == 0
    assert "would be reconstructed by cg-sense" in capsys.readouterr().out and not out.exists()


def test_a_single_scan_is_as_it_was(folder, tmp_path, capsys):
    assert recon(folder / "bad.h5", "-o", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    before = torch.get_num_threads(), [one["num_threads"] for one in threadpool_info()]
    assert recon(folder / "s0.h5", "-o", tmp_path / "out", "--json") == 0
    assert before == (torch.get_num_threads(), [one["num_threads"] for one in threadpool_info()])
    assert json.loads(capsys.readouterr().out)["solver"] == "cg-sense"
    assert recon(folder / "s0.h5", "-o", tmp_path / "out") == 2  # exists
    assert not (tmp_path / "out" / "run.json").exists()


def test_series_of_dicom_are_cases(tmp_path):
    volumes = make_dicom.numbers((3, 6, 5)), make_dicom.numbers((2, 6, 5))
    uids = [pydicom.uid.generate_uid() for _ in volumes]
    for k, (volume, uid) in enumerate(zip(volumes, uids, strict=True)):
        for where in ("one", "both"):
            make_dicom.write_series(
                tmp_path / where / (str(k) if where == "one" else ""), make_dicom.oblique(), volume, f"{k}-{{k}}.dcm",
                SeriesInstanceUID=uid, SeriesNumber=k + 4,
            )  # fmt: skip
    found = find_cases([str(tmp_path / "one")], {}, tmp_path / "o")
    assert [case.stem for case in found] == ["0", "1"] and not found[0].select
    found = find_cases([str(tmp_path / "both")], {}, tmp_path / "o")
    assert sorted(case.stem for case in found) == ["both_4", "both_5"]
    assert sorted(case.select["SeriesInstanceUID"] for case in found) == sorted(uids)


@pytest.mark.slow
def test_a_cluster_changes_no_byte(folder, tmp_path):
    pytest.importorskip("distributed")
    with cluster(tmp_path) as (_, address):
        assert recon(folder, "-o", tmp_path / "dask", "--dask", address) == 1
    assert recon(folder, "-o", tmp_path / "one") == 1
    assert held(tmp_path / "one") == held(tmp_path / "dask") != {}


def test_a_pipe_does_not_block(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.h5")
    assert recon(tmp_path / "pipe.h5", "-o", tmp_path / "out") == 2
    assert recon(tmp_path / "pipe.h5", tmp_path / "pipe.h5", "-o", tmp_path / "out", "--dry-run") in (1, 2)
    assert "pipe.h5" in capsys.readouterr().err


def test_several_processes_do_not_import_monai_here(folder, tmp_path):
    code = (
        "import sys; from medrecon.cli import main\n"
        f"main(['recon', {str(folder)!r}, '-o', {str(tmp_path / 'o')!r}, '--solver', 'cg-sense', '--workers', '2'])\n"
        "print('monai' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"
