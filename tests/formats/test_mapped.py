"""Large files are mapped, not read: the same scans and images, memory for a few slices, and no image of a file that changes."""

import os
import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.data.passes import apply_mask, largest_part, nonzero_positions
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.formats import load, load_kspace, mapped
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.problems import problem
from medrecon.reconstruction import plan
from medrecon.settings import CartesianPhysics

N, COILS = (64, 48), 4


@pytest.fixture
def scan():
    """K-space (slices, coils, y, x) by columns, and its mask."""
    rng = np.random.default_rng(0)
    mask = undersampling_mask(N, "gaussian1d", 2, 16, seed=0)
    maps = loop_coils(N, COILS)
    y, x = np.ogrid[: N[0], : N[1]]
    head = ((y - 32) ** 2 / 24**2 + (x - 24) ** 2 / 18**2 < 1) * (1 + 0.5 * np.sin(y / 3) * np.cos(x / 4))
    return np.stack([simulate_kspace(head * (1 + k), maps, 0.02, rng) for k in range(12)]) * mask, mask


def written(folder, kspace, mask, form):
    """A file of a form that can be mapped."""
    path = folder / {"npy": "a.npy", "bart": "a.cfl"}.get(form, "a.h5")
    if form == "npy":
        np.save(path, kspace)
    elif form == "fortran":
        path = folder / "a.npy"
        np.save(path, np.asfortranarray(kspace))
    elif form == "bart":
        kspace.transpose(3, 2, 1, 0).astype("<c8").ravel(order="F").tofile(path)
        slices, coils, y, x = kspace.shape
        sizes = [x, y, 1, coils, *[1] * 9, slices, 1, 1]
        (folder / "a.hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    else:
        with h5py.File(path, "w", userblock_size=512 if form == "userblock" else 0) as file:
            file["kspace"], file["mask"] = kspace, mask
    return path


@pytest.mark.parametrize("form", ["npy", "fortran", "bart", "fastmri", "userblock"])
def test_a_mapped_file_gives_the_same_scan_and_image(tmp_path, scan, form, monkeypatch):
    path = written(tmp_path, *scan, form)
    read = load(path)
    assert read.backing is None and np.array_equal(read.kspace, scan[0])
    monkeypatch.setattr(mapped, "LARGE", 0)
    lazy = load(path)
    assert lazy.backing is not None and lazy.backing.path == path
    assert np.array_equal(lazy.kspace, scan[0]) and np.array_equal(lazy.mask, read.mask)
    options = {"solver": "cg-sense", "slices": slice(3, 5)}
    assert np.array_equal(plan(lazy, **options).run().image, plan(read, **options).run().image)


@pytest.mark.parametrize(
    "change", [{"chunks": (1, COILS, *N)}, {"dtype": ">c8"}, {"dtype": "c16"}, {"compression": "gzip"}]
)
def test_what_is_not_stored_as_in_memory_is_read(tmp_path, scan, change, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=scan[0].astype(change.get("dtype", "c8")), **change)
    monkeypatch.setattr(mapped, "LARGE", 0)
    found = load(path)
    assert np.array_equal(found.kspace, scan[0]) and found.kspace.dtype == np.complex64
    assert (found.backing is None) == (change.get("dtype") != "c16")  # of those numbers a copy is made


def test_what_is_written_to_a_mapped_array_stays_in_memory(tmp_path, scan, monkeypatch):
    path = written(tmp_path, *scan, "fastmri")
    before = path.read_bytes()
    monkeypatch.setattr(mapped, "LARGE", 0)
    load(path).kspace[0] = 0
    assert path.read_bytes() == before


def test_no_image_is_made_of_a_file_that_changes(tmp_path, scan, monkeypatch):
    path = written(tmp_path, *scan, "npy")
    monkeypatch.setattr(mapped, "LARGE", 0)
    planned = plan(load(path), solver="cg-sense")
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\1" * 8)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="changed while it was read"):
        planned.run()


def test_no_image_is_made_of_a_file_that_changes_off_the_grid(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    angles = np.pi * np.arange(24) / 24
    points = np.linspace(-16, 15.5, 64)
    trajectory = np.stack([np.outer(np.sin(angles), points), np.outer(np.cos(angles), points)], axis=-1)
    np.save(tmp_path / "t.npy", trajectory.astype(np.float32))
    weight = np.exp(-np.abs(points) / 4)
    np.save(tmp_path / "k.npy", ((rng.standard_normal((2, 24, 64)) + 3) * weight).astype(np.complex64))
    monkeypatch.setattr(mapped, "LARGE", 0)
    from medrecon.formats import Companions

    scan = load(tmp_path / "k.npy", companions=Companions(trajectory=tmp_path / "t.npy"))
    assert scan.backing is not None
    planned = plan(scan, solver="zero-filled")
    os.utime(tmp_path / "k.npy", ns=(1, 1))
    with pytest.raises(InputError, match="changed while it was read"):
        planned.run()


def test_memory_is_for_slices_not_for_the_scan(tmp_path, scan, monkeypatch):
    kspace = np.tile(scan[0], (6, 1, 1, 1))
    path = written(tmp_path, kspace, scan[1], "fastmri")
    monkeypatch.setattr(mapped, "LARGE", 0)
    plan(load(path), solver="cg-sense", slices=slice(0, 1)).run()  # imports
    tracemalloc.start()
    found = problem(load(path), CartesianPhysics())
    for k in range(3):
        found.likelihood(slice(k, k + 1), torch.device("cpu"))
        found.release(slice(k, k + 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # numpy's arrays of a few slices and the checks' of an image or two; one copy would be the whole.
    assert peak < 0.35 * kspace.nbytes


def test_passes_equal_those_of_whole_arrays(scan):
    kspace = scan[0].copy()
    kspace[3] = 0
    assert largest_part(kspace) == max(np.abs(kspace.real).max(), np.abs(kspace.imag).max())
    assert largest_part(np.zeros((0, 3))) == 0 and np.isnan(largest_part(np.array([1, np.nan, 3.0])))
    assert largest_part(np.array([[[[1.0, -np.inf]]]])) == np.inf
    assert np.array_equal(nonzero_positions(kspace), (kspace != 0).any(axis=(0, 1)))
    assert np.array_equal(nonzero_positions(kspace[0, 0]), kspace[0, 0] != 0)
    fewer = scan[1] & (np.arange(N[1]) < 30)
    assert apply_mask(kspace, scan[1]) is kspace and np.array_equal(apply_mask(kspace, fewer), kspace * fewer)


def test_odd_numbers_are_converted_not_mapped(tmp_path, monkeypatch):
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_fields(0, 1, 8, 9, 23)  # sign, exponent and mantissa in another order
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(file.id, b"x", odd, space).write(space, space, np.arange(1, 6, dtype="f4"))
        assert file["x"].dtype == np.float32
    monkeypatch.setattr(mapped, "LARGE", 0)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert np.array_equal(read_dataset(file, "x"), np.arange(1, 6))


def test_parts_of_complex_numbers_in_the_other_order_are_converted(tmp_path, scan, monkeypatch):
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    kind.insert(b"r", 4, h5py.h5t.IEEE_F32LE)
    kind.insert(b"i", 0, h5py.h5t.IEEE_F32LE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(scan[0].shape)
        h5py.h5d.create(file.id, b"kspace", kind, space).write(space, space, scan[0])
        assert file["kspace"].dtype == np.complex64
    monkeypatch.setattr(mapped, "LARGE", 0)
    assert np.array_equal(load(tmp_path / "a.h5").kspace, scan[0])


def test_who_asks_for_arrays_gets_them_in_memory(tmp_path, scan, monkeypatch):
    path = written(tmp_path, *scan, "npy")
    monkeypatch.setattr(mapped, "LARGE", 0)
    data = load_kspace(path)
    np.save(path, np.zeros_like(scan[0]))
    assert data.backing is None and np.array_equal(data.kspace, scan[0])
