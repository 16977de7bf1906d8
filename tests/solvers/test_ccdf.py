"""Warm starts (CCDF): forward error, contraction, and what a better start saves."""

from dataclasses import replace

import pytest
import torch

from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise, karras
from medrecon.priors import GaussianPrior
from medrecon.sample import StartImage, draw, sample
from medrecon.solvers import DDIM, DiffPIR, PredictorCorrector
from medrecon.solvers.ccdf import contraction, forward_error, noised

from ..make.posteriors import SHAPE, Dense, SharedNoise, dense, gaussian_prior, white

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
