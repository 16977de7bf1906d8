"""Linear algebra on callables, independent of operators and modalities. Every scalar is per batch item."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import overload

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

__all__ = ["MatrixTooLargeError", "batch_broadcast", "cg", "check_matrix", "dot", "operator_norm", "sparse_pair"]


class MatrixTooLargeError(ValueError):
    """A matrix to be kept does not fit into memory."""


def check_matrix(entries: float, what: str, instead: str) -> None:
    """Refuse a matrix that, with its transpose (16 bytes per entry in float32), exceeds 32-bit indices or the free memory.

    Raises:
        MatrixTooLargeError: with the memory that the matrix would need, and what to do ``instead``.
    """
    need = 16 * entries / 1e9
    if entries >= 2**31:
        raise MatrixTooLargeError(
            f"{what} would need {need:.0f} GB and more entries than 32-bit indices can address; {instead}"
        )
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):  # not available on every system
        return
    if need > free:
        raise MatrixTooLargeError(f"{what} would need {need:.1f} GB and {free:.1f} GB are free; {instead}")


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Real inner product Re sum conj(a) b of every batch item, ``(B,)``."""
    if a.is_complex() or b.is_complex():
        # On real and imaginary parts: half the work of a complex product, whose imaginary part is not needed.
        a, b = (torch.view_as_real(t.resolve_conj() if t.is_complex() else t.to(t.dtype.to_complex())) for t in (a, b))
    return (a * b).flatten(1).sum(1)


@overload
def batch_broadcast(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def batch_broadcast(value: float | Tensor, like: Tensor) -> float | Tensor: ...
def batch_broadcast(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Reshape a float, a 0-d or a ``(B,)`` tensor so that it broadcasts against ``like`` ``(B, ...)`` item by item."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    value = value if value.device == like.device else value.to(like.device)
    return value.view(-1, *[1] * (like.ndim - 1))


def cg(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    x: Tensor | None = None,
    n_iter: int = 30,
    tol: float = 0.0,
    norm_squared: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Conjugate gradients for a Hermitian positive semi-definite ``apply``, from ``x`` (default 0).

    Step lengths are per item, with the real inner product, so complex systems converge and items never influence each other. An
    item whose residual norm has fallen to ``tol`` times the norm of ``b`` (or to round-off) stops while others continue. For a
    singular ``apply`` and ``x = None`` the limit is the least-norm solution.

    Args:
        apply: the operator ``M`` of ``M x = b``.
        b: right-hand side.
        x: initial guess.
        n_iter: largest number of iterations.
        tol: relative residual at which an item stops.
        norm_squared: ``<p, M p>`` of every item, ``(B,)``, used in the last iteration, which does not need ``M p`` itself.

    Reference: Hestenes and Stiefel, J. Res. NBS 49 (1952).
    """
    r = b if x is None else b - apply(x)
    x = torch.zeros_like(b) if x is None else x
    p = r
    rs = dot(r, r)
    # Below this the residual is round-off of b, whose part outside the range of A^H would be divided by a small rho.
    floor = (8 * torch.finfo(rs.dtype).eps) ** 2
    stop = max(tol**2, floor) * dot(b, b)
    largest = torch.zeros_like(rs)
    for k in range(n_iter):
        active = rs > stop
        if not active.any():
            break
        last = norm_squared is not None and k == n_iter - 1
        q = p if last else apply(p)
        pq, pp = norm_squared(p) if norm_squared is not None and last else dot(p, q), dot(p, p)
        largest = torch.maximum(largest, pq / torch.where(pp > 0, pp, 1.0))
        # In the null space of a singular system, round-off would be divided by round-off.
        active = active & (pq > 8 * torch.finfo(rs.dtype).eps * largest * pp)
        step = torch.where(active, rs / torch.where(active, pq, 1.0), 0.0)
        x = x + batch_broadcast(step, p) * p
        if last:
            break
        r = r - batch_broadcast(step, q) * q
        rs_next = torch.where(active, dot(r, r), 0.0)
        p = r + batch_broadcast(rs_next / torch.where(rs > 0, rs, 1.0), p) * p
        rs = rs_next
    return x


def operator_norm(normal: Callable[[Tensor], Tensor], x: Tensor, n_iter: int = 30) -> Tensor:
    """Largest singular value of ``A`` from its normal operator, ``(B,)``, by power iteration from ``x``.

    The estimate converges from below.
    """
    for _ in range(n_iter):
        size = dot(x, x).sqrt()
        x = normal(x / batch_broadcast(torch.where(size > 0, size, 1.0), x))
    return dot(x, x) ** 0.25


def sparse_pair(matrix: csr_matrix) -> tuple[Tensor, Tensor]:
    """A SciPy matrix and its transpose as sparse CSR tensors of torch.

    Indices keep SciPy's 32 bits, because torch's CPU library would convert wider indices at every product.
    """
    with warnings.catch_warnings():  # torch warns that the layout is in beta
        warnings.simplefilter("ignore")
        first, second = (
            torch.sparse_csr_tensor(
                torch.from_numpy(m.indptr), torch.from_numpy(m.indices), torch.from_numpy(m.data), m.shape
            )
            for m in (matrix, matrix.T.tocsr())
        )
    return first, second
