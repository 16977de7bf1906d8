"""Unknown blur: the likelihood of a kernel from the spectrum, the prior of tilts, and the blind likelihood."""

import pytest
import torch

from medrecon.blur import BlindBlur, BlindTurbulence, BlurSpectrum, SmoothField, largest_one
from medrecon.noise import Noise
from medrecon.operators.deblur import InnerBlur, unit_kernel

DOUBLE = torch.float64


def still(x, sigma):
    """In place of a prior: keeps a kernel as it is."""
    return x


def kernels(n=2, size=5, seed=0):
    u = torch.rand((n, 1, size, size), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return unit_kernel(u)


def blurred(n=2, shape=(40, 33), seed=1):
    return torch.randn((n, 1, *shape), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_power_of_white_noise_is_its_variance():
    """The mean of 4000 exponential variables with mean 1 is within 5 standard errors, 0.08, of 1."""
    spectrum = BlurSpectrum(blurred(1, (90, 91)), 0.1)
    inner = spectrum.power[:, 3:40, 3:40]
    assert float(inner.mean()) == pytest.approx(1.0, abs=0.14)


def test_gain_of_the_images_is_found():
    """Data of exactly the model's power g S + v give the gain g; a weak prior of the gain shrinks it by less than 1 %."""
    spectrum = BlurSpectrum(blurred(1, (64, 64)), 1e-4)
    delta = unit_kernel(torch.zeros(1, 1, 5, 5, dtype=DOUBLE))
    mean = spectrum.images(delta)
    base = 2.4e-4 * spectrum.frequency**-2.7
    spectrum.__dict__["power"] = (3.0 * base + 1e-8).expand_as(mean)
    assert torch.allclose(spectrum.images(delta) / base, torch.full_like(mean, 3.0), rtol=0.01)


def test_energy_is_least_at_the_kernel_of_the_data():
    """With power exactly that of one kernel, every other kernel has a higher energy; its mirror image has the same."""
    truth, other = kernels(1), kernels(1, seed=5)
    spectrum = BlurSpectrum(blurred(1, (48, 40)), 1e-3)
    images = (2.4e-4 * spectrum.frequency**-2.7)[None]
    spectrum.__dict__["power"] = spectrum.transfer(truth) * images + 1e-6
    best = spectrum.energy(truth, images)
    assert float(spectrum.energy(other, images) - best) > 1
    assert torch.allclose(spectrum.energy(truth.flip(2, 3), images), best, atol=1e-6)
    # The gradient of the energy vanishes there, apart from round-off.
    leaf = truth.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spectrum.energy(leaf, images).sum(), leaf)
    assert float(gradient.abs().max()) < 1e-6 * float(best.abs())


def test_energy_is_in_nats_of_independent_values():
    """Twice the power costs half a nat per independent value; a Hann window leaves 1 / 1.944^2 of the pixels independent."""
    spectrum, k = BlurSpectrum(blurred(1, (48, 40)), 1e-3), kernels(1)
    images = (2.4e-4 * spectrum.frequency**-2.7)[None]
    total = spectrum.transfer(k) * images + 1e-6
    energies = []
    for power in (total, 2 * total):
        spectrum.__dict__["power"] = power
        energies.append(float(spectrum.energy(k, images)))
    # A few of the lowest frequencies do not count.
    assert energies[1] - energies[0] == pytest.approx(48 * 40 / 1.944**2 / 2, rel=0.08)


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        BlurSpectrum(blurred(1, (16, 16)), 0.1).transfer(kernels(1, 17))


def test_kernels_from_the_spectrum_are_normalised_and_per_item():
    """Two items together are the items alone; sum 1, not negative, centre of mass within half a pixel (one after rolling)."""
    y = blurred(2)
    both = BlindBlur.of(y, 0.1, still, 5).first_kernels(Noise([3, 4]))
    alone = BlindBlur.of(y[1:], 0.1, still, 5).first_kernels(Noise([4]))
    assert torch.allclose(both[1:], alone, atol=1e-9)
    assert torch.allclose(both.sum((1, 2, 3)), torch.ones(2, dtype=DOUBLE))
    assert both.min() >= 0


def test_smooth_fields_are_denoised_as_wiener_does():
    """Fields drawn from the prior: the mean square error per coefficient is P s^2 / (P + s^2), to 10 % with 32 fields."""
    prior = SmoothField(std=1.0, scale=2.0)
    noise = Noise(range(32))
    white = noise((32, 2, 24, 25), DOUBLE)
    power = prior.power((24, 25), white)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=(24, 25))
    assert float(field.std()) == pytest.approx(1.0, abs=0.1)
    error = prior(field + 0.5 * noise((32, 2, 24, 25), DOUBLE), 0.5) - field
    double = torch.full_like(power, 2.0)
    double[:, 0] = 1.0
    expected = (double * power * 0.25 / (power + 0.25)).sum() / (24 * 25)
    assert float(error.square().mean()) == pytest.approx(float(expected), rel=0.1)


def test_fields_are_limited():
    assert float(SmoothField(std=5.0).draw((32, 33), Noise([0])).abs().max()) == 2.5


def test_parameters_are_those_given_and_normalised():
    y = blurred(2)
    data = BlindBlur.of(y, 0.1, still, 5).with_parameters({"kernel": 7.0 * kernels(2)})
    assert torch.allclose(data.parameters["kernel"], kernels(2))
    x = blurred(2, (44, 37))
    assert torch.equal(data.residual(x), y - InnerBlur(data.kernel, (40, 33))(x))
    assert data.shape == (2, 1, 44, 37)
    assert data.updated(x, 0.1) is data
    one = BlindBlur.of(y[:1], 0.1, still, 5).with_parameters({"kernel": kernels(1)}).repeated(3)
    assert one.shape == (3, 1, 44, 37)
    assert torch.equal(one.parameters["kernel"], kernels(1).expand(3, -1, -1, -1))


def test_turbulence_limits_tilts_and_starts_without():
    data = BlindTurbulence.of(blurred(1), 0.1, still, 5)
    assert not data.parameters["tilt"].any()
    tilt = torch.full((1, 2, 44, 37), 9.0, dtype=DOUBLE)
    moved = data.with_parameters({"kernel": kernels(1), "tilt": tilt})
    assert torch.equal(moved.parameters["tilt"], torch.full_like(tilt, 2.5))


def test_the_scale_of_the_prior():
    k = kernels(3)
    assert torch.equal(largest_one(k).amax((1, 2, 3)), torch.ones(3, dtype=DOUBLE))
    assert torch.allclose(unit_kernel(largest_one(k)), k)
