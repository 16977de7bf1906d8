"""Single precision at small noise: what an operator does not see stays what it was, however small the weight ``rho``."""

import copy

import pytest
import torch

from medrecon.data.phantom import loop_coils
from medrecon.likelihood import Gaussian, Rician
from medrecon.operators import Blur, CartesianMRI, Slices, Spectral, sense
from medrecon.operators.bridge import AsComplex
from medrecon.operators.linalg import dot

from .cases import CASES

EPS = torch.finfo(torch.float32).eps
NOISE = (1e-2, 1e-4, 1e-6, 0.0)
# NUFFTs are made for one type; tests/operators/test_nufft.py compares their types.
TYPED = [case for case in CASES if "NUFFT" not in case.name and "nufft" not in case.name]


def single(t):
    return t.to(torch.complex64 if t.is_complex() else torch.float32)


def seen(operator):
    """Singular values that are not 0."""
    inner = operator
    while not isinstance(inner, Spectral | Blur):
        inner = inner.A if isinstance(inner, Slices) else inner.outer
    values = inner.spectrum.abs() if isinstance(inner, Blur) else inner.singular
    return values[values > 0]


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize("case", TYPED, ids=lambda case: case.name)
def test_fit_is_the_same_in_single_precision(case, noise_std):
    operator, x = case.build()
    generator = torch.Generator().manual_seed(7)
    y = operator(x)
    y = y + noise_std * torch.randn(y.shape, dtype=y.dtype, generator=generator)
    near = x + 0.3 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    rho = noise_std**2
    exact = Gaussian(operator, y, noise_std)
    expected = exact.fit(near, rho, 10)
    result = Gaussian(copy.deepcopy(operator).float(), single(y), noise_std).fit(single(near), rho, 10)
    assert result.dtype == single(near).dtype
    if not operator.closed_form:
        # In single precision conjugate gradients lose the orthogonality of their directions, and with it an iteration or two of
        # ten where singular values differ much (Greenbaum, 1989): what counts is the objective that they reach.
        def objective(z):
            r, away = exact.residual(z), z - near
            return dot(r, r) + rho * dot(away, away)

        behind = objective(exact.fit(near, rho, 7))
        assert (objective(result.to(x.dtype)) < behind + 1e-6 * objective(near)).all()
        return
    # Masks and everything well conditioned: 1e-4 flat. Else rounding of y passes with the largest gain.
    s = seen(operator)
    tolerance = 1e-4 + (0.0 if s.min() >= 0.1 else 10 * EPS * float((s / (s**2 + rho)).max()))
    assert float((result - expected).abs().max()) < tolerance * float(expected.abs().max())


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize("points", [False, True])
def test_sense_fits_the_same_image_in_single_precision(points, noise_std):
    """Eight coils at R = 2 to 3: well conditioned, so that the iterates agree as well."""
    maps = torch.from_numpy(loop_coils((48, 44), 8))[None].to(torch.complex128)
    rows = 48 if points else 1
    mask = torch.rand(1, 1, rows, 44, generator=torch.Generator().manual_seed(0)) < 0.4
    x = torch.randn(1, 2, 48, 44, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in (torch.float64, torch.float32):
        exact, A = sense(maps, mask), sense(maps.to(dtype.to_complex()), mask)
        y = exact(x) + noise_std * torch.randn((), dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
        results.append(
            Gaussian(A, (y * mask).to(dtype.to_complex()), noise_std).fit(0.9 * x.to(dtype), noise_std**2, 10)
        )
    assert float((results[0] - results[1]).abs().max()) < 1e-4 * float(x.abs().max())


@pytest.mark.parametrize("noise_std", [3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-8, 0.0])
@pytest.mark.parametrize("coils", [0, 1])
def test_what_one_coil_does_not_see_stays_as_it_was(coils, noise_std):
    """By the closed form and, through maps of one coil, by conjugate gradients."""
    n = 64
    mask = torch.rand(1, 1, 1, n, generator=torch.Generator().manual_seed(0)) < 0.3
    maps = torch.ones(1, 1, n, n, dtype=torch.complex64) if coils else None
    A = sense(maps, mask, (n, n))
    x = torch.randn(1, 2, n, n, generator=torch.Generator().manual_seed(1))
    near = torch.randn(1, 2, n, n, generator=torch.Generator().manual_seed(2))
    z = Gaussian(A, A(x), noise_std).fit(near, noise_std**2, 10)
    full = sense(None, torch.ones(1, 1, 1, n, dtype=torch.bool), (n, n))
    hidden = full(z - near) * ~mask
    # Rounding of two FFTs; dividing the rounding of the right-hand side by rho would leave 10 and more.
    assert float(hidden.abs().max()) < 20 * EPS * float(near.abs().max())


def test_pinv_is_tikhonovs_estimate():
    """Against the dense normal equations, for every operator that has a form of its own."""
    for case in CASES:
        operator, x = case.build()
        if not operator.closed_form or x.is_complex():
            continue
        one = x[:1]
        batch = torch.eye(one.numel(), dtype=x.dtype).view(-1, *one.shape[1:])
        # Operators with parameters per item take batches of that size only.
        if "per item" in case.name:
            continue
        matrix = operator(batch).flatten(1)
        if matrix.is_complex():
            matrix = torch.view_as_real(matrix).flatten(1)
        y = operator(one + 0.1)
        flat = torch.view_as_real(y).flatten() if y.is_complex() else y.flatten()
        for rho in (0.3, torch.tensor([1e-3], dtype=x.dtype)):
            normal = matrix @ matrix.T + float(rho) * torch.eye(len(matrix), dtype=x.dtype)
            expected = torch.linalg.solve(normal, matrix @ flat)
            assert torch.allclose(operator.pinv(y, rho=rho).flatten(), expected, atol=1e-9), case.name


def test_a_weight_per_item():
    A = CartesianMRI(torch.rand(1, 1, 8, 9, generator=torch.Generator().manual_seed(0)) < 0.5, (8, 9)) @ AsComplex()
    y = A(torch.randn(3, 2, 8, 9, generator=torch.Generator().manual_seed(1)))
    rho = torch.tensor([0.0, 1e-3, 10.0])
    together = A.pinv(y, rho=rho)
    for i in range(3):
        assert torch.equal(A.pinv(y[i : i + 1], rho=float(rho[i])), together[i : i + 1])


def test_rician_prox_in_single_precision():
    """A mask that misses most of k-space, noise of 1e-4: the expectation-maximisation rounds solve with a tiny weight."""
    mask = torch.rand(1, 1, 12, 14, generator=torch.Generator().manual_seed(0)) < 0.4
    x = torch.randn(1, 2, 12, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in (torch.float64, torch.float32):
        A = sense(None, mask, (12, 14), torch.complex128 if dtype == torch.float64 else torch.complex64)
        y = A(x.to(dtype)).abs()
        results.append(Rician(A, y, 1e-4).prox(0.9 * x.to(dtype), 1.0, 5))
    assert float((results[0] - results[1]).abs().max()) < 1e-4 * float(x.abs().max())
