"""Base classes of operators: a subclass defines ``forward`` and ``adjoint``; everything else is derived."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medrecon.operators.linalg import batch_broadcast, cg, dot

__all__ = ["Composed", "LinearOperator", "Operator", "check_adjoint", "implicit_solve", "with_adjoint_as_backward"]


HALF = (torch.float16, torch.bfloat16, torch.complex32)
"""Types that no operator computes in: FFTs and sums over thousands of rays would lose half a dozen bits to rounding."""


class Operator(nn.Module):
    """A forward model ``y = A(x)`` of images ``(B, C, *spatial)``; the shape of ``y`` depends on the operator."""

    def forward(self, x: Tensor) -> Tensor:
        """Measure ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Operator:
        """Move buffers as torch does, but keep complex buffers complex if a real type is requested, and never use half."""

        def convert(t: Tensor) -> Tensor:
            if not t.is_complex():
                out = fn(t)
                return t.to(out.device) if out.dtype in HALF else out
            parts = fn(torch.view_as_real(t.resolve_conj()))
            if parts.dtype in HALF:
                return t.to(parts.device)
            return fn(t) if parts.is_complex() else torch.view_as_complex(parts.contiguous())

        return super()._apply(convert, recurse)

    def __deepcopy__(self, memo: dict[int, object]) -> Operator:
        """A copy of everything but sparse matrices, which torch cannot copy and which are never written to."""
        for t in self.buffers(recurse=False):
            if t.layout == torch.sparse_csr:
                memo[id(t)] = t
            elif t.grad_fn is not None:  # computed from a parameter, such as a kernel to be estimated
                memo[id(t)] = t.detach().clone()
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``J(x)^T v``, the gradient of Re<A(x), v> with respect to ``x``; by autograd unless a subclass overrides it."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self(x), x, v)[0]


class _AdjointAsBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        apply: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.pair = adjoint, apply  # type: ignore[attr-defined]
        return apply(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        return with_adjoint_as_backward(grads[0], *ctx.pair), None, None  # type: ignore[attr-defined]


def with_adjoint_as_backward(
    x: Tensor, apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]
) -> Tensor:
    """``apply(x)`` of a linear map, with its adjoint as the backward pass (and ``apply`` as that of the adjoint).

    Exact, where differentiating the code itself would be slow or impossible.
    """
    return _AdjointAsBackward.apply(x, apply, adjoint)  # type: ignore[return-value]


class LinearOperator(Operator):
    """A linear forward model: define ``forward`` and ``adjoint``, and override the rest where something faster exists."""

    isometry: bool = False
    """Whether the adjoint is the inverse."""
    cheap_normal: bool = False
    """Whether ``normal`` costs less than ``adjoint`` alone."""
    closed_form: bool = False
    """Whether ``solve`` and ``pinv`` are exact at the cost of one application."""
    nonnegative: bool = False
    """Whether the matrix is known to be real and nonnegative, so that ``A 1`` and ``A^T 1`` are its row and column sums."""

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``: Re<A x, y> = Re<x, A^H y> to rounding."""
        raise NotImplementedError(f"{type(self).__name__} must define adjoint")

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^H v``, independent of ``x``."""
        return self.adjoint(v)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``."""
        return self.adjoint(self(x))

    def norm_squared(self, x: Tensor) -> Tensor:
        """``|A x|^2`` of every item, ``(B,)``; override it if it costs less than ``normal``."""
        return dot(x, self.normal(x))

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """``(A^H A + rho I)^-1 b``, by conjugate gradients from ``x`` (default 0).

        If ``b`` is ``A^H y``, use :meth:`pinv`: here, round-off of ``b`` outside the range of ``A^H`` is divided by ``rho``.

        Args:
            b: right-hand side, in image space.
            rho: weight >= 0, one number or one per item ``(B,)``.
            x: initial guess, e.g. the previous estimate.
            n_iter: largest number of iterations; closed forms ignore it.
            tol: relative residual at which an item stops.
        """
        weight = batch_broadcast(rho, b)
        return cg(
            lambda z: self.normal(z) + weight * z, b, x, n_iter, tol, lambda z: self.norm_squared(z) + rho * dot(z, z)
        )

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """``argmin_x |y - A x|^2 + rho |x|^2``, by conjugate gradients on the normal equations.

        For ``rho = 0`` the least-norm least-squares solution ``A^+ y``; ``x + A.pinv(y - A x, n_iter, rho)`` is
        ``argmin_z |y - A z|^2 + rho |z - x|^2``.

        Args:
            y: measurements.
            n_iter: largest number of iterations; closed forms ignore it.
            rho: Tikhonov weight >= 0, one number or one per item ``(B,)``.
        """
        tol = 1e-7 if y.real.dtype == torch.float32 else 1e-14
        if isinstance(rho, int | float) and rho == 0:
            return cg(self.normal, self.adjoint(y), None, n_iter, tol)
        return self.solve(self.adjoint(y), rho, None, n_iter, tol)

    def __matmul__(self, inner: LinearOperator) -> Composed:
        """The composition ``A(B(x))``."""
        return Composed(self, inner)


class Composed(LinearOperator):
    """``outer @ inner``; if ``inner`` is an isometry, closed forms of ``outer`` are kept."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__()
        self.outer = outer
        self.inner = inner
        self.isometry = outer.isometry and inner.isometry
        self.cheap_normal = outer.cheap_normal and inner.isometry
        self.closed_form = outer.closed_form and inner.isometry
        self.nonnegative = outer.nonnegative and inner.nonnegative

    def forward(self, x: Tensor) -> Tensor:
        """``outer(inner(x))``."""
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """``inner^H outer^H y``."""
        return self.inner.adjoint(self.outer.adjoint(y))

    def normal(self, x: Tensor) -> Tensor:
        """``inner^H (outer^H outer) inner x``, with the ``normal`` of the outer operator."""
        return self.inner.adjoint(self.outer.normal(self.inner(x)))

    def norm_squared(self, x: Tensor) -> Tensor:
        """``|outer inner x|^2``, by the ``norm_squared`` of the outer operator."""
        return self.outer.norm_squared(self.inner(x))

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """See :meth:`LinearOperator.solve`."""
        if not self.inner.isometry:
            return super().solve(b, rho, x, n_iter, tol)
        start = None if x is None else self.inner(x)
        return self.inner.adjoint(self.outer.solve(self.inner(b), rho, start, n_iter, tol))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`LinearOperator.pinv`."""
        if not self.inner.isometry:
            return super().pinv(y, n_iter, rho)
        return self.inner.adjoint(self.outer.pinv(y, n_iter, rho))


class _Implicit(torch.autograd.Function):
    """Zero, with ``inverse`` as the backward pass."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, residual: Tensor, inverse: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.inverse = inverse  # type: ignore[attr-defined]
        return torch.zeros_like(residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.inverse(grads[0]), None  # type: ignore[attr-defined]


def implicit_solve(
    A: LinearOperator,
    b: Tensor,
    rho: float | Tensor,
    x: Tensor | None = None,
    n_iter: int = 30,
    tol: float = 0.0,
) -> Tensor:
    """``A.solve(b, rho, ...)``, differentiated as the exact solution, in memory that does not grow with the iterations.

    The gradient of ``z = (A^H A + rho)^-1 b`` needs one more solve and the residual at ``z``. It reaches ``b``, ``rho`` and every
    parameter of ``A`` that requires a gradient (maps, kernels, fields). It is as accurate as the two solves. Second derivatives
    are not available.

    Reference: the implicit function theorem; e.g. Aggarwal et al., MoDL, IEEE TMI 38 (2019), section III.C.
    """
    with torch.no_grad():
        z = A.solve(b, rho, x, n_iter, tol)
        fixed = rho.detach() if isinstance(rho, Tensor) else rho
    residual = b - A.normal(z) - batch_broadcast(rho, z) * z

    def inverse(g: Tensor) -> Tensor:
        with torch.no_grad():
            return A.solve(g, fixed, None, n_iter, tol)

    return z + _Implicit.apply(residual, inverse)  # type: ignore[operator]


def check_adjoint(operator: LinearOperator, x: Tensor, seed: int = 0) -> float:
    """Relative mismatch of Re<A x, y> and Re<x, A^H y> for random ``x`` and ``y``; only round-off for a true adjoint.

    Args:
        operator: any linear operator.
        x: an image with the shape, type and device to test.
        seed: seed of the random vectors.

    Returns:
        ``|<Ax, y> - <x, A^H y>| / (|Ax| |y|)``, the largest in the batch; about 1e-16 in float64.
    """
    generator = torch.Generator().manual_seed(seed)

    def like(z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)

    with torch.no_grad():
        x = like(x)
        measured = operator(x)
        y = like(measured)
        gap = (dot(measured, y) - dot(x, operator.adjoint(y))).abs()
        size = (dot(measured, measured) * dot(y, y)).sqrt()
        return float((gap / torch.where(size > 0, size, 1.0)).max())
