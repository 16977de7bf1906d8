"""A prior is given by its posterior mean under noise, from which its score follows (Tweedie)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from medrecon.operators.linalg import batch_broadcast

__all__ = ["Counted", "Observed", "Prior", "as_levels", "eps", "score", "with_vjp"]


class Prior(Protocol):
    """``prior(x, sigma) = E[x0 | x0 + sigma n = x]`` for real ``x`` ``(B, C, *spatial)``; sigma > 0, a number or ``(B,)``."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate, of the shape of ``x``."""
        ...


def as_levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    """``sigma`` as one level per item of ``x``, ``(B,)``, of its real type and device."""
    # A trace of a network must record neither the device nor the batch size, which len(x) would.
    if not isinstance(sigma, Tensor) or sigma.device != x.device:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return sigma.to(x.dtype).expand(x.shape[0])


def score(prior: Prior, x: Tensor, sigma: float | Tensor) -> Tensor:
    """Gradient of log p at noise level sigma, ``(prior(x) - x) / sigma^2``."""
    return (prior(x, sigma) - x) / batch_broadcast(sigma, x) ** 2


def eps(prior: Prior, x: Tensor, sigma: float | Tensor) -> Tensor:
    """The noise in ``x`` estimated by the prior, ``(x - prior(x)) / sigma``."""
    return (x - prior(x, sigma)) / batch_broadcast(sigma, x)


def with_vjp(prior: Prior, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``x0 = prior(x, sigma)`` and ``v -> J^T v`` with J = d x0 / d x; callable repeatedly, also under ``no_grad``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = prior(x, sigma)

    def vjp(v: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

    return x0.detach(), vjp


class Counted:
    """A prior that counts its evaluations in ``calls``, one per image of a batch."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.calls = 0

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate of the prior."""
        self.calls += len(x)
        return self.prior(x, sigma)


class Observed:
    """A prior that also passes its clean estimates and their noise levels to a function."""

    def __init__(self, prior: Prior, observe: Callable[[Tensor, float | Tensor], None]) -> None:
        self.prior = prior
        self.observe = observe

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean estimate of the prior."""
        x0 = self.prior(x, sigma)
        self.observe(x0.detach(), sigma)
        return x0
