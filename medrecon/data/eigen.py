"""The largest eigenvalues of many small Hermitian matrices, one for each pixel of an image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_eigenpairs"]

_SWEEPS = 6
"""Products of the fourth power with the start: 24 steps of the power iteration."""
_ANGLE = 1e-4
"""Largest sine of the angle between an accepted vector and the eigenvector: cosines are right to 5e-9, eigenvalues to 1e-8."""
_ROUNDING = 1e-5
"""Error that single precision may leave in the sum of the squares of normalised eigenvalues, generously."""


def _norm(x: Tensor) -> Tensor:
    """Of every complex vector or matrix ``(n, ...)``; torch's own is slow for short ones."""
    return torch.view_as_real(x).flatten(1).square().sum(1).sqrt()


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """Complex matrices ``(n, a, b)`` times a real factor each; torch would multiply by complex ones."""
    return torch.view_as_complex(torch.view_as_real(x) * factor[:, None, None, None])


def _by_powers(matrices: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First eigenvectors by the power iteration ``(n, c)``, whether they are proven, upper bounds of the first two eigenvalues.

    With ``Q = M^4 / |M^4|_F`` the squares of ``Q``'s eigenvalues sum to 1. So the largest of ``M`` is at most ``|M^4|_F^(1/4)``.
    For a unit vector with the Rayleigh quotient ``q``, all other eigenvalues of ``Q`` are at most ``sqrt(1 - q^2)``; the vector
    belongs to the largest one if that is less than ``q``, and the sine of its angle is at most ``|Q v - q v|`` over the
    difference of the two (Davis & Kahan, SIAM J. Numer. Anal. 7, 1970).
    """
    tiny = torch.finfo(size.dtype).tiny
    square = _times(matrices, 1 / size.clamp(min=tiny))
    square = square @ square
    power = square @ square
    norm = _norm(power)
    power = _times(power, 1 / norm.clamp(min=tiny))
    vectors = start[..., None]
    for _ in range(_SWEEPS):
        vectors = power @ vectors
    vectors = _times(vectors, 1 / _norm(vectors).clamp(min=tiny))
    product = power @ vectors
    quotient = (vectors.mH @ product).real
    rest = _norm(product - quotient * vectors)
    quotient = quotient[:, 0, 0]
    second = (1 - quotient.square()).clamp(min=0).add(_ROUNDING).sqrt()
    proven = rest < _ANGLE * (quotient - second)
    return vectors[..., 0], proven, norm**0.25 * size, (second * norm) ** 0.25 * size


def largest_eigenpairs(matrices: Tensor, start: Tensor, n: int = 1, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """The ``n`` largest eigenvalues, largest first, ``(m, n)`` real, and their eigenvectors ``(m, n, c)``, as from ``eigh``.

    A few steps of the power iteration find the largest where the others are clearly smaller, which is proven for every matrix
    by bounds that need no other eigenvalue. ``torch.linalg.eigh`` finds what is not proven. Eigenvalues that are certainly
    below ``least`` are not computed: they and their vectors are 0.

    Args:
        matrices: Hermitian, positive semidefinite, ``(m, c, c)`` complex64.
        start: a guess of the first eigenvector, not normalised, ``(m, c)``.
        n: how many eigenvalues.
        least: see above.
    """
    size = matrices.diagonal(dim1=1, dim2=2).real.sum(1)
    first, proven, upper, second = _by_powers(matrices, start, size)
    none = upper < least
    proven &= ~none if n == 1 else ~none & (second < least)
    values = torch.zeros((len(matrices), n), dtype=size.dtype)
    vectors = torch.zeros((len(matrices), n, matrices.shape[-1]), dtype=matrices.dtype)
    values[:, 0] = (first.conj()[:, None] @ matrices @ first[..., None])[:, 0, 0].real
    vectors[:, 0] = first
    values[~proven], vectors[~proven] = 0, 0
    left = ~proven & ~none
    found, basis = torch.linalg.eigh(matrices[left])
    values[left] = found[:, -n:].flip(1)
    vectors[left] = basis[..., -n:].flip(2).mT
    return values, vectors
