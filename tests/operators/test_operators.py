"""What every linear operator must satisfy, for every row of ``cases.py``."""

import copy

import numpy as np
import pytest
import torch

from medrecon.operators import CartesianMRI, LinearOperator, Operator, check_adjoint, sense
from medrecon.operators.fourier import centring, fft, ifft
from medrecon.operators.linalg import cg, dot, operator_norm

from .cases import CASES, _columns, _maps, _points, _random


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def problem(request):
    operator, x = request.param.build()
    return operator, x, request.param.rtol


def close(a, b, rtol):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= rtol * max(1.0, float(b.abs().max()))


def test_adjoint(problem):
    operator, x, rtol = problem
    assert check_adjoint(operator, x) < rtol


def test_normal_is_adjoint_of_forward(problem):
    operator, x, rtol = problem
    close(operator.normal(x), operator.adjoint(operator(x)), rtol)


def test_energy_is_the_squared_length_of_the_measurements(problem):
    operator, x, rtol = problem
    y = operator(x)
    close(operator.norm_squared(x), dot(y, y), max(rtol, 1e-12))


def test_a_few_iterations_are_those_of_conjugate_gradients(problem):
    """The last one takes a shorter way: the iterate must be that of one more, stopped before its step."""
    operator, x, rtol = problem
    rho = torch.linspace(0.3, 0.7, len(x), dtype=torch.float64)
    weight = rho.view(-1, *[1] * (x.ndim - 1))
    if type(operator).solve is not LinearOperator.solve:
        pytest.skip("solves in closed form, or by another operator's way")
    plain = cg(lambda z: operator.normal(z) + weight * z, x, None, 3)
    close(operator.solve(x, rho, None, 3), plain, max(rtol, 1e-10))


def test_solve_solves_with_a_weight_per_item(problem):
    operator, x, rtol = problem
    rho = torch.linspace(0.3, 0.7, len(x), dtype=torch.float64)
    # 200 iterations: more than unknowns per item that matter, so conjugate gradients are exact to rounding.
    z = operator.solve(x, rho, n_iter=200)
    close(operator.normal(z) + rho.view(-1, *[1] * (x.ndim - 1)) * z, x, rtol)
    close(operator.solve(x, rho, x=x, n_iter=200), z, 1e-9)


def test_pinv_reproduces_measurements_and_is_least_norm(problem):
    operator, x, _ = problem
    y = operator(x)
    z = operator.pinv(y, n_iter=400)
    close(operator(z), y, 1e-8)  # conjugate gradients stop at a relative residual of 1e-14 of the squared problem
    # Least norm: z is orthogonal to the null-space component of x.
    assert (dot(z, x - operator.pinv(operator(x), n_iter=400)).abs() <= 1e-7 * dot(x, x)).all()


def test_gradient_by_autograd_is_the_adjoint(problem):
    operator, x, rtol = problem
    y = operator(x)
    v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
    by_hand = operator.vjp(x, v)
    close(Operator.vjp(operator, x, v), by_hand, rtol)


def test_batch_equals_its_items(problem):
    operator, x, _ = problem
    together = operator.solve(x, 0.1, n_iter=7)
    for i in range(len(x)):
        others = x.clone()
        others[np.arange(len(x)) != i] *= 100.0
        close(operator.solve(others, 0.1, n_iter=7)[i], together[i], 1e-9)


def test_state_moves_with_the_module(problem):
    operator, _, _ = problem
    operator = operator.to("meta")
    assert all(buffer.device.type == "meta" for buffer in operator.buffers())


def test_single_precision_is_the_same_operator(problem):
    """`.float()` of a module keeps complex buffers complex; a NUFFT keeps its type, and says so."""
    operator, x, _ = problem
    y = operator(x)
    image = x.to(torch.complex64 if x.is_complex() else torch.float32)
    if "NUFFT" in str(operator):
        with pytest.raises(ValueError, match=r"make it with dtype=torch\.complex64"):
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
    close(A(x.cuda()).cpu(), y, max(rtol, 1e-10))
    close(A.normal(x.cuda()).cpu(), back, max(rtol, 1e-10))
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
    close(grad, operator.adjoint(y.detach()), 1e-7)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (5, 8), (1, 3)])
def test_centring_folds_the_shifts(shape):
    x = _random(2, *shape)
    image, kspace = centring(shape, torch.complex128)
    close(kspace * torch.fft.fftn(image * x, dim=(-2, -1), norm="ortho"), fft(x, (-2, -1)), 1e-12)
    close(ifft(fft(x, (-2, -1)), (-2, -1)), x, 1e-12)


@pytest.mark.parametrize("n", [7, 8])
def test_fft_is_the_centred_dft(n):
    k = np.arange(n) - n // 2
    matrix = torch.from_numpy(np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n))
    x = _random(3, n)
    close(fft(x, (-1,)), x @ matrix.T, 1e-12)


@pytest.mark.parametrize("shape", [(31, 33), (32, 30), (7, 8, 9)])
def test_sense_equals_sigpy(shape):
    from sigpy.mri.linop import Sense

    maps, mask = _maps(1, 4, *shape).to(torch.complex64), _points(*shape)
    A = sense(maps, mask[None, None]).outer
    x = _random(1, 1, *shape).to(torch.complex64)
    theirs = Sense(maps[0].numpy(), weights=mask.numpy().astype(np.float32))
    # Sense weighs by the root of its weights, which for 0 and 1 are themselves; float32 FFTs agree to a few 1e-7.
    y = A(x)
    assert np.abs(y[0].numpy() - theirs(x[0, 0].numpy())).max() < 1e-5
    assert np.abs(A.adjoint(y)[0, 0].numpy() - theirs.H(y[0].numpy())).max() < 1e-5


def test_normal_transforms_only_where_the_mask_varies():
    for shape in ((8, 9), (7, 6)):
        A = sense(_maps(1, 3, *shape), _columns(shape[1])[None, None, None])
        assert A.outer.varying == (-1,)
        assert sense(_maps(1, 3, *shape), torch.ones(1, 1, 1, 1)).outer.varying == ()


def test_norm_is_at_most_one_for_normalised_maps_and_found_by_power_iteration():
    A = sense(_maps(2, 3, 8, 9), _columns(9)[None, None, None])
    x = _random(2, 2, 8, 9, dtype=torch.float64)
    dense = torch.stack(
        [A.normal(e.view(1, 2, 8, 9).expand(2, -1, -1, -1)).flatten(1) for e in torch.eye(144, dtype=torch.float64)], 2
    )
    top = torch.linalg.eigvalsh(dense).amax(-1).sqrt()
    found = operator_norm(A.normal, x, 200)
    assert (found <= top + 1e-12).all()
    assert (found > 0.99 * top).all()
    assert (top <= 1 + 1e-12).all()


def test_frames_and_sets_are_what_they_are_alone():
    maps, shape = _maps(1, 3, 7, 8), (7, 8)
    masks = torch.stack([_columns(8, s) for s in range(3)])
    x = _random(2, 6, *shape, dtype=torch.float64)
    y = sense(maps, masks[None, :, None, None])(x)
    for t in range(3):
        close(y[:, t], sense(maps, masks[t][None, None, None])(x[:, 2 * t : 2 * t + 2]), 1e-12)
    both = torch.stack([maps, maps.flip(1)], dim=1)
    mask = masks[0][None, None, None]
    alone = sense(maps, mask)(x[:, :2]) + sense(maps.flip(1), mask)(x[:, 2:4])
    close(sense(both, mask)(x[:, :4]), alone, 1e-12)


def test_cg_is_hermitian_and_per_item():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 12, 12, dtype=torch.complex128, generator=generator)
    matrix = root @ root.mH + 0.1 * torch.eye(12)
    b = torch.randn(3, 12, dtype=torch.complex128, generator=generator)
    x = cg(lambda v: (matrix @ v[..., None])[..., 0], b, n_iter=60)
    close(x, torch.linalg.solve(matrix, b), 1e-8)
    # One item with zero right-hand side must neither move nor disturb the others.
    b[1] = 0
    y = cg(lambda v: (matrix @ v[..., None])[..., 0], b, n_iter=60)
    assert (y[1] == 0).all()
    close(y[[0, 2]], x[[0, 2]], 1e-12)


def test_errors_name_both_sides():
    with pytest.raises(ValueError, match="shape"):
        sense(_maps(1, 3, 8, 9), torch.ones(1, 1, 1, 8))
    with pytest.raises(ValueError, match="maps or the spatial shape"):
        sense(None, torch.ones(1, 1, 1, 8))
    with pytest.raises(ValueError, match="batch axis"):
        sense(_maps(1, 3, 8, 9)[0], torch.ones(1, 1, 1, 9))
    assert isinstance(sense(None, torch.ones(1, 1, 1, 8), (4, 8)).outer, CartesianMRI)
