"""DDRM: noise of every spectral coefficient."""

import torch

from medrecon.likelihood import Gaussian
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.solvers import DDRM

from ..make.posteriors import SHAPE, SharedNoise, dense

DOUBLE = torch.float64


def test_ddrm_keeps_the_books_of_the_noise():
    """With a prior that returns the true image, every spectral coefficient of x' is the truth plus noise of exactly sigma'."""
    matrix = dense()
    truth = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    n, noise_std, A = 20_000, 0.3, SpectralDense(matrix, SHAPE)
    y = A(truth) + noise_std * torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    data = Gaussian(A, y, noise_std)
    state = truth + 2.0 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    for after in (1.0, 0.45, 0.2):  # above all of noise_std / s, between them, below
        x = DDRM(eta=0.85).step(
            state, 2.0, after, prior=lambda x, s: truth.expand_as(x), data=data, noise=SharedNoise(0)
        )
        spread = A.vh(x - truth).std(0)
        assert torch.allclose(spread, torch.full_like(spread, after), rtol=0.02)


def test_ddrm_takes_a_share_of_the_data():
    """eta_b < 1: the mean lies between estimate and data; the variance, noise of the data included, is sigma'^2 for any eta_b."""
    matrix, noise_std, after = dense(), 0.1, 0.5
    truth = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    n, A = 20_000, SpectralDense(matrix, SHAPE)
    y = A(truth) + noise_std * torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    estimate = truth + 1.0
    x = DDRM(eta_b=0.4).step(truth.expand(n, -1, -1), 2.0, after, prior=lambda x, s: estimate.expand_as(x),
                             data=Gaussian(A, y, noise_std), noise=SharedNoise(0))  # fmt: skip
    seen = (A.singular > 0).flatten()
    off = A.vh(x - truth)[:, seen]
    assert torch.allclose(off.mean(0), 0.6 * A.vh(estimate - truth)[0, seen], atol=0.02)
    assert torch.allclose(off.std(0), torch.full((3,), after, dtype=DOUBLE), rtol=0.02)
