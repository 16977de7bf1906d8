"""Priors made of priors: guided, by channels, by slices, equivariant, at two scales."""

import pytest
import torch

from medrecon.priors import (
    GaussianPrior,
    channelwise,
    equivariant,
    guided,
    multiscale,
    perpendicular,
    score,
    slicewise,
    with_vjp,
)
from medrecon.priors.base import as_levels

from ..make.priors import gaussian, noisy


def test_guidance_interpolates_and_extrapolates():
    one, other, x = gaussian(seed=0), gaussian(seed=7), noisy()
    assert guided(one, other, 0.0) is other
    assert guided(one, other, 1.0) is one
    # Densities multiply where scores add: p_c^2 / p_null.
    expected = 2 * score(one, x, 0.6) - score(other, x, 0.6)
    assert torch.allclose(score(guided(one, other, 2.0), x, 0.6), expected, rtol=1e-9, atol=1e-9)


def test_channelwise_is_the_prior_of_independent_channels():
    prior, x = gaussian((1, 5)), noisy((3, 5))
    levels = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    out = channelwise(prior)(x, levels)
    for i in range(3):
        for c in range(3):
            assert torch.allclose(out[i, c], prior(x[i : i + 1, c : c + 1], float(levels[i]))[0, 0], rtol=1e-9)


SYMMETRIES = {
    "flips": {"flip": [-1, -2]},
    "shifts": {"shift": 4},
    "phase": {"phase": True},
    "all": {"flip": [-1], "shift": 16, "phase": True},
}


@pytest.mark.parametrize("symmetries", SYMMETRIES.values(), ids=SYMMETRIES)
def test_equivariant_undoes_what_it_does(symmetries):
    """A prior that has the symmetries is unchanged, while the network is given another image at every level."""
    seen = []

    def prior(x, sigma):
        seen.append(x)
        return x / (1 + as_levels(sigma, x).view(-1, 1, 1, 1) ** 2)

    x = noisy((2, 6, 7))
    levels = [0.02 * 1.3**i for i in range(12)]
    for sigma in levels:
        assert torch.allclose(equivariant(prior, **symmetries)(x, sigma), prior(x, sigma), rtol=1e-12)
        assert torch.allclose(seen[-2].norm(), x.norm())
    assert len({float(x[0, 0, 0, 0]) for x in seen[::2]}) > 2


@pytest.mark.parametrize("symmetries", SYMMETRIES.values(), ids=SYMMETRIES)
def test_equivariant_is_a_function_of_item_and_level(symmetries):
    """For a prior without symmetry: a batch equals its items, and levels may be floats or tensors of any precision."""
    prior, x = gaussian((2, 4, 3)), noisy((2, 4, 3))
    turned = equivariant(prior, **symmetries)
    levels = torch.tensor([0.3, 1.0, 0.3], dtype=torch.float64)
    together = turned(x, levels)
    for i, level in enumerate(levels.tolist()):
        assert torch.allclose(together[i : i + 1], turned(x[i : i + 1], level), rtol=1e-12)
    assert torch.equal(turned(x, 0.7), turned(x, torch.tensor(0.7, dtype=torch.float64)))
    assert torch.allclose(turned(x, 0.1), turned(x, torch.tensor(0.1, dtype=torch.float32)).double(), atol=1e-6)


def test_equivariant_averages_over_levels():
    """A gain across the image, which no mirror image has, averages to the mean of the gain and its mirror image."""
    gain = torch.linspace(0, 1, 9, dtype=torch.float64)
    turned = equivariant(lambda x, sigma: gain * x, flip=[-1])
    x = noisy((1, 4, 9), 1)
    n = 2000
    mean = sum(turned(x, 0.001 * (i + 1)) for i in range(n)) / n
    # A coin tossed 2000 times: standard error 1.1 % of the difference, five of them.
    assert torch.allclose(mean, x / 2, atol=0.056 * float(x.abs().max()))


def test_equivariant_has_a_gradient_and_knows_complex_images():
    prior, x, v = gaussian((2, 4, 3)), noisy((2, 4, 3)), noisy((2, 4, 3), seed=5)
    turned = equivariant(prior, flip=[-1], shift=3, phase=True)
    _, vjp = with_vjp(turned, x, 0.6)
    step = 1e-6 * v
    difference = (turned(x + step, 0.6) - turned(x - step, 0.6)) / 2e-6
    assert torch.allclose((vjp(x) * v).sum(), (x * difference).sum(), rtol=1e-7)
    with pytest.raises(ValueError, match="two channels"):
        turned(x[:, :1], 0.6)


def test_multiscale_of_a_smooth_gaussian_is_the_gaussian():
    """Where the prior has no energy at high frequencies, the coarse image, with a quarter of the noise, determines it."""
    n, factor = 32, 4
    frequency = torch.fft.fftfreq(n, dtype=torch.float64)
    power = torch.exp(-((frequency[:, None] ** 2 + frequency[None, :] ** 2) / 0.04**2) / 2)

    def gaussian(power):
        def prior(x, sigma):
            wiener = power / (power + as_levels(sigma, x).view(-1, 1, 1, 1) ** 2)
            return torch.fft.ifft2(torch.fft.fft2(x) * wiener).real

        return prior

    kept = [0, 1, 2, 3, 4, -3, -2, -1]
    # Truncation divides every kept coefficient of the unitary transform by the factor.
    full, low = gaussian(power), gaussian(power[kept][:, kept] / factor**2)

    def network(x, sigma):
        return full(x, sigma) if x.shape[-1] == n else low(x, sigma)

    x = 5 * torch.randn(2, 1, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = multiscale(network, factor, 3.0)
    # The band's edge has power below 1e-4.
    assert torch.allclose(scaled(x, 5.0), full(x, 5.0), atol=1e-3)
    assert float((scaled(x, 5.0) - full(x, 5.0)).norm() / full(x, 5.0).norm()) < 0.01
    assert torch.equal(scaled(x, 2.9), full(x, 2.9))
    assert torch.allclose(scaled(x, torch.tensor([5.0, 7.0]))[1:], scaled(x[1:], 7.0), atol=1e-12)


def test_groups_of_channels_and_slices_go_through_the_prior_one_by_one():
    """Complex images of two frames, and the slices of a volume, each with its own noise level per item."""

    def prior(x, sigma):
        assert x.shape[1] == 2 and x.ndim == 4
        return x.flip(1) * torch.as_tensor(sigma).reshape(-1, 1, 1, 1)

    sigma = torch.tensor([0.5, 2.0])
    frames = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = channelwise(prior, 2)(frames, sigma)
    expected = [
        torch.cat([prior(x[None, :2], s), prior(x[None, 2:], s)], 1) for x, s in zip(frames, sigma, strict=True)
    ]
    assert torch.equal(found, torch.cat(expected))
    volume = torch.randn(2, 2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    found = slicewise(prior)(volume, sigma)
    for i, s in enumerate(sigma):
        for z in range(3):
            assert torch.equal(found[i, :, z], prior(volume[i : i + 1, :, z], s)[0])
    sizes = []

    def counted(x, sigma):
        sizes.append(len(x))
        return prior(x, sigma)

    assert torch.equal(slicewise(counted, chunk=4)(volume, sigma), found)
    assert max(sizes) == 4
    assert sum(sizes) == 3 * len(volume)
    with pytest.raises(ValueError, match="does not fit"):
        channelwise(prior, 2)(torch.zeros(1, 3, 4, 4), 0.1)


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_planes_go_through_the_prior_and_come_back(axis, chunk):
    """Across every axis of a volume whose axes all differ, in chunks that do not divide their number."""
    seen = []

    def prior(x, sigma):
        seen.append(x.shape)
        rows = torch.arange(x.shape[2], dtype=x.dtype).view(1, 1, -1, 1)
        return x * (1 + rows) * torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)

    x = noisy((2, 3, 5, 4), 2)
    levels = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = slicewise(prior, chunk, axis)(x, levels)
    row_axis = {2: 3, 3: 2, 4: 2}[axis]  # rows are the first axis that is left
    rows = torch.arange(x.shape[row_axis], dtype=torch.float64).view([-1 if k == row_axis else 1 for k in range(5)])
    assert torch.allclose(found, x * (1 + rows) * levels.view(-1, 1, 1, 1, 1), rtol=1e-12)
    assert {shape[2:] for shape in seen} == {torch.Size([n for k, n in enumerate(x.shape[2:]) if k != axis - 2])}
    assert sum(shape[0] for shape in seen) == 2 * x.shape[axis] and max(s[0] for s in seen) <= (chunk or 99)


def separable(n=4, seed=0):
    """A Gaussian field ``(1, 4, 4, 4)`` whose precision is the mean of those of its axial and its coronal planes."""
    root = torch.randn(2, n * n, n * n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / n
    planes = root @ root.mT + 0.1 * torch.eye(n * n, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    axial = torch.einsum("ab,yxvu->ayxbvu", eye, planes[0].view(n, n, n, n)).reshape(n**3, n**3)
    coronal = torch.einsum("ab,zxwu->zaxwbu", eye, planes[1].view(n, n, n, n)).reshape(n**3, n**3)
    return planes, axial, coronal


def test_product_of_planes_is_the_product_of_experts():
    """Scores of noisy planes, weighted: the score of the product of the two noisy Gaussians, in closed form."""
    planes, axial, coronal = separable()
    mean = torch.zeros(1, 4, 4, dtype=torch.float64)
    first, second = (GaussianPrior(mean, covariance) for covariance in planes)
    x, sigma = noisy((1, 4, 4, 4), 2), 0.7
    axial_plane, coronal_plane = slicewise(first), slicewise(second, axis=3)

    def both(x, sigma):  # the mean of what perpendicular takes
        return 0.75 * axial_plane(x, sigma) + 0.25 * coronal_plane(x, sigma)

    noise = sigma**2 * torch.eye(64, dtype=torch.float64)
    precision = 0.75 * torch.linalg.inv(axial + noise) + 0.25 * torch.linalg.inv(coronal + noise)
    assert torch.allclose(score(both, x, sigma).flatten(1), -x.flatten(1) @ precision, rtol=1e-9, atol=1e-9)


def test_perpendicular_takes_one_plane_a_level_and_the_product_on_average():
    planes, *_ = separable()
    mean = torch.zeros(1, 4, 4, dtype=torch.float64)
    each = [slicewise(GaussianPrior(mean, planes[0])), slicewise(GaussianPrior(mean, planes[1]), axis=3)]
    x, n = noisy((1, 4, 4, 4), 1), 2000
    both = perpendicular(*each, weights=(0.75, 0.25))
    alone = [one(x, 0.7) for one in each]
    # Levels so close together that their estimates are the same.
    levels = [0.7 + 1e-7 * i for i in range(n)]
    taken = [[torch.allclose(both(x, level), one, atol=5e-3) for one in alone] for level in levels]
    assert not torch.allclose(*alone, atol=0.1)
    assert all(sum(one) == 1 for one in taken)
    # Tossed 2000 times, though nearby levels may have the same float32: five standard errors of at least 250 tosses.
    assert abs(sum(one[0] for one in taken) / n - 0.75) < 0.14
    # A function of the level alone: a batch equals its items, whatever the type of the level.
    xs = noisy((1, 4, 4, 4), 3)
    several = torch.tensor([0.3, 1.0, 0.1], dtype=torch.float64)
    together = both(xs, several)
    for i, level in enumerate(several.tolist()):
        assert torch.allclose(together[i : i + 1], both(xs[i : i + 1], level), rtol=1e-12)
    assert torch.allclose(both(xs, 0.3), both(xs, torch.tensor(0.3)), atol=1e-6)


def test_perpendicular_of_one_prior_is_that_prior_and_bad_weights_are_refused():
    one = slicewise(gaussian((1, 4, 4)))
    x = noisy((1, 3, 4, 4), 2)
    assert torch.equal(perpendicular(one)(x, 0.4), one(x, 0.4))
    for weights in ((0.5, 0.6), (1.0,), (1.5, -0.5), (1.0, 0.0)):
        with pytest.raises(ValueError, match="2 priors need as many positive weights of sum 1"):
            perpendicular(one, one, weights=weights)
    with pytest.raises(ValueError, match="0 priors"):
        perpendicular()
