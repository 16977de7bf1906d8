"""ISMRMRD files, written with the format's own library: the grid, the flags, the noise, and where the image is in space."""

import json

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest

from medrecon.cli import main
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.geometry import affine_of_slices
from medrecon.data.noise import noise_scan_std
from medrecon.formats import load_kspace
from medrecon.formats.scrub import scrub_header
from medrecon.transforms import LoadKSpaced
from tests.make.ismrmrd import COILS, header, line, noise, rotation, write


def test_lines_come_to_their_places(tmp_path):
    """Two interleaved slices in any order, with averages, a reversed line, a skipped one, navigators and noise."""
    k = noise(2, COILS, 16, 10)
    lines = []
    for step in np.random.default_rng(1).permutation(10):
        if step == 4:
            continue
        for n in (1, 0):
            data, flags = k[n, :, :, step], []
            if step == 7:
                data, flags = data[:, ::-1], [ismrmrd.ACQ_IS_REVERSE]
            for sign in (1, -1):  # their average is the data
                one = data + sign * noise(COILS, 16, seed=int(step))
                lines.append(
                    line(
                        one,
                        flags,
                        position=(0, 0, 5.0 * n),
                        kspace_encode_step_1=step,
                        slice=n,
                        average=(1 - sign) // 2,
                    )
                )
    lines.insert(0, line(noise(COILS, 64), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]))
    lines.insert(3, line(99 * noise(COILS, 16), [ismrmrd.ACQ_IS_NAVIGATION_DATA]))
    lines.append(line(99 * noise(COILS, 16), [ismrmrd.ACQ_IS_PHASECORR_DATA]))
    data = load_kspace(write(tmp_path / "a.h5", header((16, 10, 1), (160, 120, 5)), lines))
    expected = k.copy()
    expected[..., 4] = 0
    assert np.allclose(data.kspace, expected, atol=1e-5)
    assert data.mask.tolist() == [step != 4 for step in range(10)]
    assert data.spacing == (5.0, 10.0, 12.0)
    assert (data.format, data.attributes["averages"]) == ("ISMRMRD", 2)
    assert data.noise_scan.shape == (COILS, 64)


def test_partial_fourier_and_calibration_lines(tmp_path):
    """Lines start behind the edge, so that the header's centre says where the middle is; calibration fills the gaps only."""
    k = noise(COILS, 12, 10)
    lines = [line(k[:, :, 3 + step], kspace_encode_step_1=step) for step in (0, 2, 4, 6)]  # of columns 3 to 9
    lines += [
        line(2 * k[:, :, 3 + step], [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION], kspace_encode_step_1=step) for step in (1, 2)
    ]
    both = [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING]
    lines.append(line(k[:, :, 6], both, kspace_encode_step_1=3))
    data = load_kspace(write(tmp_path / "a.mrd", header((12, 10, 1), (120, 100, 4), centres=(2, None)), lines))
    expected = np.zeros_like(k)
    for column, factor in ((3, 1), (4, 2), (5, 1), (6, 1), (7, 1), (9, 1)):
        expected[:, :, column] = factor * k[:, :, column]
    assert np.allclose(data.kspace[0], expected)
    assert np.flatnonzero(data.mask).tolist() == [3, 4, 5, 6, 7, 9]


def test_partial_echoes_lie_right_of_the_middle(tmp_path):
    k = noise(COILS, 12, 6)
    lines = [line(k[:, 4:, step], centre=2, kspace_encode_step_1=step) for step in range(6)]
    data = load_kspace(write(tmp_path / "a.h5", header((12, 6, 1), (120, 60, 4)), lines))
    assert np.allclose(data.kspace[0, :, 4:], k[:, 4:])
    assert not data.kspace[0, :, :4].any()
    assert data.mask.shape == (12, 6)


def test_oversampling_is_cut_off(tmp_path):
    image = np.zeros((1, COILS, 32, 10), complex)
    image[:, :, 8:24] = noise(1, COILS, 16, 10)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))
    lines = [line(k[0, :, :, step], kspace_encode_step_1=step) for step in range(10)]
    xml = header((32, 10, 1), (320, 100, 4), recon=((16, 10, 1), (160, 100, 4)))
    data = load_kspace(write(tmp_path / "a.h5", xml, lines))
    assert data.kspace.shape == (1, COILS, 16, 10)
    assert np.allclose(from_kspace(data.kspace), image[:, :, 8:24], atol=1e-5)
    assert data.spacing == (4.0, 10.0, 10.0)


def test_the_noise_is_that_of_the_data(tmp_path):
    """Its variance goes with the bandwidth, one over the dwell time, and falls with averages."""
    lines = [line(noise(COILS, 50000), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT], dwell=8.0)]
    lines += [line(noise(COILS, 8), dwell=2.0, kspace_encode_step_1=s, average=a) for s in range(4) for a in range(3)]
    data = load_kspace(write(tmp_path / "a.h5", header((8, 4, 1), (80, 40, 4)), lines))
    assert noise_scan_std(data.noise_scan) == pytest.approx((8 / 2 / 3) ** 0.5, rel=0.02)


def test_a_noise_scan_of_other_coils_is_reported(tmp_path):
    lines = [line(noise(COILS - 1, 64), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])]
    lines += [line(noise(COILS, 8), kspace_encode_step_1=s) for s in range(4)]
    data = load_kspace(write(tmp_path / "a.h5", header((8, 4, 1), (80, 40, 5)), lines))
    assert data.noise_scan is None
    assert f"has shape ({COILS - 1}, 64), but k-space has {COILS} coils" in data.warnings[0]


def point(where, dirs, centre, shape, pixel):
    """k-space of a point at ``where`` (LPS, mm) in a field of view round ``centre``: a plane wave."""
    offset = dirs @ (np.asarray(where) - centre) / pixel[: len(dirs)]
    axes = [np.exp(-2j * np.pi * (np.arange(n) - n // 2) * o / n) for n, o in zip(shape, offset, strict=True)]
    wave = axes[0]
    for axis in axes[1:]:
        wave = wave[..., None] * axis
    return np.broadcast_to(wave, (COILS, *wave.shape))


@pytest.mark.parametrize("oversampled", [False, True])
def test_a_point_in_an_oblique_stack_is_where_it_is(tmp_path, oversampled):
    """Slices acquired interleaved and backwards: the brightest voxel's place is the point's, by the affine."""
    dirs, pixel, gap = rotation(), np.array([2.0, 3.0]), 6.0
    middle, rows = np.array([12.0, -34.0, 56.0]), 48 if oversampled else 24
    positions = [middle + dirs[2] * gap * (n - 1) for n in range(4)]
    truth = positions[2] + dirs[:2].T @ (np.array([-5.0, 4.0]) * pixel)
    lines = []
    for number, n in enumerate((3, 1, 2, 0)):
        k = point(truth, dirs[:2], positions[n], (rows, 20), pixel) * (1.0 if n == 2 else 0.1)
        lines += [
            line(k[..., s], dirs=dirs, position=positions[n], kspace_encode_step_1=s, slice=number) for s in range(20)
        ]
    xml = header((rows, 20, 1), (rows * 2.0, 60, 6), recon=((24, 20, 1), (48, 60, 6)))
    data = load_kspace(write(tmp_path / "a.h5", xml, lines))
    size = np.abs(from_kspace(data.kspace)[:, 0])
    z, y, x = np.unravel_index(size.argmax(), size.shape)
    lps = np.diag([-1, -1, 1]) @ (data.affine @ [x, y, z, 1])[:3]
    assert np.allclose(lps, truth, atol=1e-3)
    assert data.spacing == pytest.approx((6.0, 2.0, 3.0))
    assert data.summary()["orientation"] == "known"


def test_a_point_in_a_3d_slab_is_where_it_is(tmp_path):
    """Transformed along the readout, which becomes the slices; points of a plane were skipped."""
    dirs, pixel = rotation(3), np.array([2.0, 3.0, 4.0])
    middle = np.array([-7.0, 8.0, 9.0])
    truth = middle + dirs.T @ (np.array([3.0, -2.0, 1.0]) * pixel)
    k = point(truth, dirs, middle, (12, 10, 8), pixel)
    keep = np.random.default_rng(0).random((10, 8)) < 0.8
    lines = [
        line(k[:, :, y, z], dirs=dirs, position=middle, kspace_encode_step_1=y, kspace_encode_step_2=z)
        for y, z in zip(*np.nonzero(keep), strict=True)
    ]
    data = load_kspace(write(tmp_path / "a.h5", header((12, 10, 8), (24, 30, 32)), lines))
    assert data.kspace.shape == (12, COILS, 10, 8)
    assert np.array_equal(data.mask, keep)
    size = np.abs(from_kspace(data.kspace)[:, 0])
    z, y, x = np.unravel_index(size.argmax(), size.shape)
    lps = np.diag([-1, -1, 1]) @ (data.affine @ [x, y, z, 1])[:3]
    assert np.allclose(lps, truth, atol=1e-3)
    assert data.spacing == (2.0, 3.0, 4.0)


def stack(tmp_path, **changes):
    k = noise(2, COILS, 16, 16)
    spec = {"positions": [(0, 0, 0), (0, 0, 5)], "dirs": np.eye(3), "counters": {}} | changes
    lines = [
        line(
            k[n, :, :, s],
            dirs=spec["dirs"],
            position=spec["positions"][n],
            kspace_encode_step_1=s,
            slice=n,
            **spec["counters"],
        )
        for n in range(2)
        for s in range(16)
    ]
    return write(tmp_path / "a.h5", header((16, 16, 1), (160, 160, 5)), lines), lines, k


def test_unknown_orientation_is_said(tmp_path):
    path, *_ = stack(tmp_path, dirs=np.zeros((3, 3)))
    data = load_kspace(path)
    assert data.affine is None
    assert "missing" in data.attributes["orientation"]
    path.unlink()
    _, lines, _ = stack(tmp_path, positions=[(0, np.nan, 0), (0, 0, 5)])
    data = load_kspace(write(tmp_path / "one.h5", header((16, 16, 1), (160, 160, 5)), lines[:16]))
    assert data.affine is None  # it was one of NaN
    assert "positions are not finite" in data.attributes["orientation"]


def test_one_of_several_contrasts_is_asked_for(tmp_path):
    _, lines, k = stack(tmp_path)
    later = [
        line(3 * k[n, :, :, s], kspace_encode_step_1=s, slice=n, contrast=1, position=(0, 0, 5 * n))
        for n in range(2)
        for s in range(16)
    ]
    path = write(tmp_path / "b.h5", header((16, 16, 1), (160, 160, 5)), lines + later)
    with pytest.raises(InputError, match=r"2 values of contrast \(0, 1\); select one, e.g. contrast=0"):
        load_kspace(path)
    assert np.allclose(load_kspace(path, {"contrast": 1}).kspace, 3 * k)
    out = LoadKSpaced("image", select={"contrast": 0})({"image": path})
    assert np.allclose(out["image"].numpy(), k)
    assert out["image"].meta["affine_known"]
    with pytest.raises(InputError, match="no contrast 5"):
        load_kspace(path, {"contrast": 5})
    with pytest.raises(InputError, match="by 'echo'"):
        load_kspace(path, {"echo": 0})


def test_what_cannot_be_used_is_named(tmp_path):
    k = noise(COILS, 8)
    only = [line(k, [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])]
    with pytest.raises(InputError, match="not an image"):
        load_kspace(write(tmp_path / "a.h5", header((8, 4, 1), (80, 40, 4)), only))
    with pytest.raises(InputError, match="radial"):
        load_kspace(write(tmp_path / "b.h5", header((8, 4, 1), (80, 40, 4), kind="radial"), [line(k)]))
    with pytest.raises(InputError, match="outside the encoded matrix 8 x 4 x 1"):
        load_kspace(write(tmp_path / "c.h5", header((8, 4, 1), (80, 40, 4)), [line(k, kspace_encode_step_1=9)]))
    with pytest.raises(InputError, match="coils changes"):
        load_kspace(
            write(tmp_path / "d.h5", header((8, 4, 1), (80, 40, 4)), [line(k), line(k[:2], kspace_encode_step_1=1)])
        )
    whole = (tmp_path / "b.h5").read_bytes()
    for cut in (len(whole) // 3, len(whole) // 2, len(whole) - 40):
        (tmp_path / "e.h5").write_bytes(whole[:cut])
        with pytest.raises(InputError):
            load_kspace(tmp_path / "e.h5")
    with pytest.raises(InputError, match="this format does not support selection"):
        np.save(tmp_path / "k.npy", noise(2, 8, 8))
        load_kspace(tmp_path / "k.npy", {"contrast": 0})


def test_no_flipped_byte_crashes_the_reader(tmp_path):
    """One clear error or data of the right kind, whatever byte is wrong."""
    path, *_ = stack(tmp_path)
    whole, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for i in range(150):
        damaged = whole.copy()
        for at in rng.integers(0, len(whole) if i % 2 else 4000, 3):
            damaged[at] ^= int(rng.integers(1, 256))
        (tmp_path / "f.h5").write_bytes(damaged)
        try:
            data = load_kspace(tmp_path / "f.h5")
        except InputError as error:
            assert str(tmp_path / "f.h5") in str(error)
        else:
            assert np.iscomplexobj(data.kspace)


def test_headers_lose_the_patient(tmp_path):
    path, *_ = stack(tmp_path)
    kept = load_kspace(path).header
    assert b"Jane" not in kept
    assert b"Ward 7" not in kept
    assert b"maker" in kept
    assert b"matrixSize" in scrub_header(kept)


def test_an_image_in_the_right_place(tmp_path, capsys):
    """From an oblique ISMRMRD file to NIfTI: the affine of file, sidecar and some of its slices."""
    dirs = rotation(5)
    positions = [dirs[2] * 5 * n for n in range(2)]
    path, *_ = stack(tmp_path, dirs=dirs, positions=positions)
    assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled"]) == 0
    affine = load_kspace(path).affine
    image = nib.load(tmp_path / "o" / "a.nii.gz")
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert np.allclose(image.get_qform(), affine, atol=1e-4)
    sidecar = json.loads((tmp_path / "o" / "a.json").read_text())
    assert sidecar["affine_known"]
    assert np.allclose(sidecar["affine"], affine)
    assert main(["recon", str(path), "-o", str(tmp_path / "p"), "--solver", "zero-filled", "--slices", "1:2"]) == 0
    shifted = nib.load(tmp_path / "p" / "a.nii.gz").affine
    assert np.allclose(shifted, affine_of_slices(affine, slice(1, 2), 2), atol=1e-4)
    assert np.allclose(shifted @ [3, 4, 0, 1], affine @ [3, 4, 1, 1], atol=1e-3)
    # Undersampled and written in fastMRI's layout, it stays where it was.
    assert main(["undersample", str(path), "-o", str(tmp_path / "u.h5"), "--accel", "2", "--acs", "8"]) == 0
    assert np.array_equal(load_kspace(tmp_path / "u.h5").affine, affine)
    assert load_kspace(tmp_path / "u.h5").spacing == pytest.approx(load_kspace(path).spacing)
    capsys.readouterr()


def test_the_command_line_selects(tmp_path, capsys):
    _, lines, k = stack(tmp_path)
    later = [line(k[0, :, :, s], kspace_encode_step_1=s, contrast=1) for s in range(16)]
    path = str(write(tmp_path / "b.h5", header((16, 16, 1), (160, 160, 5)), lines + later))
    assert main(["info", path]) == 2
    assert "contrast=0" in capsys.readouterr().err
    assert main(["info", path, "--json", "--select", "contrast=1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["slices"], facts["format"], facts["attributes"]["contrast"]) == (1, "ISMRMRD", 1)


def test_calibration_of_another_echo_or_encoding_fills_nothing(tmp_path):
    k = noise(COILS, 16, 10)
    lines = []
    for echo, factor in ((0, 1), (1, 2)):
        for y in range(10):
            flags = [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION] if y in (3, 5) else []
            if y % 2 == 0 or flags:
                lines.append(line(factor * k[..., y], flags, kspace_encode_step_1=y, contrast=echo))
    path = write(tmp_path / "a.h5", header((16, 10, 1), (32, 20, 5)), lines)
    for echo, factor in ((0, 1), (1, 2)):
        data = load_kspace(path, {"contrast": echo})
        assert np.abs(data.kspace[0] - factor * k * data.mask).max() < 1e-6
        assert data.mask.tolist() == [y % 2 == 0 or y in (3, 5) for y in range(10)]
    other = line(9 * k[..., 0], [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION], kspace_encode_step_1=1)
    other.encoding_space_ref = 1
    one = header((16, 10, 1), (32, 20, 5))
    one.encoding.append(header((8, 8, 1), (32, 20, 5)).encoding[0])
    scan = [line(k[..., y], kspace_encode_step_1=y) for y in range(0, 10, 2)]
    data = load_kspace(write(tmp_path / "b.h5", one, [*scan, other]))
    assert not data.mask[1]
    for acquisition in scan:
        acquisition.encoding_space_ref = 1
    one.encoding = [header((8, 8, 1), (64, 64, 5)).encoding[0], header((16, 10, 1), (32, 20, 5)).encoding[0]]
    data = load_kspace(write(tmp_path / "c.h5", one, scan))
    assert data.kspace.shape == (1, COILS, 16, 10)
    assert data.spacing == pytest.approx((5.0, 2.0, 2.0))


@pytest.mark.parametrize("reverse", [False, True])
def test_discarded_samples_were_not_measured(tmp_path, reverse):
    k = noise(COILS, 16, 6)
    lines = []
    for y in range(6):
        data = k[:, ::-1, y].copy() if reverse else k[..., y].copy()
        data[:, :3] = 1e3
        one = line(data, [ismrmrd.ACQ_IS_REVERSE] if reverse else [], kspace_encode_step_1=y)
        one.discard_pre = 3
        lines.append(one)
    data = load_kspace(write(tmp_path / "a.h5", header((16, 6, 1), (32, 12, 5)), lines))
    kept = np.arange(16) < 13 if reverse else np.arange(16) >= 3
    assert np.array_equal(data.mask, np.broadcast_to(kept[:, None], (16, 6)))
    assert np.abs(data.kspace[0] - k * kept[:, None]).max() < 1e-6


def test_nothing_of_the_patient_passes_through_the_fastmri_layout(tmp_path):
    xml = header((16, 10, 1), (32, 20, 5)).toXML("utf-8")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["kspace"] = noise(1, COILS, 16, 10)
        file["ismrmrd_header"] = xml if isinstance(xml, bytes) else xml.encode()
        file.attrs["patient_id"] = "secret17"
        file.attrs["acquisition"] = "T1"
    assert (
        main(["undersample", str(tmp_path / "f.h5"), "-o", str(tmp_path / "u.h5"), "--accel", "2", "--acs", "2"]) == 0
    )
    content = (tmp_path / "u.h5").read_bytes()
    for secret in (b"Jane", b"Ward 7", b"secret17"):
        assert secret not in content
    assert load_kspace(tmp_path / "u.h5").spacing == load_kspace(tmp_path / "f.h5").spacing is not None


def _segmented(path, segments, extra=(), **more):
    """A file whose line of every step has a segment."""
    k = noise(COILS, 12, len(segments))
    lines = [line(k[:, :, s], kspace_encode_step_1=s, segment=one, **more) for s, one in enumerate(segments)]
    return write(path, header((12, len(segments), 1), (120, 100, 4)), [*lines, *extra])


def test_segments_are_the_labels_of_shots(tmp_path):
    data = load_kspace(_segmented(tmp_path / "a.h5", [2, 0, 2, 0, 1, 1]))
    assert data.shots.tolist() == [2, 0, 2, 0, 1, 1] and data.summary()["shots"] == 3
    calibration = [line(noise(COILS, 12), [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION], kspace_encode_step_1=7)]
    k = noise(COILS, 12, 8)
    lines = [line(k[:, :, s], kspace_encode_step_1=s, segment=s % 2) for s in range(6)]
    more = load_kspace(write(tmp_path / "b.h5", header((12, 8, 1), (120, 100, 4)), [*lines, *calibration]))
    assert more.shots.tolist() == [0, 1, 0, 1, 0, 1, -1, 2]  # calibration is a shot of its own


def test_shots_that_are_not_known(tmp_path):
    """One segment; a line of two segments; EPI, where the segment is the direction of the readout."""
    assert load_kspace(_segmented(tmp_path / "a.h5", [0] * 6)).shots is None
    twice = [line(noise(COILS, 12), kspace_encode_step_1=3, segment=1)]
    assert load_kspace(_segmented(tmp_path / "b.h5", [0, 1, 0, 0, 1, 0], twice)).shots is None
    back = [line(noise(COILS, 12), [ismrmrd.ACQ_IS_REVERSE], kspace_encode_step_1=6, segment=1)]
    k = noise(COILS, 12, 6)
    lines = [line(k[:, :, s], kspace_encode_step_1=s, segment=0) for s in range(6)]
    data = load_kspace(write(tmp_path / "c.h5", header((12, 8, 1), (120, 100, 4)), [*lines, *back]))
    assert data.shots is None
