"""Warps and moving heads against images that were moved by other means."""

import math

import pytest
import torch

from medrecon.operators import Blur, Poses, Warp, implicit_solve, moving_sense, rigid_field, sense
from medrecon.operators.image import gaussian_kernel

from ..make.operators import coil_maps, column_mask, random_tensor


def bump(shape, centre, width=3.0):
    """A Gaussian ellipse at ``centre`` (y, x) from the middle, long along x."""
    y, x = torch.meshgrid(*[torch.arange(n).double() - (n - 1) / 2 for n in shape], indexing="ij")
    return torch.exp(-(((y - centre[0]) / width) ** 2 + ((x - centre[1]) / (2 * width)) ** 2) / 2)[None, None]


def test_whole_pixels_are_exact():
    x = random_tensor(1, 1, 9, 8, dtype=torch.float64)
    moved = Warp(
        rigid_field((9, 8), torch.zeros(1, dtype=torch.float64), torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    )(x)
    assert torch.allclose(moved[..., 2:, :-3], x[..., :-2, 3:], atol=1e-12)
    assert (moved[..., :2, :] == 0).all() and (moved[..., -3:] == 0).all()
    quarter = Warp(
        rigid_field((7, 7), torch.tensor([math.pi / 2], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    )
    z = random_tensor(1, 1, 7, 7, dtype=torch.float64)
    assert torch.allclose(quarter(z), torch.rot90(z, 1, (2, 3)), atol=1e-9)  # counter-clockwise on the screen


def test_an_object_turns_about_the_centre_and_then_shifts():
    angle, shift = 0.4, (3.0, -2.0)
    field = rigid_field(
        (64, 60), torch.tensor([angle], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64)
    )
    moved = Warp(field)(bump((64, 60), (6.0, 10.0)))[0, 0]
    y, x = torch.meshgrid(*[torch.arange(n).double() - (n - 1) / 2 for n in (64, 60)], indexing="ij")
    centre = [float((moved * c).sum() / moved.sum()) for c in (y, x)]
    # Up is towards the negative y index.
    expected_y = shift[0] + 6.0 * math.cos(angle) - 10.0 * math.sin(angle)
    expected_x = shift[1] + 10.0 * math.cos(angle) + 6.0 * math.sin(angle)
    assert abs(centre[0] - expected_y) < 0.05 and abs(centre[1] - expected_x) < 0.05  # of bilinear interpolation


def test_poses_of_a_smooth_object_are_those_of_its_formula():
    """A Gaussian is band-limited to rounding here and far from the borders, so the three shears turn it exactly."""
    angle, (ty, tx) = 0.5, (3.3, -2.6)
    there = Poses((64, 60), torch.tensor([[angle]]).double(), torch.tensor([[[ty, tx]]]).double())(
        bump((64, 60), (2.0, 3.0), 2.0).to(torch.complex128)
    )
    y, x = torch.meshgrid(*[torch.arange(n).double() - (n - 1) / 2 for n in (64, 60)], indexing="ij")
    y, x = y - ty, x - tx
    y, x = math.cos(angle) * y + math.sin(angle) * x, math.cos(angle) * x - math.sin(angle) * y
    expected = torch.exp(-(((y - 2.0) / 2.0) ** 2 + ((x - 3.0) / 4.0) ** 2) / 2)
    assert (there[0, 0] - expected).abs().max() < 1e-5  # its tails reach the borders


def test_a_head_that_holds_still_is_sense():
    maps, shape = coil_maps(1, 3, 8, 9), (8, 9)
    masks = torch.stack([(torch.arange(9) % 2 == s)[None] for s in range(2)])
    still = moving_sense(maps, masks, torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    x = random_tensor(2, 2, *shape, dtype=torch.float64)
    assert torch.allclose(still(x), sense(maps, torch.ones(1, 1, 1, 9))(x), atol=1e-12)
    with pytest.raises(ValueError, match="every shot"):
        moving_sense(maps, masks, torch.zeros(3), torch.zeros(2, 2))


def test_a_gradient_in_the_field():
    x = bump((6, 7), (1.0, 0.5), 2.0)
    field = (0.3 * random_tensor(1, 2, 6, 7, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: Warp(f)(x), field)
    assert torch.autograd.gradcheck(lambda f: Warp(f).adjoint(x), field)
    assert torch.autograd.gradcheck(lambda f: implicit_solve(Warp(f), x, 0.5, n_iter=200), field)


def test_implicit_gradients_are_those_of_the_solution():
    """In the right-hand side, the weight and the operator's own parameters."""
    b = random_tensor(2, 1, 7, 6, dtype=torch.float64)
    kernel = gaussian_kernel(0.4, dtype=torch.float64)[1:-1, 1:-1]
    kernel = kernel + 0.1 * random_tensor(*kernel.shape, dtype=torch.float64)
    rho = torch.tensor([0.3, 0.5], dtype=torch.float64)

    class Iterated(Blur):
        """Without its closed form."""

        def solve(self, *args, **kwargs):
            return super(Blur, self).solve(*args, **kwargs)

    def solution(b, rho, kernel):
        return implicit_solve(Iterated(kernel, (7, 6)), b, rho, n_iter=200)

    inputs = tuple(t.clone().requires_grad_() for t in (b, rho, kernel))
    assert torch.autograd.gradcheck(solution, inputs, atol=1e-6)
    closed = Blur(kernel, (7, 6)).solve(b, rho)
    assert torch.allclose(solution(b, rho, kernel), closed, atol=1e-9)


def test_implicit_solve_in_mri():
    A = sense(coil_maps(1, 3, 6, 7), column_mask(7)[None, None, None])
    b = random_tensor(1, 2, 6, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: implicit_solve(A, b, 0.2, n_iter=200), b)
    (once,) = torch.autograd.grad(implicit_solve(A, b, 0.2).square().sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated"):  # and no silent zero
        torch.autograd.grad(once.sum(), b)


def test_implicit_solve_keeps_the_same_however_many_iterations_it_takes():
    """Bytes that autograd saves: those of plain conjugate gradients grow with the iterations, these do not."""
    maps = coil_maps(1, 3, 16, 17).requires_grad_()
    b = random_tensor(1, 2, 16, 17, dtype=torch.float64)

    def saved(solve):
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            solve(sense(maps, column_mask(17)[None, None, None]))
        return total

    few, many = (saved(lambda A, n=n: implicit_solve(A, b, 1e-3, n_iter=n)) for n in (5, 50))
    assert few == many
    few_plain, many_plain = (saved(lambda A, n=n: A.solve(b, 1e-3, n_iter=n)) for n in (5, 50))
    assert many_plain > 3 * few_plain > 3 * many


@pytest.mark.parametrize("kind", ["maps", "kernel", "field", "pose"])
def test_gradients_reach_an_operators_own_parameters(kind):
    """Forward, adjoint and normal, against finite differences."""
    x = random_tensor(1, 2, 5, 6, dtype=torch.float64)
    if kind == "maps":
        start, build = coil_maps(1, 2, 5, 6), lambda p: sense(p, column_mask(6)[None, None, None])
    elif kind == "kernel":
        start, build = random_tensor(3, 3, dtype=torch.float64), lambda p: Blur(p, (5, 6))
    elif kind == "field":
        start, build = 0.7 * random_tensor(1, 2, 5, 6, dtype=torch.float64), Warp
    else:
        masks = torch.stack([(torch.arange(6) % 2 == k)[None] for k in range(2)])
        start = torch.tensor([[0.1, 0.3, -0.2], [-0.2, 0.1, 0.4]], dtype=torch.float64)
        build = lambda p: moving_sense(coil_maps(1, 2, 5, 6), masks, p[:, 0], p[:, 1:])  # noqa: E731

    def all_of_it(p):
        A = build(p)
        y = A(x)
        return y, A.adjoint(y), A.normal(x)

    assert torch.autograd.gradcheck(all_of_it, start.clone().requires_grad_(), atol=1e-6)
