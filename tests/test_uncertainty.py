"""Maps of samples against closed forms: quantiles, null space, flags, and the self-test in measured space."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon import posterior
from medrecon.likelihood import Gaussian, Poisson, Rician, Transmission, linear_gaussian
from medrecon.noise import karras
from medrecon.operators import AsComplex, RealAsComplex, sense
from medrecon.operators.linalg import dot
from medrecon.operators.spectral import Dense
from medrecon.posterior import Start, sampling
from medrecon.problems import physics_of, problem
from medrecon.reconstruction import Plan
from medrecon.record import calibrated
from medrecon.sample import draw_particles
from medrecon.settings import SamplingSettings
from medrecon.solvers import SOLVERS, CGSense
from medrecon.uncertainty import (
    PRIOR_VARIANCE,
    interval_coverage,
    map_names,
    measured_part,
    noise_of_measured,
    null_space,
    pixel_statistics,
    self_test_facts,
)
from tests.make import toys
from tests.make.nullspaces import Plain, columns_problem, exact_samples, scaled, two_components, white_posterior
from tests.make.posteriors import gaussian_prior

DOUBLE = torch.float64
ITEM = slice(0, 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def of(data, x, weights=None, chunk=4, offset=0.0, scale=1.0):
    """The null space of samples ``(n, C, *spatial)`` of a plain problem."""
    return null_space(Plain(data, offset), scaled(data, scale), ITEM, x[:, None], weights, chunk)


# Statistics of pixels


@pytest.mark.parametrize(("n", "position"), [(39, 2.0), (30, 1.55), (19, 1.0), (8, 1.0), (2, 1.0)])
def test_quantiles_are_order_statistics_at_p_times_n_plus_1(n, position):
    x = normal(n, 3, 5)
    ordered, below = x.sort(0).values, int(position)
    share = position - below
    _, low, high = pixel_statistics(x)
    assert torch.allclose(low, (1 - share) * ordered[below - 1] + share * ordered[below])
    assert torch.allclose(high, (1 - share) * ordered[-below] + share * ordered[-below - 1])


@pytest.mark.parametrize("n", [3, 8, 19, 40])
def test_a_further_value_lies_inside_with_the_stated_probability(n):
    """Whatever the law of the values. Four standard errors of 40000 pixels: 0.006 to 0.01."""
    x = normal(n + 1, 40000).exp()
    _, low, high = pixel_statistics(x[:n])
    inside = float(((x[n] >= low) & (x[n] <= high)).double().mean())
    assert inside == pytest.approx(interval_coverage(n), abs=4 * 0.5 / 40000**0.5)
    assert interval_coverage(n) == pytest.approx(min(0.9, (n - 1) / (n + 1)))


def test_the_standard_deviation_is_unbiased_also_with_weights():
    x = normal(5, 4, 3)
    assert torch.allclose(pixel_statistics(x)[0], x.std(0))
    weights = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=DOUBLE)[:, None]
    variance = pixel_statistics(normal(4, 100_000), weights)[0].square()
    # Its standard deviation per pixel is about 1.1, so 0.0035 of the mean: four of them.
    assert float(variance.mean()) == pytest.approx(1.0, abs=0.014)


def test_equal_weights_change_nothing_and_samples_without_weight_have_no_effect():
    x = normal(7, 6)
    for a, b in zip(pixel_statistics(x), pixel_statistics(x, torch.full((7, 1), 1 / 7)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=DOUBLE)
    extended = torch.cat([x[:4], 1e3 * x[4:6]])
    for a, b in zip(
        pixel_statistics(x[:4], weights[:, None]),
        pixel_statistics(extended, torch.cat([weights, weights.new_zeros(2)])[:, None]),
        strict=True,
    ):
        assert torch.allclose(a, b)


def test_weighted_quantiles_average_the_last_part_of_the_weight():
    """Weights 0.4, 0.3, 0.2, 0.1: n = 1 / 0.3, so the upper quantile is the mean over the uppermost 0.3 of the weight."""
    values, weights = torch.tensor([[2.0], [4.0], [3.0], [1.0]]), torch.tensor([[0.3], [0.1], [0.2], [0.4]])
    _, low, high = pixel_statistics(values, weights)
    assert float(low) == pytest.approx(1.0)
    assert float(high) == pytest.approx((0.1 * 4 + 0.2 * 3) / 0.3)


def test_weighted_samples_have_the_quantiles_of_the_law_they_stand_for():
    """N(0, 1), weighted to N(0.5, 1): 4000 samples count as 3100; five standard errors of a 5 % quantile are 0.19."""
    x = normal(4000, 1, seed=7)
    weights = (0.5 * x - 0.125).exp()
    _, low, high = pixel_statistics(x, weights / weights.sum())
    assert float(low) == pytest.approx(0.5 - 1.645, abs=0.19) and float(high) == pytest.approx(0.5 + 1.645, abs=0.19)


def test_a_single_particle_has_no_spread():
    x = normal(3, 4)
    weights = torch.tensor([0.0, 1.0, 0.0], dtype=DOUBLE)[:, None]
    spread, low, high = pixel_statistics(x, weights)
    assert (spread == 0).all() and torch.equal(low, x[1]) and torch.equal(high, x[1])


# What was not measured


def test_the_null_space_of_one_coil_is_the_columns_that_were_not_sampled():
    """An odd and an even side. Without noise the pseudo-inverse is exact."""
    data, mask = columns_problem()
    data = replace(data, noise_std=0.0)
    x = normal(5, 2, 21, 18, seed=4)
    made = of(data, x, chunk=2, scale=3.0)
    image = AsComplex()(x)[:, 0]
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))
    left = torch.fft.ifft2(torch.fft.ifftshift(spectrum * ~mask, (-2, -1)), norm="ortho")
    left = torch.fft.fftshift(left, (-2, -1))
    assert torch.allclose(made.null[0], 3 * left.mean(0).abs())
    expected = (left - left.mean(0)).abs().square().sum(0).div(4).sqrt()
    assert torch.allclose(made.spread[0], 3 * expected)
    assert made.null_energy / made.energy == pytest.approx(
        float((left.mean(0).abs() ** 2).sum() / (image.mean(0).abs() ** 2).sum())
    )
    assert made.test is None  # without noise there is nothing to compare with


def test_directions_count_as_measured_by_their_singular_values():
    """``w / (s^2 + w)`` of a direction is left, from the posterior of a Gaussian prior and a dense operator."""
    matrix = normal(3, 12, seed=1) @ torch.diag(torch.linspace(0.02, 1.0, 12, dtype=DOUBLE))
    prior, sigma = gaussian_prior((1, 3, 4)), 0.1
    y = matrix @ (prior.mean.flatten() + 0.3)
    mean, covariance = prior.posterior(matrix, y, sigma)
    n = 40_000
    root = torch.linalg.cholesky(covariance)
    x = (mean + normal(n, 12, seed=2) @ root.T).view(n, 1, 3, 4)
    data = Gaussian(Dense(matrix, (1, 3, 4)), y[None], sigma)
    weight = sigma**2 / PRIOR_VARIANCE
    left = (
        torch.eye(12, dtype=DOUBLE) - torch.linalg.inv(matrix.T @ matrix + weight * torch.eye(12)) @ matrix.T @ matrix
    )
    made = of(data, x, chunk=n)
    expected = (left @ covariance @ left.T).diagonal().sqrt()
    # Sampling errors of 40000 samples: 0.35 % of a standard deviation, 0.5 % of it for a mean; four of them.
    assert torch.allclose(made.spread.flatten(), expected, rtol=0.014)
    assert ((made.null.flatten() - (left @ mean).abs()).abs() < 0.02 * expected).all()


def test_chunks_and_single_precision_change_nothing_but_rounding():
    data, _ = columns_problem()
    x = normal(7, 2, 21, 18, seed=4)
    weights = torch.softmax(normal(7, seed=5), 0)
    one, several = of(data, x, weights, chunk=7), of(data, x, weights, chunk=3)
    single = of(columns_problem(dtype=torch.float32)[0], x.float(), weights, chunk=3)
    for name in ("null", "spread"):
        assert torch.allclose(getattr(one, name), getattr(several, name), atol=1e-12)
        # Rounding of single precision, summed over a transform.
        assert torch.allclose(getattr(one, name), getattr(single, name).double(), atol=1e-5)
    assert one.test.squares == pytest.approx(several.test.squares)
    assert one.test.scatter == pytest.approx(single.test.scatter, rel=1e-4)


def test_weights_of_particles_are_respected():
    """Samples drawn by their weights have the weighted moments; a particle without weight has no effect."""
    data, _ = columns_problem()
    x = normal(4, 2, 21, 18, seed=4)
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=DOUBLE)
    made = of(data, x, weights)
    mean = (weights.view(-1, 1, 1, 1) * x).sum(0, keepdim=True)
    left = [AsComplex()(each - measured_part(data, each)) for each in (mean, x - mean)]
    assert torch.allclose(made.null, left[0][:, 0].abs())
    variance = (weights.view(-1, 1, 1) * left[1][:, 0].abs().square()).sum(0) / (1 - 0.375)
    assert torch.allclose(made.spread[0], variance.sqrt())
    without = of(data, x[:3], weights[:3])
    assert torch.allclose(made.spread, without.spread) and made.test.squares == pytest.approx(without.test.squares)


def test_the_offset_of_ct_numbers_is_not_part_of_the_unmeasured():
    made = toys.solve(
        toys.sinogram("parallel"), "dds", toys.spec("attenuation"), {"image_size": 64}, samples=3, steps=4
    )
    maps = made.uncertainty
    assert maps.null.max() < 500  # with the offset: 1000 HU of air everywhere
    assert made.record["uncertainty"]["noise_in_image"][0] > 0
    assert (maps.p05 <= maps.p95).all() and np.isfinite(maps.spread).all()


# The noise in the image


@pytest.mark.parametrize("shape", [(64, 63), (13, 10)])
def test_the_noise_of_one_coil_is_that_of_k_space(shape):
    data, mask = columns_problem(shape, noise_std=0.05)
    noise, directions = noise_of_measured(data)
    assert float(noise.square().mean().sqrt()) == pytest.approx(0.05)
    # s = 1: all measured directions are kept in the same proportion. Hutchinson: sqrt(2 / (n directions)), four of them.
    expected = 2 * shape[0] * int(mask.sum()) / (1 + 0.05**2 / PRIOR_VARIANCE)
    assert directions == pytest.approx(expected, rel=4 * (2 / expected / len(noise)) ** 0.5)
    made = of(data, normal(3, 2, *shape), scale=7.0)
    assert made.noise == pytest.approx(7 * 0.05 * 2**0.5, rel=0.02)  # two components; noise images are random


def test_the_noise_of_several_coils_has_the_mean_precision_of_measured_directions():
    _, _, maps = toys.cartesian((16, 15), coils=4, slices=1)
    mask = torch.zeros(15, dtype=torch.bool)
    mask[::3] = True
    A = sense(torch.from_numpy(maps)[None].to(torch.complex128), mask[None, None, None])
    data = Gaussian(A, A(normal(1, 2, 16, 15)), 0.02)
    matrix = torch.cat(
        [torch.view_as_real(A(one.view(1, 2, 16, 15))).flatten()[None] for one in torch.eye(480, dtype=DOUBLE)]
    ).T
    s = torch.linalg.svdvals(matrix)
    kept = s**2 / (s**2 + 0.02**2 / PRIOR_VARIANCE)
    noise, directions = noise_of_measured(data)
    assert directions == pytest.approx(float(kept.sum()), rel=0.03)
    level = 0.02 * float((kept.sum() / (kept * s**2).sum()) ** 0.5)
    assert float(noise[noise != 0].square().mean().sqrt()) == pytest.approx(level, rel=0.03)


def test_likelihoods_that_are_not_gaussian_have_a_linear_stand_in():
    """Its precision is the Fisher information where counts are those expected."""
    matrix = normal(5, 4, seed=3).abs()
    A, x = Dense(matrix, (1, 2, 2)), torch.tensor([0.2, 0.5, 0.3, 0.4], dtype=DOUBLE).view(1, 1, 2, 2)
    transmission = Transmission(A, 1e4 * (-A(x)).exp(), photons=1e4)
    stand_in = linear_gaussian(transmission)
    v = normal(1, 1, 2, 2, seed=5)
    # The exact second derivative of -log p is sum rate (A v)^2.
    curvature = float((transmission.y * A(v) ** 2).sum())
    assert float(dot(stand_in.A(v), stand_in.A(v)) / stand_in.noise_std**2) == pytest.approx(curvature)
    assert float(stand_in.residual(x).abs().max()) < 1e-9
    emission = Poisson(A, 100 * A(x) + 2, counts_per_unit=100.0, background=2.0)
    stand_in = linear_gaussian(emission)
    assert float(dot(stand_in.A(v), stand_in.A(v))) == pytest.approx(float((100**2 * A(v) ** 2 / emission.y).sum()))
    assert float(stand_in.residual(x).abs().max()) < 1e-9
    rician = Rician(RealAsComplex() @ A, A(x), 0.1)
    assert torch.allclose(measured_part(linear_gaussian(rician), v), measured_part(Gaussian(A, A(x), 0.1), v))
    with pytest.raises(TypeError, match="no linear model"):
        linear_gaussian(object())


# The self-test


def facts_of(data, x, **more):
    made = of(data, x, **more)
    return self_test_facts([made.test], len(x))


def test_exact_posterior_samples_agree_with_the_noise():
    """The residual of a sample has the law of the noise; the spread is that of the posterior, below the noise."""
    data, mask = columns_problem((45, 40), noise_std=0.2, prior_std=0.3)
    x = white_posterior(data, torch.zeros(1, 2, 45, 40, dtype=DOUBLE), 0.3, 16)
    facts = facts_of(data, x)
    n = 2 * 45 * int(mask.sum())
    assert facts["residual_over_noise"] == pytest.approx(1.0, abs=4 / (2 * n) ** 0.5)
    kept = 1 / (1 + 0.2**2 / PRIOR_VARIANCE)
    expected = (0.3**2 / (0.3**2 + 0.2**2) / kept) ** 0.5
    assert facts["spread_over_noise"] == pytest.approx(expected, rel=4 / (2 * 15 * n) ** 0.5 + 0.01)
    assert facts["agrees"] and facts["text"].startswith("samples agree with the noise")


@pytest.mark.parametrize(
    ("factor", "words"),
    [(2.0, "samples scatter 2.1 times as much as the noise allows"), (0.02, "samples do not scatter within the noise")],
)
def test_samples_with_a_wrong_spread_do_not_agree_with_the_noise(factor, words):
    data, _ = columns_problem((45, 40), noise_std=0.1, prior_std=0.4)
    x = white_posterior(data, torch.zeros(1, 2, 45, 40, dtype=DOUBLE), 0.4, 8)
    assert facts_of(data, x)["agrees"]
    wrong = facts_of(data, x.mean(0) + factor * (x - x.mean(0)))
    assert not wrong["agrees"] and wrong["text"].startswith(words)


def test_samples_that_do_not_explain_the_data_or_repeat_one_another_do_not_agree_with_the_noise():
    data, _ = columns_problem((45, 40), noise_std=0.1, prior_std=0.4)
    x = white_posterior(data, torch.zeros(1, 2, 45, 40, dtype=DOUBLE), 0.4, 4)
    biased = facts_of(data, x + 0.2)
    assert not biased["agrees"] and "they do not follow the data" in biased["text"]
    same = facts_of(data, x[:1].expand_as(x))
    assert same["residual_over_noise"] == pytest.approx(1.0, abs=0.05)  # one sample alone is right
    assert not same["agrees"] and same["spread_over_noise"] == 0
    projected = facts_of(data, x + data.A.pinv(data.y - data.A(x)))  # every sample reproduces the noise
    assert not projected["agrees"] and projected["residual_over_noise"] < 1e-6


# Flags: two components, with and without a textured patch


def auc(score, positive):
    """Probability that a positive pixel has the larger score."""
    return float((score[positive][:, None] > score[~positive][None]).double().mean())


def test_texture_in_lines_that_were_not_sampled_is_flagged():
    prior, data, patch, share = two_components(measured=False)
    assert share < 0.1  # at least 90 % of the energy of the patch was not measured
    x, weights = exact_samples(prior, data, 8)
    assert 0.1 < float(weights[1]) < 0.9  # the samples disagree
    made = of(data, x)
    assert auc(made.spread[0] / made.noise, patch) >= 0.8
    assert made.flags[0][patch].double().mean() > 0.3 and not made.flags[0][:, :8].any()
    assert facts_of(data, x)["agrees"]


def test_texture_in_sampled_lines_is_not_flagged():
    prior, data, _, share = two_components(measured=True)
    assert share > 0.9
    x, weights = exact_samples(prior, data, 8)
    assert float(weights[1]) > 0.999  # the samples agree
    made = of(data, x)
    assert not made.flags.any()
    assert (AsComplex()(x)[:, 0].real - prior.means[1, 0]).abs().max() < 0.2  # and show the patch


def test_structure_that_all_samples_share_raises_the_null_energy_and_is_not_flagged():
    prior, data, _, share = two_components(measured=False)
    n = 8
    with_patch, without = (
        of(data, white_posterior(data, mean[None], prior.std, n)) for mean in (prior.means[1], prior.means[0])
    )
    assert not with_patch.flags.any() and not without.flags.any()
    difference = (prior.means[1] - prior.means[0]).square().sum()
    gained = with_patch.null_energy - without.null_energy
    assert gained == pytest.approx(float(difference) * (1 - share), rel=0.1)
    assert with_patch.null_energy / with_patch.energy > 10 * without.null_energy / without.energy


@pytest.mark.parametrize("solver", ["tds", "fps"])
def test_particles_flag_texture_where_it_was_not_sampled_and_nowhere_else(solver):
    """With weights of its own: TDS keeps about 12 of 16 effective particles at the end, FPS all."""
    for measured in (False, True):
        prior, data, patch, _ = two_components(measured)
        drawn = draw_particles(SOLVERS[solver](), prior, data, karras(3.0, 0.01, 60), seed=0, n_particles=16)
        weights = drawn.log_weights[0].exp()
        made = of(data, drawn.x, weights)
        if measured:
            assert not made.flags.any()
        else:
            assert auc(made.spread[0], patch) >= 0.8 and made.flags[0][patch].double().mean() > 0.3
        assert self_test_facts([made.test], float(1 / weights.square().sum()))["agrees"]


def test_without_noise_a_thousandth_of_the_image_is_the_unit_of_the_flags():
    data, _ = columns_problem()
    data, x = replace(data, noise_std=0.0), normal(6, 2, 21, 18)
    assert of(data, 1 + 0.05 * x, scale=5.0).flags.all()
    assert not of(data, 1 + 1e-4 * x, scale=5.0).flags.any()


# Runs


def test_a_run_of_several_samples_has_maps_of_them():
    scan, _, _ = toys.cartesian(mask=toys.columns(), slices=2, noise=0.02)
    made = toys.solve(scan, "dds", samples=4, steps=5)
    maps = made.uncertainty
    assert set(maps.maps()) == set(map_names(False))
    for values in maps.maps().values():
        assert values.shape == made.image.shape
    assert maps.flags.dtype == np.uint8 and maps.spread.dtype == np.float32
    assert np.allclose(maps.spread, made.samples.std(0, ddof=1), atol=1e-5)
    assert np.allclose(maps.p05, made.samples.min(0)) and np.allclose(maps.p95, made.samples.max(0))
    facts = made.record["uncertainty"]
    assert facts["interval_coverage"] == 0.6 and len(facts["noise_in_image"]) == 2
    assert 0 < facts["null_energy"] < 1 and facts["flagged_fraction"] == pytest.approx(maps.flags.mean())


def test_a_run_of_one_sample_has_none():
    scan, _, _ = toys.cartesian(mask=toys.columns(), slices=1, noise=0.02)
    made = toys.solve(scan, "dds", steps=3)
    assert made.uncertainty is None and "uncertainty" not in made.record


def test_frames_have_the_axes_of_the_image():
    mask = np.broadcast_to(toys.columns(), (2, *toys.SHAPE)).copy()
    mask[1] = True  # the second frame is fully sampled
    scan = toys.frames(toys.cartesian(slices=3, noise=0.02)[0], mask)
    made = toys.solve(replace(scan, kspace=scan.kspace * mask[:, None, None]), "dds", samples=3, steps=4)
    maps = made.uncertainty
    assert made.image.shape == maps.null_spread.shape == maps.spread.shape == (2, 3, *toys.SHAPE)
    assert np.allclose(maps.spread, made.samples.std(0, ddof=1), atol=1e-5)
    assert maps.null_spread[1].mean() < 0.3 * maps.null_spread[0].mean()


@pytest.mark.parametrize("solver", ["tds", "fps"])
def test_weights_of_particles_reach_the_maps(solver, monkeypatch):
    seen = []
    for name, at in (("null_space", 4), ("pixel_statistics", 1)):
        original = getattr(posterior, name)
        monkeypatch.setattr(posterior, name, lambda *a, f=original, i=at: (seen.append(a[i].flatten()), f(*a))[1])
    scan, _, _ = toys.cartesian((8, 7), coils=1, slices=1, noise=0.3)
    made = toys.solve(scan, solver, samples=2, particles=6, steps=6)
    particles = made.record["particles"]
    weights = np.exp(particles["log_weights"][0])
    n = 1 / (weights**2).sum()
    assert made.record["uncertainty"]["interval_coverage"] == pytest.approx(min(0.9, (n - 1) / (n + 1)), abs=1e-3)
    assert made.uncertainty.spread.max() > 0
    assert len(seen) == 2 and all(np.allclose(one, weights, atol=1e-4) for one in seen)


def test_slices_without_signal_have_empty_maps():
    scan, _, maps = toys.cartesian(mask=toys.columns(), slices=2, noise=0.02)
    kspace = scan.kspace.copy()
    kspace[0] = 0
    made = toys.solve(replace(scan, kspace=kspace), "dds", physics={"maps": maps}, samples=2, steps=3)
    assert not any(values[0].any() for values in made.uncertainty.maps().values())
    alone = toys.solve(
        replace(scan, kspace=kspace), "dds", physics={"slices": slice(1, 2), "maps": maps}, samples=2, steps=3
    )
    assert made.uncertainty.spread[1].any()
    assert made.record["uncertainty"]["self_test"] == alone.record["uncertainty"]["self_test"]


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_very_large_or_small_units_change_the_unit_only(unit):
    scan, _, _ = toys.cartesian(mask=toys.columns(), slices=1, noise=0.02)
    plain = toys.solve(scan, "dds", samples=3, steps=4).uncertainty
    made = toys.solve(replace(scan, kspace=scan.kspace * np.float32(unit)), "dds", samples=3, steps=4).uncertainty
    for name, values in made.maps().items():
        expected = plain.maps()[name] * (1 if name == "flags" else unit)
        assert np.allclose(values, expected, rtol=1e-3, atol=1e-3 * expected.max()), name


KINDS = {
    "two sets of maps": ("dds", "complex", {"map_sets": "2"}),
    "coil images": ("dds", "complex", {"coil_images": "ssos"}),
    "hybrid": ("scoremri", "complex", {"coil_images": "hybrid"}),
    "non-Cartesian": ("dds", "complex", {}),
    "fan beam": ("dds", "attenuation", {"image_size": 32}),
    "counts": ("dps", "attenuation", {"image_size": 32, "photons": 1e4, "noise_model": "poisson"}),
    "region": ("dds", "magnitude", {"task": "denoise", "region": (4, 20, 4, 20)}),
    "super-resolution": ("dds", "magnitude", {"task": "superres", "factor": 2}),
    "Rician": ("dps", "magnitude", {"task": "denoise", "noise_model": "rician", "noise_std": 20.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_scan_has_maps_in_its_unit(kind):
    """The noise in the image is that of the scan: of the order of the noise of the data, whose operators have a norm near 1."""
    solver, images, physics = KINDS[kind]
    scan, _, _ = toys.cartesian(mask=toys.columns(), slices=2, noise=0.02)
    if kind == "non-Cartesian":
        scan = toys.noncartesian(scan)
    elif images == "attenuation":
        scan = toys.sinogram("fan" if kind == "fan beam" else "parallel")
    elif images == "magnitude":
        scan = toys.images(toys.picture(noise=20.0))
    made = toys.solve(scan, solver, toys.spec(images), physics, samples=3, steps=4)
    for name, values in made.uncertainty.maps().items():
        assert (
            values.shape == made.image.shape and np.isfinite(values).all() and (name[0] == "p" or (values >= 0).all())
        )
    size = {"complex": (0.02, 0.2), "attenuation": (1.0, 50.0), "magnitude": (15.0, 60.0)}[images]
    assert all(size[0] < noise < size[1] for noise in made.record["uncertainty"]["noise_in_image"])
    if kind == "region":  # outside, the input is shown
        assert not made.uncertainty.null_spread[0, 20:].any() and made.uncertainty.null_spread[0, 4:20, 4:20].all()
    assert (made.record["uncertainty"]["self_test"] is None) == (kind == "Rician")


def test_only_calibrated_runs_may_say_standard_deviation():
    """The names are known before the run, and are those of the run."""
    scan, _, _ = toys.cartesian(mask=toys.columns(), slices=1, noise=0.05)
    prior, posed = toys.spec(), problem(scan, physics_of(scan))

    def planned(**more):
        return Plan(posed, prior, sampling(SamplingSettings(samples=2, **more), prior))

    rough, fine = planned(solver="tmpd", steps=3), planned(solver="tmpd", steps=130, settings={"n_cg": 20})
    assert "spread" in rough.maps and "std" in fine.maps and planned(solver="dds").maps == rough.maps
    assert not calibrated(posed, rough.sampling, rough.sampling.sigmas)
    assert calibrated(posed, fine.sampling, fine.sampling.sigmas)
    made = rough.run()
    assert tuple(made.uncertainty.maps()) == rough.maps and not made.record["solver"]["calibrated"]
    warm = replace(fine.sampling, start=Start(solver=CGSense(), sigma=0.5))  # no longer samples of the posterior
    assert not calibrated(posed, warm, warm.sigmas)
