"""BlindDPS: Chung, Kim, Kim, Ye, "Parallel diffusion models of operator and image for blind inverse problems", CVPR 2023.

arXiv 2211.10656, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.blur import BlindBlur, largest_one
from medrecon.likelihood import BlindGaussian, Gaussian
from medrecon.noise import Noise
from medrecon.operators.deblur import InnerBlur, centred_kernel, unit_kernel
from medrecon.operators.linalg import batch_broadcast, dot
from medrecon.operators.base import Operator
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import Requires, Solver, add_noise, renoise, residual_norm_and_grad, setting

__all__ = ["BlindDPS", "BlindState", "first_kernels"]

TRIAL, TRIAL_WEIGHT = 0.3, 3e-3
"""Noise level, and Tikhonov weight of the deconvolution, at which the two directions of a kernel are compared."""


class BlindState(NamedTuple):
    """Image and kernels; the kernel of a likelihood whose operator is known is empty."""

    x: Tensor
    kernel: Tensor


def _misfit(kernel: Tensor, data: BlindBlur, prior: Prior, noise: Tensor) -> Tensor:
    """``|y - k * prior(x + sigma n)|^2`` of the image ``x`` that a kernel explains the data with, ``(B,)``."""
    one = data.with_parameters({"kernel": kernel})
    A: InnerBlur = one.A  # type: ignore[assignment]
    edge = F.pad(data.y, [r for r in reversed(A.reach) for _ in (0, 1)], mode="replicate")
    x = edge + A.pinv(data.y - A(edge), 30, TRIAL_WEIGHT)
    r = one.residual(prior(x + TRIAL * noise, TRIAL))
    return dot(r, r)


def first_kernels(data: BlindBlur, prior: Prior, noise: Noise) -> Tensor:
    """Kernels from the spectrum of the data; of ``k(r)`` and ``k(-r)`` the one whose deconvolved image suits the image prior."""
    kernel = data.first_kernels(noise)
    turned = kernel.flip(2, 3)
    shared = noise(data.shape, data.y.dtype, data.y.device)
    better = _misfit(turned, data, prior, shared) < _misfit(kernel, data, prior, shared)
    return torch.where(batch_broadcast(better, kernel), turned, kernel)


@dataclass(frozen=True, kw_only=True)
class BlindDPS(Solver[BlindState, Gaussian]):
    """Diffusion posterior sampling of an image and of the kernel that blurred it, each with its own prior.

    ``x0 = prior(x);  k0 = kernel_prior(k);  khat = max(k0, 0) / sum(max(k0, 0))``
    ``x' = ancestral(x0, x) - zeta sqrt(n (1 + sigma^2)(1 + sigma'^2)) grad_x |y - khat * x0|``
    ``k' = ancestral(k0, k) - zeta_kernel |k0| g / |g|,  g = grad_k |y - khat * x0|``

    The kernel starts at its own level ``sigma_kernel``, from an estimate by the spectrum of the data, and its steps begin when the
    image has reached this level. It is centred after every step, and all sums are per item. Without unknown parameters the
    solver is DPS.

    Args:
        zeta: step of the image, as in DPS.
        zeta_kernel: length of a step of the kernel, relative to the norm of the kernel; 0: the kernel stays at its start.
        sigma_kernel: level at which the steps of the kernel begin, for kernels with the largest value 1.

    Cost:
        1 evaluation and 1 vector-Jacobian product of both priors a step; at the start 60 evaluations of the kernel's prior and 2
        of the image's.

    Deviation:
        the paper starts the kernel from noise, and divides gradients by no norm. From noise, an image that is still smooth
        fits the data with a kernel that is too narrow, and both stay there.
    """

    requires: ClassVar[Requires] = Requires(operator=Operator)
    estimates_parameters: ClassVar[bool] = True

    zeta: float = setting(0.02, 0.0, 1.0)
    zeta_kernel: float = setting(0.02, 0.0, 1.0)
    sigma_kernel: float = setting(0.1, 0.0, 10.0)

    def check(self, data: object) -> None:
        """Refuse unknown parameters other than a kernel."""
        super().check(data)  # type: ignore[arg-type]
        if isinstance(data, BlindGaussian) and not isinstance(data, BlindBlur):
            raise TypeError(f"BlindDPS estimates blur kernels; {type(data).__name__} has other unknown parameters")

    def init(self, x: Tensor, sigma: float, *, prior: Prior, data: Gaussian, noise: Noise) -> BlindState:
        """The image, and kernels from the spectrum of the data."""
        kernel = first_kernels(data, prior, noise) if isinstance(data, BlindBlur) else x[:, :0]
        return BlindState(x, kernel)

    def step(
        self, state: BlindState, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> BlindState:
        """One ancestral step and one gradient step of both."""
        x0, vjp = with_vjp(prior, state.x, sigma)
        kernel = state.kernel
        if isinstance(data, BlindBlur):
            if sigma < self.sigma_kernel and self.zeta_kernel > 0:
                kernel = self._kernel(kernel, x0, sigma, data=data, noise=noise)
            data = data.with_parameters({"kernel": kernel})
        _, gradient = residual_norm_and_grad(x0, data)
        x = renoise(x0, (state.x - x0) / sigma, sigma, sigma_next, 1.0, noise, "ddim")
        n = x[0].numel()
        factor = self.zeta * (n * (1 + sigma**2) * (1 + sigma_next**2)) ** 0.5
        return BlindState(x - factor * vjp(gradient), kernel)

    def _kernel(self, kernel: Tensor, x0: Tensor, sigma: float, *, data: BlindBlur, noise: Noise) -> Tensor:
        """The kernels after one denoising and one gradient step at level ``sigma``."""
        u = largest_one(kernel)
        u0, vjp = with_vjp(data.prior, u + sigma * noise.like(u), sigma)
        with torch.enable_grad():
            leaf = u0.detach().requires_grad_()
            r = data.y - data.operator(unit_kernel(leaf))(x0)
            square = dot(r, r)
            (gradient,) = torch.autograd.grad(square.clamp(min=1e-30).sqrt().sum(), leaf)
        g = vjp(gradient)
        size = dot(g, g).sqrt()
        step = self.zeta_kernel * torch.where(size > 0, dot(u0, u0).sqrt() / size.clamp(min=1e-30), 0.0)
        return centred_kernel(unit_kernel(u0 - batch_broadcast(step, g) * g))

    def increase_noise(self, state: BlindState, sigma: float, sigma_next: float, *, noise: Noise) -> BlindState:
        """The image with the missing noise."""
        return state._replace(x=add_noise(state.x, sigma, sigma_next, noise))

    def output(self, state: BlindState) -> Tensor:
        """The image."""
        return state.x

    def final_data(self, state: BlindState, data: BlindGaussian) -> BlindGaussian:
        """The likelihood with the last kernels."""
        return data.with_parameters({"kernel": state.kernel})
