"""Laws of the noise: densities against SciPy, gradients against finite differences, proximal maps against their definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from medrecon.likelihood import Gaussian, Poisson, Rician, Transmission
from medrecon.operators import Detector, ParallelBeam, Weights, Whitening, sense
from medrecon.operators.linalg import dot

from .make.operators import coil_covariance, coil_maps, column_mask, random_tensor
from .make.posteriors import SHAPE, measured

ANGLES = torch.linspace(0, 3.0, 9, dtype=torch.float64)
A = ParallelBeam(ANGLES, (5, 6), spacing=0.2, dtype=torch.float64)
X = torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3
COILS = sense(coil_maps(1, 3, 5, 6), column_mask(6)[None, None, None])
Z = random_tensor(2, 2, 5, 6, dtype=torch.float64)


def counts(rate):
    return torch.poisson(rate, generator=torch.Generator().manual_seed(1))


STD = torch.tensor([0.2, 0.5], dtype=torch.float64)
LAWS = {
    "emission": (Poisson(A, counts(50 * A(X) + 2), counts_per_unit=50.0, background=2.0), X),
    "emission, no background": (Poisson(A, counts(50 * A(X)), counts_per_unit=50.0), X),
    "transmission": (Transmission(A, counts(200 * (-A(X)).exp()), photons=200.0), X),
    "transmission, scatter": (Transmission(A, counts(200 * (-A(X)).exp() + 20), photons=200.0, background=20.0), X),
    "rician": (Rician(COILS, (COILS(Z) + STD.view(2, 1, 1, 1) * random_tensor(2, 3, 5, 6)).abs() + 1e-3, STD), Z),
    "gaussian": (Gaussian(A, A(X) + 0.1 * random_tensor(2, 1, *A(X).shape[2:], dtype=torch.float64), 0.1), X),
}


def test_densities_are_scipys():
    data, x = LAWS["emission"]
    expected = scipy.stats.poisson.logpmf(data.y.numpy(), 50 * A(x).numpy() + 2).sum((1, 2, 3))
    assert torch.allclose(data.log_prob(x), torch.from_numpy(expected))
    data, x = LAWS["transmission, scatter"]
    expected = scipy.stats.poisson.logpmf(data.y.numpy(), 200 * (-A(x)).exp().numpy() + 20).sum((1, 2, 3))
    assert torch.allclose(data.log_prob(x), torch.from_numpy(expected))
    data, x = LAWS["rician"]
    std = STD.view(2, 1, 1, 1).numpy()
    expected = scipy.stats.rice.logpdf(data.y.numpy(), COILS(x).abs().numpy() / std, scale=std).sum((1, 2, 3))
    assert torch.allclose(data.log_prob(x), torch.from_numpy(expected))


def test_impossible_counts_have_no_probability():
    data, x = LAWS["emission, no background"]
    assert (data.log_prob(-x) == -math.inf).all()
    # From there gradient and proximal map lead back: at a weight that the data outdo, to where they are possible.
    assert data.grad(-x).isfinite().all() and (dot(data.grad(-x), x) > 0).all()
    near = data.prox(-x, 100.0, 100)
    assert (A(near) > -0.1 / 50).all()  # a ray without counts may have a rate of minus a tenth of one
    assert (A(near)[data.y > 0] > 0).all()
    hidden = Poisson(A, data.y + 1, counts_per_unit=0.0)  # counts that nothing explains
    assert data.prox(x, 1.0).isfinite().all() and hidden.prox(x, 1.0).isfinite().all()
    with pytest.raises(ValueError, match="counts where none can arrive"):
        Transmission(A, data.y + 1, photons=0.0).prox(x, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        data.prox(x * math.nan, 1.0)


@pytest.mark.parametrize("name", LAWS)
def test_gradient_against_finite_differences(name):
    data, x = LAWS[name]
    assert data.shape == tuple(x.shape)
    d = 1e-6 * random_tensor(*x.shape, dtype=torch.float64)
    assert torch.allclose(dot(data.grad(x), d), (data.log_prob(x + d) - data.log_prob(x - d)) / 2, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("var", [0.05, torch.tensor([0.01, 0.3], dtype=torch.float64)])
def test_prox_is_stationary_and_no_neighbour_is_better(name, var):
    data, x = LAWS[name]
    x = x + 0.05 * random_tensor(*x.shape, dtype=torch.float64)
    weight = 1 / var if isinstance(var, float) else (1 / var).view(2, 1, 1, 1)
    z = data.prox(x, var, 200)
    slope = -data.grad(z) + weight * (z - x)
    assert (dot(slope, slope).sqrt() < 1e-3 * dot(data.grad(x), data.grad(x)).sqrt()).all()

    def cost(v):
        return -data.log_prob(v) + (weight * (v - x) ** 2).flatten(1).sum(1) / 2

    for seed in range(5):
        step = 1e-2 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        assert (cost(z) <= cost(z + step)).all()
    # Items are their own: the other one's data do not matter.
    alone = data.prox(torch.cat([x[:1], x[1:] + 0.02]), var, 200)
    assert torch.allclose(alone[:1], z[:1], atol=1e-6)


def test_samples_that_were_not_taken_say_nothing():
    """A magnitude of 0 where the operator gives 0 does not change the density of the others."""
    data, z = LAWS["rician"]
    masked = Rician(COILS, data.y * (COILS(z).abs() > 0), STD)
    change, same = (law.log_prob(1.1 * z) - law.log_prob(z) for law in (data, masked))
    assert change.isfinite().all() and torch.allclose(change, same)


def test_no_photon_behind_a_thick_absorber():
    data = Transmission(A, torch.zeros_like(A(X)), photons=1e5)
    thick = 1e4 * X
    assert data.grad(thick).isfinite().all() and data.prox(thick, 1.0).isfinite().all()


def test_an_absorber_that_cannot_be_leads_back():
    """Line integrals of -1000, whose counts overflow: the gradient is finite and points up; the proximal map ends above -1."""
    data, _ = LAWS["transmission, scatter"]
    far = -1000 * X
    assert data.grad(far).isfinite().all() and (dot(data.grad(far), X) > 0).all()
    assert data.residual(far).isfinite().all()
    near = data.prox(far, 1e6, 200)
    assert (A(near) > -1).all()


def test_many_photons_are_a_weighted_gaussian():
    """The law of a log count tends to a Gaussian of variance one over the count."""
    photons = 1e9
    y = photons * (-A(X)).exp()
    lines = -(y / photons).log()
    d = 1e-5 * random_tensor(*X.shape, dtype=torch.float64)
    change = Transmission(A, y, photons=photons).log_prob(X + d) - Transmission(A, y, photons=photons).log_prob(X)
    gaussian = -(y * (lines - A(X + d)) ** 2).flatten(1).sum(1) / 2
    assert torch.allclose(change, gaussian, rtol=1e-3)


def test_strong_signals_lose_rices_bias():
    """Far above the noise a magnitude is the signal plus Gaussian noise along it."""
    data = Rician(COILS, COILS(Z).abs() + 0.01, 1e-3)
    along = COILS.adjoint(torch.sgn(COILS(Z)) * 0.01) / 1e-6
    assert torch.allclose(data.grad(Z), along, rtol=1e-2, atol=1e-2 * float(along.abs().max()))


def test_whitened_data_have_the_density_of_their_covariance():
    c = coil_covariance(3)
    W = Whitening(c)
    x = Z
    y = COILS(x) + 0.1 * random_tensor(2, 3, 5, 6)
    data = Gaussian(W @ COILS, W(y), 1.0)
    r = (y - COILS(x)).movedim(1, -1)
    expected = -(r.conj() @ torch.linalg.inv(c) * r).real.flatten(1).sum(1) / 2
    assert torch.allclose(data.log_prob(x), expected)
    n = W.forward(torch.linalg.cholesky(c) @ random_tensor(3, 40000).view(1, 3, 40000)) * 2**0.5
    white = (n[0] @ n[0].mH) / 40000 / 2
    # 40 000 draws: standard deviation 0.005 an entry.
    assert float((white - torch.eye(3)).abs().max()) < 0.03


@pytest.mark.slow
def test_transmission_foretells_the_counts_of_a_real_tooth(data_folder):
    """From measured counts, flats and darks of every other view, by maximum likelihood: the counts of the views between."""
    with np.load(data_folder / "kspace" / "ct_tooth_parallel_sino.npz") as scan:
        counts, white, dark = (
            torch.from_numpy(scan[key][..., 0, :].astype(np.float32)) for key in ("proj", "white", "dark")
        )
        angles, offset = torch.from_numpy(scan["theta_rad"]), (float(scan["centre"]) - 639 / 2) * 0.02
    photons, errors = white - dark, []
    for shift in (offset, -offset):
        seen, between = (
            ParallelBeam(part, (320, 320), Detector(640, 0.02, shift), 0.04) for part in (angles[::2], angles[1::2])
        )
        data = Transmission(seen, counts[None, None, ::2], 1.0, photons=photons, background=dark)
        x = data.prox(torch.zeros(1, 1, 320, 320), 1.0, n_iter=10)
        rate = photons * (-between(x)).exp() + dark
        errors.append(float((rate / counts[1::2] - 1).square().mean().sqrt()))
    # Measured 2.4 %, rings and drift of the lamp; 12 % with the rotation axis on the wrong side.
    assert errors[0] < 0.035
    assert errors[1] > 3 * errors[0]


def test_gaussian_likelihood_against_autograd_and_brute_force():
    _, data, matrix = measured(batch=2)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_prob(free).sum(), free)
    assert torch.allclose(data.grad(x), gradient, rtol=1e-10)
    var = torch.tensor([0.2, 0.7], dtype=torch.float64)
    z = data.prox(x, var).clone().requires_grad_()
    objective = -data.log_prob(z) + (z - x).square().sum((1, 2)) / (2 * var)
    (slope,) = torch.autograd.grad(objective.sum(), z)
    assert slope.abs().max() < 1e-8  # convex: a stationary point is the minimiser
    projected = replace(data, noise_std=0.0).prox(x, 0.3)
    assert (data.y - data.A(projected)).abs().max() < 1e-12
    null = torch.linalg.svd(matrix)[2][3:]
    assert ((projected - x).flatten(1) @ null.T).abs().max() < 1e-10  # moved within the range of A^H only


def test_zero_noise_per_item_is_the_projection():
    """A number, a 0-D tensor and one level per item give the same result."""
    A, y, x = Weights(torch.tensor([1.0, 0, 1, 0])), torch.tensor([[1.0, 0, 2, 0]]), torch.full((1, 4), 5.0)
    for noise_std in (0.0, torch.tensor(0.0), torch.tensor([0.0])):
        assert torch.equal(Gaussian(A, y, noise_std).prox(x, 1.0), torch.tensor([[1.0, 5, 2, 5]]))
