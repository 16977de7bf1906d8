"""What every linear operator must satisfy, for every row of ``cases.py``."""

import copy

import numpy as np
import pytest
import torch

from medrecon import operators
from medrecon.operators import LinearOperator, Operator, check_adjoint
from medrecon.operators.linalg import cg, dot

from ..make.compare import assert_close
from .cases import CASES


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def problem(request):
    operator, x = request.param.build()
    return operator, x, request.param.rtol


def test_adjoint(problem):
    operator, x, rtol = problem
    assert check_adjoint(operator, x) < rtol


def test_normal_is_adjoint_of_forward(problem):
    operator, x, rtol = problem
    assert_close(operator.normal(x), operator.adjoint(operator(x)), rtol)


def test_energy_is_the_squared_length_of_the_measurements(problem):
    operator, x, rtol = problem
    y = operator(x)
    assert_close(operator.norm_squared(x), dot(y, y), max(rtol, 1e-12))


def test_a_few_iterations_are_those_of_conjugate_gradients(problem):
    """``solve`` skips work in its last iteration; the result must be that of plain conjugate gradients."""
    operator, x, rtol = problem
    rho = torch.linspace(0.3, 0.7, len(x), dtype=torch.float64)
    weight = rho.view(-1, *[1] * (x.ndim - 1))
    if type(operator).solve is not LinearOperator.solve:
        pytest.skip("solves in closed form, or by another operator's way")
    plain = cg(lambda z: operator.normal(z) + weight * z, x, None, 3)
    assert_close(operator.solve(x, rho, None, 3), plain, max(rtol, 1e-10))


def test_solve_solves_with_a_weight_per_item(problem):
    operator, x, rtol = problem
    rho = torch.linspace(0.3, 0.7, len(x), dtype=torch.float64)
    # 200 iterations: more than unknowns per item that matter, so conjugate gradients are exact to rounding.
    z = operator.solve(x, rho, n_iter=200)
    assert_close(operator.normal(z) + rho.view(-1, *[1] * (x.ndim - 1)) * z, x, rtol)
    assert_close(operator.solve(x, rho, x=x, n_iter=200), z, 1e-9)


def test_pinv_reproduces_measurements_and_is_least_norm(problem):
    operator, x, _ = problem
    y = operator(x)
    z = operator.pinv(y, n_iter=400)
    # Conjugate gradients stop at a relative residual of 1e-14 of the squared problem.
    assert_close(operator(z), y, 1e-8)
    # Least norm: z is orthogonal to the null-space component of x.
    assert (dot(z, x - z).abs() <= 1e-7 * dot(x, x)).all()


def test_gradient_by_autograd_is_the_adjoint(problem):
    operator, x, rtol = problem
    y = operator(x)
    v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
    by_hand = operator.vjp(x, v)
    assert_close(Operator.vjp(operator, x, v), by_hand, rtol)


def test_batch_equals_its_items(problem):
    operator, x, _ = problem
    together = operator.solve(x, 0.1, n_iter=7)
    for i in range(len(x)):
        others = x.clone()
        others[np.arange(len(x)) != i] *= 100.0
        assert_close(operator.solve(others, 0.1, n_iter=7)[i], together[i], 1e-9)


def test_half_precision_changes_nothing(problem):
    """A network that is cast to half precision may hold an operator."""
    operator, x, _ = problem
    expected = operator(x)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(copy.deepcopy(operator).to(dtype)(x), expected)


def test_state_moves_with_the_module(problem):
    operator, _, _ = problem
    operator = operator.to("meta")
    assert all(buffer.device.type == "meta" for buffer in operator.buffers())


def test_single_precision_is_the_same_operator(problem):
    """`.float()` of a module keeps complex buffers complex; a NUFFT keeps its type and raises an error that names it."""
    operator, x, _ = problem
    y = operator(x)
    image = x.to(torch.complex64 if x.is_complex() else torch.float32)
    if "NUFFT" in str(operator):
        with pytest.raises(ValueError, match=r"construct it with dtype=torch\.complex64"):
            operator.float()(image)
        return
    single = operator.float()(image)
    assert single.dtype in (torch.float32, torch.complex64)
    assert float((single - y).abs().max()) < 1e-4 * max(1.0, float(y.abs().max()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu(problem):
    A, x, rtol = problem
    y, back = A(x), A.normal(x)
    if "finufft" in str(getattr(A, "backend", "")).lower():
        with pytest.raises(ValueError, match="works on the CPU"):
            A.to("cuda")
        return
    A = A.to("cuda")
    assert_close(A(x.cuda()).cpu(), y, max(rtol, 1e-10))
    assert_close(A.normal(x.cuda()).cpu(), back, max(rtol, 1e-10))
    assert check_adjoint(A, x.cuda()) < max(rtol, 1e-10)


def test_a_copy_is_an_operator_of_its_own(problem):
    A, x, _ = problem
    y = A(x)
    other = copy.deepcopy(A)
    assert torch.equal(other(x), y)
    assert torch.equal(other.adjoint(y), A.adjoint(y))
    for mine, its in zip(A.buffers(), other.buffers(), strict=True):
        assert mine.layout == torch.sparse_csr or not mine.numel() or mine.data_ptr() != its.data_ptr()
    other.to("meta")
    assert torch.equal(A(x), y)


def test_a_gradient_that_comes_conjugated(problem):
    operator, x, _ = problem
    x = x.requires_grad_()
    y = operator(x)
    value = dot(y, y.detach()).sum()
    (grad,) = torch.autograd.grad(value, x)
    assert_close(grad, operator.adjoint(y.detach()), 1e-7)


def test_every_operator_has_a_case():
    bases = {"LinearOperator", "Projector", "Spectral"}
    classes = [cls for name in operators.__all__ if isinstance(cls := getattr(operators, name), type)]
    names = {cls.__name__ for cls in classes if issubclass(cls, LinearOperator)}
    tested = {type(module).__name__ for case in CASES for module in case.build()[0].modules()}
    assert not names - tested - bases, f"add rows of {names - tested - bases} to tests/operators/cases.py"
