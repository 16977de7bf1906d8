"""Trajectories: where points lie, and that an image comes back from them."""

import math

import pytest
import torch

from medrecon.data.trajectories import GOLDEN_ANGLE, TINY_GOLDEN_ANGLE, echo_planar, radial, spiral
from medrecon.operators import NUFFT, Finufft, pipe_menon_dcf
from medrecon.operators.fourier import fft


def test_golden_angles():
    golden = (1 + math.sqrt(5)) / 2
    assert math.isclose(GOLDEN_ANGLE, math.pi / golden)
    assert abs(math.degrees(GOLDEN_ANGLE) - 111.246) < 1e-3
    assert abs(math.degrees(TINY_GOLDEN_ANGLE) - 23.6281) < 1e-4


@pytest.mark.parametrize("shape", [(32, 32), (31, 24)])
def test_spokes_are_straight_and_cross_in_the_centre(shape):
    k = radial(shape, 13, 50, step=GOLDEN_ANGLE).double()
    assert k.shape == (13, 50, 2)
    assert (k[:, 25] == 0).all()
    unit = k / torch.tensor(shape)  # circles again
    angle = torch.atan2(unit[:, -1, 0], unit[:, -1, 1])
    assert torch.allclose(
        torch.remainder(angle.diff() - GOLDEN_ANGLE + 1, 2 * math.pi), torch.ones(12).double(), atol=1e-5
    )
    assert torch.allclose(unit.diff(dim=1).norm(dim=-1), torch.full((13, 49), 1 / 50).double(), atol=1e-6)


def test_even_spokes_cover_the_half_circle():
    k = radial((16, 16), 8, 32)
    angles = torch.remainder(torch.atan2(k[:, -1, 0], k[:, -1, 1]), math.pi)
    assert torch.allclose(angles, torch.arange(8) * math.pi / 8, atol=1e-5)


@pytest.mark.parametrize("interleaves", [1, 5, 16])
def test_spiral_turns_lie_one_cycle_apart_and_steps_are_equal(interleaves):
    """Sorted by radius, the crossings of every ray through the centre are a cycle apart."""
    n = 40
    k = spiral((n, n), interleaves).double()
    steps = k.diff(dim=1).norm(dim=-1)
    assert steps.max() < 0.501
    outer = steps[:, steps.shape[1] // 4 :]  # in the centre, equal arcs have shorter chords
    assert torch.allclose(outer, outer.mean().expand_as(outer), rtol=0.01)
    assert torch.allclose(k.norm(dim=-1).amax(), torch.tensor(n / 2.0).double(), rtol=1e-6)
    fine = spiral((n, n), interleaves, samples=20_000).double()
    for ray in (0.3, 2.0, 4.5):
        phase = torch.remainder(torch.atan2(fine[..., 0], fine[..., 1]) - ray, 2 * math.pi)
        crossing = (phase[:, :-1] - phase[:, 1:]) > math.pi
        radii = fine.norm(dim=-1)[:, 1:][crossing].sort().values
        radii = radii[radii > 1]  # nearer to the centre, a step turns too far to tell where it crosses
        assert torch.allclose(radii.diff(), torch.ones(len(radii) - 1).double(), atol=0.02)


@pytest.mark.parametrize("shape", [(12, 10), (9, 7)])
@pytest.mark.parametrize("shots", [1, 3])
def test_echo_trains_hold_the_grid(shape, shots):
    k = echo_planar(shape, shots)
    assert k.shape == (shots, shape[0] * shape[1] // shots, 2)
    points = {(int(a), int(b)) for a, b in k.flatten(0, 1)}
    grid = {(a - shape[0] // 2, b - shape[1] // 2) for a in range(shape[0]) for b in range(shape[1])}
    assert points == grid
    # Never a jump along x: the next line begins where the last one ended.
    jumps = k.diff(dim=1).abs()
    assert jumps[..., 1].max() == 1
    x = torch.randn(1, 1, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    at = (k.long() + torch.tensor([shape[0] // 2, shape[1] // 2])).flatten(0, 1)
    exact = fft(x, (-2, -1))[0, 0][at[:, 0], at[:, 1]]
    y = NUFFT(k, shape, backend=Finufft(1e-12), dtype=torch.complex128)(x)[0, 0]
    assert torch.allclose(y, exact, atol=1e-9)


def test_ramps_of_an_echo_train_lie_denser():
    k = echo_planar((2, 64), samples=128, ramp=0.5)[0, :128, 1].double()
    steps = k.diff()
    assert (steps > 0).all()
    assert abs(float(k[64])) < 1e-6
    assert steps[60] / steps[0] > 30  # the gradient starts at zero
    assert torch.allclose(steps[40:88], steps[60].expand(48), rtol=1e-4)
    # The ramp's gradient grows linearly.
    assert torch.allclose(steps[1:28].diff(), steps[1:28].diff().mean().expand(26), rtol=1e-2)
    assert -32 <= k.min() < -31.9


@pytest.mark.parametrize(
    "trajectory",
    [
        radial((40, 40), 64),
        radial((40, 40), 89, step=GOLDEN_ANGLE),
        spiral((40, 40), 8),
        echo_planar((40, 40), 2, 80, 0.4),
    ],
    ids=["radial", "golden", "spiral", "echo-planar"],
)
def test_an_image_comes_back(trajectory):
    """Sampled as Nyquist asks, by least squares and by density-compensated gridding."""
    y, x = ((torch.arange(40) - 20) / 20 for _ in range(2))
    image = torch.exp(-8 * ((y[:, None] - 0.1) ** 2 + (x[None, :] + 0.2) ** 2)).to(torch.complex64)[None, None]
    A = NUFFT(trajectory, (40, 40))
    data = A(image)
    solved = A.solve(A.adjoint(data), 1e-4, n_iter=40)
    assert (solved - image).norm() / image.norm() < 0.01
    density = pipe_menon_dcf(trajectory, (40, 40))
    gridded = A.gridding(data, density)
    assert (gridded - image).norm() / image.norm() < 0.06


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="spokes"):
        radial((8, 8), 0)
    with pytest.raises(ValueError, match="interleaves"):
        spiral((8, 8), 0)
    with pytest.raises(ValueError, match="shots"):
        echo_planar((8, 8), 3)
    with pytest.raises(ValueError, match="ramp"):
        echo_planar((8, 8), ramp=1.5)
