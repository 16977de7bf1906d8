"""Score-based imaging (ScoreMRI, ScoreMed): limits, noise that is left, the hybrid of coils."""

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators import Coils
from medrecon.operators.bridge import AsComplex
from medrecon.sample import generate, sample
from medrecon.solvers import DDIM, ScoreMed, ScoreMRI
from medrecon.solvers.pc import corrector

from ..make.posteriors import Dense, gaussian_prior, single_coil
from .expectations import LADDER

DOUBLE = torch.float64


@pytest.mark.parametrize("solver", [ScoreMRI, ScoreMed])
def test_score_based_imaging_without_strength_is_the_sampler(solver):
    """With strength 0: corrector and ancestral step, or the ancestral step alone; the noise after a step is that of the level."""
    prior, data, _ = single_coil()
    free = sample(solver(strength=0.0, n_corrector=0), prior, data, LADDER, noise=Noise([1, 2]))
    plain = generate(prior, data.shape[1:], LADDER, seeds=[1, 2], solver=DDIM(eta=1.0), dtype=DOUBLE)
    assert torch.equal(free, plain)
    x, common, levels = 5 * torch.randn(2, *data.shape[1:], dtype=DOUBLE), {"prior": prior, "data": data}, (1.0, 0.5)
    method, noise = solver(strength=0.0), Noise([1, 2])
    found = method.output(method.step(method.init(x, 1.0, noise=noise, **common), *levels, noise=noise, **common))
    noise = Noise([1, 2])
    moved = corrector(x, 1.0, prior=prior, noise=noise, snr=0.16, keep_level=True)
    assert torch.equal(found, DDIM(eta=1.0).step(moved, *levels, noise=noise, **common))

    # Images that are one point: all else is noise. The paper's reverse diffusion would leave 1.17 times the level.
    blind = Gaussian(Dense(torch.zeros(3, 10_000, dtype=DOUBLE), (1, 10_000)), torch.zeros(8, 3, dtype=DOUBLE), 0.1)
    common = {"prior": lambda x, s: torch.full_like(x, 0.3), "data": blind, "noise": Noise(range(8))}
    method = solver(n_corrector=0)
    state = method.init(0.3 + 0.5 * Noise(range(20, 28)).like(blind.adjoint_y), 0.5, **common)
    x = method.output(method.step(state, 0.5, 0.35, **common))
    assert abs(float((x - 0.3).std()) / 0.35 - 1) < 0.01  # 80 000 numbers: standard error 0.25 %


def test_scoremri_hybrid_ties_the_coils_together():
    """With the constraint in every step the coil images fit one image better than without, and the data as exactly."""
    shape = (6, 7)
    maps = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()

    class Maps(Coils):
        """On real channels."""

        bridge = AsComplex()

        def forward(self, x):
            return self.bridge.adjoint(super().forward(self.bridge(x)))

        def adjoint(self, y):
            return self.bridge.adjoint(super().adjoint(self.bridge(y)))

    S = Maps(maps)
    _, single, x = single_coil(shape)
    coilwise = single.A
    data = Gaussian(coilwise, coilwise(S(x)), 0.0)
    prior = gaussian_prior((6, *shape))
    found = {}
    for name, solver in {
        "SSOS": ScoreMRI(),
        "rarely": ScoreMRI(coils=S, period=50),
        "hybrid": ScoreMRI(coils=S, period=1),
    }.items():
        images = sample(solver, prior, data, LADDER, noise=Noise([1, 2]))
        found[name] = float((images - S(S.adjoint(images))).norm())
        assert data.residual(images).abs().max() < 1e-12
    assert found["hybrid"] < 0.7 * found["rarely"]
    assert found["rarely"] != found["SSOS"]
    # From its first level to 0.01 the weight falls from 1 (nothing left that no image explains) to 0.2.
    z = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    off = lambda v: v - S(S.adjoint(v))  # noqa: E731
    solver = ScoreMRI(coils=S, period=1)
    assert off(solver._tied(z, 1.0, data, S)).norm() < 1e-10
    assert torch.allclose(off(solver._tied(z, 0.2, data, S)), 0.8 * off(z))
