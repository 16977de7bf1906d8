"""The mixture prior: density, weights and evidence, against draws and sums. Its denoiser: ``solvers/test_mixture.py``."""

import pytest
import torch

from medrecon.priors import MixturePrior

DOUBLE = torch.float64


def mixture():
    means = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return MixturePrior(torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE), means, 0.4)


def test_density_and_evidence_in_closed_form():
    """Against torch's mixture; the evidence is the mean of the likelihood over draws (200 000: 0.5 %)."""
    prior = mixture()
    x = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    levels = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=DOUBLE)
    for i, sigma in enumerate(levels):
        one = torch.distributions.Independent(
            torch.distributions.Normal(prior.means.flatten(1), (prior.std**2 + sigma**2).sqrt()), 1
        )
        law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(prior.weights), one)
        assert torch.allclose(prior.log_prob(x, levels)[i], law.log_prob(x[i].flatten()), atol=1e-12)
        assert torch.allclose(prior.log_prob(x, float(sigma))[i], law.log_prob(x[i].flatten()), atol=1e-12)
    matrix = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    y = torch.tensor([0.5, -0.2], dtype=DOUBLE)
    which = torch.multinomial(prior.weights, 200_000, replacement=True, generator=torch.Generator().manual_seed(3))
    draws = prior.means.flatten(1)[which]
    draws = draws + 0.4 * torch.randn(draws.shape, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    likelihood = torch.distributions.Normal(draws @ matrix.T, 0.5).log_prob(y).sum(1).exp()
    evidence = prior.log_evidence(matrix, y, 0.5)
    for k in range(3):
        # Three standard errors of a mean of 40 000 draws and more.
        assert abs(float(evidence[k].exp() / (likelihood * (which == k)).mean()) - 1) < 0.03
    assert torch.allclose(prior.posterior_weights(matrix, y, 0.5), (evidence - evidence.logsumexp(0)).exp())


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.7], [1.2, -0.2]])
def test_weights_that_are_no_probabilities_are_refused(weights):
    with pytest.raises(ValueError, match="sum 1"):
        MixturePrior(torch.tensor(weights), torch.zeros(2, 1, 3), 0.1)
