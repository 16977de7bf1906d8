"""Siemens raw data: files made of the format's own structures by twixtools."""

import numpy as np
import pytest
import torch

from medrecon.cli import main
from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.errors import InputError
from medrecon.data.noise import noise_scan_std
from medrecon.data.phantom import loop_coils
from medrecon.data.trajectories import radial
from medrecon.formats import Companions, load, load_kspace
from medrecon.operators import NUFFT
from medrecon.reconstruction import plan
from tests.make.dicom import damaged
from tests.make.twix import TURN, header, line, lines_of, measured, write


def test_lines_are_sorted_and_lose_their_oversampling(tmp_path):
    kspace, coils = measured()
    lines = lines_of(kspace)
    order = np.random.default_rng(0).permutation(len(lines))
    data = load_kspace(write(tmp_path / "a.dat", [lines[k] for k in order]))
    assert data.format == "Siemens twix"
    assert data.kspace.shape == (2, 3, 32, 30)
    assert np.abs(from_kspace(data.kspace) - coils).max() < 1e-5
    assert data.spacing == pytest.approx((6.0, 2.0, 3.0))


def test_geometry_follows_the_rotation_of_the_lines(tmp_path):
    data = load_kspace(write(tmp_path / "a.dat", lines_of(measured()[0])))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ data.affine
    turn = TURN.as_matrix()
    # Phase and read directions are the rotation's first two columns reversed: Siemens' sign convention.
    assert np.allclose(lps[:3, 0], -3.0 * turn[:, 0], atol=1e-5)
    assert np.allclose(lps[:3, 1], -2.0 * turn[:, 1], atol=1e-5)
    assert np.allclose(lps[:3, 2], 6.0 * turn[:, 2], atol=1e-5)
    assert np.allclose((lps @ [15, 16, 1, 1])[:3], 6.0 * turn[:, 2] + [1, 2, 3], atol=1e-5)


def test_flags_and_counters(tmp_path):
    kspace, _ = measured(1)
    lines = lines_of(kspace)
    whole = load_kspace(write(tmp_path / "a.dat", lines)).kspace
    lines[4] = line(kspace[0, :, ::-1, 4], ["REFLECT"], lin=4, position=(1, 2, 3))
    lines.append(line(0 * kspace[0, :, :, 0] + 9, ["PHASCOR"], lin=3, position=(1, 2, 3)))
    reference = line(kspace[0, :, :, 7], ["PATREFSCAN"], lin=7, position=(1, 2, 3))
    del lines[7]
    lines += [reference, line(5 * kspace[0, :, :, 8], ["PATREFSCAN"], lin=8, position=(1, 2, 3))]
    rng = np.random.default_rng(0)
    noise = 0.1 * (rng.normal(size=(3, 64)) + 1j * rng.normal(size=(3, 64)))
    lines = [line(noise, ["NOISEADJSCAN"]) for _ in range(20)] + lines
    data = load_kspace(write(tmp_path / "b.dat", lines))
    assert np.abs(data.kspace - whole).max() < 1e-6
    assert noise_scan_std(data.noise_scan) == pytest.approx(np.sqrt((np.abs(noise) ** 2).mean() / 2), rel=0.05)
    echoes = lines_of(kspace) + [line(2 * kspace[0, :, :, y], lin=y, position=(1, 2, 3), Eco=1) for y in range(30)]
    path = write(tmp_path / "c.dat", echoes)
    with pytest.raises(InputError, match=r"select one, e\.g\. contrast=0"):
        load_kspace(path)
    assert np.abs(load_kspace(path, {"contrast": 1}).kspace - 2 * whole).max() < 1e-5
    assert main(["info", str(path), "--select", "contrast=1"]) == 0


def test_partial_fourier_lies_where_the_centre_says(tmp_path):
    kspace, _ = measured(1)
    # The first eight lines were not measured: the counter starts at the ninth, and the centre is at 15 - 8.
    lines = [line(kspace[0, :, :, y], lin=y - 8, centre=(7, 0), position=(1, 2, 3)) for y in range(8, 30)]
    data = load_kspace(write(tmp_path / "a.dat", lines))
    assert data.mask.tolist() == [False] * 8 + [True] * 22
    whole = load_kspace(write(tmp_path / "b.dat", lines_of(kspace))).kspace
    assert np.abs(data.kspace - whole * data.mask).max() < 1e-6


def test_readouts_without_oversampling(tmp_path):
    kspace, _ = measured(1)
    narrow = to_kspace(from_kspace(kspace)[:, :, 16:48]).astype(np.complex64)
    lines = [line(narrow[0, :, :, y], lin=y, column=16, position=(1, 2, 3)) for y in range(30)]
    data = load_kspace(write(tmp_path / "a.dat", lines))
    assert data.kspace.shape == (1, 3, 32, 30)
    assert np.abs(data.kspace - narrow).max() < 1e-5
    assert data.spacing[1] == pytest.approx(2.0)


def test_reference_lines_of_another_echo_fill_nothing(tmp_path):
    kspace, _ = measured(1)
    lines = []
    for echo, factor in ((0, 1), (1, 2)):
        for y in range(30):
            flags = ["PATREFSCAN"] if 10 <= y < 20 and y % 2 else []
            if y % 2 == 0 or flags:
                lines.append(line(factor * kspace[0, :, :, y], flags, lin=y, position=(1, 2, 3), Eco=echo))
    whole = load_kspace(write(tmp_path / "w.dat", lines_of(kspace))).kspace
    for echo, factor in ((0, 1), (1, 2)):
        data = load_kspace(write(tmp_path / f"{echo}.dat", lines), {"contrast": echo})
        assert np.abs(data.kspace - factor * whole * data.mask).max() < 1e-5
        assert data.mask[11]


def test_three_dimensions(tmp_path):
    rng = np.random.default_rng(0)
    image = (rng.normal(size=(2, 8, 6, 4)) + 1j * rng.normal(size=(2, 8, 6, 4))) * loop_coils((6, 4), 2)[:, None]
    kspace = to_kspace(np.pad(image, [(0, 0), (4, 4), (0, 0), (0, 0)]), (1, 2, 3))
    lines = [
        line(kspace[:, :, y, z], lin=y, par=z, centre=(3, 2), column=8) for y in range(6) for z in range(4)
    ]  # fmt: skip
    data = load_kspace(write(tmp_path / "a.dat", lines, header(8, 6, 4, 4)))
    assert data.kspace.shape == (8, 2, 6, 4)
    assert np.abs(from_kspace(data.kspace).swapaxes(0, 1) - image).max() < 1e-5


def test_what_cannot_be_used_is_told(tmp_path):
    kspace, _ = measured(1)
    (tmp_path / "x.dat").write_bytes(b"junk" * 300)
    with pytest.raises(InputError, match=r"not a readable twix file|not an image"):
        load_kspace(tmp_path / "x.dat")
    with pytest.raises(InputError, match="trajectory is radial"):
        load_kspace(write(tmp_path / "r.dat", lines_of(kspace), header(trajectory=2)))
    with pytest.raises(InputError, match="not an image"):
        load_kspace(write(tmp_path / "n.dat", [line(kspace[0, :, :, 0], ["NOISEADJSCAN"])]))


# twixtools leaves a damaged file open for the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_damaged_files_give_one_error_of_ours(tmp_path):
    rng = np.random.default_rng(0)
    content = write(tmp_path / "a.dat", lines_of(measured(1)[0])).read_bytes()
    refused = 0
    for _ in range(40):
        (tmp_path / "d.dat").write_bytes(damaged(content, rng))
        try:
            data = load_kspace(tmp_path / "d.dat")
        except InputError as error:
            refused += 1
            assert "d.dat" in str(error)
            assert "\n" not in str(error)
            continue
        assert np.isfinite(data.kspace).all()
    assert refused > 3


@pytest.mark.parametrize("matrix", [None, (46, 33), (90, 64)])
def test_a_given_trajectory_is_in_the_protocols_field_of_view(tmp_path, matrix):
    """Spokes of a blob as the image's own NUFFT measures them: it comes back at its place in mm."""
    base, spokes, readout = 32, 60, 64
    shape = (45, base)  # 90 mm over 64, of pixels of 2 mm
    points = radial(shape, spokes, readout).numpy().astype(np.float32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    blob = np.exp(-((y - 27.0) ** 2 + (x - 12.0) ** 2) / 18)
    image = torch.from_numpy(blob * loop_coils(shape, 2)).to(torch.complex64)[None]
    kspace = NUFFT(torch.from_numpy(points), shape)(image)[0].reshape(2, spokes, readout).numpy()
    lines = [line(kspace[:, k], lin=k, position=(1, 2, 3)) for k in range(spokes)]
    path = write(tmp_path / "a.dat", lines, header(base, spokes, trajectory=2))
    np.save(tmp_path / "t.npy", points)
    scan = load(path, companions=Companions(trajectory=tmp_path / "t.npy", matrix=matrix))
    assert scan.matrix == (matrix or shape)
    height, width = scan.matrix
    assert scan.spacing == pytest.approx((5.0, 90 / height, 64 / width))
    found = plan(scan, solver="cg-sense", maps=loop_coils(scan.matrix, 2)).run().image[0]
    weight = found.astype(float) ** 4
    at = [(weight * axis).sum() / weight.sum() for axis in np.mgrid[:height, :width]]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    # Phase and read directions reversed, as of Cartesian scans; the middle of the field of view is the slice's position.
    expected = np.array([1, 2, 3]) - 2.0 * (12 - 16) * TURN.as_matrix()[:, 1] - 2.0 * (27 - 22) * TURN.as_matrix()[:, 0]
    assert np.linalg.norm((lps @ [at[1], at[0], 0, 1])[:3] - expected) < 0.3


def test_a_trajectory_has_as_many_coordinates_as_the_scan(tmp_path):
    points = radial((45, 32), 20, 64).numpy().astype(np.float32)
    deep = np.concatenate([np.full((20, 64, 1), 0.5, np.float32), points], axis=-1)
    kspace = np.ones((2, 20, 64), np.complex64)
    lines = [line(kspace[:, k], lin=k, position=(1, 2, 3)) for k in range(20)]
    flat = write(tmp_path / "flat.dat", lines, header(32, 20, trajectory=2))
    with pytest.raises(InputError, match=r"three coordinates, but the scan is 2-D; give \(ky, kx\)"):
        load(flat, companions=Companions(trajectory=deep))
    slab = write(tmp_path / "slab.dat", lines, header(32, 20, 8, 4, trajectory=2))
    for given in (points, np.concatenate([0 * deep[..., :1], points], axis=-1)):
        scan = load(slab, companions=Companions(trajectory=given, matrix=(46, 33)))
        # One slice, as thick as the slab, whose middle is that of the slab.
        assert scan.spacing == pytest.approx((5.0, 90 / 46, 64 / 33))
        middle = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine @ [33 // 2, 46 // 2, 0, 1]
        assert np.allclose(middle[:3], (1, 2, 3), atol=1e-4)
    huge = write(
        tmp_path / "huge.dat", lines, header(32, 20, trajectory=2, **{"sSliceArray.asSlice[0].dPhaseFOV": 1e30})
    )
    with pytest.raises(InputError, match="huge matrix"):
        load(huge, companions=Companions(trajectory=points))
