"""What single methods promise: limits, equations of one step, exactness where it is claimed, known biases."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from medrecon.likelihood import Gaussian, NoData, Poisson, Rician, Transmission
from medrecon.noise import Noise, karras, time_travel, truncate_ladder
from medrecon.operators import Coils, Operator, Weights, gaussian_blur, sense
from medrecon.operators.bridge import AsComplex
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.priors import GaussianPrior, log_density, with_vjp
from medrecon.sample import draw, generate, sample
from medrecon.solvers import (
    ALD,
    DAPS,
    DDIM,
    DDNM,
    DDPM,
    DDRM,
    DDS,
    DPS,
    DSG,
    ILVR,
    LGD,
    MCG,
    R2D2,
    SITCOM,
    SMRD,
    SOLVERS,
    TMPD,
    DiffPIR,
    DPMSolver,
    Heun,
    Langevin,
    PiGDM,
    PnPDM,
    PredictorCorrector,
    REDDiff,
    RePaint,
    ScoreMed,
    ScoreMRI,
)
from medrecon.solvers.base import limit_step, probability_flow, project_on_data, residual_norm_and_grad, sample_prox
from medrecon.solvers.ccdf import contraction, forward_error, noised
from medrecon.solvers.dmcmc import dmcmc
from medrecon.solvers.pc import corrector, predictor
from medrecon.solvers.r2d2 import low_frequencies, noise_of_images
from medrecon.solvers.smrd import sure

from .problems import SHAPE, Dense, dense, gaussian_prior, measured

DOUBLE = torch.float64
LADDER = karras(20.0, 0.01, 60)


def white(std, shape=SHAPE, mean=0.2):
    """A prior N(mean, std^2 I)."""
    n = math.prod(shape)
    return GaussianPrior(torch.full(shape, mean, dtype=DOUBLE), std**2 * torch.eye(n, dtype=DOUBLE))


def repeated(n, noise_std=0.05, prior=None, seed=5):
    """One measurement, ``n`` times, its posterior, and the prior."""
    first, data, matrix = measured(batch=1, noise_std=noise_std, seed=seed)
    prior = prior or first
    data = replace(data, A=SpectralDense(matrix, SHAPE), y=data.y.expand(n, -1).contiguous())
    mean, covariance = prior.posterior(matrix, data.y[0], noise_std)
    return prior, data, mean, covariance


def distance(x, mean, covariance, prior_mean):
    """Errors of mean (over the way from prior to posterior) and of covariance (relative)."""
    flat = x.flatten(1)
    away = (prior_mean.flatten() - mean).norm()
    return float((flat.mean(0) - mean).norm() / away), float(
        (torch.cov(flat.T) - covariance).norm() / covariance.norm()
    )


# The prior alone


def integrated(solver, n):
    """Where the probability-flow ODE of a Gaussian takes one start, from 10 to 0.1."""
    prior = gaussian_prior()
    start = 10 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    sigmas = torch.linspace(math.log(10.0), math.log(0.1), n + 1, dtype=DOUBLE).exp()
    data = NoData(torch.empty(0, dtype=DOUBLE), (4, *SHAPE))
    return sample(solver, prior, data, sigmas, noise=Noise(range(4)), start=start)


@pytest.mark.parametrize(("solver", "order"), [(DDIM(), 1), (Heun(), 2), (DPMSolver(), 2)], ids=["ddim", "heun", "dpm"])
def test_order_of_the_ode_solvers(solver, order):
    """Halving the steps divides the error by 2^order; the exact flow of a Gaussian scales every mode."""
    prior = gaussian_prior()
    start = 10 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    c = (start - prior.mean).flatten(1) @ prior.modes
    c = c * ((prior.variances + 0.1**2) / (prior.variances + 10.0**2)).sqrt()
    exact = prior.mean + (c @ prior.modes.T).view_as(start)
    errors = [float((integrated(solver, n) - exact).norm()) for n in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.35


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (DDPM(), 0.06),
        (Heun(), 0.06),
        (Heun(churn=0.05), 0.06),
        (DPMSolver(), 0.06),
        (PredictorCorrector(n_corrector=0), 0.06),
        (PredictorCorrector(n_corrector=0, process="vp"), 0.06),
        (Langevin(step_size=0.05, n_inner=20), 0.2),  # its moves lag a little behind the ladder
    ],
    ids=["ddpm", "heun", "heun, churn", "dpm", "ve", "vp", "langevin"],
)
def test_samplers_draw_from_the_prior(solver, tolerance):
    """Mean and variance of a Gaussian from 2000 draws: statistical error of a variance 3 %, of a mean 2 % of the spread."""
    prior = gaussian_prior()
    steps = 100 if isinstance(solver, Langevin) else 300
    x = generate(prior, SHAPE, karras(30.0, 0.005, steps), seeds=range(2000), solver=solver, dtype=DOUBLE).flatten(1)
    spread = prior.covariance.diagonal().sqrt()
    assert ((x.mean(0) - prior.mean.flatten()).abs() < 0.12 * spread).all()
    assert abs(float(x.var(0).sum() / prior.covariance.trace()) - 1) < tolerance


def test_corrections_keep_the_law_in_many_dimensions():
    """Langevin moves of a given signal-to-noise ratio, where norms are what they are in images."""
    prior = white(0.4, (2, 20, 20))
    x = generate(prior, (2, 20, 20), karras(20.0, 0.02, 150), seeds=range(8), solver=PredictorCorrector(), dtype=DOUBLE)
    assert abs(float(x.var() / 0.4**2) - 1) < 0.08
    plain = generate(prior, (2, 20, 20), karras(20.0, 0.02, 150), seeds=range(8), solver=PredictorCorrector(n_corrector=0),
                     dtype=DOUBLE)  # fmt: skip
    assert not torch.allclose(x, plain)


def test_predictor_and_corrector_are_their_equations():
    """The corrector's length, and the variance-preserving step in its own variable x / sqrt(1 + sigma^2)."""
    prior = gaussian_prior()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    sigma, after = 0.9, 0.6
    z = Noise([1, 2, 3]).like(x)
    slope = (prior(x, sigma) - x) / sigma**2
    e = 2 * (0.2 * z.flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1))[:, None, None] ** 2
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=0.2)
    assert (e < sigma**2).all()
    assert torch.allclose(found, x + e * slope + (2 * e).sqrt() * z)
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=0.2, held=True)
    assert torch.allclose(found, x + e * slope + (2 * e - e**2 / sigma**2).sqrt() * z)
    # As far as a move may go: the clean estimate with new noise.
    found = corrector(x, sigma, prior=prior, noise=Noise([1, 2, 3]), snr=50.0, held=True)
    assert torch.allclose(found, prior(x, sigma) + sigma * z)
    # Images that are one point: whatever the size of a move, the noise that is left is that of the level.
    still = 0.3 + sigma * Noise(range(8)).like(torch.zeros(8, 1, 10_000, dtype=DOUBLE))
    for snr in (0.16, 0.4, 0.7):
        point, noise = lambda x, s: torch.full_like(x, 0.3), Noise(range(20, 28))
        found = corrector(still, sigma, prior=point, noise=noise, snr=snr, held=True)
        assert abs(float((found - 0.3).std()) / sigma - 1) < 0.01  # 80 000 numbers: standard error 0.25 %
    s, s_after = (1 + sigma**2) ** -0.5, (1 + after**2) ** -0.5
    beta = 1 - (s / s_after) ** 2
    expected = (2 - (1 - beta) ** 0.5) * (s * x) + beta * slope / s + beta**0.5 * z
    found = predictor(x, sigma, after, prior=prior, noise=Noise([1, 2, 3]), process="vp")
    assert torch.allclose(s_after * found, expected)
    found = predictor(x, sigma, after, prior=prior, noise=Noise([1, 2, 3]))
    drop = sigma**2 - after**2
    assert torch.allclose(found, x + drop * slope + drop**0.5 * z)


def test_ddpm_small_is_ddim_and_large_is_exact_for_white_images():
    prior = gaussian_prior()
    small, ancestral = (
        generate(prior, SHAPE, LADDER, seeds=[1, 2], solver=solver, dtype=DOUBLE) for solver in (DDPM(), DDIM(eta=1.0))
    )
    assert torch.allclose(small, ancestral, atol=1e-12)
    # For N(0, 1) images the reverse kernel is Gaussian with the large variance, whatever the steps.
    white_one = white(1.0, mean=0.0)
    x = generate(white_one, SHAPE, torch.tensor([30.0, 3.0, 0.5, 0.1]), seeds=range(4000), solver=DDPM(variance="large"),
                 dtype=DOUBLE)  # fmt: skip
    assert abs(float(x.var()) / (1 + 0.1**2) - 1) < 0.02
    with pytest.raises(ValueError, match="variance must be"):
        DDPM(variance="huge")


def test_steps_that_rise_forget_the_past():
    """DPM-Solver's memory and every state survive time travel."""
    prior = gaussian_prior()
    sigmas = time_travel(karras(20.0, 0.01, 60), 15, 2)
    x = generate(prior, SHAPE, sigmas, seeds=range(1500), solver=DPMSolver(), dtype=DOUBLE).flatten(1)
    assert abs(float(x.var(0).sum() / prior.covariance.trace()) - 1) < 0.12

    state = DPMSolver().step(DPMSolver().init(torch.ones(1, *SHAPE, dtype=DOUBLE), 1.0, prior=prior, data=None, noise=None),
                             1.0, 0.5, prior=prior, data=None, noise=None)  # fmt: skip
    assert state.x0 is not None
    assert DPMSolver().increase_noise(state, 0.5, 1.0, noise=Noise(0)).x0 is None


def test_a_level_twice_changes_nothing():
    prior = gaussian_prior()
    once, twice = torch.tensor([5.0, 1.0, 0.2, 0.0]), torch.tensor([5.0, 1.0, 1.0, 0.2, 0.0])
    for solver in (DDIM(), DPMSolver()):
        a, b = (generate(prior, SHAPE, sigmas, seeds=[0], solver=solver, dtype=DOUBLE) for sigmas in (once, twice))
        assert torch.allclose(a, b, atol=1e-12)
    for solver in (DDIM(eta=1.0), DDPM(), Heun(), PredictorCorrector()):
        assert generate(prior, SHAPE, twice, seeds=[0], solver=solver, dtype=DOUBLE).isfinite().all()


def test_heun_stirs_noise_of_its_scale():
    """A prior that returns its input has no slope: what is left of a step is the noise that came in."""
    x = torch.zeros(20_000, 1, 4, dtype=DOUBLE)
    found = Heun(churn=0.3, noise_scale=1.5).step(
        x, 1.0, 0.5, prior=lambda z, s: z, data=None, noise=Noise(range(20_000))
    )
    assert abs(float(found.std()) / (1.5 * (1.3**2 - 1) ** 0.5) - 1) < 0.01


# Projections


def cartesian(shape=(6, 7), batch=2, noise_std=0.0):
    """One coil, half of the columns, complex images of a Gaussian prior."""
    prior = gaussian_prior((2, *shape))
    mask = torch.rand(shape[-1], generator=torch.Generator().manual_seed(0)) < 0.5
    mask[shape[-1] // 2] = True
    A = sense(None, mask[None, None, None], shape, torch.complex128)
    x = prior.mean + 0.3 * torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return prior, Gaussian(A, A(x), noise_std), x


@pytest.mark.parametrize("name", ["scoremri", "scoremed", "ilvr", "repaint", "mcg", "ddrm", "ddnm"])
def test_noiseless_data_are_satisfied(name):
    prior, data, _ = cartesian()
    x = sample(SOLVERS[name](), prior, data, LADDER, noise=Noise([1, 2]))
    assert data.residual(x).abs().max() < 1e-12


def test_full_sampling_leaves_nothing_open():
    prior, _, x = cartesian()
    A = sense(None, torch.ones(1, 1, 1, 7), (6, 7), torch.complex128)
    full = Gaussian(A, A(x), 0.0)
    for solver in (ScoreMRI(), ScoreMed(), ILVR(), RePaint(), DDRM()):
        assert torch.allclose(sample(solver, prior, full, LADDER, noise=Noise([1, 2])), x, atol=1e-12)


@pytest.mark.parametrize("solver", [ScoreMRI, ScoreMed])
def test_score_based_imaging_without_strength_is_the_sampler(solver):
    """Corrector and ancestral step; without a corrector the latter alone, at whose every level the noise is that of the level."""
    prior, data, _ = cartesian()
    free = sample(solver(strength=0.0, n_corrector=0), prior, data, LADDER, noise=Noise([1, 2]))
    plain = generate(prior, data.shape[1:], LADDER, seeds=[1, 2], solver=DDIM(eta=1.0), dtype=DOUBLE)
    assert torch.equal(free, plain)
    x, common, levels = 5 * torch.randn(2, *data.shape[1:], dtype=DOUBLE), {"prior": prior, "data": data}, (1.0, 0.5)
    method, noise = solver(strength=0.0), Noise([1, 2])
    found = method.output(method.step(method.init(x, 1.0, noise=noise, **common), *levels, noise=noise, **common))
    noise = Noise([1, 2])
    moved = corrector(x, 1.0, prior=prior, noise=noise, snr=0.16, held=True)
    assert torch.equal(found, DDIM(eta=1.0).step(moved, *levels, noise=noise, **common))

    # Images that are one point: all else is noise. The paper's reverse diffusion would leave 1.17 times the level.
    blind = Gaussian(Dense(torch.zeros(3, 10_000, dtype=DOUBLE), (1, 10_000)), torch.zeros(8, 3, dtype=DOUBLE), 0.1)
    common = {"prior": lambda x, s: torch.full_like(x, 0.3), "data": blind, "noise": Noise(range(8))}
    method = solver(n_corrector=0)
    state = method.init(0.3 + 0.5 * Noise(range(20, 28)).like(blind.adjoint_y), 0.5, **common)
    x = method.output(method.step(state, 0.5, 0.35, **common))
    assert abs(float((x - 0.3).std()) / 0.35 - 1) < 0.01  # 80 000 numbers: standard error 0.25 %


def test_scoremri_hybrid_ties_the_coils_together():
    """With a tie in every step the coil images fit one image better than without, and the data just as exactly."""
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
    _, single, x = cartesian(shape)
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


def test_ilvr_leaves_the_end_to_the_prior():
    prior, data, _ = cartesian()
    free = sample(ILVR(until=1e9), prior, data, LADDER, noise=Noise([1, 2]))
    plain = generate(prior, data.shape[1:], LADDER, seeds=[1, 2], solver=DDPM(), dtype=DOUBLE)
    assert torch.allclose(free, plain, atol=1e-12)
    some = sample(ILVR(until=0.5), prior, data, LADDER, noise=Noise([1, 2]))
    assert 1e-3 < float(data.residual(some).abs().max()) < float(data.residual(free).abs().max())


def test_ddrm_keeps_the_books_of_the_noise():
    """With a prior that knows the image, every spectral coefficient of x' is it plus noise of exactly sigma'."""
    matrix = dense()
    truth = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    n, noise_std, A = 20_000, 0.3, SpectralDense(matrix, SHAPE)
    y = A(truth) + noise_std * torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    data = Gaussian(A, y, noise_std)
    state = truth + 2.0 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    for after in (1.0, 0.45, 0.2):  # above all of noise_std / s, between them, below
        x = DDRM(eta=0.85).step(
            state, 2.0, after, prior=lambda x, s: truth.expand_as(x), data=data, noise=Noise(range(n))
        )
        spread = A.vh(x - truth).std(0)
        assert torch.allclose(spread, torch.full_like(spread, after), rtol=0.02)


def test_ddrm_takes_a_share_of_the_data():
    """eta_b < 1: mean between estimate and data, and variance sigma'^2 whatever the share, data's noise counted."""
    matrix, noise_std, after = dense(), 0.1, 0.5
    truth = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    n, A = 20_000, SpectralDense(matrix, SHAPE)
    y = A(truth) + noise_std * torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    estimate = truth + 1.0
    x = DDRM(eta_b=0.4).step(truth.expand(n, -1, -1), 2.0, after, prior=lambda x, s: estimate.expand_as(x),
                             data=Gaussian(A, y, noise_std), noise=Noise(range(n)))  # fmt: skip
    seen = (A.singular > 0).flatten()
    off = A.vh(x - truth)[:, seen]
    assert torch.allclose(off.mean(0), 0.6 * A.vh(estimate - truth)[0, seen], atol=0.02)
    assert torch.allclose(off.std(0), torch.full((3,), after, dtype=DOUBLE), rtol=0.02)


def test_shares_between_their_ends():
    """MCG's strength, ScoreMed's strength and PiGDM's eta at a half are neither 0 nor 1."""
    prior, data, _ = measured(batch=2)
    for build in (lambda v: MCG(zeta=0.1, strength=v), lambda v: ScoreMed(strength=v), lambda v: PiGDM(eta=v)):
        runs = [
            build(v).step(torch.ones(2, *SHAPE, dtype=DOUBLE), 0.8, 0.5, prior=prior, data=data, noise=Noise([1, 2]))
            for v in (0.0, 0.5, 1.0)
        ]
        assert not any(torch.allclose(a, b) for a, b in pairwise([*runs, runs[0]]))
    x, z = torch.ones(2, *SHAPE, dtype=DOUBLE), Noise([1, 2]).like(torch.ones(2, *SHAPE, dtype=DOUBLE))
    half = project_on_data(x, data, 0.3, 0.5, 30, Noise([1, 2]))
    assert torch.allclose(half, x + 0.5 * data.A.pinv(data.residual(x - 0.3 * z), 30))


def test_mcg_without_projection_is_dps():
    prior, data, _ = measured(batch=2)
    a, b = (
        sample(solver, prior, data, LADDER, noise=Noise([1, 2]))
        for solver in (MCG(zeta=0.2, strength=0.0), DPS(zeta=0.2))
    )
    assert torch.equal(a, b)
    # With it, the gradient moves only what is not measured.
    sigma, x = 0.5, torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    with_step, without = (
        MCG(zeta=z, n_cg=30).step(x, sigma, 0.3, prior=prior, data=data, noise=Noise([1, 2])) for z in (0.2, 0.0)
    )
    assert not torch.allclose(with_step, without)
    assert data.A(with_step - without).abs().max() < 1e-10


# Gradients


def test_dsg_stays_on_the_sphere():
    prior, data, _ = measured(batch=3)
    x, sigma, after = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE), 0.8, 0.5
    x0 = prior(x, sigma)
    mean = x0 + (after / sigma) ** 2 * (x - x0)
    r = after * (1 - (after / sigma) ** 2) ** 0.5 * 6**0.5
    for guidance in (0.0, 0.3, 1.0):
        z = DSG(guidance=guidance).step(x, sigma, after, prior=prior, data=data, noise=Noise([1, 2, 3]))
        assert torch.allclose((z - mean).flatten(1).norm(dim=1), torch.full((3,), r, dtype=DOUBLE))
        fresh = Noise([1, 2, 3]).like(x)
        if guidance == 0:
            assert torch.allclose(z - mean, r * fresh / fresh.flatten(1).norm(dim=1)[:, None, None])
        if guidance == 1:
            _, vjp = with_vjp(prior, x, sigma)
            slope = vjp(residual_norm_and_grad(x0, data)[1])
            assert torch.allclose(z - mean, -r * slope / slope.flatten(1).norm(dim=1)[:, None, None])
    sizes = [
        float(data.residual(sample(DSG(guidance=g), prior, data, LADDER, noise=Noise([1, 2, 3]))).norm())
        for g in (0.0, 0.1, 0.3)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_lgd_with_no_spread_is_dps():
    prior, data, _ = measured(batch=2)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    common = {"prior": prior, "data": data}
    a = LGD(zeta=0.2, image_std=1e-6, n_draws=3).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    b = DPS(zeta=0.2).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    assert torch.allclose(a, b, atol=1e-5)
    # The step's scale, at a level that does not end the run: what zeta adds.
    adds = []
    for solver, plain in (
        (LGD(zeta=0.2, image_std=1e-6), LGD(zeta=0.0, image_std=1e-6)),
        (DPS(zeta=0.2), DPS(zeta=0.0)),
    ):
        one, zero = (s.step(x, 0.8, 0.5, noise=Noise([1, 2]), **common) for s in (solver, plain))
        adds.append(one - zero)
    assert torch.allclose(*adds, atol=1e-5)
    # A misfit averaged over a spread is smooth: the gradient of its norm is shorter.
    c = LGD(zeta=0.2, image_std=1.0, n_draws=500).step(x, 0.8, 0.0, noise=Noise([1, 2]), **common)
    assert (c - prior(x, 0.8)).norm() < (b - prior(x, 0.8)).norm()


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "transmission", "rician"])
def test_misfit_and_its_gradient(kind):
    """Against central differences."""
    generator = torch.Generator().manual_seed(0)
    A = Weights(0.5 + torch.rand(5, generator=generator, dtype=DOUBLE))
    x = 0.5 + torch.rand(2, 1, 5, generator=generator, dtype=DOUBLE)
    y = 100 * (0.5 + torch.rand(2, 1, 5, generator=generator, dtype=DOUBLE))
    data = {
        "gaussian": Gaussian(A, y / 100, 0.1),
        "poisson": Poisson(A, y.round(), gain=100.0),
        "transmission": Transmission(A, y.round(), photons=200.0),
        "rician": Rician(A, y / 100, 0.1),
    }[kind]
    size, slope = residual_norm_and_grad(x, data)
    for i in range(5):
        step = torch.zeros_like(x)
        step[..., i] = 1e-5
        up, down = (residual_norm_and_grad(x + s * step, data)[0] for s in (1, -1))
        assert torch.allclose(slope[:, 0, i], (up - down) / 2e-5, rtol=1e-5, atol=1e-7)
    if kind == "poisson":
        r = (y.round() - 100 * A(x)) / y.round().sqrt()
        mean = y.round().flatten(1).mean(1)
        assert torch.allclose(size, r.flatten(1).norm(dim=1) / mean.sqrt())
    if kind == "gaussian":
        assert torch.equal(residual_norm_and_grad(x, replace(data, y=A(x)))[1], torch.zeros_like(x))


def test_dps_takes_counts():
    prior = white(0.2, (1, 6), mean=1.0)
    A = Weights(torch.ones(6, dtype=DOUBLE))
    counts = torch.tensor([[[900.0, 1500, 600, 1100, 1000, 1300]]], dtype=DOUBLE).expand(8, -1, -1)
    data = Poisson(A, counts, gain=1000.0)
    guided, free = (sample(DPS(zeta=z), prior, data, LADDER, noise=Noise(range(8))) for z in (0.05, 0.0))
    assert residual_norm_and_grad(guided, data)[0].mean() < 0.5 * residual_norm_and_grad(free, data)[0].mean()


# Exactness


@pytest.mark.parametrize("noise_std", [0.05, 0.3])
def test_tmpd_is_exact_for_gaussians(noise_std):
    """Mean within 2 %, covariance within 8 %: 3000 samples leave 1 % and 5 %."""
    prior, data, mean, covariance = repeated(3000, noise_std)
    x = sample(TMPD(), prior, data, karras(20.0, 0.005, 400), noise=Noise(range(3000)))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08


def test_tmpd_needs_its_solve_to_converge():
    """More measurements than iterations, singular values and spreads that differ much: why few are not called calibrated."""
    generator = torch.Generator().manual_seed(0)
    modes, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=DOUBLE))
    spreads = torch.linspace(0.05, 0.6, 24, dtype=DOUBLE)
    prior = GaussianPrior(torch.zeros(1, 24, dtype=DOUBLE), modes @ torch.diag(spreads**2) @ modes.T)
    u, _, v = torch.linalg.svd(torch.randn(12, 24, generator=generator, dtype=DOUBLE), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1.0, 0.1, 12, dtype=DOUBLE)) @ v
    y = matrix @ (modes @ (spreads * torch.randn(24, generator=generator, dtype=DOUBLE)))
    mean, covariance = prior.posterior(matrix, y, 0.02)
    data = Gaussian(SpectralDense(matrix, (1, 24)), y.expand(1500, -1).contiguous(), 0.02)
    errors = []
    for n_cg in (2, 20):
        x = sample(TMPD(n_cg=n_cg), prior, data, karras(20.0, 0.005, 150), noise=Noise(range(1500)))
        errors.append(distance(x, mean, covariance, prior.mean))
    assert errors[1][0] < 0.03 and errors[1][1] < 0.2
    assert errors[0][0] > 2 * errors[1][0]


@pytest.mark.slow
def test_pigdm_is_exact_for_white_images_and_close_for_others():
    white_prior = white(0.4)
    prior, data, mean, covariance = repeated(3000, prior=white_prior)
    x = sample(PiGDM(image_std=0.4), prior, data, karras(20.0, 0.005, 400), noise=Noise(range(3000)))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08
    prior, data, mean, covariance = repeated(3000)
    x = sample(PiGDM(image_std=0.4), prior, data, karras(20.0, 0.005, 400), noise=Noise(range(3000)))
    assert 0.02 < distance(x, mean, covariance, prior.mean)[0] < 0.15  # a known bias


def test_daps_is_exact_for_white_images_and_too_wide_as_published():
    prior, data, mean, covariance = repeated(3000, prior=white(0.4))
    sigmas = karras(20.0, 0.02, 60)
    x = sample(DAPS(n_ode=1, image_std=0.4), prior, data, sigmas, noise=Noise(range(3000)))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08
    published = sample(DAPS(), prior, data, sigmas, noise=Noise(range(3000))).flatten(1)
    assert 1.4 < float(published.var(0).sum() / covariance.trace()) < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_daps_by_langevin_moves_is_daps(momentum):
    """The inner sampler reaches the law of the exact draw."""
    _, data, *_ = repeated(4000)
    x0 = torch.full((4000, *SHAPE), 0.3, dtype=DOUBLE)
    solver = DAPS(inner="langevin", n_inner=600, momentum=momentum)
    moved = solver._moved(x0, 0.2, data, Noise(range(4000))).flatten(1)
    exact = sample_prox(x0, data, 0.04, 30, Noise(range(4000))).flatten(1)
    assert (moved.mean(0) - exact.mean(0)).abs().max() < 0.02
    assert float((torch.cov(moved.T) - torch.cov(exact.T)).norm() / torch.cov(exact.T).norm()) < 0.15
    with pytest.raises(TypeError, match=r"give inner='langevin'$"):
        one = torch.ones(1, *SHAPE, dtype=DOUBLE)
        sample(DAPS(), gaussian_prior(), Rician(Weights(one), one, 0.1), LADDER, noise=Noise(0))


@pytest.mark.parametrize("noise_std", [1e-3, 0.0])
def test_daps_by_langevin_moves_survives_precise_data(noise_std):
    prior, data, _ = measured(batch=4, noise_std=noise_std)
    x = sample(DAPS(inner="langevin", n_inner=50), prior, data, karras(8.0, 0.02, 20), noise=Noise(range(4)))
    assert data.residual(x).norm() < 0.3 * data.y.norm()


def test_a_drawn_image_follows_its_law():
    """Mean and covariance of p(y | z) N(z; x, var), in closed form."""
    _, data, matrix = measured(batch=1, noise_std=0.2)
    many = replace(data, y=data.y.expand(20_000, -1))
    x = torch.full((20_000, *SHAPE), 0.4, dtype=DOUBLE)
    z = sample_prox(x, many, 0.09, 30, Noise(range(20_000))).flatten(1)
    covariance = torch.linalg.inv(matrix.T @ matrix / 0.04 + torch.eye(6, dtype=DOUBLE) / 0.09)
    mean = covariance @ (matrix.T @ data.y[0] / 0.04 + 0.4 / 0.09)
    assert (z.mean(0) - mean).abs().max() < 0.01
    assert float((torch.cov(z.T) - covariance).norm() / covariance.norm()) < 0.04


@pytest.mark.slow
def test_pnpdm_reaches_its_smoothed_law():
    """At one level: p(x) N(y; A x, noise_std^2 + sigma^2 A A^T)."""
    rho, matrix = 0.3, dense()
    prior, data, _, _ = repeated(2000)
    gain = prior.covariance @ matrix.T
    inner = matrix @ gain + 0.05**2 * torch.eye(3, dtype=DOUBLE) + rho**2 * matrix @ matrix.T
    weigh = torch.linalg.solve(inner, gain.T).T
    mean = prior.mean.flatten() + weigh @ (data.y[0] - matrix @ prior.mean.flatten())
    covariance = prior.covariance - weigh @ matrix @ prior.covariance
    sigmas = torch.cat([torch.full((80,), rho, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])
    start = prior.mean.expand(2000, *SHAPE).contiguous()
    x = sample(PnPDM(n_inner=40), prior, data, sigmas, noise=Noise(range(2000)), start=start)
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.04
    assert spread < 0.12


def test_probability_flow_of_a_gaussian():
    prior = gaussian_prior()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    c = (x - prior.mean).flatten(1) @ prior.modes
    exact = prior.mean + ((c * (prior.variances / (prior.variances + 0.8**2)).sqrt()) @ prior.modes.T).view_as(x)
    errors = [float((probability_flow(prior, x, 0.8, n) - exact).norm()) for n in (1, 10, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.015 * float(exact.norm())
    assert torch.equal(probability_flow(prior, x, 0.8, 1), prior(x, 0.8))


# Coming closer, diffusing faster


def test_forward_error_of_two_starts():
    a, b = torch.zeros(4000, 2, 3, dtype=DOUBLE), torch.full((4000, 2, 3), 0.3, dtype=DOUBLE)
    found = (noised(a, 0.7, Noise(range(4000))) - noised(b, 0.7, Noise(range(4000, 8000)))).square().sum((1, 2)).mean()
    assert abs(float(found) / forward_error(6 * 0.09, 0.7, 6) - 1) < 0.03  # 4000 draws in 6 dimensions: 0.9 %


def test_contraction_is_what_is_left_of_a_start():
    """Under a prior that knows the image nothing but the factors of the steps keeps two starts apart."""
    prior = GaussianPrior(gaussian_prior().mean, 1e-12 * torch.eye(6, dtype=DOUBLE))
    sigmas = karras(0.8, 0.05, 30)
    data = NoData(torch.empty(0, dtype=DOUBLE), (1, *SHAPE))
    for kind, solver in {"ddim": DDIM(), "ddpm": DDIM(eta=1.0), "smld": PredictorCorrector(n_corrector=0)}.items():
        one, two = (
            sample(solver, prior, data, sigmas[:-1], noise=Noise(0), start=torch.full((1, *SHAPE), s, dtype=DOUBLE))
            for s in (0.0, 1.0)
        )
        left = float((two - one).norm()) / 6**0.5
        # The paper's factors of SMLD take away the lowest level's variance from both, which ours does not.
        expected = contraction(sigmas, kind if kind != "smld" else "ddpm")
        assert abs(left / expected - 1) < 0.01
    assert 0 < contraction(sigmas, "smld") < contraction(sigmas, "ddpm") < contraction(sigmas, "ddim")
    with pytest.raises(ValueError, match="kind must be"):
        contraction(sigmas, "heun")


def test_a_better_start_gives_a_better_image_sooner():
    """DDS from the pseudo-inverse at a low level needs a third of the steps for what pure noise needs all of them."""
    prior, A = white(0.4, mean=3.0), Dense(dense())
    truth = prior.mean + 0.4 * torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    data = Gaussian(
        A, A(truth) + 0.05 * torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE), 0.05
    )
    exact = torch.stack([prior.posterior(A.matrix, y, data.noise_std)[0] for y in data.y]).view(-1, *SHAPE)
    solver = DiffPIR(share=1.0)
    whole = sample(solver, prior, data, karras(20.0, 0.01, 30), noise=Noise(range(64)))
    start = prior.mean + data.A.pinv(data.residual(prior.mean.expand(64, -1, -1)))
    short = karras(0.3, 0.01, 10)
    sooner = sample(solver, prior, data, short, noise=Noise(range(64)), start=noised(start, 0.3, Noise(range(64))))
    noise_only = sample(solver, prior, data, short, noise=Noise(range(64)))
    errors = [float((x - exact).square().mean()) for x in (whole, sooner, noise_only)]
    assert errors[1] < 1.3 * errors[0]
    assert errors[1] < 0.5 * errors[2]
    one = replace(data, y=data.y[:1])
    drawn_ = draw(solver, prior, one, short, seeds=[3, 4], start=start[:1])
    alone = draw(solver, prior, one, short, seeds=[4], start=start[:1])
    assert torch.allclose(drawn_[1:], alone)
    assert not torch.allclose(drawn_[0], drawn_[1])


# Optimisation


def test_reddiff_without_prior_is_least_squares_and_with_it_the_posterior_mode():
    prior, data, _, _ = repeated(1)
    flat = torch.full((400,), 0.05, dtype=DOUBLE)
    sigmas = torch.cat([flat, torch.zeros(1, dtype=DOUBLE)])
    alone = sample(REDDiff(prior_weight=0.0, lr=0.01), prior, data, sigmas, noise=Noise(0))
    assert data.residual(alone).abs().max() < 1e-3
    # w = 1 / sigma and prior_weight = noise_std^2: the mode, which for Gaussians is the mean, under the smoothed prior.
    smoothed = GaussianPrior(prior.mean, prior.covariance + 0.5**2 * torch.eye(6, dtype=DOUBLE))
    mean, _ = smoothed.posterior(dense(), data.y[0], 0.3)
    sigmas = torch.cat([torch.full((3000,), 0.5, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])
    estimate = sample(REDDiff(prior_weight=0.3**2, schedule="inverse", lr=0.002), prior, data, sigmas, noise=Noise(0))
    assert float((estimate.flatten() - mean).norm() / (prior.mean.flatten() - mean).norm()) < 0.1
    with pytest.raises(ValueError, match="schedule must be"):
        REDDiff(schedule="cosine")


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "square", "constant", "inverse"])
def test_reddiff_follows_the_gradient_of_the_smoothed_prior(schedule):
    """What goes into Adam, of the solver itself, draw by draw and on average.

    ``eps(mu + sigma z) - z = sigma (C + sigma^2)^-1 (mu - m) - C (C + sigma^2)^-1 z``; its mean, over pairs ``z`` and ``-z``
    free of the error of sampling, is sigma times the gradient of ``-log`` of the prior smoothed by sigma.
    """
    prior, data, matrix = measured(batch=1)
    sigma, n = 0.7, 64
    data = replace(data, y=data.y.expand(n, -1))
    mu = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    z = torch.randn(n // 2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    z = torch.cat([z, -z])

    class Given(Noise):
        def __call__(self, shape, dtype, device=None):
            return z

    solver = REDDiff(prior_weight=0.3, schedule=schedule)
    common = {"prior": prior, "data": data, "noise": Given(range(n))}
    state = solver.init(torch.zeros(n, *SHAPE, dtype=DOUBLE), 1.0, **common)._replace(mu=mu.expand(n, -1, -1))
    found = solver.step(state, sigma, 0.5, **common).first.flatten(1) / 0.1  # Adam's first moment, from 0
    weight = 0.3 * {"linear": 0.7, "sqrt": 0.7**0.5, "square": 0.7**2, "constant": 1.0, "inverse": 1 / 0.7}[schedule]
    smoothed = torch.linalg.inv(prior.covariance + sigma**2 * torch.eye(6, dtype=DOUBLE))
    away = (mu - prior.mean).flatten()
    misfit_slope = matrix.T @ (matrix @ mu.flatten() - data.y[0])
    expected = misfit_slope + weight * (sigma * smoothed @ away - z.flatten(1) @ (prior.covariance @ smoothed).T)
    assert torch.allclose(found, expected, atol=1e-12)
    free = mu.flatten().clone().requires_grad_()
    covariance = prior.covariance + sigma**2 * torch.eye(6, dtype=DOUBLE)
    torch.distributions.MultivariateNormal(prior.mean.flatten(), covariance).log_prob(free).neg().backward()
    assert torch.allclose(found.mean(0), misfit_slope + weight * sigma * free.grad, atol=1e-3)


def test_diffpir_step_is_the_equation():
    prior = gaussian_prior()
    y = torch.randn(1, 6, generator=torch.Generator().manual_seed(8), dtype=DOUBLE)
    data = Gaussian(SpectralDense(torch.eye(6, dtype=DOUBLE), SHAPE), y, 0.1)
    x, sigma, after = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE), 0.4, 0.2
    found = DiffPIR(lam=1.0, share=0.3).step(x, sigma, after, prior=prior, data=data, noise=Noise(3))
    xe = (y.view(1, *SHAPE) / 0.01 + prior(x, sigma) / sigma**2) / (1 / 0.01 + 1 / sigma**2)
    expected = xe + after * (0.7**0.5 * (x - xe) / sigma + 0.3**0.5 * Noise(3).like(x))
    assert torch.allclose(found, expected, atol=1e-12)


def test_sitcom_explains_the_data_and_no_more():
    prior, data, _ = measured(batch=2)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)

    def misfits(n):
        z = SITCOM(n_inner=n, lr=0.05).step(
            x, 0.5, 0.0, prior=prior, data=replace(data, noise_std=0.0), noise=Noise([1, 2])
        )
        return float(data.residual(z).norm())

    sizes = [misfits(n) for n in (1, 5, 20, 80)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.2 * sizes[0]
    clean, free = prior(x, 0.5), replace(data, noise_std=0.0)
    held = [
        float(
            (SITCOM(n_inner=40, lam=lam).step(x, 0.5, 0.0, prior=prior, data=free, noise=Noise([1, 2])) - clean).norm()
        )
        for lam in (1e-6, 1.0, 1e4)
    ]
    assert held == sorted(held, reverse=True)  # a larger lam moves the input less
    # An item that the noise explains is not moved; its neighbour is.
    levels = torch.tensor([100.0, 0.01], dtype=DOUBLE)
    z = SITCOM().step(x, 0.5, 0.0, prior=prior, data=replace(data, noise_std=levels), noise=Noise([1, 2]))
    assert torch.equal(z[:1], prior(x, 0.5)[:1])
    assert not torch.allclose(z[1:], prior(x, 0.5)[1:])


@pytest.mark.parametrize("step_size", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("solver", [ALD, SMRD])
def test_annealed_langevin_leaves_the_noise_that_the_prior_assumes(solver, step_size):
    """Images that are one point: all else is noise, of the level before the step, and of the next after it.

    The noise of small steps, ``sqrt(2 step_size) sigma``, would leave ``1 + step_size^2 / 2`` times the level, and more.
    """
    sigma, shape = 0.5, (1, 10_000)
    blind = Gaussian(Dense(torch.zeros(3, 10_000, dtype=DOUBLE), shape), torch.zeros(8, 3, dtype=DOUBLE), 0.1)
    common = {"prior": lambda x, s: torch.full_like(x, 0.3), "data": blind, "noise": Noise(range(8))}
    for n_inner, after in ((1, 0.45), (3, 0.45), (1, 0.5)):
        method = solver(step_size=step_size, n_inner=n_inner)
        state = method.init(0.3 + sigma * Noise(range(20, 28)).like(blind.adjoint_y), sigma, **common)
        x = method.output(method.step(state, sigma, after, **common))
        assert abs(float((x - 0.3).std()) / after - 1) < 0.01  # 80 000 numbers: standard error 0.25 %
        assert abs(float(x.mean()) - 0.3) < 0.01


def test_ald_without_data_is_langevin():
    """In the limit of small steps of level and move, the noise of each to first order."""
    prior = gaussian_prior()
    blind = Gaussian(Dense(torch.zeros(3, 6, dtype=DOUBLE)), torch.zeros(2, 3, dtype=DOUBLE), 0.1)
    for step_size in (1e-2, 1e-4):
        x, common = torch.ones(2, *SHAPE, dtype=DOUBLE), {"prior": prior, "data": blind}
        a, b = (
            f(step_size=step_size, n_inner=5).step(x, 0.7, 0.7, noise=Noise([1, 2]), **common) for f in (ALD, Langevin)
        )
        assert (a - b).abs().max() < step_size * (a - x).abs().max()
    a = sample(ALD(step_size=0.1, n_inner=5), prior, blind, LADDER, noise=Noise([1, 2]))
    _, data, _ = measured(batch=2)
    x, sigma = torch.ones(2, *SHAPE, dtype=DOUBLE), 0.7
    moved, free = (
        ALD(weight=w, n_inner=1).step(x, sigma, 0.5, prior=prior, data=data, noise=Noise([1, 2])) for w in (2.0, 0.0)
    )
    slope, towards = (prior(x, sigma) - x) / sigma**2, data.A.adjoint(data.residual(x))
    size = lambda v: v.flatten(1).norm(dim=1)[:, None, None]  # noqa: E731
    assert torch.allclose(moved - free, 0.2 * sigma**2 * 2.0 * size(slope) / size(towards) * towards)
    # Nothing measured, and no noise: the prior alone, and no division by zero.
    nothing = sample(ALD(step_size=0.1, n_inner=5), prior, replace(blind, noise_std=0.0), LADDER, noise=Noise([1, 2]))
    assert torch.allclose(nothing, a, atol=1e-12)


def test_ald_does_not_depend_on_the_scale_of_the_operator():
    """A sinogram's operator is hundreds of times that of MRI: the same problem, the same images."""
    prior, data, matrix = measured(batch=2)
    large = Gaussian(Dense(300 * matrix), 300 * data.y, 300 * data.noise_std)
    a, b = (sample(ALD(), prior, d, LADDER, noise=Noise([1, 2])) for d in (data, large))
    assert torch.allclose(a, b, atol=1e-8)


def test_sure_is_unbiased_and_its_divergence_is_the_trace():
    """Over 20 000 noises: the mean of SURE is the mean of the true risk; and MONAI's Monte-Carlo divergence is ours."""
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
    """From a start far off either way, the true risk of what is measured ends near the least that any weight has."""
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
            state = solver._met(state._replace(x=x), x, data, Noise(range(k, k + n)))
        assert risk(state.log_lam.exp()) < 1.1 * best < risk(torch.full((n,), first, dtype=DOUBLE))


# Magnitude images


def test_r2d2_denoises_to_the_posterior_mean():
    """Without regularisation, from the noise level itself: draws whose mean is the clean estimate."""
    prior, sigma = white(0.4, (1, 8, 8)), 0.3
    noisy = prior.mean + torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).mul(0.5)
    many = noisy.expand(400, -1, -1, -1).contiguous()
    data = low_frequencies(many, sigma, factor=4)
    sigmas = truncate_ladder(karras(20.0, 0.002, 150), sigma)
    x = sample(R2D2(strength=0.0), prior, data, sigmas, noise=Noise(range(400)), start=many)
    assert (x.mean(0) - prior(noisy, sigma)[0]).abs().max() < 0.06  # 400 draws of standard deviation 0.24, 64 pixels
    held = sample(R2D2(strength=1.0), prior, data, sigmas, noise=Noise(range(400)), start=many)
    assert data.residual(held).abs().max() < 1e-9


def test_r2d2_guidance_is_the_gradient():
    """Of |x' - prior(x)|^2 in x, with x' the predictor's: by autograd; and so it draws the state towards the manifold."""
    prior, sigma, after = gaussian_prior((1, 2, 4)), 0.5, 0.3
    x = torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    data = low_frequencies(x, 0.5, factor=2)
    plain, guided = (
        R2D2(guidance=g, strength=0.2).step(x, sigma, after, prior=prior, data=data, noise=Noise([1, 2]))
        for g in (0.0, 0.4)
    )
    free = x.clone().requires_grad_()
    x0 = prior(free, sigma)
    moved = free + (sigma**2 - after**2) * (x0 - free) / sigma**2
    moved = moved + (sigma**2 - after**2) ** 0.5 * Noise([1, 2]).like(x)
    (slope,) = torch.autograd.grad((moved - x0).square().sum(), free)
    assert torch.allclose(guided, plain - 0.4 * slope, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.02, 0.07, 0.2])
def test_noise_of_images_within_five_per_cent(sigma):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 230), indexing="ij")
    clean = (y**2 + x**2 < 0.8).float() + 0.5 * ((y - 0.2) ** 2 + x**2 < 0.1).float() + 0.3 * torch.sin(4 * y)
    noisy = clean + sigma * torch.randn(3, 1, 256, 230, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(noise_of_images(noisy), torch.full((3,), sigma), rtol=0.05)
    assert float(noise_of_images(torch.zeros(1, 1, 8, 8))) == 0


# All of them


def test_unconditional_samplers_refuse_data_and_others_their_absence():
    prior, data, _ = measured()
    for solver in (Heun(), DDPM(), DPMSolver(), PredictorCorrector(), Langevin()):
        with pytest.raises(TypeError, match="prior alone; choose a solver that takes data"):
            sample(solver, prior, data, LADDER, noise=Noise(0))
    nothing = NoData(torch.empty(0, dtype=DOUBLE), (1, *SHAPE))
    for solver in (DPS(), PiGDM(), DDIM(eta=1.0)):
        if isinstance(solver, DDIM):
            assert sample(solver, prior, nothing, LADDER, noise=Noise(0)).isfinite().all()
            continue
        with pytest.raises(TypeError, match="needs"):
            sample(solver, prior, nothing, LADDER, noise=Noise(0))
    with pytest.raises(ValueError, match="REDDiff begins with an estimate of its own"):
        sample(REDDiff(), prior, data, LADDER, noise=Noise(0), start=torch.zeros(1, *SHAPE, dtype=DOUBLE))
    with pytest.raises(TypeError, match="DDRM needs a Spectral"):
        sample(DDRM(), prior, data, LADDER, noise=Noise(0))


def test_nonlinear_operators():
    class Square(Operator):
        def forward(self, x):
            return x.flatten(1)[:, :3] ** 2

    prior = gaussian_prior()
    data = Gaussian(Square(), torch.full((2, 3), 0.25, dtype=DOUBLE), 0.05, image_shape=(2, *SHAPE))
    free = sample(DPS(zeta=0.0), prior, data, LADDER, noise=Noise([0, 1]))
    for solver in (
        LGD(zeta=0.1),
        DSG(guidance=0.5),
        SITCOM(n_inner=10, lr=0.05),
        REDDiff(),
        DAPS(inner="langevin", lr=1e-4),
    ):
        x = sample(solver, prior, data, LADDER, noise=Noise([0, 1]))
        assert data.residual(x).norm() < 0.7 * data.residual(free).norm(), type(solver).__name__
    with pytest.raises(TypeError, match="PiGDM needs a LinearOperator"):
        sample(PiGDM(), prior, data, LADDER, noise=Noise([0, 1]))


def test_draws_of_counts():
    prior = white(0.2, (1, 6), mean=1.0)
    data = Poisson(Weights(torch.ones(6, dtype=DOUBLE)), torch.full((1, 1, 6), 1000.0, dtype=DOUBLE), gain=1000.0)
    assert draw(DiffPIR(), prior, data, LADDER[-20:], seeds=[1, 2, 3]).shape == (3, 1, 1, 6)


def test_dds_keeps_what_a_single_coil_does_not_see():
    """A closed form and no noise: the null space is the prior's, not zero."""
    prior, data, _ = cartesian()
    x = sample(DDS(), prior, data, LADDER, noise=Noise([1, 2]))
    y = sample(DDNM(), prior, data, LADDER, noise=Noise([1, 2]))
    null = x - data.A.pinv(data.A(x))
    assert null.norm() > 0.3 * (y - data.A.pinv(data.A(y))).norm() > 0


@pytest.mark.parametrize(
    "shape", [(1, 400), (2, 24, 20), (1, 10, 9, 8), (1, 1, 300)], ids=["1-D", "2-D", "3-D", "one row"]
)
def test_the_noise_that_dmcmc_measures_and_its_default_in_any_dimension(shape):
    """White noise on a ramp: its own standard deviation within 15 % (300 to 1000 pixels leave 5 %); and the chain runs."""
    ramp = torch.linspace(1.0, 2.0, shape[-1], dtype=DOUBLE).expand(4, *shape)
    noisy = ramp + 0.2 * torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert torch.allclose(noise_of_images(noisy), torch.full((4,), 0.2, dtype=DOUBLE), rtol=0.15)
    chain = dmcmc(lambda x, s: ramp, noisy, 0.2, noise=Noise(range(4)), skip=1, burn_in=0)
    x, levels = next(chain)
    assert x.isfinite().all()
    assert ((levels > 0.1) & (levels < 0.4)).all()


def test_dmcmc_visits_every_level_as_often_as_it_should():
    """With exact draws of the level given the image, its histogram is the law that they were drawn with."""
    prior = gaussian_prior()
    grid = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)

    def level(x):
        c = (x - prior.mean).flatten(1) @ prior.modes
        total = prior.variances + grid[:, None] ** 2
        log_p = -0.5 * (c[:, None, :] ** 2 / total + total.log()).sum(-1)
        return grid[torch.multinomial(log_p.softmax(1), 1, generator=generator)[:, 0]]

    start = prior.mean + 0.4 * torch.randn(500, *SHAPE, generator=generator, dtype=DOUBLE)
    chain = dmcmc(prior, start, 0.4, noise=Noise(range(500)), level=level, step_size=0.2, skip=10, burn_in=60)
    seen = torch.stack([next(chain)[1] for _ in range(60)])
    shares = torch.stack([(seen == s).double().mean() for s in grid])
    # Uniform, but for the finite step of the moves and 500 chains.
    assert (shares - 0.25).abs().max() < 0.05


def test_dmcmc_and_a_short_run_draw_from_the_posterior():
    prior, data, mean, covariance = repeated(400)
    start = prior.mean + 0.5 * torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    chain = dmcmc(prior, start, 0.3, noise=Noise(range(400)), data=data, level=lambda x: x.new_full((len(x),), 0.3),
                  step_size=0.1, burn_in=200)  # fmt: skip
    x, sigma = next(chain)
    assert torch.equal(sigma, torch.full((400,), 0.3, dtype=DOUBLE))
    done = sample(TMPD(), prior, data, truncate_ladder(karras(1.0, 0.01, 40), 0.3), noise=Noise(range(400)), start=x)
    error, _ = distance(done, mean, covariance, prior.mean)
    assert error < 0.2  # TMPD steps down from the chain's law, whose likelihood is a little wider than the data's
    # One move is its equation.
    x = torch.ones(400, *SHAPE, dtype=DOUBLE)
    chain = dmcmc(prior, x, 0.3, noise=Noise(range(400)), data=data, level=lambda v: v.new_full((len(v),), 0.3), step_size=0.1,
                  skip=1, burn_in=0)  # fmt: skip
    a = 0.1 * 0.3**2
    slope = (prior(x, 0.3) - x) / 0.3**2
    slope = slope + data.A.adjoint(data.residual(x)) / (data.lipschitz * 0.3**2 + 0.05**2)[:, None, None]
    assert torch.allclose(next(chain)[0], x + a * slope + (2 * a) ** 0.5 * Noise(range(400)).like(x), atol=1e-9)


def test_log_density_of_a_gaussian():
    """Within 0.01 nats a dimension, by the exact trace; and by one probe for many images."""
    prior = gaussian_prior()
    x = prior.mean + 0.4 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    total = prior.covariance + 0.05**2 * torch.eye(6, dtype=DOUBLE)
    exact = torch.distributions.MultivariateNormal(prior.mean.flatten(), total).log_prob(x.flatten(1))
    found = log_density(prior, x, sigma_min=0.05, sigma_max=100.0, n_steps=200)
    assert (found - exact).abs().max() < 0.06
    many = x[:1].expand(4000, -1, -1)
    probed = log_density(
        prior, many, sigma_min=0.05, sigma_max=100.0, n_steps=200, probe=Noise(range(4000)).like(many).sign()
    )
    assert abs(float(probed.mean() - exact[0])) < 0.1
    with pytest.raises(ValueError, match="sigma_min"):
        log_density(prior, x, sigma_min=1.0, sigma_max=0.5)


def test_guidance_never_overshoots_the_data():
    """A step ten times too long is cut to where it explains the data best; one that lessens the residual stays."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    A = Dense(matrix, SHAPE)
    y = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    data = Gaussian(A, y, 0.1)
    exact = torch.linalg.pinv(matrix) @ y.T
    exact = exact.T.view(2, *SHAPE)
    long = exact * torch.tensor([10.0, 1.9], dtype=torch.float64).view(-1, *[1] * len(SHAPE))
    cut = limit_step(long, data, y)
    assert torch.allclose(cut[0], exact[0], atol=1e-10)
    assert torch.equal(cut[1], long[1])
    assert torch.equal(limit_step(-exact, data, y), torch.zeros_like(exact))
    assert torch.equal(limit_step(torch.zeros_like(exact), data, y), torch.zeros_like(exact))
