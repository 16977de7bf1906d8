"""GibbsDDRM: DDRM with a known kernel, the border that was not measured, Langevin steps of the kernel."""

from dataclasses import replace

import pytest
import torch

from medrecon.blur import BlindTurbulence
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.deblur import SpectralBlur
from medrecon.operators.image import Blur
from medrecon.sample import sample, sample_blind
from medrecon.solvers import DDRM, GibbsDDRM
from medrecon.solvers.blinddps import BlindState
from medrecon.solvers.gibbsddrm import periodic

from ..make.blur import blurred_images, image_prior, kernel_prior

LADDER = karras(4.0, 0.02, 12)


def test_without_unknowns_it_is_ddrm():
    _, x, kernel = blurred_images()
    A = SpectralBlur(kernel, x.shape[2:])
    plain = Gaussian(A, A(x), 0.05)
    a = sample(GibbsDDRM(), image_prior, plain, LADDER, noise=Noise([1, 2]))
    assert torch.equal(a, sample(DDRM(), image_prior, plain, LADDER, noise=Noise([1, 2])))


def test_the_border_is_drawn_from_the_estimate():
    """Inside the data; outside the periodic blur of x0 plus noise of the data's level: its mean and spread over 400 draws."""
    data, x, kernel = blurred_images(1)
    data = replace(data, y=-data.y)  # other than the blur, so that the two cannot be confused
    blur = Blur(kernel, x.shape[2:])(x)
    drawn = torch.cat([periodic(data, kernel, x, Noise([seed])).y for seed in range(400)])
    inside = torch.zeros_like(drawn[:1], dtype=torch.bool)
    inside[..., 2:-2, 2:-2] = True
    assert torch.equal(drawn[:, inside[0]], data.y.flatten().expand(400, -1))
    outside = (drawn - blur)[:, ~inside[0]]
    # 5 standard errors of 400 draws of standard deviation 0.05: 0.0125.
    assert float(outside.mean(0).abs().max()) < 0.0125
    assert float(outside.std()) == pytest.approx(0.05, rel=0.05)


def test_the_image_step_samples_a_gaussian_posterior():
    """Known kernel, no border noise in the test's own data: the last step at eta_b = 1 returns c = y / s per singular value.

    ``x = V (c)`` where the data are less noisy than the image at level 0 needs no noise in the data.
    """
    _, x, kernel = blurred_images(1, noise_std=1e-9)
    whole = Gaussian(SpectralBlur(kernel, x.shape[2:]), Blur(kernel, x.shape[2:])(x), 1e-9)
    made = GibbsDDRM(eta_b=1.0).step(
        BlindState(x + 0.3, {}), 0.5, 1e-6, prior=image_prior, data=whole, noise=Noise([0])
    )
    # Singular values above 0.02 amplify the level 1e-6 to at most 5e-5.
    seen = whole.A.singular > 0.02
    error = (whole.A.vh(made.x) - whole.A.vh(x))[seen]
    assert float(error.abs().max()) < 1e-4


def test_langevin_moves_downhill_by_the_length_asked_for():
    """Without noise the move before normalisation is step_size |u| along the drift; the misfit of the true image falls."""
    data, x, kernel = blurred_images(shape=(30, 31), noise_std=0.01)
    start = {"kernel": torch.full_like(kernel, 1 / 25)}
    solver, found, noise = GibbsDDRM(step_size=0.01), start, Noise([1, 2])
    for _ in range(100):
        found = solver._langevin(found, x, data=data, noise=noise)
    before, after = (data.with_parameters(one).residual(x).square().sum((1, 2, 3)) for one in (start, found))
    assert (after < 0.2 * before).all()
    assert torch.allclose(found["kernel"].sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_langevin_steps_spread_as_they_should():
    """From one kernel, the spread over seeds is sqrt(2 tau) with tau the length of the step over that of the drift."""
    data, x, kernel = blurred_images(1)
    big = torch.ones_like(kernel) / 25
    solver = GibbsDDRM(step_size=1e-4)
    u = big / big.max()
    _, gradient = _gradient(data, x, u)
    drift = (kernel_prior(u, 0.05) - u) / 0.05**2 - gradient
    tau = 1e-4 * float(u.norm()) / float(drift.norm())
    moved = torch.cat(
        [solver._langevin({"kernel": big}, x, data=data, noise=Noise([seed]))["kernel"] for seed in range(300)]
    )
    # Normalisation removes one of 25 directions; 300 draws of 25 values: 1.2 % standard error.
    spread = (moved * 25).std(0).square().mean().sqrt()
    assert float(spread) == pytest.approx((2 * tau * 24 / 25) ** 0.5, rel=0.06)


def _gradient(data, x, u):
    leaf = u.clone().requires_grad_()
    r = data.y - data.operator(data.from_unit({"kernel": leaf}))(x)
    square = r.square().sum()
    v = max(float(square.detach()) / r.numel(), 0.05**2)
    (gradient,) = torch.autograd.grad(square / (2 * v), leaf)
    return square.detach(), gradient


def test_a_batch_is_its_items():
    data, _, _ = blurred_images()
    solver = GibbsDDRM(n_starts=1, sigma_kernel=5.0)
    both = sample_blind(solver, image_prior, data, LADDER, noise=Noise([7, 8]))
    one = replace(data, y=data.y[1:]).with_parameters({"kernel": data.kernel[1:]})
    alone = sample_blind(solver, image_prior, one, LADDER, noise=Noise([8]))
    assert torch.allclose(both.x[1:], alone.x, atol=1e-7)
    assert torch.allclose(both.data.parameters["kernel"][1:], alone.data.parameters["kernel"], atol=1e-7)


def test_turbulence_is_refused():
    data, _, _ = blurred_images(1)
    with pytest.raises(TypeError, match="GibbsDDRM estimates blur kernels"):
        GibbsDDRM().check(BlindTurbulence.of(data.y, 0.1, kernel_prior, 5))
