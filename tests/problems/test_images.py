"""Images: denoising, super-resolution, magnitudes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon import reconstruct
from medrecon.data.errors import InputError
from medrecon.problems import physics_of, problem
from medrecon.solvers import R2D2
from medrecon.training.kernels import blur_kernels

from ..make.compare import relative_error
from ..make.toys import Smooth, images, picture, solve, spec, water_disc


def test_denoising_by_the_white_prior_is_wieners_filter():
    noisy = picture(noise=50.0)
    found = solve(images(noisy), "dds", spec("magnitude"), physics={"noise_std": 50.0}, steps=30, samples=1)
    assert found.image.shape == (1, 48, 40)
    assert relative_error(found.image[0], np.abs(noisy)) < 0.2


def test_only_the_region_changes():
    noisy = picture(noise=50.0)
    found = solve(images(noisy), "tv", spec("magnitude"), physics={"noise_std": 50.0, "region": [10, 20, 5, 30]})
    inside = np.zeros(noisy.shape, bool)
    inside[10:20, 5:30] = True
    assert np.array_equal(found.image[0][~inside], noisy[~inside])
    assert not np.array_equal(found.image[0][inside], noisy[inside])


@pytest.mark.parametrize("kernel", ["kspace", "mean", "gaussian"])
@pytest.mark.parametrize("factor", [2, [3, 1]])
def test_finer_pixels_stay_where_they_were(kernel, factor):
    """A blob in a fine image, measured with coarse pixels, comes back at its place in mm."""
    from medrecon.operators.image import DOWNSAMPLING

    fy, fx = (factor, factor) if isinstance(factor, int) else factor
    y, x = np.mgrid[:42, :30]  # coarse sides are even and odd
    fine = 1000 * np.exp(-((y - 26.0) ** 2 + (x - 11.0) ** 2) / 18).astype(np.float32)
    coarse = DOWNSAMPLING[kernel]((42, 30), (fy, fx))(torch.from_numpy(fine)[None, None])[0, 0].numpy()
    affine = np.array([[-1.0 * fx, 0, 0, 7.0], [0, 1.5 * fy, 0, -9.0], [0, 0, 4.0, 3.0], [0, 0, 0, 1]])
    scan = images(coarse, affine, (4.0, 1.5 * fy, 1.0 * fx))
    found = solve(
        scan,
        "tv",
        spec("magnitude"),
        physics={"task": "superres", "factor": factor, "kernel": kernel, "noise_std": 1.0},
    )
    assert found.image.shape == (1, 42, 30)

    def centre(values, matrix):
        weight = values.astype(float) ** 2
        at = [(weight * c).sum() / weight.sum() for c in np.mgrid[: values.shape[0], : values.shape[1]]]
        return (matrix @ [at[1], at[0], 0, 1])[:3]

    expected = centre(coarse, affine)
    assert np.abs(centre(found.image[0], found.geometry.affine) - expected).max() < 0.15  # mm, a tenth of a fine pixel
    assert found.geometry.spacing == (4.0, 1.5, 1.0)


def test_r2d2_removes_more_with_more_strength():
    noisy = picture(noise=60.0)
    away = []
    for strength in (0.5, 1.0, 3.0):
        physics = {"noise_std": 60.0, "strength": strength}
        found = solve(images(noisy), "r2d2", spec("magnitude", Smooth()), physics=physics, steps=20)
        away.append(relative_error(found.image[0], np.abs(noisy)))
        assert abs(found.record["sigma_max"] * np.quantile(np.abs(noisy), 0.995) / (60.0 * strength) - 1) < 1e-3
    assert away[0] < away[1] < away[2]


@pytest.mark.parametrize("strength", [None, 2.0])
def test_r2d2_sharpens_the_interpolated_image(strength):
    """Its start is the pseudo-inverse plus noise of 0.1 of the unit, or of ``strength`` times that."""
    coarse = np.abs(picture()).astype(np.float32)
    physics = {"task": "superres", "factor": 2, "noise_std": 1.0, "strength": strength}
    made = problem(images(coarse), physics_of(images(coarse), **physics)).suited_to(R2D2())
    begin = made.start(slice(0, 1), torch.device("cpu"))
    assert begin is not None and begin.add_noise and begin.sigma == pytest.approx(0.1 * (strength or 1.0))
    data = made.likelihood(slice(0, 1), torch.device("cpu")).likelihood
    assert torch.allclose(data.A(begin.x), data.y, atol=1e-4)
    found = solve(images(coarse), "r2d2", spec("magnitude", Smooth()), physics=physics, steps=10)
    assert found.record["sigma_max"] == pytest.approx(0.1 * (strength or 1.0), rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e20])
@pytest.mark.parametrize("physics", [{}, {"task": "superres", "factor": 2}], ids=["denoise", "superres"])
def test_an_empty_slice_does_not_disturb_r2d2(physics, scale):
    one = scale * np.abs(picture(noise=30.0)).astype(np.float32)[None]
    two = np.concatenate([one, 0 * one])
    alone, both = (
        solve(replace(images(one[0]), array=stack), "r2d2", spec("magnitude", Smooth()), physics=physics, steps=6)
        for stack in (one, two)
    )
    assert np.array_equal(both.image[0], alone.image[0]) and not both.image[1].any()
    assert both.record["sigma_max"] == alone.record["sigma_max"]
    assert np.isfinite(both.record["relative_residual"])


def test_rician_magnitudes_lose_their_bias():
    """The magnitude of noise is 1.25 standard deviations where there is no signal; the likelihood accounts for it."""
    rng = np.random.default_rng(0)
    clean = picture()
    noise = 80 * (rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape))
    noisy = np.abs(clean + noise).astype(np.float32)
    found = {
        model: solve(
            images(noisy), "diffpir", spec("magnitude", Smooth()), physics={"noise_std": 80.0, "noise_model": model}, steps=20
        ).image[0]
        for model in ("gaussian", "rician")
    }  # fmt: skip
    air = clean == 0
    bias = {model: one[air].mean() for model, one in found.items()}
    assert bias["rician"] < 0.95 * bias["gaussian"]
    assert (found["rician"][clean > 400] > 200).all()  # no hole where a sign was guessed wrong


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"region": 3}, "region"),
        ({"task": "superres", "factor": 2.5}, "whole number"),
        ({"task": "superres", "kernel": "cubic"}, "kernel"),
        ({"task": "superres", "kernel": ["mean"]}, "kernel"),
        ({"task": "superres", "kernel": "unknown"}, "for the task deblur"),
        ({"task": "deblur", "kernel": "kspace"}, "choose gaussian or unknown"),
        ({"task": "deblur", "kernel": "unknown", "solver": "blinddps"}, "too small to estimate a kernel"),
        ({"task": "deblur", "kernel": "unknown", "noise_model": "rician"}, "noise model gaussian"),
        ({"task": "deblur", "kernel": "unknown", "volume": True}, "slice by slice"),
        ({"task": "deblur", "blur": "wide"}, "blur"),
        ({"task": "deblur", "blur": 1e6}, "too large for the image"),
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
    outside = np.where(water_disc(24, 3.0) > 0, inside, -1000.0)
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


def blurred(complex_valued=False, slices=1):
    """A smooth picture of 60 x 52 pixels, blurred by a defocus kernel, with noise."""
    kernel = blur_kernels([3], "defocus", 33, radius=(3.0, 3.0)).numpy()[0, 0]
    rng = np.random.default_rng(0)
    clean = np.kron(rng.uniform(200, 1000, (23, 21)), np.ones((4, 4)))[:92, :84]
    made = np.fft.irfft2(np.fft.rfft2(clean) * np.fft.rfft2(kernel, clean.shape), clean.shape)[32:, 32:]
    stack = np.stack([made + rng.normal(0, 5, made.shape) for _ in range(slices)]).astype(np.float32)
    return stack * np.exp(0.3j).astype(np.complex64) if complex_valued else stack


@pytest.mark.parametrize("solver", ["blinddps", "gibbsddrm"])
def test_unknown_blur_gives_image_kernel_and_record(solver):
    scan = replace(images(picture()), array=blurred(slices=2))
    settings = {"n_starts": 1}
    physics = {"task": "deblur", "kernel": "unknown", "noise_std": 5.0}
    found = reconstruct(scan, bundle=spec("magnitude", Smooth()), solver=solver, settings=settings, steps=2, **physics)
    assert found.image.shape == (2, 60, 52)
    kernels = found.parameters["kernel"]
    assert kernels.shape == (2, 1, 33, 33)
    assert np.allclose(kernels.sum((1, 2, 3)), 1, atol=1e-5)
    recorded = [np.array(one) for one in found.record["kernels"]]
    assert len(recorded) == 2
    assert all(one.shape[0] == one.shape[1] and abs(one.sum() - 1) < 0.02 for one in recorded)
    # A slice alone is the slice of the batch: seeds follow the slice.
    common = {"bundle": spec("magnitude", Smooth()), "solver": solver, "settings": settings, "steps": 2}
    alone = reconstruct(scan, **common, slices=slice(1, 2), **physics)
    assert np.allclose(alone.parameters["kernel"][0], kernels[1], atol=0.05 * kernels.max())


def test_the_default_solver_of_unknown_blur_estimates_kernels():
    scan = replace(images(picture()), array=blurred(complex_valued=True))
    physics = {"task": "deblur", "kernel": "unknown", "noise_std": 5.0}
    found = reconstruct(scan, bundle=spec("complex"), settings={"n_starts": 1}, steps=2, samples=2, **physics)
    assert found.record["solver"]["name"] == "blinddps"
    assert found.image.shape == (1, 60, 52)
    with pytest.raises(InputError, match="choose the solver blinddps or gibbsddrm"):
        reconstruct(scan, bundle=spec("complex"), solver="dds", steps=2, **physics)
