"""Every entry of ``SOLVERS`` on problems whose posterior is known in closed form, against its row in ``expectations.py``."""

import copy
import math
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.joint_maps import JointMaps
from medrecon.likelihood import Gaussian, NoData
from medrecon.networks import ResidualUNet
from medrecon.noise import Noise, karras, time_travel
from medrecon.operators import Operator, sense
from medrecon.operators.base import LinearOperator
from medrecon.operators.projector import Projector
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.operators.spectral import Spectral
from medrecon.operators.weights import Weights
from medrecon.priors import Counted
from medrecon.sample import generate, sample
from medrecon.solvers import DPS, SOLVERS, Requires, is_unconditional
from medrecon.solvers.base import ANY
from medrecon.training.objectives import EDM

from ..make.images import blobs
from ..make.posteriors import SHAPE, Dense, SharedNoise, dense, gaussian_prior, measured, single_coil
from .expectations import (
    EXPECTED,
    GENERAL,
    LADDER,
    LEARNED,
    SINGLE_LEVEL,
    UNCONDITIONAL,
    Interval,
    fitted,
    ladder,
    make,
)

DOUBLE = torch.float64


def test_every_solver_has_a_row():
    for name in SOLVERS:
        assert name in EXPECTED, (
            f"the solver {name} has no row in EXPECTED (tests/solvers/expectations.py): add one that names the operators "
            "and likelihoods it takes and every expectation that it cannot meet, each with the reason"
        )
    for name, row in EXPECTED.items():
        assert name in SOLVERS, f"EXPECTED has a row for {name}, which is not in SOLVERS: delete the row"
        if name in LEARNED:
            for field in ("without_data", "mode_error"):
                assert getattr(row, field) is not None, f"the row of {name} in EXPECTED needs {field}"


OPERATORS = {
    "none": object,
    "any": Operator,
    "linear": LinearOperator,
    "spectral": Spectral,
    "projector": Projector,
    "identity": Weights,
}
LIKELIHOODS = {"none": NoData, "gaussian": Gaussian, "any": ANY, "maps": JointMaps}


@pytest.mark.parametrize("name", EXPECTED)
def test_requirements_are_those_of_the_table(name):
    row, solver = EXPECTED[name], SOLVERS[name]
    assert solver.requires == Requires(OPERATORS[row.operator], LIKELIHOODS[row.likelihood], row.prior)
    assert solver.takes_start == row.takes_start
    assert is_unconditional(solver) == (name in UNCONDITIONAL)


def posterior_mean(prior, data, matrix):
    return torch.stack([prior.posterior(matrix, y, data.noise_std)[0] for y in data.y]).view(-1, *SHAPE)


@pytest.mark.parametrize("name", [n for n in GENERAL if not EXPECTED[n].not_nearer])
def test_nearer_to_the_posterior_mean_than_the_prior_mean_is(name):
    prior, data, matrix = measured(batch=64)
    exact = posterior_mean(prior, data, matrix)
    x = sample(make(name), prior, fitted(name, data), ladder(name), noise=Noise(range(64)))
    away = (prior.mean - exact).square().sum((1, 2)).mean()
    # A perfect posterior sample is off by the posterior's own spread.
    spread = prior.posterior(matrix, data.y[0], data.noise_std)[1].trace()
    assert (x - exact).square().sum((1, 2)).mean() < 0.5 * away + spread


@pytest.mark.parametrize("name", LEARNED)
def test_mean_of_many_samples_is_near_the_posterior_mean(name):
    """On one measurement, away from the prior mean: bias below a third of the way from prior to posterior mean."""
    prior, data, matrix = measured(batch=1, seed=5)
    many = replace(data, y=data.y.expand(512, -1))
    x = sample(make(name), prior, fitted(name, many), LADDER, noise=SharedNoise(0)).mean(0)
    exact = posterior_mean(prior, data, matrix)[0]
    assert (x - exact).norm() < (prior.mean - exact).norm() / 3


@pytest.mark.parametrize("name", GENERAL)
def test_identity_without_noise_returns_the_data(name):
    shape = (2, 8, 9)
    n = 144
    prior = gaussian_prior(shape)
    generator = torch.Generator().manual_seed(3)
    y = 0.3 * torch.randn(2, n, generator=generator, dtype=torch.float64)
    data = Gaussian(Dense(torch.eye(n, dtype=torch.float64), shape), y, 0.0)
    solver = make(name, **EXPECTED[name].identity_settings)
    x = sample(solver, prior, fitted(name, data), ladder(name), noise=Noise([0, 1]))
    tolerance = EXPECTED[name].identity.value
    assert tolerance < y.abs().max() / 4  # neither the zero image nor the prior's mean passes
    error = float((x.flatten(1) - y).abs().max())
    assert error < tolerance, f"{name}: set identity=Bound({error:.2g} or more, reason) in its row of EXPECTED"


def variances_without_data(prior, recursion, levels):
    """Variances of every mode of the Gaussian when there are no data: all that is left is a linear recursion."""
    variances = torch.full_like(prior.variances, float(levels[0]) ** 2)
    for sigma, after in pairwise(levels.tolist()):
        kappa = recursion.eta * ((1 - after**2 / sigma**2) ** 0.5 if recursion.kernel == "ddim" else 1.0)
        kept = prior.variances / (prior.variances + (recursion.sigma_scale * sigma) ** 2)
        factor = kept + after / sigma * (1 - kappa**2) ** 0.5 * (1 - kept)
        variances = factor**2 * variances + (after * kappa) ** 2
    return variances


@pytest.mark.parametrize("name", LEARNED)
def test_without_data_samples_follow_the_prior_or_their_known_bias(name):
    """A = 0: the DDIM kernel with eta = 1 is exact in the limit of many steps; the DDNM kernel loses variance."""
    prior = gaussian_prior()
    levels = karras(20.0, 0.01, 100)
    data = Gaussian(Dense(torch.zeros(3, 6, dtype=torch.float64)), torch.zeros(2000, 3, dtype=torch.float64), 0.05)
    x = sample(make(name), prior, fitted(name, data), levels, noise=SharedNoise(0)).flatten(1)
    assert (x.mean(0) - prior.mean.flatten()).abs().max() < 0.06
    share = float(x.var(0).sum() / prior.covariance.trace())
    law = EXPECTED[name].without_data
    assert law is not None, f"{name}: set without_data (a Recursion or an Interval) in its row of EXPECTED"
    if isinstance(law, Interval):
        assert law.low < share < law.high
        assert not make(name).calibrated(levels)
        return
    expected = float(variances_without_data(prior, law, levels).sum() / prior.covariance.trace())
    # 2000 samples in 6 dimensions: standard error of the ratio about sqrt(2 / 2000 / 3) = 1.8 %.
    assert abs(share / expected - 1) < 0.06
    # Who claims calibration has the prior's own variance, but for the finite number of steps.
    assert expected < 1.05
    assert expected > 0.9 or not make(name).calibrated(levels)


@pytest.mark.parametrize("name", GENERAL)
def test_a_batch_equals_its_items_alone(name):
    prior, data, _ = measured(batch=3)
    # One item a hundred times larger must not steer the others.
    data = replace(fitted(name, data), y=data.y * torch.tensor([[1.0], [100.0], [0.01]], dtype=torch.float64))
    together = sample(make(name), prior, data, ladder(name), noise=Noise([7, 8, 9]))
    for i in range(3):
        alone = sample(make(name), prior, replace(data, y=data.y[i : i + 1]), ladder(name), noise=Noise([7 + i]))
        assert torch.allclose(together[i], alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GENERAL)
def test_reproducible_pure_and_of_the_inputs_type(name):
    for dtype in (torch.float32, torch.float64):
        prior, data, _ = measured(batch=2, dtype=dtype)
        data = fitted(name, data)
        y, state = data.y.clone(), torch.get_rng_state()
        start = torch.ones(2, *SHAPE, dtype=dtype)
        given = {"start": start} if EXPECTED[name].takes_start else {}
        first = sample(make(name), prior, data, ladder(name), noise=Noise([1, 2]), **given)
        again = sample(make(name), prior, data, ladder(name), noise=Noise([1, 2]), **given)
        assert first.dtype == dtype
        assert torch.equal(first, again)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(data.y, y)
        assert torch.equal(start, torch.ones_like(start))
        assert not first.requires_grad


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("shape", [(1, 7), (2, 5, 4), (1, 3, 4, 3)], ids=["1-D", "2-D", "3-D"])
def test_any_number_of_dimensions(name, shape):
    prior = gaussian_prior(shape)
    n = prior.mean.numel()
    truth = prior.mean[None]
    A = Dense(dense(n // 2, n), shape)
    x = sample(make(name), prior, fitted(name, Gaussian(A, A(truth), 0.01)), ladder(name), noise=Noise(0))
    assert x.shape == (1, *shape)
    assert (A(x) - A(truth)).norm() < A(truth).norm()


@pytest.mark.parametrize("name", SOLVERS)
def test_hyper_parameters_are_frozen_and_documented(name):
    solver = make(name)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        solver.anything = 1
    for field in fields(solver):
        assert f"{field.name}:" in type(solver).__doc__, f"{field.name} is not in the docstring of {name}"
    if name in LEARNED + UNCONDITIONAL:
        assert "Cost:" in type(solver).__doc__, (
            f"the docstring of {name} does not give the network evaluations of a step"
        )


@pytest.mark.parametrize("name", LEARNED + UNCONDITIONAL)
def test_evaluations_are_as_declared(name):
    """The number of evaluations of a run is known beforehand; a solver that stops early may need fewer."""
    prior, data, _ = measured()
    counted = Counted(prior)
    if name in UNCONDITIONAL:
        generate(counted, SHAPE, LADDER, seeds=[0], solver=make(name), dtype=torch.float64)
    else:
        sample(make(name), counted, fitted(name, data), LADDER, noise=Noise(0))
    declared = make(name).evaluations * (len(LADDER) - 1) + EXPECTED[name].last_step_evaluations
    assert counted.calls <= declared if EXPECTED[name].stops_early else counted.calls == declared


class Twice(Noise):
    """The same numbers in both halves of the last axis."""

    def __call__(self, shape, dtype, device=None):
        half = super().__call__((*shape[:-1], shape[-1] // 2), dtype, device)
        return torch.cat([half, half], -1)


class SideBySide(Spectral):
    """One operator on each half of the last axis of images and of measurements: block-diagonal."""

    def __init__(self, tile):
        super().__init__()
        self.tile = tile

    @property
    def singular(self):
        return self.tile.singular.repeat(2)

    def _both(self, f, x):
        return torch.cat([f(half) for half in x.chunk(2, -1)], -1)

    def vh(self, x):
        return self._both(self.tile.vh, x)

    def v(self, c):
        return self._both(self.tile.v, c)

    def uh(self, y):
        return self._both(self.tile.uh, y)

    def u(self, c):
        return self._both(self.tile.u, c)


@pytest.mark.parametrize("name", [name for name in LEARNED if not EXPECTED[name].along_z])
def test_settings_mean_the_same_at_every_size(name):
    """Two independent problems side by side in one image: each half equals the problem alone.

    The twin has the same data and the same noise, so every norm over the whole image is sqrt(2) times that of one half.
    """
    prior, data, matrix = measured(batch=2)
    one = replace(data, A=SpectralDense(matrix, SHAPE))
    two = replace(one, A=SideBySide(one.A), y=torch.cat([one.y, one.y], -1))

    def twin(x, sigma):
        return torch.cat([prior(half, sigma) for half in x.chunk(2, -1)], -1)

    alone = sample(make(name), prior, one, LADDER, noise=Noise([1, 2]))
    both = sample(make(name), twin, two, LADDER, noise=Twice([1, 2]))
    for half in both.chunk(2, -1):
        assert torch.allclose(half, alone, atol=1e-6)  # the order of sums, through Adam's division by small roots


@pytest.mark.parametrize("name", LEARNED)
def test_rising_and_equal_levels_are_legal(name):
    """With time travel and a repeated level, the residual at the end is about that of the plain ladder."""
    prior, data, _ = measured(batch=16)
    data = fitted(name, data)
    plain = sample(make(name), prior, data, LADDER, noise=Noise(range(16)))
    sigmas = time_travel(LADDER, 20, 2)
    sigmas = torch.cat([sigmas[:30], sigmas[29:]])
    again = sample(make(name), prior, data, sigmas, noise=Noise(range(16)))
    assert data.residual(again).norm() < 1.6 * data.residual(plain).norm() + 0.05 * data.y.norm()


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("levels", [[0.05, 0.2], [0.0, 0.1]], ids=["", "one of them 0"])
def test_noise_level_may_differ_per_item(name, levels):
    prior, data, _ = measured(batch=2)
    levels = torch.tensor(levels, dtype=torch.float64)
    data = fitted(name, data)
    both = sample(make(name), prior, replace(data, noise_std=levels), ladder(name), noise=Noise([1, 2]))
    for i in range(2):
        one = replace(data, y=data.y[i : i + 1], noise_std=float(levels[i]))
        alone = sample(make(name), prior, one, ladder(name), noise=Noise([1 + i]))
        # Without noise a number is projected, a level per item solved with weight 0: the same but for rounding.
        assert torch.allclose(both[i : i + 1], alone, atol=1e-9 if float(levels[i]) else 1e-6)


def test_the_noise_may_have_another_type_than_the_data():
    """Float64 levels, float32 data: single precision all the way."""
    prior, data, _ = measured(batch=2, dtype=torch.float32)
    data = replace(data, noise_std=torch.tensor([0.05, 0.1], dtype=torch.float64))
    for name in LEARNED:
        assert sample(make(name), prior, fitted(name, data), LADDER[-10:], noise=Noise([1, 2])).dtype == torch.float32


@pytest.fixture(scope="module")
def scans():
    """Three small scans in single precision, of four coils and of one, and an untrained network."""
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).eval().requires_grad_(False)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    shape = (24, 20)
    mask = torch.from_numpy(undersampling_mask(shape, "gaussian1d", 2, 6, 0))[None, None, None]
    x = torch.from_numpy(np.stack([blobs(shape, k) for k in range(3)]))
    out = {}
    for coils in (1, 4):
        A = sense(torch.from_numpy(loop_coils(shape, coils))[None] if coils > 1 else None, mask, shape)
        out[coils] = Gaussian(A, A(torch.stack([x.real, x.imag], dim=1).float()), 0.01)
    return network, out


def _image(name, network, data):
    prior, levels = EDM().prior(network, 16, None), karras(1.5, 0.01, 6) if EXPECTED[name].prior else SINGLE_LEVEL
    return sample(make(name), prior, data, levels, noise=Noise([1, 2, 3][: len(data.y)]))


@pytest.mark.parametrize("name", GENERAL)
def test_single_precision_agrees_between_batches(name, scans):
    """With a network as the prior, an item alone and in a batch agree to 1e-4 of the maximum."""
    network, found = scans
    data = found[1 if EXPECTED[name].operator == "spectral" else 4]
    together = _image(name, network, data)
    alone = _image(name, network, replace(data, y=data.y[:1]))
    assert float((together[:1] - alone).abs().max()) < 1e-4 * float(together.abs().max())
    assert torch.equal(together, _image(name, network, data))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: compares it with the CPU")
@pytest.mark.parametrize("name", GENERAL)
def test_a_gpu_agrees_with_the_cpu(name, scans):
    """To 1e-3 of the maximum, with TF32 off."""
    network, found = scans
    data = found[1 if EXPECTED[name].operator == "spectral" else 4]
    here = _image(name, network, data)
    there = replace(data, A=copy.deepcopy(data.A).cuda(), y=data.y.cuda())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # matrix products have it off
        moved = _image(name, copy.deepcopy(network).cuda(), there).cpu()
    assert float((moved - here).abs().max()) < 1e-3 * float(here.abs().max())


PROJECTIONS = [name for name, row in EXPECTED.items() if row.satisfies_data]


@pytest.mark.parametrize("name", PROJECTIONS)
def test_noiseless_data_are_satisfied(name):
    prior, data, _ = single_coil()
    x = sample(make(name), prior, data, LADDER, noise=Noise([1, 2]))
    assert data.residual(x).abs().max() < 1e-12


@pytest.mark.parametrize("name", PROJECTIONS)
def test_full_sampling_leaves_nothing_open(name):
    prior, _, x = single_coil()
    A = sense(None, torch.ones(1, 1, 1, 7), (6, 7), torch.complex128)
    full = Gaussian(A, A(x), 0.0)
    assert torch.allclose(sample(make(name), prior, full, LADDER, noise=Noise([1, 2])), x, atol=1e-12)


class Square(Operator):
    """The squares of three pixels: not linear."""

    def forward(self, x):
        return x.flatten(1)[:, :3] ** 2


@pytest.mark.parametrize("name", LEARNED)
def test_nonlinear_operators_are_fitted_or_refused(name):
    prior, settings = gaussian_prior(), EXPECTED[name].nonlinear
    data = Gaussian(Square(), torch.full((2, 3), 0.25, dtype=DOUBLE), 0.05, image_shape=(2, *SHAPE))
    if settings is None:
        operator = "Spectral" if EXPECTED[name].operator == "spectral" else "LinearOperator"
        with pytest.raises(TypeError, match=f"{SOLVERS[name].__name__} needs a {operator}"):
            sample(make(name), prior, data, LADDER, noise=Noise([0, 1]))
        return
    free = sample(DPS(zeta=0.0), prior, data, LADDER, noise=Noise([0, 1]))
    x = sample(make(name, **settings), prior, data, LADDER, noise=Noise([0, 1]))
    assert data.residual(x).norm() < 0.7 * data.residual(free).norm()


@pytest.mark.parametrize("name", LEARNED + UNCONDITIONAL)
@pytest.mark.parametrize(
    "levels",
    [[1.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0], [1.0, -0.5, 0.0], [1.0, math.nan, 0.0], [math.inf, 1.0, 0.0]],
    ids=["0 twice", "0 between", "from 0", "negative", "NaN", "infinite"],
)  # fmt: skip
def test_ladders_with_a_level_that_cannot_be_are_refused(name, levels):
    """Before the first step; such ladders used to end in NaN."""
    prior, data, _ = measured()
    with pytest.raises(ValueError, match="noise levels must be positive and finite, and only the last may be 0; got"):
        if name in UNCONDITIONAL:
            generate(prior, SHAPE, torch.tensor(levels), seeds=[0], solver=make(name))
        else:
            sample(make(name), prior, fitted(name, data), torch.tensor(levels), noise=Noise(0))
