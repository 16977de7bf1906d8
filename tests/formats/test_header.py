"""What a header says and the samples do not: centres, datasets, oversampling, thickness, and the readout of fastMRI's files."""

import json
import logging

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

from medrecon.cli import main
from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import noise_scan_std
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.formats.centre import centre_warnings, peak_offset
from medrecon.formats.header import encoding_spaces
from medrecon.transforms import LoadKSpaced
from tests.make.bart import write_cfl
from tests.make.images import blobs
from tests.make.ismrmrd import COILS, header, line, noise, write


def measured(shape, coils=COILS, noise_std=1e-3):
    """K-space ``(coils, y, x)`` of an object that fills half the field of view, so that its energy has a peak."""
    return simulate_kspace(blobs(shape), loop_coils(shape, coils), noise_std, np.random.default_rng(0))


def lines_of(k, first=0, centre=None, **more):
    """Every column of ``(coils, x, y)`` as a line whose counter begins with 0 at ``first``; ``centre`` as Siemens' counter."""
    out = []
    for y in range(first, k.shape[2]):
        one = line(k[:, :, y], kspace_encode_step_1=y - first, **more)
        if centre is not None:
            one.idx.user[5] = centre
        out.append(one)
    return out


def by(vendor, *args, **more):
    xml = header(*args, **more)
    xml.acquisitionSystemInformation.systemVendor = vendor
    return xml


# The centre of k-space


def test_siemens_partial_fourier_has_its_centre_in_the_counters(tmp_path):
    """siemens_to_ismrmrd: the header's centre is half the lines, though the first six of them were not measured."""
    k = measured((24, 20))
    held = k * (np.arange(20) >= 6)
    xml = by("SIEMENS", (24, 20, 1), (240, 200, 5), centres=(10, None))
    data = load_kspace(write(tmp_path / "a.h5", xml, lines_of(k, first=6, centre=4)))
    assert np.allclose(data.kspace[0], held, atol=1e-6)
    assert np.array_equal(data.mask, np.arange(20) >= 6)
    assert data.attributes["centre line"] == "4, by the acquisitions; the header has 10"
    assert data.warnings == ()
    # Other vendors may keep anything in these counters.
    other = load_kspace(
        write(tmp_path / "b.h5", by("GE", *((24, 20, 1), (240, 200, 5))), lines_of(k[:, :, :14], centre=4))
    )
    assert np.allclose(other.kspace[0, :, :, :14], k[:, :, :14], atol=1e-6)
    assert "centre line" not in other.attributes


def test_siemens_partitions_too(tmp_path):
    k = noise(COILS, 8, 12, 10)
    lines = []
    for y in range(2, 12):
        for z in range(3, 10):
            one = line(k[:, :, y, z], kspace_encode_step_1=y - 2, kspace_encode_step_2=z - 3)
            one.idx.user[5], one.idx.user[6] = 4, 2
            lines.append(one)
    xml = by("Siemens Healthineers", (8, 12, 10), (80, 120, 100))
    data = load_kspace(write(tmp_path / "a.h5", xml, lines))
    hybrid = from_kspace(k, (1,)).swapaxes(0, 1)
    inside = (np.arange(12) >= 2)[:, None] & (np.arange(10) >= 3)
    assert np.allclose(data.kspace, hybrid * inside, atol=1e-5)
    assert data.attributes["centre partition"].startswith("2, ")


def test_counters_that_contradict_each_other_are_not_believed(tmp_path):
    k = noise(COILS, 16, 12)
    lines = lines_of(k, centre=6)
    for one in lines[8:]:
        one.idx.user[5] = 4
    data = load_kspace(write(tmp_path / "a.h5", by("SIEMENS", (16, 12, 1), (160, 120, 5)), lines))
    assert np.allclose(data.kspace[0], k)
    assert "several centres of k-space (lines 4, 6); line 6 of the header is used" in data.warnings[0]
    data = load_kspace(write(tmp_path / "b.h5", by("SIEMENS", (16, 12, 1), (160, 120, 5)), lines_of(k, centre=2)))
    assert np.allclose(data.kspace[0], k)
    assert (
        "line 2 as the centre of k-space, which does not fit the matrix; line 6 of the header is used"
        in data.warnings[0]
    )


def stored(folder, k):
    """One array ``(coils, y, x)`` in every format of arrays."""
    np.savez(folder / "a.npz", kspace=k)
    np.save(folder / "a.npy", k)
    savemat(folder / "a.mat", {"kspace": k.transpose(1, 2, 0)})
    write_cfl(folder / "a", k[:, None])
    with h5py.File(folder / "a.h5", "w") as file:
        file["kspace"] = k[None]
    return [folder / f"a{suffix}" for suffix in (".npz", ".npy", ".mat", ".cfl", ".h5")]


def test_uncentred_kspace_is_said_in_every_format(tmp_path):
    k = measured((48, 40))
    for path in stored(tmp_path, k):
        assert load_kspace(path).warnings == (), path
    for path in stored(tmp_path, np.fft.ifftshift(k, (-2, -1))):
        (text,) = load_kspace(path).warnings
        assert text.startswith(f"{path}: the energy of k-space peaks at row 0 of 48 (row 24 is used as the centre)"), (
            text
        )
        assert "column 0 of 40 (column 20 is used as the centre)" in text
        assert "numpy.fft.fftshift along axis -2 and -1" in text
    repaired = np.fft.fftshift(np.load(tmp_path / "a.npy"), (-2, -1))  # the advice is right
    assert np.array_equal(repaired, k)
    for path in stored(tmp_path, np.roll(k, (0, 5), (-2, -1))):
        (text,) = load_kspace(path).warnings
        assert "peaks at column 25 of 40 (column 20 is used as the centre)" in text
        assert "numpy.roll" in text
        assert "row" not in text.replace("numpy.roll", "")


def test_a_wrong_centre_of_ismrmrd_is_said(tmp_path):
    """A header whose centre is eight lines off, and a readout whose echo is eight samples early."""
    k = measured((32, 40))
    xml = header((32, 40, 1), (320, 400, 5), centres=(12, None))
    assert load_kspace(write(tmp_path / "a.h5", xml, lines_of(k[:, :, 8:]))).warnings == ()
    xml = header((32, 40, 1), (320, 400, 5), centres=(20, None))
    (text,) = load_kspace(write(tmp_path / "b.h5", xml, lines_of(k[:, :, 8:]))).warnings
    assert "peaks at column 12 of 40 (column 20 is used as the centre)" in text
    assert "encodingLimits" in text
    early = np.roll(k, -8, 1)
    (text,) = load_kspace(write(tmp_path / "c.h5", header((32, 40, 1), (320, 400, 5)), lines_of(early))).warnings
    assert "row 8 of 32" in text
    assert "center_sample" in text


@pytest.mark.parametrize("shift", [0, 2, 6])
def test_the_readout_of_a_3d_scan_has_a_centre_too(tmp_path, shift):
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in (8, 16, 24)], indexing="ij")
    solid = ((x / 9) ** 2 + (y / 6) ** 2 + (z / 3) ** 2 < 1).astype(np.complex64)
    k = np.roll(to_kspace(solid.transpose(2, 1, 0), (0, 1, 2)), shift, 0)[None]
    lines = [line(k[:, :, y, z], kspace_encode_step_1=y, kspace_encode_step_2=z) for y in range(16) for z in range(8)]
    data = load_kspace(write(tmp_path / "a.h5", header((24, 16, 8), (24, 16, 8)), lines))
    assert len(data.warnings) == (shift > 3)
    if data.warnings:
        assert "sample 18 of 24 along the readout (sample 12 is used as the centre)" in data.warnings[0]


def test_what_is_no_fault_is_not_said():
    """Phase that runs by two lines, partial Fourier, any mask, objects without a mean, noise, any scale, empty slices."""
    k = measured((96, 88), 4, 1e-4)[None]
    rows, columns = np.meshgrid(np.arange(96) - 48, np.arange(88) - 44, indexing="ij")
    faultless = {
        "shifted": np.roll(k, (2, -2), (-2, -1)),
        "partial": k * (np.arange(88) >= 33),
        "edges": k * (1 - np.exp(-(rows**2 + columns**2) / 2 / 8**2)),
        "no centre": k * (np.hypot(rows, columns) > 6),
        "weak": (k * np.float32(1e-25)).astype(np.complex64),
        "strong": (k * np.float32(1e30)).astype(np.complex64),
        "empty": np.concatenate([0 * k, k]),
        "grid": to_kspace(np.broadcast_to(np.cos(2 * np.pi * columns / 8), (1, 1, 96, 88)).astype(np.complex64)),
    }
    rng = np.random.default_rng(0)
    x, weak = columns / 88, 1e-3 * (rng.standard_normal((96, 88)) + 1j * rng.standard_normal((96, 88)))
    faultless["three lines"] = np.roll(to_kspace(np.ones((1, 1, 96, 88))) + weak, 3, -1)
    bent = np.exp(2j * np.pi * (4 * x + 6 * x**2))  # energy spread evenly from line -2 to line 10
    faultless["bent phase"] = to_kspace(bent[None, None]) + weak
    for kind in ("equispaced", "random", "gaussian1d", "gaussian2d", "poisson"):
        for acs in (0, 20):
            faultless[f"{kind} {acs}"] = k * undersampling_mask((96, 88), kind, 4, acs, 1)
    for name, one in faultless.items():
        assert centre_warnings(one, "f", "NumPy") == (), name
    for _ in range(3000):  # small ones too
        shape = (1, *rng.integers(1, 3, 1), *rng.integers(2, 20, 2))
        assert centre_warnings(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), "f", "NumPy") == ()
    assert peak_offset(np.zeros(20)) is None


def test_real_scans_are_centred_and_a_shift_of_five_is_seen(data_folder):
    paths = [data_folder / "kspace" / f"{name}.h5" for name in ("brain_t1_8ch_sliceA", "brain_gre_16ch_96")]
    paths += [data_folder / "kspace" / "siemens" / "gre_real.mrd"]
    for path in paths:
        data = load_kspace(path)
        assert data.warnings == (), path
        for axis in (-2, -1):
            for shift in (-2, 2):
                assert centre_warnings(np.roll(data.kspace, shift, axis), "f", "NumPy") == ()
            for shift in (-6, -5, 5, 6, 20):
                assert centre_warnings(np.roll(data.kspace, shift, axis), "f", "NumPy") != (), (path, axis, shift)


def test_the_same_sentence_in_log_info_and_sidecar(tmp_path, caplog, capsys):
    path = tmp_path / "k.npz"
    np.savez(path, kspace=np.roll(measured((48, 40)), 7, -2))
    (text,) = load_kspace(path).warnings
    assert main(["info", str(path)]) == 0
    assert f"warning: {text}\n" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING, logger="medrecon"):
        assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled"]) == 0
    assert [r.message for r in caplog.records].count(text) == 1
    without_folder = text.replace(str(path), "k.npz")  # folders may name patients
    assert without_folder in json.loads((tmp_path / "o" / "k.json").read_text())["warnings"]
    assert str(tmp_path) not in (tmp_path / "o" / "k.json").read_text()
    (tmp_path / "in").mkdir()
    path.rename(tmp_path / "in" / "k.npz")
    assert main(["prep", str(tmp_path / "in"), "-o", str(tmp_path / "p"), "--recipe", "kspace"]) == 0
    assert without_folder in json.loads((tmp_path / "p" / "manifest.jsonl").read_text())["warnings"]
    path = tmp_path / "in" / "k.npz"
    text = without_folder.replace("k.npz", str(path), 1)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="medrecon"):
        assert main(["undersample", str(path), "-o", str(tmp_path / "u.h5"), "--accel", "2", "--acs", "8"]) == 0
        assert main(["evaluate", str(tmp_path / "o" / "k.nii.gz"), "--reference", str(path)]) == 0
    assert [r.message for r in caplog.records].count(text) == 2


# Several datasets in a file


def several(path, **datasets):
    for name, (xml, lines) in datasets.items():
        with ismrmrd.Dataset(str(path), name.replace("__", "/"), create_if_needed=True) as dataset:
            dataset.write_xml_header(xml.toXML())
            for one in lines:
                dataset.append_acquisition(one)
    return path


def noise_lines(coils, dwell=8.0, n=20000):
    return [line(noise(coils, n, seed=9), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT], dwell=dwell)]


def test_datasets_of_one_file_are_named_and_selected(tmp_path, capsys):
    k = noise(COILS, 16, 12)
    xml = header((16, 12, 1), (160, 120, 5))
    two = lines_of(2 * k, dwell=2.0)
    path = several(
        tmp_path / "m.h5", dataset=(xml, noise_lines(COILS)), dataset_1=(xml, lines_of(k)), dataset_2=(xml, two)
    )
    expected = (
        r"dataset \(a noise scan\), dataset_1 \(12 lines of 3 coils\), dataset_2 \(12 lines of 3 coils\); select one, e.g. "
        "dataset=dataset_1"
    )
    with pytest.raises(InputError, match=expected):
        load_kspace(path)
    for choice in ("dataset_2", 2, "2"):
        data = load_kspace(path, {"dataset": choice})
        assert np.allclose(data.kspace[0], 2 * k)
        assert data.attributes["dataset"] == "dataset_2"
        # Of the other dataset, as strong as at this one's dwell time.
        assert data.attributes["noise scan"] == "of dataset"
        assert noise_scan_std(data.noise_scan) == pytest.approx((8 / 2) ** 0.5, rel=0.02)
    out = LoadKSpaced("image", select={"dataset": 1, "repetition": 0})({"image": path})
    assert np.allclose(out["image"].numpy()[0], k)
    assert main(["info", str(path), "--select", "dataset=1"]) == 0
    assert "dataset: dataset_1" in capsys.readouterr().out
    assert main(["info", str(path)]) == 2
    assert (
        main(["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled", "--select", "dataset=2"]) == 0
    )
    assert main(["evaluate", str(tmp_path / "o" / "m.nii.gz"), "--reference", str(path), "--select", "dataset=2"]) == 0
    for wrong in (7, "data", "dataset_", "_1"):
        with pytest.raises(InputError, match=f"there is no dataset {wrong}; it holds dataset .a noise"):
            load_kspace(path, {"dataset": wrong})
    with pytest.raises(InputError, match="choose among dataset, contrast"):
        load_kspace(path, {"dataset": 1, "echo": 0})


def test_the_only_dataset_with_an_image_is_taken_and_named(tmp_path):
    k = noise(COILS, 16, 12)
    xml = header((16, 12, 1), (160, 120, 5))
    path = several(tmp_path / "m.h5", dataset_1=(xml, noise_lines(COILS)), dataset_2=(xml, lines_of(k, dwell=8.0)))
    data = load_kspace(path)
    assert np.allclose(data.kspace[0], k)
    assert (data.attributes["dataset"], data.attributes["noise scan"]) == ("dataset_2", "of dataset_1")
    assert noise_scan_std(data.noise_scan) == pytest.approx(1, rel=0.02)
    with pytest.raises(InputError, match="not an image"):
        load_kspace(path, {"dataset": 1})
    assert "dataset" not in load_kspace(write(tmp_path / "one.h5", xml, lines_of(k))).attributes
    with pytest.raises(InputError, match="there is no dataset 1; it holds dataset"):
        load_kspace(tmp_path / "one.h5", {"dataset": 1})


def test_the_noise_of_other_coils_is_not_used(tmp_path):
    k, xml = noise(COILS, 16, 12), header((16, 12, 1), (160, 120, 5))
    path = several(tmp_path / "m.h5", a1=(xml, noise_lines(COILS + 1)), a2=(xml, lines_of(k)))
    data = load_kspace(path)
    assert data.noise_scan is None
    assert data.attributes["noise scan"] == "of a1 not used: it has other coils"
    xmls = []
    for names in (("H1", "H2", "H3"), ("H2", "H1", "H3"), ("H1", "H2", "H3")):
        xmls.append(header((16, 12, 1), (160, 120, 5)))
        system = xmls[-1].acquisitionSystemInformation
        system.coilLabel = [ismrmrd.xsd.coilLabelType(coilNumber=i, coilName=name) for i, name in enumerate(names)]
    path = several(tmp_path / "n.h5", a1=(xmls[0], noise_lines(COILS)), a2=(xmls[1], lines_of(k)))
    assert load_kspace(path).noise_scan is None
    assert "another order" in load_kspace(path).attributes["noise scan"]
    path = several(tmp_path / "o.h5", a1=(xmls[0], noise_lines(COILS)), a2=(xmls[2], lines_of(k)))
    assert load_kspace(path).noise_scan is not None


def test_groups_within_groups_and_trajectories(tmp_path):
    k, xml = noise(COILS, 16, 12), header((16, 12, 1), (160, 120, 5))
    path = several(tmp_path / "m.h5", scans__first=(xml, lines_of(k)), scans__second=(xml, lines_of(3 * k)))
    with pytest.raises(InputError, match=r"scans/first \(12 lines of 3 coils\), scans/second"):
        load_kspace(path)
    assert np.allclose(load_kspace(path, {"dataset": "scans/second"}).kspace[0], 3 * k)
    with h5py.File(path, "a") as file:  # a damaged one beside it
        del file["scans/first/data"]
        file["scans/first/data"] = np.zeros(3)
    assert np.allclose(load_kspace(path, {"dataset": "scans/second"}).kspace[0], 3 * k)
    with pytest.raises(InputError, match=r"scans/first \(damaged\), scans/second"):
        load_kspace(path)
    radial = header((16, 16, 1), (160, 160, 5), kind="radial")
    shots = lines_of(k)
    path = several(
        tmp_path / "r.h5", dataset_1=(radial, noise_lines(COILS)), dataset_2=(radial, shots), dataset_3=(radial, shots)
    )
    points = np.zeros((12, 16, 2))
    with pytest.raises(InputError, match=r"select one, e\.g\. dataset=dataset_2"):
        load_noncartesian(path, points)
    data = load_noncartesian(path, points, select={"dataset": 3})
    assert np.allclose(data.samples[0], k.transpose(0, 2, 1))
    assert data.attributes["dataset"] == "dataset_3"
    assert data.noise_scan is not None


# Oversampling that was removed, and the thickness of slices


def test_oversampling_that_was_removed_before(tmp_path):
    """Lines of the recon matrix under a header that counts the oversampling: image, field of view and pixels as with it."""
    wide = np.zeros((1, COILS, 48, 20), complex)
    wide[:, :, 12:36] = noise(1, COILS, 24, 20)
    full, small = to_kspace(wide)[0], to_kspace(wide[:, :, 12:36])[0]
    xml = header((48, 20, 1), (96, 40, 5), recon=((24, 20, 1), (48, 40, 5)))
    whole = load_kspace(write(tmp_path / "a.h5", xml, lines_of(full)))
    assert whole.warnings == ()
    for name, centre in (("given", 12), ("stale", 24), ("missing", 0)):
        data = load_kspace(
            write(
                tmp_path / f"{name}.h5",
                xml,
                [line(small[:, :, y], centre=centre, kspace_encode_step_1=y) for y in range(20)],
            )
        )
        assert np.allclose(data.kspace, whole.kspace, atol=1e-5), name
        assert data.mask.shape == (20,)
        assert data.spacing == whole.spacing == (5.0, 2.0, 2.0)
        assert np.allclose(data.affine, whole.affine)
        (text,) = data.warnings
        assert "readout oversampling seems to be removed from its lines of 24 samples" in text
        assert "48 samples in 96 mm" in text
    # Calibration lines with the header's centre, too.
    lines = [
        line(small[:, :, y], [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION] if y == 9 else [], centre=24, kspace_encode_step_1=y)
        for y in range(20)
    ]
    data = load_kspace(write(tmp_path / "calibration.h5", xml, lines))
    assert np.allclose(data.kspace, whole.kspace, atol=1e-5)
    # A partial echo ends where a whole line ends.
    part = [line(small[:, 6:, y], centre=6, kspace_encode_step_1=y) for y in range(20)]
    data = load_kspace(write(tmp_path / "p.h5", xml, part))
    assert np.allclose(data.kspace[0], small * (np.arange(24) >= 6)[:, None], atol=1e-5)
    assert data.spacing == (5.0, 2.0, 2.0)


def test_low_resolution_and_partial_echoes_are_no_removed_oversampling(tmp_path):
    k = noise(COILS, 48, 20)
    xml = header((48, 20, 1), (96, 40, 5), recon=((24, 20, 1), (48, 40, 5)))
    partial = [line(k[:, 12:, y], centre=12, kspace_encode_step_1=y) for y in range(20)]  # to the oversampled end
    data = load_kspace(write(tmp_path / "a.h5", xml, partial))
    assert data.kspace.shape == (1, COILS, 48, 20)
    assert np.allclose(data.kspace[0], k * (np.arange(48) >= 12)[:, None])
    assert data.warnings == ()
    same = header((48, 20, 1), (96, 40, 5), recon=((24, 20, 1), (96, 40, 5)))  # no oversampling: pixels twice as large
    middle = [line(k[:, 12:36, y], centre=12, kspace_encode_step_1=y) for y in range(20)]
    data = load_kspace(write(tmp_path / "b.h5", same, middle))
    assert data.kspace.shape == (1, COILS, 48, 20)
    assert data.warnings == ()
    shorter = [line(k[:, 16:32, y], centre=8, kspace_encode_step_1=y) for y in range(20)]  # ends nowhere
    data = load_kspace(write(tmp_path / "d.h5", xml, shorter))
    assert np.allclose(data.kspace[0, :, 16:32], k[:, 16:32])
    assert data.kspace.shape == (1, COILS, 48, 20)
    # Spokes are as long as they are.
    radial = header((48, 48, 1), (96, 96, 5), recon=((24, 24, 1), (48, 48, 5)), kind="radial")
    spokes = [line(k[:, 12:36, y], centre=12, kspace_encode_step_1=y) for y in range(20)]
    data = load_noncartesian(write(tmp_path / "c.h5", radial, spokes), np.zeros((20, 24, 2)))
    assert (data.matrix, data.spacing, data.warnings) == ((48, 48), (5.0, 2.0, 2.0), ())


def test_the_thickness_of_a_2d_scan_is_the_recon_spaces(tmp_path):
    """Slice oversampling makes the encoded space thicker: 7.5 mm of 5 mm."""
    k = noise(COILS, 16, 12)
    spaces_of = ((16, 12, 1), (160, 120, 7.5)), ((16, 12, 1), (160, 120, 5))
    data = load_kspace(write(tmp_path / "a.h5", header(*spaces_of[0], recon=spaces_of[1]), lines_of(k)))
    assert data.spacing == (5.0, 10.0, 10.0)
    assert np.linalg.norm(data.affine[:3, 2]) == pytest.approx(5)
    radial = header(*spaces_of[0], recon=spaces_of[1], kind="radial")
    data = load_noncartesian(write(tmp_path / "b.h5", radial, lines_of(k)), np.zeros((12, 16, 2)))
    assert data.spacing == (5.0, 10.0, 10.0)
    fastmri(tmp_path / "f.h5", k[None], header(*spaces_of[0], recon=spaces_of[1]))
    assert load_kspace(tmp_path / "f.h5").spacing == (5.0, 10.0, 10.0)
    # Partitions of a 3-D scan are of the encoded space.
    lines = [line(k[:, :, y], kspace_encode_step_1=y, kspace_encode_step_2=z) for y in range(12) for z in range(4)]
    xml = header((16, 12, 4), (160, 120, 12), recon=((16, 12, 2), (160, 120, 6)))
    assert load_kspace(write(tmp_path / "c.h5", xml, lines)).spacing == (10.0, 10.0, 3.0)


# fastMRI's files


def fastmri(path, kspace, xml=None, **datasets):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        if xml is not None:
            text = xml.toXML("utf-8")
            file["ismrmrd_header"] = text if isinstance(text, bytes) else text.encode()
        for name, value in datasets.items():
            file[name] = value
        file.attrs["acquisition"] = "CORPD_FBK"
    return path


def knee(slices=1, coils=2, marker=(170, 250)):
    """Images as fastMRI's knees have them: 640 x 368 over 280 x 161 mm, of which 320 x 320 are shown; with a marker."""
    rng = np.random.default_rng(0)
    images = 0.01 * noise(slices, coils, 640, 368, seed=int(rng.integers(99)))
    images[:, :, 180:460, 40:330] += 1
    images[:, :, 160 + marker[0], marker[1]] += 30
    xml = header((640, 368, 1), (280, 161, 7.5), recon=((320, 320, 1), (140, 140, 4.5)))
    return images, xml


@pytest.mark.parametrize("coils", [1, 2])
def test_the_readout_of_fastmri_is_cropped_as_its_own_images_are(tmp_path, coils):
    images, xml = knee(coils=coils)
    k = to_kspace(images)
    rss = np.sqrt((np.abs(images) ** 2).sum(axis=1))[:, 160:480, 24:344]  # fastMRI: rss, then the middle 320 x 320
    path = fastmri(tmp_path / "knee.h5", k if coils > 1 else k[:, 0], xml, reconstruction_rss=rss)
    data = load_kspace(path)
    assert data.kspace.shape == (1, coils, 320, 368)
    assert data.spacing == pytest.approx((4.5, 0.4375, 0.4375))
    ours = np.sqrt((np.abs(from_kspace(data.kspace)) ** 2).sum(axis=1))
    assert np.abs(ours[:, :, 24:344] - rss).max() < 1e-4 * rss.max()  # float32 and two transforms
    assert np.unravel_index(ours[0].argmax(), ours[0].shape) == (170, 250)
    assert data.attributes["readout"].startswith("cropped to the middle 320 of 640 rows")
    assert "140 mm" in data.attributes["readout"]
    assert data.attributes["phase encoding"].startswith("not cropped: 368 columns of 161 mm")
    assert "middle 320" in data.attributes["phase encoding"]


def test_columns_that_were_not_sampled_stay_exactly_zero(tmp_path):
    images, xml = knee()
    mask = undersampling_mask((640, 368), "equispaced", 4, 30, 0)
    for stored_mask in ({}, {"mask": mask}):
        data = load_kspace(fastmri(tmp_path / "u.h5", to_kspace(images) * mask, xml, **stored_mask))
        assert np.array_equal(data.mask, mask)
        assert not data.kspace[..., ~mask].any()
        assert data.kspace.shape[2:] == (320, 368)
    whole = load_kspace(fastmri(tmp_path / "w.h5", to_kspace(images), xml)).kspace
    assert np.allclose(data.kspace, whole * mask, atol=1e-5)


def test_undersample_recon_evaluate_of_fastmri(tmp_path):
    """One matrix in all three, the marker in its place, and a file that was cropped once is not cropped again."""
    images, xml = knee(slices=2)
    path = fastmri(tmp_path / "knee.h5", to_kspace(images), xml)
    small = tmp_path / "small.h5"
    assert (
        main(["undersample", str(path), "-o", str(small), "--kind", "equispaced", "--accel", "2", "--acs", "40"]) == 0
    )
    full, data = load_kspace(path), load_kspace(small)
    assert data.kspace.shape == full.kspace.shape == (2, 2, 320, 368)
    assert np.allclose(data.kspace, full.kspace * data.mask, atol=1e-6)
    assert data.spacing == pytest.approx(full.spacing)
    encoded, recon = encoding_spaces(data.header)
    assert (encoded.matrix, recon.matrix) == ((320, 368, 1), (320, 320, 1))  # what fastMRI's own code needs to crop it
    assert encoded.fov[:2] == pytest.approx((140, 161))
    assert main(["recon", str(small), "-o", str(tmp_path / "o"), "--solver", "zero-filled"]) == 0
    assert main(["evaluate", str(tmp_path / "o" / "small.nii.gz"), "--reference", str(path)]) == 0
    image = nib.load(tmp_path / "o" / "small.nii.gz")
    assert image.header.get_zooms() == pytest.approx((0.4375, 0.4375, 4.5))
    volume = np.asarray(image.dataobj)
    assert volume.shape == (368, 320, 2)
    assert np.unravel_index(volume[..., 0].argmax(), volume.shape[:2]) == (250, 170)


def test_fastmri_files_that_are_not_cropped_say_so_or_need_not(tmp_path):
    images, xml = knee()
    k = to_kspace(images)
    bare = load_kspace(fastmri(tmp_path / "bare.h5", k))
    assert bare.kspace.shape[2:] == (640, 368)
    assert (bare.spacing, "readout" in bare.attributes) == (None, False)
    points = np.random.default_rng(0).random((640, 368)) < 0.5
    data = load_kspace(fastmri(tmp_path / "points.h5", k * points, xml))
    assert np.allclose(data.kspace, k * points)
    assert data.attributes["readout"].startswith("not cropped to the middle 320 of 640 rows")
    assert data.attributes["readout"].endswith("columns are not fully sampled")
    assert data.spacing == pytest.approx((4.5, 0.4375, 0.4375))
    affine = np.diag([0.4375, 0.4375, 4.5, 1.0])
    data = load_kspace(fastmri(tmp_path / "affine.h5", k, xml, affine=affine))
    assert np.array_equal(data.affine, affine)
    assert data.kspace.shape[2:] == (640, 368)
    assert "affine of all rows" in data.attributes["readout"]
    # Cropped before, by whomever: of the recon space, not of a quarter.
    data = load_kspace(fastmri(tmp_path / "small.h5", to_kspace(images[:, :, 160:480]), xml))
    assert data.kspace.shape[2:] == (320, 368)
    assert "readout" not in data.attributes
    assert data.spacing == pytest.approx((4.5, 0.4375, 0.4375))
    assert data.warnings == ()
    data = load_kspace(fastmri(tmp_path / "odd.h5", to_kspace(images[:, :, :500]), xml))
    assert data.kspace.shape[2:] == (500, 368)
    assert "describes 640 x 368 samples, but k-space is 500 x 368" in data.warnings[0]


def test_a_3d_scan_in_fastmri_layout_keeps_its_voxels_and_rows(tmp_path):
    """Its rows and columns are the two phase encodings; its header's x is the readout, which became the slices."""
    k = noise(COILS, 32, 32, 8)
    xml = header((32, 32, 8), (64, 96, 32), recon=((16, 32, 8), (32, 96, 32)))
    nowhere = np.zeros((3, 3))  # no directions, so no affine is stored
    lines = [
        line(k[:, :, y, z], dirs=nowhere, kspace_encode_step_1=y, kspace_encode_step_2=z)
        for y in range(32)
        for z in range(8)
    ]
    path = write(tmp_path / "a.h5", xml, lines)
    full = load_kspace(path)
    assert (full.kspace.shape, full.spacing, full.affine) == ((16, COILS, 32, 8), (2.0, 3.0, 4.0), None)
    arguments = ["--kind", "random", "--accel", "2", "--acs", "2"]
    assert main(["undersample", str(path), "-o", str(tmp_path / "u.h5"), *arguments]) == 0
    data = load_kspace(tmp_path / "u.h5")
    assert data.kspace.shape == full.kspace.shape
    assert np.array_equal(data.kspace, full.kspace * data.mask)
    assert data.spacing == full.spacing
    assert data.warnings == ()
