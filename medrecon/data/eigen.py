"""The largest eigenvalues of many small Hermitian matrices, one per pixel of an image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_eigenpairs"]

_POWERS = (1, 4, 16)
"""Powers of the matrices for the power iteration, each for the matrices not yet proven with the one before."""
_SWEEPS = 6
"""Steps of the power iteration for every power."""
_ANGLE = 1e-4
"""Largest sine of the angle between an accepted vector and the eigenvector: cosines to 5e-9, eigenvalues to 1e-8."""
_ROUNDING = 1e-5
"""Generous bound of the round-off in single precision of the sum of squared normalised eigenvalues."""


def _norm(x: Tensor) -> Tensor:
    """Norm of every complex vector or matrix ``(n, ...)``, of real numbers, for which torch is many times as fast."""
    return torch.linalg.vector_norm(torch.view_as_real(x).flatten(1), dim=1)


def _unit(x: Tensor, size: Tensor) -> Tensor:
    """Complex matrices ``(n, a, b)`` divided by real numbers; torch would divide by complex numbers."""
    factor = 1 / size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.view_as_complex(torch.view_as_real(x) * factor[:, None, None, None])


def _powered(power: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors after some power iterations, Rayleigh quotients, bounds of all other eigenvalues, and which are proven.

    The squared eigenvalues of ``power`` sum to 1. So with the quotient ``q`` of a unit vector, all other eigenvalues are at most
    ``sqrt(1 - q^2)``. If this is less than ``q``, the vector belongs to the largest eigenvalue, and the sine of its angle is at
    most ``|P v - q v|`` divided by their difference (Davis and Kahan, SIAM J. Numer. Anal. 7, 1970).

    Args:
        power: Hermitian matrices with a Frobenius norm of 1, ``(n, c, c)``.
        vectors: initial vectors, ``(n, c, 1)``.
    """
    for _ in range(_SWEEPS):
        vectors = power @ vectors
    vectors = _unit(vectors, _norm(vectors))
    product = power @ vectors
    quotient = (vectors.mH @ product).real
    rest = _norm(product - quotient * vectors)
    quotient = quotient[:, 0, 0]
    second = (1 - quotient.square()).clamp(min=0).add(_ROUNDING).sqrt()
    return vectors, quotient, second, rest < _ANGLE * (quotient - second)


def largest_eigenpairs(matrices: Tensor, start: Tensor, n: int = 1, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """The ``n`` largest eigenvalues, largest first, ``(m, n)`` real, and their eigenvectors ``(m, n, c)``, as from ``eigh``.

    Power iteration finds the largest eigenvalue if the others are clearly smaller, which is proven by bounds for every matrix.
    ``torch.linalg.eigh`` is used for the rest. Eigenvalues that are certainly below ``least`` are not computed: they and their
    vectors are 0.

    Args:
        matrices: complex Hermitian positive semidefinite matrices ``(m, c, c)``, of norm about 1.
        start: initial guess of the first eigenvector, not normalised, ``(m, c)``.
        n: number of eigenvalues.
        least: eigenvalues below this are not needed.
    """
    values = torch.zeros((len(matrices), n), dtype=matrices.real.dtype)
    vectors = torch.zeros((len(matrices), n, matrices.shape[-1]), dtype=matrices.dtype)
    left, power, guess, size = torch.arange(len(matrices)), matrices, start[..., None], torch.ones(len(matrices))
    for exponent in _POWERS:
        if exponent > 1:
            power = power @ power
            power = power @ power
        norm = _norm(power)
        power, size = _unit(power, norm), size * norm ** (1 / exponent)  # M^k = size^k power
        guess, quotient, second, proven = _powered(power, guess)
        none = size < least
        proven &= ~none if n == 1 else ~none & (second ** (1 / exponent) * size < least)
        values[left[proven], 0] = (quotient ** (1 / exponent) * size)[proven]
        vectors[left[proven], 0] = guess[proven, :, 0]
        rest = torch.nonzero(~(proven | none))[:, 0]
        left, power, guess, size = (part.index_select(0, rest) for part in (left, power, guess, size))
    found, basis = torch.linalg.eigh(matrices[left])
    values[left] = found[:, -n:].flip(1)
    vectors[left] = basis[..., -n:].flip(2).mT
    return values, vectors
