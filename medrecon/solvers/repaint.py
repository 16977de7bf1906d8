"""RePaint: Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models", CVPR 2022.

arXiv 2201.09865, algorithm 1; written for x = x0 + sigma n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, travelled
from medrecon.operators.spectral import Spectral
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires, renoise, setting

__all__ = ["RePaint"]


@dataclass(frozen=True, kw_only=True)
class RePaint(ImageSolver[Gaussian]):
    """Known components from the data at their noise level, unknown ones from the ancestral step.

    ``V^H x' = U^H y / s + sigma' z`` where a singular value ``s`` is not 0, and that of the ancestral step elsewhere

    The ladder goes back up repeatedly (:func:`medrecon.noise.time_travel`), so that known and unknown components agree. For
    noiseless data: it reproduces the noise in ``y``.

    Args:
        length: steps of a stretch of the ladder that is repeated (the paper's j, 10).
        repeats: number of times every stretch is taken (the paper's r, 10, at 250 levels: 4570 evaluations); 1: once.

    Cost:
        1 network evaluation a step. The ladder of a given budget has about ``1 / repeats`` as many levels.

    Deviation:
        short stretches, few repeats, which fit into fifty evaluations;
        the paper's pixels are here singular vectors, so k-space of one coil and coarser pixels can be inpainted too.
    """

    requires: ClassVar[Requires] = Requires(operator=Spectral)

    length: int = setting(3, 1, 1_000_000)
    repeats: int = setting(4, 1, 10_000)

    def ladder(self, sigma_max: float, sigma_min: float, budget: int, spacing: float = 7.0) -> Tensor:
        """A ladder with repeated stretches, within the budget."""
        return travelled(sigma_max, sigma_min, budget, self.length, self.repeats, spacing)

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """One ancestral step, one merge."""
        A: Spectral = data.A  # type: ignore[assignment]
        x0 = prior(state, sigma)
        drawn = A.vh(renoise(x0, (state - x0) / sigma, sigma, sigma_next, 1.0, noise))
        seen = A.singular > 0
        known = A.uh(data.y) / torch.where(seen, A.singular, 1.0)
        if sigma_next > 0:
            known = known + sigma_next * noise.white(known)
        return A.v(torch.where(seen, known, drawn))
