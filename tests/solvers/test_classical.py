"""The classical solvers reach the objective that sigpy's apps reach, on the same problem."""

from dataclasses import replace

import numpy as np
import pytest
import sigpy as sp
import torch
from scipy.optimize import linprog
from sigpy.mri.app import L1WaveletRecon, SenseRecon, TotalVariationRecon

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators import Dense, FiniteDifferences, Weights, sense
from medrecon.operators.bridge import AsComplex
from medrecon.sample import sample
from medrecon.solvers import TV, CGSense, L1Wavelet, LowRank, TVFista, TVPrimalDual

from ..make.images import blobs

SHAPE = (46, 40)


@pytest.fixture(scope="module")
def problem():
    maps = loop_coils(SHAPE, 4)
    mask = undersampling_mask(SHAPE, "gaussian1d", 2.5, 8, 0)
    kspace = simulate_kspace(blobs(SHAPE), maps, 0.01, np.random.default_rng(0)) * mask
    A = sense(torch.from_numpy(maps)[None], torch.from_numpy(mask)[None, None, None])
    return kspace, maps, mask, Gaussian(A, torch.from_numpy(kspace)[None], 0.01)


def solve(solver, data):
    x = sample(solver, None, data, torch.tensor([1.0, 0.0]), noise=Noise(0))
    return torch.complex(x[0, 0], x[0, 1]).numpy()


def residual_norm_and_grad(image, maps, mask, kspace):
    r = mask * sp.fft(maps * image, axes=(-2, -1)) - kspace
    return 0.5 * float(np.sum(np.abs(r) ** 2))


def test_cg_sense_equals_sigpy(problem):
    kspace, maps, mask, data = problem
    weights = np.broadcast_to(mask, SHAPE).astype(np.float32)
    theirs = SenseRecon(kspace, maps, weights=weights, lamda=0.01, max_iter=60, show_pbar=False).run()
    ours = solve(CGSense(lam=0.01, n_iter=60), data)
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()  # both float32, condition 1 / lam = 100


def test_wavelet_reaches_sigpys_objective(problem):
    kspace, maps, mask, data = problem
    lam = 0.01
    W = sp.linop.Wavelet(SHAPE, wave_name="db4")

    def objective(image):
        return residual_norm_and_grad(image, maps, mask, kspace) + lam * float(np.abs(W(image)).sum())

    weights = np.broadcast_to(mask, SHAPE).astype(np.float32)
    theirs = L1WaveletRecon(kspace, maps, lam, weights=weights, max_iter=300, show_pbar=False).run()
    ours = solve(L1Wavelet(lam=lam, n_iter=300, spin=False), data)
    # Two implementations of one iteration towards one fixed point: 0.1 % covers the different step lengths.
    assert objective(ours) == pytest.approx(objective(theirs), rel=1e-3)
    assert objective(ours) < 0.9 * objective(data.adjoint_y[0, 0].numpy() + 1j * data.adjoint_y[0, 1].numpy())


def test_cycle_spinning_depends_less_on_where_the_image_lies():
    """A shifted image meets other wavelets unless they shift at every iteration; only the phase of its k-space changes."""
    generator = np.random.default_rng(0)
    truth = blobs(SHAPE) + 0.03 * (generator.normal(size=SHAPE) + 1j * generator.normal(size=SHAPE))
    mask = undersampling_mask(SHAPE, "gaussian1d", 2.0, 8, 0)
    A = sense(torch.ones(1, 1, *SHAPE, dtype=torch.complex64), torch.from_numpy(mask)[None, None, None])
    differs = {}
    for spin in (False, True):
        images = []
        for moved in ((0, 0), (1, 3)):
            kspace = sp.fft(np.roll(truth, moved, (0, 1)), axes=(-2, -1))[None, None] * mask
            data = Gaussian(A, torch.from_numpy(kspace.astype(np.complex64)), 0.03)
            image = L1Wavelet(spin=spin).estimate(data)
            images.append(image.roll([-n for n in moved], (2, 3)))
        differs[spin] = float((images[1] - images[0]).norm() / images[0].norm())
    # Not 0: of a hundred shifts the last few count most, and 4 x 4 positions are all that this size has.
    assert differs[True] < differs[False] / 2


@pytest.mark.parametrize("solver", [L1Wavelet(n_iter=40), *[tv(n_iter=40) for tv in (TV, TVFista, TVPrimalDual)]])
@pytest.mark.parametrize("noise_std", [0.02, 0.0])
def test_the_weight_from_the_noise_does_not_care_for_units(solver, noise_std):
    """Scaling data, operator and noise by one number changes nothing; items of different noise equal each item alone."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(150, 240, generator=generator, dtype=torch.float64) / 12
    y = torch.randn(2, 150, generator=generator, dtype=torch.float64)
    std = noise_std * torch.tensor([1.0, 2.0], dtype=torch.float64)
    images = [
        solver.estimate(Gaussian(Dense(unit * matrix, (1, 16, 15)), unit * y, unit * std)) for unit in (1.0, 30.0)
    ]
    assert torch.allclose(images[0], images[1], rtol=1e-6, atol=1e-9)
    for i in range(2):
        alone = solver.estimate(Gaussian(Dense(matrix, (1, 16, 15)), y[i : i + 1], float(std[i])))
        assert torch.allclose(alone, images[0][i : i + 1], rtol=1e-9, atol=1e-12)


def test_tv_reaches_sigpys_objective(problem):
    kspace, maps, mask, data = problem
    lam = 0.005
    G = sp.linop.FiniteDifference(SHAPE)

    def objective(image):
        return residual_norm_and_grad(image, maps, mask, kspace) + lam * float(np.abs(G(image)).sum())

    weights = np.broadcast_to(mask, SHAPE).astype(np.float32)
    theirs = TotalVariationRecon(kspace, maps, lam, weights=weights, max_iter=1500, show_pbar=False).run()
    ours = solve(TV(lam=lam, n_iter=150), data)
    # Convex: neither may be better by more than what is left of the iterations.
    assert objective(ours) == pytest.approx(objective(theirs), rel=3e-3)
    assert objective(solve(TV(lam=lam), data)) < 1.01 * objective(ours)  # the default number of iterations suffices


@pytest.mark.parametrize(
    "solver",
    [TV(n_iter=400, n_inner=10), TVFista(n_iter=400, n_inner=10), TVPrimalDual(n_iter=4000)],
    ids=["admm", "fista", "pdhg"],
)
def test_tv_ends_at_the_same_minimum_whatever_the_algorithm(solver):
    """Optimality, in a batch whose items differ in scale: ``A^H (y - A x) = D^H p`` with ``|p| <= lam``, ``p D x = lam |D x|``.

    So the gap to the dual problem, ``<A^H (y - A x), x> = lam |D x|_1``, and dual feasibility by projection, vanish.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(2, 1, 12, 9, dtype=torch.float64)
    truth[0, :, 3:8, 2:6], truth[1, :, 5:, 4:] = 1.0, 7.0
    matrix = torch.randn(70, 108, generator=generator, dtype=torch.float64) / 8
    A = Dense(matrix, (1, 12, 9))
    y = A(truth) + 0.05 * torch.randn(2, 70, generator=generator, dtype=torch.float64)
    data, lam = Gaussian(A, y, 0.05), 0.05
    x = replace(solver, lam=lam).estimate(data)
    D = FiniteDifferences((0, 1), periodic=True)
    variation = lam * D(x).abs().flatten(1).sum(1)
    slope = A.adjoint(data.residual(x))
    gap = (slope * x).flatten(1).sum(1) - variation
    assert float((gap / variation).abs().max()) < 1e-4
    # The least p with D^H p = slope, by a linear programme.
    for item in range(2):
        difference = torch.stack([D(e.view(1, 1, 12, 9)).flatten() for e in torch.eye(108, dtype=torch.float64)]).T
        found = linprog(
            np.append(np.zeros(difference.shape[0]), 1.0),
            A_eq=np.c_[difference.T.numpy(), np.zeros(108)],
            b_eq=slope[item].flatten().numpy() - slope[item].mean().item(),
            A_ub=np.block([[np.eye(216), -np.ones((216, 1))], [-np.eye(216), -np.ones((216, 1))]]),
            b_ub=np.zeros(432),
            bounds=[(None, None)] * 216 + [(0, None)],
        )
        assert found.fun < lam * (1 + 1e-3)


def test_low_rank_is_singular_value_thresholding_without_an_operator():
    """A = I: the closed form; and a movie of rank 2 comes back from a quarter of its lines, other lines for every frame."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, 4, generator=generator, dtype=torch.float64)
    one = Weights(torch.ones(1, dtype=torch.float64))
    frames = AsComplex()(x).flatten(2)
    data = Gaussian(one @ AsComplex(), AsComplex()(x), 0.1)
    found = LowRank(lam=0.3, n_iter=200).estimate(data)
    u, s, vh = torch.linalg.svd(frames, full_matrices=False)
    exact = u @ torch.diag_embed((s - 0.3 * s[:, :1]).clamp(min=0) + 0j) @ vh
    assert torch.allclose(AsComplex()(found).flatten(2), exact, atol=1e-6)
    # Six frames of a real image are six rows, though six is even.
    found = LowRank(lam=0.3, n_iter=200).estimate(Gaussian(one, x, 0.1))
    u, s, vh = torch.linalg.svd(x.flatten(2), full_matrices=False)
    exact = u @ torch.diag_embed((s - 0.3 * s[:, :1]).clamp(min=0)) @ vh
    assert torch.allclose(found.flatten(2), exact, atol=1e-6)


def test_low_rank_recovers_a_movie():
    shape, frames = (24, 20), 8
    still, moving = blobs(shape, 1), blobs(shape, 2)
    phase = np.cos(np.linspace(0, 6, frames))
    movie = torch.from_numpy(np.stack([still + p * moving for p in phase]))[None]
    maps = torch.from_numpy(loop_coils(shape, 4))[None].to(torch.complex128)
    masks = torch.stack([torch.from_numpy(undersampling_mask(shape, "random", 4, 2, k)) for k in range(frames)])
    A = sense(maps, masks.view(1, frames, 1, 1, shape[1]))
    x = torch.stack([movie.real, movie.imag], dim=2).flatten(1, 2)
    data = Gaussian(A, A(x), 0.0)
    errors = {
        name: float((solver.estimate(data) - x).norm() / x.norm())
        for name, solver in {"frames alone": CGSense(lam=1e-3), "low rank": LowRank()}.items()
    }
    assert errors["low rank"] < 0.5 * errors["frames alone"]
