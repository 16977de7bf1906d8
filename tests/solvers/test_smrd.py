"""SMRD: Stein's estimate of the risk, and the weight it learns."""

import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators import gaussian_blur
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.solvers import SMRD
from medrecon.solvers.smrd import sure

from ..make.posteriors import SHAPE, dense, white

DOUBLE = torch.float64


def test_sure_is_unbiased_and_its_divergence_is_the_trace():
    """Over 20 000 noise draws, the mean of SURE is the mean of the true risk; MONAI's Monte-Carlo divergence agrees."""
    from monai.losses import SURELoss

    matrix, noise_std, lam = dense(), 0.3, 0.2
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, *SHAPE, generator=generator, dtype=DOUBLE)
    A = SpectralDense(matrix, SHAPE)
    n = 20_000
    y = A(truth) + noise_std * torch.randn(n, 3, generator=generator, dtype=DOUBLE)
    data = Gaussian(A, y, noise_std)
    x = (truth + 0.3).expand(n, -1, -1)
    probe = torch.randn(n, *SHAPE, generator=generator, dtype=DOUBLE)
    estimate, z = sure(data, x, torch.full((n,), lam, dtype=DOUBLE), probe, 30)
    risk = A(z - truth).square().sum(1)
    assert abs(float(estimate.mean() - risk.mean())) < 0.02 * float(risk.mean()) + 0.005
    # The trace, by MONAI: its loss is the product of the two terms, so the divergence is the quotient.
    image = torch.randn(1, 1, 6, 6, generator=generator, dtype=DOUBLE)
    blur = gaussian_blur((6, 6), 0.8, DOUBLE)
    noise = torch.randn(1, 1, 6, 6, generator=generator, dtype=DOUBLE)

    def smooth(v):
        return blur.solve(blur.normal(v), 0.1)

    loss = SURELoss(perturb_noise=noise, eps=1e-3)(smooth, image, image)
    monais = float(loss) / float((smooth(image) - image).square().mean()) * 36
    b = noise.permute(0, 1, 3, 2)  # it multiplies matrices where it means the inner product
    assert abs(monais - float((b @ smooth(noise)).sum())) < 1e-6 * abs(monais)


def test_smrd_learns_the_weight_that_is_best():
    """From a weight far too small or too large, the true risk of the measured part ends near its minimum over all weights."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(240, 160, generator=generator, dtype=DOUBLE))[0].T
    matrix = torch.linspace(1.0, 0.3, 160, dtype=DOUBLE)[:, None] * matrix
    A, n = SpectralDense(matrix, (1, 240)), 4
    truth = torch.randn(n, 1, 240, generator=generator, dtype=DOUBLE)
    data = Gaussian(A, A(truth) + 0.3 * torch.randn(n, 160, generator=generator, dtype=DOUBLE), 0.3)
    x = truth + 0.2 * torch.randn(n, 1, 240, generator=generator, dtype=DOUBLE)

    def risk(lam):
        return float(A(sure(data, x, lam, x, 30)[1] - truth).square().sum())

    best = min(risk(lam.expand(n)) for lam in torch.logspace(-3, 3, 40, dtype=DOUBLE))
    for first in (0.01, 100.0):
        solver = SMRD(lam=first)
        state = solver.init(x, 1.0, prior=white(1.0), data=data, noise=Noise(range(n)))
        for k in range(100):
            state = solver._solve_data(state._replace(x=x), x, data, Noise(range(k, k + n)))
        assert risk(state.log_lam.exp()) < 1.1 * best < risk(torch.full((n,), first, dtype=DOUBLE))
