"""Problems whose posterior is known: a Gaussian prior in 6 dimensions, a dense 3 x 6 operator; and a mixture."""

import math
from dataclasses import replace

import torch

from medrecon.likelihood import Gaussian, NoData
from medrecon.noise import Noise
from medrecon.operators import LinearOperator, sense
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.priors import GaussianPrior
from medrecon.priors import MixturePrior as Mixture
from medrecon.sample import sample

__all__ = [
    "SHAPE",
    "Dense",
    "Mixture",
    "SharedNoise",
    "dense",
    "distance",
    "gaussian_prior",
    "images_of_prior",
    "measured",
    "mixture",
    "repeated",
    "single_coil",
    "white",
]

SHAPE = (2, 3)  # channels, one spatial axis: n = 6


class Dense(LinearOperator):
    """``y = matrix x`` on flattened images."""

    def __init__(self, matrix, shape=SHAPE):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.image = shape

    def forward(self, x):
        return x.flatten(1) @ self.matrix.T

    def adjoint(self, y):
        return (y @ self.matrix).view(-1, *self.image)


def gaussian_prior(shape=SHAPE, seed=0, dtype=torch.float64):
    """Unit-scale images: standard deviations 0.2 to 0.6 in rotated directions, mean about 0.3."""
    n = int(torch.tensor(shape).prod())
    generator = torch.Generator().manual_seed(seed)
    modes, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    covariance = modes @ torch.diag(torch.linspace(0.2, 0.6, n, dtype=torch.float64) ** 2) @ modes.T
    mean = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return GaussianPrior(mean.to(dtype), covariance.to(dtype))


def dense(rows=3, n=6, seed=1, dtype=torch.float64):
    """A matrix of norm 1 with singular values between 0.5 and 1."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(rows, n, generator=generator, dtype=torch.float64), full_matrices=False)
    return (u @ torch.diag(torch.linspace(1.0, 0.5, rows, dtype=torch.float64)) @ vh).to(dtype)


def measured(batch=1, noise_std=0.05, seed=2, dtype=torch.float64):
    """``(prior, likelihood, matrix)`` with ``batch`` different measurements of prior samples."""
    prior, matrix = gaussian_prior(dtype=dtype), dense(dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    root = prior.modes * prior.variances.clamp(min=0).sqrt()
    x = prior.mean.flatten() + torch.randn(batch, 6, generator=generator, dtype=torch.float64).to(dtype) @ root.T
    noise = noise_std * torch.randn(batch, 3, generator=generator, dtype=torch.float64).to(dtype)
    return prior, Gaussian(Dense(matrix), x @ matrix.T + noise, noise_std), matrix


DOUBLE = torch.float64


def mixture():
    """The prior, the direction of its modes, and a measurement nearly orthogonal to it: ``(prior, direction, matrix, y)``."""
    direction = torch.full((6,), 6**-0.5, dtype=DOUBLE)
    others = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    basis, _ = torch.linalg.qr(torch.cat([direction[:, None], others], dim=1))
    mode = direction.view(SHAPE)
    prior = Mixture(torch.tensor([0.5, 0.5], dtype=DOUBLE), torch.stack([mode, -mode]), 0.2)
    matrix = torch.stack([0.3 * direction + 0.91**0.5 * basis[:, 1], 0.7 * basis[:, 2]])
    return prior, direction, matrix, torch.tensor([0.07, 0.1], dtype=DOUBLE)


def white(std, shape=SHAPE, mean=0.2):
    """A prior N(mean, std^2 I)."""
    n = math.prod(shape)
    return GaussianPrior(torch.full(shape, mean, dtype=DOUBLE), std**2 * torch.eye(n, dtype=DOUBLE))


def repeated(n, noise_std=0.05, prior=None, seed=5):
    """``(prior, likelihood, mean, covariance)``: one measurement, repeated ``n`` times, and its posterior."""
    first, data, matrix = measured(batch=1, noise_std=noise_std, seed=seed)
    prior = prior or first
    data = replace(data, A=SpectralDense(matrix, SHAPE), y=data.y.expand(n, -1).contiguous())
    mean, covariance = prior.posterior(matrix, data.y[0], noise_std)
    return prior, data, mean, covariance


def distance(x, mean, covariance, prior_mean):
    """Error of the mean, relative to the distance of prior and posterior mean, and relative error of the covariance."""
    flat = x.flatten(1)
    away = (prior_mean.flatten() - mean).norm()
    return float((flat.mean(0) - mean).norm() / away), float(
        (torch.cov(flat.T) - covariance).norm() / covariance.norm()
    )


def single_coil(shape=(6, 7), batch=2, noise_std=0.0):
    """One coil, half of the columns, complex images of a Gaussian prior."""
    prior = gaussian_prior((2, *shape))
    mask = torch.rand(shape[-1], generator=torch.Generator().manual_seed(0)) < 0.5
    mask[shape[-1] // 2] = True
    A = sense(None, mask[None, None, None], shape, torch.complex128)
    x = prior.mean + 0.3 * torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return prior, Gaussian(A, A(x), noise_std), x


class SharedNoise(Noise):
    """One random stream for a whole batch: thousands of draws of one law, without thousands of generators."""

    def __init__(self, seed, n_particles=1):
        super().__init__(seed)
        self.n_particles = n_particles

    def __call__(self, shape, dtype, device=None):
        return torch.randn(tuple(shape), generator=self._streams[0], dtype=dtype).to(device)

    @property
    def groups(self):
        return self

    def uniform(self, n):
        return torch.rand(n, generator=self._streams[0], dtype=torch.float64)


def images_of_prior(prior, shape, sigmas, n, solver):
    """``n`` images of the prior alone, ``(n, *shape)``: ``generate`` with shared noise."""
    data = NoData(torch.empty(0, dtype=torch.float64), (n, *shape))
    return sample(solver, prior, data, sigmas, noise=SharedNoise(0))
