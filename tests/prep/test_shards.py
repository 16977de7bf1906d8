"""Checksums of shards and rows: damage is found when they are read, and only damage removes a staged case."""

import errno
import json
import os
import resource
import shutil

import h5py
import numpy as np
import pytest

import medrecon.prep.shards as shards
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.prep import LoadPreparedd, load_manifest
from medrecon.prep.shards import check_staged, pack, read_rows, stage, staged_path, write_lines


def array(k):
    return np.random.default_rng(k).normal(size=(4, 20, 30)).astype(np.complex64)


def row(case):
    about = {"shape": [4, 20, 30], "dtype": "complex64", "affine_known": False, "affine": None, "spacing_mm": None}
    return {"case": case, "subject": case, "split": "train", "source": {}, "arrays": {"image": about, "noise_std": {}}}


def staged(folder, cases, compression=None):
    for k, case in enumerate(cases):
        held = {"image": array(k), "noise_std": np.float32(k)}
        stage(staged_path(folder, case), held, row(case), compression)
    return folder


def packed(folder, cases=("a/1.npz", "b", "c"), compression=None):
    """Shards of one case each, with a manifest."""
    staged(folder, cases, compression)
    pack(folder, read_rows(folder)[1], 1)
    write_lines(folder / "manifest.jsonl", list(read_rows(folder)[0].values()))
    return folder


def flip(path, at):
    """Turn over one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_one_bit_of_an_array_is_noticed_when_it_is_read(tmp_path, compression):
    items = load_manifest(packed(tmp_path, compression=compression))
    load = LoadPreparedd(["image", "noise_std"])
    for k, item in enumerate(items):
        assert np.array_equal(load(item)["image"].numpy(), array(k))
    shard = tmp_path / items[1]["shard"]
    with h5py.File(shard) as file:
        dataset = file["b/image"]
        where = dataset.id.get_chunk_info(0).byte_offset if compression else dataset.id.get_offset()
    flip(shard, where + 1000)
    with pytest.raises(
        InputError, match=r"train-00001\.h5: damaged shard .* move it away and run 'medrecon prep' again"
    ):
        load(items[1])
    assert np.array_equal(load(items[2])["image"].numpy(), array(2))


def test_arrays_of_another_case_or_shape_are_noticed(tmp_path):
    items = load_manifest(packed(tmp_path))
    with h5py.File(items[1]["prepared"], "r+") as file:
        del file["b/image"]
        file["b/image"] = array(1).reshape(8, 10, 30)  # the same bytes
    with pytest.raises(InputError, match="checksum of array 'image' differs"):
        LoadPreparedd("image")(items[1])
    with h5py.File(items[1]["prepared"], "r+") as file:
        del file["b/image"]
    with pytest.raises(InputError, match="array 'image' is missing"):
        LoadPreparedd("image")(items[1])
    with h5py.File(items[1]["prepared"], "r+") as file:
        del file["b"]
    with pytest.raises(InputError, match="case b is missing"):
        LoadPreparedd("image")(items[1])


def test_a_manifest_that_is_not_of_its_shards_is_noticed(tmp_path):
    item, other, _ = load_manifest(packed(tmp_path))
    about = {**item["arrays"]["image"], "affine_known": True, "affine": np.eye(4).tolist()}
    for arrays in ({**item["arrays"], "image": about}, other["arrays"]):
        with pytest.raises(InputError, match=r"its description of 'image' of a/1\.npz differs from the manifest"):
            LoadPreparedd("image")({**item, "arrays": arrays})
    for line in ("[]", "{}", "3", '{"case": "a", "split": "train"}', "[" * 100_000):
        (tmp_path / "manifest.jsonl").write_text(f"{line}\n")
        with pytest.raises(InputError, match="damaged manifest"):
            load_manifest(tmp_path)


def test_a_changed_row_is_noticed(tmp_path):
    packed(tmp_path)
    path = tmp_path / "shards" / "train-00001.h5"
    with h5py.File(path, "r+") as file:
        file["b"].attrs["row"] = file["b"].attrs["row"].replace("train", "test")
    with pytest.raises(InputError, match=r"train-00001\.h5: damaged shard \(the checksum of a row differs\)"):
        read_rows(tmp_path)


def test_a_damaged_staged_case_is_prepared_again(tmp_path):
    staged(tmp_path, ["a", "b", "c"])
    with h5py.File(staged_path(tmp_path, "a")) as file:
        where = file["noise_std"].id.get_offset()
    flip(staged_path(tmp_path, "a"), where)
    with h5py.File(staged_path(tmp_path, "b"), "r+") as file:
        file["image"][0, 0, 0] = 1
    check_staged(tmp_path)
    assert sorted(read_rows(tmp_path)[1]) == ["c"]
    for content in (b"", b"junk", staged_path(tmp_path, "c").read_bytes()[:3000]):
        staged_path(tmp_path, "a").write_bytes(content)
        assert sorted(read_rows(tmp_path)[1]) == ["c"]
        assert not staged_path(tmp_path, "a").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
def test_only_damage_removes_a_staged_case(tmp_path, monkeypatch, number):
    """A disk that fails to read for once, permissions, open files: what is staged may be whole."""
    staged(tmp_path, ["a"])
    before = staged_path(tmp_path, "a").read_bytes()

    def failing(*_, **__):
        raise OSError(number, "Unable to synchronously open file (...)")

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", failing)
        for call in (check_staged, read_rows):
            with pytest.raises(InputError, match=f"cannot be read now .{os.strerror(number)}"):
                call(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "checksum", lambda _: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(InputError, match="cannot be read now"):
            check_staged(tmp_path)
    assert staged_path(tmp_path, "a").read_bytes() == before


def test_too_many_open_files_remove_nothing(tmp_path):
    """The real limit."""
    staged(tmp_path, ["a"])
    check_staged(tmp_path)  # whatever is imported on first use
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        with pytest.raises((InputError, OSError), match="Too many open files"):
            check_staged(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(read_rows(tmp_path)[1]) == ["a"]


def test_stray_files_among_shards(tmp_path):
    packed(tmp_path)
    folder = tmp_path / "shards"
    expected = read_rows(tmp_path)[0]
    for name in ("notes.txt", "train-x.h5", "train.h5", "mine-00000.h5", "train-00001 (copy).h5", "train-1.h5"):
        (folder / name).write_text("mine")
    assert read_rows(tmp_path)[0] == expected
    staged(tmp_path, ["d"])
    (tmp_path / ".staged" / "notes.h5").write_text("mine")
    (tmp_path / ".staged" / "x").mkdir()
    pack(tmp_path, read_rows(tmp_path)[1], 1)
    assert (folder / "train-00003.h5").is_file()
    assert (tmp_path / ".staged" / "notes.h5").read_text() == "mine"
    for make in (
        lambda path: path.mkdir(),
        lambda path: path.write_text("junk"),
        os.mkfifo,  # opening it would wait for ever
        lambda path: h5py.File(path, "w").close() or h5py.File(path, "a").create_dataset("x", data=1).file.close(),
        lambda path: h5py.File(path, "w").create_group("x").file.close(),
        lambda path: shutil.copy(staged(tmp_path / "z", ["q"]) / ".staged" / staged_path(tmp_path, "q").name, path),
    ):
        path = folder / "val-00007.h5"
        make(path)
        with pytest.raises(InputError, match=r"val-00007\.h5: damaged shard \(.*\); move it away") as caught:
            read_rows(tmp_path)
        assert "\n" not in str(caught.value)
        path.rmdir() if path.is_dir() else path.unlink()


def test_shards_of_the_version_before_are_read_with_a_note(tmp_path, caplog):
    packed(tmp_path)
    items = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    for item in items:
        for about in item["arrays"].values():
            about.pop("sha256")
        path = tmp_path / item.pop("shard")
        with h5py.File(path, "r+") as file:
            (group,) = file.values()
            group.attrs["row"] = json.dumps(item)
            del group.attrs["row_sha256"]
    held, _ = read_rows(tmp_path)
    assert sorted(held) == ["a/1.npz", "b", "c"]
    write_lines(tmp_path / "manifest.jsonl", list(held.values()))
    found = load_manifest(tmp_path)
    assert "3 of 3 cases were prepared by a version without checksums" in caplog.text
    for k, item in enumerate(found):
        assert np.array_equal(LoadPreparedd("image")(item)["image"].numpy(), array(k))


def test_staged_files_are_synced_before_they_get_their_name(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        calls.append(("sync", os.fstat(descriptor).st_ino))
        real_sync(descriptor)

    def rename(source, target):
        calls.append(("rename", os.stat(source).st_ino))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    staged(tmp_path, ["a"])
    inode = staged_path(tmp_path, "a").stat().st_ino
    assert calls.index(("sync", inode)) < calls.index(("rename", inode))
    folder = (tmp_path / ".staged").stat().st_ino
    assert ("sync", folder) in calls[calls.index(("rename", inode)) :]


def test_a_damaged_shard_that_was_moved_away_is_made_again(tmp_path, capsys):
    """What the sentence advises leads to a whole data set."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(3):
        np.savez(source / f"s{k}.npz", kspace=array(k)[:, None] + 1)
    command = ["prep", str(source), "-o", str(out), "--recipe", "kspace", "--split", "1"]
    assert main(command) == 0
    whole = [LoadPreparedd("kspace")(item)["kspace"].numpy() for item in load_manifest(out)]
    shard = out / "shards" / "train-00000.h5"
    shard.write_bytes(shard.read_bytes()[:5000])
    assert main(command) == 2
    assert "train-00000.h5: damaged shard" in capsys.readouterr().err
    shard.rename(tmp_path / "away.h5")
    assert main(command) == 0
    again = [LoadPreparedd("kspace")(item)["kspace"].numpy() for item in load_manifest(out)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    assert not [name for name in os.listdir(out) if name.startswith(".")]
