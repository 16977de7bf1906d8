"""PnP-DM: Wu et al., "Principled probabilistic imaging using diffusion models as plug-and-play priors", NeurIPS 2024.

arXiv 2405.18782, algorithm 1; a split Gibbs sampler; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, reverse_diffusion, sample_prox, setting

__all__ = ["PnPDM"]


@dataclass(frozen=True, kw_only=True)
class PnPDM(ImageSolver[Gaussian]):
    """Split Gibbs: a draw given the data, then a draw given the prior, each within about sigma of the last.

    ``z ~ p(y | z) N(z; x, sigma^2 I);  x ~ p(x | z = x + sigma n)`` by the reverse diffusion from ``sigma``

    At one level the law is ``p(x) N(y; A x, noise_std^2 I + sigma^2 A A^H)`` in the long run; a falling ladder anneals it (the
    paper: from 10 by 0.9 to 0.3).

    Args:
        n_inner: steps of the reverse diffusion (the paper's 100). 1 takes the clean estimate for the draw: the best image of few
            evaluations, and no sample any more.
        n_cg: iterations of the perturbed solve.

    Cost:
        ``n_inner`` network evaluations and one solve a step.

    Deviation:
        five ancestral steps for the paper's hundred of an EDM diffusion, which lose some variance; one sample, the last. A
        start, which has noise of the first level, counts as the image that the first draw is near to.
    """

    n_inner: int = setting(5, 1, 10_000)
    n_cg: int = setting(10, 0, 10_000)

    @property
    def evaluations(self) -> int:
        """Steps of the reverse diffusion."""
        return self.n_inner

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One draw given the data, one given the prior."""
        z = sample_prox(state, data, sigma**2, self.n_cg, noise)
        return reverse_diffusion(prior, z, sigma, self.n_inner, noise)

    def increase_noise(self, state: Tensor, sigma: float, sigma_next: float, *, noise: Noise) -> Tensor:
        """The state is a clean image at every level."""
        return state
