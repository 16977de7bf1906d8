"""ADMM along z: its differences, its fixed point against optimality conditions and closed forms, warm starts."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.operators import check_adjoint
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.solvers.admm import Splitting, Z, z_objective, z_step

from ..make.posteriors import Dense, dense

DOUBLE = torch.float64


def volume(batch=2, shape=(2, 5, 3, 4), seed=0, dtype=DOUBLE):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def data_of(x, noise_std=0.3, matrix=None):
    n = x[0].numel()
    matrix = torch.eye(n, dtype=DOUBLE) if matrix is None else matrix
    A = Dense(matrix.to(x.dtype), tuple(x.shape[1:]))
    return Gaussian(A, A(x), noise_std)


def iterate(n, x, data, rho, variables=None, **settings):
    for _ in range(n):
        z, variables = z_step(x, data, rho, variables, **settings)
    return z, variables


def test_differences_along_z_do_not_join_the_ends():
    x = volume()
    assert check_adjoint(Z, x) < 1e-14
    ramp = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 2, 5, 3, 4)
    assert torch.equal(Z(ramp)[0, 0, :, :4], torch.ones(2, 4, 3, 4))
    assert torch.equal(Z(ramp)[0, 0, :, 4], torch.zeros(2, 3, 4))
    # Changing the last slice moves the divergence at the last two alone.
    p = Z(x)
    other = x.clone()
    other[:, :, -1] += 1
    changed = (Z.adjoint(Z(other)) - Z.adjoint(p)).abs().amax((0, 1, 3, 4))
    assert (changed[:3] == 0).all() and (changed[3:] > 0).all()


@pytest.mark.parametrize("noise_std", [0.3, torch.tensor([0.3, 0.05], dtype=DOUBLE)], ids=["", "per item"])
def test_kept_variables_converge_to_the_optimum(noise_std):
    """Stationarity ``A^H (A z - y) + rho (z - x) + D^H p = 0`` with ``p`` a subgradient of ``lam |D z|``, to 1e-6."""
    x, n = volume(shape=(2, 5, 3, 2)), 60
    matrix = dense(25, n, seed=3)
    data = data_of(volume(shape=(2, 5, 3, 2), seed=4), noise_std, matrix)
    rho, strength, threshold = 0.3, 1.5, 0.3
    z, variables = iterate(600, x, data, rho, strength=strength, threshold=threshold, n_cg=20)
    lam = strength * torch.as_tensor(noise_std).view(-1, 1, 1, 1, 1, 1) ** 2
    p = lam / threshold * variables.u
    gradient = data.A.adjoint(data.A(z) - data.y) + rho * (z - x) + Z.adjoint(p)
    assert gradient.abs().max() < 1e-6
    assert (Z(z) - variables.d).abs().max() < 1e-6
    size = variables.d.norm(dim=2, keepdim=True)
    assert 0.05 < (size > 0).double().mean() < 0.9  # some differences vanish, others do not
    assert torch.allclose(p, torch.where(size > 0, lam * variables.d / size, p), atol=1e-6)
    assert (p.norm(dim=2, keepdim=True) <= lam * (1 + 1e-9)).all()
    # One iteration a level, as solvers take it, from variables that are kept; and no other volume has a lower objective.
    best = z_objective(z, x, data, rho, strength)
    for seed in range(5):
        assert (z_objective(z + 0.01 * volume(shape=(2, 5, 3, 2), seed=seed), x, data, rho, strength) > best).all()


def test_two_slices_have_a_closed_form():
    """A = I: the difference of the weighted mean of data and centre is shrunk by 2 lam / (1 + rho), as a complex number."""
    x, y = volume(1, (2, 2, 3, 3), 1), volume(1, (2, 2, 3, 3), 2)
    data, rho = data_of(y), 0.5
    lam = 5 * 0.3**2
    z, _ = iterate(500, x, data, rho, strength=5.0, threshold=0.3, n_cg=20)
    mean = (y + rho * x) / (1 + rho)
    gap = mean[:, :, 1] - mean[:, :, 0]
    size = gap.norm(dim=1, keepdim=True)
    shrunk = gap * (size - 2 * lam / (1 + rho)).clamp(min=0) / size
    assert 0 < (shrunk != 0).double().mean() < 1
    assert torch.allclose(z[:, :, 1] - z[:, :, 0], shrunk, atol=1e-8)
    assert torch.allclose(z.mean(2), mean.mean(2), atol=1e-8)


def test_a_large_weight_gives_a_volume_that_is_constant_along_z():
    x, y = volume(seed=1), volume(seed=2)
    z, _ = iterate(3, x, data_of(y), 0.5, strength=1e6, threshold=0.1, n_cg=200)
    assert torch.allclose(z, ((y + 0.5 * x) / 1.5).mean(2, keepdim=True).expand_as(z), atol=1e-5)


def test_without_weight_it_is_the_fit_of_dds():
    x, data = volume(seed=1), data_of(volume(seed=2), matrix=dense(25, 120))
    z, variables = z_step(x, data, 0.1, None, strength=0.0, threshold=0.1, n_cg=4)
    assert variables is None and torch.equal(z, data.fit(x, 0.1, 4))
    # The limit of small weights, with iterations enough for both.
    near, _ = z_step(x, data, 0.1, None, strength=1e-9, threshold=0.1, n_cg=60)
    assert torch.allclose(near, data.fit(x, 0.1, 60), atol=1e-6)


def test_kept_variables_matter_and_are_not_changed():
    x, data = volume(seed=1), data_of(volume(seed=2))
    settings = {"strength": 0.5, "threshold": 0.1, "n_cg": 10}
    _, first = z_step(x, data, 0.1, None, **settings)
    copies = Splitting(*(t.clone() for t in first))
    again, _ = z_step(x, data, 0.1, first, **settings)
    assert all(torch.equal(a, b) for a, b in zip(first, copies, strict=True))
    assert not torch.allclose(again, z_step(x, data, 0.1, None, **settings)[0], atol=1e-3)


def test_a_batch_equals_its_items_and_precision_is_single_to_single_round_off():
    x, y = volume(3, seed=1), volume(3, seed=2)
    y[1] *= 100
    data = data_of(y, torch.tensor([0.3, 0.1, 0.02], dtype=DOUBLE))
    settings = {"strength": 0.5, "threshold": 0.1, "n_cg": 5}
    z, _ = iterate(4, x, data, 0.1, **settings)
    for i in range(3):
        one = Gaussian(data.A, data.y[i : i + 1], float(data.noise_std[i]))
        alone, _ = iterate(4, x[i : i + 1], one, 0.1, **settings)
        assert torch.allclose(alone[0], z[i], rtol=1e-9, atol=1e-9)
    single, _ = iterate(4, x.float(), data_of(y.float(), torch.tensor([0.3, 0.1, 0.02])), 0.1, **settings)
    for i in range(3):
        assert (single[i] - z[i]).abs().max() < 1e-5 * z[i].abs().max()


def test_a_single_slice_has_no_neighbours():
    x, y = volume(1, (2, 1, 3, 4), 1), volume(1, (2, 1, 3, 4), 2)
    data = data_of(y)
    assert torch.allclose(
        z_step(x, data, 0.1, None, strength=5.0, threshold=0.1, n_cg=20)[0], data.fit(x, 0.1, 20), atol=1e-12
    )
    spectral = Gaussian(SpectralDense(torch.eye(24, dtype=DOUBLE), (2, 1, 3, 4)), y.flatten(1), 0.0)
    assert torch.allclose(z_step(x, spectral, 0.0, None, strength=5.0, threshold=0.1, n_cg=20)[0], y, atol=1e-9)
