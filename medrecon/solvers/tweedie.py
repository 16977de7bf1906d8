"""One evaluation of the prior at the noise level of the data: the posterior mean, for denoising.

Tweedie's formula (Robbins 1956; Efron, "Tweedie's formula and selection bias", JASA 106, 2011), as Noise2Score uses it (Kim and
Ye, NeurIPS 2021, arXiv 2106.07009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.likelihood import BlindGaussian, Gaussian, Likelihood, NoData
from medrecon.noise import Noise
from medrecon.operators.weights import Weights
from medrecon.priors.base import Prior
from medrecon.solvers.base import ImageSolver, Requires

__all__ = ["Tweedie"]


@dataclass(frozen=True, kw_only=True)
class Tweedie(ImageSolver[Gaussian]):
    """The posterior mean of images with white noise: the prior evaluated once, on the data themselves.

    ``x = prior(y, noise_std)``

    With the exact prior no other estimate has a smaller squared error. It is smoother than a sample of the posterior.

    Cost:
        1 network evaluation.
    """

    requires: ClassVar[Requires] = Requires(operator=Weights)
    takes_start: ClassVar[bool] = False
    is_estimate: ClassVar[bool] = True

    def ladder(self, sigma_max: float, sigma_min: float, budget: int, spacing: float = 7.0) -> Tensor:
        """One step, whatever the arguments."""
        return torch.tensor([1.0, 0.0])

    def check(self, data: Likelihood | NoData) -> None:
        """Refuse everything but images with Gaussian noise, measured as they are, and noise of 0.

        Raises:
            TypeError: for another operator or likelihood, or a noise level that is not above 0.
        """
        is_gaussian = isinstance(data, Gaussian) and not isinstance(data, BlindGaussian)
        if not is_gaussian or not isinstance(data.A, Weights) or not bool((data.A.weights == 1).all()):
            raise TypeError(
                "Tweedie removes Gaussian noise from images that are measured as they are (the task denoise, noise model "
                "gaussian); choose a bundle that does not only denoise for other data, which DPS or DiffPIR can work with"
            )
        if not bool((torch.as_tensor(data.noise_std) > 0).all()):
            raise TypeError("Tweedie needs a noise level above 0; give it, or leave the image as it is")

    def step(
        self, state: Tensor, sigma: float, sigma_next: float, *, prior: Prior, data: Gaussian, noise: Noise
    ) -> Tensor:
        """The estimate, whatever the state."""
        return prior(data.y, data.noise_std)
