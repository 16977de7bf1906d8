"""MCG-diff: data at noise levels of their own; test_smc.py has the laws."""

import math

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators import Weights
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.sample import sample_particles
from medrecon.solvers import FPS, MCGDiff
from medrecon.solvers.mcgdiff import condition, spectral_data

from ..make.chains import bridged_posterior, chain_law, gaussian_posterior
from ..make.posteriors import SHAPE, SharedNoise, dense, gaussian_prior, repeated

DOUBLE = torch.float64


def test_condition_is_bayes_rule():
    """Coefficient by coefficient, also of complex numbers, with gain 0, and without noise."""
    mean = torch.tensor([[1.0 + 2.0j, -1.0, 0.5, 3.0]], dtype=torch.complex128)
    variance = torch.tensor([[0.5, 2.0, 1.0, 0.0]], dtype=DOUBLE)
    gain = torch.tensor([0.7, 0.0, 0.5, 2.0], dtype=DOUBLE)
    observed = torch.tensor([[0.2 - 1.0j, 9.0, 1.0, 4.0]], dtype=torch.complex128)
    for spread in (torch.tensor(0.3, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)):
        centre, var = condition(mean, variance, observed, gain, spread)
        assert centre[0, 1] == mean[0, 1] and var[0, 1] == 2.0  # not measured
        if spread == 0:
            assert torch.allclose(centre[0, [0, 2, 3]], (observed / gain)[0, [0, 2, 3]])
            assert torch.equal(var[0, [0, 2, 3]], torch.zeros(3, dtype=DOUBLE))
            continue
        precision = 1 / variance[0, [0, 2]] + gain[[0, 2]] ** 2 / spread
        assert torch.allclose(var[0, [0, 2]], 1 / precision)
        pulled = mean[0, [0, 2]] / variance[0, [0, 2]] + gain[[0, 2]] * observed[0, [0, 2]] / spread
        assert torch.allclose(centre[0, [0, 2]], pulled / precision)
        assert centre[0, 3] == mean[0, 3] and var[0, 3] == 0  # known before


def test_measured_coefficients_have_the_level_of_the_ladder():
    """Inpainting without noise: at every level the known pixels are y plus noise of that level, and y at the end.

    Of MCG-diff within the spread of psi; of FPS on one path, the same for all particles.
    """
    mask = torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
    y = torch.tensor([[0.3, 0.0, -0.4], [0.1, 0.0, 0.2]], dtype=DOUBLE)
    n = 500
    data = Gaussian(Weights(mask), y.expand(n, 2, 3), 0.0)
    prior = gaussian_prior()
    for solver in (MCGDiff(widening=1.0), FPS()):
        seen = []
        found = sample_particles(
            solver, prior, data, karras(20.0, 0.05, 12), noise=SharedNoise(0, n),
            callback=lambda i, n, sigma, state, seen=seen: seen.append((sigma, state.x)),
        )  # fmt: skip
        assert torch.allclose((found.x * mask), y.expand(n, 2, 3), atol=1e-12)
        for sigma, x in seen[:-1]:
            away = (x - y)[..., [0, 2]]
            if isinstance(solver, FPS):
                assert float(away.std(0).max()) < 1e-9
                assert float(away.square().mean().sqrt()) < 3 * sigma
            else:
                assert float(away.square().mean().sqrt()) < 1.3 * sigma


def test_levels_of_the_data_are_noise_over_singular_value():
    matrix = dense()
    data = Gaussian(
        SpectralDense(matrix, SHAPE), torch.ones(2, 3, dtype=DOUBLE), torch.tensor([0.1, 0.0], dtype=DOUBLE)
    )
    value, level, seen = spectral_data(data)
    assert seen.sum() == 6
    assert torch.allclose(level[0, :3], 0.1 / torch.linalg.svdvals(matrix)) and torch.equal(level[1], torch.zeros(6))
    assert torch.allclose(data.A.v(data.A.singular**0 * value) @ torch.eye(3, dtype=DOUBLE), data.A.pinv(data.y))


def test_data_noisier_than_the_first_level():
    """Singular values of 1 to 0.01 and a ladder from 2: two levels of data are above it. R = 200, P = 64."""
    prior = gaussian_prior()
    u, _, vh = torch.linalg.svd(dense(), full_matrices=False)
    matrix = u @ torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE)) @ vh
    y = matrix @ prior.mean.flatten() + torch.tensor([0.2, -0.3, 0.25], dtype=DOUBLE)
    sigmas = karras(2.0, 0.1, 40)
    data = Gaussian(SpectralDense(matrix, SHAPE), y.expand(200 * 64, -1), 0.25)
    for solver in (MCGDiff(), FPS()):
        found = sample_particles(solver, prior, data, sigmas, noise=SharedNoise(0, 64))
        assert found.log_evidence.isfinite().all()
        # Little is learnt from such data: the chain given the first datum alone is near.
        mean, covariance, _ = bridged_posterior(prior, sigmas, u[:, :1] @ vh[:1], y, 0.25)
        assert float((found.mean.flatten(1).mean(0) - mean).norm()) < 0.3 * float(covariance.trace().sqrt())


def test_evidence_counts_the_singular_values():
    """Doubling operator, data and noise leaves the images and divides the density of the data by 2 per datum."""
    prior, matrix = gaussian_prior(), dense()
    y = matrix @ prior.mean.flatten()
    found = [
        sample_particles(
            solver, prior, Gaussian(SpectralDense(f * matrix, SHAPE), (f * y).expand(16, -1), f * 0.1),
            karras(3.0, 0.05, 10), noise=Noise([0], 16),
        )
        for solver in (MCGDiff(), FPS()) for f in (1.0, 2.0)
    ]  # fmt: skip
    for one, two in (found[:2], found[2:]):
        assert torch.allclose(one.x, two.x, atol=1e-9)
        assert float(one.log_evidence - two.log_evidence) == pytest.approx(3 * math.log(2), rel=1e-9)


def test_bridges_condition_as_the_plain_chain_where_there_is_none():
    """The closed form itself: without data noise to pass, one pixel known exactly, it is the chain's law conditioned."""
    prior = gaussian_prior()
    matrix = torch.eye(6, dtype=DOUBLE)[:1]
    y = torch.tensor([0.4], dtype=DOUBLE)
    sigmas = karras(20.0, 0.01, 100)
    tiny = 1e-5
    found = bridged_posterior(prior, sigmas, matrix, y, tiny)
    law = gaussian_posterior(*chain_law(prior, sigmas), matrix, y, tiny)
    # Both chains pass the level 1e-5 in their last step, from 0.01: there x0 and x at 1e-5 differ by 1e-5.
    assert torch.allclose(found[0], law[0], atol=1e-3) and torch.allclose(found[1], law[1], atol=1e-3)
    assert abs(found[2] - law[2]) < 0.01


@pytest.mark.slow
def test_the_paper_s_twist_has_too_heavy_tails():
    """With k = 1 the error of the mean falls more slowly with the number of particles than with the default, 2: R = 64 and 48."""
    prior, data, _, _ = repeated(1, 0.1)
    sigmas = karras(3.0, 0.05, 20)
    mean, _, _ = bridged_posterior(prior, sigmas, dense(), data.y[0], 0.1)
    falls = []
    for widening in (1.0, 2.0):
        errors = []
        for n, runs in ((256, 64), (4096, 48)):
            many = Gaussian(data.A, data.y.expand(n * runs, -1), 0.1)
            found = sample_particles(MCGDiff(widening=widening), prior, many, sigmas, noise=SharedNoise(0, n))
            errors.append(float((found.mean.flatten(1) - mean).square().sum(1).mean().sqrt()))
        falls.append(errors[0] / errors[1])
    assert falls[0] < 2.5 < 3 < falls[1]  # 4 is one over the root; 16 times as many particles
