"""Operators that know their decomposition: U and V unitary, and their product the operator."""

import pytest
import torch

from medrecon.operators import Dense, Separable, Spectral, check_adjoint
from medrecon.operators.linalg import dot

from ..make.operators import random_tensor
from .cases import CASES

SPECTRAL = [case for case in CASES if isinstance(case.build()[0], Spectral)]


@pytest.fixture(params=SPECTRAL, ids=lambda case: case.name)
def problem(request):
    return request.param.build()


def test_there_are_all_that_ddrm_needs():
    names = " ".join(case.name for case in SPECTRAL)
    for part in ("sense without maps", "CartesianMRI", "Weights", "mean", "gaussian_blur", "Dense"):
        assert part in names


def test_v_is_unitary(problem):
    A, x = problem
    c = A.vh(x)
    assert torch.allclose(A.v(c), x, atol=1e-12)
    assert torch.allclose(dot(c, c), dot(x, x))


def test_u_is_unitary_where_singular_values_are_not_zero(problem):
    A, x = problem
    seen = (A.singular > 0).expand_as(A.vh(x))
    c = torch.where(seen, A.vh(x), 0)
    y = A.u(c)
    assert torch.allclose(dot(y, y), dot(c, c))
    assert torch.allclose(A.uh(y), c, atol=1e-12)
    assert (A.uh(torch.randn_like(y))[~seen] == 0).all()


def test_the_decomposition_is_the_operator(problem):
    A, x = problem
    assert torch.allclose(A.u(A.singular * A.vh(x)), A(x), atol=1e-12)
    assert check_adjoint(A, x) < 1e-12
    z = A.solve(A.adjoint(A(x)), 0.0)  # pseudo-inverse of the normal operator: the projection onto what A sees
    assert torch.allclose(z, A.pinv(A(x)), atol=1e-9)


def test_complex_matrices_have_their_conjugates():
    M = random_tensor(4, 6)
    A = Dense(M, (1, 6))
    x, y = random_tensor(2, 1, 6), random_tensor(2, 4)
    assert torch.allclose(A(x), x.flatten(1) @ M.T)
    assert torch.allclose(A.adjoint(y).flatten(1), y @ M.conj())
    left, right = random_tensor(3, 5), random_tensor(4, 6)
    S = Separable([left, right])
    z = random_tensor(2, 1, 3, 4)
    assert torch.allclose(S.adjoint(z)[:, 0], left.mH @ z[:, 0] @ right.conj())
