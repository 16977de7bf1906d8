"""Priors of noise levels up to a largest one, for all levels."""

import torch

from medrecon.priors import GaussianPrior, dimmed

DOUBLE = torch.float64


def test_levels_in_range_are_unchanged():
    """Bit for bit, for a number and for one level per item."""
    prior = GaussianPrior(torch.rand(1, 5, dtype=DOUBLE), torch.eye(5, dtype=DOUBLE))
    x = torch.randn(2, 1, 5, dtype=DOUBLE)
    for sigma in (0.2, torch.tensor([0.1, 0.25], dtype=DOUBLE)):
        assert torch.equal(dimmed(prior, 0.25)(x, sigma), prior(x, sigma))


def test_images_with_more_noise_are_divided_and_multiplied():
    """Per item, ``c D(x / c, most)``; the network never sees a higher level than its largest."""
    seen = []

    def prior(x, sigma):
        seen.append(sigma)
        return x**2 + sigma.view(-1, 1, 1)

    x = torch.randn(2, 1, 5, dtype=DOUBLE)
    found = dimmed(prior, 0.25)(x, torch.tensor([0.1, 1.0], dtype=DOUBLE))
    assert torch.allclose(found[0], x[0] ** 2 + 0.1)
    assert torch.allclose(found[1], 4 * ((x[1] / 4) ** 2 + 0.25))
    assert seen[0].tolist() == [0.1, 0.25]


def test_exact_for_images_without_a_scale():
    """A Gaussian without a mean and with far more variance than the noise is the same for every factor: it returns its input."""
    prior = GaussianPrior(torch.zeros(1, 5, dtype=DOUBLE), 1e9 * torch.eye(5, dtype=DOUBLE))
    x = torch.randn(1, 1, 5, dtype=DOUBLE)
    assert torch.allclose(dimmed(prior, 0.1)(x, 0.5), prior(x, 0.5), rtol=1e-6)
