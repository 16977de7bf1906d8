"""Score priors: Feng et al., "Score-based diffusion models as principled priors for inverse imaging", ICCV 2023.

arXiv 2304.11751, equation 10; the families of distributions are those of Sun and Bouman, "Deep probabilistic imaging" (DPI), AAAI
2021, and RealNVP of Dinh et al., ICLR 2017. Written for x = x0 + sigma n. Not a solver: no noise level falls, and the result is a
distribution, from which samples and their probabilities cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from medrecon.likelihood import Likelihood
from medrecon.noise import Noise
from medrecon.operators.linalg import dot
from medrecon.priors.base import Counted, Prior, score
from medrecon.priors.density import log_density

__all__ = ["Approximation", "Family", "FullGaussian", "LowRankGaussian", "RealNVP", "ScorePrior"]


class Family(nn.Module):
    """Distributions of images with parameters, from which ``forward`` draws ``x`` as a differentiable function of noise.

    Args:
        mean: image to begin with, ``(C, *spatial)``; it gives shape, type and device.
        latent: number of normal variables that make an image; ``None``: as many as it has values.
    """

    def __init__(self, mean: Tensor, latent: int | None = None) -> None:
        super().__init__()
        self.shape = tuple(mean.shape)
        self.latent = mean.numel() if latent is None else latent

    def forward(self, z: Tensor) -> Tensor:
        """Images ``(n, C, *spatial)`` of normal variables ``(n, latent)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of images, in nats, ``(n,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define log_prob")


def _check_std(std: float) -> float:
    if not (math.isfinite(std) and std > 0):
        raise ValueError(f"the standard deviation to begin with must be positive; got {std}")
    return math.log(std)


class FullGaussian(Family):
    """``x = mean + L z``, L lower triangular with a positive diagonal: for images of up to about 256 values.

    Args:
        mean: image to begin with, ``(C, *spatial)``.
        std: standard deviation of its values to begin with.
    """

    def __init__(self, mean: Tensor, std: float = 0.1) -> None:
        super().__init__(mean)
        n = mean.numel()
        self.mean = nn.Parameter(mean.detach().flatten().clone())
        self.log_diagonal = nn.Parameter(mean.new_full((n,), _check_std(std)))
        self.lower = nn.Parameter(mean.new_zeros(n, n))

    def _root(self) -> Tensor:
        return torch.tril(self.lower, -1) + self.log_diagonal.exp().diag()

    def covariance(self) -> Tensor:
        """``L L^T``, ``(n, n)``."""
        return self._root() @ self._root().T

    def forward(self, z: Tensor) -> Tensor:
        """See :class:`Family`."""
        return (self.mean + z @ self._root().T).view(-1, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """See :class:`Family`."""
        law = MultivariateNormal(self.mean, scale_tril=self._root(), validate_args=False)
        return law.log_prob(x.flatten(1))


class LowRankGaussian(Family):
    """``x = mean + U z1 + d z2``: covariance ``U U^T + diag(d^2)``, for images of any size.

    Args:
        mean: image to begin with, ``(C, *spatial)``.
        std: standard deviation of its values to begin with, ``d``.
        rank: columns of U; 0: independent values.
        seed: of U, which begins small: at 0 it would have no gradient.
    """

    def __init__(self, mean: Tensor, std: float = 0.1, rank: int = 0, seed: int = 0) -> None:
        if not 0 <= rank <= mean.numel():
            raise ValueError(f"rank must be from 0 to the number of values, {mean.numel()}; got {rank}")
        super().__init__(mean, mean.numel() + rank)
        n = mean.numel()
        self.mean = nn.Parameter(mean.detach().flatten().clone())
        self.log_diagonal = nn.Parameter(mean.new_full((n,), _check_std(std)))
        root = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.root = nn.Parameter(0.1 * std * root.to(mean) / max(rank, 1) ** 0.5)

    def covariance(self) -> Tensor:
        """``U U^T + diag(d^2)``, ``(n, n)``."""
        return self.root @ self.root.T + (2 * self.log_diagonal).exp().diag()

    def forward(self, z: Tensor) -> Tensor:
        """See :class:`Family`."""
        n = len(self.mean)
        return (self.mean + self.log_diagonal.exp() * z[:, :n] + z[:, n:] @ self.root.T).view(-1, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """See :class:`Family`."""
        law: Distribution = Independent(Normal(self.mean, self.log_diagonal.exp(), validate_args=False), 1)
        if self.root.shape[1] > 0:
            law = LowRankMultivariateNormal(self.mean, self.root, (2 * self.log_diagonal).exp(), validate_args=False)
        return law.log_prob(x.flatten(1))


class _Coupling(nn.Module):
    """``x_b = e^s(z_a) z_b + t(z_a)``, ``x_a = z_a``, then a scale and a shift of every value (actnorm); first the identity."""

    a: Tensor
    b: Tensor

    def __init__(self, chosen: Tensor, width: int, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("a", chosen.nonzero()[:, 0].to(like.device))
        self.register_buffer("b", (~chosen).nonzero()[:, 0].to(like.device))
        n_a, n_b = int(chosen.sum()), int((~chosen).sum())
        layers = nn.Linear(n_a, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * n_b)
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.net = nn.Sequential(*layers).to(like)
        self.log_scale = nn.Parameter(like.new_zeros(len(chosen)))
        self.shift = nn.Parameter(like.new_zeros(len(chosen)))

    def _affine(self, given: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(given).chunk(2, dim=1)
        return 2 * torch.tanh(s / 2), t  # at most e^2, so that no step can make the inverse overflow

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` and ``log |det dx / dz|``, ``(n,)``."""
        s, t = self._affine(z[:, self.a])
        x = z.index_copy(1, self.b, s.exp() * z[:, self.b] + t)
        return self.log_scale.exp() * x + self.shift, s.sum(1) + self.log_scale.sum()

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` and ``log |det dx / dz|`` there."""
        x = (x - self.shift) * (-self.log_scale).exp()
        s, t = self._affine(x[:, self.a])
        return x.index_copy(1, self.b, (x[:, self.b] - t) * (-s).exp()), s.sum(1) + self.log_scale.sum()


class RealNVP(Family):
    """An invertible network of affine couplings, which can have several modes and bent ones: images up to about 64 x 64.

    Couplings change the black fields of a checkerboard given the white ones, the white ones given the black, then a random half
    given the other and conversely, and so on. At first it is ``N(mean, std^2 I)``.

    Args:
        mean: image to begin with, ``(C, *spatial)``; of two values or more.
        std: standard deviation of its values to begin with.
        n_couplings: number of couplings.
        width: hidden units of the two hidden layers of each.
        seed: of weights and halves.
    """

    def __init__(self, mean: Tensor, std: float = 0.1, n_couplings: int = 8, width: int = 64, seed: int = 0) -> None:
        super().__init__(mean)
        n, log_std = mean.numel(), _check_std(std)
        if n < 2 or n_couplings < 1 or width < 1:
            raise ValueError(
                f"needs 2 values, 1 coupling and 1 hidden unit or more; got {n}, {n_couplings} and {width}"
            )
        grids = torch.meshgrid(*[torch.arange(side) for side in mean.shape], indexing="ij")
        checker = (torch.stack(grids).sum(0) % 2 == 0).flatten()
        generator = torch.Generator().manual_seed(seed)
        masks: list[Tensor] = []
        for k in range(0, n_couplings, 2):
            half = checker if k % 4 == 0 else torch.randperm(n, generator=generator) % 2 == 0
            masks += [half, ~half]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.couplings = nn.ModuleList(_Coupling(mask, width, mean.detach()) for mask in masks[:n_couplings])
        last = self.couplings[-1]
        assert isinstance(last, _Coupling)
        with torch.no_grad():
            last.log_scale.fill_(log_std)
            last.shift.copy_(mean.flatten())

    def forward(self, z: Tensor) -> Tensor:
        """See :class:`Family`."""
        for coupling in self.couplings:
            z, _ = coupling(z)
        return z.view(-1, *self.shape)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal variables ``(n, latent)`` of images, and ``log |det dx / dz|`` there, ``(n,)``."""
        z, total = x.flatten(1), x.new_zeros(len(x))
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, _Coupling)
            z, log_det = coupling.inverse(z)
            total = total + log_det
        return z, total

    def log_prob(self, x: Tensor) -> Tensor:
        """See :class:`Family`."""
        z, log_det = self.inverse(x)
        return -dot(z, z) / 2 - z.shape[1] / 2 * math.log(2 * math.pi) - log_det


@dataclass(frozen=True, eq=False)
class Approximation:
    """The member of a family that is nearest to a posterior.

    Args:
        family: the distribution, with its fitted parameters.
        prior: the prior.
        data: the likelihood of one item.
        sigma_min: noise level of the images whose posterior it is.
        evaluations: evaluations of the prior that the fit took.
    """

    family: Family
    prior: Prior
    data: Likelihood
    sigma_min: float
    evaluations: int

    @torch.no_grad()
    def sample(self, n: int, noise: Noise) -> Tensor:
        """``n`` independent images, ``(n, C, *spatial)``; ``noise`` has one stream."""
        return self.family(_latent(self.family, n, noise, self.data))

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of images in nats, ``(n,)``."""
        return self.family.log_prob(x)

    @torch.no_grad()
    def elbo(
        self,
        n: int,
        noise: Noise,
        *,
        density: Callable[[Tensor], Tensor] | None = None,
        sigma_max: float = 80.0,
        n_steps: int = 100,
    ) -> tuple[float, float]:
        """``E [log p(y | x) + log p(x) - log q(x)]``, a lower bound of ``log p(y)``, and its standard error over ``n`` images.

        ``log p(y | x)`` is that of ``data.log_prob``: for Gaussian noise without the constant ``-m / 2 log(2 pi noise_std^2)``.

        Args:
            n: number of images, 2 or more.
            noise: random source of one stream.
            density: ``log p(x)`` at ``sigma_min``, where it is known; ``None``: by the probability-flow ODE, with one random
                probe per image for its trace, two evaluations and vector-Jacobian products a step.
            sigma_max: last noise level of the ODE.
            n_steps: steps of the ODE.

        Raises:
            ValueError: if ``n`` is below 2, which has no standard error.
        """
        if n < 2:
            raise ValueError(f"a mean with a standard error needs 2 images or more; got {n}")
        x = self.sample(n, noise)
        if density is None:
            probe = noise((1, *x.shape), x.dtype, x.device)[0].sign()
            log_p = log_density(
                self.prior, x, sigma_min=self.sigma_min, sigma_max=sigma_max, n_steps=n_steps, probe=probe
            )
        else:
            log_p = density(x)
        value = self.data.repeated(n).log_prob(x) + log_p - self.family.log_prob(x)
        return float(value.mean()), float(value.std() / n**0.5)


def _latent(family: Family, n: int, noise: Noise, data: Likelihood) -> Tensor:
    real = data.y.real
    return noise((1, n, family.latent), real.dtype, real.device)[0]


@dataclass(frozen=True, kw_only=True)
class ScorePrior:
    """Variational inference with the density of a diffusion prior: a distribution ``q`` near the posterior.

    ``minimise E_z [-log p(y | x) - log p(x) + log q(x)]``, ``x = q.forward(z)``, by Adam on ``<g, x>`` with
    ``g = grad_x (log q - log p(y | x)) - score(x, sigma_min)`` held constant

    ``p`` is the density at noise level ``sigma_min``, whose gradient is the score: the ODE of the density need not be
    differentiated, nor solved, and a step costs one evaluation per image instead of hundreds. That is exact for an exact prior.
    A network's density by its ODE has a gradient that is close to its score but not equal to it, so that the bound
    reported by :meth:`Approximation.elbo` is not exactly what is maximised. ``log q`` is differentiated along ``x`` alone
    (Roeder et al., NeurIPS 2017): unbiased, and without noise once q is the posterior.

    The family settles how much of the posterior can be right. The divergence minimised prefers one mode to the space between
    two: a Gaussian takes one of them.

    Args:
        n_steps: steps of Adam.
        n_samples: images per step.
        lr: learning rate, for images of unit scale; it falls to 0 along half a cosine.
        clip: largest norm of the gradient of all parameters; larger ones are shortened.
        sigma_min: noise level of the images. For an exact prior as low as one likes; a network's score is too uncertain far from
            images at low levels: on 64 x 64 brains 0.03 gave 27.8 dB, 0.02 27.0 and 0.01 12.8.
        sigma_max: level at which the fit begins; it falls to ``sigma_min``, evenly in its logarithm, during the first half of the
            steps. Coarse structure comes first, and a flow can spread over the modes. Not above ``sigma_min``: no such phase.

    Cost:
        ``n_samples`` network evaluations, a gradient of the likelihood each, and no vector-Jacobian product a step.

    Deviation:
        the paper differentiates the ODE (hundreds of evaluations a step); it clips at 1 and has a fixed learning rate, 2e-4.
    """

    n_steps: int = 2000
    n_samples: int = 16
    lr: float = 0.01
    clip: float = 100.0
    sigma_min: float = 0.03
    sigma_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: for a setting that is not positive.
        """
        for name in ("n_steps", "n_samples", "lr", "clip", "sigma_min", "sigma_max"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"ScorePrior: {name} must be positive; got {value}")

    def level(self, k: int) -> float:
        """Noise level of step ``k``, from 0."""
        done = min(1.0, 2 * k / self.n_steps)
        return self.sigma_min * max(1.0, self.sigma_max / self.sigma_min) ** (1 - done)

    def fit(self, family: Family, prior: Prior, data: Likelihood, *, noise: Noise) -> Approximation:
        """Fit the parameters of ``family``, which are changed, to the posterior of one item.

        Args:
            family: the distributions; its mean and standard deviation to begin with should be those of an estimate.
            prior: the prior.
            data: the likelihood of one item, of any noise model.
            noise: random source of one stream.

        Raises:
            ValueError: if ``data`` is not of one item of the family's shape, or has no noise, or if the fit diverges.
        """
        if tuple(data.shape) != (1, *family.shape):
            raise ValueError(
                f"fits one item, of the shape {family.shape} of the family; got likelihoods of images {tuple(data.shape)}"
            )
        if not (torch.as_tensor(data.noise_std) > 0).all():
            raise ValueError("without noise the likelihood has no density; give the standard deviation of the noise")
        counted, many = Counted(prior), data.repeated(self.n_samples)
        family.requires_grad_(True)  # a second fit continues the first
        optimizer = torch.optim.Adam(family.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_steps)
        for k in range(self.n_steps):
            z = _latent(family, self.n_samples, noise, data)
            with torch.enable_grad():
                x = family(z)
                leaf = x.detach().requires_grad_()
                (entropy_slope,) = torch.autograd.grad(family.log_prob(leaf).sum(), leaf)
            with torch.no_grad():
                slope = entropy_slope - many.grad(leaf.detach()) - score(counted, leaf.detach(), self.level(k))
            if not slope.isfinite().all():
                raise ValueError(
                    f"the fit diverged at step {k + 1} of {self.n_steps}; lower lr, or check data and prior for NaN"
                )
            optimizer.zero_grad()
            with torch.enable_grad():
                (dot(slope, x).mean()).backward()
            nn.utils.clip_grad_norm_(family.parameters(), self.clip)
            optimizer.step()
            schedule.step()
        return Approximation(family.requires_grad_(False), prior, data, self.sigma_min, counted.calls)
