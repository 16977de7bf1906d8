"""The likelihood of k-space with unknown coil maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.joint_maps import FIRST_LEVEL, normalised_maps, unknown_maps
from medrecon.noise import Noise, karras
from medrecon.operators.bridge import AsComplex
from medrecon.operators.nlinv import root_sum_of_squares
from medrecon.sample import draw_blind, sample_blind
from medrecon.solvers import DDS, CGSense

from .make.images import blobs
from .make.toys import White

SHAPE, COILS = (40, 37), 5


def scans(noise=0.01, batch=1, acs=4, dtype=torch.complex128):
    """``(likelihood of unknown maps, images (B, 1, y, x), maps)`` of every second column and a few in the middle."""
    mask = torch.zeros(1, 1, 1, SHAPE[1])
    mask[..., ::2] = 1
    mask[..., SHAPE[1] // 2 - acs // 2 : SHAPE[1] // 2 - acs // 2 + acs] = 1
    images = np.stack([np.roll(blobs(SHAPE), 2 * i, 0) * np.exp(0.4j * i) for i in range(batch)])
    maps = loop_coils(SHAPE, COILS)
    k = np.stack([simulate_kspace(one, maps, noise, np.random.default_rng(i)) for i, one in enumerate(images)])
    y = torch.from_numpy(k).to(dtype) * mask
    return unknown_maps(y, mask, noise), torch.from_numpy(images)[:, None].to(dtype), torch.from_numpy(maps).to(dtype)


def started(**more):
    data, images, maps = scans(**more)
    image, data = data.inverted()
    return data, image, images, maps


def projection_error(found, maps, images):
    """Fraction of the true coil images that is not along the found maps."""
    along = (found.conj() * maps).sum(1, keepdim=True) * found
    return float(((maps - along) * images).norm() / (maps * images).norm())


def real(images, data, maps):
    """True images with the phase that they have for the maps of a likelihood, as real channels."""
    return AsComplex().adjoint((data.maps.conj() * maps).sum(1, keepdim=True) * images)


def test_maps_are_normalised_and_explain_the_data_with_the_image():
    data, image, images, maps = started()
    assert torch.allclose(root_sum_of_squares(data.maps), torch.ones(1, 1, *SHAPE, dtype=torch.float64))
    scale = data.noise_std * data.n_measured.double().sqrt()
    r = data.residual(image)
    assert 0.5 < r.norm() / scale < 1.1  # fits the data to the noise
    assert projection_error(data.maps, maps, images) < 0.15


def test_the_gauge_does_not_depend_on_the_scale_and_phase_of_the_coefficients():
    """Maps are those of ``3 e^{i} c``, up to the phase, which the phase factors take over."""
    data, *_ = started()
    factor = 3 * torch.exp(torch.tensor(1j, dtype=torch.complex128))
    turned = normalised_maps(data.model, factor * data.coefficients, data.phase / factor * factor.abs())[0]
    assert torch.allclose(turned, data.maps, atol=1e-10)


def test_nothing_changes_above_the_first_level():
    data, image, *_ = started()
    assert data.updated(image, 1.01 * FIRST_LEVEL) is data
    assert data.updated(image, FIRST_LEVEL).updates == 1


def test_updates_with_the_true_image_recover_the_maps():
    """From maps with errors: the error halves; with the image 0, which says nothing of maps, they stay."""
    data, _, images, maps = started(noise=0.03, acs=2)
    before = projection_error(data.maps, maps, images)
    truth = real(images, data, maps)
    after = data
    for sigma in (0.1, 0.05, 0.02, 0.01, 0.01):
        after = after.updated(truth, sigma)
    assert projection_error(after.maps, maps, images) < 0.5 * before
    assert torch.equal(
        data.updated(0 * truth, 0.1).coefficients.isfinite(), torch.ones_like(data.coefficients, dtype=bool)
    )


def test_the_scale_of_the_maps_does_not_drift():
    """A penalty on the coefficients instead of their change makes the maps 0 within tens of updates."""
    data, image, *_ = started()
    after = data
    for _ in range(40):
        after = after.updated(image, 0.1)
    ratio = after.coefficients.norm() / data.coefficients.norm()
    assert 0.7 < ratio < 1.4


def test_the_update_minimises_its_cost():
    """Against random changes of the result around it, in the linearised cost."""
    data, _, images, maps = started()
    x0, sigma = real(images, data, maps), 0.2
    size = root_sum_of_squares(data.model.maps(data.coefficients))
    centre = AsComplex()(x0) * data.phase / size
    at = data.model, centre, data.coefficients
    weights = (0.01 / sigma) ** 2 * size**2, torch.tensor((sigma / 10) ** 2, dtype=torch.float64)
    adjoint_y = data.model.sampling.adjoint(data.y)
    x, c = data.model.step(centre, data.coefficients, adjoint_y, weights=weights, centre=at[1:], n_cg=400)

    def cost(image, coefficients):
        change = data.model.derivative(centre, data.coefficients, image - centre, coefficients - data.coefficients)
        misfit = data.y - data.model(centre, data.coefficients) - change
        return (
            misfit.abs().square().sum()
            + (weights[0] * (image - centre).abs().square()).sum()
            + weights[1] * (coefficients - data.coefficients).abs().square().sum()
        )

    best = cost(x, c)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        d = [1e-2 * torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in (x, c)]
        assert cost(x + d[0], c + d[1]) > best
    found = data.updated(x0, sigma).coefficients  # 20 iterations, not converged: most of the way
    assert cost(x, found) < 0.5 * (cost(x, data.coefficients) - best) + best


def test_a_batch_is_its_items():
    data, _, images, maps = started(batch=3)
    noise = torch.tensor([0.01, 0.02, 0.01], dtype=torch.float64)
    data = replace(data, noise_std=noise)
    x0 = real(images, data, maps)
    both = data.updated(x0, 0.1)
    for i in range(3):
        alone = unknown_maps(data.y[i : i + 1], data.model.mask, 0.01).inverted()[1]
        assert torch.allclose(alone.coefficients[0], data.coefficients[i], atol=1e-8)
        one = replace(alone, noise_std=noise[i : i + 1]).updated(x0[i : i + 1], 0.1)
        assert torch.allclose(one.coefficients[0], both.coefficients[i], atol=1e-8)


def test_an_item_without_data_stays_finite():
    data, *_ = scans(batch=2)
    data = replace(data, y=data.y * torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1))
    image, data = data.inverted()
    assert not image[1].any()
    after = data.updated(image, 0.1)
    assert after.maps.isfinite().all()
    assert not after.maps[1].any()


def test_a_dead_coil_has_a_map_of_zero():
    data, *_ = scans()
    y = data.y.clone()
    y[:, 2] = 0
    image, data = replace(data, y=y).inverted()
    assert not data.updated(image, 0.1).maps[:, 2].any()


@pytest.mark.parametrize("n", [1, 3])
def test_repeated_repeats_the_parameters(n):
    data, image, *_ = started()
    many = data.repeated(n)
    assert many.parameters["map_coefficients"].shape[0] == n
    assert many.maps.shape[0] == n
    x0 = image.expand(n, *image.shape[1:])
    assert torch.allclose(many.updated(x0, 0.1).coefficients[-1], data.updated(image, 0.1).coefficients[0], atol=1e-9)


def test_the_loop_updates_maps_and_several_samples_have_their_mean():
    data, *_ = started(dtype=torch.complex64)
    prior = White(0.5).prior(None)
    levels = karras(2.0, 0.05, 6)
    made = sample_blind(DDS(), prior, data, levels, noise=Noise([0]))
    assert made.data.updates == int((levels[1:-1] <= FIRST_LEVEL).sum())
    several = draw_blind(DDS(), prior, data, levels, seeds=[0, 1])
    each = [sample_blind(DDS(), prior, data, levels, noise=Noise([seed])).data.coefficients for seed in (0, 1)]
    assert torch.allclose(several.data.coefficients, (each[0] + each[1]) / 2, atol=1e-6 * float(each[0].abs().max()))
    classical = sample_blind(CGSense(), None, data, torch.tensor([1.0, 0.0]), noise=Noise([0]))
    assert classical.data.updates == 0


def test_single_precision():
    """An update in single precision differs by the accuracy of twenty iterations."""
    exact, image, *_ = started()
    single = unknown_maps(exact.y.to(torch.complex64), exact.model.mask, 0.01)
    single = single.with_coefficients(exact.coefficients.to(torch.complex64), exact.phase.to(torch.complex64))
    found = single.updated(image.float(), 0.1).coefficients
    expected = exact.updated(image, 0.1).coefficients
    assert found.dtype == torch.complex64
    assert (found - expected).norm() < 1e-3 * expected.norm()
