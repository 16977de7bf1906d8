"""DMCMC: measured noise, visits of levels, the equation of a move."""

import pytest
import torch

from medrecon.data.noise import noise_of_images
from medrecon.likelihood import NoData
from medrecon.noise import Noise, karras, truncate_ladder
from medrecon.priors import Counted, MixturePrior
from medrecon.sample import sample
from medrecon.solvers import DDIM, TMPD, DPMSolver
from medrecon.solvers.dmcmc import DMCMC
from medrecon.solvers.theory import sliced_wasserstein

from ..make.posteriors import SHAPE, SharedNoise, distance, gaussian_prior, images_of_prior, repeated

DOUBLE = torch.float64


@pytest.mark.parametrize(
    "shape", [(1, 400), (2, 24, 20), (1, 10, 9, 8), (1, 1, 300)], ids=["1-D", "2-D", "3-D", "one row"]
)
def test_the_noise_that_dmcmc_measures_and_its_default_in_any_dimension(shape):
    """White noise on a ramp: its standard deviation is measured within 15 % (300 to 1000 pixels leave 5 %); the chain runs."""
    ramp = torch.linspace(1.0, 2.0, shape[-1], dtype=DOUBLE).expand(4, *shape)
    noisy = ramp + 0.2 * torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert torch.allclose(noise_of_images(noisy), torch.full((4,), 0.2, dtype=DOUBLE), rtol=0.15)
    chain = DMCMC(skip=1, burn_in=0).chain(lambda x, s: ramp, noisy, 0.2, noise=Noise(range(4)))
    x, levels = next(chain)
    assert x.isfinite().all()
    assert ((levels > 0.1) & (levels < 0.4)).all()


def test_dmcmc_visits_every_level_as_often_as_it_should():
    """With exact draws of the level given the image, the histogram of levels is uniform."""
    prior = gaussian_prior()
    grid = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)

    def level(x):
        c = (x - prior.mean).flatten(1) @ prior.modes
        total = prior.variances + grid[:, None] ** 2
        log_p = -0.5 * (c[:, None, :] ** 2 / total + total.log()).sum(-1)
        return grid[torch.multinomial(log_p.softmax(1), 1, generator=generator)[:, 0]]

    start = prior.mean + 0.4 * torch.randn(500, *SHAPE, generator=generator, dtype=DOUBLE)
    chain = DMCMC(estimate_sigma=level, step_size=0.2, skip=10, burn_in=60).chain(
        prior, start, 0.4, noise=SharedNoise(0)
    )
    seen = torch.stack([next(chain)[1] for _ in range(60)])
    shares = torch.stack([(seen == s).double().mean() for s in grid])
    # Uniform, but for the finite step of the moves and 500 chains.
    assert (shares - 0.25).abs().max() < 0.05


def constant(x):
    return x.new_full((len(x),), 0.3)


def test_dmcmc_and_a_short_run_draw_from_the_posterior():
    prior, data, mean, covariance = repeated(400)
    start = prior.mean + 0.5 * torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    chain = DMCMC(estimate_sigma=constant, step_size=0.1, burn_in=200).chain(
        prior, start, 0.3, noise=SharedNoise(0), data=data
    )
    x, sigma = next(chain)
    assert torch.equal(sigma, torch.full((400,), 0.3, dtype=DOUBLE))
    done = sample(TMPD(), prior, data, truncate_ladder(karras(1.0, 0.01, 40), 0.3), noise=SharedNoise(0), start=x)
    error, _ = distance(done, mean, covariance, prior.mean)
    assert error < 0.2  # TMPD steps down from the chain's law, whose likelihood is a little wider than the data's
    # One move is its equation.
    x = torch.ones(400, *SHAPE, dtype=DOUBLE)
    chain = DMCMC(estimate_sigma=constant, step_size=0.1, skip=1, burn_in=0).chain(
        prior, x, 0.3, noise=SharedNoise(0), data=data
    )
    a = 0.1 * 0.3**2
    slope = (prior(x, 0.3) - x) / 0.3**2
    slope = slope + data.A.adjoint(data.residual(x)) / (data.lipschitz * 0.3**2 + 0.05**2)[:, None, None]
    assert torch.allclose(next(chain)[0], x + a * slope + (2 * a) ** 0.5 * SharedNoise(0).like(x), atol=1e-9)


def test_dmcmc_is_nearer_to_a_mixture_than_plain_sampling_at_four_evaluations():
    """One chain of states, each denoised in two steps, against the better of two plain samplers of four steps.

    ``benchmarks/dmcmc.py`` has more budgets; at 10 evaluations and more a second-order sampler is level with it or better.
    """
    mode = torch.full(SHAPE, 6**-0.5, dtype=DOUBLE)
    prior, n = MixturePrior(torch.tensor([0.3, 0.7], dtype=DOUBLE), torch.stack([mode, -mode]), 0.2), 4000
    which = (torch.arange(n) >= 0.3 * n).long()
    exact = prior.means[which] + 0.2 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)
    counted, noise = Counted(prior), SharedNoise(0)
    grid = torch.logspace(-1.7, 0, 20, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)

    def level(x):
        log_p = prior.log_prob(x.repeat_interleave(20, 0), grid.repeat(len(x))).view(len(x), 20)
        return grid[torch.multinomial(log_p.softmax(1), 1, generator=generator)[:, 0]]

    start = images_of_prior(counted, SHAPE, karras(20.0, 0.01, 20), 20, DDIM(eta=1.0))
    chain = DMCMC(estimate_sigma=level, skip=1).chain(counted, start + 0.5 * noise.like(start), 0.5, noise=noise)
    states = [next(chain) for _ in range(n // 20)]
    x, sigma = torch.cat([s[0] for s in states]), torch.cat([s[1] for s in states])
    images = torch.empty_like(x)
    for value in sigma.unique().tolist():
        chosen = sigma == value
        nothing = NoData(torch.empty(0, dtype=DOUBLE), (int(chosen.sum()), *SHAPE))
        ladder = truncate_ladder(karras(1.0, 0.01, 2), value)
        images[chosen] = sample(DDIM(eta=1.0), counted, nothing, ladder, noise=noise, start=x[chosen])
    assert counted.calls <= 4 * n
    plain = [
        sliced_wasserstein(images_of_prior(prior, SHAPE, solver.ladder(20.0, 0.01, 4), n, solver), exact)
        for solver in (DDIM(), DPMSolver())
    ]
    assert sliced_wasserstein(images, exact) < 0.9 * min(plain)
