"""Finished parts of a run: kept after an error, never mixed, never used if damaged, removed at the end."""

import numpy as np
import pytest

import medrecon
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.parts import KeptParts, kept_parts
from medrecon.formats import load, save_fastmri
from medrecon.reconstruction import plan
from medrecon.slabs import memory_of

from ..make.toys import cartesian, columns


def hidden(folder):
    return sorted(one.name for one in folder.rglob("*") if one.name.startswith(".")) if folder.exists() else []


def test_parts_are_kept_after_an_error_and_removed_at_the_end(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), kept_parts(out, "a", "request") as parts:
        parts.save(0, b"first")
        raise KeyboardInterrupt
    with kept_parts(out, "a", "request") as parts:
        assert parts.load(0) == b"first"
        assert parts.load(1) is None
        parts.save(1, b"second")
        parts.save(0, b"again")
        assert (parts.load(0), parts.load(1)) == (b"again", b"second")
    assert list(out.iterdir()) == []


def test_another_request_finds_nothing_and_clears_what_was_left(tmp_path):
    with pytest.raises(ZeroDivisionError), kept_parts(tmp_path, "a", "old") as parts:
        parts.save(0, b"old")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), kept_parts(tmp_path, "b", "old") as parts:
        parts.save(0, b"of another image")
        raise ZeroDivisionError
    with kept_parts(tmp_path, "a", "new") as parts:
        assert parts.load(0) is None
    with kept_parts(tmp_path, "b", "old") as parts:
        assert parts.load(0) == b"of another image"
    assert hidden(tmp_path) == []


def test_an_error_before_the_first_part_leaves_nothing(tmp_path):
    with pytest.raises(InputError), kept_parts(tmp_path / "out", "a", "request"):
        raise InputError("the reconstruction diverged")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_image_are_refused(tmp_path):
    with kept_parts(tmp_path, "a", "request") as parts:
        parts.save(0, b"mine")
        second = kept_parts(tmp_path, "a", "another request")
        with pytest.raises(InputError, match="a: another run is reconstructing this volume; wait for it"), second:
            pass
        assert len(hidden(tmp_path)) == 2  # parts and lock of the first run
        with kept_parts(tmp_path, "b", "request") as other:
            assert other.load(0) is None
        assert parts.load(0) == b"mine"


def test_a_refused_run_does_not_harm_the_one_that_runs(tmp_path):
    """It removes the folder, which is empty before the first part; the part is stored nevertheless."""
    with pytest.raises(ZeroDivisionError), kept_parts(tmp_path, "a", "request") as parts:
        with pytest.raises(InputError, match="another run"), kept_parts(tmp_path, "a", "request"):
            pass
        parts.save(0, b"mine")
        raise ZeroDivisionError
    with kept_parts(tmp_path, "a", "request") as parts:
        assert parts.load(0) == b"mine"


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + b"X" + b[41:], lambda b: b + b"0"]
)
def test_damaged_parts_are_not_used(tmp_path, change):
    parts = KeptParts(tmp_path)
    parts.save(0, bytes(range(100)))
    path = tmp_path / "part-0"
    path.write_bytes(change(path.read_bytes()))
    assert parts.load(0) is None


@pytest.fixture
def head(tmp_path):
    scan, _, _ = cartesian(slices=14, mask=columns(), noise=0.01)
    save_fastmri(tmp_path / "head.h5", scan)
    planned = plan(load(tmp_path / "head.h5"), solver="cg-sense", volume=True)
    limit = repr(memory_of(planned.problem, 1).of(10) / 1e9)
    options = ["--solver", "cg-sense", "--volume", "--noise-std", "0.01"]
    return tmp_path / "head.h5", [*options, "--max-memory", limit]


def test_a_run_that_was_stopped_goes_on(head, tmp_path, monkeypatch):
    """The command again: only the missing slabs are computed, and nothing is left but the image, which is the same."""
    path, options = head
    run = ["recon", str(path), "-o", str(tmp_path / "out"), *options]
    saved, save = [], KeptParts.save

    def stop(self, index, content):
        save(self, index, content)
        saved.append(index)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptParts, "save", stop)
    assert main(run) == 130
    assert [name for name in hidden(tmp_path / "out") if not name.endswith(".lock")]
    assert saved == [0]
    assert main(run) == 0
    assert saved == list(range(len(saved)))
    assert len(saved) > 1
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["head.json", "head.nii.gz"]
    whole = medrecon.reconstruct(path, solver="cg-sense", volume=True, noise_std=0.01).image
    import nibabel as nib

    image = np.asarray(nib.load(tmp_path / "out" / "head.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.allclose(image, whole, atol=1e-5 * whole.max())


def test_slabs_of_a_changed_scan_are_not_used(head, tmp_path, monkeypatch):
    path, options = head
    run = ["recon", str(path), "-o", str(tmp_path / "out"), *options]
    save, saved = KeptParts.save, []

    def stop(self, index, content):
        save(self, index, content)
        saved.append(index)
        if len(saved) == 1:
            raise OSError(5, "broken")

    monkeypatch.setattr(KeptParts, "save", stop)
    assert main(run) == 2
    scan, _, _ = cartesian(slices=14, mask=columns(), noise=0.01, seed=7)
    path.unlink()
    save_fastmri(path, scan)
    assert main(run) == 0
    assert saved[1:] == list(range(len(saved) - 1))  # from the first slab on
    assert hidden(tmp_path / "out") == []
