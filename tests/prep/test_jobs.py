"""Long jobs: no file stops them, nobody is named in what they write, and what was interrupted goes on."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from medrecon import workers
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.prep import (
    DatasetOptions,
    LoadPreparedd,
    RunOptions,
    cases,
    dicom_series,
    files,
    load_manifest,
    load_recipe,
    prepare,
)
from medrecon.prep.journal import Journal
from medrecon.prep.pseudonyms import Key, without_names, write_sources
from medrecon.prep.shards import staged_path
from medrecon.workers import Pool, Task
from tests.make.cluster import cluster
from tests.make.dicom import numbers, oblique, write_series
from tests.make.prepared import fastmri, rows, scans

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def recipe_of(code=None, keys="image"):
    """Reading k-space, behind an expression of the path ``p``."""
    recipe = load_recipe("kspace")
    steps = [{"_target_": "medrecon.transforms.LoadKSpaced", "keys": keys}]
    if code is not None:
        steps.insert(0, {"_target_": "Lambdad", "keys": keys, "func": f"$lambda p: (({code}), p)[1]"})
    return {**recipe, "transform": {"_target_": "Compose", "transforms": steps}, "write": {"kspace": "image"}}


def everything(folder):
    """All that stands in a folder, as bytes: names, contents, and what HDF5 holds."""
    found = [str(p.relative_to(folder)).encode() for p in folder.rglob("*")]
    found += [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    for path in (folder / "shards").glob("*.h5"):
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.append(repr((name, dict(item.attrs))).encode()))
    return b"\n".join(found)


def children_of(pid):
    """Process ids of all descendants (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *children_of(child)]
    return found


def alive(pids):
    """Those that run, zombies not counted."""
    return [
        p for p in pids if Path(f"/proc/{p}").exists() and "\nState:\tZ" not in Path(f"/proc/{p}/status").read_text()
    ]


# Readers that crash or hang


HERE = __name__


def hang():
    """A reader that never ends."""
    time.sleep(100)
    return {}


def poison():
    """A reader that answers, and whose process ends a second later."""
    signal.alarm(1)
    return {}


def slow():
    """A reader that takes longer than that."""
    time.sleep(2)
    return {"fine": True}


def test_a_child_that_crashes_or_hangs_costs_its_task_alone():
    fine = Task("medrecon.prep.worker:digest", {"paths": []})
    calls = {
        "abort": Task("os:abort", {}),
        "exit": Task("os:_exit", {"status": 3}),
        "hang": Task(f"{HERE}:hang", {}),
        **{f"fine{k}": fine for k in range(6)},
    }
    start = time.monotonic()
    with Pool(2, timeout=4) as pool:
        answers = {task.about: answer for task, answer in pool.run([t._replace(about=n) for n, t in calls.items()])}
        children = [child.pid for child in pool.children]
    assert time.monotonic() - start < 60
    assert answers["abort"] == {"lost": "crashed (SIGABRT)"}
    assert answers["exit"] == {"lost": "crashed (exit status 3)"}
    assert answers["hang"] == {"lost": "took longer than 4 s"}
    assert all(len(answers[f"fine{k}"]["sha256"]) == 64 for k in range(6))
    assert not alive(children)


def test_what_an_earlier_task_did_to_its_child_is_not_held_against_the_next():
    with Pool(1, timeout=30) as pool:
        (_, answer) = (answer for _, answer in pool.run([Task(f"{HERE}:poison", {}), Task(f"{HERE}:slow", {})]))
    assert answer == {"fine": True}


def garbled():
    """A reader that writes where it should not."""
    for descriptor in range(3, 40):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"garbled\n")
    return {}


def test_an_answer_that_is_none_costs_its_task_alone():
    with Pool(1, timeout=30) as pool:
        for call, wanted in (("garbled", {"lost": "crashed (its answer cannot be read)"}), ("slow", {"fine": True})):
            (_, answer), *_ = pool.run([Task(f"{HERE}:{call}", {})])
            assert answer == wanted


def test_the_server_takes_no_module_from_the_current_folder(tmp_path, monkeypatch):
    """Such as ``json.py``, planted in a data set."""
    for name in ("json", "socket", "os", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    package = tmp_path / "package" / "medrecon"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "workers.py").write_text(
        "import json, os, socket, sys\n"
        "def serve(descriptor, imports):\n"
        "    socket.socket(fileno=descriptor).sendall(b'%d\\n' % (sys.path[-1] == 'last'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(package.parent), *filter(None, sys.path), "last"])
    server = workers._Server(False, ("json",))
    try:
        assert server.ask({}) == 1
    finally:
        server.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_crash_or_hang_are_passed_over_and_not_tried_again(tmp_path, workers):
    source, out = scans(tmp_path / "in", 5), tmp_path / "out"
    code = "__import__('os').abort() if 's1' in p else __import__('time').sleep(50) if 's3' in p else 0"
    report = prepare(source, out, recipe_of(code), run=RunOptions(workers=workers, timeout=2))
    assert report.prepared == 3
    errors = {row["case"]: row["error"] for row in report.failed}
    assert errors == {
        "s1.npz": "s1.npz: its reader crashed (SIGABRT)",
        "s3.npz": "s3.npz: its reader took longer than 2 s",
    }
    start = time.monotonic()
    report = prepare(source, out, recipe_of(code), run=RunOptions(workers=workers, timeout=2))
    assert time.monotonic() - start < 1.5  # nothing was read
    assert {row["error"] for row in report.failed} == {
        f"{error}; give --retry to try it again" for error in errors.values()
    }
    os.utime(source / "s1.npz", (1, 1))  # changed: tried again by itself
    (first, second) = prepare(source, out, recipe_of(code), run=RunOptions(workers=workers, timeout=2)).failed
    assert sorted([first["error"], second["error"]]) == [
        errors["s1.npz"],
        f"{errors['s3.npz']}; give --retry to try it again",
    ]
    assert (
        len(prepare(source, out, recipe_of(code), run=RunOptions(workers=workers, timeout=2, retry=True)).failed) == 2
    )
    assert not (out / ".journal").exists()


def test_a_large_file_gets_more_time():
    pool = Pool(timeout=60)
    small, large = (Task("", {}, size) for size in (1000, 1 << 30))
    child = type("Child", (), {"task": small})
    assert pool._limit(child) == pytest.approx(60, rel=1e-3)
    child.task = large
    assert pool._limit(child) == 60 * 65  # a gigabyte, at 0.27 MB/s


def test_a_header_that_crashes_its_reader_costs_its_file_alone(tmp_path, monkeypatch):
    write_series(tmp_path / "in", oblique(), numbers(), "{k}.dcm")
    tried = []

    def task(call, arguments, size, about):
        if "3.dcm" in about:
            tried.append(about)
            return Task("os:abort", {}, size, about)
        return Task(call, arguments, size, about)

    monkeypatch.setattr(cases, "Task", task)
    report = prepare(tmp_path / "in", tmp_path / "out", load_recipe("dicom"))
    assert "slices are missing" in report.failed[1]["error"]
    assert report.failed[0]["message"] == "3.dcm: reading its header crashed (SIGABRT)"
    tried.clear()
    report = prepare(tmp_path / "in", tmp_path / "out", load_recipe("dicom"))
    assert "--retry" in report.failed[0]["message"]
    assert report.failed[0]["case"].startswith("damaged/")


# Runs that end


def started(source, out, *more, **options):
    """A run as a process of its own, and once two cases are staged, it and its descendants."""
    command = [sys.executable, "-W", "ignore", "-m", "medrecon", "prep", str(source), "-o", str(out), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    for _ in range(9000):
        if len(list((out / ".staged").glob("*.h5"))) >= 2 or process.poll() is not None:
            break
        time.sleep(0.02)
    return process, children_of(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed in /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_children_end_with_their_run_and_it_goes_on(tmp_path, sent):
    source, out = scans(tmp_path / "in", 40), tmp_path / "out"
    process, children = started(source, out, "--recipe", "kspace", "--workers", "2", start_new_session=True)
    assert len(children) == 3  # the server, two children
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as Ctrl-C
    else:
        os.kill(process.pid, sent)
    _, err = process.communicate(timeout=20)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert err == (b"medrecon: interrupted\n" if sent == signal.SIGINT else b"")
    for _ in range(100):
        if not alive(children):
            break
        time.sleep(0.05)
    assert not alive(children)
    journal = Journal(out)
    journal.close(False)
    assert not journal.interrupted  # it was not a case that killed the run
    staged = len(list((out / ".staged").glob("*.h5")))
    report = prepare(source, out, load_recipe("kspace"))
    assert report.skipped == staged >= 2  # nothing was done twice
    assert report.prepared + report.skipped == 40
    prepare(source, tmp_path / "whole", load_recipe("kspace"))
    assert rows(out) == rows(tmp_path / "whole")
    assert {p.name for p in out.iterdir()} == {"recipe.json", "shards", "manifest.jsonl", "failed.jsonl"}


def died(out, times):
    """As if so many runs had ended, with all their processes, while s0 was read."""
    out.mkdir(exist_ok=True)
    for _ in range(times):
        journal = Journal(out)
        journal.began("s0.npz")
        journal.began("s1.npz")
        journal.done("s1.npz")
        os.close(journal.file)  # and no end of the run


def test_a_case_with_which_everything_died_comes_last_and_is_then_passed_over(tmp_path):
    source = scans(tmp_path / "in", 3)
    one, two = tmp_path / "one", tmp_path / "two"
    died(one, 1)
    order = []
    report = prepare(
        source, one, recipe_of(), progress=lambda *_: order.append({p.name for p in (one / ".staged").glob("*.h5")})
    )
    assert (report.prepared, report.failed) == (3, [])
    assert order[2] - order[1] == {staged_path(one, "s0.npz").name}
    died(two, 2)
    for made in (2, 0):  # the second time it is remembered
        report = prepare(source, two, recipe_of())
        assert report.prepared == made
        assert report.failed[0]["error"].startswith("2 runs ended with all their processes while it was read")
        assert "--retry" in report.failed[0]["error"]
    assert prepare(source, two, recipe_of(), run=RunOptions(retry=True)).prepared == 1


def test_a_full_disk_is_one_sentence_and_leaves_what_is_done(tmp_path):
    """A limit on the size of a child's files stands for the disk: writing fails in the same place."""
    source, out = scans(tmp_path / "in", 3), tmp_path / "out"
    rng = np.random.default_rng(0)
    np.savez(source / "z.npz", kspace=(rng.normal(size=(8, 8, 64, 64)) + 1j).astype(np.complex64))  # 2 MB
    recipe = recipe_of("__import__('resource').setrlimit(1, (1 << 20, 1 << 20))")
    message = (
        f"{out}: cannot be written (File too large); free space, or check its permissions, and run again to continue"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        prepare(source, out, recipe)
    left = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert len(left) == 4  # the recipe and three staged cases
    (out / "recipe.json").write_text(
        (out / "recipe.json").read_text().replace("__import__('resource').setrlimit(1, (1 << 20, 1 << 20))", "0")
    )
    assert prepare(source, out, recipe_of("0")).skipped == 3
    assert len(rows(out)) == 4


def test_no_disk_space_in_any_phase(tmp_path, monkeypatch):
    import errno

    from medrecon.prep import runner

    source = scans(tmp_path / "in", 3)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for phase in ("pack", "write_lines"):
        out = tmp_path / phase
        monkeypatch.setattr(runner, phase, full)
        with pytest.raises(InputError, match="No space left on device"):
            prepare(source, out, load_recipe("kspace"))
        monkeypatch.undo()
        assert not out.exists() if phase == "write_lines" else True
        assert prepare(source, out, load_recipe("kspace")).skipped == (3 if phase == "pack" else 0)
        assert len(rows(out)) == 3
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / ".staged").touch()  # whatever the system says, no case is at fault
    with pytest.raises(InputError, match=r"taken: cannot be written \(File exists\)"):
        prepare(source, tmp_path / "taken", load_recipe("kspace"))


def test_files_that_change_or_vanish_while_they_are_read(tmp_path):
    source = scans(tmp_path / "in", 4)
    code = (
        "__import__('os').utime(p, (1, 1)) if 's0' in p else __import__('os').remove(p) if 's1' in p else "
        "(__import__('os').remove(p), __import__('os').mkfifo(p)) if 's2' in p else 0"
    )
    report = prepare(source, tmp_path / "out", recipe_of(code), run=RunOptions(timeout=3))
    assert report.prepared == 1
    errors = {row["case"]: row["error"] for row in report.failed}
    assert errors["s0.npz"] == "s0.npz: changed while it was read; run again when it is complete"
    assert errors["s1.npz"].startswith("s1.npz: ")
    assert errors["s2.npz"].startswith("s2.npz: ")


# Odd files and names


def test_what_is_no_file_is_never_opened(tmp_path):
    source = scans(tmp_path / "in", 1)
    (source / "zero.npz").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe.npz")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(source)  # the name of a socket must be short
        server.bind("socket.npz")
        os.chdir(here)
    (source / "nowhere.npz").symlink_to("missing")
    (source / "loop.npz").symlink_to("loop.npz")
    (source / "folder.npz").mkdir()
    (source / "again").symlink_to(".")
    start = time.monotonic()
    report = prepare(source, tmp_path / "out", load_recipe("kspace"))
    assert time.monotonic() - start < 30
    assert report.prepared == 1
    assert {row["error"].partition("; ")[0] for row in report.failed} == {
        "zero.npz: cannot be read (a device, not a file)",
        "pipe.npz: cannot be read (a named pipe, not a file)",
        "socket.npz: cannot be read (a socket, not a file)",
        "nowhere.npz: cannot be read (a link to a file that does not exist)",
        "loop.npz: cannot be read (a link that points to itself)",
        "folder.npz: cannot be read (a folder, not a file)",
    }
    found = dicom_series(source)
    assert len([case for case in found if case.error]) == 5
    os.mkfifo(source / "more.npz")
    (source / "s0.npz").unlink()
    os.mkfifo(source / "s0.npz")  # a case that is there already
    report = prepare(source, tmp_path / "out", load_recipe("kspace"))
    assert "s0.npz: cannot be read (a named pipe, not a file); replace or remove it" in {
        r["error"] for r in report.failed
    }


ODD = (
    b"caf\xe9.npz", b"a#b.npz", b"$x.npz", b"@y.npz", b"%z.npz", b"c:d.npz", b"new\nline.npz", b"quo\"te'.npz", b"-o.npz",
    b"S.npz", b"s.npz", b"n" * 240 + b".npz", b"\x1b[2J.npz", b"{k}.npz", b"sp ace.npz", "ü.npz".encode(), b"a%2Fb.npz",
)  # fmt: skip


@pytest.mark.parametrize("language", [None, pytest.param("C", marks=pytest.mark.slow)])
def test_names_of_any_bytes(tmp_path, capfd, language):
    scans(tmp_path / "one", 1)
    source = tmp_path / "in"
    source.mkdir()
    try:
        for name in ODD:
            shutil.copy(tmp_path / "one" / "s0.npz", os.path.join(os.fsencode(source), name))
    except OSError:
        pytest.skip("this file system does not take such names")
    (Path(os.fsdecode(os.path.join(os.fsencode(source), b"bad\xff\n.npz")))).write_text("junk")
    out = tmp_path / "out"
    arguments = ["prep", str(source), "-o", str(out), "--recipe", "kspace"]
    if language is None:
        code, err = main(arguments), capfd.readouterr().err
    else:
        environment = {**os.environ, "LC_ALL": language, "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-W", "ignore", "-m", "medrecon", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment)
        code, err = done.returncode, done.stderr.decode("ascii")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("medrecon: skipped bad\\udcff\\n.npz: bad\\udcff\\n.npz: ")
    assert {os.fsencode(row["case"]) for row in rows(out)} == set(ODD)
    for item in load_manifest(out):
        assert LoadPreparedd("kspace")(item)["kspace"].shape == (2, 3, 24, 20)
    assert prepare(source, out, load_recipe("kspace")).skipped == len(ODD)


def test_unreadable_files_without_suffix_are_not_passed_over_in_silence(tmp_path, caplog):
    write_series(tmp_path / "a", oblique(), numbers(), "{k}.dcm")
    (tmp_path / "a" / "IM7").write_bytes(bytes(range(256)))
    assert prepare(tmp_path / "a", tmp_path / "out", load_recipe("dicom")).failed == []
    assert any("1 files without suffix were skipped" in record.message for record in caplog.records)
    write_series(tmp_path / "b", oblique(), numbers(), "IM{k}")
    (tmp_path / "b" / "IM7").write_bytes(bytes(range(256)))
    (row,) = prepare(tmp_path / "b", tmp_path / "out2", load_recipe("dicom")).failed
    assert row["message"].startswith("IM7: not DICOM, or damaged")


# People

SECRETS = (b"Doe", b"Jane", b"ID-4711", b"19700101", b"20200102", b"Mueller", b"HANS", b"Who^", b"1.2.3.4.5.6.7")


def patients(folder):
    """A whole series and a damaged one, of files that are called after the patient."""
    base = folder / "Mueller_HANS_19700101"
    write_series(base / "20200102", oblique(), numbers(), "Doe_{k}.dcm", SeriesInstanceUID="1.2.3.4.5.6.7.8")
    write_series(base / "cut", oblique(), numbers(), "Doe_{k}.dcm", SeriesInstanceUID="1.2.3.4.5.6.7.9")
    cut = base / "cut" / "Doe_2.dcm"
    cut.write_bytes(cut.read_bytes()[:-300])
    bad = base / "cut" / "Doe_3.dcm"
    bad.write_bytes(bad.read_bytes()[:400])
    return folder


def test_nobody_is_named(tmp_path, settings_folder, capsys):
    out = tmp_path / "out"
    source = patients(tmp_path / "in")
    assert main(["prep", str(source), "-o", str(out), "--recipe", "dicom"]) == 1
    printed = capsys.readouterr()
    held = everything(out)
    for secret in SECRETS:
        assert secret not in held, secret
    assert str(source).encode() not in held
    for secret in ("ID-4711", "Doe^Jane", "1.2.3.4.5.6.7"):  # values from headers; the owner sees paths
        assert secret not in printed.err + printed.out
    assert "Mueller_HANS_19700101/cut/Doe_3.dcm: damaged DICOM file" in printed.err
    # The owner finds the files.
    (line,) = [text for text in printed.out.splitlines() if "are listed in" in text]
    sources = Path(line.partition("are listed in ")[2].partition(";")[0])
    assert out not in sources.parents
    found = {row["case"]: row["source"] for row in map(json.loads, sources.read_text().splitlines())}
    (row,) = rows(out)
    assert found[row["case"]]["image"][0] == "Mueller_HANS_19700101/20200102/Doe_0.dcm"
    for secret in (sources, settings_folder / "medrecon" / "prep.key"):
        assert secret.stat().st_mode & 0o777 == 0o600


def test_pseudonyms_need_the_key(tmp_path, monkeypatch):
    source = patients(tmp_path / "in")
    recipe = load_recipe("dicom")
    one = prepare(source, tmp_path / "a", recipe, dataset=DatasetOptions(key=tmp_path / "one.key"))
    prepare(source, tmp_path / "b", recipe, dataset=DatasetOptions(key=tmp_path / "one.key"))
    prepare(source, tmp_path / "c", recipe, dataset=DatasetOptions(key=tmp_path / "two.key"))
    a, b, c = (rows(tmp_path / name)[0] for name in "abc")
    assert a == b
    assert a["subject"] != c["subject"]
    assert a["split"] == c["split"]  # by the patient, not by the key
    assert not {str(v) for v in a["source"]["image"]} & {str(v) for v in c["source"]["image"]}
    for wrong in (tmp_path / "two.key", tmp_path / "new.key"):
        with pytest.raises(InputError, match=r"prepared with another key than .*; give that key file .--key."):
            prepare(source, tmp_path / "a", recipe, dataset=DatasetOptions(key=wrong))
    assert not (tmp_path / "new.key").exists()
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert (
        prepare(source, tmp_path / "moved", recipe, dataset=DatasetOptions(key=tmp_path / "one.key")).skipped
        == one.prepared
    )
    with pytest.raises(InputError, match="must not be in the output"):
        prepare(source, tmp_path / "d", recipe, dataset=DatasetOptions(key=tmp_path / "d" / "x.key"))
    (tmp_path / "bad.key").write_text("secret")
    with pytest.raises(InputError, match="not a key"):
        prepare(source, tmp_path / "d", recipe, dataset=DatasetOptions(key=tmp_path / "bad.key"))
    assert not (tmp_path / "d").exists()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(InputError, match=r"there is no home folder.*--key FILE"):
        prepare(source, tmp_path / "d", recipe)
    scans(tmp_path / "k", 1)
    assert prepare(tmp_path / "k", tmp_path / "e", load_recipe("kspace")).prepared == 1  # has no use for one


def test_a_pseudonym_is_an_hmac_of_the_name(tmp_path):
    import hashlib
    import hmac

    (tmp_path / "k").write_text("00" * 32)
    found = Key(tmp_path / "k").pseudonym("subject", "ID-4711")
    assert found == hmac.new(bytes(32), b"subject\0ID-4711", hashlib.sha256).hexdigest()[:16]


def test_a_folder_of_the_last_version_is_not_mixed_with(tmp_path):
    source = patients(tmp_path / "in")
    prepare(source, tmp_path / "out", load_recipe("dicom"))
    path = tmp_path / "out" / "recipe.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in held.items() if k not in ("key", "id")}))
    with pytest.raises(InputError, match="prepared by an older medrecon"):
        prepare(source, tmp_path / "out", load_recipe("dicom"))


def test_the_patient_of_a_raw_file_is_not_named(tmp_path):
    fastmri(tmp_path / "in" / "file1000001.h5", "Doe-4711")
    prepare(tmp_path / "in", tmp_path / "out", load_recipe("fastmri_knee"))
    assert b"4711" not in everything(tmp_path / "out")
    assert rows(tmp_path / "out")[0]["case"] == "file1000001.h5"


def test_files_that_are_called_after_patients(tmp_path):
    scans(tmp_path / "in" / "Doe_Jane", 2)
    recipe = {**recipe_of(), "cases": {**load_recipe("kspace")["cases"], "pseudonyms": True}}
    (tmp_path / "in" / "Doe_Jane" / "bad.npz").write_text("junk")
    report = prepare(tmp_path / "in", tmp_path / "out", recipe)
    assert (report.prepared, len(report.failed)) == (2, 1)
    held = everything(tmp_path / "out")
    assert b"Doe" not in held
    assert b"s0.npz" not in held
    assert [c.split_by for c in files(tmp_path / "in", r".*s0\.npz", pseudonyms=True)] == ["Doe_Jane/s0.npz"]


def test_a_name_is_taken_out_before_a_text_is_cut(tmp_path):
    """An error or a warning of a library with a path that is longer than what is kept of it."""
    scans(tmp_path / "in" / ("x" * 90) / "Doe  Jane" / ("Doe" * 30), 1)
    code = "__import__('warnings').warn(f'look at {p}'), 0"
    recipe = {**recipe_of(code), "cases": {**load_recipe("kspace")["cases"], "pseudonyms": True}}
    assert prepare(tmp_path / "in", tmp_path / "out", recipe).prepared == 1
    assert b"look at" in everything(tmp_path / "out")
    assert b"Doe" not in everything(tmp_path / "out")
    recipe = {**recipe, **recipe_of("open(p + ', which is not there')"), "cases": recipe["cases"]}
    (row,) = prepare(tmp_path / "in", tmp_path / "out2", recipe).failed
    assert "FileNotFoundError" in row["error"]
    assert b"Doe" not in everything(tmp_path / "out2")


def test_a_folder_that_may_not_be_read_is_passed_over_and_a_key_that_cannot_be_made_says_so(
    tmp_path, monkeypatch, caplog
):
    source = scans(tmp_path / "in", 2)
    (source / "lost+found").mkdir()
    number, scandir = [13], os.scandir

    def refusing(path):
        if str(path).endswith("lost+found"):
            raise OSError(number[0], os.strerror(number[0]), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(files(source, r".*\.npz")) == 2
    assert "lost+found: this folder cannot be read (Permission denied)" in caplog.text
    number[0] = 5  # perhaps only now: cases would be incomplete
    with pytest.raises(InputError, match=r"lost\+found: cannot be read \(Input/output error\)"):
        files(source, r".*\.npz")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/key: the key of pseudonyms cannot be written .*; give --key FILE"):
        Key(tmp_path / "file" / "key").pseudonym("file", "a")


def test_texts_without_names():
    pseudonyms = {"Doe Jane/19700101/1.dcm": "0f"}
    source = Path("/data/src")
    for text, plain in (
        ("/data/src/Doe Jane/19700101/1.dcm: damaged", "0f: damaged"),
        ("/data/src/Doe Jane/19700101: slices are missing", "the folder: slices are missing"),
        ("x (could not convert 'DOE^JANE' to float)", "x (could not convert ... to float)"),
        ("x DOE^JANE y", "x ... y"),
        ("series 1.2.840.10008.20200102.1 is odd", "series UID is odd"),
        ("on 1970-01-01 and 20200102", "on DATE and DATE"),
        ("AcquisitionTime (1011, 1012); give AcquisitionTime=1011", "AcquisitionTime; give AcquisitionTime"),
        ("a second series 'low' of 'Doe'", "a second series 'low' of ..."),
        ("2 volumes, which differ in EchoTime (2.3, 4.6)", "2 volumes, which differ in EchoTime (2.3, 4.6)"),
    ):
        assert without_names(text, source, pseudonyms, ["low"]) == plain
    assert without_names("/data/src/Doe Jane/19700101/1.dcm: 'Doe'", source, pseudonyms, for_owner=True) == (
        "Doe Jane/19700101/1.dcm: ..."
    )


# A cluster that dies


def test_a_scheduler_that_does_not_answer_in_time_is_not_taken_for_a_full_disk(monkeypatch):
    distributed = pytest.importorskip("distributed")
    from medrecon.prep import cluster

    class Client:
        status, scheduler, answers = "running", type("", (), {"ncores": None}), [1, 1, None]

        def sync(self, *_, **__):
            if (threads := self.answers.pop(0)) is None:
                raise distributed.TimeoutError
            return {"worker": threads}

        def submit(self, *_, **__):
            return type("", (), {"done": lambda _: False})()

    def wait(*_, **__):
        raise distributed.TimeoutError  # every second, while nothing is done

    monkeypatch.setattr(distributed, "wait", wait)
    with pytest.raises(InputError, match=r"the dask scheduler stopped answering \(TimeoutError: TimeoutError\)"):
        list(cluster.run(Client(), [Task("os:abort", {})], 1.0))
    assert not Client.answers


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_sentence(tmp_path):
    pytest.importorskip("distributed")
    source, out = scans(tmp_path / "in", 40), tmp_path / "out"
    with cluster(tmp_path) as (dask, address):
        process, _ = started(source, out, "--recipe", "kspace", "--set", "maps=false", "--dask", address)
        dask.kill()
    begin = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begin < 90
    assert process.returncode == 2
    assert err.count(b"\n") == 1, err
    assert b"the dask scheduler stopped answering" in err
    assert prepare(source, out, load_recipe("kspace", {"maps": False})).skipped >= 2
    assert len(rows(out)) == 40


def test_what_earlier_runs_said_of_sources_is_never_replaced_unread(tmp_path):
    """Files that are gone by now stand there alone."""
    key = Key(tmp_path / "key")
    path = write_sources(key, "id", {"a": {"image": "gone.dcm"}})
    assert write_sources(key, "id", {"b": {"image": "b.dcm"}}) == path
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text(damaged := path.read_text()[:-9])
    with pytest.raises(InputError, match=r"cannot be read .*; restore it, or move it away"):
        write_sources(key, "id", {"c": {"image": "c.dcm"}})
    assert path.read_text() == damaged
