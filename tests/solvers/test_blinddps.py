"""BlindDPS: DPS with a known kernel, steps of the kernel, items, types."""

from dataclasses import replace

import pytest
import torch

from medrecon.blur import BlindTurbulence, SmoothField
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.deblur import InnerBlur, Turbulence, centred_kernel, unit_kernel
from medrecon.sample import draw_blind, sample, sample_blind
from medrecon.solvers import DPS, BlindDPS
from medrecon.solvers.blinddps import BlindState, first_parameters, gradients
from tests.make.blind import unknown_gain

from ..make.blur import blurred_images, image_prior, kernel_prior

LADDER = karras(4.0, 0.02, 12)


def test_the_true_kernel_gives_dps_exactly():
    data, _, kernel = blurred_images()
    known = data.with_parameters({"kernel": kernel})
    solver = BlindDPS(zeta_kernel=0.0, zeta=0.05)
    noise, other = Noise([1, 2]), Noise([1, 2])
    x = 4.0 * noise(data.shape, torch.float64)
    assert torch.equal(x, 4.0 * other(data.shape, torch.float64))
    state = BlindState(x, {"kernel": kernel})
    for sigma, after in ((4.0, 1.0), (1.0, 0.05), (0.05, 0.0)):
        state = solver.step(state, sigma, after, prior=image_prior, data=data, noise=noise)
        plain = Gaussian(known.A, data.y, data.noise_std)
        x = DPS(zeta=0.05).step(x, sigma, after, prior=image_prior, data=plain, noise=other)
        assert torch.equal(state.x, x)
    assert torch.equal(state.parameters["kernel"], kernel)


def test_without_unknowns_it_is_dps():
    data, _, kernel = blurred_images()
    plain = Gaussian(InnerBlur(kernel, data.y.shape[2:]), data.y, data.noise_std)
    a = sample(BlindDPS(zeta=0.04), image_prior, plain, LADDER, noise=Noise([1, 2]))
    assert torch.equal(a, sample(DPS(zeta=0.04), image_prior, plain, LADDER, noise=Noise([1, 2])))


def test_gradient_of_the_misfit_against_finite_differences():
    """Central differences of step 1e-6 are good to about 1e-9."""
    data, x, _ = blurred_images()
    u = {"kernel": torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1}
    square, found = gradients(u, data, x)
    direction = torch.randn(u["kernel"].shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def misfit(v):
        r = data.y - InnerBlur(unit_kernel(v), data.y.shape[2:])(x)
        return r.square().sum((1, 2, 3))

    slope = (misfit(u["kernel"] + 1e-6 * direction) - misfit(u["kernel"] - 1e-6 * direction)) / 2e-6
    assert torch.allclose(square, misfit(u["kernel"]))
    assert torch.allclose((found["kernel"] * direction).sum((1, 2, 3)), slope, rtol=1e-6)


def test_a_step_of_the_kernel_has_the_length_asked_for():
    """Before normalisation: |u' - u0| = zeta |u0|, downhill, whatever the scale of the data."""
    data, x, kernel = blurred_images()
    start = {"kernel": unit_kernel(torch.ones_like(kernel))}
    solver, sigma = BlindDPS(zeta_kernel=0.05, sigma_kernel=1.0), 0.1
    made = solver._parameters(start, x, sigma, data=data, noise=Noise([1, 2]))["kernel"]
    z = Noise([1, 2]).like(kernel)
    u0 = kernel_prior(torch.ones_like(kernel) + sigma * z, sigma)
    gradient = gradients({"kernel": u0}, data, x)[1]["kernel"] * 0.02 / (0.02 + sigma**2)
    size = gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    length = 0.05 * u0.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = centred_kernel(unit_kernel(u0 - length * gradient / size))
    assert torch.allclose(made, expected, atol=1e-12)
    before, after = (data.with_parameters({"kernel": k}).residual(x).square().sum() for k in (unit_kernel(u0), made))
    assert after < before


def test_steps_find_the_kernel_of_a_known_image():
    """With the true image, 200 steps bring the kernel nearer to the truth than the prior's mean is."""
    data, x, kernel = blurred_images(shape=(30, 31), noise_std=0.01)
    solver, now = BlindDPS(zeta_kernel=0.03), data.with_parameters({"kernel": unit_kernel(torch.ones_like(kernel))})
    start = now.parameters
    found = start
    noise = Noise([1, 2])
    for _ in range(200):
        found = solver._parameters(found, x, 0.02, data=data, noise=noise)
    errors = [(one["kernel"] - centred_kernel(kernel)).square().sum((1, 2, 3)) for one in (found, start)]
    assert (errors[0] < 0.2 * errors[1]).all()


def test_a_tilt_moves_only_by_its_own_step():
    """Without a step it stays as it is, whatever the kernel does; with one it moves by as many pixels, and fits better."""
    _, x, kernel = blurred_images(1, shape=(30, 31))
    field = SmoothField(std=0.5, scale=3.0).draw((34, 35), Noise([5]), torch.float64)
    y = Turbulence(kernel, field)(x)
    start = BlindTurbulence.of(y, 0.01, kernel_prior, 5, SmoothField(std=0.5, scale=3.0))
    start = start.with_parameters({"kernel": kernel, "tilt": 0.5 * field})
    kept = BlindDPS()._parameters(start.parameters, x, 0.02, data=start, noise=Noise([1]))
    assert torch.equal(kept["tilt"], 0.5 * field)
    assert not torch.equal(kept["kernel"], kernel)
    solver, found = BlindDPS(zeta_kernel=0.0, zeta_tilt=0.03), start.parameters
    once = solver._parameters(found, x, 0.02, data=start, noise=Noise([1]))["tilt"]
    clean = start.tilt_prior(0.5 * field + 0.02 * Noise([1]).like(field), 0.02)
    assert float((once - clean).square().mean().sqrt()) == pytest.approx(0.03, rel=1e-9)  # pixels, root mean square
    for _ in range(40):
        found = solver._parameters(found, x, 0.02, data=start, noise=Noise([1]))
    assert torch.allclose(found["kernel"], kernel)
    before, after = (start.with_parameters(one).residual(x).square().sum() for one in (start.parameters, found))
    assert after < 0.5 * before


def test_the_direction_of_the_kernel_is_that_of_the_image_prior(monkeypatch):
    """A prior that knows the image prefers the true kernel to its mirror image, whichever was drawn."""
    data, x, kernel = blurred_images(shape=(30, 31), noise_std=0.001)
    kernel = kernel.clone()
    kernel[..., :2] *= 0.05
    kernel = centred_kernel(unit_kernel(kernel))
    y = InnerBlur(kernel, (30, 31))(x)
    data = replace(data, y=y)
    for drawn in (kernel, kernel.flip(2, 3)):
        monkeypatch.setattr(type(data), "first_kernels", lambda self, noise, drawn=drawn: drawn)
        found = first_parameters(data, lambda z, sigma: x, Noise([1, 2]), 2)["kernel"]
        assert torch.allclose(found, kernel, atol=1e-9)


def test_a_batch_is_its_items_and_kernels_are_normalised():
    data, _, _ = blurred_images()
    solver = BlindDPS(n_starts=2, sigma_kernel=5.0)
    both = sample_blind(solver, image_prior, data, LADDER, noise=Noise([7, 8]))
    one = replace(data, y=data.y[1:]).with_parameters({"kernel": data.kernel[1:]})
    alone = sample_blind(solver, image_prior, one, LADDER, noise=Noise([8]))
    assert torch.allclose(both.x[1:], alone.x, atol=1e-8)
    kernel = both.data.parameters["kernel"]
    assert torch.allclose(kernel[1:], alone.data.parameters["kernel"], atol=1e-8)
    assert torch.allclose(kernel.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_single_precision_is_near_double_precision():
    """At fixed kernels, whose estimate from the spectrum is a chain of hundreds of steps that amplifies round-off."""
    data, _, kernel = blurred_images()
    state = BlindState(torch.ones(data.shape, dtype=torch.float64), {"kernel": kernel})
    single = BlindState(state.x.float(), {"kernel": kernel.float()})
    low = replace(data, y=data.y.float()).with_parameters({"kernel": kernel.float()})
    solver = BlindDPS(sigma_kernel=5.0)
    a = solver.step(state, 1.0, 0.0, prior=image_prior, data=data, noise=Fixed(1, 2))
    b = solver.step(single, 1.0, 0.0, prior=image_prior, data=low, noise=Fixed(1, 2))
    assert b.x.dtype == torch.float32
    assert torch.allclose(a.x, b.x.double(), atol=1e-4)
    assert torch.allclose(a.parameters["kernel"], b.parameters["kernel"].double(), atol=1e-4)


class Fixed(Noise):
    """The same numbers in both precisions."""

    def __init__(self, *seeds):
        super().__init__(list(seeds))

    def __call__(self, shape, dtype, device=None):
        return super().__call__(shape, torch.float64, device).to(dtype)


def test_several_samples_have_the_mean_kernel():
    data, _, _ = blurred_images(1)
    made = draw_blind(BlindDPS(n_starts=1), image_prior, data, LADDER, seeds=[1, 2])
    each = [sample_blind(BlindDPS(n_starts=1), image_prior, data, LADDER, noise=Noise([seed])) for seed in (1, 2)]
    mean = sum(one.data.parameters["kernel"] for one in each) / 2
    assert torch.allclose(made.data.parameters["kernel"], mean)
    assert torch.equal(made.x[1], each[1].x)


def test_other_unknowns_are_refused():
    prior, data, _ = unknown_gain(torch.ones(1, dtype=torch.float64))
    with pytest.raises(TypeError, match="BlindDPS estimates blur kernels; Gain has other"):
        sample_blind(BlindDPS(), prior, data, LADDER, noise=Noise([0]))
