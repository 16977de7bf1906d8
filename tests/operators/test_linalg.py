"""Conjugate gradients and the power iteration."""

import torch

from medrecon.operators import sense
from medrecon.operators.linalg import cg, operator_norm

from ..make.compare import assert_close
from ..make.operators import coil_maps, column_mask, random_tensor

DOUBLE = torch.float64


def test_cg_is_hermitian_and_per_item():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 12, 12, dtype=torch.complex128, generator=generator)
    matrix = root @ root.mH + 0.1 * torch.eye(12)
    b = torch.randn(3, 12, dtype=torch.complex128, generator=generator)
    x = cg(lambda v: (matrix @ v[..., None])[..., 0], b, n_iter=60)
    assert_close(x, torch.linalg.solve(matrix, b), 1e-8)
    # One item with zero right-hand side must neither move nor disturb the others.
    b[1] = 0
    y = cg(lambda v: (matrix @ v[..., None])[..., 0], b, n_iter=60)
    assert (y[1] == 0).all()
    assert_close(y[[0, 2]], x[[0, 2]], 1e-12)


def test_norm_is_at_most_one_for_normalised_maps_and_found_by_power_iteration():
    A = sense(coil_maps(2, 3, 8, 9), column_mask(9)[None, None, None])
    x = random_tensor(2, 2, 8, 9, dtype=torch.float64)
    dense = torch.stack(
        [A.normal(e.view(1, 2, 8, 9).expand(2, -1, -1, -1)).flatten(1) for e in torch.eye(144, dtype=torch.float64)], 2
    )
    top = torch.linalg.eigvalsh(dense).amax(-1).sqrt()
    found = operator_norm(A.normal, x, 200)
    assert (found <= top + 1e-12).all()
    assert (found > 0.99 * top).all()
    assert (top <= 1 + 1e-12).all()


def test_cg_starts_where_it_is_told_and_stops_when_it_may():
    matrix = torch.diag(torch.linspace(1, 40, 40, dtype=DOUBLE))
    calls = 0

    def apply(v):
        nonlocal calls
        calls += 1
        return v @ matrix

    b = torch.ones(1, 40, dtype=DOUBLE)
    exact = b / torch.linspace(1, 40, 40, dtype=DOUBLE)
    assert torch.equal(cg(apply, b, exact, n_iter=5), exact)
    assert calls == 1
    calls = 0
    loose = cg(apply, b, None, n_iter=100, tol=0.1)
    few = calls
    assert 0.01 < float((loose @ matrix - b).norm() / b.norm()) <= 0.1
    calls = 0
    tight = cg(apply, b, None, n_iter=100, tol=1e-8)
    assert few < calls
    assert float((tight @ matrix - b).norm() / b.norm()) <= 1e-8
