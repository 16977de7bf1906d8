"""Expectation maximisation of Gaussian priors: the likelihood rises, the true prior is found, samples agree with formulas."""

from itertools import pairwise

import torch

from medrecon.priors.gaussian import GaussianPrior
from medrecon.training.em import em_from_samples, em_step, log_likelihood

N, NOISE_STD = 4, 0.1


def problem(n, n_measured=2):
    """Images of a prior, each measured along some random directions."""
    torch.manual_seed(0)
    root = torch.randn(N, N, dtype=torch.float64) / 2
    truth = GaussianPrior(torch.randn(1, N, dtype=torch.float64), root @ root.T)
    x = truth.mean + torch.randn(n, N, dtype=torch.float64) @ root.T
    matrices = list(torch.randn(n, n_measured, N, dtype=torch.float64))
    ys = [A @ v + NOISE_STD * torch.randn(n_measured, dtype=torch.float64) for A, v in zip(matrices, x, strict=True)]
    return truth, x, matrices, ys


def start():
    return GaussianPrior(torch.zeros(1, N, dtype=torch.float64), torch.eye(N, dtype=torch.float64))


def test_the_likelihood_never_falls_and_the_prior_is_found():
    """A maximum of the likelihood of 1000 images with half of the values: its error is a few times 1 / sqrt(1000)."""
    truth, _, matrices, ys = problem(1000)
    prior, values = start(), []
    for _ in range(25):
        values.append(log_likelihood(prior, matrices, ys, NOISE_STD))
        prior = em_step(prior, matrices, ys, NOISE_STD)
    # Rounding of a sum of 1000 terms.
    assert all(after > before - 1e-8 * abs(before) for before, after in pairwise(values))
    scale = float(truth.covariance.trace()) / N
    assert (prior.covariance - truth.covariance).abs().max() < 5 * 2 * scale / 1000**0.5 * 2
    assert (prior.mean - truth.mean).abs().max() < 5 * 2 * scale**0.5 / 1000**0.5
    # The mean of the posterior means alone, without their covariances, is a prior that is too narrow.
    means = torch.stack([prior.posterior(A, y, NOISE_STD)[0] for A, y in zip(matrices, ys, strict=True)])
    assert torch.cov(means.T).trace() < 0.8 * truth.covariance.trace()


def test_complete_data_need_one_step():
    """All values measured, almost without noise: mean and covariance of the images."""
    _, x, _, _ = problem(50)
    prior = em_step(start(), [torch.eye(N, dtype=torch.float64)] * 50, list(x), 1e-6)
    # The prior's pull is noise^2 = 1e-12 of the values.
    assert torch.allclose(prior.mean[0], x.mean(0), atol=1e-10)
    assert torch.allclose(prior.covariance, torch.cov(x.T, correction=0), atol=1e-10)


def test_samples_agree_with_the_formula():
    """An M-step from 200 samples of each of 50 posteriors; five standard errors of 10 000."""
    _, _, matrices, ys = problem(50)

    def draw(prior):
        made = []
        for A, y in zip(matrices, ys, strict=True):
            mean, covariance = prior.posterior(A, y, NOISE_STD)
            root = torch.linalg.cholesky(covariance)
            made.append(mean + torch.randn(200, N, dtype=torch.float64) @ root.T)
        return torch.cat(made).view(-1, 1, N)

    exact, sampled = em_step(start(), matrices, ys, NOISE_STD), em_from_samples(start(), draw)
    scale = float(exact.covariance.trace()) / N
    assert (sampled.mean - exact.mean).abs().max() < 5 * scale**0.5 / 100
    assert (sampled.covariance - exact.covariance).abs().max() < 5 * 2 * scale / 100
