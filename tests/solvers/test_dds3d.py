"""DDS-3D: DDS without its weight, slices that inform each other, variables from level to level, slices refused."""

import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.priors import GaussianPrior, slicewise
from medrecon.sample import sample
from medrecon.solvers import DDS, DDS3D
from medrecon.solvers.admm import z_step
from medrecon.solvers.multistep import Multistep

from ..make.posteriors import Dense, dense, gaussian_prior, measured
from ..make.toys import cartesian, solve
from .expectations import LADDER

DOUBLE = torch.float64
SHAPE = (2, 4, 3, 3)


def complementary(noise_std=0.01, n=4):
    """A prior of slices, slices that are all the same image, and every pixel measured in one slice of two."""
    prior = gaussian_prior((2, 3, 3))
    root = prior.modes * prior.variances.clamp(min=0).sqrt()
    generator = torch.Generator().manual_seed(0)
    image = prior.mean + (root @ torch.randn(18, generator=generator, dtype=DOUBLE)).view(2, 3, 3)
    truth = image[None, :, None].expand(1, 2, n, 3, 3)
    even = (torch.arange(9).view(3, 3) % 2).bool()
    seen = torch.stack([even if z % 2 else ~even for z in range(n)]).expand(2, n, 3, 3).flatten()
    A = Dense(torch.eye(18 * n, dtype=DOUBLE)[seen], (2, n, 3, 3))
    y = A(truth)
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=DOUBLE)
    return slicewise(prior), Gaussian(A, y, noise_std), truth


def test_without_its_weight_it_is_dds():
    prior, data, _ = measured(batch=2)
    one = sample(DDS3D(strength=0.0, extrapolation=1.0), prior, data, LADDER, noise=Noise([1, 2]))
    assert torch.equal(one, sample(DDS(extrapolation=1.0), prior, data, LADDER, noise=Noise([1, 2])))


def test_slices_that_see_different_pixels_inform_each_other():
    """Slices of one image: with a large weight all pixels are known from one slice or another, to a few noise levels."""
    prior, data, truth = complementary()
    levels = karras(2.0, 0.01, 30)
    alone = sample(DDS(n_cg=40), prior, data, levels, noise=Noise([1]))
    joint = sample(DDS3D(n_cg=80, strength=1e4), prior, data, levels, noise=Noise([1]))
    assert (alone - truth).abs().max() > 0.3
    assert (joint - truth).abs().max() < 0.03
    assert joint.std(2).max() < 0.01


def test_volume_of_a_gaussian_has_its_exact_optimum():
    """At the last level the step minimises ``|y - A z|^2 / 2 + rho |z - x0|^2 / 2 + lam |D z|`` from the kept variables."""
    prior = slicewise(gaussian_prior((2, 3, 3)))
    A = Dense(dense(30, 72, seed=3), SHAPE)
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    data = Gaussian(A, A(0.5 * x), 0.05)
    solver = DDS3D(sigma_scale=1.3, n_cg=7, strength=10.0, threshold=0.05, eta=1.0)
    state = Multistep(x)
    for sigma, after in ((1.0, 0.3), (0.3, 0.0)):
        before = state
        state = solver.step(before, sigma, after, prior=prior, data=data, noise=Noise([0]))
    x0 = prior(before.x, 1.3 * 0.3)
    rho = 0.2 * 0.05**2 / 0.3**2
    expected, _ = z_step(x0, data, rho, before.variables, strength=10.0, threshold=0.05, n_cg=7)
    assert torch.equal(state.x, expected)
    cold, _ = z_step(x0, data, rho, None, strength=10.0, threshold=0.05, n_cg=7)
    assert not torch.allclose(cold, expected, atol=1e-4)


def test_the_first_and_the_last_slice_are_not_neighbours():
    """Slices 0 and 3 of a ramp along z stay apart; a periodic difference would pull them together."""
    prior = slicewise(GaussianPrior(torch.zeros(1, 2, 2, dtype=DOUBLE), 4 * torch.eye(4, dtype=DOUBLE)))
    ramp = torch.linspace(-1, 1, 6, dtype=DOUBLE).view(1, 1, 6, 1, 1).expand(1, 1, 6, 2, 2)
    A = Dense(torch.eye(24, dtype=DOUBLE), (1, 6, 2, 2))
    x = sample(DDS3D(strength=100.0), prior, Gaussian(A, A(ramp), 0.01), karras(2.0, 0.01, 30), noise=Noise([0]))
    # The ends move towards the middle by lam = 100 * 0.01^2, as in the closed form;
    # a periodic difference would pull them further.
    assert torch.allclose(x[:, :, 0], ramp[:, :, 0] + 0.01, atol=3e-3)
    assert torch.allclose(x[:, :, -1], ramp[:, :, -1] - 0.01, atol=3e-3)


@pytest.mark.parametrize("name", ["dds-3d", "mbir"])
def test_slices_are_refused(name):
    """On slices the first spatial axis is y, along which nothing should be made sparse."""
    scan, _, _ = cartesian()
    with pytest.raises(InputError, match=f"solver '{name}' relates neighbouring slices; .*volume"):
        solve(scan, name, steps=4)
