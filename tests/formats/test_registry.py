"""Every file is claimed by one format, read as what it holds, and refused with the right advice otherwise."""

import h5py
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from medrecon.cli import main
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan, ImageScan, NonCartesianScan, Sinogram
from medrecon.formats import (
    FORMATS,
    Companions,
    load,
    load_image,
    load_kspace,
    load_noncartesian,
    load_sinogram,
)
from medrecon.operators import Detector, ParallelBeam
from tests import fuzz
from tests.make import ismrmrd as make_ismrmrd
from tests.make import twix as make_twix

UNCLAIMED = {
    "mrd images": "reconstructed images, which evaluate reads",
    "slices": "training slices of medrecon.training.slices",
}
KINDS = {
    "fastmri": CartesianScan, "calgary": CartesianScan, "ismrmrd": CartesianScan, "radial": NonCartesianScan,
    "twix": CartesianScan, "bart": CartesianScan, "mat 4": CartesianScan, "mat 7.3": CartesianScan,
    "npy": CartesianScan, "npz": CartesianScan, "spokes": NonCartesianScan, "sinogram": Sinogram, "exchange": Sinogram,
    "nifti 2": ImageScan, "freesurfer": ImageScan, "dicom series": ImageScan, "dicom rle": ImageScan, "dicom big": ImageScan,
}  # fmt: skip
NAMES = {
    "fastmri": "fastmri", "fastmri latest": "fastmri", "compressed": "fastmri", "calgary": "calgary_campinas",
    "ismrmrd": "ismrmrd", "radial": "ismrmrd", "twix": "twix", "twix epi": "twix", "exchange": "data_exchange",
    "spokes": "numpy_files", "sinogram": "numpy_files",
}  # fmt: skip
"""Modules; of other seeds the first word of the name begins that of the module."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The path of every seed's file."""
    folder = tmp_path_factory.mktemp("seeds")
    fuzz.build(folder)
    return {name: folder / str(k) / target for k, (name, (target, *_)) in enumerate(fuzz.SEEDS.items())}


def claims(path):
    return [one.__name__.rpartition(".")[2] for one in FORMATS if one.sniff(path)]


def module_of(name):
    words = {"npy": "numpy_files", "npz": "numpy_files", "mat": "matlab"}
    return NAMES.get(name) or words.get(name.split()[0], name.split()[0])


def test_one_format_claims_every_file(seeds):
    for name, path in seeds.items():
        expected = [] if name in UNCLAIMED else [module_of(name)]
        assert claims(path) == expected, f"seed {name!r}: begin its name with that of its module, or add it to NAMES"


def test_every_module_has_a_seed_that_is_read():
    formats = {one.__name__.rpartition(".")[2] for one in FORMATS}
    missing = formats - {module_of(name) for name in KINDS}
    assert not missing, f"add a seed of {missing} to SEEDS of tests/fuzz.py and to KINDS"


def test_the_content_decides_and_not_the_suffix(seeds, tmp_path):
    for name in ("fastmri", "ismrmrd", "npz", "twix", "nifti", "dicom rle", "exchange"):
        path = tmp_path / "renamed.xyz"
        path.write_bytes(seeds[name].read_bytes())
        assert claims(path) == [module_of(name)], name


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_as_what_it_holds(seeds, name, capsys):
    scan = load(seeds[name])
    assert type(scan) is KINDS[name]
    readers = {CartesianScan: load_kspace, NonCartesianScan: load_noncartesian, Sinogram: load_sinogram,
               ImageScan: load_image}  # fmt: skip
    for kind, read in readers.items():
        if kind is type(scan):
            assert type(read(seeds[name])) is kind
            continue
        with pytest.raises(InputError) as caught:
            read(seeds[name])
        assert seeds[name].stem in str(caught.value)
        assert "\n" not in str(caught.value)
    assert main(["info", str(seeds[name])]) == 0
    assert f"format: {scan.format}" in capsys.readouterr().out


def test_looking_at_a_file_never_raises(seeds, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "folder", tmp_path / "missing", tmp_path / "link"]
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for k, path in enumerate(path for path in seeds.values() if path.is_file()):
        whole = path.read_bytes()
        for cut, n in enumerate((0, 1, 7, 130, 600, len(whole) // 2, len(whole) - 1)):
            one = tmp_path / f"{k}_{cut}_{path.name}"
            one.write_bytes(whole[:n])
            paths.append(one)
        one = tmp_path / f"{k}_random{path.suffix}"
        one.write_bytes(rng.bytes(4000))
        paths.append(one)
    for path in paths:
        assert all(one.sniff(path) in (True, False) for one in FORMATS)
    assert claims(tmp_path / "missing") == claims(tmp_path / "folder") == []


def test_what_no_format_claims_is_refused_with_the_list(tmp_path):
    (tmp_path / "note.txt").write_text("k-space")
    with pytest.raises(InputError, match=r"unknown format '.txt'; supported: .*\.nii.*\.npz.*\.mrd.*\.dat"):
        load(tmp_path / "note.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no DICOM images"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="detector_spacing does not apply to this kind of file"):
        np.save(tmp_path / "a.npy", fuzz.kspace())
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = fuzz.kspace()
        load(tmp_path / "a.h5", companions=Companions(detector_spacing=1.0))


def test_doses_and_segmentations_are_refused(tmp_path):
    dose = get_testdata_file("rtdose_1frame.dcm")
    with pytest.raises(InputError, match="holds a radiotherapy dose"):
        load(dose)
    ds = pydicom.dcmread(dose)
    ds.Modality = "SEG"
    ds.save_as(tmp_path / "s.dcm")
    with pytest.raises(InputError, match="holds a segmentation"):
        load_image(tmp_path / "s.dcm")


# Sinograms


def spots(n, centre):
    """An image of Gaussians about a centre, all inside the circle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:n, :n] - centre
    out = np.zeros((n, n))
    for (v, u), size, width in zip(
        rng.uniform(-14, 14, (8, 2)), rng.uniform(0.5, 1.5, 8), rng.uniform(2, 3, 8), strict=True
    ):
        out += size * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * width**2))
    return out * (np.hypot(x, y) < n / 2 - 1)  # radon warns of anything farther out


def psnr(image, truth):
    return 10 * np.log10(truth.max() ** 2 / ((image - truth) ** 2).mean())


def test_the_axis_of_scikit_images_sinograms_is_on_a_pixel(tmp_path):
    """The image turns about pixel n // 2, so about the middle of our grid it is that image moved by half a pixel."""
    transform = pytest.importorskip("skimage.transform")
    n, degrees = 64, np.arange(180.0)
    sino = transform.radon(spots(n, n // 2), degrees, circle=True).T
    held = {"sino": sino, "theta_rad": np.deg2rad(degrees), "detector_spacing_mm": 1.0}
    np.savez(tmp_path / "a.npz", **held)
    np.savez(tmp_path / "b.npz", **held, axis_convention="pixel")
    truth = spots(n, (n - 1) / 2)

    def quality(scan):
        A = ParallelBeam(torch.from_numpy(scan.angles), (n, n), Detector(n, offset=scan.offset))
        return psnr(A.fbp(torch.from_numpy(scan.sinogram)[None])[0, 0].numpy(), truth)

    middle, pixel = load_sinogram(tmp_path / "a.npz"), load_sinogram(tmp_path / "b.npz")
    assert (middle.offset, pixel.offset) == (0, 0.5)
    assert load_sinogram(tmp_path / "a.npz", axis_convention="pixel").offset == 0.5
    assert load_sinogram(tmp_path / "b.npz", axis_convention="middle").offset == 0
    # 45.6 and 33.6 dB; with the other sign 27.8.
    assert quality(pixel) > quality(middle) + 8
    np.savez(tmp_path / "odd.npz", sino=np.ones((4, 9)), theta_rad=np.arange(4) * 0.7, detector_spacing_mm=1.0)
    assert load_sinogram(tmp_path / "odd.npz", axis_convention="pixel").offset == 0
    assert load_sinogram(tmp_path / "b.npz", centre=31).offset == -0.5  # a centre is a pixel, whatever the convention


def test_beams_and_what_they_need(tmp_path):
    rng, held = np.random.default_rng(0), {"theta_rad": np.arange(5) * 1.2, "detector_spacing_mm": 0.5}
    distances = {"source_to_axis_mm": 100.0, "source_to_detector_mm": 160.0}
    lines = rng.random((5, 6, 8)).astype(np.float32)
    path = tmp_path / "s.npz"
    np.savez(path, sino=lines, beam="cone", centre=3.0, centre_row=3.5, **held, **distances)
    cone = load(path)
    assert (cone.beam, cone.sinogram.shape, cone.n_slices) == ("cone", (1, 5, 6, 8), 6)
    assert np.array_equal(cone.sinogram[0], lines)
    assert (cone.offset, cone.row_offset) == (-0.5, 1.0)
    assert (cone.source_to_axis, cone.source_to_detector) == (100, 160)
    np.savez(path, sino=lines.swapaxes(0, 1), beam="fan", **held, **distances)
    fan = load(path)
    assert (fan.beam, fan.n_slices, fan.source_to_axis) == ("fan", 6, 100)
    one = {"sino": lines[:, 0]}
    for changes, words in (
        ({"beam": "helix"}, "beam is 'helix'; give parallel, fan or cone"),
        ({"beam": 3}, "beam is not a word"),
        ({"beam": "fan", **one}, "a fan beam needs source_to_axis_mm and source_to_detector_mm"),
        ({"beam": "fan", **one, **distances, "source_to_axis_mm": 200.0}, "at most source_to_detector_mm"),
        ({"beam": "cone", **distances, "centre_row": 6}, r"centre_row must be a pixel of the detector, 0\.\.\.5"),
        ({"axis_convention": "edge"}, "axis_convention is 'edge'; give middle or pixel"),
    ):
        np.savez(path, **{"sino": lines, **held, **changes})
        with pytest.raises(InputError, match=words):
            load(path)


# Frames


def cine(tmp_path, sizes=(10, 10, 10), **positions):
    """ISMRMRD of three phases, of which all lines but one were measured, and its k-space."""
    k = np.stack([make_ismrmrd.noise(1, 2, 16, 10, seed=seed) for seed in range(3)])
    lines = [
        make_ismrmrd.line(k[phase, 0, :, :, step], kspace_encode_step_1=step, phase=phase, repetition=2,
                          position=(0, 0, positions.get("step", 0) * phase))
        for phase in range(3) for step in range(10) if step != phase
    ]  # fmt: skip
    path = tmp_path / "cine.h5"
    path.unlink(missing_ok=True)
    return make_ismrmrd.write(path, make_ismrmrd.header((16, 10, 1), (160, 100, 5)), lines), k


def test_frames_of_ismrmrd_are_its_phases(tmp_path):
    path, k = cine(tmp_path)
    scan = load(path, frames="phase")
    assert isinstance(scan, DynamicScan)
    assert scan.axis == "phase"
    for phase in range(3):
        one = load_kspace(path, {"phase": phase})
        assert np.array_equal(scan.kspace[phase], one.kspace)
        assert np.array_equal(scan.mask[phase], np.broadcast_to(one.mask, one.matrix))
        assert not scan.mask[phase][:, phase].any()
        kept = np.arange(10) != phase
        assert np.allclose(scan.kspace[phase][..., kept], k[phase][..., kept], atol=1e-6)
    assert scan.summary()["frames"] == 3
    for frames, select, words in (
        ("repetition", {"phase": 1}, "holds only one repetition"),
        ("slice", {}, "'slice' is not an axis of frames; choose contrast, phase, repetition or set"),
        ("phase", {"phase": 1}, "phase is the axis of the frames"),
        ("repetition", {}, "holds 3 values of phase"),
    ):
        with pytest.raises(InputError, match=words):
            load(path, select, frames=frames)
    path, _ = cine(tmp_path, step=1)
    with pytest.raises(InputError, match="frame 1 has a different position than frame 0"):
        load(path, frames="phase")


def test_every_frame_has_its_own_calibration_lines(tmp_path):
    path, k = cine(tmp_path)
    with make_ismrmrd.ismrmrd.Dataset(str(path), "dataset") as dataset:
        for phase in range(3):
            line = make_ismrmrd.line(
                k[phase, 0, :, :, phase], [20], kspace_encode_step_1=phase, phase=phase, repetition=2
            )
            dataset.append_acquisition(line)
    scan = load(path, frames="phase")
    assert scan.mask.all()
    assert np.allclose(scan.kspace, k, atol=1e-6)


def test_frames_of_twix_are_its_repetitions(tmp_path):
    images = np.stack([make_twix.measured(1, 2)[0] * (1 + n) for n in range(2)])
    lines = [one for n in range(2) for one in make_twix.lines_of(images[n], Rep=n)]
    scan = load(make_twix.write(tmp_path / "a.dat", lines), frames="repetition")
    assert scan.kspace.shape[0] == 2
    assert np.allclose(scan.kspace[1], 2 * scan.kspace[0], rtol=1e-5)
    assert np.abs(from_kspace(scan.kspace[0])).max() > 0.1


def test_frames_of_arrays(tmp_path):
    k = np.stack([fuzz.kspace(), 2 * fuzz.kspace(), 3 * fuzz.kspace()])
    masks = np.ones((3, 12, 10), bool)
    masks[1, :, 4] = False
    np.savez(tmp_path / "a.npz", kspace=k * masks[:, None, None], mask=masks)
    scan = load(tmp_path / "a.npz", frames="phase")
    assert np.array_equal(scan.mask, masks)
    assert np.array_equal(scan.kspace, (k * masks[:, None, None]).astype(np.complex64))
    assert np.array_equal(scan.select_slices(slice(1, 2)).kspace, scan.kspace[:, 1:2])
    np.save(tmp_path / "one.npy", k[:1])
    np.save(tmp_path / "four.npy", k[0])
    for name, words in (("one", "holds only one phase"), ("four", "frames need")):
        with pytest.raises(InputError, match=words):
            load(tmp_path / f"{name}.npy", frames="phase")
    with pytest.raises(InputError, match=r"k-space has shape \(3, 2, 3, 12, 10\)"):
        load(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = k[0]
    with pytest.raises(InputError, match="this format has no frames"):
        load(tmp_path / "a.h5", frames="phase")
