"""Warm starts (CCDF): forward error, contraction, and what a better start saves."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise, karras, truncate_ladder
from medrecon.priors import GaussianPrior
from medrecon.sample import StartImage, draw, sample
from medrecon.solvers import DDIM, DiffPIR, PredictorCorrector
from medrecon.solvers.base import project_on_data, renoise
from medrecon.solvers.ccdf import (
    contraction,
    contraction_bound,
    forward_error,
    noised,
    start_level,
    uniform_bound,
)
from medrecon.solvers.pc import predictor
from medrecon.solvers.theory import sliced_wasserstein

from ..make.posteriors import SHAPE, Dense, SharedNoise, dense, gaussian_prior, repeated, white

DOUBLE = torch.float64


def test_forward_error_of_two_starts():
    a, b = torch.zeros(4000, 2, 3, dtype=DOUBLE), torch.full((4000, 2, 3), 0.3, dtype=DOUBLE)
    found = (noised(a, 0.7, SharedNoise(0)) - noised(b, 0.7, SharedNoise(1))).square().sum((1, 2)).mean()
    assert abs(float(found) / forward_error(6 * 0.09, 0.7, 6) - 1) < 0.03  # 4000 draws in 6 dimensions: 0.9 %


def test_contraction_is_what_is_left_of_a_start():
    """With a prior that is one image, the distance of two starts shrinks by the factors of the steps alone."""
    prior = GaussianPrior(gaussian_prior().mean, 1e-12 * torch.eye(6, dtype=DOUBLE))
    sigmas = karras(0.8, 0.05, 30)
    data = NoData(torch.empty(0, dtype=DOUBLE), (1, *SHAPE))
    for kind, solver in {"ddim": DDIM(), "ddpm": DDIM(eta=1.0), "smld": PredictorCorrector(n_corrector=0)}.items():
        one, two = (
            sample(solver, prior, data, sigmas[:-1], noise=Noise(0), start=torch.full((1, *SHAPE), s, dtype=DOUBLE))
            for s in (0.0, 1.0)
        )
        left = float((two - one).norm()) / 6**0.5
        # The paper's factors of SMLD take away the lowest level's variance from both, which ours does not.
        expected = contraction(sigmas, kind if kind != "smld" else "ddpm")
        assert abs(left / expected - 1) < 0.01
    assert 0 < contraction(sigmas, "smld") < contraction(sigmas, "ddpm") < contraction(sigmas, "ddim")
    with pytest.raises(ValueError, match="kind must be"):
        contraction(sigmas, "heun")


def test_a_better_start_gives_a_better_image_sooner():
    """From the pseudo-inverse at a low level, a third of the steps gives what pure noise needs all steps for."""
    prior, A = white(0.4, mean=3.0), Dense(dense())
    truth = prior.mean + 0.4 * torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    data = Gaussian(
        A, A(truth) + 0.05 * torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE), 0.05
    )
    exact = torch.stack([prior.posterior(A.matrix, y, data.noise_std)[0] for y in data.y]).view(-1, *SHAPE)
    solver = DiffPIR(fresh_noise_fraction=1.0)
    whole = sample(solver, prior, data, karras(20.0, 0.01, 30), noise=Noise(range(64)))
    start = prior.mean + data.A.pinv(data.residual(prior.mean.expand(64, -1, -1)))
    short = karras(0.3, 0.01, 10)
    sooner = sample(solver, prior, data, short, noise=Noise(range(64)), start=noised(start, 0.3, Noise(range(64))))
    noise_only = sample(solver, prior, data, short, noise=Noise(range(64)))
    errors = [float((x - exact).square().mean()) for x in (whole, sooner, noise_only)]
    assert errors[1] < 1.3 * errors[0]
    assert errors[1] < 0.5 * errors[2]
    one = replace(data, y=data.y[:1])
    drawn_ = draw(solver, prior, one, short, seeds=[3, 4], start=StartImage(start[:1]))
    alone = draw(solver, prior, one, short, seeds=[4], start=StartImage(start[:1]))
    assert torch.allclose(drawn_[1:], alone)
    assert not torch.allclose(drawn_[0], drawn_[1])


N = 8000
FREE = 3
"""Directions that three measurements of six values leave free."""


def two_runs(prior, kind, sigmas, error):
    """Squared distance of two runs with projection on the data, which start ``error`` apart in the free directions."""
    data = Gaussian(Dense(dense()), torch.zeros(N, 3, dtype=DOUBLE), 0.0)
    # The third free direction of A, in which the prior's spread is at most its largest.
    free = torch.linalg.svd(dense(), full_matrices=True)[2][-1].view(SHAPE)
    ends = []
    for seed, shift in ((0, 0.0), (1, error**0.5)):
        noise = SharedNoise(seed)
        x = prior.mean + shift * free.expand(N, *SHAPE)
        x = project_on_data(x, data, 0.0, 1.0, 10, noise)
        for sigma, after in itertools.pairwise(sigmas.tolist()):
            if kind == "smld":
                x = predictor(x, sigma, after, prior=prior, noise=noise)
            else:
                x0 = prior(x, sigma)
                x = renoise(x0, (x - x0) / sigma, sigma, after, 0.0 if kind == "ddim" else 1.0, noise)
            x = project_on_data(x, data, 0.0, 1.0, 10, noise)
        ends.append(x)
    return float((ends[1] - ends[0]).flatten(1).square().sum(1).mean())


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "smld"])
@pytest.mark.parametrize("std", [0.0, 0.3, 1.0])
def test_the_contraction_bound_is_attained_by_white_images(kind, std):
    """Within 4 %: 8000 draws in three dimensions leave 1 %. A factor, or a noise, 10 % smaller would be no bound."""
    prior = white(max(std, 1e-6))
    for sigmas, error in (
        (karras(2.0, 0.1, 12)[:-1], 4.0),
        (karras(1.0, 0.3, 3)[:-1], 0.5),
        (karras(2.0, 0.1, 6), 4.0),
    ):
        found = two_runs(prior, kind, sigmas, error)
        bound = contraction_bound(error, sigmas, FREE, kind, image_std=std)
        assert abs(found - bound) < 0.04 * bound + 1e-9
        if sigmas[-1] > 0:
            assert bound <= uniform_bound(error, sigmas, FREE, kind, image_std=std) * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "smld"])
def test_the_contraction_bound_holds_for_any_gaussian_and_the_published_factor_does_not(kind):
    """Standard deviations of 0.2 to 0.6: the largest counts. With the denoised image taken for a constant, the bound fails."""
    sigmas, error = karras(2.0, 0.05, 20)[:-1], 4.0
    found = two_runs(gaussian_prior(), kind, sigmas, error)
    bound = contraction_bound(error, sigmas, FREE, kind, image_std=0.6)
    assert 0.2 * bound < found < bound
    assert bound < uniform_bound(error, sigmas, FREE, kind, image_std=0.6)
    assert found > 1.5 * contraction_bound(error, sigmas, FREE, kind)


def test_the_two_bounds_of_one_step_and_without_noise():
    one = torch.tensor([1.0, 0.4], dtype=DOUBLE)
    for kind, factor, fresh in (("ddim", 0.4, 0.0), ("ddpm", 0.16, 0.16 * 0.84), ("smld", 0.16, 0.84)):
        assert contraction_bound(2.0, one, 5, kind) == pytest.approx(2 * factor**2 + 10 * fresh)
        assert uniform_bound(2.0, one, 5, kind) == pytest.approx(2 * factor**2 + 10 * fresh / (1 - factor**2))
    geometric = torch.logspace(0, -2, 9, dtype=DOUBLE)
    assert contraction_bound(3.0, geometric, 5) == pytest.approx(3.0 * contraction(geometric) ** 2)
    assert uniform_bound(3.0, geometric, 5) == pytest.approx(3.0 * contraction(geometric) ** 2)
    # Images so spread that a step shrinks nothing.
    assert uniform_bound(2.0, one, 5, "ddpm", image_std=1e9) == math.inf
    assert uniform_bound(2.0, one, 5, "ddim", image_std=1e9) == pytest.approx(2.0)
    for bad in ([1.0, 1.0], [0.5, 1.0], [1.0, 0.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="must fall"):
            contraction_bound(1.0, torch.tensor(bad), 5)
    with pytest.raises(ValueError, match="kind must be"):
        uniform_bound(1.0, one, 5, "heun")


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_a_better_estimate_needs_a_lower_start_but_not_for_a_fraction_of_its_error(kind):
    sigmas, errors = karras(20.0, 0.01, 60)[:-1], (0.03, 0.1, 0.3, 1.0, 3.0)
    fixed = [start_level(e, sigmas, 6, 0.003, kind) for e in errors]
    assert all(a < b for a, b in itertools.pairwise(fixed))
    fraction = [start_level(e, sigmas, 6, 0.2 * e, kind) for e in errors]
    assert all(a >= b for a, b in itertools.pairwise(fraction))
    assert fraction[0] > fraction[-1]
    # The lowest: one level lower misses the target.
    level = fixed[2]
    lower = float(sigmas[sigmas < level].max())

    def left(sigma):
        return contraction_bound(forward_error(0.3, sigma, 6), truncate_ladder(sigmas, sigma), 6, kind)

    assert left(level) <= 0.003 < left(lower)
    assert start_level(1.0, sigmas, 6, 1e-9, kind) is None
    assert start_level(1e-6, sigmas, 6, 1.0, kind) == pytest.approx(0.01)
    # Fewer free values have less noise.
    assert start_level(1.0, sigmas, 6, 0.001, "smld") is None
    assert start_level(1.0, sigmas, 6, 0.001, "smld", trace=0.1) is not None


def test_the_best_start_falls_with_the_error_of_the_estimate():
    """By brute force: eight steps from every level of a grid, the distance to exact draws, on the law that the data leave.

    A low start keeps the error of the estimate, a high one spends its few steps on noise.
    """
    prior, _, mean, covariance = repeated(1, noise_std=0.3)
    law = GaussianPrior(mean.view(SHAPE), covariance)
    root = torch.linalg.cholesky(covariance)
    draws = mean + torch.randn(4000, 6, generator=torch.Generator().manual_seed(9), dtype=DOUBLE) @ root.T
    levels = torch.logspace(-1.3, 1.0, 14, dtype=DOUBLE).tolist()
    data = NoData(torch.empty(0, dtype=DOUBLE), (4000, *SHAPE))
    direction = (prior.mean.flatten() - mean) / (prior.mean.flatten() - mean).norm()
    best = []
    for error in (0.4, 1.6, 6.4):
        start = (mean + error * direction).view(1, *SHAPE).expand(4000, *SHAPE)
        found = []
        for level in levels:
            x = noised(start, level, SharedNoise(0))
            x = sample(DDIM(eta=1.0), law, data, karras(level, 0.01, 8), noise=SharedNoise(1), start=x)
            found.append(sliced_wasserstein(x, draws.view(-1, *SHAPE), 50))
        best.append(levels[found.index(min(found))])
    assert all(a < b for a, b in itertools.pairwise(best)), best
    # Pure noise from the top of the grid is worse than the best start of a good estimate.
    assert best[-1] < levels[-1]
