"""ILVR: Choi, Kim, Jeong, Gwon, Yoon, "ILVR: conditioning method for denoising diffusion probabilistic models".

ICCV 2021, arXiv 2108.02938, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, project_on_data, renoise, setting

__all__ = ["ILVR"]


@dataclass(frozen=True, kw_only=True)
class ILVR(ImageSolver[Gaussian]):
    """Iterative latent variable refinement: after every ancestral step the measured part is that of a noisy reference.

    ``x' = ancestral(x);  x' <- x' + A^+ (y + sigma' A z - A x')``

    With ``A`` a low-pass (:func:`medrecon.operators.downsample_kspace`, a mask of central k-space) ``A^+ A`` is the paper's phi.
    For noiseless data: it reproduces the noise in ``y``.

    Args:
        until: lowest level with data consistency (the paper's range_t, as a level); a higher one leaves more to the
            prior.
        n_cg: iterations of ``A^+`` where it has no closed form.

    Cost:
        1 network evaluation and one ``A^+`` a step.
    """

    until: float = setting(0.0, 0.0, 1e12)
    n_cg: int = setting(2, 0, 10_000)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One ancestral step, one exchange of the measured part."""
        x0 = prior(state, sigma)
        x = renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise)
        return project_on_data(x, data, sigma_next, 1.0, self.n_cg, noise) if sigma_next >= self.until else x
