"""K-space off the grid, from files of other people's tools."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch

from medrecon.cli import main
from medrecon.data.coils import combine_coils, from_kspace, to_kspace
from medrecon.data.errors import InputError, NotCartesianError
from medrecon.data.trajectories import radial
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.formats.bart import read_array
from medrecon.operators.nufft import NUFFT
from medrecon.transforms import LoadNonCartesiand
from tests.make.images import blobs
from tests.make.noncartesian import DIRS, along, write

SHAPE = (40, 32)


@pytest.mark.parametrize("per_pixel", [True, False])
@pytest.mark.parametrize("discard", [0, 3])
def test_ismrmrd_shots_are_sorted_and_give_the_image_back(tmp_path, per_pixel, discard):
    points = radial(SHAPE, 60).numpy()
    images = [blobs(SHAPE, k) for k in range(2)]
    data = load_noncartesian(write(tmp_path / "r.h5", images, points, per_pixel, discard=discard))
    assert data.samples.shape == (2, 3, 60, 80)
    assert data.matrix == SHAPE
    assert np.abs(data.trajectory - points).max() < 1e-4
    for k, image in enumerate(images):
        exact, maps = along(image, points)
        assert np.abs(data.samples[k] - exact).max() < 1e-6
        A = NUFFT(torch.from_numpy(data.trajectory[k]), SHAPE)
        coils = A.pinv(torch.from_numpy(data.samples[k]).flatten(1)[None], 60)[0].numpy()
        error = np.linalg.norm(combine_coils(to_kspace(coils)[None], "mvue", maps[None])[0] - image)
        assert error < 0.08 * np.linalg.norm(image)  # the corners of k-space, six per cent here, were not measured


def test_geometry_by_a_point_in_space(tmp_path):
    points = radial(SHAPE, 12).numpy()
    data = load_noncartesian(write(tmp_path / "r.h5", [blobs(SHAPE)] * 2, points))
    assert data.spacing == pytest.approx((6.0, 3.0, 2.0))
    # The middle of slice 1 lies at its position; a step along x goes along the read direction (LPS to RAS).
    middle = data.affine @ [16, 20, 1, 1]
    assert np.allclose(middle[:3], [-10, 5, 6.0], atol=1e-5)
    assert np.allclose(data.affine[:3, 0], 2.0 * DIRS[0] * [-1, -1, 1], atol=1e-6)
    assert np.allclose(data.affine[:3, 1], 3.0 * DIRS[1] * [-1, -1, 1], atol=1e-6)


def test_the_transform_and_info(tmp_path, capsys):
    points = radial(SHAPE, 12).numpy()
    rng = np.random.default_rng(0)
    noise = 0.02 * (rng.normal(size=(3, 500)) + 1j * rng.normal(size=(3, 500)))
    path = write(tmp_path / "r.h5", [blobs(SHAPE)], points, noise_scan=noise)
    out = LoadNonCartesiand("image")({"image": path})
    assert tuple(out["image"].shape) == (1, 3, 12, 80)
    assert tuple(out["trajectory"].shape) == (1, 12, 80, 2)
    assert out["matrix"] == SHAPE
    assert out["noise_std"] == pytest.approx(0.02, rel=0.1)
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "shots: 12" in text
    assert "matrix: 40 x 32 (y x)" in text
    with pytest.raises(NotCartesianError, match="trajectory is radial"):
        load_kspace(path)


def test_arrays_in_npz_and_what_is_wrong_with_them(tmp_path):
    points = radial(SHAPE, 12).numpy()
    samples, _ = along(blobs(SHAPE), points, noise=0.05)
    np.savez(tmp_path / "a.npz", kspace=samples.astype(np.complex64), trajectory=points, matrix=SHAPE)
    data = load_noncartesian(tmp_path / "a.npz")
    assert data.matrix == SHAPE
    assert np.array_equal(data.trajectory[0], points)
    noise = LoadNonCartesiand("image")({"image": tmp_path / "a.npz"})["noise_std"]
    assert 0.04 < noise < 0.12  # what signal reaches so far out makes it too large, never too small
    np.savez(tmp_path / "b.npz", kspace=samples)
    with pytest.raises(InputError, match="without a trajectory"):
        load_noncartesian(tmp_path / "b.npz")
    np.save(tmp_path / "t.npy", points)
    assert load_noncartesian(tmp_path / "b.npz", tmp_path / "t.npy").matrix == (40, 32)
    np.save(tmp_path / "t.npy", points[:5])
    with pytest.raises(InputError, match=r"give a trajectory \(shots, readout"):
        load_noncartesian(tmp_path / "b.npz", tmp_path / "t.npy")
    np.save(tmp_path / "t.npy", 3 * points)
    with pytest.raises(InputError, match="beyond half of the matrix"):
        load_noncartesian(tmp_path / "b.npz", tmp_path / "t.npy", matrix=SHAPE)
    with pytest.raises(InputError, match="without a trajectory"):
        load_noncartesian(tmp_path / "t.npy")
    for bad in ({"matrix": ["a", "b"]}, {"matrix": [np.nan, 4]}, {"trajectory": points.astype(str)}):
        np.savez(tmp_path / "c.npz", **{"kspace": samples, "trajectory": points, **bad})
        with pytest.raises(InputError, match=r"not numeric|not numbers"):
            load_noncartesian(tmp_path / "c.npz")
    path = write(tmp_path / "r.h5", [blobs(SHAPE)], points)
    with h5py.File(path, "r+") as file:
        rows = file["dataset/data"][()]
        rows["head"]["trajectory_dimensions"] = 0
        rows["traj"] = [np.zeros(0, np.float32)] * len(rows)
        file["dataset/data"][...] = rows
    with pytest.raises(InputError, match="is not in the file"):
        load_noncartesian(path)
    assert load_noncartesian(path, points).samples.shape == (1, 3, 12, 80)


def test_barts_own_radial_phantom(tmp_path):
    if shutil.which("bart") is None:
        pytest.skip("bart is not installed")
    for command in (
        "traj -x 128 -y 150 -r t1", "scale 0.5 t1 traj", "phantom -t traj -k -s 4 ksp", "phantom -x 64 -s 4 coils"
    ):  # fmt: skip
        subprocess.run(["bart", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    data = load_noncartesian(tmp_path / "ksp.cfl", tmp_path / "traj.cfl", matrix=(64, 64))
    assert data.samples.shape == (1, 4, 150, 128)
    A = NUFFT(torch.from_numpy(data.trajectory[0]), (64, 64))
    ours = A.pinv(torch.from_numpy(data.samples[0]).flatten(1)[None], 60)[0].abs().numpy()
    theirs = np.abs(read_array(tmp_path / "coils.cfl").reshape(4, 64, 64))
    for a, b in zip(ours, theirs, strict=True):
        # Its phantom is drawn, ours band-limited; any flip or transposition gives 0.75 or less.
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    subprocess.run(["bart", "phantom", "-x", "16", "-k", "cart"], cwd=tmp_path, check=True, capture_output=True)
    np.save(tmp_path / "t.npy", np.zeros((16, 16, 2)))
    with pytest.raises(InputError, match="BART dimensions"):
        load_noncartesian(tmp_path / "cart.cfl", tmp_path / "t.npy")
    with pytest.raises(InputError, match="in a separate pair"):
        load_noncartesian(tmp_path / "ksp.cfl")
    with pytest.raises(InputError, match="the trajectory of"):
        load_noncartesian(tmp_path / "ksp.cfl", tmp_path / "coils.cfl")


def test_barts_coils_and_ismrmrds_shepp_logan(tmp_path):
    """Files that the formats' own tools made."""
    if shutil.which("bart") is not None:
        subprocess.run(
            ["bart", "phantom", "-x", "48", "-k", "-s", "4", "k"], cwd=tmp_path, check=True, capture_output=True
        )
        subprocess.run(["bart", "phantom", "-x", "48", "-s", "4", "c"], cwd=tmp_path, check=True, capture_output=True)
        coils = np.abs(from_kspace(load_kspace(tmp_path / "k.cfl").kspace)[0])
        theirs = np.abs(read_array(tmp_path / "c.cfl").reshape(4, 48, 48))
        assert np.corrcoef(coils.ravel(), theirs.ravel())[0, 1] > 0.9
    if shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None:
        pytest.skip("ismrmrd-tools is not installed")
    path = tmp_path / "sl.h5"
    subprocess.run(
        ["ismrmrd_generate_cartesian_shepp_logan", "-m", "64", "-c", "4", "-n", "0.01", "-C", "-o", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["ismrmrd_recon_cartesian_2d", str(path)], check=True, capture_output=True)
    data = load_kspace(path)
    ours = combine_coils(data.kspace)[0]
    with h5py.File(path) as file:
        group = next(v for k, v in file["dataset"].items() if isinstance(v, h5py.Group) and "data" in v)
        theirs = np.asarray(group["data"][()]).reshape(64, 64)
    assert data.noise_scan is not None
    # Their image has the readout along its columns, ours along its rows.
    assert np.corrcoef(ours.T.ravel(), theirs.ravel())[0, 1] > 0.999


def test_3d_trajectories(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (6, 20, 3)).astype(np.float32)
    samples = (rng.normal(size=(2, 6, 20)) + 1j).astype(np.complex64)
    np.savez(tmp_path / "a.npz", kspace=samples, trajectory=points, matrix=(8, 10, 12))
    data = load_noncartesian(tmp_path / "a.npz")
    assert data.matrix == (8, 10, 12)
    assert data.trajectory.shape == (1, 6, 20, 3)
    flat = points.copy()
    flat[..., 0] = 0
    np.savez(tmp_path / "b.npz", kspace=samples, trajectory=flat)
    assert load_noncartesian(tmp_path / "b.npz").trajectory.shape == (1, 6, 20, 2)
