"""R2D2+: Chung, Lee, Ye, "MR image denoising and super-resolution using regularized reverse diffusion", IEEE TMI 42 (2023).

arXiv 2203.12621, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators.image import downsample_kspace
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior, with_vjp
from medrecon.solvers.base import ImageSolver, Requires, project_on_data, setting
from medrecon.solvers.pc import corrector, predictor

__all__ = ["R2D2", "low_frequencies"]


def low_frequencies(images: Tensor, noise_std: float | Tensor, factor: int = 8) -> Gaussian:
    """Data for :class:`R2D2`: the lowest ``1 / factor`` of the frequencies of noisy images ``(B, C, *spatial)``.

    ``factor`` must divide every side.
    """
    A = downsample_kspace(tuple(images.shape[2:]), factor, images.dtype).to(images.device)
    return Gaussian(A, A(images), noise_std / factor ** ((images.ndim - 2) / 2))


@dataclass(frozen=True, kw_only=True)
class R2D2(ImageSolver[Gaussian]):
    """Regularised reverse diffusion: a noisy image is treated as a state of the diffusion and denoised from there.

    ``x' = predictor(corrector(x));  x'' = x' + strength A^+ (y - A x') - guidance grad_x |x' - prior(x)|^2``, a gradient of
    ``2 (sigma' / sigma)^2 (d - J^T d)`` with ``d = x' - prior(x)``

    ``start`` is the noisy image itself, the ladder begins at its noise level (``medrecon.noise.truncate_ladder``; a higher one
    removes more), and ``A`` is what of it shall stay: low frequencies (:func:`low_frequencies`), or for super-resolution the blur
    and down-sampling of the measurement, with ``start`` the interpolated image plus noise.

    Args:
        snr: signal-to-noise ratio of a Langevin move.
        n_corrector: Langevin moves at every level.
        strength: fraction of the low frequencies restored at every step, 0 to 1 (the paper's lambda).
        guidance: step of the manifold constraint (the paper's gamma); 0 spares the gradient.

    Cost:
        ``n_corrector + 1`` network evaluations a step, and a vector-Jacobian product where ``guidance`` is not 0.

    Deviation:
        of the gradient's Jacobian only that of the clean estimate, ``J``, and of the predictor's mean through it; neither the
        paper's lambda, gamma nor width of the low-pass are public.
    """

    requires: ClassVar[Requires] = Requires(operator=Spectral)

    snr: float = setting(0.16, 0.0, 10.0)
    n_corrector: int = setting(0, 0, 10_000)
    strength: float = setting(0.1, 0.0, 1.0)
    guidance: float = setting(0.0, 0.0, 1e6)

    @property
    def evaluations(self) -> int:
        """Predictor and correctors."""
        return self.n_corrector + 1

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """Correct, predict, restore the low frequencies, apply the manifold constraint."""
        x = state
        for _ in range(self.n_corrector):
            x = corrector(x, sigma, prior=prior, noise=noise, snr=self.snr)
        x0, vjp = with_vjp(prior, x, sigma) if self.guidance > 0 else (prior(x, sigma), None)
        after = predictor(x, sigma, sigma_next, prior=prior, noise=noise, x0=x0)
        kept = project_on_data(after, data, 0.0, self.strength, 0, noise)
        if vjp is None:
            return kept
        away = after - x0
        return kept - 2 * self.guidance * (sigma_next / sigma) ** 2 * (away - vjp(away))
