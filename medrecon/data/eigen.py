"""The largest eigenvalues of many small Hermitian matrices, one for each pixel of an image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_eigenpairs"]

_POWERS = (1, 4, 16)
"""Powers of the matrices that the power iteration takes, each for what the one before has not proven."""
_SWEEPS = 6
"""Steps of the power iteration with each of them."""
_ANGLE = 1e-4
"""Largest sine of the angle between an accepted vector and the eigenvector: cosines are right to 5e-9, eigenvalues to 1e-8."""
_ROUNDING = 1e-5
"""Error that single precision may leave in the sum of the squares of normalised eigenvalues, generously."""


def _norm(x: Tensor) -> Tensor:
    """Of every complex vector or matrix ``(n, ...)``; of real numbers, torch's is many times as fast."""
    return torch.linalg.vector_norm(torch.view_as_real(x).flatten(1), dim=1)


def _unit(x: Tensor, size: Tensor) -> Tensor:
    """Complex matrices ``(n, a, b)`` over their ``size``; torch would divide by complex numbers."""
    factor = 1 / size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.view_as_complex(torch.view_as_real(x) * factor[:, None, None, None])


def _powered(power: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some steps of the power iteration: unit vectors, Rayleigh quotients, bounds of all other eigenvalues, which are proven.

    Squares of the eigenvalues of ``power`` sum to 1. So with the quotient ``q`` of a unit vector all others are at most
    ``sqrt(1 - q^2)``. The vector belongs to the largest if that is less than ``q``, and the sine of its angle is at most
    ``|P v - q v|`` over the difference of the two (Davis and Kahan, SIAM J. Numer. Anal. 7, 1970).

    Args:
        power: Hermitian, with a Frobenius norm of 1, ``(n, c, c)``.
        vectors: the start, ``(n, c, 1)``.
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

    The power iteration finds the largest where the others are clearly smaller, which bounds prove for every matrix.
    ``torch.linalg.eigh`` finds what is not proven. Eigenvalues that are certainly below ``least`` are not computed: they and
    their vectors are 0.

    Args:
        matrices: Hermitian, positive semidefinite, ``(m, c, c)`` complex, the largest of size 1 or so.
        start: a guess of the first eigenvector, not normalised, ``(m, c)``.
        n: how many eigenvalues.
        least: see above.
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
