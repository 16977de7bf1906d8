"""Every kind of scan through the one path: images against the truth, against closed forms, and against each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.data.scan import DynamicScan, Geometry, ImageScan, NonCartesianScan, Sinogram
from medrecon.operators import NUFFT, ConeBeam, FanBeam, ParallelBeam
from medrecon.problems import physics_of, problem
from medrecon.reconstruction import plan
from medrecon.solvers import R2D2
from tests.problems.toy import SHAPE, Smooth, cartesian, image, solve, spec


def columns(shape=SHAPE, acs=11):
    """Every second column, and a calibration region."""
    mask = np.zeros(shape, bool)
    mask[:, shape[1] % 2 :: 2] = True
    mask[:, shape[1] // 2 - acs // 2 : shape[1] // 2 + acs // 2 + 1] = True
    return mask


def grid(shape=SHAPE):
    """All points of a Cartesian grid, column by column, as a trajectory ``(shots, readout, 2)``."""
    y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    return np.stack([y.T, x.T], axis=-1).astype(np.float32)


def noncartesian(scan, shape=SHAPE):
    """A Cartesian scan as samples along the trajectory of its columns."""
    chosen = np.broadcast_to(scan.mask, shape).any(axis=0)
    samples = scan.kspace.swapaxes(2, 3)[:, :, chosen]
    trajectory = np.broadcast_to(grid(shape)[chosen], (len(samples), *grid(shape)[chosen].shape))
    # The grid's first row and column lie on the edge of the band of an even axis.
    return NonCartesianScan(path=Path("toy.npz"), format="toy", samples=samples, trajectory=trajectory, matrix=shape)


def error(found, truth):
    """Relative to the truth."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def test_full_kspace_gives_the_truth():
    scan, truth, maps = cartesian()
    found = solve(scan, physics={"maps": maps}, settings={"lam": 1e-6})
    assert error(found.image, np.abs(truth)) < 1e-4  # the weight, and single precision
    assert found.record["maps_source"].startswith("given")


def test_samples_have_the_mean_and_spread_of_the_posterior():
    """White prior, every sample measured, one coil: the posterior is white, with mean ``y / (1 + s^2)`` in units of the scale."""
    noise = 0.1
    scan, _, _ = cartesian(coils=1, slices=1, noise=noise)
    zero_filled = from_kspace(scan.kspace[0, 0])
    scale = np.quantile(np.abs(zero_filled), 0.99)
    std = noise / scale
    found = solve(scan, "tmpd", physics={"noise_std": noise}, steps=200, sigma_max=8.0)
    drawn = found.image[0] * np.exp(1j * found.phase[0])
    apart = (drawn - zero_filled / (1 + std**2)) / scale
    spread = 1 / np.sqrt(1 + 1 / std**2)  # per real component
    # 2232 numbers: their standard deviation is known to 1.5 %, their mean to 2 % of it.
    assert abs(np.sqrt((np.abs(apart) ** 2).mean() / 2) / spread - 1) < 0.06
    assert abs(apart.mean()) < 0.1 * spread


def test_every_slice_has_random_numbers_of_its_own():
    """Two slices of the same data; and a slice alone gets those of its index."""
    scan, *_ = cartesian(coils=1, slices=1, mask=columns())
    twice = replace(scan, kspace=np.concatenate([scan.kspace, scan.kspace]))
    found = solve(twice, "dds", steps=4, sigma_max=1.0)
    assert error(found.image[0], found.image[1]) > 0.01
    alone = solve(twice, "dds", physics={"slices": slice(1, 2)}, steps=4, sigma_max=1.0)
    assert np.array_equal(alone.image[0], found.image[1])


def test_samples_on_a_grid_are_a_cartesian_scan():
    """The same columns as a trajectory: the same image, to the error of the interpolation."""
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    for solver in ("zero-filled", "cg-sense"):
        one = solve(scan, solver, physics={"maps": maps}).image
        other = solve(noncartesian(scan), solver, physics={"maps": maps}).image
        assert error(other, one) < 0.05, solver  # weights of the trajectory are 1 but for its edge


def test_maps_from_the_gridded_centre():
    """Radial samples of two slices, of which one has a trajectory of its own: the images are right without given maps."""
    scan, truth, _ = cartesian(slices=2)
    angles = np.arange(48) * np.pi / 48
    radius = np.linspace(-17.5, 17.5, 71)
    trajectory = np.stack(
        [np.stack([np.sin(a + shift)[:, None] * radius * 36 / 36, np.cos(a + shift)[:, None] * radius * 31 / 36], -1)
         for a, shift in ((angles, 0.0), (angles, 0.01))]
    ).astype(np.float32)  # fmt: skip
    coils = from_kspace(scan.kspace)
    samples = [
        NUFFT(torch.from_numpy(t), SHAPE, backend="finufft")(torch.from_numpy(c)[None])[0].reshape(4, 48, 71).numpy()
        for t, c in zip(trajectory, coils, strict=True)
    ]
    radial = NonCartesianScan(
        path=Path("toy.npz"), format="toy", samples=np.stack(samples), trajectory=trajectory, matrix=SHAPE
    )
    found = solve(radial, physics={"noise_std": 0.001})
    assert error(found.image, np.abs(truth)) < 0.12  # corners of k-space were not sampled
    one = solve(radial.items(slice(1, 2)), physics={"noise_std": 0.001})
    assert error(one.image[0], found.image[1]) < 1e-5  # a slice does not depend on others


def test_settings_that_suit_the_kind_of_scan_give_way_to_the_users():
    scan, *_ = cartesian(slices=1)
    for one, given, expected in ((noncartesian(scan), {}, 2), (noncartesian(scan), {"n_cg": 7}, 7), (scan, {}, 10)):
        assert plan(one, bundle=spec(), solver="dds", settings=given).sampling.solver.n_cg == expected


def test_one_frame_is_a_cartesian_scan():
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    mask = np.broadcast_to(scan.mask, (1, *SHAPE))
    frames = DynamicScan(path=scan.path, format="toy", kspace=scan.kspace[None], mask=mask, axis="phase")
    one = solve(scan, physics={"maps": maps, "noise_std": 0.01})
    other = solve(frames, physics={"maps": maps, "noise_std": 0.01})
    assert other.image.shape == (1, 2, *SHAPE)
    assert error(other.image[0], one.image) < 1e-5


def test_frames_with_their_own_masks():
    """A still object under shifting masks: the low-rank solver uses all frames' samples for each."""
    shape, full = SHAPE, cartesian(noise=0.002)
    scan, truth, maps = full
    masks = []
    for k in range(4):
        mask = np.zeros(shape, bool)
        mask[:, k::4] = True
        mask[:, 12:19] = True
        masks.append(mask)
    kspace = np.stack([scan.kspace * mask for mask in masks])
    frames = DynamicScan(path=scan.path, format="toy", kspace=kspace, mask=np.stack(masks), axis="phase")
    found = solve(frames, "low-rank", physics={"maps": maps, "noise_std": 0.002}, settings={"n_iter": 200})
    single = solve(replace(scan, kspace=scan.kspace * masks[0], mask=masks[0]), "cg-sense", physics={"maps": maps})
    assert error(found.image[0], np.abs(truth)) < 0.5 * error(single.image, np.abs(truth))


def test_an_image_per_coil_is_combined_by_the_sum_of_squares():
    scan, _, _ = cartesian()
    reference = np.sqrt((np.abs(from_kspace(scan.kspace)) ** 2).sum(1))
    found = solve(scan, "cg-sense", physics={"coil_images": "ssos"}, settings={"lam": 1e-9})
    assert error(found.image, reference) < 1e-4
    assert found.record["maps_source"] == "none (an image per coil)"


def test_the_hybrid_form_is_one_of_score_mri():
    scan, truth, maps = cartesian(noise=1e-4)
    found = solve(
        scan,
        "scoremri",
        physics={"coil_images": "hybrid", "maps": maps},
        steps=20,
        settings={"period": 5},
        sigma_max=1.0,
    )
    assert error(found.image, np.abs(truth)) < 0.01  # fully sampled, so the data decide
    with pytest.raises(InputError, match="scoremri"):
        solve(scan, "dds", physics={"coil_images": "hybrid", "maps": maps})


def disc(n=64, spacing=1.5, radius=30.0):
    """A disc of water, 1 inside and 0 outside."""
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * spacing
    return (np.hypot(y, x) < radius).astype(np.float32)


ANGLES = np.arange(180) * np.pi / 180
TURN = np.arange(360) * np.pi / 180


def sinogram(beam, **more):
    """Line integrals of a disc of water of 0.02 / mm."""
    x = torch.from_numpy(disc())[None, None] * 0.02
    if beam == "parallel":
        A = ParallelBeam(torch.from_numpy(ANGLES), (64, 64), 96, 1.5, 1.0)
        return Sinogram(path=Path("a.npz"), format="toy", lines=A(x)[0].numpy(), angles=ANGLES, pitch=1.0, **more)
    A = FanBeam(torch.from_numpy(TURN), (64, 64), 200.0, 400.0, 128, 1.5, 1.6)
    return Sinogram(
        path=Path("a.npz"), format="toy", lines=A(x)[0].numpy(), angles=TURN, pitch=1.6, beam="fan", source_to_axis=200.0,
        source_to_detector=400.0, **more,
    )  # fmt: skip


@pytest.mark.parametrize("beam", ["parallel", "fan"])
@pytest.mark.parametrize("solver", ["fbp", "sirt"])
def test_a_disc_of_water_has_0_hu(beam, solver):
    found = solve(sinogram(beam), solver, spec("attenuation"), physics={"size": 64, "voxel": 1.5})
    inner = disc(radius=24.0) > 0
    assert abs(found.image[0][inner].mean()) < 10
    assert abs(found.image[0][disc(radius=36.0) == 0].mean() + 1000) < 30
    assert found.modality == "CT"
    assert found.phase is None


def test_a_cone_beam_is_one_volume():
    volume = torch.from_numpy(np.stack([disc() * (k in (3, 4, 5)) for k in range(9)]))[None, None] * 0.02
    A = ConeBeam(torch.from_numpy(TURN[::4]), (9, 64, 64), 200.0, 400.0, (9, 128), 1.5, 3.0)
    scan = Sinogram(
        path=Path("a.npz"), format="toy", lines=A(volume)[0].numpy(), angles=TURN[::4], pitch=3.0, beam="cone",
        source_to_axis=200.0, source_to_detector=400.0,
    )  # fmt: skip
    found = solve(scan, "sirt", spec("attenuation"), physics={"size": 64, "voxel": 1.5}, settings={"n_iter": 60})
    assert found.image.shape == (9, 64, 64)
    inner = disc(radius=24.0) > 0
    assert abs(found.image[4][inner].mean()) < 60
    assert found.image[0][inner].mean() < -600
    drawn = solve(scan, "dds", spec("attenuation"), physics={"size": 64, "voxel": 1.5}, steps=2, sigma_max=0.1)
    assert drawn.image.shape == (9, 64, 64)
    assert drawn.record["network_evaluations"] == 18  # a prior of slices sees nine of them twice


def test_counts_reach_the_poisson_likelihood():
    scan = sinogram("parallel", photons=1e4)
    physics = {"size": 64, "voxel": 1.5, "noise_model": "poisson"}
    found = solve(scan, "diffpir", spec("attenuation"), physics=physics, steps=5, sigma_max=0.5)
    assert abs(found.image[0][disc(radius=24.0) > 0].mean()) < 30
    with pytest.raises(InputError, match="photons"):
        solve(sinogram("parallel"), "diffpir", spec("attenuation"), physics=physics)
    with pytest.raises(InputError, match="Gaussian"):
        solve(scan, "dds", spec("attenuation"), physics=physics)


def picture(shape=(48, 40), noise=0.0, seed=0):
    """A magnitude image of scale 1000."""
    rng = np.random.default_rng(seed)
    return (1000 * np.abs(image(shape)) + noise * rng.standard_normal(shape)).astype(np.float32)


def images(array, affine=None, spacing=(2.0, 1.0, 1.0)):
    return ImageScan(path=Path("a.nii.gz"), format="NIfTI", array=array[None], geometry=Geometry(spacing, affine))


def test_denoising_by_the_white_prior_is_wieners_filter():
    noisy = picture(noise=50.0)
    found = solve(images(noisy), "dds", spec("magnitude"), physics={"noise_std": 50.0}, steps=30, samples=1)
    assert found.image.shape == (1, 48, 40)
    assert error(found.image[0], np.abs(noisy)) < 0.2


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
    from medrecon.operators import super_resolution

    fy, fx = (factor, factor) if isinstance(factor, int) else factor
    y, x = np.mgrid[:42, :30]  # coarse sides are even and odd
    fine = 1000 * np.exp(-((y - 26.0) ** 2 + (x - 11.0) ** 2) / 18).astype(np.float32)
    coarse = super_resolution((42, 30), (fy, fx), kernel)(torch.from_numpy(fine)[None, None])[0, 0].numpy()
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
        away.append(error(found.image[0], np.abs(noisy)))
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


def test_a_prior_of_another_kind_of_image_is_refused():
    scan, *_ = cartesian()
    for one, images_of in ((scan, "attenuation"), (sinogram("parallel"), "complex"), (images(picture()), "complex")):
        with pytest.raises(InputError, match="choose the bundle"):
            solve(one, "dds", spec(images_of), physics={"noise_std": 0.01})


def test_an_option_of_another_kind_of_scan_is_refused():
    scan, _, _ = cartesian()
    with pytest.raises(InputError, match="an option of a sinogram"):
        solve(scan, physics={"photons": 1e5})
