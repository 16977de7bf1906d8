"""Maps that cover the signal, images that explain their data, any scale, and where the sidecar says that maps come from."""

import json

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

import medrecon
from medrecon.bundle import find_bundle
from medrecon.cli import main
from medrecon.data.coils import Combination, combine_coils, compress_coils, from_kspace, prewhiten
from medrecon.data.errors import InputError
from medrecon.data.espirit import (
    Espirit,
    coil_maps,
    combined_reference,
    espirit_maps,
    estimate_maps,
    trusted_noise,
)
from medrecon.data.masks import centred, undersampling_mask
from medrecon.data.noise import estimate_noise_std
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.engines import ScanPrepareBatch
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.monai_bundle import load_config
from medrecon.posterior import run, sampling
from medrecon.problems import physics_of, problem
from medrecon.settings import SamplingSettings
from medrecon.transforms import EstimateSensitivityMapsd, LoadKSpaced, ToCartesianScand
from tests.make import toys
from tests.make.images import blobs

SCALES = (1e-25, 1e-12, 1e12, 1e30)
SHAPE = (96, 88)


def few_lines(acs, noise=0.002, shape=SHAPE, accel=4, coils=8):
    """Undersampled k-space ``(1, coils, y, x)`` of a planted image and planted maps, its mask, image and maps."""
    image, maps = blobs(shape), loop_coils(shape, coils)
    mask = undersampling_mask(shape, "equispaced", accel, acs, 0)
    kspace = simulate_kspace(image, maps, noise, np.random.default_rng(0)) * mask
    return kspace[None], mask, np.abs(image), maps


def psnr(image, reference):
    return 10 * np.log10(reference.max() ** 2 / ((image - reference) ** 2).mean())


def write(path, kspace, mask=None):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask
    return path


def recon(path, out, *more):
    """Exit code, image ``(slices, y, x)`` and sidecar of the command line."""
    try:
        code = main(["recon", str(path), "-o", str(out), "--format", "h5", *map(str, more)])
    except SystemExit as stop:
        code = stop.code
    if code:
        return code, None, None
    with h5py.File(out / f"{path.stem}.h5") as file:
        return code, file["reconstruction"][()], json.loads((out / f"{path.stem}.json").read_text())


# Support


@pytest.mark.parametrize("acs", [4, 6, 8])
def test_maps_cover_the_object_with_few_calibration_lines(acs):
    """ESPIRiT's crop left 2 to 80 % of this object's energy; maps that are there must be the planted ones."""
    kspace, mask, image, planted = few_lines(acs)
    found = estimate_maps(kspace, mask, 0.002).maps[0].numpy()
    inside = np.abs(found).sum(0) > 0
    assert (image**2 * inside).sum() > 0.98 * (image**2).sum()
    cosine = np.abs((found.conj() * planted).sum(0))[(image > 0.3) & inside]
    assert np.median(cosine) > 0.97  # low resolution: 0.98 at 4 lines, 0.997 at 8
    source = estimate_maps(kspace, mask, noise_std=0.002)
    assert source.source.startswith("ESPIRiT (")
    assert len(source.warnings) == 1
    assert "calibration region of 96 x" in source.warnings[0]


def test_enough_lines_change_nothing():
    kspace, mask, *_ = few_lines(20)
    found = estimate_maps(kspace, mask, noise_std=0.002)
    assert (found.source, found.warnings) == ("ESPIRiT", ())
    assert torch.equal(found.maps[0], espirit_maps(kspace[0], mask, noise_std=0.002))


def test_real_scans_change_nothing(data_folder):
    """Full data, 24 and 12 lines, and a fully sampled square: the maps are ESPIRiT's, without a warning."""
    for name in ("brain_t1_8ch_sliceA.h5", "brain_gre_16ch_96.h5"):
        kspace = load_kspace(data_folder / "kspace" / name).kspace
        square = np.zeros(kspace.shape[2:], bool)
        square[tuple(centred(n, 24) for n in kspace.shape[2:])] = True
        lines = [undersampling_mask(kspace.shape[2:], "gaussian1d", 4, n, 0) for n in (12, 24)]
        for mask in (np.ones(kspace.shape[-1], bool), square, *lines):
            std = estimate_noise_std(kspace * mask, mask)
            found = estimate_maps(kspace * mask, mask, noise_std=std)
            assert (found.source, found.warnings) == ("ESPIRiT", ())


@pytest.mark.parametrize("acs", [6, 8])
def test_few_lines_of_a_real_head_beat_the_sum_of_squares(data_folder, acs):
    """With 6 lines CG-SENSE had 11.2 dB where the root of the sum of squares has 21.6."""
    kspace = load_kspace(data_folder / "kspace" / "brain_t1_8ch_sliceA.h5").kspace
    reference = combined_reference(kspace)
    mask = undersampling_mask(kspace.shape[2:], "gaussian1d", 4, acs, 0)
    plain = psnr(combine_coils(kspace * mask), reference)
    for solver in ("cg-sense", "zero-filled"):
        result = medrecon.reconstruct(kspace * mask, mask, solver=solver)
        assert psnr(result.image, reference) >= plain
        assert result.record["maps_source"].startswith("ESPIRiT (")
        assert any("calibration region" in text for text in result.record["warnings"])


def test_a_slice_whose_maps_fail_leaves_its_neighbours_alone():
    """Three slices: the object, noise alone, an object so weak that its singular values are below the edge of noise."""
    noise = 0.01
    kspace, mask, *_ = few_lines(20, noise)
    rng = np.random.default_rng(1)
    empty = simulate_kspace(0 * blobs(SHAPE), loop_coils(SHAPE), noise, rng) * mask
    point = np.zeros(SHAPE)
    point[48, 44] = 1
    flat = simulate_kspace(np.ones(SHAPE) * 0.05, loop_coils(SHAPE), noise, rng) * mask
    volume = np.stack([kspace[0], empty, flat])
    found = estimate_maps(volume, mask, noise_std=noise)
    assert torch.equal(found.maps[0], espirit_maps(kspace[0], mask, noise_std=noise))
    assert not found.maps[1].any()  # no signal, no maps, no warning
    assert (found.maps[2].abs().sum(0) > 0).float().mean() > 0.99
    assert all("(slice 2)" in text for text in found.warnings)


def test_signal_at_one_sample_gives_maps_everywhere():
    """The flat image of DC alone was black: the estimate of the noise is that very sample."""
    kspace, mask, *_ = few_lines(20)
    centre = np.zeros_like(kspace)
    centre[..., 48, 44] = kspace[..., 48, 44]
    assert trusted_noise(1e3, centre, mask) == 0
    found = estimate_maps(centre, mask, trusted_noise(1e3, centre, mask)).maps
    expected = centre[0, :, 48, 44] / np.linalg.norm(centre[0, :, 48, 44])
    assert np.allclose(np.abs(found[0].numpy()), np.abs(expected)[:, None, None], atol=1e-5)


def test_maps_of_singular_values_below_the_noise_are_low_resolution_images():
    kspace, mask, *_ = few_lines(20)
    found = coil_maps(kspace[0], mask, 0.002, settings=Espirit(threshold=2.0))  # no singular value is twice the largest
    assert found.source.startswith("low-resolution")
    size = found.maps.abs().square().sum(0)
    assert torch.allclose(size, torch.ones_like(size), atol=1e-5)
    assert "aliasing may remain" in found.warnings[0]
    two = coil_maps(kspace[0], mask, 0.002, settings=Espirit(threshold=2.0, sets=2)).maps
    assert torch.equal(two[0], found.maps) and not two[1].any()


@pytest.mark.parametrize("coils", [2, 4])
def test_maps_explain_the_object_where_noise_counts_as_signal(coils):
    """Without a noise level every eigenvalue of few noisy coils is 1 and the maps are arbitrary: their share was 1 / coils."""
    kspace, mask, image, planted = few_lines(20, noise=0.1, coils=coils)
    right, wrong = (coil_maps(kspace[0], mask, noise_std=std) for std in (0.1, 0.0))
    assert right.source.startswith("ESPIRiT")
    assert wrong.source == "low-resolution (ESPIRiT failed)"
    assert "check the noise level" in wrong.warnings[0]
    # The noise of the calibration region's images is 0.1 * sqrt(2 * 96 * 20 * 3/16 / (96 * 88)) = 0.04 of the brightest.
    for found in (right, wrong):
        cosine = np.abs((found.maps.numpy().conj() * planted).sum(0))[image > 0.5]
        assert np.mean(cosine**2) > 0.9


def test_a_real_scan_without_a_noise_level_has_its_image(data_folder):
    """The two coils of a Siemens scan: with arbitrary maps the image had 22.7 dB."""
    kspace = load_kspace(data_folder / "kspace" / "siemens" / "gre_real.mrd").kspace
    result = medrecon.reconstruct(kspace, solver="cg-sense", noise_std=0.0)
    plain = combine_coils(kspace)
    assert psnr(result.image, plain) > 30
    assert result.record["maps_source"] == "low-resolution (ESPIRiT failed)"


@pytest.mark.parametrize("side", [6, 12])
def test_the_reference_of_a_small_matrix_has_no_holes(data_folder, side):
    """ESPIRiT's crop left nothing of 6 x 6 and lost a quarter of 12 x 12 samples of a real head."""
    kspace = load_kspace(data_folder / "kspace" / "brain_t1_8ch_sliceA.h5").kspace
    small = kspace[(..., *(centred(n, side) for n in kspace.shape[2:]))]
    plain, reference = combine_coils(small), combined_reference(small)
    # The combined image is at most the root of the sum of squares, and 0.9 of it in energy if coils agree to cosines of 0.95.
    assert (reference <= plain * (1 + 1e-5)).all()
    assert (reference**2).sum() > 0.9 * (plain**2).sum()
    assert reference[plain > 0.3 * plain.max()].all()


def test_a_centre_that_was_not_measured_is_reported():
    """One coil needs no calibration, so nothing else would notice."""
    kspace, *_ = few_lines(20, accel=1, coils=1)
    away = np.abs(np.arange(SHAPE[1]) - SHAPE[1] // 2)
    for mask, lost in ((away > 1, True), (away > 0, False), (away % 3 == 1, False)):
        record = medrecon.reconstruct(kspace * mask, mask, solver="cg-sense").record
        assert any("centre of k-space was not measured" in text for text in record["warnings"]) == lost


def test_a_slice_of_noise_among_others_is_named():
    kspace, mask, *_ = few_lines(20)
    rng = np.random.default_rng(1)
    noise = 0.002 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)) * mask
    nothing = np.zeros_like(kspace)
    result = medrecon.reconstruct(
        np.concatenate([kspace, noise, nothing]).astype(np.complex64), mask, solver="cg-sense"
    )
    assert result.image[0].any() and not result.image[1:].any()
    assert [text[:21] for text in result.record["warnings"]] == ["k-space of slice 1 ha"]


# No calibration


def test_without_a_centre_zero_filled_is_the_sum_of_squares_and_others_are_refused(tmp_path, capsys):
    kspace, *_ = few_lines(8, accel=1)
    kspace = kspace * (np.arange(SHAPE[1]) % 3 == 0)  # index 44 is not sampled
    path = write(tmp_path / "scan.h5", kspace)
    code, image, record = recon(path, tmp_path / "o", "--solver", "zero-filled")
    expected = np.sqrt((np.abs(from_kspace(kspace)) ** 2).sum(1))
    assert code == 0
    assert np.allclose(image, expected, atol=1e-5 * expected.max())
    assert record["maps_source"].startswith("zero-filled coil images")
    assert any("root sum of squares of the coils" in text for text in record["warnings"])
    capsys.readouterr()
    for solver in ("cg-sense", "tv", "dds"):
        assert recon(path, tmp_path / "p", "--solver", solver)[0] == 2
        printed = capsys.readouterr().err.strip().splitlines()
        assert len(printed) == 1
        assert all(word in printed[0] for word in ("scan.h5", "fully sampled centre", "--maps", "zero-filled"))
        assert not (tmp_path / "p").exists()


# Noise, residuals and empty images


@pytest.mark.parametrize("solver", ["cg-sense", "dds"])
def test_a_noise_level_far_too_large_is_named_and_leaves_an_image(tmp_path, solver):
    """It made every singular value noise and the image black."""
    kspace, mask, image, _ = few_lines(20, accel=3)
    path = write(tmp_path / "scan.h5", kspace, mask)
    code, found, record = recon(path, tmp_path / "o", "--solver", solver, "--noise-std", 1e4, "--steps", 2)
    assert code == 0
    assert found.any()
    assert any("times the noise in the outermost k-space" in text for text in record["warnings"])
    if solver == "cg-sense":  # weighs the data by nothing
        assert psnr(found[0], image) > 20
    else:  # the data count as nothing, and the sidecar says so
        assert any("does not explain the data" in text for text in record["warnings"])


def test_an_image_that_does_not_explain_the_data_is_named(tmp_path, caplog):
    """Maps that miss half of the object leave half of the data; right maps and noise alone raise no warning."""
    kspace, mask, _, planted = few_lines(20, accel=3)
    rng = np.random.default_rng(2)
    empty = simulate_kspace(0 * blobs(SHAPE), planted, 0.002, rng) * mask
    volume = np.stack([kspace[0], empty])
    maps = np.stack([planted, planted])
    good = medrecon.reconstruct(volume, mask, maps, solver="cg-sense")
    assert good.record["warnings"] == []
    maps[0, :, :48] = 0
    with caplog.at_level("WARNING", logger="medrecon"):
        bad = medrecon.reconstruct(volume, mask, maps, solver="cg-sense")
    assert len(bad.record["warnings"]) == 1
    assert "does not explain the data" in bad.record["warnings"][0]
    assert "(slice 0)" in bad.record["warnings"][0]
    assert bad.record["warnings"][0] in caplog.text


def test_an_empty_image_of_data_with_signal_is_refused():
    kspace, mask, _, planted = few_lines(20, accel=3)
    volume = np.concatenate([kspace, kspace])
    maps = np.stack([planted, 0 * planted])
    with pytest.raises(InputError, match="slice 1 is empty although its k-space has signal"):
        medrecon.reconstruct(volume, mask, maps, solver="cg-sense")
    volume[1] = 0
    assert not medrecon.reconstruct(volume, mask, maps, solver="cg-sense").image[1].any()


def test_noise_alone_gives_an_empty_image_and_says_so():
    """The threshold of the singular values took it for signal, or wrote a black volume without a word."""
    noise = simulate_kspace(0 * blobs(SHAPE), loop_coils(SHAPE), 0.01, np.random.default_rng(0))
    mask = undersampling_mask(SHAPE, "equispaced", 3, 20, 0)
    result = medrecon.reconstruct(noise[None] * mask, mask, solver="cg-sense")
    assert not result.image.any()
    assert len(result.record["warnings"]) == 1
    assert "no signal above its noise" in result.record["warnings"][0]


# Scale


@pytest.mark.parametrize(
    ("solver", "std"),
    [("cg-sense", None), ("zero-filled", None), ("tv", 0.002), ("wavelet", 0.002), ("low-rank", 0.002)],
)
def test_the_image_of_scaled_data_is_the_scaled_image(solver, std):
    """To float32 rounding of the data, which 100 iterations enlarge a hundredfold at most."""
    kspace, mask, *_ = few_lines(12, shape=(48, 44), accel=2)
    one = medrecon.reconstruct(kspace, mask, solver=solver, noise_std=std)
    for scale in SCALES:
        scaled = (kspace.astype(np.complex128) * scale).astype(np.complex64)
        many = medrecon.reconstruct(scaled, mask, solver=solver, noise_std=None if std is None else std * scale)
        assert np.abs(many.image.astype(float) / scale - one.image).max() < 1e-4 * one.image.max()
        for key in ("residual_over_noise", "relative_residual"):
            assert many.record[key] == pytest.approx(one.record[key], rel=1e-3)
        assert many.record["noise_std"] == pytest.approx(one.record["noise_std"] * scale, rel=1e-4)
        assert many.record["maps_source"] == one.record["maps_source"]
        assert len(many.record["warnings"]) == len(one.record["warnings"])


@pytest.mark.parametrize("scale", SCALES)
def test_files_of_any_scale(tmp_path, scale):
    """Command line, default solver: every format holds the scaled image; coils are whitened and compressed."""
    kspace, mask, *_ = few_lines(16, shape=(48, 44), accel=2)
    scan = 0.002 * np.random.default_rng(3).standard_normal((2, 8, 500))
    images = {}
    for factor in (1.0, scale):
        path = tmp_path / f"scan{factor}.h5"
        write(path, (kspace.astype(np.complex128) * factor).astype(np.complex64), mask)
        with h5py.File(path, "a") as file:
            file["noise"] = ((scan[0] + 1j * scan[1]) * factor).astype(np.complex64)
            file["affine"] = np.diag([1.0, 1.0, 2.0, 1.0])
        code, images[factor], _ = recon(path, tmp_path / f"o{factor}", "--steps", 3, "--whiten", "--compress", 6)
        assert code == 0
        for fmt in (
            "nifti",
            "dicom",
            "png",
        ):  # one folder each: a name has one sidecar, which names the files of one run
            arguments = [
                "recon",
                str(path),
                "-o",
                str(tmp_path / f"{fmt}{factor}"),
                "--solver",
                "cg-sense",
                "--format",
                fmt,
            ]
            assert main(arguments) in (0, None)
    out = {fmt: [tmp_path / f"{fmt}{factor}" for factor in (1.0, scale)] for fmt in ("nifti", "dicom", "png")}
    stem = [f"scan{factor}" for factor in (1.0, scale)]
    # The bfloat16 network enlarges the rounding of its input.
    assert np.abs(images[scale].astype(float) / scale - images[1.0]).max() < 0.02 * images[1.0].max()
    one, many = (
        np.asarray(nib.load(o / f"{s}.nii.gz").dataobj, float) for o, s in zip(out["nifti"], stem, strict=True)
    )
    assert np.allclose(many / scale, one, atol=1e-4 * one.max())
    one, many = (pydicom.dcmread(o / s / "0001.dcm") for o, s in zip(out["dicom"], stem, strict=True))
    assert np.abs(one.pixel_array.astype(int) - many.pixel_array).max() <= 4  # of 32767
    slopes = [d.RealWorldValueMappingSequence[0].RealWorldValueSlope for d in (one, many)]
    assert slopes[1] / slopes[0] == pytest.approx(scale, rel=1e-4)
    from PIL import Image

    one, many = (np.asarray(Image.open(o / f"{s}.png"), int) for o, s in zip(out["png"], stem, strict=True))
    assert np.abs(one - many).max() <= 1
    assert one.max() == 255


def test_coils_of_any_scale():
    """Combination, compression, whitening and figures of quality: squares of these numbers do not fit float32."""
    kspace, mask, image, planted = few_lines(16, shape=(48, 44), accel=2)
    covariance = np.diag(np.linspace(1, 2, 8)).astype(complex)
    methods: tuple[Combination, ...] = ("rss", "mvue", "adaptive")
    small = compress_coils(kspace, mask, 4)
    maps = espirit_maps(kspace[0], mask, noise_std=0.002)
    for scale in SCALES:
        scaled = (kspace.astype(np.complex128) * scale).astype(np.complex64)
        assert torch.allclose(espirit_maps(scaled[0], mask, noise_std=0.002 * scale), maps, atol=1e-3)
        for method in methods:
            one, many = (np.abs(combine_coils(k, method, planted[None])) for k in (kspace, scaled))
            assert np.allclose(many.astype(float) / scale, one, atol=1e-5 * one.max())
        fewer, share = compress_coils(scaled, mask, 4)
        assert share == pytest.approx(small[1], rel=1e-5)
        energies = [np.linalg.norm(np.abs(k).astype(float)) for k in (small[0], fewer)]
        assert energies[1] / scale == pytest.approx(energies[0], rel=1e-5)
        one, many = prewhiten(kspace, covariance), prewhiten(scaled, scale**2 * covariance)
        assert np.allclose(np.abs(many[0]).astype(float) / scale, np.abs(one[0]), atol=1e-5 * np.abs(kspace).max())
        assert many[1] == pytest.approx(scale * one[1], rel=1e-6)
        figures = [scores(f * 1.1 * image[None], f * image[None]) for f in (1.0, scale)]
        assert all(figures[1][key] == pytest.approx(figures[0][key], rel=1e-4) for key in figures[0])
        sized = 1e20 * planted if scale > 1 else 1e-20 * planted
        given = medrecon.reconstruct(scaled, mask, sized.astype(np.complex64), solver="cg-sense")
        assert np.median(given.image[0][image > 0.3] / image[image > 0.3]) / scale == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("scale", [1e-40, 1e-33, 1e36])
def test_scales_that_single_precision_cannot_hold_are_refused(tmp_path, capsys, scale):
    kspace, mask, *_ = few_lines(12, shape=(48, 44), accel=2)
    scaled = kspace.astype(np.complex128) / np.abs(kspace).max() * scale
    np.savez(tmp_path / "scan.npz", kspace=scaled)
    assert recon(tmp_path / "scan.npz", tmp_path / "o")[0] == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert "scan.npz" in printed[0] and "single precision" in printed[0]
    with pytest.raises(InputError, match="single precision"):
        load_kspace(tmp_path / "scan.npz")
    with pytest.raises(InputError, match="single precision"):
        medrecon.reconstruct(scaled, mask, solver="cg-sense")


# Provenance


def bundle_run(path, out, name="brain_mri", **more):
    """The sidecar of the bundle's own config, run in this process."""
    parser = load_config(
        find_bundle(name), scan=str(path), output_dir=str(out), overwrite=True, device=torch.device("cpu"), **more
    )
    parser.get_parsed_content("run")
    with h5py.File(out / f"{path.stem}.h5") as file:
        return file["reconstruction"][()], json.loads((out / f"{path.stem}.json").read_text())


CASES = {
    "ESPIRiT": ({}, "cg-sense"),
    "ESPIRiT (4 x 4 kernels)": ({"acs": 6}, "cg-sense"),
    "none (single coil)": ({"coils": 1}, "cg-sense"),
    "zero-filled coil images (root of the sum of squares)": ({"acs": 0}, "zero-filled"),
}


@pytest.mark.parametrize("source", CASES)
def test_the_source_of_maps_is_true_on_every_way(tmp_path, source):
    settings, solver = CASES[source]
    settings = {"acs": 20, **settings}
    kspace, mask, *_ = few_lines(settings["acs"], coils=settings.get("coils", 8))
    mask = mask & (np.arange(SHAPE[1]) != 44) if not settings["acs"] else mask
    path = write(tmp_path / "scan.h5", np.concatenate([kspace, 0.5 * kspace]) * mask, mask)
    data = load_kspace(path)
    python = medrecon.reconstruct(data.kspace, data.mask, solver=solver, name=str(path))
    code, line, sidecar = recon(path, tmp_path / "cli", "--solver", solver)
    image, record = bundle_run(path, tmp_path / "bundle", solver=solver, output_format="h5")
    assert code == 0
    if source == "ESPIRiT (4 x 4 kernels)":
        assert python.record["maps_source"].startswith("ESPIRiT (")
    else:
        assert python.record["maps_source"] == source
    for other in (sidecar, record):
        for key in ("maps_source", "noise_source"):
            assert other[key] == python.record[key]
        # Files are named without their folders, which may name patients.
        assert other["warnings"] == [text.replace(f"{tmp_path}/", "") for text in python.record["warnings"]]
    assert np.array_equal(line, python.image) and np.array_equal(image, python.image)
    assert bool(record["warnings"]) == (source.startswith(("ESPIRiT (", "zero-filled")))


def test_given_maps_are_called_given_in_the_bundle_as_well(tmp_path):
    """From a file, and from a transform through ``ScanPrepareBatch``."""
    kspace, mask, _, planted = few_lines(20)
    path = write(tmp_path / "scan.h5", kspace, mask)
    np.save(tmp_path / "maps.npy", planted)
    physics = {"maps": str(tmp_path / "maps.npy")}
    given, record = bundle_run(path, tmp_path / "o", solver="cg-sense", output_format="h5", physics=physics)
    assert record["maps_source"] == "given"
    inferer = load_config(find_bundle("brain_mri"), solver="cg-sense").get_parsed_content("inferer")
    loaded = ToCartesianScand("image")(LoadKSpaced("image")({"image": str(path), "planted": planted}))
    scan, label, _, options = ScanPrepareBatch("image", options={"maps": "planted"})(loaded)
    assert label is None
    made = inferer(scan, torch.nn.Linear(1, 1), **options)
    assert made.record["maps_source"] == "given"
    assert np.array_equal(made.image, given)


def test_warnings_of_maps_reach_the_meta_of_kspace(tmp_path):
    kspace, mask, *_ = few_lines(6)
    path = write(tmp_path / "scan.h5", kspace, mask)
    before = LoadKSpaced("image")({"image": str(path)})
    after = EstimateSensitivityMapsd("image")(before)
    assert len(after["image"].meta["warnings"]) == 1
    assert str(path) in after["image"].meta["warnings"][0]
    assert not before["image"].meta["warnings"]
    assert torch.equal(after["image"].as_tensor(), before["image"].as_tensor())


def test_maps_of_one_solver_are_not_those_of_another():
    """Without calibration lines the zero-filled image is a sum of squares; CG must not reconstruct with what made that."""
    mask = np.zeros(toys.SHAPE, bool)
    mask[:, ::2] = True
    scan, *_ = toys.cartesian(mask=mask)
    shared, prior = problem(scan, physics_of(scan)), toys.spec()
    run(shared, prior, sampling(SamplingSettings(solver="zero-filled"), prior))
    with pytest.raises(InputError, match="too small to estimate"):
        run(shared, prior, sampling(SamplingSettings(solver="cg-sense"), prior))


def test_maps_do_not_pile_up():
    scan = toys.cartesian(slices=3, noise=0.01)[0]
    shared = problem(scan, physics_of(scan)).suited_to(
        sampling(SamplingSettings(solver="cg-sense"), toys.spec()).solver
    )
    for k in range(3):
        shared.maps(slice(k, k + 1))
        shared.release(slice(k, k + 1))
    assert not shared.estimated
    assert shared.facts()["maps_source"].startswith("ESPIRiT")
