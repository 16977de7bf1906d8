"""Scans and options that once gave a wrong image without a word, or a traceback."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrecon import reconstruct
from medrecon.data.errors import InputError
from medrecon.data.scan import DynamicScan, Geometry, NonCartesianScan, Sinogram
from medrecon.formats import load
from medrecon.posterior import run, sampling
from medrecon.problems import physics_of, problem
from medrecon.settings import SamplingSettings
from medrecon.writers import WRITERS, Output, write
from medrecon.writers.nifti import nifti_bytes
from tests.problems.test_problems import columns, disc, grid, images, noncartesian, picture, sinogram
from tests.problems.toy import SHAPE, Smooth, cartesian, solve, spec

CT = {"size": 64, "voxel": 1.5}


def frames(scan, mask=None, affine=None):
    mask = np.ones((2, *SHAPE), bool) if mask is None else mask
    geometry = Geometry((3.0, 2.0, 2.0), affine)
    kspace = np.stack([scan.kspace, 0.5 * scan.kspace])
    return DynamicScan(path=Path("a.npz"), format="toy", kspace=kspace, mask=mask, axis="phase", geometry=geometry)


def scan_of(kind):
    scan = cartesian(noise=0.01)[0]
    return {
        "k-space": scan,
        "trajectory": noncartesian(scan),
        "frames": frames(scan),
        "sinogram": sinogram("parallel"),
        "image": images(picture(noise=30.0)),
    }[kind]


KINDS = ("k-space", "trajectory", "frames", "sinogram", "image")


@pytest.mark.parametrize(
    "options",
    [
        {"slices": 1}, {"slices": (0, 2)}, {"slices": "0:1"}, {"slices": slice("a")}, {"slices": slice(0, 2, 0)},
        {"chunk": -1}, {"chunk": "2"}, {"noise_model": "gauss"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_options_that_make_no_sense_are_refused(kind, options):
    scan = scan_of(kind)
    prior = spec("attenuation" if kind == "sinogram" else "magnitude" if kind == "image" else "complex")
    with pytest.raises(InputError, match=next(iter(options)).replace("_", " ")):
        reconstruct(scan, bundle=prior, solver="tv", **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"region": 3}, "region"),
        ({"task": "superres", "factor": 2.5}, "whole number"),
        ({"task": "superres", "kernel": "cubic"}, "kernel"),
        ({"task": "deblur", "blur": "wide"}, "blur"),
        ({"task": "deblur", "blur": 1e6}, "leaves nothing"),
        ({"task": "deblur", "solver": "r2d2"}, "does not deblur"),
        ({"noise_model": "rician", "solver": "r2d2"}, "Gaussian noise"),
    ],
)
def test_options_of_images_that_make_no_sense_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        reconstruct(images(picture()), bundle=spec("magnitude"), **{"solver": "tv", "noise_std": 10.0, **options})


def test_a_numpy_integer_is_a_factor():
    physics = {"task": "superres", "factor": np.int64(2), "noise_std": 30.0}
    assert solve(images(picture()), "tv", spec("magnitude"), physics=physics).image.shape == (1, 96, 80)


def test_a_first_level_below_the_last_is_refused():
    with pytest.raises(InputError, match="sigma_max"):
        solve(scan_of("k-space"), "dds", steps=2, sigma_max=1e-6)


@pytest.mark.parametrize("kind", ["k-space", "trajectory", "frames"])
@pytest.mark.parametrize("n", [0, 2.0, "2"])
def test_the_number_of_virtual_coils_is_a_whole_number(kind, n):
    with pytest.raises(InputError, match="compress"):
        solve(scan_of(kind), physics={"compress": n})


@pytest.mark.parametrize("shape", [(2, 0, 8, 8), (2, 4, 8, 0)])
def test_an_array_without_samples_is_refused(shape):
    with pytest.raises(InputError, match="no samples"):
        reconstruct(np.zeros(shape, np.complex64), bundle=spec(), solver="cg-sense")


@pytest.mark.parametrize("kind", KINDS)
def test_type_and_strides_of_arrays_do_not_matter(kind):
    """Double precision, reversed views, column-major order: the same image."""
    scan, more = scan_of(kind), {}
    prior = spec("attenuation" if kind == "sinogram" else "magnitude" if kind == "image" else "complex")
    physics = {**(CT if kind == "sinogram" else {}), "noise_std": 30.0 if kind == "image" else 0.01}
    name = {"k-space": "kspace", "trajectory": "samples", "frames": "kspace", "sinogram": "lines", "image": "array"}[
        kind
    ]
    own = getattr(scan, name)
    wide = own.astype(complex if np.iscomplexobj(own) else float)
    if kind == "trajectory":
        more["trajectory"] = np.asfortranarray(scan.trajectory[:, ::-1].astype(float))[:, ::-1]
    if kind == "frames":
        more["mask"] = scan.mask[::-1].copy()[::-1]
    if kind == "sinogram":
        more["angles"] = scan.angles[::-1].copy()[::-1]
    axis = -1 if kind != "trajectory" else 2
    reverse = [slice(None)] * own.ndim
    reverse[axis] = slice(None, None, -1)
    strange = np.asfortranarray(wide[tuple(reverse)])[tuple(reverse)]
    first, other = (
        solve(one, "tv", prior, physics=physics).image for one in (scan, replace(scan, **{name: strange}, **more))
    )
    assert np.abs(first - other).max() <= 1e-4 * np.abs(first).max()  # single precision


@pytest.mark.parametrize(
    "scan",
    [
        replace(scan_of("trajectory"), samples=np.full((2, 4, 31, 36), np.nan, np.complex64)),
        replace(scan_of("trajectory"), samples=np.zeros((2, 4, 31, 36), np.complex64)),
        replace(scan_of("trajectory"), trajectory=np.full((2, 31, 36, 2), np.nan, np.float32)),
        replace(scan_of("trajectory"), matrix=(8, 8)),
        replace(scan_of("sinogram"), lines=np.full((1, 180, 96), np.nan, np.float32)),
        replace(scan_of("sinogram"), lines=np.full((1, 180, 96), 1e30, np.float32)),
    ],
    ids=["NaN", "zeros", "NaN points", "too far out", "NaN lines", "no line integrals"],
)
def test_data_that_cannot_be_used_are_refused(scan):
    prior = spec("attenuation" if isinstance(scan, Sinogram) else "complex")
    physics = CT if isinstance(scan, Sinogram) else {}
    with pytest.raises(InputError, match=r"^(toy|a)\.npz: .*(NaN|zeros|band|below)"):
        solve(scan, "tv", prior, physics=physics)


def test_a_detector_of_two_pixels():
    lines = np.array([[[1.0, 1.0]] * 4], np.float32)
    scan = Sinogram(path=Path("a.npz"), format="toy", lines=lines, angles=np.arange(4) * np.pi / 4, pitch=10.0)
    assert solve(scan, "tv", spec("attenuation"), physics={"size": 2}).image.shape == (1, 2, 2)


def test_a_given_noise_level_of_a_sinogram_counts():
    """It replaces the counts of the file, is recorded, and does not go with given photons."""
    scan = sinogram("parallel", photons=1e5)
    smooth = [
        solve(scan, "tv", spec("attenuation"), physics={**CT, "noise_std": std}) for std in (0.01, 3.0)
    ]  # fmt: skip
    assert np.abs(smooth[0].image - smooth[1].image).max() > 50
    assert [one.record["noise_std"] for one in smooth] == [0.01, 3.0]
    estimated = solve(sinogram("parallel"), "tv", spec("attenuation"), physics=CT)
    assert len(estimated.record["noise_std"]) == 1
    with pytest.raises(InputError, match="not both"):
        solve(scan, "tv", spec("attenuation"), physics={**CT, "noise_std": 0.1, "photons": 1e5})


def test_signed_images_are_not_taken_for_magnitudes():
    """Phases, and CT without air: the sign would be lost."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(-4096, 4095, (20, 20)).astype(np.float32)
    spine = (rng.normal(0, 15, (40, 40)) - 100).astype(np.float32)
    spine[10:20, 10:20] += 1500
    for array in (phase, spine):
        with pytest.raises(InputError, match="neither a magnitude"):
            solve(images(array), "tv", spec("magnitude"), physics={"noise_std": 15.0})


def test_a_slice_without_air_is_ct_as_the_others_are():
    rng = np.random.default_rng(0)
    inside = np.full((24, 24), 40.0)
    outside = np.where(disc(24, 3.0) > 0, inside, -1000.0)
    scan = images(outside)
    scan = replace(scan, array=(np.stack([outside, inside]) + rng.normal(0, 10, (2, 24, 24))).astype(np.float32))
    found = solve(scan, "tv", spec("attenuation"), physics={"slices": slice(1, 2)})
    assert found.modality == "CT"
    assert abs(found.image.mean() - 40) < 5


@pytest.mark.parametrize("solver", ["tv", "r2d2"])
@pytest.mark.parametrize("given", [{}, {"noise_std": 30.0}])
def test_an_empty_slice_among_images_stays_empty(solver, given):
    scan = images(picture(noise=30.0))
    scan = replace(scan, array=np.concatenate([scan.array, 0 * scan.array, scan.array]))
    found = solve(
        scan, solver, spec("magnitude", Smooth()), physics=given, **({"steps": 3} if solver == "r2d2" else {})
    )
    assert not found.image[1].any()
    assert found.image[2].any()


def test_the_slice_without_noise_is_named_as_in_the_file():
    scan = images(picture(noise=30.0))
    scan = replace(scan, array=np.concatenate([scan.array, scan.array, np.full_like(scan.array, 7)]))
    with pytest.raises(InputError, match="slice 2"):
        solve(scan, "tv", spec("magnitude"), physics={"slices": slice(1, 3)})


def test_images_off_the_grid_that_do_not_explain_the_data_are_reported():
    scan, _, maps = cartesian(noise=0.01)
    wrong = np.roll(maps, 1, axis=0)
    for one in (noncartesian(scan), frames(scan)):
        assert not solve(one, physics={"maps": maps}).record["warnings"]
        assert any("does not explain" in text for text in solve(one, physics={"maps": wrong}).record["warnings"])


def test_a_trajectory_that_misses_the_centre():
    scan, _, maps = cartesian(noise=0.01)
    full = noncartesian(scan)
    away = np.abs(grid()[:, 0, 1]) > 3
    scan = replace(full, samples=full.samples[:, :, away], trajectory=full.trajectory[:, away])
    found = solve(scan, physics={"maps": maps})
    assert any("centre of k-space" in text for text in found.record["warnings"])
    for solver in ("cg-sense", "zero-filled"):
        with pytest.raises(InputError, match="give coil maps") as refusal:
            solve(scan, solver)
        assert "zero-filled" not in str(refusal.value)  # which needs maps as well


def test_several_volumes_are_refused():
    samples, trajectory = np.ones((2, 1, 4, 4), np.complex64), np.zeros((2, 4, 4, 3), np.float32)
    scan = NonCartesianScan(path=Path("a.npz"), format="toy", samples=samples, trajectory=trajectory, matrix=(4, 4, 4))
    with pytest.raises(InputError, match="2 volumes"):
        solve(scan)


def test_a_mask_of_frames_claims_no_zeros():
    """Samples that were not measured are no data."""
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    with pytest.raises(InputError, match="samples that are zero"):
        solve(frames(scan), physics={"maps": maps})


def test_maps_of_one_solver_are_not_those_of_another():
    """Without calibration lines the zero-filled image is a sum of squares; CG must not reconstruct with what made that."""
    mask = np.zeros(SHAPE, bool)
    mask[:, ::2] = True
    scan, *_ = cartesian(mask=mask)
    shared, prior = problem(scan, physics_of(scan)), spec()
    run(shared, prior, sampling(SamplingSettings(solver="zero-filled"), prior))
    with pytest.raises(InputError, match="too small to estimate"):
        run(shared, prior, sampling(SamplingSettings(solver="cg-sense"), prior))


def test_maps_do_not_pile_up():
    scan = cartesian(slices=3, noise=0.01)[0]
    shared = problem(scan, physics_of(scan)).suited_to(sampling(SamplingSettings(solver="cg-sense"), spec()).solver)
    for k in range(3):
        shared.maps(slice(k, k + 1))
        shared.release(slice(k, k + 1))
    assert not shared.found
    assert shared.facts()["maps_source"].startswith("ESPIRiT")


def test_ssos_takes_no_maps():
    scan, _, maps = cartesian()
    with pytest.raises(InputError, match="without maps"):
        solve(scan, physics={"coil_images": "ssos", "maps": maps})


@pytest.mark.parametrize("format", list(WRITERS))
def test_frames_are_written_or_refused(format, tmp_path):
    scan = frames(cartesian(noise=0.01)[0], affine=np.diag([2.0, 2.0, 3.0, 1.0]))
    found = solve(scan, "dds", steps=1, samples=2)
    output = Output(folder=tmp_path, stem="a", format=format, sources=["a.npz"])
    if format not in ("nifti", "h5", "npz"):
        with pytest.raises(InputError, match="choose nifti or h5 or npz"):
            write(found, output)
        return
    write(found, output)


def test_frames_are_the_fourth_axis_and_samples_the_fifth():
    import gzip

    import nibabel as nib

    samples = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(nifti_bytes(samples, Geometry())))
    assert stored.shape == (6, 5, 4, 3, 2)
    assert np.array_equal(stored.get_fdata(), samples.T)


def test_the_option_of_another_kind_is_not_taken_for_a_misspelling():
    for kind, option, of in (("k-space", {"task": "superres"}, "an image"), ("trajectory", {"mask": "m"}, "Cartesian")):
        with pytest.raises(InputError, match=f"is an option of {of}"):
            reconstruct(scan_of(kind), bundle=spec(), solver="tv", **option)


def test_a_sinogram_has_no_frames(tmp_path):
    np.savez(tmp_path / "a.npz", sino=np.ones((4, 8)), theta_rad=np.arange(4.0), pitch_mm=1.0)
    with pytest.raises(InputError, match="no frames"):
        load(tmp_path / "a.npz", frames="phase")


def test_mistakes_in_a_config_are_refused():
    from medrecon.inferers import PosteriorInferer
    from medrecon.transforms import LoadScand

    with pytest.raises(InputError, match="names and values"):
        PosteriorInferer(spec(), ["compress"])
    with pytest.raises(InputError, match="leave bundle out"):
        PosteriorInferer(spec(), {"bundle": "brain_mri"})
    with pytest.raises(InputError, match="unknown companion 'traject'"):
        LoadScand("scan", companions={"traject": "a.npy"})


def test_a_classical_solver_has_no_condition():
    prior = spec(labels=("", "T1")).conditioned("T1")
    assert solve(scan_of("k-space"), "cg-sense", prior).record["condition"] is None
