"""Nonlinear operators: slopes against finite differences, and what the measurements cannot tell."""

import pytest
import torch

from medrecon.operators import Magnitude, Network, Operator, OversampledFourier, Saturation, phase_retrieval, sense

from ..make.operators import coil_maps, column_mask, random_tensor

X = random_tensor(2, 1, 6, 7, dtype=torch.float64)
OPERATORS = {
    "phase retrieval": (phase_retrieval((6, 7)), X),
    "magnitude k-space": (
        Magnitude(sense(coil_maps(1, 3, 6, 7), column_mask(7)[None, None, None])), random_tensor(2, 2, 6, 7, dtype=torch.float64)
    ),
    "saturation": (Saturation(-0.5, 1.0, 1.3), X),
    "network": (Network(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Tanh()).double()), X),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_vjp_against_finite_differences(name):
    A, x = OPERATORS[name]
    y = A(x)
    v, d = random_tensor(*y.shape, dtype=torch.float64), random_tensor(*x.shape, dtype=torch.float64) * 1e-6
    slope = (v * (A(x + d) - A(x - d))).flatten(1).sum(1) / 2
    assert torch.allclose((A.vjp(x, v) * d).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-12)
    assert torch.allclose(Operator.vjp(A, x, v), A.vjp(x, v), atol=1e-12)


def test_phase_retrieval_cannot_tell_shift_and_mirror():
    A = phase_retrieval((8, 9), 2.0)
    x = torch.zeros(1, 1, 8, 9, dtype=torch.float64)
    x[..., 2:5, 3:6] = random_tensor(3, 3, dtype=torch.float64)
    assert torch.allclose(A(x.roll((2, -1), (-2, -1))), A(x), atol=1e-12)
    assert torch.allclose(A(x.flip(-1, -2)), A(x), atol=1e-12)
    assert torch.allclose(A(x).square().sum(), x.square().sum())  # Parseval


def test_oversampling_interpolates_k_space():
    x = random_tensor(1, 1, 6, 6, dtype=torch.float64)
    fine = OversampledFourier((6, 6), 2.0)(x)
    assert torch.allclose(2 * fine[..., ::2, ::2], OversampledFourier((6, 6), 1.0)(x), atol=1e-12)


def test_a_network_stays_frozen_and_errors_speak():
    A, _ = OPERATORS["network"]
    assert not any(p.requires_grad for p in A.parameters())
    with pytest.raises(ValueError, match="below"):
        Saturation(1.0, 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        phase_retrieval((4, 4), 0.5)
