"""Smooth maps, the bilinear model of image and maps, and its Gauss-Newton steps."""

import pytest
import torch

from medrecon.operators.linalg import dot
from medrecon.operators.nlinv import JointMRI, SmoothMaps, invert, low_resolution_phase, root_sum_of_squares

DOUBLE = torch.complex128


def random(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def tiny(shape=(6, 5), coils=2, batch=1, dtype=DOUBLE):
    """A model with every second column, an image and coefficients."""
    mask = torch.zeros(1, 1, 1, shape[1])
    mask[..., shape[1] % 2 :: 2] = 1
    mask[..., shape[1] // 2] = 1
    model = JointMRI(mask, SmoothMaps(shape, dtype))
    image = random(batch, 1, *shape, seed=1, dtype=dtype)
    return model, image, random(batch, coils, *model.maps.weight.shape, seed=2, dtype=dtype)


@pytest.mark.parametrize("shape", [(6, 5), (7, 9), (40, 33), (230, 180)])
def test_smooth_maps_are_the_weighted_low_frequencies(shape):
    """Against a whole centred inverse FFT: frequencies that are left out have weights below a millionth."""
    maps = SmoothMaps(shape, DOUBLE)
    c = random(2, 3, *maps.weight.shape)
    whole = torch.zeros(2, 3, *shape, dtype=DOUBLE)
    place = tuple(slice(n // 2 - m // 2, n // 2 + m // 2 + 1) for n, m in zip(shape, maps.weight.shape, strict=True))
    whole[(..., *place)] = maps.weight * c
    image = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(whole, (-2, -1)), norm="ortho"), (-2, -1))
    assert torch.allclose(maps(c), image, atol=1e-12)
    y = random(2, 3, *shape, seed=3)
    assert torch.allclose(dot(maps(c), y), dot(c, maps.adjoint(y)), rtol=1e-12)
    if shape == (230, 180):  # the weight of the reference, 1e-6 at the edge of the block
        middle = tuple(m // 2 for m in maps.weight.shape)
        k = torch.tensor([5 / 230, 3 / 192])
        expected = 0.3 * (1 + 220 * k.square().sum()) ** -16
        assert torch.allclose(maps.weight[middle[0] + 5, middle[1] + 3], expected.double(), rtol=1e-5)
        assert maps.weight[0, middle[1]] < 3e-6 * maps.weight.max()


def test_maps_are_as_smooth_at_a_low_resolution():
    """The same coil on 64 and on 128 pixels: the weights of the same cycles per field of view are equal."""
    low, high = SmoothMaps((64, 64), DOUBLE).weight, SmoothMaps((128, 128), DOUBLE).weight
    assert torch.allclose(low, high, rtol=1e-6)


def test_the_derivative_is_that_of_finite_differences():
    model, image, c = tiny()
    d_image, d_c = random(*image.shape, seed=4), random(*c.shape, seed=5)
    expected = (model(image + 1e-6 * d_image, c + 1e-6 * d_c) - model(image - 1e-6 * d_image, c - 1e-6 * d_c)) / 2e-6
    assert torch.allclose(model.derivative(image, c, d_image, d_c), expected, atol=1e-8)


def test_the_adjoint_is_that_of_the_derivative():
    model, image, c = tiny((7, 8), coils=3, batch=2)
    d_image, d_c = random(*image.shape, seed=4), random(*c.shape, seed=5)
    y = random(2, 3, 7, 8, seed=6)
    back = model.adjoint(image, c, y)
    left = dot(model.derivative(image, c, d_image, d_c), y)
    assert torch.allclose(left, dot(d_image, back[0]) + dot(d_c, back[1]), rtol=1e-12)


def test_scale_and_phase_of_image_and_maps_are_undetermined():
    model, image, c = tiny()
    factor = 3.0 * torch.exp(torch.tensor(0.7j))
    assert torch.allclose(model(image * factor, c / factor), model(image, c), atol=1e-12)


def dense_step(model, image, c, y, weights, centre):
    """The minimum of the linearised cost, with the matrix of the derivative written out, over real numbers."""
    n, m = image.numel(), c.numel()

    def columns(vector):
        d_image, d_c = vector[:n].view_as(image), vector[n:].view_as(c)
        return torch.view_as_real(model.derivative(image, c, d_image, d_c).flatten()).flatten()

    units = torch.eye(n + m, dtype=DOUBLE)
    matrix = torch.stack([columns(u) for one in units for u in (one, 1j * one)], dim=1)
    right = torch.view_as_real((y - model(image, c)).flatten()).flatten()
    weight = torch.cat([weights[0].expand_as(image).flatten(), weights[1].expand_as(c).flatten()]).repeat_interleave(2)
    away = torch.cat([(centre[0] - image).flatten(), (centre[1] - c).flatten()])
    away = torch.view_as_real(away).flatten()
    solution = torch.linalg.solve(matrix.T @ matrix + torch.diag(weight), matrix.T @ right + weight * away)
    solution = torch.view_as_complex(solution.view(-1, 2))
    return image + solution[:n].view_as(image), c + solution[n:].view_as(c)


def test_a_step_is_the_regularised_least_squares_solution():
    model, image, c = tiny((5, 4))
    y = random(1, 2, 5, 4, seed=7) * model.mask
    weights = torch.rand(1, 1, 5, 4, dtype=torch.float64) + 0.1, torch.tensor(0.3, dtype=torch.float64)
    centre = random(*image.shape, seed=8), random(*c.shape, seed=9)
    found = model.step(image, c, model.sampling.adjoint(y), weights=weights, centre=centre, n_cg=500)
    for one, exact in zip(found, dense_step(model, image, c, y, weights, centre), strict=True):
        assert torch.allclose(one, exact, atol=1e-8)


def planted(shape=(32, 31), coils=4, dtype=DOUBLE, acs=6):
    """K-space of an image and coil maps, with every second column and a few in the middle; the image, maps and model."""
    y, x = torch.meshgrid(*[(torch.arange(n) - n // 2) / n for n in shape], indexing="ij")
    inside = ((y / 0.42) ** 2 + (x / 0.4) ** 2 < 1).double()
    generator = torch.Generator().manual_seed(0)
    image = inside * (1 + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(DOUBLE)
    angles = 2 * torch.pi * torch.arange(coils) / coils
    distance = (y - angles.sin().view(-1, 1, 1)) ** 2 + (x - angles.cos().view(-1, 1, 1)) ** 2
    maps = (1 / (distance + 0.3) * torch.exp(1j * (2 * x + angles.view(-1, 1, 1)))).to(DOUBLE)
    maps = maps / root_sum_of_squares(maps[None])[0]
    mask = torch.zeros(1, 1, 1, shape[1])
    mask[..., ::2] = 1
    mask[..., shape[1] // 2 - acs // 2 : shape[1] // 2 - acs // 2 + acs] = 1
    model = JointMRI(mask, SmoothMaps(shape, dtype))
    return model.sampling(maps[None] * image).to(dtype), image, maps, model


def projection_error(maps, truth, image):
    """Fraction of the coil images ``truth image`` that is not along ``maps``, pixel by pixel."""
    unit = maps / root_sum_of_squares(maps)
    along = (unit.conj() * truth).sum(1, keepdim=True) * unit
    return float(((truth - along) * image).norm() / (truth * image).norm())


def error_of(found, model, image):
    """Relative error of the magnitude of the image that belongs to maps of unit sum of squares."""
    combined = found.image * root_sum_of_squares(model.maps(found.coefficients))
    return float((combined.abs() - image.abs()).norm() / image.norm())


def test_known_maps_are_recovered_and_only_because_they_are_smooth():
    y, image, maps, model = planted()
    free = JointMRI(model.mask, SmoothMaps((32, 31), DOUBLE, power=0.0))
    errors = []
    for one in (model, free):
        found = invert(one, y, target=torch.zeros(1))
        errors.append((projection_error(one.maps(found.coefficients), maps[None], image), error_of(found, one, image)))
    assert errors[0][0] < 0.01
    assert errors[0][1] < 0.03
    assert errors[1][0] > 4 * errors[0][0]
    assert errors[1][1] > 4 * errors[0][1]


def test_a_batch_is_its_items_and_any_scale_will_do():
    """Also where one item stops before the other."""
    y, *_, model = planted()
    noise = 0.02 * random(*y.shape, seed=5) * model.mask
    both = torch.cat([y + noise, 1e-3 * y, 0 * y])
    target = torch.stack([0.9 * noise.norm(), torch.tensor(0.0), torch.tensor(0.0)])
    found = invert(model, both, target=target)
    assert found.steps[0] < found.steps[1] == 12
    assert found.steps[2] == 0
    for i in range(3):
        one = invert(model, both[i : i + 1], target=target[i : i + 1])
        assert torch.allclose(one.coefficients[0], found.coefficients[i], atol=1e-9)
        assert torch.allclose(one.image[0], found.image[i], atol=1e-9)
    first = invert(model, y, target=torch.zeros(1))
    assert torch.allclose(first.coefficients[0], found.coefficients[1], atol=1e-6)
    assert torch.allclose(1e-3 * first.image[0], found.image[1], atol=1e-9)


def test_single_precision():
    """The result in single precision differs by the accuracy of a solve of condition 1e3."""
    y, *_, model = planted()
    single = JointMRI(model.mask, SmoothMaps((32, 31)))
    exact, found = (invert(m, y.to(m.maps.down.dtype), target=torch.zeros(1), n_steps=8) for m in (model, single))
    assert found.image.dtype == torch.complex64
    assert (found.image - exact.image).norm() < 1e-3 * exact.image.norm()


def test_the_phase_is_that_of_the_low_resolution_image():
    """It turns with the image, and for an image without phase it is small: that of the maps' ramp, at the edge of the object."""
    _, image, maps, _ = planted()
    phase = low_resolution_phase(maps[None] * image, maps[None])
    assert torch.allclose(phase.abs(), torch.ones_like(phase.abs()))
    assert phase[0, 0][image.abs() > 0].angle().abs().max() < 0.5
    factor = torch.exp(torch.tensor(1.1j, dtype=DOUBLE))
    assert torch.allclose(low_resolution_phase(maps[None] * image * factor, maps[None]), phase * factor)
    assert torch.equal(low_resolution_phase(0 * maps[None], maps[None]), torch.ones_like(phase))
