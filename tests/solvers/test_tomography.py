"""FBP and SIRT against what they converge to."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import medrecon
from medrecon.data.errors import InputError
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise
from medrecon.operators import Detector, ParallelBeam, Weights
from medrecon.operators.fbp import FILTERS
from medrecon.sample import sample
from medrecon.solvers import FBP, SIRT

from ..make.posteriors import Dense, measured

STEP = torch.tensor([1.0, 0.0])


def run(solver, data):
    return sample(solver, None, data, STEP, noise=Noise(range(data.shape[0])))


def inconsistent(positive, rows=9, seed=0):
    """More equations than unknowns that contradict each other: rows are not alike, so weights matter."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(rows, 6, generator=generator, dtype=torch.float64)
    matrix = matrix * torch.linspace(0.2, 3, rows, dtype=torch.float64)[:, None]
    if not positive:
        matrix = matrix - 0.5 * matrix.mean()
    A = Dense(matrix)
    A.nonnegative = positive
    return Gaussian(A, torch.rand(2, rows, generator=generator, dtype=torch.float64), 0.1), matrix


@pytest.mark.parametrize("positive", [True, False])
def test_sirt_converges_to_weighted_least_squares(positive):
    """Weights are one over the row sums; Landweber's iteration, for a matrix of any sign, has none."""
    data, matrix = inconsistent(positive)
    weights = 1 / matrix.sum(1) if positive else torch.ones(9, dtype=torch.float64)
    exact = torch.linalg.solve(matrix.T * weights @ matrix, matrix.T * weights @ data.y.T).T
    x = run(SIRT(n_iter=30_000), data).flatten(1)
    assert torch.allclose(x, exact, atol=1e-6)


@pytest.mark.parametrize("relaxation", [0.5, 1.0, 1.9])
def test_sirt_residual_falls_at_every_iteration(relaxation):
    data, matrix = inconsistent(True)
    root = matrix.sum(1).rsqrt()
    sizes = [
        float((root * data.residual(run(SIRT(n_iter=n, relaxation=relaxation), data))).norm()) for n in range(1, 12)
    ]
    assert all(a > b for a, b in pairwise(sizes))


def test_sirt_leaves_alone_what_no_ray_meets():
    """Rays beside the image and pixels beside the rays have no sum to divide by."""
    A = ParallelBeam(torch.tensor([0.0, 0.1]), (12, 12), Detector(40, 0.2, 3.5), dtype=torch.float64)
    x = torch.ones(1, 1, 12, 12, dtype=torch.float64)
    seen = A.adjoint(A(x)) > 0
    out = run(SIRT(n_iter=50), Gaussian(A, A(x), 0.0))
    assert out.isfinite().all()
    assert (out[~seen] == 0).all()
    assert torch.allclose(out[seen], x[seen], atol=0.05)


def test_weights_cancel_where_the_data_agree():
    A = ParallelBeam(torch.linspace(0, 3, 30), (10, 10), Detector(spacing=0.4), dtype=torch.float64)
    x = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = 0.5 + torch.rand(1, 1, 30, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weighted = Weights(w) @ A
    assert weighted.nonnegative
    assert not (Weights(-w) @ A).nonnegative
    out = run(SIRT(n_iter=1000, relaxation=1.9), Gaussian(weighted, w * A(x), 0.0))
    assert torch.allclose(out, x, atol=1e-9)


@pytest.mark.parametrize("kind", FILTERS)
def test_fbp_is_that_of_the_projector(kind):
    A = ParallelBeam(torch.linspace(0, 3, 20), (9, 9), dtype=torch.float64)
    y = torch.rand(2, 1, 20, A.detectors, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(run(FBP(kind=kind), Gaussian(A, y, 0.1)), A.fbp(y, kind))


def test_what_cannot_work_is_said():
    _, data, _ = measured()
    with pytest.raises(TypeError, match="FBP needs a Projector; got Dense"):
        run(FBP(), data)
    with pytest.raises(InputError, match=r"fbp.*sinograms"):
        medrecon.reconstruct(np.ones((1, 2, 8, 8), np.complex64), solver="fbp")
    with pytest.raises(ValueError, match="kind"):
        FBP(kind="sharp")
    with pytest.raises(ValueError, match="relaxation"):
        SIRT(relaxation=2.0)
