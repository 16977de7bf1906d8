"""Files that appear whole: nothing of others is replaced or removed, nothing is lost by a kill, nothing hidden stays."""

import errno
import hashlib
import itertools
import json
import os
import resource
import stat
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import medrecon.data.files as files
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.files import check_writable, new_file, read_sidecar, recover, write_atomically
from medrecon.data.scan import Geometry
from medrecon.formats import load_image
from medrecon.writers import Output, check
from tests.attacks.kill import child
from tests.make.dicom import oblique
from tests.make.outputs import write_volume

pytestmark = pytest.mark.skipif(os.name == "nt", reason="nothing is locked on Windows")
RECORD = {"input": "x.h5", "warnings": []}


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a file system: what is synced there costs no time."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def no_links(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


# Killed at any moment


NEW = {"scan/1.dcm": b"new 1", "scan/2.dcm": b"new 2", "scan.json": b"new sidecar"}
OLD = {"scan/1.dcm": b"old 1", "scan/2.dcm": b"old 2", "scan/3.dcm": b"old 3", "scan.json": b"old sidecar"}


def write_new(folder, overwrite):
    def leftovers():
        return {folder / "scan/3.dcm": hashlib.sha256(b"old 3").hexdigest()}

    contents = {folder / name: content for name, content in NEW.items()}
    write_atomically(contents, overwrite, folder, {folder / "shared.txt": b"shared"}, leftovers if overwrite else None)
    return 0


SLOW = pytest.mark.slow


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of a fork beside threads; the child makes system calls alone
@pytest.mark.parametrize(
    ("overwrite", "links", "every"),
    [
        (False, True, 4),
        (True, True, 4),
        (False, False, 6),
        *(pytest.param(overwrite, links, 1, marks=SLOW) for overwrite in (False, True) for links in (False, True)),
    ],
)
def test_a_kill_at_any_call_leaves_the_old_files_or_the_new(tmp_path, monkeypatch, overwrite, links, every):
    """A process is killed before, after, or amid every single call that it makes; then another file is written there."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    log = tmp_path / "log"
    (tmp_path / "whole").mkdir()
    _, calls, _ = child(lambda: write_new(tmp_path / "whole", overwrite), log, count=True)
    assert calls > 30, log.read_text()
    ends = set()
    moments = list(itertools.product(range(1, calls + (15 if overwrite else 1)), (False, True)))
    for kill_at, after in moments[1::every]:
        folder = tmp_path / f"{kill_at}{after}"
        (folder / "scan").mkdir(parents=True)
        old = OLD if overwrite else {}
        for name, content in {**old, ".medrecon-mine": b"mine"}.items():
            (folder / name).write_bytes(content)
        code, _, _ = child(lambda f=folder: write_new(f, overwrite), log, kill_at=kill_at, after=after)
        assert code in (0, -9), log.read_text()
        seen = tree(folder)
        for name in OLD.keys() | NEW.keys():
            allowed = {old.get(name), NEW.get(name)} | ({b""} if not links else set())
            assert seen.get(name) in allowed | ({None} if not overwrite or name == "scan/3.dcm" else set())
        write_atomically({folder / "next.bin": b"next"})
        held = tree(folder)
        assert held.pop("next.bin") == b"next"
        assert held.pop(".medrecon-mine") == b"mine"  # of somebody else
        shared = held.pop("shared.txt", None)
        assert held in (old, NEW)
        assert shared == b"shared" if held == NEW else shared is None
        ends.add(held == NEW)
    assert ends == {False, True}


def test_leftovers_of_the_living_and_of_other_machines_stay(tmp_path, monkeypatch):
    with files._new_set(tmp_path) as live:
        part, descriptor = live.new(0, tmp_path / "a", False)
        os.close(descriptor)
        recover(tmp_path)
        assert part.exists()  # its process lives
    assert list(tmp_path.iterdir()) == []
    own, name = files._host(), "0" * 16
    dead = tmp_path / f".medrecon-{own}-{name}-0.part"
    after_a_boot = tmp_path / f".medrecon-{own[:8]}{'0' * 8}-{name}-0.part"
    foreign, old = (tmp_path / f".medrecon-{'0' * 16}-{digit * 16}-0.part" for digit in "12")
    others = [tmp_path / f".medrecon-{own}-{name}-0.part~", tmp_path / ".medrecon-x.part", tmp_path / ".x.123.part"]
    for path in (dead, after_a_boot, foreign, old, *others):
        path.write_text("x")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    (tmp_path / "precious").write_text("x")
    link = tmp_path / f".medrecon-{own}-{'3' * 16}-0.part"
    link.symlink_to(tmp_path / "precious")
    recover(tmp_path)
    assert set(tmp_path.iterdir()) == {foreign, *others, link, tmp_path / "precious"}


def test_a_forged_journal_changes_nothing_outside_its_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    digest = hashlib.sha256(b"forged").hexdigest()
    name = f".medrecon-{files._host()}-{'0' * 16}"
    for target in ("../outside.txt", str(outside)):
        part = home / f"{name}-0.part"
        part.write_bytes(b"forged")
        entry = {"part": part.name, "target": target, "digest": digest, "inode": [0, 0], "replace": True}
        held = {"entries": [entry], "remove": {target: hashlib.sha256(b"mine").hexdigest()}}
        (home / f"{name}.run").write_text(json.dumps(held))
        recover(home)
        assert outside.read_text() == "mine"
        assert list(home.iterdir()) == []


def test_what_the_user_changed_after_a_kill_stays(tmp_path):
    """A journal whose targets are no longer as they were is not followed."""
    folder, log = tmp_path / "out", tmp_path / "log"
    seen = set()
    for kill_at in range(30, 60, 3):
        (folder / "scan").mkdir(parents=True, exist_ok=True)
        for name, content in OLD.items():
            (folder / name).write_bytes(content)
        child(lambda: write_new(folder, True), log, kill_at=kill_at)
        changed = folder / "scan" / "2.dcm"
        changed.unlink()
        changed.write_bytes(b"the user's")
        recover(folder)
        held = tree(folder)
        assert held["scan/2.dcm"] == b"the user's"
        assert not [name for name in held if ".medrecon" in name]
        seen.add((held["scan/1.dcm"], held["scan.json"]))
    assert seen <= {(b"old 1", b"old sidecar"), (b"new 1", b"new sidecar")}
    assert len(seen) == 2


# Several runs at once


@pytest.mark.parametrize("links", [True, False])
def test_of_two_runs_into_one_name_the_second_is_refused(tmp_path, monkeypatch, links):
    """Both have found the name free; the content is the same, so nothing but the name says whose it is."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    contents = {tmp_path / "out" / "x.nii.gz": b"image", tmp_path / "out" / "x.json": b"sidecar"}
    start = files._publish

    def first_the_other(*arguments):
        monkeypatch.setattr(files, "_publish", start)
        write_atomically(contents)
        start(*arguments)

    monkeypatch.setattr(files, "_publish", first_the_other)
    with pytest.raises(InputError, match=r"x\.nii\.gz: was created by another run meanwhile"):
        write_atomically({**contents, tmp_path / "out" / "x.json": b"another sidecar"})
    assert tree(tmp_path) == {"out/x.json": b"sidecar", "out/x.nii.gz": b"image"}


def test_many_threads_into_one_new_folder(tmp_path):
    """Folders that one run makes and, refused, removes again, are those of the others too."""
    failed = []

    def one(k):
        folder = tmp_path / "a" / "b" / "out"
        try:
            write_atomically(
                {folder / f"s{k}" / "1.dcm": b"1", folder / f"s{k}.json": b"2"}, False, folder, {folder / "d": b"d"}
            )
        except InputError as error:
            failed.append(error)
        try:
            write_atomically({folder / "same" / "1.dcm": b"1", folder / "same.json": str(k).encode()}, False, folder)
        except InputError as error:
            assert "another run" in str(error) or "already exists" in str(error)
        else:
            won.append(k)

    for turn in range(3):
        won = []
        threads = [threading.Thread(target=one, args=(f"{turn}-{k}",)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(won) == (turn == 0)
    held = tree(tmp_path / "a" / "b" / "out")
    assert len(held) == 2 * 24 + 2 + 1
    assert not [name for name in held if name.startswith(".")]


# Targets of every kind


def test_permissions_links_and_special_files(tmp_path):
    mask = os.umask(0o027)
    try:
        write_atomically({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    (tmp_path / "a").chmod(0o600)
    write_atomically({tmp_path / "a": b"3"}, overwrite=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600  # what was private stays so
    (tmp_path / "a").chmod(0o444)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to("b")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name, overwrite, message in (
        ("a", True, "is read-only"),
        ("dangling", False, "already exists"),
        ("link", False, "already exists"),
        ("fifo", True, "is not a regular file"),
        ("folder", True, "a folder has this name"),
        ("b/c", False, "Not a directory"),
        ("dangling/c", False, "cannot be written"),
        (f"{'x' * 300}/c", False, "File name too long"),
    ):
        for call in (lambda p, o: check_writable([p], o), lambda p, o: write_atomically({p: b""}, o)):
            with pytest.raises(InputError, match=message):
                call(tmp_path / name, overwrite)
    write_atomically({tmp_path / "link": b"4", tmp_path / "dangling": b"5"}, overwrite=True)
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "b").read_bytes() == b"2"  # what the link pointed to
    assert not (tmp_path / "nowhere").exists()
    long = tmp_path / ("x" * 255)
    write_atomically({long: b"6"})
    assert long.read_bytes() == b"6"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_is_full_amid_a_file(tmp_path, overwrite):
    """A real limit on the size of files (the system's EFBIG stands for ENOSPC)."""
    contents = {tmp_path / "out" / "a": b"x" * 1000, tmp_path / "out" / "b": b"x" * 100_000}
    if overwrite:
        write_atomically(dict.fromkeys(contents, b"old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(InputError, match=r"b: could not be written \(File too large\)"):
            write_atomically(contents, overwrite)
        with pytest.raises(OSError, match="File too large"), new_file(tmp_path / "out" / "c") as part:
            part.write_bytes(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == ({"out/a": b"old", "out/b": b"old"} if overwrite else {})
    assert (tmp_path / "out").exists() == overwrite


def test_a_folder_on_another_file_system(tmp_path, monkeypatch):
    """As a bundle's folder of weights may be: there a copy appears, by a link again."""
    real = {name: getattr(os, name) for name in ("link", "replace")}

    def crossing(name):
        def call(source, target, **more):
            if ("/far/" in str(source)) != ("/far/" in str(target)):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real[name](source, target, **more)

        return call

    for name in real:
        monkeypatch.setattr(os, name, crossing(name))
    contents = {tmp_path / "far" / "model.pt": b"1", tmp_path / "metadata.json": b"2"}
    write_atomically(contents)
    with pytest.raises(InputError, match="already exists"):
        write_atomically(contents)
    write_atomically(dict.fromkeys(contents, b"new"), overwrite=True)
    assert tree(tmp_path) == {"far/model.pt": b"new", "metadata.json": b"new"}


# What --overwrite removes


def image(slices=3):
    return np.random.default_rng(0).random((slices, 12, 10)).astype(np.float32)


def write(folder, stem, fmt, slices=3, **more):
    return write_volume(
        folder, stem, image(slices), RECORD, spacing=(3.0, 1.0, 1.0), fmt=fmt, affine=oblique(), overwrite=True, **more
    )


@pytest.mark.parametrize("fmt", ["nifti", "h5", "dicom", "mrd", "png"])
@pytest.mark.parametrize("before", ["nifti", "h5", "dicom", "mrd", "png", "mag-phase"])
def test_overwriting_removes_what_the_old_sidecar_lists_and_nothing_else(tmp_path, before, fmt):
    stem = "P[1]"
    mine = {"P1_001.png", "P[1]_notes.png", "P[1]_7.png", "P[1]/0009.dcm", "P[1].png.bak", "P1.nii.gz", "P[1]_old.json"}
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    if before == "mag-phase":
        old = write(
            tmp_path, stem, "nifti", 4, phase=image(4), part="mag-phase", samples=image(8).reshape(2, 4, 12, 10)
        )
    else:
        old = write(tmp_path, stem, before, 4)
    new = write(tmp_path, stem, fmt)
    assert set(tree(tmp_path)) == mine | {p.relative_to(tmp_path).as_posix() for p in new}
    record = json.loads(new[-1].read_text())
    assert record["sha256"] == {
        p.relative_to(tmp_path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in new[:-1]
    }
    assert old[-1] == new[-1]


def test_overwriting_spares_what_is_not_as_it_was_written(tmp_path, caplog):
    first, second, *_, sidecar = write(tmp_path, "x", "png")
    first.write_bytes(b"the user's own")
    second.unlink()
    second.symlink_to(tmp_path / "elsewhere")
    held = json.loads(sidecar.read_text())
    digest = hashlib.sha256(b"mine").hexdigest()
    outside = (
        "../mine.png",
        str(tmp_path.parent / "mine.png"),
        "y.png",
        "notes.txt",
        "link/0001.dcm",
        "x/../y.png",
        "x/0001.dcm",
    )
    (tmp_path.parent / "mine.png").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "0001.dcm").write_text("mine")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "x").symlink_to("real")  # the name of our folder of slices, but not our folder
    for name in ("y.png", "notes.txt"):
        (tmp_path / name).write_text("mine")
    held["files"] += outside
    held["sha256"] |= dict.fromkeys(outside, digest)
    sidecar.write_text(json.dumps(held))
    before = {k: v for k, v in tree(tmp_path).items() if k not in ("x.json", "x_002.png")}
    write(tmp_path, "x", "h5")
    after = tree(tmp_path)
    assert after.keys() == {*before, "x.json", "x.h5"}
    assert {k: after[k] for k in before} == before
    assert second.is_symlink()
    assert (tmp_path.parent / "mine.png").read_text() == "mine"
    assert "x_000.png: was kept, since it differs from what x.json describes" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"files": 3}', '{"files": [3], "sha256": []}', "[" * 100_000, "\udcff"]
)
def test_a_sidecar_that_is_none_removes_nothing(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "x_000.png").write_text("mine")
    write(tmp_path, "x", "h5")
    assert (tmp_path / "x_000.png").read_text() == "mine"


def test_a_sidecar_of_a_version_without_checksums_removes_nothing_but_says_so(tmp_path, caplog):
    *pictures, sidecar = write(tmp_path, "x", "png")
    held = json.loads(sidecar.read_text())
    del held["sha256"]
    sidecar.write_text(json.dumps(held))
    write(tmp_path, "x", "h5")
    assert all(path.exists() for path in pictures)
    assert caplog.text.count("was written without checksums") == 3


def test_slices_called_like_another_scan_do_not_replace_it(tmp_path):
    other = write(tmp_path, "P1_001", "png", 1)[0]
    before = other.read_bytes()
    with pytest.raises(InputError, match=r"P1_001\.png: belongs to P1_001\.json; choose another output folder"):
        check(Output(folder=tmp_path, stem="P1", format="png"), slices=3, samples=False, geometry=Geometry())
    with pytest.raises(InputError, match=r"belongs to P1_001\.json"):
        write(tmp_path, "P1", "png")
    assert other.read_bytes() == before
    write(tmp_path, "P1_001", "png", 1)  # itself is replaced
    assert sorted(tree(tmp_path)) == ["P1_001.json", "P1_001.png"]


def test_bids_names_with_other_parts_leave_one_sidecar(tmp_path, caplog):
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("mine")
    bids = {"bids": "sub-01_rec-x_T1w"}
    write(tmp_path, "x", "nifti", phase=image(), part="mag-phase", **bids)
    new = write(tmp_path, "x", "nifti", **bids)
    found = {tmp_path / name for name in tree(tmp_path)}
    assert found == {*new, tmp_path / "dataset_description.json", tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz"}
    new[0].write_bytes(b"changed")
    write(tmp_path, "x", "nifti", phase=image(), part="mag-phase", **bids)
    assert new[0].read_bytes() == b"changed"
    assert new[-1].exists()  # it says what that file was
    assert "was kept, since it differs from what" in caplog.text


def test_an_image_beside_the_sidecar_of_another_run_is_noticed(scan, tmp_path, capsys):
    path, _ = scan()
    out = tmp_path / "o"
    base = ["recon", str(path), "-o", str(out), "--overwrite", "--solver"]
    assert main([*base, "zero-filled"]) == 0
    assert load_image(out / "scan.nii.gz").warnings == ()
    old = (out / "scan.json").read_bytes()
    assert main([*base, "cg-sense"]) == 0
    (out / "scan.json").write_bytes(old)
    text = "is not the image that scan.json describes"
    assert [text in w for w in load_image(out / "scan.nii.gz").warnings] == [True]
    main(["evaluate", str(out / "scan.nii.gz"), "--reference", str(path)])
    assert text in capsys.readouterr().err


def test_undersampling_into_one_name_twice(scan, tmp_path, monkeypatch, capsys):
    """The command line: one sentence, exit code 2."""
    path, _ = scan(full=True)
    command = ["undersample", str(path), "-o", str(tmp_path / "u.h5"), "--accel", "2", "--acs", "8"]
    monkeypatch.setattr(files, "check_writable", lambda *_: None)
    assert main(command) == 0
    before = Path(tmp_path / "u.h5").read_bytes()
    monkeypatch.setattr("medrecon.data.files.check_writable", lambda *_: None)
    capsys.readouterr()
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "u.h5: was created by another run meanwhile" in err
    assert err.count("\n") == 1
    assert (tmp_path / "u.h5").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not say which file a descriptor is of")
@pytest.mark.parametrize("overwrite", [False, True])
def test_everything_is_synced_in_the_order_that_a_power_cut_needs(tmp_path, monkeypatch, overwrite):
    """Contents and journal before any name; names of images before the sidecar's; that at last."""
    contents = {tmp_path / "s" / "1.dcm": b"1", tmp_path / "s" / "2.dcm": b"2", tmp_path / "s.json": b"3"}
    if overwrite:
        write_atomically(dict.fromkeys(contents, b"old"), home=tmp_path)
    calls = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace")}

    def sync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("sync", ".run" if name.endswith(".run") else Path(name).suffix or Path(name).name))
        real["fsync"](descriptor)

    def appear(name):
        def call(source, target, **more):
            if not str(target).endswith(".old"):
                calls.append(("name", Path(target).name))
            real[name](source, target, **more)

        return call

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, appear(name))
    write_atomically(contents, overwrite, tmp_path)
    calls = [call for call in calls if call != ("sync", tmp_path.parent.name)]
    home = ("sync", tmp_path.name)
    start = calls.index(("sync", ".part"))
    assert calls[start:] == [
        *[("sync", ".part")] * 3, ("sync", ".run"), home, ("name", "1.dcm"), ("name", "2.dcm"), ("sync", "s"),
        ("name", "s.json"), home,
    ]  # fmt: skip


def test_outputs_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    first, second = tmp_path / "new" / "deep" / "a.bin", tmp_path / "new" / "deep" / "b.bin"
    write_atomically({first: b"1", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted(p.name for p in first.parent.iterdir()) == ["a.bin", "b.bin"]
    with pytest.raises(InputError, match=r"a\.bin.*--overwrite"):
        write_atomically({first: b"3"})
    write_atomically({first: b"3"}, overwrite=True)
    assert first.read_bytes() == b"3"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically({tmp_path / "other" / "c.bin": b"4"})
    with pytest.raises(InputError, match="No space left"):
        write_atomically({first: b"5"}, overwrite=True)
    assert not (tmp_path / "other").exists()
    assert first.read_bytes() == b"3"
    assert sorted(p.name for p in first.parent.iterdir()) == ["a.bin", "b.bin"]


def test_a_failed_rename_takes_the_others_back(tmp_path, monkeypatch):
    real = {name: getattr(os, name) for name in ("link", "replace")}

    def failing(name):
        def call(source, target, **more):
            if str(target).endswith("b.bin"):
                raise OSError(5, "Input/output error")
            real[name](source, target, **more)

        return call

    def second_fails(patch):
        for name in real:
            patch.setattr(os, name, failing(name))

    contents = {tmp_path / "new" / "a.bin": b"1", tmp_path / "new" / "b.bin": b"2"}
    with monkeypatch.context() as patch, pytest.raises(InputError, match="Input/output error"):
        second_fails(patch)
        write_atomically(contents)
    assert list(tmp_path.iterdir()) == []
    write_atomically(contents)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="Input/output error"):
        second_fails(patch)
        write_atomically({path: b"new" for path in contents}, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"a.bin": b"1", "b.bin": b"2"}


def test_replacing_a_file_never_leaves_its_name_empty(tmp_path, monkeypatch):
    """A process may be killed between any two calls: the name must always hold the old content or the new."""
    path = tmp_path / "latest.pt"
    write_atomically({path: b"old"})
    real = {name: getattr(os, name) for name in ("replace", "rename", "link", "unlink")}

    def watched(name):
        def call(*args, **kwargs):
            assert path.read_bytes() in (b"old", b"new")
            out = real[name](*args, **kwargs)
            assert path.read_bytes() in (b"old", b"new")
            return out

        return call

    for name in real:
        monkeypatch.setattr(os, name, watched(name))
    write_atomically({path: b"new"}, overwrite=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["latest.pt"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically({tmp_path / "file" / "a.bin": b"1"})


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"files": "a"}', b'{"file": []}', b"\xff\xfe", b"[" * 100_000, b"9" * 5000, None]
)
def test_other_files_are_no_sidecars(tmp_path, content):
    path = tmp_path / "a.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert read_sidecar(path) is None


def test_a_sidecar_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"files": ["a.nii.gz"], "x": 1}')
    assert read_sidecar(tmp_path / "a.json") == {"files": ["a.nii.gz"], "x": 1}
    assert read_sidecar(tmp_path / "b.json") is None
