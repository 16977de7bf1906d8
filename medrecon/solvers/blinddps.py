"""BlindDPS: Chung, Kim, Kim, Ye, "Parallel diffusion models of operator and image for blind inverse problems", CVPR 2023.

arXiv 2211.10656, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.blur import BlindBlur
from medrecon.likelihood import BlindGaussian, Gaussian
from medrecon.noise import Noise
from medrecon.operators.base import Operator
from medrecon.operators.deblur import InnerBlur, centred_kernel
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import Requires, Solver, add_noise, renoise, residual_norm_and_grad, setting

__all__ = ["BlindDPS", "BlindSolver", "BlindState", "first_parameters", "gradients"]

TRIAL, TRIAL_WEIGHT = 0.3, 3e-3
"""Noise level, and Tikhonov weight of the deconvolution, at which the two directions of a kernel are compared."""


class BlindState(NamedTuple):
    """Image and parameters; none where the operator is known."""

    x: Tensor
    parameters: Mapping[str, Tensor]


def _misfit(kernel: Tensor, data: BlindBlur, prior: Prior, noise: Tensor) -> Tensor:
    """``|y - k * prior(x + sigma n)|^2`` of the image ``x`` that a kernel explains the data with, ``(B,)``."""
    A = InnerBlur(kernel, data.y.shape[2:])
    edge = F.pad(data.y, [r for r in reversed(A.reach) for _ in (0, 1)], mode="replicate")
    x = edge + A.pinv(data.y - A(edge), 30, TRIAL_WEIGHT)
    r = data.y - A(prior(x + TRIAL * noise, TRIAL))
    return dot(r, r)


def _aligned(kernel: Tensor, reference: Tensor) -> Tensor:
    """Every kernel or its mirror image, shifted by whole pixels, whichever correlates best with the reference."""
    size = tuple(reference.shape[2:])
    found = []
    for one, other in zip(kernel, reference, strict=True):
        best: tuple[float, Tensor] | None = None
        for turned in (one, one.flip(1, 2)):
            match = torch.fft.irfft2(torch.fft.rfft2(turned).conj() * torch.fft.rfft2(other), s=size)[0]
            at = divmod(int(match.argmax()), size[1])
            if best is None or float(match.max()) > best[0]:
                best = float(match.max()), turned.roll(at, (1, 2))
        found.append(best[1] if best else one)
    return torch.stack(found)


def first_parameters(data: BlindBlur, prior: Prior, noise: Noise, n_starts: int) -> dict[str, Tensor]:
    """Kernels from the spectrum of the data: the mean of ``n_starts`` draws, in the direction that suits the image prior.

    The spectrum does not distinguish ``k(r)`` from ``k(-r)``; the deconvolved image does.
    """
    drawn = [data.first_kernels(noise) for _ in range(n_starts)]
    kernel = centred_kernel(torch.stack([_aligned(one, drawn[0]) for one in drawn]).mean(0))
    turned = kernel.flip(2, 3)
    shared = noise(data.shape, data.y.dtype, data.y.device)
    better = _misfit(turned, data, prior, shared) < _misfit(kernel, data, prior, shared)
    return {**data.parameters, "kernel": torch.where(batch_broadcast(better, kernel), turned, kernel)}


def gradients(u: Mapping[str, Tensor], data: BlindBlur, x0: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """``|y - A(u) x0|^2`` per item, ``(B,)``, and its gradient in every unknown, in the scale of their priors."""
    with torch.enable_grad():
        leaves = {name: one.detach().requires_grad_() for name, one in u.items()}
        r = data.y - data.operator(data.from_unit(leaves))(x0)
        square = dot(r, r)
        found = torch.autograd.grad(square.sum(), list(leaves.values()))
    return square.detach(), {name: found[i] for i, name in enumerate(leaves)}


@dataclass(frozen=True, kw_only=True)
class BlindSolver(Solver[BlindState, Gaussian]):
    """A solver that estimates the blur kernel with the image; a known operator has no parameters.

    Args:
        n_starts: draws of the kernel from the spectrum of the data, of which the mean is the start.
        sigma_kernel: noise level of the image below which the kernel is updated.
    """

    estimates_parameters: ClassVar[bool] = True

    n_starts: int = setting(4, 1, 64)
    sigma_kernel: float = setting(0.1, 0.0, 100.0)

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> BlindState:
        """The image, and kernels from the spectrum of the data."""
        blind = isinstance(data, BlindBlur)
        return BlindState(x, first_parameters(data, prior, noise, self.n_starts) if blind else {})

    def increase_noise(self, state: BlindState, sigma: float, sigma_next: float, *, noise: Noise) -> BlindState:
        """The image with the missing noise."""
        return state._replace(x=add_noise(state.x, sigma, sigma_next, noise))

    def output(self, state: BlindState) -> Tensor:
        """The image."""
        return state.x

    def final_data(self, state: BlindState, data: BlindGaussian) -> BlindGaussian:
        """The likelihood with the last kernels."""
        return data.with_parameters(state.parameters)


@dataclass(frozen=True, kw_only=True)
class BlindDPS(BlindSolver):
    """Diffusion posterior sampling of an image and of the kernel that blurred it, each with its own prior.

    ``x0 = prior(x);  k0 = kernel_prior(k);  khat = max(k0, 0) / sum(max(k0, 0))``
    ``x' = ancestral(x0, x) - zeta sqrt(n (1 + sigma^2)(1 + sigma'^2)) grad_x |y - khat * x0|``
    ``k' = ancestral(k0, k) - zeta_kernel |k0| g / |g|,  g = grad_k |y - khat * x0|``

    The kernel starts at its own level ``sigma_kernel``, from an estimate by the spectrum of the data, and its steps begin when
    the image has reached this level. It is centred after every step, and all sums are per item. Without unknown parameters
    the solver is DPS.

    Args:
        zeta: step of the image, as in DPS.
        n_starts: see :class:`BlindSolver`.
        zeta_kernel: length of a step of the kernel, relative to the norm of the kernel; 0: the kernel stays at its start.
        zeta_tilt: root-mean-square step of the tilt of turbulence, pixels; 0: no tilt, see docs/blur.md for the reason.
        sigma_kernel: see :class:`BlindSolver`; also the level of the kernel's own noise, for kernels with the largest value 1.

    Cost:
        1 evaluation and 1 vector-Jacobian product of both priors a step; at the start 60
        ``n_starts`` evaluations of the kernel's prior and 2 of the image's.

    Deviation:
        the paper starts the kernel from noise, and divides gradients by no norm. From noise, an image that is still smooth
        fits the data with a kernel that is too narrow, and both stay there.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator)

    zeta: float = setting(0.02, 0.0, 1.0)
    zeta_kernel: float = setting(0.01, 0.0, 1.0)
    zeta_tilt: float = setting(0.0, 0.0, 1.0)

    def check(self, data: object) -> None:
        """Refuse unknown parameters other than a kernel."""
        super().check(data)  # type: ignore[arg-type]
        if isinstance(data, BlindGaussian) and not isinstance(data, BlindBlur):
            raise TypeError(f"BlindDPS estimates blur kernels; {type(data).__name__} has other unknown parameters")

    def step(
        self, state: BlindState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> BlindState:
        """One ancestral step and one gradient step of both."""
        x0, vjp = with_vjp(prior, state.x, sigma)
        parameters = state.parameters
        if isinstance(data, BlindBlur):
            if sigma < self.sigma_kernel and self.zeta_kernel + self.zeta_tilt > 0:
                parameters = self._parameters(parameters, x0, sigma, data=data, noise=noise)
            data = data.with_parameters(parameters)
        _, gradient = residual_norm_and_grad(x0, data)
        x = renoise(x0, (state.x - x0) / sigma, sigma, sigma_next, 1.0, noise, "ddim")
        n = x[0].numel()
        factor = self.zeta * (n * (1 + sigma**2) * (1 + sigma_next**2)) ** 0.5
        return BlindState(x - factor * vjp(gradient), parameters)

    def _parameters(
        self, parameters: Mapping[str, Tensor], x0: Tensor, sigma: float, *, data: BlindBlur, noise: Noise
    ) -> dict[str, Tensor]:
        """Kernels (and tilts) after one denoising and one gradient step at level ``sigma``; without a step they stay."""
        zetas = {"kernel": self.zeta_kernel, "tilt": self.zeta_tilt}
        unit = data.as_unit(parameters)
        clean, vjps = dict(unit), {}
        for name in (name for name in unit if zetas[name] > 0):
            one = unit[name]
            clean[name], vjps[name] = with_vjp(data.priors[name], one + sigma * noise.like(one), sigma)
        _, found = gradients(clean, data, x0)
        moved = dict(unit)
        for name, vjp in vjps.items():
            g, u0 = vjp(found[name]), clean[name]
            pixels = u0[0].numel() ** 0.5
            size, length = dot(g, g).sqrt(), pixels if name == "tilt" else dot(u0, u0).sqrt().clamp(min=1e-2 * pixels)
            step = zetas[name] * torch.where(size > 0, length / size.clamp(min=1e-30), 0.0)
            moved[name] = u0 - batch_broadcast(step, g) * g
        out = data.from_unit(moved)
        return {**out, "kernel": centred_kernel(out["kernel"])}
