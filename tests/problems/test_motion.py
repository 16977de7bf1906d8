"""Motion between shots: the operator, Gauss-Newton, the gauge, and the one path."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.operators import AsComplex, Poses, moving_sense, sense
from medrecon.operators.motion import moved
from medrecon.posterior import run, sampling
from medrecon.problems import physics_of, problem
from medrecon.problems.motion import MovingShots, relative_poses, smooth_map_phase
from medrecon.settings import SamplingSettings
from medrecon.solvers import DDS

from ..make.operators import random_tensor
from ..make.toys import SHAPE, Smooth, cartesian, columns, image, solve, spec

DOUBLE = torch.float64


def interleaved(shape=SHAPE, shots=4):
    """Masks ``(shots, 1, x)`` of all columns."""
    return (torch.arange(shape[1]) % shots == torch.arange(shots)[:, None])[:, None]


def random_poses(batch=1, shots=4, size=2.0, seed=0):
    """Angles within ``size`` degrees and shifts within ``size`` pixels, shot 0 still, ``(batch, shots, 3)``."""
    generator = torch.Generator().manual_seed(seed)
    poses = size * (2 * torch.rand(batch, shots, 3, generator=generator, dtype=DOUBLE) - 1)
    poses[..., 0] = poses[..., 0].deg2rad()
    poses[:, 0] = 0
    return poses


def measured(poses, shape=SHAPE, noise=0.0, dtype=DOUBLE, seed=0):
    """Likelihood without motion so far, of data with motion, and the image ``(B, 2, y, x)``."""
    _, truth, maps = cartesian(shape, slices=len(poses), seed=seed)
    maps = torch.from_numpy(maps)[None].to(torch.complex128)
    x = AsComplex().adjoint(torch.from_numpy(truth)[:, None].to(torch.complex128))
    masks = interleaved(shape, poses.shape[1])
    y = moving_sense(maps, masks, poses[..., 0], poses[..., 1:])(x)
    generator = torch.Generator().manual_seed(seed)
    y = y + noise * torch.complex(*(torch.randn(y.shape, generator=generator, dtype=DOUBLE) for _ in range(2)))
    y, x = y.to(dtype.to_complex()), x.to(dtype)
    still = torch.zeros(poses.shape[:2], dtype=dtype)
    shift = torch.zeros(*poses.shape[:2], 2, dtype=dtype)
    A = moving_sense(maps.to(dtype.to_complex()), masks, still, shift)
    return MovingShots(A, y, max(noise, 1e-3), angle=still, shift=shift), x


def poses_of(data):
    return torch.cat([data.angle[..., None], data.shift], dim=-1)


def in_degrees_and_pixels(error):
    return error * error.new_tensor([180 / math.pi, 1, 1])


def estimated(data, x, levels=(*[0.2] * 10, *[0.01] * 5)):
    for sigma in levels:
        data = data.updated(x, sigma)
    return data


def test_poses_that_are_still_change_nothing():
    x = AsComplex()(random_tensor(2, 2, 9, 8, dtype=torch.float32))
    still = Poses((9, 8), torch.zeros(1, 3), torch.zeros(1, 3, 2))
    assert torch.equal(still(x), x.expand(2, 3, 9, 8))
    data, image = measured(torch.zeros(1, 4, 3, dtype=DOUBLE))
    maps = data.shots.maps
    plain = sense(maps, torch.ones(1, 1, 1, SHAPE[1]))
    assert torch.allclose(data.A(image), plain(image), atol=1e-12)
    assert torch.allclose(data.A.normal(image), plain.normal(image), atol=1e-12)


def test_poses_keep_the_norm_and_return():
    """Fourier interpolation neither blurs nor loses anything: the adjoint is the inverse."""
    poses = random_poses(2, 3, 20.0)
    A = Poses((12, 11), poses[..., 0], poses[..., 1:])
    x = AsComplex()(random_tensor(2, 2, 12, 11, dtype=DOUBLE))
    assert torch.allclose(A.adjoint(A(x)) / 3, x, atol=1e-12)
    assert torch.allclose(A(x).abs().square().sum((2, 3)), x.abs().square().sum((2, 3)), atol=1e-10)


def test_composed_poses_are_relative_poses():
    """``W(relative) W_0 x = W_s x`` for an object inside the field of view; the tolerance is that of its sharp edge."""
    x = torch.from_numpy(image((64, 60))).to(torch.complex128)[None, None]
    x = torch.fft.ifft2(torch.fft.fft2(x) * _low_pass(64, 60))
    poses = random_poses(1, 4, 3.0, seed=3)
    poses[:, 0] = torch.tensor([0.05, 1.3, -0.7])
    relative = relative_poses(poses)
    there = moved(x, poses[..., 0], poses[..., 1:])
    again = moved(there[:, :1], relative[..., 0], relative[..., 1:])
    assert (again - there).norm() < 2e-3 * there.norm()
    assert (relative[:, 0] == 0).all()


def _low_pass(ny, nx):
    y, x = torch.fft.fftfreq(ny, dtype=DOUBLE)[:, None], torch.fft.fftfreq(nx, dtype=DOUBLE)
    return torch.exp(-(y**2 + x**2) / (2 * 0.08**2))


def test_a_common_motion_of_all_shots_leaves_the_residual():
    """The gauge: the image in another pose, and every shot relative to it."""
    poses = random_poses(1, 4, 2.0)
    data, x = measured(poses, (64, 60))
    common = torch.tensor([[[0.03, 1.0, -0.5]]], dtype=DOUBLE)
    x = AsComplex().adjoint(torch.fft.ifft2(torch.fft.fft2(AsComplex()(x)) * _low_pass(64, 60)))
    at = data.with_parameters({"angle": poses[..., 0], "shift": poses[..., 1:]})
    y = at.A(x)
    moved_x = AsComplex().adjoint(moved(AsComplex()(x), common[..., 0], common[..., 1:]))
    other = relative_poses(torch.cat([common, poses], dim=1))[:, 1:]
    again = data.with_parameters({"angle": other[..., 0], "shift": other[..., 1:]}).A(moved_x)
    assert (again - y).norm() < 2e-3 * y.norm()
    assert (data.A(moved_x) - y).norm() > 0.05 * y.norm()  # without motion it is not


def test_derivatives_against_finite_differences():
    data, x = measured(random_poses(2, 4))
    poses = random_poses(2, 4, seed=5)
    window = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    _, derivatives = data._predicted(AsComplex()(x), poses, window)
    for k, derivative in enumerate(derivatives):
        step = torch.zeros(3, dtype=DOUBLE)
        step[k] = 1e-5
        ahead, behind = (data._predicted(AsComplex()(x), poses + s * step, window)[0] for s in (1, -1))
        assert torch.allclose((ahead - behind) / 2e-5, derivative, atol=1e-6 * float(derivative.abs().max()))


@pytest.mark.parametrize(("shape", "dtype"), [((36, 31), DOUBLE), ((33, 40), torch.float32)])
def test_gauss_newton_finds_the_motion(shape, dtype):
    """With the true image: within the noise, whose effect on a shot of 8 columns is below a hundredth of a pixel."""
    poses = random_poses(2, 4, 3.0)
    data, x = measured(poses, shape, noise=0.005, dtype=dtype)
    error = in_degrees_and_pixels(poses_of(estimated(data, x)).double() - poses).abs()
    assert float(error[..., 1:].max()) < 0.02 and float(error[..., 0].max()) < 0.1


def test_steps_are_limited_and_never_increase_the_residual():
    data, x = measured(random_poses(1, 4, 6.0))
    for sigma in (0.2, 0.2, 0.01):
        after = data.updated(x, sigma)
        step = in_degrees_and_pixels(poses_of(after) - poses_of(data)).abs()
        assert float(step.max()) < 2 * 2 * 0.5 + 0.2  # two steps of each shot and of shot 0, and their composition
        assert float(step.max()) > 0.4
        data = after


def test_a_step_that_would_make_a_shot_worse_is_not_taken():
    data, x = measured(random_poses(1, 4, 1.0))
    found = estimated(data, x)
    wrong = x.flip(-1)
    r = [(data.with_parameters(p.parameters)).residual(wrong) for p in (found, found.updated(wrong, 0.01))]
    assert float(r[1].norm()) <= float(r[0].norm()) * (1 + 1e-12)


def test_nothing_moves_at_high_levels_or_for_an_estimate_that_explains_nothing():
    data, x = measured(random_poses(2, 4))
    assert data.updated(x, 0.6) is data
    assert data.updated(random_tensor(*x.shape, dtype=DOUBLE), 0.1) is data
    half = torch.stack([x[0], torch.zeros_like(x[1])])
    after = poses_of(data.updated(half, 0.1))
    assert after[0].any() and not after[1].any()


def test_an_empty_slice_without_noise_does_not_move():
    data, x = measured(random_poses(1, 4))
    data = replace(data, y=0 * data.y, noise_std=0.0)
    assert not poses_of(data.updated(0 * x, 0.1)).any()


def test_a_batch_is_its_items():
    data, x = measured(random_poses(2, 4, 2.0), noise=0.01)
    data = replace(data, noise_std=torch.tensor([0.01, 0.02], dtype=DOUBLE))
    both = poses_of(data.updated(x, 0.1).updated(x, 0.05))
    for i in range(2):
        one = replace(
            data, y=data.y[i : i + 1], noise_std=data.noise_std[i : i + 1], angle=data.angle[:1], shift=data.shift[:1]
        )
        alone = poses_of(one.updated(x[i : i + 1], 0.1).updated(x[i : i + 1], 0.05))
        assert torch.allclose(alone[0], both[i], atol=1e-10)


def test_single_precision_is_double_precision():
    poses = random_poses(1, 4, 2.0)
    found = [
        poses_of(estimated(*measured(poses, noise=0.005, dtype=dtype))).double() for dtype in (DOUBLE, torch.float32)
    ]
    assert float(in_degrees_and_pixels(found[0] - found[1]).abs().max()) < 1e-3


def test_copies_have_the_motion_of_the_item():
    data, x = measured(random_poses(1, 4))
    data = data.updated(x, 0.1)
    copies = data.repeated(3)
    assert copies.parameters["shift"].shape == (3, 4, 2)
    assert torch.allclose(copies.A(x.expand(3, -1, -1, -1)), data.A(x).expand(3, -1, -1, -1), atol=1e-12)


def test_shots_of_points():
    """Masks that are not whole columns: the same motion, by the other way to compute it."""
    poses = random_poses(1, 4, 2.0)
    data, x = measured(poses)
    points = data.shots.masks.expand(-1, *SHAPE)
    A = moving_sense(data.shots.maps, points, poses[..., 0], poses[..., 1:])
    B = moving_sense(data.shots.maps, data.shots.masks, poses[..., 0], poses[..., 1:])
    y = random_tensor(*data.y.shape, dtype=DOUBLE) + 0j
    assert torch.allclose(A(x), B(x), atol=1e-12)
    assert torch.allclose(A.adjoint(y), B.adjoint(y), atol=1e-12)
    assert torch.allclose(A.normal(x), B.normal(x), atol=1e-12)
    with pytest.raises(ValueError, match="overlap"):
        moving_sense(data.shots.maps, torch.ones(2, *SHAPE), poses[:, :2, 0], poses[:, :2, 1:])


def test_the_phase_of_maps_becomes_smooth_and_the_model_stays():
    """Maps whose phase is that of a detailed image: the part that varies quickly goes to the image."""
    scan, truth, maps = cartesian(shape=(64, 60), slices=1)
    y, x = torch.meshgrid(*[torch.arange(n) / n for n in (64, 60)], indexing="ij")
    detail = 0.5 * torch.sin(2 * math.pi * 6 * x) * torch.cos(2 * math.pi * 5 * y)
    maps = torch.from_numpy(maps)[None].to(torch.complex64)
    rough = maps * torch.polar(torch.ones_like(detail), detail)
    smooth = smooth_map_phase(rough, torch.from_numpy(scan.kspace))
    ratio = smooth / maps
    inside = torch.from_numpy(np.abs(truth[0]) > 0)
    assert torch.allclose(ratio.abs(), torch.ones_like(ratio.abs()), atol=1e-4)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4)  # one phase for all coils

    def roughness(phase):  # of neighbours, where there is signal
        both = inside[:, 1:] & inside[:, :-1]
        return float((phase[..., 1:] * phase[..., :-1].conj()).angle()[..., both].abs().max())

    assert roughness(ratio[0, 0]) < 0.3 * roughness(rough[0, 0] / maps[0, 0])


def moving_scan(size=2.0, slices=1, shape=(64, 60), shots=4, noise=0.01, seed=0):
    """A scan with labels of shots, its poses, and its images."""
    scan, truth, maps = cartesian(shape, slices=slices, mask=columns(shape, 15))
    poses = random_poses(slices, shots, size, seed)
    labels = np.where(scan.mask, (np.cumsum(scan.mask) - 1) % shots, -1)
    masks = torch.from_numpy(labels == np.arange(shots)[:, None])[:, None]
    A = moving_sense(torch.from_numpy(maps)[None].to(torch.complex128), masks, poses[..., 0], poses[..., 1:])
    kspace = A(AsComplex().adjoint(torch.from_numpy(truth)[:, None].to(torch.complex128))).numpy()
    rng = np.random.default_rng(seed)
    kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)) * scan.mask
    return replace(scan, kspace=kspace.astype(np.complex64), shots=labels), poses, truth, maps


PRIOR = spec(objective=Smooth(0.3), sigma_min=0.01)


def test_the_one_path_finds_the_motion_and_records_it():
    scan, poses, truth, maps = moving_scan(slices=2)
    scan = replace(scan, geometry=Geometry((3.0, 2.0, 0.5)))
    common = {"solver": "dds", "prior": PRIOR, "steps": 20, "sigma_max": 0.3}
    physics = {"maps": maps, "noise_std": 0.01}
    made = solve(scan, physics={**physics, "correct_motion": True}, **common)
    found = np.concatenate([made.parameters["angle"][..., None], made.parameters["shift"]], axis=-1)
    error = np.abs(found - poses.numpy()) * [180 / np.pi, 1, 1]
    # With a prior without anatomy, and 64 x 60 pixels, in which an angle of one degree moves the edge by half a pixel.
    assert error[..., 1:].max() < 0.3 and error[..., 0].max() < 1.0
    plain = solve(scan, physics=physics, **common)

    def distance(image):
        return np.linalg.norm(image - np.abs(truth)) / np.linalg.norm(truth)

    assert distance(made.image) < 0.5 * distance(plain.image)
    motion = made.record["motion"]
    assert motion["slices"] == [0, 1] and motion["shots"] == 4 and motion["reference_shot"] == 0
    assert np.allclose(motion["angle_degrees"], np.rad2deg(found[..., 0]), atol=1e-3)
    assert np.allclose(motion["shift_pixels"], found[..., 1:], atol=1e-3)
    assert np.allclose(motion["shift_mm"], found[..., 1:] * [2.0, 0.5], atol=2e-3)
    assert "motion" not in plain.record
    batch = solve(scan, physics={**physics, "correct_motion": True}, chunk=1, **common)
    assert np.allclose(batch.image, made.image, atol=1e-3 * made.image.max())


def test_the_residual_by_level_is_not_that_of_the_start():
    """A likelihood without motion would give many times the noise at every level, although the image explains the data."""
    scan, _, _, maps = moving_scan()
    physics = {"maps": maps, "noise_std": 0.01}
    for more in ({}, {"correct_motion": True}):
        solved = problem(scan, physics_of(scan, **physics, **more))
        chosen = replace(sampling(SamplingSettings(solver="dds", steps=3), PRIOR), trace=True)
        assert ("residual_by_level" in run(solved.suited_to(DDS()), PRIOR, chosen).record) == (not more)


def test_several_samples_have_a_mean_motion():
    scan, _, _, maps = moving_scan()
    physics = {"maps": maps, "noise_std": 0.01, "correct_motion": True}
    made = solve(scan, "dds", PRIOR, physics, steps=12, sigma_max=0.3, samples=2)
    assert made.samples.shape[0] == 2 and made.parameters["angle"].shape == (1, 4)
    assert np.isfinite(made.image).all()


def test_without_motion_nothing_is_lost():
    """But for what the errors of a prior without anatomy do to the motion; docs/motion.md has the figure for the bundle."""
    scan, _, truth, maps = moving_scan(size=0.0)
    physics = {"maps": maps, "noise_std": 0.01}
    common = {"solver": "dds", "prior": PRIOR, "steps": 20, "sigma_max": 0.3, "settings": {"extrapolation": 0.0}}
    on, off = (solve(scan, physics={**physics, **more}, **common) for more in ({"correct_motion": True}, {}))
    errors = [np.linalg.norm(made.image - np.abs(truth)) for made in (on, off)]
    assert errors[0] < 10 ** (0.5 / 20) * errors[1]  # 0.5 dB
    assert np.abs(on.parameters["shift"]).max() < 0.1


def test_maps_are_estimated_and_labels_given():
    scan, *_ = moving_scan()
    labels = scan.shots
    made = solve(
        replace(scan, shots=None), "dds", PRIOR, {"correct_motion": True, "shots": labels}, steps=5, sigma_max=0.3
    )
    assert made.record["motion"]["shots"] == 4 and made.record["maps_source"].startswith("ESPIRiT")


@pytest.mark.parametrize("dead", [False, True])
def test_maps_from_moved_calibration_lines_give_a_warning(dead):
    """Whatever the residual: with a dead coil it is not above the limits, and the image is wrong by a third."""
    scan, _, _, maps = moving_scan(size=3.0)
    kspace = scan.kspace.copy()
    kspace[:, 1] *= not dead
    scan, common = replace(scan, kspace=kspace), {"steps": 12, "sigma_max": 0.3}
    on = {"correct_motion": True, "noise_std": 0.01}
    moved_lines = solve(scan, "dds", PRIOR, on, **common).record
    assert any("in several poses (up to" in text for text in moved_lines["warnings"])
    if not dead:
        given = solve(scan, "dds", PRIOR, {**on, "maps": maps}, **common).record
        still = solve(moving_scan(size=0.0)[0], "dds", PRIOR, on, **common).record
        assert not given["warnings"] and not still["warnings"]


@pytest.mark.parametrize("points", [False, True])
def test_only_the_poses_of_calibration_lines_count(points):
    """Shot 3 has no line in the centre; its motion does not change the maps."""
    scan, *_ = moving_scan()
    mask = np.broadcast_to(scan.mask, (64, 60)) if points else np.atleast_2d(scan.mask)[0]
    labels = np.where(mask, np.arange(60) % 3, -1)
    labels[..., :8] = np.where(mask[..., :8], 3, -1)
    scan = replace(scan, mask=mask, shots=labels)
    moving = problem(scan, physics_of(scan, correct_motion=True)).suited_to(DDS())
    near, far = [0.0, 0.0, 0.0], [math.radians(9.0), 9.0, 9.0]
    moving.motion = {0: torch.tensor([near, [0.001, 0.4, -0.05], near, far], dtype=DOUBLE)}
    assert not moving._calibration_warnings()
    moving.motion[0][1] = torch.tensor([math.radians(-2.0), -3.0, 0.1])
    (text,) = moving._calibration_warnings()
    assert "up to 2.0 degrees and 3.0 pixels" in text
    moving.given = moving.estimate(0)
    assert not moving._calibration_warnings()


def test_calibration_lines_that_do_not_fit_one_set_of_maps():
    """The advice for an object larger than the field of view, two sets of maps, is of no use here."""
    scan, *_ = moving_scan(size=3.0)
    texts = problem(scan, physics_of(scan, correct_motion=True)).warnings
    assert any("because of motion between them" in text for text in texts)
    assert not any("use two sets" in text for text in texts)


def test_motion_that_still_changes_gives_a_warning():
    data, x = measured(random_poses(2, 4, 3.0))
    first = data.updated(x, 0.2)
    expected = in_degrees_and_pixels(poses_of(first) - poses_of(data)).abs().amax((1, 2))
    assert torch.allclose(first.change, expected) and float(first.change.min()) > 0.4
    assert float(estimated(data, x).change.max()) < 1e-3
    scan, *_ = moving_scan()
    moving = problem(scan, physics_of(scan, correct_motion=True)).suited_to(DDS())
    for change, warned in ((0.05, False), (0.5, True)):
        moving.changes = {0: change}
        texts = moving.review(torch.ones(1, 1, 64, 60), [], DDS())
        assert any("still changed by 0.50" in text for text in texts) == warned


@pytest.mark.parametrize(
    ("change", "physics", "message"),
    [
        ({"shots": None}, {}, "not recorded"),
        ({}, {"coil_images": "ssos"}, "one image"),
        ({}, {"map_sets": "2"}, "one set"),
        ({}, {"shots": np.zeros(7, int)}, "shape"),
        ({}, {"correct_motion": "yes"}, "true or false"),
        ({}, {"correct_motion": False, "shots": np.zeros(60, int)}, "--correct-motion only"),
    ],
)
def test_what_cannot_be_corrected_is_refused(change, physics, message):
    scan, *_ = moving_scan()
    scan = replace(scan, **change)
    with pytest.raises(InputError, match=message):
        problem(scan, physics_of(scan, **{"correct_motion": True, **physics}))


@pytest.mark.parametrize("solver", ["cg-sense", "tds"])
def test_solvers_without_a_prior_or_with_particles_are_refused(solver):
    scan, _, _, maps = moving_scan()
    with pytest.raises(InputError, match="choose dds"):
        solve(scan, solver, PRIOR, {"correct_motion": True, "maps": maps})


def test_implausible_motion_gives_a_warning():
    scan, *_ = moving_scan()
    moving = problem(scan, physics_of(scan, correct_motion=True)).suited_to(DDS())
    images, fits = torch.ones(1, 1, 64, 60), []
    still = [[0.0, 0.0, 0.0]] * 3
    moving.motion = {0: torch.tensor([*still, [0.1, 3.0, 0.0]])}
    assert not any("implausibly" in text for text in moving.review(images, fits, DDS()))
    for large in ([0.1, 0.0, 15.0], [0.1, -15.0, 0.0], [-0.4, 0.0, 0.0]):
        moving.motion = {0: torch.tensor([*still, large])}
        assert any("implausibly" in text for text in moving.review(images, fits, DDS()))
