"""Predictor and corrector: their equations and the law they keep."""

import torch

from medrecon.noise import Noise, karras
from medrecon.sample import generate
from medrecon.solvers import PredictorCorrector
from medrecon.solvers.pc import corrector, predictor

from ..make.posteriors import SHAPE, gaussian_prior, white

DOUBLE = torch.float64


def test_corrections_keep_the_law_in_many_dimensions():
    """Langevin moves of a given signal-to-noise ratio, at the norms of images."""
    prior = white(0.4, (2, 20, 20))
    x = generate(prior, (2, 20, 20), karras(20.0, 0.02, 150), seeds=range(8), solver=PredictorCorrector(), dtype=DOUBLE)
    assert abs(float(x.var() / 0.4**2) - 1) < 0.08
    plain = generate(prior, (2, 20, 20), karras(20.0, 0.02, 150), seeds=range(8), solver=PredictorCorrector(n_corrector=0),
                     dtype=DOUBLE)  # fmt: skip
    assert not torch.allclose(x, plain)


def test_predictor_and_corrector_are_their_equations():
    """The step size of the corrector, and the variance-preserving step in its variable x / sqrt(1 + sigma^2)."""
    prior = gaussian_prior()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    sigma, after = 0.9, 0.6
    z = Noise([1, 2, 3]).like(x)
    slope = (prior(x, sigma) - x) / sigma**2
    e = 2 * (0.2 * z.flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1))[:, None, None] ** 2
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=0.2)
    assert (e < sigma**2).all()
    assert torch.allclose(found, x + e * slope + (2 * e).sqrt() * z)
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=0.2, keep_level=True)
    assert torch.allclose(found, x + e * slope + (2 * e - e**2 / sigma**2).sqrt() * z)
    # As far as a move may go: the clean estimate with new noise.
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=50.0, keep_level=True)
    assert torch.allclose(found, prior(x, sigma) + sigma * z)
    # Images that are one point: whatever the size of a move, the noise that is left is that of the level.
    still = 0.3 + sigma * Noise(range(8)).like(torch.zeros(8, 1, 10_000, dtype=DOUBLE))
    for snr in (0.16, 0.4, 0.7):
        point, noise = lambda x, s: torch.full_like(x, 0.3), Noise(range(20, 28))
        found = corrector(still, sigma, prior=point, noise=noise, snr=snr, keep_level=True)
        assert abs(float((found - 0.3).std()) / sigma - 1) < 0.01  # 80 000 numbers: standard error 0.25 %
    s, s_after = (1 + sigma**2) ** -0.5, (1 + after**2) ** -0.5
    beta = 1 - (s / s_after) ** 2
    expected = (2 - (1 - beta) ** 0.5) * (s * x) + beta * slope / s + beta**0.5 * z
    found = predictor(x, sigma, after, prior=prior, noise=Noise([1, 2, 3]), process="vp")
    assert torch.allclose(s_after * found, expected)
    found = predictor(x, sigma, after, prior=prior, noise=Noise([1, 2, 3]))
    drop = sigma**2 - after**2
    assert torch.allclose(found, x + drop * slope + drop**0.5 * z)
